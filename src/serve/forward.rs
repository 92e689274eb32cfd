//! A loopback TCP port in front of the API's Unix socket, for clients that know no other.
//!
//! It runs in a process of its own (`selvedge run` starts it beside the engine): the engine's may not
//! make internet sockets. On a device this is `systemd-socket-proxyd`'s part.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("{0} can be reached from other machines; use an address of 127.0.0.0/8 or [::1]")]
    NotLoopback(SocketAddr),
    #[error("listen at {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to close after the API has closed its side.
const CLOSING: Duration = Duration::from_secs(5);

/// Forwards until `shutdown`; connections that are open then are cut.
pub async fn forward(
    listen: SocketAddr,
    socket: &Path,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ForwardError> {
    if !listen.ip().is_loopback() {
        return Err(ForwardError::NotLoopback(listen));
    }
    let failed = |source| ForwardError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let socket: Arc<Path> = socket.into();
    let mut open = tokio::task::JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        // A place first: clients beyond it wait in the backlog.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = &mut shutdown => return Ok(()),
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => return Ok(()),
        };
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((client, _)) => {
                let socket = socket.clone();
                open.spawn(async move {
                    // An error is the end of one connection; both sides see that themselves.
                    let _ = join(client, &socket).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection to forward");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn join(client: TcpStream, socket: &Path) -> io::Result<()> {
    client.set_nodelay(true)?;
    let api = UnixStream::connect(socket).await?;
    let (from_client, to_client) = client.into_split();
    let (from_api, to_api) = api.into_split();
    let mut asking = tokio::spawn(pour(from_client, to_api));
    pour(from_api, to_client).await?;
    if tokio::time::timeout(CLOSING, &mut asking).await.is_err() {
        asking.abort();
    }
    Ok(())
}

async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
