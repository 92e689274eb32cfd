//! Element types and shapes of every value, as far as operators and inputs tell.
//!
//! Invariant: what is stated is true of every run with such inputs; what the file itself notes of the
//! values inside is never believed. An unknown operator, or one whose inputs do not fit together,
//! leaves its outputs unknown: whoever runs it complains.
//! Not here: graphs as exporters write them; `normalise` brings operators to the forms read here.
//!
//! Integer vectors that shapes are computed with (`Shape`, `Gather`, `Concat` …) are followed by
//! content, symbols included, so that a `Reshape` behind them has a shape though the batch is open.
//! Rules: <https://onnx.ai/onnx/operators/>, and
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md> for com.microsoft.

mod contents;
mod elementwise;
mod layout;
mod products;
mod recurrent;
#[cfg(test)]
mod tests;
mod windows;

pub(crate) use contents::arithmetic;
pub use layout::slice_bounds;

use super::graph::{Declared, Dim, Graph, Node, NodeId, Origin, ValueId};
use super::tensor::{ElementType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Elements up to which integer tensors are followed by content.
const MAX_CONTENT: usize = 64;

/// Dimensions up to which a shape is followed: some operators add one each time.
const MAX_RANK: usize = 64;

/// One integer of a tensor that shapes are computed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Known(i64),
    Symbol(Arc<str>),
    Unknown,
}

/// What is known of a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fact {
    pub element: Option<ElementType>,
    /// Outermost dimension first; `None` where not even the rank is known.
    pub shape: Option<Vec<Dim>>,
    /// Row-major elements of a small integer or boolean tensor.
    pub contents: Option<Vec<Item>>,
}

impl Fact {
    fn new(element: Option<ElementType>, shape: Option<Vec<Dim>>) -> Self {
        Self { element, shape, contents: None }
    }

    /// The fact of a constant.
    pub fn of_constant(tensor: &Tensor) -> Self {
        let integer = tensor.element().is_integer() || tensor.element() == ElementType::Bool;
        let contents = if integer && tensor.len() <= MAX_CONTENT { tensor.to_i64s() } else { None };
        Self {
            element: Some(tensor.element()),
            shape: Some(tensor.shape().iter().map(|&dim| Dim::Size(dim)).collect()),
            contents: contents.map(|values| values.into_iter().map(Item::Known).collect()),
        }
    }

    /// Where all sizes are known.
    pub fn concrete(&self) -> Option<Vec<usize>> {
        sizes(self.shape.as_deref()?)
    }

    /// Where all elements are known.
    pub fn known_contents(&self) -> Option<Vec<i64>> {
        let known = |item: &Item| if let Item::Known(value) = item { Some(*value) } else { None };
        self.contents.as_ref()?.iter().map(known).collect()
    }
}

fn sizes(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().map(Dim::size).collect()
}

/// Concrete shapes for inputs, by name; inputs that are not named keep what the file declares.
pub type InputShapes = BTreeMap<String, Vec<usize>>;

/// What is known of every value of a graph.
#[derive(Debug, Clone, Default)]
pub struct Facts(Vec<Fact>);

static NOTHING: Fact = Fact { element: None, shape: None, contents: None };

impl Facts {
    pub fn of(&self, value: ValueId) -> &Fact {
        self.0.get(value.index()).unwrap_or(&NOTHING)
    }

    pub fn element(&self, value: ValueId) -> Option<ElementType> {
        self.of(value).element
    }

    pub fn dims(&self, value: ValueId) -> Option<&[Dim]> {
        self.of(value).shape.as_deref()
    }

    /// Where all sizes are known.
    pub fn shape(&self, value: ValueId) -> Option<Vec<usize>> {
        self.of(value).concrete()
    }

    /// States a fact, over whatever was known.
    pub fn set(&mut self, value: ValueId, fact: Fact) {
        if self.0.len() <= value.index() {
            self.0.resize(value.index() + 1, Fact::default());
        }
        self.0[value.index()] = fact;
    }

