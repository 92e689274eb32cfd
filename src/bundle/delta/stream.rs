//! The instructions as they stand in a delta, read and written by the same code.

use super::mix::{Mixer, hash, within};
use super::numbers::{Numbers, Width};
use super::range::{Bits, NoBit};
use super::text::Text;

/// What makes the next bytes of the new file. Offsets are in the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    Copy {
        from: u64,
        length: u64,
    },
    /// Old numbers, little-endian, and their differences; in rows of `stride` numbers.
    Add {
        from: u64,
        length: u64,
        width: Width,
        stride: u32,
    },
    /// Bytes that follow in the delta.
    Insert {
        length: u64,
    },
    /// Makes no bytes: old ones that those inserted later are like.
    Learn {
        from: u64,
        length: u64,
    },
    End,
}

const INPUTS: usize = 2;

/// A delta's bits with what predicts them.
pub(super) struct Stream<B> {
    pub bits: B,
    fields: Mixer<INPUTS>,
    pub text: Text,
    numbers: [Option<Box<Numbers>>; 3],
    /// Where the last copied or added bytes ended.
    next: u64,
    last: u32,
}

impl<B: Bits> Stream<B> {
    pub fn new(bits: B) -> Self {
        let numbers = [const { None }; 3];
        Self { bits, fields: Mixer::new(14, 1, 127, 6), text: Text::new(), numbers, next: 0, last: 0 }
    }

    pub fn instruction(&mut self, it: Instruction) -> Result<Instruction, NoBit> {
        let (kind, from, length, stride) = match it {
            Instruction::End => (0, 0, 0, 0),
            Instruction::Copy { from, length } => (1, from, length, 0),
            Instruction::Insert { length } => (2, 0, length, 0),
            Instruction::Learn { from, length } => (3, from, length, 0),
            Instruction::Add { from, length, width, stride } => (4 + width as u64, from, length, stride),
        };
        let kind = self.number(8 + self.last, kind)?;
        self.last = u32::try_from(kind.min(7)).unwrap_or(7);
        if kind == 0 {
            return Ok(Instruction::End);
        }
        let field = 16 + self.last * 4;
        let from = if kind == 2 { 0 } else { self.offset(field, from)? };
        let length = self.number(field + 1, length)?;
        if kind != 2 && kind != 3 {
            self.next = from.wrapping_add(length);
        }
        Ok(match kind {
            1 => Instruction::Copy { from, length },
            2 => Instruction::Insert { length },
            3 => Instruction::Learn { from, length },
            _ => {
                let width = Width::ALL[usize::try_from(kind - 4).unwrap_or(0).min(2)];
                let stride = self.number(field + 2, stride.into())?;
                Instruction::Add { from, length, width, stride: u32::try_from(stride).unwrap_or(u32::MAX) }
            }
        })
    }

    /// As far from where the last ended.
    fn offset(&mut self, field: u32, from: u64) -> Result<u64, NoBit> {
        let away = from.wrapping_sub(self.next).cast_signed();
        let coded = self.number(field, (away << 1 ^ away >> 63).cast_unsigned())?;
        let away = (coded >> 1).cast_signed() ^ -(coded & 1).cast_signed();
        Ok(self.next.wrapping_add(away.cast_unsigned()))
    }

    /// The number of its bits, then those below the first.
    fn number(&mut self, field: u32, value: u64) -> Result<u64, NoBit> {
        let of_field = hash(field);
        let of_any = hash(field | 1 << 16);
        let mut node = 1;
        let class = u64::BITS - value.leading_zeros();
        for digit in (0..7).rev() {
            node = node << 1 | self.field([within(of_field, node), of_any], class >> digit & 1)?;
        }
        let class = (node - 128).min(u64::BITS);
        let mut found = u64::from(class > 0);
        for below in (0..class.saturating_sub(1)).rev() {
            let bit = u32::from(value >> below & 1 == 1);
            let node = 1 << 8 | class << 9 | below << 16;
            let place = within(of_field, node);
            let upper = within(place, u32::try_from(found & 0xffff).unwrap_or(0));
            found = found << 1 | u64::from(self.field([upper, place], bit)?);
        }
        Ok(found)
    }

    fn field(&mut self, contexts: [u32; INPUTS], bit: u32) -> Result<u32, NoBit> {
        self.fields.code(&mut self.bits, &contexts, 0, bit)
    }

    pub fn byte(&mut self, byte: u8) -> Result<u8, NoBit> {
        self.text.code(&mut self.bits, byte)
    }

    pub fn begin(&mut self, width: Width, stride: u32) {
        let numbers = self.numbers[width as usize].get_or_insert_with(|| Box::new(Numbers::new(width)));
        numbers.begin(stride as usize);
    }

    pub fn difference(&mut self, width: Width, old: u32, difference: i32) -> Result<i32, NoBit> {
        let numbers = self.numbers[width as usize].get_or_insert_with(|| Box::new(Numbers::new(width)));
        numbers.code(&mut self.bits, old, difference)
    }
}
