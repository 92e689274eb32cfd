//! The operator's directory: made, opened, published from, cleared up.

use super::RepositoryError;
use super::board::{Post, Publication, Release};
use super::chunks::Chunks;
use super::current::{Change, Current, Lifetimes, NextSet, damaged, read_file, team_file};
use super::cutting::{Audience, Cutting};
use super::deltas::Deltas;
use super::held;
use super::init::{Expiries, Settings, lock, read_json, write_json};
use super::keys::KeyRing;
use super::passphrase::Passphrase;
use super::teams::team_target;
use crate::bundle::{Bundle, Digest, ModelName, topics};
use crate::sys::{Clock, Disk, RealClock, RealDisk};
use crate::trust::author::TargetEntry;
use crate::trust::{Custom, Hold, Role};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishOptions {
    /// This version is meant to replace newer ones.
    pub allow_downgrade: bool,
    /// Boards on which this version failed before shall try it again.
    pub retry: bool,
    /// From how many of the versions offered so far there shall be deltas.
    pub deltas: usize,
    /// Boards shall not wait for their windows, nor for a quiet moment.
    pub urgent: bool,
}

impl PublishOptions {
    /// One for each audience that most operators have: all, the first few, the lab.
    pub const DELTAS: usize = 3;
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { allow_downgrade: false, retry: false, deltas: Self::DELTAS, urgent: false }
    }
}

/// What no finished upload has covered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub roots: Vec<u32>,
    /// In publishing order.
    pub chunks: Vec<Digest>,
}

/// What the board holds and nothing names any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Empty posts: each clears a topic.
    pub posts: Vec<Post>,
    chunks: Vec<Digest>,
    files: Vec<String>,
}

/// See the module's head. One at a time has a directory.
#[derive(Debug)]
pub struct Repository {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    chunks: Chunks,
    keys: KeyRing,
    expiries: Expiries,
    current: Current,
    _lock: Option<File>,
}

impl Repository {
    pub fn open(dir: &Path) -> Result<Self, RepositoryError> {
        Self::open_with(dir, &Passphrase::default())
    }

    /// With the passphrase that its keys may be under.
    pub fn open_with(dir: &Path, passphrase: &Passphrase) -> Result<Self, RepositoryError> {
        if !dir.join("settings.json").exists() {
            return Err(RepositoryError::NotThere(dir.to_owned()));
        }
        Self::open_locked(dir, lock(dir)?, passphrase)
    }

    pub(super) fn open_locked(dir: &Path, lock: File, passphrase: &Passphrase) -> Result<Self, RepositoryError> {
        let keys = KeyRing::load(&dir.join("keys"), passphrase)?;
        let mut repository = Self::assemble(Arc::new(RealDisk), Arc::new(RealClock::new()), dir, keys)?;
        repository._lock = Some(lock);
        Ok(repository)
    }

    /// From parts that a test may put in place of the real ones. Takes no lock.
    pub(super) fn assemble(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        keys: KeyRing,
    ) -> Result<Self, RepositoryError> {
        let settings: Settings =
            read_json(&*disk, &dir.join("settings.json"))?.ok_or_else(|| RepositoryError::NotThere(dir.to_owned()))?;
        if settings.format != 1 {
            return Err(damaged(dir.join("settings.json"), "its format is not 1; use a newer Selvedge"));
        }
        let current = Current::load(&*disk, &dir.join("metadata"))?;
        let expiries = settings.expire_after_days;
        let chunks = Chunks::new(disk.clone(), dir.join("chunks"));
        Ok(Self { disk, clock, dir: dir.to_owned(), chunks, keys, expiries, current, _lock: None })
    }

    /// The newest root, for `/etc/selvedge/root.json` on devices.
    pub fn root_json(&self) -> Result<Vec<u8>, RepositoryError> {
        read_file(&*self.disk, &self.metadata(), Role::Root, self.current.root_version)
    }

    pub fn root_version(&self) -> u32 {
        self.current.root_version
    }

    /// When the newest root expires, seconds since 1970 UTC; `rotate` renews it.
    pub fn root_expires(&self) -> u64 {
        self.current.root_expires()
    }

    /// The date of the last signature, seconds since 1970 UTC: what devices hold for the earliest now.
    pub fn issued(&self) -> u64 {
        self.current.issued
    }

