//! The gates: what a version has to prove on this board before it serves.

use crate::bundle::{Bundle, GoldenPolicy, GoldenSample, Manifest};
use crate::engine::{Live, Model, Session, near};
use crate::privacy::{Code, Measure, Stage};
use crate::sys::{self, Clock};
use crate::tensor::Tensor;
use std::sync::Arc;
use std::time::Duration;

/// A gate said no. The measures may leave the device; the cause is for the local log.
#[derive(Debug, thiserror::Error)]
#[error("{stage:?} failed: {code:?}, expected {expected}, actual {actual}")]
pub struct Failure {
    pub stage: Stage,
    pub code: Code,
    pub expected: Measure,
    pub actual: Measure,
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    fn new(stage: Stage, code: Code, expected: Measure, actual: Measure) -> Self {
        Self { stage, code, expected, actual, cause: None }
    }

    fn cannot_run(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        let failure = Self::new(Stage::SelfTest, Code::CannotRun, Measure::None, Measure::None);
        Self { cause: Some(Box::new(cause)), ..failure }
    }
}

/// Selvedge's own version, as numbers.
pub fn runtime() -> (u16, u16, u16) {
    let number = |text: &str| text.parse().expect("a version is three numbers");
    (
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
    )
}

/// Loads a bundle's model and makes it ready: self-test without golden samples.
pub fn load(bundle: &Bundle, workers: usize) -> Result<Arc<Live>, Failure> {
    let manifest = bundle.manifest();
    let too_old = manifest.runtime_triple().is_none_or(|wanted| wanted > runtime());
    if too_old {
        return Err(Failure::new(Stage::SelfTest, Code::RuntimeTooOld, Measure::None, Measure::None));
    }
    let before = sys::resident_bytes();
    let model =
        Model::load(bundle.model(), &manifest.input_specs(), &manifest.output_specs()).map_err(Failure::cannot_run)?;
    let labels = manifest.outputs.iter().filter_map(|o| Some((o.name.clone(), bundle.labels(&o.name)?))).collect();
    let name = manifest.name.as_str();
    let live = Live::with_labels(name, manifest.version, model, workers, labels).map_err(Failure::cannot_run)?;
    let grown = sys::resident_bytes().saturating_sub(before);
    match manifest.budget.memory_mib.map(|mib| u64::from(mib) << 20) {
        Some(budget) if grown > budget => {
            let (expected, actual) = (Measure::Bytes(budget), Measure::Bytes(grown));
            Err(Failure::new(Stage::SelfTest, Code::OverMemory, expected, actual))
        }
        Some(_) | None => Ok(live),
    }
}

/// What times on this machine are measured by, and whether they mean anything now.
pub struct Board<'a> {
    pub clock: &'a dyn Clock,
    pub throttled: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Board<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("throttled", &(self.throttled)()).finish_non_exhaustive()
    }
}

/// The gates before a version may meet requests. Takes as long as loading takes, the golden samples and, with a budget of
/// time, at most some [`ROUNDS`] times [`RUNS`] inferences.
pub fn check(bundle: &Bundle, workers: usize, board: &Board<'_>) -> Result<Arc<Live>, Failure> {
    let live = load(bundle, workers)?;
    let mut session = live.model().session().map_err(Failure::cannot_run)?;
    let manifest = bundle.manifest();
    let mut agreeing = 0;
    for sample in bundle.golden() {
        let (agrees, _) = ask(&mut session, manifest, sample, board.clock)?;
        agreeing += usize::from(agrees);
    }
    golden_verdict(manifest.golden, agreeing, bundle.golden().len())?;
    if let Some(budget) = manifest.budget.latency_ms {
        let budget = Duration::try_from_secs_f64(budget / 1e3).unwrap_or(Duration::MAX);
        let p95 = latency(&mut session, bundle, budget, board)?;
        latency_verdict(budget, p95, (board.throttled)())?;
    }
    Ok(live)
}

fn ask(
    session: &mut Session,
    manifest: &Manifest,
    sample: &GoldenSample,
    clock: &dyn Clock,
) -> Result<(bool, Duration), Failure> {
    let no_answer = || Failure::new(Stage::Golden, Code::BadBundle, Measure::None, Measure::None);
    let inputs: Option<Vec<Tensor>> = manifest.inputs.iter().map(|i| sample.inputs.get(&i.name).cloned()).collect();
    let start = clock.monotonic();
    let outputs = session.run(&inputs.ok_or_else(no_answer)?).map_err(Failure::cannot_run)?;
    let took = clock.monotonic().saturating_sub(start);
    let mut agrees = true;
    for (output, actual) in manifest.outputs.iter().zip(&outputs) {
        let expected = sample.outputs.get(&output.name).ok_or_else(no_answer)?;
        agrees &= close(expected, actual, manifest.golden.atol);
    }
    Ok((agrees, took))
}

/// Within tolerance in every value; a NaN agrees with a NaN only.
fn close(expected: &Tensor, actual: &Tensor, atol: f64) -> bool {
    let pairs = || expected.to_f64().into_iter().zip(actual.to_f64());
    expected.shape() == actual.shape() && pairs().all(|(e, a)| near(e, a, atol))
}

#[expect(clippy::cast_possible_truncation, reason = "a share needs no more than an f32")]
fn golden_verdict(policy: GoldenPolicy, agreeing: usize, samples: usize) -> Result<(), Failure> {
    let share = agreeing as f64 / samples.max(1) as f64;
    if share >= policy.min_agreement {
        return Ok(());
    }
    let (expected, actual) = (Measure::Share(policy.min_agreement as f32), Measure::Share(share as f32));
    Err(Failure::new(Stage::Golden, Code::GoldenMismatch, expected, actual))
}

/// Inferences of one round, of which 95 of 100 are within what is measured.
const RUNS: usize = 40;
/// A round that is over the budget may have had a busy moment: the best of so many counts.
const ROUNDS: usize = 3;

/// The golden samples over and over: what 95 of 100 inferences take on this board.
fn latency(session: &mut Session, bundle: &Bundle, budget: Duration, board: &Board<'_>) -> Result<Duration, Failure> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let samples = bundle.golden().iter().cycle().take(if bundle.golden().is_empty() { 0 } else { RUNS });
        let times = samples.map(|sample| Ok(ask(session, bundle.manifest(), sample, board.clock)?.1));
        let mut times = times.collect::<Result<Vec<_>, Failure>>()?;
        times.sort();
        best = best.min(times.get(times.len() * 95 / 100).copied().unwrap_or_default());
        if best <= budget {
            break;
        }
    }
    Ok(best)
}

/// A board that is slowed down cannot tell.
fn latency_verdict(budget: Duration, p95: Duration, throttled: bool) -> Result<(), Failure> {
    if p95 <= budget {
        return Ok(());
    }
    let micros = |d: Duration| Measure::Microseconds(u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    let code = if throttled { Code::Throttled } else { Code::OverLatency };
    Err(Failure::new(Stage::SelfTest, code, micros(budget), micros(p95)))
}
