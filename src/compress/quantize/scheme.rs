//! Affine and symmetric quantization: scale and zero point of a range, and what they do to values.
//!
//! Invariant: 0 is represented exactly (padding and ReLU count on it), a scale is positive and finite whatever the range.
//! Not here: which range a tensor has (`range`), which tensors are quantized (`place`).
//!
//! With levels `qmin..=qmax` of a range `lo..=hi` that contains 0 (Jacob et al., 2018, <https://arxiv.org/abs/1712.05877>,
//! section 2.1; ONNX's QuantizeLinear):
//! ```text
//! affine     scale = (hi - lo) / (qmax - qmin)    zero point = round(qmin - lo / scale)
//! symmetric  scale = max(|lo|, |hi|) / qmax       zero point = the middle: 0 of signed levels
//! quantize   q = clamp(round_half_even(x / scale) + zero point, qmin, qmax)
//! dequantize x = (q - zero point) * scale
//! ```

use crate::onnx::ElementType;
use serde::{Deserialize, Serialize};

/// Integer levels of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    pub element: ElementType,
    pub min: i32,
    pub max: i32,
}

impl Levels {
    /// Of weights: symmetric about 0, so that -128 is left out at 8 bits. From 2 to 8 bits; all in a byte each.
    pub fn of_weights(bits: u32) -> Self {
        let max = (1 << (bits.clamp(2, 8) - 1)) - 1;
        Self { element: ElementType::I8, min: -max, max }
    }

    /// Of activations of 2 to 8, or 16 bits, signed or not; up to 8 in a byte each.
    pub fn of_activations(bits: u32, signed: bool) -> Self {
        let element = match (bits > 8, signed) {
            (false, false) => ElementType::U8,
            (false, true) => ElementType::I8,
            (true, false) => ElementType::U16,
            (true, true) => ElementType::I16,
        };
        let half = 1 << (bits.clamp(2, 16) - 1);
        if signed { Self { element, min: -half, max: half - 1 } } else { Self { element, min: 0, max: 2 * half - 1 } }
    }

    /// Whether the type has more levels than these: values have to be cut off before they are rounded.
    pub fn is_part(&self) -> bool {
        self.element.range().is_some_and(|(min, max)| i128::from(self.min) > min || i128::from(self.max) < max)
    }
}

/// The smallest and the largest value that are represented.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub lo: f32,
    pub hi: f32,
}

impl Range {
    /// Nothing seen yet.
    pub const EMPTY: Self = Self { lo: f32::INFINITY, hi: f32::NEG_INFINITY };

    pub fn of(values: &[f32]) -> Self {
        values.iter().fold(Self::EMPTY, |range, &value| range.with(value))
    }

    fn with(self, value: f32) -> Self {
        Self { lo: self.lo.min(value), hi: self.hi.max(value) }
    }

    pub fn union(self, other: Self) -> Self {
        Self { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// With 0 in it, and with what was never seen as just that.
    pub fn with_zero(self) -> Self {
        if self.lo > self.hi { Self { lo: 0.0, hi: 0.0 } } else { self.with(0.0) }
    }

    pub fn largest(self) -> f32 {
        self.lo.abs().max(self.hi.abs())
    }
}

/// How one tensor (or one channel of it) is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    pub scale: f32,
    pub zero_point: i32,
    pub levels: Levels,
}

impl Affine {
    /// The whole of the levels for the range; the zero point is rounded, so that 0 has a level of its own.
    pub fn of_range(range: Range, levels: Levels) -> Self {
        let Range { lo, hi } = range.with_zero();
        let exact = (f64::from(hi) - f64::from(lo)) / f64::from(levels.max - levels.min);
        let scale = usable(exact);
        // By the scale before it is a float: a half must not be decided by that rounding.
        let per_level = if scale == exact as f32 { exact } else { f64::from(scale) };
        let zero_point = f64::from(levels.min) - f64::from(lo) / per_level;
        let zero_point = zero_point.round_ties_even().clamp(f64::from(levels.min), f64::from(levels.max));
        Self { scale, zero_point: zero_point as i32, levels }
    }

    /// The zero point in the middle of the levels.
    pub fn symmetric(range: Range, levels: Levels) -> Self {
        let zero_point = if levels.min == 0 { (levels.max + 1) / 2 } else { 0 };
        let scale = usable(f64::from(range.with_zero().largest()) / f64::from(levels.max - zero_point));
        Self { scale, zero_point, levels }
    }

