//! Products with constant weights: convolutions, fully connected layers.

use super::super::op::{Conv, Finish, Linear, Weights, Window};
use super::kernel::{At, Built, Kernel, Map};
use super::layout::Layout;
use super::run::Scope;
use crate::kernels::{
    Depthwise, DepthwiseSpec, Dynamic, FloatDepthwise, Gemm, GemmSpec, Geometry, Indirection, PackError, Requant, Rows,
    SLACK, Source, TileMut, WeightView, lines_of_pixels,
};
use std::sync::Arc;

/// A product: rows one after another, or by a map.
#[derive(Debug)]
pub(super) struct Dense {
    gemm: Gemm,
    map: Option<Map>,
    /// Bytes from one row to the next, where there is no map.
    stride: usize,
    /// Bytes of one image of the input.
    image: usize,
    /// The first channel of the input, and of the output.
    first: [usize; 2],
    /// Output channels of this product.
    n: usize,
    /// Products for each output value.
    depth: usize,
    float: Option<FloatEnd>,
    zero_point: i8,
}

/// How a float result ends.
#[derive(Debug, Clone)]
pub(super) struct FloatEnd {
    /// Empty, or one for each output channel.
    bias: Arc<[f32]>,
    bounds: [f32; 2],
}

impl FloatEnd {
    /// For the input's scale and zero point.
    pub fn by(&self, (scale, input_zero_point): (f32, i8)) -> Dynamic<'_> {
        Dynamic { input_zero_point, scale, bias: &self.bias, bounds: self.bounds }
    }
}

impl Dense {
    pub fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        self.gemm.bytes() + self.map.as_ref().map_or(0, Map::bytes)
    }

    /// Bytes of padding that a run for a dynamic input fills.
    pub fn padding(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.padding.len())
    }
}

/// Weights of a product and what follows it.
struct Spec<'a> {
    view: WeightView<'a>,
    zero_points: &'a [i8],
    bias: &'a [i32],
    finish: &'a Finish,
    /// Output channels from which to which.
    channels: std::ops::Range<usize>,
}

/// The part of a parameter that is one for all channels, or one each.
fn part<'a, T>(values: &'a [T], channels: &std::ops::Range<usize>) -> &'a [T] {
    if values.len() > 1 { &values[channels.clone()] } else { values }
}

