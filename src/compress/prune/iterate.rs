//! The loop: measure, remove, let normalisations settle, fine-tune, judge; again, until the target or the stop rule.

use super::choose::{Terms, counted, to_target};
use super::cost::{Cost, Times};
use super::follow::{Followed, follow};
use super::groups::{Group, Groups, Kind, Stays, groups};
use super::importance::{Evidence, importance};
use super::mask::{Masks, candidates, masked};
use super::remove::{removed, settle, zeroed};
use super::schedule::{Rule, Search};
use super::statistics::statistics;
use super::{Recipe, Target, What, loss};
use crate::compress::package::synthetic;
use crate::compress::score::{self, Answers};
use crate::compress::train::{Gradients, Plain, Samples, fit, gradients, settle_norms};
use crate::compress::{Error, Network, Progress};
use crate::onnx::graph::ValueId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A group, before and after.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupReport {
    pub makers: Vec<String>,
    pub kind: Kind,
    /// Channels of its first maker.
    pub before: usize,
    pub after: usize,
    /// Of its units in the first step.
    pub least_importance: f64,
    pub largest_importance: f64,
    #[serde(skip)]
    weights: (ValueId, usize),
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepReport {
    /// Of the way to the target.
    pub share: f64,
    pub cost: Cost,
    /// On the validation part, once fine-tuned; none without data.
    pub loss: Option<f64>,
    /// Whether the stop rule holds.
    pub kept: bool,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PruneReport {
    pub groups: Vec<GroupReport>,
    /// What could not be removed, and why.
    pub stays: Vec<Stays>,
    /// Operators that are not understood and stand in the way.
    pub not_followed: Vec<String>,
    pub steps: Vec<StepReport>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub network: Network,
    pub before: Cost,
    pub after: Cost,
    /// L(θ) and L(θ') on the validation part.
    pub loss: Option<[f64; 2]>,
    pub report: PruneReport,
    /// Bounds that are not kept.
    pub broken: Vec<String>,
}

/// Prunes; without samples at once, by what needs none. `network` has its normalisations still.
///
/// # Errors
/// When the recipe or data do not fit, nothing can be removed, or the target cannot be reached.
pub fn prune(
    network: &Network,
    recipe: &Recipe,
    samples: Option<Samples<'_>>,
    times: Option<&Times>,
    progress: &mut dyn Progress,
) -> Result<Outcome, Error> {
    recipe.check()?;
    refuse_quantized(network)?;
    let mut start = network.clone();
    settle(&mut start);
    let mut pruning = Pruning::new(&start, recipe, samples, times, progress)?;
    let mut best = start.clone();
    let base = pruning.base;
    let rule = Rule { base: base.unwrap_or(0.0), rise: recipe.max_loss_rise };
    let mut search = Search::new(rule, recipe.schedule, recipe.steps);
    let mut ended = None;
    while let Some(share) = search.share() {
        if progress.is_stopped() {
            break;
        }
        let tried = match pruning.step(&best, share, progress) {
            // What was reached before stays.
            Err(Error::Unfit(why)) if search.reached() > 0.0 => {
                ended = Some(why);
                break;
            }
            tried => tried?,
        };
        let loss = pruning.judge(&tried, progress)?;
        let kept = search.see(share, loss.unwrap_or(rule.base));
        pruning.report.steps.push(StepReport { share, cost: Cost::of(&tried)?, loss, kept });
        if kept {
            best = tried;
        }
    }
    let mut broken = Vec::new();
    if progress.is_stopped() {
        if search.reached() == 0.0 {
            return Err(Error::Stopped);
        }
        broken.push(format!("stopped after {:.0} % of the way to the target", search.reached() * 100.0));
    } else if let Some(why) = ended {
        broken.push(format!("{:.0} % of the way to the target was gone: {why}", search.reached() * 100.0));
    } else if !search.is_whole() {
        let percent = search.reached() * 100.0;
        broken.push(format!("the loss rises too much: {percent:.0} % of the way to the target was gone"));
    }
    pruning.finish(&start, best, broken, progress)
}

/// By which a group is known from step to step.
fn key(group: &Group) -> String {
    group.makers.first().cloned().unwrap_or_default()
}

/// Every name that is to be left alone has to be one.
fn known_names(network: &Network, ignored: &[String]) -> Result<(), Error> {
    let names: Vec<&str> = network.graph().nodes().map(|(_, node)| node.name.as_str()).collect();
    let means = |wish: &str, name: &str| wish.strip_suffix('*').map_or(name == wish, |start| name.starts_with(start));
    match ignored.iter().find(|wish| !names.iter().any(|name| means(wish, name))) {
        None => Ok(()),
        Some(wish) => {
            let alike = |name: &&&str| strsim::jaro_winkler(name, wish);
            let nearest = names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))).copied().unwrap_or_default();
            Err(Error::unfit(format!(
                "no node has the name {wish:?} that is to be left alone; the nearest is {nearest:?}"
            )))
        }
    }
}

