//! A batch normalisation behind a convolution moves into its weights and bias.
//!
//! y = (x - mean) * scale / sqrt(variance + epsilon) + shift, a channel at a time; computed in doubles,
//! rounded once.

use crate::onnx::graph::{Graph, Node, NodeId, ValueId};
use crate::onnx::tensor::{ElementType, Tensor};
use std::collections::BTreeMap;

/// How many were folded.
pub(super) fn fold_into_conv(graph: &mut Graph) -> usize {
    let uses = graph.uses();
    let mut found = Vec::new();
    for (norm, node) in graph.nodes().filter(|(_, node)| node.is("BatchNormalization")) {
        let Some(data) = node.input(0) else { continue };
        let behind = graph.producer(data).filter(|(_, conv)| conv.is("Conv"));
        if let (Some((conv, _)), Some((only, 0))) = (behind, uses.only(data))
            && only == norm
            && let Some(parts) = folded(graph, conv, node)
        {
            found.push((norm, conv, parts));
        }
    }
    let mut replaced = BTreeMap::new();
    let count = found.len();
    for (norm, conv, (weights, bias)) in found {
        let names = graph.node(conv).and_then(|node| Some((node.input(1)?, node.output(0)?)));
        let Some((old, output)) = names else { continue };
        let name = graph.value(old).name.clone();
        let weights = graph.add_constant(&name, weights);
        let bias = graph.add_constant(&format!("{name}_bias"), bias);
        if let Some(node) = graph.node_mut(conv) {
            node.inputs.truncate(1);
            node.inputs.extend([Some(weights), Some(bias)]);
        }
        let removed = graph.remove_node(norm).and_then(|node| node.output(0));
        replaced.extend(removed.map(|of| (of, output)));
    }
    graph.replace_all(&replaced);
    count
}

/// New weights and bias; `None` where anything but constant floats is in the way.
fn folded(graph: &Graph, conv: NodeId, norm: &Node) -> Option<(Tensor, Tensor)> {
    let conv = graph.node(conv)?;
    let training = norm.int("training_mode").unwrap_or(0) != 0 || norm.outputs.iter().skip(1).any(Option::is_some);
    if training {
        return None;
    }
    let values = |value: Option<ValueId>| {
        let tensor = graph.constant(value?).filter(|tensor| tensor.element() == ElementType::F32)?;
        tensor.to_f64s()
    };
    let weights = graph.constant(conv.input(1)?)?;
    let old = values(conv.input(1))?;
    let channels = *weights.shape().first()?;
    let [scale, shift, mean, variance] =
        [values(norm.input(1))?, values(norm.input(2))?, values(norm.input(3))?, values(norm.input(4))?];
    let bias = if conv.input(2).is_some() { values(conv.input(2))? } else { vec![0.0; channels] };
    if [&scale, &shift, &mean, &variance, &bias].iter().any(|list| list.len() != channels) || channels == 0 {
        return None;
    }
    let epsilon = f64::from(norm.float("epsilon").unwrap_or(1e-5));
    let factors: Vec<f64> =
        scale.iter().zip(&variance).map(|(scale, variance)| scale / (variance + epsilon).sqrt()).collect();
    let per_channel = (old.len() / channels).max(1);
    let new: Vec<f64> =
        old.chunks(per_channel).zip(&factors).flat_map(|(row, factor)| row.iter().map(move |w| w * factor)).collect();
    let new_bias: Vec<f64> = (0..channels).map(|c| (bias[c] - mean[c]) * factors[c] + shift[c]).collect();
    let weights = Tensor::from_f64s(ElementType::F32, weights.shape().to_vec(), &new)?;
    Some((weights, Tensor::from_f64s(ElementType::F32, vec![channels], &new_bias)?))
}
