//! What the update side tells of itself: outcomes, status, metrics.

use super::fetch::Download;
use super::machine::{Ended, Reason};
use crate::bundle::ModelName;
use crate::engine::{Beside, Slots};
use crate::privacy::{
    AuditHead, Code, Histogram, Inventory, Lacks, Measure, Metrics, ModelMetrics, ModelState, ModelStatus, Outcome,
    Stage, Status, Verdict, WaitsFor,
};
use crate::store::{Entry, Journal, Phase};
use crate::sys::Written;
use crate::trust::{Refusal, RefusalCode};
use std::collections::BTreeMap;

/// What `status` is made from.
pub(super) struct Sources<'a> {
    pub journal: &'a Journal,
    /// Outcomes that are not worth a write to disk: what the board showed was refused.
    pub passing: &'a [Outcome],
    pub slots: &'a Slots,
    pub download: Option<&'a Download>,
    /// Versions that something holds back.
    pub waits: BTreeMap<ModelName, (u32, WaitsFor)>,
    pub lacks_metadata: bool,
    pub inventory: Inventory,
    pub time: u64,
    pub audit: Option<AuditHead>,
}

pub(super) fn status(sources: Sources<'_>) -> Status {
    let Sources { journal, passing, slots, download, waits, lacks_metadata, inventory, time, audit } = sources;
    let unknown = Entry::default();
    let mut entries: BTreeMap<&ModelName, &Entry> = journal.models.iter().collect();
    // A first version that waits is worth telling, too.
    for model in waits.keys() {
        entries.entry(model).or_insert(&unknown);
    }
    let model = |(name, entry): (&ModelName, &Entry)| {
        let status = model_status(name, entry, slots, download);
        let Some((version, why)) = waits.get(name) else { return status };
        let state = if status.state == ModelState::Idle { ModelState::Waiting } else { status.state };
        ModelStatus { state, candidate: status.candidate.or(Some(*version)), waits_for: Some(*why), ..status }
    };
    let mut outcomes: Vec<Outcome> = journal.outcomes.iter().chain(passing).cloned().collect();
    outcomes.sort_by_key(|outcome| outcome.time);
    let outcomes = outcomes.split_off(outcomes.len().saturating_sub(Status::MAX_OUTCOMES));
    let lacks = Lacks {
        metadata: lacks_metadata,
        index: download.is_some_and(Download::awaits_index),
        chunks: download.map_or(0, |d| u32::try_from(d.missing()).unwrap_or(u32::MAX)),
        of_chunks: download.map_or(0, |d| u32::try_from(d.total()).unwrap_or(u32::MAX)),
    };
    let models = entries.into_iter().take(Status::MAX_MODELS).map(model).collect();
    Status { sequence: 0, time, models, outcomes, lacks, inventory, audit }
}

fn model_status(name: &ModelName, entry: &Entry, slots: &Slots, download: Option<&Download>) -> ModelStatus {
    let fetching = download.filter(|d| d.model == *name).map(|d| (ModelState::Fetching, d.offered.version));
    let on_trial = entry.trial.map(|trial| match trial.phase {
        Phase::Checking => (ModelState::Checking, trial.candidate.version),
        Phase::Shadow => (ModelState::Shadow, trial.candidate.version),
        Phase::Canary => (ModelState::Canary, trial.candidate.version),
        Phase::Probation => (ModelState::Probation, trial.candidate.version),
    });
    let (state, candidate) = match on_trial.or(fetching) {
        Some((state, version)) => (state, Some(version)),
        None => (ModelState::Idle, None),
    };
    let live = slots.get(name.as_str()).map(|live| live.version());
    let agreement = match slots.beside(name.as_str()) {
        Some(Beside::Shadow(shadow)) => Some(shadow.heard()).filter(|heard| heard.answers > 0),
        Some(Beside::Canary(_)) | None => None,
    };
    // In steps of a hundredth, so that a status is not told anew for every request.
    #[expect(clippy::cast_possible_truncation, reason = "a share needs no more than an f32")]
    let agreement =
        agreement.map(|heard| (heard.agreeing as f64 / heard.answers as f64 * 100.0).round() as f32 / 100.0);
    let previous = entry.previous.map(|v| v.version);
    ModelStatus { previous, state, candidate, agreement, ..ModelStatus::idle(name.clone(), live) }
}

pub(super) fn metrics(slots: &Slots, temperature_celsius: Option<f32>, written: Written) -> Metrics {
    let model = |live: std::sync::Arc<crate::engine::Live>| {
        let counts = live.counts();
        Some(ModelMetrics {
            model: ModelName::new(live.name()).ok()?,
            version: live.version(),
            answered: counts.answered,
            failed: counts.failed,
            latency: Histogram(counts.latency),
        })
    };
    Metrics {
        models: slots.list().into_iter().filter_map(model).take(Status::MAX_MODELS).collect(),
        temperature_celsius,
        written_bytes: written.bytes,
        disk_syncs: written.syncs,
    }
}

pub(super) fn outcome(model: &ModelName, version: u32, ended: Ended, time: u64) -> Outcome {
    let (verdict, why) = match ended {
        Ended::Live => (Verdict::Live, Reason::plain(Stage::Probation, Code::Ok)),
        // What may come right by itself says nothing against the version.
        Ended::Refused(why) if [Code::DigestMismatch, Code::BadDelta, Code::DiskFull].contains(&why.code) => {
            (Verdict::Inconclusive, why)
        }
        Ended::Refused(why) => (Verdict::Refused, why),
        Ended::RolledBack(why) => (Verdict::RolledBack, why),
        Ended::Inconclusive(why) => (Verdict::Inconclusive, why),
    };
    let Reason { stage, code, expected, actual } = why;
    Outcome { model: Some(model.clone()), version: Some(version), verdict, stage, code, expected, actual, time }
}

/// Metadata was refused: no model is named, for none of it can be believed.
pub(super) fn refused_metadata(refusal: &Refusal, time: u64) -> Outcome {
    let (code, measure): (_, fn(u64) -> Measure) = match refusal.code {
        RefusalCode::BadSignature => (Code::BadSignature, Measure::Count),
        RefusalCode::StaleMetadata => (Code::StaleMetadata, as_version),
        RefusalCode::Expired => (Code::Expired, Measure::Time),
        RefusalCode::BadMetadata => (Code::BadMetadata, Measure::Count),
    };
    let show = |value: Option<u64>| value.map_or(Measure::None, measure);
    Outcome {
        model: None,
        version: None,
        verdict: Verdict::Refused,
        stage: Stage::Metadata,
        code,
        expected: show(refusal.expected),
        actual: show(refusal.actual),
        time,
    }
}

fn as_version(version: u64) -> Measure {
    Measure::Version(u32::try_from(version).unwrap_or(u32::MAX))
}

/// Adds an outcome; one that says the same as an earlier one, but for its time, replaces it.
pub(super) fn remember(outcomes: &mut Vec<Outcome>, outcome: Outcome) {
    outcomes.retain(|o| Outcome { time: outcome.time, ..o.clone() } != outcome);
    outcomes.push(outcome);
    let over = outcomes.len().saturating_sub(Status::MAX_OUTCOMES);
    outcomes.drain(..over);
}
