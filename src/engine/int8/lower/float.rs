//! Operators between floats: what stands between two products that are quantized at run time, or whose weights alone
//! are int8. A float tensor that a region computes goes on in it as far as there are operators for it.

use super::super::function::{Binary, Unary};
use super::super::op::{FloatLinear, FloatWeights, Op};
use super::super::program::{Type, ValueId as Id};
use super::super::rows::{LayerNorm, RowFunction};
use super::float_conv::WORTH;
use super::params::{QuantConst, resolve_axis};
use super::product::Bias;
use super::reason::Reason;
use super::state::{Lowering, Rep};
use crate::onnx::graph::{Node, Use, ValueId};

impl Lowering<'_> {
    /// Whether a region has it, as a float tensor.
    pub fn is_float_here(&self, value: ValueId) -> bool {
        matches!(self.reps.get(&value), Some(Rep::Float(_) | Rep::Curve { .. }))
    }

    pub fn emit_float(&mut self, op: Op, inputs: Vec<Id>, output: ValueId) -> Result<(), Reason> {
        let shape = self.shape(output)?;
        let id = self.emit(op, inputs, shape, Type::F32)?;
        self.reps.insert(output, Rep::Float(id));
        Ok(())
    }

    /// Of a value that a region has, and another one or a constant.
    pub fn float_binary(&mut self, a: ValueId, b: ValueId, function: Binary, output: ValueId) -> Result<(), Reason> {
        if !self.is_float_here(a) && !self.is_float_here(b) {
            return Err(Reason::Input);
        }
        let power = if function == Binary::Pow { self.any_scalar(b) } else { None };
        let a = self.float_input(a)?;
        match power {
            Some(2.0) => {
                let shape = self.shape(output)?;
                let id = self.float_pair(Binary::Mul, a, a, shape)?;
                self.reps.insert(output, Rep::Float(id));
                Ok(())
            }
            Some(0.5) => {
                let id = self.float_function(Unary::Sqrt, a)?;
                self.reps.insert(output, Rep::Float(id));
                Ok(())
            }
            Some(_) | None => {
                let b = self.float_input(b)?;
                let shape = self.shape(output)?;
                let id = self.float_pair(function, a, b, shape)?;
                self.reps.insert(output, Rep::Float(id));
                Ok(())
            }
        }
    }

    /// By int8 weights.
    pub fn float_linear(
        &mut self,
        input: ValueId,
        weights: &QuantConst,
        bias: Bias,
        output: ValueId,
    ) -> Result<(), Reason> {
        let input = self.float_input(input)?;
        let product = self.linear_product(input, 1.0, weights, bias)?;
        let (output, product) = self.with_added_bias(output, product, None);
        let scales = product.scales();
        let bias = match &product.bias {
            Bias::None => Vec::new(),
            Bias::Floats(bias) => bias.clone(),
            Bias::Integers(bias) => {
                bias.iter().enumerate().map(|(i, &b)| b as f32 * scales[i % scales.len()]).collect()
            }
        };
        let weights = FloatWeights::Bytes { weights: product.weights, scales: scales.into() };
        let linear = FloatLinear { weights, bias: bias.into() };
        self.emit_float(Op::FloatLinear(linear), vec![input], output)
    }

    pub fn float_mat_mul(&mut self, a: ValueId, b: ValueId, output: ValueId) -> Result<(), Reason> {
        if !self.is_float_here(a) && !self.is_float_here(b) {
            return Err(Reason::Input);
        }
        if self.graph.constant(a).is_some() || self.graph.constant(b).is_some() {
            return Err(Reason::Weights);
        }
        let operands = vec![self.float_input(a)?, self.float_input(b)?];
        self.emit_float(Op::FloatMatMul, operands, output)
    }

    /// Along all axes from one on.
    fn rows(&mut self, input: ValueId, axis: usize, function: RowFunction, output: ValueId) -> Result<(), Reason> {
        let input = self.float_input(input)?;
        let width = self.shape_of(input)[axis..].iter().product();
        self.emit_float(Op::Rows { function, width }, vec![input], output)
    }

    pub fn float_softmax(&mut self, node: &Node, input: ValueId, output: ValueId) -> Result<(), Reason> {
        if !self.is_float_here(input) {
            return Err(Reason::Input);
        }
        let rank = self.shape(input)?.len();
        // Up to version 12 it was along all axes from the named one on.
        let old = node.version < 13;
        let axis = resolve_axis(node.int("axis").unwrap_or(if old { 1 } else { -1 }), rank);
        let axis = axis.filter(|&axis| old || axis + 1 == rank).ok_or(Reason::Attribute("axis"))?;
        self.rows(input, axis, RowFunction::Softmax, output)
    }

    /// Over the last axes.
    pub fn float_mean(&mut self, node: &Node, input: ValueId, output: ValueId) -> Result<(), Reason> {
        if node.op != "ReduceMean" || !self.is_float_here(input) {
            return Err(Reason::Input);
        }
        let rank = self.shape(input)?.len();
        let mut axes = self.reduced_axes(node, rank)?;
        axes.sort_unstable();
        let first = axes.first().copied().filter(|&first| axes.iter().copied().eq(first..rank));
        self.rows(input, first.ok_or(Reason::Attribute("axes"))?, RowFunction::Mean, output)
    }

    /// Whether a large product with constants reads it.
    fn is_multiplied(&self, value: ValueId) -> bool {
        let rows = self.shape(value).map_or(0, |shape| shape.iter().rev().skip(1).product());
        let worth = |user: &Use| {
            let Use::Input(id, 0) = *user else { return false };
            let Some(node) = self.graph.node(id).filter(|node| node.is("MatMul") || node.is("Gemm")) else {
                return false;
            };
            let weights = node.input(1).and_then(|w| self.graph.constant(w));
            weights.is_some_and(|weights| weights.len().saturating_mul(rows) >= WORTH)
        };
        self.uses.of(value).iter().any(worth)
    }

    /// Also of what comes from outside, where it is quantized or multiplied next.
    pub fn visit_layer_norm(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        if !self.is_float_here(input) && !self.ends_quantized(output) && !self.is_multiplied(output) {
            return Err(Reason::Input);
        }
        if node.output(1).or(node.output(2)).is_some() || node.int("stash_type").unwrap_or(1) != 1 {
            return Err(Reason::Attribute("Mean, InvStdDev or stash_type"));
        }
        let shape = self.shape(input)?;
        let axis = resolve_axis(node.int("axis").unwrap_or(-1), shape.len()).ok_or(Reason::Attribute("axis"))?;
        let width: usize = shape[axis..].iter().product();
        let each = |value: Option<ValueId>| match value {
            None => Ok(Vec::new()),
            Some(value) => {
                // One for each value of a row; others would repeat.
                let own = self.shape(value)?;
                let along =
                    own.iter().skip_while(|&&dim| dim == 1).eq(shape[axis..].iter().skip_while(|&&dim| dim == 1));
                if !along || own.iter().product::<usize>() != width {
                    return Err(Reason::Attribute("scale and bias of another shape than rows"));
                }
                let floats = match self.reps.get(&value) {
                    Some(Rep::Constant(constant)) => {
                        self.pay(constant.data.len().saturating_mul(8))?;
                        Some(constant.floats())
                    }
                    Some(_) | None => self.float_constant(value),
                };
                floats.filter(|floats| floats.len() == width).ok_or(Reason::Computed)
            }
        };
        let norm = LayerNorm {
            epsilon: node.float("epsilon").unwrap_or(1e-5),
            scale: each(node.input(1))?.into(),
            bias: each(node.input(2))?.into(),
        };
        self.rows(input, axis, RowFunction::LayerNorm(norm), output)
    }

    /// Float tensors one behind the other.
    pub fn float_concat(&mut self, node: &Node, output: ValueId) -> Result<(), Reason> {
        let values: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        if !values.iter().any(|&value| matches!(self.reps.get(&value), Some(Rep::Float(_)))) {
            return Err(Reason::Input);
        }
        let inputs: Vec<Id> = values.iter().map(|&value| self.float_input(value)).collect::<Result<_, _>>()?;
        let rank = self.shape(output)?.len();
        let axis = node.int("axis").and_then(|axis| resolve_axis(axis, rank)).ok_or(Reason::Attribute("axis"))?;
        self.emit_float(Op::Concat { axis }, inputs, output)
    }
}
