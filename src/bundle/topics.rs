//! Where things stand on the board: the topics that operator and device agree on.

use super::Digest;
use std::fmt::Display;

/// All topics start so; the number is that of this layout.
pub const PREFIX: &str = "selvedge/v1";

/// A metadata file, such as `timestamp.json` or `3.root.json`; retained.
pub fn tuf(file: impl Display) -> String {
    format!("{PREFIX}/tuf/{file}")
}

/// The most roles that targets delegate to; what stands after them is not read.
pub const MAX_DELEGATED: usize = 32;

/// A name for a role that targets delegate to: as a model's, and none of the four that TUF has.
pub fn is_delegated_name(name: &str) -> bool {
    !matches!(name, "root" | "timestamp" | "snapshot" | "targets") && super::ModelName::new(name).is_ok()
}

/// The bytes with that digest: a chunk or a node; retained.
pub fn chunk(digest: &Digest) -> String {
    format!("{PREFIX}/chunk/{digest}")
}

/// Whether a device is there; retained, and its last will.
pub fn device_online(device: impl Display) -> String {
    format!("{PREFIX}/dev/{device}/online")
}

/// The latest state of a device; retained.
pub fn device_status(device: impl Display) -> String {
    format!("{PREFIX}/dev/{device}/status")
}

/// Counts of a device; not retained.
pub fn device_metrics(device: impl Display) -> String {
    format!("{PREFIX}/dev/{device}/metrics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_those_that_the_brokers_access_lists_name() {
        assert_eq!(tuf("timestamp.json"), "selvedge/v1/tuf/timestamp.json");
        assert_eq!(chunk(&Digest::of(b"")).len(), "selvedge/v1/chunk/".len() + 64);
        assert_eq!(device_online("ab"), "selvedge/v1/dev/ab/online");
        assert_eq!(device_status("ab"), "selvedge/v1/dev/ab/status");
        assert_eq!(device_metrics("ab"), "selvedge/v1/dev/ab/metrics");
    }
}
