#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! Sums of products of floats for some pixels and columns, in registers (see `f32_conv`).
//!
//! Invariant: what `f32_conv` states of the order of a sum holds for each tier.

use super::indirect::PADDING;
use super::isa::Isa;
use super::pack::PackError;

/// Columns of the largest tier's registers.
pub(super) const MAX_COLUMNS: usize = 32;

/// Rows of a strip's columns, in registers from the first product of a block to the last.
pub(super) struct Block {
    pub input: *const f32,
    /// `[row][all taps]`, or null, where row i begins at `i * stride`.
    pub offsets: *const u32,
    pub all_taps: usize,
    pub stride: usize,
    /// What a tap in the padding reads.
    pub zeros: *const f32,
    pub rows: usize,
    /// Which taps, and of each which channels.
    pub first_tap: usize,
    pub taps: usize,
    pub channel: usize,
    pub depth: usize,
    /// `[taps][depth][columns of the tier]`
    pub strip: *const f32,
    /// Nothing was added before; nothing will be.
    pub begins: bool,
    pub ends: bool,
    /// A value for each column of the tier, or null.
    pub scales: *const f32,
    pub bias: *const f32,
    pub bounds: Option<[f32; 2]>,
    pub output: *mut f32,
    pub row_stride: usize,
    pub width: usize,
}

impl Block {
    /// Where a row's tap begins.
    ///
    /// # Safety
    /// Row and tap are the block's.
    #[inline(always)]
    unsafe fn pixel(&self, row: usize, tap: usize) -> *const f32 {
        // SAFETY: by the contract; offsets are inside of the input.
        unsafe {
            if self.offsets.is_null() {
                return self.input.add(row * self.stride + self.channel);
            }
            match *self.offsets.add(row * self.all_taps + tap) {
                PADDING => self.zeros,
                offset => self.input.add(offset as usize + self.channel),
            }
        }
    }
}

/// What an instruction set does of a product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tier {
    pub rows: usize,
    pub columns: usize,
    /// # Safety
    /// The CPU has the instructions; the block's pointers reach as far as it says, the output for `width` columns.
    pub run: unsafe fn(&Block),
}

