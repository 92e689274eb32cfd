#![allow(unsafe_code, reason = "calls kernels on pointers that it checked")]
//! Convolutions of floats in NHWC, and products `[M][K]·[K][N]` with constant weights, of floats or of int8.
//!
//! Invariant: a sum is one fused multiplication and addition after another, from zero, tap by tap and of each channel by
//! channel; a tap in the padding multiplies with zero. Then `·scale` (int8 weights alone), `+ bias`, the bounds, rounded
//! after each. No tier adds in another order, so that all have the same bits.
//! Pixels are read where they lie, by a map. Weights of int8 stay bytes in memory and become floats a block at a time,
//! which is then read for all rows of a chunk.
//! Left out: groups (a product each), depthwise (`f32_depthwise`).
//! Rejected: im2col (a copy of each pixel for every tap), Winograd's filtering (other sums, other roundings), one order
//! of sums for each tier (golden samples are signed on another machine than the one that checks them).

use super::f32_block::{Block, MAX_COLUMNS, Tier};
use super::here::{Loops, vectorized};
use super::indirect::Indirection;
use super::isa::Isa;
use super::pack::{Lines, PackError, check_multipliers, spread};
use super::shared::SharedWeights;
use super::tile::TileMut;

/// Lines of int8 weights that are floats at once: with the widest strip half of a small core's first cache.
const DEPTH: usize = 128;
/// Input values of one tap, of all rows that run through one strip before the next: they stay in the second cache.
const CHUNK: usize = 1 << 14;

/// Weights as a model has them.
#[derive(Debug, Clone, Copy)]
pub enum F32Weights<'a> {
    Floats(&'a [f32]),
    /// Zero points and scales one, or one for each output channel.
    Bytes {
        values: &'a [i8],
        zero_points: &'a [i8],
        scales: &'a [f32],
    },
}

impl F32Weights<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Bytes { values, .. } => values.len(),
        }
    }
}

/// What a convolution is made of.
#[derive(Debug, Clone, Copy)]
pub struct F32ConvSpec<'a> {
    pub weights: F32Weights<'a>,
    /// Output channels, taps, input channels; and how far the weights of each lie apart.
    pub shape: [usize; 3],
    pub strides: [usize; 3],
    /// None, or one for each output channel.
    pub bias: &'a [f32],
    pub bounds: Option<[f32; 2]>,
}

#[derive(Debug, Clone)]
enum Packed {
    /// `[strip][tap][channel][columns of the tier]`
    Floats(Lines),
    /// The same, and by column their zero points as floats: empty where all are 0.
    Bytes(Lines, Vec<f32>),
}

/// A convolution, or a product, ready to run.
#[derive(Debug, Clone)]
pub struct F32Conv {
    isa: Isa,
    tier: Tier,
    n: usize,
    taps: usize,
    depth: usize,
    weights: Packed,
    /// Empty, or a value for each column of whole strips.
    scales: Vec<f32>,
    bias: Vec<f32>,
    bounds: Option<[f32; 2]>,
}

/// How rows of the left side are found.
#[derive(Debug, Clone, Copy)]
pub enum F32Rows<'a> {
    /// One behind the other; for one tap.
    Direct { stride: usize },
    /// Output pixels by a map in units of floats. `zeros` holds a zero for each input channel.
    Indirect { map: &'a Indirection, zeros: &'a [f32] },
}

impl F32Conv {
    /// # Errors
    /// If lengths disagree, a scale is not finite, or this CPU lacks `isa`.
    pub fn new(isa: Isa, spec: &F32ConvSpec<'_>) -> Result<Self, PackError> {
        let tier = Tier::of(isa)?;
        let [n, taps, depth] = spec.shape;
        let wanted = n.saturating_mul(taps).saturating_mul(depth);
        if spec.weights.len() != wanted {
            return Err(PackError::Length { what: "weights", found: spec.weights.len(), wanted });
        }
        let whole = n.next_multiple_of(tier.columns);
        let padded = |what, values: &[f32], default| {
            let mut values = spread(what, values, n, default)?;
            values.resize(whole, 0.0);
            Ok::<_, PackError>(values)
        };
        let bias = if spec.bias.is_empty() { Vec::new() } else { padded("bias", spec.bias, 0.0)? };
        let (weights, scales) = match spec.weights {
            F32Weights::Floats(values) => {
                let mut lines = Lines::zeroed(whole * taps * depth * size_of::<f32>());
                pack(tier.columns, spec, values, lines.floats_mut());
                (Packed::Floats(lines), Vec::new())
            }
            F32Weights::Bytes { values, zero_points, scales } => {
                let mut lines = Lines::zeroed(whole * taps * depth);
                pack(tier.columns, spec, values, lines.values_mut());
                let zeros = spread("weight zero points", zero_points, n, 0)?;
                let mut zeros: Vec<f32> = zeros.into_iter().map(f32::from).collect();
                zeros.resize(if zeros.iter().all(|&zero| zero == 0.0) { 0 } else { whole }, 0.0);
                let scales = padded("scales", scales, 1.0)?;
                check_multipliers(&scales)?;
                (Packed::Bytes(lines, zeros), scales)
            }
        };
        Ok(Self { isa, tier, n, taps, depth, weights, scales, bias, bounds: spec.bounds })
    }

