//! What the update side decides, as lines of the audit log.
//!
//! Invariant: what a step decided is durable in the log before the journal says it, and so before its effect. What
//! anybody on the network can cause at will (a refused offer or refused metadata, again and again) is written once in
//! a row and within a budget: a card must not die of it; what was left out is counted.

use super::machine::{Effect, Event};
use super::updater::Updater;
use crate::audit::{After, Decision, Log, Part};
use crate::bundle::ModelName;
use crate::privacy::{AuditHead, Outcome, Stage, Verdict};
use crate::store::{Entry, Phase, Quarantined, Run, VersionRef};
use crate::sys::DiskError;
use std::collections::VecDeque;
use std::time::Duration;

/// Lines of the repeatable kind that are written at once, and how often there is room for one more.
const BUDGET: u32 = 64;
const ONE_MORE: Duration = Duration::from_secs(5 * 60);
/// Repeatable lines that are remembered, not to be said twice.
const RECENT: usize = 32;

/// The log, and what is not worth a line.
#[derive(Debug)]
pub(super) struct Audit {
    log: Log,
    /// What an earlier write did not take.
    owed: Vec<Decision>,
    recent: VecDeque<Decision>,
    left: u32,
    refilled: Duration,
}

impl Audit {
    pub(super) fn new(log: Log) -> Self {
        Self { log, owed: Vec::new(), recent: VecDeque::new(), left: BUDGET, refilled: Duration::ZERO }
    }

    pub(super) fn head(&self) -> Option<AuditHead> {
        self.log.head()
    }

    fn note(&mut self, time: u64, now: Duration, decisions: Vec<Decision>) -> Result<(), DiskError> {
        let is_news = !decisions.iter().all(is_repeatable);
        let fresh: Vec<Decision> =
            decisions.into_iter().filter(|decision| is_news || !self.recent.contains(decision)).collect();
        if fresh.is_empty() && self.owed.is_empty() {
            return Ok(());
        }
        if !is_news && !self.has_room(now) {
            self.omit(fresh.len() as u64);
            return Ok(());
        }
        let lines: Vec<Decision> = self.owed.iter().chain(&fresh).cloned().collect();
        self.log.record(time, &lines)?;
        self.owed.clear();
        if is_news {
            self.recent.clear();
        }
        self.recent.extend(fresh.into_iter().filter(is_repeatable));
        self.recent.drain(..self.recent.len().saturating_sub(RECENT));
        Ok(())
    }

    fn has_room(&mut self, now: Duration) -> bool {
        let more = u32::try_from(now.saturating_sub(self.refilled).as_secs() / ONE_MORE.as_secs()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BUDGET);
            self.refilled = now;
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }

    fn omit(&mut self, more: u64) {
        if let Some(Decision::Omitted { lines }) = self.owed.last_mut() {
            *lines += more;
        } else {
            self.owed.push(Decision::Omitted { lines: more });
        }
    }
}

/// Whether nothing but what came over the link is needed for it.
fn is_repeatable(decision: &Decision) -> bool {
    match decision {
        Decision::Offer { .. } => true,
        Decision::Ended { verdict: Verdict::Refused, stage, .. } => {
            [Stage::Metadata, Stage::Offer, Stage::Fetch, Stage::Bundle].contains(stage)
        }
        Decision::Ended { verdict, .. } => *verdict == Verdict::Inconclusive,
        Decision::File { .. }
        | Decision::Start { .. }
        | Decision::Damage { .. }
        | Decision::Factory { .. }
        | Decision::Root { .. }
        | Decision::Lifted { .. }
        | Decision::Fetched { .. }
        | Decision::Passed { .. }
        | Decision::Serves { .. }
        | Decision::Quarantined { .. }
        | Decision::Omitted { .. } => false,
    }
}

/// What a step of a model's machine decided.
pub(super) fn of_step(
    model: &ModelName,
    (before, after): (&Entry, &Entry),
    (event, effects): (Event, &[Effect]),
    outcomes: &[Outcome],
) -> Vec<Decision> {
    let mut decisions: Vec<Decision> = effects.iter().flat_map(|effect| of_offer(model, before, *effect)).collect();
    decisions.extend(of_event(model, before, after, event));
    decisions.extend(outcomes.iter().map(Decision::from));
    let is_new = |q: &&Quarantined| !before.quarantine.contains(q);
    decisions.extend(after.quarantine.iter().filter(is_new).map(|q| Decision::Quarantined {
        model: model.clone(),
        target: q.target,
        retry: q.retry,
    }));
    decisions.extend(serves(model, before.live, after.live));
    decisions
}