    /// Offers a bundle to an audience. Done means that the directory holds it; `upload` and
    /// `confirm` come after.
    pub fn publish(
        &mut self,
        bundle: &Bundle,
        audience: &Audience,
        options: &PublishOptions,
    ) -> Result<Publication, RepositoryError> {
        audience.check()?;
        let cutting = Cutting::of(bundle)?;
        let name = audience.target_name(&bundle.manifest().name);
        self.check_version(bundle, &cutting, self.current.entries.get(&name), options)?;
        let deltas = self.deltas(bundle, &cutting, options)?;
        let mut entry = self.entry(bundle, &cutting, audience, options)?;
        deltas.name(&mut entry.custom);
        let mut entries = self.current.entries.clone();
        held::replace(&mut entries, name, entry, |_| true);
        // Signed before anything is written: a missing key leaves no trace.
        let set = self.next_set(&Change { entries: Some(entries), ..Change::default() })?;
        let new = self.keep(&cutting, &deltas)?;
        self.write_set(&set)?;
        let release = Release { deltas: deltas.from, ..cutting.release(&new) };
        Ok(Publication { release: Some(release), ..self.outstanding()? })
    }

    /// From the versions that are offered now, by whoever.
    pub(super) fn deltas(
        &self,
        bundle: &Bundle,
        cutting: &Cutting,
        options: &PublishOptions,
    ) -> Result<Deltas, RepositoryError> {
        Deltas::of(bundle, cutting, self.current.all_entries(), &self.chunks, options.deltas)
    }

    /// A new timestamp, and what else would expire before it does.
    pub fn refresh(&mut self) -> Result<Publication, RepositoryError> {
        self.advance(&Change::default())?;
        self.outstanding()
    }

    pub(super) fn next_set(&self, change: &Change) -> Result<NextSet, RepositoryError> {
        self.current.next(&self.keys, change, self.lifetimes(), self.clock.system())
    }

    pub(super) fn write_set(&mut self, set: &NextSet) -> Result<(), RepositoryError> {
        set.write(&*self.disk, &self.metadata())?;
        self.reload()
    }

    pub(super) fn advance(&mut self, change: &Change) -> Result<(), RepositoryError> {
        let set = self.next_set(change)?;
        self.write_set(&set)
    }

    /// A root that enough have signed, made the newest.
    pub(super) fn commit_root(&mut self, version: u32, bytes: &[u8]) -> Result<(), RepositoryError> {
        let mut pending = self.pending()?;
        pending.roots.push(version);
        self.save_pending(&pending)?;
        self.disk.commit(&self.metadata().join(Role::Root.file(version)), bytes)?;
        self.reload()
    }

    /// What a team has signed and nobody has taken yet.
    pub(super) fn write_draft(&mut self, team: &str, version: u32, bytes: &[u8]) -> Result<(), RepositoryError> {
        self.disk.commit(&self.metadata().join(team_file(version, team)), bytes)?;
        self.reload()
    }

    /// All that a board must show: puts back one that was lost.
    pub fn everything(&self) -> Result<Publication, RepositoryError> {
        let roots = (1..=self.current.root_version).collect();
        let (mut chunks, mut nodes) = (BTreeSet::new(), Vec::new());
        for entry in self.current.all_entries() {
            chunks.extend(self.chunks.referenced(entry)?);
            nodes.extend(Chunks::nodes(entry));
        }
        chunks.retain(|digest| !nodes.contains(digest));
        nodes.sort();
        nodes.dedup();
        let chunks = chunks.into_iter().chain(nodes).collect();
        self.publication(Pending { roots, chunks })
    }

    /// The version that is offered to an audience, and the digests of all that it is made of.
    pub(super) fn offered(
        &self,
        model: &ModelName,
        audience: &Audience,
    ) -> Result<(u32, Vec<Digest>), RepositoryError> {
        let name = audience.target_name(model);
        let of_teams = self.current.teams.iter().map(|(team, file)| file.entries.get(&team_target(team, &name)));
        let offers = of_teams.chain([self.current.entries.get(&name)]).flatten();
        let entry = offers.max_by_key(|entry| (entry.custom.version, entry.custom.published));
        let entry = entry.ok_or_else(|| RepositoryError::NotOffered { model: model.clone() })?;
        let (index, parts) = self.chunks.index(entry.digest)?;
        let chunks = index.chunks.iter().map(|chunk| chunk.sha256);
        Ok((entry.custom.version, chunks.chain(parts).chain([entry.digest]).collect()))
    }

    /// Notes that the board has it: what is confirmed is not posted again.
    pub fn confirm(&mut self, publication: &Publication) -> Result<(), RepositoryError> {
        let mut pending = self.pending()?;
        pending.roots.retain(|version| !publication.roots.contains(version));
        let sent: BTreeSet<&Digest> = publication.chunks.iter().collect();
        pending.chunks.retain(|digest| !sent.contains(digest));
        self.save_pending(&pending)
    }

