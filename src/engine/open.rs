//! A model whose inputs may come in several shapes: made ready for each when it is first asked for.
//!
//! Invariant: at most [`KEPT`] shapes are kept, those asked for last; packed weights of int8 are shared by all of them.
//! Nothing larger than the stated largest shapes is ever made ready.
//! Rejected: symbols in tract's plans (int8 regions are planned for sizes, and its own optimizations give up on
//! symbols); padding to the largest shape (wrong at borders, and as slow as the largest).

use super::ends::{Ends, EndsError, Shapes};
use super::model::{LoadError, Model, RunError};
use crate::kernels::SharedWeights;
use crate::tensor::{Tensor, TensorSpec};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shapes that are ready at the same time, besides the manifest's own.
const KEPT: usize = 8;

/// What making ready needs, and what is ready.
#[derive(Debug)]
pub(super) struct Open {
    onnx: Vec<u8>,
    outputs: Vec<String>,
    weights: SharedWeights,
    ready: Mutex<VecDeque<Model>>,
    /// Held by who makes one ready: it takes time and memory, and the next one may want the same.
    making: Mutex<()>,
}

impl Open {
    pub fn new(onnx: &[u8], outputs: &[TensorSpec], weights: SharedWeights) -> Self {
        let outputs = outputs.iter().map(|spec| spec.name.clone()).collect();
        Self { onnx: onnx.to_vec(), outputs, weights, ready: Mutex::default(), making: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Model>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is ready for inputs like these, which it moves to the last to be forgotten.
    fn find(&self, inputs: &[TensorSpec]) -> Option<Model> {
        let mut ready = self.lock();
        let place = ready.iter().position(|model| model.inputs() == inputs)?;
        let found = ready.remove(place)?;
        ready.push_back(found.clone());
        Some(found)
    }

    /// The model at the shapes of these inputs. Those must be within the largest.
    pub fn at(&self, specs: &[TensorSpec], inputs: &[Tensor]) -> Result<Model, RunError> {
        let wanted: Vec<_> = specs.iter().zip(inputs).map(|(spec, input)| spec.at(input.shape().to_vec())).collect();
        if let Some(found) = self.find(&wanted) {
            return Ok(found);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.find(&wanted) {
            return Ok(found);
        }
        let made = self.make(&wanted).map_err(|error| RunError::Shape {
            inputs: wanted.iter().map(|spec| format!("{} {:?}", spec.name, spec.shape)).collect::<Vec<_>>().join(", "),
            problem: error.to_string(),
        })?;
        let mut ready = self.lock();
        ready.push_back(made.clone());
        if ready.len() > KEPT {
            ready.pop_front();
        }
        Ok(made)
    }

    fn make(&self, inputs: &[TensorSpec]) -> Result<Model, EndsError> {
        let outputs = self.outputs_at(inputs)?;
        tracing::debug!(inputs = ?inputs.iter().map(TensorSpec::form).collect::<Vec<_>>(), "making a shape ready");
        Ok(Model::load_with(&self.onnx, inputs, &outputs, &self.weights)?.0)
    }

    fn outputs_at(&self, inputs: &[TensorSpec]) -> Result<Vec<TensorSpec>, EndsError> {
        let stated: Shapes = inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        let ends = Ends::of(&self.onnx, &stated)?;
        let named = |name: &String| ends.outputs.iter().find(|spec| spec.name == *name).cloned();
        self.outputs.iter().map(|name| named(name).ok_or_else(|| EndsError::Unknown(name.clone()))).collect()
    }

    /// The largest shapes of outputs, found by making the model ready for its largest inputs, which it must bear.
    pub fn largest(&self, inputs: &[TensorSpec]) -> Result<Vec<TensorSpec>, LoadError> {
        let largest = |spec: &TensorSpec| spec.at(spec.max_shape.clone().unwrap_or_else(|| spec.shape.clone()));
        let largest: Vec<TensorSpec> = inputs.iter().map(largest).collect();
        let problem = |error: EndsError| LoadError::Largest {
            inputs: largest.iter().map(|spec| format!("{} {:?}", spec.name, spec.shape)).collect::<Vec<_>>().join(", "),
            problem: error.to_string(),
        };
        let made = self.make(&largest).map_err(problem)?;
        Ok(made.outputs().to_vec())
    }

    #[cfg(test)]
    pub fn ready(&self) -> Vec<Vec<usize>> {
        self.lock().iter().map(|model| model.inputs()[0].shape.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
