#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! Products of two computed sides of floats: attention. (By constant weights: `f32_conv`.)
//!
//! Invariant: a sum is one fused multiplication and addition after another in the order of k, from zero. No tier adds in
//! another order, so that all have the same bits.

use super::f32_block::Floats;
use super::here::{Loops, vectorized};
use super::isa::Isa;
use super::pack::PackError;
use super::tile::TileMut;

/// Lines of a right side that are at work at once: with the widest strip half of a small core's first cache.
const DEPTH: usize = 128;
/// Rows and columns of the largest tier's registers.
const MAX_ROWS: usize = 8;
const MAX_COLUMNS: usize = 32;

/// A part of a product, in registers from end to end.
struct Block {
    /// Rows `stride` values apart, `depth` values of each.
    left: *const f32,
    stride: usize,
    /// `[depth][columns of the tier]`
    strip: *const f32,
    depth: usize,
    /// `[rows][MAX_COLUMNS]`, added to.
    sums: *mut f32,
}

/// What an instruction set does of a product.
#[derive(Debug, Clone, Copy)]
struct Tier {
    rows: usize,
    columns: usize,
    /// # Safety
    /// The CPU has the instructions; the block's pointers reach as far as it says, for so many rows.
    run: unsafe fn(&Block, usize),
}

