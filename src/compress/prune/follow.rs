//! Which channels depend on each other: ids along the axes of every value, through every operator that is understood.
//!
//! Invariant: removing all positions of a class from everything that bears them leaves a graph that computes what it did
//! with the class's weights at zero. What would not keep that is frozen, with the node that forbids it.
//! Not here: removing (`remove`). After DepGraph (Fang et al., CVPR 2023), with ids for positions instead of a graph of
//! layers: concatenations, splits and shuffles need no cases of their own.
//!
//! A reshape that cuts an axis of channels in two lets one part bear the ids (`carry`): whole heads of an attention, one
//! channel of each group of a shuffle.

mod carry;
mod elementwise;
mod layout;
mod products;

use super::ids::{Axis, Classes, Id};
use crate::onnx::graph::{Graph, Node, NodeId, Origin, Uses, ValueId, describe};
use crate::onnx::shapes::Facts;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a constant is to the channels along one of its axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Weights that make the channel.
    Makes,
    /// Weights that read it.
    Takes,
    /// A bias, or whatever else is added.
    Shifts,
    /// What multiplies it: a normalisation's scale.
    Scales,
    /// A normalisation's mean or variance, a divisor: neither is ever zeroed.
    Keeps,
}

/// All ids of a graph.
#[derive(Debug, Clone)]
pub struct Followed {
    pub classes: Classes,
    axes: Vec<Vec<Axis>>,
    /// Of constants, by axis.
    pub roles: BTreeMap<(ValueId, usize), Role>,
    /// Who makes channels: the node, its weights, and the axis of them.
    pub makers: Vec<(NodeId, ValueId, usize)>,
    /// Activations that weights read, by the axis of their channels.
    pub taken: Vec<(ValueId, usize)>,
    /// Nodes that are not understood and stand in the way.
    pub strangers: Vec<String>,
}

impl Followed {
    pub fn ids(&self, value: ValueId, axis: usize) -> Option<&Arc<[Id]>> {
        self.axes.get(value.index())?.get(axis)?.ids()
    }

    /// Of every axis that bears any.
    pub fn all_ids(&self) -> impl Iterator<Item = &Arc<[Id]>> {
        self.axes.iter().flatten().filter_map(Axis::ids)
    }

    pub fn axes(&self, value: ValueId) -> &[Axis] {
        self.axes.get(value.index()).map_or(&[], Vec::as_slice)
    }
}

/// Follows all channels. `facts` are those of one sample: sizes that they leave open freeze.
pub fn follow(graph: &Graph, facts: &Facts) -> Followed {
    let mut axes = vec![Vec::new(); graph.value_count()];
    for (id, value) in graph.values() {
        let rank = facts.of(id).shape.as_ref().map_or(0, Vec::len);
        let free = matches!(value.origin(), Origin::Constant(_));
        axes[id.index()] = vec![if free { Axis::Free } else { Axis::Plain }; rank];
    }
    let uses = graph.uses();
    let followed = Followed {
        classes: Classes::default(),
        axes,
        roles: BTreeMap::new(),
        makers: Vec::new(),
        taken: Vec::new(),
        strangers: Vec::new(),
    };
    let mut follower = Follower { graph, facts, uses: &uses, zero: vec![false; graph.value_count()], followed };
    for id in graph.order().unwrap_or_default() {
        if let Some(node) = graph.node(id) {
            follower.step(id, node);
        }
    }
    for port in &graph.outputs {
        follower.freeze(port.value, "it is an output of the model");
    }
    follower.followed.classes.settle();
    follower.followed
}

struct Follower<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    uses: &'a Uses,
    /// Activations whose channels are zeros where their weights are.
    zero: Vec<bool>,
    followed: Followed,
}

/// `None`: the node does not fit what is understood of its operator.
type Understood = Option<()>;

