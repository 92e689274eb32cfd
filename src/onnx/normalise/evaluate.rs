//! What nodes make of constants.
//!
//! Invariant: the result is what a run of the model would compute there, or `None`. The caller has
//! bounded the size of the output by its inferred shape.
//! Not here: anything with weights in integers as floats (`DequantizeLinear`).

use super::fold::constant_of;
use super::quantize;
use crate::onnx::graph::{Attribute, Node, ValueId};
use crate::onnx::shapes::{Fact, Facts, arithmetic, slice_bounds};
use crate::onnx::tensor::{ElementType, Tensor, count};

/// Operators that `evaluate` has.
const KNOWN: [&str; 44] = [
    "Constant",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Slice",
    "Gather",
    "Concat",
    "Expand",
    "Cast",
    "ConstantOfShape",
    "Range",
    "NonZero",
    "Where",
    "QuantizeLinear",
    "ReduceProd",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "Neg",
    "Abs",
    "Floor",
    "Ceil",
    "Round",
    "Sqrt",
    "Reciprocal",
    "Not",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Min",
    "Max",
    "Equal",
    "Less",
    "Greater",
    "LessOrEqual",
    "GreaterOrEqual",
    "And",
    "Or",
    "Xor",
];

/// The value that the first output equals, where the node does nothing.
pub(super) fn passes_through(node: &Node, facts: &Facts) -> Option<ValueId> {
    let source = node.input(0).filter(|_| node.domain.is_empty())?;
    let same_shape = || {
        let (from, to) = (facts.shape(source), facts.shape(node.output(0)?));
        (from.is_some() && from == to).then_some(source)
    };
    let only = || (node.inputs.len() == 1).then_some(source);
    match node.op.as_str() {
        "Identity" => Some(source),
        "Dropout" => {
            let training = node.input(2).map(|flag| facts.of(flag).known_contents());
            training.is_none_or(|known| known == Some(vec![0])).then_some(source)
        }
        "Cast" => (facts.element(source)? == facts.element(node.output(0)?)?).then_some(source),
        "Concat" | "Sum" | "Max" | "Min" | "Mean" => only(),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" | "Slice" => {
            same_shape().filter(|_| forward(node, facts))
        }
        "Transpose" => node.ints("perm")?.iter().copied().eq(0..).then_some(source),
        _ => None,
    }
}

/// A slice as long as the whole may still run backwards.
fn forward(node: &Node, facts: &Facts) -> bool {
    let steps = node.input(4).filter(|_| node.op == "Slice").map(|steps| facts.of(steps).known_contents());
    steps.is_none_or(|steps| steps.is_some_and(|steps| steps.iter().all(|&step| step == 1)))
}

pub(super) fn is_known(node: &Node) -> bool {
    node.domain.is_empty() && KNOWN.contains(&node.op.as_str())
}

/// The first output; `fact` is what inference says of it.
pub(super) fn evaluate(node: &Node, inputs: &[Option<&Tensor>], fact: &Fact) -> Option<Tensor> {
    if !node.domain.is_empty() {
        return None;
    }
    if node.op == "Constant" {
        return constant_of(&node.attributes);
    }
    let first = inputs.first().copied().flatten()?;
    let input = |at: usize| inputs.get(at).copied().flatten();
    let shape = fact.concrete();
    // Dimensions beside a 0 may be any number, and loops over them take for ever.
    if shape.as_deref().and_then(count) == Some(0) {
        return Tensor::new(fact.element?, shape?, Vec::new()).ok();
    }
    match node.op.as_str() {
        "Identity" => Some(first.clone()),
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => first.reshaped(shape?),
        "Transpose" => transpose(node, first, shape?),
        "Slice" => slice(first, &[input(1)?, input(2)?], input(3), input(4), shape?),
        "Gather" => gather(node, first, input(1)?, shape?),
        "Concat" => concat(node, inputs, shape?),
        "Expand" => pick(first, &stretched(first.shape(), &shape?)?, fact.concrete()?),
        "Cast" => cast(first, fact.element?),
        "ConstantOfShape" => filled(node, shape?),
        "Range" => range(first, input(1)?, input(2)?),
        "NonZero" => non_zero(first),
        "Where" => choose(first, input(1)?, input(2)?, shape?),
        "QuantizeLinear" => quantize::quantize(node, first, input(1)?, input(2), fact.element?),
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => reduce(node, first, input(1), shape?),
        op if inputs.len() == 1 => unary(op, first),
        op if inputs.len() == 2 && node.int("fmod").unwrap_or(0) == 0 => binary(op, first, input(1)?, fact),
        _ => None,
    }
}

