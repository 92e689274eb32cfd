//! One inference from its body to its answer.

use super::api::{Api, Refusal, Reply};
use super::body::Body;
use super::{answer, request};
use crate::engine::{InferError, Taken};
use hyper::StatusCode;
use hyper::header::HeaderMap;

/// Larger bodies are read and written off the thread that serves the sockets.
const LARGE: usize = 256 * 1024;

/// The version that took the request answers, whatever is installed meanwhile.
pub(super) async fn infer(api: &Api, taken: Taken, headers: &HeaderMap, body: Body) -> Result<Reply, Refusal> {
    let Taken { live, shadow } = taken;
    let json_length = headers.get(request::JSON_LENGTH).map(|value| value.as_bytes().to_vec());
    let is_large = body.bytes.len() > LARGE;
    let parse = {
        let (live, bytes) = (live.clone(), body.bytes.clone());
        move || request::parse(&live, json_length.as_deref(), &bytes)
    };
    let mut request = off_thread(is_large, parse).await?.map_err(Refusal::bad)?;
    let deadline = request.timeout.map_or(api.limits.deadline, |timeout| timeout.min(api.limits.deadline));
    let inputs = std::mem::take(&mut request.inputs);
    let heard = shadow.filter(|shadow| shadow.has_room()).map(|shadow| (shadow, inputs.clone()));
    let answer = api.workers.infer(live.clone(), inputs, deadline).await.map_err(refusal)?;
    if let Some((shadow, inputs)) = heard {
        shadow.hear(inputs, answer.outputs.clone(), answer.ran);
    }
    let is_large = answer.outputs.iter().map(|output| output.bytes().len()).sum::<usize>() > LARGE;
    off_thread(is_large, move || answer::write(&live, &request, &answer.outputs)).await?
}

async fn off_thread<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if !is_large {
        return Ok(work());
    }
    let lost = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request was lost inside; please report it");
    tokio::task::spawn_blocking(work).await.map_err(lost)
}

fn refusal(error: InferError) -> Refusal {
    let status = match &error {
        InferError::Busy(_) | InferError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        InferError::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
        InferError::Run(e) if e.is_callers_fault() => StatusCode::BAD_REQUEST,
        InferError::Run(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}
