//! Convolutions of any stride, dilation, padding and group, one- and two-dimensional: columns times weights, image by image;
//! and their transposes.
//!
//! Layouts: NCHW (NCL), weights O, C / groups, KH, KW; for the transpose C, O / groups, KH, KW.

use super::depthwise;
use super::{Kernel, View};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

/// How windows lie in an image: per axis H, W.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Before the first row and column.
    pub pads: [usize; 2],
    /// Sizes of the image and of what comes out.
    pub size: [usize; 2],
    pub out: [usize; 2],
}

impl Window {
    /// Outputs of an axis whose tap `k` lies within the image, and where the first of them reads.
    pub fn valid(&self, axis: usize, k: usize) -> (std::ops::Range<usize>, usize) {
        let (stride, pad, size) = (self.stride[axis], self.pads[axis], self.size[axis]);
        let offset = k * self.dilation[axis];
        let first = pad.saturating_sub(offset).div_ceil(stride);
        // in = out * stride + offset - pad < size
        let end = (size + pad).saturating_sub(offset).div_ceil(stride).min(self.out[axis]);
        (first..end.max(first), (first * stride + offset).saturating_sub(pad))
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    pub fn outs(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// Columns are the image itself.
    fn is_plain(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.size == self.out && self.pads == [0, 0]
    }

    /// Each line of each tap: (tap, line in, line out, columns out, column in).
    fn lines(&self, mut visit: impl FnMut(usize, usize, usize, std::ops::Range<usize>, usize)) {
        for kh in 0..self.kernel[0] {
            let (rows, first) = self.valid(0, kh);
            for kw in 0..self.kernel[1] {
                let (columns, start) = self.valid(1, kw);
                for (at, row) in rows.clone().enumerate() {
                    visit(kh * self.kernel[1] + kw, first + at * self.stride[0], row, columns.clone(), start);
                }
            }
        }
    }

    /// Channels of an image as columns: `[channels * taps, outs]`.
    fn columns(&self, image: &[f32], columns: &mut [f32]) {
        let (taps, outs, stride) = (self.taps(), self.outs(), self.stride[1]);
        columns.fill(0.0);
        for (plane, columns) in image.chunks(self.pixels()).zip(columns.chunks_mut(taps * outs)) {
            self.lines(|tap, line, row, range, start| {
                let to = &mut columns[tap * outs + row * self.out[1]..][range];
                let from = &plane[line * self.size[1] + start..];
                match stride {
                    1 => to.copy_from_slice(&from[..to.len()]),
                    _ => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
                }
            });
        }
    }

    /// The transpose of [`Window::columns`]: adds columns where they came from.
    fn scatter(&self, columns: &[f32], image: &mut [f32]) {
        let (taps, outs, stride) = (self.taps(), self.outs(), self.stride[1]);
        for (plane, columns) in image.chunks_mut(self.pixels()).zip(columns.chunks(taps * outs)) {
            self.lines(|tap, line, row, range, start| {
                let from = &columns[tap * outs + row * self.out[1]..][range];
                let to = &mut plane[line * self.size[1] + start..];
                match stride {
                    1 => to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
                    _ => to.iter_mut().step_by(stride).zip(from).for_each(|(to, from)| *to += from),
                }
            });
        }
    }
}

/// `c = a b + beta c`; each is rows by columns, `a` and `b` perhaps turned.
pub fn product(a: (&[f32], [usize; 2], bool), b: (&[f32], [usize; 2], bool), beta: f32, c: &mut [f32]) {
    fn view((values, shape, turned): (&[f32], [usize; 2], bool)) -> ArrayView2<'_, f32> {
        let view = ArrayView2::from_shape(shape, values).expect("as many values as the shape says");
        if turned { view.reversed_axes() } else { view }
    }
    let (a, b) = (view(a), view(b));
    let mut c = ArrayViewMut2::from_shape([a.nrows(), b.ncols()], c).expect("rows of a times columns of b");
    general_mat_mul(1.0, &a, &b, beta, &mut c);
}

/// Conv with a bias or without.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
    pub groups: usize,
}

/// Sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub groups: usize,
    pub window: Window,
}

/// N, C and the last two dimensions; one-dimensional images have one row.
pub fn dims4(shape: &[usize]) -> [usize; 4] {
    match shape {
        [n, c, h, w] => [*n, *c, *h, *w],
        [n, c, l] => [*n, *c, 1, *l],
        _ => [1; 4],
    }
}

impl Conv {
    /// Of what comes out along an axis; 0 where the window is larger than the image.
    pub fn out(&self, axis: usize, size: usize, kernel: usize) -> usize {
        let covered = self.dilation[axis] * (kernel - 1) + 1;
        (size + self.pads[axis] + self.pads[axis + 2])
            .checked_sub(covered)
            .map_or(0, |rest| rest / self.stride[axis] + 1)
    }

