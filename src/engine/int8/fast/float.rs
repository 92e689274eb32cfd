//! Convolutions and products of floats with constant weights, and pools of floats.
//!
//! What follows a product value by value is done to some rows of it while they are in a cache (`chain`). A first layer
//! of few channels reads a copy of its image with the padding around it, so that a line of its window lies in one.

use super::super::op::{FloatConv, FloatLinear, FloatWeights, Window};
use super::super::program::{Program, Step};
use super::Scratch;
use super::chain::Chain;
use super::kernel::{At, Built, Kernel, bounds};
use super::layout::{Layout, is_framed};
use super::product::FLOAT;
use super::run::Scope;
use crate::kernels::{
    F32Conv, F32ConvSpec, F32Depthwise, F32Pool, F32PoolKind, F32Rows, F32Weights, Geometry, Indirection, PackError,
    TileMut, part_of_floats,
};

/// Products of floats, with what follows them.
#[derive(Debug)]
pub(super) struct FloatProducts {
    by: By,
    /// Where pixels lie; `None` for rows one behind the other.
    map: Option<Indirection>,
    frame: Option<Frame>,
    /// Values from one row to the next, without a map.
    stride: usize,
    /// Zeros that a padded tap reads.
    zeros: usize,
    then: Chain,
    /// Products for each output value.
    depth: usize,
}

#[derive(Debug)]
enum By {
    /// A product for each group of channels.
    Groups(Vec<Group>),
    Channels(Box<F32Depthwise>),
}

#[derive(Debug)]
struct Group {
    conv: F32Conv,
    /// The first channel of the input, and of the output.
    first: [usize; 2],
    n: usize,
}

/// A copy of an image with zeros around it, channels innermost.
#[derive(Debug)]
struct Frame {
    /// Channels, height, width.
    shape: [usize; 3],
    /// Top, left, bottom, right.
    pads: [usize; 4],
    from: Layout,
}

impl Frame {
    fn size(&self) -> [usize; 2] {
        let [_, height, width] = self.shape;
        [height + self.pads[0] + self.pads[2], width + self.pads[1] + self.pads[3]]
    }

    fn count(&self) -> usize {
        let [height, width] = self.size();
        height * width * self.shape[0]
    }

    /// Lines of the window as taps.
    fn geometry(&self, window: &Window) -> Option<Geometry> {
        let [height, width] = self.size();
        let row = width * self.shape[0];
        Some(Geometry {
            input: [height, (width + 1).checked_sub(window.kernel[1])?],
            kernel: [window.kernel[0], 1],
            stride: window.stride,
            dilation: window.dilation,
            pads: [0; 4],
            pixel_stride: self.shape[0],
            row_stride: row,
        })
    }

    fn fill(&self, from: &[f32], to: &mut [f32]) {
        let ([channels, height, width], [_, wide]) = (self.shape, self.size());
        let [top, left, bottom, _] = self.pads;
        let row = wide * channels;
        to[..top * row].fill(0.0);
        to[(top + height) * row..][..bottom * row].fill(0.0);
        for (y, line) in to[top * row..].chunks_exact_mut(row.max(1)).enumerate().take(height) {
            let (before, rest) = line.split_at_mut(left * channels);
            let (inside, behind) = rest.split_at_mut(width * channels);
            before.fill(0.0);
            behind.fill(0.0);
            match self.from {
                Layout::Nhwc => inside.copy_from_slice(&from[y * width * channels..][..width * channels]),
                Layout::Plain | Layout::Image(_) => {
                    let (from, plane) = (&from[y * width..], height * width);
                    match channels {
                        1 => inside.copy_from_slice(&from[..width]),
                        2 => interleave::<2>(from, plane, inside),
                        3 => interleave::<3>(from, plane, inside),
                        4 => interleave::<4>(from, plane, inside),
                        _ => part_of_floats(from, [channels, width], [plane, channels], inside),
                    }
                }
            }
        }
    }
}

/// A line of few channels, each of which lies apart.
fn interleave<const C: usize>(from: &[f32], plane: usize, to: &mut [f32]) {
    let pixels = to.as_chunks_mut::<C>().0;
    let lines: [&[f32]; C] = std::array::from_fn(|channel| &from[channel * plane..][..pixels.len()]);
    for (x, pixel) in pixels.iter_mut().enumerate() {
        *pixel = std::array::from_fn(|channel| lines[channel][x]);
    }
}

