#![allow(unsafe_code, reason = "bytes of an activation as weights")]
//! Weights in the order in which a microkernel reads them.
//!
//! Invariant: the packed form holds whole strips, `[strip][tap][K / KR][NR][KR]`, zero-padded, so that kernels neither
//! check for ends nor count; no sum of products can leave 31 bits (checked here, once).
//! `bias' = b − z·Σw`, with the input's zero point z as stored, takes the zero point out of the inner loop.
//! Weight zero points are subtracted from the weights where all differences fit into eight bits; where one does not,
//! they stay beside the weights, and the driver corrects each row by its sum of inputs.
//! Rejected: splitting such weights in two summands (twice the products).

use super::numbers::Numbers;
use super::reach::{converts, fits_words};
use super::storage::Storage;
use std::sync::Arc;

/// Why an operator cannot be made. Numbers are counts of values.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PackError {
    #[error("{what}: {found} values, {wanted} needed")]
    Length { what: &'static str, found: usize, wanted: usize },
    #[error("output channel {channel}: sums may reach {reach}, and 2^31 - 1 is the most that 32 bits hold")]
    Overflow { channel: usize, reach: i64 },
    #[error("output channel {channel}: multiplier {multiplier} is not a finite number")]
    Multiplier { channel: usize, multiplier: f32 },
    #[error("no value is in the bounds {lo}..={hi}")]
    Bounds { lo: i8, hi: i8 },
    #[error("kernels for {isa} cannot run here: this CPU lacks it, or the storage is not its own")]
    Isa { isa: super::Isa },
}

/// Int8 weights as they lie in a model, by strides: `[output channel][tap][input channel]`.
#[derive(Debug, Clone, Copy)]
pub struct WeightView<'a> {
    values: &'a [i8],
    n: usize,
    taps: usize,
    k: usize,
    strides: [usize; 3],
    /// What makes values of stored bytes.
    flip: u8,
}

impl<'a> WeightView<'a> {
    /// A convolution's weights as ONNX has them: `[n][k][taps]`, taps being kernel height times width.
    pub fn oihw(values: &'a [i8], n: usize, k: usize, taps: usize) -> Result<Self, PackError> {
        Self::new(values, [n, taps, k], [k * taps, 1, taps])
    }

    /// `[n][taps][k]`.
    pub fn ohwi(values: &'a [i8], n: usize, taps: usize, k: usize) -> Result<Self, PackError> {
        Self::new(values, [n, taps, k], [taps * k, k, 1])
    }

    /// The right side of a matrix product: `[k][n]`.
    pub fn matrix(values: &'a [i8], k: usize, n: usize) -> Result<Self, PackError> {
        Self::new(values, [n, 1, k], [1, 0, n])
    }

    /// The right side of a product of activations, as stored: `n` columns of `k` values, `strides` bytes from one
    /// column to the next and from one value to the next.
    pub fn stored(
        values: &'a [u8],
        storage: Storage,
        [n, k]: [usize; 2],
        strides: [usize; 2],
    ) -> Result<Self, PackError> {
        let span = |count: usize, stride: usize| count.saturating_sub(1).saturating_mul(stride);
        let wanted = span(n, strides[0]).saturating_add(span(k, strides[1])).saturating_add(1);
        if values.len() < wanted {
            return Err(PackError::Length { what: "right side", found: values.len(), wanted });
        }
        // SAFETY: the same bytes; every byte is a value of either type.
        let values = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<i8>(), values.len()) };
        Ok(Self { values, n, taps: 1, k, strides: [strides[0], 0, strides[1]], flip: storage.flip() })
    }

    fn new(values: &'a [i8], [n, taps, k]: [usize; 3], strides: [usize; 3]) -> Result<Self, PackError> {
        if values.len() != n * taps * k {
            return Err(PackError::Length { what: "weights", found: values.len(), wanted: n * taps * k });
        }
        Ok(Self { values, n, taps, k, strides, flip: 0 })
    }

    #[inline]
    pub(super) fn at(&self, n: usize, tap: usize, k: usize) -> i8 {
        let value = self.values[n * self.strides[0] + tap * self.strides[1] + k * self.strides[2]];
        value ^ self.flip.cast_signed()
    }

    /// Some input channels of one tap, from `k` on.
    #[inline]
    pub(super) fn read(&self, n: usize, tap: usize, k: usize, to: &mut [i8]) {
        let from = &self.values[n * self.strides[0] + tap * self.strides[1] + k * self.strides[2]..];
        let flip = self.flip.cast_signed();
        if self.strides[2] == 1 {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ flip);
        } else {
            to.iter_mut().zip(from.iter().step_by(self.strides[2])).for_each(|(to, from)| *to = from ^ flip);
        }
    }

    /// Whether values of one row lie side by side: `[k][n]`.
    pub(super) fn is_by_rows(&self) -> bool {
        self.strides[0] == 1 && self.taps == 1
    }

    /// Output channels, taps, input channels.
    pub fn shape(&self) -> [usize; 3] {
        [self.n, self.taps, self.k]
    }
}

