//! A deployed model follows new local data, and forgets no more of the old than is allowed.
//!
//! Invariant: the forgetting bound holds on the old data's validation part, by the engine's own answers, or nothing comes
//! out; quantized weights stay on their levels and scales stay what they were, so that an update is of levels alone.
//!
//! Old samples among the new keep a model from forgetting while it learns (rehearsal: Robins 1995). Where that is not enough,
//! weights go only part of the way: between two models of one origin lie better ones than either (Wortsman et al. 2022,
//! WiSE-FT, arXiv:2109.01903).

#[cfg(test)]
mod tests;

use super::data::Dataset;
use super::score::{self, Metric, Score};
use super::train::{Epoch, Parts, Plain, Recipe, Samples, Trained, fit, loss_of, settle_norms};
use super::{Error, Network, Progress};
use crate::onnx::Tensor;
use crate::onnx::graph::ValueId;

/// What must not be forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Old<'a> {
    pub samples: Samples<'a>,
    /// How much worse it may be on the old validation part: points, dB, or percent of an error.
    pub max_forget: f64,
}

/// What came of it.
#[derive(Debug)]
pub struct Tuned {
    pub network: Network,
    pub epochs: Vec<Epoch>,
    /// How far weights went of the way that training took them: 1 for all of it.
    pub share: f64,
    /// Before and after, on the validation part of the new data.
    pub new: [Score; 2],
    /// And of the old.
    pub old: Option<[Score; 2]>,
    pub changed: Changed,
    pub stopped: bool,
    /// Weights that were zero and were held there.
    pub zeros: usize,
}

/// What an update has to carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    pub tensors: usize,
    pub of_tensors: usize,
    pub weights: usize,
    pub of_weights: usize,
}

/// Shares of the way that are tried, the whole first.
const SHARES: [f64; 11] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05];

/// Tunes.
///
/// # Errors
/// When the bound on forgetting leaves nothing of what was learnt, or training fails.
pub fn finetune(
    network: &Network,
    new: Samples<'_>,
    old: Option<Old<'_>>,
    metric: Metric,
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<Tuned, Error> {
    let judge = Judge { metric, new, old };
    let before = judge.both(network, progress)?;
    let trained = learn(network, new, old, recipe, progress)?;
    for share in SHARES {
        let candidate = between(network, &trained.network, share)?;
        let after = judge.both(&candidate, progress)?;
        let Some(old) = old else {
            return Ok(tuned(network, candidate, (trained, share), before, after));
        };
        let forgotten = after.1.zip(before.1).map_or(0.0, |(after, before)| after.drop_from(&before));
        if forgotten <= old.max_forget && after.0.drop_from(&before.0) < 0.0 {
            return Ok(tuned(network, candidate, (trained, share), before, after));
        }
    }
    let most = old.map_or(0.0, |old| old.max_forget);
    Err(Error::unfit(format!(
        "nothing was learnt within the bound: whatever share of the change is taken, the old data loses more than {most}, or \
         the new gains nothing; allow more with --max-forget, train longer, or give more old samples"
    )))
}

fn learn(
    network: &Network,
    new: Samples<'_>,
    old: Option<Old<'_>>,
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<Trained, Error> {
    if recipe.parts == Parts::Norms {
        if !network.graph().nodes().any(|(_, node)| node.is("BatchNormalization")) {
            return Err(Error::unfit(
                "the model has no BatchNormalization whose mean and variance could follow: train the head, or all",
            ));
        }
        let settled = settle_norms(network, new.data, new.train, recipe.seed)?;
        let loss = loss_of(&settled, new.data, new.validation)?;
        if !loss.is_finite() {
            return Err(Error::unfit("norms that follow this data make the loss no number: is it of another scale?"));
        }
        let before = loss_of(network, new.data, new.validation)?;
        return Ok(Trained { network: settled, before, after: loss, epochs: Vec::new(), stopped: false, zeros: 0 });
    }
    let Some(old) = old else {
        return fit(network, new, recipe, &mut Plain, progress);
    };
    let both = Dataset::joined(new.data, old.samples.data)?;
    let joined = |new_numbers: &[usize], old: &[usize]| rehearsed(new_numbers, old, new.data.len());
    let train = joined(new.train, old.samples.train);
    let validation = joined(new.validation, old.samples.validation);
    let samples = Samples { data: &both, train: &train, validation: &validation };
    fit(network, samples, recipe, &mut Plain, progress)
}

/// New samples, and as many old ones at most: new ones are what it is about.
fn rehearsed(new: &[usize], old: &[usize], offset: usize) -> Vec<usize> {
    let count = old.len().min(new.len());
    let spread = (0..count).map(|at| old[at * old.len() / count] + offset);
    new.iter().copied().chain(spread).collect()
}

struct Judge<'a> {
    metric: Metric,
    new: Samples<'a>,
    old: Option<Old<'a>>,
}

impl Judge<'_> {
    fn both(&self, network: &Network, progress: &mut dyn Progress) -> Result<(Score, Option<Score>), Error> {
        let mut of = |samples: Samples<'_>| {
            progress.step("judging", samples.validation.len());
            let answers = score::answers(network, samples.data, samples.validation, progress)?;
            score::score(self.metric, &answers, samples.data, samples.validation, None)
        };
        Ok((of(self.new)?, self.old.map(|old| of(old.samples)).transpose()?))
    }
}

