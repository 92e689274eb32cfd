//! The chance of a bit, from what came before it in several contexts: counters, weighed against each other by a network
//! that learns as it goes (logistic mixing: Mahoney, "Adaptive weighing of context models", 2005).
//!
//! Invariant: integers alone, so that every processor predicts the same; no input makes it panic or grow.

use super::range::{Bits, NoBit};

/// The logistic function, 65,536 for 1, at -8, -7.5 to 8.
const SQUASH: [i32; 33] = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793, 47911, 53581,
    57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514,
];

/// Of `x` / 256.
fn squash(x: i32) -> i32 {
    let x = x.clamp(-2047, 2047) + 2048;
    let (at, between) = ((x >> 7).unsigned_abs() as usize, x & 127);
    (SQUASH[at] * (128 - between) + SQUASH[at + 1] * between) >> 7
}

/// The inverse of `squash`, by the upper 12 bits.
struct Stretch(Box<[i32; 4096]>);

impl Stretch {
    fn new() -> Self {
        let mut table = Box::new([2047; 4096]);
        let mut next = 0;
        for x in -2047..=2047 {
            let upto = (squash(x) >> 4).unsigned_abs() as usize;
            while next <= upto {
                table[next] = x;
                next += 1;
            }
        }
        Self(table)
    }

    fn of(&self, chance: u32) -> i32 {
        self.0[(chance >> 4) as usize & 4095]
    }
}

/// A chance in the upper 22 bits, how often it was seen in the lower 10: quick at first, steady later.
const EVEN: u32 = 1 << 31;

/// 65,536 by how often it was seen, and a half more than once.
const SHARES: [i64; 1024] = {
    let mut shares = [0; 1024];
    let mut seen = 0;
    while seen < 1024 {
        shares[seen] = 131_072 / (2 * seen as i64 + 3);
        seen += 1;
    }
    shares
};

fn learn(counter: &mut u32, bit: u32, limit: u32) {
    let (chance, seen) = (i64::from(*counter >> 10), *counter & 1023);
    let goal = i64::from(bit) * ((1 << 22) - 1);
    // No more than the way that is left: it stays within its 22 bits.
    let chance = chance + (((goal - chance) * SHARES[seen as usize]) >> 16);
    *counter = u32::try_from(chance).unwrap_or(0) << 10 | (seen + u32::from(seen < limit));
}

/// `N` contexts that say what they think of the next bit.
pub(super) struct Mixer<const N: usize> {
    stretch: Stretch,
    /// `N` tables of `1 << bits` counters.
    counters: Vec<u32>,
    bits: u32,
    limit: u32,
    /// `N` for each set, 65,536 for 1.
    weights: Vec<[i32; N]>,
    rate: i32,
    /// Corrects what the weights say by how it went before, for each set and 33 places of it.
    corrections: Vec<u32>,
}

const PLACES: usize = 33;

impl<const N: usize> Mixer<N> {
    pub fn new(bits: u32, sets: usize, limit: u32, rate: i32) -> Self {
        let start = 65_536 * 2 / (i32::try_from(N).unwrap_or(i32::MAX)).max(1);
        let place = |at: usize| (squash((i32::try_from(at % PLACES).unwrap_or(0) - 16) * 128).unsigned_abs()) << 16;
        Self {
            stretch: Stretch::new(),
            counters: vec![EVEN; N << bits],
            bits,
            limit,
            weights: vec![[start; N]; sets],
            rate,
            corrections: (0..sets * PLACES).map(place).collect(),
        }
    }

    /// One bit; `contexts` are hashes, of which the upper bits count.
    pub fn code(&mut self, bits: &mut impl Bits, contexts: &[u32; N], set: usize, bit: u32) -> Result<u32, NoBit> {
        let mut slots = [0; N];
        let mut said = [0; N];
        let mut sum = 0_i64;
        let weights = &mut self.weights[set];
        for i in 0..N {
            slots[i] = (i << self.bits) + (contexts[i] >> (32 - self.bits)) as usize;
            said[i] = self.stretch.of(self.counters[slots[i]] >> 16);
            sum += i64::from(said[i]) * i64::from(weights[i]);
        }
        let mixed = i32::try_from((sum >> 16).clamp(-2047, 2047)).unwrap_or(0);
        let chance = squash(mixed);
        let (place, between) = (((mixed + 2048) >> 7).unsigned_abs() as usize, (mixed + 2048) & 127);
        let at = set * PLACES + place + usize::from(between >= 64);
        let corrected = (self.corrections[at] >> 16).cast_signed();
        let last = ((chance + corrected) >> 1).clamp(1, 65_535);
        let bit = bits.code(bit, last.unsigned_abs())?;
        let missed = (bit.cast_signed() << 16) - bit.cast_signed() - chance;
        for i in 0..N {
            let change = (i64::from(said[i]) * i64::from(missed) * i64::from(self.rate) + (1 << 17)) >> 18;
            // Bounded, so that no input can make it overflow.
            let weight = i64::from(weights[i]) + change;
            weights[i] = i32::try_from(weight.clamp(-(1 << 22), 1 << 22)).unwrap_or(0);
            learn(&mut self.counters[slots[i]], bit, self.limit);
        }
        learn(&mut self.corrections[at], bit, 255);
        Ok(bit)
    }
}

/// Spreads a context over 32 bits.
pub(super) fn hash(context: u32) -> u32 {
    let x = context.wrapping_mul(0x9E37_79B1);
    (x ^ x >> 15).wrapping_mul(0x85EB_CA6B)
}

/// The context within a context.
pub(super) fn within(hash: u32, node: u32) -> u32 {
    let x = (hash ^ node.wrapping_mul(0xC2B2_AE35)).wrapping_mul(0x27D4_EB2F);
    (x ^ x >> 15).wrapping_mul(0x2C1B_3C6D)
}
