//! Rows of a quantized table are looked up first and turned into floats afterwards.
//!
//! An embedding of 8 bits is written as table to float, times scale, then Gather: computed as it stands, every run turns all of
//! the table for a few rows of it. What comes out is the same to the bit.

use crate::onnx::graph::{Graph, Node, NodeId, ValueId};
use crate::onnx::tensor::ElementType;

/// How a table becomes float.
struct Table {
    /// INT8 or UINT8, rows outermost.
    rows: ValueId,
    /// From the table to the values that are gathered, first to last.
    steps: Vec<Step>,
}

struct Step {
    node: Node,
    /// Which of its inputs is the table.
    by: usize,
    /// An input that has one value for each row.
    by_row: Option<usize>,
}

/// Moves Gather before what turns its table into floats. How many moved.
pub fn gather_first(graph: &mut Graph) -> usize {
    let found: Vec<(NodeId, Table)> = graph
        .nodes()
        .filter(|(_, node)| node.is("Gather") && node.int("axis").unwrap_or(0) == 0)
        .filter_map(|(id, node)| Some((id, table(graph, node.input(0)?)?)))
        .collect();
    let count = found.len();
    for (id, table) in found {
        if let Some(gather) = graph.remove_node(id) {
            rewrite(graph, &gather, table);
        }
    }
    if count > 0 {
        graph.remove_dead();
    }
    count
}

/// The table behind a value, if each of its rows is turned by itself.
fn table(graph: &Graph, value: ValueId) -> Option<Table> {
    let (mut value, mut steps) = (value, Vec::new());
    // Cast and Mul, or DequantizeLinear.
    for _ in 0..2 {
        let (_, node) = graph.producer(value)?;
        let step = step(graph, node)?;
        value = node.input(step.by)?;
        steps.insert(0, step);
        if let Some(rows) = graph.constant(value) {
            let bytes = rows.element() == ElementType::I8 || rows.element() == ElementType::U8;
            let fits = |step: &Step| {
                let one_each = step.by_row.and_then(|input| graph.constant(step.node.input(input)?));
                one_each
                    .is_none_or(|scales| scales.shape().len() == rows.shape().len() && scales.len() == rows.shape()[0])
            };
            return (bytes && rows.shape().len() >= 2 && steps.iter().all(fits))
                .then_some(Table { rows: value, steps });
        }
    }
    None
}

/// A node that turns each row by itself.
fn step(graph: &Graph, node: &Node) -> Option<Step> {
    let of = |input: usize| node.input(input).and_then(|value| graph.constant(value));
    let single = |input: usize| of(input).is_some_and(|tensor| tensor.len() == 1);
    // `[rows, 1, ..]`.
    let by_row = |input: usize| of(input).is_some_and(|t| t.shape().first() == Some(&t.len()) && t.shape().len() > 1);
    let known = node.domain.is_empty();
    let to_float = || node.int("to") == Some(i64::from(ElementType::F32.to_onnx()));
    let (by, by_row) = match node.op.as_str() {
        "Mul" if known && (single(1) || single(0)) => (usize::from(!single(1)), None),
        "Mul" if known && by_row(1) => (0, Some(1)),
        "Mul" if known && by_row(0) => (1, Some(0)),
        "Cast" if known && to_float() => (0, None),
        "DequantizeLinear" if known && single(1) && (node.input(2).is_none() || single(2)) => (0, None),
        _ => return None,
    };
    Some(Step { node: node.clone(), by, by_row })
}

/// The Gather on the table itself, then the steps; the last gives what the Gather gave.
fn rewrite(graph: &mut Graph, gather: &Node, table: Table) {
    let name = gather.output(0).map_or_else(String::new, |output| graph.value(output).name.clone());
    let mut value = graph.add_value(&format!("{name}.rows"));
    let mut first = gather.clone();
    first.inputs[0] = Some(table.rows);
    first.outputs = vec![Some(value)];
    graph.add_node(first);
    let last = table.steps.len() - 1;
    for (place, Step { node: mut step, by, by_row }) in table.steps.into_iter().enumerate() {
        step.inputs[by] = Some(value);
        if let Some(input) = by_row {
            let scales = graph.add_value(&format!("{name}.scales{place}"));
            let mut look_up = gather.clone();
            look_up.inputs[0] = step.inputs[input];
            look_up.outputs = vec![Some(scales)];
            graph.add_node(look_up);
            step.inputs[input] = Some(scales);
        }
        step.name = format!("{}.{}", gather.name, step.name);
        if place == last {
            step.outputs = vec![gather.output(0)];
        } else {
            value = graph.add_value(&format!("{name}.step{place}"));
            step.outputs = vec![Some(value)];
        }
        graph.add_node(step);
    }
}