fn refuse_quantized(network: &Network) -> Result<(), Error> {
    let integers = ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"];
    match network.graph().nodes().find(|(_, node)| integers.contains(&&*node.op)) {
        Some(_) => Err(Error::unfit("this model is quantized already: prune the float model, then quantize")),
        None => Ok(()),
    }
}

struct Pruning<'a> {
    recipe: &'a Recipe,
    samples: Option<Samples<'a>>,
    times: Option<&'a Times>,
    /// Answers of the network as it was, on the validation part.
    reference: Option<Answers>,
    base: Option<f64>,
    /// What the target counts, of the network as it was.
    full: f64,
    /// Units of each group at the start.
    sizes: BTreeMap<String, usize>,
    /// The target, in what it counts; of single weights always a ratio.
    target: Target,
    report: PruneReport,
}

impl<'a> Pruning<'a> {
    fn new(
        start: &Network,
        recipe: &'a Recipe,
        samples: Option<Samples<'a>>,
        times: Option<&'a Times>,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        known_names(start, &recipe.ignore)?;
        if recipe.max_loss_rise.is_some() && samples.is_some_and(|samples| samples.validation.is_empty()) {
            return Err(Error::unfit("there are no samples to hold the loss against: give more, or another --split"));
        }
        let (mut reference, mut base) = (None, None);
        match samples {
            Some(samples) => {
                progress.step("the model's own answers", samples.validation.len());
                let answers = score::answers(start, samples.data, samples.validation, progress)?;
                base = Some(loss(start, &answers, samples.data, samples.validation, &answers)?);
                reference = Some(answers);
            }
            None if recipe.measure.needs_gradients() || recipe.measure.needs_activations() => {
                return Err(Error::unfit("this measure looks at data: state --data, or --measure l2"));
            }
            None if recipe.max_loss_rise.is_some() => {
                return Err(Error::unfit("the stop rule needs data to hold the loss against: state --data"));
            }
            None => {}
        }
        let mut pruning = Self {
            recipe,
            samples,
            times,
            reference,
            base,
            full: 0.0,
            sizes: BTreeMap::new(),
            target: recipe.target,
            report: PruneReport::default(),
        };
        pruning.full = pruning.amount(start)?;
        if let (What::Weights, Target::Parameters(target)) = (recipe.what, recipe.target) {
            pruning.target = pruning.as_ratio(start, target)?;
        }
        pruning.check_target()?;
        Ok(pruning)
    }

    fn check_target(&self) -> Result<(), Error> {
        let target = match self.target {
            Target::Ratio(_) => return Ok(()),
            Target::Macs(target) | Target::Parameters(target) | Target::Bytes(target) => target as f64,
            Target::Latency(ms) => ms,
        };
        if target >= self.full {
            return Err(Error::unfit(format!(
                "the target, {target}, is reached already: the model is at {:.3}",
                self.full
            )));
        }
        Ok(())
    }

