//! The other side of the format: metadata made and signed. For the operator, and for tests.

use super::Role;
use super::offer::Custom;
use crate::bundle::Digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::num::NonZeroU64;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{
    self, DelegatedRole, Delegations, Hashes, Metafile, PathPattern, PathSet, RoleKeys, RoleType, Signature, Signed,
};

#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    #[error("make a key")]
    Generate,
    #[error("the key is not an Ed25519 key in PKCS#8 form")]
    Key,
    #[error("the private half of key {0} is not here")]
    Absent(String),
    #[error("have key {key} signed by what holds it")]
    Signer { key: String, source: Box<dyn StdError + Send + Sync> },
    #[error(
        "what signs for key {0} gave 64 bytes that are no Ed25519 signature by that key; does the command use \
         the key whose public half stands in the file?"
    )]
    WrongSignature(String),
    #[error("{0:?} is no pattern of target names; write MODEL/* or a name with * and ? in it")]
    Pattern(String),
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

/// Signs with an Ed25519 key that this process does not hold: a token, a key service, a program.
pub trait Signs: Send + Sync {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>>;
}

enum Means {
    Pair {
        pair: Ed25519KeyPair,
        pkcs8: Vec<u8>,
    },
    Elsewhere(Box<dyn Signs>),
    /// Only the public half is known.
    Absent,
}

/// An Ed25519 key: its public half, and what signs with the private one.
pub struct SigningKey {
    public: [u8; 32],
    means: Means,
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
        let public = pair.public_key().as_ref().try_into().map_err(|_| AuthorError::Key)?;
        Ok(Self { public, means: Means::Pair { pair, pkcs8: bytes.to_vec() } })
    }

    /// A key that something else signs with. What it signs is checked each time.
    pub fn elsewhere(public: [u8; 32], signs: Box<dyn Signs>) -> Self {
        Self { public, means: Means::Elsewhere(signs) }
    }

    /// A key that can be named and not signed with.
    pub fn public_only(public: [u8; 32]) -> Self {
        Self { public, means: Means::Absent }
    }

    /// The public half of an Ed25519 key as metadata has it; `None` for one of another kind.
    pub fn of(key: &Key) -> Option<Self> {
        let Key::Ed25519 { keyval, .. } = key else { return None };
        keyval.public.as_ref().try_into().ok().map(Self::public_only)
    }

    /// The private key, where it is here; for a file that only its owner reads.
    pub fn pkcs8(&self) -> Option<&[u8]> {
        match &self.means {
            Means::Pair { pkcs8, .. } => Some(pkcs8),
            Means::Elsewhere(_) | Means::Absent => None,
        }
    }

    pub fn public_bytes(&self) -> &[u8; 32] {
        &self.public
    }

    /// TUF's key id in hexadecimal digits.
    pub fn id(&self) -> Result<String, AuthorError> {
        self.key_id().map(|id| hex::encode(&*id))
    }

    /// Fails where the key is not at hand, or where what signs elsewhere did not do so with this key.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AuthorError> {
        let signature = match &self.means {
            Means::Pair { pair, .. } => return Ok(pair.sign(message).as_ref().to_vec()),
            Means::Elsewhere(signs) => signs
                .sign(message)
                .map_err(|source| AuthorError::Signer { key: self.id().unwrap_or_default(), source })?,
            Means::Absent => return Err(AuthorError::Absent(self.id()?)),
        };
        let public = UnparsedPublicKey::new(&ED25519, &self.public);
        public.verify(message, &signature).map_err(|_| AuthorError::WrongSignature(self.id().unwrap_or_default()))?;
        Ok(signature)
    }

    fn public(&self) -> Key {
        let keyval = Ed25519Key { public: self.public.to_vec().into(), _extra: HashMap::new() };
        Key::Ed25519 { keyval, scheme: Ed25519Scheme::Ed25519, _extra: HashMap::new() }
    }

    fn key_id(&self) -> Result<Decoded<Hex>, AuthorError> {
        self.public().key_id().map_err(schema_error)
    }
}

fn signature(message: &[u8], key: &SigningKey) -> Result<Signature, AuthorError> {
    Ok(Signature { keyid: key.key_id()?, sig: key.sign(message)?.into() })
}

