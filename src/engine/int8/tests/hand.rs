//! Programs made by hand, the shipped models, and what lowering must refuse.

use super::super::fast::Plan;
use super::super::function::{Unary, exponentials};
use super::super::lower::{DOMAIN, Reason};
use super::super::op::{Conv, Finish, Linear, Op, Weights, Window};
use super::super::program::{Draft, Program, QuantParams, Type};
use super::super::reference::{Data, run, run_bytes};
use super::{SafeTensors, lowered, vectors};
use crate::kernels::Isa;
use crate::onnx::ElementType;
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto,
};
use crate::onnx::proto::{TensorShapeProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto};
use crate::onnx::shapes::InputShapes;
use prost::Message as _;
use std::sync::Arc;

const PARAMS: QuantParams = QuantParams { scale: 0.5, zero_point: 3, signed: true };

/// One product of `k` values, each of which may be off by 255.
fn dot(k: usize, weight: i8, bias: i32) -> Draft {
    let mut draft = Draft::default();
    let input = draft.value(vec![1, k], Type::Int8(PARAMS));
    draft.inputs.push(input);
    let data = std::iter::repeat_n(weight, k).collect();
    let weights = Weights { data, shape: vec![k, 1], zero_points: [0].into() };
    let finish = Finish::Requantize { multipliers: [0.25].into(), zero_point: 3, low: -100, high: 100, table: None };
    let op = Op::Linear(Linear { weights, bias: [bias].into(), finish });
    let output = draft.step(op, vec![input], vec![1, 1], Type::Int8(PARAMS));
    draft.outputs.push(output);
    draft
}

#[test]
fn accumulators_stay_within_32_bits_or_the_program_is_refused() {
    // 65 793 products of 128 and 255 are the most that fit.
    assert!(Program::new(dot(65_793, -128, 0)).is_ok());
    assert!(Program::new(dot(65_794, -128, 0)).is_err());
    assert!(Program::new(dot(65_793, -128, i32::MIN)).is_err());
    let program = Program::new(dot(65_793, -128, 0)).unwrap();
    let made = run(&program, vec![Data::Int8(vec![-128; 65_793])]);
    assert_eq!(made, [Data::Int8(vec![100])]);
}

#[test]
fn halves_round_to_even_and_clamps_hold() {
    let program = Program::new(dot(1, 2, 0)).unwrap();
    // (q - 3)·2/4 + 3: halves at even q.
    let found: Vec<i8> = [3, 4, 5, 6, 7, 8, 127, 128_u8]
        .into_iter()
        .map(|q| run_bytes(&program, &[&[q]]).unwrap()[0][0].cast_signed())
        .collect();
    assert_eq!(found, [3, 3, 4, 5, 5, 5, 65, -63]);
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let good = dot(4, 1, 0);
    let spoil = |change: &dyn Fn(&mut Draft)| {
        let mut draft = good.clone();
        change(&mut draft);
        Program::new(draft).unwrap_err().to_string()
    };
    assert!(spoil(&|d| d.values[1].shape = vec![1, 2]).contains("shape"));
    assert!(spoil(&|d| d.values[1].ty = Type::F32).contains("types"));
    assert!(spoil(&|d| d.values[0].shape = vec![1, 5]).contains("do not go together"));
    assert!(spoil(&|d| d.inputs.clear()).contains("nothing before it makes"));
    assert!(spoil(&|d| d.steps.clear()).contains("not there"));
    let scale = |d: &mut Draft| d.values[1].ty = Type::Int8(QuantParams { scale: f32::NAN, ..PARAMS });
    assert!(spoil(&scale).contains("not finite"));
}

#[test]
fn a_wrong_input_is_an_error_and_no_panic() {
    let program = Program::new(dot(4, 1, 0)).unwrap();
    assert!(run_bytes(&program, &[]).is_err());
    assert!(run_bytes(&program, &[&[0; 3]]).is_err());
    assert!(run_bytes(&program, &[&[0; 4]]).is_ok());
}

