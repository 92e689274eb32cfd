//! What runs in int8 and what does not, and files that mean harm.

use super::super::fixture::{FLOAT, bytes, model, node, number, spec, value, weights};
use super::super::model::{LoadError, Model};
use super::Divided;
use crate::kernels::{IsaError, SharedWeights};
use crate::onnx;
use crate::tensor::TensorSpec;

const INT8: u64 = 3;

fn shipped(name: &str) -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    std::fs::read(dir.join(name).join("model.onnx")).unwrap()
}

fn image() -> [TensorSpec; 1] {
    [spec("image", &[1, 1, 8, 8])]
}

fn divide<'a>(file: impl Into<onnx::Encoded<'a>>, inputs: &[TensorSpec]) -> Result<Option<Divided>, IsaError> {
    super::divide(file.into(), inputs, &SharedWeights::default()).map(|(divided, _)| divided)
}

#[test]
fn a_shipped_model_is_one_region_and_nothing_else() {
    for name in ["digits", "digits-adapted"] {
        let divided = divide(&shipped(name), &image()).unwrap().unwrap();
        assert_eq!(divided.regions.len(), 1);
        let left = onnx::Model::from_parts((&divided.graph).into(), &onnx::Limits::default()).unwrap();
        let ops: Vec<_> = left.graph.nodes().map(|(_, node)| node.op.clone()).collect();
        assert_eq!(ops, ["Int8Region"]);
    }
}

/// `y = DequantizeLinear(QuantizeLinear(x))`, through `middle` from `d` to `m` in float and back.
fn quantized(middle: &[Vec<u8>], shape: &[&str]) -> Vec<u8> {
    let mut graph = vec![
        weights("scale", &[], FLOAT, &bytes(9, &0.5_f32.to_le_bytes())),
        weights("zero", &[], INT8, &bytes(9, &[0])),
        node("QuantizeLinear", &["x", "scale", "zero"], &["q"], &[]),
        node("DequantizeLinear", &["q", "scale", "zero"], &["d"], &[]),
        node("QuantizeLinear", &["m", "scale", "zero"], &["r"], &[]),
        node("DequantizeLinear", &["r", "scale", "zero"], &["y"], &[]),
        value(11, "x", FLOAT, &["1", "4"]),
        value(12, "y", FLOAT, shape),
    ];
    graph.extend_from_slice(middle);
    model(&graph)
}

fn load(onnx: &[u8], y: &[usize]) -> Result<Model, LoadError> {
    Model::load(onnx, &[spec("x", &[1, 4])], &[spec("y", y)])
}

#[test]
fn a_quantized_function_answers_as_its_standard_says() {
    let onnx = quantized(&[node("Relu", &["d"], &["m"], &[])], &["1", "4"]);
    assert!(divide(&onnx, &[spec("x", &[1, 4])]).unwrap().is_some());
    let mut session = load(&onnx, &[1, 4]).unwrap().session().unwrap();
    // Ties go to the even step of 0.5; 1,000 saturates at 127 steps.
    let input = crate::tensor::Tensor::from_f32(vec![1, 4], &[-3.0, 0.75, 1.25, 1000.0]).unwrap();
    assert_eq!(session.run(&[input]).unwrap()[0].to_f32().unwrap(), [0.0, 1.0, 1.0, 63.5]);
}

#[test]
fn a_float_model_is_left_alone() {
    assert!(divide(&super::super::fixture::unary("Relu"), &[spec("x", &[2, 4])]).unwrap().is_none());
    assert!(divide(b"no model", &[]).unwrap().is_none());
}

#[test]
fn a_tensor_too_large_for_a_board_is_refused_within_a_region_too() {
    let pads = [0_i64, 0, 999_999, 999_996].map(i64::to_le_bytes).concat();
    let middle = [weights("pads", &[4], 7, &bytes(9, &pads)), node("Pad", &["d", "pads"], &["m"], &[])];
    let onnx = quantized(&middle, &["1000000", "1000000"]);
    let huge = load(&onnx, &[1_000_000, 1_000_000]);
    assert!(matches!(huge, Err(LoadError::HugeTensor { .. })), "{huge:?}");
}

