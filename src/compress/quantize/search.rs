//! Which layers deserve more than the recipe gives, by measured sensitivity: float where a bound on accuracy asks for it,
//! fewer bits where a budget does.
//!
//! Invariant: decisions are made on the judge's samples alone; the result keeps the bounds, or the outcome says which it
//! does not.
//!
//! Layers are ranked by what the engine gives with one of them changed, in dB of the output against the float model:
//! right answers are too coarse a measure for one layer.

use super::work::{Exceptions, Prepared};
use super::write::Quantized;
use crate::compress::data::Dataset;
use crate::compress::score::{self, Answers, Metric, Score};
use crate::compress::{Error, Network, Progress, Silent};
use crate::sys::Clock;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the result must keep.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// How much worse than the float model it may be on the judging samples: points, or dB, or percent of an error.
    pub max_drop: Option<f64>,
    /// Bytes of weights, those of few bits counted as packed.
    pub max_bytes: Option<u64>,
    /// Median time of one inference, ms: what is left of it is spent on float layers.
    pub max_latency_ms: Option<f64>,
    /// Bits that layers may fall to.
    pub low_bits: Option<u32>,
}

/// Judges candidates on validation samples.
pub struct Judge<'a> {
    pub data: &'a Dataset,
    pub numbers: &'a [usize],
    pub metric: Metric,
    /// The float model's.
    pub reference: Answers,
    pub clock: &'a dyn Clock,
}

impl std::fmt::Debug for Judge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge")
            .field("metric", &self.metric)
            .field("samples", &self.numbers.len())
            .finish_non_exhaustive()
    }
}

impl Judge<'_> {
    pub fn score(&self, network: &Network) -> Result<Score, Error> {
        let answers = score::answers(network, self.data, self.numbers, &mut Silent)?;
        score::score(self.metric, &answers, self.data, self.numbers, Some(&self.reference))
    }

    fn sqnr(&self, network: &Network) -> Result<f64, Error> {
        let answers = score::answers(network, self.data, self.numbers, &mut Silent)?;
        Ok(score::score(Metric::Sqnr, &answers, self.data, self.numbers, Some(&self.reference))?.value)
    }

    /// Median of runs on the first sample.
    fn latency_ms(&self, network: &Network) -> Result<f64, Error> {
        const RUNS: usize = 31;
        let mut session = network.session()?;
        let Some(&number) = self.numbers.first() else { return Ok(0.0) };
        let sample = self.data.sample(number)?;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = self.clock.monotonic();
            session.run(&sample.inputs)?;
            times.push(self.clock.monotonic().saturating_sub(began));
        }
        times.sort_unstable();
        Ok(times.get(RUNS / 2).copied().unwrap_or(Duration::ZERO).as_secs_f64() * 1e3)
    }
}

/// What was found.
#[derive(Debug)]
pub struct Outcome {
    pub quantized: Quantized,
    pub exceptions: Exceptions,
    /// On the judging samples; of nothing where nobody judged.
    pub float: Score,
    pub score: Score,
    /// Why a layer is an exception.
    pub reasons: BTreeMap<String, String>,
    /// Bounds that could not be kept.
    pub broken: Vec<String>,
}

/// Quantizes within bounds.
///
/// # Errors
/// When a candidate cannot be written or run.
pub fn search(
    prepared: &Prepared,
    judge: &Judge<'_>,
    float: Score,
    bounds: Bounds,
    progress: &mut dyn Progress,
) -> Result<Outcome, Error> {
    let exceptions = Exceptions::default();
    let quantized = prepared.quantized(&exceptions, progress)?;
    let score = judge.score(&quantized.network)?;
    let mut outcome = Outcome { quantized, exceptions, float, score, reasons: BTreeMap::new(), broken: Vec::new() };
    let mut search = Search { prepared, judge, bounds, progress };
    if let Some(bits) = bounds.low_bits {
        search.fewer_bits(&mut outcome, bits)?;
    }
    if bounds.max_drop.is_some_and(|most| outcome.score.drop_from(&float) > most) {
        search.more_float(&mut outcome)?;
    }
    if let Some(most) = bounds.max_latency_ms {
        search.spend_time(&mut outcome, most)?;
    }
    search.say_what_is_broken(&mut outcome)?;
    Ok(outcome)
}

/// Quantizes as the recipe says, where there is no data to judge by.
///
/// # Errors
/// When the model cannot be written.
pub fn unjudged(prepared: &Prepared, progress: &mut dyn Progress) -> Result<Outcome, Error> {
    let exceptions = Exceptions::default();
    let quantized = prepared.quantized(&exceptions, progress)?;
    let score = Score { metric: Metric::Sqnr, value: f64::NAN, low: f64::NAN, high: f64::NAN, samples: 0 };
    Ok(Outcome { quantized, exceptions, float: score, score, reasons: BTreeMap::new(), broken: Vec::new() })
}

struct Search<'a, 'b> {
    prepared: &'a Prepared,
    judge: &'a Judge<'b>,
    bounds: Bounds,
    progress: &'a mut dyn Progress,
}

/// A layer, and what changing it alone does to the output's SQNR, in dB.
type Ranked = (String, f64);

impl Search<'_, '_> {
    /// Layers by what `change` of each alone gives, best first.
    fn ranked(
        &mut self,
        base: &Exceptions,
        what: &str,
        change: impl Fn(&mut Exceptions, &str),
    ) -> Result<Vec<Ranked>, Error> {
        let names: Vec<String> = self.prepared.placed.layers.iter().map(|layer| layer.name.clone()).collect();
        let before = self.judge.sqnr(&self.prepared.quantized(base, &mut Silent)?.network)?;
        let mut ranked = Vec::new();
        self.progress.step(what, names.len());
        for (done, name) in names.into_iter().enumerate() {
            let mut changed = base.clone();
            change(&mut changed, &name);
            let sqnr = self.judge.sqnr(&self.prepared.quantized(&changed, &mut Silent)?.network)?;
            ranked.push((name, sqnr - before));
            self.progress.at(done + 1);
        }
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(ranked)
    }

