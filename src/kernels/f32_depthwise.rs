#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! Depthwise convolutions of floats in NHWC: each channel by a window of its own.
//!
//! Invariant: sums, scales, biases and bounds as `f32_conv` states them, of one channel; but a tap in the padding is passed
//! over, for in small images most taps are.
//! Some pixels and up to four vectors of channels are in registers at once. The last vector of a pixel ends with its
//! last channel: it computes some channels a second time, to the same bits, instead of reading beyond them.
//! Weights of int8 become floats here: there are few of them.

use super::f32_conv::F32Weights;
use super::indirect::{Indirection, PADDING};
use super::isa::Isa;
use super::pack::{Lines, PackError, check_multipliers, spread};
use super::shared::SharedWeights;
use super::tile::TileMut;

/// Pixels of all channels of a tile's rows.
struct Block {
    input: *const f32,
    /// `[pixel][tap]`
    offsets: *const u32,
    taps: usize,
    pixels: usize,
    channels: usize,
    /// `[tap][channel]`
    weights: *const f32,
    /// A value for each channel, or null.
    scales: *const f32,
    bias: *const f32,
    bounds: Option<[f32; 2]>,
    output: *mut f32,
    row_stride: usize,
}

#[derive(Debug, Clone, Copy)]
struct Tier {
    lanes: usize,
    /// # Safety
    /// The CPU has the instructions; the block's pointers reach as far as it says; channels are at least a vector.
    run: unsafe fn(&Block),
}

