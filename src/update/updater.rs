//! The update side of the engine: news from the link in, requests and reports out, effects done.
//!
//! `Updater` owns journal, trust and the download; the driver gives it messages and ticks. What it
//! does with versions in memory stands in `versions.rs`, which offers it takes in `offers.rs`.

use super::audited::{self, Audit};
use super::fetch::{ContentError, DeltaFault, Download, FetchError, Progress, Wanted};
use super::machine::{Effect, Ended, Event, Offered, Reason, step};
use super::report;
use super::trials::Watched;
use super::waiting::Waiting;
use crate::audit::{self, Decision};
use crate::bundle::{Bundle, Digest, Manifest, ModelName};
use crate::config;
use crate::engine::{Live, Slots};
use crate::ipc::{Fetch, Role, ToEngine};
use crate::privacy::{Code, Inventory, Measure, Metrics, Outcome, Stage, Status};
use crate::store::{Entry, Journal, Store, VersionRef};
use crate::sys::{Clock, Disk, DiskError};
use crate::trust::{self, Trust};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// What an updater is made of.
pub struct Parts {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    /// The engine's state directory.
    pub state: PathBuf,
    /// The operator's root; without it no update is taken.
    pub root: Option<Vec<u8>>,
    pub device: [u8; 16],
    pub groups: Vec<String>,
    pub slots: Arc<Slots>,
    /// Sessions that each model keeps ready.
    pub workers: usize,
    pub factory: Vec<Bundle>,
    pub boot: u128,
    pub inventory: Box<dyn Fn() -> Inventory + Send + Sync>,
    /// Bytes that the engine may have, as far as that is known.
    pub memory: Option<u64>,
    /// Whether the board is slowed down just now: no verdict on times then.
    pub throttled: Arc<dyn Fn() -> bool + Send + Sync>,
    /// When the board's owner lets updates go on.
    pub rules: config::Update,
    pub on_battery: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("state", &self.state).finish_non_exhaustive()
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct Updater {
    pub(super) parts: Parts,
    pub(super) store: Store,
    trust: Option<Trust>,
    pub(super) audit: Audit,
    /// What the board shows, as far as it has come.
    board: trust::Offered,
    waiting_for_metadata: bool,
    /// Targets came over this link: it can tell what an ordinal means.
    link_knows_targets: bool,
    /// Offers that wait for their turn.
    pub(super) pending: BTreeMap<ModelName, Wanted>,
    pub(super) waiting: Waiting,
    pub(super) download: Option<Download>,
    /// Offers that ended since the start, by target and epoch: each is judged and reported once.
    pub(super) judged: Vec<(Digest, u32)>,
    /// The target whose bytes were seen wrong on the board; said once.
    mismatched: Option<Digest>,
    /// Versions in memory, by the digest of their bundle: what is live and what would come back.
    pub(super) loaded: BTreeMap<Digest, Loaded>,
    /// Versions at a gate, by the digest of their bundle.
    pub(super) watched: BTreeMap<Digest, Watched>,
    /// When checks that were inconclusive run again.
    pub(super) again: BTreeMap<ModelName, Duration>,
    pub(super) started: Duration,
    pub(super) passing: Vec<Outcome>,
}

#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub live: Arc<Live>,
    pub manifest: Arc<Manifest>,
}

impl Updater {
    pub(super) fn assemble(parts: Parts, store: Store, trust: Option<Trust>) -> Self {
        let waiting = Waiting::new(&*parts.disk, &parts.state);
        let log = audit::Log::new(parts.disk.clone(), audit::dir(&parts.state), parts.boot);
        Self {
            started: parts.clock.monotonic(),
            audit: Audit::new(log),
            parts,
            store,
            trust,
            board: trust::Offered::default(),
            waiting_for_metadata: false,
            link_knows_targets: false,
            pending: BTreeMap::new(),
            waiting,
            download: None,
            judged: Vec::new(),
            mismatched: None,
            loaded: BTreeMap::new(),
            watched: BTreeMap::new(),
            again: BTreeMap::new(),
            passing: Vec::new(),
        }
    }

    /// The root that the link should look for the successor of; zero where updates are off.
    pub fn root_version(&self) -> u32 {
        self.trust.as_ref().map_or(0, Trust::root_version)
    }

