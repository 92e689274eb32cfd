//! Why a node stays in float, for reports.

use super::super::check::Problem;
use crate::onnx::ElementType;

/// What constants may take that are copied or turned for the nodes that read them, in bytes. It bounds the time as well.
pub(super) const MAX_COPIES: usize = if cfg!(test) { 64 << 20 } else { 2 << 30 };

/// Why lowering left a node to the float engine.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Reason {
    #[error("no int8 form of this operator exists here")]
    Operator,
    #[error("its input is neither quantized nor computed by a region")]
    Input,
    #[error("its output is not quantized, and only products leave int8 in float")]
    Output,
    #[error("its weights are not quantized constants of 8 bits")]
    Weights,
    #[error("scale or zero point is computed at run time")]
    Computed,
    #[error("scale {0} is not finite, positive and normal")]
    Scale(f32),
    #[error("values are {0}, and regions hold INT8 and UINT8")]
    Element(ElementType),
    #[error("activations have a scale for each channel, or for each block")]
    PerChannel,
    #[error("the shape depends on the input's contents, or a dimension is unknown")]
    Shape,
    #[error("attribute or form {0} has no int8 form here")]
    Attribute(&'static str),
    #[error("inputs have different scales, and the output has none to bring them to")]
    Scales,
    #[error("the model's constants, as its nodes read them, take more than {MAX_COPIES} bytes, or twice the file")]
    Memory,
    #[error("it does not hold together: {0}")]
    Program(#[from] Problem),
}