    /// Chunks that no index names, and metadata that newer has replaced.
    pub fn garbage(&self) -> Result<Garbage, RepositoryError> {
        let used = self.used()?;
        let chunks: Vec<Digest> = self.chunks.list()?.into_iter().filter(|digest| !used.contains(digest)).collect();
        let mut files = Vec::new();
        let current = &self.current;
        let four = [(Role::Targets.name(), current.targets.version), (Role::Snapshot.name(), current.snapshot.version)];
        let teams = current.teams.iter().map(|(team, file)| (team.as_str(), file.part.version));
        let names = self.disk.list(&self.metadata())?;
        for (role, newest) in four.into_iter().chain(teams) {
            files.extend(names.iter().filter(|name| is_older(name, role, newest)).cloned());
        }
        let clear = |topic| Post { topic, bytes: Vec::new() };
        let posts = files.iter().map(topics::tuf).chain(chunks.iter().map(topics::chunk));
        Ok(Garbage { posts: posts.map(clear).collect(), chunks, files })
    }

    /// Removes from the directory what was cleared on the board.
    pub fn sweep(&mut self, garbage: &Garbage) -> Result<(), RepositoryError> {
        let mut pending = self.pending()?;
        pending.chunks.retain(|digest| !garbage.chunks.contains(digest));
        self.save_pending(&pending)?;
        for digest in &garbage.chunks {
            self.chunks.remove(digest)?;
        }
        for file in &garbage.files {
            self.disk.remove(&self.metadata().join(file))?;
        }
        Ok(())
    }

    pub(super) fn entry(
        &self,
        bundle: &Bundle,
        cutting: &Cutting,
        audience: &Audience,
        options: &PublishOptions,
    ) -> Result<TargetEntry, RepositoryError> {
        let manifest = bundle.manifest();
        let of_model = || self.current.all_entries().map(|entry| &entry.custom).filter(|c| c.model == manifest.name);
        let tried = of_model().filter(|custom| custom.version == manifest.version).map(|custom| custom.retry).max();
        let before = of_model().map(|custom| custom.published).max().unwrap_or(0);
        let mut custom = Custom::new(manifest.name.clone(), manifest.version, audience.selector()?);
        custom.needs = audience.needs.clone();
        custom.waves = audience.waves.clone();
        custom.urgent = options.urgent;
        custom.allow_downgrade = options.allow_downgrade;
        custom.retry = tried.map_or(0, |epoch| epoch.saturating_add(u32::from(options.retry)));
        custom.memory_mib = manifest.budget.memory_mib;
        custom.since = self.clock.system();
        custom.published = before.max(self.current.targets.version).saturating_add(1);
        Ok(TargetEntry { digest: cutting.node_digest(), size: cutting.node.len() as u64, custom })
    }

