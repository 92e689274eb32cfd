//! Operators that take values one at a time, and Softmax.
//!
//! A function of one int8 value, however many nodes compute it, is one table of 256 entries: this is how SiLU,
//! HardSwish and Gelu collapse, whichever way an exporter spelled them.

use super::super::function::{Binary, Unary, exponentials};
use super::super::op::{Add, Curve, Mul, Op, Softmax};
use super::super::program::QuantParams;
use super::super::round;
use super::params::resolve_axis;
use super::reason::Reason;
use super::sink::Sink;
use super::state::{Lowering, Operand, Rep};
use crate::onnx::graph::{Node, ValueId};
use std::sync::Arc;

/// The function of one value that a node computes, if it computes one.
pub(super) fn unary(lowering: &Lowering, node: &Node) -> Option<Unary> {
    let float = |name: &str, default: f32| node.float(name).unwrap_or(default);
    if node.domain == "com.microsoft" {
        return match node.op.as_str() {
            "Gelu" => Some(Unary::Gelu),
            "FastGelu" if node.input(1).is_none() => Some(Unary::GeluTanh),
            "QuickGelu" => Some(Unary::Swish { alpha: float("alpha", 1.702) }),
            _ => None,
        };
    }
    if !node.domain.is_empty() {
        return None;
    }
    let function = match node.op.as_str() {
        "Relu" => Unary::Relu,
        "Clip" => return clip(lowering, node),
        "LeakyRelu" => Unary::LeakyRelu { alpha: float("alpha", 0.01) },
        "PRelu" => Unary::LeakyRelu { alpha: lowering.scalar(node.input(1)?)? },
        "Elu" => Unary::Elu { alpha: float("alpha", 1.0) },
        "Celu" => Unary::Celu { alpha: float("alpha", 1.0) },
        "Selu" => Unary::Selu { alpha: float("alpha", 1.673_263_2), gamma: float("gamma", 1.050_701) },
        "Sigmoid" => Unary::Sigmoid,
        "HardSigmoid" => Unary::HardSigmoid { alpha: float("alpha", 0.2), beta: float("beta", 0.5) },
        "HardSwish" => Unary::HardSwish,
        "Swish" => Unary::Swish { alpha: float("alpha", 1.0) },
        "Gelu" if node.text("approximate") == Some("tanh") => Unary::GeluTanh,
        "Gelu" => Unary::Gelu,
        op => plain(op)?,
    };
    Some(function)
}

/// Operators without attributes.
fn plain(op: &str) -> Option<Unary> {
    let functions = [
        ("Tanh", Unary::Tanh),
        ("Softplus", Unary::Softplus),
        ("Softsign", Unary::Softsign),
        ("Mish", Unary::Mish),
        ("Erf", Unary::Erf),
        ("Exp", Unary::Exp),
        ("Log", Unary::Log),
        ("Sqrt", Unary::Sqrt),
        ("Reciprocal", Unary::Reciprocal),
        ("Neg", Unary::Neg),
        ("Abs", Unary::Abs),
        ("Floor", Unary::Floor),
        ("Ceil", Unary::Ceil),
        ("Round", Unary::Round),
        ("Sign", Unary::Sign),
        ("Sin", Unary::Sin),
        ("Cos", Unary::Cos),
        ("Identity", Unary::Identity),
    ];
    functions.into_iter().find(|(name, _)| *name == op).map(|(_, function)| function)
}

/// Bounds from attributes or constant inputs.
fn clip(lowering: &Lowering, node: &Node) -> Option<Unary> {
    let bound = |name: &str, input: usize, default: f32| match node.input(input) {
        Some(value) => lowering.scalar(value),
        None => Some(node.float(name).unwrap_or(default)),
    };
    let (low, high) = (bound("min", 1, f32::NEG_INFINITY)?, bound("max", 2, f32::INFINITY)?);
    // A bound that is not a number is none to one runtime, and makes all values so to another.
    (!low.is_nan() && !high.is_nan()).then_some(Unary::Clip { low, high })
}

