//! A network made ready to be trained: its weights as variables, its nodes in order.
//!
//! Invariant: what is written back is what was trained: weights, the moments of norms, and levels of weights that are
//! integers.
//! Not here: losses, steps.

use super::fit::set;
use super::interpret::{self, Call, tensor_of};
use super::ops::apply;
use super::ops::norm::Moments;
use super::state::State;
use super::weights::{Latent, Weight, latent, weights};
use crate::compress::data::Sample;
use crate::compress::{Error, Network};
use crate::onnx::graph::{Graph, Node, NodeId, ValueId, describe};
use crate::onnx::{ElementType, Tensor as Constant};
use crate::tensor::Tensor as Given;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

/// Looks at, or replaces, what a value holds.
pub trait Tap {
    /// Called for inputs, parameters and what nodes give, once a run each.
    ///
    /// # Errors
    /// What candle says.
    fn value(&mut self, _: ValueId, tensor: Tensor) -> candle_core::Result<Tensor> {
        Ok(tensor)
    }
}

/// Lets everything pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTap;

impl Tap for NoTap {}

/// Whether norms take the moments of the batch or their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Training,
    Inference,
}

/// What a run gives.
#[derive(Debug, Default)]
pub struct Run {
    /// What was asked for, outputs first.
    pub values: BTreeMap<ValueId, Tensor>,
    /// Of norms that ran with the batch's own.
    pub moments: BTreeMap<NodeId, Moments>,
}

impl Run {
    /// # Errors
    /// When it was not asked for.
    pub fn value(&self, value: ValueId) -> candle_core::Result<&Tensor> {
        match self.values.get(&value) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("a value that was not asked for"),
        }
    }
}

/// A network's nodes and variables.
#[derive(Debug)]
pub struct Program {
    network: Network,
    order: Vec<NodeId>,
    constants: BTreeMap<ValueId, Tensor>,
    variables: BTreeMap<ValueId, Var>,
    /// By the value that their DequantizeLinear gives.
    latents: BTreeMap<ValueId, Latent>,
    /// Mean and variance of norms, as they move.
    norms: BTreeMap<NodeId, [Vec<f32>; 2]>,
    /// Readers of each value.
    uses: Vec<usize>,
    batches: bool,
}

impl Program {
    /// Takes a network apart. Constants for which `trained` says so become variables, out of those that weights are.
    ///
    /// # Errors
    /// When there is an operator whose gradient is not known, named.
    pub fn new(network: &Network, trained: &dyn Fn(&Weight) -> bool) -> Result<Self, Error> {
        let graph = network.graph();
        let order = graph.order()?;
        let mut program = Self {
            network: network.clone(),
            order,
            constants: BTreeMap::new(),
            variables: BTreeMap::new(),
            latents: BTreeMap::new(),
            norms: BTreeMap::new(),
            uses: vec![0; graph.value_count()],
            batches: true,
        };
        program.read_constants()?;
        for weight in weights(graph).iter().filter(|weight| trained(weight)) {
            program.add_variable(weight)?;
        }
        program.batches = program.can_batch()?;
        Ok(program)
    }

    fn read_constants(&mut self) -> Result<(), Error> {
        let graph = self.network.model.graph.clone();
        for (id, node) in graph.nodes() {
            for value in node.reads() {
                self.uses[value.index()] += 1;
                if let Some(constant) = graph.constant(value).filter(|_| !self.constants.contains_key(&value)) {
                    let tensor = tensor_of(constant).map_err(|error| at_node(node, &error))?;
                    self.constants.insert(value, tensor);
                }
            }
            if node.is("BatchNormalization") {
                let moments = |input| graph.constant(node.input(input)?)?.to_f32s();
                if let (Some(mean), Some(variance)) = (moments(3), moments(4)) {
                    self.norms.insert(id, [mean, variance]);
                }
            }
        }
        graph.outputs.iter().for_each(|port| self.uses[port.value.index()] += 1);
        Ok(())
    }

