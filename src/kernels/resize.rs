#![allow(unsafe_code, reason = "loops compiled for instructions that were found")]
//! Bilinear interpolation of images in NHWC.
//!
//! Invariant: weights are in units of 2⁻¹¹, so that `Σ(x − zp)·wy·wx` over four pixels is exact in 32 bits; it is
//! requantized once, with a multiplier that holds 2⁻²².
//! Not here: nearest neighbours, which are moves.

use super::elementwise::Quantization;
use super::here::{Here, by_isa};
use super::isa::Isa;
use super::pack::{PackError, check_multipliers};
use super::round::{bounded, nearest_byte};
use super::storage::Storage;
use super::tile::TileMut;

/// Where an output line lies between two input lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lerp {
    pub first: usize,
    pub second: usize,
    /// Of the second, 0 to 2048; the first has the rest.
    pub weight: i32,
}

impl Lerp {
    fn ends(&self) -> [(usize, i32); 2] {
        [(self.first, 2048 - self.weight), (self.second, self.weight)]
    }
}

/// One image size to another.
#[derive(Debug, Clone)]
pub struct Bilinear {
    here: Here,
    rows: Vec<Lerp>,
    columns: Vec<Lerp>,
    line: Line,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    multiplier: f32,
    input_zero: i32,
    lo: f32,
    hi: f32,
    output_zero: u8,
    flip: u8,
}

impl Bilinear {
    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.rows[..]) + size_of_val(&self.columns[..])
    }

    /// By output row and by output column; zero points of input and output.
    ///
    /// # Errors
    /// If the multiplier is not a number of use, or this CPU lacks `isa`.
    pub fn new(
        isa: Isa,
        storage: Storage,
        rows: Vec<Lerp>,
        columns: Vec<Lerp>,
        multiplier: f32,
        [input, output]: [Quantization; 2],
    ) -> Result<Self, PackError> {
        check_multipliers(&[multiplier])?;
        let zero_point = f32::from(output.zero_point);
        let line = Line {
            multiplier,
            input_zero: i32::from(input.zero_point),
            lo: -128.0 - zero_point,
            hi: 127.0 - zero_point,
            output_zero: output.zero_point.cast_unsigned(),
            flip: storage.flip(),
        };
        Ok(Self { here: Here::new(isa, storage)?, rows, columns, line })
    }

    /// Computes one tile of an image: rows are output pixels, columns are channels. The input has `width` pixels of
    /// `channels` bytes a line.
    ///
    /// # Panics
    /// If the tile is larger than the output, or the input is too short.
    pub fn run(&self, input: &[u8], width: usize, channels: usize, output: &mut TileMut<'_, u8>) {
        let columns = output.columns();
        for pixel in output.rows() {
            let (y, x) = (&self.rows[pixel / self.columns.len()], &self.columns[pixel % self.columns.len()]);
            let (mut from, mut weights) = ([input; 4], [0; 4]);
            for (i, (row, wy)) in y.ends().into_iter().enumerate() {
                for (j, (column, wx)) in x.ends().into_iter().enumerate() {
                    from[i * 2 + j] = &input[(row * width + column) * channels..][..channels][columns.clone()];
                    weights[i * 2 + j] = wy * wx;
                }
            }
            blend(self.here, self.line, from, weights, output.row(pixel));
        }
    }
}

by_isa! {
    fn blend(line: Line, from: [&[u8]; 4], weights: [i32; 4], to: &mut [u8]) {
        let [a, b, c, d] = from.map(|pixel| &pixel[..to.len()]);
        for i in 0..to.len() {
            let term = |pixel: &[u8], weight: i32| {
                (i32::from((pixel[i] ^ line.flip).cast_signed()) - line.input_zero) * weight
            };
            let sum = term(a, weights[0]) + term(b, weights[1]) + term(c, weights[2]) + term(d, weights[3]);
            let scaled = bounded(sum as f32 * line.multiplier, line.lo, line.hi);
            to[i] = nearest_byte(scaled).wrapping_add(line.output_zero) ^ line.flip;
        }
    }
}