#[test]
fn a_program_is_listed() {
    let mut draft = Draft::default();
    let params = QuantParams { scale: 0.25, zero_point: -128, signed: false };
    let input = draft.value(vec![1, 2, 4, 4], Type::F32);
    draft.inputs.push(input);
    let bytes = draft.step(Op::Quantize, vec![input], vec![1, 2, 4, 4], Type::Int8(params));
    let weights = Weights { data: [1; 18].into(), shape: vec![2, 1, 3, 3], zero_points: [0].into() };
    let conv = Conv {
        weights,
        bias: [].into(),
        window: Window { kernel: [3, 3], pads: [1; 4], stride: [2, 2], dilation: [1, 1] },
        group: 2,
        finish: Finish::Requantize { multipliers: [0.1, 0.2].into(), zero_point: 3, low: 0, high: 127, table: None },
    };
    let output = draft.step(Op::Conv(conv), vec![bytes], vec![1, 2, 2, 2], Type::Int8(PARAMS));
    draft.outputs.push(output);
    let program = Program::new(draft).unwrap();
    assert_eq!(program.macs(), 72);
    let wanted = "%0 = input: f32 [1, 2, 4, 4]\n\
                  %1 = quantize %0: u8(0.25, 0) [1, 2, 4, 4]\n\
                  %2 = conv %1 weights [2, 1, 3, 3] kernel [3, 3] stride [2, 2] pads [1, 1, 1, 1] group 2 per channel \
                  clamp 0..=127: s8(0.5, 3) [1, 2, 2, 2]\n\
                  output %2\n";
    assert_eq!(program.to_string(), wanted);
}

