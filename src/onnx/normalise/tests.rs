//! Forms and folding: values against ONNX's own tests, structure by hand.

use super::*;
use crate::onnx::graph::{Attribute, Graph, Node};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
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
    assert_eq!(
        ops(&wide.graph),
        ["Flatten", "Softmax", "Shape", "Reshape"][..2].iter().copied().chain(["Reshape"]).collect::<Vec<_>>()
    );
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
    assert!(nodes(&both.graph)[0].subgraphs().all(|inner| inner.outputs[0].declared.is_none()));
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
