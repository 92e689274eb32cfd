//! Quantization at run time: DynamicQuantizeLinear, the integer products behind it, and what brings them to float.

use super::super::op::Op;
use super::super::program::{Type, ValueId as Id};
use super::params::checked_scale;
use super::product::{Bias, Product, columns};
use super::reason::Reason;
use super::state::{Lowering, Rep};
use crate::onnx::ElementType;
use crate::onnx::graph::{Node, ValueId};

/// What stands behind an integer product: where float begins, and by which scales.
struct Tail {
    output: ValueId,
    weight_scales: Vec<f32>,
}

impl Lowering<'_> {
    pub fn visit_dynamic_quantize(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        let id = self.dynamic(input)?;
        self.reps.insert(output, Rep::Dynamic(id));
        Ok(())
    }

    fn dynamic(&mut self, input: ValueId) -> Result<Id, Reason> {
        let float = self.float_input(input)?;
        let shape = self.shape_of(float);
        self.emit(Op::DynamicQuantize, vec![float], shape, Type::Dynamic)
    }

    /// ConvInteger and MatMulInteger, then Cast, then Mul by the product of both scales.
    pub fn visit_integer_product(&mut self, node: &Node) -> Result<(), Reason> {
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            return Err(Reason::Input);
        };
        let Some(Rep::Dynamic(input)) = self.reps.get(&a) else { return Err(Reason::Input) };
        let input = *input;
        let (_, source) = self.graph.producer(a).ok_or(Reason::Input)?;
        if node.input(2).is_none() || node.input(2) != source.output(2) {
            return Err(Reason::Computed);
        }
        let scale = source.output(1).ok_or(Reason::Computed)?;
        let channel = if node.op == "ConvInteger" { self.shape(output)?.len().saturating_sub(2) } else { 0 };
        let tail = self.tail(output, scale, channel).ok_or(Reason::Attribute("what follows the integer product"))?;
        self.product_to_float(node, input, (b, node.input(3)), tail)
    }

    fn product_to_float(
        &mut self,
        node: &Node,
        input: Id,
        (b, zero_point): (ValueId, Option<ValueId>),
        tail: Tail,
    ) -> Result<(), Reason> {
        let tensor = self.graph.constant(b).ok_or(Reason::Weights)?;
        let rank = tensor.shape().len();
        let element = tensor.element();
        let conv = node.op == "ConvInteger";
        let axis = if conv { 0 } else { rank.saturating_sub(1) };
        let weights = super::params::QuantConst {
            data: self.signed_constant(b, tensor)?,
            shape: tensor.shape().to_vec(),
            scales: tail.weight_scales,
            zero_points: self.zero_points(zero_point, element)?,
            axis,
            signed: element == ElementType::I8,
        };
        let channels = weights.shape.get(axis).copied().unwrap_or(0);
        if [weights.scales.len(), weights.zero_points.len()].iter().any(|&len| len != 1 && len != channels) {
            return Err(Reason::PerChannel);
        }
        let (shape, product) = if conv {
            self.conv_product(node, input, 1.0, &weights, Bias::None)?
        } else {
            (None, self.linear_product(input, 1.0, &columns(weights, false)?, Bias::None)?)
        };
        let (output, product) = self.with_added_bias(tail.output, product, conv.then_some(1));
        self.store_float(&product, output, shape)
    }

    fn store_float(&mut self, product: &Product, output: ValueId, shape: Option<Vec<usize>>) -> Result<(), Reason> {
        let id = self.float_product(product)?;
        let id = self.reshaped(id, shape)?;
        self.reps.insert(output, Rep::Float(id));
        Ok(())
    }

    /// Follows an accumulator through Cast and Mul. `channel` is the axis of channels, counted from the last.
    fn tail(&self, accumulator: ValueId, scale: ValueId, channel: usize) -> Option<Tail> {
        let (cast, _) = self.uses.only(accumulator)?;
        let cast = self.graph.node(cast).filter(|node| node.is("Cast"))?;
        let to = i64::from(ElementType::F32.to_onnx());
        let float = cast.output(0).filter(|_| cast.int("to") == Some(to))?;
        let (mul, input) = self.uses.only(float)?;
        let mul = self.graph.node(mul).filter(|node| node.is("Mul"))?;
        let factor = mul.input(1 - input)?;
        let weight_scales = self.weight_scales(factor, scale, channel)?;
        Some(Tail { output: mul.output(0)?, weight_scales })
    }

    /// The weight scales in a product of scales.
    fn weight_scales(&self, factor: ValueId, scale: ValueId, channel: usize) -> Option<Vec<f32>> {
        if factor == scale {
            return Some(vec![1.0]);
        }
        let (_, both) = self.graph.producer(factor).filter(|(_, node)| node.is("Mul"))?;
        let other = match (both.input(0)?, both.input(1)?) {
            (a, b) if a == scale => b,
            (a, b) if b == scale => a,
            (_, _) => return None,
        };
        let shape = self.graph.constant(other)?.shape();
        if shape.iter().rev().enumerate().any(|(axis, &dim)| dim != 1 && axis != channel) {
            return None;
        }
        let scales = self.float_constant(other)?;
        scales.into_iter().map(|scale| checked_scale(scale).ok()).collect()
    }

    /// com.microsoft DynamicQuantizeMatMul and MatMulIntegerToFloat.
    pub fn visit_fused_dynamic(&mut self, node: &Node) -> Result<(), Reason> {
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            return Err(Reason::Input);
        };
        let quantizes = node.op == "DynamicQuantizeMatMul";
        let [scale, zero_point, bias] = if quantizes { [2, 3, 4] } else { [3, 5, 6] };
        let input = if quantizes {
            self.dynamic(a)?
        } else {
            let Some(Rep::Dynamic(input)) = self.reps.get(&a) else { return Err(Reason::Input) };
            let source = self.graph.producer(a).map(|(_, node)| node).ok_or(Reason::Input)?;
            if [node.input(2), node.input(4)] != [source.output(1), source.output(2)] {
                return Err(Reason::Computed);
            }
            *input
        };
        let weights = columns(self.quant_const(b, node.input(scale), node.input(zero_point), -1)?, false)?;
        let bias = match node.input(bias) {
            Some(value) => Bias::Floats(self.float_constant(value).ok_or(Reason::Computed)?),
            None => Bias::None,
        };
        let product = self.linear_product(input, 1.0, &weights, bias)?;
        self.store_float(&product, output, None)
    }
}