/// Who answers from now on, where that changes.
pub(super) fn serves(model: &ModelName, before: Option<VersionRef>, after: Option<VersionRef>) -> Option<Decision> {
    let version = |live: Option<VersionRef>| live.map(|live| live.version);
    let serves = Decision::Serves { model: model.clone(), version: version(after), instead_of: version(before) };
    (before != after).then_some(serves)
}

fn of_offer(model: &ModelName, before: &Entry, effect: Effect) -> Vec<Decision> {
    let Effect::Fetch(offer) = effect else { return vec![] };
    let (model, version, target, retry) = (model.clone(), offer.version, offer.target, offer.retry);
    let is_lifted = before.quarantine.iter().any(|q| q.target == target);
    let lifted = is_lifted.then(|| Decision::Lifted { model: model.clone(), version, target, retry });
    lifted.into_iter().chain([Decision::Offer { model, version, target, retry }]).collect()
}

fn of_event(model: &ModelName, before: &Entry, after: &Entry, event: Event) -> Option<Decision> {
    let model = model.clone();
    let was = before.trial;
    if let Event::Stored { candidate, .. } = event {
        let is_tried = after.trial != was;
        return is_tried.then_some(Decision::Fetched { model, version: candidate.version, bundle: candidate.bundle });
    }
    let was = was?;
    let stage = match was.phase {
        Phase::Checking => Stage::Golden,
        Phase::Shadow => Stage::Shadow,
        Phase::Canary => Stage::Canary,
        Phase::Probation => return None,
    };
    let passes = matches!((event, was.phase), (Event::Passed(_), Phase::Checking) | (Event::Cleared, _));
    let moves = after.trial.map(|trial| trial.phase) != Some(was.phase);
    (passes && moves).then_some(Decision::Passed { model, version: was.candidate.version, stage })
}

impl Updater {
    /// Makes decisions durable, before what follows from them.
    pub(super) fn note(&mut self, decisions: Vec<Decision>) -> Result<(), DiskError> {
        let (time, now) = (self.now(), self.parts.clock.monotonic());
        self.audit.note(time, now, decisions)
    }

    /// The engine starts; what was found damaged. A disk that does not take it is owed it.
    pub(super) fn note_start(&mut self, last: Run, damaged: impl IntoIterator<Item = Part>) -> Result<(), DiskError> {
        let after = match last {
            Run { boot: 0, .. } => After::Nothing,
            Run { running: false, .. } => After::Stop,
            Run { boot, .. } if boot == self.parts.boot => After::Death,
            Run { .. } => After::PowerCut,
        };
        self.audit.owed.push(Decision::Start { after });
        self.audit.owed.extend(damaged.into_iter().map(|part| Decision::Damage { part }));
        self.note_root()?;
        self.note(vec![])
    }

    /// Who serves after a start: a decision that the power cut off from its effect does not stand as if it had one.
    pub(super) fn note_serving(&mut self) -> Result<(), DiskError> {
        let mut news = Vec::new();
        let time = self.now();
        for (model, entry) in &self.store.journal().models {
            let version = entry.live.map(|live| live.version);
            let logged = self.audit.log.serves(time, model)?;
            if logged.unwrap_or_default() != version {
                let instead_of = logged.flatten();
                news.push(Decision::Serves { model: model.clone(), version, instead_of });
            }
        }
        if news.is_empty() { Ok(()) } else { self.note(news) }
    }

    /// Trust commits a root by itself: the line comes behind it, and at the next start where the power went between.
    pub(super) fn note_root(&mut self) -> Result<(), DiskError> {
        let to = self.root_version();
        let from = self.audit.log.root(self.now())?;
        let is_news = to > 0 && from != to;
        if is_news { self.note(vec![Decision::Root { from, to }]) } else { Ok(()) }
    }
}
