//! The kernel that a step runs on.

use super::super::function::{Binary, Unary};
use super::super::op::{AveragePool, Conv, Finish, Linear, Mean, Op, Table, Window};
use super::super::program::{Program, QuantParams, Step, Type, Value};
use super::super::reference::{Data, index, run_step};
use super::layout::{axis_nhwc, to_nchw, to_nhwc};
use crate::kernels::{self, BinarySpec, Convert, Depthwise, DepthwiseSpec, Gemm, GemmSpec, Geometry, Indirection};
use crate::kernels::{Isa, PackError, Quantization, Requant, SLACK, Storage, WeightView};
use std::sync::Arc;

/// Pixels by a map, image by image.
#[derive(Debug)]
pub(super) struct Map {
    pub map: Indirection,
    /// The input's zero point, and slack. For a dynamic input a run makes it.
    pub padding: Vec<u8>,
}

/// A product: rows one after another, or by a map.
#[derive(Debug)]
pub(super) struct Dense {
    pub gemm: Gemm,
    pub map: Option<Map>,
    pub k: usize,
    pub n: usize,
    /// Where the result is float: the bias that is added last.
    pub float_bias: Option<Arc<[f32]>>,
    pub zero_point: i8,
}

#[derive(Debug)]
pub(super) enum Kernel {
    /// Constants are there before the first run.
    Nothing,
    Quantize(Convert),
    DynamicQuantize,
    Float(Unary),
    /// Operands of the output's shape.
    FloatBinary(Binary),
    /// By stored byte.
    Dequantize(Box<[f32; 256]>),
    /// By stored byte.
    Table(Box<[u8; 256]>),
    Dense(Box<Dense>),
    Depthwise {
        depthwise: Box<Depthwise>,
        map: Map,
    },
    Add(kernels::Add),
    Mul(kernels::Mul),
    MaxPool {
        pool: kernels::MaxPool,
        map: Indirection,
    },
    AveragePool {
        pool: kernels::AveragePool,
        map: Indirection,
    },
    GlobalAverage {
        pool: kernels::AveragePool,
    },
    /// Blocks of each input in turn; how many blocks.
    Concat {
        blocks: usize,
    },
    /// The same bytes in the same order.
    Copy,
    /// Where each byte comes from; `None` stands for the byte beside it.
    Gather {
        places: Vec<Option<u32>>,
        fill: u8,
    },
    Reference,
}

/// What a step needs to know to find its kernel.
struct At<'a> {
    inputs: Vec<&'a Value>,
    output: &'a Value,
    isa: Isa,
    storage: Storage,
}

