//! Differences between the numbers of two tensors, each by those before it, those of the row before, and the old number.
//!
//! A difference is the number of its bits, its sign and the bits below the first. Of these two are predicted and the rest
//! are as good as random. For floats of 16 and 32 bits the difference is that of their bits as integers, which is a
//! difference in units of the last place: the exponent tells how large one is.
//!
//! An int8 tensor that was quantized anew has other scales: new levels are then about the old ones times a factor of the
//! row, which is followed as the row goes on.

use super::mix::{Mixer, hash, within};
use super::range::{Bits, NoBit};

/// Bytes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    One,
    Two,
    Four,
}

impl Width {
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Four];

    pub const fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    const fn bits(self) -> u32 {
        8 << self.log()
    }

    const fn log(self) -> u32 {
        match self {
            Self::One => 0,
            Self::Two => 1,
            Self::Four => 2,
        }
    }

    /// The exponent, where a number of this width is a float.
    const fn exponent(self, number: u32) -> u32 {
        match self {
            Self::One => 0,
            Self::Two => number >> 10 & 31,
            Self::Four => number >> 23 & 255,
        }
    }

    fn wrap(self, difference: i32) -> i32 {
        let unused = 32 - self.bits();
        difference << unused >> unused
    }
}

const INPUTS: usize = 9;
const NODES: usize = 256;
const SIGN: u32 = 64;
const MANTISSA: u32 = 65;

pub(super) struct Numbers {
    width: Width,
    mixer: Mixer<INPUTS>,
    /// Sign and number of bits of the differences of the last row.
    row: Vec<i8>,
    column: usize,
    rows: u32,
    /// Sign and number of bits of the last two.
    last: [i32; 2],
    /// Number of bits (and the exponent), 256 for one: over about four numbers, and over about 32.
    soon: i32,
    slow: i32,
    /// Over the row: old numbers by differences, and by themselves.
    moved: i64,
    square: i64,
}

impl Numbers {
    pub fn new(width: Width) -> Self {
        Self {
            width,
            mixer: Mixer::new(16, NODES, 1000, 3),
            row: Vec::new(),
            column: 0,
            rows: 0,
            last: [0; 2],
            soon: 0,
            slow: 0,
            moved: 0,
            square: 0,
        }
    }

    /// The next number is the first of a tensor with rows of that many numbers.
    pub fn begin(&mut self, stride: usize) {
        self.row = vec![0; stride.max(1)];
        (self.column, self.rows, self.last) = (0, 0, [0; 2]);
        (self.moved, self.square) = (0, 0);
    }

    /// The difference of the next number to `old`; an encoder knows it.
    pub fn code(&mut self, bits: &mut impl Bits, old: u32, difference: i32) -> Result<i32, NoBit> {
        let moves = self.expected(old);
        let expected = (moves + 8) >> 4;
        let left = self.width.wrap(difference.wrapping_sub(expected));
        let contexts = self.contexts(old, moves - expected * 16);
        let left = self.width.wrap(self.difference(bits, &contexts, left)?);
        let difference = self.width.wrap(left.wrapping_add(expected));
        self.remember(old, left, difference);
        Ok(difference)
    }

    /// What the row's factor makes of it so far, 16 for one level.
    fn expected(&self, old: u32) -> i32 {
        const PRIOR: i64 = 4000;
        if self.width != Width::One {
            return 0;
        }
        let level = i64::from(self.width.wrap(old.cast_signed()));
        i32::try_from(level * self.moved * 16 / (self.square + PRIOR)).unwrap_or(0).clamp(-2000, 2000)
    }

    fn contexts(&self, old: u32, part: i32) -> [u32; INPUTS] {
        let exponent = self.width.exponent(old).cast_signed();
        let above = self.row[self.column];
        let upper = match self.width {
            Width::One => old,
            Width::Two => old >> 8,
            Width::Four => old >> 22,
        };
        let soon = (self.soon - exponent * 256) >> 6;
        let slow = (self.slow - exponent * 256) >> 4;
        let column = u32::try_from(self.column & 0xfff).unwrap_or(0);
        let [one, two] = self.last;
        let mix = |which: u32, a: i32, b: i32| {
            let text = (a & 0xffff).unsigned_abs() << 12 ^ (b & 0xfff).unsigned_abs();
            hash(text ^ which << 28)
        };
        [
            mix(0, 0, 0),
            mix(1, upper.cast_signed(), soon >> 3),
            mix(2, one, two),
            mix(3, above.into(), one),
            mix(4, slow, part),
            mix(5, column.cast_signed(), soon >> 2),
            mix(6, self.rows.cast_signed(), exponent),
            mix(7, slow >> 2, soon),
            mix(8, upper.cast_signed(), part),
        ]
    }

    fn difference(&mut self, bits: &mut impl Bits, contexts: &[u32; INPUTS], value: i32) -> Result<i32, NoBit> {
        let size = value.unsigned_abs();
        let class = self.class(bits, contexts, 32 - size.leading_zeros())?;
        if class == 0 {
            return Ok(0);
        }
        let negative = self.bit(bits, contexts, SIGN, u32::from(value < 0))?;
        let mut found = 1_u32;
        for below in (0..class - 1).rev() {
            let bit = size >> below & 1;
            let is_predicted = found < 4;
            let node = MANTISSA + class * 4 + found;
            let bit = if is_predicted { self.bit(bits, contexts, node, bit)? } else { bits.code(bit, 1 << 15)? };
            found = found << 1 | bit;
        }
        Ok(if negative == 1 { 0_i32.wrapping_sub_unsigned(found) } else { found.cast_signed() })
    }

    /// The number of bits: one after the other for bytes, where most have few; else by halves.
    fn class(&mut self, bits: &mut impl Bits, contexts: &[u32; INPUTS], class: u32) -> Result<u32, NoBit> {
        if self.width == Width::One {
            let mut found = 0;
            while found < self.width.bits() && self.bit(bits, contexts, found, u32::from(class > found))? == 1 {
                found += 1;
            }
            return Ok(found);
        }
        let digits = self.width.log() + 4;
        let mut node = 1;
        for digit in (0..digits).rev() {
            node = node << 1 | self.bit(bits, contexts, node, class >> digit & 1)?;
        }
        Ok((node - (1 << digits)).min(self.width.bits()))
    }

    fn bit(&mut self, bits: &mut impl Bits, contexts: &[u32; INPUTS], node: u32, bit: u32) -> Result<u32, NoBit> {
        let here = contexts.map(|context| within(context, node));
        self.mixer.code(bits, &here, node as usize % NODES, bit)
    }

    fn remember(&mut self, old: u32, left: i32, difference: i32) {
        let class = (32 - left.unsigned_abs().leading_zeros()).cast_signed();
        let signed = class * left.signum();
        let scaled = (class + self.width.exponent(old).cast_signed()) * 256;
        self.soon += (scaled - self.soon) / 4;
        self.slow += (scaled - self.slow) / 32;
        self.last = [signed, self.last[0]];
        self.row[self.column] = i8::try_from(signed).unwrap_or(0);
        if self.width == Width::One {
            let level = i64::from(self.width.wrap(old.cast_signed()));
            self.moved += level * i64::from(difference);
            self.square += level * level;
        }
        self.column += 1;
        if self.column == self.row.len() {
            (self.column, self.rows) = (0, self.rows.wrapping_add(1));
            // The next row may have another factor.
            (self.moved, self.square) = (self.moved / 8, self.square / 8);
        }
    }
}
