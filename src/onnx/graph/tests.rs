//! Edits and writing, with models made by hand.

use super::*;
use crate::onnx::ReadError;
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use crate::onnx::tests::{float, floats, graph_attribute, info, model, node, read, sample};

/// Everything about a graph but its indices.
fn text(graph: &Graph) -> String {
    let name = |value: &Option<ValueId>| value.map_or("-", |value| &graph.value(value).name);
    let mut lines = Vec::new();
    for id in graph.order().unwrap() {
        let node = graph.node(id).unwrap();
        let [inputs, outputs] = [&node.inputs, &node.outputs].map(|list| list.iter().map(name).collect::<Vec<_>>());
        let inner: Vec<_> = node.subgraphs().map(text).collect();
        let plain = node.attributes.iter().filter(|(_, a)| !matches!(a, Attribute::Graph(_))).collect::<Vec<_>>();
        lines.push(format!("{outputs:?} = {}.{}({inputs:?}) {plain:?} {inner:?}", node.domain, node.op));
    }
    lines.push(format!("{:?} {:?}", graph.inputs, graph.outputs.iter().map(|o| &o.name).collect::<Vec<_>>()));
    lines.join("\n")
}

#[test]
fn what_was_read_is_written_and_read_again() {
    // The first writing may give names and drop what nothing reads; from then on nothing changes.
    let first = read(&read(&sample()).unwrap().to_proto().unwrap()).unwrap();
    let second = read(&first.to_proto().unwrap()).unwrap();
    assert_eq!(text(&first.graph), text(&second.graph));
    assert_eq!(first.opsets, second.opsets);
    let weights = |model: &Model| {
        let named =
            model.graph.values().filter_map(|(id, v)| Some((v.name.clone(), model.graph.constant(id)?.clone())));
        named.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(weights(&first), weights(&second));
}

fn chain() -> Graph {
    let graph = GraphProto {
        // Out of order: reading sorts by what is needed.
        node: vec![
            node("Sigmoid", &["b"], &["y"]),
            node("Relu", &["x"], &["a"]),
            node("Neg", &["a"], &["b"]),
            node("Exp", &["a"], &["unread"]),
        ],
        input: vec![info("x", &[-1, 2])],
        output: vec![info("y", &[-1, 2])],
        ..Default::default()
    };
    read(&model(17, graph)).unwrap().graph
}

fn ops(graph: &Graph) -> Vec<&str> {
    graph.order().unwrap().into_iter().map(|id| graph.node(id).unwrap().op.as_str()).collect()
}

fn named(graph: &Graph, name: &str) -> ValueId {
    graph.values().find(|(_, value)| value.name == name).unwrap().0
}

#[test]
fn nodes_stand_behind_what_they_read() {
    assert_eq!(ops(&chain()), ["Relu", "Neg", "Sigmoid", "Exp"]);
}

#[test]
fn readers_and_producers_are_found() {
    let graph = chain();
    let a = named(&graph, "a");
    assert_eq!(graph.producer(a).unwrap().1.op, "Relu");
    let uses = graph.uses();
    assert_eq!(uses.of(a).len(), 2);
    assert_eq!(uses.only(a), None);
    assert!(uses.only(named(&graph, "b")).is_some());
    assert_eq!(uses.of(named(&graph, "y")), [Use::Output(0)]);
}

#[test]
fn dead_nodes_go_and_outputs_keep_their_names() {
    let mut graph = chain();
    assert_eq!(graph.remove_dead(), 1);
    let (a, y) = (named(&graph, "a"), named(&graph, "y"));
    graph.replace_uses(y, a);
    assert_eq!(graph.remove_dead(), 2);
    assert_eq!(ops(&graph), ["Relu"]);
    let model = Model { graph, opsets: BTreeMap::from([(String::new(), 17)]), ir_version: 8, ..Default::default() };
    let proto = model.to_proto().unwrap().graph.unwrap();
    assert_eq!(proto.output[0].name, "y");
    assert_eq!(proto.node[0].output, ["y"]);
}

#[test]
fn an_input_that_is_an_output_too_passes_through() {
    let mut graph = chain();
    let (x, y) = (named(&graph, "x"), named(&graph, "y"));
    graph.replace_uses(y, x);
    graph.remove_dead();
    let model = Model { graph, opsets: BTreeMap::from([(String::new(), 17)]), ir_version: 8, ..Default::default() };
    let proto = model.to_proto().unwrap().graph.unwrap();
    assert_eq!((proto.node[0].op_type.as_str(), proto.output[0].name.as_str()), ("Identity", "y"));
    assert!(read(&model.to_proto().unwrap()).is_ok());
}

#[test]
fn edits_outside_reach_into_bodies_and_circles_are_seen() {
    let body = GraphProto {
        node: vec![node("Add", &["a", "w"], &["out"])],
        initializer: vec![floats("w", &[1], &[1.0])],
        output: vec![info("out", &[])],
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![
            node("Relu", &["x"], &["a"]),
            node("Loop", &[], &["y"]).with(graph_attribute("body", body)),
            node("Neg", &["y"], &["z"]),
        ],
        input: vec![info("x", &[2])],
        output: vec![info("z", &[2])],
        ..Default::default()
    };
    let mut graph = read(&model(17, graph)).unwrap().graph;
    let (a, x, z) = (named(&graph, "a"), named(&graph, "x"), named(&graph, "z"));
    graph.replace_uses(a, x);
    assert_eq!(graph.remove_dead(), 1);
    let mut model = Model { graph, opsets: BTreeMap::from([(String::new(), 17)]), ir_version: 8, ..Default::default() };
    let proto = model.to_proto().unwrap().graph.unwrap();
    let body = proto.node[0].attribute[0].g.as_ref().unwrap();
    assert_eq!(body.node[0].input, ["x", "w"]);
    model.graph.replace_uses(x, z);
    assert!(model.to_proto().is_err());
}

#[test]
fn names_that_edits_made_twice_are_written_once() {
    let mut graph = chain();
    let twin = graph.add_value("a");
    let x = named(&graph, "x");
    let relu = graph.node(graph.producer(named(&graph, "a")).unwrap().0).unwrap().clone();
    graph.add_node(Node { outputs: vec![Some(twin)], inputs: vec![Some(x)], ..relu });
    graph.replace_uses(named(&graph, "b"), twin);
    graph.outputs.push(Port { name: "second".into(), value: named(&graph, "a"), declared: None });
    graph.outputs.push(Port { name: "third".into(), value: twin, declared: None });
    let model = Model { graph, opsets: BTreeMap::from([(String::new(), 17)]), ir_version: 8, ..Default::default() };
    let again = read(&model.to_proto().unwrap()).unwrap();
    let names: Vec<_> = again.graph.outputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["y", "second", "third"]);
    let nodes: std::collections::BTreeSet<_> = again.graph.nodes().map(|(_, node)| &node.name).collect();
    assert_eq!(nodes.len(), again.graph.nodes().count());
}

fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
    let opset = OperatorSetIdProto { domain: "own".into(), version: 1 };
    FunctionProto {
        name: name.into(),
        domain: "own".into(),
        input: vec!["a".into(), "b".into()],
        output: vec!["out".into()],
        attribute: vec!["slope".into()],
        node: nodes,
        opset_import: [opset_import, vec![opset]].concat(),
        ..Default::default()
    }
}

fn own(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    node(op, inputs, &[output]).in_domain("own")
}

#[test]
fn functions_of_the_model_become_their_bodies() {
    let slope = AttributeProto { ref_attr_name: "slope".into(), ..float("alpha", 0.0) };
    let inner = function("Inner", vec![node("LeakyRelu", &["a"], &["out"]).with(slope.clone())]);
    let branch =
        GraphProto { node: vec![node("Neg", &["t"], &["n"])], output: vec![info("n", &[])], ..Default::default() };
    let call = own("Inner", &["a"], "t").with(AttributeProto { name: "slope".into(), ..slope });
    let choice = node("If", &["b"], &["out"]).with(graph_attribute("then_branch", branch));
    let graph = GraphProto {
        node: vec![own("Outer", &["x", "flag"], "m").with(float("slope", 0.5)), own("Outer", &["m", "flag"], "y")],
        input: vec![info("x", &[2]), info("flag", &[])],
        output: vec![info("y", &[2])],
        ..Default::default()
    };
    let functions = vec![inner, function("Outer", vec![call, choice])];
    let model = read(&ModelProto { functions, ..model(17, graph) }).unwrap();
    assert_eq!(ops(&model.graph), ["LeakyRelu", "If", "LeakyRelu", "If"]);
    let order = model.graph.order().unwrap();
    let nodes: Vec<_> = order.iter().map(|&id| model.graph.node(id).unwrap()).collect();
    assert_eq!(model.opsets["own"], 1);
    assert_eq!((nodes[0].float("alpha"), nodes[2].float("alpha"), nodes[0].version), (Some(0.5), None, 13));
    assert_eq!(nodes[1].subgraphs().next().unwrap().captures[0].outer, nodes[0].output(0).unwrap());
    assert!(read(&model.to_proto().unwrap()).is_ok());
}

#[test]
fn functions_that_call_themselves_or_multiply_are_refused() {
    let graph = |op: &str| GraphProto { node: vec![own(op, &[], "y")], ..Default::default() };
    let circle = function("F", vec![own("F", &["a"], "out")]);
    let refused = read(&ModelProto { functions: vec![circle], ..model(17, graph("F")) }).unwrap_err();
    assert!(matches!(refused, ReadError::Graph(GraphError::Function { .. })), "{refused:?}");
    let double = |level: usize| {
        let below = format!("F{}", level + 1);
        let calls = vec![own(&below, &["a"], "h"), own(&below, &["h"], "out")];
        function(&format!("F{level}"), calls)
    };
    let functions: Vec<_> = (0..30).map(double).collect();
    let refused = read(&ModelProto { functions, ..model(17, graph("F0")) }).unwrap_err();
    assert!(matches!(refused, ReadError::Wire(_)), "{refused:?}");
}

#[test]
fn an_input_can_be_fixed() {
    let mut graph = chain();
    assert!(graph.fix_input("nowhere", Tensor::scalar_f32(1.0)).is_none());
    let value = graph.fix_input("x", Tensor::vector_f32(&[1.0, 2.0])).unwrap();
    assert!(graph.inputs.is_empty());
    assert_eq!(graph.constant(value).unwrap().shape(), [2]);
}
