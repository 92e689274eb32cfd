//! The loop breaker: an engine that dies again and again with nothing on trial.
//!
//! Deaths count within one boot of the kernel: a power cut is none. A day of running clears them: an engine that is
//! killed for memory twice a year need not give up a model.
//! Whom to blame nobody can know; most likely it is what changed last.

use super::machine::{Effect, Event};
use super::updater::Updater;
use crate::bundle::ModelName;
use crate::privacy::Verdict;
use crate::store::{Journal, Run};
use crate::sys::DiskError;
use std::time::Duration;
use tracing::warn;

/// More deaths in a row than this take back what changed last.
pub(super) const MAX_DEATHS: u32 = 2;
/// Running for so long, the engine is not in a loop.
pub(super) const CALM: Duration = Duration::from_secs(24 * 60 * 60);

/// The run that begins now.
fn begin(last: Run, boot: u128) -> Run {
    let died = last.running && last.boot == boot;
    Run { boot, running: true, deaths: if died { last.deaths.saturating_add(1) } else { 0 } }
}

/// The version that changed last, of those that went live and that another one can stand in for.
fn changed_last(journal: &Journal) -> Option<ModelName> {
    let went_live = journal.outcomes.iter().rev().filter(|outcome| outcome.verdict == Verdict::Live);
    went_live.filter_map(|outcome| outcome.model.clone().zip(outcome.version)).find_map(|(model, version)| {
        let entry = journal.models.get(&model)?;
        let is_live = entry.live.is_some_and(|live| live.version == version);
        (is_live && entry.previous.is_some() && entry.trial.is_none()).then_some(model)
    })
}

impl Updater {
    /// Notes that the engine runs, and takes back what makes it die.
    pub(super) fn begin_run(&mut self) -> Result<(), DiskError> {
        let mut run = begin(self.store.journal().run, self.parts.boot);
        let on_trial = self.store.journal().models.values().any(|entry| entry.trial.is_some());
        let blamed = if run.deaths > MAX_DEATHS && !on_trial { changed_last(self.store.journal()) } else { None };
        if let Some(model) = blamed {
            warn!(%model, deaths = run.deaths, "the engine dies again and again: the model that changed last goes back");
            let retry = self.epoch_of_live(&model);
            let event = Event::Blamed { deaths: run.deaths, limit: MAX_DEATHS, retry };
            let effects: Vec<Effect> = self.advance(&model, event)?;
            debug_assert!(!effects.is_empty(), "it can be taken back");
            run.deaths = 0;
        }
        // Whoever is on trial is blamed by its own machine.
        run.deaths = if on_trial { 0 } else { run.deaths };
        self.note_run(run)
    }

    /// The engine stops in order, or has run for long.
    pub(super) fn calm(&mut self, running: bool) -> Result<(), DiskError> {
        self.note_run(Run { boot: self.parts.boot, running, deaths: 0 })
    }

    fn note_run(&mut self, run: Run) -> Result<(), DiskError> {
        let journal = Journal { run, ..self.store.journal().clone() };
        self.record(journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deaths_of_one_boot_in_a_row_count() {
        let first = begin(Run::default(), 7);
        assert_eq!(first, Run { boot: 7, running: true, deaths: 0 });
        let second = begin(begin(first, 7), 7);
        assert_eq!(second.deaths, 2);
        assert_eq!(begin(second, 8).deaths, 0, "the power went");
        assert_eq!(begin(Run { running: false, ..second }, 7).deaths, 0, "it was stopped");
    }
}
