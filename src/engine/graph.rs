//! ONNX as it comes from the file: looked through, then cut to what the manifest states.
//!
//! Invariant: the `ModelProto` that leaves here has concrete inputs and outputs in the manifest's
//! order, weights that fill their shapes, and operators that the engine has heard of.
//! Not here: whether the nodes fit together; typing the graph (`backend`) shows that.

use super::model::{LoadError, Side};
use super::{faults, int8, region};
use crate::onnx::Encoded;
use crate::tensor::{DataType, TensorSpec};
use std::collections::BTreeSet;
use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType as OnnxType};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as Dim};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, type_proto};
use tract_onnx::prelude::Framework as _;

/// The importer compares every node with every other in places; more would take minutes.
pub(super) const MAX_NODES: usize = 20_000;
const MAX_RANK: usize = 16;

/// Operators outside of ONNX's own domains that tract takes for what they are. It looks at the
/// name alone, so others of the same name would be mistaken.
const MICROSOFT: [&str; 13] = [
    "BiasGelu",
    "DequantizeLinear",
    "FastGelu",
    "GatherBlockQuantized",
    "Gelu",
    "GroupQueryAttention",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuantizeLinear",
    "QuickGelu",
    "RotaryEmbedding",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Reads the file and brings its ends into the form that the manifest states.
/// `regions` is how many int8 regions the graph may name: a file from outside may name none.
pub(super) fn read(
    onnx: Encoded<'_>,
    regions: usize,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<ModelProto, LoadError> {
    let mut framework = tract_onnx::onnx();
    if regions > 0 {
        region::register(&mut framework);
    }
    let format = |e: tract_onnx::prelude::TractError| LoadError::Format(chain(&e));
    let mut model = framework.proto_model_for_read(&mut onnx.head()).map_err(format)?;
    let graph = model.graph.as_mut().ok_or_else(|| LoadError::Format("there is no graph in it".into()))?;
    check_size(graph)?;
    bring_in(graph, onnx);
    check_operators(graph, &framework.op_register)?;
    check_weights(graph)?;
    forget_annotations(graph);
    state_inputs(graph, inputs)?;
    choose_outputs(graph, outputs)?;
    Ok(model)
}

/// No graph within a node: no loop, so each run takes about as long as the one before.
pub(super) fn is_straight(model: &ModelProto) -> bool {
    let mut graphs = 0;
    model.graph.iter().for_each(|graph| walk(graph, &mut |_| graphs += 1));
    graphs <= 1 && model.functions.is_empty()
}

/// An error with its causes on one line, bounded.
pub(super) fn chain(error: &tract_onnx::prelude::TractError) -> String {
    let text = format!("{error:#}").replace('\n', " ");
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Every graph of the file: the main one and those in nodes' attributes. The decoder bounds the depth.
fn walk<'a>(graph: &'a GraphProto, visit: &mut dyn FnMut(&'a GraphProto)) {
    visit(graph);
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        attribute.g.iter().chain(&attribute.graphs).for_each(|inner| walk(inner, visit));
    }
}

/// Weights that are beside the messages: tract wants them inside.
fn bring_in(graph: &mut GraphProto, onnx: Encoded<'_>) {
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let mut inner = Vec::new();
    let constants = attributes.flat_map(|a| {
        inner.extend(a.g.iter_mut().chain(&mut a.graphs));
        a.t.iter_mut().chain(&mut a.tensors)
    });
    for tensor in graph.initializer.iter_mut().chain(constants) {
        let entries = tensor.external_data.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        if let Some(bytes) = onnx.beside(entries) {
            tensor.raw_data = bytes.to_vec();
            (tensor.data_location, tensor.external_data) = (None, Vec::new());
        }
    }
    inner.into_iter().for_each(|graph| bring_in(graph, onnx));
}

fn check_size(graph: &GraphProto) -> Result<(), LoadError> {
    let (mut nodes, mut weights) = (0, 0);
    walk(graph, &mut |g| {
        nodes += g.node.len();
        weights += g.initializer.len();
    });
    for (what, actual) in [("nodes", nodes), ("weight tensors", weights)] {
        if actual > MAX_NODES {
            return Err(LoadError::TooMany { what, actual, limit: MAX_NODES });
        }
    }
    Ok(())
}

/// Names all unknown operators at once, each with the first node that has it.
fn check_operators(graph: &GraphProto, known: &OnnxOpRegister) -> Result<(), LoadError> {
    let mut seen = BTreeSet::new();
    let mut unsupported = Vec::new();
    walk(graph, &mut |g| {
        for node in &g.node {
            if !is_known(node, known) && seen.insert((&node.domain, &node.op_type)) && unsupported.len() < 20 {
                unsupported.push(describe(node));
            }
        }
        if !g.sparse_initializer.is_empty() && seen.insert((&g.name, &g.name)) {
            unsupported.push("sparse weights".to_owned());
        }
    });
    if unsupported.is_empty() { Ok(()) } else { Err(LoadError::Unsupported(unsupported)) }
}

fn is_known(node: &NodeProto, known: &OnnxOpRegister) -> bool {
    let in_domain = match node.domain.as_str() {
        "" | "ai.onnx" | "ai.onnx.ml" => true,
        "com.microsoft" => MICROSOFT.contains(&node.op_type.as_str()),
        // Known only where the graph is one that this program has divided.
        int8::lower::DOMAIN => return known.0.contains_key(&node.op_type) && node.op_type == int8::lower::OPERATOR,
        _ => false,
    };
    in_domain && known.0.contains_key(&node.op_type) && faults::misread(node).is_none()
}

fn describe(node: &NodeProto) -> String {
    let first_output = node.output.first().map_or("", String::as_str);
    let name = if node.name.is_empty() { first_output } else { &node.name };
    let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
    let attribute = faults::misread(node).map_or(String::new(), |what| format!(" with {what}"));
    format!("operator {}.{}{attribute} (node {:?})", short(domain), short(&node.op_type), short(name))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_weights(graph: &GraphProto) -> Result<(), LoadError> {
    let mut result = Ok(());
    walk(graph, &mut |g| {
        let attributes = g.node.iter().flat_map(|node| &node.attribute);
        let constants = attributes.flat_map(|a| a.t.iter().chain(&a.tensors));
        for tensor in g.initializer.iter().chain(constants) {
            if result.is_ok() {
                result = check_tensor(tensor);
            }
        }
    });
    result
}

fn check_tensor(tensor: &TensorProto) -> Result<(), LoadError> {
    if tensor.data_location == Some(DataLocation::External as i32) {
        return Err(LoadError::ExternalData(short(&tensor.name)));
    }
    let wrong = |problem: String| LoadError::Weights { name: short(&tensor.name), problem };
    let datatype = from_onnx(tensor.data_type);
    let is_text = tensor.data_type == OnnxType::String as i32;
    if datatype.is_none() && !is_text {
        return Err(wrong(format!("is {}, which the engine does not know", onnx_name(tensor.data_type))));
    }
    let count = |total: usize, &dim: &i64| total.checked_mul(usize::try_from(dim).ok()?);
    let elements = tensor.dims.iter().try_fold(1, count);
    let elements = elements.filter(|_| tensor.dims.len() <= MAX_RANK);
    let elements = elements.ok_or_else(|| wrong(format!("has the impossible shape {:?}", tensor.dims)))?;
    let (expected, actual, unit) = match datatype {
        Some(datatype) if !tensor.raw_data.is_empty() => {
            (elements.saturating_mul(datatype.size()), tensor.raw_data.len(), "bytes")
        }
        _ => (elements, listed(tensor), "values"),
    };
    if expected != actual {
        return Err(wrong(format!("needs {expected} {unit} and holds {actual}: the file is damaged")));
    }
    Ok(())
}

/// Elements in the list that a tensor of this type without raw bytes uses.
fn listed(tensor: &TensorProto) -> usize {
    match from_onnx(tensor.data_type) {
        Some(DataType::Fp32) => tensor.float_data.len(),
        Some(DataType::Fp64) => tensor.double_data.len(),
        Some(DataType::Int64) => tensor.int64_data.len(),
        Some(DataType::Uint32 | DataType::Uint64) => tensor.uint64_data.len(),
        Some(
            DataType::Bool
            | DataType::Uint8
            | DataType::Uint16
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Fp16,
        ) => tensor.int32_data.len(),
        None => tensor.string_data.len(),
    }
}

/// What exporters noted of shapes inside the graph; stale more often than not, and never needed.
fn forget_annotations(graph: &mut GraphProto) {
    graph.value_info.clear();
    graph.output.iter_mut().for_each(|output| output.r#type = None);
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    for inner in attributes.flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
        let shapes = inner.input.iter_mut().filter_map(|i| i.r#type.as_mut());
        shapes.for_each(|ty| {
            let type_proto::Value::TensorType(tensor) = ty.value.get_or_insert_default_tensor();
            tensor.shape = None;
        });
        forget_annotations(inner);
    }
}

/// A type without a value is an undefined tensor; the importer says so where it matters.
trait OrTensor {
    fn get_or_insert_default_tensor(&mut self) -> &mut type_proto::Value;
}

impl OrTensor for Option<type_proto::Value> {
    fn get_or_insert_default_tensor(&mut self) -> &mut type_proto::Value {
        self.get_or_insert_with(|| type_proto::Value::TensorType(type_proto::Tensor::default()))
    }
}

/// Gives the graph's inputs the manifest's order and concrete shapes; symbols need no solving then.
fn state_inputs(graph: &mut GraphProto, specs: &[TensorSpec]) -> Result<(), LoadError> {
    let initialized: BTreeSet<_> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    let (with_default, mut free): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.input).into_iter().partition(|input| initialized.contains(&input.name));
    let names: Vec<_> = free.iter().map(|input| short(&input.name)).take(64).collect();
    for spec in specs {
        let at = free.iter().position(|input| input.name == spec.name);
        let mut input = free.remove(at.ok_or_else(|| no_such(Side::Input, spec, &names))?);
        if let Some(ty) = &input.r#type {
            check_type(spec, ty)?;
        }
        input.r#type = Some(concrete(spec));
        graph.input.push(input);
    }
    if let Some(input) = free.first() {
        return Err(LoadError::Lacking(short(&input.name)));
    }
    graph.input.extend(with_default);
    Ok(())
}

fn choose_outputs(graph: &mut GraphProto, specs: &[TensorSpec]) -> Result<(), LoadError> {
    let mut made: BTreeSet<&str> = graph.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
    made.extend(graph.input.iter().map(|i| i.name.as_str()));
    made.extend(graph.initializer.iter().map(|t| t.name.as_str()));
    let names: Vec<_> = graph.output.iter().map(|output| short(&output.name)).take(64).collect();
    let mut chosen = Vec::new();
    for spec in specs {
        let output = graph.output.iter().find(|output| output.name == spec.name);
        let output = output.ok_or_else(|| no_such(Side::Output, spec, &names))?;
        if !made.contains(output.name.as_str()) {
            return Err(LoadError::Graph(format!("no node makes the output {:?}", short(&output.name))));
        }
        chosen.push(output.clone());
    }
    graph.output = chosen;
    Ok(())
}

fn no_such(side: Side, spec: &TensorSpec, graph: &[String]) -> LoadError {
    LoadError::NoSuch { side, name: spec.name.clone(), graph: graph.to_vec() }
}

/// Symbolic dimensions take any size; a number must be the manifest's.
fn check_type(spec: &TensorSpec, ty: &TypeProto) -> Result<(), LoadError> {
    let Some(type_proto::Value::TensorType(tensor)) = &ty.value else {
        return Ok(());
    };
    if from_onnx(tensor.elem_type) != Some(spec.datatype) {
        return Err(LoadError::Datatype {
            side: Side::Input,
            name: spec.name.clone(),
            expected: spec.datatype,
            actual: onnx_name(tensor.elem_type),
        });
    }
    let Some(shape) = &tensor.shape else {
        return Ok(());
    };
    let fits = |(dim, &size): (&Dimension, &usize)| match &dim.value {
        Some(Dim::DimValue(value)) if *value > 0 => usize::try_from(*value) == Ok(size),
        Some(Dim::DimValue(_) | Dim::DimParam(_)) | None => true,
    };
    if shape.dim.len() != spec.shape.len() || !shape.dim.iter().zip(&spec.shape).all(fits) {
        return Err(LoadError::Shape {
            side: Side::Input,
            name: spec.name.clone(),
            expected: spec.shape.clone(),
            actual: shape_name(shape),
        });
    }
    Ok(())
}

fn shape_name(shape: &TensorShapeProto) -> String {
    let dim = |dim: &Dimension| match &dim.value {
        Some(Dim::DimValue(value)) => value.to_string(),
        Some(Dim::DimParam(name)) => short(name),
        None => "?".to_owned(),
    };
    let dims: Vec<_> = shape.dim.iter().take(MAX_RANK).map(dim).collect();
    format!("[{}]", dims.join(", "))
}

fn concrete(spec: &TensorSpec) -> TypeProto {
    let dim =
        |&size: &usize| Dimension { denotation: String::new(), value: i64::try_from(size).ok().map(Dim::DimValue) };
    TypeProto {
        denotation: String::new(),
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: onnx_type(spec.datatype) as i32,
            shape: Some(TensorShapeProto { dim: spec.shape.iter().map(dim).collect() }),
        })),
    }
}

fn onnx_type(datatype: DataType) -> OnnxType {
    match datatype {
        DataType::Bool => OnnxType::Bool,
        DataType::Uint8 => OnnxType::Uint8,
        DataType::Uint16 => OnnxType::Uint16,
        DataType::Uint32 => OnnxType::Uint32,
        DataType::Uint64 => OnnxType::Uint64,
        DataType::Int8 => OnnxType::Int8,
        DataType::Int16 => OnnxType::Int16,
        DataType::Int32 => OnnxType::Int32,
        DataType::Int64 => OnnxType::Int64,
        DataType::Fp16 => OnnxType::Float16,
        DataType::Fp32 => OnnxType::Float,
        DataType::Fp64 => OnnxType::Double,
    }
}

pub(super) fn from_onnx(number: i32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|&datatype| onnx_type(datatype) as i32 == number)
}

fn onnx_name(number: i32) -> String {
    let name = || OnnxType::try_from(number).ok().map(|ty| ty.as_str_name().to_owned());
    let ours = from_onnx(number).map(|datatype| datatype.name().to_owned());
    ours.or_else(name).unwrap_or_else(|| format!("of the unknown type {number}"))
}
