#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! Depthwise convolutions for AVX2: two taps of a channel side by side in 16 bits, `vpmaddwd`, 16 channels.
//!
//! Invariant: unpacking stays within 128 bits, and so does packing at the end; weights, biases and multipliers are
//! packed in the order that this gives to accumulators.

use std::arch::x86_64::*;

use super::avxvnni::{narrow, quantize};
use super::depthwise::{DepthwiseTier, General, Grouping};

pub(super) static TIER: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Pair,
    lanes: &[1],
    // SAFETY: the same contract.
    general: |call, _| unsafe { i8_depthwise_16c_avx2(call) },
    line_3x3: None,
    line_5x5: None,
    paired_minimum: None,
};

/// # Safety
/// The contract of [`General`].
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn i8_depthwise_16c_avx2(call: &General<'_>) {
    let block = &call.block;
    for pixel in 0..block.pixels {
        // SAFETY: pixel and taps are the call's; each tap has 16 readable bytes, each group 64 bytes of weights; there
        // are 16 biases and multipliers; `output` is writable for `channels` bytes at each pixel, and no more is stored.
        unsafe {
            let mut acc = [_mm256_loadu_si256(block.bias.cast()), _mm256_loadu_si256(block.bias.add(8).cast())];
            for group in 0..block.groups {
                let tap = |i: usize| _mm256_cvtepu8_epi16(_mm_loadu_si128(call.pixel(pixel, group * 2 + i).cast()));
                let (first, second) = (tap(0), tap(1));
                let w = block.weights.add(group * 64);
                let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), _mm256_load_si256(w.cast()));
                let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), _mm256_load_si256(w.add(32).cast()));
                acc = [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)];
            }
            let low = quantize(acc[0], block.multipliers);
            let high = quantize(acc[1], block.multipliers.add(8));
            let bytes = narrow(block.finish, _mm256_packs_epi32(low, high));
            let to = block.output.add(pixel * block.row_stride);
            if block.channels >= 16 {
                _mm_storeu_si128(to.cast(), bytes);
            } else {
                let mut buffer = [0_u8; 16];
                _mm_storeu_si128(buffer.as_mut_ptr().cast(), bytes);
                to.copy_from_nonoverlapping(buffer.as_ptr(), block.channels);
            }
        }
    }
}