/// How accumulators become bytes: see [`requantize`](super::requantize).
#[derive(Debug, Clone, Copy)]
pub struct Requant<'a> {
    /// Input scale times weight scale over output scale; one for all channels or one each.
    pub multipliers: &'a [f32],
    pub zero_point: i8,
    /// Clamp, as of a ReLU; −128 and 127 where there is none.
    pub lo: i8,
    pub hi: i8,
    /// Applied to the requantized value, from stored byte to stored byte: an activation, or another scale.
    pub table: Option<&'a [u8; 256]>,
}

impl Requant<'_> {
    pub(super) fn check(&self) -> Result<(), PackError> {
        let Self { lo, hi, .. } = *self;
        if lo <= hi { Ok(()) } else { Err(PackError::Bounds { lo, hi }) }
    }
}

/// A vector of bytes that begins on a cache line.
#[derive(Debug)]
pub(super) struct Lines {
    pub lines: Arc<Vec<Line>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(64))]
pub(super) struct Line([i8; 64]);

/// A copy of its own, to be written to.
impl Clone for Lines {
    fn clone(&self) -> Self {
        Self { lines: Arc::new(Vec::clone(&self.lines)) }
    }
}

impl Lines {
    pub(super) fn zeroed(bytes: usize) -> Self {
        Self { lines: Arc::new(vec![Line([0; 64]); bytes.div_ceil(64)]) }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    pub(super) fn is_equal(&self, other: &[Line]) -> bool {
        *self.lines == *other
    }

    pub(super) fn values(&self) -> &[i8] {
        // SAFETY: lines are 64 values each, without gaps.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.lines.len() * 64) }
    }

    /// Of a copy, where they are shared.
    pub(super) fn values_mut(&mut self) -> &mut [i8] {
        let lines = Arc::make_mut(&mut self.lines);
        // SAFETY: lines are 64 values each, without gaps; borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) }
    }

    /// As numbers of 16 bits.
    pub(super) fn words(&self) -> &[i16] {
        // SAFETY: lines are 32 such numbers each, without gaps, and are aligned for them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 32) }
    }

    pub(super) fn words_mut(&mut self) -> &mut [i16] {
        let lines = Arc::make_mut(&mut self.lines);
        // SAFETY: as above; borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 32) }
    }

    /// As floats.
    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: lines are 16 such numbers each, without gaps, and are aligned for them; any bits are an f32.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 16) }
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        let lines = Arc::make_mut(&mut self.lines);
        // SAFETY: as above; borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
    }

    pub(super) fn as_ptr(&self) -> *const i8 {
        self.lines.as_ptr().cast()
    }
}

/// Packed weights of a product and what belongs to each output channel, padded to whole strips.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub n: usize,
    pub k: usize,
    pub taps: usize,
    /// Steps of KR that cover K.
    pub groups: usize,
    pub strip_bytes: usize,
    pub weights: Lines,
    /// `b − z·Σw`, z as stored.
    pub bias: Numbers<i32>,
    /// Σw.
    pub sums: Vec<i32>,
    pub multipliers: Numbers<f32>,
    /// Weight zero points that could not be subtracted; empty where all could.
    pub zero_points: Vec<i32>,
    /// Two weights that a kernel adds up in 16 bits are both −128.
    pub has_paired_minimum: bool,
    /// Sums times multipliers stay within 32 bits, as kernels that requantize want them.
    pub converts: bool,
    /// They stay within 16 bits, zero point and all.
    pub fits_words: bool,
}

