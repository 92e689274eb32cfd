//! A client of the local API: one connection, JSON tensors.

use super::camera::Image;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("reach the engine at {path}")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("speak HTTP with the engine")]
    Http(#[from] hyper::Error),
    #[error("the engine answered {status}: {text}")]
    Status { status: u16, text: String },
    #[error("the answer is not of the Open Inference Protocol")]
    Answer(#[from] serde_json::Error),
    #[error("the answer lacks ten logits or its version")]
    Form,
}

#[derive(Debug)]
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
}

/// Which version answered, and what it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub version: u32,
    pub digit: u8,
}

#[derive(Deserialize)]
struct Inferred {
    model_version: String,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    data: Vec<f32>,
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { path: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).await.map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its end is seen by the sender.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender })
    }

    pub(super) async fn infer(&mut self, image: &Image) -> Result<Answer, ClientError> {
        let input = serde_json::json!({"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": &image[..]});
        let body = serde_json::json!({ "inputs": [input] }).to_string();
        let answer: Inferred = serde_json::from_slice(&self.ask("POST", "/v2/models/digits/infer", body).await?)?;
        let logits = answer.outputs.first().map(|output| &output.data).ok_or(ClientError::Form)?;
        let version = answer.model_version.parse().map_err(|_| ClientError::Form)?;
        Ok(Answer { version, digit: largest(logits).ok_or(ClientError::Form)? })
    }

    pub(super) async fn is_ready(&mut self) -> bool {
        self.ask("GET", "/v2/health/ready", String::new()).await.is_ok()
    }

    async fn ask(&mut self, method: &str, path: &str, body: String) -> Result<Bytes, ClientError> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Full::from(body));
        let request = request.expect("a fixed method and path");
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body).chars().take(300).collect();
        Err(ClientError::Status { status: status.as_u16(), text })
    }
}

/// Where the largest logit is; of equal ones the first.
fn largest(logits: &[f32]) -> Option<u8> {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    (logits.len() == 10).then(|| u8::try_from(best).ok()).flatten()
}
