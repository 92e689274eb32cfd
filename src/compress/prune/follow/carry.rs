//! A reshape cuts channels in two: which of the parts bears them.
//!
//! In an attention the heads do: they are the axis that a later product of activations only repeats itself along. In a
//! shuffle (Zhang et al., ShuffleNet, 2018) the channels within a group do, so that the groups stay alike: there the parts
//! are swapped and joined again. Elsewhere the outermost part.

use crate::onnx::graph::{Graph, Node, Use, Uses, ValueId};
use crate::onnx::shapes::Facts;

/// Steps that are looked ahead.
const FAR: usize = 24;

/// The bearing one of `parts`, axes of `value`.
pub(super) fn bearer(graph: &Graph, facts: &Facts, uses: &Uses, value: ValueId, parts: &[usize]) -> usize {
    let mut places: Vec<Option<usize>> = parts.iter().copied().map(Some).collect();
    let mut at = value;
    for _ in 0..FAR {
        let next = uses.of(at).iter().find_map(|user| {
            let Use::Input(node, input) = user else { return None };
            let node = graph.node(*node)?;
            (!node.is("Shape")).then_some((node, *input))
        });
        let Some((node, input)) = next else { break };
        let Some(rank) = facts.of(at).shape.as_ref().map(Vec::len) else { break };
        if node.is("MatMul") {
            let repeated = places.iter().position(|place| place.is_some_and(|place| place + 2 < rank));
            return parts[repeated.unwrap_or(0)];
        }
        if node.is("Reshape") || node.is("Flatten") {
            let swapped = places.windows(2).all(|pair| pair[0] > pair[1]) && places.iter().all(Option::is_some);
            return if swapped { parts[parts.len() - 1] } else { parts[0] };
        }
        if !moved(graph, node, input, rank, &mut places) {
            break;
        }
        match node.output(0) {
            Some(output) => at = output,
            None => break,
        }
    }
    parts[0]
}

/// Where the parts are behind the node; false where that is not told.
fn moved(graph: &Graph, node: &Node, input: usize, rank: usize, places: &mut [Option<usize>]) -> bool {
    match node.op.as_str() {
        "Transpose" => {
            let reversed: Vec<i64> = (0..rank as i64).rev().collect();
            let perm = node.ints("perm").unwrap_or(&reversed);
            let to = |place: usize| perm.iter().position(|&from| from == place as i64);
            places.iter_mut().for_each(|place| *place = place.and_then(to));
            true
        }
        "Gather" if input == 0 => {
            let axis = node.int("axis").unwrap_or(0);
            let scalar = node.input(1).and_then(|value| graph.constant(value)).is_some_and(|at| at.shape().is_empty());
            let Some(axis) = super::positive(axis, rank) else { return false };
            if scalar {
                drop_axes(places, &[axis]);
            }
            true
        }
        "Squeeze" => {
            let axes = node.input(1).and_then(|value| graph.constant(value)?.to_i64s()).unwrap_or_default();
            let axes: Vec<usize> = axes.iter().filter_map(|&axis| super::positive(axis, rank)).collect();
            drop_axes(places, &axes);
            !axes.is_empty()
        }
        "Add" | "Mul" | "Div" | "Sub" | "Split" | "Slice" | "Softmax" | "Identity" | "Cast" | "Sqrt" => true,
        _ => false,
    }
}

fn drop_axes(places: &mut [Option<usize>], axes: &[usize]) {
    for place in places {
        *place =
            place.filter(|place| !axes.contains(place)).map(|at| at - axes.iter().filter(|&&axis| axis < at).count());
    }
}
