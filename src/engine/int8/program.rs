//! A region's program: values, and steps that make each from earlier ones.
//!
//! Invariant: a `Program` has passed `check`: shapes fit, types fit, no accumulator leaves 32 bits, each value is made
//! once and before it is used. Executors rely on it.
//! Not here: memory, layouts, kernels (each executor's own), where programs come from (`lower`).
//! Rejected: an operator with several outputs (a Split is as many slices, which executors make views of).

use super::check::{CheckError, check};
use super::op::Op;

/// A value's number in its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What an int8 value stands for: `(q − zero_point)·scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantParams {
    /// Finite, positive, normal.
    pub scale: f32,
    /// In the signed domain: 128 less than an ONNX uint8 tensor has it.
    pub zero_point: i8,
    /// Whether the ONNX tensor is int8 rather than uint8. Matters where the value leaves or enters the region.
    pub signed: bool,
}

impl QuantParams {
    /// Whether the same bytes of the signed domain mean the same numbers.
    pub fn agrees(&self, other: &Self) -> bool {
        self.scale.to_bits() == other.scale.to_bits() && self.zero_point == other.zero_point
    }
}

/// What a value's elements are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    Int8(QuantParams),
    /// Int8 of which scale and zero point come with the values.
    Dynamic,
    F32,
    I32,
}

/// Shape and type of a value. Shapes are logical (NCHW), outermost first, and may be empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    pub shape: Vec<usize>,
    pub ty: Type,
}

impl Value {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An operator, what it reads and what it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub op: Op,
    pub inputs: Vec<ValueId>,
    pub output: ValueId,
}

/// The parts of a program that nobody has checked yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    pub values: Vec<Value>,
    pub steps: Vec<Step>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
}

impl Draft {
    pub fn value(&mut self, shape: Vec<usize>, ty: Type) -> ValueId {
        self.values.push(Value { shape, ty });
        ValueId(u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX))
    }

    pub fn step(&mut self, op: Op, inputs: Vec<ValueId>, shape: Vec<usize>, ty: Type) -> ValueId {
        let output = self.value(shape, ty);
        self.steps.push(Step { op, inputs, output });
        output
    }
}

/// A program that is well formed.
#[derive(Debug, Clone, PartialEq)]
pub struct Program(Draft);

impl Program {
    /// # Errors
    /// The first step that does not fit, and how.
    pub fn new(draft: Draft) -> Result<Self, CheckError> {
        check(&draft)?;
        Ok(Self(draft))
    }

    pub fn values(&self) -> &[Value] {
        &self.0.values
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.0.values[id.index()]
    }

    /// In an order in which they can run.
    pub fn steps(&self) -> &[Step] {
        &self.0.steps
    }

    pub fn inputs(&self) -> &[ValueId] {
        &self.0.inputs
    }

    pub fn outputs(&self) -> &[ValueId] {
        &self.0.outputs
    }

    /// Multiplications of int8 values in one run.
    pub fn macs(&self) -> u64 {
        self.0.steps.iter().map(|step| self.macs_of(step)).sum()
    }

    /// Multiplications of int8 values in one of its steps.
    pub fn macs_of(&self, step: &Step) -> u64 {
        let made = self.value(step.output).count() as u64;
        match &step.op {
            Op::Conv(conv) => made * conv.weights.shape[1..].iter().product::<usize>() as u64,
            Op::Linear(linear) => made * linear.weights.shape[0] as u64,
            Op::MatMul(_) => made * self.value(step.inputs[0]).shape.last().map_or(1, |&k| k as u64),
            Op::Constant(_)
            | Op::FloatConstant(_)
            | Op::Quantize
            | Op::Dequantize(_)
            | Op::DynamicQuantize
            | Op::Table(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Concat { .. }
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::Mean(_)
            | Op::Softmax(_)
            | Op::Bilinear(_)
            | Op::Select { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Transpose { .. }
            | Op::Reshape
            | Op::Float(_)
            | Op::FloatBinary(_) => 0,
        }
    }
}
