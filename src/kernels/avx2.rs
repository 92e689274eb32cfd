#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! AVX2: both sides widened to 16 bits, `vpmaddwd`; activations unsigned, weights signed.
//!
//! Invariant: no sum of two products leaves 31 bits (255·128·2), unlike those of `vpmaddubsw`, which leave 16.

use std::arch::x86_64::*;

use super::avxvnni::{narrow, quantize};
use super::gemm::{Call, MAX_COLUMNS, Tier, by_rows};
use super::pack::Pack;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 8, kr: 8 },
    strips: 1,
    rows: 3,
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
        3 => i8_gemm_3x8c8_avx2::<3>(call, row),
        2 => i8_gemm_3x8c8_avx2::<2>(call, row),
        1 => i8_gemm_3x8c8_avx2::<1>(call, row),
    );
}

/// Each accumulator holds four partial sums of two columns.
///
/// # Safety
/// The contract of [`Call`], of whose rows are `MR` from `row`.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn i8_gemm_3x8c8_avx2<const MR: usize>(call: &Call<'_>, row: usize) {
    // SAFETY: each tap of each row has `groups * 8` readable bytes; the strip has 64 bytes for each tap and group.
    unsafe {
        let mut acc = [[_mm256_setzero_si256(); 4]; MR];
        let mut weights = call.weights;
        for tap in 0..call.taps {
            let mut pixels = [std::ptr::null(); MR];
            for (r, pixel) in pixels.iter_mut().enumerate() {
                *pixel = call.pixel(row + r, tap);
            }
            for group in 0..call.groups {
                let mut a = [_mm256_setzero_si256(); MR];
                for r in 0..MR {
                    let eight = pixels[r].add(group * 8).cast::<i64>().read_unaligned();
                    a[r] = _mm256_cvtepu8_epi16(_mm_set1_epi64x(eight));
                }
                for j in 0..4 {
                    let w = _mm256_cvtepi8_epi16(_mm_load_si128(weights.add(j * 16).cast()));
                    for r in 0..MR {
                        acc[r][j] = _mm256_add_epi32(acc[r][j], _mm256_madd_epi16(a[r], w));
                    }
                }
                weights = weights.add(64);
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            finish(call, row + r, reduce(acc));
        }
    }
}

/// The sums of eight columns.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce(acc: [__m256i; 4]) -> __m256i {
    let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(acc[0], acc[1]), _mm256_hadd_epi32(acc[2], acc[3]));
    _mm256_permutevar8x32_epi32(halves, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// Requantizes and stores a row of eight columns, or keeps its accumulators.
///
/// # Safety
/// The contract of [`Call`]; `row` is one of its rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn finish(call: &Call<'_>, row: usize, sums: __m256i) {
    // SAFETY: `init` and `multipliers` hold eight values, `accumulators` MAX_COLUMNS for each row; `output` is writable
    // for the call's columns at each row, and no more is stored.
    unsafe {
        let acc = _mm256_add_epi32(sums, _mm256_loadu_si256(call.init.add(row * call.init_stride).cast()));
        if !call.accumulators.is_null() {
            _mm256_storeu_si256(call.accumulators.add(row * MAX_COLUMNS).cast(), acc);
            return;
        }
        let q = quantize(acc, call.multipliers);
        let words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        let bytes = _mm_cvtsi128_si64(narrow(call.finish, _mm256_castsi128_si256(words))).to_le_bytes();
        let to = call.output.add(row * call.row_stride);
        if call.columns >= 8 {
            to.cast::<[u8; 8]>().write_unaligned(bytes);
        } else {
            to.copy_from_nonoverlapping(bytes.as_ptr(), call.columns);
        }
    }
}
