//! The metadata that counts: what `timestamp.json` names, under the newest root.

use super::RepositoryError;
use super::keys::KeyRing;
use crate::bundle::{Digest, MAX_CHUNK_WIRE};
use crate::sys::Disk;
use crate::trust::author::{self, Stamp, TargetEntry};
use crate::trust::{Custom, Role};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tough::schema::{self, Root, Signed, Snapshot, Targets, Timestamp};

/// A file as it is, with what must be known of it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub version: u32,
    expires: u64,
    pub bytes: Vec<u8>,
    /// The newest root's keys signed it.
    is_signed: bool,
}

#[derive(Debug)]
pub(super) struct Current {
    pub root: Signed<Root>,
    pub root_version: u32,
    pub timestamp: Part,
    pub snapshot: Part,
    pub targets: Part,
    pub entries: BTreeMap<String, TargetEntry>,
    pub issued: u64,
}

/// A new set, signed and not yet written. What did not change keeps its version.
#[derive(Debug)]
pub(super) struct NextSet {
    pub timestamp: (u32, Vec<u8>),
    pub snapshot: (u32, Vec<u8>),
    pub targets: (u32, Vec<u8>),
}

/// Days that the roles of a set last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    pub timestamp: u64,
    pub snapshot: u64,
    pub targets: u64,
}

pub(super) const DAY: u64 = 86_400;

pub(super) fn damaged(path: PathBuf, problem: impl std::fmt::Display) -> RepositoryError {
    RepositoryError::Damaged { path, problem: problem.to_string() }
}

/// Roots stand without a gap from version 1.
pub(super) fn newest_root(disk: &dyn Disk, dir: &Path) -> Result<Option<u32>, RepositoryError> {
    let names = disk.list(dir)?;
    let is_there = |version: &u32| names.contains(&Role::Root.file(*version));
    Ok((1..).take_while(is_there).last())
}

pub(super) fn read_file(disk: &dyn Disk, dir: &Path, role: Role, version: u32) -> Result<Vec<u8>, RepositoryError> {
    let path = dir.join(role.file(version));
    let bytes = disk.read(&path, role.limit() as u64)?;
    bytes.ok_or_else(|| damaged(path, "it is not there"))
}

fn read<T: DeserializeOwned>(
    disk: &dyn Disk,
    dir: &Path,
    role: Role,
    version: u32,
) -> Result<(Signed<T>, Vec<u8>), RepositoryError> {
    let bytes = read_file(disk, dir, role, version)?;
    let signed = serde_json::from_slice(&bytes).map_err(|e| damaged(dir.join(role.file(version)), e))?;
    Ok((signed, bytes))
}

fn part<T: schema::Role + Serialize>(root: &Root, signed: &Signed<T>, bytes: Vec<u8>) -> Part {
    Part {
        version: u32::try_from(signed.signed.version().get()).unwrap_or(u32::MAX),
        expires: u64::try_from(signed.signed.expires().as_second()).unwrap_or(0),
        bytes,
        is_signed: root.verify_role(signed).is_ok(),
    }
}

fn named(meta: &std::collections::HashMap<String, schema::Metafile>, file: &str) -> u32 {
    meta.get(file).and_then(|meta| u32::try_from(meta.version.get()).ok()).unwrap_or(0)
}

impl Current {
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Self, RepositoryError> {
        let missing = || RepositoryError::NotThere(dir.parent().unwrap_or(dir).to_owned());
        let root_version = newest_root(disk, dir)?.ok_or_else(missing)?;
        if disk.read(&dir.join(Role::Timestamp.file(0)), Role::Timestamp.limit() as u64)?.is_none() {
            return Err(missing());
        }
        let (root, _) = read::<Root>(disk, dir, Role::Root, root_version)?;
        let (timestamp, timestamp_bytes) = read::<Timestamp>(disk, dir, Role::Timestamp, 0)?;
        let snapshot_version = named(&timestamp.signed.meta, "snapshot.json");
        let (snapshot, snapshot_bytes) = read::<Snapshot>(disk, dir, Role::Snapshot, snapshot_version)?;
        let targets_version = named(&snapshot.signed.meta, "targets.json");
        let (targets, targets_bytes) = read::<Targets>(disk, dir, Role::Targets, targets_version)?;
        let entries = entries(&targets.signed)
            .ok_or_else(|| damaged(dir.join(Role::Targets.file(targets_version)), "a target is not of our form"))?;
        let issued = timestamp.signed._extra.get("issued").and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok(Self {
            root_version,
            timestamp: part(&root.signed, &timestamp, timestamp_bytes),
            snapshot: part(&root.signed, &snapshot, snapshot_bytes),
            targets: part(&root.signed, &targets, targets_bytes),
            entries,
            issued,
            root,
        })
    }

