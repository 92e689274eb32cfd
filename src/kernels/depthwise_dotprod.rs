#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Depthwise convolutions for `sdot`: four taps of a channel side by side, 16 channels.
//!
//! Invariant: a column of a 3x3 window is interleaved once and serves every window that it is in; 12 weights, 12
//! columns and 4 accumulators fit into 32 registers.
//! 12 `sdot` and 8 to 16 `zip` a pixel, instead of 18 multiplications and 20 widening additions.

use std::arch::aarch64::*;
use std::arch::asm;

use super::depthwise::{DepthwiseTier, General, Grouping, Line};
use super::depthwise_neon::{load_bias, store_16};
use super::requant_neon::End;

pub(super) static TIER: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Quad,
    lanes: &[1],
    // SAFETY: the same contract.
    general: |call, _| unsafe { i8_depthwise_16c_sdot(call) },
    line_3x3: Some(|call| match call.stride {
        // SAFETY: the same contract.
        1 => unsafe { i8_depthwise_3x3_16c_sdot::<1>(call) },
        // SAFETY: the same contract.
        _ => unsafe { i8_depthwise_3x3_16c_sdot::<2>(call) },
    }),
    line_5x5: None,
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
#[inline]
#[target_feature(enable = "neon")]
fn interleave(taps: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let halves = |a, b| (vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b)));
    let (first, second) = (halves(taps[0], taps[1]), halves(taps[2], taps[3]));
    [
        vreinterpretq_u8_u16(vzip1q_u16(first.0, second.0)),
        vreinterpretq_u8_u16(vzip2q_u16(first.0, second.0)),
        vreinterpretq_u8_u16(vzip1q_u16(first.1, second.1)),
        vreinterpretq_u8_u16(vzip2q_u16(first.1, second.1)),
    ]
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

/// # Safety
/// The contract of [`Line`] for windows of 3x3, whose stride is `STRIDE`.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn i8_depthwise_3x3_16c_sdot<const STRIDE: usize>(call: &Line<'_>) {
    let block = &call.block;
    // SAFETY: three groups of 64 weights; each column of each pixel has 16 readable bytes in each row.
    unsafe {
        let mut w = [[vdupq_n_s8(0); 4]; 3];
        for (i, w) in w.as_flattened_mut().iter_mut().enumerate() {
            *w = vld1q_s8(block.weights.add(i * 16));
        }
        let bias = load_bias(block);
        let end = End::new(block.finish);
        let mut rows = call.columns::<3>();
        let mut next = || {
            let [first, second, third] = rows();
            interleave([vld1q_u8(first), vld1q_u8(second), vld1q_u8(third), vdupq_n_u8(0)])
        };
        let mut columns = [next(), [vdupq_n_u8(0); 4], [vdupq_n_u8(0); 4]];
        if STRIDE == 1 {
            columns[1] = next();
        }
        // Three windows in a turn: then each column is in its old registers again, and none is ever moved.
        macro_rules! window {
            ($pixel:expr, $turn:literal) => {{
                let at = |x: usize| ($turn * STRIDE + x) % 3;
                if STRIDE == 2 {
                    columns[at(1)] = next();
                }
                columns[at(2)] = next();
                let mut acc = bias;
                for x in 0..3 {
                    for j in 0..4 {
                        sdot!(acc[j], w[x][j], columns[at(x)][j]);
                    }
                }
                store_16(block, &end, $pixel, acc);
            }};
        }
        let mut pixel = 0;
        while pixel + 3 <= block.pixels {
            window!(pixel, 0);
            window!(pixel + 1, 1);
            window!(pixel + 2, 2);
            pixel += 3;
        }
        if pixel < block.pixels {
            window!(pixel, 0);
        }
        if pixel + 1 < block.pixels {
            window!(pixel + 1, 1);
        }
    }
}