    /// Facts of inputs and constants; nothing of what nodes make.
    pub fn begin(graph: &Graph, inputs: &InputShapes) -> Self {
        let mut facts = Self(vec![Fact::default(); graph.value_count()]);
        for (id, value) in graph.values() {
            if let Origin::Constant(tensor) = value.origin() {
                facts.set(id, Fact::of_constant(tensor));
            }
        }
        let symbols = symbols(graph, inputs);
        for port in &graph.inputs {
            let (element, shape) = match &port.declared {
                Some(Declared::Tensor { element, shape }) => (*element, shape.clone()),
                Some(Declared::Other(_)) | None => (None, None),
            };
            let stated = inputs.get(&port.name).map(|shape| shape.iter().map(|&dim| Dim::Size(dim)).collect());
            let resolve = |dim: Dim| match &dim {
                Dim::Symbol(name) => symbols.get(name).copied().map_or(dim, Dim::Size),
                Dim::Size(_) | Dim::Unknown => dim,
            };
            let declared = || Some(shape?.into_iter().map(resolve).collect());
            facts.set(port.value, Fact::new(element, stated.or_else(declared)));
        }
        facts
    }

    /// The same for a subgraph, within a graph of which these are the facts.
    pub fn begin_inner(&self, inner: &Graph) -> Self {
        let mut facts = Self::begin(inner, &InputShapes::new());
        for capture in &inner.captures {
            facts.set(capture.inner, self.of(capture.outer).clone());
        }
        facts
    }

    /// Infers what one node makes, from what it reads.
    pub fn step(&mut self, graph: &Graph, id: NodeId) {
        let Some(node) = graph.node(id) else { return };
        let made = Args { graph, node, facts: self }.infer();
        for (value, mut fact) in node.outputs.iter().zip(made) {
            if let Some(value) = value {
                fact.shape = fact.shape.filter(|dims| dims.len() <= MAX_RANK);
                self.set(*value, fact);
            }
        }
    }

    fn steps(mut self, graph: &Graph) -> Self {
        // A circle, which no graph that was read has, would leave everything unknown.
        for id in graph.order().unwrap_or_default() {
            self.step(graph, id);
        }
        self
    }
}

/// Symbols that the stated shapes decide.
fn symbols(graph: &Graph, inputs: &InputShapes) -> BTreeMap<Arc<str>, usize> {
    let mut symbols = BTreeMap::new();
    for port in &graph.inputs {
        let (Some(Declared::Tensor { shape: Some(dims), .. }), Some(stated)) = (&port.declared, inputs.get(&port.name))
        else {
            continue;
        };
        for (dim, &size) in dims.iter().zip(stated) {
            if let Dim::Symbol(name) = dim {
                symbols.insert(Arc::clone(name), size);
            }
        }
    }
    symbols
}

/// Types and shapes of all values. `inputs` overrule what the file declares.
pub fn infer(graph: &Graph, inputs: &InputShapes) -> Facts {
    Facts::begin(graph, inputs).steps(graph)
}

/// Dimensions as a rule makes them; `None` where it cannot tell, or inputs do not fit together.
type Shape = Option<Vec<Dim>>;

/// A node with what is known of its inputs.
struct Args<'a> {
    graph: &'a Graph,
    node: &'a Node,
    facts: &'a Facts,
}

