#![allow(unsafe_code, reason = "loops compiled for instructions that were found")]
//! Where int8 meets float: accumulators that become floats, ranges that become scales.
//!
//! Invariant: `f32(acc)·(scale·multiplier) + bias`, each rounded, then the bounds, whatever the tier.

use super::here::{Here, by_isa};
use super::indirect::{Indirection, PADDING};
use super::isa::Isa;
use super::pack::{PackError, WeightView, check_multipliers, check_reach, spread};
use super::round::bounded;
use super::storage::Storage;
use super::tile::TileMut;
use super::wide::Dynamic;

by_isa! {
    /// Accumulators of neighbouring channels to floats. No bias, or one each.
    pub(super) fn settle(by: &Dynamic<'_>, accumulators: &[i32], multipliers: &[f32], bias: &[f32], values: &mut [f32]) {
        let [low, high] = by.bounds;
        let (scale, each) = (by.scale, values.iter_mut().zip(accumulators).zip(multipliers));
        if bias.is_empty() {
            each.for_each(|((to, &acc), &m)| *to = bounded(acc as f32 * (scale * m), low, high));
        } else {
            each.zip(bias).for_each(|(((to, &acc), &m), &b)| *to = bounded(acc as f32 * (scale * m) + b, low, high));
        }
    }
}

/// Lanes that a range is looked for in.
const LANES: usize = 64;

/// The least and the greatest of values and zero; what is not a number is passed over.
///
/// # Errors
/// If this CPU lacks `isa`.
pub fn range(isa: Isa, values: &[f32]) -> Result<[f32; 2], PackError> {
    let mut ends = [0.0; 2];
    find_range(Here::new(isa, isa.storage())?, values, &mut ends);
    Ok(ends)
}

by_isa! {
    fn find_range(values: &[f32], ends: &mut [f32; 2]) {
        let less = |a: f32, b: f32| if a < b { a } else { b };
        let more = |a: f32, b: f32| if a > b { a } else { b };
        let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                // What is not a number is neither less nor more.
                low[i] = less(chunk[i], low[i]);
                high[i] = more(chunk[i], high[i]);
            }
        }
        *ends = [
            rest.iter().chain(&low).fold(0.0, |end, &value| less(value, end)),
            rest.iter().chain(&high).fold(0.0, |end, &value| more(value, end)),
        ];
    }
}

/// Channels whose sums are in registers at once.
const CHUNK: usize = 64;

/// A depthwise convolution whose result is float. Its input's zero point may be another at each run.
#[derive(Debug, Clone)]
pub struct FloatDepthwise {
    here: Here,
    channels: usize,
    kernel: [usize; 2],
    /// `[channels / CHUNK][tap][CHUNK]`, less their zero points.
    weights: Vec<[i16; CHUNK]>,
    bias: Vec<i32>,
    multipliers: Vec<f32>,
}

impl FloatDepthwise {
    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + (self.bias.len() + self.multipliers.len()) * 4
    }

    /// Weights as ONNX has them: `[channel][kernel height][kernel width]`; zero points, biases (at the scale of the
    /// accumulator) and multipliers none, one, or one for each channel.
    ///
    /// # Errors
    /// If lengths disagree, sums may leave 31 bits, or this CPU lacks `isa`.
    pub fn new(
        isa: Isa,
        storage: Storage,
        [weights, zero_points]: [&[i8]; 2],
        kernel: [usize; 2],
        channels: usize,
        bias: &[i32],
        multipliers: &[f32],
    ) -> Result<Self, PackError> {
        let taps = kernel[0] * kernel[1];
        let view = WeightView::ohwi(weights, channels, taps, 1)?;
        let zeros = spread("weight zero points", zero_points, channels, 0)?;
        let bias = spread("bias", bias, channels, 0)?;
        let multipliers = spread("multipliers", multipliers, channels, 1.0)?;
        check_multipliers(&multipliers)?;
        check_reach(&view, &zeros, &bias)?;
        let mut packed = vec![[0; CHUNK]; channels.div_ceil(CHUNK) * taps];
        for (i, &weight) in weights.iter().enumerate() {
            let (channel, tap) = (i / taps, i % taps);
            packed[channel / CHUNK * taps + tap][channel % CHUNK] = i16::from(weight) - i16::from(zeros[channel]);
        }
        Ok(Self { here: Here::new(isa, storage)?, channels, kernel, weights: packed, bias, multipliers })
    }

    /// Output tiles must begin at multiples of this many columns.
    pub fn column_step(&self) -> usize {
        CHUNK
    }

    /// Computes one tile: rows are output pixels, columns are channels.
    ///
    /// # Panics
    /// If the map is of another kernel, the input is too short for it, or the tile begins inside of a chunk.
    pub fn run(&self, input: &[u8], map: &Indirection, by: &Dynamic<'_>, output: &mut TileMut<'_, f32>) {
        let (rows, columns) = (output.rows(), output.columns());
        assert!(map.geometry().kernel == self.kernel, "a map for a kernel of {:?}", map.geometry().kernel);
        assert!(columns.end <= self.channels, "columns {columns:?} of {} channels", self.channels);
        assert!(columns.start.is_multiple_of(CHUNK), "column {} is inside of a chunk", columns.start);
        let taps = map.taps();
        for pixel in rows {
            let window = &map.offsets[pixel * taps..][..taps];
            for (chunk, values) in output.row(pixel).chunks_mut(CHUNK).enumerate() {
                let first = columns.start + chunk * CHUNK;
                let channels = first..first + values.len();
                let mut sums = [0; CHUNK];
                sums[..values.len()].copy_from_slice(&self.bias[channels.clone()]);
                let weights = &self.weights[first / CHUNK * taps..][..taps];
                let zero = i16::from(by.input_zero_point);
                let flip = self.here.storage().flip();
                add_window(self.here, input, window, first, values.len(), zero, flip, weights, &mut sums);
                let bias = if by.bias.is_empty() { by.bias } else { &by.bias[channels.clone()] };
                settle(self.here, by, &sums, &self.multipliers[channels], bias, values);
            }
        }
    }
}

by_isa! {
    /// `Σ(a − z)·w` over the window, of up to a chunk of channels. A tap in the padding adds nothing.
    fn add_window(
        input: &[u8],
        window: &[u32],
        first: usize,
        width: usize,
        zero: i16,
        flip: u8,
        weights: &[[i16; CHUNK]],
        sums: &mut [i32; CHUNK],
    ) {
        for (&offset, weights) in window.iter().zip(weights).filter(|(offset, _)| **offset != PADDING) {
            let from = &input[offset as usize + first..];
            let add = |((sum, &byte), &weight): ((&mut i32, &u8), &i16)| {
                let value = i16::from((byte ^ flip).cast_signed()) - zero;
                *sum = sum.wrapping_add(i32::from(value) * i32::from(weight));
            };
            match from.first_chunk::<CHUNK>() {
                Some(from) if width == CHUNK => sums.iter_mut().zip(from).zip(weights).for_each(add),
                _ => sums.iter_mut().zip(&from[..width]).zip(weights).for_each(add),
            }
        }
    }
}
