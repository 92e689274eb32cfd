//! Quantized constants that a float operator reads, as floats.

use super::params::{is_dequantize, resolve_axis};
use super::state::{Lowering, Rep};
use crate::onnx::graph::ValueId;
use crate::onnx::{ElementType, Tensor};

impl Lowering<'_> {
    /// What a DequantizeLinear makes of a constant of any width, or a quantized constant that was moved.
    pub fn folded(&self, value: ValueId) -> Option<Tensor> {
        if let Some(Rep::Constant(constant)) = self.reps.get(&value) {
            self.pay(constant.data.len() * 8).ok()?;
            return float_tensor(constant.shape.clone(), &constant.floats());
        }
        let (_, node) = self.graph.producer(value).filter(|(_, node)| is_dequantize(node))?;
        let tensor = self.graph.constant(node.input(0)?)?;
        let scales = self.graph.constant(node.input(1)?)?;
        if scales.element() != ElementType::F32 {
            return None;
        }
        self.pay(tensor.len().saturating_mul(16)).ok()?;
        let values = tensor.to_i64s()?;
        let zero_points = match node.input(2) {
            Some(value) => self.graph.constant(value)?.to_i64s()?,
            None => vec![0],
        };
        let scales = scales.to_f32s()?;
        let block = usize::try_from(node.int("block_size").unwrap_or(0)).ok()?;
        let axis = resolve_axis(node.int("axis").unwrap_or(1), tensor.shape().len()).unwrap_or(0);
        let place = places(tensor.shape(), axis, block, scales.len());
        let one = |(i, &q): (usize, &i64)| {
            let zero_point = zero_points.get(if zero_points.len() == 1 { 0 } else { place(i) })?;
            Some((q - zero_point) as f32 * scales.get(place(i))?)
        };
        let floats: Option<Vec<f32>> = values.iter().enumerate().map(one).collect();
        float_tensor(tensor.shape().to_vec(), &floats?)
    }
}

/// The scale of each element: one for all, one for each index of an axis, one for each block along it.
fn places(shape: &[usize], axis: usize, block: usize, scales: usize) -> impl Fn(usize) -> usize {
    let inner: usize = shape[(axis + 1).min(shape.len())..].iter().product();
    let dim = shape.get(axis).copied().unwrap_or(1);
    move |i| match (scales, block) {
        (1, _) => 0,
        (_, 0) => i / inner.max(1) % dim.max(1),
        (_, block) => {
            let (outer, at, rest) = (i / (inner * dim).max(1), i / inner.max(1) % dim.max(1), i % inner.max(1));
            (outer * dim.div_ceil(block) + at / block) * inner + rest
        }
    }
}

fn float_tensor(shape: Vec<usize>, floats: &[f32]) -> Option<Tensor> {
    Tensor::vector_f32(floats).reshaped(shape)
}
