//! Topics on the broker: the places of the bulletin board.

use super::Digest;
use std::fmt::Display;

/// A metadata file: `timestamp.json`, `3.root.json`.
pub fn tuf(file: impl Display) -> String {
    format!("selvedge/v1/tuf/{file}")
}

/// What has this digest: a chunk, an index, a part of one.
pub fn chunk(digest: &Digest) -> String {
    format!("selvedge/v1/chunk/{digest}")
}

pub fn device_online(id: impl Display) -> String {
    format!("selvedge/v1/dev/{id}/online")
}

pub fn device_status(id: impl Display) -> String {
    format!("selvedge/v1/dev/{id}/status")
}

pub fn device_metrics(id: impl Display) -> String {
    format!("selvedge/v1/dev/{id}/metrics")
}
