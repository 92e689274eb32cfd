//! What was seen, and whether it is what was promised.

use super::load::{Sample, accuracy, quantile};
use super::offers::Bad;
use crate::privacy::{Code, Entry, Kind, Outcome, Stage, Verdict, totals};
use crate::sys;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// When the acts began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub start: Instant,
    pub bumped: Instant,
    pub published: Instant,
    /// When the first request that version 2 answered was sent.
    pub swapped: Instant,
    pub attacked: Instant,
    pub end: Instant,
}

/// All of it; printed as tables or as JSON.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    pub acts: Vec<Act>,
    pub refusals: Vec<Refusal>,
    /// Bytes that the device fetched for the update, metadata included.
    pub update_bytes: u64,
    /// From the publication to the first answer of the new version, ms.
    pub publication_to_answer_ms: f64,
    /// Every byte that left the device.
    pub egress: Vec<Egress>,
    pub demands: Vec<Demand>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Act {
    pub name: &'static str,
    pub sent: usize,
    pub answered: usize,
    pub failed: usize,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Share of right answers.
    pub accuracy: Option<f64>,
    /// Versions that answered.
    pub versions: Vec<u32>,
}

/// What the device said to a bad offer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    pub offer: &'static str,
    pub expected_code: Code,
    pub code: Option<Code>,
    pub stage: Option<Stage>,
    pub expected: String,
    pub actual: String,
    pub serves: Option<u32>,
    held: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Egress {
    pub kind: Kind,
    pub packets: u64,
    pub bytes: u64,
}

/// Something that must hold for the demo to succeed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Demand {
    pub what: &'static str,
    pub held: bool,
    pub seen: String,
}

impl Refusal {
    pub(super) fn new(bad: Bad, outcome: Option<Outcome>, serves: Option<u32>) -> Self {
        let refused = outcome.as_ref().is_some_and(|o| o.verdict != Verdict::Live && o.code == bad.expected());
        let show = |measure: Option<String>| measure.unwrap_or_else(|| "-".into());
        Self {
            offer: bad.text(),
            expected_code: bad.expected(),
            code: outcome.as_ref().map(|o| o.code),
            stage: outcome.as_ref().map(|o| o.stage),
            expected: show(outcome.as_ref().map(|o| o.expected.to_string())),
            actual: show(outcome.as_ref().map(|o| o.actual.to_string())),
            serves,
            held: refused && serves == Some(2),
        }
    }

    pub(super) fn text(&self) -> String {
        let code = self.code.map_or("nothing".to_owned(), Code::name);
        let serves = self.serves.map_or("nothing".to_owned(), |version| format!("version {version}"));
        format!("refused: {code} (expected {}, actual {}); {serves} serves on", self.expected, self.actual)
    }
}

impl Report {
    pub(super) fn new(
        samples: &[Sample],
        moments: Moments,
        refusals: Vec<Refusal>,
        update_bytes: u64,
        ledger: &[Entry],
        network_denied: bool,
    ) -> Self {
        let acts = acts(samples, moments);
        let publication_to_answer_ms = ms(moments.swapped - moments.published);
        let egress: Vec<Egress> =
            totals(ledger).into_iter().map(|(kind, (packets, bytes))| Egress { kind, packets, bytes }).collect();
        let demands = demands(samples, &acts, &refusals, &egress, network_denied);
        Self { acts, refusals, update_bytes, publication_to_answer_ms, egress, demands }
    }

    pub fn held(&self) -> bool {
        self.demands.iter().all(|demand| demand.held)
    }
}

fn acts(samples: &[Sample], at: Moments) -> Vec<Act> {
    // The swap's window: from the publication to a little after the first answer of the new version.
    let settled = at.swapped + Duration::from_millis(250);
    let windows = [
        ("as installed", at.start, at.bumped),
        ("camera bumped", at.bumped, at.published),
        ("during the swap", at.published, settled),
        ("adapted", settled, at.attacked),
        ("bad offers", at.attacked, at.end),
    ];
    let act = |(name, from, to)| {
        let within: Vec<&Sample> = samples.iter().filter(|s| s.sent >= from && s.sent < to).collect();
        let answered = within.iter().filter(|s| s.answer.is_some()).count();
        let mut versions: Vec<u32> = within.iter().filter_map(|s| Some(s.answer?.0)).collect();
        versions.sort_unstable();
        versions.dedup();
        let of = |share| quantile(within.iter().copied(), share).map(ms);
        let accuracy = accuracy(within.iter().copied());
        Act {
            name,
            sent: within.len(),
            answered,
            failed: within.len() - answered,
            p50_ms: of(0.5),
            p99_ms: of(0.99),
            accuracy,
            versions,
        }
    };
    windows.map(act).into()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn demands(samples: &[Sample], acts: &[Act], refusals: &[Refusal], egress: &[Egress], denied: bool) -> Vec<Demand> {
    let failed = samples.iter().filter(|s| s.answer.is_none()).count();
    let share = |i: usize| acts.get(i).and_then(|act: &Act| act.accuracy).unwrap_or(0.0);
    let percent = |i: usize| format!("{:.1} %", share(i) * 100.0);
    let versions = |i: usize| acts.get(i).map(|act| act.versions.clone()).unwrap_or_default();
    let demand = |what, held, seen| Demand { what, held, seen };
    let refused = refusals.iter().filter(|refusal| refusal.held).count();
    let right = [vec![1], vec![1], vec![1, 2], vec![2], vec![2]];
    let left = egress.iter().map(|e| e.bytes).sum::<u64>();
    let seen = (samples.len() * size_of::<super::camera::Image>()) as u64;
    let kinds: Vec<Kind> = egress.iter().map(|e| e.kind).collect();
    vec![
        demand("no request failed", failed == 0, format!("{failed} of {}", samples.len())),
        demand("version 1 is right on the plain camera", share(0) > 0.95, percent(0)),
        demand("the bump hurts", share(1) < 0.4, percent(1)),
        demand("version 2 is right on the bumped camera", share(3) > 0.93, percent(3)),
        demand("it stays right under bad offers", share(4) > 0.93, percent(4)),
        demand(
            "each answer is by the version that was live",
            (0..right.len()).all(|i| versions(i) == right[i]),
            format!("{:?}", acts.iter().map(|act| &act.versions).collect::<Vec<_>>()),
        ),
        demand(
            "every bad offer is refused for its reason",
            refused == Bad::ALL.len(),
            format!("{refused} of {}", Bad::ALL.len()),
        ),
        demand(
            "the engine cannot make an internet socket",
            denied,
            match (denied, sys::can_deny_network()) {
                (true, _) => "refused",
                (false, true) => "allowed, though this system takes system call filters",
                (false, false) => "allowed: this system takes no system call filters",
            }
            .into(),
        ),
        demand(
            "the device told its state, and far less than it saw",
            kinds.contains(&Kind::Status) && left * 10 < seen,
            format!("{left} bytes left it, {seen} bytes of pictures came"),
        ),
    ]
}
