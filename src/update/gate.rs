//! The gates: what a version has to prove on this board before it serves.

use crate::bundle::{Bundle, GoldenPolicy, GoldenSample, Manifest};
use crate::engine::{Live, Model, Session};
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

/// All gates before a version may serve. Takes as long as loading and the golden samples take.
pub fn check(bundle: &Bundle, workers: usize, clock: &dyn Clock) -> Result<Arc<Live>, Failure> {
    let live = load(bundle, workers)?;
    let mut session = live.model().session().map_err(Failure::cannot_run)?;
    let manifest = bundle.manifest();
    let mut agreeing = 0;
    let mut times = Vec::with_capacity(bundle.golden().len());
    for sample in bundle.golden() {
        let (agrees, took) = ask(&mut session, manifest, sample, clock)?;
        agreeing += usize::from(agrees);
        times.push(took);
    }
    golden_verdict(manifest.golden, agreeing, bundle.golden().len())?;
    latency_verdict(manifest.budget.latency_ms, times)?;
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
    let near = |(e, a): (&f64, &f64)| (e - a).abs() <= atol || e == a || (e.is_nan() && a.is_nan());
    expected.shape() == actual.shape() && expected.to_f64().iter().zip(&actual.to_f64()).all(near)
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

/// The median of the golden samples against the budget: one slow answer is the machine's, half of them are the model's.
fn latency_verdict(budget_ms: Option<f64>, mut times: Vec<Duration>) -> Result<(), Failure> {
    times.sort();
    let (Some(budget), Some(median)) = (budget_ms, times.get(times.len() / 2)) else { return Ok(()) };
    let budget = Duration::try_from_secs_f64(budget / 1e3).unwrap_or(Duration::MAX);
    if *median <= budget {
        return Ok(());
    }
    let micros = |d: Duration| Measure::Microseconds(u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    Err(Failure::new(Stage::SelfTest, Code::OverLatency, micros(budget), micros(*median)))
}
