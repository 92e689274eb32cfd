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

/// The lowest byte of the integer nearest to a number between −2^22 and 2^22, half to even, in two's complement.
/// Adding 1.5·2^23 leaves no bits behind the point: the sum is rounded as `rint` rounds, and its last bits are the integer.
#[inline(always)]
pub(super) fn nearest_byte(number: f32) -> u8 {
    (number + 12_582_912.0).to_bits() as u8
}

/// A number between two bounds; what is not a number becomes the lower one. One instruction a bound on either
/// architecture: only Arm's knows what `f32::max` promises of what is not a number.
#[inline(always)]
pub(super) fn bounded(number: f32, lo: f32, hi: f32) -> f32 {
    if cfg!(target_arch = "x86_64") {
        let number = if number > lo { number } else { lo };
        if number < hi { number } else { hi }
    } else {
        number.max(lo).min(hi)
    }
}
