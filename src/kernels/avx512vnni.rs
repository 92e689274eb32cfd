#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! AVX512-VNNI: `vpdpbusd` on 64 bytes; activations unsigned, weights signed.
//!
//! Invariant: accumulators, at most 24 vectors, stay in registers from the first product to the stored byte.
//! Up to four strips of 16 channels in one call; the narrower, the more rows, so that each broadcast and each load
//! of weights serves many products.

use std::arch::x86_64::*;

use super::gemm::{Call, Finish, MAX_COLUMNS, Tier, by_rows};
use super::pack::Pack;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 4 },
    strips: 4,
    rows: 6,
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { dispatch(call) },
    gemm_paired_minimum: None,
};

/// # Safety
/// The contract of [`Call`].
unsafe fn dispatch(call: &Call<'_>) {
    macro_rules! kernels {
        ($strips:literal: $($rows:literal)+) => {{
            by_rows!(call, row, $($rows => i8_gemm_mx16c4_avx512vnni::<$rows, $strips>(call, row)),+);
        }};
    }
    match call.columns.div_ceil(16) {
        1 => kernels!(1: 12 6 4 2 1),
        2 => kernels!(2: 12 6 4 2 1),
        3 => kernels!(3: 8 4 2 1),
        _ => kernels!(4: 6 4 2 1),
    }
}

/// `MR` rows by `NV` strips of 16 columns: at 6 by 4, 24 accumulators, 4 weights, 1 broadcast.
///
/// # Safety
/// The contract of [`Call`], whose columns need `NV` strips; `MR` rows from `row` are its.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn i8_gemm_mx16c4_avx512vnni<const MR: usize, const NV: usize>(call: &Call<'_>, row: usize) {
    // SAFETY: `init` holds a value for each column of the strips, after `init_stride` for every row; each tap of each
    // row has `groups * 4` readable bytes; each strip has 64 bytes for each tap and group.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); NV]; MR];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_si512(call.init.add((row + r) * call.init_stride + j * 16).cast());
            }
        }
        let mut weights = call.weights;
        for tap in 0..call.taps {
            let mut pixels = [std::ptr::null(); MR];
            for (r, pixel) in pixels.iter_mut().enumerate() {
                *pixel = call.pixel(row + r, tap);
            }
            for group in 0..call.groups {
                let mut w = [_mm512_setzero_si512(); NV];
                for (j, w) in w.iter_mut().enumerate() {
                    *w = _mm512_load_si512(weights.add(j * call.strip_bytes).cast());
                }
                for r in 0..MR {
                    let a = _mm512_set1_epi32(pixels[r].add(group * 4).cast::<i32>().read_unaligned());
                    for j in 0..NV {
                        acc[r][j] = _mm512_dpbusd_epi32(acc[r][j], a, w[j]);
                    }
                }
                weights = weights.add(64);
            }
        }
        if call.accumulators.is_null() { requantize(call, row, acc) } else { keep(call, row, acc) }
    }
}

/// # Safety
/// As the kernel's; `accumulators` is not null.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn keep<const MR: usize, const NV: usize>(call: &Call<'_>, row: usize, acc: [[__m512i; NV]; MR]) {
    for (r, acc) in acc.iter().enumerate() {
        for (j, acc) in acc.iter().enumerate() {
            // SAFETY: `accumulators` has MAX_COLUMNS for each row.
            unsafe { _mm512_storeu_si512(call.accumulators.add((row + r) * MAX_COLUMNS + j * 16).cast(), *acc) };
        }
    }
}

/// # Safety
/// As the kernel's; `output` is writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn requantize<const MR: usize, const NV: usize>(call: &Call<'_>, row: usize, acc: [[__m512i; NV]; MR]) {
    let high = _mm512_set1_ps(call.finish.high);
    let mut m = [high; NV];
    for (j, m) in m.iter_mut().enumerate() {
        // SAFETY: one multiplier for each column of the strips.
        *m = unsafe { _mm512_loadu_ps(call.multipliers.add(j * 16)) };
    }
    for (r, acc) in acc.into_iter().enumerate() {
        let mut q = acc;
        for j in 0..NV {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[j]), m[j]);
            q[j] = _mm512_cvtps_epi32(_mm512_min_ps(scaled, high));
        }
        let bytes = narrow(call.finish, q);
        let mask = u64::MAX >> (64 - call.columns);
        // SAFETY: `output` is writable for the call's columns at each row, and the mask lets no more through.
        unsafe { _mm512_mask_storeu_epi8(call.output.add((row + r) * call.row_stride).cast(), mask, bytes) };
    }
}

/// Adds the zero point and clamps from below; the bytes of `NV` vectors, one vector's after another's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn narrow<const NV: usize>(finish: &Finish, q: [__m512i; NV]) -> __m512i {
    let zero_point = _mm512_set1_epi16(finish.zero_point);
    let first = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1 % NV]), zero_point);
    let second = if NV > 2 { _mm512_adds_epi16(_mm512_packs_epi32(q[2 % NV], q[3 % NV]), zero_point) } else { first };
    let bytes = _mm512_max_epu8(_mm512_packus_epi16(first, second), _mm512_set1_epi8(finish.lo.cast_signed()));
    // Each 128 bits hold four channels of each vector.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, bytes)
}
