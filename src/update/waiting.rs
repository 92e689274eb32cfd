//! Offers that wait: for the operator, for their wave, for what the board's owner allows.
//!
//! Invariant: what waits keeps the chunks that it has, over starts too, and goes on by itself when that ends. What runs is
//! touched by nothing here but a signed call back.

use super::fetch::{Download, Wanted};
use super::machine::{Ended, Event, Reason, step};
use super::report;
use super::rules::{ClockWait, Load, Now, Step, waits_for};
use super::updater::Updater;
use crate::audit::Decision;
use crate::bundle::{Digest, ModelName};
use crate::privacy::{Code, Measure, Stage, WaitsFor};
use crate::store::{Trial, VersionRef};
use crate::sys::{Disk, DiskError};
use crate::trust::{self, Hold};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};

/// How often the board's state is held against the rules.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Seconds that a synchronized clock may be behind device time, which the operator's clock has a hand in.
const NEAR: u64 = 15 * 60;

/// One offer.
#[derive(Debug)]
pub(super) struct Held {
    pub wanted: Wanted,
    pub why: WaitsFor,
    /// All of it is on disk: only the installation waits.
    pub whole: Option<Download>,
}

/// What the operator says of a version that is offered or that the device has.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    hold: Option<Hold>,
    urgent: bool,
}

#[derive(Debug)]
pub(super) struct Waiting {
    held: BTreeMap<ModelName, Held>,
    /// Versions that would be fetched if they were not paused.
    paused: BTreeMap<ModelName, u32>,
    standing: BTreeMap<(ModelName, Digest), Standing>,
    /// Candidates that a gate would let through.
    at_gates: BTreeMap<ModelName, WaitsFor>,
    /// Device time of the next wave that reaches this device.
    next_wave: Option<u64>,
    /// What was withdrawn is still to be dealt with.
    has_withdrawn: bool,
    /// Something goes on that a pack may hold the rest of.
    wants_packs: bool,
    load: Load,
    clock: ClockWait,
    looked: Option<Duration>,
    before: Option<WaitsFor>,
}

impl Waiting {
    pub fn new(disk: &dyn Disk, state: &Path) -> Self {
        Self {
            held: BTreeMap::new(),
            paused: BTreeMap::new(),
            standing: BTreeMap::new(),
            at_gates: BTreeMap::new(),
            next_wave: None,
            has_withdrawn: false,
            wants_packs: false,
            load: Load::default(),
            clock: ClockWait::read(disk, state),
            looked: None,
            before: None,
        }
    }

    /// Forgets all offers; gives back those that are whole.
    pub fn begin_anew(&mut self, next_wave: Option<u64>) -> Vec<Held> {
        self.next_wave = next_wave;
        self.paused.clear();
        self.standing.clear();
        self.at_gates.clear();
        std::mem::take(&mut self.held).into_values().filter(|held| held.whole.is_some()).collect()
    }

    pub fn note(&mut self, offer: &trust::Offer) {
        let standing = Standing { hold: offer.hold, urgent: offer.urgent };
        self.has_withdrawn |= matches!(offer.hold, Some(Hold::Withdrawn | Hold::Recalled));
        self.standing.insert((offer.model.clone(), offer.digest), standing);
    }

    pub fn hold(&mut self, wanted: Wanted, why: WaitsFor, whole: Option<Download>) {
        info!(model = %wanted.model, version = wanted.offered.version, ?why, whole = whole.is_some(), "waits");
        self.held.insert(wanted.model.clone(), Held { wanted, why, whole });
    }

    /// What is below it may go on meanwhile.
    pub fn pause(&mut self, model: ModelName, version: u32) {
        info!(%model, version, "is paused");
        self.paused.insert(model, version);
    }

    fn waits_for(&self, why: WaitsFor) -> bool {
        self.held.values().any(|held| held.why == why)
    }

    pub fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was fetched of something may be wanted later: it waits, or its wave is still to come by what is known of the time.
    pub fn keeps_chunks(&self) -> bool {
        self.holds_any() || !self.paused.is_empty() || self.next_wave.is_some()
    }
}

impl Updater {
    /// For the status.
    pub(super) fn waits(&self) -> BTreeMap<ModelName, (u32, WaitsFor)> {
        // What is fetched meanwhile stands in the status by itself.
        let is_fetched = |model: &ModelName| self.download.as_ref().is_some_and(|download| download.model == *model);
        let paused = self.waiting.paused.iter().filter(|(model, _)| !is_fetched(model));
        let paused = paused.map(|(model, version)| (model.clone(), (*version, WaitsFor::Pause)));
        let held =
            self.waiting.held.iter().map(|(model, held)| (model.clone(), (held.wanted.offered.version, held.why)));
        let at_gate = |(model, why): (&ModelName, &WaitsFor)| {
            Some((model.clone(), (self.entry(model).trial?.candidate.version, *why)))
        };
        paused.chain(held).chain(self.waiting.at_gates.iter().filter_map(at_gate)).collect()
    }