    pub fn quantize(&self, value: f32) -> i32 {
        let level = (value / self.scale).round_ties_even() + self.zero_point as f32;
        // NaN becomes the zero point's neighbour 0 by the cast; data with NaN is refused long before.
        (level.clamp(self.levels.min as f32, self.levels.max as f32)) as i32
    }

    pub fn dequantize(&self, level: i32) -> f32 {
        (level - self.zero_point) as f32 * self.scale
    }

    /// There and back.
    pub fn fake(&self, value: f32) -> f32 {
        self.dequantize(self.quantize(value))
    }

    /// What the lowest and the highest level stand for.
    pub fn range(&self) -> Range {
        Range { lo: self.dequantize(self.levels.min), hi: self.dequantize(self.levels.max) }
    }
}

/// A range of one point has no scale of its own; and one that float cannot hold would divide by zero.
fn usable(scale: f64) -> f32 {
    let scale = scale as f32;
    if scale >= f32::MIN_POSITIVE && scale.is_finite() { scale } else { 1.0 }
}

#[cfg(test)]
#[expect(clippy::approx_constant, reason = "3.14 is the example's own number")]
mod tests {
    use super::*;

    const RANGE: Range = Range { lo: -5.0, hi: 5.0 };

    /// The worked example: [-5, 5] in 256 levels, the scale rounded to 0.039, zero point 0.
    #[test]
    fn the_course_example_with_its_rounded_scale() {
        let levels = Levels { element: ElementType::I8, min: -128, max: 127 };
        let example = Affine { scale: 0.039, zero_point: 0, levels };
        assert_eq!(example.quantize(3.14), 81);
        assert_eq!((example.dequantize(81) * 100.0).round(), 316.0);
    }

    /// And with the exact scale: 10/255 gives 80 (3.14 / 0.0392157 = 80.07), so 3.137.
    #[test]
    fn the_course_example_with_the_exact_scale() {
        let levels = Levels { element: ElementType::I8, min: -128, max: 127 };
        let exact = Affine::of_range(RANGE, levels);
        assert_eq!(exact.scale, 10.0 / 255.0);
        // -128 + 127.5 = -0.5, to even: 0.
        assert_eq!(exact.zero_point, 0);
        assert_eq!(exact.quantize(3.14), 80);
        assert!((exact.dequantize(80) - 3.137_255).abs() < 1e-5);
    }

    #[test]
    fn zero_is_exact_and_scales_are_usable_whatever_the_range() {
        let ranges =
            [(0.0, 0.0), (0.3, 9.0), (-9.0, -0.3), (-1e-44, 1e-44), (-f32::MAX, f32::MAX), (1.0, -1.0), (-3.1, 7.7)];
        for (lo, hi) in ranges {
            for levels in [Levels::of_weights(8), Levels::of_activations(8, false), Levels::of_activations(16, true)] {
                for made in [Affine::of_range(Range { lo, hi }, levels), Affine::symmetric(Range { lo, hi }, levels)] {
                    assert!(made.scale > 0.0 && made.scale.is_finite(), "{lo}..{hi}: {made:?}");
                    assert_eq!(made.fake(0.0), 0.0, "{lo}..{hi}: {made:?}");
                }
            }
        }
    }

    #[test]
    fn no_value_within_the_range_is_further_off_than_half_a_step() {
        for levels in [Levels::of_weights(4), Levels::of_activations(8, false), Levels::of_activations(8, true)] {
            let made = Affine::of_range(Range { lo: -1.3, hi: 4.1 }, levels);
            for i in 0..=1000_u16 {
                let value = -1.3 + 5.4 * f32::from(i) / 1000.0;
                // The zero point is rounded: at the ends another half step is cut off.
                assert!((made.fake(value) - value).abs() <= made.scale * 1.001, "{value}");
            }
        }
    }

    #[test]
    fn levels_are_those_of_the_bits() {
        assert_eq!((Levels::of_weights(8).min, Levels::of_weights(8).max), (-127, 127));
        assert_eq!((Levels::of_weights(4).max, Levels::of_weights(3).max, Levels::of_weights(2).max), (7, 3, 1));
        assert_eq!(Affine::symmetric(RANGE, Levels::of_activations(8, false)).zero_point, 128);
    }
}
