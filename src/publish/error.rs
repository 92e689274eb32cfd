//! What can go wrong in the operator's directory, and what to do then.

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
    MissingKey { role: Role, needed: u64, found: usize },
    #[error("{path} is not what was written there: {problem}; restore the directory from a backup")]
    Damaged { path: PathBuf, problem: String },
    #[error("{0}")]
    Options(&'static str),
    #[error(
        "{model} version {published} is published to this audience; version {offered} is not newer. \
         Raise `version` in manifest.toml, or go back on purpose with --allow-downgrade"
    )]
    NotNewer { model: ModelName, published: u32, offered: u32 },
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
