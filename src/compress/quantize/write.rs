//! Integers into the graph: QuantizeLinear and DequantizeLinear around what is quantized (QDQ), weights alone, or
//! ranges found anew in each run (dynamic).
//!
//! Invariant: what reads a quantized value reads it through DequantizeLinear; a ReLU or Clip that the levels cut off
//! anyway is gone; the graph's inputs and outputs keep names and types.
//! Spec: ONNX's QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, ConvInteger.

use super::place::{Kind, Layer, Placed};
use super::scheme::{Affine, Levels};
use super::weights::{IntegerWeights, transposed};
use crate::compress::{Error, Network};
use crate::onnx::graph::{Attribute, Graph, Node, NodeId, ValueId};
use crate::onnx::{ElementType, Tensor};
use std::collections::BTreeMap;

/// A layer's weights and bias.
#[derive(Debug, Clone)]
pub struct LayerIntegers {
    pub weights: IntegerWeights,
    /// In float; corrected where that was asked for.
    pub bias: Option<Vec<f32>>,
}

/// All that the static form needs; layers in the order of `Placed`.
#[derive(Debug, Clone, Default)]
pub struct Integers {
    /// By class.
    pub activations: BTreeMap<usize, Affine>,
    /// By node, and which of its inputs.
    pub constants: BTreeMap<(NodeId, usize), Affine>,
    pub layers: Vec<LayerIntegers>,
}

/// A model in integers, and where to find what the float one calls by other names.
#[derive(Debug, Clone)]
pub struct Quantized {
    pub network: Network,
    /// For activations of the float model the values that stand for them.
    pub real: BTreeMap<ValueId, ValueId>,
}

/// Activations and weights in integers.
pub fn qdq(network: &Network, placed: &Placed, integers: &Integers) -> Result<Quantized, Error> {
    let mut made = network.clone();
    let mut writer = Writer::new(&mut made.model.graph, version(network));
    let replaced = writer.drop_activations(placed, integers);
    for (layer, values) in placed.layers.iter().zip(&integers.layers) {
        let input = placed.classes.get(&layer.input).and_then(|class| integers.activations.get(class));
        let Some(input) = input else { continue };
        writer.layer(layer, values, Some(input))?;
    }
    let mut real = BTreeMap::new();
    for (&value, class) in &placed.classes {
        if let Some(affine) = integers.activations.get(class) {
            real.insert(value, writer.activation(replaced.get(&value).copied().unwrap_or(value), affine)?);
        }
    }
    for (&(node, input), affine) in &integers.constants {
        writer.constant(node, input, affine)?;
    }
    writer.graph.remove_dead();
    Ok(Quantized { network: made, real })
}

/// Weights alone in integers; products stay those of floats.
pub fn weights_only(network: &Network, placed: &Placed, layers: &[LayerIntegers]) -> Result<Quantized, Error> {
    let mut made = network.clone();
    let mut writer = Writer::new(&mut made.model.graph, version(network));
    for (layer, values) in placed.layers.iter().zip(layers) {
        writer.layer(layer, values, None)?;
    }
    writer.graph.remove_dead();
    Ok(Quantized { network: made, real: BTreeMap::new() })
}

/// Weights in integers, activations with a range of each run.
pub fn dynamic(network: &Network, placed: &Placed, layers: &[LayerIntegers]) -> Result<Quantized, Error> {
    let mut made = network.clone();
    let facts = network.facts();
    let mut writer = Writer::new(&mut made.model.graph, version(network));
    let mut inputs = BTreeMap::new();
    for (layer, values) in placed.layers.iter().zip(layers) {
        let weight_rank = network.graph().constant(layer.weight).map_or(0, |weight| weight.shape().len());
        let rank = facts.dims(layer.input).map_or(weight_rank, <[_]>::len);
        writer.dynamic_layer(layer, values, rank, &mut inputs)?;
    }
    writer.graph.remove_dead();
    Ok(Quantized { network: made, real: BTreeMap::new() })
}

fn version(network: &Network) -> i64 {
    network.model.opsets.get("").copied().unwrap_or(crate::onnx::normalise::OPSET)
}

struct Writer<'a> {
    graph: &'a mut Graph,
    version: i64,
}

impl<'a> Writer<'a> {
    fn new(graph: &'a mut Graph, version: i64) -> Self {
        Self { graph, version }
    }

