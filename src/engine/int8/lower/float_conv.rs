//! Convolutions of floats, by weights of floats or of int8, and what stands between them in a net.
//!
//! A product and a sum by a constant for each channel that alone follow a convolution are taken into its weights.
//! What is rounded otherwise by that is rounded once less.

use super::super::function::Binary;
use super::super::op::{FloatAverage, FloatConv, FloatLinear, FloatWeights, Op, Weights, Window};
use super::super::program::{Type, ValueId as Id};
use super::params::QuantConst;
use super::product::{Bias, Convolution};
use super::reason::Reason;
use super::state::{Lowering, Rep};
use crate::onnx::ElementType;
use crate::onnx::graph::{Node, ValueId};
use std::sync::Arc;

/// Products in a matrix product that is worth a region of its own.
pub(super) const WORTH: usize = 1 << 20;

/// Weights and bias before anything is made of them.
struct Factors {
    weights: FloatWeights,
    /// Empty, or one for each output channel.
    bias: Vec<f32>,
}

impl Lowering<'_> {
    /// By float weights, or by int8 weights of which the input is no int8 tensor.
    pub fn float_conv(&mut self, node: &Node, x: ValueId, w: ValueId, output: ValueId) -> Result<(), Reason> {
        let factors = match self.weights(w) {
            Ok(weights) => self.factors_of_bytes(node, weights)?,
            Err(_) => self.factors_of_floats(node, w)?,
        };
        let input = self.float_input(x)?;
        let Convolution { input, window, weights: shape, group, output: made, flat } =
            self.convolution(node, input, factors.weights.shape())?;
        let (output, Factors { weights, bias }) = self.with_affine(output, factors);
        let weights = match weights {
            FloatWeights::Bytes { weights, scales } => {
                FloatWeights::Bytes { weights: Weights { shape, ..weights }, scales }
            }
            FloatWeights::Floats { data, .. } => FloatWeights::Floats { data, shape },
        };
        let conv = FloatConv { weights, bias: bias.into(), window, group };
        let id = self.emit(Op::FloatConv(conv), vec![input], made, Type::F32)?;
        let id = self.reshaped(id, flat)?;
        self.reps.insert(output, Rep::Float(id));
        Ok(())
    }

    fn factors_of_bytes(&self, node: &Node, weights: QuantConst) -> Result<Factors, Reason> {
        if !weights.is_by(0) {
            return Err(Reason::Weights);
        }
        let bias = match self.bias(node.input(2), 1.0, &weights.scales)? {
            Bias::None => Vec::new(),
            Bias::Floats(bias) => bias,
            Bias::Integers(bias) => {
                let scale = |i: usize| weights.scales[i % weights.scales.len()];
                bias.iter().enumerate().map(|(i, &b)| b as f32 * scale(i)).collect()
            }
        };
        let QuantConst { data, shape, scales, zero_points, .. } = weights;
        let weights = Weights { data, shape, zero_points: zero_points.into() };
        Ok(Factors { weights: FloatWeights::Bytes { weights, scales: scales.into() }, bias })
    }

    fn factors_of_floats(&self, node: &Node, w: ValueId) -> Result<Factors, Reason> {
        let tensor = self.graph.constant(w).ok_or(Reason::Weights)?;
        let data = self.f32s(w)?;
        let bias = match self.bias(node.input(2), 1.0, &[1.0])? {
            Bias::None => Vec::new(),
            Bias::Floats(bias) => bias,
            Bias::Integers(bias) => bias.iter().map(|&b| b as f32).collect(),
        };
        Ok(Factors { weights: FloatWeights::Floats { data: data.into(), shape: tensor.shape().to_vec() }, bias })
    }

    /// A constant of F32.
    fn f32s(&self, value: ValueId) -> Result<Vec<f32>, Reason> {
        let tensor = self.graph.constant(value).ok_or(Reason::Weights)?;
        if tensor.element() != ElementType::F32 {
            return Err(Reason::Element(tensor.element()));
        }
        self.pay(tensor.len().saturating_mul(8))?;
        tensor.to_f32s().ok_or(Reason::Weights)
    }

    /// Takes in constants for each channel that alone follow.
    fn with_affine(&self, mut output: ValueId, mut factors: Factors) -> (ValueId, Factors) {
        while let Some((next, function, values)) = self.affine(output, factors.weights.shape()[0]) {
            let Some(taken) = factors.taking(function, &values) else { break };
            (output, factors) = (next, taken);
        }
        (output, factors)
    }

    /// The value behind a sum or a product by a constant, or one for each channel.
    fn affine(&self, of: ValueId, channels: usize) -> Option<(ValueId, Binary, Vec<f32>)> {
        let (id, input) = self.uses.only(of)?;
        let node = self.graph.node(id)?;
        let function = super::elementwise::binary(node).filter(|function| {
            matches!(function, Binary::Add | Binary::Mul) || (*function == Binary::Sub && input == 0)
        })?;
        let other = node.input(1 - input)?;
        let (shape, own) = (self.graph.constant(other)?.shape(), self.facts.shape(of)?);
        let behind = own.len().checked_sub(shape.len())?;
        let fits = shape.iter().enumerate().all(|(axis, &dim)| dim == 1 || (axis + behind == 1 && dim == channels));
        let values = if fits { self.f32s(other).ok()? } else { return None };
        (self.facts.shape(node.output(0)?)? == own).then_some((node.output(0)?, function, values))
    }

    /// Of a value that a region has, or of many: as a product with constant float weights `[K][N]`, or `[N][K]`.
    pub fn float_weights_product(
        &mut self,
        (x, w): (ValueId, ValueId),
        transposed: bool,
        bias: Bias,
        output: ValueId,
    ) -> Result<(), Reason> {
        let shape = self.graph.constant(w).ok_or(Reason::Weights)?.shape().to_vec();
        let rows = self.shape(output)?.iter().rev().skip(1).product::<usize>();
        if !self.is_float_here(x) && shape.iter().product::<usize>().saturating_mul(rows) < WORTH {
            return Err(Reason::Input);
        }
        let [outer @ .., rows, columns] = shape.as_slice() else { return Err(Reason::Weights) };
        if outer.iter().any(|&dim| dim != 1) {
            return Err(Reason::Weights);
        }
        let given = self.f32s(w)?;
        let (data, shape) = match transposed {
            false => (given, vec![*rows, *columns]),
            true => {
                let mut turned = vec![0.0; given.len()];
                crate::kernels::part_of_floats(&given, [*rows, *columns], [*columns, *rows], &mut turned);
                (turned, vec![*columns, *rows])
            }
        };
        let bias = match bias {
            Bias::None => Vec::new(),
            Bias::Floats(bias) if bias.len() == 1 => vec![bias[0]; shape[1]],
            Bias::Floats(bias) => bias,
            Bias::Integers(_) => return Err(Reason::Computed),
        };
        let input = self.float_input(x)?;
        let weights = FloatWeights::Floats { data: data.into(), shape };
        self.emit_float(Op::FloatLinear(FloatLinear { weights, bias: bias.into() }), vec![input], output)
    }

    /// AveragePool, GlobalAveragePool, and averages over height and width.
    pub fn float_average(&mut self, node: &Node, input: ValueId, output: ValueId) -> Result<(), Reason> {
        if !self.is_float_here(input) {
            return Err(Reason::Input);
        }
        let (image, flat) = {
            let id = self.float_input(input)?;
            self.image(id)?
        };
        let size = self.shape_of(image);
        let all = Window { kernel: [size[2], size[3]], ..Window::UNIT };
        let window = match node.op.as_str() {
            "AveragePool" => self.pool_window(node, image, flat)?,
            "GlobalAveragePool" => all,
            _ => {
                let mut axes = self.reduced_axes(node, size.len())?;
                axes.sort_unstable();
                if flat || axes != [2, 3] {
                    return self.float_mean(node, input, output);
                }
                all
            }
        };
        let count_pads = node.int("count_include_pad").unwrap_or(0) != 0;
        if count_pads && node.int("ceil_mode").unwrap_or(0) != 0 {
            return Err(Reason::Attribute("count_include_pad with ceil_mode"));
        }
        let op = Op::FloatAverage(FloatAverage { window, count_pads });
        self.float_window(op, image, &window, output)
    }

    pub fn float_max_pool(&mut self, node: &Node, input: ValueId, output: ValueId) -> Result<(), Reason> {
        let id = self.float_input(input)?;
        let (image, flat) = self.image(id)?;
        let window = self.max_window(node, image, flat)?;
        self.float_window(Op::MaxPool(window), image, &window, output)
    }

    /// A pool, in the shape that ONNX gives its output.
    fn float_window(&mut self, op: Op, image: Id, window: &Window, output: ValueId) -> Result<(), Reason> {
        let shape = self.pooled_shape(image, window)?;
        let id = self.emit(op, vec![image], shape.clone(), Type::F32)?;
        let wanted = self.shape(output)?;
        let id = self.reshaped(id, (wanted != shape).then_some(wanted))?;
        self.reps.insert(output, Rep::Float(id));
        Ok(())
    }

    /// A normalization by constants that no convolution took in: a product and a sum.
    pub fn visit_batch_norm(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        if !self.is_float_here(input) {
            return Err(Reason::Input);
        }
        if node.int("training_mode").unwrap_or(0) != 0 || node.outputs.iter().skip(1).any(Option::is_some) {
            return Err(Reason::Attribute("training_mode"));
        }
        let shape = self.shape(input)?;
        let channels = *shape.get(1).ok_or(Reason::Shape)?;
        let list = |input: usize| {
            let values = node.input(input).and_then(|value| self.float_constant(value)).ok_or(Reason::Computed)?;
            if values.len() == channels { Ok(values) } else { Err(Reason::Shape) }
        };
        let [scale, shift, mean, variance] = [list(1)?, list(2)?, list(3)?, list(4)?];
        let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
        let factor = |i: usize| f64::from(scale[i]) / (f64::from(variance[i]) + epsilon).sqrt();
        let factors: Arc<[f32]> = (0..channels).map(|i| factor(i) as f32).collect();
        let rest = |i: usize| (f64::from(shift[i]) - f64::from(mean[i]) * factor(i)) as f32;
        let rests: Arc<[f32]> = (0..channels).map(rest).collect();
        let by_channel: Vec<usize> = (1..shape.len()).map(|axis| if axis == 1 { channels } else { 1 }).collect();
        let mut id = self.float_input(input)?;
        for (function, values) in [(Binary::Mul, factors), (Binary::Add, rests)] {
            let constant = self.emit(Op::FloatConstant(values), Vec::new(), by_channel.clone(), Type::F32)?;
            id = self.emit(Op::FloatBinary(function), vec![id, constant], shape.clone(), Type::F32)?;
        }
        self.reps.insert(output, Rep::Float(id));
        Ok(())
    }
}

