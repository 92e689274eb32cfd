//! Conv, Gemm, MatMul: sums of products with constant weights, and of two activations.

use super::super::op::{Conv, Finish, Linear, Op, Weights, Window};
use super::super::program::{Type, ValueId as Id};
use super::params::{QuantConst, is_dequantize};
use super::reason::Reason;
use super::sink::Sink;
use super::state::{Lowering, Operand, Rep};
use crate::onnx::graph::{Node, ValueId};
use crate::onnx::{ElementType, Tensor};
use std::sync::Arc;

/// A bias as the file has it.
#[derive(Debug, Clone)]
pub(super) enum Bias {
    None,
    /// In units of input scale times weight scale.
    Integers(Arc<[i32]>),
    Floats(Vec<f32>),
}

/// What a product multiplies with.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// `[N, C, H, W]` by a window.
    Conv { window: Window, group: usize },
    /// `[.., K]` by `[K][N]`.
    Linear,
}

/// A convolution over images of two dimensions.
#[derive(Debug)]
pub(super) struct Convolution {
    pub input: Id,
    pub window: Window,
    pub weights: Vec<usize>,
    pub group: usize,
    pub output: Vec<usize>,
    /// The shape that its output has in ONNX, where that has one axis less.
    pub flat: Option<Vec<usize>>,
}

/// A product with constant weights.
#[derive(Debug)]
pub(super) struct Product {
    /// Int8 or dynamic.
    pub input: Id,
    /// 1 for a dynamic input, whose scale is known at run time.
    pub input_scale: f32,
    pub weights: Weights,
    pub weight_scales: Vec<f32>,
    pub bias: Bias,
    pub shape: Shape,
    pub output: Vec<usize>,
}

impl Product {
    /// Input scale times weight scale: one, or one for each output channel.
    pub fn scales(&self) -> Vec<f32> {
        self.weight_scales.iter().map(|&ws| self.input_scale * ws).collect()
    }

    fn op(&self, bias: Arc<[i32]>, finish: Finish) -> Op {
        let weights = self.weights.clone();
        match self.shape {
            Shape::Conv { window, group } => Op::Conv(Conv { weights, bias, window, group, finish }),
            Shape::Linear => Op::Linear(Linear { weights, bias, finish }),
        }
    }
}

/// Floats in units of the scales; `None` where one does not fit.
fn in_units(bias: &[f32], scales: &[f32]) -> Option<Arc<[i32]>> {
    let one = |(i, &b): (usize, &f32)| {
        let units = (f64::from(b) / f64::from(scales[i % scales.len()])).round_ties_even();
        (units.abs() <= f64::from(i32::MAX)).then_some(units as i32)
    };
    bias.iter().enumerate().map(one).collect()
}

