//! Scales, zero points and quantized constants as files have them.

use super::super::program::QuantParams;
use super::super::round;
use super::reason::Reason;
use super::state::Lowering;
use crate::onnx::graph::{Node, ValueId};
use crate::onnx::{ElementType, Tensor};
use std::sync::Arc;

/// A constant of 8 bits with what it stands for.
#[derive(Debug, Clone)]
pub(super) struct QuantConst {
    /// In the signed domain.
    pub data: Arc<[i8]>,
    pub shape: Vec<usize>,
    /// One, or one for each index of the axis.
    pub scales: Vec<f32>,
    /// As many as scales, or one.
    pub zero_points: Vec<i8>,
    pub axis: usize,
    pub signed: bool,
}

impl QuantConst {
    pub fn per_tensor(&self) -> Option<QuantParams> {
        match (self.scales.as_slice(), self.zero_points.as_slice()) {
            (&[scale], &[zero_point]) => Some(QuantParams { scale, zero_point, signed: self.signed }),
            _ => None,
        }
    }

    /// Whether there is one scale, or one for each index of that axis.
    pub fn is_by(&self, axis: usize) -> bool {
        (self.scales.len() == 1 && self.zero_points.len() == 1) || self.axis == axis
    }

    /// Who calls has paid.
    pub fn floats(&self) -> Vec<f32> {
        let inner: usize = self.shape[(self.axis + 1).min(self.shape.len())..].iter().product();
        let one = |(i, &q): (usize, &i8)| {
            let channel = i / inner.max(1);
            let scale = self.scales[channel % self.scales.len()];
            let zero_point = self.zero_points[channel % self.zero_points.len()];
            round::dequantize(q, &QuantParams { scale, zero_point, signed: self.signed })
        };
        self.data.iter().enumerate().map(one).collect()
    }
}

/// A constant of 8 bits of which nobody has said yet what it stands for.
struct Int8Tensor {
    /// In the signed domain.
    data: Arc<[i8]>,
    shape: Vec<usize>,
    element: ElementType,
}

/// Bytes of an INT8 or UINT8 tensor in the signed domain.
pub(super) fn signed_bytes(tensor: &Tensor) -> Option<Arc<[i8]>> {
    let flip = if signed(tensor.element()).ok()? { 0 } else { 0x80 };
    Some(tensor.bytes().iter().map(|b| (b ^ flip).cast_signed()).collect())
}

pub(super) fn signed(element: ElementType) -> Result<bool, Reason> {
    if element == ElementType::I8 {
        Ok(true)
    } else if element == ElementType::U8 {
        Ok(false)
    } else {
        Err(Reason::Element(element))
    }
}

pub(super) fn checked_scale(scale: f32) -> Result<f32, Reason> {
    if scale.is_normal() && scale > 0.0 { Ok(scale) } else { Err(Reason::Scale(scale)) }
}

/// Scales or zero points of one tensor.
const MAX_SCALES: usize = 1 << 20;

