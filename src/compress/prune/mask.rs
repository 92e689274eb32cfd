//! Single weights at zero, and kept there while the rest is trained.
//!
//! Invariant: what is zero stays zero in later steps; biases and normalisations are left alone.

use super::follow::Followed;
use super::importance::{Evidence, Measure, random};
use super::{Recipe, Scope};
use crate::compress::data::mix;
use crate::compress::train::{Guide, Program, Tap};
use crate::compress::{Error, Network};
use crate::onnx::Tensor;
use crate::onnx::graph::ValueId;
use candle_core::{Device, Tensor as Values};
use std::collections::BTreeMap;

/// By weights: whether each is kept.
#[derive(Debug, Clone, Default)]
pub struct Masks(pub BTreeMap<ValueId, Vec<bool>>);

/// Weights of products that may be masked.
pub fn candidates(network: &Network, followed: &Followed, ignored: impl Fn(&str) -> bool) -> Vec<ValueId> {
    let graph = network.graph();
    let named = |node| graph.node(node).is_some_and(|node| ignored(&node.name));
    let is_matrix = |value| graph.constant(value).is_some_and(|tensor| tensor.shape().len() >= 2);
    let makers = followed.makers.iter().filter(|(node, value, _)| !named(*node) && is_matrix(*value));
    let mut values: Vec<ValueId> = makers.map(|&(_, value, _)| value).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// A weight among others: its tensor, its place there, and what it matters.
type Ranked = (ValueId, usize, f64);

/// Zeroes `share` of the weights, those that matter least; returns what is kept. What is zero already counts among them.
/// Of weights that matter alike some go, by the seed, so that the share is what was asked for; each tensor keeps the one
/// that matters most.
///
/// # Errors
/// When the measure lacks gradients, or a weight is no FLOAT.
pub fn masked(
    network: &Network,
    values: &[ValueId],
    recipe: &Recipe,
    evidence: Evidence<'_>,
    share: f64,
) -> Result<(Network, Masks), Error> {
    let mut ranked = Vec::new();
    for &value in values {
        let own = figures(network, value, recipe, evidence)?;
        ranked.push(own.into_iter().enumerate().map(|(at, figure)| (value, at, figure)).collect::<Vec<Ranked>>());
    }
    let mut masks = Masks(ranked.iter().zip(values).map(|(own, &value)| (value, vec![true; own.len()])).collect());
    if recipe.scope == Scope::Global {
        ranked = vec![ranked.concat()];
    }
    for part in ranked {
        least(part, share, recipe.seed, &mut masks);
    }
    let mut network = network.clone();
    for (&value, mask) in &mut masks.0 {
        let graph = &mut network.model.graph;
        let Some(tensor) = graph.constant(value).cloned() else { continue };
        let weights = tensor.to_f64s().unwrap_or_default();
        // Zeros stay, even those that were not asked for.
        mask.iter_mut().zip(&weights).for_each(|(kept, &weight)| *kept &= weight != 0.0);
        let kept: Vec<f64> =
            weights.iter().zip(&*mask).map(|(&weight, &kept)| if kept { weight } else { 0.0 }).collect();
        if let Some(new) = Tensor::from_f64s(tensor.element(), tensor.shape().to_vec(), &kept) {
            graph.set_constant(value, new);
        }
    }
    Ok((network, masks))
}

/// Lets `share` of these weights go.
fn least(mut part: Vec<Ranked>, share: f64, seed: u64, masks: &mut Masks) {
    let mut going = (part.len() as f64 * share).round() as usize;
    let tie = |&(value, at, _): &Ranked| mix(seed ^ mix(value.index() as u64) ^ mix(at as u64));
    part.sort_by(|a, b| {
        a.2.total_cmp(&b.2).then_with(|| tie(a).cmp(&tie(b))).then_with(|| (a.0, a.1).cmp(&(b.0, b.1)))
    });
    // The last of each tensor stays: with it nothing would come through any more.
    let last: BTreeMap<ValueId, usize> = part.iter().map(|&(value, at, _)| (value, at)).collect();
    for (value, at, _) in part {
        let Some(mask) = masks.0.get_mut(&value).filter(|_| going > 0 && last[&value] != at) else { continue };
        mask[at] = false;
        going -= 1;
    }
}

fn figures(network: &Network, value: ValueId, recipe: &Recipe, evidence: Evidence<'_>) -> Result<Vec<f64>, Error> {
    let name = || network.graph().value(value).name.clone();
    let weights = network.graph().constant(value).and_then(Tensor::to_f64s);
    let weights = weights.ok_or_else(|| Error::unfit(format!("weights {:?} are no floats", name())))?;
    let with = |gradients: Option<&BTreeMap<ValueId, Vec<f32>>>, term: fn(f64, f64) -> f64| {
        let gradients = gradients.and_then(|gradients| gradients.get(&value));
        let gradients = gradients.ok_or_else(|| Error::unfit(format!("weights {:?} have no gradient", name())))?;
        // What is zero already goes first: before what only has no gradient.
        let figure = |(&weight, &gradient): (&f64, &f32)| match weight == 0.0 {
            true => -1.0,
            false => term(weight, f64::from(gradient)),
        };
        Ok(weights.iter().zip(gradients).map(figure).collect())
    };
    match recipe.measure {
        Measure::Taylor => with(evidence.gradients, |weight, gradient| (weight * gradient).abs()),
        Measure::Fisher => with(evidence.squares, |weight, square| 0.5 * weight * weight * square),
        Measure::Random => {
            let figure = |(at, &weight): (usize, &f64)| {
                if weight == 0.0 { -1.0 } else { random(recipe.seed ^ value.index() as u64, at) }
            };
            Ok(weights.iter().enumerate().map(figure).collect())
        }
        Measure::BnScale | Measure::ActivationMean | Measure::ActivationVariance | Measure::ActivationZeros => {
            Err(Error::unfit("this measure is of channels, not of single weights"))
        }
        Measure::L1 | Measure::L2 => Ok(weights.iter().map(|weight| weight.abs()).collect()),
    }
}

impl Tap for &Masks {}

/// What is masked is zero again after each step.
impl Guide for &Masks {
    fn project(&mut self, program: &Program) -> Result<(), Error> {
        let failed = |error: candle_core::Error| Error::unfit(format!("mask weights: {error}"));
        for (value, variable) in program.variables() {
            let Some(mask) = self.0.get(value) else { continue };
            let mask: Vec<f32> = mask.iter().map(|&kept| f32::from(u8::from(kept))).collect();
            let mask = Values::from_vec(mask, variable.dims(), &Device::Cpu).map_err(failed)?;
            variable.as_tensor().mul(&mask).and_then(|masked| variable.set(&masked.detach())).map_err(failed)?;
        }
        Ok(())
    }
}