    /// Gives layers back to float, the most harmful first, until the drop is within the bound.
    fn more_float(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        let most = self.bounds.max_drop.unwrap_or(f64::INFINITY);
        let ranked = self.ranked(&outcome.exceptions, "sensitivity to float", |exceptions, name| {
            exceptions.float.insert(name.to_owned());
        })?;
        self.progress.step("accuracy control", ranked.len());
        for (done, (name, gain)) in ranked.iter().enumerate() {
            if outcome.score.drop_from(&outcome.float) <= most {
                break;
            }
            outcome.exceptions.float.insert(name.clone());
            outcome.reasons.insert(name.clone(), format!("kept in float: {gain:+.1} dB, the drop was over {most}"));
            self.rebuild(outcome)?;
            self.progress.at(done + 1);
        }
        // What is left in integers then are sums and the like.
        if outcome.score.drop_from(&outcome.float) > most {
            outcome.exceptions.no_elementwise = true;
            self.rebuild(outcome)?;
        }
        Ok(())
    }

    fn rebuild(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        outcome.quantized = self.prepared.quantized(&outcome.exceptions, &mut Silent)?;
        outcome.score = self.judge.score(&outcome.quantized.network)?;
        Ok(())
    }

    /// Fewer bits for layers that mind it least for what they save: as many as the size asks for, or else as the drop allows.
    fn fewer_bits(&mut self, outcome: &mut Outcome, bits: u32) -> Result<(), Error> {
        let sizes: BTreeMap<String, u64> = self.sizes().collect();
        let mut ranked = self.ranked(&outcome.exceptions, "sensitivity to fewer bits", |exceptions, name| {
            exceptions.bits.insert(name.to_owned(), bits);
        })?;
        // dB lost for each byte saved.
        let cost = |(name, gain): &Ranked| -gain.min(0.0) / sizes.get(name).copied().unwrap_or(1).max(1) as f64;
        ranked.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        self.progress.step("fewer bits", ranked.len());
        for (done, (name, gain)) in ranked.iter().enumerate() {
            if self.bounds.max_bytes.is_some_and(|most| self.bytes(&outcome.exceptions) <= most) {
                break;
            }
            let before = (outcome.exceptions.clone(), outcome.quantized.clone(), outcome.score);
            outcome.exceptions.bits.insert(name.clone(), bits);
            self.rebuild(outcome)?;
            let too_much = self.bounds.max_drop.is_some_and(|most| outcome.score.drop_from(&outcome.float) > most);
            if too_much {
                (outcome.exceptions, outcome.quantized, outcome.score) = before;
            } else {
                outcome.reasons.insert(name.clone(), format!("{bits} bits: {gain:+.1} dB"));
            }
            self.progress.at(done + 1);
        }
        Ok(())
    }

    /// Float for the most sensitive layers, as long as there is time for it.
    fn spend_time(&mut self, outcome: &mut Outcome, most: f64) -> Result<(), Error> {
        let ranked = self.ranked(&outcome.exceptions, "sensitivity to float", |exceptions, name| {
            exceptions.float.insert(name.to_owned());
        })?;
        self.progress.step("latency budget", ranked.len());
        for (done, (name, gain)) in ranked.iter().filter(|(_, gain)| *gain > 0.1).enumerate() {
            let before = (outcome.exceptions.clone(), outcome.quantized.clone(), outcome.score);
            outcome.exceptions.float.insert(name.clone());
            self.rebuild(outcome)?;
            let time = self.judge.latency_ms(&outcome.quantized.network)?;
            if time > most {
                (outcome.exceptions, outcome.quantized, outcome.score) = before;
                break;
            }
            outcome
                .reasons
                .insert(name.clone(), format!("kept in float: {gain:+.1} dB, and {time:.2} ms are within {most}"));
            self.progress.at(done + 1);
        }
        Ok(())
    }

    fn sizes(&self) -> impl Iterator<Item = (String, u64)> {
        let graph = self.prepared.network.graph();
        let elements = move |weight| graph.constant(weight).map_or(0, |weight| weight.len() as u64);
        self.prepared.placed.layers.iter().map(move |layer| (layer.name.clone(), elements(layer.weight)))
    }

    /// Of weights.
    fn bytes(&self, exceptions: &Exceptions) -> u64 {
        let bits = |name: &str| match exceptions.float.contains(name) {
            true => 32,
            false => u64::from(exceptions.bits.get(name).copied().unwrap_or(self.prepared.recipe.weights.bits)),
        };
        self.sizes().map(|(name, elements)| (elements * bits(&name)).div_ceil(8)).sum()
    }

    fn say_what_is_broken(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        let drop = outcome.score.drop_from(&outcome.float);
        if let Some(most) = self.bounds.max_drop.filter(|&most| drop > most) {
            outcome.broken.push(format!("the drop is {drop:.2}, over {most}, whatever stays in float"));
        }
        let bytes = self.bytes(&outcome.exceptions);
        if let Some(most) = self.bounds.max_bytes.filter(|&most| bytes > most) {
            outcome.broken.push(format!("weights take {bytes} bytes, over {most}: allow fewer bits, or a larger drop"));
        }
        if let Some(most) = self.bounds.max_latency_ms {
            let time = self.judge.latency_ms(&outcome.quantized.network)?;
            if time > most {
                outcome.broken.push(format!("one inference takes {time:.2} ms here, over {most}"));
            }
        }
        Ok(())
    }
}
