//! Calls of a model's own functions become the functions' bodies.
//!
//! Invariant: what comes out calls no function; copies stay within the limits on nodes and memory, and
//! functions that call themselves are refused.
//! Spec: <https://onnx.ai/onnx/repo-docs/IR.html#functions>.

use super::build::{GraphError, domain, place};
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use crate::onnx::read::{Limits, ReadError};
use crate::onnx::wire::WireError;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Functions that call functions.
const MAX_DEPTH: usize = 32;

/// Versions by domain.
pub(super) type Opsets = Rc<BTreeMap<String, i64>>;

/// A node, and the operator sets of where it was written.
pub(super) type Placed = (NodeProto, Opsets);

pub(super) struct Functions {
    /// By domain, name and overload.
    known: HashMap<(String, String, String), (Rc<FunctionProto>, Opsets)>,
    /// What may still be copied.
    nodes: usize,
    memory: usize,
    limits: Limits,
    calls: usize,
}

impl Functions {
    pub fn new(functions: Vec<FunctionProto>, limits: &Limits) -> Self {
        let known = functions.into_iter().map(|mut function| {
            let imports = std::mem::take(&mut function.opset_import).into_iter();
            let opsets = imports.map(|opset| (domain(opset.domain), opset.version)).collect();
            let key = (domain(function.domain.clone()), function.name.clone(), function.overload.clone());
            (key, (Rc::new(function), Rc::new(opsets)))
        });
        Self { known: known.collect(), nodes: limits.nodes, memory: limits.memory, limits: *limits, calls: 0 }
    }

    /// Operator sets of the bodies, beside those of the model.
    pub fn add_opsets(&self, opsets: &mut BTreeMap<String, i64>) {
        for (domain, version) in self.known.values().flat_map(|(_, inner)| inner.iter()) {
            opsets.entry(domain.clone()).or_insert(*version);
        }
    }

    /// The nodes of a graph, calls replaced. Graphs within nodes come here when they are built.
    pub fn expand(&mut self, nodes: Vec<NodeProto>, opsets: &Opsets) -> Result<Vec<Placed>, ReadError> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for node in nodes {
            self.node(node, opsets, 0, &mut expanded)?;
        }
        Ok(expanded)
    }

    fn node(
        &mut self,
        node: NodeProto,
        opsets: &Opsets,
        depth: usize,
        into: &mut Vec<Placed>,
    ) -> Result<(), ReadError> {
        let key = (domain(node.domain.clone()), node.op_type.clone(), node.overload.clone());
        let Some((function, inner)) = self.known.get(&key).cloned() else {
            into.push((node, Rc::clone(opsets)));
            return Ok(());
        };
        if depth == MAX_DEPTH {
            return Err(GraphError::Function { place: place(&node) }.into());
        }
        self.pay(&function)?;
        self.calls += 1;
        let body = Call::new(&node, &function, self.calls);
        for node in &function.node {
            self.node(body.node(node), &inner, depth + 1, into)?;
        }
        Ok(())
    }

    fn pay(&mut self, function: &FunctionProto) -> Result<(), WireError> {
        // Decoded, a node takes some ten times its bytes on the wire.
        let bytes = function.encoded_len().saturating_mul(10);
        self.nodes =
            self.nodes.checked_sub(function.node.len()).ok_or(WireError::Nodes { limit: self.limits.nodes })?;
        self.memory = self.memory.checked_sub(bytes).ok_or(WireError::Memory { limit: self.limits.memory })?;
        Ok(())
    }
}

/// How names and attributes of a body read at one place.
struct Call<'a> {
    names: HashMap<&'a str, &'a str>,
    attributes: HashMap<&'a str, &'a AttributeProto>,
    prefix: String,
}

impl<'a> Call<'a> {
    fn new(node: &'a NodeProto, function: &'a FunctionProto, number: usize) -> Self {
        let absent = std::iter::repeat("");
        let inputs = function.input.iter().zip(node.input.iter().map(String::as_str).chain(absent));
        // An output that the caller leaves out keeps a name of its own.
        let outputs =
            function.output.iter().zip(node.output.iter().map(String::as_str)).filter(|(_, name)| !name.is_empty());
        let names = inputs.chain(outputs).map(|(inside, outside)| (inside.as_str(), outside)).collect();
        let defaults = function.attribute_proto.iter().map(|attribute| (attribute.name.as_str(), attribute));
        let given = node.attribute.iter().map(|attribute| (attribute.name.as_str(), attribute));
        Self { names, attributes: defaults.chain(given).collect(), prefix: format!("{}.{number}.", function.name) }
    }

    fn name(&self, inside: &str) -> String {
        match self.names.get(inside) {
            Some(outside) => (*outside).to_owned(),
            None if inside.is_empty() => String::new(),
            None => format!("{}{inside}", self.prefix),
        }
    }

    fn node(&self, node: &NodeProto) -> NodeProto {
        let list = |names: &[String]| names.iter().map(|name| self.name(name)).collect();
        NodeProto {
            input: list(&node.input),
            output: list(&node.output),
            name: if node.name.is_empty() { String::new() } else { format!("{}{}", self.prefix, node.name) },
            attribute: node.attribute.iter().filter_map(|attribute| self.attribute(attribute)).collect(),
            ..node.clone()
        }
    }

    /// A reference to an attribute that the call does not have leaves the operator's default.
    fn attribute(&self, attribute: &AttributeProto) -> Option<AttributeProto> {
        if !attribute.ref_attr_name.is_empty() {
            let given = *self.attributes.get(attribute.ref_attr_name.as_str())?;
            return Some(AttributeProto { name: attribute.name.clone(), ..given.clone() });
        }
        let mut copy = attribute.clone();
        if let Some(graph) = &mut copy.g {
            self.graph(graph);
        }
        copy.graphs.iter_mut().for_each(|graph| self.graph(graph));
        Some(copy)
    }

    /// Names of a graph in the body are all made apart: those it defines, and those it takes from the body.
    fn graph(&self, graph: &mut GraphProto) {
        graph.node = graph.node.iter().map(|node| self.node(node)).collect();
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            value.name = self.name(&value.name);
        }
        graph.initializer.iter_mut().for_each(|tensor| tensor.name = self.name(&tensor.name));
        for values in graph.sparse_initializer.iter_mut().filter_map(|sparse| sparse.values.as_mut()) {
            values.name = self.name(&values.name);
        }
    }
}