impl FloatProducts {
    pub fn name(&self) -> &'static str {
        match &self.by {
            By::Channels(_) => "float depthwise",
            By::Groups(groups) if self.map.is_some() && groups.iter().any(|group| group.conv.is_of_bytes()) => {
                "float conv, int8 weights"
            }
            By::Groups(_) if self.map.is_some() => "float conv",
            By::Groups(groups) if groups.iter().any(|group| group.conv.is_of_bytes()) => "float GEMM, int8 weights",
            By::Groups(_) => "float GEMM",
        }
    }

    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        let products = match &self.by {
            By::Channels(depthwise) => depthwise.bytes(),
            By::Groups(groups) => groups.iter().map(|group| group.conv.bytes()).sum(),
        };
        products + self.map.as_ref().map_or(0, Indirection::bytes)
    }

    /// Zeros and values of a framed image, that a run works with.
    pub fn scratch(&self) -> [usize; 2] {
        [self.zeros, self.frame.as_ref().map_or(0, Frame::count)]
    }
}

/// As kernels take them, of some output channels.
fn weights<'w>(of: &'w FloatWeights, channels: &std::ops::Range<usize>, each: usize) -> F32Weights<'w> {
    let part = channels.start * each..channels.end * each;
    match of {
        FloatWeights::Floats { data, .. } => F32Weights::Floats(&data[part]),
        FloatWeights::Bytes { weights, scales } => F32Weights::Bytes {
            values: &weights.data[part],
            zero_points: own(&weights.zero_points, channels),
            scales: own(scales, channels),
        },
    }
}

/// The part of what is one for all channels, or one each.
fn own<'v, T>(values: &'v [T], channels: &std::ops::Range<usize>) -> &'v [T] {
    if values.len() > 1 { &values[channels.clone()] } else { values }
}

impl At<'_> {
    /// A product, and steps of single values behind it.
    pub(super) fn float_linear(&self, program: &Program, steps: &[&Step], linear: &FloatLinear) -> Built {
        let &[k, n] = linear.weights.shape() else { return Ok(None) };
        if !self.is_plain() {
            return Ok(None);
        }
        let Some((bounds, then)) = self.end(program, steps) else { return Ok(None) };
        let weights = match &linear.weights {
            FloatWeights::Floats { data, .. } => F32Weights::Floats(data),
            FloatWeights::Bytes { weights, scales } => {
                F32Weights::Bytes { values: &weights.data, zero_points: &weights.zero_points, scales }
            }
        };
        let spec = F32ConvSpec { weights, shape: [n, 1, k], strides: [1, 0, n], bias: &linear.bias, bounds };
        let mut conv = F32Conv::new(self.isa, &spec)?;
        conv.share(self.weights);
        let by = By::Groups(vec![Group { conv, first: [0; 2], n }]);
        let made = FloatProducts { by, map: None, frame: None, stride: k, zeros: 0, then, depth: k };
        Ok(Some(Kernel::FloatProducts(Box::new(made))))
    }

    pub(super) fn float_conv(&self, program: &Program, steps: &[&Step], conv: &FloatConv) -> Built {
        let (&[m, depth, kh, kw], &[_, c, h, w]) = (conv.weights.shape(), self.inputs[0].shape.as_slice()) else {
            return Ok(None);
        };
        if self.to != Layout::Nhwc {
            return Ok(None);
        }
        let framed = is_framed(conv, c);
        let frame = Frame { shape: [c, h, w], pads: conv.window.pads, from: self.from[0] };
        let pointwise = conv.window == Window::UNIT && self.from[0] == Layout::Nhwc;
        let map = match (framed, pointwise) {
            (true, _) => frame.geometry(&conv.window).and_then(|geometry| Indirection::new(&geometry).ok()),
            (false, true) => None,
            (false, false) => self.map(&conv.window),
        };
        if map.is_none() && !pointwise {
            return Ok(None);
        }
        let Some((bounds, then)) = self.end(program, steps) else { return Ok(None) };
        let by = if conv.is_depthwise() {
            let of = weights(&conv.weights, &(0..m), kh * kw);
            let mut depthwise = F32Depthwise::new(self.isa, of, [m, kh * kw], &conv.bias, bounds)?;
            depthwise.share(self.weights);
            By::Channels(Box::new(depthwise))
        } else {
            By::Groups(self.float_groups(conv, bounds, framed)?)
        };
        // One pixel's window, or one row, goes through a map even where it need not: depthwise kernels know no other.
        let map = match (&by, map) {
            (By::Channels(_), None) => self.map(&conv.window),
            (_, map) => map,
        };
        let frame = framed.then_some(frame);
        let made = FloatProducts { by, map, frame, stride: c, zeros: c, then, depth: kh * kw * depth };
        Ok(Some(Kernel::FloatProducts(Box::new(made))))
    }

    fn float_groups(&self, conv: &FloatConv, bounds: Option<[f32; 2]>, framed: bool) -> Result<Vec<Group>, PackError> {
        let &[m, depth, kh, kw] = conv.weights.shape() else { return Ok(Vec::new()) };
        let (n, taps) = (m / conv.group, kh * kw);
        let one = |group: usize| {
            let channels = group * n..(group + 1) * n;
            let of = weights(&conv.weights, &channels, depth * taps);
            let bias = if conv.bias.is_empty() { &[] } else { &conv.bias[channels] };
            let spec =
                F32ConvSpec { weights: of, shape: [n, taps, depth], strides: [depth * taps, 1, taps], bias, bounds };
            let mut conv = F32Conv::new(self.isa, &spec)?;
            if framed {
                conv.join_taps(kw);
            }
            conv.share(self.weights);
            Ok(Group { conv, first: [group * depth, group * n], n })
        };
        (0..conv.group).map(one).collect()
    }

    /// What becomes of sums: bounds in registers, and the rest.
    fn end(&self, program: &Program, steps: &[&Step]) -> Option<(Option<[f32; 2]>, Chain)> {
        let first = steps.get(1).and_then(|step| bounds(step.op.float_function()?));
        let then = Chain::new(program, self.width(), steps, usize::from(first.is_some()))?;
        Some((first, then))
    }

    /// Channels of images, the last axis of others.
    fn width(&self) -> usize {
        match (self.to, self.output.shape.as_slice()) {
            (Layout::Nhwc, &[_, channels, _, _]) => channels,
            (Layout::Plain | Layout::Nhwc | Layout::Image(_), shape) => shape.last().copied().unwrap_or(1),
        }
    }

    pub(super) fn float_pool(&self, kind: F32PoolKind, window: &Window) -> Built {
        let pool = F32Pool::new(self.isa, kind);
        let images = self.from[0] == Layout::Nhwc && self.to == Layout::Nhwc;
        Ok(self.map(window).filter(|_| images).map(|map| Kernel::FloatPool { pool, map }))
    }
}

