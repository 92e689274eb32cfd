//! Tensors inside of networks: by name, or where they usually are.

use crate::compress::train::loss::logits;
use crate::compress::{Error, Network};
use crate::onnx::graph::{Graph, Node, ValueId};

/// What a node gives under a name: the tensor's own, or else the node's.
///
/// # Errors
/// When there is none, with the nearest that there is.
pub fn find(network: &Network, name: &str, whose: &str) -> Result<ValueId, Error> {
    let graph = network.graph();
    let given = || graph.nodes().flat_map(|(_, node)| node.outputs.iter().flatten().map(move |value| (*value, node)));
    let own = |value: ValueId| {
        let port = graph.outputs.iter().find(|port| port.value == value);
        port.map_or(graph.value(value).name.as_str(), |port| port.name.as_str())
    };
    let by_value = given().find(|(value, _)| graph.value(*value).name == name || own(*value) == name);
    let found = by_value.or_else(|| given().find(|(_, node)| !node.name.is_empty() && node.name == name));
    found.map(|(value, _)| value).ok_or_else(|| {
        let known = given().flat_map(|(value, node)| [own(value), node.name.as_str()]).filter(|name| !name.is_empty());
        let score = |known: &str| strsim::jaro_winkler(name, known);
        let nearest = known.max_by(|a, b| score(a).total_cmp(&score(b)));
        let hint = nearest.map_or_else(String::new, |nearest| format!("; {nearest:?} is the nearest name"));
        Error::unfit(format!("the {whose} has no tensor {name:?} that a node gives{hint}"))
    })
}

fn is_product(node: &Node) -> bool {
    ["Conv", "ConvTranspose", "Gemm", "MatMul"].iter().any(|op| node.is(op))
}

/// The node that gives a value, and from there on each time the one that gives its first input that is no constant.
fn upstream(graph: &Graph, value: ValueId) -> impl Iterator<Item = &Node> {
    let before = |node: &&Node| {
        let input = node.inputs.iter().flatten().find(|input| graph.constant(**input).is_none())?;
        graph.producer(*input).map(|(_, node)| node)
    };
    // A graph in a circle would not have been read, but no walk should be without an end.
    std::iter::successors(graph.producer(value).map(|(_, node)| node), before).take(graph.nodes().count())
}

/// What the last layer with weights reads: what is known of a sample before it is put into classes. The answer itself where
/// there is no such layer, or nothing before it.
pub fn embedding(network: &Network) -> Option<ValueId> {
    let graph = network.graph();
    let answer = logits(network)?.0;
    let read = upstream(graph, answer).find(|node| is_product(node)).and_then(|node| node.input(0));
    Some(read.filter(|value| graph.producer(*value).is_some()).unwrap_or(answer))
}

/// Whether channels of a tensor of three dimensions or more are last, behind positions, as transformers have them: where the
/// layer before it makes them, followed through what moves them since.
pub fn has_features_last(network: &Network, value: ValueId) -> bool {
    let graph = network.graph();
    let is_layer = |node: &&Node| is_product(node) || node.is("LayerNormalization");
    let since: Vec<&Node> = upstream(graph, value).take_while(|node| !is_layer(node)).collect();
    let Some(layer) = upstream(graph, value).find(is_layer) else { return false };
    let facts = network.facts();
    let rank = |value: Option<ValueId>| Some(facts.shape(value?)?.len());
    let is_conv = layer.is("Conv") || layer.is("ConvTranspose");
    let made = rank(layer.output(0)).map(|rank| if is_conv { 1 } else { rank.saturating_sub(1) });
    let moved = since.iter().rev().try_fold(made, |axis, node| {
        let from =
            facts.shape(node.inputs.iter().flatten().copied().find(|&input| graph.constant(input).is_none())?)?;
        Some(moved(node, axis?, &from, &facts.shape(node.output(0)?)?))
    });
    match (moved.flatten(), rank(Some(value))) {
        (Some(axis), Some(rank)) => axis > 1 && axis + 1 == rank,
        // Sizes that are not known: as it was made.
        _ => !is_conv,
    }
}

/// Where an axis of what a node reads stands in what it gives; `None` where it is cut, or joined with others.
fn moved(node: &Node, axis: usize, from: &[usize], to: &[usize]) -> Option<usize> {
    if node.is("Transpose") {
        let reversed: Vec<i64> = (0..from.len() as i64).rev().collect();
        let perm = node.ints("perm").unwrap_or(&reversed);
        return perm.iter().position(|&own| own == axis as i64 || own + from.len() as i64 == axis as i64);
    }
    if !["Reshape", "Flatten", "Squeeze", "Unsqueeze"].contains(&node.op.as_str()) {
        // From the right, as shapes of different ranks meet.
        return (axis + to.len()).checked_sub(from.len());
    }
    // The axis with as many positions, and as many elements before it.
    let before = |shape: &[usize], axis: usize| shape[..axis].iter().product::<usize>();
    let same = |at: &usize| to[*at] == from[axis] && before(to, *at) == before(from, axis);
    (0..to.len()).filter(|&at| to[at] > 1 || from[axis] == 1).find(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::sketch::Sketch;
    use crate::onnx::graph::Attribute;

    #[test]
    fn channels_are_found_behind_what_moved_them() {
        let mut sketch = Sketch::new(&[("x", &[1, 3, 4, 5])]);
        let turn = |sketch: &mut Sketch, value, perm: &[i64]| {
            sketch.node("Transpose", &[value], &[("perm", Attribute::Ints(perm.to_vec()))])
        };
        let image = sketch.conv(sketch.input(0), &[6, 3, 3, 3], 1);
        let turned = turn(&mut sketch, image, &[0, 2, 3, 1]);
        let active = sketch.node("Relu", &[turned], &[]);
        let back = turn(&mut sketch, active, &[0, 3, 1, 2]);
        // Patches of an image become tokens, as vision transformers begin.
        let shape = sketch.ints(&[1, 6, 20]);
        let flat = sketch.node("Reshape", &[back, shape], &[]);
        let tokens = turn(&mut sketch, flat, &[0, 2, 1]);
        let active = sketch.node("Relu", &[tokens], &[]);
        let weight = sketch.weights(&[6, 7], 1.0);
        let mixed = sketch.node("MatMul", &[active, weight], &[]);
        let channels_second = turn(&mut sketch, mixed, &[0, 2, 1]);
        let again = sketch.node("Add", &[channels_second, channels_second], &[]);
        let named = [image, turned, back, flat, tokens, mixed, channels_second]
            .map(|value| sketch.0.graph.producer(value).unwrap().1.name.clone());
        let network = sketch.network_with_norms(again);
        let last = named.each_ref().map(|name| has_features_last(&network, find(&network, name, "test").unwrap()));
        assert_eq!(last, [false, true, false, false, true, true, false]);
        assert!(!has_features_last(&network, network.graph().outputs[0].value));
    }
}
