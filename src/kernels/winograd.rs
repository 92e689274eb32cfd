#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Convolutions of 3x3 by Winograd's minimal filtering, four by four pixels at a time: 36 products where there were 144.
//!
//! F(4x4, 3x3) with the points 0, ±1, ±2 and ∞ (Lavin, Gray: Fast Algorithms for Convolutional Neural Networks, 2016).
//! Its fractions are multiplied out, G by (4, 6, 6, 24, 24, 1), so that all is integers: transformed values and weights
//! fit 16 bits (255·10² and 255·7²), sums are taken modulo 2³², and what comes out is 576 times the convolution. As 576
//! is 64·9 and 9 has an inverse modulo 2²⁶, the convolution is known modulo 2²⁶: **exactly**, where it is smaller.
//! Invariant: only made where Σ|w|·255 < 2²⁵ for every output channel, so that the bytes are those of a sum of products.
//! For CPUs whose dot products are no instruction: there 16-bit products are as quick as 8-bit ones.
//! Rejected: F(2x2, 3x3) (2.25 times fewer products instead of 4, of the same width).

use super::gemm::GemmSpec;
use super::lanes::{I16x8, I32x4};
use super::pack::{Lines, PackError, WeightView, check_multipliers, spread};
use super::shared::SharedWeights;
use super::tile::TileMut;

/// Output pixels of a tile's side, and what it reads.
const SIDE: usize = 4;
const REACH: usize = SIDE + 2;
/// Products of a tile.
const POINTS: usize = REACH * REACH;
/// Tiles that are transformed before they are multiplied, so that weights are read for all of them.
const TILES: usize = 8;
/// Output channels at once.
const WIDE: usize = 16;
/// Sums must be below, in their size.
const LIMIT: i64 = 1 << 25;

/// A convolution of 3x3, stride 1, one group.
#[derive(Debug, Clone)]
pub struct Winograd {
    channels: usize,
    /// Of eight channels each.
    groups: usize,
    outputs: usize,
    zero_point: i8,
    /// `[outputs / WIDE][POINTS][groups · 8][WIDE]`
    weights: Lines,
    bias: Vec<i32>,
    multipliers: Vec<f32>,
    /// Zero point, and bounds less the zero point.
    end: (i8, [f32; 2]),
    table: Option<Box<[u8; 256]>>,
}

/// Where a convolution looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Height and width.
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// Top and left.
    pub pads: [usize; 2],
}

impl Winograd {
    /// For bytes that lie as signed values. Nothing where sums may be too large for it.
    ///
    /// # Errors
    /// If lengths disagree, or the kernel is not 3x3.
    pub fn new(spec: &GemmSpec<'_>) -> Result<Option<Self>, PackError> {
        spec.requant.check()?;
        let [outputs, taps, channels] = spec.weights.shape();
        if taps != 9 {
            return Err(PackError::Length { what: "taps of a 3x3 kernel", found: taps, wanted: 9 });
        }
        let zeros = spread("weight zero points", spec.weight_zero_points, outputs, 0)?;
        let bias = spread("bias", spec.bias, outputs, 0)?;
        let multipliers = spread("multipliers", spec.requant.multipliers, outputs, 1.0)?;
        check_multipliers(&multipliers)?;
        let groups = channels.div_ceil(8);
        let blocks = outputs.div_ceil(WIDE);
        let mut this = Self {
            channels,
            groups,
            outputs,
            zero_point: spec.input_zero_point,
            weights: Lines::zeroed(blocks * POINTS * groups * 8 * WIDE * size_of::<i16>()),
            bias: vec![0; blocks * WIDE],
            multipliers: vec![0.0; blocks * WIDE],
            end: {
                let [zero, lo, hi] = [spec.requant.zero_point, spec.requant.lo, spec.requant.hi].map(f32::from);
                (spec.requant.zero_point, [lo - zero, hi - zero])
            },
            table: spec.requant.table.map(|table| Box::new(*table)),
        };
        this.bias[..outputs].copy_from_slice(&bias);
        this.multipliers[..outputs].copy_from_slice(&multipliers);
        Ok(this.fill(&spec.weights, &zeros).then_some(this))
    }

