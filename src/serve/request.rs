//! An inference request: JSON, with the tensors in it or as binary data behind it.

use super::values;
use crate::engine::Live;
use crate::tensor::{DataType, Tensor, TensorSpec};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// Bytes of the JSON before binary data; absent where the body is JSON alone.
pub(super) const JSON_LENGTH: &str = "inference-header-content-length";

/// What is wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{JSON_LENGTH} is {0:?}, which is no number of bytes")]
    JsonLength(String),
    #[error("{JSON_LENGTH} is {stated} and the body has {actual} bytes")]
    Truncated { stated: usize, actual: usize },
    #[error("the request is not the JSON of an inference: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the model has no {side} {name:?}; it has {}", known.join(", "))]
    Unknown { side: &'static str, name: String, known: Vec<String> },
    #[error("{side} {name:?} stands in the request twice")]
    Twice { side: &'static str, name: String },
    #[error("input {0:?} is missing")]
    Missing(String),
    #[error("input {name:?} is {expected}; the request has {actual}")]
    Form { name: String, expected: String, actual: String },
    #[error("input {name:?}: {problem}")]
    Data { name: String, problem: String },
    #[error("the inputs' binary_data_size add up to {stated} bytes, {actual} follow the JSON")]
    Binary { stated: usize, actual: usize },
    #[error("output {name:?}: {problem}")]
    Output { name: String, problem: &'static str },
    #[error("shared memory is not offered; send the data in the request")]
    SharedMemory,
}

/// What to run and how to answer.
#[derive(Debug)]
pub(super) struct InferRequest {
    pub id: Option<String>,
    /// In the model's order.
    pub inputs: Vec<Tensor>,
    /// In the order asked for.
    pub outputs: Vec<Wanted>,
    /// The client's own time limit.
    pub timeout: Option<Duration>,
}

/// One output of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Place in the model's outputs.
    pub index: usize,
    pub binary: bool,
    /// The best so many classes instead of the values.
    pub classes: Option<usize>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Vec<InputHead<'a>>,
    #[serde(borrow)]
    outputs: Option<Vec<OutputHead<'a>>>,
    parameters: Option<HeadParameters>,
}

#[derive(Deserialize, Default)]
struct HeadParameters {
    binary_data_output: Option<bool>,
    /// µs, as in Triton.
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct InputHead<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Vec<u64>,
    #[serde(default, deserialize_with = "or_default")]
    parameters: InputParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Serializers write `null` for what is absent.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize, Default)]
struct InputParameters {
    binary_data_size: Option<usize>,
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct OutputHead<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    parameters: OutputParameters,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<usize>,
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

/// Reads a request to `live`. `json_length` is the value of the header of that name.
pub(super) fn parse(live: &Live, json_length: Option<&[u8]>, body: &Bytes) -> Result<InferRequest, RequestError> {
    let (json, binary) = split(json_length, body)?;
    let head: Head<'_> = serde_json::from_slice(json)?;
    let defaults = head.parameters.unwrap_or_default();
    let inputs = read_inputs(live, &head.inputs, binary)?;
    let all_binary = defaults.binary_data_output.unwrap_or(false);
    Ok(InferRequest {
        id: head.id.map(Cow::into_owned),
        inputs,
        outputs: read_outputs(live, head.outputs.as_deref().unwrap_or_default(), all_binary)?,
        timeout: defaults.timeout.filter(|&t| t > 0).map(Duration::from_micros),
    })
}

fn split<'a>(json_length: Option<&[u8]>, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), RequestError> {
    let Some(text) = json_length else {
        return Ok((body, &[]));
    };
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text);
    let stated = digits.and_then(|text| std::str::from_utf8(text).ok()?.parse::<usize>().ok());
    let stated = stated.ok_or_else(|| RequestError::JsonLength(short(&String::from_utf8_lossy(text))))?;
    body.split_at_checked(stated).ok_or(RequestError::Truncated { stated, actual: body.len() })
}