    fn node(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        outputs: &[ValueId],
        name: &str,
        attributes: Vec<(&str, Attribute)>,
    ) -> NodeId {
        self.graph.add_node(Node {
            name: format!("{name}_{op}"),
            op: op.to_owned(),
            domain: String::new(),
            version: self.version,
            attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: outputs.iter().copied().map(Some).collect(),
        })
    }

    /// A node's one output, behind what it is made of.
    fn apply(&mut self, op: &str, inputs: &[ValueId], name: &str, attributes: Vec<(&str, Attribute)>) -> ValueId {
        let output = self.graph.add_value(&format!("{name}_{op}_output"));
        self.node(op, inputs, &[output], name, attributes);
        output
    }

    fn floats(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) -> ValueId {
        let values: Vec<f64> = values.iter().map(|&value| value.into()).collect();
        let tensor = Tensor::from_f64s(ElementType::F32, shape, &values).expect("as many as the shape says");
        self.graph.add_constant(name, tensor)
    }

    fn integers(
        &mut self,
        name: &str,
        element: ElementType,
        shape: Vec<usize>,
        values: &[i32],
    ) -> Result<ValueId, Error> {
        let values: Vec<i64> = values.iter().map(|&value| value.into()).collect();
        let tensor = Tensor::from_i64s(element, shape, &values);
        let tensor = tensor.ok_or_else(|| Error::unfit(format!("the levels of {name:?} do not fit its type")))?;
        Ok(self.graph.add_constant(name, tensor))
    }

    /// Scale and zero point of a tensor, or of each channel of it.
    fn parameters(&mut self, name: &str, affine: &[Affine]) -> Result<[ValueId; 2], Error> {
        let shape = if affine.len() == 1 { vec![] } else { vec![affine.len()] };
        let scales: Vec<f32> = affine.iter().map(|one| one.scale).collect();
        let points: Vec<i32> = affine.iter().map(|one| one.zero_point).collect();
        let scale = self.floats(&format!("{name}_scale"), shape.clone(), &scales);
        Ok([scale, self.integers(&format!("{name}_zero_point"), affine[0].levels.element, shape, &points)?])
    }

    /// Takes away what the levels behind it cut off anyway; returns what stands in place of such values.
    fn drop_activations(&mut self, placed: &Placed, integers: &Integers) -> BTreeMap<ValueId, ValueId> {
        let uses = self.graph.uses();
        let covered = |(&value, class): (&ValueId, &usize)| {
            let (_, node) = self.graph.producer(value)?;
            let (affine, input) = (integers.activations.get(class)?, node.input(0)?);
            // An input that has a scale of its own stays: a chain of activations, or a pool between.
            let alone = uses.only(input).is_some() && !placed.classes.contains_key(&input);
            (alone && is_covered(self.graph, node, affine)).then_some((value, input))
        };
        let replaced: BTreeMap<ValueId, ValueId> = placed.classes.iter().filter_map(covered).collect();
        self.graph.replace_all(&replaced);
        // What nothing reads any more must not become a reader of what is quantized.
        self.graph.remove_dead();
        replaced
    }

    /// Integer weights and bias instead of the layer's floats.
    fn layer(&mut self, layer: &Layer, values: &LayerIntegers, input: Option<&Affine>) -> Result<(), Error> {
        let name = self.graph.value(layer.weight).name.clone();
        let weight = self.weight(layer, &values.weights, &name)?;
        let channel = vec![("axis", Attribute::Int(layer.axis.cast_signed() as i64))];
        let parameters = self.parameters(&name, &values.weights.affine)?;
        let attributes = if values.weights.affine.len() == 1 { vec![] } else { channel };
        let weight = self.apply("DequantizeLinear", &[weight, parameters[0], parameters[1]], &name, attributes);
        let bias = match &values.bias {
            Some(bias) => Some(self.bias(layer, bias, &values.weights, input)?),
            None => None,
        };
        if let Some(node) = self.graph.node_mut(layer.node) {
            node.inputs.truncate(2);
            node.inputs[1] = Some(weight);
            node.inputs.extend(bias.map(Some));
        }
        Ok(())
    }