/// The dimensions of a tier's packing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pack {
    pub nr: usize,
    pub kr: usize,
}

impl Packed {
    /// `zero_point` is the input's, as stored.
    pub(super) fn new(
        pack: Pack,
        view: &WeightView<'_>,
        zero_points: &[i8],
        bias: &[i32],
        multipliers: &[f32],
        zero_point: i32,
    ) -> Result<Self, PackError> {
        let [n, taps, k] = view.shape();
        let zeros = spread("weight zero points", zero_points, n, 0)?;
        let bias = spread("bias", bias, n, 0)?;
        let multipliers = spread("multipliers", multipliers, n, 1.0)?;
        check_multipliers(&multipliers)?;
        let reaches = check_reach(view, &zeros, &bias)?;
        let folds = fits(view, &zeros);
        let mut packed = Self::blank(pack, [n, taps, k], folds);
        packed.multipliers[..n].copy_from_slice(&multipliers);
        packed.converts = converts(&reaches, &multipliers);
        packed.fits_words = fits_words(&reaches, &multipliers);
        if view.is_by_rows() && zeros.iter().all(|&zero| zero == 0) {
            packed.fill_rows(pack, view, 0, zero_point);
            packed.bias.iter_mut().zip(&bias).for_each(|(to, bias)| *to = to.wrapping_add(*bias));
        } else {
            packed.fill(pack, view, &zeros, &bias, zero_point);
        }
        Ok(packed)
    }

    /// Zeros, in which zero points fold into the weights or stand beside them.
    pub(super) fn blank(pack: Pack, [n, taps, k]: [usize; 3], folds: bool) -> Self {
        // Of zeros where there is nothing: microkernels begin with a group.
        let groups = k.div_ceil(pack.kr).max(1);
        let strip_bytes = taps * groups * pack.nr * pack.kr;
        let strips = n.div_ceil(pack.nr);
        Self {
            n,
            k,
            taps,
            groups,
            strip_bytes,
            weights: Lines::zeroed(strips * strip_bytes),
            bias: Numbers::filled(0, strips * pack.nr),
            sums: vec![0; strips * pack.nr],
            multipliers: Numbers::filled(0.0, strips * pack.nr),
            zero_points: if folds { Vec::new() } else { vec![0; strips * pack.nr] },
            has_paired_minimum: false,
            converts: true,
            fits_words: false,
        }
    }

    /// Puts all weights of a view of the same shape into their places. One zero point stands for all; no biases, for zeros.
    pub(super) fn fill(&mut self, pack: Pack, view: &WeightView<'_>, zeros: &[i8], bias: &[i32], zero_point: i32) {
        self.has_paired_minimum = false;
        let folds = self.zero_points.is_empty();
        let width = (self.taps * self.k) as i32;
        let mut line = vec![0; self.k];
        for channel in 0..self.n {
            let zero = zeros[if zeros.len() == 1 { 0 } else { channel }];
            let sum = self.write_channel(pack, view, channel, if folds { zero } else { 0 }, &mut line);
            let bias = bias.get(channel).copied().unwrap_or(0);
            self.sums[channel] = sum;
            self.bias[channel] = bias.wrapping_sub(zero_point.wrapping_mul(sum));
            if !folds {
                let zero = i32::from(zero);
                self.zero_points[channel] = zero;
                let all = zero_point.wrapping_mul(zero).wrapping_mul(width);
                self.bias[channel] = self.bias[channel].wrapping_add(all);
            }
        }
    }

