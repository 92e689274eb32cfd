//! The states of one model's update, pure: journal entry and event in, next entry and effects out.
//!
//! ```text
//! offered -> fetching -> [journal: checking] -> self-test -> golden -> [journal: probation] -> live
//!                 \______________________ refused ______________/            \-> rolled back
//! ```
//! A newer offer need not wait for the end of a probation: a device that nobody asks anything would
//! wait for ever. The pinned version then stays the last proven one, and a candidate that fails its
//! checks leaves the probation to go on.
//!
//! Fetching is not journalled: what is on disk says how far it got.

use crate::bundle::Digest;
use crate::privacy::{Code, Measure, Stage};
use crate::store::{Entry, Phase, Quarantined, Trial, VersionRef};

/// Starts that may find a trial cut off by power before the candidate is blamed. A flaky supply must
/// not quarantine a good model, and a model that browns out the board must not try for ever.
pub const MAX_POWER_CUTS: u32 = 5;

/// Answers in one boot after which power cuts are no longer held against a candidate.
const ANSWERS_THAT_CLEAR: u32 = 10;

/// What trust says is meant for this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    pub version: u32,
    pub target: Digest,
    pub allow_downgrade: bool,
    pub retry: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    Offered(Offered),
    /// All bytes of the offer are a whole bundle on disk.
    Stored {
        candidate: VersionRef,
        retry: u32,
        boot: u128,
    },
    /// What was fetched cannot be used. `blame` tells bad content from a passing trouble.
    Unusable {
        offered: Offered,
        blame: bool,
        stage: Stage,
        code: Code,
        expected: Measure,
        actual: Measure,
    },
    /// The candidate passed self-test and golden samples and is loaded.
    Passed,
    /// A gate, or reading the candidate, said no.
    Failed {
        stage: Stage,
        code: Code,
        expected: Measure,
        actual: Measure,
    },
    /// Requests that the live version has had since its swap.
    Tally {
        answered: u64,
        failed: u64,
        wanted: u32,
        allowed: u32,
    },
    /// The engine starts.
    Started {
        boot: u128,
    },
    /// The engine stops in order.
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect {
    Fetch(Offered),
    /// Run the gates on the trial's candidate.
    Check,
    /// Make the journal's live version the one that answers.
    Serve,
    /// The update ended; the version it was about goes with it.
    Report {
        version: u32,
        ended: Ended,
    },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ended {
    Live,
    Refused { stage: Stage, code: Code, expected: Measure, actual: Measure },
    RolledBack { stage: Stage, code: Code, expected: Measure, actual: Measure },
}

/// One step. Effects are done after the entry is durable, in order.
pub fn step(entry: &Entry, event: Event) -> (Entry, Vec<Effect>) {
    match (entry.trial, event) {
        (None, Event::Offered(offer)) => (entry.clone(), consider(entry, offer)),
        (Some(trial), Event::Offered(offer)) if trial.phase == Phase::Probation => {
            (entry.clone(), consider(entry, offer))
        }
        (None, Event::Stored { candidate, retry, boot }) => begin(entry, candidate, retry, boot),
        (Some(trial), Event::Stored { candidate, retry, boot }) if trial.phase == Phase::Probation => {
            begin(&Entry { unproven: Some(trial.retry), ..entry.clone() }, candidate, retry, boot)
        }
        (_, Event::Unusable { offered, blame, stage, code, expected, actual }) => {
            let ended = Ended::Refused { stage, code, expected, actual };
            refuse(entry, offered, blame, ended)
        }
        (Some(trial), Event::Passed) if trial.phase == Phase::Checking => promote(entry, trial),
        (Some(trial), Event::Failed { stage, code, expected, actual }) => {
            fail(entry, trial, (stage, code, expected, actual))
        }
        (Some(trial), Event::Tally { answered, failed, wanted, allowed }) if trial.phase == Phase::Probation => {
            judge(entry, trial, (answered, failed), (wanted, allowed))
        }
        (Some(trial), Event::Started { boot }) => resume(entry, trial, boot),
        (Some(trial), Event::Stopping) => (with_trial(entry, Trial { paused: true, ..trial }), vec![]),
        // An offer waits until the trial ends; the driver makes it again then.
        (Some(_), Event::Offered(_) | Event::Stored { .. } | Event::Passed | Event::Tally { .. })
        | (
            None,
            Event::Passed | Event::Failed { .. } | Event::Tally { .. } | Event::Started { .. } | Event::Stopping,
        ) => (entry.clone(), vec![]),
    }
}

fn consider(entry: &Entry, offer: Offered) -> Vec<Effect> {
    let live = entry.live;
    if live.is_some_and(|live| {
        live.target == Some(offer.target) || (live.version == offer.version && live.target.is_none())
    }) {
        return vec![];
    }
    let quarantined = entry.quarantine.iter().find(|q| q.target == offer.target && offer.retry <= q.retry);
    let refusal = match (live, quarantined) {
        (_, Some(q)) => {
            Some((Code::Quarantined, Measure::Count(u64::from(q.retry) + 1), Measure::Count(offer.retry.into())))
        }
        (Some(live), None) if offer.version <= live.version && !offer.allow_downgrade => {
            Some((Code::Downgrade, Measure::Version(live.version.saturating_add(1)), Measure::Version(offer.version)))
        }
        (_, None) => None,
    };
    match refusal {
        None => vec![Effect::Fetch(offer)],
        Some((code, expected, actual)) => {
            let ended = Ended::Refused { stage: Stage::Offer, code, expected, actual };
            vec![Effect::Report { version: offer.version, ended }]
        }
    }
}

fn refuse(entry: &Entry, offered: Offered, blame: bool, ended: Ended) -> (Entry, Vec<Effect>) {
    let mut next = entry.clone();
    if blame {
        quarantine(&mut next, Some(offered.target), offered.retry);
    }
    (next, vec![Effect::Report { version: offered.version, ended }])
}

fn begin(entry: &Entry, candidate: VersionRef, retry: u32, boot: u128) -> (Entry, Vec<Effect>) {
    let trial = Trial { candidate, phase: Phase::Checking, retry, boot, power_cuts: 0, paused: false };
    (with_trial(entry, trial), vec![Effect::Check])
}

fn promote(entry: &Entry, trial: Trial) -> (Entry, Vec<Effect>) {
    let next = Entry {
        live: Some(trial.candidate),
        // Of an overtaken probation the last proven version stays pinned; without one, the overtaken,
        // which at least has passed its checks.
        previous: entry.unproven.and(entry.previous).or(entry.live),
        trial: Some(Trial { phase: Phase::Probation, ..trial }),
        unproven: None,
        quarantine: entry.quarantine.clone(),
    };
    (next, vec![Effect::Serve])
}

fn fail(entry: &Entry, trial: Trial, why: (Stage, Code, Measure, Measure)) -> (Entry, Vec<Effect>) {
    let (stage, code, expected, actual) = why;
    let version = trial.candidate.version;
    let mut next = Entry { trial: None, ..entry.clone() };
    quarantine(&mut next, trial.candidate.target, trial.retry);
    match trial.phase {
        Phase::Checking => {
            next.unproven = None;
            // What was on probation before this candidate came goes on with it.
            let interrupted = entry.live.zip(entry.unproven);
            next.trial =
                interrupted.map(|(candidate, retry)| Trial { candidate, retry, phase: Phase::Probation, ..trial });
            let ended = Ended::Refused { stage, code, expected, actual };
            (next, vec![Effect::Report { version, ended }])
        }
        Phase::Probation => {
            next.live = entry.previous;
            next.previous = None;
            let ended = Ended::RolledBack { stage, code, expected, actual };
            (next, vec![Effect::Serve, Effect::Report { version, ended }])
        }
    }
}

fn judge(entry: &Entry, trial: Trial, seen: (u64, u64), bounds: (u32, u32)) -> (Entry, Vec<Effect>) {
    let ((answered, failed), (wanted, allowed)) = (seen, bounds);
    if failed > u64::from(allowed) {
        let (expected, actual) = (Measure::Count(allowed.into()), Measure::Count(failed));
        return fail(entry, trial, (Stage::Probation, Code::TooManyErrors, expected, actual));
    }
    if answered + failed < u64::from(wanted) {
        // It has answered in this boot: earlier power cuts were not its doing. Boards that are unplugged
        // each night before the probation is over keep a good version.
        let innocent = answered >= u64::from(ANSWERS_THAT_CLEAR) && trial.power_cuts > 0;
        let next = if innocent { with_trial(entry, Trial { power_cuts: 0, ..trial }) } else { entry.clone() };
        return (next, vec![]);
    }
    let next = Entry { trial: None, ..entry.clone() };
    (next, vec![Effect::Report { version: trial.candidate.version, ended: Ended::Live }])
}

/// A start that finds a trial: was it a death of the engine, a power cut, or neither?
fn resume(entry: &Entry, trial: Trial, boot: u128) -> (Entry, Vec<Effect>) {
    let same_boot = trial.boot == boot;
    // With nothing to go back to, one death is no reason to serve nothing: it may have been the machine's.
    let alone = trial.phase == Phase::Probation && entry.previous.is_none();
    let power_cuts = trial.power_cuts + u32::from(!trial.paused && (!same_boot || alone));
    let limit = Measure::Count(MAX_POWER_CUTS.into());
    if same_boot && !trial.paused && !alone {
        return fail(entry, trial, (Stage::Restart, Code::Crashed, Measure::Count(0), Measure::Count(1)));
    }
    if power_cuts > MAX_POWER_CUTS {
        return fail(entry, trial, (Stage::Restart, Code::Crashed, limit, Measure::Count(power_cuts.into())));
    }
    let next = with_trial(entry, Trial { boot, power_cuts, paused: false, ..trial });
    let effects = match trial.phase {
        Phase::Checking => vec![Effect::Check],
        Phase::Probation => vec![],
    };
    (next, effects)
}

fn quarantine(entry: &mut Entry, target: Option<Digest>, retry: u32) {
    // A factory model has no target; it is never on trial.
    let Some(target) = target else { return };
    entry.quarantine.retain(|q| q.target != target);
    if entry.quarantine.len() == Entry::MAX_QUARANTINE {
        entry.quarantine.remove(0);
    }
    entry.quarantine.push(Quarantined { target, retry });
}

fn with_trial(entry: &Entry, trial: Trial) -> Entry {
    Entry { trial: Some(trial), ..entry.clone() }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
