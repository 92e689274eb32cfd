//! What every request needs, and the answer to one that cannot be served.

use crate::config;
use crate::engine::{Slots, Workers};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Makes the JSON of `GET /selvedge/status`.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

pub(super) type Reply = Response<Full<Bytes>>;

/// The API's parts; clones share them.
#[derive(Clone)]
pub struct Api {
    pub(super) slots: Arc<Slots>,
    pub(super) workers: Arc<Workers>,
    pub(super) status: Status,
    pub(super) limits: Limits,
    pub(super) refused: Arc<Refused>,
    /// KiB that request bodies may hold at a time, over all connections.
    pub(super) room: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What one client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a body.
    pub max_body: usize,
    /// From a whole request to its answer.
    pub deadline: Duration,
    /// For the head of a request; also how long a connection may idle.
    pub head: Duration,
    /// For the whole body.
    pub body: Duration,
    /// For a client to take a next bite of its answer.
    pub write: Duration,
    pub connections: usize,
}

impl Api {
    const MAX_CONNECTIONS: usize = 256;
    /// Bodies of the largest size that fit at the same time.
    const BODIES: usize = 8;

    pub fn new(slots: Arc<Slots>, workers: Arc<Workers>, config: &config::Engine, status: Status) -> Self {
        let limits = Limits {
            max_body: config.max_body,
            deadline: config.deadline,
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            write: Duration::from_secs(30),
            connections: Self::MAX_CONNECTIONS,
        };
        let room = (config.max_body / 1024 + 1).saturating_mul(Self::BODIES).min(Semaphore::MAX_PERMITS);
        Self {
            slots,
            workers,
            status,
            limits,
            refused: Arc::default(),
            room: Arc::new(Semaphore::new(room)),
            connections: Arc::new(Semaphore::new(limits.connections)),
        }
    }

    /// Other times for a head, a body and each bite of an answer, and another number of connections
    /// than 30 s and 256.
    #[must_use]
    pub fn with_bounds(mut self, head: Duration, body: Duration, write: Duration, connections: usize) -> Self {
        self.limits = Limits { head, body, write, connections, ..self.limits };
        self.connections = Arc::new(Semaphore::new(connections));
        self
    }
}

/// How many requests were refused, by status.
#[derive(Debug, Default)]
pub(super) struct Refused([AtomicU64; Refused::STATUSES.len()]);

impl Refused {
    pub(super) const STATUSES: [u16; 13] = [400, 403, 404, 405, 408, 413, 415, 421, 422, 429, 500, 503, 504];

    pub(super) fn count(&self, status: StatusCode) {
        let at = Self::STATUSES.iter().position(|&known| known == status.as_u16());
        if let Some(counter) = at.map(|at| &self.0[at]) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (u16, u64)> {
        Self::STATUSES.into_iter().zip(self.0.iter().map(|counter| counter.load(Relaxed)))
    }
}

/// An answer that says no: `{"error": "..."}` with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub message: String,
    /// The methods that this path takes.
    pub allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), allow: None }
    }

    pub(super) fn bad(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }

    pub(super) fn reply(&self) -> Reply {
        let mut reply = json(self.status, &serde_json::json!({ "error": self.message }));
        if let Some(allow) = self.allow {
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        reply
    }
}

pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Reply {
    reply(status, "application/json", value.to_string())
}

pub(super) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