impl Lowering<'_> {
    /// A constant of float type, as f32.
    pub fn float_constant(&self, value: ValueId) -> Option<Vec<f32>> {
        let tensor = self.graph.constant(value)?;
        self.pay(tensor.len().saturating_mul(12)).ok()?;
        let values = tensor.to_f64s()?;
        Some(values.into_iter().map(|v| v as f32).collect())
    }

    /// The one element of a float constant.
    pub fn scalar(&self, value: ValueId) -> Option<f32> {
        // By its length first: a large constant is not to be turned for each node that reads it.
        self.graph.constant(value).filter(|tensor| tensor.len() == 1)?;
        self.float_constant(value)?.first().copied()
    }

    /// Scales, one or several.
    pub fn scales(&self, value: Option<ValueId>) -> Result<Vec<f32>, Reason> {
        let fits = |value: &ValueId| {
            self.graph.constant(*value).is_some_and(|tensor| (1..=MAX_SCALES).contains(&tensor.len()))
        };
        let scales = value.filter(fits).and_then(|value| self.float_constant(value)).ok_or(Reason::Computed)?;
        scales.into_iter().map(checked_scale).collect()
    }

    /// Zero points in the signed domain; absent means 0 of the tensor's type.
    pub fn zero_points(&self, value: Option<ValueId>, element: ElementType) -> Result<Vec<i8>, Reason> {
        let signed = signed(element)?;
        let Some(value) = value else { return Ok(vec![if signed { 0 } else { -128 }]) };
        let tensor = self.graph.constant(value).ok_or(Reason::Computed)?;
        if tensor.element() != element {
            return Err(Reason::Element(tensor.element()));
        }
        if !(1..=MAX_SCALES).contains(&tensor.len()) {
            return Err(Reason::Computed);
        }
        Ok(signed_bytes(tensor).ok_or(Reason::Element(element))?.to_vec())
    }

    /// One scale and one zero point.
    pub fn params(
        &self,
        scale: Option<ValueId>,
        zero_point: Option<ValueId>,
        element: ElementType,
    ) -> Result<QuantParams, Reason> {
        let zero_points = self.zero_points(zero_point, element)?;
        match (self.scales(scale)?.as_slice(), zero_points.as_slice()) {
            (&[scale], &[zero_point]) => Ok(QuantParams { scale, zero_point, signed: signed(element)? }),
            _ => Err(Reason::PerChannel),
        }
    }

    /// What a QuantizeLinear quantizes to.
    pub fn quantize_params(&self, node: &Node) -> Result<QuantParams, Reason> {
        let output = node.output(0).ok_or(Reason::Operator)?;
        if node.int("block_size").is_some_and(|size| size != 0) {
            return Err(Reason::PerChannel);
        }
        self.params(node.input(1), node.input(2), self.element(output)?)
    }

    /// An 8-bit constant as a DequantizeLinear reads it, or a weight operand of another operator.
    pub fn quant_const(
        &self,
        value: ValueId,
        scale: Option<ValueId>,
        zero_point: Option<ValueId>,
        axis: i64,
    ) -> Result<QuantConst, Reason> {
        let Int8Tensor { data, shape, element } = self.int8_constant(value)?;
        let scales = self.scales(scale)?;
        let zero_points = self.zero_points(zero_point, element)?;
        let count = scales.len().max(zero_points.len());
        // A column of scales, as `[N, 1]` or `[1, N]`, is by that axis.
        let ranked = scale.and_then(|s| self.graph.constant(s)).map(|t| t.shape().to_vec()).unwrap_or_default();
        let axis = if ranked.len() > 1 && ranked.len() == shape.len() {
            ranked.iter().position(|&dim| dim == count).unwrap_or(0)
        } else {
            let rank = i64::try_from(shape.len()).unwrap_or(0);
            usize::try_from(if axis < 0 { axis + rank } else { axis }).map_err(|_| Reason::Shape)?
        };
        if count > 1 && shape.get(axis) != Some(&count) {
            return Err(Reason::PerChannel);
        }
        let fits = |len: usize| len == 1 || len == count;
        if !fits(scales.len()) || !fits(zero_points.len()) {
            return Err(Reason::PerChannel);
        }
        Ok(QuantConst { data, shape, scales, zero_points, axis, signed: signed(element)? })
    }

    /// Values, shape and type of an 8-bit constant, or of a float constant that a QuantizeLinear quantizes.
    fn int8_constant(&self, value: ValueId) -> Result<Int8Tensor, Reason> {
        if let Some(tensor) = self.graph.constant(value) {
            let data = self.signed_constant(value, tensor)?;
            return Ok(Int8Tensor { data, shape: tensor.shape().to_vec(), element: tensor.element() });
        }
        let (_, node) = self.graph.producer(value).filter(|(_, node)| is_quantize(node)).ok_or(Reason::Input)?;
        let source = node.input(0).ok_or(Reason::Input)?;
        let floats = self.float_constant(source).ok_or(Reason::Input)?;
        let shape = self.graph.constant(source).map(|t| t.shape().to_vec()).unwrap_or_default();
        let element = self.element(value)?;
        let (scales, zero_points) = (self.scales(node.input(1))?, self.zero_points(node.input(2), element)?);
        let axis = resolve_axis(node.int("axis").unwrap_or(1), shape.len()).unwrap_or(0);
        let inner: usize = shape[(axis + 1).min(shape.len())..].iter().product();
        if node.int("block_size").is_some_and(|size| size != 0) {
            return Err(Reason::PerChannel);
        }
        self.pay(floats.len())?;
        let quantize = |(i, &x): (usize, &f32)| {
            let channel = i / inner.max(1);
            let scale = scales[channel % scales.len()];
            let zero_point = zero_points[channel % zero_points.len()];
            round::quantize(x, &QuantParams { scale, zero_point, signed: true })
        };
        Ok(Int8Tensor { data: floats.iter().enumerate().map(quantize).collect(), shape, element })
    }
}

pub(super) fn is_quantize(node: &Node) -> bool {
    is_either(node, "QuantizeLinear")
}

pub(super) fn is_dequantize(node: &Node) -> bool {
    is_either(node, "DequantizeLinear")
}

/// ONNX's own, or Microsoft's of the same name.
fn is_either(node: &Node, op: &str) -> bool {
    node.op == op && (node.domain.is_empty() || node.domain == "com.microsoft")
}

/// A non-negative axis.
pub(super) fn resolve_axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    usize::try_from(axis).ok().filter(|_| axis < rank)
}