    /// Transforms all weights; whether sums stay small enough.
    fn fill(&mut self, weights: &WeightView<'_>, zeros: &[i8]) -> bool {
        let channels = self.channels;
        let mut lines = vec![0_i8; 9 * channels];
        for (output, &zero) in zeros.iter().enumerate() {
            for (tap, line) in lines.chunks_exact_mut(channels.max(1)).enumerate() {
                weights.read(output, tap, 0, line);
            }
            let weight = |tap: usize, channel: usize| i32::from(lines[tap * channels + channel]) - i32::from(zero);
            let size: i64 = (0..9 * channels).map(|i| i64::from(weight(i / channels, i % channels).abs())).sum();
            if size * 255 >= LIMIT {
                return false;
            }
            for channel in 0..channels {
                self.put(output, channel, std::array::from_fn(|tap| weight(tap, channel)));
            }
        }
        true
    }

    /// Transforms the nine weights of an output and an input channel: `G·w·Gᵀ`.
    fn put(&mut self, output: usize, channel: usize, weights: [i32; 9]) {
        let line = |[a, b, c]: [i32; 3]| [a, -a - b - c, -a + b - c, a + 2 * b + 4 * c, a - 2 * b + 4 * c, c];
        let columns: [[i32; REACH]; 3] = std::array::from_fn(|x| line([weights[x], weights[3 + x], weights[6 + x]]));
        let (groups, words) = (self.groups, self.weights.words_mut());
        for y in 0..REACH {
            let row = line([columns[0][y], columns[1][y], columns[2][y]]);
            for (x, value) in row.into_iter().enumerate() {
                let block = (output / WIDE * POINTS + y * REACH + x) * groups * 8;
                words[(block + channel) * WIDE + output % WIDE] = value as i16;
            }
        }
    }