impl Follower<'_> {
    fn step(&mut self, id: NodeId, node: &Node) {
        if self.rule(id, node).is_none() {
            self.give_up(node);
        }
        // What has been read without channels cannot bear any for another reader.
        for value in node.inputs.iter().flatten() {
            for axis in self.followed.axes[value.index()].iter_mut().filter(|axis| **axis == Axis::Free) {
                *axis = Axis::Plain;
            }
        }
    }

    fn rule(&mut self, id: NodeId, node: &Node) -> Understood {
        if node.subgraphs().next().is_some() {
            return None;
        }
        if node.domain == "com.microsoft" {
            return match node.op.as_str() {
                "Gelu" | "FastGelu" | "QuickGelu" | "BiasGelu" => self.elementwise(node),
                _ => None,
            };
        }
        if !node.domain.is_empty() {
            return None;
        }
        match node.op.as_str() {
            "Conv" => self.conv(id, node),
            "ConvTranspose" => self.conv_transpose(id, node),
            "Gemm" => self.gemm(id, node),
            "MatMul" => self.mat_mul(id, node),
            "BatchNormalization" | "InstanceNormalization" => self.norm(node),
            "Shape" | "Size" => Some(()),
            op => self.elementwise(node).or_else(|| self.layout(op, node)),
        }
    }

    /// All that the node touches stays.
    fn give_up(&mut self, node: &Node) {
        let reads: Vec<ValueId> = node.reads().collect();
        let mut harmed = false;
        let why = format!("{} is not followed", describe(node));
        for value in reads {
            let axes = self.followed.axes(value).to_vec();
            harmed |= axes.iter().filter_map(Axis::ids).any(|ids| ids.iter().any(|&id| self.classes_free(id)));
            self.freeze(value, &why);
        }
        for value in node.outputs.iter().flatten() {
            self.followed.axes[value.index()].fill(Axis::Plain);
        }
        if harmed {
            self.followed.strangers.push(describe(node));
        }
    }

    fn classes_free(&self, id: Id) -> bool {
        self.followed.classes.frozen(id).is_none()
    }

    /// Every axis of the value.
    fn freeze(&mut self, value: ValueId, why: &str) {
        for axis in 0..self.followed.axes(value).len() {
            self.stay(value, axis, why);
        }
    }

    /// One axis of the value.
    fn stay(&mut self, value: ValueId, axis: usize, why: &str) {
        let Some(state) = self.followed.axes[value.index()].get_mut(axis) else { return };
        match state {
            Axis::Free => *state = Axis::Plain,
            Axis::Plain => {}
            Axis::Ids(ids) => self.followed.classes.freeze(&ids.clone(), why),
        }
    }

    /// Freezes all axes but those.
    fn only(&mut self, node: &Node, value: ValueId, axes: &[usize]) {
        let why = format!("{} works along it", describe(node));
        for axis in (0..self.followed.axes(value).len()).filter(|axis| !axes.contains(axis)) {
            self.stay(value, axis, &why);
        }
    }

    /// Makes the axis bear these ids, in `role` where it is a constant's.
    fn adopt(&mut self, node: &Node, (value, axis): (ValueId, usize), ids: &Arc<[Id]>, role: Role) -> Understood {
        let state = self.followed.axes[value.index()].get_mut(axis)?;
        match state {
            Axis::Free => {
                *state = Axis::Ids(Arc::clone(ids));
                self.followed.roles.insert((value, axis), role);
            }
            Axis::Plain => {
                let why = format!("{} joins it with what stays", describe(node));
                self.followed.classes.freeze(ids, &why);
            }
            Axis::Ids(own) => {
                let own = own.clone();
                if own.len() != ids.len() {
                    return None;
                }
                self.followed.classes.unite_all(&own, ids);
            }
        }
        Some(())
    }

    fn axis(&self, value: ValueId, axis: usize) -> Axis {
        let state = self.followed.axes(value).get(axis).cloned().unwrap_or(Axis::Plain);
        if state == Axis::Free { Axis::Plain } else { state }
    }

    fn has_ids(&self, value: ValueId) -> bool {
        self.followed.axes(value).iter().any(|axis| axis.ids().is_some())
    }

    fn set(&mut self, value: ValueId, axes: Vec<Axis>, zero: bool) {
        self.zero[value.index()] = zero;
        self.followed.axes[value.index()] = axes;
    }

    fn shape(&self, value: ValueId) -> Option<Vec<usize>> {
        self.facts.shape(value)
    }

    fn is_constant(&self, value: ValueId) -> bool {
        self.graph.constant(value).is_some()
    }

    fn is_zero(&self, value: ValueId) -> bool {
        self.zero[value.index()]
    }
}

/// A non-negative axis.
fn positive(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + i64::try_from(rank).ok()? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}
