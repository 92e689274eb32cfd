//! Whether a program is well formed.
//!
//! Invariant: what passes can be executed without a panic and without an overflow of 32 bits.

use super::op::{Bilinear, Conv, Finish, Lerp, Linear, Op, Weights, Window};
use super::program::{Draft, QuantParams, Step, Type, Value, ValueId};

mod float;

/// The first thing that does not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CheckError {
    #[error("step {step} ({op}): {problem}")]
    Step { step: usize, op: &'static str, problem: Problem },
    #[error("a tensor of shape {0:?} is empty, or takes more than {MAX_BYTES} bytes")]
    Size(Vec<usize>),
    #[error("{0} is not there, or not made before the program ends")]
    Missing(ValueId),
}

/// What is wrong with a step. Numbers are counts of values.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("reads {0}, which nothing before it makes")]
    Order(ValueId),
    #[error("takes {wanted} inputs, and has {found}")]
    Arity { wanted: usize, found: usize },
    #[error("its inputs and its output do not have the types that it takes and makes")]
    Type,
    #[error("its output has shape {found:?} where {wanted:?} follows from its inputs")]
    Shape { found: Vec<usize>, wanted: Vec<usize> },
    #[error("inputs of shapes {0:?} do not go together")]
    Inputs(Vec<Vec<usize>>),
    #[error("{what} has {found} values where {wanted} are needed")]
    Length { what: &'static str, found: usize, wanted: usize },
    #[error("the sums of output channel {channel} may reach {reach}, beyond 2^31 - 1")]
    Overflow { channel: usize, reach: i64 },
    #[error("scale or multiplier {0} is not finite, positive and normal")]
    Scale(f32),
    #[error("an axis, start or index lies outside of the tensor")]
    Range,
    #[error("a tensor of shape {0:?} is empty, or takes more than {MAX_BYTES} bytes")]
    Size(Vec<usize>),
}

/// What one value may take, in bytes, as 32-bit numbers.
const MAX_BYTES: usize = 1 << 30;

type Checked = Result<(), Problem>;

/// Whether there is something in a tensor, and not too much.
pub fn is_of_a_size(shape: &[usize]) -> bool {
    let bytes = shape.iter().try_fold(4, |bytes: usize, &dim| bytes.checked_mul(dim));
    bytes.is_some_and(|bytes| (1..=MAX_BYTES).contains(&bytes))
}

pub fn check(draft: &Draft) -> Result<(), CheckError> {
    let mut made = vec![false; draft.values.len()];
    if let Some(value) = draft.values.iter().find(|value| !is_of_a_size(&value.shape)) {
        return Err(CheckError::Size(value.shape.clone()));
    }
    for &id in &draft.inputs {
        *made.get_mut(id.index()).ok_or(CheckError::Missing(id))? = true;
    }
    for (index, step) in draft.steps.iter().enumerate() {
        let fail = |problem| CheckError::Step { step: index, op: step.op.name(), problem };
        let unmade = step.inputs.iter().find(|id| made.get(id.index()) != Some(&true));
        if let Some(&id) = unmade {
            return Err(fail(Problem::Order(id)));
        }
        if made.get(step.output.index()) != Some(&false) {
            return Err(fail(Problem::Order(step.output)));
        }
        check_step(draft, step).map_err(fail)?;
        made[step.output.index()] = true;
    }
    match draft.outputs.iter().find(|id| made.get(id.index()) != Some(&true)) {
        Some(&id) => Err(CheckError::Missing(id)),
        None => Ok(()),
    }
}

/// A step's inputs and output.
struct At<'a> {
    inputs: Vec<&'a Value>,
    output: &'a Value,
}

