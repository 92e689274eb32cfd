#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Depthwise convolutions for `vpdpbusd`: four taps of a channel side by side, 16 channels in each 128 bits.
//!
//! Invariant: unpacking stays within 128 bits, and so does packing at the end; weights, biases and multipliers are
//! packed in the order that this gives to accumulators.
//! 64 channels a vector where there are as many; 32 or 16 where not.

use std::arch::x86_64::*;

use super::depthwise::{Block, DepthwiseTier, General, Grouping, Line};

pub(super) static TIER_512: DepthwiseTier = DepthwiseTier {
    grouping: Grouping::Quad,
    lanes: &[4, 2, 1],
    general: |call, _| match call.block.lanes {
        // SAFETY: the same contract.
        4 => unsafe { zmm::i8_depthwise_vnni(call) },
        // SAFETY: the same contract.
        2 => unsafe { ymm::i8_depthwise_vnni(call) },
        // SAFETY: the same contract.
        _ => unsafe { xmm::i8_depthwise_vnni(call) },
    },
    line_3x3: Some(|call| match call.block.lanes {
        // SAFETY: the same contract.
        4 => unsafe { zmm::i8_depthwise_3x3_vnni(call) },
        // SAFETY: the same contract.
        2 => unsafe { ymm::i8_depthwise_3x3_vnni(call) },
        // SAFETY: the same contract.
        _ => unsafe { xmm::i8_depthwise_3x3_vnni(call) },
    }),
    line_5x5: Some(|call| match call.block.lanes {
        // SAFETY: the same contract.
        4 => unsafe { zmm::i8_depthwise_5x5_vnni(call) },
        // SAFETY: the same contract.
        2 => unsafe { ymm::i8_depthwise_5x5_vnni(call) },
        // SAFETY: the same contract.
        _ => unsafe { xmm::i8_depthwise_5x5_vnni(call) },
    }),
    paired_minimum: None,
};

pub(super) static TIER_256: DepthwiseTier = DepthwiseTier {
    lanes: &[2, 1],
    general: |call, _| match call.block.lanes {
        // SAFETY: the same contract.
        2 => unsafe { ymm_vex::i8_depthwise_vnni(call) },
        // SAFETY: the same contract.
        _ => unsafe { xmm_vex::i8_depthwise_vnni(call) },
    },
    // Sixteen registers do not hold the columns.
    line_3x3: None,
    line_5x5: None,
    grouping: Grouping::Quad,
    paired_minimum: None,
};

/// The 256-bit tier's kernels in the encoding of AVX512-VNNI with AVX512-VL.
#[cfg(test)]
pub(super) static TIER_256_EVEX: DepthwiseTier = DepthwiseTier {
    general: |call, _| match call.block.lanes {
        // SAFETY: the same contract.
        2 => unsafe { ymm::i8_depthwise_vnni(call) },
        // SAFETY: the same contract.
        _ => unsafe { xmm::i8_depthwise_vnni(call) },
    },
    ..TIER_256
};

/// Defines how fewer bytes than a vector are stored: by a mask, or where there is none by a copy, whose call costs.
macro_rules! partial {
    ($name:ident, $features:literal, $vector:ident, |$to:ident, $count:ident, $bytes:ident| $store:expr) => {
        /// # Safety
        /// `to` is writable for `count` bytes, which are at least one and fewer than a vector's.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name($to: *mut u8, $count: usize, $bytes: $vector) {
            // SAFETY: no more than `count` bytes are stored.
            unsafe { $store }
        }
    };
}

partial!(mask_512, "avx512f,avx512bw,avx512vl", __m512i, |to, count, bytes| {
    _mm512_mask_storeu_epi8(to.cast(), u64::MAX >> (64 - count), bytes);
});
partial!(mask_256, "avx512f,avx512bw,avx512vl", __m256i, |to, count, bytes| {
    _mm256_mask_storeu_epi8(to.cast(), u32::MAX >> (32 - count), bytes);
});
partial!(mask_128, "avx512f,avx512bw,avx512vl", __m128i, |to, count, bytes| {
    _mm_mask_storeu_epi8(to.cast(), u16::MAX >> (16 - count), bytes);
});
partial!(copy_256, "avx2", __m256i, |to, count, bytes| {
    let mut buffer = [0_u8; 32];
    _mm256_storeu_si256(buffer.as_mut_ptr().cast(), bytes);
    to.copy_from_nonoverlapping(buffer.as_ptr(), count);
});
partial!(copy_128, "avx2", __m128i, |to, count, bytes| {
    let mut buffer = [0_u8; 16];
    _mm_storeu_si128(buffer.as_mut_ptr().cast(), bytes);
    to.copy_from_nonoverlapping(buffer.as_ptr(), count);
});

