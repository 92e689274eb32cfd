#![allow(unsafe_code, reason = "lines of numbers as one slice")]
//! Numbers of 32 bits that begin on a cache line, so that no vector of them lies across two.
//!
//! Invariant: there are as many as fill whole lines.

use std::ops::{Deref, DerefMut};

#[derive(Debug, Clone)]
pub(super) struct Numbers<T> {
    lines: Vec<Line<T>>,
}

const IN_LINE: usize = 16;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line<T>([T; IN_LINE]);

impl<T: Copy> Numbers<T> {
    /// At least so many.
    pub fn filled(value: T, count: usize) -> Self {
        const { assert!(size_of::<Line<T>>() == 64, "32 bits") };
        Self { lines: vec![Line([value; IN_LINE]); count.div_ceil(IN_LINE)] }
    }
}

impl<T> Deref for Numbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: lines are 16 numbers each, without gaps.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * IN_LINE) }
    }
}

impl<T> DerefMut for Numbers<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * IN_LINE) }
    }
}
