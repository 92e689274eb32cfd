//! Forms and folding: values against ONNX's own tests, structure by hand.

use super::*;
use crate::onnx::graph::{Attribute, Graph, Node};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::onnx::shapes::InputShapes;
use crate::onnx::tensor::{ElementType, Tensor};
use crate::onnx::tests::*;

fn normalised(proto: &ModelProto) -> Model {
    let mut model = read(proto).unwrap();
    normalise(&mut model, &InputShapes::new()).unwrap();
    model
}

/// Of the older set, with FLOAT input `x` of (n, 2, 4) and output `y`.
fn from(opset: i64, nodes: Vec<NodeProto>) -> Model {
    let (input, output) = (vec![info("x", &[-1, 2, 4])], vec![info("y", &[9, 9, 9, 9])]);
    normalised(&model(opset, GraphProto { node: nodes, input, output, ..Default::default() }))
}

fn nodes(graph: &Graph) -> Vec<&Node> {
    graph.order().unwrap().into_iter().map(|id| graph.node(id).unwrap()).collect()
}

fn ops(graph: &Graph) -> Vec<&str> {
    nodes(graph).into_iter().map(|node| node.op.as_str()).collect()
}

fn ints_of(graph: &Graph, node: &Node, input: usize) -> Vec<i64> {
    graph.constant(node.input(input).unwrap()).unwrap().to_i64s().unwrap()
}

