//! Versions on trial: what a shadow, a canary or a probation has shown, held against the manifest's bounds.
//!
//! Invariant: the verdicts are pure; what they rest on is counted by the engine alone.

use super::machine::{Event, Reason, Tallied};
use super::updater::{Loaded, Updater};
use crate::bundle::{CanaryGate, Digest, ModelName, Probation, ShadowGate};
use crate::engine::{Beside, Heard, Live, Shadow};
use crate::privacy::{Code, Histogram, Measure, Stage};
use crate::store::{Phase, Seen, Trial};
use crate::sys::DiskError;
use std::time::Duration;

/// A shadow whose inference takes longer does not end.
const HANGS: Duration = Duration::from_secs(60);
/// Fewer times say nothing of a slowdown, or of 95 of 100.
const ENOUGH: u64 = 20;
/// What was inconclusive is tried again after so long.
pub(super) const AGAIN: Duration = Duration::from_secs(10 * 60);
/// A candidate's progress is written at least so often, and whenever its answers doubled.
const NOTED_EVERY: u64 = 60 * 60;

/// Where a version's counts stood when it came to its gate in this run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    phase: Phase,
    /// Of earlier runs.
    before: Seen,
    since: Duration,
    then: Seen,
}

fn bad(stage: Stage, code: Code, expected: Measure, actual: Measure) -> Tallied {
    Tallied::Bad(Reason { stage, code, expected, actual })
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 1.0 } else { part as f64 / of as f64 }
}

#[expect(clippy::cast_possible_truncation, reason = "a share needs no more than an f32")]
fn shares(expected: f64, actual: f64) -> (Measure, Measure) {
    (Measure::Share(expected as f32), Measure::Share(actual as f32))
}

