//! Before quantizing: factors out of Gemm, ranges of channels brought in line, outliers of activations moved into weights.
//!
//! Invariant: the float model gives the same answers, but for rounding, and where a Clip was replaced (which is told).
//!
//! - Cross-layer equalization: Nagel et al., 2019 (<https://arxiv.org/abs/1906.04721>), section 4.1.
//! - SmoothQuant: Xiao et al., 2022 (<https://arxiv.org/abs/2211.10438>).

use super::weights::Matrix;
use crate::onnx::graph::{Graph, Node, NodeId, Use, Uses, ValueId};
use crate::onnx::shapes::Facts;
use crate::onnx::{ElementType, Tensor};
use std::collections::BTreeMap;

/// Gemm with alpha and beta of 1: what they were is in its constants.
pub fn plain_gemm(graph: &mut Graph) {
    let gemms: Vec<NodeId> = graph.nodes().filter(|(_, node)| node.is("Gemm")).map(|(id, _)| id).collect();
    for id in gemms {
        let Some(node) = graph.node(id) else { continue };
        let factors = [(1, node.float("alpha").unwrap_or(1.0)), (2, node.float("beta").unwrap_or(1.0))];
        let scaled = |(input, factor): (usize, f32)| {
            let value = node.input(input)?;
            let tensor = graph.constant(value)?;
            let values: Vec<f32> = tensor.to_f32s()?.iter().map(|value| value * factor).collect();
            Some((input, floats(tensor.shape(), &values), graph.value(value).name.clone()))
        };
        let wanted = factors.into_iter().filter(|(input, factor)| *factor != 1.0 && node.input(*input).is_some());
        let Some(made) = wanted.map(scaled).collect::<Option<Vec<_>>>() else { continue };
        for (input, tensor, name) in made {
            let value = graph.add_constant(&name, tensor);
            if let Some(node) = graph.node_mut(id) {
                node.inputs[input] = Some(value);
            }
        }
        if let Some(node) = graph.node_mut(id) {
            node.attributes.remove("alpha");
            node.attributes.remove("beta");
        }
    }
}

/// A product of matrices with a bias added behind it as the one operator that has a place for it.
pub fn gemm_of_products(graph: &mut Graph, facts: &Facts) {
    let uses = graph.uses();
    let products: Vec<NodeId> = graph.nodes().filter(|(_, node)| node.is("MatMul")).map(|(id, _)| id).collect();
    for id in products {
        let Some((sum, bias)) = bias_behind(graph, facts, &uses, id) else { continue };
        let Some(added) = graph.remove_node(sum) else { continue };
        let shape = graph.constant(bias).map_or(0, Tensor::len);
        // In its own shape: behind other dimensions of 1 it may be for other readers.
        let Some(flat) = graph.constant(bias).and_then(|tensor| tensor.reshaped(vec![shape])) else { continue };
        let name = graph.value(bias).name.clone();
        let bias = graph.add_constant(&name, flat);
        if let Some(mut node) = graph.remove_node(id) {
            node.op = "Gemm".into();
            node.inputs.push(Some(bias));
            node.outputs = added.outputs;
            graph.add_node(node);
        }
    }
}

/// The addition that alone reads a product of two dimensions, and the constant in it with a value for each column.
fn bias_behind(graph: &Graph, facts: &Facts, uses: &Uses, id: NodeId) -> Option<(NodeId, ValueId)> {
    let product = graph.node(id)?;
    let columns = *graph.constant(product.input(1)?).filter(|weight| weight.shape().len() == 2)?.shape().get(1)?;
    let (sum, at) = uses.only(product.output(0)?)?;
    let node = graph.node(sum).filter(|node| node.is("Add"))?;
    let bias = node.input(1 - at.min(1))?;
    let tensor = graph.constant(bias)?;
    let is_row = tensor.len() == columns && tensor.shape().last() == Some(&columns) && tensor.shape().len() <= 2;
    (is_row && facts.dims(product.input(0)?)?.len() == 2).then_some((sum, bias))
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    let values: Vec<f64> = values.iter().map(|&value| value.into()).collect();
    Tensor::from_f64s(ElementType::F32, shape.to_vec(), &values).expect("as many as there were")
}