#[test]
fn constants_fold_to_what_a_run_computes() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for case in cases().filter(|case| case.name.ends_with(" of constants")) {
        let mut model = Model::from_bytes(&case.bytes, &Default::default()).unwrap();
        let expected: Vec<Option<Tensor>> = model
            .graph
            .outputs
            .iter()
            .map(|port| {
                let name = format!("expected {}", port.name);
                let (id, _) = model.graph.values().find(|(_, value)| value.name == name)?;
                model.graph.constant(id).cloned()
            })
            .collect();
        normalise(&mut model, &InputShapes::new()).unwrap();
        for (port, expected) in model.graph.outputs.iter().zip(expected) {
            let (Some(actual), Some(expected)) = (model.graph.constant(port.value), expected) else { continue };
            checked += 1;
            if !same(actual, &expected) {
                wrong.push(format!("{}: {actual:?} for {expected:?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked}\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 180, "only {checked} were folded");
}

/// Bytes alike, or both not a number.
fn same(a: &Tensor, b: &Tensor) -> bool {
    let alike = || match (a.to_f64s(), b.to_f64s()) {
        (Some(x), Some(y)) => x.iter().zip(&y).all(|(x, y)| x == y || (x.is_nan() && y.is_nan())),
        _ => false,
    };
    a.element() == b.element() && a.shape() == b.shape() && (a.bytes() == b.bytes() || alike())
}

#[test]
fn attributes_of_older_sets_become_inputs() {
    let squeezed =
        from(11, vec![node("Unsqueeze", &["x"], &["u"]).with(ints("axes", &[0])), node("Relu", &["u"], &["y"])]);
    let unsqueeze = nodes(&squeezed.graph)[0];
    assert_eq!((unsqueeze.version, ints_of(&squeezed.graph, unsqueeze, 1)), (21, vec![0]));
    assert_eq!(squeezed.opsets[""], 21);
    let clipped = from(9, vec![node("Clip", &["x"], &["y"]).with(float("max", 6.0))]);
    let clip = nodes(&clipped.graph)[0];
    assert_eq!((clip.input(1), clip.attributes.len()), (None, 0));
    assert_eq!(clipped.graph.constant(clip.input(2).unwrap()).unwrap().to_f32s().unwrap(), [6.0]);
    let upsampled = from(
        7,
        vec![
            node("Upsample", &["x"], &["y"])
                .with(text("mode", "nearest"))
                .with(floats_attribute("scales", &[1.0, 1.0, 2.0])),
        ],
    );
    let resize = nodes(&upsampled.graph)[0];
    assert_eq!((resize.op.as_str(), resize.text("nearest_mode"), resize.input(1)), ("Resize", Some("floor"), None));
}

#[test]
fn remainders_of_either_sign_fold_as_the_node_says() {
    let rest = |fmod: i64| {
        let model = from(
            13,
            vec![
                node("Constant", &[], &["a"]).with(int("value_int", -7)),
                node("Constant", &[], &["b"]).with(int("value_int", 3)),
                node("Mod", &["a", "b"], &["y"]).with(int("fmod", fmod)),
            ],
        );
        model.graph.constant(model.graph.outputs[0].value).map(|tensor| tensor.to_i64s().unwrap())
    };
    assert_eq!((rest(0), rest(1)), (Some(vec![2]), None));
}

#[test]
fn a_newer_set_stays_as_it_is() {
    let model = from(23, vec![node("Relu", &["x"], &["y"])]);
    assert_eq!((model.opsets[""], nodes(&model.graph)[0].version), (23, 23));
}

#[test]
fn too_old_and_changed_operators_are_refused_by_name() {
    let mut old = read(&model(6, GraphProto::default())).unwrap();
    assert!(matches!(normalise(&mut old, &InputShapes::new()), Err(NormaliseError::TooOld(6))));
    let scan = model(8, GraphProto { node: vec![node("Scan", &[], &["y"])], ..Default::default() });
    let refused = normalise(&mut read(&scan).unwrap(), &InputShapes::new()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "node \"scan\" (ai.onnx.Scan of version 8): this form of Scan has a batch dimension of its own; \
         export the model anew with operator set 21"
    );
}

#[test]
fn softmax_of_older_sets_goes_over_all_that_follows() {
    let wide = from(11, vec![node("Softmax", &["x"], &["y"])]);
    // The shape's open batch becomes a 0 in the target: copy it.
    assert_eq!(ops(&wide.graph), ["Flatten", "Softmax", "Reshape"]);
    assert_eq!(ints_of(&wide.graph, nodes(&wide.graph)[2], 1), [0, 2, 4]);
    let last = from(11, vec![node("Softmax", &["x"], &["y"]).with(int("axis", -1))]);
    assert_eq!(ops(&last.graph), ["Softmax"]);
    assert_eq!(nodes(&last.graph)[0].int("axis"), Some(2));
}

#[test]
fn microsofts_quantization_is_onnxs() {
    let ms = |op: &str, inputs: &[&str], output: &str| node(op, inputs, &[output]).in_domain("com.microsoft");
    let graph = GraphProto {
        node: vec![ms("QuantizeLinear", &["x", "s", "z"], "q"), ms("DequantizeLinear", &["q", "s", "z"], "y")],
        initializer: vec![floats("s", &[], &[0.1]), raw("z", ElementType::U16, &[], &[1, 0])],
        input: vec![info("x", &[-1, 2])],
        output: vec![info("y", &[])],
        ..Default::default()
    };
    let model = normalised(&model(11, graph));
    assert!(nodes(&model.graph).iter().all(|node| node.domain.is_empty() && node.version == 21));
    let output = model.graph.outputs[0].declared.clone().unwrap();
    let shape = Some(vec![Dim::Symbol("n".into()), Dim::Size(2)]);
    assert_eq!(output, Declared::Tensor { element: Some(ElementType::F32), shape });
}

#[test]
fn integer_weights_stay_integers_and_float_ones_are_quantized() {
    let graph = GraphProto {
        node: vec![
            node("QuantizeLinear", &["w", "s", "z"], &["q"]).with(int("axis", 0)),
            node("DequantizeLinear", &["q", "s", "z"], &["d"]).with(int("axis", 0)),
            node("MatMul", &["x", "d"], &["y"]),
        ],
        initializer: vec![
            floats("w", &[2, 2], &[1.0, -0.25, 0.75, 200.0]),
            floats("s", &[2], &[0.5, 1.0]),
            raw("z", ElementType::I8, &[2], &[0, 1]),
        ],
        input: vec![info("x", &[-1, 2])],
        output: vec![info("y", &[])],
        ..Default::default()
    };
    let model = normalised(&model(13, graph));
    assert_eq!(ops(&model.graph), ["DequantizeLinear", "MatMul"]);
    // -0.5 goes to even, 201 to the end of the type.
    assert_eq!(ints_of(&model.graph, nodes(&model.graph)[0], 0), [2, 0, 2, 127]);
}

#[test]
fn quantized_weights_are_turned_before_they_become_floats() {
    let weights = |next: NodeProto, axis: i64, scales: usize| {
        let graph = GraphProto {
            node: vec![
                node("DequantizeLinear", &["w", "s"], &["d"]).with(int("axis", axis)),
                next,
                node("MatMul", &["x", "t"], &["y"]),
            ],
            initializer: vec![
                raw("w", ElementType::I8, &[2, 3], &[1, 2, 3, 4, 5, 6]),
                floats("s", &[scales as i64], &[0.5, 1.0, 2.0][..scales]),
                longs("shape", &[3], &[1, 2, 3]),
                longs("flat", &[1], &[6]),
            ],
            input: vec![info("x", &[-1, -1])],
            output: vec![info("y", &[])],
            ..Default::default()
        };
        let model = normalised(&model(13, graph));
        let names = ops(&model.graph).join(" ");
        let first = nodes(&model.graph)[0].clone();
        (names, first.int("axis"), ints_of(&model.graph, &first, 0))
    };
    let transpose = || node("Transpose", &["d"], &["t"]);
    let together = "DequantizeLinear MatMul".to_owned();
    assert_eq!(weights(transpose(), 0, 2), (together.clone(), Some(1), vec![1, 4, 2, 5, 3, 6]));
    assert_eq!(weights(transpose(), -1, 3), (together.clone(), Some(0), vec![1, 4, 2, 5, 3, 6]));
    let reshape = |to: &str| node("Reshape", &["d", to], &["t"]);
    assert_eq!(weights(reshape("shape"), 1, 3), (together.clone(), Some(2), vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(weights(reshape("flat"), 1, 1), (together, Some(1), vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(weights(reshape("flat"), 1, 3).0, "DequantizeLinear Reshape MatMul");
}

#[test]
fn a_batch_normalization_moves_into_its_convolution() {
    let build = |also: &str| GraphProto {
        node: vec![
            node("Conv", &["x", "w"], &["c"]),
            node("BatchNormalization", &["c", "scale", "shift", "mean", "var"], &["n"]).with(float("epsilon", 0.0)),
            node("Add", &["n", also], &["y"]),
        ],
        initializer: vec![
            floats("w", &[2, 1, 1], &[1.0, 2.0]),
            floats("scale", &[2], &[3.0, 4.0]),
            floats("shift", &[2], &[0.5, 0.25]),
            floats("mean", &[2], &[1.0, 2.0]),
            floats("var", &[2], &[4.0, 16.0]),
        ],
        input: vec![info("x", &[-1, 1, 4])],
        output: vec![info("y", &[])],
        ..Default::default()
    };
    let alone = normalised(&model(15, build("n")));
    assert_eq!(ops(&alone.graph), ["Conv", "Add"]);
    let conv = nodes(&alone.graph)[0];
    let floats = |input| alone.graph.constant(conv.input(input).unwrap()).unwrap().to_f32s().unwrap();
    assert_eq!((floats(1), floats(2)), (vec![1.5, 2.0], vec![-1.0, -1.75]));
    let shared = normalised(&model(15, build("c")));
    assert_eq!(ops(&shared.graph), ["Conv", "BatchNormalization", "Add"]);
}

fn floats_attribute(name: &str, floats: &[f32]) -> crate::onnx::proto::AttributeProto {
    let kind = crate::onnx::proto::attribute_proto::AttributeType::Floats as i32;
    crate::onnx::proto::AttributeProto {
        name: name.into(),
        floats: floats.to_vec(),
        r#type: kind,
        ..Default::default()
    }
}

fn branch(op: &str) -> GraphProto {
    let inner =
        vec![node("Constant", &[], &["name"]).with(float("value_float", 1.0)), node(op, &["x", "name"], &["out"])];
    GraphProto { node: inner, output: vec![info("out", &[7])], ..Default::default() }
}

fn choice(flag: &str) -> NodeProto {
    node("If", &[flag], &["y"])
        .with(graph_attribute("then_branch", branch("Add")))
        .with(graph_attribute("else_branch", branch("Sub")))
}

#[test]
fn a_known_condition_leaves_one_branch() {
    let chosen = from(
        17,
        vec![
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "one"], &["two"]),
            node("Equal", &["two", "one"], &["flag"]),
            node("Constant", &[], &["one"]).with(int("value_int", 1)),
            choice("flag"),
        ],
    );
    assert_eq!(ops(&chosen.graph), ["Sub"]);
    assert!(read(&chosen.to_proto().unwrap()).is_ok());
}

#[test]
fn an_open_condition_keeps_both_branches_and_names_stay_apart() {
    let (input, output) = (vec![info("x", &[-1]), typed("flag", ElementType::Bool, &[])], vec![info("y", &[])]);
    let both = normalised(&model(17, GraphProto { node: vec![choice("flag")], input, output, ..Default::default() }));
    assert_eq!(ops(&both.graph), ["If"]);
    let open = Some(Declared::Tensor { element: Some(ElementType::F32), shape: None });
    assert!(nodes(&both.graph)[0].subgraphs().all(|inner| inner.outputs[0].declared == open));
    assert!(nodes(&both.graph)[0].attributes.values().all(|value| matches!(value, Attribute::Graph(_))));
    assert!(read(&both.to_proto().unwrap()).is_ok());
}

#[test]
fn a_reshape_to_an_open_batch_gets_a_constant_target() {
    let model = from(
        17,
        vec![
            node("Shape", &["x"], &["s"]),
            node("Constant", &[], &["i"]).with(tensor_attribute("value", longs("", &[1], &[0]))),
            node("Gather", &["s", "i"], &["b"]),
            node("Constant", &[], &["rest"]).with(tensor_attribute("value", longs("", &[1], &[8]))),
            node("Concat", &["b", "rest"], &["t"]).with(int("axis", 0)),
            node("Identity", &["x"], &["same"]),
            node("Dropout", &["same"], &["kept", "mask"]),
            node("Reshape", &["kept", "t"], &["y"]),
        ],
    );
    assert_eq!(ops(&model.graph), ["Reshape"]);
    assert_eq!(ints_of(&model.graph, nodes(&model.graph)[0], 1), [0, 8]);
}

#[test]
fn small_files_do_not_fold_to_large_ones() {
    let bomb = |sizes: &[i64]| {
        let fill = longs("", &[sizes.len() as i64], sizes);
        from(
            17,
            vec![
                node("Constant", &[], &["s"]).with(tensor_attribute("value", fill)),
                node("ConstantOfShape", &["s"], &["huge"]),
                node("Expand", &["x", "s"], &["wide"]),
                node("Add", &["huge", "wide"], &["y"]),
            ],
        )
    };
    assert_eq!(ops(&bomb(&[1 << 20, 1 << 20]).graph), ["ConstantOfShape", "Expand", "Add"]);
    assert_eq!(ops(&bomb(&[i64::MAX, i64::MAX, i64::MAX]).graph), ["ConstantOfShape", "Expand", "Add"]);
    assert_eq!(ops(&bomb(&[-5]).graph), ["ConstantOfShape", "Expand", "Add"]);
}

#[test]
fn a_fill_without_a_value_is_spelled_out_as_a_float_of_zero() {
    let open = from(17, vec![node("Shape", &["x"], &["s"]), node("ConstantOfShape", &["s"], &["y"])]);
    let fill = nodes(&open.graph).into_iter().find(|node| node.op == "ConstantOfShape").unwrap();
    let Some(Attribute::Tensor(value)) = fill.attributes.get("value") else { panic!("{fill:?}") };
    assert_eq!((value.element(), value.shape()), (ElementType::F32, &[1][..]));
}

#[test]
fn texts_have_no_size_and_are_not_filled_in() {
    let mut value = longs("", &[1], &[0]);
    value.data_type = ElementType::Text.to_onnx();
    value.raw_data.clear();
    value.string_data = vec![b"a".to_vec()];
    let fill = longs("", &[1], &[1 << 60]);
    let model = from(
        17,
        vec![
            node("Constant", &[], &["s"]).with(tensor_attribute("value", fill)),
            node("ConstantOfShape", &["s"], &["y"]).with(tensor_attribute("value", value)),
        ],
    );
    assert_eq!(ops(&model.graph), ["ConstantOfShape"]);
}

#[test]
fn stated_shapes_must_fit_what_the_model_says() {
    let proto = model(17, GraphProto { input: vec![info("x", &[-1, 3])], ..Default::default() });
    let state = |name: &str, shape: &[usize]| {
        let mut model = read(&proto).unwrap();
        let result = normalise(&mut model, &InputShapes::from([(name.to_owned(), shape.to_vec())]));
        result.map(|_| model.graph.inputs[0].declared.clone())
    };
    let fixed = Declared::Tensor { element: Some(ElementType::F32), shape: Some(vec![Dim::Size(8), Dim::Size(3)]) };
    assert_eq!(state("x", &[8, 3]).unwrap(), Some(fixed));
    assert!(matches!(state("x", &[8, 4]), Err(NormaliseError::Shape { .. })));
    assert!(matches!(state("x", &[8]), Err(NormaliseError::Shape { .. })));
    assert!(matches!(state("z", &[8]), Err(NormaliseError::NoSuchInput { .. })));
}

#[test]
fn what_a_loops_body_notes_of_its_inputs_is_not_believed() {
    let body = GraphProto {
        node: vec![
            node("Concat", &["carried", "x"], &["longer"]).with(int("axis", 0)),
            node("Shape", &["carried"], &["shape"]),
            node("Identity", &["go"], &["on"]),
        ],
        input: vec![typed("turn", ElementType::I64, &[]), typed("go", ElementType::Bool, &[]), info("carried", &[2])],
        output: vec![typed("on", ElementType::Bool, &[]), info("longer", &[2]), typed("shape", ElementType::I64, &[1])],
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![node("Loop", &["times", "", "x"], &["y", "shapes"]).with(graph_attribute("body", body))],
        initializer: vec![longs("times", &[], &[3])],
        input: vec![info("x", &[2])],
        output: vec![info("y", &[8])],
        ..Default::default()
    };
    let model = normalised(&model(17, graph));
    let inner = nodes(&model.graph)[0].subgraphs().next().unwrap();
    assert_eq!(ops(inner), ["Concat", "Shape"]);
    assert!(read(&model.to_proto().unwrap()).is_ok());
}

#[test]
fn domains_that_no_node_uses_are_dropped() {
    assert_eq!(from(17, vec![node("Relu", &["x"], &["y"])]).opsets.len(), 1);
    let kept = from(17, vec![node("QuickGelu", &["x"], &["y"]).in_domain("com.microsoft")]);
    assert_eq!(kept.opsets["com.microsoft"], 1);
}

#[test]
fn long_chains_take_a_short_while() {
    let names: Vec<String> = (0..50_000).map(|i| if i == 0 { "x".into() } else { format!("v{i}") }).collect();
    let chain = names.windows(2).map(|pair| node("Identity", &[&pair[0]], &[&pair[1]]));
    let last = node("Relu", &[names.last().unwrap()], &["y"]);
    let model = from(17, chain.chain([last]).collect());
    assert_eq!(ops(&model.graph), ["Relu"]);
}

#[test]
fn rows_of_a_quantized_table_are_looked_up_before_they_become_floats() {
    let build = |steps: Vec<NodeProto>, scale: TensorProto| GraphProto {
        node: steps.into_iter().chain([node("Gather", &["t", "ids"], &["y"])]).collect(),
        initializer: vec![
            raw("w", ElementType::I8, &[3, 2], &[1, 2, 3, 4, 5, 6]),
            scale,
            raw("z", ElementType::I8, &[], &[1]),
            longs("ids", &[2], &[2, 0]),
        ],
        output: vec![info("y", &[])],
        ..Default::default()
    };
    let to_float = || int("to", i64::from(ElementType::F32.to_onnx()));
    let cast = || node("Cast", &["w"], &["c"]).with(to_float());
    let ways = [
        (vec![cast(), node("Mul", &["c", "s"], &["t"])], "Gather Cast Mul", [2.5, 3.0, 0.5, 1.0]),
        (vec![cast(), node("Mul", &["s", "c"], &["t"])], "Gather Cast Mul", [2.5, 3.0, 0.5, 1.0]),
        (vec![node("DequantizeLinear", &["w", "s", "z"], &["t"])], "Gather DequantizeLinear", [2.0, 2.5, 0.0, 0.5]),
    ];
    for (steps, wanted, values) in ways {
        let mut model = read(&model(13, build(steps, floats("s", &[], &[0.5])))).unwrap();
        assert_eq!(gather_first(&mut model.graph), 1);
        assert_eq!(ops(&model.graph).join(" "), wanted);
        normalise(&mut model, &InputShapes::new()).unwrap();
        if wanted == "Gather Cast Mul" {
            let folded = model.graph.constant(model.graph.outputs[0].value).unwrap();
            assert_eq!(folded.to_f32s().unwrap(), values);
        }
    }
    // With a scale for each row these are looked up too; a scale for each column does not turn rows alone here.
    let steps = || vec![cast(), node("Mul", &["c", "s"], &["t"])];
    let mut rows = read(&model(13, build(steps(), floats("s", &[3, 1], &[0.5, 1.0, 2.0])))).unwrap();
    assert_eq!(gather_first(&mut rows.graph), 1);
    normalise(&mut rows, &InputShapes::new()).unwrap();
    let folded = rows.graph.constant(rows.graph.outputs[0].value).unwrap();
    assert_eq!(folded.to_f32s().unwrap(), [10.0, 12.0, 0.5, 1.0]);
    let mut columns = read(&model(13, build(steps(), floats("s", &[1, 2], &[0.5, 1.0])))).unwrap();
    assert_eq!(gather_first(&mut columns.graph), 0);
}
