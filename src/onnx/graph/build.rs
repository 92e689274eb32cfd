//! `ModelProto` -> `Model`: names become indices, and what does not hold together is refused.
//!
//! Invariant: in what comes out every read value exists, has one producer, and nodes form no circle.
//! An initializer that is also an input is a constant: nobody here overrides weights by a request.

use super::functions::{Functions, Opsets};
use super::{Attribute, Capture, Cycle, Declared, Dim, Graph, Model, Node, Origin, Port, ValueId, short};
use crate::onnx::decode::{self, External};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_shape_proto::dimension::Value as DimValue;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};
use crate::onnx::proto::{SparseTensorProto, TensorShapeProto, type_proto};
use crate::onnx::read::{Limits, ReadError};
use crate::onnx::tensor::{ElementType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// How a graph fails to hold together.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    #[error("two producers make {value:?}; the second is {place}")]
    TwoProducers { value: String, place: String },
    #[error("nothing makes {value:?}, which {place} reads")]
    Dangling { value: String, place: String },
    #[error(transparent)]
    Cycle(#[from] Cycle),
    #[error("{place} is of domain {domain:?}, whose version the model does not state")]
    NoVersion { place: String, domain: String },
    #[error("attribute {attribute:?} of {place} has a type that does not go with its content")]
    Attribute { attribute: String, place: String },
    #[error("{place} calls functions that call each other too deep; export the model with its functions inlined")]
    Function { place: String },
}

pub(crate) fn build(proto: ModelProto, external: External, limits: &Limits) -> Result<Model, ReadError> {
    let stated: BTreeMap<String, i64> =
        proto.opset_import.into_iter().map(|opset| (domain(opset.domain), opset.version)).collect();
    if stated.is_empty() {
        return Err(ReadError::NoOpset);
    }
    let opsets = Opsets::new(stated);
    let functions = Functions::new(proto.functions, limits);
    let mut builder = Builder { scopes: Vec::new(), opsets, functions, external, dense_limit: limits.memory };
    let graph = builder.graph(proto.graph.ok_or(ReadError::NoGraph)?)?;
    let entries = proto.metadata_props.into_iter();
    let mut opsets = (*builder.opsets).clone();
    builder.functions.add_opsets(&mut opsets);
    Ok(Model {
        graph,
        opsets,
        ir_version: proto.ir_version,
        producer: proto.producer_name,
        metadata: entries.map(|entry| (entry.key, entry.value)).collect(),
    })
}

/// ONNX's own domain has two names.
pub(super) fn domain(name: String) -> String {
    if name == "ai.onnx" { String::new() } else { name }
}

pub(super) fn place(node: &NodeProto) -> String {
    let name = if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name };
    format!("node {:?} ({})", short(name), short(&node.op_type))
}

/// One graph under construction.
#[derive(Default)]
struct Scope {
    graph: Graph,
    names: HashMap<String, ValueId>,
}

struct Builder {
    /// The graph at hand is last, those around it come before.
    scopes: Vec<Scope>,
    /// Of where the nodes at hand were written: the model or one of its functions.
    opsets: Opsets,
    functions: Functions,
    external: External,
    dense_limit: usize,
}

impl Builder {
    /// Defines all names first: a subgraph may read what a later line of the file makes.
    fn graph(&mut self, proto: GraphProto) -> Result<Graph, ReadError> {
        self.scopes.push(Scope { graph: Graph { name: proto.name, ..Graph::default() }, ..Scope::default() });
        self.constants(proto.initializer, proto.sparse_initializer)?;
        self.inputs(proto.input)?;
        let opsets = Opsets::clone(&self.opsets);
        let nodes = self.functions.expand(proto.node, &opsets)?;
        let mut outputs = Vec::with_capacity(nodes.len());
        for (node, _) in &nodes {
            let place = place(node);
            let slots = node.output.iter().map(|name| match name.as_str() {
                "" => Ok(None),
                name => self.define(name, Origin::None, &place).map(Some),
            });
            outputs.push(slots.collect::<Result<Vec<_>, _>>()?);
        }
        for ((node, written), outputs) in nodes.into_iter().zip(outputs) {
            self.opsets = written;
            let node = self.node(node, outputs)?;
            self.scope().graph.add_node(node);
        }
        self.opsets = opsets;
        self.outputs(proto.output)?;
        let graph = self.scopes.pop().unwrap_or_default().graph;
        graph.order().map_err(GraphError::from)?;
        Ok(graph)
    }

