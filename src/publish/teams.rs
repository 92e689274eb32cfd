//! Others who sign for some of the models: delegated to, published by, taken from.
//!
//! A team has a copy of the directory's public part and its own key. With the keys of snapshot and
//! timestamp beside it, what it publishes goes out at once; without them it makes a submission, one
//! file, which the machine that has those keys checks and takes. No team's key and no submission can
//! change what others sign.

use super::RepositoryError;
use super::board::{Publication, Release};
use super::chunks::Chunks;
use super::current::{Change, DAY, Entries};
use super::cutting::{Audience, Cutting};
use super::deltas::Deltas;
use super::held;
use super::keys::enough;
use super::repository::{PublishOptions, Repository};
use super::submission::{MAX_TEAM_FILE, Submission};
use crate::bundle::topics::{MAX_DELEGATED, is_delegated_name};
use crate::bundle::{Bundle, Digest, ModelName};
use crate::trust::author::{self, Holders, SigningKey, Stamp, TargetEntry};
use crate::trust::{Role, covers};
use std::collections::{BTreeMap, BTreeSet};
use tough::schema::{DelegatedRole, Delegations};

/// How far a submission's numbers may be ahead of what is known: more would leave no room after them.
const MAX_AHEAD: u32 = 1000;

/// A role as the targets delegate to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    pub name: String,
    /// What it may sign: `MODEL/*`, or another pattern of target names.
    pub patterns: Vec<String>,
    /// Public halves of its keys.
    pub keys: Vec<[u8; 32]>,
    pub threshold: u32,
    /// Whether the search for a name that it may sign ends with it.
    pub terminating: bool,
}

/// A team as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamState {
    pub name: String,
    pub patterns: Vec<String>,
    /// Key ids.
    pub keys: Vec<String>,
    pub threshold: u64,
    pub terminating: bool,
    /// Zero where nothing of it was taken yet.
    pub version: u32,
    /// Seconds since 1970 UTC; of what was taken.
    pub expires: u64,
    /// False where its file is not signed by the keys that count now.
    pub is_signed: bool,
    /// Models and versions.
    pub offers: Vec<(ModelName, u32)>,
}

impl Team {
    fn check(&self) -> Result<(), RepositoryError> {
        let is_pattern = |text: &String| {
            let model = text.split('/').next().unwrap_or_default();
            text.len() <= 128 && text.matches('/').count() == 1 && !model.is_empty()
        };
        let problem = if !is_delegated_name(&self.name) {
            "a team's name is 1 to 32 of a-z, 0-9, '-' and '_', and none of root, targets, snapshot, timestamp"
        } else if !(1..=64).contains(&self.patterns.len()) || !self.patterns.iter().all(is_pattern) {
            "a team signs 1 to 64 patterns MODEL/NAME, such as digits/*"
        } else if !(1..=16).contains(&self.keys.len()) || !(1..=self.keys.len()).contains(&(self.threshold as usize)) {
            "a team has 1 to 16 keys, and a threshold of 1 to that many"
        } else {
            return Ok(());
        };
        Err(RepositoryError::Options(problem))
    }
}

impl Repository {
    /// Lets a team sign, or changes how: its keys, its patterns. Needs the keys of targets.
    pub fn delegate(&mut self, team: &Team) -> Result<Publication, RepositoryError> {
        team.check()?;
        let mut all = self.current().delegations.clone().unwrap_or_default();
        if all.roles.len() >= MAX_DELEGATED && !all.roles.iter().any(|role| role.name == team.name) {
            return Err(RepositoryError::Options("there may be 32 teams"));
        }
        let keys: Vec<SigningKey> = team.keys.iter().map(|&public| SigningKey::public_only(public)).collect();
        let holders = Holders { keys: keys.iter().collect(), threshold: team.threshold };
        author::delegate(&mut all, &team.name, &holders, &team.patterns, team.terminating)?;
        self.redelegate(all)
    }

    /// Takes the right to sign back: what the team has published is offered no more.
    pub fn undelegate(&mut self, name: &str) -> Result<Publication, RepositoryError> {
        let mut all = self.current().delegations.clone().unwrap_or_default();
        if !author::undelegate(&mut all, name) {
            return Err(RepositoryError::NoSuchTeam(name.to_owned()));
        }
        self.redelegate(all)
    }

