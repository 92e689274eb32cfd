//! Quantization-aware training: the float model learns with the rounding that it will meet.
//!
//! Invariant: what is simulated is what is written: the same layers, levels and scales; what comes out is judged by the
//! engine all the same.
//!
//! Weights and activations are rounded on their way forward and gradients pass straight through (Jacob et al. 2018,
//! arXiv:1712.05877, section 3). Scales of weights are found anew in each step, or learnt beside the weights, as those of
//! activations then are too (LSQ: Esser et al. 2020, arXiv:1902.08153).

use super::place::{Layer, Placed};
use super::recipe::Training;
use super::scheme::{Affine, Levels, Range};
use super::weights::{Matrix, WeightScheme, scales, transposed};
use super::work::{Exceptions, Prepared};
use super::write::of_constant;
use crate::compress::train::fake::Fake;
use crate::compress::train::{Guide, Samples, State, Tap, Trained, apply, fit, values};
use crate::compress::{Error, Progress};
use crate::onnx::graph::{Graph, NodeId, Use, ValueId};
use candle_core::{Device, Result as Computed, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where scales come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scales {
    /// From the weights in each step; those of activations stay as calibrated.
    #[default]
    Recomputed,
    /// By their own gradients.
    Learned,
}

/// Steps after which a scale by least squares is searched anew: it moves slowly, and the search is long.
const SEARCH_EVERY: usize = 16;

/// How much slower a scale moves than a weight.
const SCALE_RATE: f32 = 0.1;

/// Weights of a layer.
#[derive(Debug)]
struct Rounded {
    node: NodeId,
    axis: usize,
    scheme: WeightScheme,
    levels: Levels,
    scales: Vec<f32>,
    zeros: Vec<f32>,
    learnt: Option<Var>,
    age: usize,
}

/// Activations of one scale.
#[derive(Debug)]
struct Class {
    affine: Affine,
    scale: Tensor,
    learnt: Option<Var>,
}

/// What stands between a float model's values while it is trained.
#[derive(Debug)]
pub struct Qat {
    weights: BTreeMap<ValueId, Rounded>,
    classes: BTreeMap<usize, Class>,
    /// Class of each value.
    values: BTreeMap<ValueId, usize>,
    /// Constants beside quantized activations, wherever all that reads them is quantized.
    constants: BTreeSet<ValueId>,
    /// What those are rounded to: levels, and whether they are symmetric.
    beside: (Levels, bool),
    /// Learnt scales as they were when the network was best.
    best: Option<BTreeMap<NodeId, Vec<f32>>>,
    best_classes: BTreeMap<usize, f32>,
}

impl Qat {
    /// Of what quantization would do to the model, but for the exceptions.
    ///
    /// # Errors
    /// When a layer's weights are no floats.
    pub fn new(prepared: &Prepared, exceptions: &Exceptions, how: Scales) -> Result<Self, Error> {
        let placed = prepared.placed_but(exceptions);
        let class = |(class, affine): (usize, Affine)| {
            let scale = Tensor::from_slice(&[affine.scale], 1, &Device::Cpu)?;
            let learnt = if how == Scales::Learned { Some(Var::from_tensor(&scale)?) } else { None };
            Ok((class, Class { affine, scale, learnt }))
        };
        let classes = prepared.activations(&placed).into_iter().map(class).collect::<Computed<_>>()?;
        let mut weights = BTreeMap::new();
        for layer in &placed.layers {
            let rounded = Rounded::new(prepared, layer, prepared.scheme(layer, exceptions), how)?;
            weights.insert(layer.weight, rounded);
        }
        let constants = constants(prepared.network.graph(), &placed);
        let scheme = &prepared.recipe.activations;
        let beside = (Levels::of_activations(scheme.bits, scheme.signed), scheme.symmetric);
        let values = placed.classes;
        Ok(Self { weights, classes, values, constants, beside, best: None, best_classes: BTreeMap::new() })
    }

    /// Puts what was learnt where quantization takes it from.
    ///
    /// # Errors
    /// What candle says.
    pub fn finish(self, prepared: &mut Prepared, trained: crate::compress::Network) -> Result<(), Error> {
        prepared.network = trained;
        // What was corrected for by looking at the old weights is learnt now.
        prepared.forget_rows();
        prepared.learnt = self.best.unwrap_or_default();
        for (value, class) in &self.values {
            let (Some(class), Some(&scale)) = (self.classes.get(class), self.best_classes.get(class)) else { continue };
            let full = Affine { scale, ..class.affine }.range();
            // The lowest level of a symmetric range has no counterpart, and would widen it.
            let symmetric = prepared.recipe.activations.symmetric;
            let range = if symmetric { Range { lo: -full.hi, ..full } } else { full };
            if let Some(observed) = prepared.observed.get_mut(value) {
                observed.range = range;
            }
        }
        Ok(())
    }
}

impl Rounded {
    fn new(prepared: &Prepared, layer: &Layer, scheme: WeightScheme, how: Scales) -> Result<Self, Error> {
        let unfit = || Error::unfit(format!("the weights of {:?} are no FLOAT tensor", layer.name));
        let weight = prepared.network.graph().constant(layer.weight).ok_or_else(unfit)?;
        let matrix = Matrix::of(weight, layer.axis).ok_or_else(unfit)?;
        let affine = scales(&matrix, &scheme, &[]);
        let levels = affine[0].levels;
        let (scales, zeros) = apart(&affine);
        let learnt = match how {
            Scales::Recomputed => None,
            Scales::Learned => Some(Var::from_tensor(&Tensor::from_slice(&scales, scales.len(), &Device::Cpu)?)?),
        };
        Ok(Self { node: layer.node, axis: layer.axis, scheme, levels, scales, zeros, learnt, age: 0 })
    }

    fn apply(&mut self, weight: &Tensor) -> Computed<Tensor> {
        if self.learnt.is_none() && (!self.scheme.least_squares || self.age.is_multiple_of(SEARCH_EVERY)) {
            (self.scales, self.zeros) = apart(&scales(&self.matrix(weight)?, &self.scheme, &[]));
        }
        self.age += 1;
        let (low, high) = (self.levels.min as f32, self.levels.max as f32);
        let fake = Fake { zeros: self.zeros.clone(), low, high, axis: self.axis };
        let scale = match &self.learnt {
            Some(scale) => scale.as_tensor().clone(),
            None => Tensor::from_slice(&self.scales, self.scales.len(), &Device::Cpu)?,
        };
        apply(fake, &[weight, &scale])
    }

    /// With a row for each output channel.
    fn matrix(&self, weight: &Tensor) -> Computed<Matrix> {
        let rows = weight.dims()[self.axis];
        let all = values(weight)?;
        let width = all.len() / rows.max(1);
        let all = if self.axis == 0 { all } else { transposed(&all, width) };
        Ok(Matrix { rows, width, values: all })
    }
}

/// Constants that stand beside quantized activations: those that a float node reads, too, pass as they are, as for it they do.
fn constants(graph: &Graph, placed: &Placed) -> BTreeSet<ValueId> {
    let uses = graph.uses();
    let rounded = |reader: &Use| {
        if let Use::Input(node, input) = *reader { placed.constants.contains(&(node, input)) } else { false }
    };
    let values = placed.constants.iter().filter_map(|&(node, input)| graph.node(node)?.input(input));
    values.filter(|&value| uses.of(value).iter().all(rounded)).collect()
}

fn apart(affine: &[Affine]) -> (Vec<f32>, Vec<f32>) {
    affine.iter().map(|affine| (affine.scale, affine.zero_point as f32)).unzip()
}

impl Tap for Qat {
    fn value(&mut self, value: ValueId, tensor: Tensor) -> Computed<Tensor> {
        if let Some(rounded) = self.weights.get_mut(&value) {
            return rounded.apply(&tensor);
        }
        if self.constants.contains(&value) {
            // As they will be written, whatever training has made of them by then.
            let affine = of_constant(&values(&tensor)?, self.beside.0, self.beside.1);
            let (low, high) = (affine.levels.min as f32, affine.levels.max as f32);
            let scale = Tensor::from_slice(&[affine.scale], 1, &Device::Cpu)?;
            return apply(Fake { zeros: vec![affine.zero_point as f32], low, high, axis: 0 }, &[&tensor, &scale]);
        }
        let Some(class) = self.values.get(&value).and_then(|class| self.classes.get(class)) else { return Ok(tensor) };
        let Levels { min, max, .. } = class.affine.levels;
        let (low, high, zeros) = (min as f32, max as f32, vec![class.affine.zero_point as f32]);
        let scale = class.learnt.as_ref().map_or(&class.scale, Var::as_tensor);
        apply(Fake { zeros, low, high, axis: 0 }, &[&tensor, scale])
    }
}

impl Guide for Qat {
    fn variables(&self) -> Vec<(Var, f32)> {
        let weights = self.weights.values().filter_map(|rounded| rounded.learnt.as_ref());
        let classes = self.classes.values().filter_map(|class| class.learnt.as_ref());
        weights.chain(classes).map(|scale| (scale.clone(), SCALE_RATE)).collect()
    }

    /// A scale stays one.
    fn project(&mut self, _: &crate::compress::train::Program) -> Result<(), Error> {
        for (scale, _) in self.variables() {
            let held: Vec<f32> = values(scale.as_tensor())?.into_iter().map(|scale| scale.max(1e-8)).collect();
            scale.set(&Tensor::from_vec(held, scale.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    fn save(&self, state: &mut State) {
        for rounded in self.weights.values() {
            state.number(rounded.age as u64);
            state.floats(rounded.scales.clone());
            state.floats(rounded.zeros.clone());
        }
        state.number(u64::from(self.best.is_some()));
        let best = self.best.iter().flat_map(BTreeMap::iter);
        state.number(best.clone().count() as u64);
        for (node, scales) in best {
            state.number(node.index() as u64);
            state.floats(scales.clone());
        }
        state.number(self.best_classes.len() as u64);
        for (class, scale) in &self.best_classes {
            state.number(*class as u64);
            state.floats(vec![*scale]);
        }
    }

    fn restore(&mut self, state: &mut State) -> Result<(), Error> {
        for rounded in self.weights.values_mut() {
            rounded.age = state.take_number()? as usize;
            rounded.scales = state.take_floats(rounded.scales.len())?;
            rounded.zeros = state.take_floats(rounded.zeros.len())?;
        }
        let nodes: BTreeMap<u64, NodeId> =
            self.weights.values().map(|own| (own.node.index() as u64, own.node)).collect();
        let kept = state.take_number()? == 1;
        let mut best = BTreeMap::new();
        for _ in 0..state.take_number()? {
            let (node, scales) = (state.take_number()?, state.take_run()?);
            best.extend(nodes.get(&node).map(|&node| (node, scales)));
        }
        self.best = kept.then_some(best);
        for _ in 0..state.take_number()? {
            let class = state.take_number()? as usize;
            self.best_classes.insert(class, state.take_floats(1)?[0]);
        }
        Ok(())
    }

    fn keep(&mut self) {
        let learnt = |rounded: &Rounded| Some((rounded.node, values(rounded.learnt.as_ref()?.as_tensor()).ok()?));
        self.best = Some(self.weights.values().filter_map(learnt).collect());
        let scale =
            |(id, class): (&usize, &Class)| Some((*id, *values(class.learnt.as_ref()?.as_tensor()).ok()?.first()?));
        self.best_classes = self.classes.iter().filter_map(scale).collect();
    }
}

/// Trains a prepared model, so that quantizing it loses less.
///
/// # Errors
/// As [`fit`].
pub fn qat(
    prepared: &mut Prepared,
    samples: Samples<'_>,
    training: &Training,
    progress: &mut dyn Progress,
) -> Result<Trained, Error> {
    let mut guide = Qat::new(prepared, &Exceptions::default(), training.scales)?;
    let trained = fit(&prepared.network, samples, &training.training, &mut guide, progress)?;
    // Where nothing was gained, what was learnt from data without training stays.
    if trained.after < trained.before {
        guide.finish(prepared, trained.network.clone())?;
    }
    prepared.recipe.qat = Some(training.clone());
    let epochs = trained.epochs.len();
    let note = format!("trained {epochs} epochs with the rounding: loss {:.4} to {:.4}", trained.before, trained.after);
    prepared.notes.push(note);
    Ok(trained)
}
