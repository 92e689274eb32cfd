//! How values lie in memory.
//!
//! Images that a window slides over lie in NHWC, as the kernels want them; what goes through operators that mind no
//! order lies as its neighbours do, and all else as ONNX has it. A first layer's image has four bytes a pixel and its
//! border around it.

use super::super::op::{FloatConv, Op, Window};
use super::super::program::{Program, Step, Type, ValueId};
use crate::kernels::{Image, SLACK};

/// The order of a value's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As ONNX has them.
    Plain,
    /// Four axes, channels innermost.
    Nhwc,
    /// One image after another, each with a border of zero points.
    Image(Image),
}

impl Layout {
    /// Logical axes, outermost in memory first. Not for images with a border.
    pub fn axes(self, rank: usize) -> Vec<usize> {
        match (self, rank) {
            (Self::Nhwc, 4) => vec![0, 2, 3, 1],
            (Self::Plain | Self::Nhwc | Self::Image(_), _) => (0..rank).collect(),
        }
    }

    /// Sizes of the axes in memory, outermost first.
    pub fn sizes(self, shape: &[usize]) -> Vec<usize> {
        self.axes(shape.len()).into_iter().map(|axis| shape[axis]).collect()
    }

    /// Elements in memory, without slack.
    pub fn count(self, shape: &[usize]) -> usize {
        match self {
            Self::Plain | Self::Nhwc => shape.iter().product(),
            Self::Image(image) => shape[0] * image.bytes(),
        }
    }

    /// Bytes of an int8 value, with slack.
    pub fn bytes(self, shape: &[usize]) -> usize {
        self.count(shape) + SLACK
    }
}

/// Where each element of a value, counted in NCHW, lies in memory.
pub(super) fn places(layout: Layout, shape: &[usize]) -> Vec<u32> {
    let count: usize = shape.iter().product();
    let plain: Vec<u32> = (0..count as u32).collect();
    match (layout, shape) {
        (Layout::Nhwc, [_, _, _, _]) => {
            let mut places = plain.clone();
            to_nchw(&plain, shape, &mut places);
            places
        }
        (Layout::Plain | Layout::Nhwc | Layout::Image(_), _) => plain,
    }
}

/// From `[N][C][pixels]` to `[N][pixels][C]`.
pub(super) fn to_nhwc<T: Copy>(from: &[T], shape: &[usize], to: &mut [T]) {
    let (channels, pixels) = (shape[1], shape[2] * shape[3]);
    turn(from, channels, pixels, to, |value| value);
}

/// From `[N][pixels][C]` to `[N][C][pixels]`.
pub(super) fn to_nchw<T: Copy>(from: &[T], shape: &[usize], to: &mut [T]) {
    let (channels, pixels) = (shape[1], shape[2] * shape[3]);
    turn(from, pixels, channels, to, |value| value);
}

/// Transposes matrices of so many rows and columns, and changes each value on the way.
pub(super) fn turn<F: Copy, T>(from: &[F], rows: usize, columns: usize, to: &mut [T], change: impl Fn(F) -> T) {
    let size = (rows * columns).max(1);
    for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
        for (row, line) in from.chunks_exact(columns).enumerate() {
            to[row..].iter_mut().step_by(rows).zip(line).for_each(|(to, from)| *to = change(*from));
        }
    }
}

/// By value.
pub(super) fn layouts(program: &Program) -> Vec<Layout> {
    let mut groups = Groups::new(program);
    for step in program.steps() {
        groups.visit(step);
    }
    let mut layouts: Vec<Layout> = (0..program.values().len()).map(|value| groups.layout(value)).collect();
    for step in program.steps() {
        if let Some((id, image)) = first_layer(program, &groups.uses, step) {
            layouts[id.index()] = Layout::Image(image);
        }
    }
    layouts
}

/// Values that must lie alike, as a forest of sets.
struct Groups<'a> {
    program: &'a Program,
    uses: Uses,
    parents: Vec<usize>,
    /// By set: something wants NHWC.
    turned: Vec<bool>,
}

impl<'a> Groups<'a> {
    fn new(program: &'a Program) -> Self {
        let count = program.values().len();
        Self { program, uses: Uses::new(program), parents: (0..count).collect(), turned: vec![false; count] }
    }

    fn root(&mut self, mut value: usize) -> usize {
        while self.parents[value] != value {
            self.parents[value] = self.parents[self.parents[value]];
            value = self.parents[value];
        }
        value
    }

    fn is_image(&self, id: ValueId) -> bool {
        self.program.value(id).shape.len() == 4
    }

    fn want(&mut self, id: ValueId) {
        if self.is_image(id) {
            let root = self.root(id.index());
            self.turned[root] = true;
        }
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        if self.is_image(a) && self.is_image(b) {
            let (a, b) = (self.root(a.index()), self.root(b.index()));
            self.parents[a] = b;
            self.turned[b] |= self.turned[a];
        }
    }

