//! Bytes that are not in the old file, each by the bytes before it.

use super::mix::{Mixer, hash, within};
use super::range::{Bits, NoBit, Silent};

/// Bytes of history that repetitions are looked for in.
const WINDOW: usize = 1 << 20;
/// Where in the history six bytes stood last.
const PLACES_BITS: u32 = 16;
const LONGEST: usize = 31;
const SHORTEST: usize = 5;
const INPUTS: usize = 9;

pub(super) struct Text {
    mixer: Mixer<INPUTS>,
    history: Vec<u8>,
    /// Bytes seen in all; they stand in `history` modulo its length.
    seen: usize,
    /// One more than the place; zero for none.
    places: Vec<usize>,
    /// The byte that would follow if all goes on as it did once, and for how long it has.
    follows: usize,
    length: usize,
    last: u64,
}

impl Text {
    pub fn new() -> Self {
        Self {
            mixer: Mixer::new(17, 3 * 256, 127, 12),
            history: vec![0; WINDOW],
            seen: 0,
            places: vec![0; 1 << PLACES_BITS],
            follows: 0,
            length: 0,
            last: 0,
        }
    }

    /// Takes in a byte that both ends know.
    pub fn learn(&mut self, byte: u8) {
        let _ = self.code(&mut Silent, byte);
    }

    pub fn code(&mut self, bits: &mut impl Bits, byte: u8) -> Result<u8, NoBit> {
        let hashes = self.hashes();
        let expected = self.history[self.follows % WINDOW];
        let mut node = 1_u32;
        for shift in (0..8).rev() {
            let agrees = self.length > 0 && (u32::from(expected) | 256) >> (shift + 1) == node;
            let (length, next) = if agrees { (self.length, u32::from(expected) >> shift & 1) } else { (0, 0) };
            let mut contexts = hashes.map(|h| within(h, node));
            // The upper bits count.
            let length = u32::try_from(length).unwrap_or(0);
            contexts[INPUTS - 1] = (length * 2 + next) << 25;
            let strength = usize::from(length > 0) + usize::from(length > 15);
            let set = strength * 256 + (node & 255) as usize;
            let bit = self.mixer.code(bits, &contexts, set, u32::from(byte) >> shift & 1)?;
            node = node << 1 | bit;
        }
        let byte = node.to_le_bytes()[0];
        self.remember(byte);
        Ok(byte)
    }

    fn hashes(&self) -> [u32; INPUTS] {
        let last = |bytes: u32| fold(self.last & ((1 << (8 * bytes)) - 1), bytes);
        let aligned = fold(self.last & 0xff00_0000, 9);
        let column = fold(self.last & 0xff_0000_00ff, 10);
        [last(0), last(1), last(2), last(3), last(4), last(6), aligned, column, 0]
    }

    fn remember(&mut self, byte: u8) {
        if self.length > 0 && self.history[self.follows % WINDOW] == byte {
            self.follows += 1;
            self.length = (self.length + 1).min(LONGEST);
        } else {
            self.length = 0;
        }
        self.history[self.seen % WINDOW] = byte;
        self.seen += 1;
        self.last = self.last << 8 | u64::from(byte);
        let place = (fold(self.last & 0x00ff_ffff_ffff, 5) >> (32 - PLACES_BITS)) as usize;
        if self.length == 0 && self.places[place] > 0 {
            self.follows = self.places[place];
            self.length = self.common(self.follows);
        }
        self.places[place] = self.seen;
    }

    /// How many bytes before `place` are those before the next one; none where it is too few.
    fn common(&self, place: usize) -> usize {
        if place + WINDOW <= self.seen {
            return 0;
        }
        let is_same = |back: &usize| {
            *back <= place && self.history[(place - back) % WINDOW] == self.history[(self.seen - back) % WINDOW]
        };
        let length = (1..=LONGEST).take_while(is_same).count();
        if length < SHORTEST { 0 } else { length }
    }
}

fn fold(bytes: u64, order: u32) -> u32 {
    let x = bytes.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    hash(u32::try_from(x).unwrap_or(0).wrapping_add(order.wrapping_mul(0x0100_0193)))
}