    fn weight(&mut self, layer: &Layer, weights: &IntegerWeights, name: &str) -> Result<ValueId, Error> {
        let shape = self.graph.constant(layer.weight).map(|weight| weight.shape().to_vec()).unwrap_or_default();
        let levels = match layer.axis {
            0 => weights.levels.clone(),
            _ => transposed(&weights.levels, shape[layer.axis]),
        };
        self.integers(&format!("{name}_quantized"), weights.affine[0].levels.element, shape, &levels)
    }

    /// INT32 in units of both scales; float where the input is.
    fn bias(
        &mut self,
        layer: &Layer,
        bias: &[f32],
        weights: &IntegerWeights,
        input: Option<&Affine>,
    ) -> Result<ValueId, Error> {
        let name =
            layer.bias.map_or_else(|| format!("{}_bias", layer.name), |bias| self.graph.value(bias).name.clone());
        let Some(input) = input else { return Ok(self.floats(&name, vec![bias.len()], bias)) };
        let scales: Vec<f32> = (0..weights.affine.len()).map(|row| input.scale * weights.affine[row].scale).collect();
        let level = |(channel, value): (usize, &f32)| {
            let scale = scales[channel.min(scales.len() - 1)];
            (f64::from(*value) / f64::from(scale)).round_ties_even() as i32
        };
        let levels: Vec<i32> = bias.iter().enumerate().map(level).collect();
        let quantized = self.integers(&format!("{name}_quantized"), ElementType::I32, vec![bias.len()], &levels)?;
        let shape = if scales.len() == 1 { vec![] } else { vec![scales.len()] };
        let scale = self.floats(&format!("{name}_scale"), shape, &scales);
        let attributes = if scales.len() == 1 { vec![] } else { vec![("axis", Attribute::Int(0))] };
        Ok(self.apply("DequantizeLinear", &[quantized, scale], &name, attributes))
    }

    /// Quantizes a value for all its readers; returns what they read now.
    fn activation(&mut self, value: ValueId, affine: &Affine) -> Result<ValueId, Error> {
        let name = self.graph.value(value).name.clone();
        let parameters = self.parameters(&name, &[*affine])?;
        let placeholder = self.graph.add_value(&format!("{name}_DequantizeLinear_output"));
        self.graph.replace_uses(value, placeholder);
        let cut = if affine.levels.is_part() { self.cut(value, affine, &name) } else { value };
        let quantized = self.apply("QuantizeLinear", &[cut, parameters[0], parameters[1]], &name, vec![]);
        self.node("DequantizeLinear", &[quantized, parameters[0], parameters[1]], &[placeholder], &name, vec![]);
        Ok(placeholder)
    }

    /// Levels of fewer bits than the type has: what is beyond them is cut off here.
    fn cut(&mut self, value: ValueId, affine: &Affine, name: &str) -> ValueId {
        let range = affine.range();
        let [lo, hi] = [("lowest", range.lo), ("highest", range.hi)]
            .map(|(what, bound)| self.graph.add_constant(&format!("{name}_{what}"), Tensor::scalar_f32(bound)));
        self.apply("Clip", &[value, lo, hi], name, vec![])
    }

    /// For that reader alone.
    fn constant(&mut self, node: NodeId, input: usize, affine: &Affine) -> Result<(), Error> {
        let Some(value) = self.graph.node(node).and_then(|node| node.input(input)) else { return Ok(()) };
        let name = self.graph.value(value).name.clone();
        let Some(tensor) = self.graph.constant(value).cloned() else { return Ok(()) };
        let levels: Vec<i32> =
            tensor.to_f32s().unwrap_or_default().iter().map(|&value| affine.quantize(value)).collect();
        let quantized =
            self.integers(&format!("{name}_quantized"), affine.levels.element, tensor.shape().to_vec(), &levels)?;
        let parameters = self.parameters(&name, &[*affine])?;
        let real = self.apply("DequantizeLinear", &[quantized, parameters[0], parameters[1]], &name, vec![]);
        if let Some(node) = self.graph.node_mut(node) {
            node.inputs[input] = Some(real);
        }
        Ok(())
    }

