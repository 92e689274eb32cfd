//! Faults that other runtimes had, each as a test that ours does not have it, on every tier of this CPU.
//! Expected values are worked out here, by integers or by hand.

use super::super::op::{Finish, Linear, Op, Softmax, Weights};
use super::super::program::{Draft, Program, QuantParams, Type};
use super::super::reference::run_bytes;
use super::hand::{Lcg, info, node, tensor};
use super::{lowered, on_kernels};
use crate::engine::int8::function::exponentials;
use crate::engine::int8::lower::Lowered;
use crate::onnx::ElementType;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::onnx::shapes::InputShapes;
use prost::Message as _;

const PLAIN: QuantParams = QuantParams { scale: 1.0, zero_point: 0, signed: true };

/// `[rows, k]` times `[k][n]`, then the end; checked against the reference on every tier, and given back.
fn product(input: QuantParams, values: &[u8], weights: &[i8], n: usize, finish: Finish) -> Vec<u8> {
    let (k, ty) =
        (weights.len() / n, if matches!(finish, Finish::Float { .. }) { Type::F32 } else { Type::Int8(PLAIN) });
    let rows = values.len() / k;
    let mut draft = Draft::default();
    let from = draft.value(vec![rows, k], Type::Int8(input));
    draft.inputs.push(from);
    let weights = Weights { data: weights.into(), shape: vec![k, n], zero_points: [0].into() };
    let op = Op::Linear(Linear { weights, bias: [].into(), finish });
    let output = draft.step(op, vec![from], vec![rows, n], ty);
    draft.outputs.push(output);
    let program = Program::new(draft).unwrap();
    let made = run_bytes(&program, &[values]).unwrap();
    on_kernels(&program, &[values], &made).unwrap();
    made.concat()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn unscaled() -> Finish {
    Finish::Float { scales: [1.0].into(), bias: [].into() }
}

/// onnxruntime 31573: on Cortex-A72 two products of −128 and −128 were added up in 16 bits.
#[test]
fn the_least_values_meet_without_an_overflow() {
    for k in [1, 2, 15, 16, 17, 32, 70] {
        let made = product(PLAIN, &vec![0x80; 3 * k], &vec![-128; k * 5], 5, unscaled());
        assert!(floats(&made).iter().all(|&sum| sum == (k * 128 * 128) as f32), "{k}: {:?}", floats(&made));
    }
}

/// onnxruntime 6004 and 14642: pairs of u8·s8 products saturated at 16 bits on CPUs without VNNI.
#[test]
fn pairs_of_products_do_not_saturate() {
    // A uint8 tensor whose zero point is 0: its values stand 128 lower in the signed domain.
    let unsigned = QuantParams { scale: 1.0, zero_point: -128, signed: false };
    for (weight, k) in [(127, 64), (-128, 64), (127, 3)] {
        let made = product(unsigned, &vec![255; 2 * k], &vec![weight; k * 17], 17, unscaled());
        let wanted = 255.0 * f32::from(weight) * k as f32;
        assert!(floats(&made).iter().all(|&sum| sum == wanted), "{weight}: {:?}", floats(&made));
    }
}

/// onnxruntime 16105 (QLinearConv was wrong with AVX2) and 20479 (x86 and Arm disagreed): the bytes of a product at random,
/// as a sum that every architecture and every tier must find.
#[test]
fn every_architecture_finds_the_same_bytes() {
    let mut random = Lcg(16_105);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (k, n) in [(9, 8), (27, 33), (64, 64), (147, 20)] {
        let input: Vec<u8> = random.bytes(6 * k).into_iter().map(i8::cast_unsigned).collect();
        let weights = random.bytes(k * n);
        let finish =
            Finish::Requantize { multipliers: [0.002].into(), zero_point: 3, low: -128, high: 127, table: None };
        let params = QuantParams { scale: 0.1, zero_point: 5, signed: k % 2 == 0 };
        let made = product(params, &input, &weights, n, finish);
        made.iter().for_each(|&byte| hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    }
    assert_eq!(hash, 0xcecd_2ba3_e741_3884, "{hash:#x}");
}

/// onnxruntime 32132: where a convolution took a ReLU in, halves went the other way.
#[test]
fn a_bound_that_is_taken_in_leaves_halves_as_they_are() {
    let finish = |low| Finish::Requantize { multipliers: [0.5].into(), zero_point: 0, low, high: 127, table: None };
    let input: Vec<u8> = (-9_i8..=9).map(i8::cast_unsigned).collect();
    let even = |low: i8| (-9_i8..=9).map(move |x| ((f32::from(x) * 0.5).round_ties_even() as i8).max(low));
    for low in [-128, 0] {
        let made = product(PLAIN, &input, &[1], 1, finish(low));
        assert!(made.iter().map(|byte| byte.cast_signed()).eq(even(low)), "from {low}: {made:?}");
    }
}

/// ncnn 3224: a compiler contracted the multiplication by the scale and the addition of the bias.
#[test]
fn scale_and_bias_are_rounded_one_after_the_other() {
    // 3·0.1 is 0.3 and a bit that f32 does not hold; minus 0.3 leaves it where the two are fused.
    let (scale, bias) = (0.1_f32, -0.3_f32);
    let fused = 3.0_f32.mul_add(scale, bias);
    let apart = 3.0 * scale + bias;
    assert_ne!(fused, apart);
    let finish = Finish::Float { scales: [scale].into(), bias: [bias; 40].into() };
    let made = product(PLAIN, &[3; 7], &[1; 40], 40, finish);
    assert!(floats(&made).iter().all(|&x| x.to_bits() == apart.to_bits()), "{:?}", floats(&made));
}

fn scalar(name: &str, scale: f32) -> TensorProto {
    tensor(name, ElementType::F32, &[], scale.to_le_bytes().to_vec())
}

fn model(nodes: Vec<NodeProto>, shapes: [&[i64]; 2], initializer: Vec<TensorProto>) -> Lowered {
    let graph = GraphProto {
        node: nodes,
        input: vec![info("x", shapes[0])],
        output: vec![info("y", shapes[1])],
        initializer,
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 21 }];
    let model = ModelProto { ir_version: 10, opset_import, graph: Some(graph), ..Default::default() };
    lowered(&model.encode_to_vec(), &InputShapes::new()).unwrap().2
}

/// Runs the only region on floats, on every tier.
fn run(lowered: &Lowered, input: &[f32]) -> Vec<f32> {
    assert_eq!((lowered.kept.as_slice(), lowered.regions.len()), (&[][..], 1));
    let bytes: Vec<u8> = input.iter().flat_map(|x| x.to_le_bytes()).collect();
    let made = run_bytes(&lowered.regions[0], &[&bytes]).unwrap();
    on_kernels(&lowered.regions[0], &[&bytes], &made).unwrap();
    floats(&made.concat())
}

fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: value, r#type: 2, ..Default::default() }
}