    /// Has its transformed weights in common with those that are equal.
    pub fn share(&mut self, with: &SharedWeights) {
        with.join(&mut self.weights);
    }

    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + (self.bias.len() + self.multipliers.len()) * 4
    }

    /// What weights of so many output and input channels take here.
    pub fn bytes_of(outputs: usize, channels: usize) -> usize {
        let weights = outputs.next_multiple_of(WIDE).saturating_mul(channels.next_multiple_of(8));
        weights.saturating_mul(POINTS * 2)
    }

    /// Numbers that a call works with.
    pub fn scratch(&self) -> usize {
        POINTS * TILES * self.groups * 8
    }

    /// Lines that output tiles must begin at multiples of, where they do not begin with the image's first.
    pub const LINES: usize = SIDE;

    /// Columns that output tiles must begin at multiples of.
    pub fn column_step(&self) -> usize {
        WIDE
    }

    /// Computes one tile of an output: rows are pixels, columns are channels.
    ///
    /// # Panics
    /// If the input or the scratch is too short, or the tile is not of whole lines that begin where they may.
    pub fn run(&self, input: &[u8], frame: &Frame, scratch: &mut [i16], output: &mut TileMut<'_, u8>) {
        let [height, width] = frame.input;
        let (pixels, columns) = (output.rows(), output.columns());
        let across = frame.output[1];
        let lines = pixels.start / across.max(1)..pixels.end / across.max(1);
        assert!(input.len() >= height * width * self.channels, "an input of {} bytes", input.len());
        assert!(scratch.len() >= self.scratch(), "scratch of {} numbers", scratch.len());
        let whole = lines.start * across == pixels.start && lines.end * across == pixels.end;
        assert!(whole && lines.start.is_multiple_of(SIDE) && lines.end <= frame.output[0], "pixels {pixels:?}");
        assert!(columns.start.is_multiple_of(WIDE) && columns.end <= self.outputs, "columns {columns:?}");
        let tiles: usize = lines.len().div_ceil(SIDE) * across.div_ceil(SIDE);
        let place = |tile: usize| {
            let wide = across.div_ceil(SIDE);
            [lines.start + tile / wide * SIDE, tile % wide * SIDE]
        };
        for first in (0..tiles).step_by(TILES) {
            let count = TILES.min(tiles - first);
            for tile in 0..count {
                self.transform(input, frame, place(first + tile), tile, scratch);
            }
            for column in columns.clone().step_by(WIDE) {
                let mut sums = [[I32x4::ZERO; WIDE / 4]; POINTS * TILES];
                self.multiply(scratch, column / WIDE, count, &mut sums);
                for tile in 0..count {
                    let [y, x] = place(first + tile);
                    let made = self.finish(&sums, tile, column);
                    for (line, made) in made.into_iter().enumerate().take(lines.end - y) {
                        for (pixel, bytes) in made.into_iter().enumerate().take(across - x) {
                            let row = output.row((y + line) * across + x + pixel);
                            let to = &mut row[column - columns.start..];
                            let wide = to.len().min(WIDE);
                            to[..wide].copy_from_slice(&bytes[..wide]);
                        }
                    }
                }
            }
        }
    }

    /// The values that a tile reads, less their zero point, transformed: `Bᵀ·d·B`.
    fn transform(&self, input: &[u8], frame: &Frame, at: [usize; 2], tile: usize, scratch: &mut [i16]) {
        let [height, width] = frame.input;
        for group in 0..self.groups {
            let mut values = [[I16x8::ZERO; REACH]; REACH];
            for (y, line) in values.iter_mut().enumerate() {
                let Some(row) = (at[0] + y).checked_sub(frame.pads[0]).filter(|&row| row < height) else { continue };
                for (x, value) in line.iter_mut().enumerate() {
                    let Some(column) = (at[1] + x).checked_sub(frame.pads[1]).filter(|&c| c < width) else { continue };
                    let from = &input[(row * width + column) * self.channels + group * 8..];
                    *value = match from.first_chunk::<8>() {
                        Some(eight) if (group + 1) * 8 <= self.channels => I16x8::difference(*eight, self.zero_point),
                        Some(_) | None => {
                            let mut eight = [self.zero_point.cast_unsigned(); 8];
                            let left = self.channels - group * 8;
                            eight[..left].copy_from_slice(&from[..left]);
                            I16x8::difference(eight, self.zero_point)
                        }
                    };
                }
            }
            // Down the columns, then along the rows.
            for x in 0..REACH {
                let column = transformed(std::array::from_fn(|y| values[y][x]));
                for y in 0..REACH {
                    values[y][x] = column[y];
                }
            }
            for (y, line) in values.into_iter().enumerate() {
                for (x, value) in transformed(line).into_iter().enumerate() {
                    let place = ((y * REACH + x) * TILES + tile) * self.groups + group;
                    value.store(&mut scratch[place * 8..]);
                }
            }
        }
    }

    /// At each point, the tiles' values times the weights of a block of output channels.
    fn multiply(&self, scratch: &[i16], block: usize, tiles: usize, sums: &mut [[I32x4; WIDE / 4]; POINTS * TILES]) {
        let depth = self.groups * 8;
        for point in 0..POINTS {
            let weights = &self.weights.words()[(block * POINTS + point) * depth * WIDE..][..depth * WIDE];
            for tile in (0..tiles).step_by(4) {
                let values = &scratch[(point * TILES + tile) * depth..][..4 * depth];
                let made = products(values, weights, self.groups);
                sums[point * TILES + tile..][..4].copy_from_slice(&made);
            }
        }
    }

    /// Sums back to pixels, `Aᵀ·m·A`, and those to bytes: by line, by pixel.
    fn finish(
        &self,
        sums: &[[I32x4; WIDE / 4]; POINTS * TILES],
        tile: usize,
        column: usize,
    ) -> [[[u8; WIDE]; SIDE]; SIDE] {
        let mut bytes = [[[0; WIDE]; SIDE]; SIDE];
        for part in 0..WIDE / 4 {
            let mut half = [[I32x4::ZERO; REACH]; SIDE];
            for x in 0..REACH {
                let made = gathered(std::array::from_fn(|y| sums[(y * REACH + x) * TILES + tile][part]));
                for y in 0..SIDE {
                    half[y][x] = made[y];
                }
            }
            let first = column + part * 4;
            let bias = I32x4::load(&self.bias[first..]);
            let multipliers = &self.multipliers[first..first + 4];
            for y in 0..SIDE {
                for (x, sum) in gathered(half[y]).into_iter().enumerate() {
                    // From 576 times a number modulo 2^32 to the number, which has fewer than 26 bits and a sign.
                    let acc = sum.shift_down::<6>().times(INVERSE_OF_9).shift_up::<6>().shift_down_signed::<6>();
                    let (zero_point, bounds) = self.end;
                    let four = acc.plus(bias).requantized(multipliers, bounds, zero_point);
                    bytes[y][x][part * 4..][..4].copy_from_slice(&four);
                }
            }
        }
        if let Some(table) = &self.table {
            bytes.as_flattened_mut().as_flattened_mut().iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
        }
        bytes
    }
}

