//! QuantizeLinear and DequantizeLinear that stay, as arithmetic: the float engine's own forms are slow or wrong.
//!
//! x / scale, rounded half to even, plus zero point, clamped, cast: what the standard says, for every width that a
//! cast makes. Blocks are left as they are.

use super::params::{is_dequantize, is_quantize, resolve_axis};
use crate::onnx::graph::{Attribute, Graph, Node, NodeId, ValueId};
use crate::onnx::shapes::Facts;
use crate::onnx::{ElementType, Tensor};
use std::collections::BTreeMap;

/// Replaces what is left of them; returns those that cannot be.
pub(super) fn spell_out(graph: &mut Graph, facts: &Facts) -> Vec<NodeId> {
    let left: Vec<NodeId> =
        graph.nodes().filter(|(_, node)| is_quantize(node) || is_dequantize(node)).map(|(id, _)| id).collect();
    left.into_iter().filter(|&id| replace(graph, facts, id).is_none()).collect()
}

fn replace(graph: &mut Graph, facts: &Facts, id: NodeId) -> Option<()> {
    let node = graph.node(id)?.clone();
    let (input, output) = (node.input(0)?, node.output(0)?);
    let scale = graph.constant(node.input(1)?)?.to_f32s()?;
    let zero = match node.input(2) {
        Some(value) => graph.constant(value)?.to_i64s()?.into_iter().map(|z| z as f32).collect(),
        None => vec![0.0],
    };
    if node.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let rank = facts.dims(input)?.len();
    let axis = resolve_axis(node.int("axis").unwrap_or(1), rank).unwrap_or(0);
    let mut chain = Chain { graph, name: node.name.clone() };
    let scale = chain.constant(&scale, axis, rank)?;
    let shift = zero.iter().any(|&z| z != 0.0);
    let zero = chain.constant(&zero, axis, rank)?;
    if is_quantize(&node) {
        let to = facts.element(output)?;
        let (low, high) = to.range().filter(|_| to.bits() >= 8 && to.bits() <= 16)?;
        let mut x = chain.apply("Div", &[input, scale]);
        x = chain.apply("Round", &[x]);
        if shift {
            x = chain.apply("Add", &[x, zero]);
        }
        let bounds = [low, high].map(|bound| Tensor::scalar_f32(bound as f32));
        let [low, high] = bounds.map(|bound| chain.graph.add_constant("bound", bound));
        x = chain.apply("Clip", &[x, low, high]);
        chain.finish("Cast", vec![Some(x)], output, Some(to));
    } else {
        let from = facts.element(input)?;
        if from.bits() < 8 {
            return None;
        }
        let cast = chain.graph.add_value("cast");
        chain.finish("Cast", vec![Some(input)], cast, Some(ElementType::F32));
        let x = if shift { chain.apply("Sub", &[cast, zero]) } else { cast };
        chain.finish("Mul", vec![Some(x), Some(scale)], output, None);
    }
    graph.remove_node(id);
    Some(())
}

/// Nodes in a row.
struct Chain<'a> {
    graph: &'a mut Graph,
    name: String,
}

impl Chain<'_> {
    /// One value, or one for each index of an axis.
    fn constant(&mut self, values: &[f32], axis: usize, rank: usize) -> Option<ValueId> {
        let tensor = match values {
            [one] => Tensor::scalar_f32(*one),
            _ => {
                let mut shape = vec![1; rank];
                *shape.get_mut(axis)? = values.len();
                Tensor::vector_f32(values).reshaped(shape)?
            }
        };
        Some(self.graph.add_constant("by", tensor))
    }

    fn apply(&mut self, op: &str, inputs: &[ValueId]) -> ValueId {
        let made = self.graph.add_value(op);
        self.finish(op, inputs.iter().copied().map(Some).collect(), made, None);
        made
    }

    fn finish(&mut self, op: &str, inputs: Vec<Option<ValueId>>, output: ValueId, to: Option<ElementType>) {
        let attribute = to.map(|to| ("to".to_owned(), Attribute::Int(i64::from(to.to_onnx()))));
        self.graph.add_node(Node {
            name: format!("{}_{op}", self.name),
            op: op.to_owned(),
            domain: String::new(),
            version: crate::onnx::normalise::OPSET,
            attributes: BTreeMap::from_iter(attribute),
            inputs,
            outputs: vec![Some(output)],
        });
    }
}
