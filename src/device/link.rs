//! The link role: has the network and the broker's credentials, sees no tensor.

use crate::config::{Config, DeviceId};
use crate::link::{self, LinkError};
use crate::mqtt::Backoff;
use crate::sys::RealDisk;
use std::future::Future;
use std::sync::Arc;

pub use crate::config::IdError;

#[derive(Debug, thiserror::Error)]
pub enum LinkRoleError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The id that the configuration states, else the one that the machine's own id leads to.
pub fn device_id(config: &Config) -> Result<DeviceId, IdError> {
    config.device.id.map_or_else(|| DeviceId::from_machine_id(&RealDisk), Ok)
}

/// Runs until `shutdown`; then the device says that it is offline.
pub async fn run(config: &Config, shutdown: impl Future<Output = ()>) -> Result<(), LinkRoleError> {
    let options = link::Options {
        config: config.link.clone(),
        device: device_id(config)?,
        engine_socket: config.engine.link_socket.clone(),
        disk: Arc::new(RealDisk),
        backoff: Backoff::default(),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Ok(link::run(options, shutdown).await?)
}
