//! `Model` -> `ModelProto`, for tract, ONNX Runtime or a file.
//!
//! Invariant: names are unique over the graph and those around it, inputs and outputs keep theirs, nodes
//! stand in order, and only constants that something reads are written.

use super::{Attribute, Cycle, Declared, Dim, Graph, Model, Node, Origin, Port, ValueId};
use crate::onnx::parts::Beside;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::onnx::proto::{StringStringEntryProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use crate::onnx::tensor::{ElementType, Tensor};
use std::collections::{BTreeMap, HashMap};

impl Model {
    /// Copies the weights. Fails only where an edit has closed a circle.
    pub fn to_proto(&self) -> Result<ModelProto, Cycle> {
        self.split(None).map(|(proto, _)| proto)
    }

    /// With tensors of so many bytes beside it.
    pub(in crate::onnx) fn split(&self, fewest: Option<usize>) -> Result<(ModelProto, Vec<Tensor>), Cycle> {
        let opset =
            |(domain, version): (&String, &i64)| OperatorSetIdProto { domain: domain.clone(), version: *version };
        let entry = |(key, value): &(String, String)| StringStringEntryProto { key: key.clone(), value: value.clone() };
        let beside = Beside { fewest, ..Beside::default() };
        let mut used = Used { beside, ..Used::default() };
        let proto = ModelProto {
            ir_version: self.ir_version,
            opset_import: self.opsets.iter().map(opset).collect(),
            producer_name: self.producer.clone(),
            graph: Some(graph(&self.graph, HashMap::new(), &mut used)?),
            metadata_props: self.metadata.iter().map(entry).collect(),
            ..ModelProto::default()
        };
        Ok((proto, used.beside.tensors))
    }
}

/// Names of the whole file so far. None is given twice, so nothing is ever shadowed; ONNX Runtime wants the
/// same of nodes. And where its large tensors go.
#[derive(Default)]
struct Used {
    values: Given,
    nodes: Given,
    beside: Beside,
}

/// Names, each with the number that was last put behind it.
#[derive(Default)]
struct Given(HashMap<String, u64>);

impl Given {
    fn unique(&mut self, wish: &str) -> String {
        let mut number = self.0.get(wish).copied().unwrap_or(0);
        let mut name = wish.to_owned();
        while self.0.contains_key(&name) {
            number += 1;
            name = format!("{wish}_{}", number + 1);
        }
        self.0.insert(wish.to_owned(), number);
        self.0.entry(name.clone()).or_insert(0);
        name
    }
}

/// Names of one graph's values on paper.
struct Names<'a> {
    of: HashMap<ValueId, String>,
    used: &'a mut Used,
}

impl Names<'_> {
    fn claim(&mut self, value: ValueId, wish: &str) -> String {
        let name = self.unique(wish);
        self.of.insert(value, name.clone());
        name
    }

    fn unique(&mut self, wish: &str) -> String {
        self.used.values.unique(if wish.is_empty() { "value" } else { wish })
    }

    fn get(&mut self, graph: &Graph, value: ValueId) -> String {
        match self.of.get(&value) {
            Some(name) => name.clone(),
            None => self.claim(value, &graph.value(value).name),
        }
    }
}

fn graph(graph: &Graph, captured: HashMap<ValueId, String>, used: &mut Used) -> Result<GraphProto, Cycle> {
    let order = graph.order()?;
    let mut names = Names { of: captured, used };
    let mut proto = GraphProto { name: graph.name.clone(), ..GraphProto::default() };
    for port in &graph.inputs {
        let name = names.claim(port.value, &port.name);
        proto.input.push(info(name, port));
    }
    let copies = outputs(graph, &mut names, &mut proto);
    let mut constants = BTreeMap::new();
    for id in order {
        let Some(node) = graph.node(id) else { continue };
        for value in node.reads().filter(|&value| graph.constant(value).is_some()) {
            constants.insert(value, names.get(graph, value));
        }
        let node = write_node(graph, node, &mut names)?;
        proto.node.push(node);
    }
    for (value, to) in copies {
        let from = names.get(graph, value);
        if graph.constant(value).is_some() {
            constants.insert(value, from.clone());
        }
        let op_type = "Identity".to_owned();
        proto.node.push(NodeProto { op_type, input: vec![from], output: vec![to], ..NodeProto::default() });
    }
    for port in &graph.outputs {
        if graph.constant(port.value).is_some() {
            constants.insert(port.value, names.get(graph, port.value));
        }
    }
    let beside = &mut names.used.beside;
    let tensors = constants.into_iter().filter_map(|(value, name)| Some(tensor(graph.constant(value)?, name, beside)));
    proto.initializer = tensors.collect();
    Ok(proto)
}