/// Source places of a view: `base` plus each coordinate times its stride.
fn strided(shape: &[usize], base: i128, strides: &[i128]) -> Option<Vec<usize>> {
    let mut places = Vec::with_capacity(count(shape)?);
    if count(shape)? == 0 {
        return Some(places);
    }
    let mut coordinates = vec![0_usize; shape.len()];
    let mut place = base;
    loop {
        places.push(usize::try_from(place).ok()?);
        let mut at = shape.len();
        loop {
            if at == 0 {
                return Some(places);
            }
            at -= 1;
            coordinates[at] += 1;
            place += strides[at];
            if coordinates[at] < shape[at] {
                break;
            }
            place -= strides[at] * shape[at] as i128;
            coordinates[at] = 0;
        }
    }
}

fn row_major(shape: &[usize]) -> Vec<i128> {
    let mut strides = vec![1_i128; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(shape[at] as i128);
    }
    strides
}

/// Source places for broadcasting `from` to `to`.
fn stretched(from: &[usize], to: &[usize]) -> Option<Vec<usize>> {
    let lead = to.len().checked_sub(from.len())?;
    let mut strides = vec![0; to.len()];
    for (at, stride) in row_major(from).into_iter().enumerate() {
        match from[at] {
            1 => {}
            size if size == to[lead + at] => strides[lead + at] = stride,
            _ => return None,
        }
    }
    strided(to, 0, &strides)
}

/// The elements at these places, in this shape.
fn pick(tensor: &Tensor, places: &[usize], shape: Vec<usize>) -> Option<Tensor> {
    let size = tensor.element().bits() / 8;
    if size == 0 {
        return None;
    }
    let mut bytes = Vec::with_capacity(places.len() * size);
    for &place in places {
        bytes.extend_from_slice(tensor.bytes().get(place.checked_mul(size)?..)?.get(..size)?);
    }
    Tensor::new(tensor.element(), shape, bytes).ok()
}

/// The elements in another order of axes.
pub(super) fn transpose(node: &Node, tensor: &Tensor, shape: Vec<usize>) -> Option<Tensor> {
    let strides = row_major(tensor.shape());
    let order: Vec<i64> = match node.ints("perm") {
        Some(order) => order.to_vec(),
        None => (0..i64::try_from(shape.len()).ok()?).rev().collect(),
    };
    // A place named twice would leave another out.
    if order.len() != strides.len() || !(0..).zip(&strides).all(|(at, _)| order.contains(&at)) {
        return None;
    }
    let permuted: Vec<i128> =
        order.iter().map(|&at| strides.get(usize::try_from(at).ok()?).copied()).collect::<Option<_>>()?;
    pick(tensor, &strided(&shape, 0, &permuted)?, shape)
}

fn axis(at: i64, rank: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(i64::try_from(rank).ok()?)? } else { at };
    usize::try_from(at).ok().filter(|&at| at < rank)
}

fn slice(
    tensor: &Tensor,
    bounds: &[&Tensor; 2],
    axes: Option<&Tensor>,
    steps: Option<&Tensor>,
    shape: Vec<usize>,
) -> Option<Tensor> {
    let (starts, ends) = (bounds[0].to_i64s()?, bounds[1].to_i64s()?);
    let axes = axes.map_or_else(|| Some((0..i64::try_from(starts.len()).ok()?).collect()), Tensor::to_i64s)?;
    let steps = steps.map_or_else(|| Some(vec![1; starts.len()]), Tensor::to_i64s)?;
    let mut strides = row_major(tensor.shape());
    let mut base = 0;
    for (at, &of) in axes.iter().enumerate() {
        let of = axis(of, tensor.shape().len())?;
        let (first, _) = slice_bounds(*starts.get(at)?, *ends.get(at)?, *steps.get(at)?, tensor.shape()[of])?;
        base += strides[of].checked_mul(first)?;
        strides[of] = strides[of].checked_mul(i128::from(*steps.get(at)?))?;
    }
    pick(tensor, &strided(&shape, base, &strides)?, shape)
}

fn gather(node: &Node, data: &Tensor, indices: &Tensor, shape: Vec<usize>) -> Option<Tensor> {
    let at = axis(node.int("axis").unwrap_or(0), data.shape().len())?;
    let length = data.shape()[at];
    let (outer, inner) = (count(&data.shape()[..at])?, count(&data.shape()[at + 1..])?);
    let indices: Vec<usize> = indices.to_i64s()?.into_iter().map(|index| axis(index, length)).collect::<Option<_>>()?;
    let row = |o: usize, index: usize| (o * length + index) * inner;
    let places: Vec<usize> = (0..outer)
        .flat_map(|o| indices.iter().flat_map(move |&index| (0..inner).map(move |i| row(o, index) + i)))
        .collect();
    pick(data, &places, shape)
}

