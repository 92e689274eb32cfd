//! What this device should run by what it trusts: which offers there are for it, and which of them is fetched next.

use super::fetch::{Download, Wanted};
use super::machine::{Effect, Event, Offered, step};
use super::rules::Step;
use super::updater::{Updater, unusable};
use crate::bundle::ModelName;
use crate::privacy::{Code, Measure, Stage};
use crate::store::Phase;
use crate::sys::DiskError;
use crate::trust::{self, Board, Has, Recipient};
use tracing::info;

impl Updater {
    /// What is signed for this device as it is now.
    pub(super) fn offers(&self) -> Vec<trust::Offer> {
        self.ask_trust(trust::Verified::offers_for).unwrap_or_default()
    }

    fn ask_trust<T>(&self, ask: impl FnOnce(&trust::Verified, &Recipient<'_>) -> T) -> Option<T> {
        let board = Board::from(&(self.parts.inventory)());
        let has = |model: &ModelName| self.has(model);
        let (id, groups) = (&self.parts.device, self.parts.groups.as_slice());
        Some(ask(self.verified()?, &Recipient { id, groups, board: &board, time: self.now(), has: &has }))
    }

    fn has(&self, model: &ModelName) -> Has {
        let entry = self.entry(model);
        let candidate = entry.trial.and_then(|trial| trial.candidate.target);
        Has { live: entry.live.map(|live| live.version), targets: [entry.live.and_then(|live| live.target), candidate] }
    }

    /// The epoch of the offer that a live version came by; 0 where it is offered no more.
    pub(super) fn epoch_of_live(&self, model: &ModelName) -> u32 {
        let target = self.entry(model).live.and_then(|live| live.target);
        self.standing().iter().find(|offer| Some(offer.digest) == target).map_or(0, |offer| offer.retry)
    }

    /// What is signed of the versions that this device has, offered or not.
    fn standing(&self) -> Vec<trust::Offer> {
        self.ask_trust(trust::Verified::standing_of).unwrap_or_default()
    }

    /// Makes the list of what trust says this device should run.
    pub(super) fn consider_offers(&mut self) -> Result<(), DiskError> {
        let laid_aside = self.waiting.begin_anew(self.ask_trust(trust::Verified::next_wave).flatten());
        self.pending.clear();
        for offer in self.offers() {
            self.waiting.note(&offer);
            if offer.hold.is_none() {
                let (model, wanted) = wanted(offer);
                self.pending.insert(model, wanted);
            }
        }
        for offer in self.ask_trust(trust::Verified::paused_for).unwrap_or_default() {
            let (model, wanted) = wanted(offer);
            if self.is_news(&wanted) {
                self.waiting.pause(model, wanted.offered.version);
            }
        }
        self.standing().iter().for_each(|offer| self.waiting.note(offer));
        // Of the one under way, only the place may have changed.
        if let Some(mut download) = self.download.take()
            && let Some(wanted) = self.pending.get(&download.model)
            && wanted.offered == download.offered
        {
            download.restart(wanted.clone())?;
            self.pending.remove(&download.model.clone());
            self.download = Some(download);
        }
        for mut held in laid_aside {
            let model = held.wanted.model.clone();
            if self.pending.get(&model).is_some_and(|wanted| wanted.offered == held.wanted.offered)
                && let Some(wanted) = self.pending.remove(&model)
            {
                held.whole.iter_mut().for_each(|whole| whole.note(wanted.clone()));
                self.waiting.hold(wanted, held.why, held.whole);
            }
        }
        Ok(())
    }

    /// Whether it would be fetched if nothing held it back.
    pub(super) fn is_news(&self, wanted: &Wanted) -> bool {
        let (_, effects) = step(&self.entry(&wanted.model), Event::Offered(wanted.offered));
        let is_fetched = effects.iter().any(|effect| matches!(effect, Effect::Fetch(_)));
        is_fetched && !self.judged.contains(&wanted.offered.key())
    }

    /// What the board has, and what is needed, where that is more.
    fn cannot_fit(&self, wanted: &Wanted) -> Option<(Measure, Measure)> {
        let (has, needs) = (self.parts.memory?, u64::from(wanted.memory_mib?) << 20);
        (needs > has).then_some((Measure::Bytes(has), Measure::Bytes(needs)))
    }

    /// No candidate of the model is at its checks, but for one that is held back.
    pub(super) fn is_idle(&self, model: &ModelName) -> bool {
        self.entry(model).trial.is_none_or(|trial| trial.phase != Phase::Checking || trial.paused)
    }

    /// Starts on the next offer when none is under way.
    pub(super) fn next_download(&mut self) -> Result<(), DiskError> {
        while self.download.is_none() {
            let Some(model) = self.pending.keys().find(|model| self.is_idle(model)).cloned() else { break };
            let Some(wanted) = self.pending.remove(&model) else { break };
            if self.judged.contains(&wanted.offered.key()) {
                continue;
            }
            if self.is_news(&wanted)
                && let Some(why) = self.has_to_wait(Step::Fetch, wanted.urgent)
            {
                self.waiting.hold(wanted, why, None);
                continue;
            }
            for effect in self.advance(&model, Event::Offered(wanted.offered))? {
                match effect {
                    Effect::Fetch(offered) => {
                        if let Some(numbers) = self.cannot_fit(&wanted) {
                            self.judged.push(offered.key());
                            self.advance(&model, unusable(offered, Stage::Offer, Code::OverMemory, numbers))?;
                            continue;
                        }
                        info!(%model, version = offered.version, "fetching");
                        let dir = self.parts.state.join("fetch");
                        let wanted = Wanted { offered, ..wanted.clone() };
                        let bases = self.store.named(&model);
                        self.download = Some(Download::new(self.parts.disk.clone(), &dir, wanted, bases)?);
                    }
                    Effect::Report { .. } => self.judged.push(wanted.offered.key()),
                    Effect::Check | Effect::Serve => {}
                }
            }
        }
        self.forget_chunks()
    }

    /// Chunks that a finished or abandoned download left, once nothing is under way and nothing waits. A board without a
    /// clock begins each start before waves that had begun: what it had fetched of them waits, too.
    fn forget_chunks(&self) -> Result<(), DiskError> {
        let dir = self.parts.state.join("fetch");
        if self.download.is_some() || self.waiting.keeps_chunks() || self.parts.disk.list(&dir)?.is_empty() {
            return Ok(());
        }
        self.parts.disk.remove_dir(&dir)
    }
}

fn wanted(offer: trust::Offer) -> (ModelName, Wanted) {
    let trust::Offer { model, version, digest, allow_downgrade, retry, .. } = offer;
    let offered = Offered { version, target: digest, allow_downgrade, retry };
    let trust::Offer { ordinal, size, memory_mib, urgent, bundle, deltas, .. } = offer;
    (model.clone(), Wanted { model, offered, ordinal, size, memory_mib, urgent, bundle, deltas })
}
