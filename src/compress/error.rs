//! Why a model could not be compressed or judged.

use super::data::DataError;
use crate::engine::{EndsError, LoadError, RunError};
use crate::onnx::graph::Cycle;
use crate::onnx::normalise::NormaliseError;
use crate::onnx::{ReadError, SizeMismatch};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("read the model")]
    Read(#[from] ReadError),
    #[error("bring the model into one form")]
    Normalise(#[from] NormaliseError),
    #[error("find the model's inputs and outputs")]
    Ends(#[from] EndsError),
    #[error("load the model")]
    Load(#[from] LoadError),
    #[error("run the model")]
    Run(#[from] RunError),
    #[error("write the model")]
    Cycle(#[from] Cycle),
    #[error("a tensor of the model")]
    Tensor(#[from] SizeMismatch),
    #[error("compute a training step")]
    Compute(#[from] candle_core::Error),
    /// What, and what to do about it.
    #[error("{0}")]
    Unfit(String),
    #[error("stopped")]
    Stopped,
}

impl Error {
    pub(super) fn unfit(what: impl Into<String>) -> Self {
        Self::Unfit(what.into())
    }
}
