//! How much a unit matters.
//!
//! Invariant: figures of one group are comparable with each other, and those of all groups with each other: magnitudes and
//! activations are divided by their mean over the group, estimates of the loss are in its own unit.
//!
//! | measure | of a unit | after |
//! |---|---|---|
//! | L1, L2 | norm of the weights that make and read it | Li et al. 2017 |
//! | BN scale | absolute scales of its normalisations | Liu et al. 2017 |
//! | activation mean, variance, zeros | of what is read: mean of absolute values, variance, share that is not zero | Hu et al. 2016 |
//! | Taylor | sum of abs(weight x gradient) | Molchanov et al. 2017 |
//! | Fisher | half the sum of weight² x mean squared gradient, the diagonal of the Hessian by Fisher's information | LeCun et al. 1990 |

use super::follow::{Followed, Role};
use super::groups::{Groups, Slice, Unit};
use super::remove::around;
use super::statistics::Statistics;
use crate::compress::data::mix;
use crate::compress::{Error, Network};
use crate::onnx::graph::ValueId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Mean of absolute weights.
    L1,
    /// Euclidean norm of weights.
    L2,
    /// Scales of batch normalisations.
    BnScale,
    /// Mean of absolute activations.
    ActivationMean,
    /// Variance of activations.
    ActivationVariance,
    /// Share of activations that are not zero.
    ActivationZeros,
    /// First-order Taylor expansion of the loss.
    Taylor,
    /// Diagonal of the Hessian, by Fisher's information.
    Fisher,
    /// By the seed: what a measure has to beat.
    Random,
}

impl Measure {
    pub fn needs_gradients(self) -> bool {
        matches!(self, Self::Taylor | Self::Fisher)
    }

    pub fn needs_activations(self) -> bool {
        matches!(self, Self::ActivationMean | Self::ActivationVariance | Self::ActivationZeros)
    }
}

/// What data tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// Mean gradient of the loss over samples, by weight.
    pub gradients: Option<&'a BTreeMap<ValueId, Vec<f32>>>,
    /// Mean squared gradient over samples, by weight.
    pub squares: Option<&'a BTreeMap<ValueId, Vec<f32>>>,
    /// Of activations that weights read, by the axis of their channels.
    pub statistics: Option<&'a BTreeMap<(ValueId, usize), Vec<Statistics>>>,
}

/// Of every unit.
///
/// # Errors
/// When a measure lacks what it looks at.
pub fn importance(
    network: &Network,
    followed: &Followed,
    groups: &Groups,
    measure: Measure,
    evidence: Evidence<'_>,
    seed: u64,
) -> Result<Vec<f64>, Error> {
    let weights = weights(network, groups);
    let lacking = |what: &str| Error::unfit(format!("this measure needs {what}"));
    match measure {
        Measure::Random => Ok((0..groups.units.len()).map(|unit| random(seed, unit)).collect()),
        Measure::L1 => {
            Ok(relative(groups, |unit| norms(&weights, unit, &[Role::Makes, Role::Takes], f64::abs, |sum| sum)))
        }
        Measure::L2 => {
            let squared = |value: f64| value * value;
            Ok(relative(groups, |unit| norms(&weights, unit, &[Role::Makes, Role::Takes], squared, f64::sqrt)))
        }
        Measure::BnScale => scales(&weights, groups),
        Measure::ActivationMean | Measure::ActivationVariance | Measure::ActivationZeros => {
            let statistics = evidence.statistics.ok_or_else(|| lacking("data"))?;
            let own = activations(followed, groups, statistics, measure);
            Ok(relative(groups, |unit| own.get(&unit.id).cloned().unwrap_or_default()))
        }
        Measure::Taylor => {
            let gradients = evidence.gradients.ok_or_else(|| lacking("gradients: data with labels"))?;
            Ok(summed(&weights, groups, gradients, |weight, gradient| (weight * gradient).abs()))
        }
        Measure::Fisher => {
            let squares = evidence.squares.ok_or_else(|| lacking("gradients: data with labels"))?;
            Ok(summed(&weights, groups, squares, |weight, square| 0.5 * weight * weight * square))
        }
    }
}