pub fn check_step(draft: &Draft, step: &Step) -> Checked {
    let inputs: Vec<_> = step.inputs.iter().map(|id| &draft.values[id.index()]).collect();
    let at = At { inputs, output: &draft.values[step.output.index()] };
    let shapes = [Some(at.output.shape.as_slice()), step.op.weights_shape()];
    if let Some(shape) = shapes.into_iter().flatten().find(|shape| !is_of_a_size(shape)) {
        return Err(Problem::Size(shape.to_vec()));
    }
    if let Type::Int8(params) = at.output.ty {
        positive(params.scale)?;
    }
    match &step.op {
        Op::Constant(data) => at.constant(data.len(), matches!(at.output.ty, Type::Int8(_))),
        Op::FloatConstant(data) => at.constant(data.len(), at.output.ty == Type::F32),
        Op::Quantize => at.same_shape(|from, to| from == Type::F32 && is_int8(to)),
        Op::Dequantize(_) => at.same_shape(|from, to| is_int8(from) && to == Type::F32),
        Op::DynamicQuantize => at.same_shape(|from, to| from == Type::F32 && to == Type::Dynamic),
        Op::Table(_) => at.same_shape(|from, to| is_int8(from) && is_int8(to)),
        Op::Float(_) => at.same_shape(|from, to| from == Type::F32 && to == Type::F32),
        Op::FloatBinary(_) => at.broadcast(Type::F32),
        Op::FloatLinear(linear) => at.float_linear(linear),
        Op::FloatConv(conv) => at.float_conv(conv),
        Op::FloatAverage(pool) => at.floats(1).and_then(|()| at.pool(&pool.window)),
        Op::FloatMatMul => at.floats(2).and_then(|()| at.matrices()).map(|_| ()),
        Op::Rows { function, width } => at.rows(function, *width),
        Op::Add(add) => [add.ra, add.rb, add.c].into_iter().try_for_each(finite).and_then(|()| at.broadcast_int8()),
        Op::Mul(mul) => finite(mul.multiplier).and_then(|()| at.broadcast_int8()),
        Op::Conv(conv) => at.conv(conv),
        Op::Linear(linear) => at.linear(linear),
        Op::MatMul(finish) => at.mat_mul(finish),
        Op::Concat { axis } => at.concat(*axis),
        Op::MaxPool(window) => {
            let is_ordered = |ty| is_int8(ty) || ty == Type::F32;
            at.one(is_ordered, is_ordered)?;
            at.pool(window).and_then(|()| at.moved())
        }
        Op::AveragePool(pool) => {
            at.one(is_int8, is_int8)?;
            at.pool(&pool.window).and_then(|()| at.pooled(pool))
        }
        Op::Mean(mean) => {
            finite(mean.multiplier)?;
            at.one(is_int8, is_int8)?;
            if mean.axes.iter().any(|&axis| axis >= at.inputs[0].shape.len()) { Err(Problem::Range) } else { Ok(()) }
        }
        Op::Softmax(softmax) => {
            at.same_shape(|from, to| is_int8(from) && is_int8(to))?;
            if softmax.axis < at.output.shape.len() { Ok(()) } else { Err(Problem::Range) }
        }
        Op::Bilinear(resize) => at.bilinear(resize),
        Op::Select { maps } => at.select(maps.iter().map(|map| map.as_deref())),
        Op::Slice { starts, steps } => at.slice(starts, steps),
        Op::Pad { before, .. } => at.padded(before),
        Op::Transpose { permutation } => at.transposed(permutation),
        Op::Reshape => {
            at.moved()?;
            at.length("its output", at.output.count(), at.inputs[0].count())
        }
    }
}

fn is_int8(ty: Type) -> bool {
    matches!(ty, Type::Int8(_))
}

fn finite(multiplier: f32) -> Checked {
    if multiplier.is_finite() { Ok(()) } else { Err(Problem::Scale(multiplier)) }
}

fn positive(scale: f32) -> Checked {
    if scale.is_normal() && scale > 0.0 { Ok(()) } else { Err(Problem::Scale(scale)) }
}

fn rank4(value: &Value) -> Result<[usize; 4], Problem> {
    <[usize; 4]>::try_from(value.shape.as_slice()).map_err(|_| Problem::Inputs(vec![value.shape.clone()]))
}