    fn sizes(&self, x: &[usize], w: &[usize]) -> Sizes {
        let ([batch, inputs, h, wide], [outputs, _, kh, kw]) = (dims4(x), dims4(w));
        let window = Window {
            kernel: [kh, kw],
            stride: self.stride,
            dilation: self.dilation,
            pads: [self.pads[0], self.pads[1]],
            size: [h, wide],
            out: [self.out(0, h, kh), self.out(1, wide, kw)],
        };
        Sizes { batch, inputs, outputs, groups: self.groups, window }
    }
}

impl Sizes {
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.inputs
    }

    /// `[outputs / groups, inputs / groups * taps]`.
    fn weights(&self) -> [usize; 2] {
        [self.outputs / self.groups, self.inputs / self.groups * self.window.taps()]
    }

    fn image(&self) -> usize {
        self.inputs * self.window.pixels()
    }

    fn answer(&self) -> usize {
        self.outputs * self.window.outs()
    }

    /// `y = w x`; adds to `y`.
    fn forward(&self, x: &[f32], w: &[f32], y: &mut [f32]) {
        if self.is_depthwise() {
            return depthwise::forward(self, x, w, y);
        }
        let (window, shape) = (&self.window, self.weights());
        let images = y.par_chunks_mut(self.answer()).zip(x.par_chunks(self.image()));
        images.for_each_init(Vec::new, |columns: &mut Vec<f32>, (y, x)| {
            let parts = y.chunks_mut(self.answer() / self.groups).zip(x.chunks(self.image() / self.groups));
            for ((y, x), w) in parts.zip(w.chunks(shape[0] * shape[1])) {
                let columns = self.columns(x, columns);
                product((w, shape, false), (columns, [shape[1], window.outs()], false), 1.0, y);
            }
        });
    }

    fn columns<'a>(&self, x: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32] {
        if self.window.is_plain() {
            return x;
        }
        room.resize(self.weights()[1] * self.window.outs(), 0.0);
        self.window.columns(x, room);
        room
    }

    /// Gradient by the images: `dx = wᵀ dy`.
    fn backward_data(&self, w: &[f32], dy: &[f32]) -> Vec<f32> {
        let mut dx = vec![0.0; self.batch * self.image()];
        if self.is_depthwise() {
            depthwise::backward_data(self, w, dy, &mut dx);
            return dx;
        }
        let (window, shape) = (&self.window, self.weights());
        let images = dx.par_chunks_mut(self.image()).zip(dy.par_chunks(self.answer()));
        images.for_each_init(Vec::new, |columns: &mut Vec<f32>, (dx, dy)| {
            let parts = dx.chunks_mut(self.image() / self.groups).zip(dy.chunks(self.answer() / self.groups));
            for ((dx, dy), w) in parts.zip(w.chunks(shape[0] * shape[1])) {
                let turned =
                    |to: &mut [f32]| product((w, shape, true), (dy, [shape[0], window.outs()], false), 0.0, to);
                if window.is_plain() {
                    turned(dx);
                    continue;
                }
                columns.resize(shape[1] * window.outs(), 0.0);
                turned(columns);
                window.scatter(columns, dx);
            }
        });
        dx
    }

    /// Gradient by the weights: `dw = dy xᵀ`, over all images.
    fn backward_weights(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        if self.is_depthwise() {
            return depthwise::backward_weights(self, x, dy);
        }
        let (window, shape) = (&self.window, self.weights());
        let size = shape[0] * shape[1];
        let part = |(x, dy): (&[f32], &[f32])| {
            let mut dw = vec![0.0; size * self.groups];
            let mut room = Vec::new();
            for (x, dy) in x.chunks(self.image()).zip(dy.chunks(self.answer())) {
                let parts = x.chunks(self.image() / self.groups).zip(dy.chunks(self.answer() / self.groups));
                for ((x, dy), dw) in parts.zip(dw.chunks_mut(size)) {
                    let columns = self.columns(x, &mut room);
                    let turned = (columns, [shape[1], window.outs()], true);
                    product((dy, [shape[0], window.outs()], false), turned, 1.0, dw);
                }
            }
            dw
        };
        over_batch(self.batch, (x, self.image()), (dy, self.answer()), part)
    }
}

/// Sums a gradient over a batch in parts whose number does not depend on threads, so that the sum does not.
pub fn over_batch(
    batch: usize,
    x: (&[f32], usize),
    dy: (&[f32], usize),
    part: impl Fn((&[f32], &[f32])) -> Vec<f32> + Sync + Send,
) -> Vec<f32> {
    const PARTS: usize = 4;
    let each = batch.div_ceil(PARTS).max(1);
    let parts: Vec<Vec<f32>> = x.0.par_chunks(each * x.1).zip(dy.0.par_chunks(each * dy.1)).map(part).collect();
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sum
}

