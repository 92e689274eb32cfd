//! A request's body: bounded in size, in time, and in what all bodies hold together.

use super::api::{Api, Refusal};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// The bytes, and the room that they take until the request is answered.
#[derive(Debug)]
pub(super) struct Body {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads all of it. A client that is too slow, too large or breaks off gets its refusal.
pub(super) async fn read(api: &Api, headers: &HeaderMap, body: &mut Incoming) -> Result<Body, Refusal> {
    check_encoding(headers)?;
    if stated_length(headers).is_some_and(|length| length > api.limits.max_body as u64) {
        return Err(too_large(api));
    }
    match tokio::time::timeout(api.limits.body, collect(api, body)).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("the body did not come within {:?}", api.limits.body);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let encoded = |value: &hyper::header::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(encoded) {
        let text = "compressed bodies are not taken; send it plain, without Content-Encoding";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    Ok(())
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(api: &Api) -> Refusal {
    let text = format!("the body is over the limit of {} bytes (engine.max-body-mib)", api.limits.max_body);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// What is left of a refused request. Many clients look for an answer only after they have sent
/// everything; let those that are not far over the limit get there. One that asks first is told at once.
pub(super) async fn discard(api: &Api, headers: &HeaderMap, body: &mut Incoming) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let limit = api.limits.max_body.saturating_mul(4);
    let all = async {
        let mut seen = 0;
        while seen <= limit {
            match body.frame().await {
                Some(Ok(frame)) => seen += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => return,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), all).await;
}

async fn collect(api: &Api, body: &mut Incoming) -> Result<Body, Refusal> {
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // What came before the break is not shown to anyone.
        let frame = frame.map_err(|_| Refusal::bad("the body broke off before its stated end"))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > api.limits.max_body {
            return Err(too_large(api));
        }
        take_room(api, &mut room, data.len())?;
        if body.is_end_stream() && first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&data);
        }
    }
    let bytes = if all.is_empty() { first } else { all.freeze() };
    Ok(Body { bytes, _room: room })
}

/// Room is taken as bytes come, so that a claim alone holds nothing up.
fn take_room(api: &Api, room: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let full =
        |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many large requests at a time; try again shortly");
    let more = Arc::clone(&api.room).try_acquire_many_owned(kib).map_err(full)?;
    match room {
        Some(room) => room.merge(more),
        None => *room = Some(more),
    }
    Ok(())
}