/// onnxruntime 28447: weights with a zero point for each channel were refused.
#[test]
fn weights_may_have_a_zero_point_for_each_channel() {
    let axis = |mut node: NodeProto, axis| {
        node.attribute.push(int_attribute("axis", axis));
        node
    };
    let lowered = model(
        vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"]),
            node("DequantizeLinear", &["q", "s", "z"], &["d"]),
            axis(node("DequantizeLinear", &["w", "ws", "wz"], &["wd"]), 1),
            node("MatMul", &["d", "wd"], &["y"]),
        ],
        [&[1, 2], &[1, 3]],
        vec![
            scalar("s", 0.5),
            tensor("z", ElementType::U8, &[], vec![128]),
            tensor("w", ElementType::U8, &[2, 3], vec![10, 20, 255, 14, 0, 1]),
            tensor("ws", ElementType::F32, &[3], [1.0_f32, 0.5, 2.0].iter().flat_map(|s| s.to_le_bytes()).collect()),
            tensor("wz", ElementType::U8, &[3], vec![10, 200, 0]),
        ],
    );
    // Weights are (0, 4), (−90, −100), (510, 2).
    assert_eq!(run(&lowered, &[2.0, 3.0]), [12.0, -480.0, 1026.0]);
}

/// tract 0.23: Softmax between quantizers became a table of single values.
#[test]
fn softmax_is_no_function_of_one_value() {
    let lowered = model(
        vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"]),
            node("DequantizeLinear", &["q", "s", "z"], &["d"]),
            node("Softmax", &["d"], &["p"]),
            node("QuantizeLinear", &["p", "t", "u"], &["r"]),
            node("DequantizeLinear", &["r", "t", "u"], &["y"]),
        ],
        [&[2, 3], &[2, 3]],
        vec![
            scalar("s", 0.5),
            tensor("z", ElementType::U8, &[], vec![128]),
            scalar("t", 1.0 / 256.0),
            tensor("u", ElementType::U8, &[], vec![0]),
        ],
    );
    // Equal values share; the same value beside a larger one has less.
    let made = run(&lowered, &[1.0, 1.0, 1.0, 1.0, 3.0, 1.0]);
    let (low, high) = (1.0 / (2.0 + 2.0_f32.exp()), 2.0_f32.exp() / (2.0 + 2.0_f32.exp()));
    for (made, wanted) in made.iter().zip([1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, low, high, low]) {
        assert!((made - wanted).abs() <= 1.0 / 256.0, "{made} where {wanted}");
    }
}

/// tract 0.23: from an unsigned type to a signed one it failed, and it passed over `output_dtype`.
#[test]
fn types_change_between_quantizers_and_output_dtype_counts() {
    let mut quantize = node("QuantizeLinear", &["e", "t"], &["r"]);
    quantize.attribute.push(int_attribute("output_dtype", i64::from(ElementType::I8.to_onnx())));
    let lowered = model(
        vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"]),
            node("DequantizeLinear", &["q", "s", "z"], &["d"]),
            node("Identity", &["d"], &["e"]),
            quantize,
            node("DequantizeLinear", &["r", "t"], &["y"]),
        ],
        [&[4], &[4]],
        vec![scalar("s", 0.5), tensor("z", ElementType::U8, &[], vec![128]), scalar("t", 0.25)],
    );
    // To uint8, which is the default, nothing would be below 0.
    assert_eq!(run(&lowered, &[-100.0, -3.0, 1.5, 100.0]), [-32.0, -3.0, 1.5, 31.75]);
}

/// Softmax over rows of one value is 1, however far its exponential is from it.
#[test]
fn softmax_of_one_value_is_one() {
    let params = QuantParams { scale: 1.0 / 256.0, zero_point: -128, signed: false };
    let mut draft = Draft::default();
    let from = draft.value(vec![5, 1], Type::Int8(PLAIN));
    draft.inputs.push(from);
    let softmax = Softmax { axis: 1, exponentials: std::sync::Arc::new(exponentials(1.0)) };
    let output = draft.step(Op::Softmax(softmax), vec![from], vec![5, 1], Type::Int8(params));
    draft.outputs.push(output);
    let program = Program::new(draft).unwrap();
    let made = run_bytes(&program, &[&[0, 1, 127, 128, 255]]).unwrap();
    assert_eq!(made, [vec![255; 5]]);
    on_kernels(&program, &[&[0, 1, 127, 128, 255]], &made).unwrap();
}
