//! Weights of int8 that a file brings to float by hand: `(Cast(w) − zero point) · scale`, instead of a DequantizeLinear.

use super::super::function::Binary;
use super::params::{QuantConst, checked_scale};
use super::reason::Reason;
use super::state::{Lowering, Rep};
use crate::onnx::ElementType;
use crate::onnx::graph::{Node, ValueId};
use std::sync::Arc;

impl Lowering<'_> {
    pub fn visit_cast(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        if node.int("to") != Some(i64::from(ElementType::F32.to_onnx())) {
            return Err(Reason::Operator);
        }
        let tensor = self.graph.constant(input).ok_or(Reason::Operator)?;
        let signed = tensor.element() == ElementType::I8;
        let constant = QuantConst {
            data: self.signed_constant(input, tensor)?,
            shape: tensor.shape().to_vec(),
            scales: vec![1.0],
            // What stands for 0 among the bytes of that type.
            zero_points: vec![if signed { 0 } else { -128 }],
            axis: 0,
            signed,
        };
        self.reps.insert(output, Rep::Constant(Arc::new(constant)));
        Ok(())
    }

    /// A quantized constant times a scale, or less a zero point; nothing where it is something else.
    pub fn rescaled(&self, a: ValueId, b: ValueId, function: Binary) -> Result<Option<QuantConst>, Reason> {
        let constant = |value: ValueId| match self.reps.get(&value) {
            Some(Rep::Constant(constant)) => Some(Arc::clone(constant)),
            Some(Rep::Int8(_) | Rep::Curve { .. } | Rep::Float(_) | Rep::Dynamic(_)) | None => None,
        };
        let (weights, other) = match (constant(a), constant(b)) {
            (Some(weights), None) => (weights, b),
            (None, Some(weights)) if function == Binary::Mul => (weights, a),
            (Some(_), Some(_)) | (None, _) => return Ok(None),
        };
        let Some((values, axis)) = self.by_axis(&weights, other) else { return Ok(None) };
        self.pay((values.len() + weights.scales.len() + weights.zero_points.len()).saturating_mul(8))?;
        let of = |list_len: usize, i: usize| if list_len == 1 { 0 } else { i };
        let axis = if values.len() > 1 { axis } else { weights.axis };
        let mut made = QuantConst { axis, ..(*weights).clone() };
        match function {
            Binary::Mul => {
                let scale = |i: usize| weights.scales[of(weights.scales.len(), i)] * values[of(values.len(), i)];
                let count = values.len().max(weights.scales.len());
                made.scales = (0..count).map(|i| checked_scale(scale(i))).collect::<Result<_, _>>()?;
            }
            // Before the scale: the zero point moves by a whole number.
            Binary::Sub if weights.scales == [1.0] => {
                let moved = |i: usize| {
                    f32::from(weights.zero_points[of(weights.zero_points.len(), i)]) + values[of(values.len(), i)]
                };
                let whole = |x: f32| (x.fract() == 0.0 && (-128.0..=127.0).contains(&x)).then_some(x as i8);
                let count = values.len().max(weights.zero_points.len());
                let zeros: Option<Vec<i8>> = (0..count).map(|i| whole(moved(i))).collect();
                let Some(zeros) = zeros else { return Ok(None) };
                made.zero_points = zeros;
            }
            Binary::Sub | Binary::Add | Binary::Div | Binary::Min | Binary::Max | Binary::Pow => return Ok(None),
        }
        Ok(Some(made))
    }

    /// A float constant of one value, or of one for each index of an axis of the weights, which is theirs if they have one.
    fn by_axis(&self, weights: &QuantConst, value: ValueId) -> Option<(Vec<f32>, usize)> {
        let shape = self.graph.constant(value)?.shape();
        let rank = weights.shape.len();
        let behind = rank.checked_sub(shape.len())?;
        let long: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] != 1).collect();
        let axis = match long.as_slice() {
            [] => 0,
            &[axis] if shape[axis] == weights.shape[behind + axis] => behind + axis,
            _ => return None,
        };
        let fits = long.is_empty() || weights.is_by(axis);
        let values = self.float_constant(value).filter(|values| fits && !values.is_empty())?;
        Some((values, axis))
    }
}