impl Factors {
    /// With what follows in it; `None` where that cannot be.
    fn taking(&self, function: Binary, values: &[f32]) -> Option<Self> {
        let channels = self.weights.shape()[0];
        let of = |i: usize| values[i % values.len()];
        let bias = |i: usize| self.bias.get(i).copied().unwrap_or(0.0);
        let made = match function {
            Binary::Mul => {
                let weights = match &self.weights {
                    FloatWeights::Floats { data, shape } => {
                        let each = (data.len() / channels.max(1)).max(1);
                        let data = data.iter().enumerate().map(|(i, w)| w * of(i / each)).collect();
                        FloatWeights::Floats { data, shape: shape.clone() }
                    }
                    FloatWeights::Bytes { weights, scales } => {
                        let scales = (0..channels).map(|i| scales[i % scales.len()] * of(i)).collect();
                        FloatWeights::Bytes { weights: weights.clone(), scales }
                    }
                };
                let bias = (0..self.bias.len()).map(|i| bias(i) * of(i)).collect();
                Self { weights, bias }
            }
            Binary::Add => {
                Self { weights: self.weights.clone(), bias: (0..channels).map(|i| bias(i) + of(i)).collect() }
            }
            Binary::Sub => {
                Self { weights: self.weights.clone(), bias: (0..channels).map(|i| bias(i) - of(i)).collect() }
            }
            Binary::Div | Binary::Min | Binary::Max | Binary::Pow => return None,
        };
        let finite = match &made.weights {
            FloatWeights::Floats { data, .. } => data.iter().all(|w| w.is_finite()),
            FloatWeights::Bytes { scales, .. } => scales.iter().all(|scale| scale.is_finite()),
        };
        (finite && made.bias.iter().all(|b| b.is_finite())).then_some(made)
    }
}
