//! One run of the TUF client over what the board shows, in a scratch directory.
//!
//! tough keeps its state in files that it writes without sync or rename, takes a half-written one
//! for an absent one, and refuses a system clock that stepped back. So each run gets whole copies
//! of the committed files and no `latest_known_time.json`, dates are checked by the caller, and
//! nothing of the scratch directory is kept but which root was reached.
//!
//! tough gives a whole set up for one delegated role that is missing or bad. So it is shown none: when
//! it asks for the first, the four roles above have passed, and they are read from the same bytes and
//! held against each other once more. `delegation` does the rest.

use super::Role;
use super::offered::Offered;
use super::state::{self, State};
use crate::bundle::Digest;
use crate::sys::{Disk as _, DiskError, RealDisk};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tough::error::Error as Tough;
use tough::schema::{Metafile, RoleType, Root, Signed, Snapshot, Targets, Timestamp};
use tough::{Bytes, ExpirationEnforcement, Limits, Repository, RepositoryLoader, Transport};
use tough::{TransportError, TransportErrorKind, TransportStream};
use url::Url;

/// Why metadata is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    BadSignature,
    StaleMetadata,
    Expired,
    BadMetadata,
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BadSignature => "is not signed by enough of the keys that the trusted root names",
            Self::StaleMetadata => "is older than what is trusted already",
            Self::Expired => "is past its expiry date by device time; the operator must run `selvedge refresh`",
            Self::BadMetadata => "is not of the known form, or does not belong to the rest",
        })
    }
}

/// Metadata that is wrong, not merely incomplete. What was trusted before stands.
#[derive(Debug, thiserror::Error)]
#[error("{role} metadata {code}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub role: Role,
    /// A version; for `Expired` the expiry date in seconds since 1970 UTC; for `BadSignature` how many are needed.
    pub expected: Option<u64>,
    /// A version; for `Expired` the device time; for `BadSignature` how many are valid.
    pub actual: Option<u64>,
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, role: Role) -> Self {
        Self { code, role, expected: None, actual: None, source: None }
    }

    pub(super) fn measured(code: RefusalCode, role: Role, expected: u64, actual: u64) -> Self {
        Self { expected: Some(expected), actual: Some(actual), ..Self::new(code, role) }
    }
}

/// What a run came to.
pub(super) struct Run {
    /// Newer roots that were reached, in order.
    pub roots: Vec<String>,
    pub outcome: Outcome,
}

pub(super) enum Outcome {
    /// All signatures, digests and versions hold; dates and delegated roles are not checked yet.
    Sound(Box<Sound>),
    /// A part is not there, or not the one that another part names: yet to come.
    Waiting,
    Refused(Refusal),
}

/// The four roles of a set.
pub(super) struct Sound {
    pub root: Signed<Root>,
    pub timestamp: Signed<Timestamp>,
    pub snapshot: Signed<Snapshot>,
    pub targets: Signed<Targets>,
}

impl Sound {
    fn of(repository: &Repository) -> Self {
        Self {
            root: repository.root().clone(),
            timestamp: repository.timestamp().clone(),
            snapshot: repository.snapshot().clone(),
            targets: repository.targets().clone(),
        }
    }

    /// From bytes that tough has passed under this root; what it checked of one file is checked again.
    fn reread(root: &str, board: &Board) -> Option<Self> {
        let root = state::parse_root(root)?;
        let timestamp: Signed<Timestamp> = serde_json::from_slice(board.files.get("timestamp.json")?).ok()?;
        let snapshot: Signed<Snapshot> = board.named(&timestamp.signed.meta, "snapshot.json")?;
        let targets: Signed<Targets> = board.named(&snapshot.signed.meta, "targets.json")?;
        let is_signed = root.signed.verify_role(&timestamp).is_ok()
            && root.signed.verify_role(&snapshot).is_ok()
            && root.signed.verify_role(&targets).is_ok();
        is_signed.then_some(Self { root, timestamp, snapshot, targets })
    }
}

