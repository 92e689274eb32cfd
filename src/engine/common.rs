//! What a model has in common with itself at other shapes: packed weights, and constants of nodes that tract runs.
//!
//! Invariant: what is shared is equal byte by byte, and nobody writes to it.

use crate::kernels::SharedWeights;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tract_onnx::prelude::{Tensor, TractResult, TypedModel};
use tract_onnx::tract_core::ops::konst::Const;

/// Smaller ones cost less than finding their equals.
const FEWEST_BYTES: usize = 4096;

/// Of one file, for as long as some shape of it uses them.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub weights: SharedWeights,
    /// By hash: a key of this process, so that no file makes many of them alike.
    constants: Mutex<HashMap<u64, Weak<Tensor>>>,
    hasher: RandomState,
}

impl Common {
    /// Lets large constants of a graph be the equal ones that are in use.
    pub fn join(&self, model: &mut TypedModel) -> TractResult<()> {
        for node in model.nodes_mut() {
            // An exotic one is packed for a product.
            let Some(value) = node.op_as::<Const>().filter(|op| op.exotic_fact().is_none()).map(Const::val) else {
                continue;
            };
            // Symbols and strings are pointers in memory.
            if !value.datum_type().is_copy() || value.as_bytes().len() < FEWEST_BYTES {
                continue;
            }
            let value = self.equal(value);
            for output in &mut node.outputs {
                output.fact.konst = output.fact.konst.is_some().then(|| value.clone());
            }
            node.op = Box::new(Const::new(value)?);
        }
        Ok(())
    }

    /// Of each constant, how many places use it.
    #[cfg(test)]
    pub fn uses(&self) -> Vec<usize> {
        let known = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(Weak::strong_count).collect()
    }

    fn equal(&self, value: &Arc<Tensor>) -> Arc<Tensor> {
        let hash = self.hasher.hash_one(value.as_bytes());
        let mut known = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, constant| constant.strong_count() > 0);
        match known.get(&hash).and_then(Weak::upgrade) {
            Some(other) if is_same(&other, value) => other,
            Some(_) => value.clone(),
            None => {
                known.insert(hash, Arc::downgrade(value));
                value.clone()
            }
        }
    }
}

/// By bytes: a NaN is the same as itself, and 0 is not -0.
fn is_same(a: &Tensor, b: &Tensor) -> bool {
    a.datum_type() == b.datum_type() && a.shape() == b.shape() && a.as_bytes() == b.as_bytes()
}
