//! The states of one model's update, pure: journal entry and event in, next entry and effects out.
//!
//! ```text
//! offered -> fetching -> [checking: self-test, golden] -> [shadow] -> [canary] -> [probation] -> live
//!                 \          |  ^ \                         |           |             |
//!                  \         v  |  \______ refused _________/           \_ rolled back/
//!                   \    inconclusive  /
//!                    \___ refused ____/
//! ```
//! What stands in brackets is a phase of the journal; shadow and canary are there where the manifest asks for them and
//! something else is live. Fetching is not journalled: what is on disk says how far it got.
//!
//! A newer offer need not wait for the end of a probation, of a shadow or of a canary: a device that nobody asks anything
//! would wait for ever. After a probation the pinned version stays the last proven one, and a candidate that fails its
//! gates leaves the probation to go on; while it stands beside the live version, that one's probation goes on, too.

use crate::bundle::Digest;
use crate::privacy::{Code, Measure, Stage};
use crate::store::{Entry, Gates, Phase, Quarantined, Seen, Trial, VersionRef};

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

/// What was wrong, where, and the numbers for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reason {
    pub stage: Stage,
    pub code: Code,
    pub expected: Measure,
    pub actual: Measure,
}

impl Reason {
    /// Without numbers.
    pub fn plain(stage: Stage, code: Code) -> Self {
        Self { stage, code, expected: Measure::None, actual: Measure::None }
    }
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
        why: Reason,
    },
    /// The candidate passed self-test and golden samples and is loaded; these gates come next.
    Passed(Gates),
    /// The gate where it stands let it through.
    Cleared,
    /// A gate, or reading the candidate, said no.
    Failed(Reason),
    /// The board could not tell whether it passes its checks.
    Inconclusive(Reason),
    /// Time to check once more what was inconclusive.
    Again,
    /// What it has shown so far, worth keeping over a start.
    Seen(Seen),
    /// Requests that the live version has had since its swap.
    Tally {
        answered: u64,
        verdict: Tallied,
    },
    /// The engine died too often without a trial to blame, and this model changed last; by the epoch of its offer.
    Blamed {
        deaths: u32,
        limit: u32,
        retry: u32,
    },
    /// The engine starts.
    Started {
        boot: u128,
    },
    /// The operator has withdrawn that target; where it is called back, whoever runs it goes back to what is pinned.
    Withdrawn {
        target: Digest,
        recalled: bool,
    },
    /// The engine stops in order.
    Stopping,
}

