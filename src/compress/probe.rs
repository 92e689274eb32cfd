//! What tensors hold inside a model while it runs.

use super::{Error, Network};
use crate::engine::Session;
use crate::onnx::graph::ValueId;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// A tensor of one run, row-major.
#[derive(Debug, Clone)]
pub struct Seen {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Runs a model and tells some of its values.
#[derive(Debug)]
pub struct Probe {
    session: Session,
    values: Vec<ValueId>,
}

impl Probe {
    /// Of FLOAT values.
    ///
    /// # Errors
    /// When the engine cannot run the model up to one of them.
    pub fn new(network: &Network, values: &[ValueId]) -> Result<Self, Error> {
        let mut values = values.to_vec();
        values.sort_unstable();
        values.dedup();
        Ok(Self { session: network.giving(&values)?.session()?, values })
    }

    /// One sample's.
    ///
    /// # Errors
    /// When the run fails.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<BTreeMap<ValueId, Seen>, Error> {
        let outputs = self.session.run(inputs)?;
        let seen = |(&value, tensor): (&ValueId, Tensor)| {
            let values = tensor.to_f32().ok_or_else(|| Error::unfit("a value that is looked at is no float"))?;
            Ok((value, Seen { shape: tensor.shape().to_vec(), values }))
        };
        self.values.iter().zip(outputs).map(seen).collect()
    }
}
