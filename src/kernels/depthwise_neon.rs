#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Depthwise convolutions for Armv8.0: 16 channels, products of two taps in 16 bits, then into 32.
//!
//! Invariant: as for products, two −128·−128 never meet in 16 bits: such weights take taps one by one.

use std::arch::aarch64::*;
use std::arch::asm;

use super::depthwise::{Block, DepthwiseTier, General, Grouping, Line};
use super::requant_neon::{End, load_16, quantize_16, quantize_plain, store};

pub(super) static TIER: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Single,
    lanes: &[1],
    // SAFETY: the same contract.
    general: |call, _| unsafe { i8_depthwise_16c_neon::<true>(call) },
    // SAFETY: the same contract.
    line_3x3: Some(|call| unsafe { line::<3>(call) }),
    // SAFETY: the same contract.
    line_5x5: Some(|call| unsafe { line::<5>(call) }),
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

/// # Safety
/// The contract of [`Line`] for windows of that side.
unsafe fn line<const SIDE: usize>(call: &Line<'_>) {
    // SAFETY: the same contract.
    unsafe {
        match (call.stride, is_plain(&call.block)) {
            (1, false) => i8_depthwise_line_16c_neon::<SIDE, 1, false>(call),
            (1, true) => i8_depthwise_line_16c_neon::<SIDE, 1, true>(call),
            (_, false) => i8_depthwise_line_16c_neon::<SIDE, 2, false>(call),
            (_, true) => i8_depthwise_line_16c_neon::<SIDE, 2, true>(call),
        }
    }
}

/// Loads so many columns of a row, from where `$at` says.
macro_rules! columns {
    ($count:expr, $at:expr) => {{
        let at = $at;
        let load = |x: usize| if x < $count { vld1q_s8(at(x).cast()) } else { vdupq_n_s8(0) };
        [load(0), load(1), load(2), load(3), load(4), load(5), load(6)]
    }};
}

/// Where the next window of a line is: its first column in each row, and where its pixel goes.
struct Position<const SIDE: usize> {
    rows: [*const u8; SIDE],
    column: usize,
    to: *mut u8,
}

impl<const SIDE: usize> Position<SIDE> {
    #[inline(always)]
    fn new(call: &Line<'_>) -> Self {
        let mut start = Self { rows: [call.padding; SIDE], column: call.first, to: call.block.output };
        for y in 0..SIDE {
            start.rows[y] = call.rows[y].wrapping_add(call.first.wrapping_mul(call.steps[y]));
        }
        start
    }

    #[inline(always)]
    fn advance(&mut self, call: &Line<'_>, pixels: usize, stride: usize) {
        self.to = self.to.wrapping_add(pixels * call.block.row_stride);
        self.column = self.column.wrapping_add(pixels * stride);
        for y in 0..SIDE {
            self.rows[y] = self.rows[y].wrapping_add(call.steps[y] * stride * pixels);
        }
    }
}

/// Two windows at once where both are inside of the image, so that what they have in common is read once.
///
/// # Safety
/// The contract of [`Line`] for windows of that side and stride; `PLAIN` as [`is_plain`] has it.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn i8_depthwise_line_16c_neon<const SIDE: usize, const STRIDE: usize, const PLAIN: bool>(call: &Line<'_>) {
    let block = &call.block;
    let (mut left, mut at) = (block.pixels, Position::<SIDE>::new(call));
    // SAFETY: as many weights as the window has taps, 16 of each; each tap of each pixel has 16 readable bytes.
    unsafe {
        // Kept in registers, nine of them would leave too few for two windows.
        let w = |slot: usize| vld1q_s8(block.weights.add(slot * 16));
        let (bias, end) = (load_bias(block), End::new(block.finish));
        while left > 0 {
            let here = |y: usize, x: usize| at.rows[y].wrapping_add(x * call.steps[y]);
            if left > 1 && at.column < call.width.saturating_sub(SIDE - 1 + STRIDE) {
                let row = |y: usize| columns!(SIDE + STRIDE, |x: usize| here(y, x));
                let [one, two] = windows::<SIDE, STRIDE, 2>(bias, w, row);
                let m = load_16(block.multipliers);
                store_bytes::<PLAIN>(block, &end, m, at.to, one);
                store_bytes::<PLAIN>(block, &end, m, at.to.wrapping_add(block.row_stride), two);
                at.advance(call, 2, STRIDE);
                left -= 2;
            } else {
                let is_inside = |x: usize| at.column.wrapping_add(x) < call.width;
                let row = |y: usize| columns!(SIDE, |x: usize| if is_inside(x) { here(y, x) } else { call.padding });
                let [one] = windows::<SIDE, STRIDE, 1>(bias, w, row);
                store_bytes::<PLAIN>(block, &end, load_16(block.multipliers), at.to, one);
                at.advance(call, 1, STRIDE);
                left -= 1;
            }
        }
    }
}

/// Columns of two windows, at most.
const MAX_COLUMNS: usize = 7;