fn concat(node: &Node, inputs: &[Option<&Tensor>], shape: Vec<usize>) -> Option<Tensor> {
    let inputs: Vec<&Tensor> = inputs.iter().copied().collect::<Option<_>>()?;
    let element = inputs.first()?.element();
    let at = axis(node.int("axis")?, shape.len())?;
    let size = element.bits() / 8;
    if size == 0 || inputs.iter().any(|tensor| tensor.element() != element || tensor.shape().len() != shape.len()) {
        return None;
    }
    let rows: Vec<usize> =
        inputs.iter().map(|tensor| Some(count(&tensor.shape()[at..])? * size)).collect::<Option<_>>()?;
    let mut bytes = Vec::new();
    for outer in 0..count(&shape[..at])? {
        for (tensor, &row) in inputs.iter().zip(&rows) {
            bytes.extend_from_slice(tensor.bytes().get(outer * row..(outer + 1) * row)?);
        }
    }
    Tensor::new(element, shape, bytes).ok()
}

fn cast(tensor: &Tensor, to: ElementType) -> Option<Tensor> {
    let shape = tensor.shape().to_vec();
    if let Some(floats) = tensor.to_f64s() {
        if to.is_float() {
            return Tensor::from_f64s(to, shape, &floats);
        }
        if to == ElementType::Bool {
            let flags: Vec<i64> = floats.iter().map(|&v| i64::from(v != 0.0)).collect();
            return Tensor::from_i64s(to, shape, &flags);
        }
        // What does not fit is undefined: `from_i64s` refuses all but the saturated ends.
        let safe = floats.iter().all(|v| v.abs() < 9e18);
        let whole: Vec<i64> = floats.iter().map(|&v| v.trunc() as i64).collect();
        return if safe { Tensor::from_i64s(to, shape, &whole) } else { None };
    }
    let values = tensor.to_i64s()?;
    if to.is_float() {
        let floats: Vec<f64> = values.iter().map(|&v| v as f64).collect();
        // Beyond 2^53 a double rounds, and the second rounding might not be the right one.
        let exact = values.iter().all(|v| v.unsigned_abs() <= 1 << 53);
        return if exact { Tensor::from_f64s(to, shape, &floats) } else { None };
    }
    let values = if to == ElementType::Bool { values.iter().map(|&v| i64::from(v != 0)).collect() } else { values };
    Tensor::from_i64s(to, shape, &values)
}

fn filled(node: &Node, shape: Vec<usize>) -> Option<Tensor> {
    let zero = Tensor::vector_f32(&[0.0]);
    let value = match node.attributes.get("value") {
        Some(Attribute::Tensor(tensor)) => tensor,
        Some(_) => return None,
        None => &zero,
    };
    pick(value, &vec![0; count(&shape)?], shape)
}

fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Option<Tensor> {
    const LONGEST: usize = 8 << 10;
    let one = |tensor: &Tensor| tensor.to_i64s()?.first().copied();
    let (mut at, limit, delta) = (one(start)?, one(limit)?, one(delta)?);
    let mut values = Vec::new();
    while delta != 0 && if delta > 0 { at < limit } else { at > limit } {
        values.push(at);
        at = at.checked_add(delta).filter(|_| values.len() < LONGEST)?;
    }
    Tensor::from_i64s(start.element(), vec![values.len()], &values)
}

/// Coordinates of what is not zero, one row a dimension.
fn non_zero(tensor: &Tensor) -> Option<Tensor> {
    const LARGEST: usize = 1 << 10;
    let values = tensor.to_i64s().filter(|values| values.len() <= LARGEST)?;
    let places: Vec<usize> = (0..values.len()).filter(|&at| values[at] != 0).collect();
    let rank = tensor.shape().len();
    let coordinate = |(dim, stride): (&usize, i128)| {
        let stride = usize::try_from(stride).unwrap_or(usize::MAX);
        places.iter().map(|place| (place / stride % dim) as i64).collect::<Vec<_>>()
    };
    if rank == 0 {
        return None;
    }
    let rows: Vec<i64> = tensor.shape().iter().zip(row_major(tensor.shape())).flat_map(coordinate).collect();
    Tensor::from_i64s(ElementType::I64, vec![rank, places.len()], &rows)
}

fn choose(flags: &Tensor, yes: &Tensor, no: &Tensor, shape: Vec<usize>) -> Option<Tensor> {
    if yes.element() != no.element() || flags.element() != ElementType::Bool {
        return None;
    }
    let [yes, no] = [yes, no].map(|tensor| pick(tensor, &stretched(tensor.shape(), &shape)?, shape.clone()));
    let (yes, no) = (yes?, no?);
    let size = yes.element().bits() / 8;
    let places = stretched(flags.shape(), &shape)?;
    let mut bytes = no.bytes().to_vec();
    for (at, place) in places.into_iter().enumerate() {
        if *flags.bytes().get(place)? != 0 {
            bytes[at * size..(at + 1) * size].copy_from_slice(&yes.bytes()[at * size..(at + 1) * size]);
        }
    }
    Tensor::new(yes.element(), shape, bytes).ok()
}

