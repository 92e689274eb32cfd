//! Where training stands after an epoch, so that another process can go on from there with the same bytes.
//!
//! Invariant: floats and numbers come out bit for bit as they went in, in the order in which they did; what is cut off, or of
//! another training, is an error or none at all, and never half a state.
//! Not here: files (`cli`), when it is worth to keep one.

use super::fit::{Recipe, Samples};
use crate::compress::data::mix;
use crate::compress::{Error, Network};
use crate::onnx::Encoded;
use std::collections::VecDeque;

/// Floats in runs, and whole numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    runs: VecDeque<Vec<f32>>,
    numbers: VecDeque<u64>,
}

/// How such a file begins.
const MAGIC: u64 = u64::from_le_bytes(*b"selvtrn1");

impl State {
    pub fn floats(&mut self, values: Vec<f32>) {
        self.runs.push_back(values);
    }

    pub fn number(&mut self, number: u64) {
        self.numbers.push_back(number);
    }

    pub fn append(&mut self, mut other: Self) {
        self.runs.append(&mut other.runs);
        self.numbers.append(&mut other.numbers);
    }

    /// # Errors
    /// When there are others.
    pub fn take_floats(&mut self, count: usize) -> Result<Vec<f32>, Error> {
        self.runs.pop_front().filter(|run| run.len() == count).ok_or_else(other)
    }

    /// However many.
    ///
    /// # Errors
    /// When there are none.
    pub fn take_run(&mut self) -> Result<Vec<f32>, Error> {
        self.runs.pop_front().ok_or_else(other)
    }

    /// # Errors
    /// When there is none.
    pub fn take_number(&mut self) -> Result<u64, Error> {
        self.numbers.pop_front().ok_or_else(other)
    }

    /// Little-endian: a sum over all that follows, how many numbers and runs there are, the numbers, then each run with its length.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut words = vec![self.numbers.len() as u64, self.runs.len() as u64];
        words.extend(&self.numbers);
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for run in &self.runs {
            bytes.extend((run.len() as u64).to_le_bytes());
            bytes.extend(run.iter().flat_map(|value| value.to_le_bytes()));
        }
        [&MAGIC.to_le_bytes()[..], &sum(&bytes).to_le_bytes(), &bytes].concat()
    }

    /// `None` where the bytes are not whole.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut word = || {
            let (first, behind) = rest.split_first_chunk::<8>()?;
            rest = behind;
            Some(u64::from_le_bytes(*first))
        };
        let (magic, expected) = (word()?, word()?);
        if magic != MAGIC || sum(bytes.get(16..)?) != expected {
            return None;
        }
        let (numbers, runs) = (word()?, word()?);
        let mut state = Self::default();
        for _ in 0..numbers {
            let number = word()?;
            state.numbers.push_back(number);
        }
        for _ in 0..runs {
            let (length, behind) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_mul(4)?;
            let (run, behind) = behind.split_at_checked(length)?;
            let values = run.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            state.runs.push_back(values.collect());
            rest = behind;
        }
        rest.is_empty().then_some(state)
    }
}

fn other() -> Error {
    Error::unfit("what was kept of this training is of another one: remove it, and it begins anew")
}

/// Over bytes.
fn sum(bytes: &[u8]) -> u64 {
    let word = |eight: &[u8]| eight.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    bytes.chunks(8).fold(bytes.len() as u64, |sum, eight| mix(sum ^ word(eight)))
}

/// Of the network that goes in, the samples' numbers and the recipe: what else there is, the data and the guide, is the
/// keeper's to tell apart.
///
/// # Errors
/// Where the network cannot be written.
pub fn key(network: &Network, samples: Samples<'_>, recipe: &Recipe) -> Result<u64, Error> {
    let told = serde_json::to_vec(recipe).map_err(|error| Error::unfit(format!("write the recipe: {error}")))?;
    let numbers = samples.train.iter().chain(samples.validation).fold(0, |sum, &number| mix(sum ^ number as u64));
    let parts = network.parts()?;
    let model = Encoded::from(&parts).pieces().fold(0, |model, piece| mix(model ^ sum(piece)));
    Ok(mix(mix(model ^ sum(&told)) ^ numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_bit_for_bit_or_not_at_all() {
        let mut state = State::default();
        state.number(7);
        state.floats(vec![0.1, -0.0, f32::MIN_POSITIVE / 4.0]);
        state.floats(Vec::new());
        state.number(f64::NAN.to_bits());
        let bytes = state.to_bytes();
        let mut read = State::of_bytes(&bytes).unwrap();
        assert_eq!(read, state);
        assert!(read.take_floats(3).unwrap()[1].is_sign_negative());
        assert!(read.take_floats(2).is_err() && read.take_number().unwrap() == 7);
        for at in 0..bytes.len() {
            assert_eq!(State::of_bytes(&bytes[..at]), None, "cut off at {at}");
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(State::of_bytes(&bad), None, "another byte at {at}");
        }
    }
}