    /// Of the weights that may be masked, the share that has to go.
    fn as_ratio(&self, network: &Network, target: u64) -> Result<Target, Error> {
        let values = candidates(network, &follow(network.graph(), &network.facts()), |name| self.ignores(name));
        let own = |value: &ValueId| network.graph().constant(*value)?.to_f64s();
        let (mut may_go, mut zeros) = (0, 0);
        for weights in values.iter().filter_map(own) {
            may_go += weights.len();
            zeros += weights.iter().filter(|&&weight| weight == 0.0).count();
        }
        let now = Cost::of(network)?.nonzero;
        let Some(going) = now.checked_sub(target).filter(|&going| going > 0) else {
            let what = format!("the target, {target}, is reached already: {now} weights of the model are not zero");
            return Err(Error::unfit(what));
        };
        // A ratio counts zeros that are there already.
        let ratio = (zeros as f64 + going as f64) / (may_go as f64).max(1.0);
        if ratio >= 1.0 {
            let left = may_go - zeros;
            return Err(Error::unfit(format!("only {left} weights may become zeros: {target} cannot be reached")));
        }
        Ok(Target::Ratio(ratio))
    }

    fn ignores(&self, name: &str) -> bool {
        let means = |wish: &String| wish.strip_suffix('*').map_or(name == wish, |start| name.starts_with(start));
        self.recipe.ignore.iter().any(means)
    }

    /// What the target counts.
    fn amount(&self, network: &Network) -> Result<f64, Error> {
        Ok(match self.target {
            Target::Ratio(_) => 0.0,
            Target::Macs(_) => Cost::of(network)?.macs as f64,
            Target::Parameters(_) => Cost::of(network)?.parameters as f64,
            Target::Bytes(_) => Cost::of(network)?.bytes as f64,
            Target::Latency(_) => {
                let lacking = || Error::unfit("a target of ms needs a device's report: state --report");
                self.times.ok_or_else(lacking)?.estimate(network)
            }
        })
    }

    /// To `share` of the way.
    fn step(&mut self, best: &Network, share: f64, progress: &mut dyn Progress) -> Result<Network, Error> {
        let gradients = self.gradients(best, progress)?;
        let mut followed = follow(best.graph(), &best.facts());
        if self.recipe.what == What::Weights {
            return self.mask(best, &followed, &gradients, share, progress);
        }
        let groups = self.groups(best, &mut followed)?;
        let statistics = match self.samples.filter(|_| self.recipe.measure.needs_activations()) {
            Some(samples) => Some(statistics(best, &followed.taken, samples.data, self.looked(samples), progress)?),
            None => None,
        };
        let evidence = Evidence {
            gradients: Some(&gradients.mean),
            squares: Some(&gradients.square),
            statistics: statistics.as_ref(),
        };
        let figures = importance(best, &followed, &groups, self.recipe.measure, evidence, self.recipe.seed)?;
        if self.report.groups.is_empty() {
            self.note(&followed, &groups, &figures);
            self.sizes = groups.groups.iter().map(|group| (key(group), group.units.len())).collect();
        }
        let gone = self.choose(best, &followed, &groups, &figures, share)?;
        let ids = gone.iter().map(|&unit| groups.units[unit].id).collect();
        let smaller = removed(best, &followed, &ids)?;
        verify(best, &smaller, &groups, &gone, self.recipe.seed)?;
        self.heal(smaller, None, progress)
    }

    fn groups(&self, network: &Network, followed: &mut Followed) -> Result<Groups, Error> {
        let mut groups = groups(network.graph(), followed, |name| self.ignores(name));
        let wanted = match self.recipe.what {
            What::Channels | What::Weights => None,
            What::Filters => Some(Kind::Filters),
            What::Neurons => Some(Kind::Neurons),
            What::Heads => Some(Kind::Heads),
        };
        if let Some(kind) = wanted {
            groups.keep_only(kind);
        }
        if groups.units.is_empty() {
            let first =
                groups.stays.first().map_or_else(String::new, |stays| format!("; {:?}: {}", stays.node, stays.why));
            let strangers = followed.strangers.first().map_or_else(String::new, |node| {
                format!("; {node} is not followed: replace it, or prune before it is exported into the model")
            });
            return Err(Error::unfit(format!("there is nothing to remove{first}{strangers}")));
        }
        Ok(groups)
    }

