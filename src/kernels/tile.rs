#![allow(unsafe_code, reason = "threads write interleaved rectangles of one slice, which no `&mut [T]` can express")]
//! Rectangles of an output, handed out so that no two overlap.
//!
//! Invariant: a [`TileMut`] is the only way to its values for as long as it lives: it is made from a `&mut [T]`, splits
//! into disjoint parts, and a [`Grid`] gives each part away once.
//! Not here: what is computed into them.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows (pixels) times columns (channels) of an output whose rows lie `row_stride` values apart.
#[derive(Debug)]
pub struct TileMut<'a, T> {
    /// Row 0, column 0 of the whole output.
    origin: *mut T,
    row_stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    lives: PhantomData<&'a mut [T]>,
}

// SAFETY: a tile is an exclusive borrow of its values, which may be sent where the values may.
unsafe impl<T: Send> Send for TileMut<'_, T> {}

impl<'a, T> TileMut<'a, T> {
    /// All `rows` and `columns` of `data`. For a part of a wider tensor, as in a concatenation along the channels,
    /// begin the slice at its first channel.
    ///
    /// # Panics
    /// If `data` is too short, or rows overlap.
    pub fn new(data: &'a mut [T], rows: usize, row_stride: usize, columns: usize) -> Self {
        assert!(columns <= row_stride || rows <= 1, "rows of {columns} values overlap at a stride of {row_stride}");
        let needed = match rows {
            0 => Some(0),
            rows => (rows - 1).checked_mul(row_stride).and_then(|start| start.checked_add(columns)),
        };
        assert!(
            needed.is_some_and(|needed| needed <= data.len()),
            "{rows} rows of {columns} values {row_stride} apart do not fit into {}",
            data.len()
        );
        Self { origin: data.as_mut_ptr(), row_stride, rows: 0..rows, columns: 0..columns, lives: PhantomData }
    }

    /// The rows of this tile, counted in the whole output.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns of this tile, counted in the whole output.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The address of a value, which must stand in this tile.
    ///
    /// # Panics
    /// If it does not.
    pub(super) fn pointer(&mut self, row: usize, column: usize) -> *mut T {
        assert!(self.rows.contains(&row) && self.columns.contains(&column), "row {row}, column {column} not in tile");
        // SAFETY: `new` found every row and column of the whole output to be inside its slice.
        unsafe { self.origin.add(row * self.row_stride + column) }
    }

    /// The values of one of this tile's rows.
    ///
    /// # Panics
    /// If it has no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        let width = self.columns.len();
        if width == 0 {
            return &mut [];
        }
        let start = self.pointer(row, self.columns.start);
        // SAFETY: the row's columns lie in the slice that `new` checked; this tile borrows them exclusively.
        unsafe { std::slice::from_raw_parts_mut(start, width) }
    }

    /// Some columns of some rows as pieces that lie in one: all of them where rows follow one another without a gap.
    pub fn pieces(&mut self, rows: Range<usize>, columns: Range<usize>, mut of: impl FnMut(&mut [T])) {
        if columns.len() == self.row_stride && !rows.is_empty() && !columns.is_empty() {
            let count = rows.len() * columns.len();
            let start = self.pointer(rows.start, columns.start);
            self.pointer(rows.end - 1, columns.end - 1);
            // SAFETY: the first and the last value are in this tile, and so is what lies between, for rows have no gap.
            return of(unsafe { std::slice::from_raw_parts_mut(start, count) });
        }
        let first = self.columns.start;
        for row in rows {
            of(&mut self.row(row)[columns.start - first..columns.end - first]);
        }
    }

    /// Some rows at a time, one part after another.
    ///
    /// # Panics
    /// If that is none.
    pub fn by_rows(&mut self, high: usize, mut of: impl FnMut(&mut TileMut<'_, T>)) {
        for start in self.rows().step_by(high) {
            let rows = start..(start + high).min(self.rows.end);
            // Lent for as long as it is at work, while this one is not.
            of(&mut self.part(rows, self.columns.clone()));
        }
    }

    /// In two at a row, counted in the whole output.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        let at = at.clamp(self.rows.start, self.rows.end);
        let (above, below) = (self.rows.start..at, at..self.rows.end);
        (self.part(above, self.columns.clone()), self.part(below, self.columns.clone()))
    }

    /// In two at a column, counted in the whole output.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        let at = at.clamp(self.columns.start, self.columns.end);
        let (left, right) = (self.columns.start..at, at..self.columns.end);
        (self.part(self.rows.clone(), left), self.part(self.rows.clone(), right))
    }

    /// In parts of at most so many rows and columns, each of which is given away once.
    /// `columns` should be a multiple of the operator's `column_step`.
    ///
    /// # Panics
    /// If either is 0.
    pub fn grid(self, rows: usize, columns: usize) -> Grid<'a, T> {
        assert!(rows > 0 && columns > 0, "a grid of empty tiles");
        Grid { whole: self, rows, columns, next: AtomicUsize::new(0) }
    }

    /// Callers keep parts disjoint, or give up the tile that they were made from.
    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        Self { origin: self.origin, row_stride: self.row_stride, rows, columns, lives: PhantomData }
    }
}

/// The work on one output as a queue that threads share.
#[derive(Debug)]
pub struct Grid<'a, T> {
    whole: TileMut<'a, T>,
    rows: usize,
    columns: usize,
    next: AtomicUsize,
}

// SAFETY: threads that share a grid get disjoint tiles from it, and nothing else.
unsafe impl<T: Send> Sync for Grid<'_, T> {}

impl<'a, T> Grid<'a, T> {
    /// How many tiles there are in all.
    pub fn len(&self) -> usize {
        self.whole.rows.len().div_ceil(self.rows) * self.whole.columns.len().div_ceil(self.columns)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next tile that nobody has yet; column by column, so that neighbours in time share weights.
    pub fn take(&self) -> Option<TileMut<'a, T>> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.len() {
            self.next.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let deep = self.whole.rows.len().div_ceil(self.rows);
        let rows = cut(&self.whole.rows, index % deep, self.rows);
        Some(self.whole.part(rows, cut(&self.whole.columns, index / deep, self.columns)))
    }
}

/// The part number `index` of `whole`, in parts of `step`.
fn cut(whole: &Range<usize>, index: usize, step: usize) -> Range<usize> {
    let start = whole.start + index * step;
    start..(start + step).min(whole.end)
}