/// What a probation's requests say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tallied {
    GoesOn,
    Good,
    Bad(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect {
    Fetch(Offered),
    /// Load the trial's candidate and run its checks.
    Check,
    /// Let the journal's live version answer, and the candidate stand beside it where its phase says so.
    Serve,
    /// The update ended, or waits; the version it was about goes with it.
    Report {
        version: u32,
        ended: Ended,
    },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ended {
    Live,
    Refused(Reason),
    RolledBack(Reason),
    Inconclusive(Reason),
}

/// One step. Effects are done after the entry is durable, in order.
pub fn step(entry: &Entry, event: Event) -> (Entry, Vec<Effect>) {
    let same = || (entry.clone(), vec![]);
    let Some(trial) = entry.trial else { return without_trial(entry, event) };
    let is_checking = trial.phase == Phase::Checking;
    // A check that is held back makes place like one at a later gate.
    let is_at_checks = is_checking && !trial.paused;
    match event {
        Event::Unusable { offered, blame, why } => refuse(entry, offered, blame, Ended::Refused(why)),
        Event::Withdrawn { target, recalled } => withdraw(entry, target, recalled),
        // An offer waits until the checks end; the driver makes it again then.
        Event::Offered(offer) if !is_at_checks && offer.target_is_not(trial.candidate) => {
            (entry.clone(), consider(entry, offer))
        }
        Event::Stored { candidate, retry, boot } if trial.phase == Phase::Probation => {
            begin(&Entry { unproven: Some(trial.retry), ..entry.clone() }, candidate, retry, boot)
        }
        Event::Stored { candidate, retry, boot } if !is_at_checks => begin(entry, candidate, retry, boot),
        Event::Passed(gates) if is_checking => admit(entry, Trial { gates, ..trial }),
        // Checked once more after a start: it stands where it stood.
        Event::Passed(_) if trial.phase != Phase::Probation => (entry.clone(), vec![Effect::Serve]),
        Event::Cleared => clear(entry, trial),
        Event::Failed(why) => fail(entry, trial, why),
        Event::Inconclusive(why) if trial.phase != Phase::Probation => {
            let ended = Ended::Inconclusive(why);
            let report = Effect::Report { version: trial.candidate.version, ended };
            (with_trial(entry, Trial { paused: true, ..trial }), vec![report])
        }
        Event::Again if trial.paused && trial.phase != Phase::Probation => {
            (with_trial(entry, Trial { paused: false, ..trial }), vec![Effect::Check])
        }
        Event::Seen(seen) if !is_checking => note(entry, trial, seen),
        Event::Tally { answered, verdict } if trial.phase == Phase::Probation => judge(entry, trial, answered, verdict),
        Event::Tally { verdict, .. } if !is_checking => judge_unproven(entry, verdict),
        Event::Started { boot } => resume(entry, trial, boot),
        Event::Stopping => (with_trial(entry, Trial { paused: true, ..trial }), vec![]),
        Event::Offered(_)
        | Event::Stored { .. }
        | Event::Passed(_)
        | Event::Inconclusive(_)
        | Event::Again
        | Event::Seen(_)
        | Event::Tally { .. }
        | Event::Blamed { .. } => same(),
    }
}

fn without_trial(entry: &Entry, event: Event) -> (Entry, Vec<Effect>) {
    match event {
        Event::Offered(offer) => (entry.clone(), consider(entry, offer)),
        Event::Stored { candidate, retry, boot } => begin(entry, candidate, retry, boot),
        Event::Unusable { offered, blame, why } => refuse(entry, offered, blame, Ended::Refused(why)),
        Event::Blamed { deaths, limit, retry } => blame(entry, (deaths, limit), retry),
        Event::Withdrawn { target, recalled } => withdraw(entry, target, recalled),
        Event::Passed(_)
        | Event::Cleared
        | Event::Failed(_)
        | Event::Inconclusive(_)
        | Event::Again
        | Event::Seen(_)
        | Event::Tally { .. }
        | Event::Started { .. }
        | Event::Stopping => (entry.clone(), vec![]),
    }
}

impl Offered {
    /// What tells it from other offers of its model.
    pub(super) fn key(&self) -> (Digest, u32) {
        (self.target, self.retry)
    }

    fn target_is_not(&self, version: VersionRef) -> bool {
        version.target != Some(self.target)
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
    let (code, expected, actual) = match (live, quarantined) {
        (_, Some(q)) => (Code::Quarantined, Measure::Count(u64::from(q.retry) + 1), Measure::Count(offer.retry.into())),
        (Some(live), None) if offer.version <= live.version && !offer.allow_downgrade => {
            (Code::Downgrade, Measure::Version(live.version.saturating_add(1)), Measure::Version(offer.version))
        }
        (_, None) => return vec![Effect::Fetch(offer)],
    };
    let why = Reason { stage: Stage::Offer, code, expected, actual };
    vec![Effect::Report { version: offer.version, ended: Ended::Refused(why) }]
}

fn refuse(entry: &Entry, offered: Offered, blame: bool, ended: Ended) -> (Entry, Vec<Effect>) {
    let mut next = entry.clone();
    if blame {
        quarantine(&mut next, Some(offered.target), offered.retry);
    }
    (next, vec![Effect::Report { version: offered.version, ended }])
}

/// Whoever stood beside the live version makes place.
fn begin(entry: &Entry, candidate: VersionRef, retry: u32, boot: u128) -> (Entry, Vec<Effect>) {
    let is_beside = entry.trial.is_some_and(|trial| [Phase::Shadow, Phase::Canary].contains(&trial.phase));
    let trial = Trial {
        candidate,
        phase: Phase::Checking,
        retry,
        boot,
        power_cuts: 0,
        paused: false,
        gates: Gates::default(),
        seen: Seen::default(),
    };
    let effects = if is_beside { vec![Effect::Serve, Effect::Check] } else { vec![Effect::Check] };
    (with_trial(entry, trial), effects)
}

/// After its checks: to its first gate. Where nothing is live there is nobody to stand beside.
fn admit(entry: &Entry, trial: Trial) -> (Entry, Vec<Effect>) {
    let next = match (entry.live, trial.gates) {
        (Some(_), Gates { shadow: true, .. }) => Phase::Shadow,
        (Some(_), Gates { canary: true, .. }) => Phase::Canary,
        (_, _) => return promote(entry, trial),
    };
    (with_trial(entry, Trial { phase: next, seen: Seen::default(), ..trial }), vec![Effect::Serve])
}

fn clear(entry: &Entry, trial: Trial) -> (Entry, Vec<Effect>) {
    match trial.phase {
        Phase::Shadow if trial.gates.canary => {
            let trial = Trial { phase: Phase::Canary, seen: Seen::default(), ..trial };
            (with_trial(entry, trial), vec![Effect::Serve])
        }
        Phase::Shadow | Phase::Canary => promote(entry, trial),
        Phase::Checking | Phase::Probation => (entry.clone(), vec![]),
    }
}

fn promote(entry: &Entry, trial: Trial) -> (Entry, Vec<Effect>) {
    let next = Entry {
        live: Some(trial.candidate),
        // Of an overtaken probation the last proven version stays pinned; without one, the overtaken,
        // which at least has passed its checks.
        previous: entry.unproven.and(entry.previous).or(entry.live),
        trial: Some(Trial { phase: Phase::Probation, seen: Seen::default(), ..trial }),
        unproven: None,
        quarantine: entry.quarantine.clone(),
    };
    (next, vec![Effect::Serve])
}

fn fail(entry: &Entry, trial: Trial, why: Reason) -> (Entry, Vec<Effect>) {
    let (mut next, effects) = end(entry, trial, why);
    quarantine(&mut next, trial.candidate.target, trial.retry);
    (next, effects)
}

/// It is not the version's fault: the same bytes may be published again. Where nothing is pinned, what runs runs on.
fn withdraw(entry: &Entry, target: Digest, recalled: bool) -> (Entry, Vec<Effect>) {
    let why = Reason::plain(Stage::Offer, Code::Withdrawn);
    let beside = entry.trial.filter(|trial| trial.phase != Phase::Probation && trial.candidate.target == Some(target));
    if let Some(trial) = beside {
        return end(entry, trial, why);
    }
    let is_live = entry.live.filter(|live| live.target == Some(target) && recalled);
    let (Some(live), Some(previous)) = (is_live, entry.previous) else { return (entry.clone(), vec![]) };
    // Whoever stands beside it then stands beside the one that comes back.
    let trial = entry.trial.filter(|trial| trial.phase != Phase::Probation);
    let next = Entry { live: Some(previous), previous: None, trial, unproven: None, ..entry.clone() };
    (next, vec![Effect::Serve, Effect::Report { version: live.version, ended: Ended::RolledBack(why) }])
}

/// The candidate goes, and what was there before it goes on.
fn end(entry: &Entry, trial: Trial, why: Reason) -> (Entry, Vec<Effect>) {
    let version = trial.candidate.version;
    let mut next = Entry { trial: None, ..entry.clone() };
    if trial.phase == Phase::Probation {
        (next.live, next.previous) = (entry.previous, None);
        return (next, vec![Effect::Serve, Effect::Report { version, ended: Ended::RolledBack(why) }]);
    }
    next.unproven = None;
    // What was on probation before this candidate came goes on with it.
    let fresh = Trial { gates: Gates::default(), seen: Seen::default(), phase: Phase::Probation, ..trial };
    let interrupted = entry.live.zip(entry.unproven);
    next.trial = interrupted.map(|(candidate, retry)| Trial { candidate, retry, ..fresh });
    // A canary has answered requests.
    let ended = if trial.phase == Phase::Canary { Ended::RolledBack(why) } else { Ended::Refused(why) };
    let report = Effect::Report { version, ended };
    (next, if trial.phase == Phase::Checking { vec![report] } else { vec![Effect::Serve, report] })
}

/// Power cuts were not the doing of one that has answered in this boot. Boards that are unplugged each night before the
/// end keep a good version.
fn cleared_of_cuts(trial: Trial, answered: u64) -> Trial {
    let is_innocent = answered >= u64::from(ANSWERS_THAT_CLEAR);
    Trial { power_cuts: if is_innocent { 0 } else { trial.power_cuts }, ..trial }
}

fn note(entry: &Entry, trial: Trial, seen: Seen) -> (Entry, Vec<Effect>) {
    let since = seen.answers.saturating_sub(trial.seen.answers);
    (with_trial(entry, Trial { seen, ..cleared_of_cuts(trial, since) }), vec![])
}

fn judge(entry: &Entry, trial: Trial, answered: u64, verdict: Tallied) -> (Entry, Vec<Effect>) {
    match verdict {
        Tallied::Bad(why) => fail(entry, trial, why),
        Tallied::GoesOn => (with_trial(entry, cleared_of_cuts(trial, answered)), vec![]),
        Tallied::Good => {
            let next = Entry { trial: None, ..entry.clone() };
            (next, vec![Effect::Report { version: trial.candidate.version, ended: Ended::Live }])
        }
    }
}

/// The live version is on probation while another one stands beside it.
fn judge_unproven(entry: &Entry, verdict: Tallied) -> (Entry, Vec<Effect>) {
    let (Some(live), Some(retry)) = (entry.live, entry.unproven) else { return (entry.clone(), vec![]) };
    let mut next = Entry { unproven: None, ..entry.clone() };
    match verdict {
        Tallied::GoesOn => (entry.clone(), vec![]),
        Tallied::Good => (next, vec![Effect::Report { version: live.version, ended: Ended::Live }]),
        // Whoever stands beside it then stands beside the one that comes back; with none, it may as well serve.
        Tallied::Bad(why) => {
            quarantine(&mut next, live.target, retry);
            (next.live, next.previous) = (entry.previous, None);
            let report = Effect::Report { version: live.version, ended: Ended::RolledBack(why) };
            match (next.live, next.trial) {
                (None, Some(trial)) => {
                    let (next, effects) = promote(&next, trial);
                    (next, [effects, vec![report]].concat())
                }
                (_, _) => (next, vec![Effect::Serve, report]),
            }
        }
    }
}

/// A start that finds a trial: was it a death of the engine, a power cut, or neither?
fn resume(entry: &Entry, trial: Trial, boot: u128) -> (Entry, Vec<Effect>) {
    let same_boot = trial.boot == boot;
    // With nothing to go back to, one death is no reason to serve nothing: it may have been the machine's.
    let alone = trial.phase == Phase::Probation && entry.previous.is_none();
    let power_cuts = trial.power_cuts + u32::from(!trial.paused && (!same_boot || alone));
    let limit = if same_boot && !alone { 0 } else { MAX_POWER_CUTS };
    let deaths = if same_boot && !alone { u32::from(!trial.paused) } else { power_cuts };
    if deaths > limit {
        let (expected, actual) = (Measure::Count(limit.into()), Measure::Count(deaths.into()));
        return fail(entry, trial, Reason { stage: Stage::Restart, code: Code::Crashed, expected, actual });
    }
    let next = with_trial(entry, Trial { boot, power_cuts, paused: false, ..trial });
    let effects = if trial.phase == Phase::Probation { vec![] } else { vec![Effect::Check] };
    (next, effects)
}

/// The loop breaker: a version that was proven once is taken back all the same, if something can come back.
fn blame(entry: &Entry, (deaths, limit): (u32, u32), retry: u32) -> (Entry, Vec<Effect>) {
    let (Some(live), Some(previous)) = (entry.live, entry.previous) else { return (entry.clone(), vec![]) };
    let mut next = Entry { live: Some(previous), previous: None, ..entry.clone() };
    quarantine(&mut next, live.target, retry);
    let (expected, actual) = (Measure::Count(limit.into()), Measure::Count(deaths.into()));
    let why = Reason { stage: Stage::Restart, code: Code::Crashed, expected, actual };
    (next, vec![Effect::Serve, Effect::Report { version: live.version, ended: Ended::RolledBack(why) }])
}

fn quarantine(entry: &mut Entry, target: Option<Digest>, retry: u32) {
    // A factory model has no target; it is never on trial.
    let Some(target) = target else { return };
    let retry = entry.quarantine.iter().find(|q| q.target == target).map_or(retry, |q| q.retry.max(retry));
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
#[path = "machine_all.rs"]
mod all;
#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