    /// What the board is like now.
    fn board_now(&self) -> Now {
        let clock = &*self.parts.clock;
        Now {
            time: self.now(),
            is_known: clock.synchronized() && clock.system().saturating_add(NEAR) >= self.now(),
            waited: self.waiting.clock.waited(),
            requests: self.waiting.load.per_minute(),
            celsius: (self.parts.inventory)().temperature_celsius,
            on_battery: !self.parts.rules.on_battery && (self.parts.on_battery)(),
            before: self.waiting.before,
        }
    }

    /// What a step has to wait for by the rules of the board's owner.
    pub(super) fn has_to_wait(&self, step: Step, is_urgent: bool) -> Option<WaitsFor> {
        waits_for(&self.parts.rules, &self.board_now(), step, is_urgent)
    }

    /// Puts a whole download aside where its installation has to wait; true if so.
    pub(super) fn lay_aside(&mut self) -> Result<bool, DiskError> {
        let Some(download) = self.download.take() else { return Ok(false) };
        let wanted = download.wanted_version().clone();
        match self.has_to_wait(Step::Install, wanted.urgent) {
            Some(why) => {
                self.waiting.hold(wanted, why, Some(download));
                Ok(true)
            }
            None => {
                self.download = Some(download);
                self.waiting.clock.is_over = true;
                self.end_clock_wait()?;
                Ok(false)
            }
        }
    }

    /// Whether a candidate may pass on to its next gate. It has begun, so it does not wait for a clock.
    pub(super) fn may_go_on(&mut self, model: &ModelName, trial: Trial) -> bool {
        let own = trial.candidate.target.and_then(|target| self.waiting.standing.get(&(model.clone(), target)));
        let Standing { hold, urgent } = own.copied().unwrap_or_default();
        let why = match hold {
            // The next tick takes it away.
            Some(Hold::Withdrawn | Hold::Recalled) => return false,
            Some(Hold::Paused) => Some(WaitsFor::Pause),
            None => self.has_to_wait(Step::Install, urgent).filter(|why| *why != WaitsFor::Clock),
        };
        match why {
            Some(why) => drop(self.waiting.at_gates.insert(model.clone(), why)),
            None => drop(self.waiting.at_gates.remove(model)),
        }
        why.is_none()
    }