fn tuned(
    start: &Network,
    network: Network,
    (trained, share): (Trained, f64),
    before: (Score, Option<Score>),
    after: (Score, Option<Score>),
) -> Tuned {
    let changed = changed(start, &network);
    let old = before.1.zip(after.1).map(|(before, after)| [before, after]);
    let Trained { epochs, stopped, zeros, .. } = trained;
    Tuned { network, epochs, share, new: [before.0, after.0], old, changed, stopped, zeros }
}

/// Constants of both, where they differ.
fn differing<'a>(a: &'a Network, b: &'a Network) -> impl Iterator<Item = (ValueId, &'a Tensor, &'a Tensor)> {
    let pair = |(id, _)| Some((id, a.graph().constant(id)?, b.graph().constant(id)?));
    a.graph().values().filter_map(pair).filter(|(_, a, b)| a != b)
}

/// The network whose weights lie on the way from one to the other.
///
/// # Errors
/// When the two are not of one origin.
pub fn between(from: &Network, to: &Network, share: f64) -> Result<Network, Error> {
    let mut made = from.clone();
    for (id, a, b) in differing(from, to) {
        let unfit = || Error::unfit("the two models are not of one origin: their weights have other shapes or types");
        if a.shape() != b.shape() || a.element() != b.element() {
            return Err(unfit());
        }
        let mixed = |(a, b): (f64, f64)| a + share * (b - a);
        let tensor = match (a.to_f64s(), b.to_f64s(), a.to_i64s(), b.to_i64s()) {
            (Some(a_values), Some(b_values), ..) => {
                let values: Vec<f64> = a_values.into_iter().zip(b_values).map(mixed).collect();
                Tensor::from_f64s(a.element(), a.shape().to_vec(), &values)
            }
            (_, _, Some(a_values), Some(b_values)) => {
                let pairs = a_values.into_iter().zip(b_values).map(|(a, b)| (a as f64, b as f64));
                let values: Vec<i64> = pairs.map(|pair| mixed(pair).round_ties_even() as i64).collect();
                Tensor::from_i64s(a.element(), a.shape().to_vec(), &values)
            }
            _ => None,
        };
        made.model.graph.set_constant(id, tensor.ok_or_else(unfit)?);
    }
    Ok(made)
}

/// What differs between two networks of one origin.
pub fn changed(from: &Network, to: &Network) -> Changed {
    let mut changed = Changed::default();
    for (_, tensor) in from.graph().values().filter_map(|(id, _)| Some((id, from.graph().constant(id)?))) {
        changed.of_tensors += 1;
        changed.of_weights += tensor.len();
    }
    for (_, a, b) in differing(from, to) {
        let size = a.bytes().len().checked_div(a.len()).unwrap_or(1).max(1);
        changed.tensors += 1;
        changed.weights += a.bytes().chunks(size).zip(b.bytes().chunks(size)).filter(|(a, b)| a != b).count();
    }
    changed
}
