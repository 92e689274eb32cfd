//! The kernel that a stage runs on.

use super::super::function::{Binary, Unary};
use super::super::op::{AveragePool, Bilinear, Curve, Finish, FloatWeights, Lerp, Mean, Op, Table, Window};
use super::super::program::{Program, QuantParams, Step, Type, Value, ValueId};
use super::super::reference::index;
use super::super::rows::RowFunction;
use super::dense::{Dense, FloatEnd};
use super::float::FloatProducts;
use super::layout::{Layout, is_framed};
use super::movement::{Concat, Moves};
use super::pointwise::{Broadcast, Pointwise};
use super::product::Matrices;
use super::stage::{self, Builder};
use super::winograd;
use crate::kernels::{self, Convert, Depthwise, F32PoolKind, Indirection};
use crate::kernels::{Isa, PackError, Quantization, Requant, SharedWeights, Storage};

/// Pixels by a map, image by image.
#[derive(Debug)]
pub(super) struct Map {
    pub map: Indirection,
    /// The input's zero point, and slack. For a dynamic input a run makes it.
    pub padding: Vec<u8>,
}

impl Map {
    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        self.map.bytes() + self.padding.len()
    }
}

#[derive(Debug)]
pub(super) enum Kernel {
    Quantize(Convert),
    DynamicQuantize,
    Float(Unary),
    FloatBinary {
        function: Binary,
        by: Broadcast,
    },
    FloatProducts(Box<FloatProducts>),
    FloatPool {
        pool: kernels::F32Pool,
        map: Indirection,
    },
    FloatMatMul {
        product: kernels::FloatProduct,
        matrices: Matrices,
    },
    Rows {
        function: RowFunction,
        width: usize,
    },
    Dequantize(Convert),
    /// By stored byte.
    Curve(Box<[f32; 256]>),
    /// By stored byte.
    Table(Box<[u8; 256]>),
    Dense(Box<Dense>),
    /// A product for each group of channels.
    Grouped(Vec<Dense>),
    Winograd {
        winograd: Box<kernels::Winograd>,
        frame: kernels::Frame,
    },
    /// By its number.
    MatMul(usize),
    Depthwise {
        depthwise: Box<Depthwise>,
        map: Map,
    },
    FloatDepthwise {
        depthwise: Box<kernels::FloatDepthwise>,
        map: Indirection,
        end: FloatEnd,
        zero_point: i8,
    },
    Binary {
        kernel: Pointwise,
        by: Broadcast,
    },
    Softmax {
        softmax: Box<kernels::Softmax>,
        length: usize,
    },
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
    Bilinear(kernels::Bilinear),
    Concat(Concat),
    /// The same elements in the same order.
    Copy,
    Move(Moves),
    Reference,
}

impl Kernel {
    /// Bytes of padding that a run fills for an input of dynamic parameters.
    pub fn padding(&self) -> usize {
        if let Self::Dense(dense) = self {
            dense.padding()
        } else if let Self::Grouped(groups) = self {
            groups.iter().map(Dense::padding).max().unwrap_or(0)
        } else {
            0
        }
    }

    /// Zeros and values of a framed image, that a run works with.
    pub fn floats(&self) -> [usize; 2] {
        if let Self::FloatProducts(products) = self { products.scratch() } else { [0; 2] }
    }