/// What a kernel for the step takes at most while it is made: maps, places, packed weights; in bytes.
pub(super) fn cost(program: &Program, step: &Step) -> usize {
    let made = &program.value(step.output).shape;
    let count = program.value(step.output).count();
    let map = |window: &Window| {
        let pixels = if let [_, _, h, w] = made.as_slice() { h * w } else { 0 };
        pixels.saturating_mul(window.kernel[0] * window.kernel[1]).saturating_mul(size_of::<u32>())
    };
    // Strips of up to 64 columns; values of a tap fill up groups of up to 16.
    let packed = |n: usize, taps: usize, k: usize| {
        n.next_multiple_of(64).saturating_mul(taps).saturating_mul(k.next_multiple_of(16))
    };
    match &step.op {
        Op::Conv(conv) => {
            let &[m, c, kh, kw] = conv.weights.shape.as_slice() else { return 0 };
            map(&conv.window).saturating_add(packed(m, kh * kw, c))
        }
        Op::Linear(linear) => {
            let &[k, n] = linear.weights.shape.as_slice() else { return 0 };
            packed(n, 1, k)
        }
        Op::MaxPool(window) => map(window),
        Op::AveragePool(pool) => map(&pool.window),
        // Places are counted, moved and turned: each as large as a machine word, or two.
        Op::Select { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Transpose { .. } | Op::Reshape => {
            count.saturating_mul(6 * size_of::<usize>())
        }
        Op::Constant(_)
        | Op::FloatConstant(_)
        | Op::Quantize
        | Op::Dequantize(_)
        | Op::DynamicQuantize
        | Op::Table(_)
        | Op::Add(_)
        | Op::Mul(_)
        | Op::Concat { .. }
        | Op::Mean(_)
        | Op::Softmax(_)
        | Op::Bilinear(_)
        | Op::MatMul(_)
        | Op::Float(_)
        | Op::FloatBinary(_) => 0,
    }
}

/// The step's kernel; the reference where there is none, or where the kernels refuse.
pub(super) fn build(program: &Program, step: &Step, isa: Isa) -> Kernel {
    let inputs = step.inputs.iter().map(|&id| program.value(id)).collect();
    let at = At { inputs, output: program.value(step.output), isa, storage: isa.storage() };
    let built = at.kernel(&step.op).ok().flatten();
    built.or_else(|| at.gather(program, step)).unwrap_or(Kernel::Reference)
}

type Built = Result<Option<Kernel>, PackError>;

impl At<'_> {
    fn kernel(&self, op: &Op) -> Built {
        match op {
            Op::Constant(_) | Op::FloatConstant(_) => Ok(Some(Kernel::Nothing)),
            Op::Quantize => self.quantize(),
            Op::Dequantize(curve) => {
                let by_byte = std::array::from_fn(|byte| curve[index(self.storage.value(byte as u8))]);
                Ok(Some(Kernel::Dequantize(Box::new(by_byte))))
            }
            Op::Table(table) => Ok(Some(Kernel::Table(Box::new(self.by_byte(table))))),
            Op::Conv(conv) => self.conv(conv),
            Op::Linear(linear) => self.linear(linear),
            Op::Add(add) => self.add(add.rb, add.low, add.high),
            Op::Mul(mul) => match self.binary(mul.low, mul.high) {
                Some(spec) => Ok(Some(Kernel::Mul(kernels::Mul::new(self.isa, self.storage, &spec)?))),
                None => Ok(None),
            },
            Op::MaxPool(window) => {
                let pool = kernels::MaxPool::new(self.isa, self.storage)?;
                Ok(self.map(window).map(|map| Kernel::MaxPool { pool, map }))
            }
            Op::AveragePool(pool) => self.average(pool),
            Op::Mean(mean) => self.mean(mean),
            Op::Concat { axis } => Ok(self.concat(*axis)),
            Op::Reshape => Ok(self.is_same_order().then_some(Kernel::Copy)),
            Op::DynamicQuantize => Ok(Some(Kernel::DynamicQuantize)),
            Op::Float(function) => Ok(Some(Kernel::Float(*function))),
            Op::FloatBinary(function) => {
                let alike = self.inputs.iter().all(|input| input.shape == self.output.shape);
                Ok(alike.then_some(Kernel::FloatBinary(*function)))
            }
            Op::MatMul(_)
            | Op::Softmax(_)
            | Op::Bilinear(_)
            | Op::Select { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Transpose { .. } => Ok(None),
        }
    }

    fn params(value: &Value) -> Option<QuantParams> {
        match value.ty {
            Type::Int8(params) => Some(params),
            Type::Dynamic | Type::F32 | Type::I32 => None,
        }
    }

    fn quantization(value: &Value) -> Option<Quantization> {
        Self::params(value).map(|QuantParams { scale, zero_point, .. }| Quantization { scale, zero_point })
    }

    fn quantize(&self) -> Built {
        let Some(by) = Self::quantization(self.output) else { return Ok(None) };
        Ok(Some(Kernel::Quantize(Convert::new(self.isa, self.storage, by)?)))
    }

    /// Kernels know sums of two tensors of one shape, or of a value for each channel.
    fn binary(&self, lo: i8, hi: i8) -> Option<BinarySpec> {
        let [a, b] = [self.inputs[0], self.inputs[1]];
        // What lies innermost in memory: channels of images, the last axis of others.
        let inner = if a.shape.len() == 4 { Some(&a.shape[1]) } else { a.shape.last() };
        let at = if b.shape.len() == 4 { b.shape.get(1) } else { b.shape.last() };
        let fits_ranks = a.shape.len() != 4 || b.shape.len() == 4;
        let by_channel = fits_ranks && inner.is_some() && at == inner && Some(&b.count()) == inner;
        let fits = a.shape == self.output.shape && (b.shape == a.shape || by_channel);
        let (a, b, output) = (Self::quantization(a)?, Self::quantization(b)?, Self::quantization(self.output)?);
        fits.then_some(BinarySpec { a, b, output, lo, hi })
    }

    fn add(&self, rb: f32, low: i8, high: i8) -> Built {
        // A subtraction is none to the kernels.
        match self.binary(low, high).filter(|_| rb > 0.0) {
            Some(spec) => Ok(Some(Kernel::Add(kernels::Add::new(self.isa, self.storage, &spec)?))),
            None => Ok(None),
        }
    }

    /// The window over the input in NHWC.
    fn map(&self, window: &Window) -> Option<Indirection> {
        let &[_, c, h, w] = self.inputs[0].shape.as_slice() else { return None };
        let Window { kernel, stride, dilation, pads } = *window;
        let geometry = Geometry { input: [h, w], kernel, stride, dilation, pads, pixel_stride: c, row_stride: w * c };
        Indirection::new(&geometry).ok()
    }

    fn padded(&self, window: &Window, channels: usize) -> Option<Map> {
        let zero_point = Self::params(self.inputs[0]).map_or(0, |params| params.zero_point);
        Some(Map { map: self.map(window)?, padding: vec![self.storage.byte(zero_point); channels + SLACK] })
    }

    fn conv(&self, conv: &Conv) -> Built {
        let &[m, depth, kh, kw] = conv.weights.shape.as_slice() else { return Ok(None) };
        let channels = self.inputs[0].shape[1];
        if conv.group > 1 {
            return if conv.group == channels && m == channels { self.depthwise(conv) } else { Ok(None) };
        }
        let pointwise = conv.window == Window::UNIT;
        let map = if pointwise { None } else { self.padded(&conv.window, depth) };
        if map.is_none() && !pointwise {
            return Ok(None);
        }
        let view = WeightView::oihw(&conv.weights.data, m, depth, kh * kw)?;
        let zero_points = &conv.weights.zero_points;
        let Some(dense) = self.dense(view, zero_points, &conv.bias, &conv.finish, [depth, m])? else { return Ok(None) };
        Ok(Some(Kernel::Dense(Box::new(Dense { map, ..dense }))))
    }

    fn linear(&self, linear: &Linear) -> Built {
        let &[k, n] = linear.weights.shape.as_slice() else { return Ok(None) };
        if self.inputs[0].shape.len() == 4 {
            return Ok(None);
        }
        let view = WeightView::matrix(&linear.weights.data, k, n)?;
        let zero_points = &linear.weights.zero_points;
        let dense = self.dense(view, zero_points, &linear.bias, &linear.finish, [k, n])?;
        Ok(dense.map(|dense| Kernel::Dense(Box::new(dense))))
    }

    fn dense(
        &self,
        weights: WeightView<'_>,
        weight_zero_points: &[i8],
        bias: &[i32],
        finish: &Finish,
        [k, n]: [usize; 2],
    ) -> Result<Option<Dense>, PackError> {
        let table = self.table(finish);
        let (requant, float_bias) = match finish {
            Finish::Requantize { .. } => match self.requant(finish, table.as_ref()) {
                Some(requant) => (requant, None),
                None => return Ok(None),
            },
            Finish::Float { scales, bias } => {
                let requant = Requant { multipliers: scales, zero_point: 0, lo: i8::MIN, hi: i8::MAX, table: None };
                (requant, Some(Arc::clone(bias)))
            }
            Finish::Accumulator => return Ok(None),
        };
        let zero_point = Self::params(self.inputs[0]).map_or(0, |params| params.zero_point);
        let spec = GemmSpec { weights, weight_zero_points, bias, input_zero_point: zero_point, requant };
        let gemm = Gemm::new(self.isa, self.storage, &spec)?;
        Ok(Some(Dense { gemm, map: None, k, n, float_bias, zero_point }))
    }

    fn requant<'f>(&self, finish: &'f Finish, table: Option<&'f [u8; 256]>) -> Option<Requant<'f>> {
        match finish {
            Finish::Requantize { multipliers, zero_point, low, high, .. } => {
                Some(Requant { multipliers, zero_point: *zero_point, lo: *low, hi: *high, table })
            }
            Finish::Float { .. } | Finish::Accumulator => None,
        }
    }

    /// From stored byte to stored byte.
    fn by_byte(&self, table: &Table) -> [u8; 256] {
        std::array::from_fn(|byte| self.storage.byte(table[index(self.storage.value(byte as u8))]))
    }

    fn table(&self, finish: &Finish) -> Option<[u8; 256]> {
        match finish {
            Finish::Requantize { table, .. } => table.as_ref().map(|table| self.by_byte(table)),
            Finish::Float { .. } | Finish::Accumulator => None,
        }
    }

    fn depthwise(&self, conv: &Conv) -> Built {
        let channels = conv.weights.shape[0];
        let table = self.table(&conv.finish);
        let requant = self.requant(&conv.finish, table.as_ref());
        let (Some(requant), Some(params)) = (requant, Self::params(self.inputs[0])) else {
            return Ok(None);
        };
        let spec = DepthwiseSpec {
            weights: &conv.weights.data,
            channels,
            kernel: conv.window.kernel,
            weight_zero_points: &conv.weights.zero_points,
            bias: &conv.bias,
            input_zero_point: params.zero_point,
            requant,
        };
        let depthwise = Box::new(Depthwise::new(self.isa, self.storage, &spec)?);
        Ok(self.padded(&conv.window, channels).map(|map| Kernel::Depthwise { depthwise, map }))
    }

    fn pool(&self, count_pads: bool) -> Result<Option<kernels::AveragePool>, PackError> {
        let (Some(from), Some(to)) = (Self::quantization(self.inputs[0]), Self::quantization(self.output)) else {
            return Ok(None);
        };
        kernels::AveragePool::new(self.isa, self.storage, from, to, count_pads).map(Some)
    }

    fn average(&self, pool: &AveragePool) -> Built {
        let kernel = self.pool(pool.count_pads)?;
        Ok(kernel.zip(self.map(&pool.window)).map(|(pool, map)| Kernel::AveragePool { pool, map }))
    }

    /// Over height and width of all pixels.
    fn mean(&self, mean: &Mean) -> Built {
        if self.inputs[0].shape.len() != 4 || mean.axes != [2, 3] {
            return Ok(None);
        }
        Ok(self.pool(true)?.map(|pool| Kernel::GlobalAverage { pool }))
    }

    fn concat(&self, axis: usize) -> Option<Kernel> {
        Self::params(self.output)?;
        let rank = self.output.shape.len();
        let shape: Vec<usize> = match (rank, self.output.shape.as_slice()) {
            (4, &[n, c, h, w]) => vec![n, h, w, c],
            (_, shape) => shape.to_vec(),
        };
        let axis = if rank == 4 { axis_nhwc(axis) } else { axis };
        Some(Kernel::Concat { blocks: shape[..axis].iter().product() })
    }

    /// A movement by places: the reference moves numbers of places instead of values.
    fn gather(&self, program: &Program, step: &Step) -> Option<Kernel> {
        Self::params(self.output)?;
        let fill = if let Op::Pad { value, .. } = step.op { value } else { 0 };
        let moves = matches!(
            step.op,
            Op::Pad { .. } | Op::Select { .. } | Op::Slice { .. } | Op::Transpose { .. } | Op::Reshape
        );
        if !moves {
            return None;
        }
        // Above every int8 value, so that what was filled in is told apart.
        let first = 256;
        let count = i32::try_from(self.inputs[0].count()).ok()?.checked_add(first)?;
        let numbers: Vec<i32> = (first..count).collect();
        let Data::I32(moved) = run_step(program, step, vec![&Data::I32(numbers)]) else { return None };
        let from = stored_places(&self.inputs[0].shape);
        let place = |&number: &i32| {
            let logical = usize::try_from(number.checked_sub(first)?).ok()?;
            from.get(logical).copied()
        };
        let logical: Vec<Option<u32>> = moved.iter().map(place).collect();
        let mut places = logical.clone();
        if let [_, _, _, _] = self.output.shape.as_slice() {
            to_nhwc(&logical, &self.output.shape, &mut places);
        }
        Some(Kernel::Gather { places, fill: self.storage.byte(fill) })
    }

    /// Whether a reshape leaves the bytes as they lie.
    fn is_same_order(&self) -> bool {
        // NHWC is NCHW where there is one channel, or one pixel.
        let plain = |shape: &[usize]| match *shape {
            [_, c, h, w] => c == 1 || h * w == 1,
            _ => true,
        };
        let (from, to) = (&self.inputs[0].shape, &self.output.shape);
        let row = |a: &[usize], b: &[usize]| match (a, b) {
            (&[n, c, h, w], &[n2, c2, h2, w2]) => (n, c, h * w) == (n2, c2, h2 * w2),
            _ => false,
        };
        Self::params(self.output).is_some() && ((plain(from) && plain(to)) || row(from, to))
    }
}

/// Where each value of a tensor, counted in NCHW, lies in memory.
fn stored_places(shape: &[usize]) -> Vec<u32> {
    let count: usize = shape.iter().product();
    let plain: Vec<u32> = (0..count as u32).collect();
    let mut places = plain.clone();
    if let [_, _, _, _] = shape {
        to_nchw(&plain, shape, &mut places);
    }
    places
}
