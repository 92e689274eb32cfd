//! Functions, arithmetic, products, reductions and norms.

use super::{Call, axis_of};
use crate::compress::train::ops::apply;
use crate::compress::train::ops::extreme::{Extreme, Ties};
use crate::compress::train::ops::norm::{BatchNorm, LayerNorm, Moments, Softmax};
use crate::compress::train::ops::unary::Unary;
use candle_core::{DType, Result, Tensor, bail};

pub(super) fn run(call: &mut Call<'_>) -> Result<Option<Vec<Tensor>>> {
    if let Some(function) = unary(call)? {
        return Ok(Some(vec![function.apply(call.input(0)?)?]));
    }
    let output = match call.node.op.as_str() {
        "Add" => binary(call, Tensor::broadcast_add)?,
        "Sub" => binary(call, Tensor::broadcast_sub)?,
        "Mul" => binary(call, Tensor::broadcast_mul)?,
        "Div" => binary(call, Tensor::broadcast_div)?,
        "Min" => fold(call, Tensor::broadcast_minimum)?,
        "Max" => fold(call, Tensor::broadcast_maximum)?,
        "Sum" => fold(call, Tensor::broadcast_add)?,
        "Mean" => (fold(call, Tensor::broadcast_add)? / call.inputs.len() as f64)?,
        "Neg" => call.input(0)?.neg()?,
        "Pow" => power(call)?,
        "PRelu" => prelu(call)?,
        "MatMul" => product(call.input(0)?, call.input(1)?)?,
        "Gemm" => gemm(call)?,
        "Softmax" | "LogSoftmax" => softmax(call)?,
        "LayerNormalization" => layer_norm(call)?,
        "BatchNormalization" => batch_norm(call)?,
        "InstanceNormalization" => instance_norm(call)?,
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" | "ReduceSumSquare" => reduce(call)?,
        "GlobalAveragePool" => spatial(call.input(0)?, Tensor::mean_keepdim)?,
        "GlobalMaxPool" => maximum_over_space(call.input(0)?)?,
        "Where" => where_cond(call)?,
        "Equal" => compare(call, Tensor::broadcast_eq)?,
        "Greater" => compare(call, Tensor::broadcast_gt)?,
        "GreaterOrEqual" => compare(call, Tensor::broadcast_ge)?,
        "Less" => compare(call, Tensor::broadcast_lt)?,
        "LessOrEqual" => compare(call, Tensor::broadcast_le)?,
        "Not" => call.input(0)?.eq(0_u8)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![output]))
}

/// The function that a node is, where it is one of one value.
fn unary(call: &Call<'_>) -> Result<Option<Unary>> {
    Ok(Some(match call.node.op.as_str() {
        "Relu" => Unary::Relu,
        "LeakyRelu" => Unary::LeakyRelu(call.float("alpha", 0.01)),
        "Elu" => Unary::Elu(call.float("alpha", 1.0)),
        "Sigmoid" => Unary::Sigmoid,
        "HardSigmoid" => Unary::HardSigmoid(call.float("alpha", 0.2), call.float("beta", 0.5)),
        "HardSwish" => Unary::HardSwish,
        "Swish" if call.float("alpha", 1.0) == 1.0 => Unary::Silu,
        "Tanh" => Unary::Tanh,
        "Gelu" if call.node.text("approximate").unwrap_or("none") == "tanh" => Unary::GeluTanh,
        "Gelu" => Unary::Gelu,
        "Erf" => Unary::Erf,
        "Softplus" => Unary::Softplus,
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Sqrt" => Unary::Sqrt,
        "Reciprocal" => Unary::Reciprocal,
        "Abs" if call.input(0)?.dtype() == DType::F32 => Unary::Abs,
        "Clip" if call.input(0)?.dtype() == DType::F32 => {
            let bound = |index, otherwise| {
                Ok::<_, candle_core::Error>(call.floats(index)?.and_then(|v| v.first().copied()).unwrap_or(otherwise))
            };
            Unary::Clip(bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?)
        }
        _ => return Ok(None),
    }))
}

type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn binary(call: &Call<'_>, of: Binary) -> Result<Tensor> {
    of(call.input(0)?, call.input(1)?)
}