    /// Numbers that a thread works with.
    pub fn numbers(&self) -> usize {
        if let Self::Winograd { winograd, .. } = self { winograd.scratch() } else { 0 }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Quantize(_) => "quantize",
            Self::DynamicQuantize => "dynamic quantize",
            Self::Float(_) | Self::FloatBinary { .. } => "float",
            Self::FloatProducts(products) => products.name(),
            Self::FloatPool { .. } => "float pool",
            Self::FloatMatMul { .. } => "float GEMM",
            Self::Rows { function: RowFunction::Softmax, .. } => "float softmax",
            Self::Rows { function: RowFunction::Mean, .. } => "float mean",
            Self::Rows { function: RowFunction::LayerNorm(_), .. } => "layer norm",
            Self::Dequantize(_) | Self::Curve(_) => "dequantize",
            Self::Table(_) => "table",
            Self::Dense(dense) if dense.is_mapped() => "indirect GEMM",
            Self::Dense(_) => "GEMM",
            Self::Grouped(_) => "grouped GEMM",
            Self::Winograd { .. } => "Winograd",
            Self::MatMul(_) => "packed GEMM",
            Self::Depthwise { .. } | Self::FloatDepthwise { .. } => "depthwise",
            Self::Binary { kernel: Pointwise::Add(_), .. } => "add",
            Self::Binary { kernel: Pointwise::Mul(_), .. } => "mul",
            Self::Softmax { .. } => "softmax",
            Self::MaxPool { .. } => "max pool",
            Self::AveragePool { .. } => "average pool",
            Self::GlobalAverage { .. } => "global average",
            Self::Bilinear(_) => "bilinear",
            Self::Concat(_) => "concat",
            Self::Copy => "copy",
            Self::Move(_) => "move",
            Self::Reference => "reference",
        }
    }
}

/// What a stage needs to know to find its kernel.
pub(super) struct At<'a> {
    pub inputs: Vec<&'a Value>,
    pub output: &'a Value,
    /// How inputs lie.
    pub from: Vec<Layout>,
    /// How the output lies.
    pub to: Layout,
    pub isa: Isa,
    pub storage: Storage,
    pub weights: &'a SharedWeights,
    /// Of a float result, where the step is bounded by the next.
    pub bounds: [f32; 2],
}

/// No bounds.
pub(super) const UNBOUNDED: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// What a function of one float comes to where it is no more than two bounds.
pub(super) fn bounds(function: Unary) -> Option<[f32; 2]> {
    if function == Unary::Relu {
        return Some([0.0, f32::INFINITY]);
    }
    if let Unary::Clip { low, high } = function { (low <= high).then_some([low, high]) } else { None }
}

/// What a kernel for the step takes at most while it is made: maps, places, packed weights; in bytes.
pub(super) fn cost(program: &Program, isa: Isa, step: &Step) -> usize {
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
    let each = if let Some(FloatWeights::Floats { .. }) = step.op.float_weights() { size_of::<f32>() } else { 1 };
    if let Some(&[k, n]) = step.op.weights_shape() {
        return packed(n, 1, k).saturating_mul(each);
    }
    if let (Op::FloatConv(conv), Some(&[m, c, kh, kw])) = (&step.op, step.op.weights_shape()) {
        let group = conv.group.max(1);
        let groups = if group == m && c == 1 { 1 } else { group };
        let weights = packed(m / group, kh * kw, c).saturating_mul(groups).saturating_mul(size_of::<f32>());
        let channels = program.value(step.inputs[0]).shape.get(1).copied().unwrap_or(0);
        let image = if is_framed(conv, channels) { program.value(step.inputs[0]).count() * 4 } else { 0 };
        return map(&conv.window).saturating_add(weights).saturating_add(image);
    }
    if let Op::FloatAverage(pool) = &step.op {
        return map(&pool.window);
    }
    if let Op::Conv(conv) = &step.op {
        let &[m, c, kh, kw] = conv.weights.shape.as_slice() else { return 0 };
        let group = conv.group.max(1);
        let pixels = if let &[_, _, h, w] = made.as_slice() { [h, w] } else { [0; 2] };
        let each = map(&conv.window).saturating_add(packed(m / group, kh * kw, c));
        if winograd::is_worth(isa, conv, [m, c], pixels) {
            each.saturating_add(kernels::Winograd::bytes_of(m, c))
        } else if group == m {
            each.saturating_add(packed(m, kh * kw, c))
        } else {
            each.saturating_mul(group)
        }
    } else if let (Op::MatMul(_) | Op::FloatMatMul, &[.., k, n]) = (&step.op, shape_of_last(program, step)) {
        // Which matrix meets which is noted for each of the output's.
        let pairs = made.iter().rev().skip(2).product::<usize>().saturating_mul(2 * size_of::<usize>());
        pairs.saturating_add(if step.op == Op::FloatMatMul { 0 } else { packed(n, 1, k) })
    } else if let Op::MaxPool(window) | Op::AveragePool(AveragePool { window, .. }) = &step.op {
        map(window)
    } else if step.op.is_movement() {
        // Places are counted, moved and turned: each as large as a machine word, or two.
        count.saturating_mul(6 * size_of::<usize>())
    } else {
        0
    }
}

