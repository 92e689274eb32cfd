//! Places of the old file that hold the same bytes.

use std::collections::HashMap;
use std::ops::Range;

/// Fewer bytes cost less inserted.
const SHORTEST: usize = 32;
/// Where the last match goes on, an instruction costs next to nothing.
const SHORTEST_ALONG: usize = 8;
/// Old places that are looked up at most.
const MAX_PLACES: usize = 8 << 20;
const FACTOR: u64 = 0x0100_0000_01b3;

pub(super) struct Found {
    pub old: usize,
    pub new: Range<usize>,
}

pub(super) struct Index<'a> {
    old: &'a [u8],
    /// By the hash of the 32 bytes there.
    places: HashMap<u64, u32>,
    /// `FACTOR` to the power of 32.
    leaves: u64,
}

impl<'a> Index<'a> {
    pub fn new(old: &'a [u8]) -> Self {
        let step = (old.len() / MAX_PLACES).max(4);
        let starts = (0..old.len().saturating_sub(SHORTEST - 1)).step_by(step);
        let mut places = HashMap::new();
        for at in starts {
            let Ok(place) = u32::try_from(at) else { break };
            // The first of several stays: what follows it is longest.
            places.entry(hash(&old[at..at + SHORTEST])).or_insert(place);
        }
        Self { old, places, leaves: (0..SHORTEST).fold(1, |power, _| u64::wrapping_mul(power, FACTOR)) }
    }

    /// The first match in that part of the new file; `along` is where the old file would go on.
    pub fn next(&self, new: &[u8], part: Range<usize>, along: usize) -> Option<Found> {
        let here = self.common(along, new, part.start..part.end);
        if here >= SHORTEST_ALONG.min(part.len()) && here > 0 {
            return Some(Found { old: along, new: part.start..part.start + here });
        }
        let mut rolled = None;
        let last = part.end.checked_sub(SHORTEST)?;
        for at in part.start..=last {
            let rolling = match rolled {
                Some(before) => self.roll(before, new[at - 1], new[at + SHORTEST - 1]),
                None => hash(&new[at..at + SHORTEST]),
            };
            rolled = Some(rolling);
            // The same distance as before goes first: a changed byte or number leaves the rest in step.
            let in_step = along + (at - part.start);
            let known = self.places.get(&rolling).map(|&place| place as usize);
            for old in [Some(in_step), known].into_iter().flatten() {
                let length = self.common(old, new, at..part.end);
                if length >= SHORTEST {
                    return Some(self.back(old, new, at..at + length, part.start));
                }
            }
        }
        None
    }

    fn common(&self, old: usize, new: &[u8], part: Range<usize>) -> usize {
        let Some(old) = self.old.get(old..) else {
            return 0;
        };
        old.iter().zip(&new[part]).take_while(|(a, b)| a == b).count()
    }

    /// A match may begin before the place where it was found: not all old places are looked up.
    fn back(&self, old: usize, new: &[u8], at: Range<usize>, start: usize) -> Found {
        let before = self.old[..old].iter().rev().zip(new[start..at.start].iter().rev());
        let more = before.take_while(|(a, b)| a == b).count();
        Found { old: old - more, new: at.start - more..at.end }
    }

    fn roll(&self, before: u64, left: u8, entered: u8) -> u64 {
        let next = before.wrapping_mul(FACTOR).wrapping_add(u64::from(entered) + 1);
        next.wrapping_sub(self.leaves.wrapping_mul(u64::from(left) + 1))
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash: u64, &byte| hash.wrapping_mul(FACTOR).wrapping_add(u64::from(byte) + 1))
}