impl At<'_> {
    fn bilinear(&self, resize: &Bilinear) -> Checked {
        finite(resize.multiplier)?;
        self.one(is_int8, is_int8)?;
        let [n, c, h, w] = rank4(self.inputs[0])?;
        self.shape(vec![n, c, resize.rows.len(), resize.columns.len()])?;
        let inside = |lines: &[Lerp], size| {
            lines.iter().all(|l| l.first < size && l.second < size && (0..=2048).contains(&l.weight))
        };
        if inside(&resize.rows, h) && inside(&resize.columns, w) { Ok(()) } else { Err(Problem::Range) }
    }

    fn arity(&self, wanted: usize) -> Checked {
        let found = self.inputs.len();
        if found == wanted { Ok(()) } else { Err(Problem::Arity { wanted, found }) }
    }

    fn one(&self, from: impl Fn(Type) -> bool, to: impl Fn(Type) -> bool) -> Checked {
        self.arity(1)?;
        if from(self.inputs[0].ty) && to(self.output.ty) { Ok(()) } else { Err(Problem::Type) }
    }

    fn shape(&self, wanted: Vec<usize>) -> Checked {
        let found = self.output.shape.clone();
        if found == wanted { Ok(()) } else { Err(Problem::Shape { found, wanted }) }
    }

    fn length(&self, what: &'static str, found: usize, wanted: usize) -> Checked {
        if found == wanted { Ok(()) } else { Err(Problem::Length { what, found, wanted }) }
    }

    fn constant(&self, found: usize, typed: bool) -> Checked {
        self.arity(0)?;
        if !typed {
            return Err(Problem::Type);
        }
        self.length("the constant", found, self.output.count())
    }

    fn same_shape(&self, types: impl Fn(Type, Type) -> bool) -> Checked {
        self.arity(1)?;
        if !types(self.inputs[0].ty, self.output.ty) {
            return Err(Problem::Type);
        }
        self.shape(self.inputs[0].shape.clone())
    }

    /// One value whose parameters the output keeps.
    fn moved(&self) -> Checked {
        self.arity(1)?;
        same_type(self.inputs[0].ty, self.output.ty)
    }

    fn broadcast(&self, ty: Type) -> Checked {
        self.arity(2)?;
        if self.output.ty != ty || self.inputs.iter().any(|input| input.ty != ty) {
            return Err(Problem::Type);
        }
        self.broadcast_shape()
    }

    fn broadcast_int8(&self) -> Checked {
        self.arity(2)?;
        if !is_int8(self.output.ty) || !self.inputs.iter().all(|input| is_int8(input.ty)) {
            return Err(Problem::Type);
        }
        self.broadcast_shape()
    }

    fn broadcast_shape(&self) -> Checked {
        let shapes = || self.inputs.iter().map(|input| input.shape.clone()).collect();
        let wanted = broadcast(&self.inputs[0].shape, &self.inputs[1].shape);
        self.shape(wanted.ok_or_else(|| Problem::Inputs(shapes()))?)
    }

    /// Output channels, and the products of each output value.
    pub(super) fn convolution(&self, weights: &[usize], window: &Window, group: usize) -> Result<[usize; 2], Problem> {
        self.arity(1)?;
        let [n, c, h, w] = rank4(self.inputs[0])?;
        let shapes = || Problem::Inputs(vec![self.inputs[0].shape.clone(), weights.to_vec()]);
        let &[m, per_group, kh, kw] = weights else { return Err(shapes()) };
        let divides = group > 0 && m % group == 0 && per_group.checked_mul(group) == Some(c);
        if !divides || window.kernel != [kh, kw] {
            return Err(shapes());
        }
        let [oh, ow] = window.output([h, w]).ok_or_else(shapes)?;
        self.shape(vec![n, m, oh, ow])?;
        Ok([m, per_group * kh * kw])
    }

    fn conv(&self, conv: &Conv) -> Checked {
        let [m, taps] = self.convolution(&conv.weights.shape, &conv.window, conv.group)?;
        let far = |(channel, row): (usize, &[i8])| magnitude(row, zero_of(&conv.weights.zero_points, channel));
        let sums = || conv.weights.data.chunks_exact(taps.max(1)).enumerate().map(far).collect();
        self.product(&conv.weights, &conv.bias, m, &conv.finish, sums)
    }

    /// Weights `[K][N]` that the input's last axis meets.
    fn columns(&self, weights: &[usize]) -> Result<[usize; 2], Problem> {
        let shapes = || Problem::Inputs(vec![self.inputs[0].shape.clone(), weights.to_vec()]);
        let &[k, n] = weights else { return Err(shapes()) };
        let Some((last, outer)) = self.inputs[0].shape.split_last() else { return Err(shapes()) };
        if *last != k {
            return Err(shapes());
        }
        self.shape(outer.iter().copied().chain([n]).collect())?;
        Ok([k, n])
    }

    fn linear(&self, linear: &Linear) -> Checked {
        self.arity(1)?;
        let [_, n] = self.columns(&linear.weights.shape)?;
        let zero_points = &linear.weights.zero_points;
        let sums = || {
            let zeros: Vec<i32> = (0..n).map(|channel| zero_of(zero_points, channel)).collect();
            let mut sums = vec![0_i64; n];
            for row in linear.weights.data.chunks_exact(n.max(1)) {
                for ((sum, &w), &zero) in sums.iter_mut().zip(row).zip(&zeros) {
                    *sum += i64::from((i32::from(w) - zero).abs());
                }
            }
            sums
        };
        self.product(&linear.weights, &linear.bias, n, &linear.finish, sums)
    }

    /// Lengths, types, and that Σ|w − z|·255 + |b| stays within 31 bits; `sums` are Σ|w − z| by output channel.
    fn product(
        &self,
        weights: &Weights,
        bias: &[i32],
        n: usize,
        finish: &Finish,
        sums: impl Fn() -> Vec<i64>,
    ) -> Checked {
        self.length("weights", weights.data.len(), weights.shape.iter().product())?;
        per_channel("weight zero points", weights.zero_points.len(), n)?;
        if !bias.is_empty() {
            self.length("the bias", bias.len(), n)?;
        }
        self.finish(finish, n)?;
        for (channel, largest) in sums().into_iter().enumerate() {
            let reach = largest * 255 + bias.get(channel).map_or(0, |&b| i64::from(b).abs());
            if reach > i64::from(i32::MAX) {
                return Err(Problem::Overflow { channel, reach });
            }
        }
        Ok(())
    }

    fn finish(&self, finish: &Finish, n: usize) -> Checked {
        let dynamic = self.inputs[0].ty == Type::Dynamic;
        if !self.inputs.iter().all(|input| is_int8(input.ty) || dynamic) {
            return Err(Problem::Type);
        }
        let fits = match finish {
            Finish::Requantize { multipliers, low, high, .. } => {
                per_channel("multipliers", multipliers.len(), n)?;
                multipliers.iter().try_for_each(|&m| finite(m))?;
                is_int8(self.output.ty) && !dynamic && low <= high
            }
            Finish::Float { scales, bias } => {
                per_channel("scales", scales.len(), n)?;
                scales.iter().try_for_each(|&m| finite(m))?;
                self.output.ty == Type::F32 && (bias.is_empty() || bias.len() == n)
            }
            Finish::Accumulator => self.output.ty == Type::I32 && !dynamic,
        };
        if fits { Ok(()) } else { Err(Problem::Type) }
    }

    /// Two operands whose leading axes broadcast; returns the number of products of a sum.
    fn matrices(&self) -> Result<usize, Problem> {
        let [a, b] = [&self.inputs[0].shape, &self.inputs[1].shape];
        let bad = || Problem::Inputs(vec![a.clone(), b.clone()]);
        let ([outer_a @ .., m, ka], [outer_b @ .., kb, n]) = (a.as_slice(), b.as_slice()) else { return Err(bad()) };
        if ka != kb {
            return Err(bad());
        }
        let mut wanted = broadcast(outer_a, outer_b).ok_or_else(bad)?;
        wanted.extend([*m, *n]);
        self.shape(wanted)?;
        Ok(*ka)
    }

    fn mat_mul(&self, finish: &Finish) -> Checked {
        self.arity(2)?;
        let reach = (self.matrices()? as i64).saturating_mul(255 * 255);
        if reach > i64::from(i32::MAX) {
            return Err(Problem::Overflow { channel: 0, reach });
        }
        // One scale for all: columns are computed values.
        self.finish(finish, 1)
    }

    fn concat(&self, axis: usize) -> Checked {
        let Some(first) = self.inputs.first() else { return Err(Problem::Arity { wanted: 1, found: 0 }) };
        let mut wanted = first.shape.clone();
        *wanted.get_mut(axis).ok_or(Problem::Range)? = 0;
        for input in &self.inputs {
            same_type(input.ty, self.output.ty)?;
            let alike = |i: usize| i == axis || input.shape[i] == first.shape[i];
            if input.shape.len() != wanted.len() || !(0..wanted.len()).all(alike) {
                return Err(Problem::Inputs(vec![first.shape.clone(), input.shape.clone()]));
            }
            wanted[axis] += input.shape[axis];
        }
        self.shape(wanted)
    }

    fn pool(&self, window: &Window) -> Checked {
        let [n, c, h, w] = rank4(self.inputs[0])?;
        let output = window.output([h, w]).ok_or_else(|| Problem::Inputs(vec![self.inputs[0].shape.clone()]))?;
        self.shape(vec![n, c, output[0], output[1]])
    }

    fn pooled(&self, pool: &super::op::AveragePool) -> Checked {
        pool.multipliers.iter().try_for_each(|&m| finite(m))?;
        let taps = pool.window.kernel[0] * pool.window.kernel[1];
        self.length("multipliers", pool.multipliers.len(), taps)
    }

    fn select<'a>(&self, maps: impl ExactSizeIterator<Item = Option<&'a [usize]>>) -> Checked {
        self.moved()?;
        let shape = &self.inputs[0].shape;
        self.length("maps", maps.len(), shape.len())?;
        let mut wanted = shape.clone();
        for ((map, &size), wanted) in maps.zip(shape).zip(&mut wanted) {
            let Some(map) = map else { continue };
            if map.iter().any(|&index| index >= size) {
                return Err(Problem::Range);
            }
            *wanted = map.len();
        }
        self.shape(wanted)
    }

    fn slice(&self, starts: &[usize], steps: &[usize]) -> Checked {
        self.moved()?;
        let (from, to) = (&self.inputs[0].shape, &self.output.shape);
        if [starts.len(), steps.len(), to.len()] != [from.len(); 3] {
            return Err(Problem::Range);
        }
        let inside = |i: usize| {
            let last = to[i].saturating_sub(1).checked_mul(steps[i]).and_then(|last| last.checked_add(starts[i]));
            to[i] == 0 || last.is_some_and(|last| last < from[i])
        };
        if (0..from.len()).all(inside) { Ok(()) } else { Err(Problem::Range) }
    }

    fn padded(&self, before: &[usize]) -> Checked {
        self.moved()?;
        let (from, to) = (&self.inputs[0].shape, &self.output.shape);
        let fits = before.len() == from.len()
            && to.len() == from.len()
            && (0..from.len()).all(|i| before[i].checked_add(from[i]).is_some_and(|end| end <= to[i]));
        if fits { Ok(()) } else { Err(Problem::Range) }
    }

    fn transposed(&self, permutation: &[usize]) -> Checked {
        self.moved()?;
        let from = &self.inputs[0].shape;
        let mut sorted = permutation.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..from.len()) {
            return Err(Problem::Range);
        }
        self.shape(permutation.iter().map(|&axis| from[axis]).collect())
    }
}

