//! The other side of the format: metadata made and signed. For the operator, and for tests.

use super::Role;
use super::offer::Custom;
use crate::bundle::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::schema::{self, Hashes, Metafile, RoleKeys, RoleType, Signature, Signed};
use tough::sign::Sign as _;

#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    #[error("make a key")]
    Generate,
    #[error("the key is not an Ed25519 key in PKCS#8 form")]
    Key,
    #[error("{0} is not a date that metadata can carry")]
    Date(u64),
    #[error("version 0 of metadata; versions start at 1")]
    Version,
    #[error("{0:?} cannot be the name of a target")]
    Name(String),
    #[error("write metadata")]
    Json(#[source] serde_json::Error),
    #[error("sign metadata")]
    Schema(#[source] Box<schema::Error>),
}

fn schema_error(error: schema::Error) -> AuthorError {
    AuthorError::Schema(Box::new(error))
}

/// An Ed25519 key pair.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id().unwrap_or_default())
    }
}

impl SigningKey {
    pub fn generate() -> Result<Self, AuthorError> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| AuthorError::Generate)?;
        Self::from_pkcs8(made.as_ref())
    }

    /// From the form in which `pkcs8` gives it.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, AuthorError> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| AuthorError::Key)?;
        Ok(Self { pair, pkcs8: bytes.to_vec() })
    }

    /// The private key; for a file that only its owner reads.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// TUF's key id in hexadecimal digits.
    pub fn id(&self) -> Result<String, AuthorError> {
        self.key_id().map(|id| hex::encode(&*id))
    }

    fn public(&self) -> Key {
        self.pair.tuf_key()
    }

    fn key_id(&self) -> Result<Decoded<Hex>, AuthorError> {
        self.public().key_id().map_err(schema_error)
    }
}

pub(super) fn sign<T: schema::Role + Serialize>(role: T, keys: &[&SigningKey]) -> Result<Vec<u8>, AuthorError> {
    let message = role.canonical_form().map_err(schema_error)?;
    let signature = |key: &&SigningKey| {
        let sig = key.pair.sign(&message).as_ref().to_vec().into();
        Ok(Signature { keyid: key.key_id()?, sig })
    };
    let signatures = keys.iter().map(signature).collect::<Result<_, AuthorError>>()?;
    serde_json::to_vec(&Signed { signed: role, signatures }).map_err(AuthorError::Json)
}

const SPEC: &str = "1.0.0";

fn date(seconds: u64) -> Result<jiff::Timestamp, AuthorError> {
    let signed = i64::try_from(seconds).map_err(|_| AuthorError::Date(seconds))?;
    jiff::Timestamp::from_second(signed).map_err(|_| AuthorError::Date(seconds))
}

fn number(version: u32) -> Result<NonZeroU64, AuthorError> {
    NonZeroU64::new(u64::from(version)).ok_or(AuthorError::Version)
}

fn role_type(role: Role) -> RoleType {
    match role {
        Role::Root => RoleType::Root,
        Role::Timestamp => RoleType::Timestamp,
        Role::Snapshot => RoleType::Snapshot,
        Role::Targets => RoleType::Targets,
    }
}

/// Version and expiry date (seconds since 1970 UTC) of a file to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub version: u32,
    pub expires: u64,
}

/// Who may sign a role: how many of which keys.
#[derive(Debug, Clone)]
pub struct Holders<'a> {
    pub keys: Vec<&'a SigningKey>,
    pub threshold: u32,
}

/// A first root.
pub fn root(
    stamp: Stamp,
    roles: &BTreeMap<Role, Holders<'_>>,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, AuthorError> {
    let empty = schema::Root {
        spec_version: SPEC.to_owned(),
        consistent_snapshot: true,
        version: number(stamp.version)?,
        expires: date(stamp.expires)?,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    next_root(empty, stamp, roles, signers)
}

/// A root in which the given roles have other holders and the rest stays.
pub fn next_root(
    mut root: schema::Root,
    stamp: Stamp,
    changed: &BTreeMap<Role, Holders<'_>>,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, AuthorError> {
    root.version = number(stamp.version)?;
    root.expires = date(stamp.expires)?;
    for (&role, holders) in changed {
        let mut keyids = Vec::new();
        for key in &holders.keys {
            keyids.push(key.key_id()?);
            root.keys.insert(key.key_id()?, key.public());
        }
        let keys = RoleKeys { keyids, threshold: number(holders.threshold)?, _extra: HashMap::new() };
        root.roles.insert(role_type(role), keys);
    }
    let named: Vec<_> = root.roles.values().flat_map(|keys| keys.keyids.clone()).collect();
    root.keys.retain(|id, _| named.contains(id));
    sign(root, signers)
}

/// A target: the node document that it stands for, by digest and size, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetEntry {
    pub digest: Digest,
    pub size: u64,
    pub custom: Custom,
}

pub fn targets(
    stamp: Stamp,
    entries: &BTreeMap<String, TargetEntry>,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, AuthorError> {
    let mut role = schema::Targets::new(SPEC.to_owned(), number(stamp.version)?, date(stamp.expires)?);
    role.delegations = None;
    for (name, entry) in entries {
        let name = tough::TargetName::new(name).map_err(|_| AuthorError::Name(name.clone()))?;
        let custom = serde_json::to_value(&entry.custom).map_err(AuthorError::Json)?;
        let target = schema::Target {
            length: entry.size,
            hashes: hashes(entry.digest),
            custom: custom.as_object().cloned().unwrap_or_default().into_iter().collect(),
            _extra: HashMap::new(),
        };
        role.add_target(name, target);
    }
    sign(role, signers)
}

fn hashes(digest: Digest) -> Hashes {
    Hashes { sha256: digest.as_bytes().to_vec().into(), _extra: HashMap::new() }
}

fn metafile(version: u32, bytes: &[u8]) -> Result<Metafile, AuthorError> {
    Ok(Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(hashes(Digest::of(bytes))),
        version: number(version)?,
        _extra: HashMap::new(),
    })
}

/// A snapshot that names the given targets.
pub fn snapshot(stamp: Stamp, targets: (u32, &[u8]), signers: &[&SigningKey]) -> Result<Vec<u8>, AuthorError> {
    let mut role = schema::Snapshot::new(SPEC.to_owned(), number(stamp.version)?, date(stamp.expires)?);
    role.meta.insert("targets.json".to_owned(), metafile(targets.0, targets.1)?);
    sign(role, signers)
}

/// A timestamp that names the given snapshot. `issued` is now, in seconds since 1970 UTC; `root`
/// the newest root, so that a device which lacks it waits.
pub fn timestamp(
    stamp: Stamp,
    issued: u64,
    root: u32,
    snapshot: (u32, &[u8]),
    signers: &[&SigningKey],
) -> Result<Vec<u8>, AuthorError> {
    let mut role = schema::Timestamp::new(SPEC.to_owned(), number(stamp.version)?, date(stamp.expires)?);
    role.meta.insert("snapshot.json".to_owned(), metafile(snapshot.0, snapshot.1)?);
    role._extra.insert("issued".to_owned(), issued.into());
    role._extra.insert("root".to_owned(), root.into());
    sign(role, signers)
}
