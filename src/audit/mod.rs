//! What the device decided, as a chain: each line holds the digest of the line before.
//!
//! Layout below `<state>/audit`: `<number>.log`, at most [`FILES`] of about [`FILE_BYTES`]. The first line of a file
//! goes on from the last one of the file before, so that the chain is whole over files and says which of them are kept.
//!
//! Invariant: a line is durable before its effect is. A power cut may leave a decision without its effect, or half a
//! line, which the next start takes away; that start also says which version serves where the log says otherwise. Never
//! is there an effect without its line. What trust commits by itself, a new root, is the exception: its line comes
//! behind, at the next start at the latest.
//! The chain has no key: whoever may write the directory may make another one. That is seen by the head that the
//! device told its operator (`privacy::AuditHead`): `selvedge audit verify --head`.
//! Not here: what is a decision (`update`).
//!
//! Rejected: lines within the journal (it is written whole each time), a key on the device (who can rewrite the log can
//! read it).

mod chain;
mod line;
mod log;
#[cfg(test)]
mod tests;

pub use chain::{Broken, Chain, ChainError, Fault, read};
pub use line::{After, Decision, Line, Part};
pub use log::{Log, dir};

/// Files that are kept.
pub const FILES: u64 = 8;
/// A file that has so many bytes is followed by the next one.
pub const FILE_BYTES: u64 = 64 << 10;
/// No line is longer.
pub const MAX_LINE: usize = 1024;
