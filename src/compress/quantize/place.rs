//! Which tensors become integers: the layers with weights, and the activations that they and their neighbours take.
//!
//! Invariant: a placed graph fuses completely, here and in ONNX Runtime: a product's inputs are quantized, a convolution's
//! output too; between a product and the ReLU or Clip behind it nothing is; what only moves values has one scale at both
//! ends.
//! Not here: with which scales (`observe`), writing it (`write`).

use super::union::Union;
use crate::onnx::graph::{Graph, Node, NodeId, Uses, ValueId, describe};
use crate::onnx::shapes::Facts;
use crate::onnx::{ElementType, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// A product with constant weights.
#[derive(Debug, Clone)]
pub struct Layer {
    pub node: NodeId,
    pub name: String,
    pub kind: Kind,
    pub input: ValueId,
    pub weight: ValueId,
    pub bias: Option<ValueId>,
    /// The weights' dimension that counts output channels.
    pub axis: usize,
    /// Behind the activation that is fused into it.
    pub output: ValueId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Conv,
    /// `B` as `[N, K]` where transposed, else `[K, N]`.
    Gemm,
    MatMul,
}

/// Why a product keeps its floats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub name: String,
    pub why: String,
}

/// What is quantized.
#[derive(Debug, Clone, Default)]
pub struct Placed {
    pub layers: Vec<Layer>,
    /// Quantized activations, each with the number of its class; one class has one scale.
    pub classes: BTreeMap<ValueId, usize>,
    /// Constants that stand beside quantized activations in an addition and the like: the node, and which of its inputs.
    pub constants: BTreeSet<(NodeId, usize)>,
    /// Nodes whose activations are quantized for their own sake: additions and the like.
    pub elementwise: BTreeSet<NodeId>,
    pub kept: Vec<Kept>,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Names of nodes that keep their floats; `*` at the end stands for any ending.
    pub keep: Vec<String>,
    /// Additions, multiplications, concatenations and the like in integers too; `None`: unless this is a transformer, where
    /// its residual sums would lose too much.
    pub elementwise: Option<bool>,
}

impl Wishes {
    fn keeps(&self, name: &str) -> bool {
        self.keep.iter().any(|wish| is_named(name, wish))
    }
}

/// Whether a wish for a node means this one.
pub fn is_named(name: &str, wish: &str) -> bool {
    wish.strip_suffix('*').map_or(name == wish, |start| name.starts_with(start))
}

/// Chooses.
pub fn place(graph: &Graph, facts: &Facts, wishes: &Wishes) -> Placed {
    let order = graph.order().unwrap_or_default();
    let elementwise = wishes.elementwise.unwrap_or_else(|| !is_transformer(graph));
    let mut placing = Placing {
        graph,
        facts,
        uses: graph.uses(),
        wishes,
        elementwise,
        wanted: BTreeSet::new(),
        moves: Vec::new(),
        candidates: Vec::new(),
        placed: Placed::default(),
    };
    order.iter().filter_map(|&id| Some((id, graph.node(id)?))).for_each(|(id, node)| placing.node(id, node));
    placing.spread();
    placing.finish()
}

/// Attention has a Softmax and products of two activations; its sums are of very different sizes.
fn is_transformer(graph: &Graph) -> bool {
    let has = |op: &str| graph.nodes().any(|(_, node)| node.is(op));
    let two =
        |node: &Node| node.is("MatMul") && node.inputs.iter().flatten().all(|&value| graph.constant(value).is_none());
    has("LayerNormalization") || (has("Softmax") && graph.nodes().any(|(_, node)| two(node)))
}

/// A layer's name in reports: the node's, or else that of what it makes.
pub fn name_of(graph: &Graph, node: &Node) -> String {
    match (node.name.is_empty(), node.output(0)) {
        (true, Some(output)) => graph.value(output).name.clone(),
        _ => node.name.clone(),
    }
}

/// Values go through these unchanged, but for where they stand.
const MOVES: [&str; 15] = [
    "MaxPool",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Split",
    "Identity",
    "Dropout",
    "Expand",
    "DepthToSpace",
    "SpaceToDepth",
    "Gather",
    "GlobalMaxPool",
];

