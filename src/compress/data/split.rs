//! Which samples train, which decide, which judge.
//!
//! Invariant: a sample is in one part, by the seed and its number alone; nothing is ever decided on the test part.

use serde::{Deserialize, Serialize};

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Calibrates and trains.
    Train,
    /// Decides between settings.
    Validation,
    /// Judges the result, once.
    Test,
    All,
}

/// Numbers of samples, in a random order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub train: Vec<usize>,
    pub validation: Vec<usize>,
    pub test: Vec<usize>,
}

/// Percent of the samples that train, and that decide; the rest tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    pub train: usize,
    pub validation: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self { train: 60, validation: 20 }
    }
}

impl Split {
    /// Each part gets its share, and at least one sample where there are three.
    pub fn new(samples: usize, seed: u64, shares: Shares) -> Self {
        let mut order: Vec<usize> = (0..samples).collect();
        order.sort_by_cached_key(|&sample| mix(seed ^ mix(sample as u64)));
        let share = |percent: usize| (samples * percent.min(100) / 100).max(usize::from(samples >= 3));
        let train = share(shares.train).min(samples.saturating_sub(2)).max(usize::from(samples > 0));
        let validation = share(shares.validation).min(samples.saturating_sub(train + 1));
        let test = order.split_off(train + validation);
        let validation = order.split_off(train);
        Self { train: order, validation, test }
    }

    pub fn part(&self, part: Part) -> Vec<usize> {
        match part {
            Part::Train => self.train.clone(),
            Part::Validation => self.validation.clone(),
            Part::Test => self.test.clone(),
            Part::All => {
                let mut all = [&self.train[..], &self.validation, &self.test].concat();
                all.sort_unstable();
                all
            }
        }
    }
}

/// SplitMix64's mixing of one number (Steele, Lea, Flood, 2014): the same on every machine.
pub(in crate::compress) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
