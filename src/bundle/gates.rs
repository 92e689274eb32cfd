//! What a version must prove on a device, by its own manifest: each gate with its bounds, or absent.
//!
//! In order: self-test with budgets, golden samples, shadow, canary, probation.

use super::manifest::{ManifestError, value};
use serde::{Deserialize, Serialize};

const DAY: u32 = 24 * 60 * 60;
/// Longer is no gate but a deployment.
const LONGEST: u32 = 30 * DAY;
const MOST_ANSWERS: u32 = 1_000_000;

/// How closely the golden samples must be answered on the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GoldenPolicy {
    /// Largest allowed absolute difference of any output value.
    pub atol: f64,
    /// Share of the samples, 0 to 1, that must be within it.
    #[serde(default = "all_of_them")]
    pub min_agreement: f64,
}

fn all_of_them() -> f64 {
    1.0
}

/// What the model may cost; absent means no bound of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Budget {
    /// Resident memory, MiB.
    pub memory_mib: Option<u32>,
    /// 95 of 100 inferences on the device, ms.
    pub latency_ms: Option<f64>,
}

/// Which answers of two versions are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Likeness {
    /// The same largest value along the last dimension; outputs of one value by `atol`.
    #[default]
    Argmax,
    /// All values within `atol`.
    Values,
}

/// The candidate is asked what the live version is asked, off the requests' path, and its answers are dropped. Ends
/// after so many answers or so much time, whichever is first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShadowGate {
    #[serde(default = "some_answers")]
    pub answers: u32,
    /// A device that nobody asks anything goes on after it.
    #[serde(default = "a_day")]
    pub seconds: u32,
    /// Share of the answers, 0 to 1, that must be alike.
    pub min_agreement: f64,
    #[serde(default)]
    pub compare: Likeness,
    #[serde(default)]
    pub atol: f64,
    /// Bound on the candidate's time over the live version's, by their median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_slowdown: Option<f64>,
}

/// The candidate answers a share of the requests. Ends after so many of them or so much time, whichever is first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CanaryGate {
    /// Of the requests, over 0 to 0.5.
    pub share: f64,
    #[serde(default = "some_answers")]
    pub requests: u32,
    #[serde(default)]
    pub max_errors: u32,
    #[serde(default = "a_day")]
    pub seconds: u32,
}

fn some_answers() -> u32 {
    100
}

fn a_day() -> u32 {
    DAY
}

/// The first requests after a swap: more failures than `max_errors` among them bring the old version back. Ends after so
/// many requests, and not before so much time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probation {
    pub requests: u32,
    /// Requests that the model failed on, or was too late with.
    pub max_errors: u32,
    pub seconds: u32,
    /// 95 of 100 requests, waiting and running, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

impl Default for Probation {
    fn default() -> Self {
        Self { requests: 100, max_errors: 0, seconds: 0, latency_ms: None }
    }
}

fn require(good: bool, field: &str, problem: &str) -> Result<(), ManifestError> {
    good.then_some(()).ok_or_else(|| value(field, problem))
}

fn is_positive(number: Option<f64>) -> bool {
    number.is_none_or(|number| number > 0.0 && number.is_finite())
}

impl GoldenPolicy {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        require(self.atol >= 0.0 && self.atol.is_finite(), "golden.atol", "must be 0 or more")?;
        let share = 0.0..=1.0;
        require(share.contains(&self.min_agreement), "golden.min-agreement", "must be from 0 to 1")
    }
}

impl Budget {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        require(is_positive(self.latency_ms), "budget.latency-ms", "must be over 0")
    }
}

impl ShadowGate {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        require((1..=MOST_ANSWERS).contains(&self.answers), "shadow.answers", "must be from 1 to 1000000")?;
        require((1..=LONGEST).contains(&self.seconds), "shadow.seconds", "must be from 1 to 2592000 (30 days)")?;
        require((0.0..=1.0).contains(&self.min_agreement), "shadow.min-agreement", "must be from 0 to 1")?;
        require(self.atol >= 0.0 && self.atol.is_finite(), "shadow.atol", "must be 0 or more")?;
        require(is_positive(self.max_slowdown), "shadow.max-slowdown", "must be over 0")
    }
}

impl CanaryGate {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        require(self.share > 0.0 && self.share <= 0.5, "canary.share", "must be over 0, and at most 0.5")?;
        require((1..=MOST_ANSWERS).contains(&self.requests), "canary.requests", "must be from 1 to 1000000")?;
        require((1..=LONGEST).contains(&self.seconds), "canary.seconds", "must be from 1 to 2592000 (30 days)")
    }
}

impl Probation {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        require(self.seconds <= LONGEST, "probation.seconds", "must be at most 2592000 (30 days)")?;
        require(is_positive(self.latency_ms), "probation.latency-ms", "must be over 0")
    }
}