/// Defines a tier: pixels and vectors in registers, and what its vectors are.
macro_rules! tier {
    ($name:ident, [$($features:literal)?], $pixels:literal x $lanes:literal of $vector:ty, $load:expr, $store:expr,
     $splat:expr, $fma:expr, $mul:expr, $add:expr, $max:expr, $min:expr) => {
        mod $name {
            use super::*;

            pub(super) const TIER: Tier = Tier { lanes: $lanes, run };

            /// # Safety
            /// The contract of [`Tier::run`].
            $(#[target_feature(enable = $features)])?
            unsafe fn run(block: &Block) {
                let mut pixel = 0;
                // SAFETY: the pixels are the block's.
                unsafe {
                    while pixel + $pixels <= block.pixels {
                        some_pixels::<$pixels>(block, pixel);
                        pixel += $pixels;
                    }
                    while pixel < block.pixels {
                        some_pixels::<1>(block, pixel);
                        pixel += 1;
                    }
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`]; the block has the pixels.
            #[inline]
            $(#[target_feature(enable = $features)])?
            unsafe fn some_pixels<const P: usize>(block: &Block, pixel: usize) {
                let mut channel = 0;
                // SAFETY: vectors end with the last channel at the latest.
                unsafe {
                    while channel + 4 * $lanes <= block.channels {
                        part::<P, 4>(block, pixel, channel);
                        channel += 4 * $lanes;
                    }
                    if channel + 2 * $lanes <= block.channels {
                        part::<P, 2>(block, pixel, channel);
                        channel += 2 * $lanes;
                    }
                    if block.channels - channel >= $lanes {
                        part::<P, 1>(block, pixel, channel);
                        channel += $lanes;
                    }
                    if channel < block.channels {
                        part::<P, 1>(block, pixel, block.channels - $lanes);
                    }
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`]; the block has the pixels and the channels of so many vectors.
            #[inline]
            $(#[target_feature(enable = $features)])?
            unsafe fn part<const P: usize, const V: usize>(block: &Block, pixel: usize, channel: usize) {
                // SAFETY: by the contract; offsets are inside of the input.
                unsafe {
                    let mut sums = [[$splat(0.0); V]; P];
                    for tap in 0..block.taps {
                        let line = block.weights.add(tap * block.channels + channel);
                        let mut weights = [$splat(0.0); V];
                        for (vector, weights) in weights.iter_mut().enumerate() {
                            *weights = $load(line.add(vector * $lanes));
                        }
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let offset = *block.offsets.add((pixel + i) * block.taps + tap);
                            if offset == PADDING {
                                continue;
                            }
                            let from = block.input.add(offset as usize + channel);
                            for (vector, (sum, weights)) in sums.iter_mut().zip(weights).enumerate() {
                                *sum = $fma($load(from.add(vector * $lanes)), weights, *sum);
                            }
                        }
                    }
                    // By value: whose address is known is written to memory in each turn of the loop.
                    let mut made = sums;
                    for vector in 0..V {
                        let at = channel + vector * $lanes;
                        if !block.scales.is_null() {
                            let scale = $load(block.scales.add(at));
                            made.iter_mut().for_each(|sums| sums[vector] = $mul(sums[vector], scale));
                        }
                        if !block.bias.is_null() {
                            let bias = $load(block.bias.add(at));
                            made.iter_mut().for_each(|sums| sums[vector] = $add(sums[vector], bias));
                        }
                    }
                    if let Some([low, high]) = block.bounds {
                        let [low, high] = [$splat(low), $splat(high)];
                        made.as_flattened_mut().iter_mut().for_each(|sum| *sum = $min($max(*sum, low), high));
                    }
                    for (i, sums) in made.iter().enumerate() {
                        let to = block.output.add((pixel + i) * block.row_stride + channel);
                        for (vector, sum) in sums.iter().enumerate() {
                            $store(to.add(vector * $lanes), *sum);
                        }
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
tier!(
    avx512, ["avx512f"], 4 x 16 of __m512, (|p: *const f32| _mm512_loadu_ps(p)),
    (|p: *mut f32, v| _mm512_storeu_ps(p, v)), (|x| _mm512_set1_ps(x)), (|a, b, c| _mm512_fmadd_ps(a, b, c)),
    (|a, b| _mm512_mul_ps(a, b)), (|a, b| _mm512_add_ps(a, b)),
    (|a, b| _mm512_max_ps(a, b)), (|a, b| _mm512_min_ps(a, b))
);
#[cfg(target_arch = "x86_64")]
tier!(
    avx2, ["avx2,fma"], 2 x 8 of __m256, (|p: *const f32| _mm256_loadu_ps(p)),
    (|p: *mut f32, v| _mm256_storeu_ps(p, v)), (|x| _mm256_set1_ps(x)), (|a, b, c| _mm256_fmadd_ps(a, b, c)),
    (|a, b| _mm256_mul_ps(a, b)), (|a, b| _mm256_add_ps(a, b)),
    (|a, b| _mm256_max_ps(a, b)), (|a, b| _mm256_min_ps(a, b))
);
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

#[cfg(target_arch = "aarch64")]
tier!(
    neon, ["neon"], 4 x 4 of float32x4_t, (|p: *const f32| vld1q_f32(p)),
    (|p: *mut f32, v| vst1q_f32(p, v)), (|x| vdupq_n_f32(x)), (|a, b, c| vfmaq_f32(c, a, b)),
    (|a, b| vmulq_f32(a, b)), (|a, b| vaddq_f32(a, b)),
    (|a, b| vmaxnmq_f32(a, b)), (|a, b| vminnmq_f32(a, b))
);
tier!(
    scalar, [], 2 x 1 of f32, (|p: *const f32| p.read()),
    (|p: *mut f32, v: f32| p.write(v)), (|x: f32| x), (|a: f32, b: f32, c: f32| a.mul_add(b, c)),
    (|a: f32, b: f32| a * b), (|a: f32, b: f32| a + b),
    (|a: f32, b: f32| a.max(b)), (|a: f32, b: f32| a.min(b))
);

impl Tier {
    /// The widest whose vectors so many channels fill.
    fn of(isa: Isa, channels: usize) -> Result<Self, PackError> {
        if !isa.is_available() {
            return Err(PackError::Isa { isa });
        }
        let tiers: &[Self] = match isa {
            Isa::Scalar => &[],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => &[avx2::TIER],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni if Isa::Avx2.is_available() => &[avx512::TIER, avx2::TIER],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &[avx512::TIER],
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::Dotprod | Isa::I8mm => &[neon::TIER],
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon | Isa::Dotprod | Isa::I8mm => &[],
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => &[],
        };
        Ok(tiers.iter().copied().find(|tier| tier.lanes <= channels).unwrap_or(scalar::TIER))
    }
}

/// A depthwise convolution, ready to run.
#[derive(Debug, Clone)]
pub struct F32Depthwise {
    tier: Tier,
    channels: usize,
    taps: usize,
    /// `[tap][channel]`
    weights: Lines,
    /// Empty, or one for each channel.
    scales: Vec<f32>,
    bias: Vec<f32>,
    bounds: Option<[f32; 2]>,
}

impl F32Depthwise {
    /// Weights `[channel][tap]`; no bias, or one for each channel.
    ///
    /// # Errors
    /// If lengths disagree, a scale is not finite, or this CPU lacks `isa`.
    pub fn new(
        isa: Isa,
        weights: F32Weights<'_>,
        [channels, taps]: [usize; 2],
        bias: &[f32],
        bounds: Option<[f32; 2]>,
    ) -> Result<Self, PackError> {
        let wanted = channels.saturating_mul(taps);
        let (weights, scales) = match weights {
            F32Weights::Floats(values) => (values.to_vec(), Vec::new()),
            F32Weights::Bytes { values, zero_points, scales } => {
                let zeros = spread("weight zero points", zero_points, channels, 0)?;
                let scales = spread("scales", scales, channels, 1.0)?;
                check_multipliers(&scales)?;
                let float = |(i, &w): (usize, &i8)| f32::from(w) - f32::from(zeros[i / taps.max(1) % channels]);
                (values.iter().enumerate().map(float).collect(), scales)
            }
        };
        if weights.len() != wanted {
            return Err(PackError::Length { what: "weights", found: weights.len(), wanted });
        }
        let bias = if bias.is_empty() { Vec::new() } else { spread("bias", bias, channels, 0.0)? };
        let mut lines = Lines::zeroed(wanted * size_of::<f32>());
        for (i, weight) in weights.into_iter().enumerate() {
            lines.floats_mut()[i % taps * channels + i / taps] = weight;
        }
        Ok(Self { tier: Tier::of(isa, channels)?, channels, taps, weights: lines, scales, bias, bounds })
    }

    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + (self.scales.len() + self.bias.len()) * size_of::<f32>()
    }

    /// Has its weights in common with those that are equal.
    pub fn share(&mut self, with: &SharedWeights) {
        with.join(&mut self.weights);
    }

    /// Computes one tile, of all channels: rows are output pixels.
    ///
    /// # Panics
    /// If the map is of another kernel, the input is too short for it, or the tile has not all channels.
    pub fn run(&self, input: &[f32], map: &Indirection, output: &mut TileMut<'_, f32>) {
        let (rows, columns) = (output.rows(), output.columns());
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        assert!(columns == (0..self.channels), "columns {columns:?} of {} channels", self.channels);
        assert!(map.taps() == self.taps, "a map of {} taps for {}", map.taps(), self.taps);
        assert!(rows.end <= map.pixels(), "rows {rows:?} of {} pixels", map.pixels());
        map.check_floats(input, None, self.channels);
        let at = |values: &[f32]| if values.is_empty() { std::ptr::null() } else { values.as_ptr() };
        let block = Block {
            input: input.as_ptr(),
            offsets: map.offsets[rows.start * self.taps..].as_ptr(),
            taps: self.taps,
            pixels: rows.len(),
            channels: self.channels,
            weights: self.weights.floats().as_ptr(),
            scales: at(&self.scales),
            bias: at(&self.bias),
            bounds: self.bounds,
            row_stride: output.row_stride(),
            output: output.pointer(rows.start, 0),
        };
        // SAFETY: `check_floats` found the input to hold all channels of each pixel;
        // weights, scales and biases are as many as channels, rows and columns the tile's; `Tier::of` found the CPU to
        // have it, and its vectors to be no longer than the channels.
        unsafe { (self.tier.run)(&block) };
    }
}
