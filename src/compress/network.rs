//! A model as compression sees it: its normalised graph, what it takes and gives, and how the engine runs it.
//!
//! Invariant: specs are concrete, of one sample at a time; the graph keeps what the file leaves open.

use super::Error;
use crate::engine::{Ends, Model, Session, Shapes};
use crate::onnx::graph::{Graph, Port, ValueId};
use crate::onnx::normalise::{Norms, normalise_but};
use crate::onnx::shapes::{self, Facts, InputShapes};
use crate::onnx::{self, Limits};
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
    pub fn of_file(file: &[u8], stated: &Shapes) -> Result<Self, Error> {
        let ends = Ends::of(file, stated)?;
        Self::with_ends(file, ends.inputs, ends.outputs)
    }

    /// Reads a file whose inputs and outputs are known.
    ///
    /// # Errors
    /// When it is no model, or of a form that cannot be brought into ours.
    pub fn with_ends(file: &[u8], inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Result<Self, Error> {
        Self::read(file, inputs, outputs, Norms::Folded)
    }

    /// The same with every BatchNormalization still there: to train and to prune.
    ///
    /// # Errors
    /// As [`Network::with_ends`].
    pub fn with_norms(file: &[u8], inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Result<Self, Error> {
        Self::read(file, inputs, outputs, Norms::Kept)
    }

    fn read(file: &[u8], inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, norms: Norms) -> Result<Self, Error> {
        let mut model = onnx::Model::from_bytes(file, &Limits::default())?;
        normalise_but(&mut model, &InputShapes::new(), norms)?;
        Ok(Self { model, inputs, outputs })
    }

    pub fn graph(&self) -> &Graph {
        &self.model.graph
    }

    /// The file.
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
    /// As [`Model::load`].
    pub fn session(&self) -> Result<Session, Error> {
        Ok(Model::load(&self.encode()?, &self.inputs, &self.outputs)?.session()?)
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
        let ends = Ends::of(&probed.encode()?, &stated)?;
        Ok(Self { outputs: ends.outputs, ..probed })
    }
}
