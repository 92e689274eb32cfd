//! The rounding rules, one value at a time: what every tier must reproduce bit for bit.
//!
//! Everything is f32, rounds half to even, and fuses a multiplication with an addition exactly where `mul_add` stands.
//! Values and zero points are of the signed domain (see [`Storage`](super::Storage)).
//! Rejected: fixed-point multipliers (they round unlike the standard's reference and unlike ONNX Runtime).

/// `rint(clamp(f32(acc)·m, lo − zp, hi − zp)) + zp`: convolution, matrix product, pools.
#[inline(always)]
pub fn requantize(acc: i32, multiplier: f32, zero_point: i8, lo: i8, hi: i8) -> i8 {
    let low = f32::from(i16::from(lo) - i16::from(zero_point));
    let high = f32::from(i16::from(hi) - i16::from(zero_point));
    let scaled = (acc as f32 * multiplier).max(low).min(high);
    (scaled.round_ties_even() as i32 + i32::from(zero_point)) as i8
}
