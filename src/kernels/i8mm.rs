#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Armv8.6 `smmla`: two rows by two columns by eight products, exact in 32 bits.
//!
//! Invariant: 16 accumulators, 4 pairs of rows and 8 weights stay in registers.
//! Rows go in pairs; a last row without a partner is its own. `smmla` is written in assembly: its intrinsic is not
//! stable.

use std::arch::aarch64::*;
use std::arch::asm;

use super::gemm::{Call, Tier, by_rows};
use super::pack::Pack;
use super::requant_neon::{End, Place, finish};

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 8 },
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
        4 => i8_gemm_4x16c8_smmla::<2>(call, row),
        3 => i8_gemm_4x16c8_smmla::<2>(call, row),
        2 => i8_gemm_4x16c8_smmla::<1>(call, row),
        1 => i8_gemm_4x16c8_smmla::<1>(call, row),
    );
}

/// `acc[2i + j] += Σ a[8i + k]·w[8j + k]`, k below 8.
macro_rules! smmla {
    ($acc:expr, $a:expr, $w:expr) => {
        asm!(
            "smmla {acc:v}.4s, {a:v}.16b, {w:v}.16b",
            acc = inout(vreg) $acc,
            a = in(vreg) $a,
            w = in(vreg) $w,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

/// One group of eight input channels: 16 columns, all pairs of rows.
macro_rules! group {
    ($acc:ident, $a:expr, $weights:ident) => {{
        for j in 0..8 {
            let w = vld1q_s8($weights.add(j * 16));
            for p in 0..PAIRS {
                smmla!($acc[p][j], $a[p], w);
            }
        }
        $weights = $weights.add(128);
    }};
}

/// # Safety
/// The contract of [`Call`], whose rows from `row` fill `PAIRS` pairs, the last one maybe by half.
#[inline(never)]
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn i8_gemm_4x16c8_smmla<const PAIRS: usize>(call: &Call<'_>, row: usize) {
    let (last, end) = (call.rows - 1, End::new(call.finish));
    // SAFETY: `init` holds 16 values, after `init_stride` for every row; each tap of each row has `groups * 8` readable
    // bytes; the strip has 128 bytes for each tap and group; `last` and all below are the call's rows.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); 8]; PAIRS];
        for (p, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                let init = |r: usize| vld1_s32(call.init.add(r.min(last) * call.init_stride + j * 2));
                *acc = vcombine_s32(init(row + 2 * p), init(row + 2 * p + 1));
            }
        }
        let mut weights = call.weights;
        for tap in 0..call.taps {
            let mut pixels = [[std::ptr::null::<i8>(); 2]; PAIRS];
            for (p, pair) in pixels.iter_mut().enumerate() {
                *pair = [call.pixel(row + 2 * p, tap).cast(), call.pixel((row + 2 * p + 1).min(last), tap).cast()];
            }
            let mut a = [[vdupq_n_s8(0); PAIRS]; 2];
            for _ in 0..call.groups / 2 {
                for p in 0..PAIRS {
                    let rows = [vld1q_s8(pixels[p][0]), vld1q_s8(pixels[p][1])].map(|row| vreinterpretq_s64_s8(row));
                    a[0][p] = vreinterpretq_s8_s64(vzip1q_s64(rows[0], rows[1]));
                    a[1][p] = vreinterpretq_s8_s64(vzip2q_s64(rows[0], rows[1]));
                    pixels[p] = [pixels[p][0].add(16), pixels[p][1].add(16)];
                }
                group!(acc, a[0], weights);
                group!(acc, a[1], weights);
            }
            if call.groups % 2 == 1 {
                for p in 0..PAIRS {
                    a[0][p] = vcombine_s8(vld1_s8(pixels[p][0]), vld1_s8(pixels[p][1]));
                }
                group!(acc, a[0], weights);
            }
        }
        for (p, acc) in acc.into_iter().enumerate() {
            finish_pair(call, &end, row + 2 * p, acc);
        }
    }
}

/// Parts two rows of 16 columns and finishes those that the call has.
///
/// # Safety
/// The contract of [`Call`]; `row` is one of its rows.
/// (Always inlined, or else accumulators go through memory; only functions without own features can be.)
#[inline(always)]
unsafe fn finish_pair(call: &Call<'_>, end: &End, row: usize, acc: [int32x4_t; 8]) {
    // SAFETY: `row` is the call's; the next one is finished only if it is too.
    unsafe {
        let acc = acc.map(|acc| vreinterpretq_s64_s32(acc));
        let upper = |j: usize| vreinterpretq_s32_s64(vzip1q_s64(acc[2 * j], acc[2 * j + 1]));
        let lower = |j: usize| vreinterpretq_s32_s64(vzip2q_s64(acc[2 * j], acc[2 * j + 1]));
        let upper = [[upper(0), upper(1)], [upper(2), upper(3)]];
        if row + 1 < call.rows {
            finish::<2, 2>(
                call,
                end,
                &mut Place::new(call, row, 16),
                [upper, [[lower(0), lower(1)], [lower(2), lower(3)]]],
            );
        } else {
            finish::<1, 2>(call, end, &mut Place::new(call, row, 16), [upper]);
        }
    }
}
