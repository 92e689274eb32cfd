//! Our graph: values and nodes by index.
//!
//! Invariant: a value has one origin; an index that was given out stays valid, though what it names may
//! have been removed. Names are labels: edges go by index, and `write` makes names unique.
//! Not here: what operators mean.
//!
//! A subgraph (the body of an `If` or `Loop`) is a graph of its own, kept as an attribute. What it takes
//! from around it stands in its `captures`, pairs of a value there and a value here, so that edits
//! outside reach it.

mod build;
mod edit;
mod functions;
#[cfg(test)]
mod tests;
mod write;

pub use build::GraphError;
pub(super) use build::build;

use super::proto::{AttributeProto, TypeProto};
use super::tensor::{ElementType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A value of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// A node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl ValueId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One dimension of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Size(usize),
    /// A size that the file names (`batch`); equal names are equal sizes.
    Symbol(Arc<str>),
    Unknown,
}

impl Dim {
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Size(size) => Some(*size),
            Self::Symbol(_) | Self::Unknown => None,
        }
    }
}

/// What the file says of the type of an input or output.
#[derive(Debug, Clone, PartialEq)]
pub enum Declared {
    /// `None` for the element: a type that we do not know. `None` for the shape: not even the rank.
    Tensor { element: Option<ElementType>, shape: Option<Vec<Dim>> },
    /// Sequences, maps, optionals: carried along.
    Other(Box<TypeProto>),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    Input,
    /// The graph around this one.
    Capture,
    Constant(Tensor),
    /// The node, and which of its outputs.
    Node(NodeId, usize),
    /// Its producer was removed.
    None,
}

#[derive(Debug, Clone)]
pub struct Value {
    pub name: String,
    origin: Origin,
}

impl Value {
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// An attribute's value.
#[derive(Debug, Clone)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    Text(Vec<u8>),
    Tensor(Tensor),
    Graph(Box<Graph>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<Vec<u8>>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<Graph>),
    /// Types: carried along.
    Other(Box<AttributeProto>),
}

impl Attribute {
    fn graphs(&self) -> &[Graph] {
        if let Self::Graph(graph) = self {
            return std::slice::from_ref(&**graph);
        }
        if let Self::Graphs(graphs) = self { graphs } else { &[] }
    }

    fn graphs_mut(&mut self) -> &mut [Graph] {
        if let Self::Graph(graph) = self {
            return std::slice::from_mut(&mut **graph);
        }
        if let Self::Graphs(graphs) = self { graphs } else { &mut [] }
    }
}

/// An operator at work.
#[derive(Debug, Clone)]
pub struct Node {
    /// May be empty, and need not be unique.
    pub name: String,
    pub op: String,
    /// Empty for ONNX's own operators.
    pub domain: String,
    /// Of its domain's operator set.
    pub version: i64,
    pub attributes: BTreeMap<String, Attribute>,
    /// `None` for an optional input that is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// `None` for an optional output that is left out.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// Whether this is ONNX's own operator of that name.
    pub fn is(&self, op: &str) -> bool {
        self.domain.is_empty() && self.op == op
    }

    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        if let Attribute::Int(value) = self.attributes.get(name)? { Some(*value) } else { None }
    }

    pub fn float(&self, name: &str) -> Option<f32> {
        if let Attribute::Float(value) = self.attributes.get(name)? { Some(*value) } else { None }
    }

    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        if let Attribute::Ints(values) = self.attributes.get(name)? { Some(values) } else { None }
    }

    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        if let Attribute::Floats(values) = self.attributes.get(name)? { Some(values) } else { None }
    }

    /// `None` also where it is not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        if let Attribute::Text(value) = self.attributes.get(name)? { std::str::from_utf8(value).ok() } else { None }
    }

    /// The subgraphs in its attributes.
    pub fn subgraphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.values().flat_map(Attribute::graphs)
    }

    pub fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.attributes.values_mut().flat_map(Attribute::graphs_mut)
    }

    /// Inputs, and what its subgraphs take from around them.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> {
        let captured = self.subgraphs().flat_map(|graph| graph.captures.iter().map(|capture| capture.outer));
        self.inputs.iter().flatten().copied().chain(captured)
    }
}

/// A value of the graph around, as the subgraph sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    pub outer: ValueId,
    pub inner: ValueId,
}