    fn constants(&mut self, dense: Vec<TensorProto>, sparse: Vec<SparseTensorProto>) -> Result<(), ReadError> {
        for tensor in dense {
            let name = tensor.name.clone();
            let tensor = self.tensor(tensor, "the graph's initializers")?;
            self.define(&name, Origin::Constant(tensor), "an initializer")?;
        }
        for sparse in sparse {
            let name = sparse.values.as_ref().map(|values| values.name.clone()).unwrap_or_default();
            let tensor = decode::dense(sparse, &mut self.external, self.dense_limit)
                .map_err(|e| bad_tensor(&name, "the graph's sparse initializers", e))?;
            self.define(&name, Origin::Constant(tensor), "a sparse initializer")?;
        }
        Ok(())
    }

    fn inputs(&mut self, inputs: Vec<ValueInfoProto>) -> Result<(), GraphError> {
        for input in inputs {
            let constant = self.scope().names.get(&input.name).copied();
            if constant.is_some_and(|id| self.scope().graph.constant(id).is_some()) {
                continue;
            }
            let value = self.define(&input.name, Origin::Input, "an input")?;
            let declared = input.r#type.map(declared);
            self.scope().graph.inputs.push(Port { name: input.name, value, declared });
        }
        Ok(())
    }

    fn outputs(&mut self, outputs: Vec<ValueInfoProto>) -> Result<(), GraphError> {
        for output in outputs {
            let value = self.resolve(&output.name, || "the graph's output".to_owned())?;
            let declared = output.r#type.map(declared);
            self.scope().graph.outputs.push(Port { name: output.name, value, declared });
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a graph is under construction")
    }

    fn define(&mut self, name: &str, origin: Origin, place: &str) -> Result<ValueId, GraphError> {
        let scope = self.scope();
        if scope.names.contains_key(name) {
            return Err(GraphError::TwoProducers { value: short(name), place: place.to_owned() });
        }
        let id = scope.graph.push_value(name, origin);
        scope.names.insert(name.to_owned(), id);
        Ok(id)
    }

    fn resolve(&mut self, name: &str, place: impl Fn() -> String) -> Result<ValueId, GraphError> {
        let dangling = || GraphError::Dangling { value: short(name), place: place() };
        let found = self.scopes.iter().rposition(|scope| scope.names.contains_key(name)).ok_or_else(dangling)?;
        let mut id = self.scopes[found].names[name];
        // Each graph between takes it from the one around it.
        for scope in &mut self.scopes[found + 1..] {
            let inner = scope.graph.push_value(name, Origin::Capture);
            scope.graph.captures.push(Capture { outer: id, inner });
            scope.names.insert(name.to_owned(), inner);
            id = inner;
        }
        Ok(id)
    }

    fn node(&mut self, proto: NodeProto, outputs: Vec<Option<ValueId>>) -> Result<Node, ReadError> {
        let place = place(&proto);
        let domain = domain(proto.domain);
        let Some(&version) = self.opsets.get(&domain) else {
            return Err(GraphError::NoVersion { place, domain: short(&domain) }.into());
        };
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            let value = if name.is_empty() { None } else { Some(self.resolve(name, || place.clone())?) };
            inputs.push(value);
        }
        let mut attributes = BTreeMap::new();
        for attribute in proto.attribute {
            let name = attribute.name.clone();
            // Sparse constants become dense ones here, so they bear the dense name.
            let name = if name == "sparse_value" { "value".to_owned() } else { name };
            let value = self.attribute(attribute, &place)?;
            attributes.insert(name, value);
        }
        Ok(Node { name: proto.name, op: proto.op_type, domain, version, attributes, inputs, outputs })
    }