/// From 0 to 1, by the seed.
pub(super) fn random(seed: u64, number: usize) -> f64 {
    (mix(seed ^ mix(number as u64)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Every figure of a unit over its mean in the group, and the mean of those.
fn relative<K: Ord>(groups: &Groups, figures: impl Fn(&Unit) -> BTreeMap<K, f64>) -> Vec<f64> {
    let all: Vec<BTreeMap<K, f64>> = groups.units.iter().map(figures).collect();
    let mut found = vec![0.0; all.len()];
    for group in &groups.groups {
        let mut sums = BTreeMap::<&K, (f64, f64)>::new();
        for (key, figure) in group.units.iter().flat_map(|&unit| &all[unit]) {
            let (sum, count) = sums.entry(key).or_default();
            (*sum, *count) = (*sum + figure, *count + 1.0);
        }
        for &unit in &group.units {
            let ratio = |(key, figure): (&K, &f64)| {
                let (sum, count) = sums[key];
                if sum > 0.0 { figure * count / sum } else { 0.0 }
            };
            found[unit] = all[unit].iter().map(ratio).sum::<f64>() / all[unit].len().max(1) as f64;
        }
    }
    found
}

/// Calls `see` with the place of each element of a slice.
fn elements(shape: &[usize], slice: &Slice, mut see: impl FnMut(usize)) {
    let (outer, inner) = around(shape, slice.axis);
    for row in 0..outer {
        for &position in &slice.positions {
            let start = (row * shape[slice.axis] + position) * inner;
            (start..start + inner).for_each(&mut see);
        }
    }
}

type Figures = BTreeMap<(ValueId, usize), f64>;
/// Shapes and elements of all constants that units have a part of.
type Weights = BTreeMap<ValueId, (Vec<usize>, Vec<f64>)>;

fn weights(network: &Network, groups: &Groups) -> Weights {
    let mut weights = Weights::new();
    for slice in groups.units.iter().flat_map(|unit| &unit.slices) {
        if !weights.contains_key(&slice.value)
            && let Some(tensor) = network.graph().constant(slice.value)
            && let Some(values) = tensor.to_f64s()
        {
            weights.insert(slice.value, (tensor.shape().to_vec(), values));
        }
    }
    weights
}

/// A norm of each slice in these roles, by constant and axis.
fn norms(
    weights: &Weights,
    unit: &Unit,
    roles: &[Role],
    term: impl Fn(f64) -> f64,
    end: impl Fn(f64) -> f64,
) -> Figures {
    let mut norms = Figures::new();
    for slice in unit.slices.iter().filter(|slice| roles.contains(&slice.role)) {
        let Some((shape, values)) = weights.get(&slice.value) else { continue };
        let mut sum = 0.0;
        elements(shape, slice, |at| sum += term(values[at]));
        norms.insert((slice.value, slice.axis), end(sum));
    }
    norms
}

fn scales(weights: &Weights, groups: &Groups) -> Result<Vec<f64>, Error> {
    let of_unit = |unit: &Unit| {
        let own = norms(weights, unit, &[Role::Scales], f64::abs, |sum| sum);
        let positions: usize =
            unit.slices.iter().filter(|slice| slice.role == Role::Scales).map(|slice| slice.positions.len()).sum();
        (positions > 0).then(|| own.values().sum::<f64>() / positions as f64)
    };
    let found: Vec<Option<f64>> = groups.units.iter().map(of_unit).collect();
    if let Some(at) = found.iter().position(Option::is_none) {
        let maker = groups.groups[groups.units[at].group].makers.first().cloned().unwrap_or_default();
        return Err(Error::unfit(format!(
            "behind {maker:?} there is no batch normalisation whose scales could be measured: choose another --measure, \
             or --ignore it"
        )));
    }
    Ok(found.into_iter().flatten().collect())
}

fn activations(
    followed: &Followed,
    groups: &Groups,
    statistics: &BTreeMap<(ValueId, usize), Vec<Statistics>>,
    measure: Measure,
) -> BTreeMap<super::ids::Id, Figures> {
    let mut found = BTreeMap::<super::ids::Id, Figures>::new();
    for unit in &groups.units {
        found.insert(unit.id, Figures::new());
    }
    for (&(value, axis), channels) in statistics {
        let Some(ids) = followed.ids(value, axis) else { continue };
        for (id, channel) in ids.iter().zip(channels) {
            let figure = if measure == Measure::ActivationVariance {
                channel.variance()
            } else if measure == Measure::ActivationZeros {
                1.0 - channel.zeros()
            } else {
                channel.mean_abs()
            };
            if let Some(own) = found.get_mut(&followed.classes.find(*id)) {
                *own.entry((value, axis)).or_default() += figure;
            }
        }
    }
    found
}

/// Over all that makes, shifts or scales a unit.
fn summed(
    weights: &Weights,
    groups: &Groups,
    gradients: &BTreeMap<ValueId, Vec<f32>>,
    term: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let of_unit = |unit: &Unit| {
        let mut sum = 0.0;
        for slice in unit.slices.iter().filter(|slice| !matches!(slice.role, Role::Takes | Role::Keeps)) {
            let (Some((shape, own)), Some(gradient)) = (weights.get(&slice.value), gradients.get(&slice.value)) else {
                continue;
            };
            elements(shape, slice, |at| sum += term(own[at], f64::from(gradient.get(at).copied().unwrap_or(0.0))));
        }
        sum
    };
    groups.units.iter().map(of_unit).collect()
}