    fn redelegate(&mut self, all: Delegations) -> Result<Publication, RepositoryError> {
        self.advance(&Change { delegations: Some(all), ..Change::default() })?;
        self.outstanding()
    }

    /// In the order in which they are searched.
    pub fn teams(&self) -> Vec<TeamState> {
        let roles = self.current().delegations.iter().flat_map(|all| &all.roles);
        roles.map(|role| self.team_state(role)).collect()
    }

    fn team_state(&self, role: &DelegatedRole) -> TeamState {
        let file = self.current().teams.get(&role.name);
        let offer = |entry: &TargetEntry| (entry.custom.model.clone(), entry.custom.version);
        TeamState {
            name: role.name.clone(),
            patterns: crate::trust::patterns(role),
            keys: role.keyids.iter().map(|id| hex::encode(&**id)).collect(),
            threshold: role.threshold.get(),
            terminating: role.terminating,
            version: file.map_or(0, |file| file.part.version),
            expires: file.map_or(0, |file| file.part.expires),
            is_signed: file.is_some_and(|file| file.part.is_signed),
            offers: file.map(|file| file.entries.values().map(offer).collect()).unwrap_or_default(),
        }
    }

    pub(super) fn team_role(&self, name: &str) -> Result<&DelegatedRole, RepositoryError> {
        let roles = self.current().delegations.iter().flat_map(|all| &all.roles);
        roles.into_iter().find(|role| role.name == name).ok_or_else(|| RepositoryError::NoSuchTeam(name.to_owned()))
    }

    /// As `publish`, by a team. Needs its keys, and those of snapshot and timestamp.
    pub fn publish_as(
        &mut self,
        team: &str,
        bundle: &Bundle,
        audience: &Audience,
        options: &PublishOptions,
    ) -> Result<Publication, RepositoryError> {
        let Signed { cutting, deltas, version, bytes } = self.sign_as(team, bundle, audience, options)?;
        let change = Change { files: [(team.to_owned(), (version, bytes))].into(), ..Change::default() };
        let set = self.next_set(&change)?;
        let new = self.keep(&cutting, &deltas)?;
        self.write_set(&set)?;
        let release = Release { deltas: deltas.from, ..cutting.release(&new) };
        Ok(Publication { release: Some(release), ..self.outstanding()? })
    }

    /// As `publish_as` where the other keys are elsewhere: what is to be carried there, and what it is.
    pub fn submit_as(
        &mut self,
        team: &str,
        bundle: &Bundle,
        audience: &Audience,
        options: &PublishOptions,
    ) -> Result<(Vec<u8>, Release), RepositoryError> {
        let Signed { cutting, deltas, version, bytes } = self.sign_as(team, bundle, audience, options)?;
        let new = self.keep(&cutting, &deltas)?;
        self.write_draft(team, version, &bytes)?;
        let mut chunks = BTreeMap::new();
        for entry in self.current().newest_of(team).1.values() {
            for digest in self.chunks().referenced(entry)?.into_iter().chain(Chunks::nodes(entry)) {
                if let Some(bytes) = self.chunks().read(&digest)? {
                    chunks.insert(digest, bytes);
                }
            }
        }
        let submission = Submission { team: team.to_owned(), version, file: bytes, chunks };
        let release = Release { deltas: deltas.from, ..cutting.release(&new) };
        Ok((submission.to_bytes()?, release))
    }

