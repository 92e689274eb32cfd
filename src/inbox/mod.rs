//! Updates from a directory, for sites with no network: whoever comes by copies a file there, or mounts a stick.
//!
//! A pack is a tar of what a board would show: `pack.json`, `tuf/<file>`, `chunk/<sha256>`. It carries no trust: each
//! byte takes the same road as one that the link brings.
//!
//! Invariant: only plain files that did not change for a while are opened, never a link, a pipe or a device, and what
//! is read of them is bounded in bytes, names and entries. Nothing is written there.
//! Not here: what a pack's contents are good for (`update`), making one (`publish`).
//!
//! Rejected: watching alone (a file system that is mounted over the directory goes unnoticed, and so does inotify that
//! a filter refuses): the watch only makes a look come sooner.

mod pack;
mod watch;

pub use pack::{FORMAT, MAX_BYTES, Pack, PackError, Summary, write};
pub use watch::{Found, Inbox};

/// How a pack's name ends.
pub const SUFFIX: &str = ".pack";
