//! What can go wrong in the operator's directory, and what to do then.

use super::passphrase::PassphraseError;
use super::proposal::Count;
use crate::bundle::{Digest, IndexError, ModelName};
use crate::sys::DiskError;
use crate::trust::Role;
use crate::trust::author::AuthorError;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("{0} is not empty; `selvedge trust init` makes a new directory and touches no other")]
    AlreadyThere(PathBuf),
    #[error("{0} is no publishing directory; make one with `selvedge trust init --dir {0}`")]
    NotThere(PathBuf),
    #[error("another selvedge command is at work in {0}; wait for it to end")]
    Locked(PathBuf),
    #[error("lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("key file {path}")]
    KeyFile { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    BadKey { path: PathBuf, source: AuthorError },
    #[error(
        "keys/ has {found} of the {needed} keys that sign {role}; bring the others, or rotate them with the root's keys"
    )]
    MissingKey { role: String, needed: u64, found: usize },
    #[error("{0} does not hold the public half of a key (64 hexadecimal digits); restore it from a copy of keys/")]
    NoPublicHalf(PathBuf),
    #[error("put a key under a passphrase")]
    Passphrase(#[source] PassphraseError),
    #[error("{path} names no command that signs: {problem}")]
    BadCommand { path: PathBuf, problem: String },
    #[error(
        "{role} has no single key whose id begins with {id:?}; give at least 8 digits, `selvedge trust keys` shows them"
    )]
    NoSuchKey { role: String, id: String },
    #[error("this is no root that was proposed for this directory: {0}")]
    BadProposal(String),
    #[error(
        "the proposed root lacks signatures: {} of {} by the keys that count now, {} of {} by those that are to; \
         have it signed with `selvedge trust sign`", old.valid, old.needed, new.valid, new.needed
    )]
    Unsigned { old: Count, new: Count },
    #[error("nothing is delegated to {0:?}; `selvedge trust teams` lists those who have something")]
    NoSuchTeam(String),
    #[error("{team} may not sign {model}; the holder of the targets' keys can allow it with `selvedge trust delegate`")]
    NotDelegated { team: String, model: ModelName },
    #[error("what {team} hands in is not taken: {problem}")]
    BadSubmission { team: String, problem: String },
    #[error("{path} is not what was written there: {problem}; restore the directory from a backup")]
    Damaged { path: PathBuf, problem: String },
    #[error("{0}")]
    Options(&'static str),
    #[error(
        "{model} version {published} is published to this audience; version {offered} is not newer. \
         Raise `version` in manifest.toml, or go back on purpose with --allow-downgrade"
    )]
    NotNewer { model: ModelName, published: u32, offered: u32 },
    #[error("{model} version {version} is paused for this audience: `selvedge rollout resume {model}` lets it go on")]
    Paused { model: ModelName, version: u32 },
    #[error("no version of {model} is offered that could be {did}; `selvedge rollout show {model}` lists what is")]
    NothingToHold { model: ModelName, did: super::rollout::Turn },
    #[error(
        "{model} version {version} is published with other contents ({published}); a version stands for one \
         bundle: raise `version` in manifest.toml"
    )]
    VersionTaken { model: ModelName, version: u32, published: Digest },
    #[error("{role} metadata would be {size} bytes, more than brokers pass ({limit}); publish to fewer, larger groups")]
    TooManyTargets { role: Role, size: usize, limit: usize },
    #[error(
        "nothing of {model} is offered to exactly this audience; `selvedge publish` it first, with the same --to and --device"
    )]
    NotOffered { model: ModelName },
    #[error("write the pack")]
    Pack(#[source] io::Error),
    #[error("the pack would be {bytes} bytes, boards take {limit}")]
    PackSize { bytes: u64, limit: u64 },
    #[error("compress the bundle")]
    Cut(#[source] io::Error),
    #[error("the bundle has too many chunks to be listed")]
    Index(#[source] IndexError),
    #[error("random numbers")]
    Random,
    #[error(transparent)]
    Author(#[from] AuthorError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}
