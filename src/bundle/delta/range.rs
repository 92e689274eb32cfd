//! Single bits, each with its chance, as bytes and back: a binary range coder (after Mahoney's, "The PAQ1 data
//! compression program", 2002).
//!
//! Invariant: the decoder makes no byte up. It may look a few bytes past the end, as the encoder leaves them out; one that
//! goes on there is told.

use std::io::{self, Read};

/// Why no bit came.
#[derive(Debug)]
pub(super) enum NoBit {
    /// The bytes are used up.
    End,
    Io(io::Error),
}

/// One end of the line. Model code is written once, for both: what an encoder is given, a decoder gives back.
pub(super) trait Bits {
    /// A bit that is 1 in `chance` of 65,536 cases, 1 to 65,535. A decoder does not look at `bit`.
    fn code(&mut self, bit: u32, chance: u32) -> Result<u32, NoBit>;
}

/// Nothing is written: for models that learn what both ends know already.
pub(super) struct Silent;

impl Bits for Silent {
    fn code(&mut self, bit: u32, _chance: u32) -> Result<u32, NoBit> {
        Ok(bit)
    }
}

fn split(low: u32, high: u32, chance: u32) -> u32 {
    let range = high - low;
    low + (range >> 16) * chance + (((range & 0xffff) * chance) >> 16)
}

/// Bytes that a decoder holds before it has decoded anything; so many may lack at the end.
const AHEAD: u32 = 4;

pub(super) struct Decoder<R> {
    from: R,
    buffer: Box<[u8; 4096]>,
    /// Places in the buffer.
    at: usize,
    end: usize,
    missing: u32,
    low: u32,
    high: u32,
    code: u32,
}

impl<R: Read> Decoder<R> {
    pub fn new(from: R) -> Result<Self, NoBit> {
        let buffer = Box::new([0; 4096]);
        let mut this = Self { from, buffer, at: 0, end: 0, missing: 0, low: 0, high: u32::MAX, code: 0 };
        for _ in 0..AHEAD {
            this.code = this.code << 8 | this.byte()?;
        }
        Ok(this)
    }

    fn byte(&mut self) -> Result<u32, NoBit> {
        if self.at == self.end && self.missing == 0 {
            self.end = loop {
                match self.from.read(&mut self.buffer[..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other.map_err(NoBit::Io)?,
                }
            };
            self.at = 0;
        }
        if self.at < self.end {
            self.at += 1;
            return Ok(u32::from(self.buffer[self.at - 1]));
        }
        self.missing += 1;
        if self.missing > AHEAD { Err(NoBit::End) } else { Ok(0) }
    }

    /// Whether all bytes were used: nothing follows what was decoded.
    pub fn is_used_up(&mut self) -> Result<bool, NoBit> {
        if self.at < self.end {
            return Ok(false);
        }
        if self.missing == 0 {
            self.byte()?;
        }
        Ok(self.missing > 0)
    }
}

impl<R: Read> Bits for Decoder<R> {
    fn code(&mut self, _bit: u32, chance: u32) -> Result<u32, NoBit> {
        let middle = split(self.low, self.high, chance);
        let bit = u32::from(self.code <= middle);
        if bit == 1 {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.low <<= 8;
            self.high = self.high << 8 | 255;
            self.code = self.code << 8 | self.byte()?;
        }
        Ok(bit)
    }
}

#[cfg(feature = "operator")]
pub(super) struct Encoder {
    out: Vec<u8>,
    low: u32,
    high: u32,
}

#[cfg(feature = "operator")]
impl Encoder {
    pub fn new(out: Vec<u8>) -> Self {
        Self { out, low: 0, high: u32::MAX }
    }

    pub fn written(&self) -> usize {
        self.out.len()
    }

    /// The fewest bytes that, with zeros behind them, name a number in the last range.
    pub fn finish(mut self) -> Vec<u8> {
        if self.low > 0 {
            let whole = (1..=4).find_map(|bytes| {
                let unit = 1_u64 << (32 - 8 * bytes);
                let number = u64::from(self.low).next_multiple_of(unit);
                (number <= u64::from(self.high)).then_some((number, bytes))
            });
            let (number, bytes) = whole.unwrap_or((u64::from(self.low), 4));
            self.out.extend(&number.to_be_bytes()[4..4 + bytes]);
        }
        self.out
    }
}

#[cfg(feature = "operator")]
impl Bits for Encoder {
    fn code(&mut self, bit: u32, chance: u32) -> Result<u32, NoBit> {
        let middle = split(self.low, self.high, chance);
        if bit == 1 {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.out.push(self.high.to_be_bytes()[0]);
            self.low <<= 8;
            self.high = self.high << 8 | 255;
        }
        Ok(bit)
    }
}