impl<'a> Args<'a> {
    fn fact(&self, input: usize) -> &'a Fact {
        self.node.input(input).map_or(&NOTHING, |value| self.facts.of(value))
    }

    fn element(&self, input: usize) -> Option<ElementType> {
        self.fact(input).element
    }

    fn shape(&self, input: usize) -> Option<&'a [Dim]> {
        self.fact(input).shape.as_deref()
    }

    fn rank(&self, input: usize) -> Option<usize> {
        Some(self.shape(input)?.len())
    }

    fn has(&self, input: usize) -> bool {
        self.node.input(input).is_some()
    }

    fn constant(&self, input: usize) -> Option<&'a Tensor> {
        self.graph.constant(self.node.input(input)?)
    }

    /// Known integers of an input.
    fn ints(&self, input: usize) -> Option<Vec<i64>> {
        self.fact(input).known_contents()
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.node.int(name).unwrap_or(default)
    }

    fn flag(&self, name: &str) -> bool {
        self.int(name, 0) != 0
    }

    /// A non-negative axis of a tensor of that rank.
    fn axis(&self, default: i64, rank: usize) -> Option<usize> {
        axis(self.int("axis", default), rank)
    }

    fn infer(&self) -> Vec<Fact> {
        let mut facts = match self.node.domain.as_str() {
            "" => self.standard(),
            "com.microsoft" => self.microsoft(),
            _ => Vec::new(),
        };
        if let Some(first) = facts.first_mut()
            && first.contents.is_none()
        {
            first.contents = self.contents(first);
        }
        facts
    }

    fn standard(&self) -> Vec<Fact> {
        let first = self.element(0);
        let one = |element, shape| vec![Fact::new(element, shape)];
        match self.node.op.as_str() {
            "Conv" => one(first, self.conv(0, 1)),
            "ConvInteger" => one(Some(ElementType::I32), self.conv(0, 1)),
            "QLinearConv" => one(self.element(7), self.conv(0, 3)),
            "ConvTranspose" => one(first, self.conv_transpose()),
            "MaxPool" => vec![Fact::new(first, self.pool(false)), Fact::new(Some(ElementType::I64), self.pool(false))],
            "AveragePool" | "LpPool" => one(first, self.pool(false)),
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => one(first, self.global_pool(false)),
            "Gemm" => one(first, self.gemm(0, 1)),
            "MatMul" => one(first, self.mat_mul(0, 1)),
            "MatMulInteger" => one(Some(ElementType::I32), self.mat_mul(0, 1)),
            "QLinearMatMul" => one(self.element(7), self.mat_mul(0, 3)),
            "LSTM" | "GRU" | "RNN" => self.recurrent(),
            "If" => self.branches(),
            op => self.elementwise(op).or_else(|| self.layout(op)).unwrap_or_default(),
        }
    }

    fn microsoft(&self) -> Vec<Fact> {
        let first = self.element(0);
        let one = |element, shape| vec![Fact::new(element, shape)];
        let same = self.shape(0).map(<[Dim]>::to_vec);
        let float = Some(ElementType::F32);
        match self.node.op.as_str() {
            "QuantizeLinear" | "DequantizeLinear" => self.elementwise(&self.node.op).unwrap_or_default(),
            "QLinearAdd" | "QLinearMul" => one(first, elementwise::broadcast(&[self.shape(0), self.shape(3)])),
            "QLinearConcat" => one(self.element(2), self.concat(2, 3)),
            "QLinearSigmoid" | "QLinearLeakyRelu" | "QLinearSoftmax" => one(first, same),
            "Gelu" | "FastGelu" | "QuickGelu" | "BiasGelu" | "SkipLayerNormalization" => one(first, same),
            "QLinearAveragePool" => one(first, self.pool(self.flag("channels_last"))),
            "QLinearGlobalAveragePool" => one(first, self.global_pool(self.flag("channels_last"))),
            "QGemm" => one(if self.has(8) { self.element(8) } else { float }, self.gemm(0, 3)),
            "DynamicQuantizeMatMul" | "MatMulIntegerToFloat" => one(float, self.mat_mul(0, 1)),
            _ => Vec::new(),
        }
    }

    /// What both branches of an `If` agree on.
    fn branches(&self) -> Vec<Fact> {
        let branches = self.node.subgraphs().map(|branch| {
            let facts = self.facts.begin_inner(branch).steps(branch);
            branch.outputs.iter().map(|port| facts.of(port.value).clone()).collect::<Vec<_>>()
        });
        let agree = |a: Vec<Fact>, b: Vec<Fact>| a.into_iter().zip(b).map(|(a, b)| common(a, b)).collect();
        branches.reduce(agree).unwrap_or_default()
    }
}

fn common(a: Fact, b: Fact) -> Fact {
    let dim = |(a, b): (Dim, Dim)| if a == b { a } else { Dim::Unknown };
    let same_rank =
        |(a, b): (Vec<Dim>, Vec<Dim>)| (a.len() == b.len()).then(|| a.into_iter().zip(b).map(dim).collect());
    Fact {
        element: if a.element == b.element { a.element } else { None },
        shape: a.shape.zip(b.shape).and_then(same_rank),
        contents: if a.contents == b.contents { a.contents } else { None },
    }
}

/// A non-negative axis; `None` outside of `-rank..rank`.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank_i64 = i64::try_from(rank).ok()?;
    let positive = if axis < 0 { axis.checked_add(rank_i64)? } else { axis };
    usize::try_from(positive).ok().filter(|&axis| axis < rank)
}
