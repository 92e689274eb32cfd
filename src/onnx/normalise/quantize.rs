//! Quantized weights as exporters leave them: in float before a `QuantizeLinear`, or turned around behind
//! their `DequantizeLinear`. Here they become integers in the layout that their reader takes.
//!
//! Spec: <https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html>: x / scale in the type of x, half to
//! even, plus zero point, saturated. Per tensor or per axis; blocks are left to the run.

use super::evaluate;
use super::fold::Folder;
use crate::onnx::graph::{Attribute, Node, NodeId};
use crate::onnx::tensor::{ElementType, Tensor, count};

/// The integers of a constant tensor; scale and zero point of one element, or of as many as the axis is long.
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

/// Weights of 4 bits, two in a byte, become a byte each: the kernels multiply those. Where scales go by blocks they stay.
pub(super) fn widen(folder: &mut Folder, id: NodeId) -> Option<()> {
    let node = folder.graph.node(id).filter(|node| node.op == "DequantizeLinear")?;
    let values = [(0, node.input(0)), (2, node.input(2))];
    let element = folder.graph.constant(values[0].1?)?.element();
    let wide = if element == ElementType::I4 { ElementType::I8 } else { ElementType::U8 };
    if element.bits() != 4 || node.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let mut made = Vec::new();
    for (at, value) in values.into_iter().filter_map(|(at, value)| Some((at, value?))) {
        let tensor = folder.graph.constant(value).filter(|tensor| tensor.element() == element)?.clone();
        folder.pay(tensor.len().checked_mul(size_of::<i64>())?)?;
        let name = folder.graph.value(value).name.clone();
        made.push((at, name, Tensor::from_i64s(wide, tensor.shape().to_vec(), &tensor.to_i64s()?)?));
    }
    for (at, name, tensor) in made {
        let value = folder.constant(&name, tensor);
        folder.graph.node_mut(id)?.inputs[at] = Some(value);
    }
    Some(())
}

/// `DequantizeLinear`, then a new layout: the constant gets that layout instead. The node is replaced; its
/// output keeps its index.
pub(super) fn turn_weights(folder: &mut Folder, id: NodeId) -> Option<()> {
    const LAYOUTS: [&str; 5] = ["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"];
    let node = folder.graph.node(id).filter(|node| node.domain.is_empty() && LAYOUTS.contains(&node.op.as_str()))?;
    let (_, source) = folder.graph.producer(node.input(0)?).filter(|(_, source)| source.is("DequantizeLinear"))?;
    let weights = folder.graph.constant(source.input(0)?)?.clone();
    let output = node.output(0)?;
    let shape = folder.facts.shape(output)?;
    let scales = folder.facts.shape(source.input(1)?)?;
    let mut turned = source.clone();
    if count(&scales)? != 1 || source.int("block_size").unwrap_or(0) != 0 {
        let axis = new_axis(node, source, weights.shape(), &shape).filter(|_| scales.len() == 1)?;
        turned.attributes.insert("axis".to_owned(), Attribute::Int(i64::try_from(axis).ok()?));
    }
    let (node, name) = (node.clone(), folder.graph.value(source.input(0)?).name.clone());
    let bytes = weights.bytes().len();
    folder.pay(bytes)?;
    let weights = match node.op.as_str() {
        "Transpose" => evaluate::transpose(&node, &weights, shape)?,
        _ => weights.reshaped(shape)?,
    };
    let weights = folder.constant(&name, weights);
    turned.name = node.name;
    turned.inputs[0] = Some(weights);
    turned.outputs = vec![Some(output)];
    folder.graph.remove_node(id);
    folder.graph.add_node(turned);
    Some(())
}

/// Where the axis of the scales comes to lie; `None` where it is split, merged, or in blocks.
fn new_axis(node: &Node, source: &Node, from: &[usize], to: &[usize]) -> Option<usize> {
    if source.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let old = source.int("axis").unwrap_or(1);
    let old = usize::try_from(if old < 0 { old.checked_add(i64::try_from(from.len()).ok()?)? } else { old }).ok()?;
    let length = *from.get(old)?;
    if node.op == "Transpose" {
        let reversed: Vec<i64> = (0..i64::try_from(from.len()).ok()?).rev().collect();
        let order = node.ints("perm").unwrap_or(&reversed);
        return order.iter().position(|&at| usize::try_from(at) == Ok(old));
    }
    let before = count(&from[..old])?;
    (0..to.len()).find(|&at| to[at] == length && count(&to[..at]) == Some(before))
}