/// FNV-1a over the bits of every function at many places: another architecture must find the same.
#[test]
fn functions_have_the_same_bits_everywhere() {
    let functions = [
        Unary::Elu { alpha: 1.1 },
        Unary::Celu { alpha: 0.9 },
        Unary::Selu { alpha: 1.6, gamma: 1.05 },
        Unary::Sigmoid,
        Unary::HardSwish,
        Unary::Tanh,
        Unary::Softplus,
        Unary::Mish,
        Unary::Swish { alpha: 1.0 },
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Erf,
        Unary::Exp,
        Unary::Log,
        Unary::Sqrt,
        Unary::Sin,
        Unary::Cos,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |bits: u32| hash = (hash ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3);
    for function in functions {
        for i in -2000_i16..2000 {
            let y = function.of(f32::from(i) * 0.0137);
            mix(if y.is_nan() { 0 } else { y.to_bits() });
        }
    }
    exponentials(0.021).into_iter().for_each(mix);
    assert_eq!(hash, HASH, "{hash:#x}");
}

const HASH: u64 = 0x9639_2c0f_606f_c30c;

/// The shipped models give the logits of their golden samples, to the bit.
#[test]
fn shipped_models_give_their_golden_samples() {
    for name in ["digits", "digits-adapted"] {
        let folder = format!("{}/models/{name}", env!("CARGO_MANIFEST_DIR"));
        let model = std::fs::read(format!("{folder}/model.onnx")).unwrap();
        let shapes = InputShapes::from([("image".to_owned(), vec![1, 1, 8, 8])]);
        let (model, _, lowered) = lowered(&model, &shapes).unwrap();
        assert_eq!(lowered.kept, [], "{name}");
        assert_eq!(lowered.regions.len(), 1, "{name}");
        let nodes: Vec<_> = model.graph.nodes().map(|(_, node)| node.domain.as_str()).collect();
        assert_eq!(nodes, [DOMAIN], "{name}");
        let golden = std::fs::read(format!("{folder}/golden.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&golden).unwrap();
        for i in 0..16 {
            let image = golden.tensor(&format!("{i}.in.image")).unwrap();
            let logits = golden.tensor(&format!("{i}.out.logits")).unwrap();
            let found = run_bytes(&lowered.regions[0], &[image.data()]).unwrap();
            assert_eq!(found, [logits.data()], "{name}, sample {i}");
        }
    }
}

#[test]
fn functions_that_are_spelled_out_become_one_step() {
    let bytes = vectors();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let steps = |name: &str| -> Vec<String> {
        let model = tensors.tensor(&format!("{name}/model")).unwrap();
        let (_, _, lowered) = lowered(model.data(), &InputShapes::new()).unwrap();
        let named = |region: &Program| region.steps().iter().map(|step| step.op.name().to_owned()).collect::<Vec<_>>();
        lowered.regions.iter().flat_map(named).filter(|name| name != "constant").collect()
    };
    let norm = steps("between-layer-norm-spelled");
    assert_eq!(norm, ["dynamic-quantize", "linear", "layer-norm", "dynamic-quantize", "linear"]);
    // The block has one Gelu, and a Mul and two Adds of other kinds.
    let block = steps("net-dynamic-transformer");
    let count = |wanted: &str| block.iter().filter(|name| *name == wanted).count();
    assert_eq!([count("float"), count("float-binary"), count("layer-norm")], [1, 3, 2], "{block:?}");
}

/// A float tensor that a float node reads early and a region late: `y = x·w + x + max(x)`.
#[test]
fn what_is_read_early_and_late_does_not_wait_for_itself() {
    let scalar = |name: &str, scale: f32| tensor(name, ElementType::F32, &[], scale.to_le_bytes().to_vec());
    let graph = GraphProto {
        node: vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"]),
            node("DequantizeLinear", &["q", "s", "z"], &["d"]),
            node("ReduceMax", &["d"], &["k"]),
            node("DequantizeLinear", &["w", "s", "z"], &["v"]),
            node("MatMul", &["d", "v"], &["p"]),
            node("Add", &["p", "d"], &["e"]),
            node("Add", &["e", "k"], &["y"]),
        ],
        input: vec![info("x", &[1, 2])],
        output: vec![info("y", &[1, 2])],
        initializer: vec![
            scalar("s", 0.5),
            tensor("z", ElementType::I8, &[], vec![0]),
            tensor("w", ElementType::I8, &[2, 2], vec![2, 0, 0, 4]),
        ],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() };
    let (model, _, lowered) = lowered(&model.encode_to_vec(), &InputShapes::new()).unwrap();
    let order = model.graph.order().unwrap();
    let ops: Vec<_> = order.into_iter().map(|id| model.graph.node(id).unwrap().op.as_str()).collect();
    assert_eq!((ops.as_slice(), lowered.regions.len()), (&["Int8Region", "ReduceMax", "Int8Region"][..], 2));
}

#[test]
fn regions_never_wait_for_each_other() {
    let bytes = vectors();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut several = 0;
    for (name, view) in tensors.iter().filter(|(name, _)| name.ends_with("/model")) {
        let (model, _, lowered) = lowered(view.data(), &InputShapes::new()).unwrap();
        assert!(model.graph.order().is_ok(), "{name}");
        assert!(!lowered.regions.is_empty(), "{name}");
        several += usize::from(lowered.regions.len() > 1);
    }
    assert!(several > 2, "{several} models have several regions");
}

pub(super) fn tensor(name: &str, element: ElementType, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto { name: name.into(), data_type: element.to_onnx(), dims: dims.to_vec(), raw_data, ..Default::default() }
}

pub(super) fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Default::default() };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let ty = type_proto::Value::TensorType(type_proto::Tensor { elem_type: ElementType::F32.to_onnx(), shape });
    let r#type = Some(TypeProto { value: Some(ty), ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
    NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..Default::default() }
}