fn reduce(node: &Node, tensor: &Tensor, axes: Option<&Tensor>, shape: Vec<usize>) -> Option<Tensor> {
    let rank = tensor.shape().len();
    let axes = axes.map_or_else(|| Some(Vec::new()), Tensor::to_i64s)?;
    if axes.is_empty() && node.int("noop_with_empty_axes").unwrap_or(0) != 0 {
        return Some(tensor.clone());
    }
    let axes: Vec<usize> = axes.into_iter().map(|at| axis(at, rank)).collect::<Option<_>>()?;
    let kept: Vec<usize> =
        (0..rank).map(|at| if axes.is_empty() || axes.contains(&at) { 1 } else { tensor.shape()[at] }).collect();
    let op = match node.op.as_str() {
        "ReduceProd" => "Mul",
        "ReduceSum" => "Add",
        "ReduceMax" => "Max",
        _ => "Min",
    };
    let mut sums: Vec<Option<i64>> = vec![None; count(&kept)?];
    for (value, place) in tensor.to_i64s()?.into_iter().zip(stretched(&kept, tensor.shape())?) {
        sums[place] = Some(match sums[place] {
            Some(sum) => arithmetic(op, sum, value)?,
            None => value,
        });
    }
    // An empty reduction has no largest element; leave all of them to the run.
    let sums: Vec<i64> = sums.into_iter().collect::<Option<_>>()?;
    Tensor::from_i64s(tensor.element(), shape, &sums)
}

fn unary(op: &str, tensor: &Tensor) -> Option<Tensor> {
    let shape = tensor.shape().to_vec();
    if let Some(mut values) = tensor.to_f64s() {
        let f: fn(f64) -> f64 = match op {
            "Neg" => |v| -v,
            "Abs" => f64::abs,
            "Floor" => f64::floor,
            "Ceil" => f64::ceil,
            "Round" => f64::round_ties_even,
            "Sqrt" => f64::sqrt,
            "Reciprocal" => f64::recip,
            _ => return None,
        };
        values.iter_mut().for_each(|v| *v = f(*v));
        return Tensor::from_f64s(tensor.element(), shape, &values);
    }
    let values = tensor.to_i64s()?;
    let f: fn(i64) -> Option<i64> = match (op, tensor.element()) {
        ("Not", ElementType::Bool) => |v| Some(1 - v),
        ("Neg", _) => i64::checked_neg,
        ("Abs", _) => i64::checked_abs,
        _ => return None,
    };
    Tensor::from_i64s(tensor.element(), shape, &values.into_iter().map(f).collect::<Option<Vec<_>>>()?)
}

fn binary(op: &str, a: &Tensor, b: &Tensor, fact: &Fact) -> Option<Tensor> {
    let (shape, element) = (fact.concrete()?, fact.element?);
    if a.element() != b.element() {
        return None;
    }
    let (left, right) = (stretched(a.shape(), &shape)?, stretched(b.shape(), &shape)?);
    let pairs = left.into_iter().zip(right);
    if let (Some(x), Some(y)) = (a.to_f64s(), b.to_f64s()) {
        if element == ElementType::Bool {
            let flags: Vec<i64> = pairs.map(|(i, j)| compare(op, x[i], y[j])).collect::<Option<_>>()?;
            return Tensor::from_i64s(element, shape, &flags);
        }
        let values: Vec<f64> = pairs.map(|(i, j)| float(op, x[i], y[j])).collect::<Option<_>>()?;
        return Tensor::from_f64s(element, shape, &values);
    }
    let (x, y) = (a.to_i64s()?, b.to_i64s()?);
    let values: Vec<i64> = pairs.map(|(i, j)| arithmetic(op, x[i], y[j])).collect::<Option<_>>()?;
    Tensor::from_i64s(element, shape, &values)
}

/// Rounding a double's sum, product or quotient once more to a float gives what floats alone give.
fn float(op: &str, a: f64, b: f64) -> Option<f64> {
    Some(match op {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Min" if !a.is_nan() && !b.is_nan() => a.min(b),
        "Max" if !a.is_nan() && !b.is_nan() => a.max(b),
        _ => return None,
    })
}

fn compare(op: &str, a: f64, b: f64) -> Option<i64> {
    Some(i64::from(match op {
        "Equal" => a == b,
        "Less" => a < b,
        "Greater" => a > b,
        "LessOrEqual" => a <= b,
        "GreaterOrEqual" => a >= b,
        _ => return None,
    }))
}