    fn looked(&self, samples: Samples<'a>) -> &'a [usize] {
        &samples.train[..samples.train.len().min(self.recipe.samples)]
    }

    fn gradients(&self, network: &Network, progress: &mut dyn Progress) -> Result<Gradients, Error> {
        match self.samples.filter(|_| self.recipe.measure.needs_gradients()) {
            Some(samples) => gradients(network, samples.data, self.looked(samples), progress),
            None => Ok(Gradients::default()),
        }
    }

    fn choose(
        &self,
        best: &Network,
        followed: &Followed,
        groups: &Groups,
        figures: &[f64],
        share: f64,
    ) -> Result<BTreeSet<usize>, Error> {
        let terms = Terms { scope: self.recipe.scope, most: self.recipe.most, multiple: self.recipe.multiple };
        let target = match self.target {
            Target::Ratio(ratio) => {
                // Of what there was at the start: what one step rounds away the next one makes good.
                let stay = |full: usize| (full as f64 * (1.0 - ratio * share)).round() as usize;
                let full = |group: &Group| self.sizes.get(&key(group)).copied().unwrap_or(group.units.len());
                let going = |group: &Group| group.units.len().saturating_sub(stay(full(group)));
                let all: usize = groups.groups.iter().map(full).sum();
                let total = groups.units.len().saturating_sub(stay(all));
                return Ok(counted(groups, figures, terms, &going, total));
            }
            Target::Macs(target) | Target::Parameters(target) | Target::Bytes(target) => target as f64,
            Target::Latency(ms) => ms,
        };
        let now = self.full - (self.full - target) * share;
        let cost = |gone: &BTreeSet<usize>| {
            let ids = gone.iter().map(|&unit| groups.units[unit].id).collect();
            self.amount(&removed(best, followed, &ids)?)
        };
        to_target(groups, figures, terms, now, cost)?.map_err(|least| {
            Error::unfit(format!(
                "the target cannot be reached: in this step {now:.3} is to be left, and with all that may go {least:.3} is; \
                 take more --steps, a smaller --multiple, or --ignore less"
            ))
        })
    }

    fn mask(
        &self,
        best: &Network,
        followed: &Followed,
        gradients: &Gradients,
        share: f64,
        progress: &mut dyn Progress,
    ) -> Result<Network, Error> {
        let values = candidates(best, followed, |name| self.ignores(name));
        let Target::Ratio(ratio) = self.target else {
            return Err(Error::unfit("for single weights state a ratio or parameters"));
        };
        if values.is_empty() {
            return Err(Error::unfit("there are no weights of products in this model, or all are ignored"));
        }
        let evidence =
            Evidence { gradients: Some(&gradients.mean), squares: Some(&gradients.square), statistics: None };
        let (network, masks) = masked(best, &values, self.recipe, evidence, ratio * share)?;
        self.heal(network, Some(&masks), progress)
    }

    /// What removal shifted is measured anew, then trained.
    fn heal(&self, network: Network, masks: Option<&Masks>, progress: &mut dyn Progress) -> Result<Network, Error> {
        let Some(samples) = self.samples else { return Ok(network) };
        let has_norms = network.graph().nodes().any(|(_, node)| node.is("BatchNormalization"));
        let network =
            if has_norms { settle_norms(&network, samples.data, samples.train, self.recipe.seed)? } else { network };
        if self.recipe.tuning.epochs == 0 {
            return Ok(network);
        }
        let recipe = &self.recipe.tuning;
        let trained = match masks {
            Some(mut masks) => fit(&network, samples, recipe, &mut masks, progress)?,
            None => fit(&network, samples, recipe, &mut Plain, progress)?,
        };
        Ok(trained.network)
    }

    fn judge(&self, network: &Network, progress: &mut dyn Progress) -> Result<Option<f64>, Error> {
        let (Some(samples), Some(reference)) = (self.samples, &self.reference) else { return Ok(None) };
        progress.step("judging the step", samples.validation.len());
        let answers = score::answers(network, samples.data, samples.validation, progress)?;
        loss(network, &answers, samples.data, samples.validation, reference).map(Some)
    }

    /// What the first step sees.
    fn note(&mut self, followed: &Followed, groups: &Groups, figures: &[f64]) {
        let of_group = |group: &super::groups::Group| {
            let own = || group.units.iter().map(|&unit| figures[unit]);
            GroupReport {
                makers: group.makers.clone(),
                kind: group.kind,
                before: group.channels,
                after: group.channels,
                least_importance: own().fold(f64::INFINITY, f64::min),
                largest_importance: own().fold(f64::NEG_INFINITY, f64::max),
                weights: group.weights,
            }
        };
        self.report.groups = groups.groups.iter().map(of_group).collect();
        self.report.stays.clone_from(&groups.stays);
        self.report.not_followed.clone_from(&followed.strangers);
    }

    fn finish(
        mut self,
        start: &Network,
        best: Network,
        broken: Vec<String>,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, Error> {
        for group in &mut self.report.groups {
            let (value, axis) = group.weights;
            let left = best.graph().constant(value).and_then(|tensor| tensor.shape().get(axis).copied());
            group.after = left.unwrap_or(group.after);
        }
        let after = self.judge(&best, progress)?;
        let mut network = best;
        let told = serde_json::to_string(self.recipe).unwrap_or_default();
        network.model.metadata.retain(|(key, _)| key != "selvedge.prune");
        network.model.metadata.push(("selvedge.prune".into(), told));
        Ok(Outcome {
            before: Cost::of(start)?,
            after: Cost::of(&network)?,
            loss: self.base.zip(after).map(|(before, after)| [before, after]),
            network,
            report: self.report,
            broken,
        })
    }
}

/// Removal computes what zeros do, or nothing is written.
fn verify(
    before: &Network,
    smaller: &Network,
    groups: &Groups,
    gone: &BTreeSet<usize>,
    seed: u64,
) -> Result<(), Error> {
    let zeros = zeroed(before, gone.iter().map(|&unit| &groups.units[unit]))?;
    let inputs = synthetic(&before.inputs, &[], seed);
    let Some(inputs) = inputs.first() else { return Ok(()) };
    let (expected, found) = (zeros.session()?.run(inputs)?, smaller.session()?.run(inputs)?);
    let values =
        |tensors: &[crate::tensor::Tensor]| tensors.iter().flat_map(crate::tensor::Tensor::to_f64).collect::<Vec<_>>();
    let size = |tensor: &crate::tensor::Tensor| tensor.to_f64().into_iter().fold(1e-6_f64, |most, v| most.max(v.abs()));
    // Each output by its own size.
    let off = |(a, b): (&crate::tensor::Tensor, &crate::tensor::Tensor)| {
        let each = a.to_f64().into_iter().zip(b.to_f64()).map(|(a, b)| match (a.is_nan(), b.is_nan()) {
            (true, true) => 0.0,
            (false, false) => (a - b).abs(),
            (true, false) | (false, true) => f64::INFINITY,
        });
        each.fold(0.0, f64::max) / size(a)
    };
    let far = expected.iter().zip(&found).map(off).fold(0.0, f64::max);
    let (expected, found) = (values(&expected), values(&found));
    if expected.len() != found.len() || far > 1e-3 {
        return Err(Error::unfit(format!(
            "removal changed answers by {far:.1e}, which is a fault of Selvedge's: please report it with the model, and \
             --ignore layers until it passes"
        )));
    }
    Ok(())
}