/// x -> Quantize -> Dequantize -> y, by a scale.
fn round_trip(scale: f32, zero: (ElementType, Vec<u8>)) -> Vec<u8> {
    let graph = GraphProto {
        node: vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"]),
            node("DequantizeLinear", &["q", "s", "z"], &["y"]),
        ],
        input: vec![info("x", &[1, 4])],
        output: vec![info("y", &[1, 4])],
        initializer: vec![
            tensor("s", ElementType::F32, &[], scale.to_le_bytes().to_vec()),
            tensor("z", zero.0, &[], zero.1),
        ],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 21 }];
    ModelProto { ir_version: 10, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec()
}

#[test]
fn scales_of_no_use_stay_in_float_and_say_so() {
    for scale in [0.0, -1.0, 1e-40, f32::NAN, f32::INFINITY] {
        let (_, _, lowered) = lowered(&round_trip(scale, (ElementType::U8, vec![128])), &InputShapes::new()).unwrap();
        assert!(lowered.regions.is_empty());
        let reason = &lowered.kept[0].reason;
        assert!(matches!(reason, Reason::Scale(s) if s.to_bits() == scale.to_bits()), "{reason}");
        assert_eq!(lowered.quantizers, [""; 0]);
    }
    let (model, _, lowered) = lowered(&round_trip(1.0, (ElementType::I16, vec![2, 0])), &InputShapes::new()).unwrap();
    assert_eq!(lowered.kept[0].reason, Reason::Element(ElementType::I16));
    let order = model.graph.order().unwrap();
    let ops: Vec<_> = order.into_iter().map(|id| model.graph.node(id).unwrap().op.as_str()).collect();
    assert_eq!(ops, ["Div", "Round", "Add", "Clip", "Cast", "Cast", "Sub", "Mul"]);
}

#[test]
fn a_round_trip_is_one_region() {
    let (_, _, lowered) = lowered(&round_trip(0.5, (ElementType::U8, vec![128])), &InputShapes::new()).unwrap();
    let input: Vec<u8> = [0.25_f32, 0.75, -1e9, 1e9].iter().flat_map(|v| v.to_le_bytes()).collect();
    let output: Vec<u8> = [0.0_f32, 1.0, -64.0, 63.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(run_bytes(&lowered.regions[0], &[&input]).unwrap(), [output]);
}

/// A generator of numbers that look random, the same each time.
pub(in super::super) struct Lcg(pub u64);

impl Lcg {
    pub(in super::super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as usize
    }

    /// Extremes as often as all else together.
    pub(in super::super) fn byte(&mut self) -> i8 {
        match self.below(8) {
            0 | 1 => -128,
            2 | 3 => 127,
            _ => (self.below(256) as u8).cast_signed(),
        }
    }

    pub(in super::super) fn bytes(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// From −3 to 3.
    pub(super) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.below(2_001) as f32 / 333.0 - 3.0).collect()
    }
}

/// Convolutions of any stride, padding, dilation, group and zero points; every second one makes floats.
fn any_conv(random: &mut Lcg) -> Option<Program> {
    let group = [1, 1, 2, 5][random.below(4)];
    let depth = if random.below(2) == 0 { 1 } else { 1 + random.below(9) };
    let (c, m) = (group * depth, group * (1 + random.below(3)));
    let kernel = [1 + random.below(3), 1 + random.below(3)];
    let window = Window {
        kernel,
        stride: [1 + random.below(2), 1 + random.below(3)],
        dilation: [1 + random.below(2), 1],
        pads: std::array::from_fn(|i| random.below(kernel[i % 2])),
    };
    let (h, w) = (1 + random.below(7), 1 + random.below(9));
    let [oh, ow] = window.output([h, w])?;
    let params = QuantParams { scale: 0.1, zero_point: random.byte(), signed: random.below(2) == 0 };
    let count = m * depth * kernel[0] * kernel[1];
    let zero_points = if random.below(2) == 0 { vec![0] } else { random.bytes(m) };
    let bias: Vec<i32> = (0..m).map(|_| random.below(20_000) as i32 - 10_000).collect();
    let multipliers: Vec<f32> = (0..m).map(|_| (1 + random.below(999)) as f32 * 1e-5).collect();
    let (finish, ty) = match random.below(2) {
        0 => {
            let multipliers = multipliers.into();
            let table = (random.below(2) == 0).then(|| Arc::new(std::array::from_fn(|i| (i as u8).cast_signed())));
            (Finish::Requantize { multipliers, zero_point: 3, low: -90, high: 101, table }, Type::Int8(PARAMS))
        }
        _ => (Finish::Float { scales: multipliers.into(), bias: (0..m).map(|i| i as f32).collect() }, Type::F32),
    };
    let shape = vec![m, depth, kernel[0], kernel[1]];
    let weights = Weights { data: random.bytes(count).into(), shape, zero_points: zero_points.into() };
    let mut draft = Draft::default();
    let input = draft.value(vec![1 + random.below(2), c, h, w], Type::Int8(params));
    draft.inputs.push(input);
    let shape = vec![draft.values[0].shape[0], m, oh, ow];
    let op = Op::Conv(Conv { weights, bias: bias.into(), window, group, finish });
    let output = draft.step(op, vec![input], shape, ty);
    draft.outputs.push(output);
    Some(Program::new(draft).unwrap())
}

