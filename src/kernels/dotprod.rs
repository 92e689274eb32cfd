#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Armv8.2 `sdot`: four products a lane, exact in 32 bits.
//!
//! Invariant: 16 accumulators, 4 rows of activations and 4 weights stay in registers.
//! `sdot` is written in assembly, instruction by instruction: its intrinsic is not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::gemm::{Call, Tier};
use super::pack::Pack;
use super::requant_neon::{End, Place, finish, next_weights};

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 4 },
    strips: 1,
    rows: 4,
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { dispatch(call) },
    settles: false,
    gemm_paired_minimum: None,
};

/// # Safety
/// The contract of [`Call`].
unsafe fn dispatch(call: &Call<'_>) {
    // SAFETY: the same contract; as many vectors of eight columns as the call has.
    unsafe { if call.columns > 8 { rows::<2>(call) } else { rows::<1>(call) } }
}

/// # Safety
/// The contract of [`Call`], of `V` vectors of columns.
unsafe fn rows<const V: usize>(call: &Call<'_>) {
    let whole = call.rows / 4;
    // SAFETY: tiles of four rows, and then one of what is left, are the call's.
    unsafe {
        if whole > 0 && call.offsets.is_null() {
            i8_gemm_4x16c4_sdot::<4, V, true>(call, 0, whole);
        } else if whole > 0 {
            i8_gemm_4x16c4_sdot::<4, V, false>(call, 0, whole);
        }
        match call.rows % 4 {
            0 => {}
            1 => i8_gemm_4x16c4_sdot::<1, V, false>(call, whole * 4, 1),
            2 => i8_gemm_4x16c4_sdot::<2, V, false>(call, whole * 4, 1),
            _ => i8_gemm_4x16c4_sdot::<3, V, false>(call, whole * 4, 1),
        }
    }
}

/// `acc[i] += Σ w[4i + k]·a[4·lane + k]`, k below 4.
macro_rules! sdot_lane {
    ($acc:expr, $w:expr, $a:expr, $lane:literal) => {
        asm!(
            concat!("sdot {acc:v}.4s, {w:v}.16b, {a:v}.4b[", $lane, "]"),
            acc = inout(vreg) $acc,
            w = in(vreg) $w,
            a = in(vreg) $a,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

/// One group of four input channels: `V` times eight columns of a strip of 16, `MR` rows.
macro_rules! group {
    ($acc:ident, $a:ident, $weights:ident, $lane:literal, $registers:ident) => {{
        let w = next_weights!($registers, $weights);
        for r in 0..MR {
            sdot_lane!($acc[r][0][0], w[0], $a[r], $lane);
            sdot_lane!($acc[r][0][1], w[1], $a[r], $lane);
            if V > 1 {
                sdot_lane!($acc[r][V - 1][0], w[2], $a[r], $lane);
                sdot_lane!($acc[r][V - 1][1], w[3], $a[r], $lane);
            }
        }
    }};
}

/// Four groups, two, or the last one: as many as a load of each row holds.
macro_rules! groups {
    (4, $acc:ident, $pixels:ident, $weights:ident) => {{
        let mut a = [vdupq_n_s8(0); MR];
        for r in 0..MR {
            a[r] = vld1q_s8($pixels[r]);
            $pixels[r] = $pixels[r].add(16);
        }
        group!($acc, a, $weights, 0, even);
        group!($acc, a, $weights, 1, odd);
        group!($acc, a, $weights, 2, even);
        group!($acc, a, $weights, 3, odd);
    }};
    (2, $acc:ident, $pixels:ident, $weights:ident) => {{
        let mut a = [vdupq_n_s8(0); MR];
        for r in 0..MR {
            // Without an intrinsic, which would make sure of the upper half, too.
            asm!("ldr {a:d}, [{from}], #8", a = out(vreg) a[r], from = inout(reg) $pixels[r],
                options(pure, readonly, nostack, preserves_flags));
        }
        group!($acc, a, $weights, 0, even);
        group!($acc, a, $weights, 1, odd);
    }};
    (1, $acc:ident, $pixels:ident, $weights:ident) => {{
        let mut a = [vdupq_n_s8(0); MR];
        for r in 0..MR {
            a[r] = vreinterpretq_s8_s32(vdupq_n_s32($pixels[r].cast::<i32>().read_unaligned()));
        }
        group!($acc, a, $weights, 0, even);
    }};
}

/// Tiles of `MR` rows by `V` times eight columns. `DIRECT` where it is known that rows go without a map.
///
/// # Safety
/// The contract of [`Call`], of whose rows are `tiles * MR` from `row`.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn i8_gemm_4x16c4_sdot<const MR: usize, const V: usize, const DIRECT: bool>(
    call: &Call<'_>,
    row: usize,
    tiles: usize,
) {
    let (end, mut place) = (End::new(call.finish), Place::new(call, row, V * 8));
    // SAFETY: the rows are the call's; each tap of each has `groups * 4` readable bytes; the strip has 64 bytes for each
    // tap and group.
    unsafe {
        for _ in 0..tiles {
            let mut acc = place.sums::<MR, V>(call);
            let mut weights = call.weights;
            for tap in 0..if DIRECT { 1 } else { call.taps } {
                let mut pixels = place.pixels::<MR, DIRECT>(call, tap);
                for _ in 0..call.groups / 4 {
                    groups!(4, acc, pixels, weights);
                }
                if call.groups & 2 != 0 {
                    groups!(2, acc, pixels, weights);
                }
                if call.groups & 1 != 0 {
                    groups!(1, acc, pixels, weights);
                }
            }
            finish::<MR, V>(call, &end, &mut place, acc);
        }
    }
}
