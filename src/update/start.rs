//! Starting: from what the last run left on disk to models that serve.
//!
//! Invariant: something that loads serves whenever anything does: the live version, else the pinned
//! one, else the factory's.

use super::audited::serves;
use super::machine::{Effect, Ended, Event, Reason};
use super::report;
use super::updater::{Parts, Updater};
use crate::audit::{Decision, Part};
use crate::bundle::ModelName;
use crate::privacy::{Code, Measure, Outcome, Stage, Verdict};
use crate::store::{Entry, Phase, Store, Trial, VersionRef};
use crate::sys::DiskError;
use crate::trust::{OpenError, Trust};
use tracing::{error, info, warn};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Updater {
    /// Opens the state, settles what a crash or a power cut interrupted, and puts the models into
    /// their slots. A candidate whose checks were cut off is checked again by `resume`.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let (store, lost) = Store::open(parts.disk.clone(), &parts.state)?;
        let trust = open_trust(&parts);
        let trust_is_lost = matches!(trust, Err(OpenError::Corrupt { .. }));
        let trust = trust.unwrap_or_else(|error| {
            error!(error = &error as &dyn std::error::Error, "no update will be taken");
            None
        });
        let mut this = Self::assemble(parts, store, trust);
        let journal_is_lost = lost.is_some();
        if let Some(error) = lost {
            error!(error = &error as &dyn std::error::Error, "starting from the factory models");
        }
        let last = this.store.journal().run;
        let damaged = journal_is_lost.then_some(Part::Journal).into_iter().chain(trust_is_lost.then_some(Part::Trust));
        this.settle("write the audit log", |this| this.note_start(last, damaged));
        this.settle("note the run", Self::begin_run);
        this.settle("install the factory models", Self::install_factory);
        let models: Vec<ModelName> = this.store.journal().models.keys().cloned().collect();
        for model in &models {
            // A check that was cut off runs again once all models serve; the rest is done by now.
            let started = Event::Started { boot: this.parts.boot };
            this.settle("note the start", |this| this.advance(model, started).map(drop));
            if let Err(error) = this.bring_up(model).await {
                error!(%model, error = &error as &dyn std::error::Error, "the disk does not take what happened");
                this.serve_live(model).await;
            }
            this.settle("clean up", |this| this.clean_up(model));
        }
        this.settle("write the audit log", Self::note_serving);
        if trust_is_lost || journal_is_lost {
            let outcome = this.damage_outcome();
            report::remember(&mut this.passing, outcome);
        }
        // What is signed holds before a link is there, too: no gate lets through what is paused.
        this.settle("look at what is offered", Self::consider_offers);
        Ok(this)
    }

    /// A disk that is full or read-only must not keep whole models from serving.
    fn settle(&mut self, what: &'static str, step: impl FnOnce(&mut Self) -> Result<(), DiskError>) {
        if let Err(error) = step(self) {
            error!(what, error = &error as &dyn std::error::Error, "the disk does not take it");
        }
    }

    /// Checks candidates that the last run did not get to the end of, where nothing holds them back; each tick looks again.
    pub async fn resume(&mut self) -> Result<(), DiskError> {
        let trials =
            self.store.journal().models.iter().filter_map(|(model, entry)| Some((model.clone(), entry.trial?)));
        let trials: Vec<(ModelName, Trial)> = trials.collect();
        for (model, trial) in trials {
            // It has its own time for that.
            if self.again.contains_key(&model) {
                continue;
            }
            match trial.phase {
                Phase::Checking => self.check_or_hold(&model, trial).await?,
                // It stands where it stood: at its gate, which asks by itself.
                Phase::Shadow | Phase::Canary if !self.loaded.contains_key(&trial.candidate.bundle) => {
                    self.perform(&model, vec![Effect::Check]).await?;
                }
                Phase::Shadow | Phase::Canary | Phase::Probation => {}
            }
        }
        Ok(())
    }

    /// A check that was cut off. While it is held back, a power cut is not held against it.
    async fn check_or_hold(&mut self, model: &ModelName, trial: Trial) -> Result<(), DiskError> {
        let effects = match (self.may_go_on(model, trial), trial.paused) {
            (true, true) => self.advance(model, Event::Again)?,
            (true, false) => vec![Effect::Check],
            (false, true) => vec![],
            (false, false) => self.advance(model, Event::Stopping)?,
        };
        self.perform(model, effects).await
    }

    /// A factory model is taken when nothing newer of its name is there.
    fn install_factory(&mut self) -> Result<(), DiskError> {
        for i in 0..self.parts.factory.len() {
            let bundle = &self.parts.factory[i];
            let (model, version) = (bundle.manifest().name.clone(), bundle.manifest().version);
            let entry = self.entry(&model);
            // What the operator published stays, older or not: it may be a downgrade that was meant.
            let stays = entry.live.is_some_and(|live| live.target.is_some() || live.version >= version);
            if stays || entry.trial.is_some() {
                continue;
            }
            self.store.add(bundle)?;
            info!(%model, version, "installing the factory model");
            let live = VersionRef { version, bundle: bundle.digest(), target: None };
            let installed = Decision::Factory { model: model.clone(), version, bundle: live.bundle };
            let mut journal = self.store.journal().clone();
            let serves = serves(&model, entry.live, Some(live));
            self.note([installed].into_iter().chain(serves).collect())?;
            journal.models.insert(model, Entry { live: Some(live), previous: entry.live, ..entry });
            self.record(journal)?;
        }
        Ok(())
    }

    /// Serves the live version or, where it does not load, what stands behind it.
    async fn bring_up(&mut self, model: &ModelName) -> Result<(), DiskError> {
        let entry = self.entry(model);
        let factory = self.parts.factory.iter().find(|bundle| bundle.manifest().name == *model);
        let factory = factory.map(|bundle| VersionRef {
            version: bundle.manifest().version,
            bundle: bundle.digest(),
            target: None,
        });
        let mut candidates = [entry.live, entry.previous, factory].into_iter().flatten();
        let chosen = loop {
            let Some(version) = candidates.next() else { break None };
            if Some(version) == factory {
                self.add_factory(model)?;
            }
            if self.can_serve(model, version).await {
                break Some(version);
            }
        };
        if chosen != entry.live {
            self.fall_back(model, &entry, chosen)?;
        }
        self.serve_live(model).await;
        Ok(())
    }

    fn add_factory(&self, model: &ModelName) -> Result<(), DiskError> {
        let factory = self.parts.factory.iter().find(|bundle| bundle.manifest().name == *model);
        factory.map_or(Ok(()), |bundle| self.store.add(bundle))
    }

    /// The live version did not load: the journal says what serves instead, and the loss is told.
    fn fall_back(&mut self, model: &ModelName, entry: &Entry, chosen: Option<VersionRef>) -> Result<(), DiskError> {
        let lost = entry.live.map_or(0, |live| live.version);
        warn!(%model, lost, now = chosen.map(|v| v.version), "falling back");
        let measure = |version: Option<VersionRef>| version.map_or(Measure::None, |v| Measure::Version(v.version));
        let ended = Ended::RolledBack(Reason {
            stage: Stage::Restart,
            code: Code::StorageDamaged,
            expected: measure(entry.live),
            actual: measure(chosen),
        });
        let mut journal = self.store.journal().clone();
        let outcome = report::outcome(model, lost, ended, self.now());
        self.note([Decision::from(&outcome)].into_iter().chain(serves(model, entry.live, chosen)).collect())?;
        report::remember(&mut journal.outcomes, outcome);
        let next =
            Entry { live: chosen, previous: None, trial: None, unproven: None, quarantine: entry.quarantine.clone() };
        journal.models.insert(model.clone(), next);
        self.record(journal)
    }

    fn damage_outcome(&self) -> Outcome {
        Outcome {
            model: None,
            version: None,
            verdict: Verdict::Refused,
            stage: Stage::Restart,
            code: Code::StorageDamaged,
            expected: Measure::None,
            actual: Measure::None,
            time: self.now(),
        }
    }
}

fn open_trust(parts: &Parts) -> Result<Option<Trust>, OpenError> {
    let Some(root) = &parts.root else {
        info!("there is no operator's root: no update will be taken");
        return Ok(None);
    };
    Trust::open(parts.disk.clone(), &parts.state.join("trust"), root).map(Some)
}
