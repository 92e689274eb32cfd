//! How a rollout fares, by what devices say: one device has one vote, and strangers have none. Pure.
//!
//! The broker lets each device write its own branch alone, so that nobody speaks for another. What it writes there is its own
//! affair: it may lie about itself a thousand times and is one device that failed. A device that nobody knew before the
//! rollout is a stranger: who can make up ids must not be able to stop the others' updates with them.

use super::fleet::Fleet;
use crate::bundle::ModelName;
use crate::privacy::{Code, ModelState, ModelStatus, Status, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// Devices, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Votes {
    /// Known devices that run the version, try it, or failed with it.
    pub concerned: usize,
    /// Of these, such as refused it or went back from it, and nothing better came since.
    pub failed: usize,
    /// Why, each device once.
    pub reasons: BTreeMap<String, usize>,
    /// Devices that would count if somebody knew them.
    pub strangers: usize,
}

/// When a rollout is to be stopped: both must be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Of those concerned, in percent.
    pub percent: u8,
    pub least: usize,
}

impl Threshold {
    /// One device alone stops nothing.
    pub const LEAST: usize = 2;

    pub fn is_reached(&self, votes: &Votes) -> bool {
        let least = self.least.max(Self::LEAST);
        votes.failed >= least && votes.failed * 100 >= usize::from(self.percent) * votes.concerned
    }
}

/// What one device's own word comes to.
enum Vote {
    Fares,
    Failed(Code),
}

impl Votes {
    pub fn of(fleet: &Fleet, known: &BTreeSet<[u8; 16]>, model: &ModelName, version: u32) -> Self {
        let mut votes = Self::default();
        for (id, row) in fleet.rows() {
            let Some(vote) = row.status.as_ref().and_then(|status| vote(status, model, version)) else { continue };
            if !known.contains(id) {
                votes.strangers += 1;
                continue;
            }
            votes.concerned += 1;
            if let Vote::Failed(code) = vote {
                votes.failed += 1;
                *votes.reasons.entry(code.name()).or_default() += 1;
            }
        }
        votes
    }
}

/// Nothing of a device that the version does not concern.
fn vote(status: &Status, model: &ModelName, version: u32) -> Option<Vote> {
    let is_about =
        |outcome: &&crate::privacy::Outcome| outcome.model.as_ref() == Some(model) && outcome.version == Some(version);
    let state = status.models.iter().find(|state| state.model == *model);
    let has = state.is_some_and(|state| state.live == Some(version) || tries(state, version));
    match status.outcomes.iter().rfind(is_about) {
        // The operator's doing, not the version's.
        Some(outcome) if [Code::Downgrade, Code::Withdrawn].contains(&outcome.code) => None,
        Some(outcome) => match outcome.verdict {
            Verdict::Refused | Verdict::RolledBack => Some(Vote::Failed(outcome.code)),
            Verdict::Live | Verdict::Inconclusive => Some(Vote::Fares),
        },
        None => has.then_some(Vote::Fares),
    }
}

