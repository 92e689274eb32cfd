//! QuantizeLinear and DequantizeLinear, and the operators that carry scales of their own (QOperator form).

use super::super::function::Unary;
use super::super::program::Type;
use super::elementwise::Pair;
use super::params::resolve_axis;
use super::product::{Bias, columns};
use super::reason::Reason;
use super::sink::Sink;
use super::state::{Lowering, Operand, Rep, identity, quantized};
use crate::onnx::ElementType;
use crate::onnx::graph::{Node, ValueId};
use std::sync::Arc;

impl Lowering<'_> {
    pub fn visit_quantize(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        if self.graph.constant(input).is_some() {
            // What reads it quantizes the constant.
            return Err(Reason::Weights);
        }
        let params = self.quantize_params(node)?;
        let id = match self.reps.get(&input).cloned() {
            Some(Rep::Curve { source, curve }) => {
                let Type::Int8(own) = self.draft.values[source.index()].ty else { return Err(Reason::Input) };
                let from = Operand { id: source, params: own };
                self.table(from, quantized(&curve, &params), params)?.id
            }
            Some(Rep::Int8(_) | Rep::Dynamic(_)) => return Err(Reason::Element(self.element(input)?)),
            Some(Rep::Float(_) | Rep::Constant(_)) | None => {
                let float = self.float_input(input)?;
                let shape = self.shape_of(float);
                self.emit_int8(super::super::op::Op::Quantize, vec![float], shape, params)?.id
            }
        };
        self.reps.insert(output, Rep::Int8(id));
        Ok(())
    }

    /// A float tensor that a region has, or that comes from outside.
    pub fn float_input(&mut self, value: ValueId) -> Result<super::super::program::ValueId, Reason> {
        if let Some(id) = self.as_float(value)? {
            return Ok(id);
        }
        let element = self.element(value)?;
        if element == ElementType::F32 { self.enter(value, Type::F32) } else { Err(Reason::Element(element)) }
    }

    pub fn visit_dequantize(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        if node.int("block_size").is_some_and(|size| size != 0) {
            return Err(Reason::PerChannel);
        }
        if self.facts.element(output).is_some_and(|element| element != ElementType::F32) {
            return Err(Reason::Element(self.element(output)?));
        }
        if !self.reps.contains_key(&input) {
            let axis = node.int("axis").unwrap_or(1);
            if let Ok(constant) = self.quant_const(input, node.input(1), node.input(2), axis) {
                self.reps.insert(output, Rep::Constant(Arc::new(constant)));
                return Ok(());
            }
        }
        let params = self.params(node.input(1), node.input(2), self.element(input)?)?;
        let operand = self.int8(input, params)?;
        self.stands_for(output, operand);
        Ok(())
    }

    /// An 8-bit tensor with its scale and zero point in the two inputs behind it.
    fn triple(&mut self, node: &Node, at: usize) -> Result<Operand, Reason> {
        let value = node.input(at).ok_or(Reason::Input)?;
        let params = self.params(node.input(at + 1), node.input(at + 2), self.element(value)?)?;
        self.int8(value, params)
    }

    /// Scale and zero point of the output, and no clamp.
    fn target(&self, node: &Node, scale: usize) -> Result<Sink, Reason> {
        let output = node.output(0).ok_or(Reason::Output)?;
        let zero_point = node.input(scale + 1);
        let element = match zero_point {
            Some(value) => self.element(value)?,
            None => self.element(output).or_else(|_| self.element(node.input(0).ok_or(Reason::Input)?))?,
        };
        let params = self.params(node.input(scale), zero_point, element)?;
        Ok(Sink { params, low: i8::MIN, high: i8::MAX })
    }

    /// Operators of ONNX that carry scales.
    pub fn visit_q_operator(&mut self, node: &Node) -> Result<(), Reason> {
        let output = node.output(0).ok_or(Reason::Output)?;
        let made = match node.op.as_str() {
            "QLinearConv" => self.q_conv(node)?,
            "QLinearMatMul" => self.q_mat_mul(node)?,
            "QGemm" => return self.q_gemm(node),
            "QLinearAdd" | "QLinearMul" => self.q_pair(node)?,
            "QLinearConcat" => self.q_concat(node)?,
            "QLinearSigmoid" => self.q_table(node, Unary::Sigmoid)?,
            "QLinearLeakyRelu" => {
                let alpha = node.float("alpha").unwrap_or(0.01);
                self.q_table(node, Unary::LeakyRelu { alpha })?
            }
            "QLinearAveragePool" | "QLinearGlobalAveragePool" => self.q_average(node)?,
            "QLinearSoftmax" => self.q_softmax(node)?,
            _ => return Err(Reason::Operator),
        };
        self.reps.insert(output, Rep::Int8(made.id));
        Ok(())
    }

    fn q_conv(&mut self, node: &Node) -> Result<Operand, Reason> {
        let input = self.triple(node, 0)?;
        let w = node.input(3).ok_or(Reason::Weights)?;
        let weights = self.quant_const(w, node.input(4), node.input(5), 0)?;
        let to = self.target(node, 6)?;
        let bias = self.integers_of(node.input(8))?;
        let (shape, product) = self.conv_product(node, input.id, input.params.scale, &weights, bias)?;
        let made = self.requantize(&product, to)?;
        match shape {
            Some(shape) => self.emit_int8(super::super::op::Op::Reshape, vec![made.id], shape, made.params),
            None => Ok(made),
        }
    }

    /// An INT32 bias in units of the products.
    fn integers_of(&self, bias: Option<ValueId>) -> Result<Bias, Reason> {
        let Some(value) = bias else { return Ok(Bias::None) };
        let tensor = self.graph.constant(value).ok_or(Reason::Computed)?;
        self.pay(tensor.len().saturating_mul(12))?;
        let values = tensor.to_i64s().filter(|_| tensor.element() == ElementType::I32);
        let values = values.ok_or(Reason::Element(tensor.element()))?;
        Ok(Bias::Integers(values.into_iter().map(|v| v as i32).collect()))
    }

    fn q_mat_mul(&mut self, node: &Node) -> Result<Operand, Reason> {
        let a = self.triple(node, 0)?;
        let to = self.target(node, 6)?;
        let b = node.input(3).ok_or(Reason::Weights)?;
        let constant = self.quant_const(b, node.input(4), node.input(5), -1);
        if let Ok(weights) = constant.and_then(|weights| columns(weights, false)) {
            let product = self.linear_product(a.id, a.params.scale, &weights, Bias::None)?;
            return self.requantize(&product, to);
        }
        let b = self.triple(node, 3)?;
        let shape = self.shape(node.output(0).ok_or(Reason::Output)?)?;
        self.emit_mat_mul(a, b, shape, to)
    }

    /// com.microsoft QGemm: without an output scale it makes float.
    fn q_gemm(&mut self, node: &Node) -> Result<(), Reason> {
        let output = node.output(0).ok_or(Reason::Output)?;
        if node.int("transA").unwrap_or(0) != 0 || node.float("alpha").unwrap_or(1.0) != 1.0 {
            return Err(Reason::Attribute("alpha or transA"));
        }
        let a = self.triple(node, 0)?;
        let b = node.input(3).ok_or(Reason::Weights)?;
        let transposed = node.int("transB").unwrap_or(0) != 0;
        let axis = if transposed { 0 } else { 1 };
        let weights = columns(self.quant_const(b, node.input(4), node.input(5), axis)?, transposed)?;
        let bias = self.integers_of(node.input(6))?;
        let product = self.linear_product(a.id, a.params.scale, &weights, bias)?;
        let rep = match node.input(7) {
            Some(_) => Rep::Int8(self.requantize(&product, self.target(node, 7)?)?.id),
            None => Rep::Float(self.float_product(&product)?),
        };
        self.reps.insert(output, rep);
        Ok(())
    }

    fn q_pair(&mut self, node: &Node) -> Result<Operand, Reason> {
        let (a, b) = (self.triple(node, 0)?, self.triple(node, 3)?);
        let to = self.target(node, 6)?;
        let shape = self.shape(node.output(0).ok_or(Reason::Output)?)?;
        let pair = Pair { a, b, shape, to };
        if node.op == "QLinearMul" { self.emit_mul(&pair) } else { self.emit_add(&pair, 1.0) }
    }

    fn q_concat(&mut self, node: &Node) -> Result<Operand, Reason> {
        let to = self.target(node, 0)?;
        let count = node.inputs.len().saturating_sub(2) / 3;
        let operands: Vec<Operand> = (0..count).map(|i| self.triple(node, 2 + 3 * i)).collect::<Result<_, _>>()?;
        self.emit_concat(&operands, node.int("axis").ok_or(Reason::Attribute("axis"))?, to.params)
    }

    fn q_table(&mut self, node: &Node, function: Unary) -> Result<Operand, Reason> {
        let from = self.triple(node, 0)?;
        let to = self.target(node, 3)?;
        let curve = identity(&from.params).map(|x| function.of(x));
        self.table(from, quantized(&curve, &to.params), to.params)
    }

    fn q_average(&mut self, node: &Node) -> Result<Operand, Reason> {
        let from = self.triple(node, 0)?;
        let to = self.target(node, 3)?;
        if node.int("channels_last").unwrap_or(0) != 0 {
            return Err(Reason::Attribute("channels_last"));
        }
        match node.op.as_str() {
            "QLinearAveragePool" => self.emit_average_pool(node, from, to.params),
            _ => self.emit_global_average(from, to.params),
        }
    }

    fn q_softmax(&mut self, node: &Node) -> Result<Operand, Reason> {
        let from = self.triple(node, 0)?;
        let to = self.target(node, 3)?;
        let rank = self.shape_of(from.id).len();
        let axis = resolve_axis(node.int("axis").unwrap_or(-1), rank).ok_or(Reason::Attribute("axis"))?;
        if node.int("opset").unwrap_or(13) < 13 && axis + 1 != rank {
            return Err(Reason::Attribute("axis of a version below 13"));
        }
        self.emit_softmax(from, axis, to.params)
    }
}
