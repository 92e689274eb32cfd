//! Sockets and connections.

use super::api::Api;
use super::{routes, timed::Timed};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Listens at `path`, for its user and group. A socket that a dead process left there is replaced;
/// one that answers, or anything else, stays and is an error.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        let in_use = |text: String| Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        if !found.file_type().is_socket() {
            return in_use(format!("{} is there and is no socket", path.display()));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return in_use(format!("another process answers at {}", path.display()));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `shutdown`; then takes no more and returns when what it had taken is answered, at
/// the latest some seconds after the deadline of a request.
pub async fn serve(
    api: Api,
    listeners: Vec<UnixListener>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let accepting: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(accept(api.clone(), listener, stopped.clone()))).collect();
    shutdown.await;
    let _ = stop.send(true);
    for task in accepting {
        let _ = task.await;
    }
    let all = u32::try_from(api.limits.connections).unwrap_or(u32::MAX);
    let patience = api.limits.deadline + api.limits.write.min(Duration::from_secs(5));
    let idle = api.connections.acquire_many(all);
    match tokio::time::timeout(patience, idle).await {
        Ok(_) => Ok(()),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "some requests did not end; their connections are cut")),
    }
}

async fn accept(api: Api, listener: UnixListener, mut stopped: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop_said(&mut stopped) => return,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&api.connections).try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(connection(api.clone(), stream, place, stopped.clone()));
                }
                Err(_) => turn_away(&stream),
            },
            Err(error) => {
                // Out of file descriptors, most likely; they come back as connections end.
                tracing::warn!(%error, "accept a connection to the API");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn stop_said(stopped: &mut watch::Receiver<bool>) {
    // An error means that `serve` itself is gone: the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// All places are taken. Whoever reads before it writes sees why.
fn turn_away(stream: &UnixStream) {
    const TEXT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
        content-length: 51\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
        {\"error\":\"too many connections; try again shortly\"}";
    let _ = stream.try_write(TEXT);
}

async fn connection(api: Api, stream: UnixStream, place: OwnedSemaphorePermit, mut stopped: watch::Receiver<bool>) {
    let limits = api.limits;
    let handle = |request| {
        let api = api.clone();
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&api, request).await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(64 * 1024)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(Timed::new(stream, limits.write)), service_fn(handle));
    tokio::pin!(connection);
    // How it ends is the client's affair: errors here are broken requests and lost clients.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop_said(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(place);
}