pub(super) fn binary(node: &Node) -> Option<Binary> {
    if !node.domain.is_empty() || node.inputs.len() != 2 {
        return None;
    }
    match node.op.as_str() {
        "Add" => Some(Binary::Add),
        "Sub" => Some(Binary::Sub),
        "Mul" => Some(Binary::Mul),
        "Div" => Some(Binary::Div),
        "Min" => Some(Binary::Min),
        "Max" => Some(Binary::Max),
        "Pow" => Some(Binary::Pow),
        _ => None,
    }
}

/// Operands and what their result is to stand for.
pub(super) struct Pair {
    pub a: Operand,
    pub b: Operand,
    pub shape: Vec<usize>,
    pub to: Sink,
}

impl Lowering<'_> {
    pub fn visit_unary(&mut self, node: &Node, function: Unary) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        match self.reps.get(&input).cloned() {
            Some(Rep::Curve { source, curve }) => {
                let curve = Arc::new(curve.map(|x| function.of(x)));
                self.reps.insert(output, Rep::Curve { source, curve });
                Ok(())
            }
            Some(Rep::Float(id)) => {
                let id = self.float_function(function, id)?;
                self.reps.insert(output, Rep::Float(id));
                Ok(())
            }
            // An 8-bit tensor passes through.
            Some(rep @ (Rep::Int8(_) | Rep::Dynamic(_) | Rep::Constant(_))) if function == Unary::Identity => {
                self.reps.insert(output, rep);
                Ok(())
            }
            Some(Rep::Int8(_) | Rep::Dynamic(_) | Rep::Constant(_)) => Err(Reason::Operator),
            None => Err(Reason::Input),
        }
    }

    pub fn visit_binary(&mut self, node: &Node, function: Binary) -> Result<(), Reason> {
        let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { return Err(Reason::Input) };
        let output = node.output(0).ok_or(Reason::Output)?;
        if let Some(weights) = self.rescaled(a, b, function)? {
            self.reps.insert(output, Rep::Constant(Arc::new(weights)));
            return Ok(());
        }
        if let Some(rep) = self.curve_of_two(a, b, function, output)? {
            self.reps.insert(output, rep);
            return Ok(());
        }
        if let Some(to) = self.sink(output)
            && let (Ok(a), Ok(b)) = (self.as_int8(a), self.as_int8(b))
        {
            let pair = Pair { a, b, shape: self.shape(output)?, to };
            let made = match function {
                Binary::Add => Some(self.emit_add(&pair, 1.0)?),
                Binary::Sub => Some(self.emit_add(&pair, -1.0)?),
                Binary::Mul => Some(self.emit_mul(&pair)?),
                Binary::Div | Binary::Min | Binary::Max | Binary::Pow => None,
            };
            if let Some(made) = made {
                self.stands_for(output, made);
                return Ok(());
            }
        }
        self.float_binary(a, b, function, output)
    }

    /// Where both operands depend on one int8 value, element by element.
    fn curve_of_two(
        &mut self,
        a: ValueId,
        b: ValueId,
        function: Binary,
        output: ValueId,
    ) -> Result<Option<Rep>, Reason> {
        let curve = |value| match self.reps.get(&value) {
            Some(Rep::Curve { source, curve }) => Some((*source, Arc::clone(curve))),
            Some(Rep::Int8(_) | Rep::Float(_) | Rep::Dynamic(_) | Rep::Constant(_)) | None => None,
        };
        let (source, made): (_, Curve) = match (curve(a), curve(b)) {
            (Some((source, x)), Some((other, y))) if source == other => {
                (source, std::array::from_fn(|i| function.of(x[i], y[i])))
            }
            (Some((source, x)), None) => match self.any_scalar(b) {
                Some(y) => (source, x.map(|x| function.of(x, y))),
                None => return Ok(None),
            },
            (None, Some((source, y))) => match self.any_scalar(a) {
                Some(x) => (source, y.map(|y| function.of(x, y))),
                None => return Ok(None),
            },
            (Some(_), Some(_)) | (None, None) => return Ok(None),
        };
        let fits = self.shape(output)? == self.shape_of(source);
        Ok(fits.then(|| Rep::Curve { source, curve: Arc::new(made) }))
    }

    /// A constant of one element, quantized or not.
    pub fn any_scalar(&self, value: ValueId) -> Option<f32> {
        match self.reps.get(&value) {
            Some(Rep::Constant(constant)) if constant.data.len() == 1 => constant.floats().first().copied(),
            Some(Rep::Constant(_) | Rep::Int8(_) | Rep::Curve { .. } | Rep::Float(_) | Rep::Dynamic(_)) => None,
            None => self.scalar(value),
        }
    }

    /// a + sign·b.
    pub fn emit_add(&mut self, pair: &Pair, sign: f32) -> Result<Operand, Reason> {
        let Sink { params, low, high } = pair.to;
        let ra = pair.a.params.scale / params.scale;
        let rb = sign * (pair.b.params.scale / params.scale);
        let zero = |operand: &Operand| f32::from(operand.params.zero_point);
        let c = f32::from(params.zero_point) - zero(&pair.a).mul_add(ra, rb * zero(&pair.b));
        if let Some(made) = self.of_one(pair, |a, b| round::add(a, b, [ra, rb, c], low, high))? {
            return Ok(made);
        }
        let op = Op::Add(Add { ra, rb, c, low, high });
        let made = self.emit_int8(op, vec![pair.a.id, pair.b.id], pair.shape.clone(), params)?;
        self.bound(made.id, low, high);
        Ok(made)
    }

    pub fn emit_mul(&mut self, pair: &Pair) -> Result<Operand, Reason> {
        let Sink { params, low, high } = pair.to;
        let multiplier = pair.a.params.scale * pair.b.params.scale / params.scale;
        let (za, zb) = (i32::from(pair.a.params.zero_point), i32::from(pair.b.params.zero_point));
        let product = |a: i8, b: i8| (i32::from(a) - za) * (i32::from(b) - zb);
        let one = |a, b| round::multiply(product(a, b), multiplier, params.zero_point, low, high);
        if let Some(made) = self.of_one(pair, one)? {
            return Ok(made);
        }
        let op = Op::Mul(Mul { multiplier, low, high });
        let made = self.emit_int8(op, vec![pair.a.id, pair.b.id], pair.shape.clone(), params)?;
        self.bound(made.id, low, high);
        Ok(made)
    }

    /// One table, where both operands are tables of one value: x·sigmoid(x) with a pair behind each.
    fn of_one(&mut self, pair: &Pair, function: impl Fn(i8, i8) -> i8) -> Result<Option<Operand>, Reason> {
        let ((root, a), (other, b)) = (self.root(pair.a), self.root(pair.b));
        if root.id != other.id || self.shape_of(root.id) != pair.shape {
            return Ok(None);
        }
        self.table(root, std::array::from_fn(|i| function(a[i], b[i])), pair.to.params).map(Some)
    }

    pub fn visit_softmax(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        let (from, to) = match (self.as_int8(input), self.sink(output)) {
            (Ok(from), Some(to)) => (from, to),
            (Ok(_) | Err(_), _) => return self.float_softmax(node, input, output),
        };
        let rank = self.shape_of(from.id).len();
        let default = if node.version < 13 { 1 } else { -1 };
        let axis = resolve_axis(node.int("axis").unwrap_or(default), rank).ok_or(Reason::Attribute("axis"))?;
        if node.version < 13 && axis + 1 != rank {
            return Err(Reason::Attribute("axis of a version below 13"));
        }
        let made = self.emit_softmax(from, axis, to.params)?;
        self.stands_for(output, made);
        Ok(())
    }

    pub fn emit_softmax(&mut self, from: Operand, axis: usize, params: QuantParams) -> Result<Operand, Reason> {
        let exponentials = Arc::new(exponentials(from.params.scale));
        let rank = self.shape_of(from.id).len();
        // Kernels go along what lies innermost: the last axis, or the channels of images.
        let moved: Vec<usize> = (0..rank).filter(|&other| other != axis).chain([axis]).collect();
        let lies_well = axis + 1 == rank || (rank, axis) == (4, 1);
        let source = if lies_well { from.id } else { self.permute(from.id, moved.clone())? };
        let axis = if lies_well { axis } else { rank - 1 };
        let shape = self.shape_of(source);
        let made = self.emit_int8(Op::Softmax(Softmax { axis, exponentials }), vec![source], shape, params)?;
        if lies_well {
            return Ok(made);
        }
        let mut back = vec![0; rank];
        moved.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
        Ok(Operand { id: self.permute(made.id, back)?, params })
    }
}
