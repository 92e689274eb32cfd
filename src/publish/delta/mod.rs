//! Which instructions make a new version from an old one.
//!
//! Tensors first: those of the new file are paired with those of the old by content, by name, then by type and size and how
//! near their numbers are; what is the same is copied, what moved becomes differences. The rest (names, nodes, other
//! files) is copied where 32 bytes or more stand in the old file too, and inserted where not, by a model that has learnt
//! from the old file's rest. Files without tensors go the same way.
//!
//! Invariant: a script is a guess at what is cheap, never at what is right: whoever makes a delta applies it once before it
//! is signed (`make`).
//! Not here: the form of a delta (`bundle`), which versions get one (`deltas.rs`).
//!
//! Rejected: suffix arrays over the whole (8 bytes of memory a byte, to find what the names of tensors tell).

mod matches;
mod tensors;

use crate::bundle::Digest;
use crate::bundle::delta::{Cost, Expected, Instruction, MAX_STRIDE, Script, Width, apply, write};
use matches::Index;
use std::ops::Range;
use tensors::Pair;

/// A delta that was tried: it makes `new` from `old`. The second value says what its bytes are for.
pub fn make(old: &[u8], new: &[u8]) -> Option<(Vec<u8>, Cost)> {
    let (delta, cost) = write(old, new, &script(old, new));
    let expected = Expected { sha256: Digest::of(new), size: new.len() as u64 };
    apply(&old, &delta[..], &expected, &mut std::io::sink()).ok()?;
    Some((delta, cost))
}

/// See the module's head.
fn script(old: &[u8], new: &[u8]) -> Script {
    let pairs = tensors::pairs(old, new);
    let index = Index::new(old);
    let mut writer = Writer { old, new, script: Script::new(), at: 0, next: 0 };
    for pair in pairs {
        writer.rest(&index, pair.new.start);
        writer.tensor(&pair);
    }
    writer.rest(&index, new.len());
    best_learnt(old, new, joined(writer.script))
}

const fn is_in_step(last: &Instruction) -> bool {
    matches!(last, Instruction::Copy { .. } | Instruction::Add { width: Width::One, .. })
}

/// Single numbers that moved, with short copies between them, are one instruction: bytes that stay cost next to nothing in it.
fn joined(script: Script) -> Script {
    /// Fewer copied bytes are cheaper as differences of zero.
    const SHORT: u64 = 256;
    let plain = |i: &Instruction| match *i {
        Instruction::Add { from, length, width: Width::One, stride: 1 } => Some((from, length)),
        Instruction::Copy { from, length } if length < SHORT => Some((from, length)),
        Instruction::Add { .. }
        | Instruction::Copy { .. }
        | Instruction::Insert { .. }
        | Instruction::Learn { .. }
        | Instruction::End => None,
    };
    let mut joined = Script::new();
    for next in script {
        let before = joined.last().and_then(plain);
        match (before, plain(&next)) {
            (Some((start, done)), Some((from, length))) if start + done == from => {
                joined.pop();
                joined.push(Instruction::Add { from: start, length: done + length, width: Width::One, stride: 1 });
            }
            (Some(_) | None, Some(_) | None) => joined.push(next),
        }
    }
    joined
}

/// Inserted bytes are told better by a model that knows the old file's; how much it should know is tried.
fn best_learnt(old: &[u8], new: &[u8], script: Script) -> Script {
    let length = |i: &Instruction| {
        if let Instruction::Insert { length } = i { *length } else { 0 }
    };
    let inserted = script.iter().map(length).sum::<u64>();
    if inserted < SHORTEST_ADD as u64 {
        return script;
    }
    if inserted > MOST_TRIED {
        return learn(old, 512).into_iter().chain(script).collect();
    }
    let size = |learnt: &[Instruction]| {
        // Numbers cost the same in all, and most of the time.
        let light = |i: &Instruction| match *i {
            Instruction::Add { from, length, .. } => Instruction::Copy { from, length },
            other @ (Instruction::Copy { .. }
            | Instruction::Insert { .. }
            | Instruction::Learn { .. }
            | Instruction::End) => other,
        };
        write(old, new, &learnt.iter().chain(&script).map(light).collect::<Script>()).0.len()
    };
    let tries = [usize::MAX, 4096, 512, 64].map(|shortest| learn(old, shortest));
    let best = tries.into_iter().min_by_key(|learnt| size(learnt)).unwrap_or_default();
    best.into_iter().chain(script).collect()
}