impl Lowering<'_> {
    pub fn visit_conv(&mut self, node: &Node) -> Result<(), Reason> {
        let (Some(x), Some(w), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            return Err(Reason::Input);
        };
        let (Ok(input), Ok(weights)) = (self.as_int8(x), self.weights(w)) else {
            return self.float_conv(node, x, w, output);
        };
        if !weights.is_by(0) {
            return Err(Reason::Weights);
        }
        let bias = self.bias(node.input(2), input.params.scale, &weights.scales)?;
        self.conv(node, input.id, input.params.scale, &weights, bias, output)
    }

    /// A convolution behind which stands a float tensor.
    pub fn conv(
        &mut self,
        node: &Node,
        input: Id,
        input_scale: f32,
        weights: &QuantConst,
        bias: Bias,
        output: ValueId,
    ) -> Result<(), Reason> {
        let (image, product) = self.conv_product(node, input, input_scale, weights, bias)?;
        let (output, product) = self.with_added_bias(output, product, Some(1));
        self.finish(product, output, image)
    }

    /// The product of a convolution, and the shape that its output has in ONNX, where that has one axis less.
    pub fn conv_product(
        &mut self,
        node: &Node,
        input: Id,
        input_scale: f32,
        weights: &QuantConst,
        bias: Bias,
    ) -> Result<(Option<Vec<usize>>, Product), Reason> {
        let Convolution { input, window, weights: shape, group, output, flat } =
            self.convolution(node, input, &weights.shape)?;
        let product = Product {
            input,
            input_scale,
            weights: Weights {
                data: Arc::clone(&weights.data),
                shape,
                zero_points: weights.zero_points.clone().into(),
            },
            weight_scales: weights.scales.clone(),
            bias,
            shape: Shape::Conv { window, group },
            output,
        };
        Ok((flat, product))
    }

    /// What a convolution is, by weights of that shape as the file has them.
    pub fn convolution(&mut self, node: &Node, input: Id, weights: &[usize]) -> Result<Convolution, Reason> {
        let (input, flat) = self.image(input)?;
        let (window, shape) = match (flat, weights) {
            (true, &[m, c, k]) => (self.window(node, &[k], input, flat)?, vec![m, c, 1, k]),
            (false, &[m, c, kh, kw]) => (self.window(node, &[kh, kw], input, flat)?, vec![m, c, kh, kw]),
            (true | false, _) => return Err(Reason::Attribute("kernel of other than 1 or 2 dimensions")),
        };
        let from = self.shape_of(input);
        let [oh, ow] = window.output([from[2], from[3]]).ok_or(Reason::Shape)?;
        let group = usize::try_from(node.int("group").unwrap_or(1)).map_err(|_| Reason::Attribute("group"))?;
        let flat = flat.then(|| vec![from[0], shape[0], ow]);
        Ok(Convolution { input, window, group, output: vec![from[0], shape[0], oh, ow], weights: shape, flat })
    }

    pub fn visit_gemm(&mut self, node: &Node) -> Result<(), Reason> {
        let (Some(x), Some(w), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            return Err(Reason::Input);
        };
        let plain = node.float("alpha").unwrap_or(1.0) == 1.0 && node.float("beta").unwrap_or(1.0) == 1.0;
        if !plain || node.int("transA").unwrap_or(0) != 0 {
            return Err(Reason::Attribute("alpha, beta or transA"));
        }
        let (bias, transposed) = (node.input(2), node.int("transB").unwrap_or(0) != 0);
        // By rows it would be something else, even where there are as many rows as columns.
        let by_column = |shape: Vec<usize>| shape.iter().rev().skip(1).all(|&dim| dim == 1);
        if bias.is_some_and(|bias| !self.facts.shape(bias).is_some_and(by_column)) {
            return Err(Reason::Attribute("C that is not added by columns"));
        }
        if self.weights(w).is_err() && self.graph.constant(w).is_some() {
            let bias = self.bias(bias, 1.0, &[1.0])?;
            return self.float_weights_product((x, w), transposed, bias, output);
        }
        let weights = columns(self.weights(w)?, transposed)?;
        match self.as_int8(x) {
            Ok(input) => {
                let bias = self.bias(bias, input.params.scale, &weights.scales)?;
                self.linear(input.id, input.params.scale, &weights, bias, output)
            }
            Err(_) => {
                let bias = self.bias(bias, 1.0, &weights.scales)?;
                self.float_linear(x, &weights, bias, output)
            }
        }
    }

    pub fn visit_mat_mul(&mut self, node: &Node) -> Result<(), Reason> {
        let (Some(a), Some(b), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            return Err(Reason::Input);
        };
        let weights = self.weights(b).and_then(|weights| columns(weights, false));
        match (self.as_int8(a), weights) {
            (Ok(left), Ok(weights)) => self.linear(left.id, left.params.scale, &weights, Bias::None, output),
            (Err(_), Ok(weights)) => self.float_linear(a, &weights, Bias::None, output),
            (Ok(left), Err(_)) if let Ok(right) = self.as_int8(b) => self.mat_mul(left, right, output),
            (Ok(_) | Err(_), Err(_)) if self.graph.constant(b).is_some() => {
                self.float_weights_product((a, b), false, Bias::None, output)
            }
            (Ok(_) | Err(_), Err(_)) => self.float_mat_mul(a, b, output),
        }
    }

    pub fn linear(
        &mut self,
        input: Id,
        input_scale: f32,
        weights: &QuantConst,
        bias: Bias,
        output: ValueId,
    ) -> Result<(), Reason> {
        let product = self.linear_product(input, input_scale, weights, bias)?;
        let (output, product) = self.with_added_bias(output, product, None);
        self.finish(product, output, None)
    }

    pub fn linear_product(
        &mut self,
        input: Id,
        input_scale: f32,
        weights: &QuantConst,
        bias: Bias,
    ) -> Result<Product, Reason> {
        let mut shape = self.shape_of(input);
        *shape.last_mut().ok_or(Reason::Shape)? = weights.shape[1];
        Ok(Product {
            input,
            input_scale,
            weights: Weights {
                data: Arc::clone(&weights.data),
                shape: weights.shape.clone(),
                zero_points: weights.zero_points.clone().into(),
            },
            weight_scales: weights.scales.clone(),
            bias,
            shape: Shape::Linear,
            output: shape,
        })
    }

    /// The product of two activations.
    fn mat_mul(&mut self, a: Operand, b: Operand, output: ValueId) -> Result<(), Reason> {
        let shape = self.shape(output)?;
        if let Some(to) = self.sink(output) {
            let made = self.emit_mat_mul(a, b, shape, to)?;
            self.stands_for(output, made);
        } else {
            let scales = Arc::new([a.params.scale * b.params.scale]);
            let finish = Finish::Float { scales, bias: Arc::new([]) };
            let id = self.emit(Op::MatMul(finish), vec![a.id, b.id], shape, Type::F32)?;
            self.reps.insert(output, Rep::Float(id));
        }
        Ok(())
    }

    pub fn emit_mat_mul(&mut self, a: Operand, b: Operand, shape: Vec<usize>, to: Sink) -> Result<Operand, Reason> {
        let Sink { params, low, high } = to;
        let multipliers = Arc::new([a.params.scale * b.params.scale / params.scale]);
        let finish = Finish::Requantize { multipliers, zero_point: params.zero_point, low, high, table: None };
        let made = self.emit_int8(Op::MatMul(finish), vec![a.id, b.id], shape, params)?;
        self.bound(made.id, low, high);
        Ok(made)
    }

    /// A product with what stands behind its ONNX value: rounded where that goes to a QuantizeLinear, else float.
    fn finish(&mut self, product: Product, output: ValueId, shape: Option<Vec<usize>>) -> Result<(), Reason> {
        if let Some(to) = self.sink(output) {
            let made = self.requantize(&product, to)?;
            let made = Operand { id: self.reshaped(made.id, shape)?, params: made.params };
            self.bound(made.id, to.low, to.high);
            self.stands_for(output, made);
        } else {
            let id = self.float_product(&product)?;
            let id = self.reshaped(id, shape)?;
            self.reps.insert(output, Rep::Float(id));
        }
        Ok(())
    }

    pub fn reshaped(&mut self, id: Id, shape: Option<Vec<usize>>) -> Result<Id, Reason> {
        let Some(shape) = shape else { return Ok(id) };
        let ty = self.draft.values[id.index()].ty;
        self.emit(Op::Reshape, vec![id], shape, ty)
    }

    /// To int8: a bias too large for 32 bits takes the way through float.
    pub fn requantize(&mut self, product: &Product, to: Sink) -> Result<Operand, Reason> {
        let Sink { params, low, high } = to;
        let scales = product.scales();
        let bias = match &product.bias {
            Bias::None => Some(Arc::new([]) as Arc<[i32]>),
            Bias::Integers(bias) => Some(Arc::clone(bias)),
            Bias::Floats(bias) => in_units(bias, &scales),
        };
        if let Some(bias) = bias {
            let multipliers = scales.iter().map(|scale| scale / params.scale).collect();
            let op = product
                .op(bias, Finish::Requantize { multipliers, zero_point: params.zero_point, low, high, table: None });
            let made = self.emit_int8(op, vec![product.input], product.output.clone(), params);
            if made.is_ok() || !matches!(product.bias, Bias::Floats(_)) {
                let made = made?;
                self.bound(made.id, low, high);
                return Ok(made);
            }
        }
        let float = self.float_product(product)?;
        let made = self.emit_int8(Op::Quantize, vec![float], product.output.clone(), params)?;
        let clamp = std::array::from_fn(|i| (i as u8 ^ 0x80).cast_signed().clamp(low, high));
        self.table(made, clamp, params)
    }

    pub fn float_product(&mut self, product: &Product) -> Result<Id, Reason> {
        let (integers, floats): (Arc<[i32]>, Arc<[f32]>) = match &product.bias {
            Bias::None => (Arc::new([]), Arc::new([])),
            Bias::Integers(bias) => (Arc::clone(bias), Arc::new([])),
            Bias::Floats(bias) => (Arc::new([]), bias.as_slice().into()),
        };
        let finish = Finish::Float { scales: product.scales().into(), bias: floats };
        self.emit(product.op(integers, finish), vec![product.input], product.output.clone(), Type::F32)
    }

    /// A quantized constant with one scale, or one for each output channel.
    pub fn weights(&self, value: ValueId) -> Result<QuantConst, Reason> {
        match self.reps.get(&value) {
            Some(Rep::Constant(constant)) => Ok((**constant).clone()),
            Some(Rep::Int8(_) | Rep::Curve { .. } | Rep::Float(_) | Rep::Dynamic(_)) | None => Err(Reason::Weights),
        }
    }

    /// A bias: INT32 behind a DequantizeLinear, or float.
    pub fn bias(&self, value: Option<ValueId>, input_scale: f32, scales: &[f32]) -> Result<Bias, Reason> {
        let Some(value) = value else { return Ok(Bias::None) };
        if let Some(floats) = self.float_constant(value) {
            return Ok(Bias::Floats(floats));
        }
        if let Some(Rep::Constant(constant)) = self.reps.get(&value) {
            self.pay(constant.data.len() * 4)?;
            return Ok(Bias::Floats(constant.floats()));
        }
        let (_, node) = self.graph.producer(value).filter(|(_, node)| is_dequantize(node)).ok_or(Reason::Computed)?;
        let tensor = node.input(0).and_then(|v| self.graph.constant(v)).ok_or(Reason::Computed)?;
        let own = self.scales(node.input(1))?;
        let zero =
            |value| self.graph.constant(value).and_then(Tensor::to_i64s).is_some_and(|z| z.iter().all(|&z| z == 0));
        if !node.input(2).is_none_or(zero) {
            return Err(Reason::Attribute("a bias with a zero point"));
        }
        self.pay(tensor.len().saturating_mul(12))?;
        let values = tensor.to_i64s().filter(|_| tensor.element() == ElementType::I32).ok_or(Reason::Computed)?;
        let same = (0..values.len()).all(|i| {
            let (own, wanted) = (own[i % own.len()], input_scale * scales[i % scales.len()]);
            ((own - wanted) / wanted).abs() < 1e-5
        });
        if same {
            return Ok(Bias::Integers(values.iter().map(|&v| v as i32).collect()));
        }
        let float = |(i, &v): (usize, &i64)| (v as f64 * f64::from(own[i % own.len()])) as f32;
        Ok(Bias::Floats(values.iter().enumerate().map(float).collect()))
    }

    /// Takes in an Add of a constant for each channel that alone reads the product.
    pub fn with_added_bias(&self, output: ValueId, product: Product, axis: Option<usize>) -> (ValueId, Product) {
        let added = || {
            let (id, input) = self.uses.only(output)?;
            let node = self.graph.node(id).filter(|node| node.is("Add"))?;
            let other = node.input(1 - input)?;
            let floats = match self.bias(Some(other), product.input_scale, &product.weight_scales).ok()? {
                Bias::None => return None,
                Bias::Floats(floats) => floats,
                // Beyond, not every one of them is a float.
                Bias::Integers(bias) if bias.iter().any(|b| b.unsigned_abs() > 1 << 24) => return None,
                Bias::Integers(bias) => {
                    let scales = product.scales();
                    bias.iter().enumerate().map(|(i, &b)| b as f32 * scales[i % scales.len()]).collect()
                }
            };
            let rank = self.facts.shape(output)?.len();
            let channel = axis.unwrap_or(rank - 1);
            let shape = self.facts.shape(other)?;
            let along = (channel + shape.len()).checked_sub(rank)?;
            let by_channel = shape.len() <= rank
                && shape.iter().enumerate().all(|(i, &dim)| dim == 1 || i == along)
                && shape.get(along) == self.facts.shape(output)?.get(channel);
            (by_channel && matches!(product.bias, Bias::None)).then_some((node.output(0)?, floats))
        };
        match added() {
            Some((output, floats)) => (output, Product { bias: Bias::Floats(floats), ..product }),
            None => (output, product),
        }
    }
}

