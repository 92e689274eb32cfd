#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Depthwise convolutions for `sdot`: four taps of a channel side by side, 16 channels.
//!
//! Invariant: a column of a 3x3 window is interleaved once and serves every window that it is in; 12 weights, 12
//! columns and 4 accumulators fit into 32 registers.
//! 12 `sdot` and 8 to 16 `zip` a pixel, instead of 18 multiplications and 20 widening additions.

use std::arch::aarch64::*;
use std::arch::asm;

use super::depthwise::{Block, DepthwiseTier, General, Grouping, Line};
use super::depthwise_neon::{is_plain, load_bias, store_16, store_bytes};
use super::requant_neon::{End, load_16};

pub(super) static TIER: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Quad,
    lanes: &[1],
    // SAFETY: the same contract.
    general: |call, _| unsafe { i8_depthwise_16c_sdot(call) },
    line_3x3: Some(|call| match (call.stride, is_plain(&call.block)) {
        // SAFETY: the same contract.
        (1, false) => unsafe { i8_depthwise_3x3_16c_sdot::<1, false>(call) },
        // SAFETY: the same contract.
        (1, true) => unsafe { i8_depthwise_3x3_16c_sdot::<1, true>(call) },
        // SAFETY: the same contract.
        (_, false) => unsafe { i8_depthwise_3x3_16c_sdot::<2, false>(call) },
        // SAFETY: the same contract.
        (_, true) => unsafe { i8_depthwise_3x3_16c_sdot::<2, true>(call) },
    }),
    line_5x5: Some(|call| match (call.stride, is_plain(&call.block)) {
        // SAFETY: the same contract.
        (1, false) => unsafe { i8_depthwise_5x5_16c_sdot::<1, false>(call) },
        // SAFETY: the same contract.
        (1, true) => unsafe { i8_depthwise_5x5_16c_sdot::<1, true>(call) },
        // SAFETY: the same contract.
        (_, false) => unsafe { i8_depthwise_5x5_16c_sdot::<2, false>(call) },
        // SAFETY: the same contract.
        (_, true) => unsafe { i8_depthwise_5x5_16c_sdot::<2, true>(call) },
    }),
    paired_minimum: None,
};

/// `acc[i] += Σ w[4i + k]·a[4i + k]`, k below 4.
macro_rules! sdot {
    ($acc:expr, $w:expr, $a:expr) => {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {a:v}.16b",
            acc = inout(vreg) $acc,
            w = in(vreg) $w,
            a = in(vreg) $a,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

/// Four taps of 16 channels, each channel's side by side.
#[inline(always)]
fn interleave(taps: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    // SAFETY: registers alone.
    unsafe {
        let halves = |a, b| (vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b)));
        let (first, second) = (halves(taps[0], taps[1]), halves(taps[2], taps[3]));
        [
            vreinterpretq_u8_u16(vzip1q_u16(first.0, second.0)),
            vreinterpretq_u8_u16(vzip2q_u16(first.0, second.0)),
            vreinterpretq_u8_u16(vzip1q_u16(first.1, second.1)),
            vreinterpretq_u8_u16(vzip2q_u16(first.1, second.1)),
        ]
    }
}

/// # Safety
/// The contract of [`General`].
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn i8_depthwise_16c_sdot(call: &General<'_>) {
    let block = &call.block;
    let end = End::new(block.finish);
    for pixel in 0..block.pixels {
        // SAFETY: pixel and taps are the call's; each tap has 16 readable bytes, each group 64 weights.
        unsafe {
            let mut acc = load_bias(block);
            for group in 0..block.groups {
                let tap = |i: usize| vld1q_u8(call.pixel(pixel, group * 4 + i));
                let quads = interleave([tap(0), tap(1), tap(2), tap(3)]);
                for j in 0..4 {
                    let w = vld1q_s8(block.weights.add(group * 64 + j * 16));
                    sdot!(acc[j], w, quads[j]);
                }
            }
            store_16(block, &end, pixel, acc);
        }
    }
}

/// Where one pixel after the other goes.
#[inline(always)]
fn places(block: &Block<'_>) -> impl FnMut() -> *mut u8 {
    let (mut next, stride) = (block.output, block.row_stride);
    move || {
        let here = next;
        next = next.wrapping_add(stride);
        here
    }
}

/// The columns of a line's windows, one after another.
struct Columns<const SIDE: usize> {
    rows: [*const u8; SIDE],
    steps: [usize; SIDE],
    padding: *const u8,
    column: usize,
    width: usize,
}

impl<const SIDE: usize> Columns<SIDE> {
    #[inline(always)]
    fn new(call: &Line<'_>) -> Self {
        // Rows are gone through from the first column that is in the image.
        let start = if call.first < call.width { call.first } else { 0 };
        let steps: [usize; SIDE] = std::array::from_fn(|y| call.steps[y]);
        let rows = std::array::from_fn(|y| call.rows[y].wrapping_add(start * steps[y]));
        Self { rows, steps, padding: call.padding, column: call.first, width: call.width }
    }

