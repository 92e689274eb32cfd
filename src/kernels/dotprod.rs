#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Armv8.2 `sdot`: four products a lane, exact in 32 bits.
//!
//! Invariant: 16 accumulators, 4 rows of activations and 4 weights stay in registers.
//! `sdot` is written in assembly, instruction by instruction: its intrinsic is not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::gemm::{Call, Tier, by_rows};
use super::neon::finish_16;
use super::pack::Pack;

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
    by_rows!(
        call, row,
        4 => i8_gemm_4x16c4_sdot::<4>(call, row),
        3 => i8_gemm_4x16c4_sdot::<3>(call, row),
        2 => i8_gemm_4x16c4_sdot::<2>(call, row),
        1 => i8_gemm_4x16c4_sdot::<1>(call, row),
    );
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

/// One group of four input channels: 16 columns, `MR` rows.
macro_rules! group {
    ($acc:ident, $a:ident, $weights:ident, $lane:literal) => {{
        let w =
            [vld1q_s8($weights), vld1q_s8($weights.add(16)), vld1q_s8($weights.add(32)), vld1q_s8($weights.add(48))];
        for r in 0..MR {
            sdot_lane!($acc[r][0], w[0], $a[r], $lane);
            sdot_lane!($acc[r][1], w[1], $a[r], $lane);
            sdot_lane!($acc[r][2], w[2], $a[r], $lane);
            sdot_lane!($acc[r][3], w[3], $a[r], $lane);
        }
        $weights = $weights.add(64);
    }};
}

/// # Safety
/// The contract of [`Call`], of whose rows are `MR` from `row`.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn i8_gemm_4x16c4_sdot<const MR: usize>(call: &Call<'_>, row: usize) {
    // SAFETY: `init` holds 16 values, after `init_stride` for every row; each tap of each row has `groups * 4` readable
    // bytes; the strip has 64 bytes for each tap and group.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); 4]; MR];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                *acc = vld1q_s32(call.init.add((row + r) * call.init_stride + j * 4));
            }
        }
        let mut weights = call.weights;
        for tap in 0..call.taps {
            let mut pixels = [std::ptr::null::<i8>(); MR];
            for (r, pixel) in pixels.iter_mut().enumerate() {
                *pixel = call.pixel(row + r, tap).cast();
            }
            let mut a = [vdupq_n_s8(0); MR];
            for _ in 0..call.groups / 4 {
                for r in 0..MR {
                    a[r] = vld1q_s8(pixels[r]);
                    pixels[r] = pixels[r].add(16);
                }
                group!(acc, a, weights, 0);
                group!(acc, a, weights, 1);
                group!(acc, a, weights, 2);
                group!(acc, a, weights, 3);
            }
            for _ in 0..call.groups % 4 {
                for r in 0..MR {
                    a[r] = vreinterpretq_s8_s32(vdupq_n_s32(pixels[r].cast::<i32>().read_unaligned()));
                    pixels[r] = pixels[r].add(4);
                }
                group!(acc, a, weights, 0);
            }
        }
        finish_16(call, row, acc);
    }
}