/// An input or output of a graph.
#[derive(Debug, Clone)]
pub struct Port {
    /// The name that callers use; the value's own may change.
    pub name: String,
    pub value: ValueId,
    pub declared: Option<Declared>,
}

/// A reader of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A node, and which of its inputs.
    Input(NodeId, usize),
    /// A subgraph of that node.
    Capture(NodeId),
    /// An output of the graph, by number.
    Output(usize),
}

#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub name: String,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub captures: Vec<Capture>,
    values: Vec<Value>,
    nodes: Vec<Option<Node>>,
}

/// A graph with what stands around it in the file.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub graph: Graph,
    /// Domain to version; ONNX's own is the empty one.
    pub opsets: BTreeMap<String, i64>,
    pub ir_version: i64,
    pub producer: String,
    /// What exporters note: keys and values.
    pub metadata: Vec<(String, String)>,
}

/// Nodes that wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nodes wait for each other in a circle: {node} is one of them")]
pub struct Cycle {
    pub node: String,
}

/// Readers of every value, as they were when this was made.
#[derive(Debug)]
pub struct Uses(Vec<Vec<Use>>);

impl Uses {
    pub fn of(&self, value: ValueId) -> &[Use] {
        self.0.get(value.index()).map_or(&[], Vec::as_slice)
    }

    /// The node that alone reads the value, if there is one and it reads it once.
    pub fn only(&self, value: ValueId) -> Option<(NodeId, usize)> {
        match self.of(value) {
            [Use::Input(node, input)] => Some((*node, *input)),
            _ => None,
        }
    }
}

impl Graph {
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        (0_u32..).zip(&self.values).map(|(id, value)| (ValueId(id), value))
    }

    /// Values ever made: one more than the largest index.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Nodes in no particular order; `order` sorts them.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0_u32..).zip(&self.nodes).filter_map(|(id, node)| Some((NodeId(id), node.as_ref()?)))
    }

    /// `None` where it has been removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index())?.as_mut()
    }

    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        match self.value(id).origin() {
            Origin::Constant(tensor) => Some(tensor),
            Origin::Input | Origin::Capture | Origin::Node(..) | Origin::None => None,
        }
    }

    pub fn producer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        match self.value(id).origin() {
            Origin::Node(node, _) => Some((*node, self.node(*node)?)),
            Origin::Input | Origin::Capture | Origin::Constant(_) | Origin::None => None,
        }
    }

    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.iter().any(|port| port.value == id)
    }

    /// Every reader of every value: one walk over the graph.
    pub fn uses(&self) -> Uses {
        let mut uses = vec![Vec::new(); self.values.len()];
        for (id, node) in self.nodes() {
            for (index, value) in node.inputs.iter().enumerate() {
                if let Some(value) = value {
                    uses[value.index()].push(Use::Input(id, index));
                }
            }
            for capture in node.subgraphs().flat_map(|graph| &graph.captures) {
                uses[capture.outer.index()].push(Use::Capture(id));
            }
        }
        for (index, port) in self.outputs.iter().enumerate() {
            uses[port.value.index()].push(Use::Output(index));
        }
        Uses(uses)
    }

    /// Nodes so that each stands behind those it reads from; otherwise in the order of the file.
    pub fn order(&self) -> Result<Vec<NodeId>, Cycle> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for (root, _) in self.nodes() {
            // A stack of our own: a chain of nodes may be longer than the thread's.
            let mut stack = vec![root];
            while let Some(&id) = stack.last() {
                let Some(node) = self.node(id).filter(|_| marks[id.index()] != Mark::Done) else {
                    stack.pop();
                    continue;
                };
                marks[id.index()] = Mark::Open;
                let before = stack.len();
                for (needed, _) in node.reads().filter_map(|value| self.producer(value)) {
                    match marks[needed.index()] {
                        Mark::New => stack.push(needed),
                        Mark::Open => return Err(Cycle { node: describe(node) }),
                        Mark::Done => {}
                    }
                }
                if stack.len() == before {
                    marks[id.index()] = Mark::Done;
                    order.push(id);
                    stack.pop();
                }
            }
        }
        Ok(order)
    }
}

/// Name, or else first output by number, and operator: for messages.
pub fn describe(node: &Node) -> String {
    let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
    format!("node {:?} ({}.{} of version {})", short(&node.name), short(domain), short(&node.op), node.version)
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
