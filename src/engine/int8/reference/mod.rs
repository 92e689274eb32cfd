//! The exact executor: one loop a rule, scalar, NCHW.
//!
//! Invariant: its bytes are the program's meaning; every other executor must give the same. It is also what runs where
//! no other executor can.
//! Not here: speed. Accumulators are 32 bits wide, as `check` proved that they may be.

mod elementwise;
mod movement;
mod pool;
mod product;

use super::approximate;
use super::op::{Curve, Op};
use super::program::{Program, QuantParams, Step, Type, Value, ValueId};
use super::round;
use super::rows;
use std::sync::Arc;

/// A value's elements, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// In the signed domain.
    Int8(Vec<i8>),
    /// In the signed domain, with what they stand for.
    Dynamic {
        values: Vec<i8>,
        scale: f32,
        zero_point: i8,
    },
    F32(Vec<f32>),
    I32(Vec<i32>),
}

/// An input does not fit the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    #[error("the region takes {wanted} inputs, and got {found}")]
    Count { wanted: usize, found: usize },
    #[error("input {index} is to hold {wanted} bytes, and holds {found}")]
    Bytes { index: usize, wanted: usize, found: usize },
    #[error("input {index} is of a type that no region takes from outside")]
    Type { index: usize },
}

/// Runs a program on little-endian bytes as ONNX tensors have them; returns its outputs in the same form.
///
/// # Errors
/// When inputs do not have the number or sizes that the program states.
pub fn run_bytes(program: &Program, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, InputError> {
    if inputs.len() != program.inputs().len() {
        return Err(InputError::Count { wanted: program.inputs().len(), found: inputs.len() });
    }
    let read = |(index, (&id, bytes)): (usize, (&ValueId, &&[u8]))| from_bytes(program.value(id), index, bytes);
    let data = program.inputs().iter().zip(inputs).enumerate().map(read).collect::<Result<_, _>>()?;
    let outputs = run(program, data);
    Ok(program.outputs().iter().zip(&outputs).map(|(&id, data)| to_bytes(program.value(id), data)).collect())
}

/// What turns an ONNX byte into the signed domain and back, by exclusive or.
pub fn flip(params: &QuantParams) -> u8 {
    if params.signed { 0 } else { 0x80 }
}

pub fn from_bytes(value: &Value, index: usize, bytes: &[u8]) -> Result<Data, InputError> {
    let size = match value.ty {
        Type::Int8(_) => 1,
        Type::F32 | Type::I32 => 4,
        Type::Dynamic => return Err(InputError::Type { index }),
    };
    let wanted = value.count() * size;
    if bytes.len() != wanted {
        return Err(InputError::Bytes { index, wanted, found: bytes.len() });
    }
    let words = || bytes.as_chunks::<4>().0.iter().copied();
    Ok(match value.ty {
        Type::Int8(params) => Data::Int8(bytes.iter().map(|b| (b ^ flip(&params)).cast_signed()).collect()),
        Type::F32 => Data::F32(words().map(f32::from_le_bytes).collect()),
        Type::I32 | Type::Dynamic => Data::I32(words().map(i32::from_le_bytes).collect()),
    })
}

pub fn to_bytes(value: &Value, data: &Data) -> Vec<u8> {
    let flip = match value.ty {
        Type::Int8(params) => flip(&params),
        Type::Dynamic | Type::F32 | Type::I32 => 0,
    };
    match data {
        Data::Int8(values) | Data::Dynamic { values, .. } => values.iter().map(|v| v.cast_unsigned() ^ flip).collect(),
        Data::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Data::I32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Runs a program. Inputs must fit the program's values, as `run_bytes` makes sure.
///
/// # Panics
/// If they do not.
pub fn run(program: &Program, inputs: Vec<Data>) -> Vec<Data> {
    let mut made: Vec<Option<Data>> = vec![None; program.values().len()];
    for (&id, data) in program.inputs().iter().zip(inputs) {
        made[id.index()] = Some(data);
    }
    let last = last_uses(program);
    for (index, step) in program.steps().iter().enumerate() {
        let inputs = step.inputs.iter().map(|id| made[id.index()].as_ref().expect("check found it to be made"));
        let data = run_step(program, step, inputs.collect());
        made[step.output.index()] = Some(data);
        for id in step.inputs.iter().filter(|id| last[id.index()] == index) {
            made[id.index()] = None;
        }
    }
    program.outputs().iter().map(|id| made[id.index()].clone().expect("check found the output to be made")).collect()
}

/// One step alone, of a program's own.
///
/// # Panics
/// If the inputs do not fit the step.
pub fn run_step(program: &Program, step: &Step, inputs: Vec<&Data>) -> Data {
    execute(&Frame { program, step, inputs })
}

/// The number of the step behind which a value is needed no more.
pub fn last_uses(program: &Program) -> Vec<usize> {
    let mut last = vec![usize::MAX; program.values().len()];
    for (index, step) in program.steps().iter().enumerate() {
        step.inputs.iter().for_each(|id| last[id.index()] = index);
    }
    program.outputs().iter().for_each(|id| last[id.index()] = usize::MAX);
    last
}

/// A step at work.
struct Frame<'a> {
    program: &'a Program,
    step: &'a Step,
    inputs: Vec<&'a Data>,
}

impl Frame<'_> {
    fn input(&self, index: usize) -> &Value {
        self.program.value(self.step.inputs[index])
    }

    fn output(&self) -> &Value {
        self.program.value(self.step.output)
    }

    fn data(&self, index: usize) -> &Data {
        self.inputs[index]
    }

    /// Int8 values, static or dynamic, with their zero point.
    fn int8(&self, index: usize) -> (&[i8], i8) {
        match (self.data(index), self.input(index).ty) {
            (Data::Int8(values), Type::Int8(params)) => (values, params.zero_point),
            (Data::Dynamic { values, zero_point, .. }, Type::Dynamic) => (values, *zero_point),
            (Data::Int8(_) | Data::Dynamic { .. } | Data::F32(_) | Data::I32(_), _) => panic!("an int8 input"),
        }
    }

    fn f32(&self, index: usize) -> &[f32] {
        match self.data(index) {
            Data::F32(values) => values,
            Data::Int8(_) | Data::Dynamic { .. } | Data::I32(_) => panic!("a float input"),
        }
    }

    /// The scale of a dynamic input; 1 for others, whose scale is in the multipliers.
    fn dynamic_scale(&self) -> Option<f32> {
        match self.data(0) {
            Data::Dynamic { scale, .. } => Some(*scale),
            Data::Int8(_) | Data::F32(_) | Data::I32(_) => None,
        }
    }

    /// What the output stands for.
    fn params(&self) -> QuantParams {
        match self.output().ty {
            Type::Int8(params) => params,
            Type::Dynamic | Type::F32 | Type::I32 => panic!("an int8 output"),
        }
    }
}

fn execute(frame: &Frame) -> Data {
    match &frame.step.op {
        Op::Constant(data) => Data::Int8(data.to_vec()),
        Op::FloatConstant(data) => Data::F32(data.to_vec()),
        Op::Quantize => {
            let params = frame.params();
            Data::Int8(frame.f32(0).iter().map(|&x| round::quantize(x, &params)).collect())
        }
        Op::Dequantize(curve) => dequantize(frame, curve),
        Op::DynamicQuantize => elementwise::dynamic_quantize(frame.f32(0)),
        Op::Table(table) => Data::Int8(frame.int8(0).0.iter().map(|&v| table[index(v)]).collect()),
        Op::Conv(conv) => product::conv(frame, conv),
        Op::Linear(linear) => product::linear(frame, linear),
        Op::MatMul(finish) => product::mat_mul(frame, finish),
        Op::Add(add) => elementwise::add(frame, add),
        Op::Mul(mul) => elementwise::mul(frame, mul),
        Op::Concat { axis } => movement::concat(frame, *axis),
        Op::MaxPool(window) if frame.output().ty == Type::F32 => pool::float_max(frame, window),
        Op::MaxPool(window) => pool::max(frame, window),
        Op::AveragePool(average) => pool::average(frame, average),
        Op::Mean(mean) => pool::mean(frame, mean),
        Op::Softmax(softmax) => elementwise::softmax(frame, softmax),
        Op::Bilinear(resize) => pool::bilinear(frame, resize),
        Op::Select { maps } => movement::select(frame, maps),
        Op::Slice { starts, steps } => movement::slice(frame, starts, steps),
        Op::Pad { before, value } => movement::pad(frame, before, *value),
        Op::Transpose { permutation } => movement::transpose(frame, permutation),
        Op::Reshape => frame.data(0).clone(),
        Op::Float(function) => {
            let mut made = frame.f32(0).to_vec();
            approximate::apply(crate::kernels::Isa::Scalar, *function, frame.f32(0), &mut made);
            Data::F32(made)
        }
        Op::FloatBinary(function) => elementwise::float_binary(frame, *function),
        Op::FloatLinear(linear) => product::float_linear(frame, linear),
        Op::FloatConv(conv) => product::float_conv(frame, conv),
        Op::FloatAverage(average) => pool::float_average(frame, average),
        Op::FloatMatMul => product::float_mat_mul(frame),
        Op::Rows { function, width } => {
            let mut made = vec![0.0; frame.output().count()];
            rows::apply(crate::kernels::Isa::Scalar, function, *width, frame.f32(0), &mut made);
            Data::F32(made)
        }
    }
}

fn dequantize(frame: &Frame, curve: &Arc<Curve>) -> Data {
    Data::F32(frame.int8(0).0.iter().map(|&v| curve[index(v)]).collect())
}

/// Scale and zero point of ONNX DynamicQuantizeLinear.
pub fn dynamic_params(values: &[f32]) -> (f32, i8) {
    elementwise::dynamic_params(values)
}

/// Where a value stands in a table.
pub fn index(value: i8) -> usize {
    usize::from(value.cast_unsigned() ^ 0x80)
}