/// 9 times this is 1, modulo 2²⁶.
const INVERSE_OF_9: i32 = {
    let mut inverse = 1_u32;
    let mut round = 0;
    // Newton's iteration doubles the bits that are right.
    while round < 5 {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(9_u32.wrapping_mul(inverse)));
        round += 1;
    }
    inverse.cast_signed()
};

/// One dimension of `Bᵀ·d`.
#[inline(always)]
fn transformed(d: [I16x8; REACH]) -> [I16x8; REACH] {
    let [d0, d1, d2, d3, d4, d5] = d;
    let five = |d: I16x8| d.shift_up::<2>().plus(d);
    let even = d4.minus(d2.shift_up::<2>());
    let odd = d3.minus(d1.shift_up::<2>());
    let near = d4.minus(d2);
    let far = d3.minus(d1).shift_up::<1>();
    [
        d0.shift_up::<2>().minus(five(d2)).plus(d4),
        even.plus(odd),
        even.minus(odd),
        near.plus(far),
        near.minus(far),
        d1.shift_up::<2>().minus(five(d3)).plus(d5),
    ]
}

/// One dimension of `Aᵀ·m`, of sums that are (6, 4, 4, 1, 1, 24) times too small, one for each point.
#[inline(always)]
fn gathered(m: [I32x4; REACH]) -> [I32x4; SIDE] {
    let [m0, m1, m2, m3, m4, m5] = m;
    let (near, far) = (m1.plus(m2).shift_up::<2>(), m3.plus(m4));
    let (slope, steep) = (m1.minus(m2).shift_up::<2>(), m3.minus(m4).shift_up::<1>());
    // 6·m0 is 4·m0 + 2·m0, 24·m5 is 16·m5 + 8·m5.
    let first = m0.shift_up::<2>().plus(m0.shift_up::<1>());
    let last = m5.shift_up::<4>().plus(m5.shift_up::<3>());
    [
        first.plus(near).plus(far),
        slope.plus(steep),
        near.plus(far.shift_up::<2>()),
        slope.plus(steep.shift_up::<2>()).plus(last),
    ]
}

/// Four tiles, `[4][groups · 8]`, times `[groups · 8][WIDE]`, modulo 2³².
#[inline(always)]
fn products(values: &[i16], weights: &[i16], groups: usize) -> [[I32x4; WIDE / 4]; 4] {
    let depth = groups * 8;
    assert!(
        values.len() == 4 * depth && weights.len() == depth * WIDE,
        "sides of {} and {}",
        values.len(),
        weights.len()
    );
    let mut sums = [[I32x4::ZERO; WIDE / 4]; 4];
    for group in 0..groups {
        // SAFETY: eight values are left of each tile, and eight lines of weights.
        unsafe {
            let values = values.as_ptr().add(group * 8);
            let weights = weights.as_ptr().add(group * 8 * WIDE);
            let tiles = std::array::from_fn(|tile| I16x8::load(values.add(tile * depth)));
            I32x4::add_products(&mut sums, &tiles, weights);
        }
    }
    sums
}