    /// As `fill`, of a matrix whose rows lie one after another, without biases and without subtracting anything: for
    /// what is packed at each run.
    pub(super) fn fill_rows(&mut self, pack: Pack, view: &WeightView<'_>, zero: i8, zero_point: i32) {
        let Pack { nr, kr } = pack;
        let row = |k: usize| &view.values[k * view.strides[2]..][..view.n];
        let strip_bytes = self.strip_bytes;
        for (strip, packed) in
            self.weights.values_mut().chunks_mut(strip_bytes.max(1)).enumerate().take(view.n.div_ceil(nr))
        {
            let first = strip * nr;
            let columns = first..view.n.min(first + nr);
            for (group, packed) in packed.chunks_exact_mut(nr * kr).enumerate().take(self.groups) {
                let rows = group * kr..view.k.min((group + 1) * kr);
                match (nr, kr) {
                    (16, 2) if columns.len() == nr && rows.len() == kr => {
                        let rows = std::array::from_fn(|i| &row(rows.start + i)[columns.clone()]);
                        interleave::<16, 2>(rows, packed, view.flip);
                    }
                    (16, 4) if columns.len() == nr && rows.len() == kr => {
                        let rows = std::array::from_fn(|i| &row(rows.start + i)[columns.clone()]);
                        interleave::<16, 4>(rows, packed, view.flip);
                    }
                    (16, 8) if columns.len() == nr && rows.len() == kr => {
                        let rows = std::array::from_fn(|i| &row(rows.start + i)[columns.clone()]);
                        interleave::<16, 8>(rows, packed, view.flip);
                    }
                    _ => {
                        for (i, k) in rows.enumerate() {
                            let places = packed.iter_mut().skip(i).step_by(kr);
                            places
                                .zip(&row(k)[columns.clone()])
                                .for_each(|(to, from)| *to = from ^ view.flip.cast_signed());
                        }
                    }
                }
            }
        }
        self.sum_rows(view);
        let folds = self.zero_points.is_empty();
        let all = zero_point.wrapping_mul(i32::from(zero)).wrapping_mul(self.k as i32);
        for (bias, &sum) in self.bias.iter_mut().zip(&self.sums) {
            *bias = (if folds { 0 } else { all }).wrapping_sub(zero_point.wrapping_mul(sum));
        }
        self.zero_points.iter_mut().take(view.n).for_each(|zero_point| *zero_point = i32::from(zero));
    }

    /// Column sums of such a matrix, and whether its weights are safe to add up in 16 bits.
    fn sum_rows(&mut self, view: &WeightView<'_>) {
        self.sums.fill(0);
        let mut least = 0;
        for k in 0..view.k {
            for (sum, &value) in self.sums.iter_mut().zip(&view.values[k * view.strides[2]..][..view.n]) {
                let value = value ^ view.flip.cast_signed();
                least = value.min(least);
                *sum = sum.wrapping_add(i32::from(value));
            }
        }
        // One alone does no harm, but two are not looked for.
        self.has_paired_minimum = least == i8::MIN;
    }

    /// Puts one output channel's weights into their places; their sum. `line` has room for one tap.
    fn write_channel(
        &mut self,
        pack: Pack,
        view: &WeightView<'_>,
        channel: usize,
        subtract: i8,
        line: &mut [i8],
    ) -> i32 {
        let Pack { nr, kr } = pack;
        let tap_bytes = self.groups * nr * kr;
        let start = channel / nr * self.strip_bytes + channel % nr * kr;
        let mut sum = 0_i32;
        for tap in 0..self.taps {
            view.read(channel, tap, 0, line);
            if subtract != 0 {
                line.iter_mut().for_each(|weight| *weight = weight.wrapping_sub(subtract));
            }
            sum = line.iter().fold(sum, |sum, &weight| sum.wrapping_add(i32::from(weight)));
            let to = &mut self.weights.values_mut()[start + tap * tap_bytes..];
            match kr {
                2 => spread_out::<2>(line, nr, to),
                4 => spread_out::<4>(line, nr, to),
                8 => spread_out::<8>(line, nr, to),
                _ => spread_out::<16>(line, nr, to),
            }
            // The kernel for pairs adds up the products of two groups in 16 bits.
            if kr == 2 {
                let both = |groups: &[i8]| groups.iter().zip(groups.iter().skip(2)).any(|pair| pair == (&-128, &-128));
                self.has_paired_minimum |= line.chunks(4).any(both);
            }
        }
        sum
    }
}

