//! The journal: for each model what is live, what would come back, and what is on trial.
//!
//! One JSON file with its own digest, so that a medium that lost data is told from an empty state.

use crate::bundle::{Digest, ModelName};
use crate::privacy::Outcome;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    pub models: BTreeMap<ModelName, Entry>,
    /// The last eight, oldest first.
    pub outcomes: Vec<Outcome>,
    /// The engine's present run.
    #[serde(default)]
    pub run: Run,
}

/// One run of the engine, for the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The kernel's boot that it began in.
    pub boot: u128,
    /// It has not stopped in order.
    pub running: bool,
    /// Runs of this boot before it that did not, in a row.
    pub deaths: u32,
}

/// One model. Live and previous are whole on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub live: Option<VersionRef>,
    /// Pinned: comes back when the live one fails.
    pub previous: Option<VersionRef>,
    pub trial: Option<Trial>,
    /// The live version had not passed its probation when a newer one came: its epoch. `previous` is
    /// then older than it, and proven.
    pub unproven: Option<u32>,
    /// Offers that failed here, newest last.
    pub quarantine: Vec<Quarantined>,
}

/// One version as it lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRef {
    pub version: u32,
    /// Of the packed bundle.
    pub bundle: Digest,
    /// The signed target that it came by; none for a factory model.
    pub target: Option<Digest>,
}

/// A version that has to prove itself. On probation it is live; before that another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    pub candidate: VersionRef,
    pub phase: Phase,
    /// The epoch of the offer, for its quarantine.
    pub retry: u32,
    /// The kernel's boot in which the trial last went on.
    pub boot: u128,
    /// Starts that found the trial begun by an earlier boot: the power went, or someone rebooted. With
    /// nothing to go back to, deaths within one boot count here too.
    pub power_cuts: u32,
    /// The engine stopped in order, or the checks wait; the next start does not count as a death.
    pub paused: bool,
    /// Gates that stand between its checks and serving.
    #[serde(default)]
    pub gates: Gates,
    /// What it has shown at the gate where it stands, for a start after this one.
    #[serde(default)]
    pub seen: Seen,
}

/// Which of the optional gates a version's manifest asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    pub shadow: bool,
    pub canary: bool,
}

/// What a candidate has shown at one gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    pub answers: u64,
    /// Of these, as the live version answered.
    pub agreeing: u64,
    pub failed: u64,
    /// The engine ran so long with it.
    pub seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Checking,
    Shadow,
    Canary,
    Probation,
}

/// An offer that failed here. A higher signed `retry` epoch lifts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    pub target: Digest,
    pub retry: u32,
}

impl Entry {
    pub const MAX_QUARANTINE: usize = 64;

    /// The digests of all bundles that must stay on disk.
    pub fn named(&self) -> impl Iterator<Item = Digest> + '_ {
        let trial = self.trial.map(|trial| trial.candidate);
        [self.live, self.previous, trial].into_iter().flatten().map(|version| version.bundle)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal does not read")]
    Syntax(#[from] serde_json::Error),
    #[error("the journal's digest does not match: the medium lost data")]
    Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: u32,
    sha256: Digest,
    journal: String,
}

impl Journal {
    pub const MAX_BYTES: u64 = 1 << 20;

    pub fn parse(bytes: &[u8]) -> Result<Self, JournalError> {
        let sealed: Sealed = serde_json::from_slice(bytes)?;
        if sealed.format != 1 || Digest::of(sealed.journal.as_bytes()) != sealed.sha256 {
            return Err(JournalError::Digest);
        }
        Ok(serde_json::from_str(&sealed.journal)?)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let journal = serde_json::to_string(self).expect("plain data serializes");
        let sha256 = Digest::of(journal.as_bytes());
        serde_json::to_vec(&Sealed { format: 1, sha256, journal }).expect("plain data serializes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_bytes_are_seen_at_every_length_and_place() {
        let mut journal = Journal::default();
        journal.models.insert(ModelName::new("digits").unwrap(), Entry::default());
        let bytes = journal.to_bytes();
        assert_eq!(Journal::parse(&bytes).unwrap(), journal);
        for len in 0..bytes.len() {
            assert!(Journal::parse(&bytes[..len]).is_err(), "cut to {len}");
            let mut zeroed = bytes.clone();
            zeroed[len] = 0;
            assert!(Journal::parse(&zeroed).is_err(), "zero at {len}");
        }
    }
}
