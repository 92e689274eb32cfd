//! Which layers deserve more than the recipe gives, by measured sensitivity: float where a bound on accuracy asks for it,
//! fewer bits where a budget does.
//!
//! Invariant: decisions are made on the judge's samples alone; the result keeps the bounds, or the outcome says which it
//! does not.
//!
//! Right answers are too coarse a measure for one layer. Layers are ranked by what the engine gives with one of them
//! changed, in dB of the output against the float model; where agreement with its classes is bounded, by the noise that
//! each makes alone, for each multiplication: with the rest in integers, a layer's share drowns in what its change does to
//! theirs, and the noise of an activation stays until both of its ends are float. There the bound is on what is expected
//! (`expected`) until samples are enough to be sure of what is counted.

use super::expected::{Decisions, Expected};
use super::work::{Exceptions, Prepared};
use super::write::Quantized;
use crate::compress::data::Dataset;
use crate::compress::prune::macs;
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
    /// Weights may be rounded as outputs are met best where the nearest levels break the bound on the drop: it takes time
    /// here, and none where the model runs.
    pub round_better: bool,
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
    /// Where classes are compared with the float model's, and samples are enough to say.
    pub expected: Option<Expected>,
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
    let decisions = if judge.metric == Metric::Agreement { Decisions::of(&judge.reference) } else { None };
    let mut search = Search { prepared, judge, decisions, bounds, progress };
    let (score, expected) = search.look(&quantized.network)?;
    let (reasons, broken) = Default::default();
    let mut outcome = Outcome { quantized, exceptions, float, score, expected, reasons, broken };
    if let Some(bits) = bounds.low_bits {
        search.fewer_bits(&mut outcome, bits)?;
    }
    if search.drops_too_much(&outcome) {
        search.round_better(&mut outcome)?;
    }
    if search.drops_too_much(&outcome) {
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
    let (reasons, broken) = Default::default();
    Ok(Outcome { quantized, exceptions, float: score, score, expected: None, reasons, broken })
}

struct Search<'a, 'b> {
    prepared: &'a Prepared,
    judge: &'a Judge<'b>,
    decisions: Option<Decisions>,
    bounds: Bounds,
    progress: &'a mut dyn Progress,
}

/// What an attempt may have to go back to.
struct State(Exceptions, Quantized, Score, Option<Expected>);

impl State {
    fn of(outcome: &Outcome) -> Self {
        Self(outcome.exceptions.clone(), outcome.quantized.clone(), outcome.score, outcome.expected)
    }

    fn restore(self, outcome: &mut Outcome) {
        (outcome.exceptions, outcome.quantized, outcome.score, outcome.expected) = (self.0, self.1, self.2, self.3);
    }
}

/// A layer, and what changing it alone does to the output's SQNR, in dB; or its share of the noise, in percent.
type Ranked = (String, f64);

/// Samples that layers are ranked by where each is looked at alone: noise needs fewer than decisions do.
const RANKING: usize = 32;

impl Search<'_, '_> {
    fn look(&self, network: &Network) -> Result<(Score, Option<Expected>), Error> {
        let judge = self.judge;
        let answers = score::answers(network, judge.data, judge.numbers, &mut Silent)?;
        let score = score::score(judge.metric, &answers, judge.data, judge.numbers, Some(&judge.reference))?;
        Ok((score, self.decisions.as_ref().map(|decisions| decisions.expected(&answers))))
    }

    /// By what was counted where the bound allows so many wrong answers that their number means something; else by what is
    /// expected, if that can be told, and by what was counted as far as it is more than chance.
    fn drops_too_much(&self, outcome: &Outcome) -> bool {
        const MEANINGFUL: f64 = 10.0;
        let (score, float) = (&outcome.score, &outcome.float);
        let few = |most: f64| most > 0.0 && score.samples as f64 * most / 100.0 < MEANINGFUL;
        self.bounds.max_drop.is_some_and(|most| match &outcome.expected {
            Some(expected) if few(most) => expected.disagreement > most || float.value - score.high > most,
            _ => score.drop_from(float) > most,
        })
    }

    /// The better, the larger: of the noise on what decides, where classes are compared, else in dB.
    fn fidelity(&self, network: &Network) -> Result<f64, Error> {
        let Some(decisions) = &self.decisions else { return self.judge.sqnr(network) };
        let answers = score::answers(network, self.judge.data, self.judge.numbers, &mut Silent)?;
        Ok(-decisions.log_power(&answers))
    }

    /// Weights to the levels that meet outputs best, if that is better.
    fn round_better(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        if !self.bounds.round_better || !self.prepared.may_round_better() {
            return Ok(());
        }
        let before = self.fidelity(&outcome.quantized.network)?;
        let exceptions = Exceptions { adaround: true, ..outcome.exceptions.clone() };
        let quantized = self.prepared.quantized(&exceptions, self.progress)?;
        if self.fidelity(&quantized.network)? > before {
            outcome.exceptions = exceptions;
            let why = "rounded as its output is met best: the drop was over the bound";
            let names = self.prepared.placed.layers.iter().map(|layer| layer.name.clone());
            names.for_each(|name| _ = outcome.reasons.entry(name).or_insert_with(|| why.to_owned()));
            self.rebuild(outcome)?;
        }
        Ok(())
    }

