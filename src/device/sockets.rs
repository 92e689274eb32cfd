//! Unix sockets: from systemd where it holds them, else made here.
//!
//! Invariant: the engine holds Unix sockets only. Any other that it was started with, listener or
//! not, named to it or left open by accident, could be made to connect to the outside.

use crate::serve;
use crate::sys;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("listen at {path}; the directory must exist and be writable, and no other engine may run there")]
    Bind { path: PathBuf, source: io::Error },
    #[error("take the socket {name:?} that systemd holds")]
    Inherit { name: String, source: io::Error },
    #[error("look at the sockets that the engine was started with")]
    Look(#[source] io::Error),
    #[error(
        "the engine was started with an open {protocol} socket (file descriptor {fd}) and takes Unix sockets only: \
         through any other, data could leave; give its socket unit a path, and use selvedge-proxy.socket for TCP"
    )]
    NotUnix { fd: u32, protocol: String },
}

/// Sockets by the names that their units give them (`FileDescriptorName=`).
#[derive(Debug)]
pub(super) struct Inherited(VecDeque<(String, std::os::unix::net::UnixListener)>);

impl Inherited {
    /// Call once, before anything else looks at `LISTEN_FDS`.
    pub(super) fn take() -> Result<Self, SocketError> {
        if let Some((fd, protocol)) = sys::network_sockets().map_err(SocketError::Look)?.pop() {
            return Err(SocketError::NotUnix { fd, protocol });
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = listenfd::ListenFd::from_env();
        let mut sockets = VecDeque::new();
        for i in 0..fds.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match fds.take_unix_listener(i) {
                Ok(Some(socket)) => sockets.push_back((name, socket)),
                Ok(None) => {}
                Err(source) => return Err(SocketError::Inherit { name, source }),
            }
        }
        Ok(Self(sockets))
    }

    /// All sockets of that name, or a new one at `path` where there is none.
    pub(super) fn listeners(&mut self, name: &str, path: &Path) -> Result<Vec<UnixListener>, SocketError> {
        let (mine, others) = std::mem::take(&mut self.0).into_iter().partition(|(n, _)| n == name);
        self.0 = others;
        let mine: VecDeque<(String, std::os::unix::net::UnixListener)> = mine;
        if mine.is_empty() {
            let bound = serve::bind(path).map_err(|source| SocketError::Bind { path: path.to_owned(), source })?;
            return Ok(vec![bound]);
        }
        let adopt = |socket: std::os::unix::net::UnixListener| {
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket)
        };
        let adopted = mine
            .into_iter()
            .map(|(name, socket)| adopt(socket).map_err(|source| SocketError::Inherit { name, source }));
        adopted.collect()
    }
}
