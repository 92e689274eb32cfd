//! Models that no exporter writes: what they ask for is bounded, and what is odd stays float, with its reason.

use super::hand::{info, node, tensor};
use super::lowered;
use crate::engine::int8::lower::{Lowered, Reason};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::onnx::shapes::InputShapes;
use crate::onnx::{ElementType, Model};
use prost::Message as _;

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    tensor(name, ElementType::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// x [1, 4] quantized by "s" and "z" to "q", then `nodes`, which make y [1, 4].
fn lower_with(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> (Model, Lowered) {
    let begin = [node("QuantizeLinear", &["x", "s", "z"], &["q"]), node("DequantizeLinear", &["q", "s", "z"], &["f"])];
    let graph = GraphProto {
        node: begin.into_iter().chain(nodes).collect(),
        input: vec![info("x", &[1, 4])],
        output: vec![info("y", &[1, 4])],
        initializer: [floats("s", &[], &[0.5]), tensor("z", ElementType::U8, &[], vec![128])]
            .into_iter()
            .chain(constants)
            .collect(),
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    let bytes = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec();
    let (model, _, lowered) = lowered(&bytes, &InputShapes::new()).unwrap();
    (model, lowered)
}

/// Back to bytes and out, as `y`.
fn end(from: &str) -> [NodeProto; 2] {
    [node("QuantizeLinear", &[from, "s", "z"], &["e"]), node("DequantizeLinear", &["e", "s", "z"], &["y"])]
}

fn reason_of(lowered: &Lowered, op: &str) -> Reason {
    let kept = lowered.kept.iter().find(|kept| kept.op == op);
    kept.unwrap_or_else(|| panic!("no {op} stayed: {:?}", lowered.kept)).reason.clone()
}

#[test]
fn one_large_constant_is_there_once_however_many_read_it() {
    let (k, readers) = (4096, 1000);
    let weights = tensor("w", ElementType::I8, &[4, k], vec![1; 4 * k as usize]);
    let dequantized = |i: usize| node("DequantizeLinear", &["w", "s"], &[&format!("w{i}")]);
    let product = |i: usize| node("MatMul", &["f", &format!("w{i}")], &[&format!("p{i}")]);
    let mut nodes: Vec<NodeProto> = (0..readers).flat_map(|i| [dequantized(i), product(i)]).collect();
    nodes.push(node("Identity", &["f"], &["g"]));
    nodes.extend(end("g"));
    nodes.extend((1..readers).map(|i| node("Add", &[&format!("p{}", i - 1), &format!("p{i}")], &[&format!("a{i}")])));
    let (_, lowered) = lower_with(nodes, vec![weights]);
    assert!(lowered.kept.iter().all(|kept| kept.reason != Reason::Memory), "{:?}", lowered.kept.first());
}

#[test]
fn copies_of_a_constant_are_paid_for() {
    // Each Transpose turns 1 MB of weights for itself; in tests 64 MB are allowed.
    let (k, readers) = (1 << 18, 100);
    let weights = tensor("w", ElementType::I8, &[k, 4], vec![1; 4 * k as usize]);
    let mut nodes = vec![node("DequantizeLinear", &["w", "s"], &["d"])];
    for i in 0..readers {
        let perm = ints("perm", &[1, 0]);
        nodes.push(NodeProto { attribute: vec![perm], ..node("Transpose", &["d"], &[&format!("t{i}")]) });
    }
    // Somebody needs each of them.
    let product = |i: usize| node("MatMul", &["small", &format!("t{i}")], &[&format!("p{i}")]);
    nodes.extend((0..readers).map(product));
    let sum: Vec<String> = (0..readers).map(|i| format!("p{i}")).collect();
    nodes.push(node("Sum", &sum.iter().map(String::as_str).collect::<Vec<_>>(), &["all"]));
    nodes.push(node("ReduceMax", &["all"], &["top"]));
    nodes.push(node("Add", &["f", "top"], &["y"]));
    let (_, lowered) = lower_with(nodes, vec![weights, floats("small", &[1, 4], &[1.0; 4])]);
    assert!(lowered.kept.iter().any(|kept| kept.reason == Reason::Memory), "{:?}", lowered.kept.first());
}

#[test]
fn bounds_that_are_no_numbers_stay_in_float() {
    let nodes = [node("Clip", &["f", "nan", "six"], &["c"])].into_iter().chain(end("c")).collect();
    let (_, lowered) = lower_with(nodes, vec![floats("nan", &[], &[f32::NAN]), floats("six", &[], &[6.0])]);
    assert_eq!(reason_of(&lowered, "Clip"), Reason::Operator);
}

#[test]
fn an_axis_that_is_named_twice_stays_in_float() {
    let reduce = NodeProto { attribute: vec![ints("axes", &[1, -1])], ..node("ReduceMean", &["f"], &["m"]) };
    let (_, lowered) = lower_with([reduce].into_iter().chain(end("m")).collect(), vec![]);
    assert_eq!(reason_of(&lowered, "ReduceMean"), Reason::Attribute("axes"));
}

#[test]
fn dropout_in_training_stays_in_float() {
    let constants = vec![floats("ratio", &[], &[0.5]), tensor("mode", ElementType::Bool, &[], vec![1])];
    let nodes = || [node("Dropout", &["f", "ratio", "mode"], &["d"])].into_iter().chain(end("d")).collect();
    let (_, lowered) = lower_with(nodes(), constants);
    assert_eq!(reason_of(&lowered, "Dropout"), Reason::Attribute("training_mode"));
    let constants = vec![floats("ratio", &[], &[0.5]), tensor("mode", ElementType::Bool, &[], vec![0])];
    let (_, lowered) = lower_with(nodes(), constants);
    assert!(lowered.kept.is_empty(), "{:?}", lowered.kept);
}

#[test]
fn a_turn_of_weights_that_is_none_stays_in_float() {
    for perm in [&[0, 0][..], &[1, 1], &[0], &[2, 0], &[-3, 1]] {
        let turn = NodeProto { attribute: vec![ints("perm", perm)], ..node("Transpose", &["d"], &["t"]) };
        let product = node("MatMul", &["f", "t"], &["p"]);
        let nodes =
            [node("DequantizeLinear", &["w", "s"], &["d"]), turn, product].into_iter().chain(end("p")).collect();
        let graph = || lower_with(nodes, vec![tensor("w", ElementType::I8, &[4, 4], (0..16).collect())]);
        // Shapes may refuse such a file before: then there is nothing to lower.
        let Ok((_, lowered)) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(graph)) else { continue };
        assert!(!lowered.kept.is_empty(), "{perm:?}");
    }
}

#[test]
fn a_bias_with_a_zero_point_stays_in_float() {
    for (zero, stays) in [(0_i32, false), (1, true)] {
        let constants = vec![
            tensor("w", ElementType::I8, &[4, 4], (0..16).collect()),
            tensor("b", ElementType::I32, &[4], [1_i32, 2, 3, 4].iter().flat_map(|v| v.to_le_bytes()).collect()),
            floats("bs", &[], &[0.25]),
            tensor("bz", ElementType::I32, &[], zero.to_le_bytes().to_vec()),
        ];
        let nodes = [
            node("DequantizeLinear", &["w", "s"], &["d"]),
            node("DequantizeLinear", &["b", "bs", "bz"], &["bd"]),
            node("Gemm", &["f", "d", "bd"], &["p"]),
        ];
        let (_, lowered) = lower_with(nodes.into_iter().chain(end("p")).collect(), constants);
        assert_eq!(!lowered.kept.is_empty(), stays, "zero point {zero}: {:?}", lowered.kept);
    }
}