/// A convolution and the one that alone reads it.
#[derive(Debug, Clone, Copy)]
struct Pair {
    first: NodeId,
    second: NodeId,
    /// The Clip between them, which has to become a ReLU: 6 is another number in another scale.
    clip: Option<NodeId>,
}

/// Brings the channels of neighbouring convolutions in line, on wish also of those with a Clip between them. Returns how
/// many pairs, and names of Clips that are ReLUs now.
pub fn equalize(graph: &mut Graph, clips: bool) -> (usize, Vec<String>) {
    let mut pairs = pairs(graph);
    pairs.retain(|pair| clips || pair.clip.is_none());
    let mut replaced = Vec::new();
    for id in pairs.iter().filter_map(|pair| pair.clip) {
        if let Some(node) = graph.node_mut(id) {
            node.op = "Relu".into();
            node.inputs.truncate(1);
            replaced.push(node.name.clone());
        }
    }
    // Each pair disturbs its neighbours: until all are at rest.
    const ROUNDS: usize = 40;
    let mut totals = vec![Vec::new(); pairs.len()];
    for _ in 0..ROUNDS {
        let each = pairs.iter().zip(&mut totals);
        let largest = each.filter_map(|(pair, total)| balance(graph, pair, total)).fold(1.0_f32, f32::max);
        if largest < 1.01 {
            break;
        }
    }
    (pairs.len(), replaced)
}

fn pairs(graph: &Graph) -> Vec<Pair> {
    let uses = graph.uses();
    let order = graph.order().unwrap_or_default();
    order.into_iter().filter_map(|id| pair(graph, &uses, id)).collect()
}

fn pair(graph: &Graph, uses: &Uses, first: NodeId) -> Option<Pair> {
    let is_conv = |node: &Node| {
        let own = |input: usize| {
            node.input(input).is_none_or(|value| graph.constant(value).is_some() && uses.of(value).len() == 1)
        };
        let weight = node.input(1).and_then(|weight| graph.constant(weight)).map(Tensor::shape).unwrap_or_default();
        let bias = node.input(2).and_then(|bias| graph.constant(bias)).map(Tensor::len);
        let is_whole = weight.len() >= 3 && !weight.contains(&0) && bias.is_none_or(|len| len == weight[0]);
        node.is("Conv") && is_whole && own(1) && own(2)
    };
    let node = graph.node(first).filter(|node| is_conv(node))?;
    let (mut reader, mut input) = uses.only(node.output(0)?)?;
    let mut clip = None;
    let between = graph.node(reader)?;
    let zero = |value: ValueId| graph.constant(value).and_then(Tensor::to_f32s).is_some_and(|values| values == [0.0]);
    if between.is("Relu") || (between.is("Clip") && between.input(1).is_some_and(zero)) {
        clip = between.is("Clip").then_some(reader);
        (reader, input) = uses.only(between.output(0)?)?;
    }
    let second = graph.node(reader).filter(|node| input == 0 && is_conv(node))?;
    let outputs = graph.constant(node.input(1)?)?.shape()[0];
    let shape = graph.constant(second.input(1)?)?.shape();
    let groups = usize::try_from(second.int("group").unwrap_or(1)).ok()?;
    // Dense, or depthwise; in between each channel has its own neighbours.
    let fits = (groups == 1 && shape[1] == outputs) || (groups == outputs && shape[1] == 1 && shape[0] == outputs);
    fits.then_some(Pair { first, second: reader, clip })
}

/// What a channel may be scaled by in all.
const MOST: f32 = 1024.0;
/// Channels that are smaller than this share of the largest are as good as dead: scaling them up would scale up noise.
const DEAD: f32 = 1e-4;

