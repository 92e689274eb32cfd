//! One node of ONNX after another, on candle's tensors, so that gradients come back through them.
//!
//! Invariant: an operator that is not known by all its attributes is refused by name, never passed over.
//! Operators: <https://onnx.ai/onnx/operators/>, of the set that `onnx::normalise` brings everything to.
//! Not here: in which order nodes run, and what stands between them (`program`).

mod layout;
mod math;
mod quantized;
mod windows;

use super::ops::norm::Moments;
use crate::onnx::ElementType;
use crate::onnx::Tensor as Constant;
use crate::onnx::graph::Node;
use candle_core::{DType, Device, Result, Tensor, bail};

/// A node with what it is given.
#[derive(Debug)]
pub struct Call<'a> {
    pub node: &'a Node,
    pub inputs: Vec<Option<Tensor>>,
    /// BatchNormalization takes the batch's own moments.
    pub training: bool,
    /// Samples that are run at once, where the graph itself says one.
    pub batch: usize,
    /// What the zero point of a QuantizeLinear says of its type.
    pub quantized: Option<ElementType>,
    /// Moments of a BatchNormalization that ran in training.
    pub moments: Option<Moments>,
}

impl Call<'_> {
    fn get(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index)?.as_ref()
    }

    /// # Errors
    /// When it was left out.
    fn input(&self, index: usize) -> Result<&Tensor> {
        match self.get(index) {
            Some(tensor) => Ok(tensor),
            None => bail!("input {index} is missing"),
        }
    }

    /// Integers of an input; `None` where it was left out.
    fn ints(&self, index: usize) -> Result<Option<Vec<i64>>> {
        self.get(index).map(|tensor| tensor.to_dtype(DType::I64)?.flatten_all()?.to_vec1()).transpose()
    }

    /// Floats of an input; `None` where it was left out.
    fn floats(&self, index: usize) -> Result<Option<Vec<f32>>> {
        self.get(index).map(|tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()).transpose()
    }

    fn int(&self, name: &str, otherwise: i64) -> i64 {
        self.node.int(name).unwrap_or(otherwise)
    }

    fn float(&self, name: &str, otherwise: f32) -> f32 {
        self.node.float(name).unwrap_or(otherwise)
    }

    /// An attribute that counts from the end where it is negative.
    fn axis(&self, name: &str, otherwise: i64, rank: usize) -> Result<usize> {
        axis_of(self.int(name, otherwise), rank)
    }
}

/// # Errors
/// When there is no such dimension.
fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    if (0..rank.max(1) as i64).contains(&at) { Ok(at as usize) } else { bail!("there is no axis {axis} of {rank}") }
}

/// Outputs of a node; `None` where training does not know its operator.
///
/// # Errors
/// When inputs do not fit.
pub fn run(call: &mut Call<'_>) -> Result<Option<Vec<Tensor>>> {
    let domain = call.node.domain.as_str();
    if !(domain.is_empty() || (domain == "com.microsoft" && matches!(call.node.op.as_str(), "Gelu"))) {
        return quantized::run(call);
    }
    if let Some(outputs) = math::run(call)? {
        return Ok(Some(outputs));
    }
    if let Some(outputs) = windows::run(call)? {
        return Ok(Some(outputs));
    }
    if let Some(outputs) = quantized::run(call)? {
        return Ok(Some(outputs));
    }
    layout::run(call)
}

/// A constant as candle has it: floats as F32, integers as I64, booleans as U8.
///
/// # Errors
/// When it holds texts, or integers beyond INT64.
pub fn tensor_of(constant: &Constant) -> Result<Tensor> {
    let shape = constant.shape();
    if constant.element() == ElementType::Bool {
        return Tensor::from_vec(constant.bytes().to_vec(), shape, &Device::Cpu);
    }
    if let Some(values) = constant.to_f32s() {
        return Tensor::from_vec(values, shape, &Device::Cpu);
    }
    if let Some(values) = constant.to_f64s() {
        return Tensor::from_vec(values.into_iter().map(|value| value as f32).collect(), shape, &Device::Cpu);
    }
    match constant.to_i64s() {
        Some(values) => Tensor::from_vec(values, shape, &Device::Cpu),
        None => bail!("a constant of type {:?} is none to calculate with", constant.element()),
    }
}
