#![allow(unsafe_code, reason = "vectors out of an array")]
//! Lanes of partial sums, or of partial maxima, to one value: in halves, on every architecture alike.
//!
//! By vectors of 128 bits where they are at hand: left to itself the compiler takes lanes apart one by one, and with them
//! the loops before.

/// Lanes that [`join`] takes.
pub const LANES: usize = 32;

/// What two lanes become.
pub trait Pair {
    fn of(a: f32, b: f32) -> f32;

    #[cfg(target_arch = "x86_64")]
    fn of_four(a: __m128, b: __m128) -> __m128;
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// `a + b`
#[derive(Debug)]
pub struct Sum;

/// The greater; the first where either is not a number.
#[derive(Debug)]
pub struct Greater;

impl Pair for Sum {
    #[inline(always)]
    fn of(a: f32, b: f32) -> f32 {
        a + b
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn of_four(a: __m128, b: __m128) -> __m128 {
        // SAFETY: every CPU of this architecture has it.
        unsafe { _mm_add_ps(a, b) }
    }
}

impl Pair for Greater {
    #[inline(always)]
    fn of(a: f32, b: f32) -> f32 {
        if b > a { b } else { a }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn of_four(a: __m128, b: __m128) -> __m128 {
        // SAFETY: every CPU of this architecture has it. It gives the second where the first is not greater.
        unsafe { _mm_max_ps(b, a) }
    }
}

/// Lane i with lane i + 16, then with lane i + 8, and so on.
#[inline(always)]
pub fn join<P: Pair>(lanes: &[f32; LANES]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every CPU of this architecture has the instructions; each load is of four lanes.
        unsafe {
            let at = |i: usize| _mm_loadu_ps(lanes.as_ptr().add(i * 4));
            let half = |i: usize| P::of_four(at(i), at(i + 4));
            let quarter = |i: usize| P::of_four(half(i), half(i + 2));
            let four = P::of_four(quarter(0), quarter(1));
            let two = P::of_four(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(P::of_four(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let mut lanes = *lanes;
        // By constants, so that each half is a vector.
        macro_rules! halve {
            ($($half:literal)*) => {$(
                for i in 0..$half {
                    lanes[i] = P::of(lanes[i], lanes[i + $half]);
                }
            )*};
        }
        halve!(16 8 4 2 1);
        lanes[0]
    }
}