/// The shape with other channels and sizes, of the same rank.
fn shaped(like: &[usize], channels: usize, out: [usize; 2]) -> Vec<usize> {
    match like.len() {
        3 => vec![like[0], channels, out[1]],
        _ => vec![like[0], channels, out[0], out[1]],
    }
}

/// Each channel's bias, over all images.
fn biased(batch: usize, channels: usize, outs: usize, bias: Option<View<'_>>) -> Vec<f32> {
    match bias {
        Some(bias) => {
            let each = |at: usize| std::iter::repeat_n(bias.values[at % channels], outs);
            (0..batch * channels).flat_map(each).collect()
        }
        None => vec![0.0; batch * channels * outs],
    }
}

fn bias_gradient(channels: usize, outs: usize, dy: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0_f64; channels];
    for (at, plane) in dy.chunks(outs).enumerate() {
        sums[at % channels] += f64::from(plane.iter().sum::<f32>());
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

impl Kernel for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let (x, w) = (inputs[0], inputs[1]);
        let sizes = self.sizes(x.shape, w.shape);
        let mut y = biased(sizes.batch, sizes.outputs, sizes.window.outs(), inputs.get(2).copied());
        sizes.forward(x.values, w.values, &mut y);
        (y, shaped(x.shape, sizes.outputs, sizes.window.out))
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, wanted: &[bool]) -> Vec<Option<Vec<f32>>> {
        let (x, w, dy) = (inputs[0], inputs[1], grad.values);
        let sizes = self.sizes(x.shape, w.shape);
        let mut grads = vec![
            wanted[0].then(|| sizes.backward_data(w.values, dy)),
            wanted[1].then(|| sizes.backward_weights(x.values, dy)),
        ];
        if inputs.len() > 2 {
            grads.push(wanted[2].then(|| bias_gradient(sizes.outputs, sizes.window.outs(), dy)));
        }
        grads
    }
}

/// ConvTranspose: the gradient of a convolution by its images, as an operator.
#[derive(Debug, Clone, Copy)]
pub struct ConvTranspose {
    /// The convolution that it turns around.
    pub conv: Conv,
    pub output_padding: [usize; 2],
}

impl ConvTranspose {
    /// Sizes of the convolution whose answer is this one's image.
    fn sizes(&self, x: &[usize], w: &[usize]) -> Sizes {
        let ([batch, inputs, h, wide], [_, each, kh, kw]) = (dims4(x), dims4(w));
        let conv = &self.conv;
        let size = |axis: usize, size: usize, kernel: usize| {
            let padded = (size - 1) * conv.stride[axis] + conv.dilation[axis] * (kernel - 1) + 1;
            (padded + self.output_padding[axis]).saturating_sub(conv.pads[axis] + conv.pads[axis + 2])
        };
        let window = Window {
            kernel: [kh, kw],
            stride: conv.stride,
            dilation: conv.dilation,
            pads: [conv.pads[0], conv.pads[1]],
            size: [size(0, h, kh), size(1, wide, kw)],
            out: [h, wide],
        };
        Sizes { batch, inputs: each * conv.groups, outputs: inputs, groups: conv.groups, window }
    }
}

impl Kernel for ConvTranspose {
    fn name(&self) -> &'static str {
        "conv transpose"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let (x, w) = (inputs[0], inputs[1]);
        let sizes = self.sizes(x.shape, w.shape);
        let mut y = sizes.backward_data(w.values, x.values);
        if let Some(bias) = inputs.get(2) {
            for (at, plane) in y.chunks_mut(sizes.window.pixels()).enumerate() {
                plane.iter_mut().for_each(|y| *y += bias.values[at % sizes.inputs]);
            }
        }
        (y, shaped(x.shape, sizes.inputs, sizes.window.size))
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, wanted: &[bool]) -> Vec<Option<Vec<f32>>> {
        let (x, w, dy) = (inputs[0], inputs[1], grad.values);
        let sizes = self.sizes(x.shape, w.shape);
        let by_x = || {
            let mut dx = vec![0.0; x.values.len()];
            sizes.forward(dy, w.values, &mut dx);
            dx
        };
        let mut grads = vec![wanted[0].then(by_x), wanted[1].then(|| sizes.backward_weights(dy, x.values))];
        if inputs.len() > 2 {
            grads.push(wanted[2].then(|| bias_gradient(sizes.inputs, sizes.window.pixels(), dy)));
        }
        grads
    }
}
