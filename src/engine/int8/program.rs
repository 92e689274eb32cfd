//! A region's program: values, and steps that make each from earlier ones.
//!
//! Invariant: a `Program` has passed `check`: shapes fit, types fit, no accumulator leaves 32 bits, each value is made
//! once and before it is used. Executors rely on it.
//! Not here: memory, layouts, kernels (each executor's own), where programs come from (`lower`).
//! Rejected: an operator with several outputs (a Split is as many slices, which executors make views of).

use super::check::{CheckError, check};
use super::op::Op;
use std::sync::Arc;

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
    /// The ONNX node that it was made for, in reports.
    pub node: Arc<str>,
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
        self.steps.push(Step { op, inputs, output, node: "".into() });
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

    /// Multiplications of values in one run.
    pub fn macs(&self) -> u64 {
        self.0.steps.iter().map(|step| self.macs_of(step)).sum()
    }

    /// The same without the weights of the steps that are marked, which cannot be executed any more.
    pub fn without_weights(&self, marked: &[bool]) -> Self {
        let mut draft = self.0.clone();
        for (step, _) in draft.steps.iter_mut().zip(marked).filter(|(_, marked)| **marked) {
            step.op.forget_weights();
        }
        Self(draft)
    }

    /// Multiplications in one of its products.
    pub fn macs_of(&self, step: &Step) -> u64 {
        let products = match step.op.weights_shape() {
            Some(&[k, _]) => k,
            Some(shape) => shape.iter().skip(1).product(),
            None if matches!(step.op, Op::MatMul(_) | Op::FloatMatMul) => {
                self.value(step.inputs[0]).shape.last().copied().unwrap_or(1)
            }
            None => 0,
        };
        self.value(step.output).count() as u64 * products as u64
    }
}
