//! Compression: a float ONNX model and some local data -> the smallest, fastest int8 model that still answers right.
//!
//! Invariant: what comes out is standard ONNX that other runtimes load too; the same inputs and seed give the same bytes;
//! no decision is ever made on test data; a model is judged by the engine that will run it, not by a simulation.
//! Not here: command lines (`cli`), publishing.
//!
//! ```text
//! data    files -> samples, in parts            network   a file, its ends, its normalised graph
//! probe   what tensors hold inside a model      score     how right answers are, with intervals
//! quantize   float -> int8                      train     gradients, steps, losses
//! prune      fewer channels, or weights at zero     distil    a small network learns from a large one
//! finetune   new data without forgetting the old
//! ```
//!
//! Rejected: an interpreter of our own for calibration. The engine computes the same values faster, for every operator
//! that it serves; only training needs gradients.

pub mod data;
pub mod distil;
mod error;
pub mod finetune;
pub mod network;
pub mod package;
mod probe;
pub mod prune;
pub mod quantize;
pub mod score;
#[cfg(test)]
mod sketch;
pub mod train;

pub use error::Error;
pub use network::Network;

/// How far a long work is: what is done, of how much. Called often; it should be quick.
pub trait Progress {
    /// A step of `total` parts begins.
    fn step(&mut self, what: &str, total: usize);
    /// So many of them are done.
    fn at(&mut self, done: usize);
    /// Whether the operator wants it to end, with the best so far.
    fn is_stopped(&self) -> bool {
        false
    }
    /// Whether it is time to keep where training stands, so that another process can go on from there; at the `end` of a
    /// training it is wherever that is kept at all.
    fn keeps(&mut self, _end: bool) -> bool {
        false
    }
    /// Keeps it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep(&mut self, _key: u64, _state: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    /// What was kept under that key.
    fn kept(&mut self, _key: u64) -> Option<Vec<u8>> {
        None
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _: &str, _: usize) {}
    fn at(&mut self, _: usize) {}
}
