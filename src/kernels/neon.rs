#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Armv8.0: products of bytes in 16 bits, two at a time, then into 32.
//!
//! Invariant: two products in 16 bits overflow only where both are −128·−128; weights that have two −128 where they
//! would meet take the variant that widens each product by itself.
//! 4 rows by 4 columns and 16 accumulators of 4 partial sums: 58 instructions for 256 products.
//! Rejected: `smlal` by lane (half of the products an instruction), 8x8 (spills).

use std::arch::aarch64::*;

use super::gemm::{Call, Finish, MAX_COLUMNS, Tier, by_rows};
use super::pack::Pack;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 4, kr: 16 },
    strips: 4,
    rows: 4,
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { dispatch::<true>(call) },
    // SAFETY: the same contract.
    settles: false,
    gemm_paired_minimum: Some(|call, _| unsafe { dispatch::<false>(call) }),
};

/// # Safety
/// The contract of [`Call`].
unsafe fn dispatch<const PAIRS: bool>(call: &Call<'_>) {
    by_rows!(
        call, row,
        4 => i8_gemm_4x4c16_neon::<4, PAIRS>(call, row),
        3 => i8_gemm_4x4c16_neon::<3, PAIRS>(call, row),
        2 => i8_gemm_4x4c16_neon::<2, PAIRS>(call, row),
        1 => i8_gemm_4x4c16_neon::<1, PAIRS>(call, row),
    );
}

/// # Safety
/// The contract of [`Call`], of whose rows are `MR` from `row`.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn i8_gemm_4x4c16_neon<const MR: usize, const PAIRS: bool>(call: &Call<'_>, row: usize) {
    // SAFETY: each tap of each row has `groups * 16` readable bytes; each strip has 64 bytes for each tap and group; all
    // strips are the call's.
    unsafe {
        let start = |tap: usize| {
            let mut pixels = [std::ptr::null::<i8>(); MR];
            for (r, pixel) in pixels.iter_mut().enumerate() {
                *pixel = call.pixel(row + r, tap).cast();
            }
            pixels
        };
        let first = start(0);
        let end = End::new(call.finish);
        for strip in 0..call.columns.div_ceil(4) {
            let mut acc = [[vdupq_n_s32(0); 4]; MR];
            let mut weights = call.weights.add(strip * call.strip_bytes);
            macro_rules! group {
                ($pixels:expr, $group:expr, $add:expr) => {{
                    let mut a = [vdupq_n_s8(0); MR];
                    for r in 0..MR {
                        a[r] = vld1q_s8($pixels[r].add($group * 16));
                    }
                    for j in 0..4 {
                        let w = vld1q_s8(weights.add(j * 16));
                        for r in 0..MR {
                            acc[r][j] = $add(acc[r][j], a[r], w);
                        }
                    }
                    weights = weights.add(64);
                }};
            }
            // The first group is what there is to add to.
            group!(first, 0, |_, a, w| products::<PAIRS>(a, w));
            for group in 1..call.groups {
                group!(first, group, |acc, a, w| add_products::<PAIRS>(acc, a, w));
            }
            for tap in 1..call.taps {
                let pixels = start(tap);
                for group in 0..call.groups {
                    group!(pixels, group, |acc, a, w| add_products::<PAIRS>(acc, a, w));
                }
            }
            finish(call, &end, row, strip * 4, acc);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn products<const PAIRS: bool>(a: int8x16_t, w: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(w));
    if PAIRS { vpaddlq_s16(vmlal_high_s8(low, a, w)) } else { vpadalq_s16(vpaddlq_s16(low), vmull_high_s8(a, w)) }
}

#[inline]
#[target_feature(enable = "neon")]
fn add_products<const PAIRS: bool>(acc: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(w));
    if PAIRS {
        vpadalq_s16(acc, vmlal_high_s8(low, a, w))
    } else {
        vpadalq_s16(vpadalq_s16(acc, low), vmull_high_s8(a, w))
    }
}

/// Adds up the partial sums of four columns; requantizes and stores all rows at once, or keeps the sums.
///
/// # Safety
/// The contract of [`Call`]; `MR` rows from `row` are its, and a strip begins at `column`.
/// (Always inlined, or else 16 accumulators go through memory; only functions without own features can be.)
#[inline(always)]
unsafe fn finish<const MR: usize>(call: &Call<'_>, end: &End, row: usize, column: usize, acc: [[int32x4_t; 4]; MR]) {
    // SAFETY: `init` and `multipliers` hold four values for the strip, `accumulators` MAX_COLUMNS for each row; `output`
    // is writable for the call's columns at each row, and no more is stored.
    unsafe {
        let mut sums = [vdupq_n_s32(0); 4];
        let mut inits = [vld1q_s32(call.init.add(row * call.init_stride + column)); MR];
        if call.init_stride != 0 {
            for (r, init) in inits.iter_mut().enumerate() {
                *init = vld1q_s32(call.init.add((row + r) * call.init_stride + column));
            }
        }
        for (r, (acc, init)) in acc.into_iter().zip(inits).enumerate() {
            let pairs = (vpaddq_s32(acc[0], acc[1]), vpaddq_s32(acc[2], acc[3]));
            sums[r] = vaddq_s32(vpaddq_s32(pairs.0, pairs.1), init);
        }
        if !call.accumulators.is_null() {
            for r in 0..MR {
                vst1q_s32(call.accumulators.add((row + r) * MAX_COLUMNS + column), sums[r]);
            }
            return;
        }
        let multipliers = vld1q_f32(call.multipliers.add(column));
        let bytes = quantize_16(end, sums, [multipliers; 4]);
        let (to, count) = (call.output.add(row * call.row_stride + column), call.columns - column);
        let words = vreinterpretq_u32_u8(bytes);
        macro_rules! store_row {
            ($r:literal) => {
                if MR > $r {
                    let to = to.add($r * call.row_stride);
                    if count >= 4 {
                        vst1q_lane_u32::<$r>(to.cast(), words);
                    } else {
                        store(to, count, vextq_u8::<{ 4 * $r }>(bytes, bytes));
                    }
                }
            };
        }
        store_row!(0);
        store_row!(1);
        store_row!(2);
        store_row!(3);
    }
}