    fn dynamic_layer(
        &mut self,
        layer: &Layer,
        values: &LayerIntegers,
        rank: usize,
        inputs: &mut BTreeMap<ValueId, [ValueId; 3]>,
    ) -> Result<(), Error> {
        let name = layer.name.clone();
        let [quantized, scale, point] = *inputs.entry(layer.input).or_insert_with(|| self.dynamic_input(layer.input));
        let Some(node) = self.graph.node(layer.node).cloned() else { return Ok(()) };
        let Some(output) = node.output(0) else { return Ok(()) };
        let is_conv = layer.kind == Kind::Conv;
        let weight_name = self.graph.value(layer.weight).name.clone();
        let weight = self.dynamic_weight(layer, &values.weights, &weight_name)?;
        let mut operands = vec![quantized, weight, point];
        let sums = if is_conv {
            // ConvInteger takes no signed weights in ONNX Runtime: shifted, with the zero point in the middle.
            operands.push(self.integers(&format!("{weight_name}_zero_point"), ElementType::U8, vec![], &[128])?);
            let attributes = node.attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            self.apply("ConvInteger", &operands, &name, attributes)
        } else {
            self.apply("MatMulInteger", &operands, &name, vec![])
        };
        let sums = self.apply("Cast", &[sums], &name, vec![("to", Attribute::Int(ElementType::F32.to_onnx().into()))]);
        let scales: Vec<f32> = values.weights.affine.iter().map(|affine| affine.scale).collect();
        // Channels are the second dimension of a convolution's output and the last of a matrix.
        let along = |count: usize| match (count, is_conv) {
            (1, _) => vec![],
            (_, true) => std::iter::once(count).chain(vec![1; rank.saturating_sub(2)]).collect(),
            (_, false) => vec![count],
        };
        let weight_scale = self.floats(&format!("{weight_name}_scale"), along(scales.len()), &scales);
        let both = self.apply("Mul", &[scale, weight_scale], &format!("{name}_scales"), vec![]);
        self.graph.remove_node(layer.node);
        match &values.bias {
            None => drop(self.node("Mul", &[sums, both], &[output], &name, vec![])),
            Some(bias) => {
                let real = self.apply("Mul", &[sums, both], &name, vec![]);
                let bias = self.floats(&format!("{name}_bias"), along(bias.len()), bias);
                self.node("Add", &[real, bias], &[output], &name, vec![]);
            }
        }
        Ok(())
    }

    /// A value in integers, their scale and their zero point.
    fn dynamic_input(&mut self, value: ValueId) -> [ValueId; 3] {
        let name = self.graph.value(value).name.clone();
        let made = ["quantized", "scale", "zero_point"].map(|what| self.graph.add_value(&format!("{name}_{what}")));
        self.node("DynamicQuantizeLinear", &[value], &made, &name, vec![]);
        made
    }

    fn dynamic_weight(&mut self, layer: &Layer, weights: &IntegerWeights, name: &str) -> Result<ValueId, Error> {
        if layer.kind != Kind::Conv {
            // `[K, N]`, whichever way round Gemm had it.
            let rows = self
                .graph
                .constant(layer.weight)
                .and_then(|weight| weight.shape().get(layer.axis).copied())
                .unwrap_or(1);
            let shape = vec![weights.levels.len() / rows.max(1), rows];
            let levels = transposed(&weights.levels, rows);
            return self.integers(&format!("{name}_quantized"), ElementType::I8, shape, &levels);
        }
        let shape = self.graph.constant(layer.weight).map(|weight| weight.shape().to_vec()).unwrap_or_default();
        let levels: Vec<i32> = weights.levels.iter().map(|level| level + 128).collect();
        self.integers(&format!("{name}_quantized"), ElementType::U8, shape, &levels)
    }
}

/// Whether all that the levels stand for passes the ReLU or Clip unchanged, so that rounding to them does its work.
fn is_covered(graph: &Graph, node: &Node, affine: &Affine) -> bool {
    let range = affine.range();
    let bound = |input: usize, otherwise: f32| match node.input(input) {
        None => Some(otherwise),
        Some(value) => graph.constant(value).and_then(Tensor::to_f32s).and_then(|values| values.first().copied()),
    };
    if node.is("Relu") {
        return range.lo >= 0.0;
    }
    let (Some(lo), Some(hi)) = (bound(1, f32::NEG_INFINITY), bound(2, f32::INFINITY)) else { return false };
    node.is("Clip") && range.lo >= lo && range.hi <= hi * (1.0 + 1e-6)
}

/// Of a constant beside activations: by its extremes.
pub fn of_constant(values: &[f32], levels: Levels, symmetric: bool) -> Affine {
    let range = super::scheme::Range::of(values);
    if symmetric { Affine::symmetric(range, levels) } else { Affine::of_range(range, levels) }
}
