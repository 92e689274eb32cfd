//! The messages. Order in one direction is kept; requests and answers may cross.

use crate::privacy::Tell;
use serde::{Deserialize, Serialize};

/// Version of this protocol; both sides come from one executable, so others are refused.
pub const PROTOCOL: u16 = 3;

/// The most chunks that are asked for at a time.
pub const MAX_WINDOW: usize = 8;

/// From the engine to the link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToLink {
    /// First message, and again whenever a newer root is trusted: the link then looks for `root + 1`.
    Hello {
        protocol: u16,
        root: u32,
    },
    Fetch(Fetch),
    Tell(Tell),
}

/// A request for bytes. A later one replaces what an earlier one still waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fetch {
    /// Nothing is lacking.
    Nothing,
    /// The node (see `bundle::Node`) of a target. The lower 16 bits are its place among the names of
    /// a file, sorted; the upper ones say which file of those that the link brought last: 0 the
    /// targets, n that of the n-th role that they delegate to.
    Target { ordinal: u32 },
    /// The node of a target's delta, by its place in that target's list of them.
    Delta { ordinal: u32, delta: u32 },
    /// Chunks by their place in the list that the last node stands for: its own chunks
    /// or, once all parts of a node of parts were brought, those of the index that they join to.
    Chunks { ordinals: Vec<u32> },
}

/// From the link to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToEngine {
    /// First message.
    Hello { protocol: u16 },
    /// The session with the broker stands, or was lost.
    Connected(bool),
    /// A metadata file as the board shows it.
    Metadata { role: Role, version: u32, bytes: Vec<u8> },
    /// What stands under the digest of the target or delta asked for last.
    Node { bytes: Vec<u8> },
    /// What stands under the digest of that chunk.
    Chunk { ordinal: u32, bytes: Vec<u8> },
    /// The file of a role that targets delegate to, as the board shows it.
    Delegated { name: String, version: u32, bytes: Vec<u8> },
}

/// TUF's top-level roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    Root,
    Timestamp,
    Snapshot,
    Targets,
}