/// Scales channels so that both sides have the same range; returns the largest factor. `totals` holds what each has been
/// scaled by.
fn balance(graph: &mut Graph, pair: &Pair, totals: &mut Vec<f32>) -> Option<f32> {
    let (first, second) = (graph.node(pair.first)?.clone(), graph.node(pair.second)?.clone());
    let (a, b) = (first.input(1)?, second.input(1)?);
    let (left, right) = (graph.constant(a)?.clone(), graph.constant(b)?.clone());
    let (mut left_values, mut right_values) = (left.to_f32s()?, right.to_f32s()?);
    let channels = left.shape()[0];
    let left_width = left_values.len() / channels.max(1);
    let depthwise = right.shape()[1] == 1 && right.shape()[0] == channels;
    let taps = right.shape()[2..].iter().product::<usize>().max(1);
    let of_right =
        |channel: usize, at: usize| if depthwise { at / taps == channel } else { at / taps % channels == channel };
    let bias = first.input(2).and_then(|bias| graph.constant(bias)).and_then(Tensor::to_f32s).unwrap_or_default();
    let largest_of = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, |most, value| most.max(value.abs()));
    // What a channel makes is as large as its bias, however small its weights.
    let sizes = |channel: usize| {
        let own = largest_of(&mut left_values[channel * left_width..(channel + 1) * left_width].iter().copied());
        let other = right_values.iter().enumerate().filter(|(at, _)| of_right(channel, *at)).map(|(_, value)| *value);
        (own.max(bias.get(channel).map_or(0.0, |bias| bias.abs())), largest_of(&mut { other }))
    };
    let sizes: Vec<(f32, f32)> = (0..channels).map(sizes).collect();
    let most = sizes.iter().fold((0.0_f32, 0.0_f32), |most, size| (most.0.max(size.0), most.1.max(size.1)));
    totals.resize(channels, 1.0);
    let mut largest = 1.0_f32;
    let mut factors = vec![1.0; channels];
    for ((factor, total), &(own, other)) in factors.iter_mut().zip(totals).zip(&sizes) {
        if own > most.0 * DEAD && other > most.1 * DEAD {
            // The first side becomes sqrt(own * other), and so does the second.
            *factor = (other / own).sqrt().clamp(1.0 / MOST / *total, MOST / *total);
            *total *= *factor;
            largest = largest.max(factor.max(1.0 / *factor));
        }
    }
    left_values.iter_mut().enumerate().for_each(|(at, value)| *value *= factors[at / left_width]);
    for (at, value) in right_values.iter_mut().enumerate() {
        *value /= factors[if depthwise { at / taps } else { at / taps % channels }];
    }
    graph.set_constant(a, floats(left.shape(), &left_values));
    graph.set_constant(b, floats(right.shape(), &right_values));
    if let Some(bias) = first.input(2) {
        let tensor = graph.constant(bias)?.clone();
        let values: Vec<f32> = tensor.to_f32s()?.iter().zip(&factors).map(|(value, factor)| value * factor).collect();
        graph.set_constant(bias, floats(tensor.shape(), &values));
    }
    Some(largest)
}

/// A normalisation whose outputs only products with constant weights read.
#[derive(Debug, Clone)]
pub struct Smoothable {
    /// What the products read.
    pub value: ValueId,
    norm: NodeId,
    readers: Vec<NodeId>,
}

