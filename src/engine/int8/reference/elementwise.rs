//! One value at a time, with operands that broadcast; and what needs a whole tensor or row to scale by.

use super::super::function::Binary;
use super::super::op::{Add, Mul, Softmax};
use super::super::program::Value;
use super::super::round;
use super::{Data, Frame, index};

/// Calls with the index of each operand's element for each element of the output.
fn broadcast<T>(frame: &Frame, mut of: impl FnMut(usize, usize) -> T) -> Vec<T> {
    let output = &frame.output().shape;
    let [a, b] = [strides(frame.input(0), output.len()), strides(frame.input(1), output.len())];
    let mut at = vec![0_usize; output.len()];
    (0..frame.output().count())
        .map(|_| {
            let place = |strides: &[usize]| at.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            let made = of(place(&a), place(&b));
            advance(&mut at, output);
            made
        })
        .collect()
}

/// Strides over the axes of an output of that rank; 0 where the operand repeats.
fn strides(value: &Value, rank: usize) -> Vec<usize> {
    let mut strides = vec![0; rank];
    let mut stride = 1;
    for (place, &dim) in strides.iter_mut().rev().zip(value.shape.iter().rev()) {
        *place = if dim == 1 { 0 } else { stride };
        stride *= dim;
    }
    strides
}

/// The next index in row-major order.
pub(super) fn advance(at: &mut [usize], shape: &[usize]) {
    for (i, &dim) in at.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < dim {
            return;
        }
        *i = 0;
    }
}

pub(super) fn add(frame: &Frame, add: &Add) -> Data {
    let ((a, _), (b, _)) = (frame.int8(0), frame.int8(1));
    let ratios = [add.ra, add.rb, add.c];
    Data::Int8(broadcast(frame, |i, j| round::add(a[i], b[j], ratios, add.low, add.high)))
}

pub(super) fn mul(frame: &Frame, mul: &Mul) -> Data {
    let ((a, za), (b, zb)) = (frame.int8(0), frame.int8(1));
    let zero_point = frame.params().zero_point;
    Data::Int8(broadcast(frame, |i, j| {
        let product = (i32::from(a[i]) - i32::from(za)) * (i32::from(b[j]) - i32::from(zb));
        round::multiply(product, mul.multiplier, zero_point, mul.low, mul.high)
    }))
}

pub(super) fn float_binary(frame: &Frame, function: Binary) -> Data {
    let (a, b) = (frame.f32(0), frame.f32(1));
    Data::F32(broadcast(frame, |i, j| function.of(a[i], b[j])))
}

/// Scale and zero point of ONNX DynamicQuantizeLinear: to uint8, over a range that holds 0.
pub(super) fn dynamic_params(values: &[f32]) -> (f32, i8) {
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(0.0, f32::max);
    let step = (high - low) / 255.0;
    // All zeros, or next to it: onnxruntime takes 1 for zeros.
    let scale = if step.is_normal() { step } else { 1.0 };
    let unsigned = (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even() as u8;
    (scale, (unsigned ^ 0x80).cast_signed())
}

pub(super) fn dynamic_quantize(values: &[f32]) -> Data {
    let (scale, zero_point) = dynamic_params(values);
    let quantize = |&x: &f32| round::settle(x / scale, zero_point, i8::MIN, i8::MAX);
    Data::Dynamic { values: values.iter().map(quantize).collect(), scale, zero_point }
}

pub(super) fn softmax(frame: &Frame, softmax: &Softmax) -> Data {
    let (values, _) = frame.int8(0);
    let shape = &frame.output().shape;
    let inner: usize = shape[softmax.axis + 1..].iter().product();
    let length = shape[softmax.axis];
    let params = frame.params();
    let mut out = vec![0; values.len()];
    for row in 0..values.len().checked_div(length).unwrap_or(0) {
        let at = |i: usize| (row / inner * length + i) * inner + row % inner;
        let largest = (0..length).map(|i| values[at(i)]).max().unwrap_or(0);
        let power = |i: usize| softmax.exponentials[index(largest) - index(values[at(i)])];
        let sum: u64 = (0..length).map(|i| u64::from(power(i))).sum();
        let ratio = (1.0 / (sum as f64 * f64::from(params.scale))) as f32;
        for i in 0..length {
            out[at(i)] = round::settle(power(i) as f32 * ratio, params.zero_point, i8::MIN, i8::MAX);
        }
    }
    Data::Int8(out)
}
