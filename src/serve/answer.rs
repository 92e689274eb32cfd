//! The answer to an inference: JSON, with binary data behind it where that was asked for.

use super::api::{Refusal, Reply, reply};
use super::request::{InferRequest, JSON_LENGTH, Wanted};
use super::values::Flat;
use crate::engine::Live;
use crate::tensor::{Tensor, TensorSpec};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Serialize;

#[derive(Serialize)]
struct Head<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputHead<'a>>,
}

#[derive(Serialize)]
struct OutputHead<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Values(Flat<'a>),
    Classes(Vec<String>),
}

/// `outputs` are all of the model's, in its order.
pub(super) fn write(live: &Live, request: &InferRequest, outputs: &[Tensor]) -> Result<Reply, Refusal> {
    let mut binary = Vec::new();
    let mut heads = Vec::new();
    for wanted in &request.outputs {
        let spec = &live.model().outputs()[wanted.index];
        heads.push(match wanted.classes {
            Some(count) => classes(live, spec, &outputs[wanted.index], count, wanted, &mut binary),
            None => values(spec, &outputs[wanted.index], wanted, &mut binary)?,
        });
    }
    let any_binary = request.outputs.iter().any(|wanted| wanted.binary);
    let head = Head {
        model_name: live.name(),
        model_version: live.version().to_string(),
        id: request.id.as_deref(),
        outputs: heads,
    };
    let internal = |e: serde_json::Error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
    let mut body = serde_json::to_vec(&head).map_err(internal)?;
    if !any_binary {
        return Ok(reply(StatusCode::OK, "application/json", body));
    }
    let json_length = HeaderValue::from(body.len());
    body.append(&mut binary);
    let mut answer = reply(StatusCode::OK, "application/octet-stream", body);
    answer.headers_mut().insert(JSON_LENGTH, json_length);
    Ok(answer)
}

fn values<'a>(
    spec: &'a TensorSpec,
    output: &'a Tensor,
    wanted: &Wanted,
    binary: &mut Vec<u8>,
) -> Result<OutputHead<'a>, Refusal> {
    let flat = Flat(output);
    if !wanted.binary
        && let Some(problem) = flat.refusal()
    {
        let text = format!("output {:?}: {problem}; ask for it as binary data (parameters.binary_data)", spec.name);
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    if wanted.binary {
        binary.extend_from_slice(output.bytes());
    }
    Ok(OutputHead {
        name: &spec.name,
        datatype: spec.datatype.name(),
        shape: output.shape().to_vec(),
        parameters: wanted.binary.then(|| BinarySize { binary_data_size: output.bytes().len() }),
        data: (!wanted.binary).then_some(Data::Values(flat)),
    })
}

/// The last dimension is the classes, those before it are a batch.
fn classes<'a>(
    live: &Live,
    spec: &'a TensorSpec,
    output: &Tensor,
    count: usize,
    wanted: &Wanted,
    binary: &mut Vec<u8>,
) -> OutputHead<'a> {
    let (batch, all) = match output.shape().split_last() {
        Some((&all, batch)) => (batch, all),
        None => (&[][..], 1),
    };
    let labels = live.labels(&spec.name).unwrap_or_default();
    let scores = output.to_f32().unwrap_or_default();
    let best: Vec<String> = scores.chunks(all.max(1)).flat_map(|row| best(row, count, labels)).collect();
    let start = binary.len();
    if wanted.binary {
        for text in &best {
            // Bounded by the label's length; a request's worth of memory at most.
            binary.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
            binary.extend_from_slice(text.as_bytes());
        }
    }
    OutputHead {
        name: &spec.name,
        datatype: "BYTES",
        shape: [batch, &[count.min(all)]].concat(),
        parameters: wanted.binary.then(|| BinarySize { binary_data_size: binary.len() - start }),
        data: (!wanted.binary).then_some(Data::Classes(best)),
    }
}

/// `value:index` or `value:index:label`, highest first; of equals the first.
fn best(row: &[f32], count: usize, labels: &[String]) -> Vec<String> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let text = |&index: &usize| match labels.get(index) {
        Some(label) => format!("{:.6}:{index}:{label}", row[index]),
        None => format!("{:.6}:{index}", row[index]),
    };
    order.iter().take(count).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_classes_come_first_with_their_labels() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        assert_eq!(best(&[0.25, 2.0, 0.25], 2, &labels), ["2.000000:1:dog", "0.250000:0:cat"]);
        assert_eq!(best(&[0.25, 2.0, 3.0], 9, &labels).len(), 3);
        assert_eq!(best(&[0.25, 2.0, 3.0], 1, &labels), ["3.000000:2"]);
    }
}
