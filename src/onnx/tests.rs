//! What the whole room promises, with models made by hand.

mod decoding;
mod hostile;
mod parts;

use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use super::proto::*;
use super::{ElementType, Limits, Model};
use prost::Message as _;

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        op_type: op.into(),
        input: names(inputs),
        output: names(outputs),
        name: op.to_lowercase(),
        ..Default::default()
    }
}

impl NodeProto {
    pub(super) fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }

    pub(super) fn in_domain(mut self, domain: &str) -> Self {
        self.domain = domain.into();
        self
    }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: AttributeType::Int as i32, ..Default::default() }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: AttributeType::Float as i32, ..Default::default() }
}

pub(super) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: AttributeType::Ints as i32, ..Default::default() }
}

pub(super) fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: s.into(), r#type: AttributeType::String as i32, ..Default::default() }
}

pub(super) fn tensor_attribute(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        t: Some(Box::new(t)),
        r#type: AttributeType::Tensor as i32,
        ..Default::default()
    }
}

pub(super) fn graph_attribute(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        g: Some(Box::new(g)),
        r#type: AttributeType::Graph as i32,
        ..Default::default()
    }
}

pub(super) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let (data_type, float_data) = (ElementType::F32.to_onnx(), values.to_vec());
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, float_data, ..Default::default() }
}

pub(super) fn raw(name: &str, element: ElementType, dims: &[i64], bytes: &[u8]) -> TensorProto {
    let (data_type, raw_data) = (element.to_onnx(), bytes.to_vec());
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, raw_data, ..Default::default() }
}

pub(super) fn longs(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    raw(name, ElementType::I64, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// A FLOAT input or output; a negative size becomes the symbol `n`.
pub(super) fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    typed(name, ElementType::F32, dims)
}

pub(super) fn typed(name: &str, element: ElementType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension {
        value: Some(if size < 0 { DimValue::DimParam("n".into()) } else { DimValue::DimValue(size) }),
        ..Default::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: element.to_onnx(), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value, ..Default::default() }), ..Default::default() }
}

pub(super) fn model(opset: i64, graph: GraphProto) -> ModelProto {
    let opset_import = [("", opset), ("com.microsoft", 1)]
        .map(|(domain, version)| OperatorSetIdProto { domain: domain.into(), version })
        .to_vec();
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }
}

pub(super) fn read(model: &ModelProto) -> Result<Model, super::ReadError> {
    Model::from_bytes(&model.encode_to_vec(), &Limits::default())
}

/// A few of everything: quantized convolution, typed and raw tensors, a subgraph with a capture.
pub(super) fn sample() -> ModelProto {
    let branch = |op: &str| GraphProto {
        name: op.into(),
        node: vec![node(op, &["flat"], &["chosen"])],
        output: vec![info("chosen", &[])],
        ..Default::default()
    };
    let shape = longs("", &[2], &[1, -1]);
    model(
        17,
        GraphProto {
            name: "sample".into(),
            node: vec![
                node("QuantizeLinear", &["x", "scale", "zero"], &["q"]),
                node("DequantizeLinear", &["q", "scale", "zero"], &["d"]),
                node("Conv", &["d", "w", "b"], &["c"]).with(ints("pads", &[1, 1, 1, 1])),
                node("Constant", &[], &["shape"]).with(tensor_attribute("value", shape)),
                node("Reshape", &["c", "shape"], &["flat"]),
                node("If", &["flag"], &["y"])
                    .with(graph_attribute("then_branch", branch("Relu")))
                    .with(graph_attribute("else_branch", branch("Neg"))),
            ],
            initializer: vec![
                floats("scale", &[], &[0.5]),
                raw("zero", ElementType::U8, &[], &[3]),
                floats("w", &[2, 1, 3, 3], &[0.25; 18]),
                floats("b", &[2], &[1.0, 2.0]),
                raw("flag", ElementType::Bool, &[], &[1]),
            ],
            input: vec![info("x", &[1, 1, 4, 4])],
            output: vec![info("y", &[1, 32])],
            ..Default::default()
        },
    )
}

/// A model of `tests/vectors/onnx`, with what its outputs are when it runs.
pub(super) struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Type and dimensions by output.
    pub expected: std::collections::BTreeMap<String, String>,
}

pub(super) fn cases() -> impl Iterator<Item = Case> {
    let mut rest: &[u8] = include_bytes!("../../tests/vectors/onnx/cases.bin");
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (bytes, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        rest = behind;
        let proto = ModelProto::decode(bytes).expect("the case decodes");
        let entry = |entry: StringStringEntryProto| Some((entry.key.strip_prefix("expect ")?.to_owned(), entry.value));
        let name = proto.metadata_props.iter().find(|entry| entry.key == "case").map(|entry| entry.value.clone());
        let expected = proto.metadata_props.into_iter().filter_map(entry).collect();
        Some(Case { name: name.expect("the case has a name"), bytes: bytes.to_vec(), expected })
    })
}
