//! Asks the engine of this machine, over the Unix socket of its local API.

use super::super::advise;
use crate::privacy::Status;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("connect to {path}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("speak HTTP with what answers at the socket")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("read its answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its answer is not the state of an engine of this version")]
    Form(#[from] serde_json::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

const LIMIT: Duration = Duration::from_secs(5);
/// A whole status has some 10 KiB.
const MAX_BODY: usize = 256 * 1024;

pub(super) async fn status(socket: &Path) -> anyhow::Result<Status> {
    let asked = timeout(LIMIT, ask(socket)).await.unwrap_or(Err(AskError::Late(LIMIT)));
    asked.map_err(|error| {
        let hint = hint(&error, socket);
        advise(error, "ask the engine", hint)
    })
}

async fn ask(socket: &Path) -> Result<Status, AskError> {
    let failed = |source| AskError::Connect { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(failed)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its end is seen by the sender.
    tokio::spawn(async move { drop(connection.await) });
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static("/selvedge/status");
    request.headers_mut().insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(AskError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(AskError::Body)?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

fn hint(error: &AskError, socket: &Path) -> String {
    let running = "is the engine running? `systemctl status selvedge-engine`; on a console `selvedge run`";
    match error {
        AskError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "only root and the group selvedge-api may ask: `sudo usermod -aG selvedge-api $USER`, then log in anew"
                .into()
        }
        AskError::Connect { .. } => format!("{running}. Is this its socket? --socket names another"),
        AskError::Late(_) => format!("{running}; its log says what it is at"),
        AskError::Http(_) | AskError::Status(_) | AskError::Body(_) | AskError::Form(_) => format!(
            "is {} the API's socket (engine.socket), and is the engine of the same version as this command?",
            super::super::plain(&socket.display().to_string())
        ),
    }
}