pub(super) async fn run(state: &State, offered: &Offered) -> Result<Run, DiskError> {
    let scratch =
        tempfile::tempdir().map_err(|e| DiskError::io("make a scratch directory in", &std::env::temp_dir(), e))?;
    lay_out(state, scratch.path())?;
    let base = Url::parse("board:///").expect("a constant");
    let board = Board::new(state, offered);
    let result = RepositoryLoader::new(&state.root(), base.clone(), base)
        .transport(board.clone())
        .limits(limits())
        .datastore(scratch.path())
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await;
    let roots = reached(state, offered, scratch.path())?;
    let outcome = match result {
        Ok(repository) => Outcome::Sound(Box::new(Sound::of(&repository))),
        Err(error) if board.has_come_to_delegations() => {
            let root = roots.last().map_or(state.root(), String::as_str);
            match Sound::reread(root, &board) {
                Some(sound) => Outcome::Sound(Box::new(sound)),
                None => classify(error)?,
            }
        }
        Err(error) => classify(error)?,
    };
    Ok(Run { roots, outcome })
}

fn limits() -> Limits {
    Limits {
        max_root_size: Role::Root.limit() as u64,
        max_targets_size: Role::Targets.limit() as u64,
        max_timestamp_size: Role::Timestamp.limit() as u64,
        max_snapshot_size: Role::Snapshot.limit() as u64,
        ..Limits::default()
    }
}

fn lay_out(state: &State, scratch: &Path) -> Result<(), DiskError> {
    let Some(set) = state.set.as_ref().filter(|set| !set.versions_void) else {
        return Ok(());
    };
    for (file, text) in
        [("timestamp.json", &set.timestamp), ("snapshot.json", &set.snapshot), ("targets.json", &set.targets)]
    {
        RealDisk.write(&scratch.join(file), text.as_bytes())?;
    }
    Ok(())
}

/// The offered roots up to the one that tough left in its directory: it puts only verified ones there.
fn reached(state: &State, offered: &Offered, scratch: &Path) -> Result<Vec<String>, DiskError> {
    // tough writes the root anew, indented differently.
    let left = RealDisk.read(&scratch.join("root.json"), 4 * Role::Root.limit() as u64)?;
    let text = left.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let last = text.and_then(|text| state::parse_root(&text)).and_then(|root| state::version(&root));
    let first = state::parse_root(state.root()).and_then(|root| state::version(&root));
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Vec::new());
    };
    let new = (first..last).filter_map(|below| offered.get(Role::Root, below + 1));
    Ok(new.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
}

/// The newest root version that a timestamp says it belongs to. Not verified: it may only make us wait.
pub(super) fn root_hint(timestamp: &[u8]) -> Option<u64> {
    let timestamp: Signed<Timestamp> = serde_json::from_slice(timestamp).ok()?;
    timestamp.signed._extra.get("root")?.as_u64()
}

fn ours(role: RoleType) -> Role {
    match role {
        RoleType::Root => Role::Root,
        RoleType::Timestamp => Role::Timestamp,
        RoleType::Snapshot => Role::Snapshot,
        RoleType::Targets | RoleType::DelegatedTargets => Role::Targets,
    }
}

/// An outcome, or an error of the disk that says nothing about the metadata.
#[expect(clippy::wildcard_enum_match_arm, reason = "tough's enum is open; what is not named here is bad metadata")]
fn classify(error: Tough) -> Result<Outcome, DiskError> {
    use RefusalCode::{BadMetadata, BadSignature, StaleMetadata};
    use tough::schema::Error::SignatureThreshold;
    let refusal = match &error {
        Tough::Transport { source, .. } if is_not_there_yet(source) => return Ok(Outcome::Waiting),
        Tough::VerifyMetadata { role, source: SignatureThreshold { threshold, valid, .. }, .. } => {
            Refusal::measured(BadSignature, ours(*role), *threshold, *valid)
        }
        Tough::VerifyMetadata { role, .. } => Refusal::new(BadSignature, ours(*role)),
        Tough::VerifyTrustedMetadata { .. } => Refusal::new(BadSignature, Role::Root),
        // A root under a name that is not its version's.
        Tough::OlderMetadata { role: RoleType::Root, current_version, new_version, .. } => {
            Refusal::measured(BadMetadata, Role::Root, current_version.saturating_add(1), *new_version)
        }
        Tough::OlderMetadata { role, current_version, new_version, .. } => {
            Refusal::measured(StaleMetadata, ours(*role), *current_version, *new_version)
        }
        Tough::OlderSnapshotInTimestamp { snapshot_old, snapshot_new, .. } => {
            Refusal::measured(StaleMetadata, Role::Snapshot, *snapshot_old, *snapshot_new)
        }
        Tough::SnapshotRoleRollback { old_role_version, new_role_version, .. } => {
            Refusal::measured(StaleMetadata, Role::Targets, *old_role_version, *new_role_version)
        }
        Tough::VersionMismatch { role, expected, fetched, .. } => {
            Refusal::measured(BadMetadata, ours(*role), *expected, *fetched)
        }
        Tough::ParseMetadata { role, .. } => Refusal::new(BadMetadata, ours(*role)),
        Tough::DatastoreInit { .. }
        | Tough::DatastoreCreate { .. }
        | Tough::DatastoreOpen { .. }
        | Tough::DatastoreRemove { .. } => {
            let source = std::io::Error::other(error);
            return Err(DiskError::io("use the scratch directory in", &std::env::temp_dir(), source));
        }
        _ => Refusal::new(BadMetadata, Role::Timestamp),
    };
    Ok(Outcome::Refused(Refusal { source: Some(Box::new(error)), ..refusal }))
}

