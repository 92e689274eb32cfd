//! Sets of values that share something, by union and find (Tarjan, 1975).

use crate::onnx::graph::ValueId;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub struct Union(BTreeMap<ValueId, ValueId>);

impl Union {
    /// The value that stands for the set: the smallest.
    pub fn find(&self, mut value: ValueId) -> ValueId {
        while let Some(&next) = self.0.get(&value) {
            value = next;
        }
        value
    }

    pub fn unite(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            self.0.insert(a.max(b), a.min(b));
        }
    }
}