    pub(super) fn check_version(
        &self,
        bundle: &Bundle,
        cutting: &Cutting,
        replaced: Option<&TargetEntry>,
        options: &PublishOptions,
    ) -> Result<(), RepositoryError> {
        let (model, version) = (&bundle.manifest().name, bundle.manifest().version);
        for entry in self.current.all_entries() {
            let is_same = entry.custom.model == *model && entry.custom.version == version;
            if is_same && entry.digest != cutting.node_digest() {
                let published = self.chunks.index(entry.digest)?.0.sha256;
                if published != bundle.digest() {
                    return Err(RepositoryError::VersionTaken { model: model.clone(), version, published });
                }
            }
        }
        if replaced.is_some_and(|entry| entry.custom.version == version && entry.custom.hold == Some(Hold::Paused)) {
            return Err(RepositoryError::Paused { model: model.clone(), version });
        }
        match replaced.map(|entry| entry.custom.version) {
            Some(published) if published > version && !options.allow_downgrade => {
                Err(RepositoryError::NotNewer { model: model.clone(), published, offered: version })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Writes the chunks that are not there; noted as pending first, so that none is forgotten.
    pub(super) fn keep(&self, cutting: &Cutting, deltas: &Deltas) -> Result<BTreeSet<Digest>, RepositoryError> {
        // What no offer names may be gone from the board: it was cleared, or the board was lost since.
        let used = self.used()?;
        let there: BTreeSet<Digest> = self.chunks.list()?.into_iter().filter(|digest| used.contains(digest)).collect();
        let node_digest = cutting.node_digest();
        let cuts = cutting.cuts.iter().map(|cut| (cut.chunk.sha256, &cut.wire));
        let all = cuts.chain(deltas.contents()).chain([(node_digest, &cutting.node)]);
        self.keep_new(all, &there)
    }

    /// The same for chunks that a team brings.
    pub(super) fn keep_chunks(&self, chunks: &BTreeMap<Digest, Vec<u8>>) -> Result<(), RepositoryError> {
        let there = self.used()?;
        self.keep_new(chunks.iter().map(|(digest, bytes)| (*digest, bytes)), &there)?;
        Ok(())
    }

    fn keep_new<'a>(
        &self,
        all: impl Iterator<Item = (Digest, &'a Vec<u8>)>,
        there: &BTreeSet<Digest>,
    ) -> Result<BTreeSet<Digest>, RepositoryError> {
        let mut new = BTreeMap::new();
        let mut pending = self.pending()?;
        for (digest, bytes) in all {
            if !there.contains(&digest) && new.insert(digest, bytes).is_none() {
                pending.chunks.retain(|known| *known != digest);
                pending.chunks.push(digest);
            }
        }
        self.save_pending(&pending)?;
        for (digest, bytes) in &new {
            self.chunks.write(digest, bytes)?;
        }
        Ok(new.into_keys().collect())
    }

    /// The chunks and nodes of all that is offered.
    fn used(&self) -> Result<BTreeSet<Digest>, RepositoryError> {
        let mut used = BTreeSet::new();
        for entry in self.current.all_entries() {
            used.extend(self.chunks.referenced(entry)?);
            used.extend(Chunks::nodes(entry));
        }
        Ok(used)
    }

    /// The newest set, and what else no finished upload has covered.
    pub fn outstanding(&self) -> Result<Publication, RepositoryError> {
        self.publication(self.pending()?)
    }

    pub(super) fn publication(&self, what: Pending) -> Result<Publication, RepositoryError> {
        let mut posts = Vec::new();
        for digest in &what.chunks {
            // A chunk that was noted and never written belongs to a publication that never was.
            if let Some(bytes) = self.chunks.read(digest)? {
                posts.push(Post { topic: topics::chunk(digest), bytes });
            }
        }
        let roots: Vec<u32> = what.roots.into_iter().filter(|&version| version <= self.current.root_version).collect();
        for &version in &roots {
            let bytes = read_file(&*self.disk, &self.metadata(), Role::Root, version)?;
            posts.push(Post { topic: topics::tuf(Role::Root.file(version)), bytes });
        }
        let current = &self.current;
        for (team, file) in &current.teams {
            let topic = topics::tuf(team_file(file.part.version, team));
            posts.push(Post { topic, bytes: file.part.bytes.clone() });
        }
        for (role, part) in [
            (Role::Targets, &current.targets),
            (Role::Snapshot, &current.snapshot),
            (Role::Timestamp, &current.timestamp),
        ] {
            posts.push(Post { topic: topics::tuf(role.file(part.version)), bytes: part.bytes.clone() });
        }
        Ok(Publication { posts, release: None, chunks: what.chunks, roots })
    }

    fn metadata(&self) -> PathBuf {
        self.dir.join("metadata")
    }

    fn pending(&self) -> Result<Pending, RepositoryError> {
        Ok(read_json(&*self.disk, &self.dir.join("pending.json"))?.unwrap_or_default())
    }

    fn save_pending(&self, pending: &Pending) -> Result<(), RepositoryError> {
        if *pending == self.pending()? {
            return Ok(());
        }
        write_json(&*self.disk, &self.dir.join("pending.json"), pending)
    }

    fn reload(&mut self) -> Result<(), RepositoryError> {
        self.current = Current::load(&*self.disk, &self.metadata())?;
        Ok(())
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where what a team hands in is looked at; what a kill left there is cleared by the next.
    pub(super) fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    pub(super) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    pub(super) fn keys_mut(&mut self) -> &mut KeyRing {
        &mut self.keys
    }

    pub(super) fn current(&self) -> &Current {
        &self.current
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn key_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.system()
    }

    pub(super) fn root_days(&self) -> u32 {
        self.expiries.root
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        let Expiries { root: _, targets, snapshot, timestamp } = self.expiries;
        Lifetimes { timestamp: timestamp.into(), snapshot: snapshot.into(), targets: targets.into() }
    }
}

fn is_older(name: &str, role: &str, newest: u32) -> bool {
    let version = name.strip_suffix(".json").and_then(|name| name.strip_suffix(role));
    let version = version.and_then(|name| name.strip_suffix('.')).and_then(|number| number.parse::<u32>().ok());
    version.is_some_and(|version| version < newest)
}