macro_rules! kernels {
    ($name:ident, $features:literal, $vector:ident, $lanes:literal, $dpbusd:ident, $load:ident, $store:ident, $partial:ident,
     $low8:ident, $high8:ident, $low16:ident, $high16:ident, $zero:ident, $packs:ident, $packus:ident,
     $adds:ident, $set16:ident, $max:ident, $set8:ident, $float:ident, $mul:ident, $min:ident,
     $load_float:ident, $int:ident, $shift:ident, $or:ident) => {
        mod $name {
            use super::*;

            const BYTES: usize = $lanes * 16;

            /// # Safety
            /// The contract of [`General`], of these lanes.
            #[inline(never)]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn i8_depthwise_vnni(call: &General<'_>) {
                let (block, end) = (&call.block, end(&call.block));
                for pixel in 0..block.pixels {
                    // SAFETY: pixel and taps are the call's; each tap has a readable vector, each group four.
                    unsafe {
                        let mut acc = bias(block);
                        for group in 0..block.groups {
                            let tap = |i: usize| $load(call.pixel(pixel, group * 4 + i).cast());
                            let quads = interleave([tap(0), tap(1), tap(2), tap(3)]);
                            for j in 0..4 {
                                let w = $load(block.weights.add((group * 4 + j) * BYTES).cast());
                                acc[j] = $dpbusd(acc[j], quads[j], w);
                            }
                        }
                        store(block, end, pixel, acc);
                    }
                }
            }

            /// # Safety
            /// The contract of [`Line`], of these lanes and windows of 3x3.
            #[allow(dead_code, reason = "not every width has the registers")]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn i8_depthwise_3x3_vnni(call: &Line<'_>) {
                // SAFETY: the same contract.
                unsafe {
                    if call.stride == 1 {
                        i8_depthwise_3x3_sliding_vnni::<1>(call)
                    } else {
                        i8_depthwise_3x3_sliding_vnni::<2>(call)
                    }
                }
            }

            /// # Safety
            /// The contract of [`Line`], of these lanes and windows of 3x3, whose stride is `STRIDE`.
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn i8_depthwise_3x3_sliding_vnni<const STRIDE: usize>(call: &Line<'_>) {
                let (block, end) = (&call.block, end(&call.block));
                // SAFETY: three groups of four vectors of weights; each column of each pixel has a readable vector in
                // each row.
                unsafe {
                    let mut w = [[$zero(); 4]; 3];
                    for (i, w) in w.as_flattened_mut().iter_mut().enumerate() {
                        *w = $load(block.weights.add(i * BYTES).cast());
                    }
                    let bias = bias(block);
                    let mut rows = call.columns::<3>();
                    let mut next = || {
                        let [first, second, third] = rows();
                        interleave([$load(first.cast()), $load(second.cast()), $load(third.cast()), $zero()])
                    };
                    let mut columns = [next(), [$zero(); 4], [$zero(); 4]];
                    if STRIDE == 1 {
                        columns[1] = next();
                    }
                    for pixel in 0..block.pixels {
                        if STRIDE == 2 {
                            columns[1] = next();
                        }
                        columns[2] = next();
                        let mut acc = bias;
                        for x in 0..3 {
                            for j in 0..4 {
                                acc[j] = $dpbusd(acc[j], columns[x][j], w[x][j]);
                            }
                        }
                        store(block, end, pixel, acc);
                        columns[0] = columns[STRIDE];
                        columns[1] = columns[2];
                    }
                }
            }

            /// # Safety
            /// The contract of [`Line`], of these lanes and windows of 5x5.
            #[allow(dead_code, reason = "not every width has the registers")]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn i8_depthwise_5x5_vnni(call: &Line<'_>) {
                // SAFETY: the same contract.
                unsafe {
                    if call.stride == 1 {
                        i8_depthwise_5x5_sliding_vnni::<1>(call)
                    } else {
                        i8_depthwise_5x5_sliding_vnni::<2>(call)
                    }
                }
            }

            /// Four rows of each column stand in quads. Of the last row, four taps do: each new one pushes the oldest
            /// out, which has its own product before.
            ///
            /// # Safety
            /// The contract of [`Line`], of these lanes and windows of 5x5, whose stride is `STRIDE`.
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn i8_depthwise_5x5_sliding_vnni<const STRIDE: usize>(call: &Line<'_>) {
                let (block, end) = (&call.block, end(&call.block));
                // SAFETY: seven groups of four vectors of weights; each column of each pixel has a readable vector in
                // each row.
                unsafe {
                    let add = |acc: &mut [$vector; 4], quads: &[$vector; 4], group: usize| {
                        for j in 0..4 {
                            let w = $load(block.weights.add((group * 4 + j) * BYTES).cast());
                            acc[j] = $dpbusd(acc[j], quads[j], w);
                        }
                    };
                    let mut rows = call.columns::<5>();
                    let mut next = |last: &mut [$vector; 4]| {
                        let [a, b, c, d, e] = rows().map(|row| $load(row.cast()));
                        let fresh = interleave([$zero(), $zero(), $zero(), e]);
                        for j in 0..4 {
                            last[j] = $or($shift::<8>(last[j]), fresh[j]);
                        }
                        interleave([a, b, c, d])
                    };
                    let (mut columns, mut last) = ([[$zero(); 4]; 5], [$zero(); 4]);
                    // One by one, so that columns stay in registers.
                    if STRIDE == 1 {
                        columns[1] = next(&mut last);
                    }
                    columns[2] = next(&mut last);
                    columns[3] = next(&mut last);
                    columns[4] = next(&mut last);
                    for pixel in 0..block.pixels {
                        let mut acc = bias(block);
                        columns[0] = columns[STRIDE];
                        columns[1] = columns[STRIDE + 1];
                        columns[2] = columns[STRIDE + 2];
                        if STRIDE == 1 {
                            columns[3] = columns[4];
                        } else {
                            columns[3] = next(&mut last);
                        }
                        add(&mut acc, &last, 6);
                        columns[4] = next(&mut last);
                        add(&mut acc, &columns[0], 0);
                        add(&mut acc, &columns[1], 1);
                        add(&mut acc, &columns[2], 2);
                        add(&mut acc, &columns[3], 3);
                        add(&mut acc, &columns[4], 4);
                        add(&mut acc, &last, 5);
                        store(block, end, pixel, acc);
                    }
                }
            }

            /// Four taps, each channel's side by side.
            #[inline]
            #[target_feature(enable = $features)]
            fn interleave(taps: [$vector; 4]) -> [$vector; 4] {
                let first = [$low8(taps[0], taps[1]), $high8(taps[0], taps[1])];
                let second = [$low8(taps[2], taps[3]), $high8(taps[2], taps[3])];
                [
                    $low16(first[0], second[0]),
                    $high16(first[0], second[0]),
                    $low16(first[1], second[1]),
                    $high16(first[1], second[1]),
                ]
            }

            /// # Safety
            /// The contract of [`Block`], of these lanes.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn bias(block: &Block<'_>) -> [$vector; 4] {
                let mut acc = [$zero(); 4];
                for (j, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: four vectors.
                    *acc = unsafe { $load(block.bias.add(j * BYTES / 4).cast()) };
                }
                acc
            }

            /// What is added to words, and the bounds of bytes.
            #[inline]
            #[target_feature(enable = $features)]
            fn end(block: &Block<'_>) -> [$vector; 3] {
                let finish = block.finish;
                [$set16(finish.zero_point), $set8(finish.lo.cast_signed()), $set8(finish.hi.cast_signed())]
            }

            /// # Safety
            /// The contract of [`Block`], of these lanes; `pixel` is one of its pixels.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn store(block: &Block<'_>, [zero_point, lo, hi]: [$vector; 3], pixel: usize, acc: [$vector; 4]) {
                let mut q = acc;
                for (j, q) in q.iter_mut().enumerate() {
                    // SAFETY: four vectors of multipliers.
                    let m = unsafe { $load_float(block.multipliers.add(j * BYTES / 4)) };
                    *q = $int($mul($float(*q), m));
                }
                let low = $adds($packs(q[0], q[1]), zero_point);
                let high = $adds($packs(q[2], q[3]), zero_point);
                let bytes = $min($max($packus(low, high), lo), hi);
                // SAFETY: `output` is writable for `channels` bytes at each pixel, and no more is stored.
                unsafe {
                    let to = block.output.add(pixel * block.row_stride);
                    if block.channels == BYTES {
                        $store(to.cast(), bytes);
                    } else {
                        $partial(to, block.channels, bytes);
                    }
                }
            }
        }
    };
}

