//! The other side: a delta from instructions. Which instructions is the maker's to find.

use super::range::{Encoder, NoBit};
use super::stream::{Instruction, Stream};
use super::{MAGIC, read_number};

/// Instructions in order, without the end.
pub type Script = Vec<Instruction>;

/// Bytes of a delta by what they are for, in the order of the instructions.
pub type Cost = Vec<(Instruction, usize)>;

/// Writes a delta; the script makes `new` from `old`, which is for the caller to check by applying it.
///
/// # Panics
/// Where the script leaves the files.
pub fn write(old: &[u8], new: &[u8], script: &[Instruction]) -> (Vec<u8>, Cost) {
    let mut stream = Stream::new(Encoder::new(MAGIC.to_vec()));
    let mut cost = Cost::new();
    let mut at = 0;
    for &instruction in script {
        let before = stream.bits.written();
        let done = one(&mut stream, old, new, &mut at, instruction);
        assert!(done.is_ok(), "an encoder does not run out of bytes");
        cost.push((instruction, stream.bits.written() - before));
    }
    let done = stream.instruction(Instruction::End);
    assert!(done.is_ok(), "an encoder does not run out of bytes");
    (stream.bits.finish(), cost)
}

fn one(
    stream: &mut Stream<Encoder>,
    old: &[u8],
    new: &[u8],
    at: &mut usize,
    instruction: Instruction,
) -> Result<(), NoBit> {
    stream.instruction(instruction)?;
    let part = |from: u64, length: u64| &old[place(from)..place(from + length)];
    match instruction {
        Instruction::Copy { length, .. } => *at += place(length),
        Instruction::Add { from, length, width, stride } => {
            stream.begin(width, stride);
            let new = &new[*at..*at + place(length)];
            let old = part(from, length).chunks_exact(width.bytes());
            for (old, new) in old.zip(new.chunks_exact(width.bytes())) {
                let (old, new) = (read_number(old), read_number(new));
                stream.difference(width, old, new.wrapping_sub(old).cast_signed())?;
            }
            *at += place(length);
        }
        Instruction::Insert { length } => {
            for &byte in &new[*at..*at + place(length)] {
                stream.byte(byte)?;
            }
            *at += place(length);
        }
        Instruction::Learn { from, length } => part(from, length).iter().for_each(|&byte| stream.text.learn(byte)),
        Instruction::End => {}
    }
    Ok(())
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("a place in a file that is in memory")
}