impl At<'_> {
    /// The window over the input in NHWC.
    pub(super) fn map(&self, window: &Window) -> Option<Indirection> {
        let &[_, c, h, w] = self.inputs[0].shape.as_slice() else { return None };
        let Window { kernel, stride, dilation, pads } = *window;
        let geometry = match self.from[0] {
            Layout::Nhwc => {
                Geometry { input: [h, w], kernel, stride, dilation, pads, pixel_stride: c, row_stride: w * c }
            }
            Layout::Image(image) => image.lines(kernel, stride),
            Layout::Plain => return None,
        };
        Indirection::new(&geometry).ok()
    }

    pub(super) fn padded(&self, window: &Window, channels: usize) -> Option<Map> {
        let zero_point = Self::params(self.inputs[0]).map_or(0, |params| params.zero_point);
        Some(Map { map: self.map(window)?, padding: vec![self.storage.byte(zero_point); channels + SLACK] })
    }

    pub(super) fn conv(&self, conv: &Conv) -> Built {
        let &[m, depth, kh, kw] = conv.weights.shape.as_slice() else { return Ok(None) };
        let channels = self.inputs[0].shape[1];
        let one_by_one = conv.group > 1 && conv.group == channels && m == channels;
        if one_by_one && let Some(kernel) = self.depthwise(conv)? {
            return Ok(Some(kernel));
        }
        if let Layout::Image(_) = self.from[0] {
            let lines = lines_of_pixels(&conv.weights.data, m, channels, [kh, kw]);
            // A byte that fills up a pixel is the input's zero point: whatever weight it meets, it adds nothing.
            let view = WeightView::ohwi(&lines, m, kh, kw * 4)?;
            return self.one_product(conv, view, kw * 4);
        }
        if let Some(kernel) = self.winograd(conv)? {
            return Ok(Some(kernel));
        }
        if conv.group <= 1 {
            return self.one_product(conv, WeightView::oihw(&conv.weights.data, m, depth, kh * kw)?, depth);
        }
        let per_group = m / conv.group;
        let taps = kh * kw;
        let mut groups = Vec::with_capacity(conv.group);
        for group in 0..conv.group {
            let channels = group * per_group..(group + 1) * per_group;
            let weights = &conv.weights.data[channels.start * depth * taps..channels.end * depth * taps];
            let view = WeightView::oihw(weights, per_group, depth, taps)?;
            match self.product(conv, view, depth, channels, group * depth)? {
                Some(dense) => groups.push(dense),
                None => return Ok(None),
            }
        }
        Ok(Some(Kernel::Grouped(groups)))
    }

    fn one_product(&self, conv: &Conv, view: WeightView<'_>, depth: usize) -> Built {
        let dense = self.product(conv, view, depth, 0..conv.weights.shape[0], 0)?;
        Ok(dense.map(|dense| Kernel::Dense(Box::new(dense))))
    }

    /// A convolution from `first` on of the input's channels to some of the output's.
    fn product(
        &self,
        conv: &Conv,
        view: WeightView<'_>,
        depth: usize,
        channels: std::ops::Range<usize>,
        first: usize,
    ) -> Result<Option<Dense>, PackError> {
        let shape = &self.inputs[0].shape;
        let pointwise = conv.window == Window::UNIT && self.from[0] == Layout::Nhwc;
        let map = if pointwise { None } else { self.padded(&conv.window, depth) };
        if (map.is_none() && !pointwise) || self.to != Layout::Nhwc {
            return Ok(None);
        }
        let Weights { zero_points, .. } = &conv.weights;
        let start = channels.start;
        let spec = Spec { view, zero_points, bias: &conv.bias, finish: &conv.finish, channels };
        let Some(dense) = self.dense(&spec)? else { return Ok(None) };
        let image = self.from[0].count(shape) / shape[0].max(1);
        Ok(Some(Dense { map, stride: shape[1], image, first: [first, start], ..dense }))
    }

    pub(super) fn linear(&self, linear: &Linear) -> Built {
        let &[k, n] = linear.weights.shape.as_slice() else { return Ok(None) };
        if self.from[0] != Layout::Plain || self.to != Layout::Plain {
            return Ok(None);
        }
        let view = WeightView::matrix(&linear.weights.data, k, n)?;
        let zero_points = &linear.weights.zero_points;
        let spec = Spec { view, zero_points, bias: &linear.bias, finish: &linear.finish, channels: 0..n };
        let dense = self.dense(&spec)?;
        Ok(dense.map(|dense| Kernel::Dense(Box::new(Dense { stride: k, ..dense }))))
    }

    fn dense(&self, spec: &Spec<'_>) -> Result<Option<Dense>, PackError> {
        let channels = &spec.channels;
        let table = self.table(spec.finish);
        let (requant, float) = match spec.finish {
            Finish::Requantize { .. } => match self.requant(spec.finish, table.as_ref()) {
                Some(requant) => (Requant { multipliers: part(requant.multipliers, channels), ..requant }, None),
                None => return Ok(None),
            },
            Finish::Float { scales, bias } => {
                let multipliers = part(scales, channels);
                let requant = Requant { multipliers, zero_point: 0, lo: i8::MIN, hi: i8::MAX, table: None };
                let bias = if channels.len() == bias.len() { Arc::clone(bias) } else { part(bias, channels).into() };
                (requant, Some(FloatEnd { bias, bounds: self.bounds }))
            }
            Finish::Accumulator => return Ok(None),
        };
        let zero_point = Self::params(self.inputs[0]).map_or(0, |params| params.zero_point);
        let spec_of_gemm = GemmSpec {
            weights: spec.view,
            weight_zero_points: part(spec.zero_points, channels),
            bias: part(spec.bias, channels),
            input_zero_point: zero_point,
            requant,
        };
        let mut gemm = Gemm::new(self.isa, self.storage, &spec_of_gemm)?;
        gemm.share(self.weights);
        let [n, taps, k] = spec.view.shape();
        let depth = taps * k;
        Ok(Some(Dense { gemm, map: None, stride: k, image: 0, first: [0; 2], n, depth, float, zero_point }))
    }

    fn depthwise(&self, conv: &Conv) -> Built {
        let channels = conv.weights.shape[0];
        let table = self.table(&conv.finish);
        if self.to != Layout::Nhwc {
            return Ok(None);
        }
        if let Finish::Float { scales, bias } = &conv.finish {
            return self.float_depthwise(conv, scales, bias);
        }
        let requant = self.requant(&conv.finish, table.as_ref());
        let (Some(requant), Some(params)) = (requant, Self::params(self.inputs[0])) else { return Ok(None) };
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

    fn float_depthwise(&self, conv: &Conv, scales: &[f32], bias: &Arc<[f32]>) -> Built {
        let channels = conv.weights.shape[0];
        let weights = [&conv.weights.data, &conv.weights.zero_points].map(|values| &**values);
        let (isa, storage, kernel) = (self.isa, self.storage, conv.window.kernel);
        let depthwise = FloatDepthwise::new(isa, storage, weights, kernel, channels, &conv.bias, scales)?;
        let end = FloatEnd { bias: Arc::clone(bias), bounds: self.bounds };
        let zero_point = Self::params(self.inputs[0]).map_or(0, |params| params.zero_point);
        let map = self.map(&conv.window);
        Ok(map.map(|map| Kernel::FloatDepthwise { depthwise: Box::new(depthwise), map, end, zero_point }))
    }
}

