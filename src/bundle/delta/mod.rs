//! A new file from an old one: copy, add differences, insert.
//!
//! Invariant: what comes out has the digest and the size that were asked for, or an error does. Whatever a delta says, it
//! reads inside the old file, writes no more than that size, makes no more instructions than bytes, and takes at most
//! about 14 MiB of memory, most of it the tables of what predicts the next bit. The time is bounded by the size.
//!
//! A delta is four bytes (`SVd1`) and one range-coded stream of instructions with what they need: differences of
//! numbers (`numbers.rs`) and inserted bytes (`text.rs`). The applier knows no ONNX; which tensor became which is the
//! maker's to find (`publish`).
//!
//! Not here: who made it, whether it is worth its bytes, files.
//!
//! Rejected: zstd over the differences (a level that moves by one costs it two thirds more than its entropy; nor does it
//! know the old number); bsdiff's form (three streams, each by bzip2, all in memory); a range coder from a crate (the
//! predictors are the work, the coder is forty lines).

mod mix;
mod numbers;
mod range;
mod stream;
mod text;
#[cfg(feature = "operator")]
mod write;

pub use numbers::Width;
pub use stream::Instruction;
#[cfg(feature = "operator")]
pub use write::{Cost, Script, write};

use super::Digest;
use range::{Decoder, NoBit};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use stream::Stream;

const MAGIC: [u8; 4] = *b"SVd1";

/// The most that a row of numbers may have: one byte of memory each.
pub const MAX_STRIDE: u32 = 1 << 16;
/// The most bytes of the old file that a delta may have learnt from.
pub const MAX_LEARNT: u64 = 4 << 20;
/// Bytes that are read and written at a time.
const BLOCK: usize = 64 * 1024;

/// The old file.
pub trait ReadAt {
    fn size(&self) -> u64;
    /// Fills the buffer; the range lies in the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|at| self.get(at..)?.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What is to come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub sha256: Digest,
    pub size: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    #[error("these bytes are no delta that this Selvedge knows; it begins with {0:02x?}")]
    NoDelta([u8; 4]),
    #[error("the delta breaks off after {written} of {size} bytes of the new file")]
    Truncated { written: u64, size: u64 },
    #[error("at byte {written} of the new file the delta reads {length} bytes at {from} of an old file of {size}")]
    Outside { written: u64, from: u64, length: u64, size: u64 },
    #[error("at byte {written} of the new file the delta makes {length} bytes more, which is over its size of {size}")]
    TooLong { written: u64, length: u64, size: u64 },
    #[error("the delta ends after {written} of {size} bytes of the new file")]
    TooShort { written: u64, size: u64 },
    #[error("at byte {written} of the new file: {problem}")]
    Form { written: u64, problem: &'static str },
    #[error(
        "the delta makes a file with the digest {actual}, not {expected}: it is for another old file, or that is damaged"
    )]
    Digest { expected: Digest, actual: Digest },
    #[error("read the delta")]
    ReadDelta(#[source] io::Error),
    #[error("read the old file")]
    ReadOld(#[source] io::Error),
    #[error("write the new file")]
    Write(#[source] io::Error),
}

/// Makes the new file. What was written counts only once this returns without an error.
pub fn apply(
    old: &dyn ReadAt,
    mut delta: impl Read,
    expected: &Expected,
    out: &mut dyn Write,
) -> Result<(), DeltaError> {
    let mut magic = [0; 4];
    let is_there = delta.read_exact(&mut magic);
    match is_there {
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(DeltaError::ReadDelta(e)),
        Ok(()) if magic == MAGIC => {}
        Ok(()) | Err(_) => return Err(DeltaError::NoDelta(magic)),
    }
    let size = expected.size;
    let decoder = Decoder::new(delta).map_err(|e| no_bit(e, 0, size))?;
    let stream = Stream::new(decoder);
    let new = New { out, hash: Sha256::new(), written: 0, size };
    let mut applier = Applier { old, new, stream, learnt: 0, block: vec![0; BLOCK] };
    while applier.step()? {}
    let actual = Digest::from_bytes(applier.new.hash.finalize().into());
    if actual == expected.sha256 { Ok(()) } else { Err(DeltaError::Digest { expected: expected.sha256, actual }) }
}

fn no_bit(error: NoBit, written: u64, size: u64) -> DeltaError {
    match error {
        NoBit::End => DeltaError::Truncated { written, size },
        NoBit::Io(e) => DeltaError::ReadDelta(e),
    }
}

/// What has come out so far.
struct New<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
    written: u64,
    size: u64,
}

impl New<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), DeltaError> {
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(DeltaError::Write)
    }
}

struct Applier<'a, R> {
    old: &'a dyn ReadAt,
    new: New<'a>,
    stream: Stream<Decoder<R>>,
    learnt: u64,
    block: Vec<u8>,
}