    /// The team's next file, signed and not yet written.
    fn sign_as(
        &mut self,
        team: &str,
        bundle: &Bundle,
        audience: &Audience,
        options: &PublishOptions,
    ) -> Result<Signed, RepositoryError> {
        audience.check()?;
        let cutting = Cutting::of(bundle)?;
        let role = self.team_role(team)?;
        let name = team_target(team, &audience.target_name(&bundle.manifest().name));
        if !covers(role, &name) {
            let model = bundle.manifest().name.clone();
            return Err(RepositoryError::NotDelegated { team: team.to_owned(), model });
        }
        let signers = enough(team, self.keys().of(&role.keyids), role.threshold.get())?;
        let (version, mut entries) = self.current().newest_of(team);
        self.check_version(bundle, &cutting, entries.get(&name), options)?;
        let deltas = self.deltas(bundle, &cutting, options)?;
        let mut entry = self.entry(bundle, &cutting, audience, options)?;
        deltas.name(&mut entry.custom);
        held::replace(&mut entries, name, entry, |beside| covers(role, beside));
        let expires = self.now().saturating_add(self.lifetimes().targets.saturating_mul(DAY));
        let stamp = Stamp { version: version.saturating_add(1), expires };
        let bytes = author::targets(stamp, &entries, &signers)?;
        if bytes.len() > MAX_TEAM_FILE {
            let (role, size, limit) = (Role::Targets, bytes.len(), MAX_TEAM_FILE);
            return Err(RepositoryError::TooManyTargets { role, size, limit });
        }
        Ok(Signed { cutting, deltas, version: stamp.version, bytes })
    }

    /// Takes what a team has signed elsewhere. Needs the keys of snapshot and timestamp.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<Publication, RepositoryError> {
        let submission = Submission::from_bytes(bytes)?;
        let team = submission.team.clone();
        let bad = |problem: String| RepositoryError::BadSubmission { team: team.clone(), problem };
        let role = self.team_role(&team)?;
        let current = self.current().teams.get(&team).map_or(0, |file| file.part.version);
        if submission.version <= current {
            return Err(bad(format!(
                "its version {} is not newer than {current}, which was taken",
                submission.version
            )));
        }
        let entries = self.current().check_team_file(&team, submission.version, &submission.file).map_err(bad)?;
        let highest = entries.values().map(|entry| entry.custom.published.max(entry.custom.retry)).max().unwrap_or(0);
        let known = self.current().all_entries().map(|entry| entry.custom.published).max().unwrap_or(0);
        let known = known.max(self.current().targets.version);
        if submission.version - current > MAX_AHEAD || highest.saturating_sub(known) > MAX_AHEAD {
            return Err(bad(format!("its numbers are more than {MAX_AHEAD} ahead of what was taken before")));
        }
        for (name, entry) in &entries {
            let is_its_own = name.split('/').next() == Some(entry.custom.model.as_str());
            if !is_its_own || !covers(role, name) {
                return Err(bad(format!("it offers {name:?}, which is not delegated to it")));
            }
        }
        let named = self.check_whole(&submission, &entries).map_err(|e| bad(format!("it is not whole: {e}")))?;
        let chunks = submission.chunks.into_iter().filter(|(digest, _)| named.contains(digest)).collect();
        self.keep_chunks(&chunks)?;
        let files = [(team.clone(), (submission.version, submission.file))].into();
        self.advance(&Change { files, ..Change::default() })?;
        self.outstanding()
    }

    /// Looks at the chunks of a submission in a place of their own: all that its targets lead to.
    fn check_whole(&self, submission: &Submission, entries: &Entries) -> Result<BTreeSet<Digest>, RepositoryError> {
        let dir = self.incoming();
        self.disk().remove_dir(&dir)?;
        let incoming = Chunks::new(self.disk().clone(), dir.clone());
        for (digest, bytes) in &submission.chunks {
            incoming.write(digest, bytes)?;
        }
        let mut named = BTreeSet::new();
        for entry in entries.values() {
            let (index, _) = incoming.index(entry.digest)?;
            if index.model != entry.custom.model || index.version != entry.custom.version {
                return Err(RepositoryError::Options("an index is of another model or version than its target says"));
            }
            named.extend(incoming.referenced(entry)?);
            named.extend(Chunks::nodes(entry));
        }
        self.disk().remove_dir(&dir)?;
        match named.iter().find(|digest| !submission.chunks.contains_key(digest)) {
            Some(_) => Err(RepositoryError::Options("a chunk that its targets lead to is not in it")),
            None => Ok(named),
        }
    }
}

/// A team's next file, and what it offers anew.
struct Signed {
    cutting: Cutting,
    deltas: Deltas,
    version: u32,
    bytes: Vec<u8>,
}

/// Names of a team's targets are no other's: one that stood in two files would count in the first alone.
pub(super) fn team_target(team: &str, name: &str) -> String {
    match name.split_once('/') {
        Some((model, rest)) => format!("{model}/{team}.{rest}"),
        None => format!("{team}.{name}"),
    }
}