    /// At each tick: what waits goes on where it may.
    pub(super) async fn look_at_waiting(&mut self) -> Result<(), DiskError> {
        let now = self.parts.clock.monotonic();
        if self.waiting.next_wave.is_some_and(|at| self.now() >= at) {
            info!("a wave of a rollout reaches this device");
            self.waiting.wants_packs = true;
            self.consider_offers()?;
            self.next_download()?;
        }
        if std::mem::take(&mut self.waiting.has_withdrawn) {
            self.withdraw().await?;
        }
        self.waiting
            .at_gates
            .retain(|model, _| self.store.journal().models.get(model).is_some_and(|e| e.trial.is_some()));
        if self.waiting.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_EVERY) {
            return Ok(());
        }
        self.waiting.looked = Some(now);
        let counts = |live: std::sync::Arc<crate::engine::Live>| live.counts().answered + live.counts().failed;
        self.waiting.load.sample(now, self.parts.slots.list().into_iter().map(counts).sum());
        self.interrupt()?;
        let free = self.weigh_held();
        self.count_clock_wait(now)?;
        if self.waiting.holds_any() { self.release(free).await } else { Ok(()) }
    }

    /// True once after something went on that a pack may hold the rest of: where no link is, nothing else brings it.
    pub(super) fn wants_packs(&mut self) -> bool {
        std::mem::take(&mut self.waiting.wants_packs)
    }

    /// A download that may not go on now.
    fn interrupt(&mut self) -> Result<(), DiskError> {
        let Some(wanted) = self.download.as_ref().map(Download::wanted_version) else { return Ok(()) };
        let Some(why) = self.has_to_wait(Step::Fetch, wanted.urgent) else { return Ok(()) };
        self.waiting.hold(wanted.clone(), why, None);
        self.download = None;
        self.next_download()
    }

    async fn withdraw(&mut self) -> Result<(), DiskError> {
        let of = |hold| matches!(hold, Some(Hold::Withdrawn | Hold::Recalled));
        let all = self.waiting.standing.iter().filter(|(_, standing)| of(standing.hold));
        let all: Vec<((ModelName, Digest), Standing)> = all.map(|(of, standing)| (of.clone(), *standing)).collect();
        for ((model, target), Standing { hold, .. }) in all {
            let event = Event::Withdrawn { target, recalled: hold == Some(Hold::Recalled) };
            let before = self.entry(&model);
            let (after, effects) = step(&before, event);
            if effects.is_empty() || !self.can_go_back(&model, before.live, after.live).await? {
                continue;
            }
            // Published again, it is a new offer.
            self.judged.retain(|(judged, _)| *judged != target);
            let effects = self.advance(&model, event)?;
            self.perform(&model, effects).await?;
            self.consider_offers()?;
            self.next_download()?;
        }
        Ok(())
    }

    /// Whether what would serve instead still reads. Where it does not, what is called back stays, for the next start would
    /// have nothing.
    async fn can_go_back(
        &mut self,
        model: &ModelName,
        from: Option<VersionRef>,
        to: Option<VersionRef>,
    ) -> Result<bool, DiskError> {
        let Some((from, to)) = from.zip(to).filter(|(from, to)| from != to) else { return Ok(true) };
        if self.can_serve(model, to).await {
            return Ok(true);
        }
        warn!(%model, from = from.version, to = to.version, "called back, but what would serve instead does not read");
        let expected = Measure::Version(to.version);
        let why = Reason { expected, ..Reason::plain(Stage::Offer, Code::StorageDamaged) };
        let outcome = report::outcome(model, from.version, Ended::Inconclusive(why), self.now());
        self.note(vec![Decision::from(&outcome)])?;
        report::remember(&mut self.passing, outcome);
        Ok(false)
    }

    /// Holds all that waits by the rules against them once more; gives back what waits no more.
    fn weigh_held(&mut self) -> Vec<ModelName> {
        let board = self.board_now();
        let mut free = Vec::new();
        for (model, held) in &mut self.waiting.held {
            let next = if held.whole.is_some() { Step::Install } else { Step::Fetch };
            match waits_for(&self.parts.rules, &board, next, held.wanted.urgent) {
                Some(why) => held.why = why,
                None => free.push(model.clone()),
            }
        }
        self.waiting.before = Some(WaitsFor::Heat).filter(|heat| self.waiting.waits_for(*heat));
        free
    }

    /// Also where nothing waits: time in between is not waited.
    fn count_clock_wait(&mut self, now: Duration) -> Result<(), DiskError> {
        if self.waiting.waits_for(WaitsFor::Clock) {
            return self.waiting.clock.goes_on(now, &*self.parts.disk, &self.parts.state);
        }
        self.waiting.clock.rests();
        let ends = self.waiting.clock.is_over && self.download.is_none();
        if ends { self.end_clock_wait() } else { Ok(()) }
    }

    /// The three days are the board's: they begin anew once nothing of what waited with it waits or comes any more.
    fn end_clock_wait(&mut self) -> Result<(), DiskError> {
        if self.waiting.holds_any() || self.pending.values().any(|wanted| self.is_news(wanted)) {
            return Ok(());
        }
        self.waiting.clock.ends(&*self.parts.disk, &self.parts.state)
    }

    async fn release(&mut self, free: Vec<ModelName>) -> Result<(), DiskError> {
        for model in free {
            if self.is_idle(&model)
                && let Some(held) = self.waiting.held.remove(&model)
            {
                self.go_on(held).await?;
            }
        }
        self.next_download()
    }

    async fn go_on(&mut self, held: Held) -> Result<(), DiskError> {
        let model = held.wanted.model.clone();
        info!(%model, version = held.wanted.offered.version, "waits no more");
        let Some(whole) = held.whole else {
            self.waiting.wants_packs = true;
            self.pending.insert(model, held.wanted);
            return Ok(());
        };
        // What is under way has its chunks on disk, and begins again behind it.
        if let Some(other) = self.download.replace(whole) {
            let wanted = other.wanted_version().clone();
            self.pending.insert(wanted.model.clone(), wanted);
        }
        self.on_whole().await?;
        // The link knows nothing of what it lacks, if it lacks something after all.
        if let Some(download) = self.download.as_mut().filter(|download| download.model == model) {
            let wanted = download.wanted_version().clone();
            download.restart(wanted)?;
        }
        Ok(())
    }
}