/// Who only waits for it or fetches it has shown nothing yet, and must not thin out those who have.
fn tries(state: &ModelStatus, version: u32) -> bool {
    let is_begun = match state.state {
        ModelState::Checking | ModelState::Shadow | ModelState::Canary | ModelState::Probation => true,
        ModelState::Idle | ModelState::Waiting | ModelState::Fetching => false,
    };
    is_begun && state.candidate == Some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::topics;
    use crate::privacy::{Measure, Outcome, Stage};

    const VERSION: u32 = 6;
    const TENTH: Threshold = Threshold { percent: 10, least: 3 };

    fn digits() -> ModelName {
        ModelName::new("digits").unwrap()
    }

    fn id(n: u128) -> String {
        hex::encode(n.to_be_bytes())
    }

    fn outcome(version: u32, verdict: Verdict, code: Code) -> Outcome {
        let (expected, actual) = (Measure::None, Measure::None);
        Outcome {
            model: Some(digits()),
            version: Some(version),
            verdict,
            stage: Stage::Golden,
            code,
            expected,
            actual,
            time: 9,
        }
    }

    fn status(live: u32, outcomes: Vec<Outcome>) -> Vec<u8> {
        let model = ModelStatus::idle(digits(), Some(live));
        serde_json::to_vec(&Status { models: vec![model], outcomes, ..Status::default() }).unwrap()
    }

    /// Version 5 runs, and the one that is watched is so far.
    fn under_way(state: ModelState) -> Vec<u8> {
        let mut told: Status = serde_json::from_slice(&status(5, vec![])).unwrap();
        told.models[0].state = state;
        told.models[0].candidate = Some(VERSION);
        serde_json::to_vec(&told).unwrap()
    }

    fn failed() -> Vec<u8> {
        status(5, vec![outcome(VERSION, Verdict::Refused, Code::GoldenMismatch)])
    }

    /// Ten devices that are known, of which so many failed.
    fn ten(failing: u128) -> (Fleet, BTreeSet<[u8; 16]>) {
        let mut fleet = Fleet::default();
        for n in 0..10_u128 {
            let told = if n < failing { failed() } else { status(VERSION, vec![]) };
            fleet.take(&topics::device_status(id(n)), &told);
        }
        (fleet, (0..10_u128).map(u128::to_be_bytes).collect())
    }

    fn votes(fleet: &Fleet, known: &BTreeSet<[u8; 16]>) -> Votes {
        Votes::of(fleet, known, &digits(), VERSION)
    }

    #[test]
    fn three_honest_failures_of_ten_stop_a_rollout_and_two_do_not() {
        for (failing, stops) in [(0, false), (1, false), (2, false), (3, true), (10, true)] {
            let (fleet, known) = ten(failing);
            let votes = votes(&fleet, &known);
            assert_eq!((votes.concerned, votes.failed, votes.strangers), (10, failing as usize, 0));
            assert_eq!(TENTH.is_reached(&votes), stops, "{failing} of ten");
        }
        let (fleet, known) = ten(3);
        let votes = votes(&fleet, &known);
        assert_eq!(votes.reasons, [("golden-mismatch".to_owned(), 3)].into());
        assert!(!Threshold { percent: 31, least: 3 }.is_reached(&votes), "three are not 31 percent of ten");
    }

    #[test]
    fn one_hostile_device_stops_nothing_whatever_it_says_and_however_often() {
        let (mut fleet, known) = ten(0);
        let own = topics::device_status(id(0));
        for n in 0..5_000_u32 {
            let verdict = if n % 2 == 0 { Verdict::Refused } else { Verdict::RolledBack };
            // All eight about this version, others, and itself under other names.
            let outcomes = (0..8).map(|k| outcome(VERSION - k % 2, verdict, Code::Crashed)).collect();
            let mut told: serde_json::Value = serde_json::from_slice(&status(n, outcomes)).unwrap();
            told["device"] = id(7).into();
            told["id"] = id(8).into();
            fleet.take(&own, &serde_json::to_vec(&told).unwrap());
        }
        let counted = votes(&fleet, &known);
        assert_eq!((counted.concerned, counted.failed), (10, 1));
        for least in [0, 1, 2, 3] {
            assert!(!Threshold { percent: 1, least }.is_reached(&counted), "at least {least}");
        }
    }

    #[test]
    fn devices_that_nobody_knew_before_are_counted_apart_and_stop_nothing() {
        let (mut fleet, known) = ten(2);
        for n in 100..5_100_u128 {
            fleet.take(&topics::device_status(id(n)), &failed());
        }
        let votes = votes(&fleet, &known);
        assert_eq!((votes.concerned, votes.failed, votes.strangers), (10, 2, 5_000));
        assert!(!TENTH.is_reached(&votes));
    }

    #[test]
    fn who_waits_or_fetches_does_not_thin_out_the_failures_of_those_who_tried() {
        let (mut fleet, mut known) = ten(3);
        for (n, state) in (10..1_010).zip([ModelState::Waiting, ModelState::Fetching].iter().cycle()) {
            fleet.take(&topics::device_status(id(n)), &under_way(*state));
            known.insert(n.to_be_bytes());
        }
        let counted = votes(&fleet, &known);
        assert_eq!((counted.concerned, counted.failed), (10, 3));
        assert!(TENTH.is_reached(&counted));
        let tried = [ModelState::Checking, ModelState::Shadow, ModelState::Canary, ModelState::Probation];
        for (n, state) in (10..14).zip(tried) {
            fleet.take(&topics::device_status(id(n)), &under_way(state));
        }
        assert_eq!(votes(&fleet, &known).concerned, 14, "who tries it counts");
    }

    #[test]
    fn what_is_of_another_version_or_the_operators_doing_or_overcome_is_no_failure() {
        let fares = [
            status(5, vec![outcome(5, Verdict::RolledBack, Code::Crashed)]),
            status(7, vec![outcome(VERSION, Verdict::Refused, Code::Downgrade)]),
            status(5, vec![outcome(VERSION, Verdict::RolledBack, Code::Withdrawn)]),
            status(
                VERSION,
                vec![outcome(VERSION, Verdict::Refused, Code::DiskFull), outcome(VERSION, Verdict::Live, Code::Ok)],
            ),
        ];
        for told in fares {
            let mut fleet = Fleet::default();
            fleet.take(&topics::device_status(id(0)), &told);
            assert_eq!(votes(&fleet, &[0_u128.to_be_bytes()].into()).failed, 0);
        }
    }
}
