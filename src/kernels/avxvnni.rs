#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! AVX-VNNI: `vpdpbusd` on 32 bytes; activations unsigned, weights signed.
//!
//! Invariant: 12 accumulators, 2 weights and 1 broadcast fit into 16 registers.
//! The kernel is written once for both encodings of `vpdpbusd`; the EVEX one exists for tests alone, since CPUs with
//! AVX512-VNNI are common and ones with AVX-VNNI are rare.

use std::arch::x86_64::*;

use super::gemm::{Call, Finish, MAX_COLUMNS, Tier, by_rows};
use super::pack::Pack;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 4 },
    strips: 1,
    rows: 6,
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { vex::dispatch(call) },
    settles: false,
    gemm_paired_minimum: None,
};

/// The same kernel in the encoding of AVX512-VNNI with AVX512-VL.
#[cfg(test)]
pub(super) static TIER_EVEX: Tier = Tier {
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { evex::dispatch(call) },
    ..TIER
};

macro_rules! kernel {
    ($encoding:ident, $features:literal, $dpbusd:ident) => {
        mod $encoding {
            use super::*;

            /// # Safety
            /// The contract of [`Call`].
            pub(super) unsafe fn dispatch(call: &Call<'_>) {
                by_rows!(
                    call, row,
                    6 => i8_gemm_6x16c4_avxvnni::<6>(call, row),
                    4 => i8_gemm_6x16c4_avxvnni::<4>(call, row),
                    2 => i8_gemm_6x16c4_avxvnni::<2>(call, row),
                    1 => i8_gemm_6x16c4_avxvnni::<1>(call, row),
                );
            }

            /// # Safety
            /// The contract of [`Call`], of whose rows are `MR` from `row`.
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn i8_gemm_6x16c4_avxvnni<const MR: usize>(call: &Call<'_>, row: usize) {
                // SAFETY: `init` holds 16 values, after `init_stride` for every row; each tap of each row has
                // `groups * 4` readable bytes; the strip has 64 bytes for each tap and group.
                unsafe {
                    let mut acc = [[_mm256_setzero_si256(); 2]; MR];
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let init = call.init.add((row + r) * call.init_stride);
                        *acc = [_mm256_loadu_si256(init.cast()), _mm256_loadu_si256(init.add(8).cast())];
                    }
                    let mut weights = call.weights;
                    for tap in 0..call.taps {
                        let mut pixels = [std::ptr::null(); MR];
                        for (r, pixel) in pixels.iter_mut().enumerate() {
                            *pixel = call.pixel(row + r, tap);
                        }
                        for group in 0..call.groups {
                            let w = [_mm256_load_si256(weights.cast()), _mm256_load_si256(weights.add(32).cast())];
                            for r in 0..MR {
                                let a = _mm256_set1_epi32(pixels[r].add(group * 4).cast::<i32>().read_unaligned());
                                acc[r][0] = $dpbusd(acc[r][0], a, w[0]);
                                acc[r][1] = $dpbusd(acc[r][1], a, w[1]);
                            }
                            weights = weights.add(64);
                        }
                    }
                    for (r, acc) in acc.into_iter().enumerate() {
                        finish(call, row + r, acc);
                    }
                }
            }
        }
    };
}

kernel!(vex, "avx2,fma,avxvnni", _mm256_dpbusd_avx_epi32);
#[cfg(test)]
kernel!(evex, "avx2,fma,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

/// Requantizes and stores a row of 16 columns, or keeps its accumulators.
///
/// # Safety
/// The contract of [`Call`]; `row` is one of its rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish(call: &Call<'_>, row: usize, acc: [__m256i; 2]) {
    // SAFETY: `accumulators` has MAX_COLUMNS for each row; there is a multiplier for each column of the strip;
    // `output` is writable for the call's columns at each row, and no more is stored.
    unsafe {
        if !call.accumulators.is_null() {
            let to = call.accumulators.add(row * MAX_COLUMNS);
            _mm256_storeu_si256(to.cast(), acc[0]);
            _mm256_storeu_si256(to.add(8).cast(), acc[1]);
            return;
        }
        let constants = call.finish;
        let q = [quantize(acc[0], call.multipliers), quantize(acc[1], call.multipliers.add(8))];
        let words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[0], q[1]), 0b11_01_10_00);
        store(call.output.add(row * call.row_stride), call.columns, narrow(constants, words));
    }
}

/// Eight values less the zero point, in 32 bits.
///
/// # Safety
/// `multipliers` holds eight.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize(acc: __m256i, multipliers: *const f32) -> __m256i {
    // SAFETY: there are eight.
    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), unsafe { _mm256_loadu_ps(multipliers) });
    _mm256_cvtps_epi32(scaled)
}

/// Adds the zero point and clamps; `words` hold 16 values less the zero point.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn narrow(finish: &Finish, words: __m256i) -> __m128i {
    let words = _mm256_adds_epi16(words, _mm256_set1_epi16(finish.zero_point));
    let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    let bytes = _mm_max_epu8(bytes, _mm_set1_epi8(finish.lo.cast_signed()));
    _mm_min_epu8(bytes, _mm_set1_epi8(finish.hi.cast_signed()))
}

/// # Safety
/// `to` is writable for `columns` bytes, of which at most 16 are stored.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut u8, columns: usize, bytes: __m128i) {
    // SAFETY: as said.
    unsafe {
        if columns >= 16 {
            _mm_storeu_si128(to.cast(), bytes);
        } else {
            let mut buffer = [0_u8; 16];
            _mm_storeu_si128(buffer.as_mut_ptr().cast(), bytes);
            to.copy_from_nonoverlapping(buffer.as_ptr(), columns);
        }
    }
}