impl Scope<'_> {
    pub(super) fn dense(&self, dense: &Dense, output: &mut [u8]) {
        let cost = dense.depth;
        let steps = [dense.gemm.row_step(), dense.gemm.column_step()];
        self.products(dense, output, |data, map, output| {
            let rows = match map {
                Some(map) => Rows::Indirect { map: &map.map, padding: &map.padding },
                None => Rows::Direct { stride: dense.stride },
            };
            let source = Source { data, rows };
            self.share(output, steps, cost, |tile| dense.gemm.run(&source, tile));
        });
    }

    pub(super) fn dense_float(&self, dense: &Dense, padding: &mut [u8], output: &mut [f32]) {
        let Some(end) = &dense.float else { panic!("a product that ends in float") };
        let by = end.by(self.dynamic_params(self.stage.inputs[0]).unwrap_or((1.0, dense.zero_point)));
        let cost = dense.depth;
        let steps = [dense.gemm.row_step(), dense.gemm.column_step()];
        let padding = &mut padding[..dense.padding()];
        padding.fill(self.plan.isa.storage().byte(by.input_zero_point));
        self.products(dense, output, |data, map, output| {
            let rows = match map {
                Some(map) => Rows::Indirect { map: &map.map, padding },
                None => Rows::Direct { stride: dense.stride },
            };
            let source = Source { data, rows };
            self.share(output, steps, cost, |tile| dense.gemm.run_dynamic(&source, &by, tile));
        });
    }

    /// Calls with the input and the output of the whole product, or with those of each image in turn.
    fn products<'o, T>(&self, dense: &Dense, output: &'o mut [T], run: impl Fn(&[u8], Option<&Map>, TileMut<'o, T>)) {
        let [first, column] = dense.first;
        let data = &self.bytes(self.stage.inputs[0])[first..];
        let width = self.width();
        let tile = |output: &'o mut [T]| {
            let rows = output.len() / width;
            TileMut::new(&mut output[column..], rows, width, dense.n)
        };
        match &dense.map {
            None => run(data, None, tile(output)),
            Some(map) => {
                let size = map.map.pixels() * width;
                for (image, output) in output.chunks_exact_mut(size).enumerate() {
                    run(&data[image * dense.image..], Some(map), tile(output));
                }
            }
        }
    }
}