/// # Safety
/// There are 16 multipliers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_16(multipliers: *const f32) -> [float32x4_t; 4] {
    // SAFETY: as said.
    unsafe {
        [
            vld1q_f32(multipliers),
            vld1q_f32(multipliers.add(4)),
            vld1q_f32(multipliers.add(8)),
            vld1q_f32(multipliers.add(12)),
        ]
    }
}

/// The constants of a requantization, in every lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    zero_point: int16x8_t,
    lo: int8x16_t,
    hi: int8x16_t,
}

impl End {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn new(finish: &Finish) -> Self {
        Self {
            zero_point: vdupq_n_s16(finish.zero_point),
            lo: vdupq_n_s8(finish.lo.cast_signed()),
            hi: vdupq_n_s8(finish.hi.cast_signed()),
        }
    }
}

/// 16 bytes of output from 16 accumulators. Conversions saturate, so that nothing is clamped before.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn quantize_16(end: &End, acc: [int32x4_t; 4], m: [float32x4_t; 4]) -> uint8x16_t {
    let mut q = acc;
    for j in 0..4 {
        q[j] = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc[j]), m[j]));
    }
    let low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(q[0]), q[1]), end.zero_point);
    let high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(q[2]), q[3]), end.zero_point);
    let bytes = vqmovn_high_s16(vqmovn_s16(low), high);
    vreinterpretq_u8_s8(vminq_s8(vmaxq_s8(bytes, end.lo), end.hi))
}

/// Requantizes and stores rows of 16 columns, or keeps their accumulators.
///
/// # Safety
/// The contract of [`Call`], whose strip is of 16 columns; the rows from `row` are its.
/// (Always inlined, or else accumulators go through memory; only functions without own features can be.)
#[inline(always)]
pub(super) unsafe fn finish_16<const MR: usize>(call: &Call<'_>, row: usize, acc: [[int32x4_t; 4]; MR]) {
    // SAFETY: `accumulators` has MAX_COLUMNS for each row; there is a multiplier for each column of the strip; `output`
    // is writable for the call's columns at each row, and no more is stored.
    unsafe {
        if !call.accumulators.is_null() {
            for (r, acc) in acc.into_iter().enumerate() {
                for (j, acc) in acc.into_iter().enumerate() {
                    vst1q_s32(call.accumulators.add((row + r) * MAX_COLUMNS + j * 4), acc);
                }
            }
            return;
        }
        let (end, multipliers) = (End::new(call.finish), load_16(call.multipliers));
        let mut to = call.output.add(row * call.row_stride);
        if call.columns >= 16 {
            for acc in acc {
                vst1q_u8(to, quantize_16(&end, acc, multipliers));
                to = to.wrapping_add(call.row_stride);
            }
        } else {
            for acc in acc {
                store(to, call.columns, quantize_16(&end, acc, multipliers));
                to = to.wrapping_add(call.row_stride);
            }
        }
    }
}

/// Stores the first bytes, without a call that would make the caller save its registers.
///
/// # Safety
/// `to` is writable for `count` bytes, of which at most 16 are stored.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store(mut to: *mut u8, count: usize, bytes: uint8x16_t) {
    // SAFETY: the powers of two stored add up to `count`.
    unsafe {
        if count >= 16 {
            return vst1q_u8(to, bytes);
        }
        let mut rest = bytes;
        if count & 8 != 0 {
            vst1_u8(to, vget_low_u8(rest));
            (to, rest) = (to.add(8), vextq_u8::<8>(rest, rest));
        }
        if count & 4 != 0 {
            to.cast::<u32>().write_unaligned(vgetq_lane_u32::<0>(vreinterpretq_u32_u8(rest)));
            (to, rest) = (to.add(4), vextq_u8::<4>(rest, rest));
        }
        if count & 2 != 0 {
            to.cast::<u16>().write_unaligned(vgetq_lane_u16::<0>(vreinterpretq_u16_u8(rest)));
            (to, rest) = (to.add(2), vextq_u8::<2>(rest, rest));
        }
        if count & 1 != 0 {
            *to = vgetq_lane_u8::<0>(rest);
        }
    }
}