fn fold(call: &Call<'_>, of: Binary) -> Result<Tensor> {
    let mut result = call.input(0)?.clone();
    for index in 1..call.inputs.len() {
        result = of(&result, call.input(index)?)?;
    }
    Ok(result)
}

fn compare(call: &Call<'_>, of: Binary) -> Result<Tensor> {
    of(&call.input(0)?.detach(), &call.input(1)?.detach())
}

fn power(call: &Call<'_>) -> Result<Tensor> {
    let exponents = call.floats(1)?.unwrap_or_default();
    match (exponents.first(), exponents.iter().all(|e| Some(e) == exponents.first())) {
        (Some(2.0), true) => call.input(0)?.sqr(),
        (Some(&exponent), true) => Unary::Pow(exponent).apply(call.input(0)?),
        _ => bail!("Pow with different exponents"),
    }
}

fn prelu(call: &Call<'_>) -> Result<Tensor> {
    let (x, slope) = (call.input(0)?, call.input(1)?);
    let negative = (x - Unary::Relu.apply(x)?)?;
    Unary::Relu.apply(x)? + negative.broadcast_mul(slope)?
}

/// Of matrices, and stacks of them, whose outer dimensions broadcast; a vector is a matrix of one row or column.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match (a.rank(), b.rank()) {
        (1, 1) => (a * b)?.sum_all(),
        (1, _) => product(&a.unsqueeze(0)?, b)?.squeeze(b.rank() - 2),
        (_, 1) => product(a, &b.unsqueeze(1)?)?.squeeze(a.rank() - 1),
        // Rows of a stack by one matrix: one product.
        (rank, 2) if rank > 2 => {
            let mut shape = a.dims().to_vec();
            let rows = a.reshape(((), shape[rank - 1]))?.matmul(b)?;
            shape[rank - 1] = b.dims()[1];
            rows.reshape(shape)
        }
        (2, 2) => a.matmul(b),
        _ => a.contiguous()?.broadcast_matmul(&b.contiguous()?),
    }
}

fn gemm(call: &Call<'_>) -> Result<Tensor> {
    let turned = |index: usize, name: &str| {
        let tensor = call.input(index)?;
        if call.int(name, 0) != 0 { tensor.t() } else { Ok(tensor.clone()) }
    };
    let mut product = turned(0, "transA")?.matmul(&turned(1, "transB")?)?;
    let (alpha, beta) = (call.float("alpha", 1.0), call.float("beta", 1.0));
    if alpha != 1.0 {
        product = (product * f64::from(alpha))?;
    }
    match call.get(2) {
        Some(bias) if beta == 1.0 => product.broadcast_add(bias),
        Some(bias) => product.broadcast_add(&(bias * f64::from(beta))?),
        None => Ok(product),
    }
}

fn softmax(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let (last, axis) = (x.rank().saturating_sub(1), call.axis("axis", -1, x.rank())?);
    let turned = x.transpose(axis, last)?;
    let of = Softmax { width: x.dims()[axis], log: call.node.op == "LogSoftmax" };
    apply(of, &[&turned])?.transpose(axis, last)
}

fn layer_norm(call: &Call<'_>) -> Result<Tensor> {
    let (x, scale) = (call.input(0)?, call.input(1)?);
    let axis = call.axis("axis", -1, x.rank())?;
    let width = x.dims()[axis..].iter().product();
    let (scale, zeros) = (scale.broadcast_as(&x.dims()[axis..])?, scale.zeros_like()?);
    let shift = call.get(2).unwrap_or(&zeros).broadcast_as(&x.dims()[axis..])?;
    apply(LayerNorm { width, epsilon: call.float("epsilon", 1e-5) }, &[x, &scale, &shift])
}

fn batch_norm(call: &mut Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?.contiguous()?;
    let moments = match call.training {
        true => Moments::of(&x.flatten_all()?.to_vec1::<f32>()?, x.dims()),
        false => Moments {
            mean: call.floats(3)?.unwrap_or_default(),
            variance: call.floats(4)?.unwrap_or_default(),
            count: 0,
        },
    };
    let channels = x.dims().get(1).copied().unwrap_or(1);
    if [moments.mean.len(), moments.variance.len()] != [channels; 2] {
        bail!("mean and variance of {channels} channels are expected");
    }
    let of = BatchNorm { moments: moments.clone(), training: call.training, epsilon: call.float("epsilon", 1e-5) };
    let output = apply(of, &[&x, call.input(1)?, call.input(2)?])?;
    call.moments = call.training.then_some(moments);
    Ok(output)
}