/// Defines a tier: a function for each number of rows, and the choice between them.
macro_rules! tier {
    ($name:ident, [$($features:literal)?], [$($rows:literal),+], $vectors:literal x $lanes:literal,
     $load:expr, $store:expr, $splat:expr, $fma:expr) => {
        mod $name {
            use super::*;

            pub(super) const TIER: Tier = Tier { rows: [$($rows),+][0], columns: $vectors * $lanes, run };

            /// # Safety
            /// The contract of [`Tier::run`].
            unsafe fn run(block: &Block, rows: usize) {
                match rows {
                    // SAFETY: the same contract.
                    $($rows => unsafe { block_of::<$rows>(block) },)+
                    _ => unreachable!("{rows} rows"),
                }
            }

            /// # Safety
            /// The contract of [`Tier::run`].
            $(#[target_feature(enable = $features)])?
            unsafe fn block_of<const MR: usize>(block: &Block) {
                // SAFETY: `left` has MR rows of `depth` values, the strip `depth` lines, `sums` MR rows.
                unsafe {
                    let mut sums = [[$load(block.sums); $vectors]; MR];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        for (vector, sum) in sums.iter_mut().enumerate() {
                            *sum = $load(block.sums.add(row * MAX_COLUMNS + vector * $lanes));
                        }
                    }
                    for k in 0..block.depth {
                        let line = block.strip.add(k * $vectors * $lanes);
                        let mut right = [$load(line); $vectors];
                        for (vector, right) in right.iter_mut().enumerate() {
                            *right = $load(line.add(vector * $lanes));
                        }
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let left = $splat(*block.left.add(row * block.stride + k));
                            for (sum, right) in sums.iter_mut().zip(right) {
                                *sum = $fma(left, right, *sum);
                            }
                        }
                    }
                    for (row, sums) in sums.into_iter().enumerate() {
                        for (vector, sum) in sums.into_iter().enumerate() {
                            $store(block.sums.add(row * MAX_COLUMNS + vector * $lanes), sum);
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
    avx512, ["avx512f"], [8, 7, 6, 5, 4, 3, 2, 1], 2 x 16,
    (|p: *const f32| _mm512_loadu_ps(p)), (|p: *mut f32, v| _mm512_storeu_ps(p, v)),
    (|x| _mm512_set1_ps(x)), (|a, b, c| _mm512_fmadd_ps(a, b, c))
);
#[cfg(target_arch = "x86_64")]
tier!(
    avx2, ["avx2,fma"], [6, 5, 4, 3, 2, 1], 2 x 8,
    (|p: *const f32| _mm256_loadu_ps(p)), (|p: *mut f32, v| _mm256_storeu_ps(p, v)),
    (|x| _mm256_set1_ps(x)), (|a, b, c| _mm256_fmadd_ps(a, b, c))
);
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

#[cfg(target_arch = "aarch64")]
tier!(
    neon, ["neon"], [8, 7, 6, 5, 4, 3, 2, 1], 2 x 4,
    (|p: *const f32| vld1q_f32(p)), (|p: *mut f32, v| vst1q_f32(p, v)),
    (|x| x), (|a, b, c| vfmaq_n_f32(c, b, a))
);
tier!(
    scalar, [], [4, 3, 2, 1], 8 x 1,
    (|p: *const f32| p.read()), (|p: *mut f32, v| p.write(v)),
    (|x: f32| x), (|a: f32, b: f32, c: f32| a.mul_add(b, c))
);

impl Tier {
    fn of(isa: Isa) -> Result<Self, PackError> {
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

/// `[M][K]` times `[K][N]`, both floats.
#[derive(Debug, Clone, Copy)]
pub struct FloatProduct {
    isa: Isa,
    tier: Tier,
    k: usize,
    n: usize,
}

impl FloatProduct {
    /// # Errors
    /// If this CPU lacks `isa`.
    pub fn new(isa: Isa, [k, n]: [usize; 2]) -> Result<Self, PackError> {
        Ok(Self { isa, tier: Tier::of(isa)?, k, n })
    }

    /// Rows and columns that tiles best begin at multiples of.
    pub fn steps(&self) -> [usize; 2] {
        [self.tier.rows, self.tier.columns]
    }

    /// Computes one tile; `left` begins at row 0 of the whole output.
    ///
    /// # Panics
    /// If a side is too short, or the tile lies outside of the product.
    pub fn run(&self, left: &[f32], right: &[f32], output: &mut TileMut<'_, f32>) {
        assert!(right.len() >= self.k * self.n, "{} values of a right side", right.len());
        vectorized(self.isa, Multiply { tier: &self.tier, left, k: self.k, n: self.n, right, output });
    }
}

/// A tile of a product: strip by strip, and of each a block of lines at a time.
struct Multiply<'a, 'o> {
    tier: &'a Tier,
    left: &'a [f32],
    k: usize,
    n: usize,
    right: &'a [f32],
    output: &'a mut TileMut<'o, f32>,
}

impl Loops for Multiply<'_, '_> {
    #[inline(always)]
    fn run(self) {
        let Self { tier, left, k, n, right, output } = self;
        let (rows, columns) = (output.rows(), output.columns());
        assert!(columns.end <= n, "columns {columns:?} of {n}");
        assert!(rows.end.checked_mul(k).is_some_and(|needed| needed <= left.len()), "rows {rows:?} of the left side");
        let mut strip = [0.0_f32; DEPTH * MAX_COLUMNS];
        for column in columns.clone().step_by(tier.columns) {
            let width = tier.columns.min(columns.end - column);
            for start in (0..k.max(1)).step_by(DEPTH) {
                let depth = DEPTH.min(k - start);
                for (line, to) in strip.chunks_exact_mut(tier.columns).take(depth).enumerate() {
                    to[..width].copy_from_slice(&right[(start + line) * n + column..][..width]);
                }
                for row in rows.clone().step_by(tier.rows) {
                    let count = tier.rows.min(rows.end - row);
                    let mut sums = [[0.0_f32; MAX_COLUMNS]; MAX_ROWS];
                    if start > 0 {
                        let lines = sums.iter_mut().take(count).enumerate();
                        lines.for_each(|(i, sums)| sums[..width].copy_from_slice(of(output, row + i, column, width)));
                    }
                    let block = Block {
                        left: left[row * k + start..].as_ptr(),
                        stride: k,
                        strip: strip.as_ptr(),
                        depth,
                        sums: sums.as_flattened_mut().as_mut_ptr(),
                    };
                    // SAFETY: `Tier::of` found the CPU to have it; `left` was found to hold all rows, of each of which
                    // `depth` values follow `start`; the strip holds DEPTH lines, `sums` MAX_ROWS.
                    unsafe { (tier.run)(&block, count) };
                    for (i, sums) in sums.iter_mut().take(count).enumerate() {
                        of(output, row + i, column, width).copy_from_slice(&sums[..width]);
                    }
                }
            }
        }
    }
}

/// A part of a tile's row; the column counts in the whole output.
#[inline(always)]
fn of<'a>(output: &'a mut TileMut<'_, f32>, row: usize, column: usize, width: usize) -> &'a mut [f32] {
    let first = output.columns().start;
    &mut output.row(row)[column - first..][..width]
}
