//! Windows over images, averages over axes, interpolation.

use super::super::op::{AveragePool, Bilinear, FloatAverage, Mean, Window};
use super::super::round;
use super::elementwise::advance;
use super::{Data, Frame};

/// Calls with the pixels that each window meets, for each image and channel.
fn windows<V: Copy, T>(frame: &Frame, window: &Window, values: &[V], mut of: impl FnMut(&[V]) -> T) -> Vec<T> {
    let [h, w] = [frame.input(0).shape[2], frame.input(0).shape[3]];
    let [oh, ow] = [frame.output().shape[2], frame.output().shape[3]];
    let mut made = Vec::with_capacity(frame.output().count());
    let mut met = Vec::new();
    for plane in values.chunks((h * w).max(1)) {
        for y in 0..oh {
            for x in 0..ow {
                met.clear();
                for ky in 0..window.kernel[0] {
                    let Some(row) = window.meets(0, y, ky, h) else { continue };
                    let columns = (0..window.kernel[1]).filter_map(|kx| window.meets(1, x, kx, w));
                    met.extend(columns.map(|column| plane[row * w + column]));
                }
                made.push(of(&met));
            }
        }
    }
    made
}

pub(super) fn max(frame: &Frame, window: &Window) -> Data {
    let (values, _) = frame.int8(0);
    Data::Int8(windows(frame, window, values, |met| met.iter().copied().max().unwrap_or(i8::MIN)))
}

/// What is not a number is passed over.
pub(super) fn float_max(frame: &Frame, window: &Window) -> Data {
    let larger = |most: f32, x: f32| if x > most { x } else { most };
    Data::F32(windows(frame, window, frame.f32(0), |met| met.iter().copied().fold(f32::NEG_INFINITY, larger)))
}

pub(super) fn float_average(frame: &Frame, pool: &FloatAverage) -> Data {
    let taps = pool.window.kernel[0] * pool.window.kernel[1];
    Data::F32(windows(frame, &pool.window, frame.f32(0), |met| {
        let count = if pool.count_pads { taps } else { met.len().max(1) };
        met.iter().fold(0.0, |sum, x| sum + x) / count as f32
    }))
}

pub(super) fn average(frame: &Frame, pool: &AveragePool) -> Data {
    let (values, zero_point) = frame.int8(0);
    let out = frame.params();
    let taps = pool.window.kernel[0] * pool.window.kernel[1];
    Data::Int8(windows(frame, &pool.window, values, |met| {
        let sum = met.iter().map(|&v| i32::from(v) - i32::from(zero_point)).sum();
        let count: usize = if pool.count_pads { taps } else { met.len() };
        let multiplier = pool.multipliers[count.max(1) - 1];
        round::requantize(sum, multiplier, out.zero_point, i8::MIN, i8::MAX)
    }))
}

pub(super) fn mean(frame: &Frame, mean: &Mean) -> Data {
    let (values, zero_point) = frame.int8(0);
    let shape = &frame.input(0).shape;
    let kept: Vec<usize> =
        shape.iter().enumerate().map(|(axis, &dim)| if mean.axes.contains(&axis) { 1 } else { dim }).collect();
    let mut sums = vec![0_i32; kept.iter().product()];
    let mut at = vec![0; shape.len()];
    for &value in values {
        let place = at.iter().zip(&kept).fold(0, |place, (&i, &dim)| place * dim + if dim == 1 { 0 } else { i });
        sums[place] += i32::from(value) - i32::from(zero_point);
        advance(&mut at, shape);
    }
    let out = frame.params().zero_point;
    let requantize = |&sum: &i32| round::requantize(sum, mean.multiplier, out, i8::MIN, i8::MAX);
    Data::Int8(sums.iter().map(requantize).collect())
}

pub(super) fn bilinear(frame: &Frame, resize: &Bilinear) -> Data {
    let (values, zero_point) = frame.int8(0);
    let [h, w] = [frame.input(0).shape[2], frame.input(0).shape[3]];
    let out = frame.params().zero_point;
    let mut made = Vec::with_capacity(frame.output().count());
    for plane in values.chunks((h * w).max(1)) {
        let at = |y: usize, x: usize| i32::from(plane[y * w + x]) - i32::from(zero_point);
        for row in resize.rows.iter() {
            for column in resize.columns.iter() {
                let line = |y| at(y, column.first) * (2048 - column.weight) + at(y, column.second) * column.weight;
                let sum = line(row.first) * (2048 - row.weight) + line(row.second) * row.weight;
                made.push(round::requantize(sum, resize.multiplier, out, i8::MIN, i8::MAX));
            }
        }
    }
    Data::Int8(made)
}