/// Weights of a matrix product as `[K][N]`.
pub(super) fn columns(weights: QuantConst, transposed: bool) -> Result<QuantConst, Reason> {
    let rank = weights.shape.len();
    if rank < 2 || weights.shape[..rank - 2].iter().any(|&dim| dim != 1) {
        return Err(Reason::Weights);
    }
    let flat = QuantConst {
        shape: weights.shape[rank - 2..].to_vec(),
        axis: (weights.axis + 2).saturating_sub(rank),
        ..weights
    };
    let turned = if transposed { flat.transposed(&[1, 0]) } else { flat };
    if turned.is_by(1) { Ok(turned) } else { Err(Reason::Weights) }
}

impl QuantConst {
    /// Axis i of the result is axis `permutation[i]`.
    pub fn transposed(&self, permutation: &[usize]) -> Self {
        let shape: Vec<usize> = permutation.iter().map(|&axis| self.shape[axis]).collect();
        let strides: Vec<usize> = permutation.iter().map(|&axis| self.shape[axis + 1..].iter().product()).collect();
        let place = |mut index: usize| {
            let mut at = 0;
            for (dim, stride) in shape.iter().zip(&strides).rev() {
                at += index % dim * stride;
                index /= dim;
            }
            self.data[at]
        };
        let data = (0..self.data.len()).map(place).collect();
        let axis = permutation.iter().position(|&axis| axis == self.axis).unwrap_or(0);
        Self {
            data,
            shape,
            axis,
            scales: self.scales.clone(),
            zero_points: self.zero_points.clone(),
            signed: self.signed,
        }
    }
}