/// Integers in, integers out, where neighbours are.
const ELEMENTWISE: [&str; 7] = ["Add", "Mul", "Sub", "Concat", "AveragePool", "GlobalAveragePool", "Resize"];

struct Placing<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    uses: Uses,
    wishes: &'a Wishes,
    elementwise: bool,
    wanted: BTreeSet<ValueId>,
    /// Pairs of values with one scale.
    moves: Vec<(ValueId, ValueId)>,
    /// What is in integers if a neighbour is.
    candidates: Vec<Candidate>,
    placed: Placed,
}

/// An addition or the like.
struct Candidate {
    node: NodeId,
    /// Inputs that are computed, and the output behind a fused activation.
    values: Vec<ValueId>,
    /// Inputs that are constants.
    constants: Vec<usize>,
}

impl Placing<'_> {
    fn node(&mut self, id: NodeId, node: &Node) {
        if !node.domain.is_empty() {
            return;
        }
        let op = node.op.as_str();
        match op {
            "Conv" | "Gemm" | "MatMul" => self.product(id, node),
            "ConvTranspose" => self.keep(node, "transposed convolutions have no integer form"),
            _ if MOVES.contains(&op)
                || (op == "Resize" && node.text("mode").is_none_or(|mode| mode == "nearest"))
                || is_zero_pad(self.graph, node) =>
            {
                let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
                // A MaxPool's second output counts places.
                let pairs =
                    node.input(0).into_iter().flat_map(|input| outputs.iter().map(move |&output| (input, output)));
                let pairs: Vec<_> =
                    pairs.filter(|&(input, output)| self.is_float(input) && self.is_float(output)).collect();
                self.moves.extend(pairs);
            }
            _ if self.elementwise && ELEMENTWISE.contains(&op) && !self.is_bias(node) => {
                self.elementwise(id, node);
            }
            _ => {}
        }
    }

    fn product(&mut self, id: NodeId, node: &Node) {
        let (Some(input), Some(weight)) = (node.input(0), node.input(1)) else { return };
        let name = name_of(self.graph, node);
        if !self.is_float(input) || !self.is_float(weight) {
            return;
        }
        if self.wishes.keeps(&name) {
            return self.keep(node, "asked for");
        }
        let Some(constant) = self.graph.constant(weight) else {
            if node.is("MatMul") && self.graph.constant(input).is_none() {
                self.wanted.extend([input, weight]);
            } else {
                self.keep(node, "its weights are computed");
            }
            return;
        };
        if self.graph.constant(input).is_some() {
            return self.keep(node, "its input is constant");
        }
        let rank = constant.shape().len();
        let (kind, axis) = match node.op.as_str() {
            "Conv" => (Kind::Conv, 0),
            "Gemm" if node.int("transA").unwrap_or(0) != 0 => return self.keep(node, "its input is transposed"),
            "Gemm" => (Kind::Gemm, if node.int("transB").unwrap_or(0) == 0 { 1 } else { 0 }),
            _ if rank != 2 => return self.keep(node, "its weights are no matrix"),
            _ => (Kind::MatMul, 1),
        };
        let bias = node.input(2);
        let channels = constant.shape().get(axis).copied().unwrap_or(0);
        let is_row = |bias: &Tensor| bias.len() == channels && bias.shape().last() == Some(&channels);
        if bias.is_some_and(|bias| self.graph.constant(bias).is_none_or(|bias| !is_row(bias))) {
            return self.keep(node, "its bias is no constant with a value for each output");
        }
        let output = node.output(0).map(|output| self.behind_activation(output));
        let Some(output) = output else { return };
        self.wanted.insert(input);
        if kind == Kind::Conv {
            self.wanted.insert(output);
        }
        self.placed.layers.push(Layer { node: id, name, kind, input, weight, bias, axis, output });
    }

    /// The output of a ReLU or Clip that alone reads the value; else the value.
    fn behind_activation(&self, value: ValueId) -> ValueId {
        let reader = self.uses.only(value).and_then(|(id, input)| self.graph.node(id).filter(|_| input == 0));
        match reader {
            Some(node) if node.is("Relu") || node.is("Clip") => node.output(0).unwrap_or(value),
            _ => value,
        }
    }

    /// An addition of a constant behind a product of matrices: its bias, which needs no rounding of its own.
    fn is_bias(&self, node: &Node) -> bool {
        let made_by = |value: ValueId| self.graph.producer(value).is_some_and(|(_, maker)| maker.is("MatMul"));
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return false };
        let constant = |value| self.graph.constant(value).is_some();
        node.is("Add") && ((made_by(a) && constant(b)) || (made_by(b) && constant(a)))
    }

    fn elementwise(&mut self, id: NodeId, node: &Node) {
        // The other inputs of these are sizes and scales.
        let data = if matches!(node.op.as_str(), "Add" | "Mul" | "Sub" | "Concat") { node.inputs.len() } else { 1 };
        let inputs: Vec<ValueId> = node.inputs.iter().take(data).flatten().copied().collect();
        let Some(output) = node.output(0) else { return };
        if !inputs.iter().chain([&output]).all(|&value| self.is_float(value)) {
            return;
        }
        if self.wishes.keeps(&name_of(self.graph, node)) {
            return self.keep(node, "asked for");
        }
        let is_constant = |value: &ValueId| self.graph.constant(*value).is_some();
        let mut values: Vec<ValueId> = inputs.iter().copied().filter(|value| !is_constant(value)).collect();
        if values.is_empty() {
            return;
        }
        values.push(self.behind_activation(output));
        let constants = (0..inputs.len()).filter(|&at| is_constant(&inputs[at])).collect();
        self.candidates.push(Candidate { node: id, values, constants });
    }

    /// What moves is quantized at both ends if it is at one; an addition and the like if one of its values is.
    fn spread(&mut self) {
        loop {
            let before = self.wanted.len();
            for &(a, b) in &self.moves {
                if self.wanted.contains(&a) || self.wanted.contains(&b) {
                    self.wanted.extend([a, b]);
                }
            }
            for candidate in &self.candidates {
                if candidate.values.iter().any(|value| self.wanted.contains(value)) {
                    self.wanted.extend(&candidate.values);
                    self.placed.elementwise.insert(candidate.node);
                    self.placed.constants.extend(candidate.constants.iter().map(|&at| (candidate.node, at)));
                }
            }
            if self.wanted.len() == before {
                break;
            }
        }
    }

    fn finish(mut self) -> Placed {
        // A value that goes in and out as it is keeps its name.
        let passes =
            |value: ValueId| self.graph.is_output(value) && self.graph.inputs.iter().any(|port| port.value == value);
        self.wanted.retain(|&value| self.graph.constant(value).is_none() && !passes(value));
        let mut union = Union::default();
        for &(a, b) in &self.moves {
            if self.wanted.contains(&a) && self.wanted.contains(&b) {
                union.unite(a, b);
            }
        }
        let mut numbers = BTreeMap::new();
        for &value in &self.wanted {
            let next = numbers.len();
            let class = *numbers.entry(union.find(value)).or_insert(next);
            self.placed.classes.insert(value, class);
        }
        self.placed
    }

    fn keep(&mut self, node: &Node, why: &str) {
        let name = if node.name.is_empty() { describe(node) } else { node.name.clone() };
        self.placed.kept.push(Kept { name, why: why.to_owned() });
    }

    /// Floats of a size that does not depend on values.
    fn is_float(&self, value: ValueId) -> bool {
        self.facts.element(value) == Some(ElementType::F32)
            && (self.graph.constant(value).is_some() || self.facts.shape(value).is_some())
    }
}

/// With zeros, which every scale has.
fn is_zero_pad(graph: &Graph, node: &Node) -> bool {
    let zero = |value| graph.constant(value).and_then(|tensor| tensor.to_f32s()).is_some_and(|values| values == [0.0]);
    node.is("Pad") && node.text("mode").is_none_or(|mode| mode == "constant") && node.input(2).is_none_or(zero)
}