/// Names the outputs; returns those that need a copy under their name, because the value has another.
fn outputs(graph: &Graph, names: &mut Names, proto: &mut GraphProto) -> Vec<(ValueId, String)> {
    let mut copies = Vec::new();
    for port in &graph.outputs {
        let movable = matches!(graph.value(port.value).origin(), Origin::Node(..) | Origin::Constant(_));
        let name = if movable && !names.of.contains_key(&port.value) {
            names.claim(port.value, &port.name)
        } else if graph.inputs.iter().any(|input| input.value == port.value && input.name == port.name) {
            port.name.clone()
        } else {
            let name = names.unique(&port.name);
            copies.push((port.value, name.clone()));
            name
        };
        proto.output.push(info(name, port));
    }
    copies
}

fn write_node(graph: &Graph, node: &Node, names: &mut Names) -> Result<NodeProto, Cycle> {
    let mut list = |values: &[Option<ValueId>]| {
        let kept = values.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let name = |value: &Option<ValueId>| value.map_or_else(String::new, |value| names.get(graph, value));
        values[..kept].iter().map(name).collect::<Vec<_>>()
    };
    let (input, output) = (list(&node.inputs), list(&node.outputs));
    let name = if node.name.is_empty() { String::new() } else { names.used.nodes.unique(&node.name) };
    let attribute = node.attributes.iter().map(|(name, value)| attribute(graph, name, value, names));
    Ok(NodeProto {
        input,
        output,
        name,
        op_type: node.op.clone(),
        domain: node.domain.clone(),
        attribute: attribute.collect::<Result<_, _>>()?,
        ..NodeProto::default()
    })
}

fn attribute(graph: &Graph, name: &str, value: &Attribute, names: &mut Names) -> Result<AttributeProto, Cycle> {
    let mut proto = AttributeProto { name: name.to_owned(), r#type: kind(value) as i32, ..AttributeProto::default() };
    match value {
        Attribute::Float(f) => proto.f = *f,
        Attribute::Int(i) => proto.i = *i,
        Attribute::Text(s) => proto.s.clone_from(s),
        Attribute::Tensor(t) => proto.t = Some(Box::new(tensor(t, String::new(), &mut names.used.beside))),
        Attribute::Graph(inner) => proto.g = Some(Box::new(subgraph(graph, inner, names)?)),
        Attribute::Floats(list) => proto.floats.clone_from(list),
        Attribute::Ints(list) => proto.ints.clone_from(list),
        Attribute::Texts(list) => proto.strings.clone_from(list),
        Attribute::Tensors(list) => {
            let beside = &mut names.used.beside;
            proto.tensors = list.iter().map(|t| tensor(t, String::new(), beside)).collect();
        }
        Attribute::Graphs(list) => {
            proto.graphs = list.iter().map(|inner| subgraph(graph, inner, names)).collect::<Result<_, _>>()?;
        }
        Attribute::Other(other) => return Ok((**other).clone()),
    }
    Ok(proto)
}

fn kind(value: &Attribute) -> AttributeType {
    match value {
        Attribute::Float(_) => AttributeType::Float,
        Attribute::Int(_) => AttributeType::Int,
        Attribute::Text(_) => AttributeType::String,
        Attribute::Tensor(_) => AttributeType::Tensor,
        Attribute::Graph(_) => AttributeType::Graph,
        Attribute::Floats(_) => AttributeType::Floats,
        Attribute::Ints(_) => AttributeType::Ints,
        Attribute::Texts(_) => AttributeType::Strings,
        Attribute::Tensors(_) => AttributeType::Tensors,
        Attribute::Graphs(_) => AttributeType::Graphs,
        Attribute::Other(_) => AttributeType::Undefined,
    }
}

fn subgraph(outer: &Graph, inner: &Graph, names: &mut Names) -> Result<GraphProto, Cycle> {
    let captured = inner.captures.iter().map(|capture| (capture.inner, names.get(outer, capture.outer))).collect();
    graph(inner, captured, names.used)
}

fn tensor(tensor: &Tensor, name: String, beside: &mut Beside) -> TensorProto {
    let mut proto = TensorProto {
        name,
        dims: tensor.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: tensor.element().to_onnx(),
        string_data: tensor.texts().map(<[_]>::to_vec).unwrap_or_default(),
        ..TensorProto::default()
    };
    beside.write(tensor, &mut proto);
    proto
}

fn info(name: String, port: &Port) -> ValueInfoProto {
    ValueInfoProto { name, r#type: port.declared.as_ref().and_then(declared), ..ValueInfoProto::default() }
}

fn declared(declared: &Declared) -> Option<TypeProto> {
    let (element, shape) = match declared {
        Declared::Other(proto) => return Some((**proto).clone()),
        Declared::Tensor { element, shape } => (element.map(ElementType::to_onnx)?, shape),
    };
    let dim = |dim: &Dim| Dimension {
        denotation: String::new(),
        value: match dim {
            Dim::Size(size) => i64::try_from(*size).ok().map(DimValue::DimValue),
            Dim::Symbol(name) => Some(DimValue::DimParam(name.to_string())),
            Dim::Unknown => None,
        },
    };
    let shape = shape.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: element, shape };
    Some(TypeProto { denotation: String::new(), value: Some(type_proto::Value::TensorType(tensor)) })
}
