//! Runs a model again and again, and keeps what each run and each layer took.

use crate::engine::{NodeTime, Session};
use crate::sys::Clock;
use crate::tensor::{DataType, Tensor, TensorSpec};
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

/// Runs after which a measurement ends whatever its time: what is kept of them takes 16 MB.
const MAX_RUNS: usize = 1_000_000;
/// One run in so many is looked into.
const WATCHED: usize = 5;
/// Until caches are warm and clocks have risen.
const WARM_UP: Duration = Duration::from_millis(300);

/// What inputs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Input {
    /// Floats in -1 to 1, bytes of all values, other integers 0 or 1.
    Random,
    Zero,
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    Time(Duration),
    Runs(usize),
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// Of runs that were not looked into, in order.
    pub latencies: Vec<Duration>,
    /// Of runs that were, with what each node took.
    pub watched: Sums,
    /// The first of these, for a timeline.
    pub kept: Vec<Watched>,
}

/// One run that was looked into.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub began: Duration,
    pub ended: Duration,
    pub nodes: Vec<NodeTime>,
}

/// Times of all runs that were looked into.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub runs: usize,
    pub total: Duration,
    /// By node and stage; no stage for a node that is no region, and for what a region does behind its last stage.
    pub parts: BTreeMap<(usize, Option<usize>), Duration>,
}

impl Sums {
    fn add(&mut self, run: &Watched) {
        self.runs += 1;
        self.total += run.ended.saturating_sub(run.began);
        for node in &run.nodes {
            let mut from = node.began;
            for (stage, &ended) in node.stages.iter().enumerate() {
                *self.parts.entry((node.node, Some(stage))).or_default() += ended.saturating_sub(from);
                from = ended;
            }
            *self.parts.entry((node.node, None)).or_default() += node.ended.saturating_sub(from);
        }
    }
}

/// Says on a terminal how far it is.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    last: Option<Duration>,
}

impl Progress {
    /// Silent where standard error is no terminal, or `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { shown: !quiet && std::io::stderr().is_terminal(), last: None }
    }

    pub fn say(&mut self, text: &str) {
        if self.shown {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
        }
    }

    /// Ten times a second at most.
    fn step(&mut self, now: Duration, text: impl FnOnce() -> String) {
        if self.shown && self.last.is_none_or(|last| now.saturating_sub(last) > Duration::from_millis(100)) {
            self.last = Some(now);
            self.say(&text());
        }
    }

    pub fn clear(&mut self) {
        self.say("");
    }
}

/// Inputs that fit the specs; the same for the same seed.
pub(super) fn inputs(specs: &[TensorSpec], input: Input, seed: u64) -> anyhow::Result<Vec<Tensor>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    specs.iter().map(|spec| tensor(spec, input, &mut state)).collect()
}

fn tensor(spec: &TensorSpec, input: Input, state: &mut u64) -> anyhow::Result<Tensor> {
    let size = spec.byte_size().unwrap_or(0);
    let count = size / spec.datatype.size();
    let mut bytes = Vec::with_capacity(size);
    for _ in 0..count {
        match input {
            Input::Random => push(&mut bytes, spec.datatype, next(state)),
            Input::Zero => bytes.extend_from_slice(&[0; 8][..spec.datatype.size()]),
        }
    }
    Ok(Tensor::new(spec.datatype, spec.shape.clone(), bytes)?)
}

fn push(bytes: &mut Vec<u8>, datatype: DataType, random: u64) {
    let bit = (random >> 63) as u8;
    // -1 to 1, in steps that every float type has.
    let float = f64::from((random >> 54) as u16) / 512.0 - 1.0;
    match datatype {
        DataType::Fp16 => bytes.extend(half::f16::from_f64(float).to_le_bytes()),
        DataType::Fp32 => bytes.extend((float as f32).to_le_bytes()),
        DataType::Fp64 => bytes.extend(float.to_le_bytes()),
        DataType::Uint8 | DataType::Int8 => bytes.push((random >> 56) as u8),
        DataType::Bool => bytes.push(bit),
        DataType::Uint16 | DataType::Int16 => bytes.extend(u16::from(bit).to_le_bytes()),
        DataType::Uint32 | DataType::Int32 => bytes.extend(u32::from(bit).to_le_bytes()),
        DataType::Uint64 | DataType::Int64 => bytes.extend(u64::from(bit).to_le_bytes()),
    }
}

/// xorshift64*.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

