//! Paths and what answers at them.

use super::api::{Api, Refusal, Reply, json, reply};
use super::{address, body, infer, metrics, request::short};
use crate::engine::{Live, Taken};
use crate::tensor::TensorSpec;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers any request.
pub(super) async fn answer(api: &Api, request: Request<Incoming>) -> Reply {
    let (head, mut body) = request.into_parts();
    match route(api, &head, &mut body).await {
        Ok(reply) => reply,
        Err(refusal) => {
            body::discard(api, &head.headers, &mut body).await;
            api.refused.count(refusal.status);
            refusal.reply()
        }
    }
}

async fn route(api: &Api, request: &Parts, body: &mut Incoming) -> Result<Reply, Refusal> {
    address::check(&request.uri, &request.headers)?;
    let path = request.uri.path();
    let segments: Vec<&str> = path.trim_matches('/').split('/').take(8).collect();
    if let ["v2", "models", name, rest @ ..] = &segments[..] {
        return model(api, name, rest, request, body).await;
    }
    if segments == ["v2", "repository", "index"] {
        // The body may ask for ready models only; all are.
        method(request, "POST")?;
        return Ok(json(StatusCode::OK, &index(api)));
    }
    match &segments[..] {
        ["v2", "repository", "models", _, "load" | "unload"] if request.method == Method::POST => {
            let text = "models come and go by signed updates; see `selvedge publish`";
            Err(Refusal::new(StatusCode::FORBIDDEN, text))
        }
        ["v2"] => get(request, || json(StatusCode::OK, &server())),
        ["v2", "health", "live"] => get(request, || json(StatusCode::OK, &json!({ "live": true }))),
        ["v2", "health", "ready"] => get(request, || ready(api)),
        ["v2", "models"] => get(request, || json(StatusCode::OK, &index(api))),
        ["metrics"] => {
            get(request, || reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics::text(api)))
        }
        ["selvedge", "status"] => get(request, || json(StatusCode::OK, &(api.status)())),
        _ => Err(unknown_path()),
    }
}

fn unknown_path() -> Refusal {
    let text = "nothing is here; models are under /v2/models, numbers under /metrics, state under /selvedge/status";
    Refusal::new(StatusCode::NOT_FOUND, text)
}

fn get(request: &Parts, answer: impl FnOnce() -> Reply) -> Result<Reply, Refusal> {
    method(request, "GET, HEAD")?;
    Ok(answer())
}

fn method(request: &Parts, allow: &'static str) -> Result<(), Refusal> {
    if allow.split(", ").any(|allowed| request.method.as_str() == allowed) {
        return Ok(());
    }
    let name = short(request.method.as_str());
    Err(Refusal {
        allow: Some(allow),
        ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{name} does nothing here; use {allow}"))
    })
}

fn server() -> Value {
    json!({
        "name": "selvedge",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "classification", "model_repository"],
    })
}

/// A server without a model cannot do what it is there for.
fn ready(api: &Api) -> Reply {
    if api.slots.list().is_empty() {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no model is live yet").reply();
    }
    json(StatusCode::OK, &json!({ "ready": true }))
}

fn index(api: &Api) -> Value {
    let entry = |live: Arc<Live>| {
        json!({
            "name": live.name(),
            "version": live.version().to_string(),
            "state": "READY",
            "reason": "",
        })
    };
    api.slots.list().into_iter().map(entry).collect()
}

/// Below `/v2/models/NAME`.
async fn model(api: &Api, name: &str, rest: &[&str], request: &Parts, body: &mut Incoming) -> Result<Reply, Refusal> {
    let (version, action) = match rest {
        ["versions", version, action @ ..] => (Some(*version), action),
        action => (None, action),
    };
    match action {
        [] => {
            method(request, "GET, HEAD")?;
            Ok(json(StatusCode::OK, &metadata(&*find(api, name, version)?)))
        }
        ["ready"] => {
            method(request, "GET, HEAD")?;
            let live = find(api, name, version)?;
            Ok(json(StatusCode::OK, &json!({ "name": live.name(), "ready": true })))
        }
        ["infer"] => {
            method(request, "POST")?;
            // Early, so that a body to nowhere is not waited for.
            find(api, name, version)?;
            let body = body::read(api, &request.headers, body).await?;
            let taken = take(api, name, version)?;
            infer::infer(api, taken, &request.headers, body).await
        }
        _ => Err(unknown_path()),
    }
}

fn find(api: &Api, name: &str, version: Option<&str>) -> Result<Arc<Live>, Refusal> {
    let Some(live) = api.slots.get(name) else {
        let names: Vec<_> = api.slots.list().iter().map(|live| live.name().to_owned()).collect();
        let there = if names.is_empty() { "no model is live".to_owned() } else { names.join(", ") };
        let text = format!("no model {:?}; there is: {there}", short(name));
        return Err(Refusal::new(StatusCode::NOT_FOUND, text));
    };
    match version {
        Some(version) if version != live.version().to_string() => {
            let text = format!("no version {:?} of {name}; version {} is live", short(version), live.version());
            Err(Refusal::new(StatusCode::NOT_FOUND, text))
        }
        Some(_) | None => Ok(live),
    }
}

/// Who answers a request: a version that is named is meant; else a candidate may have its share.
fn take(api: &Api, name: &str, version: Option<&str>) -> Result<Taken, Refusal> {
    let live = find(api, name, version)?;
    let taken = if version.is_none() { api.slots.take(name) } else { None };
    Ok(taken.unwrap_or(Taken { live, shadow: None }))
}

fn metadata(live: &Live) -> Value {
    // A dimension that requests choose is -1 there.
    let size = |dim: Option<usize>| dim.and_then(|dim| i64::try_from(dim).ok()).unwrap_or(-1);
    let tensor = |spec: &TensorSpec| {
        let shape: Vec<i64> = spec.dimensions().map(size).collect();
        json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": shape })
    };
    json!({
        "name": live.name(),
        "versions": [live.version().to_string()],
        "platform": "onnx_onnxv1",
        "inputs": live.model().inputs().iter().map(tensor).collect::<Vec<_>>(),
        "outputs": live.model().outputs().iter().map(tensor).collect::<Vec<_>>(),
    })
}