    /// # Safety
    /// The contract of [`Line`]; there is a window that this column is in.
    #[inline(always)]
    unsafe fn next(&mut self) -> [uint8x16_t; SIDE] {
        // SAFETY: each row of the image has 16 readable bytes in this column, as the padding has.
        unsafe {
            let mut column = [vdupq_n_u8(0); SIDE];
            if self.column < self.width {
                for y in 0..SIDE {
                    asm!("ld1 {{ {to:v}.16b }}, [{from}], {step}", to = out(vreg) column[y],
                        from = inout(reg) self.rows[y], step = in(reg) self.steps[y],
                        options(pure, readonly, nostack, preserves_flags));
                }
            } else {
                column = [vld1q_u8(self.padding); SIDE];
            }
            self.column = self.column.wrapping_add(1);
            column
        }
    }
}

/// # Safety
/// The contract of [`Line`] for windows of 3x3, whose stride is `STRIDE`; `PLAIN` as [`is_plain`] has it.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn i8_depthwise_3x3_16c_sdot<const STRIDE: usize, const PLAIN: bool>(call: &Line<'_>) {
    let block = &call.block;
    // SAFETY: three groups of 64 weights; each column of each pixel has 16 readable bytes in each row.
    unsafe {
        let mut w = [[vdupq_n_s8(0); 4]; 3];
        for (i, w) in w.as_flattened_mut().iter_mut().enumerate() {
            *w = vld1q_s8(block.weights.add(i * 16));
        }
        let end = End::new(block.finish);
        let mut place = places(block);
        let mut rows = Columns::<3>::new(call);
        let mut next = || {
            let [first, second, third] = rows.next();
            // What stands beside it has the weight 0.
            interleave([first, second, third, third])
        };
        let mut columns = [next(), [vdupq_n_u8(0); 4], [vdupq_n_u8(0); 4]];
        if STRIDE == 1 {
            columns[1] = next();
        }
        // Three windows in a turn: then each column is in its old registers again, and none is ever moved.
        macro_rules! window {
            ($turn:literal) => {{
                let at = |x: usize| ($turn * STRIDE + x) % 3;
                if STRIDE == 2 {
                    columns[at(1)] = next();
                }
                columns[at(2)] = next();
                let mut acc = load_bias(block);
                for x in 0..3 {
                    for j in 0..4 {
                        sdot!(acc[j], w[x][j], columns[at(x)][j]);
                    }
                }
                store_bytes::<PLAIN>(block, &end, load_16(block.multipliers), place(), acc);
            }};
        }
        for _ in 0..block.pixels / 3 {
            window!(0);
            window!(1);
            window!(2);
        }
        if block.pixels % 3 > 0 {
            window!(0);
        }
        if block.pixels % 3 > 1 {
            window!(1);
        }
    }
}

/// Four rows of each column stand in quads. Of the last row, four taps do: each new one pushes the oldest out, which has
/// its own product before.
///
/// # Safety
/// The contract of [`Line`] for windows of 5x5, whose stride is `STRIDE`; `PLAIN` as [`is_plain`] has it.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn i8_depthwise_5x5_16c_sdot<const STRIDE: usize, const PLAIN: bool>(call: &Line<'_>) {
    let block = &call.block;
    // SAFETY: seven groups of 64 weights; each column of each pixel has 16 readable bytes in each row.
    unsafe {
        let end = End::new(block.finish);
        let (mut place, zero) = (places(block), vdupq_n_u8(0));
        let mut rows = Columns::<5>::new(call);
        let mut last = [vdupq_n_u32(0); 4];
        macro_rules! next {
            () => {{
                let [a, b, c, d, e] = rows.next();
                let fresh = interleave([zero, zero, zero, e]);
                for j in 0..4 {
                    last[j] = vsraq_n_u32::<8>(vreinterpretq_u32_u8(fresh[j]), last[j]);
                }
                interleave([a, b, c, d])
            }};
        }
        macro_rules! add {
            ($acc:ident, $quads:expr, $group:expr) => {
                for j in 0..4 {
                    let w = vld1q_s8(block.weights.add(($group * 4 + j) * 16));
                    sdot!($acc[j], w, $quads[j]);
                }
            };
        }
        let mut columns = [[zero; 4]; 5];
        for x in 0..5 - STRIDE {
            columns[x] = next!();
        }
        // Five windows in a turn, as with 3x3.
        macro_rules! window {
            ($turn:literal) => {{
                let at = |x: usize| ($turn * STRIDE + x) % 5;
                if STRIDE == 2 {
                    columns[at(3)] = next!();
                }
                let mut acc = load_bias(block);
                add!(acc, last, 6);
                columns[at(4)] = next!();
                for x in 0..5 {
                    add!(acc, columns[at(x)], x);
                }
                add!(acc, last, 5);
                store_bytes::<PLAIN>(block, &end, load_16(block.multipliers), place(), acc);
            }};
        }
        for _ in 0..block.pixels / 5 {
            window!(0);
            window!(1);
            window!(2);
            window!(3);
            window!(4);
        }
        if block.pixels % 5 > 0 {
            window!(0);
        }
        if block.pixels % 5 > 1 {
            window!(1);
        }
        if block.pixels % 5 > 2 {
            window!(2);
        }
        if block.pixels % 5 > 3 {
            window!(3);
        }
    }
}