pub(super) fn judge_shadow(gate: &ShadowGate, seen: Seen, slowdown: Option<f64>, running: Duration) -> Tallied {
    if running > HANGS {
        let micros = |d: Duration| Measure::Microseconds(u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        return bad(Stage::Shadow, Code::Hangs, micros(HANGS), micros(running));
    }
    let is_over = seen.answers >= u64::from(gate.answers) || seen.seconds >= u64::from(gate.seconds);
    // Even if it agreed from here on.
    let best = share(seen.agreeing + u64::from(gate.answers).saturating_sub(seen.answers), gate.answers.into());
    let agreement = if is_over { share(seen.agreeing, seen.answers) } else { best };
    if agreement < gate.min_agreement {
        let (expected, actual) = shares(gate.min_agreement, share(seen.agreeing, seen.answers));
        return bad(Stage::Shadow, Code::Disagrees, expected, actual);
    }
    match (is_over, gate.max_slowdown, slowdown) {
        (false, _, _) => Tallied::GoesOn,
        (true, Some(max), Some(slowdown)) if seen.answers >= ENOUGH && slowdown > max => {
            let (expected, actual) = shares(max, slowdown);
            bad(Stage::Shadow, Code::OverLatency, expected, actual)
        }
        (true, _, _) => Tallied::Good,
    }
}

fn judge_errors(stage: Stage, allowed: u32, failed: u64) -> Option<Tallied> {
    let (expected, actual) = (Measure::Count(allowed.into()), Measure::Count(failed));
    (failed > u64::from(allowed)).then(|| bad(stage, Code::TooManyErrors, expected, actual))
}

pub(super) fn judge_canary(gate: &CanaryGate, seen: Seen) -> Tallied {
    let is_over = seen.answers + seen.failed >= u64::from(gate.requests) || seen.seconds >= u64::from(gate.seconds);
    let end = if is_over { Tallied::Good } else { Tallied::GoesOn };
    judge_errors(Stage::Canary, gate.max_errors, seen.failed).unwrap_or(end)
}

/// `latency` in buckets that double: one is over the bound when all that it can hold is.
pub(super) fn judge_probation(gate: &Probation, seen: Seen, latency: &Histogram) -> Tallied {
    if let Some(bad) = judge_errors(Stage::Probation, gate.max_errors, seen.failed) {
        return bad;
    }
    if seen.answers + seen.failed < u64::from(gate.requests) || seen.seconds < u64::from(gate.seconds) {
        return Tallied::GoesOn;
    }
    let p95 = latency.quantile(0.95).map(|upper| upper / 2).filter(|_| seen.answers >= ENOUGH);
    match (gate.latency_ms, p95) {
        (Some(ms), Some(micros)) if micros as f64 > ms * 1e3 => {
            let bound =
                Measure::Microseconds(Duration::from_secs_f64(ms / 1e3).as_micros().try_into().unwrap_or(u64::MAX));
            bad(Stage::Probation, Code::OverLatency, bound, Measure::Microseconds(micros))
        }
        (_, _) => Tallied::Good,
    }
}

impl Updater {
    /// Looks at all that is on trial.
    pub async fn tick(&mut self) -> Result<(), DiskError> {
        if self.parts.clock.monotonic().saturating_sub(self.started) > super::deaths::CALM
            && self.store.journal().run.deaths > 0
        {
            self.calm(true)?;
        }
        let on_trial = |(model, entry): (&ModelName, &crate::store::Entry)| Some((model.clone(), entry.trial?));
        self.look_at_waiting().await?;
        self.resume().await?;
        let trials: Vec<(ModelName, Trial)> = self.store.journal().models.iter().filter_map(on_trial).collect();
        for (model, trial) in trials {
            for event in self.look(&model, trial) {
                let effects = self.advance(&model, event)?;
                if !effects.is_empty() {
                    self.perform(&model, effects).await?;
                    self.consider_offers()?;
                    self.next_download()?;
                    // What else was to be said was of a state that is past.
                    break;
                }
            }
        }
        Ok(())
    }

    /// What there is to say of a trial now; the last one may end it.
    fn look(&mut self, model: &ModelName, trial: Trial) -> Vec<Event> {
        match trial.phase {
            Phase::Checking => self.look_again(model, trial).into_iter().collect(),
            Phase::Shadow | Phase::Canary => self.look_beside(model, trial),
            Phase::Probation => self.tally(model).into_iter().collect(),
        }
    }

    fn look_again(&mut self, model: &ModelName, trial: Trial) -> Option<Event> {
        let due = *self.again.get(model)?;
        let is_due = trial.paused && self.parts.clock.monotonic() >= due;
        let may_go = is_due && self.may_go_on(model, trial);
        may_go.then(|| {
            self.again.remove(model);
            Event::Again
        })
    }

    /// At its gate, and the live version's own probation that goes on beside it.
    fn look_beside(&mut self, model: &ModelName, trial: Trial) -> Vec<Event> {
        let tally = self.entry(model).unproven.and_then(|_| self.tally(model));
        let bundle = trial.candidate.bundle;
        let Some(Loaded { manifest, .. }) = self.loaded.get(&bundle).cloned() else {
            return self.look_again(model, trial).into_iter().chain(tally).collect();
        };
        let verdict = match (trial.phase, self.parts.slots.beside(model.as_str())) {
            (Phase::Shadow, Some(Beside::Shadow(shadow))) => {
                let seen = self.seen(bundle, Phase::Shadow, shadow_counts(&shadow));
                let slowdown = shadow.heard().slowdown.filter(|_| !(self.parts.throttled)());
                let judged = |(gate, seen)| (judge_shadow(gate, seen, slowdown, shadow.running_for()), seen);
                manifest.shadow.as_ref().zip(seen).map(judged)
            }
            (Phase::Canary, Some(Beside::Canary(canary))) => {
                let seen = self.seen(bundle, Phase::Canary, live_counts(canary.candidate()));
                manifest.canary.as_ref().zip(seen).map(|(gate, seen)| (judge_canary(gate, seen), seen))
            }
            (_, _) => None,
        };
        let news = verdict.and_then(|(verdict, seen)| match verdict {
            Tallied::Good => self.may_go_on(model, trial).then_some(Event::Cleared),
            Tallied::Bad(why) => Some(Event::Failed(why)),
            Tallied::GoesOn => is_worth_noting(trial.seen, seen).then_some(Event::Seen(seen)),
        });
        tally.into_iter().chain(news).collect()
    }

    /// The requests of a live version on probation.
    fn tally(&self, model: &ModelName) -> Option<Event> {
        let live = self.entry(model).live?;
        let Loaded { live: loaded, manifest } = self.loaded.get(&live.bundle)?;
        let seen = self.seen(live.bundle, Phase::Probation, live_counts(loaded))?;
        let verdict = judge_probation(&manifest.probation, seen, &Histogram(loaded.counts().latency));
        let waits = matches!(verdict, Tallied::Bad(Reason { code: Code::OverLatency, .. })) && (self.parts.throttled)();
        Some(Event::Tally { answered: seen.answers, verdict: if waits { Tallied::GoesOn } else { verdict } })
    }

    /// What a version has shown at its gate, in this run and in earlier ones.
    fn seen(&self, bundle: Digest, phase: Phase, now: Seen) -> Option<Seen> {
        let Watched { before, since, then, .. } = self.watched.get(&bundle).filter(|watched| watched.phase == phase)?;
        Some(Seen {
            answers: before.answers + now.answers.saturating_sub(then.answers),
            agreeing: before.agreeing + now.agreeing.saturating_sub(then.agreeing),
            failed: before.failed + now.failed.saturating_sub(then.failed),
            seconds: before.seconds + self.parts.clock.monotonic().saturating_sub(*since).as_secs(),
        })
    }

    /// Counts from now on what a version shows at a gate, unless that is done already.
    pub(super) fn watch(&mut self, bundle: Digest, phase: Phase, before: Seen, then: Seen) {
        let is_watched = self.watched.get(&bundle).is_some_and(|watched| watched.phase == phase);
        if !is_watched {
            self.watched.insert(bundle, Watched { phase, before, since: self.parts.clock.monotonic(), then });
        }
    }

    /// What the present trial has shown, for a start after this run.
    pub(super) fn progress(&self, model: &ModelName) -> Option<Seen> {
        let trial = self.entry(model).trial?;
        let bundle = trial.candidate.bundle;
        let counts = match self.parts.slots.beside(model.as_str()) {
            Some(Beside::Shadow(shadow)) => shadow_counts(&shadow),
            Some(Beside::Canary(_)) | None => live_counts(&self.loaded.get(&bundle)?.live),
        };
        self.seen(bundle, trial.phase, counts)
    }
}

/// A version that answers requests.
pub(super) fn live_counts(live: &Live) -> Seen {
    let counts = live.counts();
    Seen { answers: counts.answered, failed: counts.failed, ..Seen::default() }
}

fn shadow_counts(shadow: &Shadow) -> Seen {
    let Heard { answers, agreeing, failed, .. } = shadow.heard();
    Seen { answers, agreeing, failed, seconds: 0 }
}

fn is_worth_noting(noted: Seen, seen: Seen) -> bool {
    const FIRST: u64 = 16;
    seen.answers >= FIRST.max(noted.answers * 2) || seen.seconds >= noted.seconds + NOTED_EVERY
}
