//! Small ONNX files, written by hand: protobuf fields with the numbers of `onnx.proto`.

use crate::tensor::{DataType, TensorSpec};

pub(super) const FLOAT: u64 = 1;

pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value, &mut out);
    out
}

pub(super) fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str], rest: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name.as_bytes())).collect();
    out.extend(outputs.iter().flat_map(|name| bytes(2, name.as_bytes())));
    out.extend(bytes(4, op.as_bytes()));
    out.extend_from_slice(rest);
    bytes(1, &out)
}

/// A weight tensor; `data` is its fields besides dims, type and name.
pub(super) fn weights(name: &str, dims: &[u64], datatype: u64, data: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = dims.iter().flat_map(|&dim| number(1, dim)).collect();
    out.extend(number(2, datatype));
    out.extend(bytes(8, name.as_bytes()));
    out.extend_from_slice(data);
    bytes(5, &out)
}

/// A graph input (field 11) or output (12). Dimensions are numbers or, as text, symbols.
pub(super) fn value(field: u64, name: &str, datatype: u64, shape: &[&str]) -> Vec<u8> {
    let dim = |dim: &&str| match dim.parse() {
        Ok(size) => bytes(1, &number(1, size)),
        Err(_) => bytes(1, &bytes(2, dim.as_bytes())),
    };
    let shape: Vec<u8> = shape.iter().flat_map(dim).collect();
    let tensor = [number(1, datatype), bytes(2, &shape)].concat();
    bytes(field, &[bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat())
}

pub(super) fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    let opset = bytes(8, &number(2, 13));
    [number(1, 8), bytes(7, &graph.concat()), opset].concat()
}

/// `y = op(x)` over FP32 [batch, 4], with a stale shape at the output.
pub(super) fn unary(op: &str) -> Vec<u8> {
    model(&[node(op, &["x"], &["y"], &[]), value(11, "x", FLOAT, &["batch", "4"]), value(12, "y", FLOAT, &["7", "9"])])
}

pub(super) fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec::new(name, DataType::Fp32, shape.to_vec())
}
