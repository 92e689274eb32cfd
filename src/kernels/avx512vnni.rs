#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! AVX512-VNNI: `vpdpbusd` on 64 bytes; activations unsigned, weights signed.
//!
//! Invariant: accumulators, at most 24 vectors, stay in registers from the first product to the stored byte.
//! Up to four strips of 16 channels in one call; the narrower, the more rows, so that each broadcast and each load
//! of weights serves many products.

use std::arch::x86_64::*;

use super::gemm::{Call, MAX_COLUMNS, Tier};
use super::pack::Pack;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 4 },
    strips: 4,
    rows: &[&[12, 6, 4, 2, 1], &[12, 6, 4, 2, 1], &[8, 4, 2, 1], &[6, 4, 2, 1]],
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { dispatch(call) },
    gemm_paired_minimum: None,
};

/// # Safety
/// The contract of [`Call`].
unsafe fn dispatch(call: &Call<'_>) {
    macro_rules! kernels {
        ($($strips:literal: $($rows:literal)+;)+) => {
            match (call.columns.div_ceil(16), call.rows) {
                // SAFETY: the same contract; these are the call's rows and strips.
                $($(($strips, $rows) => unsafe { i8_gemm_mx16c4_avx512vnni::<$rows, $strips>(call) },)+)+
                (strips, rows) => unreachable!("{rows} rows by {strips} strips"),
            }
        };
    }
    kernels! { 1: 12 6 4 2 1; 2: 12 6 4 2 1; 3: 8 4 2 1; 4: 6 4 2 1; }
}

/// `MR` rows by `NV` strips of 16 columns: at 6 by 4, 24 accumulators, 4 weights, 1 broadcast.
///
/// # Safety
/// The contract of [`Call`], whose rows are `MR` and whose columns need `NV` strips.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn i8_gemm_mx16c4_avx512vnni<const MR: usize, const NV: usize>(call: &Call<'_>) {
    // SAFETY: `init` holds a value for each column of the strips, after `init_stride` for every row; each tap of each
    // row has `groups * 4` readable bytes; each strip has 64 bytes for each tap and group.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); NV]; MR];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_si512(call.init.add(r * call.init_stride + j * 16).cast());
            }
        }
        let mut weights = call.weights;
        for tap in 0..call.taps {
            let mut pixels = [std::ptr::null(); MR];
            for (r, pixel) in pixels.iter_mut().enumerate() {
                *pixel = call.pixel(r, tap);
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
        if call.accumulators.is_null() { requantize(call, acc) } else { keep(call, acc) }
    }
}

/// # Safety
/// As the kernel's; `accumulators` is not null.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn keep<const MR: usize, const NV: usize>(call: &Call<'_>, acc: [[__m512i; NV]; MR]) {
    for (r, acc) in acc.iter().enumerate() {
        for (j, acc) in acc.iter().enumerate() {
            // SAFETY: `accumulators` has MAX_COLUMNS for each row.
            unsafe { _mm512_storeu_si512(call.accumulators.add(r * MAX_COLUMNS + j * 16).cast(), *acc) };
        }
    }
}

/// # Safety
/// As the kernel's; `output` is writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn requantize<const MR: usize, const NV: usize>(call: &Call<'_>, acc: [[__m512i; NV]; MR]) {
    let finish = call.finish;
    let (low, high) = (_mm512_set1_ps(finish.low), _mm512_set1_ps(finish.high));
    let zero_point = _mm512_set1_epi32(finish.zero_point);
    let mut m = [low; NV];
    for (j, m) in m.iter_mut().enumerate() {
        // SAFETY: one multiplier for each column of the strips.
        *m = unsafe { _mm512_loadu_ps(call.multipliers.add(j * 16)) };
    }
    for (r, acc) in acc.into_iter().enumerate() {
        let mut q = acc;
        for j in 0..NV {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[j]), m[j]);
            let clamped = _mm512_min_ps(_mm512_max_ps(scaled, low), high);
            q[j] = _mm512_add_epi32(_mm512_cvtps_epi32(clamped), zero_point);
        }
        // SAFETY: `output` is writable for the call's columns at each row, and no more is stored.
        unsafe { store(call.output.add(r * call.row_stride), call.columns, q) };
    }
}

/// # Safety
/// `to` is writable for `columns` bytes; they are more than `NV - 1` vectors and at most `NV`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store<const NV: usize>(to: *mut u8, columns: usize, q: [__m512i; NV]) {
    if NV == 4 {
        let pairs = (_mm512_packs_epi32(q[0], q[1 % NV]), _mm512_packs_epi32(q[2 % NV], q[3 % NV]));
        let bytes = _mm512_packus_epi16(pairs.0, pairs.1);
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let bytes = _mm512_permutexvar_epi32(order, bytes);
        // SAFETY: the mask lets `columns` bytes through.
        unsafe { _mm512_mask_storeu_epi8(to.cast(), u64::MAX >> (64 - columns), bytes) };
        return;
    }
    for (j, q) in q.into_iter().enumerate() {
        let mask = u16::MAX >> (16 - (columns - j * 16).min(16));
        // SAFETY: the mask lets through what is left of `columns` bytes.
        unsafe { _mm_mask_storeu_epi8(to.add(j * 16).cast(), mask, _mm512_cvtepi32_epi8(q)) };
    }
}
