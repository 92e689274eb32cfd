//! The roles of a device, put together: the engine, the link, the forwarder, and the supervisor
//! that runs all three on one console.
//!
//! Invariant: each role is a process of its own; only the link and the forwarder may touch the
//! network, and only the engine holds a model.
//! Not here: what the parts do.
//!
//! On a console the three roles are children of `selvedge run` (the engine too: it gives up the
//! network for good, and what it starts would inherit that).

mod engine;
mod inventory;
mod link;
mod sockets;
mod supervise;

pub use engine::{EngineError, run as run_engine};
pub use inventory::Sensors;
pub use link::{LinkRoleError, device_id, run as run_link};
pub use supervise::{Child, Role, SuperviseError, supervise};

use std::future::Future;

/// Ends on SIGTERM, SIGINT or SIGHUP.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
