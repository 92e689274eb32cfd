//! Versions in memory: checked beside the serving path, put into their slots, let go.

use super::gate::{self, Board, Failure};
use super::machine::{Effect, Event, Reason};
use super::trials::{self, live_counts};
use super::updater::{Loaded, Updater};
use crate::bundle::{Digest, Likeness, ModelName};
use crate::engine::{Beside, Canary, Compare, Live, Shadow};
use crate::privacy::{Code, Stage};
use crate::store::{Gates, Phase, Seen, Trial, VersionRef};
use crate::sys::DiskError;
use std::sync::Arc;
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
                return Event::Failed(Reason::plain(Stage::Bundle, Code::StorageDamaged));
            }
        };
        let (workers, clock, throttled) = (self.parts.workers, self.parts.clock.clone(), self.parts.throttled.clone());
        let manifest = Arc::new(bundle.manifest().clone());
        let check = move || gate::check(&bundle, workers, &Board { clock: &*clock, throttled: &*throttled });
        match tokio::task::spawn_blocking(check).await {
            Ok(Ok(live)) => self.admit(model, trial, Loaded { live, manifest }),
            Ok(Err(failure)) => {
                warn!(%model, error = &failure as &dyn std::error::Error, "gate");
                let Failure { stage, code, expected, actual, .. } = failure;
                let why = Reason { stage, code, expected, actual };
                if code != Code::Throttled {
                    return Event::Failed(why);
                }
                self.again.insert(model.clone(), self.parts.clock.monotonic() + trials::AGAIN);
                Event::Inconclusive(why)
            }
            Err(error) => {
                warn!(%model, %error, "gate broke");
                Event::Failed(Reason::plain(Stage::SelfTest, Code::CannotRun))
            }
        }
    }

    /// It passed its checks: the gates that its manifest asks for, if it can stand there.
    fn admit(&mut self, model: &ModelName, trial: Trial, loaded: Loaded) -> Event {
        let gates = Gates { shadow: loaded.manifest.shadow.is_some(), canary: loaded.manifest.canary.is_some() };
        let live = self.parts.slots.get(model.as_str());
        let stage = if gates.shadow { Stage::Shadow } else { Stage::Canary };
        if (gates.shadow || gates.canary) && live.is_some_and(|live| !is_comparable(&live, &loaded.live)) {
            return Event::Failed(Reason::plain(stage, Code::NotComparable));
        }
        self.loaded.insert(trial.candidate.bundle, loaded);
        Event::Passed(gates)
    }

    /// Makes the slot hold what the journal says is live, and beside it who stands at a gate.
    pub(super) async fn serve_live(&mut self, model: &ModelName) {
        let entry = self.entry(model);
        match entry.live {
            Some(version) => match self.load(model, version).await {
                Ok(loaded) => {
                    info!(%model, version = version.version, "serving");
                    let then = live_counts(&loaded.live);
                    self.parts.slots.install(loaded.live);
                    let proves = entry.trial.filter(|trial| trial.phase == Phase::Probation);
                    if let Some(before) = proves.map(|trial| trial.seen).or(entry.unproven.map(|_| Seen::default())) {
                        self.watch(version.bundle, Phase::Probation, before, then);
                    }
                    if let Some(trial) = entry.trial {
                        self.put_beside(model, trial);
                    }
                }
                Err(error) => warn!(%model, version = version.version, error = &*error, "cannot serve"),
            },
            None => drop(self.parts.slots.remove(model.as_str())),
        }
    }

    /// A candidate whose phase asks for it, once it is loaded.
    fn put_beside(&mut self, model: &ModelName, trial: Trial) {
        let Some(Loaded { live, manifest }) = self.loaded.get(&trial.candidate.bundle).cloned() else { return };
        let version = trial.candidate.version;
        let (beside, then) = match (trial.phase, manifest.shadow, manifest.canary) {
            (Phase::Shadow, Some(gate), _) => {
                let atol = gate.atol;
                let compare = match gate.compare {
                    Likeness::Argmax => Compare::Argmax { atol },
                    Likeness::Values => Compare::Values { atol },
                };
                match Shadow::start(live, compare) {
                    Ok(shadow) => (Beside::Shadow(shadow), Seen::default()),
                    Err(error) => return warn!(%model, version, %error, "no thread for a shadow"),
                }
            }
            (Phase::Canary, _, Some(gate)) => {
                let then = live_counts(&live);
                (Beside::Canary(Canary::new(live, gate.share)), then)
            }
            (_, _, _) => return,
        };
        info!(%model, version, phase = ?trial.phase, "beside the live version");
        self.watched.remove(&trial.candidate.bundle);
        self.watch(trial.candidate.bundle, trial.phase, trial.seen, then);
        self.parts.slots.set_beside(model.as_str(), Some(beside));
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
        let manifest = Arc::new(bundle.manifest().clone());
        let workers = self.parts.workers;
        let live = tokio::task::spawn_blocking(move || gate::load(&bundle, workers)).await??;
        let loaded = Loaded { live, manifest };
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
        self.watched.retain(|digest, _| keep.contains(digest));
        self.store.collect_garbage()
    }
}

/// Whether both can be asked the same, and their answers be held against each other.
fn is_comparable(live: &Live, candidate: &Live) -> bool {
    let (live, candidate) = (live.model(), candidate.model());
    live.inputs() == candidate.inputs() && live.outputs() == candidate.outputs()
}