    fn visit(&mut self, step: &Step) {
        match &step.op {
            // It makes a copy with a frame, however the image lies.
            Op::FloatConv(conv) if is_framed(conv, self.program.value(step.inputs[0]).shape[1]) => {
                self.want(step.output);
            }
            Op::Conv(_)
            | Op::FloatConv(_)
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::FloatAverage(_)
            | Op::Bilinear(_) => {
                self.want(step.inputs[0]);
                self.want(step.output);
            }
            Op::Mean(mean) if mean.axes == [2, 3] => {
                self.want(step.inputs[0]);
                self.want(step.output);
            }
            // They turn what comes from outside as they go.
            Op::Quantize | Op::DynamicQuantize if self.uses.upright[step.inputs[0].index()] => {}
            // It turns what leaves as it goes.
            Op::Dequantize(_) if self.uses.leaves[step.output.index()] => {}
            Op::Quantize
            | Op::DynamicQuantize
            | Op::Dequantize(_)
            | Op::Table(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Concat { .. }
            | Op::Mean(_)
            | Op::Softmax(_)
            | Op::Float(_)
            | Op::FloatBinary(_) => step.inputs.iter().for_each(|&id| self.join(id, step.output)),
            Op::Constant(_)
            | Op::FloatConstant(_)
            | Op::Linear(_)
            | Op::MatMul(_)
            | Op::FloatLinear(_)
            | Op::FloatMatMul
            | Op::Rows { .. }
            | Op::Select { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Transpose { .. }
            | Op::Reshape => {}
        }
    }

    fn layout(&mut self, value: usize) -> Layout {
        let root = self.root(value);
        let image = self.program.values()[value].shape.len() == 4;
        if image && self.turned[root] { Layout::Nhwc } else { Layout::Plain }
    }
}

/// By value: who makes it, how many read it, and whether it comes from outside for quantizations alone, which turn it as
/// they go.
struct Uses {
    makers: Vec<Option<usize>>,
    readers: Vec<usize>,
    upright: Vec<bool>,
    /// Nothing in the region reads it.
    leaves: Vec<bool>,
}

impl Uses {
    fn new(program: &Program) -> Self {
        let count = program.values().len();
        let mut uses = Self {
            makers: vec![None; count],
            readers: vec![0; count],
            upright: vec![false; count],
            leaves: vec![false; count],
        };
        program.inputs().iter().for_each(|id| uses.upright[id.index()] = true);
        for (index, step) in program.steps().iter().enumerate() {
            uses.makers[step.output.index()] = Some(index);
            let quantizes = matches!(step.op, Op::Quantize | Op::DynamicQuantize);
            for id in &step.inputs {
                uses.readers[id.index()] += 1;
                uses.upright[id.index()] &= quantizes;
            }
        }
        for id in program.outputs() {
            uses.leaves[id.index()] = uses.readers[id.index()] == 0;
        }
        for id in program.outputs() {
            uses.readers[id.index()] += 1;
            uses.upright[id.index()] = false;
        }
        uses
    }
}

/// Whether a convolution of floats reads a copy of its image with the padding around it.
pub(super) fn is_framed(conv: &FloatConv, channels: usize) -> bool {
    channels <= 4 && conv.group == 1 && conv.window.kernel[1] > 1 && conv.window.dilation[1] == 1
}

/// The image that a convolution of few channels reads alone, made of what comes into the region.
fn first_layer(program: &Program, uses: &Uses, step: &Step) -> Option<(ValueId, Image)> {
    let Op::Conv(conv) = &step.op else { return None };
    let Window { kernel, dilation, pads, .. } = conv.window;
    let input = step.inputs[0];
    let &[_, channels, height, width] = program.value(input).shape.as_slice() else { return None };
    let known = matches!(program.value(input).ty, Type::Int8(_));
    if !known || channels > 4 || conv.group != 1 || dilation != [1, 1] || kernel == [1, 1] {
        return None;
    }
    let entered = match uses.makers[input.index()].map(|maker| &program.steps()[maker]) {
        Some(maker) => matches!(maker.op, Op::Quantize) && uses.upright[maker.inputs[0].index()],
        None => program.inputs().contains(&input),
    };
    let fits = uses.readers[input.index()] == 1 && entered;
    fits.then_some((input, Image { channels, height, width, pixel_stride: 4, border: pads }))
}

/// Where an element of images, counted in NCHW, lies among images with borders.
pub(super) fn place_in(image: &Image, index: usize) -> usize {
    let plane = image.height * image.width;
    let (number, rest) = (index / (plane * image.channels), index % (plane * image.channels));
    let (channel, pixel) = (rest / plane, rest % plane);
    let (line, column) = (image.border[0] + pixel / image.width, image.border[1] + pixel % image.width);
    number * image.bytes() + line * image.row_stride() + column * image.pixel_stride + channel
}
