//! Sums of products: convolutions, products with constants, products of activations.

use super::super::op::{Conv, Finish, FloatConv, FloatLinear, FloatWeights, Linear};
use super::super::round;
use super::{Data, Frame, index};

/// Accumulators to a value, channel by channel.
fn finish(frame: &Frame, finish: &Finish, accumulators: &[i32], channel: impl Fn(usize) -> usize) -> Data {
    let each = accumulators.iter().enumerate();
    let of = |list: &[f32], i: usize| list[if list.len() == 1 { 0 } else { channel(i) }];
    match finish {
        Finish::Requantize { multipliers, zero_point, low, high, table } => {
            let one = |(i, &acc)| {
                let value = round::requantize(acc, of(multipliers, i), *zero_point, *low, *high);
                table.as_ref().map_or(value, |table| table[index(value)])
            };
            Data::Int8(each.map(one).collect())
        }
        Finish::Float { scales, bias } => {
            let dynamic = frame.dynamic_scale();
            let one = |(i, &acc): (usize, &i32)| {
                let scale = dynamic.map_or(of(scales, i), |scale| scale * of(scales, i));
                let scaled = acc as f32 * scale;
                if bias.is_empty() { scaled } else { scaled + bias[channel(i)] }
            };
            Data::F32(each.map(one).collect())
        }
        Finish::Accumulator => Data::I32(accumulators.to_vec()),
    }
}

pub(super) fn conv(frame: &Frame, conv: &Conv) -> Data {
    let (values, zero_point) = frame.int8(0);
    let &[n, c, h, w] = frame.input(0).shape.as_slice() else { panic!("four axes") };
    let &[_, m, oh, ow] = frame.output().shape.as_slice() else { panic!("four axes") };
    let &[_, depth, kh, kw] = conv.weights.shape.as_slice() else { panic!("four axes") };
    let per_group = m / conv.group;
    let mut accumulators = Vec::with_capacity(n * m * oh * ow);
    for pixel in 0..n * m * oh * ow {
        let (x, y, out) = (pixel % ow, pixel / ow % oh, pixel / (ow * oh) % m);
        let image = &values[pixel / (ow * oh * m) * c * h * w..][..c * h * w];
        let first = out / per_group * depth;
        let mut acc = conv.bias.get(out).copied().unwrap_or(0);
        let weight_zero = zero_of(&conv.weights.zero_points, out);
        for d in 0..depth {
            for ky in 0..kh {
                let Some(row) = conv.window.meets(0, y, ky, h) else { continue };
                for kx in 0..kw {
                    let Some(column) = conv.window.meets(1, x, kx, w) else { continue };
                    let value = image[((first + d) * h + row) * w + column];
                    let weight = conv.weights.data[((out * depth + d) * kh + ky) * kw + kx];
                    acc += difference(value, zero_point) * difference(weight, weight_zero);
                }
            }
        }
        accumulators.push(acc);
    }
    finish(frame, &conv.finish, &accumulators, |i| i / (oh * ow) % m)
}

fn zero_of(zero_points: &[i8], channel: usize) -> i8 {
    zero_points[if zero_points.len() == 1 { 0 } else { channel }]
}

fn difference(value: i8, zero_point: i8) -> i32 {
    i32::from(value) - i32::from(zero_point)
}

pub(super) fn linear(frame: &Frame, linear: &Linear) -> Data {
    let (values, zero_point) = frame.int8(0);
    let &[k, n] = linear.weights.shape.as_slice() else { panic!("two axes") };
    let rows = frame.output().count().checked_div(n).unwrap_or(0);
    let mut accumulators = Vec::with_capacity(rows * n);
    for row in 0..rows {
        for out in 0..n {
            let weight_zero = zero_of(&linear.weights.zero_points, out);
            let term = |i: usize| {
                difference(values[row * k + i], zero_point) * difference(linear.weights.data[i * n + out], weight_zero)
            };
            accumulators.push(linear.bias.get(out).copied().unwrap_or(0) + (0..k).map(term).sum::<i32>());
        }
    }
    finish(frame, &linear.finish, &accumulators, |i| i % n)
}

/// One fused multiplication and addition after another.
fn fused(terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    terms.fold(0.0, |sum, (a, b)| a.mul_add(b, sum))
}

pub(super) fn float_linear(frame: &Frame, linear: &FloatLinear) -> Data {
    let values = frame.f32(0);
    let &[k, n] = linear.weights.shape() else { panic!("two axes") };
    let one = |index: usize| {
        let (row, out) = (index / n, index % n);
        let sum = fused((0..k).map(|i| (values[row * k + i], linear.weights.at(i * n + out, out))));
        linear.weights.settle(sum, out, &linear.bias)
    };
    Data::F32((0..frame.output().count()).map(one).collect())
}