fn read_inputs(live: &Live, heads: &[InputHead<'_>], mut binary: &[u8]) -> Result<Vec<Tensor>, RequestError> {
    let specs = live.model().inputs();
    let mut tensors: Vec<Option<Tensor>> = vec![None; specs.len()];
    let sizes = heads.iter().filter_map(|head| head.parameters.binary_data_size);
    let stated = sizes.fold(0, usize::saturating_add);
    if stated != binary.len() {
        return Err(RequestError::Binary { stated, actual: binary.len() });
    }
    for head in heads {
        let index = find(specs, "input", &head.name)?;
        if tensors[index].is_some() {
            return Err(RequestError::Twice { side: "input", name: short(&head.name) });
        }
        let (own, rest) = binary.split_at(head.parameters.binary_data_size.unwrap_or(0));
        binary = rest;
        tensors[index] = Some(read_input(&specs[index], head, own)?);
    }
    let with_specs = tensors.into_iter().zip(specs);
    with_specs.map(|(tensor, spec)| tensor.ok_or_else(|| RequestError::Missing(spec.name.clone()))).collect()
}

fn read_input(spec: &TensorSpec, head: &InputHead<'_>, binary: &[u8]) -> Result<Tensor, RequestError> {
    if head.parameters.shared_memory_region.is_some() {
        return Err(RequestError::SharedMemory);
    }
    let shape: Option<Vec<usize>> = head.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let fits = |shape: &Vec<usize>| head.datatype == spec.datatype.name() && spec.admits(shape);
    let Some(shape) = shape.filter(fits) else {
        let (name, expected) = (spec.name.clone(), spec.form());
        return Err(RequestError::Form { name, expected, actual: describe(head) });
    };
    let spec = &spec.at(shape);
    let wrong = |problem: String| RequestError::Data { name: spec.name.clone(), problem };
    match (head.data, head.parameters.binary_data_size) {
        (Some(data), None) => values::parse(spec, data).map_err(wrong),
        (None, Some(_)) => {
            if spec.datatype == DataType::Bool && binary.iter().any(|&byte| byte > 1) {
                return Err(wrong("a BOOL is a byte of 0 or 1".into()));
            }
            let size = |e: crate::tensor::SizeMismatch| {
                wrong(format!("{} bytes of binary data, it takes {}", e.actual, e.expected.unwrap_or(usize::MAX)))
            };
            Tensor::new(spec.datatype, spec.shape.clone(), binary.to_vec()).map_err(size)
        }
        (Some(_), Some(_)) => Err(wrong("it has both `data` and binary_data_size; one of them".into())),
        (None, None) => Err(wrong("it has neither `data` nor parameters.binary_data_size".into())),
    }
}

fn describe(head: &InputHead<'_>) -> String {
    let known = DataType::from_name(&head.datatype).map(DataType::name);
    let datatype = match (known, &*head.datatype) {
        (Some(name), _) => name.to_owned(),
        (None, "BYTES") => "BYTES (text is not served)".to_owned(),
        (None, other) => format!("the unknown datatype {:?}", short(other)),
    };
    let shape = &head.shape[..head.shape.len().min(16)];
    format!("{datatype} {shape:?}")
}

/// All outputs where none is named.
fn read_outputs(live: &Live, heads: &[OutputHead<'_>], binary: bool) -> Result<Vec<Wanted>, RequestError> {
    let specs = live.model().outputs();
    if heads.is_empty() {
        let wanted = |index| Wanted { index, binary, classes: None };
        return Ok((0..specs.len()).map(wanted).collect());
    }
    let mut outputs: Vec<Wanted> = Vec::new();
    for head in heads {
        let index = find(specs, "output", &head.name)?;
        if outputs.iter().any(|other| other.index == index) {
            return Err(RequestError::Twice { side: "output", name: short(&head.name) });
        }
        if head.parameters.shared_memory_region.is_some() {
            return Err(RequestError::SharedMemory);
        }
        let classes = head.parameters.classification;
        check_classes(&specs[index], classes)?;
        outputs.push(Wanted { index, binary: head.parameters.binary_data.unwrap_or(binary), classes });
    }
    Ok(outputs)
}

fn check_classes(spec: &TensorSpec, classes: Option<usize>) -> Result<(), RequestError> {
    let problem = match classes {
        None => return Ok(()),
        Some(0) => "classification must be 1 or more",
        Some(_) if spec.datatype != DataType::Fp32 => "classification is for FP32 outputs",
        Some(_) if spec.shape.is_empty() => "classification needs a dimension of classes",
        Some(_) => return Ok(()),
    };
    Err(RequestError::Output { name: spec.name.clone(), problem })
}

fn find(specs: &[TensorSpec], side: &'static str, name: &str) -> Result<usize, RequestError> {
    let unknown = || RequestError::Unknown {
        side,
        name: short(name),
        known: specs.iter().map(|spec| format!("{:?}", spec.name)).collect(),
    };
    specs.iter().position(|spec| spec.name == name).ok_or_else(unknown)
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
