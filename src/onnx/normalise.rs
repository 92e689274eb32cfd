//! One form of every operator, so that whoever reads a graph knows one.
//!
//! Invariant: the model computes what it did, but for rounding where a batch normalisation moves into a
//! convolution. Afterwards it is of operator set 21 or, if it came so, a later one; axes, bounds, pads
//! and sizes are inputs; whatever depends on constants and known sizes alone is a constant.
//! Not here: weights in integers stay so: `DequantizeLinear` is never folded.
//!
//! Rejected: each node in the version of its file (every reader would need all forms); folding without
//! a bound (a few bytes of `Expand` can ask for gigabytes).

mod batch_norm;
mod branches;
mod evaluate;
mod fold;
mod gather;
mod opset;
mod quantize;

pub use gather::gather_first;
#[cfg(test)]
mod tests;

use super::graph::{Cycle, Declared, Dim, Graph, Model, Node};
use super::shapes::{Facts, InputShapes};
use fold::Folder;
use std::collections::BTreeSet;

/// ONNX's operator set that everything is brought to, the first with 16- and 4-bit quantization.
pub const OPSET: i64 = 21;

/// The file format version that goes with it.
const IR_VERSION: i64 = 10;

/// The oldest operator set that is understood: before it, broadcasting was stated by attributes.
const OLDEST: i64 = 7;

/// Why a model could not be brought into one form.
#[derive(Debug, thiserror::Error)]
pub enum NormaliseError {
    #[error("the model is of ONNX's operator set {0}, and {OLDEST} is the oldest supported; convert or export it anew")]
    TooOld(i64),
    #[error("{node}: {problem}; export the model anew with operator set {OPSET}")]
    Version { node: String, problem: &'static str },
    #[error("there is no input {name:?}; the inputs are {inputs:?}")]
    NoSuchInput { name: String, inputs: Vec<String> },
    #[error("input {name:?} cannot have the shape {stated:?}: the model says {declared:?}")]
    Shape { name: String, stated: Vec<usize>, declared: Vec<Dim> },
    #[error(transparent)]
    Cycle(#[from] Cycle),
}

/// Brings a model into the one form, and returns the types and shapes of its values. Inputs that
/// `inputs` names get these shapes for good; others keep theirs, symbols included.
pub fn normalise(model: &mut Model, inputs: &InputShapes) -> Result<Facts, NormaliseError> {
    normalise_but(model, inputs, Norms::Folded)
}

/// What becomes of a BatchNormalization behind a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Its factors go into the weights: to run.
    Folded,
    /// It stays a node: to train, and to prune by its scales.
    Kept,
}

/// As [`normalise`], with a choice.
///
/// # Errors
/// As [`normalise`].
pub fn normalise_but(model: &mut Model, inputs: &InputShapes, norms: Norms) -> Result<Facts, NormaliseError> {
    let version = model.opsets.get("").copied().unwrap_or(OPSET);
    if version < OLDEST {
        return Err(NormaliseError::TooOld(version));
    }
    state_inputs(model, inputs)?;
    let target = newest(&model.graph).max(version).max(OPSET);
    let graph = &mut model.graph;
    let mut budget = fold::BUDGET;
    let mut facts = Folder::run(graph, inputs, &[], target, &mut budget)?;
    if norms == Norms::Folded && batch_norm::fold_into_conv(graph) > 0 {
        facts = super::shapes::infer(graph, inputs);
    }
    graph.remove_dead();
    declare_outputs(model, &facts);
    let mut used = BTreeSet::from([String::new()]);
    domains(&model.graph, &mut used);
    model.opsets.retain(|domain, _| used.contains(domain));
    model.opsets.insert(String::new(), target);
    model.ir_version = model.ir_version.max(IR_VERSION);
    Ok(facts)
}

/// Of ONNX's own operators; bodies of functions may be of another set than the model.
fn newest(graph: &Graph) -> i64 {
    let of = |node: &Node| if node.domain.is_empty() { node.version } else { 0 };
    let inner = |node: &Node| node.subgraphs().map(newest).max().unwrap_or(0);
    graph.nodes().map(|(_, node)| of(node).max(inner(node))).max().unwrap_or(0)
}

fn domains(graph: &Graph, used: &mut BTreeSet<String>) {
    for (_, node) in graph.nodes() {
        if !used.contains(&node.domain) {
            used.insert(node.domain.clone());
        }
        node.subgraphs().for_each(|inner| domains(inner, used));
    }
}

fn state_inputs(model: &mut Model, inputs: &InputShapes) -> Result<(), NormaliseError> {
    for (name, stated) in inputs {
        let names = || model.graph.inputs.iter().take(64).map(|port| super::graph::short(&port.name)).collect();
        let no_such = || NormaliseError::NoSuchInput { name: name.clone(), inputs: names() };
        let at = model.graph.inputs.iter().position(|port| port.name == *name).ok_or_else(no_such)?;
        let port = &mut model.graph.inputs[at];
        let element = match &port.declared {
            Some(Declared::Tensor { element, shape }) => {
                let declared = shape.clone().unwrap_or_else(|| vec![Dim::Unknown; stated.len()]);
                let fits = |(dim, size): (&Dim, &usize)| dim.size().is_none_or(|known| known == *size);
                if declared.len() != stated.len() || !declared.iter().zip(stated).all(fits) {
                    return Err(NormaliseError::Shape { name: name.clone(), stated: stated.clone(), declared });
                }
                *element
            }
            Some(Declared::Other(_)) | None => None,
        };
        let shape = Some(stated.iter().map(|&size| Dim::Size(size)).collect());
        port.declared = Some(Declared::Tensor { element, shape });
    }
    Ok(())
}

/// What the file says of its outputs is often stale: inference goes first, then the type alone.
fn declare_outputs(model: &mut Model, facts: &Facts) {
    for port in &mut model.graph.outputs {
        let fact = facts.of(port.value);
        let declared = match port.declared.take() {
            Some(Declared::Tensor { element, .. }) => element,
            Some(other @ Declared::Other(_)) => {
                port.declared = Some(other);
                continue;
            }
            None => None,
        };
        let element = fact.element.or(declared);
        port.declared = Some(Declared::Tensor { element, shape: fact.shape.clone() });
    }
}
