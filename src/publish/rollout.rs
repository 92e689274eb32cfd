//! Rollouts that are under way: looked at, stopped, let go on, taken back. Each is a new signature under the same target.
//!
//! Invariant: nothing here takes a version away from who runs it, but a call back, which says so.

use super::RepositoryError;
use super::board::Publication;
use super::current::{Change, Current, DAY, Entries, TeamFile};
use super::keys::enough;
use super::repository::Repository;
use super::submission::MAX_TEAM_FILE;
use crate::bundle::ModelName;
use crate::sys::RealDisk;
use crate::trust::author::{self, SigningKey, Stamp, TargetEntry};
use crate::trust::{Custom, Hold, Role};
use std::collections::BTreeMap;
use std::path::Path;

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Who signed it; none for the holder of the targets' keys.
    pub team: Option<String>,
    pub custom: Custom,
}

/// What becomes of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Pause,
    Resume,
    /// For good: nobody takes it any more.
    Abort,
    /// The same, and who has it goes back to the version before.
    CallBack,
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Abort => "aborted",
            Self::CallBack => "called back",
        })
    }
}

impl Turn {
    /// What stands in the target then; none where it cannot be from what stands there.
    fn from(self, hold: Option<Hold>) -> Option<Option<Hold>> {
        match (self, hold) {
            (Self::Pause, None) => Some(Some(Hold::Paused)),
            (Self::Resume, Some(Hold::Paused)) => Some(None),
            (Self::Abort, None | Some(Hold::Paused)) => Some(Some(Hold::Withdrawn)),
            (Self::CallBack, None | Some(Hold::Paused | Hold::Withdrawn)) => Some(Some(Hold::Recalled)),
            (Self::Pause, Some(_))
            | (Self::Resume, None | Some(Hold::Withdrawn | Hold::Recalled))
            | (Self::Abort, Some(Hold::Withdrawn | Hold::Recalled))
            | (Self::CallBack, Some(Hold::Recalled)) => None,
        }
    }
}

/// What a turn did.
#[derive(Debug)]
pub struct Turned {
    pub changed: Vec<Rollout>,
    /// What stands as it was.
    pub left: Vec<Left>,
    pub publication: Publication,
}

/// Targets of the same version that could not be signed here.
#[derive(Debug)]
pub struct Left {
    /// Whose they are; none for the holder of the targets' keys.
    pub team: Option<String>,
    pub why: RepositoryError,
}

/// What is to be turned.
struct Meant<'a> {
    model: &'a ModelName,
    version: u32,
    turn: Turn,
    now: u64,
}

impl Meant<'_> {
    /// All that one signs as it is to be, and what differs; none where nothing does.
    fn turned(&self, team: Option<&String>, entries: &Entries) -> Option<(Entries, Vec<Rollout>)> {
        let (mut entries, mut changed) = (entries.clone(), Vec::new());
        for TargetEntry { custom, .. } in entries.values_mut() {
            let is_meant = custom.model == *self.model && custom.version == self.version;
            if let Some(hold) = self.turn.from(custom.hold).filter(|_| is_meant) {
                custom.hold = hold;
                self.note_pause(custom);
                changed.push(Rollout { team: team.cloned(), custom: custom.clone() });
            }
        }
        (!changed.is_empty()).then_some((entries, changed))
    }

    /// What a pause took from the first waves is given back: the later ones are for what those show.
    fn note_pause(&self, custom: &mut Custom) {
        if let (Turn::Resume, Some(since)) = (self.turn, custom.paused) {
            custom.waves = custom.waves.put_off(since, self.now.saturating_sub(since));
        }
        custom.paused = (self.turn == Turn::Pause).then_some(self.now);
    }
}

fn can_sign(signers: &[&SigningKey]) -> Result<(), RepositoryError> {
    for key in signers {
        key.sign(b"selvedge: can this key sign?")?;
    }
    Ok(())
}

/// All that a directory offers, as it is now: nothing is locked, and no key is looked at.
pub fn offered(dir: &Path) -> Result<Vec<Custom>, RepositoryError> {
    let current = Current::load(&RealDisk, &dir.join("metadata"))?;
    let teams = current.teams.values().flat_map(|file| file.entries.values());
    Ok(current.entries.values().chain(teams).map(|entry| entry.custom.clone()).collect())
}

