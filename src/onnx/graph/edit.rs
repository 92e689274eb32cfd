//! Changes to a graph. None of them leaves a value with two producers.
//!
//! Not here: whether a change keeps the meaning, or closes a circle; `order` tells the latter.

use super::{Declared, Graph, Node, NodeId, Origin, Port, Value, ValueId};
use crate::onnx::tensor::Tensor;
use std::collections::BTreeMap;

impl Graph {
    pub fn add_input(&mut self, name: &str, declared: Option<Declared>) -> ValueId {
        let value = self.push_value(name, Origin::Input);
        self.inputs.push(Port { name: name.to_owned(), value, declared });
        value
    }

    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.push_value(name, Origin::Constant(tensor))
    }

    /// Makes an input a constant: callers no longer give it. `None` where no input has that name.
    pub fn fix_input(&mut self, name: &str, tensor: Tensor) -> Option<ValueId> {
        let at = self.inputs.iter().position(|port| port.name == name)?;
        let value = self.inputs.remove(at).value;
        self.set_constant(value, tensor);
        Some(value)
    }

    /// A value that a node is to produce.
    pub fn add_value(&mut self, name: &str) -> ValueId {
        self.push_value(name, Origin::None)
    }

    pub(super) fn push_value(&mut self, name: &str, origin: Origin) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer values than 2^32"));
        self.values.push(Value { name: name.to_owned(), origin });
        id
    }

    /// Takes the node in; outputs that already had a producer are taken from it.
    pub fn add_node(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer nodes than 2^32"));
        for (index, value) in node.outputs.iter().enumerate() {
            if let Some(value) = value {
                self.detach(*value);
                self.values[value.index()].origin = Origin::Node(id, index);
            }
        }
        self.nodes.push(Some(node));
        id
    }

    /// Makes the value a constant; its producer loses that output.
    pub fn set_constant(&mut self, value: ValueId, tensor: Tensor) {
        self.detach(value);
        self.values[value.index()].origin = Origin::Constant(tensor);
    }

    fn detach(&mut self, value: ValueId) {
        if let Origin::Node(node, index) = self.values[value.index()].origin
            && let Some(node) = self.node_mut(node)
            && let Some(slot) = node.outputs.get_mut(index)
        {
            *slot = None;
        }
    }

    /// What it produced has no origin then: replace those values, or give them another.
    pub fn remove_node(&mut self, id: NodeId) -> Option<Node> {
        let node = self.nodes.get_mut(id.index())?.take()?;
        for value in node.outputs.iter().flatten() {
            self.values[value.index()].origin = Origin::None;
        }
        Some(node)
    }

    /// Lets every reader of `from` read `to`; outputs of the graph keep their names.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        self.replace_all(&BTreeMap::from([(from, to)]));
    }

    /// Many replacements in one walk. A target that is itself replaced is followed.
    pub fn replace_all(&mut self, replaced: &BTreeMap<ValueId, ValueId>) {
        if replaced.is_empty() {
            return;
        }
        let ends = ends(replaced);
        let follow = |value: &mut ValueId| {
            if let Some(end) = ends.get(value) {
                *value = *end;
            }
        };
        for node in self.nodes.iter_mut().flatten() {
            node.inputs.iter_mut().flatten().for_each(follow);
            for graph in node.subgraphs_mut() {
                graph.captures.iter_mut().for_each(|capture| follow(&mut capture.outer));
            }
        }
        self.outputs.iter_mut().for_each(|port| follow(&mut port.value));
    }

    /// Removes nodes that nothing reads, and captures that no node inside reads; returns how many nodes.
    pub fn remove_dead(&mut self) -> usize {
        for node in self.nodes.iter_mut().flatten() {
            node.subgraphs_mut().for_each(Self::drop_unread_captures);
        }
        let mut live = vec![false; self.nodes.len()];
        let mut stack: Vec<ValueId> = self.outputs.iter().map(|port| port.value).collect();
        while let Some(value) = stack.pop() {
            if let Some((id, node)) = self.producer(value)
                && !live[id.index()]
            {
                live[id.index()] = true;
                stack.extend(node.reads());
            }
        }
        let dead: Vec<NodeId> = self.nodes().map(|(id, _)| id).filter(|id| !live[id.index()]).collect();
        dead.iter().for_each(|&id| drop(self.remove_node(id)));
        dead.len()
    }

    fn drop_unread_captures(&mut self) {
        self.remove_dead();
        let uses = self.uses();
        self.captures.retain(|capture| !uses.of(capture.inner).is_empty());
    }
}

/// Where each chain of replacements ends; those of a circle end anywhere in it.
fn ends(replaced: &BTreeMap<ValueId, ValueId>) -> BTreeMap<ValueId, ValueId> {
    let mut ends = BTreeMap::new();
    for &start in replaced.keys() {
        let mut path = Vec::new();
        let mut at = start;
        while let Some(&next) = replaced.get(&at).filter(|_| !ends.contains_key(&at) && path.len() < replaced.len()) {
            path.push(at);
            at = next;
        }
        let end = ends.get(&at).copied().unwrap_or(at);
        ends.extend(path.into_iter().map(|value| (value, end)));
    }
    ends
}