/// A convolution by channels reads and writes as much as it computes.
const CHANNEL: usize = 8;

impl Scope<'_> {
    pub(super) fn float_products(&self, products: &FloatProducts, scratch: &mut Scratch, output: &mut [f32]) {
        let input = self.floats(self.stage.inputs[0]);
        let width = self.width();
        let Some(map) = &products.map else {
            return self.float_image(products, input, &scratch.zeros, 0, width, output);
        };
        let size = self.value(self.stage.inputs[0]).count() / self.shape(self.stage.inputs[0])[0].max(1);
        let images = output.chunks_exact_mut((map.pixels() * width).max(1));
        for (image, (output, input)) in images.zip(input.chunks_exact(size.max(1))).enumerate() {
            let first = image * map.pixels();
            match &products.frame {
                None => self.float_image(products, input, &scratch.zeros, first, width, output),
                Some(frame) => {
                    frame.fill(input, &mut scratch.image[..frame.count()]);
                    let framed = &scratch.image[..frame.count()];
                    self.float_image(products, framed, &scratch.zeros, first, width, output);
                }
            }
        }
    }

    /// Rows from one on of the whole output.
    fn float_image(
        &self,
        products: &FloatProducts,
        input: &[f32],
        zeros: &[f32],
        first: usize,
        width: usize,
        output: &mut [f32],
    ) {
        let rows = output.len() / width.max(1);
        let isa = self.plan.isa;
        let operands = |number: usize| self.floats(self.stage.inputs[number]);
        match &products.by {
            By::Channels(depthwise) => {
                let Some(map) = &products.map else { panic!("a map for a window") };
                let cost = products.depth * CHANNEL + CHANNEL;
                self.share(TileMut::new(output, rows, width, width), [1, width], cost, |tile| {
                    tile.by_rows(CHANNEL_ROWS / width.max(1) + 1, |part| {
                        depthwise.run(input, map, part);
                        products.then.apply(isa, part, [first, 0], width, operands);
                    });
                });
            }
            By::Groups(groups) => {
                for Group { conv, first: [channel, column], n } in groups {
                    let tile = TileMut::new(&mut output[*column..], rows, width, *n);
                    self.share(tile, conv.steps(), FLOAT * products.depth, |tile| {
                        tile.by_rows(conv.chunk(), |part| {
                            let from = match &products.map {
                                Some(map) => F32Rows::Indirect { map, zeros },
                                None => F32Rows::Direct { stride: products.stride },
                            };
                            conv.run(&input[*channel..], from, part);
                            products.then.apply(isa, part, [first, *column], width, operands);
                        });
                    });
                }
            }
        }
    }
}

/// Values of a depthwise convolution that stay in the first cache until what follows is done to them.
const CHANNEL_ROWS: usize = 1 << 12;