pub(super) fn warm_up(session: &mut Session, inputs: &[Tensor], clock: &Arc<dyn Clock>) -> anyhow::Result<Duration> {
    let start = clock.monotonic();
    session.run(inputs)?;
    let first = clock.monotonic().saturating_sub(start);
    while clock.monotonic().saturating_sub(start) < WARM_UP {
        session.run(inputs)?;
    }
    Ok(first)
}

/// `keep` runs that are looked into are kept whole.
pub(super) fn measure(
    session: &mut Session,
    inputs: &[Tensor],
    limit: Limit,
    keep: usize,
    clock: &Arc<dyn Clock>,
    progress: &mut Progress,
) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let start = clock.monotonic();
    for number in 1_usize.. {
        let began = clock.monotonic();
        session.run(inputs)?;
        let ended = clock.monotonic();
        measured.latencies.push(ended.saturating_sub(began));
        // The first is looked into, so that there always is one.
        if number % WATCHED == 1 {
            let began = clock.monotonic();
            let (_, nodes) = session.run_watched(inputs, clock)?;
            let run = Watched { began, ended: clock.monotonic(), nodes };
            measured.watched.add(&run);
            if measured.kept.len() < keep {
                measured.kept.push(run);
            }
        }
        let spent = clock.monotonic().saturating_sub(start);
        let done = match limit {
            Limit::Time(time) => spent >= time,
            Limit::Runs(runs) => number >= runs,
        };
        if done || number >= MAX_RUNS {
            break;
        }
        progress.step(spent, || match limit {
            Limit::Time(time) => format!("{number} runs, {:.1} of {:.1} s", spent.as_secs_f64(), time.as_secs_f64()),
            Limit::Runs(runs) => format!("{number} of {runs} runs, {:.1} s", spent.as_secs_f64()),
        });
    }
    Ok(measured)
}

/// Seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distribution {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Distribution {
    pub const NOTHING: Self = Self { min: 0.0, mean: 0.0, p50: 0.0, p90: 0.0, p99: 0.0, max: 0.0 };

    /// `None` of nothing.
    pub fn of(latencies: &[Duration]) -> Option<Self> {
        let mut sorted = latencies.to_vec();
        sorted.sort_unstable();
        let (min, max) = (sorted.first()?, sorted.last()?);
        let total: Duration = sorted.iter().sum();
        let at = |percent| percentile(&sorted, percent).as_secs_f64();
        Some(Self {
            min: min.as_secs_f64(),
            mean: total.as_secs_f64() / sorted.len() as f64,
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: max.as_secs_f64(),
        })
    }
}

/// The smallest of the values, which are sorted and at least one, that so many percent are not above.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank.min(sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|&value| Duration::from_millis(value)).collect()
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let of = Distribution::of(&millis(&hundred)).unwrap();
        assert_eq!([of.min, of.p50, of.p90, of.p99, of.max], [0.001, 0.05, 0.09, 0.099, 0.1]);
        assert!((of.mean - 0.0505).abs() < 1e-9);
        let one = Distribution::of(&millis(&[7])).unwrap();
        assert_eq!([one.min, one.p50, one.p99, one.max], [0.007; 4]);
        let two = Distribution::of(&millis(&[2, 1])).unwrap();
        assert_eq!([two.p50, two.p90], [0.001, 0.002]);
        assert_eq!(Distribution::of(&[]), None);
    }

    #[test]
    fn what_stages_leave_of_a_region_is_its_own() {
        let micros = Duration::from_micros;
        let node = NodeTime { node: 3, began: micros(10), ended: micros(20), stages: vec![micros(12), micros(17)] };
        let mut sums = Sums::default();
        let run = Watched { began: micros(9), ended: micros(21), nodes: vec![node] };
        sums.add(&run);
        sums.add(&run);
        assert_eq!((sums.runs, sums.total), (2, micros(24)));
        let parts = [((3, None), micros(6)), ((3, Some(0)), micros(4)), ((3, Some(1)), micros(10))];
        assert_eq!(sums.parts, BTreeMap::from(parts));
    }

    #[test]
    fn inputs_are_the_same_for_a_seed_and_in_bounds() {
        for datatype in DataType::ALL {
            let spec = TensorSpec::new("x", datatype, vec![7, 9]);
            let made = |seed| inputs(std::slice::from_ref(&spec), Input::Random, seed).unwrap();
            assert_eq!(made(1), made(1));
            assert_ne!(made(1), made(2), "{datatype}");
            let values = made(1)[0].to_f64();
            assert!(values.iter().all(|value| value.abs() <= 255.0), "{datatype}");
            let zeros = inputs(std::slice::from_ref(&spec), Input::Zero, 1).unwrap();
            assert!(zeros[0].to_f64().iter().all(|&value| value == 0.0));
        }
    }
}
