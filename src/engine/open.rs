//! A model whose inputs may come in several shapes: made ready for each when it is first asked for.
//!
//! Invariant: at most [`KEPT`] shapes with [`KEPT_BYTES`] of state are kept, those asked for last; weights are shared by
//! all of them.
//! Nothing larger than the stated largest shapes is ever made ready.
//! Rejected: symbols in tract's plans (int8 regions are planned for sizes, and its own optimizations give up on
//! symbols); padding to the largest shape (wrong at borders, and as slow as the largest).

use super::common::Common;
use super::ends::{Ends, EndsError, Shapes};
use super::model::{LoadError, Model, Pace, RunError};
use crate::onnx::{Encoded, Parts};
use crate::tensor::{Tensor, TensorSpec};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shapes that are ready at the same time, besides the manifest's own.
const KEPT: usize = 8;
/// What a run of each of these holds between its steps, all together; the last one is kept whatever it holds.
const KEPT_BYTES: usize = 64 << 20;
/// Bytes of one output: what a manifest may state.
const MAX_OUTPUT: usize = 256 << 20;

/// What making ready needs, and what is ready.
#[derive(Debug)]
pub(super) struct Open {
    onnx: Parts,
    outputs: Vec<String>,
    common: Common,
    ready: Mutex<VecDeque<Model>>,
    /// Held by who makes one ready: it takes time and memory, and the next one may want the same. The last shapes that
    /// could not be made ready, and why.
    making: Mutex<VecDeque<(Vec<TensorSpec>, String)>>,
}

fn shown(inputs: &[TensorSpec]) -> String {
    inputs.iter().map(|spec| format!("{} {:?}", spec.name, spec.shape)).collect::<Vec<_>>().join(", ")
}

/// Puts it behind the others, of which the first goes where there are too many.
fn keep<T>(list: &mut VecDeque<T>, last: T) {
    list.push_back(last);
    if list.len() > KEPT {
        list.pop_front();
    }
}

/// Forgets the first ones until the others' states are within the bytes.
fn trim(ready: &mut VecDeque<Model>, bytes: usize) {
    while ready.len() > 1 && ready.iter().map(Model::state_bytes).sum::<usize>() > bytes {
        ready.pop_front();
    }
}

/// An output with what it is at most over these shapes of it; why not, where that cannot be said.
fn widen<'s>(spec: &TensorSpec, shapes: impl Iterator<Item = &'s Vec<usize>>) -> Result<TensorSpec, String> {
    let mut max = spec.shape.clone();
    let mut moves = vec![false; max.len()];
    for shape in shapes {
        if shape.len() != max.len() {
            return Err(format!("output {:?} has another number of dimensions there", spec.name));
        }
        for (axis, &dim) in shape.iter().enumerate() {
            max[axis] = max[axis].max(dim);
            moves[axis] |= dim != spec.shape[axis];
        }
    }
    if spec.at(max.clone()).byte_size().is_none_or(|size| size > MAX_OUTPUT) {
        return Err(format!("output {:?} has over {MAX_OUTPUT} bytes there", spec.name));
    }
    // One that was never seen larger than the manifest's is open all the same, which a larger bound says.
    for axis in 0..max.len() {
        max[axis] += usize::from(moves[axis] && max[axis] == spec.shape[axis]);
    }
    Ok(if max == spec.shape { spec.clone() } else { TensorSpec { max_shape: Some(max), ..spec.clone() } })
}

impl Open {
    pub fn new(onnx: Encoded<'_>, outputs: &[TensorSpec], common: Common) -> Self {
        let outputs = outputs.iter().map(|spec| spec.name.clone()).collect();
        Self { onnx: onnx.into(), outputs, common, ready: Mutex::default(), making: Mutex::default() }
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
        let mut refused = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.find(&wanted) {
            return Ok(found);
        }
        let told = |problem: &String| RunError::Shape { inputs: shown(&wanted), problem: problem.clone() };
        if let Some((_, problem)) = refused.iter().find(|(inputs, _)| *inputs == wanted) {
            return Err(told(problem));
        }
        match self.make(&wanted, Pace::AtOnce) {
            Ok(made) => {
                let mut ready = self.lock();
                keep(&mut ready, made.clone());
                trim(&mut ready, KEPT_BYTES);
                Ok(made)
            }
            // Not for its shape: the next time it may go well.
            Err(EndsError::Load(error @ (LoadError::Thread(_) | LoadError::Panicked { .. }))) => {
                Err(RunError::Compute(error.to_string()))
            }
            Err(error) => {
                let problem = error.to_string();
                let error = told(&problem);
                keep(&mut refused, (wanted, problem));
                Err(error)
            }
        }
    }

    fn make(&self, inputs: &[TensorSpec], pace: Pace) -> Result<Model, EndsError> {
        let outputs = self.outputs_at(inputs, pace)?;
        tracing::debug!(inputs = shown(inputs), "making a shape ready");
        Ok(Model::load_with((&self.onnx).into(), inputs, &outputs, &self.common, pace)?.0)
    }

    fn outputs_at(&self, inputs: &[TensorSpec], pace: Pace) -> Result<Vec<TensorSpec>, EndsError> {
        let stated: Shapes = inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        let ends = Ends::of_outputs((&self.onnx).into(), &stated, &self.outputs, pace)?;
        let named = |name: &String| ends.outputs.iter().find(|spec| spec.name == *name).cloned();
        self.outputs.iter().map(|name| named(name).ok_or_else(|| EndsError::Unknown(name.clone()))).collect()
    }

    /// The outputs with their largest shapes, found by making the model ready for its largest inputs, which it must bear.
    pub fn widened(&self, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Vec<TensorSpec>, LoadError> {
        // Between 1, where that is open, and the largest.
        let part = |spec: &TensorSpec, of: usize| {
            let max = spec.max_shape.as_ref().unwrap_or(&spec.shape);
            let size = |(&own, &max): (&usize, &usize)| if own == max { own } else { (max / of).max(1) };
            spec.at(spec.shape.iter().zip(max).map(size).collect())
        };
        let largest: Vec<TensorSpec> = inputs.iter().map(|spec| part(spec, 1)).collect();
        let refusal = |problem: String| LoadError::Largest { inputs: shown(&largest), problem };
        let made = self.make(&largest, Pace::GiveWay).map_err(|error| refusal(error.to_string()))?;
        let mut known = vec![made.outputs().to_vec()];
        // A dimension may be alike at the largest and at the manifest's shape, and another elsewhere. Not every size
        // need be one that the graph can take.
        for of in [2, 3, 7, usize::MAX] {
            let smaller: Vec<TensorSpec> = inputs.iter().map(|spec| part(spec, of)).collect();
            known.extend(self.outputs_at(&smaller, Pace::GiveWay));
        }
        let widened = |(place, spec): (usize, &TensorSpec)| {
            widen(spec, known.iter().map(|outputs| &outputs[place].shape)).map_err(refusal)
        };
        outputs.iter().enumerate().map(widened).collect()
    }

    #[cfg(test)]
    pub fn ready(&self) -> Vec<Vec<usize>> {
        self.lock().iter().map(|model| model.inputs()[0].shape.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
