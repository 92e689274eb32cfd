//! Shapes against those that ONNX's own tests and ONNX Runtime have: `tests/vectors/onnx/make.py`.

use super::*;
use crate::onnx::graph::{Graph, Model};
use crate::onnx::normalise::normalise;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::tests::{cases, floats, info, int, ints, longs, model, node, read, typed};

fn text(fact: &Fact) -> String {
    let element = fact.element.map_or("?".to_owned(), |element| element.to_string());
    let dims = fact.shape.as_ref().map(|dims| dims.iter().map(dim_text).collect::<Vec<_>>().join(","));
    format!("{element} {}", dims.unwrap_or("unknown".to_owned()))
}

fn dim_text(dim: &Dim) -> String {
    match dim {
        Dim::Size(size) => size.to_string(),
        Dim::Symbol(name) => name.to_string(),
        Dim::Unknown => "?".to_owned(),
    }
}

#[test]
fn shapes_are_those_that_runs_have() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for case in cases() {
        let mut model =
            Model::from_bytes(&case.bytes, &Default::default()).unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        let facts = normalise(&mut model, &InputShapes::new()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for port in &model.graph.outputs {
            let expected = &case.expected[&port.name];
            let actual = text(facts.of(port.value));
            checked += 1;
            if actual != *expected {
                wrong.push(format!("{}: {} is {expected}, inferred {actual}", case.name, port.name));
            }
        }
    }
    assert!(checked > 600, "only {checked} outputs seen");
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn graph(inputs: Vec<crate::onnx::proto::ValueInfoProto>, nodes: Vec<NodeProto>) -> Graph {
    let initializer = vec![
        longs("zero", &[], &[0]),
        longs("front", &[1], &[0]),
        longs("rest", &[1], &[-1]),
        longs("seven", &[1], &[7]),
        floats("w", &[4, 3, 3, 3], &[0.0; 108]),
    ];
    read(&model(21, GraphProto { node: nodes, input: inputs, initializer, ..Default::default() })).unwrap().graph
}

fn inferred(graph: &Graph, facts: &Facts, name: &str) -> String {
    text(facts.of(graph.values().find(|(_, value)| value.name == name).unwrap().0))
}

#[test]
fn an_open_batch_stays_open_through_a_flattening() {
    let graph = graph(
        vec![info("x", &[-1, 3, 8, 8])],
        vec![
            node("Conv", &["x", "w"], &["c"]).with(ints("pads", &[1, 1, 1, 1])),
            node("Shape", &["c"], &["s"]),
            node("Gather", &["s", "zero"], &["b"]),
            node("Unsqueeze", &["b", "front"], &["u"]),
            node("Concat", &["u", "rest"], &["t"]).with(int("axis", 0)),
            node("Reshape", &["c", "t"], &["y"]),
            node("Add", &["y", "y"], &["z"]),
        ],
    );
    let facts = infer(&graph, &InputShapes::new());
    assert_eq!(inferred(&graph, &facts, "c"), "FLOAT n,4,8,8");
    assert_eq!(inferred(&graph, &facts, "z"), "FLOAT n,256");
    let facts = infer(&graph, &InputShapes::from([("x".to_owned(), vec![5, 3, 8, 8])]));
    assert_eq!(inferred(&graph, &facts, "z"), "FLOAT 5,256");
}

#[test]
fn a_symbol_that_one_input_decides_is_decided_everywhere() {
    let graph = graph(vec![info("x", &[-1, 3]), info("y", &[-1, 4])], vec![node("Relu", &["y"], &["z"])]);
    let facts = infer(&graph, &InputShapes::from([("x".to_owned(), vec![6, 3])]));
    assert_eq!(inferred(&graph, &facts, "z"), "FLOAT 6,4");
}

#[test]
fn what_cannot_be_told_stays_unknown() {
    let graph = graph(
        vec![info("x", &[2, 3]), info("y", &[4, 5]), typed("places", ElementType::I64, &[2])],
        vec![
            node("Add", &["x", "y"], &["clash"]),
            node("MatMul", &["x", "y"], &["inner"]),
            node("Frobnicate", &["x"], &["strange"]),
            node("Relu", &["strange"], &["behind"]),
            node("Reshape", &["x", "places"], &["rank"]),
            node("Reshape", &["x", "seven"], &["uneven"]),
            node("Reshape", &["x", "seven", "zero", "x"], &["crowded"]),
            node("Conv", &["x"], &["poor"]),
            node("Transpose", &["x"], &["bad"]).with(ints("perm", &[0, 9])),
            node("Concat", &["x", "y"], &["apart"]).with(int("axis", 0)),
        ],
    );
    let facts = infer(&graph, &InputShapes::new());
    for name in ["clash", "inner", "poor", "bad", "apart"] {
        assert_eq!(inferred(&graph, &facts, name), "FLOAT unknown", "{name}");
    }
    for name in ["strange", "behind"] {
        assert_eq!(inferred(&graph, &facts, name), "? unknown", "{name}");
    }
    assert_eq!(inferred(&graph, &facts, "rank"), "FLOAT ?,?");
}

#[test]
fn sizes_near_the_end_of_the_integers_do_no_harm() {
    let huge = i64::MAX;
    let window = |op: &str| {
        node(op, &["x", "w"], &[op])
            .with(ints("pads", &[huge; 4]))
            .with(ints("strides", &[1, huge]))
            .with(ints("dilations", &[huge; 2]))
            .with(ints("kernel_shape", &[huge; 2]))
            .with(ints("output_padding", &[huge; 2]))
    };
    let mut nodes: Vec<_> =
        ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "ConvInteger"].into_iter().map(window).collect();
    nodes.push(node("Flatten", &["x"], &["f"]));
    nodes.push(node("Concat", &["x", "x"], &["c"]).with(int("axis", i64::MIN)));
    nodes.push(node("SpaceToDepth", &["x"], &["d"]).with(int("blocksize", huge)));
    nodes.push(node("Gemm", &["f", "f"], &["g"]));
    nodes.push(node("Shape", &["x"], &["s"]).with(int("start", i64::MIN)).with(int("end", huge)));
    nodes.push(node("Mul", &["s", "s"], &["m"]));
    nodes.push(node("Expand", &["x", "m"], &["e"]));
    let graph = graph(vec![info("x", &[huge, huge, huge, huge])], nodes);
    infer(&graph, &InputShapes::new());
}