    fn tensor(&mut self, proto: TensorProto, place: &str) -> Result<Tensor, ReadError> {
        let name = proto.name.clone();
        decode::tensor(proto, &mut self.external).map_err(|e| bad_tensor(&name, place, e))
    }

    fn attribute(&mut self, proto: AttributeProto, place: &str) -> Result<Attribute, ReadError> {
        let wrong = GraphError::Attribute { attribute: short(&proto.name), place: place.to_owned() };
        let kind = kind(&proto);
        Ok(match (kind, proto) {
            (AttributeType::Float, a) => Attribute::Float(a.f),
            (AttributeType::Int, a) => Attribute::Int(a.i),
            (AttributeType::String, a) => Attribute::Text(a.s),
            (AttributeType::Floats, a) => Attribute::Floats(a.floats),
            (AttributeType::Ints, a) => Attribute::Ints(a.ints),
            (AttributeType::Strings, a) => Attribute::Texts(a.strings),
            (AttributeType::Tensor, AttributeProto { t: Some(t), .. }) => Attribute::Tensor(self.tensor(*t, place)?),
            (AttributeType::Graph, AttributeProto { g: Some(g), .. }) => Attribute::Graph(Box::new(self.graph(*g)?)),
            (AttributeType::Tensors, a) => {
                Attribute::Tensors(a.tensors.into_iter().map(|t| self.tensor(t, place)).collect::<Result<_, _>>()?)
            }
            (AttributeType::Graphs, a) => {
                Attribute::Graphs(a.graphs.into_iter().map(|g| self.graph(g)).collect::<Result<_, _>>()?)
            }
            (AttributeType::SparseTensor, AttributeProto { sparse_tensor: Some(sparse), name, .. }) => {
                let dense = decode::dense(*sparse, &mut self.external, self.dense_limit);
                Attribute::Tensor(dense.map_err(|e| bad_tensor(&name, place, e))?)
            }
            (AttributeType::TypeProto | AttributeType::TypeProtos, a) => Attribute::Other(Box::new(a)),
            (
                AttributeType::Undefined
                | AttributeType::Tensor
                | AttributeType::Graph
                | AttributeType::SparseTensor
                | AttributeType::SparseTensors,
                _,
            ) => return Err(wrong.into()),
        })
    }
}

/// Files of the first format version state no type: it is that of what is there.
fn kind(proto: &AttributeProto) -> AttributeType {
    match AttributeType::try_from(proto.r#type) {
        Ok(AttributeType::Undefined) | Err(_) => {}
        Ok(stated) => return stated,
    }
    let present = [
        (proto.t.is_some(), AttributeType::Tensor),
        (proto.g.is_some(), AttributeType::Graph),
        (!proto.ints.is_empty(), AttributeType::Ints),
        (!proto.floats.is_empty(), AttributeType::Floats),
        (!proto.strings.is_empty(), AttributeType::Strings),
        (!proto.s.is_empty(), AttributeType::String),
        (proto.i != 0, AttributeType::Int),
        (proto.f != 0.0, AttributeType::Float),
    ];
    present.into_iter().find(|(there, _)| *there).map_or(AttributeType::Undefined, |(_, kind)| kind)
}

fn bad_tensor(name: &str, place: &str, source: decode::TensorError) -> ReadError {
    ReadError::Tensor { name: short(name), place: place.to_owned(), source }
}

fn declared(proto: TypeProto) -> Declared {
    match proto.value {
        Some(type_proto::Value::TensorType(tensor)) => {
            Declared::Tensor { element: ElementType::from_onnx(tensor.elem_type), shape: tensor.shape.map(dims) }
        }
        _ => Declared::Other(Box::new(proto)),
    }
}

/// A negative size is how some exporters say "unknown".
fn dims(proto: TensorShapeProto) -> Vec<Dim> {
    let dim = |value: Option<DimValue>| match value {
        Some(DimValue::DimValue(size)) => usize::try_from(size).map_or(Dim::Unknown, Dim::Size),
        Some(DimValue::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.into()),
        Some(DimValue::DimParam(_)) | None => Dim::Unknown,
    };
    proto.dim.into_iter().map(|d| dim(d.value)).collect()
}
