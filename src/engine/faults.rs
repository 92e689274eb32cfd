//! Nodes that tract 0.23.9 takes and computes wrongly, seen with the onnx package's backend tests (docs/operators.md).
//!
//! A model with one of them is refused rather than served. Look again with each new tract.

use tract_onnx::pb::{AttributeProto, NodeProto, tensor_proto::DataType as OnnxType};

/// What of the node tract would compute otherwise than ONNX says.
pub(super) fn misread(node: &NodeProto) -> Option<&'static str> {
    let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let integer = |name: &str| attribute(name).map_or(0, |attribute| attribute.i);
    let text = |name: &str| attribute(name).map_or(&[][..], |attribute| &attribute.s);
    let given = |place: usize| node.input.get(place).is_some_and(|name| !name.is_empty());
    let window = |name: &str| attribute(name).is_some_and(|attribute| attribute.i >= 0);
    let backward = !matches!(text("direction"), b"" | b"forward");
    match node.op_type.as_str() {
        "QuantizeLinear" => loses_output_type(node).then_some("output_dtype but no zero point"),
        // The outputs are not put back in order.
        "LSTM" | "RNN" | "GRU" if backward => Some("another direction than forward"),
        // The reset gate is applied behind the product, whatever is asked for.
        "GRU" => (integer("linear_before_reset") == 0).then_some("linear_before_reset 0"),
        "Attention" if window("left_window_size") || window("right_window_size") => Some("a window"),
        // What lies in the past is passed over when the mask is made.
        "Attention" => (integer("is_causal") != 0 && given(4)).then_some("is_causal and a past"),
        // It is passed over, as an attribute and as an input.
        "DFT" => Some("its axis"),
        "SpaceToDepth" => (text("mode") == b"CRD").then_some("mode CRD"),
        "Swish" => attribute("alpha").filter(|attribute| attribute.f != 1.0).map(|_| "alpha"),
        _ => None,
    }
}

/// From operator set 21 on the type of a QuantizeLinear without zero point stands in an attribute
/// that tract passes over; UINT8 is what it assumes.
fn loses_output_type(node: &NodeProto) -> bool {
    let has_zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    let other_type =
        |a: &AttributeProto| a.name == "output_dtype" && a.i != 0 && a.i != i64::from(OnnxType::Uint8 as i32);
    !has_zero_point && node.attribute.iter().any(other_type)
}
