//! Which constants are weights, and weights that the file holds as integers.
//!
//! Invariant: integers that were trained stay on their levels, with their scales.

use super::ops::fake::Fake;
use super::program::computing;
use crate::compress::Error;
use crate::onnx::graph::{Graph, Node, NodeId, ValueId};
use crate::onnx::{ElementType, Tensor as Constant};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// Weights that the file holds as integers, trained as the reals that they stand for.
#[derive(Debug)]
pub(super) struct Latent {
    /// The integers.
    pub constant: ValueId,
    element: ElementType,
    pub scale: Tensor,
    pub fake: Fake,
}

/// A constant that training may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// The value that nodes read.
    pub value: ValueId,
    /// The constant's.
    pub name: String,
    /// The first node that reads it.
    pub node: NodeId,
    /// Where the file holds integers: the DequantizeLinear that makes them reals.
    pub dequantized: Option<NodeId>,
}

/// Constants that weights are: of products, norms and additions, embeddings; not what an input is prepared with.
pub fn weights(graph: &Graph) -> Vec<Weight> {
    let mut found: BTreeMap<ValueId, Weight> = BTreeMap::new();
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        for &input in places(graph, node) {
            let Some(value) = node.input(input).filter(|value| !found.contains_key(value)) else { continue };
            let quantized = graph.producer(value).filter(|(_, of)| of.is("DequantizeLinear"));
            let (constant, dequantized) = match quantized {
                Some((at, of)) => (of.input(0), Some(at)),
                None => (Some(value), None),
            };
            let Some(constant) = constant else { continue };
            let Some(tensor) = graph.constant(constant) else { continue };
            let is_weight = match dequantized {
                Some(_) => tensor.element().is_integer(),
                // Masks of minus infinity are none.
                None => tensor.to_f64s().is_some_and(|values| values.iter().all(|value| value.is_finite())),
            };
            // A single number is a setting.
            if is_weight && tensor.len() > 1 {
                let name = graph.value(constant).name.clone();
                found.insert(value, Weight { value, name, node: id, dequantized });
            }
        }
    }
    found.into_values().collect()
}

/// Inputs of a node that weights may stand at.
fn places(graph: &Graph, node: &Node) -> &'static [usize] {
    let from_outside = || {
        let is_input = |value: &ValueId| graph.inputs.iter().any(|port| port.value == *value);
        node.inputs.iter().flatten().any(is_input)
    };
    match node.op.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" | "BatchNormalization" | "LayerNormalization" | "InstanceNormalization" => {
            &[1, 2]
        }
        "PRelu" => &[1],
        "MatMul" => &[0, 1],
        "Gather" => &[0],
        "Add" | "Mul" if !from_outside() => &[0, 1],
        _ => &[],
    }
}

/// Integers that a DequantizeLinear reads, as reals to train.
pub(super) fn latent(
    graph: &Graph,
    node: &Node,
    constants: &BTreeMap<ValueId, Tensor>,
) -> candle_core::Result<(Latent, Tensor)> {
    let missing = || candle_core::Error::Msg("levels and scales as constants are expected".into());
    let constant = node.input(0).ok_or_else(missing)?;
    let levels = graph.constant(constant).ok_or_else(missing)?;
    let scale = node.input(1).and_then(|scale| constants.get(&scale)).ok_or_else(missing)?.flatten_all()?;
    let zeros = match node.input(2).and_then(|zero| graph.constant(zero)?.to_i64s()) {
        Some(zeros) => zeros.into_iter().map(|zero| zero as f32).collect(),
        None => vec![0.0; scale.elem_count()],
    };
    let rank = levels.shape().len() as i64;
    let axis = node.int("axis").unwrap_or(1);
    let axis = if axis < 0 { axis + rank } else { axis };
    if node.int("block_size").unwrap_or(0) != 0 || zeros.len() != scale.elem_count() {
        candle_core::bail!("scales by blocks");
    }
    if zeros.len() > 1 && levels.shape().get(axis as usize) != Some(&zeros.len()) {
        candle_core::bail!("scales do not fit the weights");
    }
    // A signed range without its least, which has no counterpart, unless the file holds it. What a FLOAT holds of an INT32's.
    const MOST: i128 = 2_147_483_520;
    let (low, high) = match levels.element().range() {
        Some((0, high)) if high <= MOST => (0.0, high as f32),
        Some((low, high)) if high <= i128::from(i32::MAX) => {
            let holds_least = levels.to_i64s().is_some_and(|all| all.iter().any(|&level| i128::from(level) == low));
            let least = if holds_least && low >= -MOST { low } else { -high.min(MOST) };
            (least as f32, high.min(MOST) as f32)
        }
        _ => candle_core::bail!("weights of type {:?}", levels.element()),
    };
    let fake = Fake { zeros, low, high, axis: axis.max(0) as usize };
    let whole = constants.get(&constant).ok_or_else(missing)?;
    let mut shape = vec![1; levels.shape().len()];
    if fake.zeros.len() > 1 {
        shape[fake.axis] = fake.zeros.len();
    }
    let zero = Tensor::from_slice(&fake.zeros, shape.clone(), &Device::Cpu)?;
    let real = whole.to_dtype(candle_core::DType::F32)?.broadcast_sub(&zero)?.broadcast_mul(&scale.reshape(shape)?)?;
    Ok((Latent { constant, element: levels.element(), scale, fake }, real))
}

impl Latent {
    pub fn integers(&self, values: &[f32], shape: &[usize]) -> Result<Constant, Error> {
        let scales = super::ops::values(&self.scale).map_err(computing)?;
        let run = if scales.len() == 1 { values.len().max(1) } else { shape[self.fake.axis + 1..].iter().product() };
        let level = |(at, value): (usize, &f32)| {
            let index = at / run % scales.len();
            let zero = f64::from(self.fake.zeros[index]);
            let level = (f64::from(*value) / f64::from(scales[index])).round_ties_even() + zero;
            level.clamp(f64::from(self.fake.low), f64::from(self.fake.high)) as i64
        };
        let levels: Vec<i64> = values.iter().enumerate().map(level).collect();
        Constant::from_i64s(self.element, shape.to_vec(), &levels)
            .ok_or_else(|| Error::unfit("trained weights do not fit their levels: this is a fault of Selvedge's"))
    }
}