    fn add_variable(&mut self, weight: &Weight) -> Result<(), Error> {
        let graph = self.network.graph();
        let fault = |error: candle_core::Error| Error::unfit(format!("weights {:?}: {error}", weight.name));
        let Some(node) = weight.dequantized else {
            let variable = Var::from_tensor(&self.constants[&weight.value]).map_err(fault)?;
            self.variables.insert(weight.value, variable);
            return Ok(());
        };
        let node = graph.node(node).ok_or_else(|| Error::unfit("a node is gone"))?;
        let (latent, real) = latent(graph, node, &self.constants).map_err(|error| at_node(node, &error))?;
        self.variables.insert(weight.value, Var::from_tensor(&real).map_err(fault)?);
        self.latents.insert(weight.value, latent);
        Ok(())
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Weights that are trained.
    pub fn variables(&self) -> &BTreeMap<ValueId, Var> {
        &self.variables
    }

    /// Whether several samples run at once; otherwise one by one, with the same result.
    pub fn batches(&self) -> bool {
        self.batches
    }

    /// Runs samples; outputs and `wanted` values have the samples outermost.
    ///
    /// # Errors
    /// When a node's inputs do not fit it.
    pub fn run(&self, inputs: &[Vec<Tensor>], mode: Mode, wanted: &[ValueId], tap: &mut dyn Tap) -> Result<Run, Error> {
        if self.batches || inputs.len() == 1 {
            return self.run_at_once(inputs, mode, wanted, tap);
        }
        // Moments of one sample are none of a batch.
        let runs =
            inputs.iter().map(|sample| self.run_at_once(std::slice::from_ref(sample), Mode::Inference, wanted, tap));
        let runs: Vec<Run> = runs.collect::<Result<_, _>>()?;
        let mut joined = Run::default();
        for value in runs.first().map(|run| run.values.keys().copied().collect::<Vec<_>>()).unwrap_or_default() {
            let parts: Vec<&Tensor> = runs.iter().filter_map(|run| run.values.get(&value)).collect();
            joined.values.insert(value, Tensor::cat(&parts, 0).map_err(computing)?);
        }
        Ok(joined)
    }

    fn run_at_once(
        &self,
        inputs: &[Vec<Tensor>],
        mode: Mode,
        wanted: &[ValueId],
        tap: &mut dyn Tap,
    ) -> Result<Run, Error> {
        let graph = self.network.graph();
        let mut values: Vec<Option<Tensor>> = vec![None; graph.value_count()];
        let mut left = self.uses.clone();
        wanted.iter().for_each(|value| left[value.index()] += 1);
        for (at, port) in graph.inputs.iter().enumerate() {
            let parts: Vec<&Tensor> = inputs.iter().filter_map(|sample| sample.get(at)).collect();
            let tensor = Tensor::cat(&parts, 0).map_err(computing)?;
            values[port.value.index()] = Some(tap.value(port.value, tensor).map_err(computing)?);
        }
        let mut run = Run::default();
        for &id in &self.order {
            let Some(node) = graph.node(id) else { continue };
            let outputs = match node.output(0).and_then(|value| Some((value, self.latents.get(&value)?))) {
                Some((value, latent)) => {
                    vec![self.levelled(value, latent, tap).map_err(|error| at_node(node, &error))?]
                }
                None => self.node(id, node, &mut values, inputs.len(), mode, tap, &mut run)?,
            };
            for (value, tensor) in node.outputs.iter().zip(outputs) {
                if let Some(value) = value {
                    let tensor = tap.value(*value, tensor).map_err(|error| at_node(node, &error))?;
                    values[value.index()] = Some(tensor);
                }
            }
            for value in node.inputs.iter().flatten() {
                let left = &mut left[value.index()];
                *left -= 1;
                if *left == 0 {
                    values[value.index()] = None;
                }
            }
        }
        for value in graph.outputs.iter().map(|port| port.value).chain(wanted.iter().copied()) {
            let tensor = values[value.index()].clone().or_else(|| self.constants.get(&value).cloned());
            run.values.extend(tensor.map(|tensor| (value, tensor)));
        }
        Ok(run)
    }

    fn levelled(&self, value: ValueId, latent: &Latent, tap: &mut dyn Tap) -> candle_core::Result<Tensor> {
        let real = tap.value(latent.constant, self.variables[&value].as_tensor().clone())?;
        apply(latent.fake.clone(), &[&real, &latent.scale])
    }

    #[allow(clippy::too_many_arguments)] // One step of `run_at_once`, with all that it has in hand.
    fn node(
        &self,
        id: NodeId,
        node: &Node,
        values: &mut [Option<Tensor>],
        batch: usize,
        mode: Mode,
        tap: &mut dyn Tap,
        run: &mut Run,
    ) -> Result<Vec<Tensor>, Error> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for value in &node.inputs {
            let Some(value) = value else {
                inputs.push(None);
                continue;
            };
            if values[value.index()].is_none() {
                let variable = self.variables.get(value).map(|variable| variable.as_tensor().clone());
                let constant = variable.or_else(|| self.constants.get(value).cloned());
                let tapped = constant.map(|tensor| tap.value(*value, tensor)).transpose();
                values[value.index()] = tapped.map_err(|error| at_node(node, &error))?;
            }
            inputs.push(values[value.index()].clone());
        }
        let mut training = mode == Mode::Training;
        if let Some([mean, variance]) = self.norms.get(&id) {
            let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
            inputs[3] = Some(vector(mean).map_err(computing)?);
            inputs[4] = Some(vector(variance).map_err(computing)?);
        } else {
            training = false;
        }
        let quantized = quantized_type(self.network.graph(), node);
        let mut call = Call { node, inputs, training, batch, quantized, moments: None };
        let outputs = interpret::run(&mut call).map_err(|error| at_node(node, &error))?;
        run.moments.extend(call.moments.map(|moments| (id, moments)));
        outputs.ok_or_else(|| unknown(node))
    }