/// The sums of windows side by side, from their rows. Taps meet in 16 bits as they stand in the slots of weights: two by
/// two along each row, then what is left of each row with the next one's.
#[inline(always)]
fn windows<const SIDE: usize, const STRIDE: usize, const COUNT: usize>(
    bias: [int32x4_t; 4],
    w: impl Fn(usize) -> int8x16_t,
    row: impl Fn(usize) -> [int8x16_t; MAX_COLUMNS],
) -> [[int32x4_t; 4]; COUNT] {
    let mut acc = [bias; COUNT];
    let mut left = [w(0); COUNT];
    // Row by row without a loop, in which compilers would keep vectors in memory.
    macro_rules! row {
        ($y:literal) => {
            if $y < SIDE {
                let columns = row($y);
                for x in (0..SIDE - 1).step_by(2) {
                    let slot = $y * (SIDE - 1) + x;
                    let (first, second) = (w(slot), w(slot + 1));
                    for p in 0..COUNT {
                        let at = p * STRIDE + x;
                        acc[p] = add_two(acc[p], (columns[at], first), (columns[at + 1], second));
                    }
                }
                let slot = (SIDE - 1) * SIDE + $y;
                for p in 0..COUNT {
                    let own = columns[p * STRIDE + SIDE - 1];
                    if $y % 2 == 1 {
                        acc[p] = add_two(acc[p], (left[p], w(slot - 1)), (own, w(slot)));
                    } else if $y == SIDE - 1 {
                        acc[p] = add_one(acc[p], own, w(slot));
                    } else {
                        left[p] = own;
                    }
                }
            }
        };
    }
    row!(0);
    row!(1);
    row!(2);
    row!(3);
    row!(4);
    acc
}

/// Whether all 16 channels are stored, and [plainly](super::gemm::Finish::plain), with an even zero point as those that a
/// ReLU leaves.
pub(super) fn is_plain(block: &Block<'_>) -> bool {
    block.finish.plain && block.finish.zero_point % 2 == 0 && block.channels == 16
}

/// # Safety
/// The contract of [`Block`], of one lane; `to` is where its channels of a pixel go, `PLAIN` as [`is_plain`] has it.
#[inline(always)]
pub(super) unsafe fn store_bytes<const PLAIN: bool>(
    block: &Block<'_>,
    end: &End,
    m: [float32x4_t; 4],
    to: *mut u8,
    acc: [int32x4_t; 4],
) {
    // SAFETY: `to` is writable for `channels` bytes, and no more is stored.
    unsafe {
        if PLAIN {
            vst1q_u8(to, quantize_plain::<false>(end, acc, m));
        } else {
            store(to, block.channels, quantize_16(end, acc, m));
        }
    }
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
#[inline(always)]
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
#[inline(always)]
fn add_high(mut sum: int16x8_t, a: int8x16_t, w: int8x16_t) -> int16x8_t {
    // SAFETY: registers alone.
    unsafe {
        asm!("smlal2 {p:v}.8h, {a:v}.16b, {w:v}.16b", p = inout(vreg) sum, a = in(vreg) a, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

#[inline(always)]
fn add_two(acc: [int32x4_t; 4], one: (int8x16_t, int8x16_t), two: (int8x16_t, int8x16_t)) -> [int32x4_t; 4] {
    // SAFETY: registers alone.
    let low = unsafe {
        let low = vmull_s8(vget_low_s8(one.0), vget_low_s8(one.1));
        vmlal_s8(low, vget_low_s8(two.0), vget_low_s8(two.1))
    };
    widen(acc, low, add_high(multiply_high(one.0, one.1), two.0, two.1))
}

#[inline(always)]
fn add_one(acc: [int32x4_t; 4], a: int8x16_t, w: int8x16_t) -> [int32x4_t; 4] {
    // SAFETY: registers alone.
    let low = unsafe { vmull_s8(vget_low_s8(a), vget_low_s8(w)) };
    widen(acc, low, multiply_high(a, w))
}

#[inline(always)]
fn widen(acc: [int32x4_t; 4], low: int16x8_t, high: int16x8_t) -> [int32x4_t; 4] {
    // SAFETY: registers alone.
    unsafe {
        [
            vaddw_s16(acc[0], vget_low_s16(low)),
            vaddw_high_s16(acc[1], low),
            vaddw_s16(acc[2], vget_low_s16(high)),
            vaddw_high_s16(acc[3], high),
        ]
    }
}

/// # Safety
/// The contract of [`Block`], of one lane; `pixel` is one of its pixels.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store_16(block: &Block<'_>, end: &End, pixel: usize, acc: [int32x4_t; 4]) {
    // SAFETY: 16 multipliers; `output` is writable for `channels` bytes at each pixel.
    unsafe {
        let (m, to) = (load_16(block.multipliers), block.output.add(pixel * block.row_stride));
        store_bytes::<false>(block, end, m, to, acc);
    }
}
