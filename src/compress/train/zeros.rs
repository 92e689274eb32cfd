//! Single weights that pruning put to zero, held there while the rest learns.
//!
//! Invariant: what is held is zero after every step, so that it is zero in every network that comes out.
//!
//! Training leaves no float at exactly zero, so zeros in the weights of a product were put there. Biases and norms start at
//! zero, and a tensor that is all zeros has not learnt yet: neither is held. Rounding makes zeros, too: of integers those are
//! held that are more than rounding to that many levels leaves.
//! Not here: choosing them (`prune`).

use super::program::{Program, computing};
use super::weights::{Weight, weights};
use crate::compress::{Error, Network};
use crate::onnx::graph::{Graph, ValueId};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What becomes of weights that are zero before training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Zeros {
    /// They stay zero where pruning put them there.
    #[default]
    Keep,
    /// They learn as all others.
    Train,
}

/// Share of a tensor of floats from which on its zeros were put there.
const OF_FLOATS: f64 = 0.05;
/// Of integers: about 1 % of weights that are spread like a bell round to 0 of 255 levels, 5 % of those with long ends.
const OF_LEVELS: f64 = 0.3;
/// With fewer levels on a side rounding alone makes that many zeros.
const LEVELS: i64 = 15;

/// Which weights are held: by weight, 0 for those and 1 for the rest.
#[derive(Debug, Clone, Default)]
pub struct Held(BTreeMap<ValueId, Vec<f32>>);

impl Held {
    /// Those of a network that pruning put to zero.
    pub fn of(network: &Network, how: Zeros) -> Self {
        let graph = network.graph();
        let all = weights(graph).into_iter().filter(|_| how == Zeros::Keep);
        Self(all.filter_map(|weight| Some((weight.value, sparse(graph, &weight)?))).collect())
    }

    /// How many, of the weights that this program trains.
    pub fn count(&self, program: &Program) -> usize {
        let trained = self.0.iter().filter(|(value, _)| program.variables().contains_key(value));
        trained.map(|(_, mask)| mask.iter().filter(|&&kept| kept == 0.0).count()).sum()
    }

    /// Puts them back to zero.
    ///
    /// # Errors
    /// What candle says.
    pub fn hold(&self, program: &Program) -> Result<(), Error> {
        for (value, mask) in &self.0 {
            let Some(variable) = program.variables().get(value) else { continue };
            let mask = Tensor::from_slice(mask, variable.dims(), &Device::Cpu).map_err(computing)?;
            let held = variable.as_tensor().mul(&mask).map_err(computing)?;
            variable.set(&held.detach()).map_err(computing)?;
        }
        Ok(())
    }
}

/// Its mask, where its zeros were put there.
fn sparse(graph: &Graph, weight: &Weight) -> Option<Vec<f32>> {
    let node = graph.node(weight.node)?;
    let is_product = match node.op.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" => node.input(1) == Some(weight.value),
        "MatMul" => true,
        _ => false,
    };
    let reals = match weight.dequantized {
        Some(id) => levels(graph, graph.node(id)?)?,
        None => graph.constant(weight.value)?.to_f64s()?,
    };
    let zeros = reals.iter().filter(|&&real| real == 0.0).count();
    let usual = if weight.dequantized.is_some() { OF_LEVELS } else { OF_FLOATS };
    let put = is_product && zeros < reals.len() && zeros as f64 >= usual * reals.len() as f64;
    put.then(|| reals.into_iter().map(|real| if real == 0.0 { 0.0 } else { 1.0 }).collect())
}

/// Integers less their zero point, where they are of many levels.
fn levels(graph: &Graph, node: &crate::onnx::graph::Node) -> Option<Vec<f64>> {
    let constant = graph.constant(node.input(0)?)?;
    let zeros = match node.input(2) {
        Some(zero) => graph.constant(zero)?.to_i64s()?,
        None => vec![0],
    };
    let rank = constant.shape().len() as i64;
    let axis = node.int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let run = if zeros.len() == 1 { constant.len().max(1) } else { constant.shape().get(axis + 1..)?.iter().product() };
    let level = |(at, level): (usize, i64)| level - zeros[at / run.max(1) % zeros.len()];
    let levels: Vec<i64> = constant.to_i64s()?.into_iter().enumerate().map(level).collect();
    let wide = levels.iter().any(|level| level.abs() > LEVELS);
    wide.then(|| levels.into_iter().map(|level| level as f64).collect())
}
