//! A model as compression sees it: its normalised graph, what it takes and gives, and how the engine runs it.
//!
//! Invariant: specs are concrete, of one sample at a time; the graph keeps what the file leaves open.

use super::Error;
use crate::engine::{Ends, Model, Session, Shapes};
use crate::onnx::graph::{Graph, Port, ValueId};
use crate::onnx::normalise::{Norms, normalise_but};
use crate::onnx::shapes::{self, Facts, InputShapes};
use crate::onnx::{self, Encoded, Limits, Parts};
use crate::sys::available_memory;
use crate::tensor::TensorSpec;
use prost::Message as _;

/// A model to be changed and judged.
#[derive(Debug, Clone)]
pub struct Network {
    pub model: onnx::Model,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl Network {
    /// Reads a file, with the shapes of inputs that it leaves open.
    ///
    /// # Errors
    /// When it is no model, or leaves open what is not stated.
    pub fn of_file<'a>(file: impl Into<Encoded<'a>>, stated: &Shapes) -> Result<Self, Error> {
        let file = file.into();
        let ends = Ends::of(file, stated)?;
        Self::with_ends(file, ends.inputs, ends.outputs)
    }

    /// Reads a file whose inputs and outputs are known.
    ///
    /// # Errors
    /// When it is no model, or of a form that cannot be brought into ours.
    pub fn with_ends<'a>(
        file: impl Into<Encoded<'a>>,
        inputs: Vec<TensorSpec>,
        outputs: Vec<TensorSpec>,
    ) -> Result<Self, Error> {
        Self::read(file.into(), inputs, outputs, Norms::Folded)
    }

    /// The same with every BatchNormalization still there: to train and to prune.
    ///
    /// # Errors
    /// As [`Network::with_ends`].
    pub fn with_norms<'a>(
        file: impl Into<Encoded<'a>>,
        inputs: Vec<TensorSpec>,
        outputs: Vec<TensorSpec>,
    ) -> Result<Self, Error> {
        Self::read(file.into(), inputs, outputs, Norms::Kept)
    }

    fn read(file: Encoded<'_>, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, norms: Norms) -> Result<Self, Error> {
        let mut model = onnx::Model::from_parts(file, &Limits::default())?;
        normalise_but(&mut model, &InputShapes::new(), norms)?;
        Ok(Self { model, inputs, outputs })
    }

    pub fn graph(&self) -> &Graph {
        &self.model.graph
    }

    /// The model as it is handed on in this process: large weights are shared.
    ///
    /// # Errors
    /// Where an edit has closed a circle.
    pub fn parts(&self) -> Result<Parts, Error> {
        Ok(self.model.to_parts()?)
    }

    /// Bytes of the file, or of the files that it takes.
    ///
    /// # Errors
    /// Where an edit has closed a circle.
    pub fn size(&self) -> Result<u64, Error> {
        let parts = self.parts()?;
        // To the byte where that costs little.
        Ok(if parts.size() > Model::MAX_BYTES { parts.size() } else { self.encode()?.len() } as u64)
    }

    /// All of it in one buffer.
    ///
    /// # Errors
    /// Where an edit has closed a circle.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        Ok(self.model.to_proto()?.encode_to_vec())
    }

    /// Types and shapes of all values for one sample.
    pub fn facts(&self) -> Facts {
        let sizes = self.inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        shapes::infer(self.graph(), &sizes)
    }

    /// Loads it into the engine.
    ///
    /// # Errors
    /// As [`Model::load`], and when a large model would not find the memory.
    pub fn session(&self) -> Result<Session, Error> {
        let parts = self.parts()?;
        if parts.size() > Model::MAX_BYTES {
            check_memory(parts.size() as u64, available_memory())?;
        }
        Ok(Model::load(&parts, &self.inputs, &self.outputs)?.session()?)
    }

    /// The same with other outputs: values from inside.
    pub(super) fn giving(&self, values: &[ValueId]) -> Result<Self, Error> {
        let mut model = self.model.clone();
        let port =
            |(number, &value): (usize, &ValueId)| Port { name: format!("probe_{number}"), value, declared: None };
        model.graph.outputs = values.iter().enumerate().map(port).collect();
        model.graph.remove_dead();
        let facts = self.facts();
        for port in &mut model.graph.outputs {
            let fact = facts.of(port.value);
            port.declared = Some(onnx::graph::Declared::Tensor { element: fact.element, shape: None });
        }
        // An input that nothing reads any more is taken all the same.
        let probed = Self { model, inputs: self.inputs.clone(), outputs: Vec::new() };
        let stated = self.inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        let ends = Ends::of(&probed.parts()?, &stated)?;
        Ok(Self { outputs: ends.outputs, ..probed })
    }
}

/// Weights are copied, and packed for kernels, before the copies go.
fn check_memory(weights: u64, available: u64) -> Result<(), Error> {
    let needed = weights.saturating_mul(2);
    if needed <= available {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::unfit(format!(
        "running a model with {} MiB of weights takes about {} MiB more, and {} MiB are free: close other programs, or do this on \
         a machine with more memory",
        mib(weights),
        mib(needed),
        mib(available)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_memory_would_not_hold_is_refused_with_both_numbers_and_what_to_do() {
        assert!(check_memory(1 << 30, 2 << 30).is_ok());
        let told = check_memory(1 << 30, (2 << 30) - 1).unwrap_err().to_string();
        assert!(told.contains("1024 MiB of weights") && told.contains("2048 MiB") && told.contains("close"), "{told}");
        assert!(check_memory(u64::MAX, u64::MAX - 1).is_err());
    }
}
