//! `QuantizeLinear` of constants: float weights that an exporter left in front of their quantization.
//!
//! Spec: <https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html>: x / scale in the type of x, half to
//! even, plus zero point, saturated. Per tensor or per axis; blocks are left to the run.

use crate::onnx::graph::Node;
use crate::onnx::tensor::{ElementType, Tensor, count};

pub(super) fn quantize(
    node: &Node,
    data: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    to: ElementType,
) -> Option<Tensor> {
    let (values, scales) = (data.to_f32s()?, scale.to_f32s()?);
    let zeros = zero.map_or_else(|| Some(vec![0; scales.len()]), Tensor::to_i64s)?;
    let (low, high) = to.range().filter(|_| to.bits() == 8 || to.bits() == 16)?;
    if zeros.len() != scales.len() || node.int("block_size").unwrap_or(0) != 0 || scales.contains(&0.0) {
        return None;
    }
    let (length, inner) = if scales.len() == 1 {
        (1, values.len())
    } else {
        let rank = i64::try_from(data.shape().len()).ok()?;
        let at = node.int("axis").unwrap_or(1);
        let at = usize::try_from(if at < 0 { at.checked_add(rank)? } else { at }).ok()?;
        (*data.shape().get(at).filter(|&&length| length == scales.len())?, count(&data.shape()[at + 1..])?)
    };
    let (low, high) = (f64::from(low as i32), f64::from(high as i32));
    let one = |(place, value): (usize, &f32)| {
        let channel = place / inner.max(1) % length;
        let level = f64::from((value / scales[channel]).round_ties_even()) + zeros[channel] as f64;
        level.clamp(low, high) as i64
    };
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    Tensor::from_i64s(to, data.shape().to_vec(), &values.iter().enumerate().map(one).collect::<Vec<_>>())
}