/// Of what a step reads last.
fn shape_of_last<'p>(program: &'p Program, step: &Step) -> &'p [usize] {
    step.inputs.last().map_or(&[], |&id| program.value(id).shape.as_slice())
}

/// The kernel of a step, or of movements in a row; the reference where there is none, or where the kernels refuse.
pub(super) fn build(builder: &mut Builder<'_>, steps: &[&Step], inputs: &[ValueId]) -> Kernel {
    let Some(last) = steps.last() else { return Kernel::Reference };
    // A product may be followed by its bounds.
    let (op, bounds) = match (&steps[0].op, &last.op) {
        (product, Op::Float(function)) if steps.len() == 2 => (product, bounds(*function).unwrap_or(UNBOUNDED)),
        (_, op) => (op, UNBOUNDED),
    };
    let (program, layouts, isa) = (builder.program, builder.layouts, builder.isa);
    let at = At {
        inputs: inputs.iter().map(|&id| program.value(id)).collect(),
        output: program.value(last.output),
        from: inputs.iter().map(|id| layouts[id.index()]).collect(),
        to: layouts[last.output.index()],
        isa,
        storage: isa.storage(),
        weights: builder.weights,
        bounds,
    };
    let built = if let Op::MatMul(finish) = op {
        at.mat_mul(finish, &mut builder.products)
    } else if let Op::FloatConv(conv) = &steps[0].op {
        at.float_conv(program, steps, conv)
    } else if let Op::FloatLinear(linear) = &steps[0].op {
        at.float_linear(program, steps, linear)
    } else if stage::is_movement(program, last) {
        Ok(at.moves(program, steps))
    } else {
        at.kernel(op)
    };
    built.ok().flatten().unwrap_or(Kernel::Reference)
}

pub(super) type Built = Result<Option<Kernel>, PackError>;

