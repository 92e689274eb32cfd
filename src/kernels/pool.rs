#![allow(unsafe_code, reason = "loops compiled for instructions that were found")]
//! Pools: the greatest or the average value of a window or of a whole image, each channel by itself.
//!
//! Invariant: averages are sums in 32 bits, requantized once: `requantize(Σ(x − zp), scale / (output scale · n))`.
//! Padding is never looked at: the maximum skips it, an average divides by the taps inside unless told to count all.

use super::elementwise::Quantization;
use super::here::{Here, by_isa};
use super::indirect::{Indirection, PADDING};
use super::isa::Isa;
use super::pack::PackError;
use super::round::requantize;
use super::storage::Storage;
use super::tile::TileMut;

/// Channels whose sums are in registers at once.
const CHUNK: usize = 64;

/// The greatest value of each window.
#[derive(Debug, Clone)]
pub struct MaxPool {
    here: Here,
}

impl MaxPool {
    /// # Errors
    /// If this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage) -> Result<Self, PackError> {
        Ok(Self { here: Here::new(isa, storage)? })
    }

    /// Computes one tile: rows are output pixels, columns are channels.
    ///
    /// # Panics
    /// If the tile is larger than the map, or the input is too short for it.
    pub fn run(&self, input: &[u8], map: &Indirection, output: &mut TileMut<'_, u8>) {
        let (rows, columns) = (output.rows(), output.columns());
        for pixel in rows {
            let window = &map.offsets[pixel * map.taps()..][..map.taps()];
            let to = output.row(pixel);
            to.fill(self.here.storage().byte(i8::MIN));
            for &offset in window.iter().filter(|&&offset| offset != PADDING) {
                let from = &input[offset as usize + columns.start..][..columns.len()];
                match self.here.storage() {
                    Storage::S8 => max_signed(self.here, from, to),
                    Storage::U8 => max_unsigned(self.here, from, to),
                }
            }
        }
    }
}

by_isa! {
    fn max_signed(from: &[u8], to: &mut [u8]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = to.cast_signed().max(from.cast_signed()).cast_unsigned();
        }
    }
}

by_isa! {
    fn max_unsigned(from: &[u8], to: &mut [u8]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = (*to).max(from);
        }
    }
}

/// The average of each window, or of all pixels.
#[derive(Debug, Clone)]
pub struct AveragePool {
    here: Here,
    input: Quantization,
    output: Quantization,
    count_padding: bool,
}

impl AveragePool {
    /// # Errors
    /// If a scale is not positive, or this CPU lacks `isa`.
    pub fn new(
        isa: Isa,
        storage: Storage,
        input: Quantization,
        output: Quantization,
        count_padding: bool,
    ) -> Result<Self, PackError> {
        let ratio = input.scale / output.scale;
        if !(ratio > 0.0 && ratio.is_finite()) {
            return Err(PackError::Multiplier { channel: 0, multiplier: ratio });
        }
        Ok(Self { here: Here::new(isa, storage)?, input, output, count_padding })
    }

    /// Computes one tile: rows are output pixels, columns are channels.
    ///
    /// # Panics
    /// If the tile is larger than the map, or the input is too short for it.
    pub fn run(&self, input: &[u8], map: &Indirection, output: &mut TileMut<'_, u8>) {
        let (rows, columns) = (output.rows(), output.columns());
        for pixel in rows {
            let window = &map.offsets[pixel * map.taps()..][..map.taps()];
            let inside = window.iter().filter(|&&offset| offset != PADDING);
            let starts = inside.map(|&offset| offset as usize + columns.start);
            let divisor = if self.count_padding { Some(map.taps()) } else { None };
            self.average(input, starts, divisor, output.row(pixel));
        }
    }

    /// All `pixels`, `stride` bytes apart, to one value for each channel of the output.
    ///
    /// # Panics
    /// If the input is too short.
    pub fn run_global(&self, input: &[u8], pixels: usize, stride: usize, output: &mut [u8]) {
        self.average(input, (0..pixels).map(|pixel| pixel * stride), Some(pixels), output);
    }

    fn average(&self, input: &[u8], starts: impl Iterator<Item = usize> + Clone, n: Option<usize>, output: &mut [u8]) {
        let inside = starts.clone().count();
        let multiplier = self.input.scale / (self.output.scale * n.unwrap_or(inside).max(1) as f32);
        let zero = i32::from(self.input.zero_point).wrapping_mul(inside as i32);
        let storage = self.here.storage();
        for (chunk, to) in output.chunks_mut(CHUNK).enumerate() {
            let mut sums = [0_i32; CHUNK];
            for start in starts.clone() {
                accumulate(
                    self.here,
                    &input[start + chunk * CHUNK..][..to.len()],
                    &mut sums[..to.len()],
                    storage.flip(),
                );
            }
            for (to, sum) in to.iter_mut().zip(sums) {
                let value = requantize(sum.wrapping_sub(zero), multiplier, self.output.zero_point, -128, 127);
                *to = storage.byte(value);
            }
        }
    }
}

by_isa! {
    fn accumulate(from: &[u8], sums: &mut [i32], flip: u8) {
        for (sum, &byte) in sums.iter_mut().zip(from) {
            *sum = sum.wrapping_add(i32::from((byte ^ flip).cast_signed()));
        }
    }
}