/// Absent, or of another digest or length than the part that names it says.
fn is_not_there_yet(error: &TransportError) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<Tough>());
    let mismatch = matches!(cause, Some(Tough::HashMismatch { .. } | Tough::MaxSizeExceeded { .. }));
    mismatch || error.kind() == TransportErrorKind::FileNotFound
}

/// The files of the four roles that are there: those offered, then those committed, which a newer
/// timestamp may still name.
#[derive(Debug, Clone)]
struct Board {
    files: HashMap<String, Bytes>,
    /// A file was asked for that is of none of the four.
    asked_beyond: Arc<AtomicBool>,
}

impl Board {
    fn new(state: &State, offered: &Offered) -> Self {
        let mut files = HashMap::new();
        if let Some(set) = &state.set {
            for (role, text) in [(Role::Snapshot, &set.snapshot), (Role::Targets, &set.targets)] {
                if let Some(version) = version_of(text) {
                    files.insert(role.file(version), Bytes::from(text.clone()));
                }
            }
        }
        files.extend(offered.files().map(|(name, bytes)| (name, Bytes::copy_from_slice(bytes))));
        Self { files, asked_beyond: Arc::default() }
    }

    fn has_come_to_delegations(&self) -> bool {
        self.asked_beyond.load(Ordering::SeqCst)
    }

    /// The file that another one names, if it is the one that was meant.
    fn named<T: DeserializeOwned>(&self, meta: &HashMap<String, Metafile>, name: &str) -> Option<T> {
        let meta = meta.get(name)?;
        let bytes = self.files.get(&format!("{}.{name}", meta.version))?;
        matches(meta, bytes).then(|| serde_json::from_slice(bytes).ok()).flatten()
    }
}

/// Whether a file has the length and the digest that its meta says, where it says them.
pub(super) fn matches(meta: &Metafile, bytes: &[u8]) -> bool {
    let is_long = meta.length.is_none_or(|length| length == bytes.len() as u64);
    let digest = Digest::of(bytes);
    is_long && meta.hashes.as_ref().is_none_or(|hashes| hashes.sha256.as_ref() == &digest.as_bytes()[..])
}

pub(super) fn version_of(text: &str) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    u32::try_from(value.get("signed")?.get("version")?.as_u64()?).ok()
}

/// `timestamp.json`, or a number and one of the other three.
fn is_of_the_four(file: &str) -> bool {
    let versioned = |(version, name): (&str, &str)| {
        version.bytes().all(|c| c.is_ascii_digit()) && matches!(name, "root.json" | "snapshot.json" | "targets.json")
    };
    file == "timestamp.json" || file.split_once('.').is_some_and(versioned)
}

#[async_trait::async_trait]
impl Transport for Board {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let name = url.path().trim_start_matches('/');
        if !is_of_the_four(name) {
            self.asked_beyond.store(true, Ordering::SeqCst);
        }
        let bytes = self.files.get(name).cloned();
        let bytes = bytes.ok_or_else(|| TransportError::new(TransportErrorKind::FileNotFound, &url))?;
        Ok(Box::pin(futures::stream::iter([Ok(bytes)])))
    }
}