/// What SmoothQuant can be applied to: LayerNormalizations before MatMul and Gemm.
pub fn smoothable(graph: &Graph) -> Vec<Smoothable> {
    let uses = graph.uses();
    let constant = |value: Option<ValueId>| value.is_some_and(|value| graph.constant(value).is_some());
    let found = |(id, node): (NodeId, &Node)| {
        let value = node.output(0).filter(|_| node.is("LayerNormalization") && constant(node.input(1)))?;
        if node.input(2).is_some() && !constant(node.input(2)) {
            return None;
        }
        let reader = |usage: &Use| if let Use::Input(id, 0) = usage { Some(*id) } else { None };
        let readers: Vec<NodeId> = uses.of(value).iter().map(reader).collect::<Option<_>>()?;
        let is_product = |id: &NodeId| {
            graph.node(*id).is_some_and(|node| {
                let plain = node.int("transA").unwrap_or(0) == 0;
                let flat = node
                    .input(1)
                    .and_then(|weight| graph.constant(weight))
                    .is_some_and(|weight| weight.shape().len() == 2);
                (node.is("MatMul") || (node.is("Gemm") && plain)) && flat
            })
        };
        (!readers.is_empty() && readers.iter().all(is_product)).then_some(Smoothable { value, norm: id, readers })
    };
    graph.nodes().filter_map(found).collect()
}

/// `largest^alpha / weights^(1 - alpha)` for each channel (SmoothQuant, equation 4).
fn factors<'a>(largest: &[f32], matrices: impl Iterator<Item = &'a Matrix> + Clone, alpha: f32) -> Vec<f32> {
    let of_weights = |channel: usize| {
        let column = |matrix: &Matrix| (0..matrix.rows).map(|row| matrix.row(row)[channel].abs()).fold(0.0, f32::max);
        matrices.clone().map(column).fold(0.0, f32::max)
    };
    let factor = |(channel, &largest): (usize, &f32)| {
        let weight = of_weights(channel);
        if largest <= 0.0 || weight <= 0.0 {
            return 1.0;
        }
        (largest.powf(alpha) / weight.powf(1.0 - alpha)).clamp(1e-3, 1e3)
    };
    largest.iter().enumerate().map(factor).collect()
}

/// Divides a normalisation's outputs by factors and multiplies the weights behind it: `largest` holds the largest
/// magnitude of each channel on the data, `alpha` says how much of a channel's size goes into the weights.
pub fn smooth(graph: &mut Graph, at: &Smoothable, largest: &[f32], alpha: f32) -> Option<()> {
    let width = largest.len();
    let matrices: Vec<(NodeId, ValueId, bool, Matrix)> = at
        .readers
        .iter()
        .map(|&id| {
            let node = graph.node(id)?;
            let weight = node.input(1)?;
            let transposed = node.is("Gemm") && node.int("transB").unwrap_or(0) != 0;
            let matrix = Matrix::of(graph.constant(weight)?, usize::from(!transposed))?;
            (matrix.width == width).then_some((id, weight, transposed, matrix))
        })
        .collect::<Option<_>>()?;
    let factors = factors(largest, matrices.iter().map(|(_, _, _, matrix)| matrix), alpha);
    let norm = graph.node(at.norm)?.clone();
    let mut scaled = BTreeMap::new();
    for input in [1, 2] {
        let Some(tensor) = norm.input(input).and_then(|value| graph.constant(value)) else { continue };
        let values = tensor.to_f32s().filter(|values| values.len() == width)?;
        let values: Vec<f32> = values.iter().zip(&factors).map(|(value, factor)| value / factor).collect();
        scaled.insert(input, floats(tensor.shape(), &values));
    }
    let mut set = |id: NodeId, input: usize, tensor: Tensor| {
        // A constant of its own: others may read the old one.
        let value = graph.add_constant("smoothed", tensor);
        if let Some(node) = graph.node_mut(id) {
            node.inputs[input] = Some(value);
        }
    };
    scaled.into_iter().for_each(|(input, tensor)| set(at.norm, input, tensor));
    for (id, _, transposed, matrix) in matrices {
        let rows: Vec<f32> = matrix.values.iter().enumerate().map(|(at, value)| value * factors[at % width]).collect();
        let (shape, values) = match transposed {
            true => ([matrix.rows, width], rows),
            false => ([width, matrix.rows], super::weights::transposed(&rows, matrix.rows)),
        };
        set(id, 1, floats(&shape, &values));
    }
    Some(())
}