    pub fn root_expires(&self) -> u64 {
        u64::try_from(self.root.signed.expires.as_second()).unwrap_or(0)
    }

    /// Signs the next set: the timestamp always, the others where they change, where a newer root
    /// has other keys for them, or where they would not outlive the new timestamp.
    pub fn next(
        &self,
        keys: &KeyRing,
        entries: Option<&BTreeMap<String, TargetEntry>>,
        lifetimes: Lifetimes,
        now: u64,
    ) -> Result<NextSet, RepositoryError> {
        let issued = now.max(self.issued);
        let until = |days: u64| issued.saturating_add(days.saturating_mul(DAY));
        let stamp = |part: &Part, days| Stamp { version: part.version.saturating_add(1), expires: until(days) };
        let is_old = |part: &Part| !part.is_signed || part.expires < until(lifetimes.timestamp);
        let signers = |role| keys.signers(&self.root.signed, role);
        let targets = if entries.is_some() || is_old(&self.targets) {
            let stamp = stamp(&self.targets, lifetimes.targets);
            let bytes = author::targets(stamp, entries.unwrap_or(&self.entries), &signers(Role::Targets)?)?;
            (stamp.version, bytes)
        } else {
            (self.targets.version, self.targets.bytes.clone())
        };
        let snapshot = if targets.0 != self.targets.version || is_old(&self.snapshot) {
            let stamp = stamp(&self.snapshot, lifetimes.snapshot);
            (stamp.version, author::snapshot(stamp, (targets.0, &targets.1), &signers(Role::Snapshot)?)?)
        } else {
            (self.snapshot.version, self.snapshot.bytes.clone())
        };
        let stamp = stamp(&self.timestamp, lifetimes.timestamp);
        let named = (snapshot.0, snapshot.1.as_slice());
        let bytes = author::timestamp(stamp, issued, self.root_version, named, &signers(Role::Timestamp)?)?;
        let set = NextSet { timestamp: (stamp.version, bytes), snapshot, targets };
        set.check_size()?;
        Ok(set)
    }
}

impl NextSet {
    fn files(&self) -> [(Role, &(u32, Vec<u8>)); 3] {
        [(Role::Targets, &self.targets), (Role::Snapshot, &self.snapshot), (Role::Timestamp, &self.timestamp)]
    }

    fn check_size(&self) -> Result<(), RepositoryError> {
        for (role, (_, bytes)) in self.files() {
            let (size, limit) = (bytes.len(), MAX_CHUNK_WIRE.min(role.limit()));
            if size > limit {
                return Err(RepositoryError::TooManyTargets { role, size, limit });
            }
        }
        Ok(())
    }

    /// The timestamp last: with it the set counts.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), RepositoryError> {
        for (role, (version, bytes)) in self.files() {
            disk.commit(&dir.join(role.file(*version)), bytes)?;
        }
        Ok(())
    }
}

fn entries(targets: &Targets) -> Option<BTreeMap<String, TargetEntry>> {
    let entry = |target: &schema::Target| {
        let digest = Digest::from_bytes(target.hashes.sha256.as_ref().try_into().ok()?);
        Some(TargetEntry { digest, size: target.length, custom: Custom::of(target)? })
    };
    targets.targets.iter().map(|(name, target)| Some((name.raw().to_owned(), entry(target)?))).collect()
}