#[test]
fn any_convolution_runs_on_kernels_as_the_reference_has_it() {
    let mut random = Lcg(1);
    let mut fast = 0;
    for _ in 0..400 {
        let Some(program) = any_conv(&mut random) else { continue };
        let count = program.value(program.inputs()[0]).count();
        let input: Vec<u8> = random.bytes(count).into_iter().map(i8::cast_unsigned).collect();
        let wanted = run_bytes(&program, &[&input]).unwrap();
        super::on_kernels(&program, &[&input], &wanted).unwrap();
        fast += usize::from(Plan::new(Arc::new(program), Isa::best()).slow().next().is_none());
    }
    assert!(fast > 150, "only {fast} had a kernel");
}

/// Large enough for every way in which kernels compute a convolution of 3x3, with several images and a table.
#[test]
fn larger_convolutions_run_on_kernels_as_the_reference_has_them() {
    let mut random = Lcg(18);
    for (c, m, [h, w], pads) in
        [(16, 16, [16, 16], [1; 4]), (19, 40, [14, 17], [0, 1, 2, 1]), (33, 24, [13, 29], [1; 4])]
    {
        let window = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pads };
        let [oh, ow] = window.output([h, w]).unwrap();
        let weights =
            Weights { data: random.bytes(m * c * 9).into(), shape: vec![m, c, 3, 3], zero_points: [0].into() };
        let finish = Finish::Requantize {
            multipliers: (0..m).map(|i| 1e-4 + i as f32 * 1e-6).collect(),
            zero_point: -7,
            low: -120,
            high: 127,
            table: (c > 16).then(|| Arc::new(std::array::from_fn(|i| (i as u8).wrapping_mul(5).cast_signed()))),
        };
        let params = QuantParams { scale: 0.1, zero_point: random.byte(), signed: true };
        let mut draft = Draft::default();
        let input = draft.value(vec![2, c, h, w], Type::Int8(params));
        draft.inputs.push(input);
        let bias = (0..m as i32).map(|i| i * 999 - 9_000).collect();
        let op = Op::Conv(Conv { weights, bias, window, group: 1, finish });
        let output = draft.step(op, vec![input], vec![2, m, oh, ow], Type::Int8(PARAMS));
        draft.outputs.push(output);
        let program = Program::new(draft).unwrap();
        let input: Vec<u8> = random.bytes(2 * c * h * w).into_iter().map(i8::cast_unsigned).collect();
        let wanted = run_bytes(&program, &[&input]).unwrap();
        super::on_kernels(&program, &[&input], &wanted).unwrap();
        let best = Plan::new(Arc::new(program), Isa::best());
        let kernels: Vec<&str> = best.stages().iter().map(|stage| stage.kernel()).collect();
        assert_eq!(kernels.contains(&"Winograd"), Isa::best() == Isa::Neon, "{kernels:?}");
    }
}
