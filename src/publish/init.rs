//! The directory's beginning: keys, settings and the first, empty set of metadata.

use super::RepositoryError;
use super::current::{DAY, damaged};
use super::keys;
use super::passphrase::Passphrase;
use super::repository::{Pending, Repository};
use crate::sys::{Clock as _, Disk, RealClock, RealDisk};
use crate::trust::Role;
use crate::trust::author::{self, Holders, SigningKey, Stamp};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Days from signing until a role expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiries {
    pub root: u32,
    pub targets: u32,
    pub snapshot: u32,
    /// How long a board takes offers after the last publication or refresh.
    pub timestamp: u32,
}

impl Default for Expiries {
    fn default() -> Self {
        Self { root: 3650, targets: 365, snapshot: 365, timestamp: 30 }
    }
}

/// Which keys are made under a passphrase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sealing {
    #[default]
    None,
    Root,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitOptions {
    /// How many root keys are made, and how many of them a new root needs.
    pub root_keys: u32,
    pub root_threshold: u32,
    pub expiries: Expiries,
    pub sealing: Sealing,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { root_keys: 1, root_threshold: 1, expiries: Expiries::default(), sealing: Sealing::None }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Settings {
    pub format: u32,
    pub expire_after_days: Expiries,
}

const MAX_SMALL_FILE: u64 = 1 << 20;

const LOCK_TRIES: usize = 10;

impl Repository {
    /// Makes keys and first metadata in a directory that is not there or empty.
    pub fn init(dir: &Path, options: &InitOptions) -> Result<Self, RepositoryError> {
        Self::init_with(dir, options, &Passphrase::default())
    }

    /// With the passphrase that keys are put under.
    pub fn init_with(dir: &Path, options: &InitOptions, passphrase: &Passphrase) -> Result<Self, RepositoryError> {
        if !(1..=options.root_keys).contains(&options.root_threshold) || options.root_keys > 16 {
            return Err(RepositoryError::Options("the threshold is 1 to the number of root keys, at most 16"));
        }
        if !RealDisk.list(dir)?.is_empty() {
            return Err(RepositoryError::AlreadyThere(dir.to_owned()));
        }
        RealDisk.create_dir(dir)?;
        let lock = lock(dir)?;
        let key_dir = dir.join("keys");
        let names = (1..=options.root_keys).map(|n| format!("root.{n}"));
        let seal = (options.sealing != Sealing::None).then_some(passphrase);
        let root_keys = names.map(|name| keys::create(&key_dir, &name, seal)).collect::<Result<Vec<_>, _>>()?;
        let seal = (options.sealing == Sealing::All).then_some(passphrase);
        let online = [Role::Targets, Role::Snapshot, Role::Timestamp];
        let online = online.map(|role| keys::create(&key_dir, &format!("{role}.1"), seal).map(|key| (role, key)));
        let online = online.into_iter().collect::<Result<BTreeMap<_, _>, _>>()?;
        write_first_set(dir, options, &root_keys, &online)?;
        // Kept, not taken anew: a child that another thread just started may still hold this one's file.
        Self::open_locked(dir, lock, passphrase)
    }
}

fn write_first_set(
    dir: &Path,
    options: &InitOptions,
    root_keys: &[SigningKey],
    online: &BTreeMap<Role, SigningKey>,
) -> Result<(), RepositoryError> {
    let (disk, metadata) = (RealDisk, dir.join("metadata"));
    let settings = Settings { format: 1, expire_after_days: options.expiries };
    write_json(&disk, &dir.join("settings.json"), &settings)?;
    write_json(&disk, &dir.join("pending.json"), &Pending { roots: vec![1], chunks: Vec::new() })?;
    let now = RealClock::new().system();
    let stamp = |days: u32| Stamp { version: 1, expires: now + u64::from(days) * DAY };
    let mut holders: BTreeMap<Role, Holders<'_>> =
        online.iter().map(|(&role, key)| (role, Holders { keys: vec![key], threshold: 1 })).collect();
    let signers: Vec<&SigningKey> = root_keys.iter().collect();
    holders.insert(Role::Root, Holders { keys: signers.clone(), threshold: options.root_threshold });
    let days = options.expiries;
    let root = author::root(stamp(days.root), &holders, &signers)?;
    let key = |role| online.get(&role).map(|key| vec![key]).unwrap_or_default();
    let targets = author::targets(stamp(days.targets), &BTreeMap::new(), &key(Role::Targets))?;
    let snapshot = author::snapshot(stamp(days.snapshot), (1, &targets), &key(Role::Snapshot))?;
    let timestamp = author::timestamp(stamp(days.timestamp), now, 1, (1, &snapshot), &key(Role::Timestamp))?;
    for (role, bytes) in
        [(Role::Root, root), (Role::Targets, targets), (Role::Snapshot, snapshot), (Role::Timestamp, timestamp)]
    {
        disk.commit(&metadata.join(role.file(1)), &bytes)?;
    }
    Ok(())
}

/// Held by an open file: the system lets go of it when the process ends, however it ends.
pub(super) fn lock(dir: &Path) -> Result<File, RepositoryError> {
    let path = dir.join("lock");
    let failed = |source| RepositoryError::Lock { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    // A program that this one has just started may hold a lock that was let go of, until it runs.
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(RepositoryError::Locked(dir.to_owned()))
}

pub(super) fn read_json<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, RepositoryError> {
    let Some(bytes) = disk.read(path, MAX_SMALL_FILE)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(path.to_owned(), e))
}

pub(super) fn write_json<T: Serialize>(disk: &dyn Disk, path: &Path, value: &T) -> Result<(), RepositoryError> {
    let bytes = serde_json::to_vec_pretty(value).expect("plain data serializes");
    Ok(disk.commit(path, &bytes)?)
}
