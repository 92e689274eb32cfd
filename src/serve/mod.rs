//! The local API: the Open Inference Protocol, version 2, over HTTP/1.1 on Unix sockets.
//!
//! <https://github.com/open-inference/open-inference-protocol>, with Triton's extensions for binary
//! tensor data, classification and the (read-only) repository index.
//!
//! Invariant: whatever a client sends, it gets an answer or is cut within bounded time and memory,
//! and the next client is served. What a client sent appears in no log.
//! Not here: which version is live (`engine::Slots`, filled by `update`), TCP (`forward` runs in
//! another process: this one may not even make such a socket).
//!
//! Rejected: axum (a dozen fixed paths need no router, and the extractors' own error bodies would
//! have to be undone); loading and unloading over this API (a second road to a slot).

mod address;
mod answer;
mod api;
mod body;
mod forward;
mod infer;
mod listen;
mod metrics;
mod request;
mod routes;
mod timed;
mod values;

pub use api::{Api, Status};
pub use forward::{ForwardError, forward};
pub use listen::{bind, serve};
