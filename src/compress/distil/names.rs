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

/// Whether a tensor of three dimensions or more is one of a transformer: channels are last, behind positions.
pub fn has_features_last(graph: &Graph, value: ValueId) -> bool {
    let layer = upstream(graph, value).find(|node| is_product(node) || node.is("LayerNormalization"));
    layer.is_some_and(|node| !node.is("Conv") && !node.is("ConvTranspose"))
}
