//! Floats that begin on a cache line, so that no vector of them lies across two.

use std::ops::{Deref, DerefMut};

/// Bytes of a line.
const LINE: usize = 64;
const FLOATS: usize = LINE / size_of::<f32>();

/// So many floats, and what stands before them up to a line's beginning.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    values: Vec<f32>,
    start: usize,
    count: usize,
}

impl Aligned {
    /// What so many take, in floats.
    pub const fn taken(count: usize) -> usize {
        count + FLOATS
    }

    pub fn zeroed(count: usize) -> Self {
        let values = vec![0.0; Self::taken(count)];
        // Memory stays where it is for as long as nothing is added. Where no place is known, any is right.
        let start = values.as_ptr().align_offset(LINE).min(FLOATS);
        Self { values, start, count }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..][..self.count]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.count]
    }
}