    /// Takes so many neighbouring taps for one of as many times the channels: pixels of a line without a gap.
    ///
    /// # Panics
    /// If the taps are not so many lines.
    pub fn join_taps(&mut self, taps: usize) {
        assert!(self.taps.is_multiple_of(taps), "lines of {taps} taps among {}", self.taps);
        (self.taps, self.depth) = (self.taps / taps, self.depth * taps);
    }

    /// Whether its weights are bytes.
    pub fn is_of_bytes(&self) -> bool {
        matches!(self.weights, Packed::Bytes(..))
    }

    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Packed::Floats(lines) => lines.bytes(),
            Packed::Bytes(lines, zeros) => lines.bytes() + size_of_val(&zeros[..]),
        };
        weights + (self.scales.len() + self.bias.len()) * size_of::<f32>()
    }

    /// Has its packed weights in common with those that are equal.
    pub fn share(&mut self, with: &SharedWeights) {
        match &mut self.weights {
            Packed::Floats(lines) | Packed::Bytes(lines, _) => with.join(lines),
        }
    }

    /// Rows that tiles best begin at multiples of, and columns that they must.
    pub fn steps(&self) -> [usize; 2] {
        [self.tier.rows, self.tier.columns]
    }

    /// Rows that stay in a cache while all columns are computed.
    pub fn chunk(&self) -> usize {
        (CHUNK / self.depth.max(1)).next_multiple_of(self.tier.rows)
    }

    /// Computes one tile: rows are output pixels, columns are channels. The input begins at row 0, or at pixel 0.
    ///
    /// # Panics
    /// If the input is too short, the map is of another kernel, or the tile begins inside of a strip.
    pub fn run(&self, input: &[f32], from: F32Rows<'_>, output: &mut TileMut<'_, f32>) {
        let (rows, columns) = (output.rows(), output.columns());
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        assert!(columns.end <= self.n, "columns {columns:?} of {}", self.n);
        assert!(columns.start.is_multiple_of(self.tier.columns), "columns {columns:?} are inside of a strip");
        self.check(input, &from, rows.end);
        for row in rows.clone().step_by(self.chunk()) {
            let count = self.chunk().min(rows.end - row);
            for column in columns.clone().step_by(self.tier.columns) {
                let width = self.tier.columns.min(columns.end - column);
                let block = self.block(input, &from, row, count, column, width, output);
                self.strip(block, column);
            }
        }
    }

    fn check(&self, input: &[f32], from: &F32Rows<'_>, rows: usize) {
        match from {
            F32Rows::Direct { stride } => {
                assert!(self.taps == 1, "rows one behind the other for {} taps", self.taps);
                let needed = (rows - 1).checked_mul(*stride).and_then(|start| start.checked_add(self.depth));
                assert!(needed.is_some_and(|needed| needed <= input.len()), "{rows} rows of {} values", input.len());
            }
            F32Rows::Indirect { map, zeros } => {
                assert!(map.taps() == self.taps, "a map of {} taps for {}", map.taps(), self.taps);
                assert!(rows <= map.pixels(), "{rows} rows of {} pixels", map.pixels());
                map.check_floats(input, Some(zeros), self.depth);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what `run` checked, as it is")]
    fn block(
        &self,
        input: &[f32],
        from: &F32Rows<'_>,
        row: usize,
        rows: usize,
        column: usize,
        width: usize,
        output: &mut TileMut<'_, f32>,
    ) -> Block {
        let at = |values: &[f32]| if values.is_empty() { std::ptr::null() } else { values[column..].as_ptr() };
        let (input, offsets, stride, zeros) = match *from {
            F32Rows::Direct { stride } => (&input[row * stride..], std::ptr::null(), stride, std::ptr::null()),
            F32Rows::Indirect { map, zeros } => (input, map.offsets[row * self.taps..].as_ptr(), 0, zeros.as_ptr()),
        };
        Block {
            input: input.as_ptr(),
            offsets,
            all_taps: self.taps,
            stride,
            zeros,
            rows,
            first_tap: 0,
            taps: self.taps,
            channel: 0,
            depth: self.depth,
            strip: std::ptr::null(),
            begins: true,
            ends: true,
            scales: at(&self.scales),
            bias: at(&self.bias),
            bounds: self.bounds,
            row_stride: output.row_stride(),
            output: output.pointer(row, column),
            width,
        }
    }

    /// The rows of a chunk by the weights of a strip.
    fn strip(&self, mut block: Block, column: usize) {
        let size = self.taps * self.depth * self.tier.columns;
        let start = column / self.tier.columns * size;
        match &self.weights {
            Packed::Floats(lines) => {
                block.strip = lines.floats()[start..][..size].as_ptr();
                // SAFETY: `check` found the input to hold all pixels of the tile's rows, and zeros for those in the
                // padding; the strip is whole, scales and biases are padded to whole strips, the rows and columns are the
                // tile's; `Tier::of` found the CPU to have it.
                unsafe { (self.tier.run)(&block) };
            }
            Packed::Bytes(lines, zeros) => {
                let zeros = zeros.get(column..column + self.tier.columns).unwrap_or_default();
                let mut floats = [0.0_f32; DEPTH * MAX_COLUMNS];
                for part in parts(self.taps, self.depth) {
                    let lines = &lines.values()[start + part.line * self.tier.columns..];
                    let to = &mut floats[..part.taps * part.depth * self.tier.columns];
                    vectorized(self.isa, Expand { from: lines, zeros, columns: self.tier.columns, to });
                    (block.first_tap, block.taps) = (part.tap, part.taps);
                    (block.channel, block.depth) = (part.channel, part.depth);
                    block.strip = floats.as_ptr();
                    block.begins = part.line == 0;
                    block.ends = part.line + part.taps * part.depth == self.taps * self.depth;
                    // SAFETY: as above, for a part of the taps or of their channels.
                    unsafe { (self.tier.run)(&block) };
                }
            }
        }
    }
}

/// Lines that become floats together: whole taps, or channels of one.
struct Part {
    line: usize,
    tap: usize,
    taps: usize,
    channel: usize,
    depth: usize,
}

fn parts(taps: usize, depth: usize) -> impl Iterator<Item = Part> {
    let at_once = (DEPTH / depth.max(1)).max(1);
    (0..taps).step_by(at_once).flat_map(move |tap| {
        let taps = at_once.min(taps - tap);
        (0..depth).step_by(DEPTH).map(move |channel| {
            let depth_here = DEPTH.min(depth - channel);
            Part { line: tap * depth + channel, tap, taps, channel, depth: depth_here }
        })
    })
}

/// Bytes to floats, less the zero points of their columns.
struct Expand<'a> {
    from: &'a [i8],
    zeros: &'a [f32],
    columns: usize,
    to: &'a mut [f32],
}

impl Loops for Expand<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { from, zeros, columns, to } = self;
        to.iter_mut().zip(from).for_each(|(to, &weight)| *to = f32::from(weight));
        if !zeros.is_empty() {
            for line in to.chunks_exact_mut(columns) {
                line.iter_mut().zip(zeros).for_each(|(to, zero)| *to -= zero);
            }
        }
    }
}

/// `[strip][tap][channel][column]`
fn pack<T: Copy>(columns: usize, spec: &F32ConvSpec<'_>, from: &[T], to: &mut [T]) {
    let ([n, taps, depth], [across, by_tap, by_channel]) = (spec.shape, spec.strides);
    for (strip, to) in to.chunks_mut((taps * depth * columns).max(1)).enumerate().take(n.div_ceil(columns)) {
        let first = strip * columns;
        let width = (n - first).min(columns);
        // In the order in which both kinds of weights lie in memory.
        for channel in 0..depth {
            for tap in 0..taps {
                let to = &mut to[(tap * depth + channel) * columns..][..width];
                let start = first * across + tap * by_tap + channel * by_channel;
                to.iter_mut().enumerate().for_each(|(place, to)| *to = from[start + place * across]);
            }
        }
    }
}
