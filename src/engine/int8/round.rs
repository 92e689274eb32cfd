//! The rounding rules, one value at a time: f32, half to even, fused exactly where `mul_add` stands.
//!
//! Values and zero points are of the signed domain. The same rules stand in the kernels' scalar tier; this room is
//! the oracle and does not borrow from what it checks.

use super::program::QuantParams;

/// `rint(clamp(f32(acc)·m, low − zp, high − zp)) + zp`.
pub fn requantize(acc: i32, multiplier: f32, zero_point: i8, low: i8, high: i8) -> i8 {
    settle(acc as f32 * multiplier, zero_point, low, high)
}

/// A scaled value to its int8: clamped, rounded, shifted.
pub fn settle(scaled: f32, zero_point: i8, low: i8, high: i8) -> i8 {
    let floor = f32::from(i16::from(low) - i16::from(zero_point));
    let ceiling = f32::from(i16::from(high) - i16::from(zero_point));
    let rounded = scaled.max(floor).min(ceiling).round_ties_even() as i32;
    (rounded + i32::from(zero_point)) as i8
}

/// `rint(x / scale) + zp`, saturated. NaN becomes the lowest value, as on every tier.
pub fn quantize(x: f32, params: &QuantParams) -> i8 {
    settle(x / params.scale, params.zero_point, i8::MIN, i8::MAX)
}

/// `(q − zp)·scale`.
pub fn dequantize(q: i8, params: &QuantParams) -> f32 {
    f32::from(i16::from(q) - i16::from(params.zero_point)) * params.scale
}

/// `rint(fma(a, ra, fma(b, rb, c)))`, clamped.
pub fn add(a: i8, b: i8, [ra, rb, c]: [f32; 3], low: i8, high: i8) -> i8 {
    let sum = f32::from(a).mul_add(ra, f32::from(b).mul_add(rb, c));
    sum.max(f32::from(low)).min(f32::from(high)).round_ties_even() as i8
}

/// `rint(fma(p, m, zp))`, clamped, for a product of values less their zero points.
pub fn multiply(product: i32, multiplier: f32, zero_point: i8, low: i8, high: i8) -> i8 {
    let sum = (product as f32).mul_add(multiplier, f32::from(zero_point));
    sum.max(f32::from(low)).min(f32::from(high)).round_ties_even() as i8
}
