//! The metadata that counts: what `timestamp.json` names, under the newest root.

use super::RepositoryError;
use super::keys::KeyRing;
use super::submission::{MAX_TEAM_FILE, file_name};
use crate::bundle::topics::is_delegated_name;
use crate::bundle::{Digest, MAX_CHUNK_WIRE};
use crate::sys::Disk;
use crate::trust::author::{self, SigningKey, Stamp, TargetEntry};
use crate::trust::{Custom, Role};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tough::schema::{self, Delegations, Metafile, Root, Signed, Snapshot, Targets, Timestamp};

/// A file as it is, with what must be known of it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub version: u32,
    pub expires: u64,
    pub bytes: Vec<u8>,
    /// The keys that count now signed it.
    pub is_signed: bool,
}

/// What a team has signed.
#[derive(Debug, Clone)]
pub(super) struct TeamFile {
    pub part: Part,
    /// None where its keys do not count any more.
    pub entries: Entries,
}

pub(super) type Entries = BTreeMap<String, TargetEntry>;

#[derive(Debug)]
pub(super) struct Current {
    pub root: Signed<Root>,
    pub root_version: u32,
    pub timestamp: Part,
    pub snapshot: Part,
    pub targets: Part,
    pub entries: Entries,
    pub delegations: Option<Delegations>,
    /// What the snapshot names of those that are delegated to.
    pub teams: BTreeMap<String, TeamFile>,
    /// What teams have signed here and the snapshot does not name yet.
    pub drafts: BTreeMap<String, TeamFile>,
    /// How the snapshot names the files of teams, those of former ones too: it may drop none.
    listed: BTreeMap<String, Metafile>,
    pub issued: u64,
}

/// What is to be different in the next set.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub entries: Option<Entries>,
    pub delegations: Option<Delegations>,
    /// New files of teams: version and bytes.
    pub files: BTreeMap<String, (u32, Vec<u8>)>,
}

/// A new set, signed and not yet written. What did not change keeps its version.
#[derive(Debug)]
pub(super) struct NextSet {
    pub timestamp: (u32, Vec<u8>),
    pub snapshot: (u32, Vec<u8>),
    pub targets: (u32, Vec<u8>),
    /// File names and bytes.
    pub teams: Vec<(String, Vec<u8>)>,
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
        let delegations = targets.signed.delegations.clone();
        let listed = listed(&snapshot.signed);
        let (teams, drafts) = read_teams(disk, dir, delegations.as_ref(), &listed)?;
        Ok(Self {
            root_version,
            timestamp: part(&root.signed, &timestamp, timestamp_bytes),
            snapshot: part(&root.signed, &snapshot, snapshot_bytes),
            targets: part(&root.signed, &targets, targets_bytes),
            entries,
            delegations,
            teams,
            drafts,
            listed,
            issued,
            root,
        })
    }

    /// Targets of all who sign.
    pub fn all_entries(&self) -> impl Iterator<Item = &TargetEntry> {
        let teams = self.teams.values().chain(self.drafts.values());
        self.entries.values().chain(teams.flat_map(|file| file.entries.values()))
    }

    /// The version and the targets that a team's next file goes on from.
    pub fn newest_of(&self, team: &str) -> (u32, Entries) {
        let file = self.drafts.get(team).or_else(|| self.teams.get(team));
        let version = self.listed.get(team).map_or(0, |meta| u32::try_from(meta.version.get()).unwrap_or(u32::MAX));
        file.map_or((version, Entries::new()), |file| (file.part.version.max(version), file.entries.clone()))
    }

    /// A role's keys by their public halves.
    pub fn public_keys(&self, role: Role) -> Vec<SigningKey> {
        let root = &self.root.signed;
        let ids = root.roles.get(&super::keys::role_type(role)).map(|keys| keys.keyids.clone()).unwrap_or_default();
        ids.iter().filter_map(|id| root.keys.get(id)).filter_map(SigningKey::of).collect()
    }

    pub fn threshold(&self, role: Role) -> u32 {
        let keys = self.root.signed.roles.get(&super::keys::role_type(role));
        keys.and_then(|keys| u32::try_from(keys.threshold.get()).ok()).unwrap_or(1)
    }

    /// The targets of a team's file, which its keys must have signed; or what is wrong with it.
    pub fn check_team_file(&self, team: &str, version: u32, bytes: &[u8]) -> Result<Entries, String> {
        let all = self.delegations.as_ref().ok_or("nothing is delegated to anybody")?;
        let signed: Signed<Targets> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        all.verify_role(&signed, team).map_err(|e| e.to_string())?;
        if signed.signed.version.get() != u64::from(version) || bytes.len() > MAX_TEAM_FILE {
            return Err("its file is of another version than it says, or too large".to_owned());
        }
        entries(&signed.signed).ok_or_else(|| "a target in it is not of our form".to_owned())
    }

    pub fn root_expires(&self) -> u64 {
        u64::try_from(self.root.signed.expires.as_second()).unwrap_or(0)
    }

    /// Signs the next set: the timestamp always, the others where they change, where a newer root
    /// has other keys for them, or where they would not outlive the new timestamp.
    pub fn next(
        &self,
        keys: &KeyRing,
        change: &Change,
        lifetimes: Lifetimes,
        now: u64,
    ) -> Result<NextSet, RepositoryError> {
        // Never back, but by new keys: those that dated ahead by a wrong clock have lost their hold.
        let issued = if self.timestamp.is_signed { now.max(self.issued) } else { now };
        let until = |days: u64| issued.saturating_add(days.saturating_mul(DAY));
        let stamp = |part: &Part, days| Stamp { version: part.version.saturating_add(1), expires: until(days) };
        let is_old = |part: &Part| !part.is_signed || part.expires < until(lifetimes.timestamp);
        let signers = |role| keys.signers(&self.root.signed, role);
        let is_changed = change.entries.is_some() || change.delegations.is_some();
        let targets = if is_changed || is_old(&self.targets) {
            let stamp = stamp(&self.targets, lifetimes.targets);
            let entries = change.entries.as_ref().unwrap_or(&self.entries);
            let delegations = change.delegations.as_ref().or(self.delegations.as_ref());
            let bytes = author::targets_with(stamp, entries, delegations, &signers(Role::Targets)?)?;
            (stamp.version, bytes)
        } else {
            (self.targets.version, self.targets.bytes.clone())
        };
        let is_changed = targets.0 != self.targets.version || !change.files.is_empty();
        let snapshot = if is_changed || is_old(&self.snapshot) {
            let stamp = stamp(&self.snapshot, lifetimes.snapshot);
            let named = self.named_files(&targets, &change.files)?;
            (stamp.version, author::snapshot_of(stamp, named, &signers(Role::Snapshot)?)?)
        } else {
            (self.snapshot.version, self.snapshot.bytes.clone())
        };
        let stamp = stamp(&self.timestamp, lifetimes.timestamp);
        let named = (snapshot.0, snapshot.1.as_slice());
        let bytes = author::timestamp(stamp, issued, self.root_version, named, &signers(Role::Timestamp)?)?;
        let file = |(team, (version, bytes)): (&String, &(u32, Vec<u8>))| (team_file(*version, team), bytes.clone());
        let teams = change.files.iter().map(file).collect();
        let set = NextSet { timestamp: (stamp.version, bytes), snapshot, targets, teams };
        set.check_size()?;
        Ok(set)
    }

    fn named_files(
        &self,
        targets: &(u32, Vec<u8>),
        new: &BTreeMap<String, (u32, Vec<u8>)>,
    ) -> Result<BTreeMap<String, Metafile>, RepositoryError> {
        let mut named: BTreeMap<String, Metafile> =
            self.listed.iter().map(|(team, meta)| (format!("{team}.json"), meta.clone())).collect();
        for (team, (version, bytes)) in new {
            named.insert(format!("{team}.json"), author::metafile(*version, bytes)?);
        }
        named.insert("targets.json".to_owned(), author::metafile(targets.0, &targets.1)?);
        Ok(named)
    }
}

