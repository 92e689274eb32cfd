//! Functions of float tensors: f32 arithmetic alone, quick in vectors, with the same bits on every architecture.
//!
//! Invariant: within 5·10⁻⁷ of the function, Gelu within 15·10⁻⁷, relative where it is above 1 (`tests` below hold each
//! against f64). Nothing
//! is fused, and no platform's library is asked. Tables of int8 values are made of [`Unary::of`], which is exact.
//! Polynomials and quotients are least-squares fits on Chebyshev nodes, weighted for the relative error; the exponential is taken
//! at the distance from the nearest multiple of ln 2 (Cody and Waite, Software Manual for the Elementary Functions).

use super::function::Unary;
use crate::kernels::{Isa, Loops, vectorized};

/// Adding and taking it away again rounds to integers, half to even: there are no bits behind the point.
const ROUND: f32 = 12_582_912.0;

/// The value of a polynomial, lowest coefficient first.
macro_rules! polynomial {
    ($x:expr, [$last:expr] $(,)?) => { $last };
    ($x:expr, [$first:expr, $($rest:expr),+] $(,)?) => { polynomial!($x, [$($rest),+]) * $x + $first };
}

#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Beyond, the result is 0 or infinite. What is not a number stays so.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let q = polynomial!(r, [0.499_999_94, 0.166_665_2, 0.041_668_396, 0.008_368_797, 0.001_381_443_1]);
    // In two steps: neither overflows before the result does.
    let half = (n * 0.5 + ROUND) - ROUND;
    (1.0 + r + r * r * q) * power_of_two(half) * power_of_two(n - half)
}

/// 2ⁿ for integers from −126 to 127.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    // The integer stands in the last bits of the sum.
    f32::from_bits(((n + (ROUND + 127.0)).to_bits()) << 23)
}

/// Without a branch, which would keep the loop from vectors.
#[inline(always)]
fn choose(first: bool, a: f32, b: f32) -> f32 {
    let mask = u32::from(first).wrapping_neg();
    f32::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
}

#[inline(always)]
fn erf(x: f32) -> f32 {
    // Beyond, it is 1.
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let y = x * x;
    let above = polynomial!(
        y,
        [std::f32::consts::FRAC_2_SQRT_PI, 0.193_540_1, 0.053_100_9, 0.003_883_074, 2.845_508e-4, 1.986_708_4e-6]
    );
    let below = polynomial!(y, [1.0, 0.504_853, 0.115_347_78, 0.015_206_723, 0.001_185_488_4, 3.741_860_2e-5]);
    x * above / below
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let (a, y) = (x.abs(), x * x);
    let near = polynomial!(y, [1.0, -0.333_331_32, 0.133_284_17, -0.053_526_11, 0.020_024_667, -0.005_088_491_4]);
    let far = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    choose(a >= 0.625, far, x * near)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // sqrt(2 / pi)
    let inner = 0.797_884_6 * (x + 0.044_715 * (x * x * x));
    0.5 * x * (1.0 + tanh(inner))
}

/// The function of each value. What has no approximation here is computed as for tables.
pub fn apply(isa: Isa, function: Unary, from: &[f32], to: &mut [f32]) {
    vectorized(isa, Apply { function, from, to });
}

/// The same in place.
pub fn apply_in_place(isa: Isa, function: Unary, values: &mut [f32]) {
    vectorized(isa, InPlace { function, values });
}

struct InPlace<'a> {
    function: Unary,
    values: &'a mut [f32],
}

/// Values of which a copy stays in registers.
const COPY: usize = 64;

impl Loops for InPlace<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { function, values } = self;
        let (chunks, rest) = values.as_chunks_mut::<COPY>();
        for chunk in chunks {
            let from = *chunk;
            apply_here(function, &from, chunk);
        }
        let mut from = [0.0; COPY];
        from[..rest.len()].copy_from_slice(rest);
        apply_here(function, &from[..rest.len()], rest);
    }
}

struct Apply<'a> {
    function: Unary,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Loops for Apply<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { function, from, to } = self;
        apply_here(function, from, to);
    }
}

