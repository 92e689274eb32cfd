//! The calls of a microkernel that cover one tile of a product.
//!
//! Invariant: a [`Walk`] exists only for a source that reaches as far as the tile does, and its steps partition the tile.
//! Strips of output channels outside, rows inside, so that a strip's weights stay in the first-level cache.

use std::ops::Range;

use super::gemm::{Gemm, MAX_COLUMNS, MAX_ROWS, Rows, Source};
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
        Self { gemm, source, row: rows.start, rows, end, column: columns.start, most, shift: 0, init: [0; _] }
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

    /// Fills `init` where zero points are not in the bias.
    pub(super) fn correct(&mut self, step: &Step) {
        let packed = &self.gemm.packed;
        let width = (packed.taps * packed.k) as i32;
        for r in 0..step.rows {
            let sum = if packed.zero_points.is_empty() { 0 } else { self.row_sum(step.row + r) };
            for j in 0..step.columns {
                let n = step.column + j;
                let zero = packed.zero_points.get(n).copied().unwrap_or(0);
                let shift = self.shift.wrapping_mul(packed.sums[n].wrapping_sub(width.wrapping_mul(zero)));
                self.init[r * MAX_COLUMNS + j] =
                    packed.bias[n].wrapping_sub(zero.wrapping_mul(sum)).wrapping_sub(shift);
            }
        }
    }

    /// The sum of a row's inputs, as the kernel multiplies them.
    fn row_sum(&self, row: usize) -> i32 {
        let packed = &self.gemm.packed;
        let storage = self.gemm.storage;
        let sum = |values: &[u8]| {
            values[..packed.k]
                .iter()
                .fold(0_i32, |sum, &byte| sum.wrapping_add(i32::from(storage.value(byte)) + storage.offset()))
        };
        match self.source.rows {
            Rows::Direct { stride } => sum(&self.source.data[row * stride..]),
            Rows::Indirect { map, padding } => (0..packed.taps)
                .map(|tap| match map.offsets[row * packed.taps + tap] {
                    PADDING => sum(padding),
                    offset => sum(&self.source.data[offset as usize..]),
                })
                .fold(0, i32::wrapping_add),
        }
    }
}