    /// The newest metadata that is trusted.
    pub fn verified(&self) -> Option<&trust::Verified> {
        self.trust.as_ref().and_then(Trust::verified)
    }

    /// What to ask the link for now.
    pub fn request(&self) -> Fetch {
        let download = self.download.as_ref().filter(|_| self.link_knows_targets);
        download.map_or(Fetch::Nothing, Download::request)
    }

    /// The digests behind that request.
    pub(super) fn wanted(&self) -> Vec<(u32, Digest)> {
        self.download.as_ref().filter(|_| self.link_knows_targets).map_or_else(Vec::new, Download::wanted)
    }

    /// Lets another offer go first, if there is one.
    pub(super) fn pass_over(&mut self) -> Result<bool, DiskError> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        self.download = None;
        self.next_download()?;
        Ok(true)
    }

    /// A link came, with nothing in its hands.
    pub fn link_is_new(&mut self) -> Result<(), DiskError> {
        self.board = trust::Offered::default();
        self.waiting_for_metadata = false;
        self.link_knows_targets = false;
        self.consider_offers()
    }

    /// Takes news in. An error is the disk's; what the board shows wrong is an outcome.
    pub async fn on_message(&mut self, message: ToEngine) -> Result<(), DiskError> {
        match message {
            ToEngine::Hello { .. } | ToEngine::Connected(_) => Ok(()),
            ToEngine::Metadata { role, version, bytes } => self.on_metadata(role, version, bytes).await,
            ToEngine::Delegated { name, version, bytes } => {
                if let Err(error) = self.board.insert_delegated(&name, version, bytes) {
                    warn!(%error, "metadata passed over");
                    return Ok(());
                }
                self.on_board().await
            }
            ToEngine::Node { bytes } => {
                let came = self.download.as_mut().map(|download| download.node(&bytes));
                self.on_progress(came).await
            }
            ToEngine::Chunk { ordinal, bytes } => {
                let came = self.download.as_mut().map(|download| download.chunk(ordinal, &bytes));
                self.on_progress(came).await
            }
        }
    }

    async fn on_metadata(&mut self, role: Role, version: u32, bytes: Vec<u8>) -> Result<(), DiskError> {
        let role = match role {
            Role::Root => trust::Role::Root,
            Role::Timestamp => trust::Role::Timestamp,
            Role::Snapshot => trust::Role::Snapshot,
            Role::Targets => trust::Role::Targets,
        };
        self.link_knows_targets |= role == trust::Role::Targets;
        if let Err(error) = self.board.insert(role, version, bytes) {
            warn!(%error, "metadata passed over");
            return Ok(());
        }
        self.on_board().await
    }

    /// Looks at what the board shows by now.
    async fn on_board(&mut self) -> Result<(), DiskError> {
        let Some(trust) = &mut self.trust else { return Ok(()) };
        let result = trust.update(&self.board, &*self.parts.clock).await;
        let complaints = trust.take_complaints();
        let now = trust.device_time(&*self.parts.clock);
        for trust::Complaint { name, refusal } in complaints {
            warn!(role = name, error = &refusal as &dyn std::error::Error, "a delegated role is left out");
            report::remember(&mut self.passing, report::refused_metadata(&refusal, now));
        }
        self.note_root()?;
        self.waiting_for_metadata = matches!(result, Ok(trust::Progress::Waiting));
        match result {
            Ok(trust::Progress::Committed) => {
                info!(targets = self.verified().map(trust::Verified::targets_version), "metadata verified");
                self.consider_offers()?;
                self.next_download()
            }
            // The link has begun anew: what is trusted already may still have to be fetched.
            Ok(trust::Progress::Unchanged) => self.next_download(),
            Ok(trust::Progress::Waiting) => {
                // A newer root may have taken away the keys of what was offered.
                if self.verified().is_none() { self.consider_offers() } else { Ok(()) }
            }
            Err(trust::UpdateError::Disk(error)) => Err(error),
            Err(trust::UpdateError::Refused(refusal)) => {
                warn!(error = &refusal as &dyn std::error::Error, "metadata refused");
                let outcome = report::refused_metadata(&refusal, self.now());
                self.note(vec![Decision::from(&outcome)])?;
                report::remember(&mut self.passing, outcome);
                Ok(())
            }
        }
    }

    async fn on_progress(&mut self, came: Option<Result<Progress, FetchError>>) -> Result<(), DiskError> {
        match came {
            None | Some(Ok(Progress::Ignored | Progress::More)) => Ok(()),
            Some(Ok(Progress::Complete)) => self.on_whole().await,
            Some(Err(error)) => self.on_fetch_error(error),
        }
    }

    /// All of an offer is on disk.
    pub(super) async fn on_whole(&mut self) -> Result<(), DiskError> {
        if self.lay_aside()? {
            return self.next_download();
        }
        match self.put_together().await {
            Ok(None) => Ok(()),
            Ok(Some(bundle)) => self.store_and_check(&bundle).await,
            Err(error) => self.on_fetch_error(error),
        }
    }

    /// Beside the serving path: a delta takes as long as it is.
    async fn put_together(&mut self) -> Result<Option<Bundle>, FetchError> {
        let Some(download) = &mut self.download else { return Ok(None) };
        let Some(assembly) = download.assembly() else { return Ok(None) };
        let made = tokio::task::spawn_blocking(move || assembly.run()).await;
        let Ok(made) = made else { return Err(FetchError::Broke) };
        if let Err(FetchError::Mismatch { expected, .. }) = &made {
            download.lost(*expected);
        }
        let bundle = made?;
        download.check(&bundle)?;
        Ok(Some(bundle))
    }

    /// The link was asked for long, and nothing came: another road may be open.
    pub fn asked_in_vain(&mut self) -> Result<(), DiskError> {
        let is_delta = self.download.as_ref().is_some_and(Download::is_delta);
        if is_delta { self.on_fetch_error(FetchError::Delta(DeltaFault::Absent)) } else { Ok(()) }
    }

    fn on_fetch_error(&mut self, error: FetchError) -> Result<(), DiskError> {
        let Some(download) = &mut self.download else { return Ok(()) };
        let (model, offered) = (download.model.clone(), download.offered);
        warn!(%model, version = offered.version, error = &error as &dyn std::error::Error, "fetch");
        let event = match error {
            FetchError::Disk(error) => return Err(error),
            FetchError::Mismatch { expected, actual } => {
                // Wait for the right bytes, and say once that wrong ones stand there. Of a delta, the rest can do without.
                download.give_delta_up()?;
                if self.mismatched != Some(offered.target) {
                    self.mismatched = Some(offered.target);
                    let seen = (Measure::Digest(expected.short()), Measure::Digest(actual.short()));
                    self.advance(&model, unusable(offered, Stage::Fetch, Code::DigestMismatch, seen))?;
                }
                return Ok(());
            }
            FetchError::Delta(_) => {
                download.give_delta_up()?;
                let nothing = (Measure::None, Measure::None);
                self.advance(&model, unusable(offered, Stage::Bundle, Code::BadDelta, nothing))?;
                return Ok(());
            }
            FetchError::Broke => {
                self.judged.push(offered.key());
                unusable(offered, Stage::Bundle, Code::BadBundle, (Measure::None, Measure::None))
            }
            // Tried again when new metadata, a new link or the end of a trial gives cause.
            FetchError::Full { needed, free } => {
                unusable(offered, Stage::Fetch, Code::DiskFull, (Measure::Bytes(needed), Measure::Bytes(free)))
            }
            FetchError::Content(error) => {
                self.judged.push(offered.key());
                unusable_content(offered, &error)
            }
        };
        self.advance(&model, event)?;
        self.finish_download()
    }

    async fn store_and_check(&mut self, bundle: &Bundle) -> Result<(), DiskError> {
        let Some(download) = &self.download else { return Ok(()) };
        let (model, offered) = (download.model.clone(), download.offered);
        self.store.add(bundle)?;
        let candidate = VersionRef { version: offered.version, bundle: bundle.digest(), target: Some(offered.target) };
        let event = Event::Stored { candidate, retry: offered.retry, boot: self.parts.boot };
        let effects = self.advance(&model, event)?;
        // Of whoever it takes the place of.
        self.again.remove(&model);
        self.perform(&model, effects).await?;
        self.finish_download()
    }

    fn finish_download(&mut self) -> Result<(), DiskError> {
        self.download = None;
        self.next_download()
    }

    /// One step of a model's machine, made durable before its effects are given out.
    pub(super) fn advance(&mut self, model: &ModelName, event: Event) -> Result<Vec<Effect>, DiskError> {
        let before = self.entry(model);
        let (entry, effects) = step(&before, event);
        let mut journal = self.store.journal().clone();
        let mut outcomes = Vec::new();
        for effect in &effects {
            if let Effect::Report { version, ended } = effect {
                let outcome = report::outcome(model, *version, *ended, self.now());
                info!(%model, version, verdict = ?outcome.verdict, stage = ?outcome.stage, code = ?outcome.code,
                    expected = %outcome.expected, actual = %outcome.actual, "update ended");
                report::remember(&mut journal.outcomes, outcome.clone());
                outcomes.push(outcome);
            }
        }
        self.note(audited::of_step(model, (&before, &entry), (event, &effects), &outcomes))?;
        if entry != Entry::default() || journal.models.contains_key(model) {
            journal.models.insert(model.clone(), entry);
        }
        // What a start finds is told as refused when it is offered again: the operator may have missed the rest.
        // What is withdrawn may be published again.
        let ends = !matches!(event, Event::Started { .. } | Event::Withdrawn { .. }) && entry_ended(&effects);
        let ended = before.trial.filter(|_| ends).and_then(|trial| Some((trial.candidate.target?, trial.retry)));
        self.record(journal)?;
        self.judged.extend(ended);
        Ok(effects)
    }

    pub(super) fn record(&mut self, journal: Journal) -> Result<(), DiskError> {
        self.store.record(journal)
    }

    /// The engine stops in order: a trial that is cut off by it is not the candidate's fault.
    pub fn stop(&mut self) -> Result<(), DiskError> {
        let models: Vec<ModelName> = self.store.journal().models.keys().cloned().collect();
        for model in models {
            if let Some(seen) = self.progress(&model) {
                self.advance(&model, Event::Seen(seen))?;
            }
            self.advance(&model, Event::Stopping)?;
        }
        self.calm(false)
    }

    pub fn status(&self) -> Status {
        let sources = report::Sources {
            journal: self.store.journal(),
            passing: &self.passing,
            slots: &self.parts.slots,
            download: self.download.as_ref(),
            waits: self.waits(),
            lacks_metadata: self.waiting_for_metadata,
            inventory: Inventory { root_version: self.root_version(), ..(self.parts.inventory)() },
            time: self.now(),
            audit: self.audit.head(),
        };
        report::status(sources)
    }

    pub fn metrics(&self) -> Metrics {
        report::metrics(&self.parts.slots, (self.parts.inventory)().temperature_celsius, self.parts.disk.written())
    }

    pub(super) fn entry(&self, model: &ModelName) -> Entry {
        self.store.journal().models.get(model).cloned().unwrap_or_default()
    }

    pub(super) fn now(&self) -> u64 {
        let clock = &*self.parts.clock;
        self.trust.as_ref().map_or_else(|| clock.system(), |trust| trust.device_time(clock))
    }
}

/// Not one that waits to be checked again.
fn entry_ended(effects: &[Effect]) -> bool {
    let ends = |effect: &Effect| {
        matches!(effect, Effect::Report { ended: Ended::Live | Ended::Refused(_) | Ended::RolledBack(_), .. })
    };
    effects.iter().any(ends)
}

pub(super) fn unusable(offered: Offered, stage: Stage, code: Code, (expected, actual): (Measure, Measure)) -> Event {
    Event::Unusable { offered, blame: false, why: Reason { stage, code, expected, actual } }
}

fn unusable_content(offered: Offered, error: &ContentError) -> Event {
    let (expected, actual) = match error {
        ContentError::OtherModel { version, actual_version, .. } => {
            (Measure::Version(*version), Measure::Version(*actual_version))
        }
        ContentError::Digest { expected, actual } => {
            (Measure::Digest(expected.short()), Measure::Digest(actual.short()))
        }
        ContentError::Index(_) | ContentError::Expand(_) | ContentError::Pack(_) => (Measure::None, Measure::None),
    };
    let why = Reason { stage: Stage::Bundle, code: Code::BadBundle, expected, actual };
    Event::Unusable { offered, blame: true, why }
}
