//! The operator: keys and metadata in a directory, bundles cut and published, the fleet looked at.
//!
//! Invariant: the directory is whole after a kill at any point. What `timestamp.json` names counts;
//! it is written last, each file in one step, and whatever is left over from an unfinished
//! publication is written anew by the next. What a broken upload left undone is in `pending.json`
//! and goes out with the next one; `everything` puts a lost board back, `repair` what it lacks alone.
//! Not here: the session with the broker (`mqtt`); `upload` takes any `Board`.
//!
//! Layout: `keys/` (0600; the root's may be taken away and kept offline), `metadata/`, `chunks/` by
//! digest (all of `metadata/` and `chunks/` is public, a team has a copy), `known/` (devices whose failures count),
//! `settings.json`, `pending.json`, `lock`.
//!
//! Rejected: tough's `RepositoryEditor` (writes in place, without sync; needs the root's keys).

mod board;
mod chunks;
mod current;
mod cutting;
pub mod delta;
mod deltas;
mod error;
#[cfg(test)]
mod fixture;
mod fleet;
mod held;
mod init;
mod keys;
mod known;
mod listen;
mod overview;
mod pack;
mod passphrase;
mod patience;
mod proposal;
mod reach;
mod repair;
mod repository;
mod rollout;
mod rotation;
mod session;
mod signer;
mod submission;
mod teams;
#[cfg(test)]
mod tests;
mod votes;

pub use board::{Board, BoardError, Post, Publication, Release, upload};
pub use cutting::Audience;
pub use error::RepositoryError;
pub use fleet::{Fleet, Row};
pub use init::{Expiries, InitOptions, Sealing};
pub use keys::{KeyState, add_command, make_key, parse_public};
pub use listen::Listener;
pub use overview::{LAGS_AFTER, Lag, Look, Only, look};
pub use pack::Packed;
pub use passphrase::{Passphrase, PassphraseError};
pub use patience::until_through;
pub use proposal::{Count, MAX_PROPOSAL, Proposal, RoleChange};
pub use reach::Reach;
pub use repair::{Repair, RepairError, lacking};
pub use repository::{Garbage, PublishOptions, Repository};
pub use rollout::{Left, Rollout, Turn, Turned, offered};
pub use rotation::KeyChange;
pub use session::{MqttBoard, connect};
pub use signer::{Command, SignerError};
pub use submission::MAX_SUBMISSION;
pub use teams::{Team, TeamState};
pub use votes::{Threshold, Votes};