/// From the parts without tensors that are no shorter.
fn learn(old: &[u8], shortest: usize) -> Script {
    const MOST: usize = 512 << 10;
    let mut left = MOST;
    let mut learnt = Script::new();
    for rest in tensors::rests(old).into_iter().filter(|rest| rest.len() >= shortest) {
        let length = rest.len().min(left);
        left -= length;
        if length > 0 {
            learnt.push(Instruction::Learn { from: rest.start as u64, length: length as u64 });
        }
    }
    learnt
}

struct Writer<'a> {
    old: &'a [u8],
    new: &'a [u8],
    script: Script,
    /// In the new file.
    at: usize,
    /// Where in the old one the last instruction ended.
    next: usize,
}

impl Writer<'_> {
    fn tensor(&mut self, pair: &Pair) {
        let (old, new) = (&self.old[pair.old.clone()], &self.new[pair.new.clone()]);
        if old == new {
            return self.copy(pair.old.start, pair.new.len());
        }
        self.add(pair.old.start, pair.new.len(), pair.width, pair.stride);
    }

    fn copy(&mut self, from: usize, bytes: usize) {
        if let Some(Instruction::Copy { length, .. }) = self.script.last_mut()
            && from == self.next
        {
            *length += bytes as u64;
        } else if bytes > 0 {
            self.script.push(Instruction::Copy { from: from as u64, length: bytes as u64 });
        }
        (self.at, self.next) = (self.at + bytes, from + bytes);
    }

    fn add(&mut self, from: usize, bytes: usize, width: Width, stride: usize) {
        let stride = u32::try_from(stride).unwrap_or(MAX_STRIDE).clamp(1, MAX_STRIDE);
        self.script.push(Instruction::Add { from: from as u64, length: bytes as u64, width, stride });
        (self.at, self.next) = (self.at + bytes, from + bytes);
    }

    fn insert(&mut self, upto: usize) {
        let bytes = (upto - self.at) as u64;
        if let Some(Instruction::Insert { length }) = self.script.last_mut() {
            *length += bytes;
        } else if bytes > 0 {
            self.script.push(Instruction::Insert { length: bytes });
        }
        self.at = upto;
    }

    /// What lies between tensors.
    fn rest(&mut self, index: &Index, end: usize) {
        while self.at < end {
            let found = index.next(self.new, self.at..end, self.next);
            let Some(found) = found else {
                return self.gap(end, None);
            };
            self.gap(found.new.start, Some(found.old));
            self.copy(found.old, found.new.len());
        }
    }

    /// Bytes without a match: numbers that moved, where the old file has as many between the same matches.
    fn gap(&mut self, upto: usize, old_end: Option<usize>) {
        let new = self.at..upto;
        let ends_alike = match old_end {
            Some(end) => end.checked_sub(self.next) == Some(new.len()),
            None => upto == self.new.len() && self.old.len() - self.next == new.len(),
        };
        if ends_alike && (1..SHORTEST_ADD).contains(&new.len()) && self.script.last().is_some_and(is_in_step) {
            return self.add(self.next, new.len(), Width::One, 1);
        }
        if new.len() >= SHORTEST_ADD && ends_alike {
            let old = self.next..self.next + new.len();
            if let Some(width) = self.nearest_width(&old, &new) {
                return self.add(old.start, new.len(), width, 1);
            }
        }
        self.insert(upto);
    }

    fn nearest_width(&self, old: &Range<usize>, new: &Range<usize>) -> Option<Width> {
        let (old, new) = (&self.old[old.clone()], &self.new[new.clone()]);
        let fits = Width::ALL.into_iter().filter(|width| new.len().is_multiple_of(width.bytes()));
        let cost = |width: Width| tensors::moved_bits(old, new, width);
        let best = fits.min_by(|&a, &b| cost(a).total_cmp(&cost(b)))?;
        (cost(best) < tensors::plain_bits(new, 1)).then_some(best)
    }
}

/// Of more inserted bytes, a second a megabyte, what is learnt is too small a part to be tried for.
const MOST_TRIED: u64 = 4 << 20;
/// Fewer bytes are not worth an instruction.
const SHORTEST_ADD: usize = 32;

#[cfg(test)]
mod tests;
