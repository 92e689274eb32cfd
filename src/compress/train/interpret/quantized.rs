//! QuantizeLinear and DequantizeLinear, so that a quantized model can be trained on: rounding passes gradients straight
//! through.
//!
//! Between the two, values are kept as floats that are whole numbers.

use super::{Call, axis_of};
use crate::compress::train::ops::apply;
use crate::compress::train::ops::fake::Fake;
use crate::onnx::ElementType;
use candle_core::{DType, Result, Tensor, bail};

pub(super) fn run(call: &Call<'_>) -> Result<Option<Vec<Tensor>>> {
    let output = match call.node.op.as_str() {
        "QuantizeLinear" => quantize(call)?,
        "DequantizeLinear" => dequantize(call)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![output]))
}

/// Levels of a type: its least and greatest.
///
/// # Errors
/// When it is none to quantize to.
pub(super) fn levels(element: Option<ElementType>) -> Result<(f32, f32)> {
    match element {
        Some(ElementType::I8) => Ok((-128.0, 127.0)),
        Some(ElementType::U8) | None => Ok((0.0, 255.0)),
        Some(ElementType::I16) => Ok((-32768.0, 32767.0)),
        Some(ElementType::U16) => Ok((0.0, 65535.0)),
        Some(other) => bail!("quantized values of type {other:?}"),
    }
}

/// One, or one for each index of `axis`, made to broadcast.
fn along(call: &Call<'_>, index: usize, x: &Tensor) -> Result<Option<Tensor>> {
    let Some(values) = call.get(index) else { return Ok(None) };
    let values = values.to_dtype(DType::F32)?;
    if values.elem_count() == 1 {
        return Ok(Some(values.flatten_all()?));
    }
    if values.rank() != 1 || call.int("block_size", 0) != 0 {
        bail!("scales by blocks");
    }
    let axis = axis_of(call.int("axis", 1), x.rank())?;
    let mut shape = vec![1; x.rank()];
    shape[axis] = values.elem_count();
    Ok(Some(values.reshape(shape)?))
}

fn quantize(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let scale = call.input(1)?.to_dtype(DType::F32)?.flatten_all()?;
    let zeros = call.floats(2)?.unwrap_or_else(|| vec![0.0; scale.elem_count()]);
    let (low, high) = levels(call.quantized)?;
    let axis = if scale.elem_count() == 1 { 0 } else { axis_of(call.int("axis", 1), x.rank())? };
    let real = apply(Fake { zeros, low, high, axis }, &[x, &scale])?;
    let whole = real.broadcast_div(&along(call, 1, x)?.unwrap_or(scale))?;
    match along(call, 2, x)? {
        Some(zero) => whole.broadcast_add(&zero),
        None => Ok(whole),
    }
}

fn dequantize(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?.to_dtype(DType::F32)?;
    let Some(scale) = along(call, 1, &x)? else { bail!("a scale is expected") };
    match along(call, 2, &x)? {
        Some(zero) => x.broadcast_sub(&zero)?.broadcast_mul(&scale),
        None => x.broadcast_mul(&scale),
    }
}
