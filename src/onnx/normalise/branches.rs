//! An `If` whose condition is known becomes the branch that it takes.

use crate::onnx::graph::{Attribute, Graph, Node, NodeId, Origin, ValueId};
use std::collections::{BTreeMap, HashMap};

/// Whether any was inlined.
pub(super) fn inline(graph: &mut Graph) -> bool {
    let settled: Vec<(NodeId, bool)> = graph.nodes().filter_map(|(id, node)| Some((id, taken(graph, node)?))).collect();
    let mut replaced = BTreeMap::new();
    let any = !settled.is_empty();
    for (id, yes) in settled {
        let Some(mut node) = graph.remove_node(id) else { continue };
        let name = if yes { "then_branch" } else { "else_branch" };
        if let Some(Attribute::Graph(branch)) = node.attributes.remove(name) {
            let made = splice(graph, *branch);
            replaced.extend(node.outputs.iter().zip(made).filter_map(|(of, by)| Some(((*of)?, by))));
        }
    }
    graph.replace_all(&replaced);
    graph.remove_dead();
    any
}

/// Whether the condition is known, and both branches are there in the number of outputs that is needed.
fn taken(graph: &Graph, node: &Node) -> Option<bool> {
    let condition = graph.constant(node.input(0).filter(|_| node.is("If"))?)?;
    let yes = *condition.to_i64s()?.first()? != 0;
    let branch = node.attributes.get(if yes { "then_branch" } else { "else_branch" })?;
    if let Attribute::Graph(branch) = branch {
        (branch.outputs.len() >= node.outputs.len()).then_some(yes)
    } else {
        None
    }
}

/// Moves all of `inner` into `graph`; returns what its outputs are there.
fn splice(graph: &mut Graph, inner: Graph) -> Vec<ValueId> {
    let mut moved: HashMap<ValueId, ValueId> = inner.captures.iter().map(|c| (c.inner, c.outer)).collect();
    for (id, value) in inner.values() {
        if moved.contains_key(&id) {
            continue;
        }
        let new = match value.origin() {
            Origin::Constant(tensor) => graph.add_constant(&value.name, tensor.clone()),
            Origin::Input | Origin::Capture | Origin::Node(..) | Origin::None => graph.add_value(&value.name),
        };
        moved.insert(id, new);
    }
    for (_, node) in inner.nodes() {
        let mut node = node.clone();
        for value in node.inputs.iter_mut().chain(&mut node.outputs).flatten() {
            *value = moved[value];
        }
        for capture in node.subgraphs_mut().flat_map(|graph| &mut graph.captures) {
            capture.outer = moved[&capture.outer];
        }
        graph.add_node(node);
    }
    inner.outputs.iter().map(|port| moved[&port.value]).collect()
}