/// A team's file, on the board and in the directory.
pub(super) fn team_file(version: u32, team: &str) -> String {
    format!("{version}.{team}.json")
}

fn listed(snapshot: &Snapshot) -> BTreeMap<String, Metafile> {
    let team = |(file, meta): (&String, &Metafile)| {
        let name = file.strip_suffix(".json").filter(|name| is_delegated_name(name))?;
        Some((name.to_owned(), meta.clone()))
    };
    snapshot.meta.iter().filter_map(team).collect()
}

type Teams = BTreeMap<String, TeamFile>;

/// Files of teams: those that the snapshot names, and newer ones that it does not.
fn read_teams(
    disk: &dyn Disk,
    dir: &Path,
    delegations: Option<&Delegations>,
    listed: &BTreeMap<String, Metafile>,
) -> Result<(Teams, Teams), RepositoryError> {
    let (mut teams, mut drafts) = (Teams::new(), Teams::new());
    let Some(delegations) = delegations else { return Ok((teams, drafts)) };
    let written: Vec<(u32, String)> = disk.list(dir)?.iter().filter_map(|name| file_name(name)).collect();
    for role in &delegations.roles {
        let version = listed.get(&role.name).map_or(0, |meta| u32::try_from(meta.version.get()).unwrap_or(0));
        let newest = written.iter().filter(|(_, team)| *team == role.name).map(|(version, _)| *version).max();
        if version > 0 {
            teams.insert(role.name.clone(), read_team(disk, dir, delegations, &role.name, version)?);
        }
        if let Some(newest) = newest.filter(|newest| *newest > version) {
            let draft = read_team(disk, dir, delegations, &role.name, newest)?;
            if draft.part.is_signed {
                drafts.insert(role.name.clone(), draft);
            }
        }
    }
    Ok((teams, drafts))
}

fn read_team(
    disk: &dyn Disk,
    dir: &Path,
    delegations: &Delegations,
    team: &str,
    version: u32,
) -> Result<TeamFile, RepositoryError> {
    let path = dir.join(team_file(version, team));
    let bytes = disk.read(&path, MAX_TEAM_FILE as u64)?.ok_or_else(|| damaged(path.clone(), "it is not there"))?;
    let signed: Signed<Targets> = serde_json::from_slice(&bytes).map_err(|e| damaged(path.clone(), e))?;
    let is_signed = delegations.verify_role(&signed, team).is_ok();
    let found = if is_signed { entries(&signed.signed) } else { Some(Entries::new()) };
    let entries = found.ok_or_else(|| damaged(path, "a target is not of our form"))?;
    let expires = u64::try_from(signed.signed.expires.as_second()).unwrap_or(0);
    Ok(TeamFile { part: Part { version, expires, bytes, is_signed }, entries })
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
        for (file, bytes) in &self.teams {
            disk.commit(&dir.join(file), bytes)?;
        }
        for (role, (version, bytes)) in self.files() {
            disk.commit(&dir.join(role.file(*version)), bytes)?;
        }
        Ok(())
    }
}

fn entries(targets: &Targets) -> Option<Entries> {
    let entry = |target: &schema::Target| {
        let digest = Digest::from_bytes(target.hashes.sha256.as_ref().try_into().ok()?);
        Some(TargetEntry { digest, size: target.length, custom: Custom::of(target)? })
    };
    targets.targets.iter().map(|(name, target)| Some((name.raw().to_owned(), entry(target)?))).collect()
}