/// A batch norm of each image for itself.
fn instance_norm(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let channels = x.dims().get(1).copied().unwrap_or(1);
    let mut flat = x.dims().to_vec();
    (flat[0], flat[1]) = (1, x.dims()[0] * channels);
    let images = x.contiguous()?.reshape(flat)?;
    let moments = Moments::of(&images.flatten_all()?.to_vec1::<f32>()?, images.dims());
    let each = |index| call.input(index)?.repeat(x.dims()[0]);
    let of = BatchNorm { moments, training: true, epsilon: call.float("epsilon", 1e-5) };
    apply(of, &[&images, &each(1)?, &each(2)?])?.reshape(x.dims())
}

fn reduce(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let stated = match call.ints(1)? {
        Some(axes) => Some(axes),
        None => call.node.ints("axes").map(<[i64]>::to_vec),
    };
    let axes = match stated.filter(|axes| !axes.is_empty()) {
        Some(axes) => axes.into_iter().map(|axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?,
        None if call.int("noop_with_empty_axes", 0) != 0 => return Ok(x.clone()),
        None => (0..x.rank()).collect(),
    };
    let reduced = match call.node.op.as_str() {
        "ReduceMean" => x.mean_keepdim(axes.clone())?,
        "ReduceSum" => x.sum_keepdim(axes.clone())?,
        "ReduceSumSquare" => x.sqr()?.sum_keepdim(axes.clone())?,
        "ReduceL2" => Unary::Sqrt.apply(&x.sqr()?.sum_keepdim(axes.clone())?)?,
        "ReduceMax" => extreme(x, &axes, Extreme { least: false, ties: Ties::Share })?,
        _ => extreme(x, &axes, Extreme { least: true, ties: Ties::Share })?,
    };
    if call.int("keepdims", 1) != 0 {
        return Ok(reduced);
    }
    let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).map(|axis| x.dims()[axis]).collect();
    reduced.reshape(kept)
}

fn spatial(x: &Tensor, of: fn(&Tensor, Vec<usize>) -> Result<Tensor>) -> Result<Tensor> {
    of(x, (2..x.rank()).collect())
}

fn maximum_over_space(x: &Tensor) -> Result<Tensor> {
    let axes: Vec<usize> = (2..x.rank()).collect();
    extreme(x, &axes, Extreme { least: false, ties: Ties::First })
}

/// Over those axes, which stay with a size of 1.
fn extreme(x: &Tensor, axes: &[usize], of: Extreme) -> Result<Tensor> {
    if axes.is_empty() || x.dtype() != DType::F32 {
        let along = |x: Tensor, &axis: &usize| if of.least { x.min_keepdim(axis) } else { x.max_keepdim(axis) };
        return axes.iter().try_fold(x.clone(), along);
    }
    let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).collect();
    let shape: Vec<usize> = (0..x.rank()).map(|axis| if axes.contains(&axis) { 1 } else { x.dims()[axis] }).collect();
    let mut axes = axes.to_vec();
    axes.sort_unstable();
    axes.dedup();
    let width = axes.iter().map(|&axis| x.dims()[axis]).product::<usize>();
    if width == 0 {
        bail!("the extreme of no values");
    }
    let rows = x.permute([kept, axes].concat())?.contiguous()?.reshape((x.elem_count() / width, width))?;
    apply(of, &[&rows])?.reshape(shape)
}

fn where_cond(call: &Call<'_>) -> Result<Tensor> {
    let (condition, yes, no) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let shape = condition.shape().broadcast_shape_binary_op(yes.shape(), "where")?;
    let shape = shape.broadcast_shape_binary_op(no.shape(), "where")?;
    let wide = |tensor: &Tensor| tensor.broadcast_as(&shape)?.contiguous();
    wide(condition)?.where_cond(&wide(yes)?, &wide(no)?)
}