pub(super) fn sign<T: schema::Role + Serialize>(role: T, keys: &[&SigningKey]) -> Result<Vec<u8>, AuthorError> {
    let message = role.canonical_form().map_err(schema_error)?;
    let signatures = keys.iter().map(|key| signature(&message, key)).collect::<Result<_, AuthorError>>()?;
    serde_json::to_vec(&Signed { signed: role, signatures }).map_err(AuthorError::Json)
}

/// Adds signatures to metadata that others have signed, or are to sign, too.
pub fn cosign<T>(mut signed: Signed<T>, keys: &[&SigningKey]) -> Result<Vec<u8>, AuthorError>
where
    T: schema::Role + Serialize,
{
    let message = signed.signed.canonical_form().map_err(schema_error)?;
    for key in keys {
        let new = signature(&message, key)?;
        signed.signatures.retain(|old| old.keyid != new.keyid);
        signed.signatures.push(new);
    }
    serde_json::to_vec(&signed).map_err(AuthorError::Json)
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
    targets_with(stamp, entries, None, signers)
}

/// Targets that name others who may sign some of them.
pub fn targets_with(
    stamp: Stamp,
    entries: &BTreeMap<String, TargetEntry>,
    delegations: Option<&Delegations>,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, AuthorError> {
    let mut role = schema::Targets::new(SPEC.to_owned(), number(stamp.version)?, date(stamp.expires)?);
    role.delegations = delegations.filter(|all| !all.roles.is_empty()).cloned();
    for (name, entry) in entries {
        let name = tough::TargetName::new(name).map_err(|_| AuthorError::Name(name.clone()))?;
        let custom = entry.custom.fields().map_err(AuthorError::Json)?;
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

/// Lets the holders sign targets whose names match a pattern; a role of that name is replaced in its place.
pub fn delegate(
    all: &mut Delegations,
    name: &str,
    holders: &Holders<'_>,
    patterns: &[String],
    terminating: bool,
) -> Result<(), AuthorError> {
    let pattern = |text: &String| PathPattern::new(text.as_str()).map_err(|_| AuthorError::Pattern(text.clone()));
    let paths = PathSet::Paths(patterns.iter().map(pattern).collect::<Result<_, _>>()?);
    let mut keyids = Vec::new();
    for key in &holders.keys {
        keyids.push(key.key_id()?);
        all.keys.insert(key.key_id()?, key.public());
    }
    let threshold = number(holders.threshold)?;
    let role = DelegatedRole { name: name.to_owned(), keyids, threshold, paths, terminating, targets: None };
    match all.roles.iter_mut().find(|role| role.name == name) {
        Some(old) => *old = role,
        None => all.roles.push(role),
    }
    forget_unnamed(all);
    Ok(())
}

/// Takes what was delegated back; false where nothing of that name was.
pub fn undelegate(all: &mut Delegations, name: &str) -> bool {
    let before = all.roles.len();
    all.roles.retain(|role| role.name != name);
    forget_unnamed(all);
    all.roles.len() < before
}

fn forget_unnamed(all: &mut Delegations) {
    let named: Vec<_> = all.roles.iter().flat_map(|role| role.keyids.clone()).collect();
    all.keys.retain(|id, _| named.contains(id));
}

/// How a snapshot names a file.
pub fn metafile(version: u32, bytes: &[u8]) -> Result<Metafile, AuthorError> {
    Ok(Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(hashes(Digest::of(bytes))),
        version: number(version)?,
        _extra: HashMap::new(),
    })
}

/// A snapshot that names the given targets.
pub fn snapshot(stamp: Stamp, targets: (u32, &[u8]), signers: &[&SigningKey]) -> Result<Vec<u8>, AuthorError> {
    snapshot_of(stamp, [("targets.json".to_owned(), metafile(targets.0, targets.1)?)].into(), signers)
}

/// A snapshot of targets and of roles that were delegated.
pub fn snapshot_of(
    stamp: Stamp,
    files: BTreeMap<String, Metafile>,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, AuthorError> {
    let mut role = schema::Snapshot::new(SPEC.to_owned(), number(stamp.version)?, date(stamp.expires)?);
    role.meta = files.into_iter().collect();
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
