//! Rollouts that are under way: looked at, stopped, let go on, taken back. Each is a new signature under the same target.
//!
//! Invariant: nothing here takes a version away from who runs it, but a call back, which says so.

use super::RepositoryError;
use super::board::Publication;
use super::current::{Change, Current, DAY, Entries};
use super::keys::enough;
use super::repository::Repository;
use super::submission::MAX_TEAM_FILE;
use crate::bundle::ModelName;
use crate::sys::RealDisk;
use crate::trust::author::{self, Stamp, TargetEntry};
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

    /// Stops or lets go on what is offered of a version, whoever it is for; without one, of the newest publication's. Needs
    /// the keys of who signed it, and those of snapshot and timestamp. What it did it to comes with it.
    pub fn turn(
        &mut self,
        model: &ModelName,
        version: Option<u32>,
        turn: Turn,
    ) -> Result<(Vec<Rollout>, Publication), RepositoryError> {
        let all = self.rollouts(model);
        let nothing = || RepositoryError::NothingToHold { model: model.clone(), did: turn };
        let version = version.or(all.first().map(|newest| newest.custom.version)).ok_or_else(nothing)?;
        let is_meant = |custom: &Custom| custom.model == *model && custom.version == version;
        let mut changed = Vec::new();
        let mut turned = |team: Option<&String>, entries: &Entries| -> Option<Entries> {
            let mut entries = entries.clone();
            let before = changed.len();
            for entry in entries.values_mut().filter(|entry| is_meant(&entry.custom)) {
                if let Some(hold) = turn.from(entry.custom.hold) {
                    entry.custom.hold = hold;
                    changed.push(Rollout { team: team.cloned(), custom: entry.custom.clone() });
                }
            }
            (changed.len() > before).then_some(entries)
        };
        let entries = turned(None, &self.current().entries);
        let mut files = BTreeMap::new();
        for (team, file) in &self.current().teams {
            if let Some(entries) = turned(Some(team), &file.entries) {
                files.insert(team.clone(), self.sign_again(team, &entries)?);
            }
        }
        if changed.is_empty() {
            return Err(nothing());
        }
        self.advance(&Change { entries, files, ..Change::default() })?;
        Ok((changed, self.outstanding()?))
    }

    /// A team's next file with these targets.
    fn sign_again(&self, team: &str, entries: &Entries) -> Result<(u32, Vec<u8>), RepositoryError> {
        let role = self.team_role(team)?;
        let signers = enough(team, self.keys().of(&role.keyids), role.threshold.get())?;
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