    /// Moves the moments of norms towards those of a batch; 0.1 is usual.
    pub fn move_norms(&mut self, moments: &BTreeMap<NodeId, Moments>, share: f32) {
        for (id, moments) in moments {
            if let Some([mean, variance]) = self.norms.get_mut(id) {
                // The running variance is that of the data, not of the batch.
                let unbiased = moments.count as f32 / moments.count.saturating_sub(1).max(1) as f32;
                mean.iter_mut().zip(&moments.mean).for_each(|(own, new)| *own += share * (new - *own));
                let new = moments.variance.iter().map(|variance| variance * unbiased);
                variance.iter_mut().zip(new).for_each(|(own, new)| *own += share * (new - *own));
            }
        }
    }

    /// What was trained, as it stands.
    ///
    /// # Errors
    /// What candle says.
    pub fn state(&self) -> Result<State, Error> {
        let mut state = State::default();
        for variable in self.variables.values() {
            state.floats(super::ops::values(variable).map_err(computing)?);
        }
        self.norms.values().flatten().for_each(|moments| state.floats(moments.clone()));
        Ok(state)
    }

    /// Out of a larger state its own.
    ///
    /// # Errors
    /// When that is of another program.
    pub fn take_state(&self, state: &mut State) -> Result<State, Error> {
        let mut own = State::default();
        let variables = self.variables.values().map(|variable| variable.elem_count());
        for count in variables.chain(self.norms.values().flatten().map(Vec::len)) {
            own.floats(state.take_floats(count)?);
        }
        Ok(own)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When it is of another program.
    pub fn restore(&mut self, state: &mut State) -> Result<(), Error> {
        for variable in self.variables.values() {
            set(variable, state.take_floats(variable.elem_count())?)?;
        }
        for moments in self.norms.values_mut().flatten() {
            *moments = state.take_floats(moments.len())?;
        }
        Ok(())
    }

    /// The network with what was trained.
    ///
    /// # Errors
    /// What candle says.
    pub fn finish(&self) -> Result<Network, Error> {
        let mut network = self.network.clone();
        let graph = &mut network.model.graph;
        for (value, variable) in &self.variables {
            let values = super::ops::values(variable).map_err(computing)?;
            let (value, constant) = match self.latents.get(value) {
                Some(latent) => (latent.constant, latent.integers(&values, variable.dims())?),
                None => (*value, floats(graph, *value, variable.dims(), &values)?),
            };
            graph.set_constant(value, constant);
        }
        for (id, moments) in &self.norms {
            for (input, values) in [3, 4].into_iter().zip(moments) {
                if let Some(value) = graph.node(*id).and_then(|node| node.input(input)) {
                    let constant = floats(graph, value, &[values.len()], values)?;
                    graph.set_constant(value, constant);
                }
            }
        }
        Ok(network)
    }

    /// Whether two samples at once give what they give one by one.
    fn can_batch(&self) -> Result<bool, Error> {
        let sample = |number: usize| {
            let specs = self.network.inputs.iter().enumerate();
            specs.map(|(at, spec)| probe_input(spec, number + 2 * at)).collect::<Result<Vec<_>, _>>()
        };
        let samples = [sample(0)?, sample(1)?];
        let alone: Vec<Run> = samples
            .iter()
            .map(|sample| self.run_at_once(std::slice::from_ref(sample), Mode::Inference, &[], &mut NoTap))
            .collect::<Result<_, _>>()?;
        if self.network.inputs.iter().any(|spec| spec.shape.first() != Some(&1)) {
            return Ok(false);
        }
        let Ok(both) = self.run_at_once(&samples, Mode::Inference, &[], &mut NoTap) else { return Ok(false) };
        let same = |(value, together): (&ValueId, &Tensor)| {
            let parts: Vec<&Tensor> = alone.iter().filter_map(|run| run.values.get(value)).collect();
            let apart = Tensor::cat(&parts, 0)?;
            if apart.dims() != together.dims() {
                return Ok(false);
            }
            let (apart, together) = (
                super::ops::values(&apart.to_dtype(candle_core::DType::F32)?)?,
                super::ops::values(&together.to_dtype(candle_core::DType::F32)?)?,
            );
            let size = apart.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
            // NaN is not: noise may be outside of what the model takes, and then nobody knows.
            Ok(apart.iter().zip(&together).all(|(a, b)| (a - b).abs() <= 1e-3 * size))
        };
        let same: candle_core::Result<Vec<bool>> = both.values.iter().map(same).collect();
        Ok(same.is_ok_and(|same| same.into_iter().all(|same| same)))
    }
}

/// Noise for an input, or zeros where it takes integers.
fn probe_input(spec: &crate::tensor::TensorSpec, seed: usize) -> Result<Tensor, Error> {
    let count = spec.shape.iter().product::<usize>();
    let noise = |at: usize| ((at + 1) as f32 * 0.618_034 + seed as f32 * 0.37).fract() - 0.5;
    let made = match spec.datatype.is_float() {
        true => Tensor::from_vec((0..count).map(noise).collect(), spec.shape.clone(), &Device::Cpu),
        false => {
            // Two samples that differ: what mixes them would not show otherwise. 0 and 1 are in every vocabulary.
            let value = |at: usize| i64::from((at + seed).is_multiple_of(seed + 2));
            Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), spec.shape.clone(), &Device::Cpu)
        }
    };
    made.map_err(computing)
}