impl At<'_> {
    fn kernel(&self, op: &Op) -> Built {
        match op {
            Op::Quantize => self.quantize(),
            Op::Dequantize(curve) => self.dequantize(curve),
            Op::Table(table) => Ok(self.lies_alike().then(|| Kernel::Table(Box::new(self.by_byte(table))))),
            Op::Conv(conv) => self.conv(conv),
            Op::Linear(linear) => self.linear(linear),
            Op::Add(add) => self.add(add),
            Op::Mul(mul) => self.mul(mul),
            Op::FloatAverage(pool) => {
                let kind = if pool.count_pads { F32PoolKind::AverageOfTaps } else { F32PoolKind::Average };
                self.float_pool(kind, &pool.window)
            }
            Op::MaxPool(window) if self.output.ty == Type::F32 => self.float_pool(F32PoolKind::Max, window),
            Op::MaxPool(window) => {
                let pool = kernels::MaxPool::new(self.isa, self.storage)?;
                Ok(self.map(window).map(|map| Kernel::MaxPool { pool, map }))
            }
            Op::AveragePool(pool) => self.average(pool),
            Op::Mean(mean) => self.mean(mean),
            Op::Softmax(softmax) => self.softmax(softmax),
            Op::Bilinear(resize) => self.bilinear(resize),
            Op::Concat { axis } => Ok(self.concat(*axis)),
            Op::DynamicQuantize => Ok(Some(Kernel::DynamicQuantize)),
            Op::Float(function) => Ok(self.lies_alike().then_some(Kernel::Float(*function))),
            Op::FloatBinary(function) => Ok(self.broadcast().map(|by| Kernel::FloatBinary { function: *function, by })),
            Op::FloatMatMul => self.float_mat_mul(),
            Op::Rows { function, width } => {
                let kernel = || Kernel::Rows { function: function.clone(), width: *width };
                Ok(self.is_plain().then(kernel))
            }
            Op::Constant(_)
            | Op::FloatConstant(_)
            | Op::FloatLinear(_)
            | Op::FloatConv(_)
            | Op::MatMul(_)
            | Op::Select { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Transpose { .. }
            | Op::Reshape => Ok(None),
        }
    }

    /// Whether all lies as ONNX has it.
    pub fn is_plain(&self) -> bool {
        self.from.iter().chain([&self.to]).all(|&layout| layout == Layout::Plain)
    }

    /// Whether input and output have the same elements in the same places.
    pub fn lies_alike(&self) -> bool {
        self.from[0] == self.to && self.inputs[0].shape == self.output.shape
    }

    pub fn params(value: &Value) -> Option<QuantParams> {
        match value.ty {
            Type::Int8(params) => Some(params),
            Type::Dynamic | Type::F32 | Type::I32 => None,
        }
    }

    pub fn quantization(value: &Value) -> Option<Quantization> {
        Self::params(value).map(|QuantParams { scale, zero_point, .. }| Quantization { scale, zero_point })
    }

    fn quantize(&self) -> Built {
        let Some(by) = Self::quantization(self.output) else { return Ok(None) };
        Ok(Some(Kernel::Quantize(Convert::new(self.isa, self.storage, by)?)))
    }

    /// By arithmetic where the curve is a line, which vectors do; else by table.
    fn dequantize(&self, curve: &Curve) -> Built {
        let turns = self.from[0] == Layout::Nhwc && self.to == Layout::Plain;
        if !self.lies_alike() && !turns {
            return Ok(None);
        }
        let by_byte: [f32; 256] = std::array::from_fn(|byte| curve[index(self.storage.value(byte as u8))]);
        if let Some(by) = Self::quantization(self.inputs[0]) {
            let convert = Convert::new(self.isa, self.storage, by)?;
            let (bytes, mut line) = (std::array::from_fn::<u8, 256, _>(|byte| byte as u8), [0.0; 256]);
            convert.dequantize(&bytes, &mut line);
            if line.iter().zip(&by_byte).all(|(a, b)| a.to_bits() == b.to_bits()) {
                return Ok(Some(Kernel::Dequantize(convert)));
            }
        }
        Ok(Some(Kernel::Curve(Box::new(by_byte))))
    }

    /// From stored byte to stored byte.
    pub fn by_byte(&self, table: &Table) -> [u8; 256] {
        std::array::from_fn(|byte| self.storage.byte(table[index(self.storage.value(byte as u8))]))
    }

    pub fn table(&self, finish: &Finish) -> Option<[u8; 256]> {
        match finish {
            Finish::Requantize { table, .. } => table.as_ref().map(|table| self.by_byte(table)),
            Finish::Float { .. } | Finish::Accumulator => None,
        }
    }

    pub fn requant<'f>(&self, finish: &'f Finish, table: Option<&'f [u8; 256]>) -> Option<Requant<'f>> {
        match finish {
            Finish::Requantize { multipliers, zero_point, low, high, .. } => {
                Some(Requant { multipliers, zero_point: *zero_point, lo: *low, hi: *high, table })
            }
            Finish::Float { .. } | Finish::Accumulator => None,
        }
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

    fn bilinear(&self, resize: &Bilinear) -> Built {
        let images = self.from[0] == Layout::Nhwc && self.to == Layout::Nhwc;
        let (Some(from), Some(to), true) =
            (Self::quantization(self.inputs[0]), Self::quantization(self.output), images)
        else {
            return Ok(None);
        };
        let lines = |lerps: &[Lerp]| -> Vec<kernels::Lerp> {
            let line = |&Lerp { first, second, weight }: &Lerp| kernels::Lerp { first, second, weight };
            lerps.iter().map(line).collect()
        };
        let (rows, columns) = (lines(&resize.rows), lines(&resize.columns));
        let kernel = kernels::Bilinear::new(self.isa, self.storage, rows, columns, resize.multiplier, [from, to])?;
        Ok(Some(Kernel::Bilinear(kernel)))
    }

    /// Over height and width of all pixels.
    fn mean(&self, mean: &Mean) -> Built {
        if self.from[0] != Layout::Nhwc || mean.axes != [2, 3] {
            return Ok(None);
        }
        Ok(self.pool(true)?.map(|pool| Kernel::GlobalAverage { pool }))
    }
}