kernels!(
    zmm,
    "avx512f,avx512bw,avx512vl,avx512vnni",
    __m512i,
    4,
    _mm512_dpbusd_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    mask_512,
    _mm512_unpacklo_epi8,
    _mm512_unpackhi_epi8,
    _mm512_unpacklo_epi16,
    _mm512_unpackhi_epi16,
    _mm512_setzero_si512,
    _mm512_packs_epi32,
    _mm512_packus_epi16,
    _mm512_adds_epi16,
    _mm512_set1_epi16,
    _mm512_max_epu8,
    _mm512_set1_epi8,
    _mm512_cvtepi32_ps,
    _mm512_mul_ps,
    _mm512_min_epu8,
    _mm512_loadu_ps,
    _mm512_cvtps_epi32,
    _mm512_srli_epi32,
    _mm512_or_si512
);
macro_rules! kernels_256 {
    ($name:ident, $features:literal, $dpbusd:ident, $partial:ident) => {
        kernels!(
            $name,
            $features,
            __m256i,
            2,
            $dpbusd,
            _mm256_loadu_si256,
            _mm256_storeu_si256,
            $partial,
            _mm256_unpacklo_epi8,
            _mm256_unpackhi_epi8,
            _mm256_unpacklo_epi16,
            _mm256_unpackhi_epi16,
            _mm256_setzero_si256,
            _mm256_packs_epi32,
            _mm256_packus_epi16,
            _mm256_adds_epi16,
            _mm256_set1_epi16,
            _mm256_max_epu8,
            _mm256_set1_epi8,
            _mm256_cvtepi32_ps,
            _mm256_mul_ps,
            _mm256_min_epu8,
            _mm256_loadu_ps,
            _mm256_cvtps_epi32,
            _mm256_srli_epi32,
            _mm256_or_si256
        );
    };
}
macro_rules! kernels_128 {
    ($name:ident, $features:literal, $dpbusd:ident, $partial:ident) => {
        kernels!(
            $name,
            $features,
            __m128i,
            1,
            $dpbusd,
            _mm_loadu_si128,
            _mm_storeu_si128,
            $partial,
            _mm_unpacklo_epi8,
            _mm_unpackhi_epi8,
            _mm_unpacklo_epi16,
            _mm_unpackhi_epi16,
            _mm_setzero_si128,
            _mm_packs_epi32,
            _mm_packus_epi16,
            _mm_adds_epi16,
            _mm_set1_epi16,
            _mm_max_epu8,
            _mm_set1_epi8,
            _mm_cvtepi32_ps,
            _mm_mul_ps,
            _mm_min_epu8,
            _mm_loadu_ps,
            _mm_cvtps_epi32,
            _mm_srli_epi32,
            _mm_or_si128
        );
    };
}
kernels_256!(ymm, "avx512f,avx512bw,avx512vl,avx512vnni", _mm256_dpbusd_epi32, mask_256);
kernels_128!(xmm, "avx512f,avx512bw,avx512vl,avx512vnni", _mm_dpbusd_epi32, mask_128);
kernels_256!(ymm_vex, "avx2,fma,avxvnni", _mm256_dpbusd_avx_epi32, copy_256);
kernels_128!(xmm_vex, "avx2,fma,avxvnni", _mm_dpbusd_avx_epi32, copy_128);