#[test]
fn a_file_cannot_name_a_region_of_ours() {
    let region = bytes(5, &[bytes(1, b"region"), number(20, 2), number(3, 0)].concat());
    let foreign = [bytes(7, b"ai.selvedge"), region].concat();
    for (op, rest, is_ours) in [("Relu", &[][..], false), ("Int8Region", &foreign, true)] {
        let loaded = load(&quantized(&[node(op, &["d"], &["m"], rest)], &["1", "4"]), &[1, 4]);
        assert_eq!(matches!(loaded, Err(LoadError::Unsupported(_))), is_ours, "{loaded:?}");
    }
}

#[test]
fn ways_without_number_to_a_quantizer_are_not_all_walked() {
    let mut middle: Vec<_> = (0..12)
        .map(|i| {
            let (from, to) = (if i == 0 { "d".into() } else { format!("v{i}") }, format!("v{}", i + 1));
            let axis = bytes(5, &[bytes(1, b"axis"), number(20, 2), number(3, 1)].concat());
            node("Concat", &[&*from; 10], &[&to], &axis)
        })
        .collect();
    middle.push(node("Relu", &["v12"], &["m"], &[]));
    let start = tokio::time::Instant::now();
    let _ = divide(&quantized(&middle, &["1", "4"]), &[spec("x", &[1, 4])]);
    assert!(start.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn empty_tensors_of_endless_rows_are_not_walked() {
    let empty = |name| weights(name, &[1 << 62, 0], FLOAT, &[]);
    let axis = bytes(5, &[bytes(1, b"axis"), number(20, 2), number(3, 1)].concat());
    let middle =
        [empty("a"), empty("b"), node("Concat", &["a", "b"], &["none"], &axis), node("Relu", &["d"], &["m"], &[])];
    assert!(divide(&quantized(&middle, &["1", "4"]), &[spec("x", &[1, 4])]).unwrap().is_some());
}

#[test]
fn windows_and_pads_beyond_all_measure_stay_out_of_regions() {
    let ints = |name: &[u8], values: [u64; 4]| {
        let values: Vec<u8> = values.iter().flat_map(|&value| number(8, value)).collect();
        bytes(5, &[bytes(1, name), number(20, 7), values].concat())
    };
    let side = 1 << 20;
    let kernel = bytes(5, &[bytes(1, b"kernel_shape"), number(20, 7), number(8, side), number(8, side)].concat());
    let rest = [kernel, ints(b"pads", [side - 1; 4])].concat();
    let shape = [1_i64, 1, 2, 2].map(i64::to_le_bytes).concat();
    let back = [1_i64, 4].map(i64::to_le_bytes).concat();
    for pool in ["MaxPool", "AveragePool"] {
        let middle = [
            weights("image", &[4], 7, &bytes(9, &shape)),
            weights("row", &[2], 7, &bytes(9, &back)),
            node("Reshape", &["d", "image"], &["i"], &[]),
            node(pool, &["i"], &["p"], &rest),
            node("Reshape", &["p", "row"], &["m"], &[]),
        ];
        assert!(divide(&quantized(&middle, &["1", "4"]), &[spec("x", &[1, 4])]).is_ok());
    }
    let pads = [0_i64, 0, 1 << 40, 0].map(i64::to_le_bytes).concat();
    let mode = bytes(5, &[bytes(1, b"mode"), number(20, 3), bytes(4, b"edge")].concat());
    let middle = [weights("pads", &[4], 7, &bytes(9, &pads)), node("Pad", &["d", "pads"], &["m"], &mode)];
    assert!(divide(&quantized(&middle, &["1", "4"]), &[spec("x", &[1, 4])]).is_ok());
}

/// As many rows as columns: only the shape of C says which it is added to.
#[test]
fn a_bias_of_gemm_by_rows_is_not_taken_for_one_by_columns() {
    let floats = |values: [f32; 2]| bytes(9, &values.map(f32::to_le_bytes).concat());
    let onnx = model(&[
        weights("scale", &[], FLOAT, &bytes(9, &0.5_f32.to_le_bytes())),
        weights("one", &[], FLOAT, &bytes(9, &1.0_f32.to_le_bytes())),
        weights("zero", &[], INT8, &bytes(9, &[0])),
        weights("w", &[2, 2], INT8, &bytes(9, &[1, 0, 0, 1])),
        weights("c", &[2, 1], FLOAT, &floats([10.0, 20.0])),
        node("QuantizeLinear", &["x", "scale", "zero"], &["q"], &[]),
        node("DequantizeLinear", &["q", "scale", "zero"], &["d"], &[]),
        node("DequantizeLinear", &["w", "one", "zero"], &["v"], &[]),
        node("Gemm", &["d", "v", "c"], &["g"], &[]),
        node("QuantizeLinear", &["g", "scale", "zero"], &["r"], &[]),
        node("DequantizeLinear", &["r", "scale", "zero"], &["y"], &[]),
        value(11, "x", FLOAT, &["2", "2"]),
        value(12, "y", FLOAT, &["2", "2"]),
    ]);
    let mut session = Model::load(&onnx, &[spec("x", &[2, 2])], &[spec("y", &[2, 2])]).unwrap().session().unwrap();
    let input = crate::tensor::Tensor::from_f32(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(session.run(&[input]).unwrap()[0].to_f32().unwrap(), [11.0, 12.0, 23.0, 24.0]);
}

#[test]
fn an_account_tells_of_each_node_whether_it_is_int8_float_or_gone_and_why() {
    // Hardmax has no int8 form; what leads to it and from it has.
    let onnx = quantized(&[node("Relu", &["d"], &["r1"], &[]), node("Hardmax", &["r1"], &["m"], &[])], &["1", "4"]);
    let (divided, account) = super::divide((&onnx).into(), &[spec("x", &[1, 4])], &SharedWeights::default()).unwrap();
    assert!(divided.is_some() && account.whole.is_none());
    assert_eq!(account.operators["Hardmax"], [1, 1, 1]);
    assert_eq!(account.operators["QuantizeLinear"][..2], [2, 2]);
    let told: Vec<_> = account.kept.iter().map(|kept| (kept.op.as_str(), kept.reason.to_string())).collect();
    assert!(told.contains(&("Hardmax", "no int8 form of this operator exists here".to_owned())), "{told:?}");

    let ends = [value(11, "x", FLOAT, &["1", "4"]), value(12, "y", FLOAT, &["1", "4"])];
    let float = model(&[&[node("Hardmax", &["x"], &["y"], &[])][..], &ends].concat());
    let (divided, account) = super::divide((&float).into(), &[], &SharedWeights::default()).unwrap();
    assert!(divided.is_none());
    assert_eq!(account.whole.as_deref(), Some("nothing in it is quantized"));
    assert_eq!(account.operators["Hardmax"], [1, 1, 1]);
}

/// Weights by Cast and Mul, with no quantizer in the file: they stay bytes, and the answer is what the nodes say.
#[test]
fn weights_that_are_cast_to_float_stay_bytes() {
    const K: usize = 128;
    const N: usize = 200;
    let to = bytes(5, &[bytes(1, b"to"), number(20, 2), number(3, 1)].concat());
    let values: Vec<i8> = (0..K * N).map(|i| (i * 37 % 255) as u8 as i8).collect();
    let raw: Vec<u8> = values.iter().map(|value| value.cast_unsigned()).collect();
    let onnx = model(&[
        weights("w", &[K as u64, N as u64], INT8, &bytes(9, &raw)),
        weights("s", &[], FLOAT, &bytes(9, &0.25_f32.to_le_bytes())),
        node("Cast", &["w"], &["f"], &to),
        node("Mul", &["f", "s"], &["v"], &[]),
        node("MatMul", &["x", "v"], &["y"], &[]),
        value(11, "x", FLOAT, &["1", "128"]),
        value(12, "y", FLOAT, &["1", "200"]),
    ]);
    let ends = [spec("x", &[1, K]), spec("y", &[1, N])];
    let divided = divide(&onnx, &ends[..1]).unwrap().unwrap();
    assert_eq!(divided.regions[0].plan().stages()[0].kernel(), "float GEMM, int8 weights");
    let mut session = Model::load(&onnx, &ends[..1], &ends[1..]).unwrap().session().unwrap();
    let x: Vec<f32> = (0..K).map(|i| (i % 5) as f32 - 2.0).collect();
    let made = session.run(&[crate::tensor::Tensor::from_f32(vec![1, K], &x).unwrap()]).unwrap();
    let wanted = |n: usize| (0..K).map(|k| x[k] * f32::from(values[k * N + n])).sum::<f32>() * 0.25;
    // Sums of small whole numbers are exact.
    assert!(made[0].to_f32().unwrap().iter().enumerate().all(|(n, &y)| y == wanted(n)));
}
