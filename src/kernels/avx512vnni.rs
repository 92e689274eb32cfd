#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! AVX512-VNNI: `vpdpbusd` on 64 bytes; activations unsigned, weights signed.
//!
//! Invariant: accumulators, at most 24 vectors, stay in registers from the first product to the stored byte.
//! Up to four strips of 16 channels in one call; the narrower, the more rows, so that each broadcast and each load
//! of weights serves many products.

use std::arch::x86_64::*;

use super::gemm::{Call, Finish, Floats, MAX_COLUMNS, Tier, by_rows};
use super::pack::Pack;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 4 },
    strips: 4,
    rows: 6,
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { dispatch(call) },
    settles: true,
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
        let mut acc = [first_values::<NV>(call.init); MR];
        if call.init_stride > 0 {
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = first_values(call.init.add((row + r) * call.init_stride));
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
        if let Some(floats) = call.floats {
            settle(call, floats, row, acc);
        } else if call.accumulators.is_null() {
            requantize(call, row, acc);
        } else {
            keep(call, row, acc);
        }
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
/// As the kernel's; `floats` are the call's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn settle<const MR: usize, const NV: usize>(
    call: &Call<'_>,
    floats: &Floats,
    row: usize,
    acc: [[__m512i; NV]; MR],
) {
    let [low, high] = floats.bounds.map(|bound| _mm512_set1_ps(bound));
    let scale = _mm512_set1_ps(floats.scale);
    for j in 0..NV {
        let mask = u16::MAX >> (16 - (call.columns - j * 16).min(16));
        // SAFETY: one multiplier for each column of the strips.
        let m = _mm512_mul_ps(scale, unsafe { _mm512_loadu_ps(call.multipliers.add(j * 16)) });
        let added = !floats.bias.is_null();
        let mut bias = _mm512_setzero_ps();
        if added {
            // SAFETY: where there are biases, there is one for each column, and the mask lets no more through.
            bias = unsafe { _mm512_maskz_loadu_ps(mask, floats.bias.add(j * 16)) };
        }
        for (r, acc) in acc.iter().enumerate() {
            let mut x = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[j]), m);
            x = if added { _mm512_add_ps(x, bias) } else { x };
            // What is not a number becomes the lower bound: these give their second operand then.
            x = _mm512_min_ps(_mm512_max_ps(x, low), high);
            // SAFETY: `output` is writable for the call's columns at each row, and the mask lets no more through.
            unsafe {
                let to = floats.output.add((row + r) * floats.row_stride + j * 16);
                if mask == u16::MAX { _mm512_storeu_ps(to, x) } else { _mm512_mask_storeu_ps(to, mask, x) }
            }
        }
    }
}

/// What `NV` strips' accumulators begin with.
///
/// # Safety
/// `init` holds a value for each column.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn first_values<const NV: usize>(init: *const i32) -> [__m512i; NV] {
    let mut values = [_mm512_setzero_si512(); NV];
    for (j, values) in values.iter_mut().enumerate() {
        // SAFETY: sixteen for each strip.
        *values = unsafe { _mm512_loadu_si512(init.add(j * 16).cast()) };
    }
    values
}

/// # Safety
/// As the kernel's; `output` is writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn requantize<const MR: usize, const NV: usize>(call: &Call<'_>, row: usize, acc: [[__m512i; NV]; MR]) {
    let mut m = [_mm512_setzero_ps(); NV];
    for (j, m) in m.iter_mut().enumerate() {
        // SAFETY: one multiplier for each column of the strips.
        *m = unsafe { _mm512_loadu_ps(call.multipliers.add(j * 16)) };
    }
    let end = End::new(call.finish);
    // Rows whose bytes fill a vector.
    let together = if NV == 3 { 1 } else { 4 / NV };
    for first in (0..MR).step_by(together) {
        let mut q = [_mm512_setzero_si512(); 4];
        for i in 0..together * NV {
            let (r, j) = ((first + i / NV).min(MR - 1), i % NV);
            q[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[r][j]), m[j]));
        }
        let count = together.min(MR - first);
        // SAFETY: `output` is writable for the call's columns at each row.
        unsafe {
            let to = call.output.add((row + first) * call.row_stride);
            store::<NV>(to, [call.columns, call.row_stride, count], end.bytes(q));
        }
    }
}

/// # Safety
/// `to` is writable for `columns` bytes, at most `NV` times 16, at each of `rows` rows, at most as many as a vector holds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store<const NV: usize>(to: *mut u8, [columns, stride, rows]: [usize; 3], bytes: __m512i) {
    let whole = columns == NV * 16;
    // SAFETY: rows of whole vectors without a gap are as many bytes as are stored; else masks let a row's through.
    unsafe {
        if whole && (NV == 4 || (stride == columns && rows * NV == 4)) {
            _mm512_storeu_si512(to.cast(), bytes);
        } else if NV > 2 {
            _mm512_mask_storeu_epi8(to.cast(), u64::MAX >> (64 - columns), bytes);
        } else if NV == 2 {
            let halves = [_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64::<1>(bytes)];
            for (r, half) in halves.into_iter().enumerate().take(rows) {
                let to = to.add(r * stride).cast();
                if whole {
                    _mm256_storeu_si256(to, half);
                } else {
                    _mm256_mask_storeu_epi8(to.cast(), u32::MAX >> (32 - columns), half);
                }
            }
        } else {
            let quarters = [
                _mm512_castsi512_si128(bytes),
                _mm512_extracti32x4_epi32::<1>(bytes),
                _mm512_extracti32x4_epi32::<2>(bytes),
                _mm512_extracti32x4_epi32::<3>(bytes),
            ];
            for (r, quarter) in quarters.into_iter().enumerate().take(rows) {
                let to = to.add(r * stride).cast();
                if whole {
                    _mm_storeu_si128(to, quarter);
                } else {
                    _mm_mask_storeu_epi8(to.cast(), u16::MAX >> (16 - columns), quarter);
                }
            }
        }
    }
}

/// What is the same for all rows, in registers.
struct End {
    zero_point: __m512i,
    lo: __m512i,
    hi: __m512i,
    order: __m512i,
}

/// Packing works within 128 bits: each then holds four channels of each vector.
static ORDER: Line = Line([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]);

#[repr(align(64))]
struct Line([i32; 16]);

impl End {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(finish: &Finish) -> Self {
        // SAFETY: sixteen numbers. Not known to the compiler, which would make three instructions of the one that
        // takes any order.
        let order = unsafe { std::ptr::from_ref(&ORDER.0).cast::<__m512i>().read_volatile() };
        Self {
            zero_point: _mm512_set1_epi16(finish.zero_point),
            lo: _mm512_set1_epi8(finish.lo.cast_signed()),
            hi: _mm512_set1_epi8(finish.hi.cast_signed()),
            order,
        }
    }

    /// Adds the zero point and clamps; the bytes of four vectors, one vector's after another's.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn bytes(&self, q: [__m512i; 4]) -> __m512i {
        let first = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), self.zero_point);
        let second = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), self.zero_point);
        let bytes = _mm512_max_epu8(_mm512_packus_epi16(first, second), self.lo);
        _mm512_permutexvar_epi32(self.order, _mm512_min_epu8(bytes, self.hi))
    }
}