impl Repository {
    /// What is offered of a model, the newest publication first.
    pub fn rollouts(&self, model: &ModelName) -> Vec<Rollout> {
        let own = self.current().entries.values().map(|entry| (None, entry));
        let of_team = |(team, entries): (String, &Entries)| -> Vec<(Option<String>, TargetEntry)> {
            entries.values().map(|entry| (Some(team.clone()), entry.clone())).collect()
        };
        let teams = self.current().teams.iter().map(|(team, file)| (team.clone(), &file.entries)).flat_map(of_team);
        let all = own.map(|(team, entry)| (team, entry.clone())).chain(teams);
        let mut all: Vec<Rollout> = all
            .filter(|(_, entry)| entry.custom.model == *model)
            .map(|(team, entry)| Rollout { team, custom: entry.custom })
            .collect();
        all.sort_by_key(|rollout| std::cmp::Reverse(rollout.custom.published));
        all
    }

    /// Stops or lets go on what is offered of a version, whoever it is for; without one, of the newest publication's. Each
    /// needs the keys of who signed it, and those of snapshot and timestamp. What cannot be signed here keeps nothing else
    /// from it: a team that offers the same version must not be able to stop the operator.
    pub fn turn(&mut self, model: &ModelName, version: Option<u32>, turn: Turn) -> Result<Turned, RepositoryError> {
        let nothing = || RepositoryError::NothingToHold { model: model.clone(), did: turn };
        let newest = self.rollouts(model).first().map(|newest| newest.custom.version);
        let meant = Meant { model, version: version.or(newest).ok_or_else(nothing)?, turn, now: self.now() };
        let (mut changed, mut left) = (Vec::new(), Vec::new());
        if let Some((entries, own)) = meant.turned(None, &self.current().entries) {
            match self.keys().signers(&self.current().root.signed, Role::Targets) {
                Ok(_) => {
                    self.advance(&Change { entries: Some(entries), ..Change::default() })?;
                    changed.extend(own);
                }
                Err(why) => left.push(Left { team: None, why }),
            }
        }
        let mut files = BTreeMap::new();
        for (team, file) in &self.current().teams {
            let Some((entries, of_team)) = meant.turned(Some(team), &file.entries) else { continue };
            match self.sign_again(team, &entries) {
                Ok(file) => {
                    files.insert(team.clone(), file);
                    changed.extend(of_team);
                }
                Err(why) => left.push(Left { team: Some(team.clone()), why }),
            }
        }
        if changed.is_empty() {
            return Err(left.into_iter().next().map_or_else(nothing, |left| left.why));
        }
        if !files.is_empty() {
            self.advance(&Change { files, ..Change::default() })?;
        }
        Ok(Turned { changed, left, publication: self.outstanding()? })
    }

    /// Whether this machine can turn what is offered of a version now, by signing with each key that it would take; what it
    /// could not turn. A passphrase that is missing is asked for.
    pub fn check_turn(&self, model: &ModelName, version: u32, turn: Turn) -> Result<Vec<Left>, RepositoryError> {
        let meant = Meant { model, version, turn, now: self.now() };
        let root = &self.current().root.signed;
        for role in [Role::Snapshot, Role::Timestamp] {
            can_sign(&self.keys().signers(root, role)?)?;
        }
        let own = meant.turned(None, &self.current().entries).map(|_| None);
        let is_meant =
            |(team, file): (&String, &TeamFile)| meant.turned(Some(team), &file.entries).map(|_| team.clone());
        let mut left = Vec::new();
        let all: Vec<Option<String>> =
            own.into_iter().chain(self.current().teams.iter().filter_map(is_meant).map(Some)).collect();
        for team in &all {
            let signers = match team {
                None => self.keys().signers(root, Role::Targets),
                Some(team) => self.signers_of(team),
            };
            if let Err(why) = signers.and_then(|signers| can_sign(&signers)) {
                left.push(Left { team: team.clone(), why });
            }
        }
        if left.len() < all.len() || all.is_empty() { Ok(left) } else { Err(left.remove(0).why) }
    }

    fn signers_of(&self, team: &str) -> Result<Vec<&SigningKey>, RepositoryError> {
        let role = self.team_role(team)?;
        enough(team, self.keys().of(&role.keyids), role.threshold.get())
    }

    /// A team's next file with these targets.
    fn sign_again(&self, team: &str, entries: &Entries) -> Result<(u32, Vec<u8>), RepositoryError> {
        let signers = self.signers_of(team)?;
        let (version, _) = self.current().newest_of(team);
        let expires = self.now().saturating_add(self.lifetimes().targets.saturating_mul(DAY));
        let stamp = Stamp { version: version.saturating_add(1), expires };
        let bytes = author::targets(stamp, entries, &signers)?;
        if bytes.len() > MAX_TEAM_FILE {
            let (role, size, limit) = (Role::Targets, bytes.len(), MAX_TEAM_FILE);
            return Err(RepositoryError::TooManyTargets { role, size, limit });
        }
        Ok((stamp.version, bytes))
    }
}