/// Groups of `KR` values, `nr` groups apart.
fn spread_out<const KR: usize>(line: &[i8], nr: usize, to: &mut [i8]) {
    let (groups, rest) = line.as_chunks::<KR>();
    for (group, to) in groups.iter().zip(to.chunks_mut(nr * KR)) {
        to[..KR].copy_from_slice(group);
    }
    if !rest.is_empty() {
        to[groups.len() * nr * KR..][..rest.len()].copy_from_slice(rest);
    }
}

/// Columns of `KR` values out of as many rows.
fn interleave<const NR: usize, const KR: usize>(rows: [&[i8]; KR], to: &mut [i8], flip: u8) {
    let rows: [[i8; NR]; KR] = rows.map(|row| row.try_into().unwrap_or([0; NR]));
    for (column, to) in to.as_chunks_mut::<KR>().0.iter_mut().enumerate().take(NR) {
        *to = std::array::from_fn(|i| rows[i][column] ^ flip.cast_signed());
    }
}

/// One value for each of `n` channels, from none, one, or one each.
pub(super) fn spread<T: Copy>(what: &'static str, values: &[T], n: usize, default: T) -> Result<Vec<T>, PackError> {
    match values {
        [] => Ok(vec![default; n]),
        [one] => Ok(vec![*one; n]),
        all if all.len() == n => Ok(all.to_vec()),
        _ => Err(PackError::Length { what, found: values.len(), wanted: n }),
    }
}

pub(super) fn check_multipliers(multipliers: &[f32]) -> Result<(), PackError> {
    match multipliers.iter().position(|m| !m.is_finite()) {
        Some(channel) => Err(PackError::Multiplier { channel, multiplier: multipliers[channel] }),
        None => Ok(()),
    }
}

/// Σ|w|·255 + |b| must stay below 2³¹, whatever the input and its zero point. By output channel.
pub(super) fn check_reach(view: &WeightView<'_>, zeros: &[i8], bias: &[i32]) -> Result<Vec<i64>, PackError> {
    let mut reaches = magnitudes(view, zeros);
    for (channel, reach) in reaches.iter_mut().enumerate() {
        *reach = reach.saturating_mul(255).saturating_add(i64::from(bias[channel]).abs());
        if *reach > i64::from(i32::MAX) {
            return Err(PackError::Overflow { channel, reach: *reach });
        }
    }
    Ok(reaches)
}

/// By output channel: the sum of weights less their zero point, each without its sign.
fn magnitudes(view: &WeightView<'_>, zeros: &[i8]) -> Vec<i64> {
    let [n, taps, k] = view.shape();
    let flip = view.flip.cast_signed();
    let size = |weight: i8, zero: i8| (i32::from(weight ^ flip) - i32::from(zero)).abs();
    let mut sums = vec![0_i64; n];
    // In an order in which values lie side by side.
    if view.is_by_rows() {
        for row in (0..k).map(|k| &view.values[k * view.strides[2]..][..n]) {
            let each = sums.iter_mut().zip(row).zip(zeros);
            each.for_each(|((sum, &weight), &zero)| *sum += i64::from(size(weight, zero)));
        }
    } else if view.strides[0] == taps * k {
        for (channel, sum) in sums.iter_mut().enumerate() {
            let weights = &view.values[channel * taps * k..][..taps * k];
            let part = |part: &[i8]| i64::from(part.iter().map(|&w| size(w, zeros[channel])).sum::<i32>());
            *sum = weights.chunks(1 << 16).map(part).sum();
        }
    } else {
        let mut line = vec![0; k];
        for (channel, sum) in sums.iter_mut().enumerate() {
            for tap in 0..taps {
                view.read(channel, tap, 0, &mut line);
                *sum += line.iter().map(|&w| i64::from((i32::from(w) - i32::from(zeros[channel])).abs())).sum::<i64>();
            }
        }
    }
    sums
}

/// Whether every weight less its zero point fits into eight bits.
pub(super) fn fits(view: &WeightView<'_>, zeros: &[i8]) -> bool {
    let [n, taps, k] = view.shape();
    (0..n).all(|channel| {
        let zero = zeros[channel];
        zero == 0 || (0..taps).all(|tap| (0..k).all(|k| view.at(channel, tap, k).checked_sub(zero).is_some()))
    })
}
