#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Depthwise convolutions for Armv8.0: 16 channels, products of two taps in 16 bits, then into 32.
//!
//! Invariant: as for products, two −128·−128 never meet in 16 bits: such weights take taps one by one.

use std::arch::aarch64::*;
use std::arch::asm;

use super::depthwise::{Block, DepthwiseTier, General, Grouping, Line};
use super::requant_neon::{End, load_16, quantize_16, store};

pub(super) static TIER: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Single,
    lanes: &[1],
    // SAFETY: the same contract.
    general: |call, _| unsafe { i8_depthwise_16c_neon::<true>(call) },
    // SAFETY: the same contract.
    line_3x3: Some(|call| unsafe { i8_depthwise_3x3_16c_neon(call) }),
    // SAFETY: the same contract.
    line_5x5: None,
    paired_minimum: Some(|call, _| unsafe { i8_depthwise_16c_neon::<false>(call) }),
};

/// # Safety
/// The contract of [`General`].
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn i8_depthwise_16c_neon<const PAIRS: bool>(call: &General<'_>) {
    let block = &call.block;
    let end = End::new(block.finish);
    for pixel in 0..block.pixels {
        // SAFETY: pixel and taps are the call's; each tap has 16 readable bytes and 16 weights.
        unsafe {
            let mut acc = load_bias(block);
            let load = |tap: usize| (vld1q_s8(call.pixel(pixel, tap).cast()), vld1q_s8(block.weights.add(tap * 16)));
            let mut tap = 0;
            while tap < block.groups {
                let (a, w) = load(tap);
                if PAIRS && tap + 1 < block.groups {
                    acc = add_two(acc, (a, w), load(tap + 1));
                    tap += 2;
                } else {
                    acc = add_one(acc, a, w);
                    tap += 1;
                }
            }
            store_16(block, &end, pixel, acc);
        }
    }
}

/// Weights stay in nine registers.
///
/// # Safety
/// The contract of [`Line`] for windows of 3x3.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn i8_depthwise_3x3_16c_neon(call: &Line<'_>) {
    let block = &call.block;
    // SAFETY: nine taps of 16 weights; each tap of each pixel has 16 readable bytes.
    unsafe {
        let mut w = [vdupq_n_s8(0); 9];
        for (tap, w) in w.iter_mut().enumerate() {
            *w = vld1q_s8(block.weights.add(tap * 16));
        }
        let bias = load_bias(block);
        let end = End::new(block.finish);
        let mut column = call.first;
        let mut rows: [*const u8; 3] =
            std::array::from_fn(|y| call.rows[y].wrapping_add(column.wrapping_mul(call.steps[y])));
        for pixel in 0..block.pixels {
            let acc = if column < call.width.saturating_sub(2) {
                window(bias, &w, |y, x| rows[y].wrapping_add(x * call.steps[y]))
            } else {
                // A column at least is outside of the image.
                window(bias, &w, |y, x| {
                    let inside = column.wrapping_add(x) < call.width;
                    if inside { rows[y].wrapping_add(x * call.steps[y]) } else { call.padding }
                })
            };
            store_16(block, &end, pixel, acc);
            column = column.wrapping_add(call.stride);
            for y in 0..3 {
                rows[y] = rows[y].wrapping_add(call.steps[y] * call.stride);
            }
        }
    }
}

/// The sums of one window.
///
/// # Safety
/// `at` gives where 16 bytes of each row and column are.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn window(bias: [int32x4_t; 4], w: &[int8x16_t; 9], at: impl Fn(usize, usize) -> *const u8) -> [int32x4_t; 4] {
    // SAFETY: by the contract.
    let load = |tap: usize| unsafe { (vld1q_s8(at(tap / 3, tap % 3).cast()), w[tap]) };
    let mut acc = add_two(bias, load(0), load(1));
    acc = add_two(acc, load(2), load(3));
    acc = add_two(acc, load(4), load(5));
    acc = add_two(acc, load(6), load(7));
    let (a, w) = load(8);
    add_one(acc, a, w)
}

/// # Safety
/// The contract of [`Block`], of one lane.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_bias(block: &Block<'_>) -> [int32x4_t; 4] {
    // SAFETY: 16 values.
    unsafe {
        [
            vld1q_s32(block.bias),
            vld1q_s32(block.bias.add(4)),
            vld1q_s32(block.bias.add(8)),
            vld1q_s32(block.bias.add(12)),
        ]
    }
}

/// The upper halves' products. In assembly: the compiler takes the halves of resident weights out of the loop, and then
/// has to part every activation too.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_high(a: int8x16_t, w: int8x16_t) -> int16x8_t {
    let product;
    // SAFETY: registers alone.
    unsafe {
        asm!("smull2 {p:v}.8h, {a:v}.16b, {w:v}.16b", p = out(vreg) product, a = in(vreg) a, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    product
}

/// The upper halves' products, added.
#[inline]
#[target_feature(enable = "neon")]
fn add_high(mut sum: int16x8_t, a: int8x16_t, w: int8x16_t) -> int16x8_t {
    // SAFETY: registers alone.
    unsafe {
        asm!("smlal2 {p:v}.8h, {a:v}.16b, {w:v}.16b", p = inout(vreg) sum, a = in(vreg) a, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

#[inline]
#[target_feature(enable = "neon")]
fn add_two(acc: [int32x4_t; 4], one: (int8x16_t, int8x16_t), two: (int8x16_t, int8x16_t)) -> [int32x4_t; 4] {
    let low = vmull_s8(vget_low_s8(one.0), vget_low_s8(one.1));
    let low = vmlal_s8(low, vget_low_s8(two.0), vget_low_s8(two.1));
    widen(acc, low, add_high(multiply_high(one.0, one.1), two.0, two.1))
}

#[inline]
#[target_feature(enable = "neon")]
fn add_one(acc: [int32x4_t; 4], a: int8x16_t, w: int8x16_t) -> [int32x4_t; 4] {
    widen(acc, vmull_s8(vget_low_s8(a), vget_low_s8(w)), multiply_high(a, w))
}

#[inline]
#[target_feature(enable = "neon")]
fn widen(acc: [int32x4_t; 4], low: int16x8_t, high: int16x8_t) -> [int32x4_t; 4] {
    [
        vaddw_s16(acc[0], vget_low_s16(low)),
        vaddw_high_s16(acc[1], low),
        vaddw_s16(acc[2], vget_low_s16(high)),
        vaddw_high_s16(acc[3], high),
    ]
}

/// # Safety
/// The contract of [`Block`], of one lane; `pixel` is one of its pixels.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store_16(block: &Block<'_>, end: &End, pixel: usize, acc: [int32x4_t; 4]) {
    // SAFETY: 16 multipliers; `output` is writable for `channels` bytes at each pixel, and no more is stored.
    unsafe {
        let bytes = quantize_16::<false>(end, acc, load_16(block.multipliers));
        store(block.output.add(pixel * block.row_stride), block.channels, bytes);
    }
}