impl FloatWeights {
    /// What multiplies, of an output channel.
    fn at(&self, index: usize, channel: usize) -> f32 {
        match self {
            Self::Floats { data, .. } => data[index],
            Self::Bytes { weights, .. } => {
                difference(weights.data[index], zero_of(&weights.zero_points, channel)) as f32
            }
        }
    }

    fn settle(&self, sum: f32, channel: usize, bias: &[f32]) -> f32 {
        let scaled = match self {
            Self::Floats { .. } => sum,
            Self::Bytes { scales, .. } => sum * scales[if scales.len() == 1 { 0 } else { channel }],
        };
        bias.get(channel).map_or(scaled, |bias| scaled + bias)
    }
}

pub(super) fn float_conv(frame: &Frame, conv: &FloatConv) -> Data {
    let values = frame.f32(0);
    let &[n, c, h, w] = frame.input(0).shape.as_slice() else { panic!("four axes") };
    let &[_, m, oh, ow] = frame.output().shape.as_slice() else { panic!("four axes") };
    let &[_, depth, kh, kw] = conv.weights.shape() else { panic!("four axes") };
    let one = |pixel: usize| {
        let (x, y, out) = (pixel % ow, pixel / ow % oh, pixel / (ow * oh) % m);
        let image = &values[pixel / (ow * oh * m) * c * h * w..][..c * h * w];
        let first = out / (m / conv.group) * depth;
        let met = |tap: usize| conv.window.meets(0, y, tap / kw, h).zip(conv.window.meets(1, x, tap % kw, w));
        let passes = |tap: usize| !conv.is_depthwise() || met(tap).is_some();
        let terms = (0..kh * kw * depth).filter(|index| passes(index / depth)).map(|index| {
            let (tap, d) = (index / depth, index % depth);
            let value = met(tap).map_or(0.0, |(row, column)| image[((first + d) * h + row) * w + column]);
            (value, conv.weights.at((out * depth + d) * kh * kw + tap, out))
        });
        conv.weights.settle(fused(terms), out, &conv.bias)
    };
    Data::F32((0..n * m * oh * ow).map(one).collect())
}

pub(super) fn float_mat_mul(frame: &Frame) -> Data {
    let (a, b) = (frame.f32(0), frame.f32(1));
    let made = over_matrices(frame, |a_row, b_column, k, n| fused((0..k).map(|i| (a[a_row + i], b[b_column + i * n]))));
    Data::F32(made)
}

/// Calls with where a row of the left and a column of the right side begin, and how many values and columns there are.
fn over_matrices<T>(frame: &Frame, mut of: impl FnMut(usize, usize, usize, usize) -> T) -> Vec<T> {
    let [shape_a, shape_b] = [&frame.input(0).shape, &frame.input(1).shape];
    let ([outer @ .., m, n], Some(&k)) = (frame.output().shape.as_slice(), shape_a.last()) else { panic!("two axes") };
    let mut made = Vec::with_capacity(frame.output().count());
    for batch in 0..outer.iter().product() {
        let (a, b) = (batch_of(batch, outer, shape_a) * m * k, batch_of(batch, outer, shape_b) * k * n);
        for row in 0..*m {
            made.extend((0..*n).map(|column| of(a + row * k, b + column, k, *n)));
        }
    }
    made
}

pub(super) fn mat_mul(frame: &Frame, end: &Finish) -> Data {
    let ((a, za), (b, zb)) = (frame.int8(0), frame.int8(1));
    let accumulators = over_matrices(frame, |a_row, b_column, k, n| {
        let term = |i: usize| difference(a[a_row + i], za) * difference(b[b_column + i * n], zb);
        (0..k).map(term).sum()
    });
    finish(frame, end, &accumulators, |_| 0)
}

/// The matrix of an operand for a matrix of the output, where leading axes broadcast.
fn batch_of(batch: usize, outer: &[usize], shape: &[usize]) -> usize {
    let own = &shape[..shape.len() - 2];
    let (mut rest, mut stride, mut place) = (batch, 1, 0);
    for (i, &dim) in outer.iter().rev().enumerate() {
        if let Some(own) = own.iter().rev().nth(i) {
            place += if *own == 1 { 0 } else { rest % dim * stride };
            stride *= own;
        }
        rest /= dim;
    }
    place
}
