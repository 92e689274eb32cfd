//! Versions in memory: checked beside the serving path, put into their slots, let go.

use super::gate::{self, Failure};
use super::machine::{Effect, Event};
use super::updater::{Loaded, Updater};
use crate::bundle::{Digest, ModelName};
use crate::privacy::{Code, Measure, Stage};
use crate::store::VersionRef;
use crate::sys::DiskError;
use tracing::{debug, info, warn};

impl Updater {
    /// Does what a step asked for, and what follows from it, until nothing more does.
    pub(super) async fn perform(&mut self, model: &ModelName, effects: Vec<Effect>) -> Result<(), DiskError> {
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Check => {
                    let event = self.check_candidate(model).await;
                    effects.extend(self.advance(model, event)?);
                }
                Effect::Serve => self.serve_live(model).await,
                Effect::Report { .. } => self.clean_up(model)?,
                // Only an offer leads to it, and offers are made by `next_download`.
                Effect::Fetch(_) => {}
            }
        }
        Ok(())
    }

    /// Runs the gates beside the serving path and keeps what they loaded.
    async fn check_candidate(&mut self, model: &ModelName) -> Event {
        let Some(trial) = self.entry(model).trial else { return Event::Stopping };
        let bundle = match self.store.load(model, &trial.candidate) {
            Ok(bundle) => bundle,
            Err(error) => {
                warn!(%model, error = &error as &dyn std::error::Error, "candidate");
                return failed(Stage::Bundle, Code::StorageDamaged);
            }
        };
        let (workers, clock) = (self.parts.workers, self.parts.clock.clone());
        let probation = bundle.manifest().probation;
        let checked = tokio::task::spawn_blocking(move || gate::check(&bundle, workers, &*clock)).await;
        match checked {
            Ok(Ok(live)) => {
                self.loaded.insert(trial.candidate.bundle, Loaded { live, probation });
                Event::Passed
            }
            Ok(Err(failure)) => {
                warn!(%model, error = &failure as &dyn std::error::Error, "gate");
                let Failure { stage, code, expected, actual, .. } = failure;
                Event::Failed { stage, code, expected, actual }
            }
            Err(error) => {
                warn!(%model, %error, "gate broke");
                failed(Stage::SelfTest, Code::CannotRun)
            }
        }
    }

    /// Makes the slot hold what the journal says is live.
    pub(super) async fn serve_live(&mut self, model: &ModelName) {
        match self.entry(model).live {
            Some(version) => match self.load(model, version).await {
                Ok(loaded) => {
                    info!(%model, version = version.version, "serving");
                    self.parts.slots.install(loaded.live);
                }
                Err(error) => warn!(%model, version = version.version, error = &*error, "cannot serve"),
            },
            None => drop(self.parts.slots.remove(model.as_str())),
        }
    }

    /// From memory, or from disk with the self-test.
    async fn load(
        &mut self,
        model: &ModelName,
        version: VersionRef,
    ) -> Result<Loaded, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(loaded) = self.loaded.get(&version.bundle) {
            return Ok(loaded.clone());
        }
        let bundle = self.store.load(model, &version)?;
        let probation = bundle.manifest().probation;
        let workers = self.parts.workers;
        let live = tokio::task::spawn_blocking(move || gate::load(&bundle, workers)).await??;
        let loaded = Loaded { live, probation };
        self.loaded.insert(version.bundle, loaded.clone());
        Ok(loaded)
    }

    pub(super) async fn can_serve(&mut self, model: &ModelName, version: VersionRef) -> bool {
        match self.load(model, version).await {
            Ok(_) => true,
            Err(error) => {
                warn!(%model, version = version.version, error = &*error, "does not load");
                false
            }
        }
    }

    /// After an update ended: memory and disk keep what the journal names. In memory only the live
    /// version stays; the previous one is read from disk if it is ever needed.
    pub(super) fn clean_up(&mut self, model: &ModelName) -> Result<(), DiskError> {
        debug!(%model, "cleaning up");
        let keep: Vec<Digest> = self
            .store
            .journal()
            .models
            .values()
            .flat_map(|entry| {
                let pinned = if entry.trial.is_some() { entry.previous } else { None };
                let candidate = entry.trial.map(|trial| trial.candidate);
                [entry.live, pinned, candidate].into_iter().flatten().map(|version| version.bundle)
            })
            .collect();
        self.loaded.retain(|digest, _| keep.contains(digest));
        self.store.collect_garbage()
    }
}

fn failed(stage: Stage, code: Code) -> Event {
    Event::Failed { stage, code, expected: Measure::None, actual: Measure::None }
}
