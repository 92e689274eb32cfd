//! Listings of programs, for people.

use super::op::{Finish, FloatWeights, Op, Weights, Window};
use super::program::{Program, QuantParams, Type, ValueId};
use std::fmt::{Display, Formatter, Result};

impl Display for ValueId {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "%{}", self.0)
    }
}

impl Display for QuantParams {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, zero_point) = match self.signed {
            true => ("s8", i16::from(self.zero_point)),
            false => ("u8", i16::from(self.zero_point) + 128),
        };
        write!(f, "{name}({}, {zero_point})", self.scale)
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Int8(params) => params.fmt(f),
            Self::Dynamic => f.write_str("dynamic"),
            Self::F32 => f.write_str("f32"),
            Self::I32 => f.write_str("i32"),
        }
    }
}

/// One line an input, a step, an output; scale and zero point as the file has them.
impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for &id in self.inputs() {
            writeln!(f, "{id} = input: {} {:?}", self.value(id).ty, self.value(id).shape)?;
        }
        for step in self.steps() {
            let inputs: Vec<_> = step.inputs.iter().map(ValueId::to_string).collect();
            let made = self.value(step.output);
            write!(f, "{} = {} {}", step.output, step.op.name(), inputs.join(" "))?;
            detail(&step.op, f)?;
            writeln!(f, ": {} {:?}", made.ty, made.shape)?;
        }
        let outputs: Vec<_> = self.outputs().iter().map(ValueId::to_string).collect();
        writeln!(f, "output {}", outputs.join(" "))
    }
}

fn detail(op: &Op, f: &mut Formatter<'_>) -> Result {
    match op {
        Op::Conv(conv) => {
            weights(&conv.weights, f)?;
            window(&conv.window, f)?;
            if conv.group > 1 {
                write!(f, " group {}", conv.group)?;
            }
            finish(&conv.finish, f)
        }
        Op::Linear(linear) => {
            weights(&linear.weights, f)?;
            finish(&linear.finish, f)
        }
        Op::FloatLinear(linear) => float_weights(&linear.weights, f),
        Op::FloatConv(conv) => {
            float_weights(&conv.weights, f)?;
            window(&conv.window, f)?;
            if conv.group > 1 { write!(f, " group {}", conv.group) } else { Ok(()) }
        }
        Op::FloatAverage(pool) => window(&pool.window, f),
        Op::Rows { width, .. } => write!(f, " rows of {width}"),
        Op::MatMul(end) => finish(end, f),
        Op::Concat { axis } => write!(f, " axis {axis}"),
        Op::Softmax(softmax) => write!(f, " axis {}", softmax.axis),
        Op::MaxPool(over) => window(over, f),
        Op::AveragePool(pool) => window(&pool.window, f),
        Op::Mean(mean) => write!(f, " axes {:?}", mean.axes),
        Op::Slice { starts, steps } => write!(f, " from {starts:?} by {steps:?}"),
        Op::Pad { before, value } => write!(f, " before {before:?} with {value}"),
        Op::Transpose { permutation } => write!(f, " {permutation:?}"),
        Op::Float(function) => write!(f, " {function:?}"),
        Op::FloatBinary(function) => write!(f, " {function:?}"),
        Op::Add(add) => clamp(add.low, add.high, f),
        Op::Mul(mul) => clamp(mul.low, mul.high, f),
        Op::Constant(_)
        | Op::FloatConstant(_)
        | Op::Quantize
        | Op::Dequantize(_)
        | Op::DynamicQuantize
        | Op::Table(_)
        | Op::Bilinear(_)
        | Op::Select { .. }
        | Op::FloatMatMul
        | Op::Reshape => Ok(()),
    }
}

fn weights(weights: &Weights, f: &mut Formatter<'_>) -> Result {
    write!(f, " weights {:?}", weights.shape)
}

fn float_weights(of: &FloatWeights, f: &mut Formatter<'_>) -> Result {
    match of {
        FloatWeights::Bytes { weights: of, .. } => weights(of, f),
        FloatWeights::Floats { shape, .. } => write!(f, " weights f32 {shape:?}"),
    }
}

fn window(window: &Window, f: &mut Formatter<'_>) -> Result {
    let Window { kernel, stride, dilation, pads } = window;
    write!(f, " kernel {kernel:?} stride {stride:?}")?;
    if *dilation != [1, 1] {
        write!(f, " dilation {dilation:?}")?;
    }
    if *pads != [0; 4] {
        write!(f, " pads {pads:?}")?;
    }
    Ok(())
}

fn finish(finish: &Finish, f: &mut Formatter<'_>) -> Result {
    match finish {
        Finish::Requantize { multipliers, low, high, table, .. } => {
            if multipliers.len() > 1 {
                f.write_str(" per channel")?;
            }
            clamp(*low, *high, f)?;
            f.write_str(if table.is_some() { " table" } else { "" })
        }
        Finish::Float { .. } => f.write_str(" to float"),
        Finish::Accumulator => f.write_str(" to int32"),
    }
}

fn clamp(low: i8, high: i8, f: &mut Formatter<'_>) -> Result {
    if (low, high) == (i8::MIN, i8::MAX) { Ok(()) } else { write!(f, " clamp {low}..={high}") }
}