/// Defines a tier: rows and vectors in registers, and what its vectors are.
macro_rules! tier {
    ($name:ident, [$($features:literal)?], [$most:literal, $($rows:literal),+],
     [$few:literal, $many:literal] x $lanes:literal of $vector:ty, $load:expr, $store:expr, $store_some:expr,
     $splat:expr, $left:expr, $fma:expr, $mul:expr, $add:expr, $max:expr, $min:expr) => {
        mod $name {
            use super::*;

            const WIDTH: usize = $many * $lanes;
            pub(super) const TIER: Tier = Tier { rows: $most, columns: WIDTH, run };

            /// # Safety
            /// The contract of [`Tier::run`].
            unsafe fn run(block: &Block) {
                // SAFETY: the same contract.
                unsafe {
                    if block.width <= $few * $lanes { all_rows::<$few>(block) } else { all_rows::<$many>(block) }
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`].
            $(#[target_feature(enable = $features)])?
            unsafe fn all_rows<const V: usize>(block: &Block) {
                let mut row = 0;
                // SAFETY: the rows are the block's.
                unsafe {
                    while row + $most <= block.rows {
                        some_rows::<$most, V>(block, row);
                        row += $most;
                    }
                    match block.rows - row {
                        $($rows => some_rows::<$rows, V>(block, row),)+
                        _ => {}
                    }
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`]; the block has the rows.
            #[inline]
            $(#[target_feature(enable = $features)])?
            unsafe fn some_rows<const R: usize, const V: usize>(block: &Block, row: usize) {
                // SAFETY: by the contract: each pixel has `depth` values, the strip as many lines for each tap.
                unsafe {
                    let mut sums = [[$splat(0.0); V]; R];
                    if !block.begins {
                        for (i, sums) in sums.iter_mut().enumerate() {
                            *sums = read::<V>(block, row + i);
                        }
                    }
                    let mut strip = block.strip;
                    for tap in block.first_tap..block.first_tap + block.taps {
                        let mut from = [block.input; R];
                        for (i, from) in from.iter_mut().enumerate() {
                            *from = block.pixel(row + i, tap);
                        }
                        for k in 0..block.depth {
                            let mut right = [$splat(0.0); V];
                            for (vector, right) in right.iter_mut().enumerate() {
                                *right = $load(strip.add(vector * $lanes));
                            }
                            strip = strip.add(WIDTH);
                            for (from, sums) in from.iter().zip(&mut sums) {
                                let left = $left(from.add(k));
                                for (sum, right) in sums.iter_mut().zip(right) {
                                    *sum = $fma(left, right, *sum);
                                }
                            }
                        }
                    }
                    // By value: whose address is known is written to memory in each turn of the loop.
                    let sums = if block.ends { end::<R, V>(block, sums) } else { sums };
                    for (i, sums) in sums.iter().enumerate() {
                        write::<V>(block, row + i, sums);
                    }
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`].
            #[inline]
            $(#[target_feature(enable = $features)])?
            unsafe fn end<const R: usize, const V: usize>(block: &Block, sums: [[$vector; V]; R]) -> [[$vector; V]; R] {
                let mut sums = sums;
                for vector in 0..V {
                    // SAFETY: scales and biases have a value for each column of the tier.
                    unsafe {
                        if !block.scales.is_null() {
                            let scale = $load(block.scales.add(vector * $lanes));
                            sums.iter_mut().for_each(|sums| sums[vector] = $mul(sums[vector], scale));
                        }
                        if !block.bias.is_null() {
                            let bias = $load(block.bias.add(vector * $lanes));
                            sums.iter_mut().for_each(|sums| sums[vector] = $add(sums[vector], bias));
                        }
                    }
                }
                if let Some([low, high]) = block.bounds {
                    let [low, high] = [$splat(low), $splat(high)];
                    sums.as_flattened_mut().iter_mut().for_each(|sum| *sum = $min($max(*sum, low), high));
                }
                sums
            }

            /// # Safety
            /// The contract of [`Tier::run`]; the block has the row.
            #[inline]
            $(#[target_feature(enable = $features)])?
            unsafe fn read<const V: usize>(block: &Block, row: usize) -> [$vector; V] {
                // SAFETY: `width` values of the row are there, and MAX_COLUMNS in the buffer.
                unsafe {
                    let mut buffer = [0.0_f32; MAX_COLUMNS];
                    let from = block.output.add(row * block.row_stride);
                    std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), block.width);
                    let mut values = [$splat(0.0); V];
                    for (vector, value) in values.iter_mut().enumerate() {
                        *value = $load(buffer.as_ptr().add(vector * $lanes));
                    }
                    values
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`]; the block has the row.
            #[inline]
            $(#[target_feature(enable = $features)])?
            unsafe fn write<const V: usize>(block: &Block, row: usize, values: &[$vector; V]) {
                // SAFETY: as of `read`.
                unsafe {
                    let to = block.output.add(row * block.row_stride);
                    for (vector, value) in values.iter().enumerate() {
                        let start = vector * $lanes;
                        match block.width.saturating_sub(start) {
                            0 => {}
                            some if some < $lanes => $store_some(to.add(start), *value, some),
                            _ => $store(to.add(start), *value),
                        }
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Masks of the first lanes, by where they are read.
#[cfg(target_arch = "x86_64")]
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(target_arch = "x86_64")]
tier!(
    avx512, ["avx512f"], [8, 7, 6, 5, 4, 3, 2, 1], [1, 2] x 16 of __m512, (|p: *const f32| _mm512_loadu_ps(p)),
    (|p: *mut f32, v| _mm512_storeu_ps(p, v)),
    (|p: *mut f32, v, some: usize| _mm512_mask_storeu_ps(p, ((1_u32 << some) - 1) as __mmask16, v)),
    (|x| _mm512_set1_ps(x)), (|p: *const f32| _mm512_set1_ps(*p)),
    (|a, b, c| _mm512_fmadd_ps(a, b, c)), (|a, b| _mm512_mul_ps(a, b)), (|a, b| _mm512_add_ps(a, b)),
    (|a, b| _mm512_max_ps(a, b)), (|a, b| _mm512_min_ps(a, b))
);
#[cfg(target_arch = "x86_64")]
tier!(
    avx2, ["avx2,fma"], [6, 5, 4, 3, 2, 1], [1, 2] x 8 of __m256, (|p: *const f32| _mm256_loadu_ps(p)),
    (|p: *mut f32, v| _mm256_storeu_ps(p, v)),
    (|p: *mut f32, v, some: usize| {
        let mask = _mm256_loadu_si256(FIRST.as_ptr().add(8 - some).cast());
        _mm256_maskstore_ps(p, mask, v)
    }), (|x| _mm256_set1_ps(x)), (|p: *const f32| _mm256_set1_ps(*p)),
    (|a, b, c| _mm256_fmadd_ps(a, b, c)), (|a, b| _mm256_mul_ps(a, b)), (|a, b| _mm256_add_ps(a, b)),
    (|a, b| _mm256_max_ps(a, b)), (|a, b| _mm256_min_ps(a, b))
);
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

#[cfg(target_arch = "aarch64")]
tier!(
    neon, ["neon"], [8, 7, 6, 5, 4, 3, 2, 1], [1, 2] x 4 of float32x4_t, (|p: *const f32| vld1q_f32(p)),
    (|p: *mut f32, v| vst1q_f32(p, v)),
    (|p: *mut f32, v, some: usize| {
        let mut lanes = [0.0_f32; 4];
        vst1q_f32(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, some);
    }), (|x| vdupq_n_f32(x)), (|p: *const f32| *p),
    (|a, b, c| vfmaq_n_f32(c, b, a)), (|a, b| vmulq_f32(a, b)), (|a, b| vaddq_f32(a, b)),
    (|a, b| vmaxnmq_f32(a, b)), (|a, b| vminnmq_f32(a, b))
);
tier!(
    scalar, [], [4, 3, 2, 1], [4, 8] x 1 of f32, (|p: *const f32| p.read()),
    (|p: *mut f32, v: f32| p.write(v)),
    (|p: *mut f32, v: f32, _some: usize| p.write(v)), (|x: f32| x), (|p: *const f32| p.read()),
    (|a: f32, b: f32, c: f32| a.mul_add(b, c)), (|a: f32, b: f32| a * b), (|a: f32, b: f32| a + b),
    (|a: f32, b: f32| a.max(b)), (|a: f32, b: f32| a.min(b))
);

/// The instructions that loops of floats are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Floats {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Floats {
    /// Those of a tier that this CPU has.
    pub(super) fn of(isa: Isa) -> Result<Self, PackError> {
        if !isa.is_available() {
            return Err(PackError::Isa { isa });
        }
        Ok(match isa {
            Isa::Scalar => Self::Scalar,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Self::Avx512,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::Dotprod | Isa::I8mm => Self::Neon,
            #[cfg(target_arch = "x86_64")]
            Isa::Neon | Isa::Dotprod | Isa::I8mm => return Err(PackError::Isa { isa }),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => return Err(PackError::Isa { isa }),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            Isa::Neon | Isa::Dotprod | Isa::I8mm => return Err(PackError::Isa { isa }),
        })
    }
}

impl Tier {
    pub(super) fn of(isa: Isa) -> Result<Self, PackError> {
        Ok(match Floats::of(isa)? {
            Floats::Scalar => scalar::TIER,
            #[cfg(target_arch = "x86_64")]
            Floats::Avx2 => avx2::TIER,
            #[cfg(target_arch = "x86_64")]
            Floats::Avx512 => avx512::TIER,
            #[cfg(target_arch = "aarch64")]
            Floats::Neon => neon::TIER,
        })
    }
}
