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
            let (here, to) = (self.here, output.row(pixel));
            match here.storage() {
                Storage::S8 => greatest_signed(here, input, window, columns.start, to),
                Storage::U8 => greatest_unsigned(here, input, window, columns.start, to),
            }
        }
    }
}

by_isa! {
    fn greatest_signed(input: &[u8], window: &[u32], first: usize, to: &mut [u8]) {
        fold(input, window, first, to, 0x80, |a, b| a.cast_signed().max(b.cast_signed()).cast_unsigned());
    }
}

by_isa! {
    fn greatest_unsigned(input: &[u8], window: &[u32], first: usize, to: &mut [u8]) {
        fold(input, window, first, to, 0, u8::max);
    }
}

/// Folds the window's pixels, a chunk of channels at a time.
#[inline(always)]
fn fold(input: &[u8], window: &[u32], first: usize, to: &mut [u8], start: u8, with: impl Fn(u8, u8) -> u8) {
    for (chunk, to) in to.chunks_mut(CHUNK).enumerate() {
        let mut values = [start; CHUNK];
        for &offset in window.iter().filter(|&&offset| offset != PADDING) {
            let from = &input[offset as usize + first + chunk * CHUNK..][..to.len()];
            if let Ok(from) = <&[u8; CHUNK]>::try_from(from) {
                values.iter_mut().zip(from).for_each(|(value, &from)| *value = with(*value, from));
            } else {
                values.iter_mut().zip(from).for_each(|(value, &from)| *value = with(*value, from));
            }
        }
        to.copy_from_slice(&values[..to.len()]);
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
                let from = &input[start + chunk * CHUNK..][..to.len()];
                accumulate(self.here, from, &mut sums, storage.flip());
            }
            for (to, sum) in to.iter_mut().zip(sums) {
                let value = requantize(sum.wrapping_sub(zero), multiplier, self.output.zero_point, -128, 127);
                *to = storage.byte(value);
            }
        }
    }
}

by_isa! {
    fn accumulate(from: &[u8], sums: &mut [i32; CHUNK], flip: u8) {
        let add = |(sum, &byte): (&mut i32, &u8)| *sum = sum.wrapping_add(i32::from((byte ^ flip).cast_signed()));
        match <&[u8; CHUNK]>::try_from(from) {
            Ok(from) => sums.iter_mut().zip(from).for_each(add),
            Err(_) => sums.iter_mut().zip(from).for_each(add),
        }
    }
}