/// A sample's inputs.
///
/// # Errors
/// When a tensor's values are no numbers.
pub fn inputs_of(sample: &Sample) -> Result<Vec<Tensor>, Error> {
    let one = |given: &Given| {
        let shape = given.shape().to_vec();
        let made = match given.datatype().is_float() {
            true => Tensor::from_vec(given.to_f64().into_iter().map(|v| v as f32).collect(), shape, &Device::Cpu),
            false => Tensor::from_vec(given.to_f64().into_iter().map(|v| v as i64).collect(), shape, &Device::Cpu),
        };
        made.map_err(computing)
    };
    sample.inputs.iter().map(one).collect()
}

/// Of the type that the constant had.
fn floats(graph: &Graph, value: ValueId, shape: &[usize], values: &[f32]) -> Result<Constant, Error> {
    let element = graph.constant(value).map_or(ElementType::F32, Constant::element);
    let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    Constant::from_f64s(element, shape.to_vec(), &values)
        .ok_or_else(|| Error::unfit("trained weights have another shape: this is a fault of Selvedge's"))
}

fn quantized_type(graph: &Graph, node: &Node) -> Option<ElementType> {
    if !node.is("QuantizeLinear") {
        return None;
    }
    match node.input(2) {
        Some(zero) => graph.constant(zero).map(Constant::element),
        None => node.int("output_dtype").and_then(|number| ElementType::from_onnx(i32::try_from(number).ok()?)),
    }
}

fn unknown(node: &Node) -> Error {
    Error::unfit(format!(
        "{}: training knows no gradient of this operator; quantize, eval and compare do without",
        describe(node)
    ))
}

pub(super) fn at_node(node: &Node, error: &candle_core::Error) -> Error {
    Error::unfit(format!("{}: {error}", describe(node)))
}

pub(super) fn computing(error: candle_core::Error) -> Error {
    Error::Compute(error)
}
