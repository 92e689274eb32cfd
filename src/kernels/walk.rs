#![allow(unsafe_code, reason = "loops compiled for instructions that were found")]
//! The calls of a microkernel that cover one tile of a product.
//!
//! Invariant: a [`Walk`] exists only for a source that reaches as far as the tile does, and its steps partition the tile.
//! Strips of output channels outside, rows inside, so that a strip's weights stay in the first-level cache.

use std::ops::Range;

use super::gemm::{Gemm, MAX_COLUMNS, MAX_ROWS, Rows, Source};
use super::here::by_isa;
use super::indirect::PADDING;

/// The calls that cover a tile, strips outside, rows inside.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    gemm: &'a Gemm,
    pub source: &'a Source<'a>,
    rows: Range<usize>,
    end: usize,
    row: usize,
    column: usize,
    /// Rows in a call.
    most: usize,
    /// By how much the input's zero point differs from the packed one.
    pub shift: i32,
    /// The accumulators' first values where the bias alone does not do.
    pub init: [i32; MAX_ROWS * MAX_COLUMNS],
    /// What rows of `init` begin with, for the strip that `corrected` names.
    base: [i32; MAX_COLUMNS],
    corrected: Option<usize>,
}

/// One call's part of the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
}

impl<'a> Walk<'a> {
    /// At most `most` rows at a time. Panics unless the source reaches as far as the rows do.
    pub(super) fn new(
        gemm: &'a Gemm,
        source: &'a Source<'a>,
        rows: Range<usize>,
        columns: Range<usize>,
        most: usize,
    ) -> Self {
        let (reach, nr) = (gemm.row_reach(), gemm.tier.pack.nr);
        assert!(columns.end <= gemm.packed.n, "columns {columns:?} of {} channels", gemm.packed.n);
        assert!(columns.start.is_multiple_of(nr), "column {} is inside of a strip of {nr}", columns.start);
        match source.rows {
            Rows::Direct { stride } => {
                assert!(gemm.packed.taps == 1, "rows without a map for {} taps", gemm.packed.taps);
                let start = rows.end.saturating_sub(1).checked_mul(stride).filter(|&start| start < u32::MAX as usize);
                let needed = start.map_or(usize::MAX, |start| start.saturating_add(reach));
                let length = source.data.len();
                assert!(rows.is_empty() || needed <= length, "input of {length} bytes, {needed} needed (with slack)");
            }
            Rows::Indirect { map, padding } => {
                assert!(map.taps() == gemm.packed.taps, "{} taps for {}", map.taps(), gemm.packed.taps);
                assert!(rows.end <= map.pixels(), "rows {rows:?} of {} pixels", map.pixels());
                map.check(source.data, padding, reach);
            }
        }
        let end = if rows.is_empty() { columns.start } else { columns.end };
        let most = if gemm.packed.zero_points.is_empty() { most } else { most.min(MAX_ROWS) };
        Self {
            gemm,
            source,
            row: rows.start,
            rows,
            end,
            column: columns.start,
            most,
            shift: 0,
            init: [0; _],
            base: [0; _],
            corrected: None,
        }
    }

    pub(super) fn next_step(&mut self) -> Option<Step> {
        if self.column >= self.end {
            return None;
        }
        let tier = self.gemm.tier;
        let columns = (self.end - self.column).min(tier.pack.nr * tier.strips);
        let rows = (self.rows.end - self.row).min(self.most);
        let step = Step { row: self.row, rows, column: self.column, columns };
        self.row += rows;
        if self.row == self.rows.end {
            self.row = self.rows.start;
            self.column += columns;
        }
        Some(step)
    }

    pub(super) fn corrects(&self) -> bool {
        self.shift != 0 || !self.gemm.packed.zero_points.is_empty()
    }

    /// Whether each row begins with values of its own.
    pub(super) fn corrects_by_row(&self) -> bool {
        !self.gemm.packed.zero_points.is_empty()
    }

    /// Fills `init` where zero points are not in the bias: one row of it, or all.
    pub(super) fn correct(&mut self, step: &Step) {
        let packed = &self.gemm.packed;
        if self.corrected != Some(step.column) {
            let width = (packed.taps * packed.k) as i32;
            for (j, base) in self.base[..step.columns].iter_mut().enumerate() {
                let n = step.column + j;
                let zero = packed.zero_points.get(n).copied().unwrap_or(0);
                let shift = self.shift.wrapping_mul(packed.sums[n].wrapping_sub(width.wrapping_mul(zero)));
                *base = packed.bias[n].wrapping_sub(shift);
            }
            self.init[..MAX_COLUMNS].copy_from_slice(&self.base);
            self.corrected = Some(step.column);
        }
        if self.corrects_by_row() {
            for r in 0..step.rows {
                let sum = self.row_sum(step.row + r);
                let init = &mut self.init[r * MAX_COLUMNS..][..step.columns];
                let zeros = &packed.zero_points[step.column..];
                for ((init, &base), &zero) in init.iter_mut().zip(&self.base).zip(zeros) {
                    *init = base.wrapping_sub(zero.wrapping_mul(sum));
                }
            }
        }
    }

    /// The sum of a row's inputs, as the kernel multiplies them.
    fn row_sum(&self, row: usize) -> i32 {
        let packed = &self.gemm.packed;
        let storage = self.gemm.storage;
        let (k, data) = (packed.k, self.source.data);
        let mut sum = 0;
        match self.source.rows {
            Rows::Direct { stride } => {
                add_up(self.gemm.here, data, &[(row * stride) as u32], &[], k, storage.flip(), &mut sum)
            }
            Rows::Indirect { map, padding } => {
                let window = &map.offsets[row * packed.taps..][..packed.taps];
                add_up(self.gemm.here, data, window, padding, k, storage.flip(), &mut sum);
            }
        }
        sum.wrapping_add(storage.offset().wrapping_mul((packed.taps * k) as i32))
    }
}

by_isa! {
    /// The sum of `k` values at each offset.
    fn add_up(data: &[u8], offsets: &[u32], padding: &[u8], k: usize, flip: u8, sum: &mut i32) {
        for &offset in offsets {
            let values = if offset == PADDING { &padding[..k] } else { &data[offset as usize..][..k] };
            *sum = values.iter().fold(*sum, |sum, &byte| sum.wrapping_add(i32::from((byte ^ flip).cast_signed())));
        }
    }
}