impl<R: Read> Applier<'_, R> {
    /// One instruction; false at the end.
    fn step(&mut self) -> Result<bool, DeltaError> {
        let read = self.stream.instruction(Instruction::End);
        match read.map_err(|e| self.no_bit(e))? {
            Instruction::End => return self.end().map(|()| false),
            Instruction::Copy { from, length } => {
                self.check(Some(from), length)?;
                self.copy(from, length)?;
            }
            Instruction::Add { from, length, width, stride } => {
                self.check(Some(from), length)?;
                if !length.is_multiple_of(width.bytes() as u64) || !(1..=MAX_STRIDE).contains(&stride) {
                    return self.form("numbers that are not whole, or in rows of none or of over 65,536");
                }
                self.stream.begin(width, stride);
                self.add(from, length, width)?;
            }
            Instruction::Insert { length } => {
                self.check(None, length)?;
                self.insert(length)?;
            }
            Instruction::Learn { from, length } => self.learn(from, length)?,
        }
        Ok(true)
    }

    fn no_bit(&self, error: NoBit) -> DeltaError {
        no_bit(error, self.new.written, self.new.size)
    }

    fn form<T>(&self, problem: &'static str) -> Result<T, DeltaError> {
        Err(DeltaError::Form { written: self.new.written, problem })
    }

    /// An instruction makes something, and all of it lies in the files.
    fn check(&self, from: Option<u64>, length: u64) -> Result<(), DeltaError> {
        let (written, size) = (self.new.written, self.new.size);
        if length == 0 {
            return self.form("an instruction that makes nothing");
        }
        if length > size - written {
            return Err(DeltaError::TooLong { written, length, size });
        }
        from.map_or(Ok(()), |from| self.check_old(from, length))
    }

    fn check_old(&self, from: u64, length: u64) -> Result<(), DeltaError> {
        let size = self.old.size();
        if from.checked_add(length).is_none_or(|end| end > size) {
            return Err(DeltaError::Outside { written: self.new.written, from, length, size });
        }
        Ok(())
    }

    /// Calls `each` with the old bytes, block by block.
    fn blocks(
        &mut self,
        from: u64,
        length: u64,
        mut each: impl FnMut(&mut Self, &mut [u8]) -> Result<(), DeltaError>,
    ) -> Result<(), DeltaError> {
        let mut block = std::mem::take(&mut self.block);
        let (mut at, end) = (from, from + length);
        while at < end {
            let bytes = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
            let part = &mut block[..bytes];
            self.old.read_at(at, part).map_err(DeltaError::ReadOld)?;
            each(self, part)?;
            at += bytes as u64;
        }
        self.block = block;
        Ok(())
    }

    fn copy(&mut self, from: u64, length: u64) -> Result<(), DeltaError> {
        self.blocks(from, length, |this, part| this.new.write(part))
    }

    fn add(&mut self, from: u64, length: u64, width: Width) -> Result<(), DeltaError> {
        self.blocks(from, length, |this, part| {
            for number in part.chunks_exact_mut(width.bytes()) {
                let old = read_number(number);
                let difference = this.stream.difference(width, old, 0).map_err(|e| this.no_bit(e))?;
                write_number(number, old.wrapping_add_signed(difference));
            }
            this.new.write(part)
        })
    }

    fn insert(&mut self, length: u64) -> Result<(), DeltaError> {
        let mut left = length;
        let mut block = std::mem::take(&mut self.block);
        while left > 0 {
            let bytes = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            for byte in &mut block[..bytes] {
                *byte = self.stream.byte(0).map_err(|e| self.no_bit(e))?;
            }
            self.new.write(&block[..bytes])?;
            left -= bytes as u64;
        }
        self.block = block;
        Ok(())
    }

    fn learn(&mut self, from: u64, length: u64) -> Result<(), DeltaError> {
        self.learnt = self.learnt.saturating_add(length);
        if length == 0 || self.learnt > MAX_LEARNT {
            return self.form("the delta learns from nothing, or from over 4 MiB");
        }
        self.check_old(from, length)?;
        self.blocks(from, length, |this, part| {
            part.iter().for_each(|&byte| this.stream.text.learn(byte));
            Ok(())
        })
    }

    fn end(&mut self) -> Result<(), DeltaError> {
        let (written, size) = (self.new.written, self.new.size);
        if written < size {
            return Err(DeltaError::TooShort { written, size });
        }
        match self.stream.bits.is_used_up() {
            Ok(true) => Ok(()),
            Ok(false) => self.form("something follows the end of the delta"),
            Err(e) => Err(self.no_bit(e)),
        }
    }
}

fn read_number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn write_number(bytes: &mut [u8], number: u32) {
    let from = number.to_le_bytes();
    bytes.copy_from_slice(&from[..bytes.len()]);
}

#[cfg(all(test, feature = "operator"))]
mod tests;
