//! Functions of rows of floats: Softmax, LayerNormalization, averages of what lies innermost.
//!
//! Invariant: the same bits on every architecture. Sums go by [`LANES`] partial ones, value i to number i modulo LANES,
//! which are then added in halves; nothing is fused, and the exponential is that of [`approximate`].

use super::approximate::exp;
use crate::kernels::{Greater, Isa, LANES, Loops, Pair, Sum, join, vectorized};
use std::sync::Arc;

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowFunction {
    /// `exp(x − max) · (1 / Σ exp(x − max))`
    Softmax,
    /// One value a row.
    Mean,
    LayerNorm(LayerNorm),
}

/// `(x − mean) · (1 / sqrt(variance + epsilon)) · scale + bias`, rounded after each.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    pub epsilon: f32,
    /// One for each value of a row; either may be empty, for none.
    pub scale: Arc<[f32]>,
    pub bias: Arc<[f32]>,
}

impl RowFunction {
    /// Values that a row of so many becomes.
    pub fn made(&self, width: usize) -> usize {
        match self {
            Self::Softmax | Self::LayerNorm(_) => width,
            Self::Mean => 1,
        }
    }
}

/// Row after row of `width` values, by the vectors of `isa`.
pub fn apply(isa: Isa, function: &RowFunction, width: usize, from: &[f32], to: &mut [f32]) {
    vectorized(isa, Apply { function, width, from, to });
}

struct Apply<'a> {
    function: &'a RowFunction,
    width: usize,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Loops for Apply<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { function, width, from, to } = self;
        let rows = from.chunks_exact(width.max(1)).zip(to.chunks_exact_mut(function.made(width).max(1)));
        match function {
            RowFunction::Softmax => {
                for (from, to) in rows {
                    softmax(from, to);
                }
            }
            RowFunction::Mean => {
                for (from, to) in rows {
                    to[0] = mean(from);
                }
            }
            RowFunction::LayerNorm(norm) => {
                for (from, to) in rows {
                    normalize(norm, from, to);
                }
            }
        }
    }
}

/// Joins values lane by lane, then the lanes. (Written as loops: what a closure of `for_each` does is not always
/// compiled into its caller, and so not for the caller's instructions.)
#[inline(always)]
fn gather<P: Pair>(values: &[f32], start: f32, of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = of(lanes[i], chunk[i]);
        }
    }
    for (i, &value) in rest.iter().enumerate() {
        lanes[i] = of(lanes[i], value);
    }
    join::<P>(&lanes)
}

#[inline(always)]
fn mean(row: &[f32]) -> f32 {
    gather::<Sum>(row, 0.0, Sum::of) / row.len() as f32
}

#[inline(always)]
fn softmax(from: &[f32], to: &mut [f32]) {
    let largest = gather::<Greater>(from, f32::NEG_INFINITY, Greater::of);
    for (to, &x) in to.iter_mut().zip(from) {
        *to = exp(x - largest);
    }
    let part = 1.0 / gather::<Sum>(to, 0.0, Sum::of);
    for to in to.iter_mut() {
        *to *= part;
    }
}

#[inline(always)]
fn normalize(norm: &LayerNorm, from: &[f32], to: &mut [f32]) {
    let mean = mean(from);
    let square = |sum: f32, x: f32| sum + (x - mean) * (x - mean);
    let variance = gather::<Sum>(from, 0.0, square) / from.len() as f32;
    let ratio = 1.0 / (variance + norm.epsilon).sqrt();
    // In one pass where there are both, as there mostly are.
    if norm.scale.len() == from.len() && norm.bias.len() == from.len() {
        for (((to, &x), &scale), &bias) in to.iter_mut().zip(from).zip(&*norm.scale).zip(&*norm.bias) {
            *to = (x - mean) * ratio * scale + bias;
        }
        return;
    }
    for (to, &x) in to.iter_mut().zip(from) {
        *to = (x - mean) * ratio;
    }
    for (to, &scale) in to.iter_mut().zip(&*norm.scale) {
        *to *= scale;
    }
    for (to, &bias) in to.iter_mut().zip(&*norm.bias) {
        *to += bias;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of every width up to 100, and one of 1,000.
    fn rows() -> impl Iterator<Item = Vec<f32>> {
        let value = |width: usize| move |i: usize| ((i * 37 + width * 11) % 101) as f32 / 7.0 - 6.0;
        (1..=100).chain([1_000]).map(move |width| (0..3 * width).map(value(width)).collect())
    }

    fn norm(width: usize) -> LayerNorm {
        let each = |by: f32| (0..width).map(|i| 0.5 + i as f32 * by).collect();
        LayerNorm { epsilon: 1e-5, scale: each(0.01), bias: each(-0.02) }
    }

    /// By f64.
    fn expected(function: &RowFunction, row: &[f32]) -> Vec<f64> {
        let wide: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mean = wide.iter().sum::<f64>() / wide.len() as f64;
        match function {
            RowFunction::Mean => vec![mean],
            RowFunction::Softmax => {
                let largest = wide.iter().copied().fold(f64::MIN, f64::max);
                let powers: Vec<f64> = wide.iter().map(|x| (x - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.iter().map(|power| power / sum).collect()
            }
            RowFunction::LayerNorm(norm) => {
                let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / wide.len() as f64;
                let ratio = 1.0 / (variance + f64::from(norm.epsilon)).sqrt();
                let each = wide.iter().zip(&*norm.scale).zip(&*norm.bias);
                each.map(|((x, &scale), &bias)| (x - mean) * ratio * f64::from(scale) + f64::from(bias)).collect()
            }
        }
    }

    #[test]
    fn rows_are_next_to_what_f64_gives_and_alike_on_all_tiers() {
        for from in rows() {
            let width = from.len() / 3;
            for function in [RowFunction::Softmax, RowFunction::Mean, RowFunction::LayerNorm(norm(width))] {
                let made = function.made(width);
                let mut plain = vec![0.0; 3 * made];
                apply(Isa::Scalar, &function, width, &from, &mut plain);
                for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                    let mut found = vec![0.0; 3 * made];
                    apply(isa, &function, width, &from, &mut found);
                    assert!(plain.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa} {function:?}");
                }
                for (row, found) in from.chunks_exact(width).zip(plain.chunks_exact(made)) {
                    for (wanted, &found) in expected(&function, row).iter().zip(found) {
                        let error = (f64::from(found) - wanted).abs() / wanted.abs().max(1.0);
                        assert!(error < 2e-6, "{function:?} of {width}: {found} where {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_masked_counts_for_nothing_and_what_is_no_number_stays_so() {
        let of = |from: [f32; 3]| {
            let mut to = [0.0; 3];
            apply(Isa::best(), &RowFunction::Softmax, 3, &from, &mut to);
            to
        };
        assert_eq!(of([f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY]), [0.0, 1.0, 0.0]);
        assert!(of([0.0, f32::NAN, 1.0]).iter().all(|x| x.is_nan()));
        assert!(of([f32::NEG_INFINITY; 3]).iter().all(|x| x.is_nan()));
    }
}
