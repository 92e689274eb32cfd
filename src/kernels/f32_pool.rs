//! Pools of floats in NHWC.
//!
//! Invariant: of a window's pixels that are inside of the image, in their order: the largest, where what is not a number
//! is passed over; or their sum, one addition after another from zero, divided by how many they are, or by the taps.

use super::here::{Loops, vectorized};
use super::indirect::{Indirection, PADDING};
use super::isa::Isa;
use super::tile::TileMut;

/// What becomes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum F32PoolKind {
    Max,
    /// Over the pixels that are inside.
    Average,
    /// Over all taps.
    AverageOfTaps,
}

/// A pool for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct F32Pool {
    isa: Isa,
    kind: F32PoolKind,
}

impl F32Pool {
    pub fn new(isa: Isa, kind: F32PoolKind) -> Self {
        Self { isa, kind }
    }

    /// Computes one tile: rows are output pixels, columns are channels.
    ///
    /// # Panics
    /// If the input is too short for the map.
    pub fn run(&self, input: &[f32], map: &Indirection, output: &mut TileMut<'_, f32>) {
        assert!(output.rows().end <= map.pixels(), "rows {:?} of {} pixels", output.rows(), map.pixels());
        vectorized(self.isa, Windows { kind: self.kind, input, map, output });
    }
}

struct Windows<'a, 'o> {
    kind: F32PoolKind,
    input: &'a [f32],
    map: &'a Indirection,
    output: &'a mut TileMut<'o, f32>,
}

impl Loops for Windows<'_, '_> {
    #[inline(always)]
    fn run(self) {
        let Self { kind, input, map, output } = self;
        let (taps, columns) = (map.taps(), output.columns());
        for pixel in output.rows() {
            let to = output.row(pixel);
            to.fill(if kind == F32PoolKind::Max { f32::NEG_INFINITY } else { 0.0 });
            let mut met = 0_usize;
            for &offset in map.offsets[pixel * taps..][..taps].iter().filter(|&&offset| offset != PADDING) {
                let from = &input[offset as usize + columns.start..][..to.len()];
                met += 1;
                match kind {
                    F32PoolKind::Max => {
                        to.iter_mut().zip(from).for_each(|(to, &x)| *to = if x > *to { x } else { *to })
                    }
                    F32PoolKind::Average | F32PoolKind::AverageOfTaps => {
                        to.iter_mut().zip(from).for_each(|(to, &x)| *to += x);
                    }
                }
            }
            let count = match kind {
                F32PoolKind::Max => continue,
                F32PoolKind::Average => met.max(1),
                F32PoolKind::AverageOfTaps => taps,
            };
            let count = count as f32;
            to.iter_mut().for_each(|to| *to /= count);
        }
    }
}