fn per_channel(what: &'static str, found: usize, n: usize) -> Checked {
    if found == 1 || found == n { Ok(()) } else { Err(Problem::Length { what, found, wanted: n }) }
}

fn zero_of(zero_points: &[i8], channel: usize) -> i32 {
    i32::from(zero_points[if zero_points.len() == 1 { 0 } else { channel }])
}

/// Σ|w − z|; in pieces of which 32 bits hold the sum, for a model has millions.
fn magnitude(weights: &[i8], zero: i32) -> i64 {
    let piece = |piece: &[i8]| i64::from(piece.iter().map(|&w| (i32::from(w) - zero).abs()).sum::<i32>());
    weights.chunks(1 << 16).map(piece).sum()
}

/// Equal parameters, whatever the ONNX type was.
fn same_type(a: Type, b: Type) -> Checked {
    let agree = match (a, b) {
        (Type::Int8(a), Type::Int8(b)) => QuantParams::agrees(&a, &b),
        (Type::F32, Type::F32) | (Type::I32, Type::I32) | (Type::Dynamic, Type::Dynamic) => true,
        (Type::Int8(_) | Type::F32 | Type::I32 | Type::Dynamic, _) => false,
    };
    if agree { Ok(()) } else { Err(Problem::Type) }
}

/// Shape of two operands that broadcast; `None` where they do not.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let one = |i| match (dim(a, i), dim(b, i)) {
        (a, b) if a == b => Some(a),
        (1, b) => Some(b),
        (a, 1) => Some(a),
        (_, _) => None,
    };
    (0..rank).map(one).collect()
}