#[inline(always)]
fn apply_here(function: Unary, from: &[f32], to: &mut [f32]) {
    macro_rules! quick {
        ($of:expr) => {{
            let of = $of;
            to.iter_mut().zip(from).for_each(|(to, &x)| *to = of(x));
        }};
    }
    match function {
        Unary::Relu => quick!(|x: f32| x.max(0.0)),
        Unary::HardSigmoid { alpha, beta } => quick!(|x: f32| (x * alpha + beta).clamp(0.0, 1.0)),
        Unary::HardSwish => quick!(|x: f32| x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0)),
        Unary::Sqrt => quick!(f32::sqrt),
        Unary::Neg => quick!(|x: f32| -x),
        Unary::Abs => quick!(f32::abs),
        Unary::Reciprocal => quick!(|x: f32| 1.0 / x),
        Unary::Clip { low, high } => quick!(|x: f32| x.max(low).min(high)),
        Unary::LeakyRelu { alpha } => quick!(|x: f32| if x < 0.0 { x * alpha } else { x }),
        Unary::Exp => quick!(exp),
        Unary::Erf => quick!(erf),
        Unary::Tanh => quick!(tanh),
        Unary::Sigmoid => quick!(sigmoid),
        Unary::Swish { alpha } => quick!(|x: f32| x * sigmoid(alpha * x)),
        Unary::Gelu => quick!(|x: f32| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        Unary::GeluTanh => quick!(gelu_tanh),
        Unary::Elu { .. }
        | Unary::Celu { .. }
        | Unary::Selu { .. }
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Mish
        | Unary::Log
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Sign
        | Unary::Sin
        | Unary::Cos
        | Unary::Identity => quick!(|x| function.of(x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 1,009th float, so that all exponents are there, and the neighbourhood of where pieces meet.
    fn numbers() -> impl Iterator<Item = f32> {
        let all = (0..=u32::MAX).step_by(10_009).map(f32::from_bits).filter(|x| x.is_finite());
        let dense = (-200_000..200_000).map(|i| i as f32 / 10_000.0);
        all.chain(dense).chain([0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE])
    }

    #[test]
    fn approximations_are_next_to_their_functions() {
        let functions = [
            Unary::Exp,
            Unary::Erf,
            Unary::Tanh,
            Unary::Sigmoid,
            Unary::Swish { alpha: 1.0 },
            Unary::Gelu,
            Unary::GeluTanh,
            Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Unary::HardSwish,
        ];
        for function in functions {
            let x: Vec<f32> = numbers().collect();
            let mut found = vec![0.0; x.len()];
            apply(Isa::best(), function, &x, &mut found);
            let mut plain = vec![0.0; x.len()];
            apply(Isa::Scalar, function, &x, &mut plain);
            assert!(found.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()), "{function:?} by vectors");
            let mut worst = (0.0, 0.0, 0.0, 0.0);
            for (&x, &found) in x.iter().zip(&found) {
                let wanted = function.of(x);
                let error = f64::from((found - wanted).abs()) / f64::from(wanted.abs()).max(1.0);
                let same = found.to_bits() == wanted.to_bits() || (found.is_nan() && wanted.is_nan());
                if !same && (error > worst.0 || error.is_nan()) {
                    worst = (error, x, found, wanted);
                }
            }
            // Gelu multiplies the error of erf by its argument, before both are small.
            let most = if function == Unary::Gelu { 1.5e-6 } else { 5e-7 };
            assert!(worst.0 < most, "{function:?} of {:e} is {:e}, not {:e}: {:e}", worst.1, worst.2, worst.3, worst.0);
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_infinities_have_their_limits() {
        let of = |function: Unary, x: f32| {
            let mut to = [0.0];
            apply(Isa::best(), function, &[x], &mut to);
            to[0]
        };
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for function in [Unary::Exp, Unary::Erf, Unary::Tanh, Unary::Sigmoid, Unary::Gelu] {
            assert!(of(function, nan).is_nan(), "{function:?}");
        }
        assert_eq!([of(Unary::Exp, inf), of(Unary::Exp, -inf)], [inf, 0.0]);
        let ends = [of(Unary::Erf, inf), of(Unary::Erf, -inf)];
        assert!((ends[0] - 1.0).abs() < 5e-7 && ends[1] == -ends[0], "{ends:?}");
        assert_eq!([of(Unary::Tanh, inf), of(Unary::Tanh, -inf)], [1.0, -1.0]);
        assert_eq!([of(Unary::Sigmoid, inf), of(Unary::Sigmoid, -inf)], [1.0, 0.0]);
    }
}