    /// Layers by the noise that each makes alone in a float model, for each multiplication, the most first; and what share
    /// that is of all noise, in percent. Neighbours share that of what is between them.
    fn by_own_noise(&mut self, base: &Exceptions) -> Result<Option<Vec<Ranked>>, Error> {
        let Some(decisions) = Decisions::of(&self.judge.reference.first(RANKING)) else { return Ok(None) };
        let (prepared, judge) = (self.prepared, self.judge);
        let numbers = &judge.numbers[..judge.numbers.len().min(RANKING)];
        let log_power = |exceptions: &Exceptions| {
            let network = prepared.quantized(exceptions, &mut Silent)?.network;
            Ok::<_, Error>(decisions.log_power(&score::answers(&network, judge.data, numbers, &mut Silent)?))
        };
        let (graph, facts) = (prepared.network.graph(), prepared.network.facts());
        let all = log_power(base)?;
        let layers = &prepared.placed.layers;
        self.progress.step("each layer alone", layers.len());
        let mut ranked = Vec::new();
        for (done, layer) in layers.iter().enumerate().filter(|(_, layer)| !base.float.contains(&layer.name)) {
            let mut alone = Exceptions { no_elementwise: true, ..base.clone() };
            alone.float.extend(layers.iter().filter(|other| other.node != layer.node).map(|other| other.name.clone()));
            let share = 100.0 * (log_power(&alone)? - all).exp();
            let cost = graph.node(layer.node).map_or(0, |node| macs(&facts, node)).max(1);
            ranked.push((share / cost as f64, (layer.name.clone(), share)));
            self.progress.at(done + 1);
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(Some(ranked.into_iter().map(|(_, ranked)| ranked).collect()))
    }

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
        let alone = if self.decisions.is_some() { self.by_own_noise(&outcome.exceptions)? } else { None };
        match alone {
            Some(ranked) => self.fewest_float(outcome, &ranked)?,
            None => self.one_after_another(outcome)?,
        }
        // What is left in integers then are sums and the like.
        if self.drops_too_much(outcome) {
            outcome.exceptions.no_elementwise = true;
            self.rebuild(outcome)?;
        }
        Ok(())
    }

    fn one_after_another(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        let most = self.bounds.max_drop.unwrap_or(f64::INFINITY);
        let ranked = self.ranked(&outcome.exceptions, "sensitivity to float", |exceptions, name| {
            exceptions.float.insert(name.to_owned());
        })?;
        self.progress.step("accuracy control", ranked.len());
        for (done, (name, gain)) in ranked.iter().enumerate() {
            if !self.drops_too_much(outcome) {
                break;
            }
            outcome.exceptions.float.insert(name.clone());
            outcome.reasons.insert(name.clone(), format!("kept in float: {gain:+.1} dB, the drop was over {most}"));
            self.rebuild(outcome)?;
            self.progress.at(done + 1);
        }
        Ok(())
    }

    /// So many of the first as the bound takes, by halves: what is expected falls with noise, and the first place where it
    /// happens to dip under the bound would be too good to be true.
    fn fewest_float(&mut self, outcome: &mut Outcome, ranked: &[Ranked]) -> Result<(), Error> {
        let most = self.bounds.max_drop.unwrap_or(f64::INFINITY);
        let before = outcome.exceptions.clone();
        let (mut few, mut enough, mut kept) = (0, ranked.len(), None);
        self.progress.step("accuracy control", ranked.len());
        while enough - few > 1 || kept.is_none() {
            // All of them only where fewer would not do.
            let tried = if enough - few > 1 { usize::midpoint(few, enough) } else { enough };
            outcome.exceptions = before.clone();
            outcome.exceptions.float.extend(ranked[..tried].iter().map(|(name, _)| name.clone()));
            self.rebuild(outcome)?;
            if self.drops_too_much(outcome) && tried < enough {
                few = tried;
            } else {
                (enough, kept) = (tried, Some(State::of(outcome)));
            }
            self.progress.at(ranked.len() - (enough - few));
        }
        if let Some(kept) = kept {
            kept.restore(outcome);
        }
        for (name, share) in &ranked[..enough] {
            let why = format!("kept in float: {share:.1} % of the noise, the drop was over {most}");
            outcome.reasons.insert(name.clone(), why);
        }
        Ok(())
    }

    fn rebuild(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        outcome.quantized = self.prepared.quantized(&outcome.exceptions, &mut Silent)?;
        (outcome.score, outcome.expected) = self.look(&outcome.quantized.network)?;
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
            let before = State::of(outcome);
            outcome.exceptions.bits.insert(name.clone(), bits);
            self.rebuild(outcome)?;
            if self.drops_too_much(outcome) {
                before.restore(outcome);
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
            let before = State::of(outcome);
            outcome.exceptions.float.insert(name.clone());
            self.rebuild(outcome)?;
            let time = self.judge.latency_ms(&outcome.quantized.network)?;
            if time > most {
                before.restore(outcome);
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
        if let Some(most) = self.bounds.max_drop.filter(|_| self.drops_too_much(outcome)) {
            let expected = outcome.expected.map(|expected| format!(", {:.2} expected", expected.disagreement));
            let expected = expected.unwrap_or_default();
            outcome.broken.push(format!("the drop is {drop:.2}{expected}, over {most}, whatever stays in float"));
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
