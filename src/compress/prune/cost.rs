//! What a network costs: parameters, multiplications, bytes, and time by the report of a device.
//!
//! Not here: what it is worth.

use crate::compress::{Error, Network};
use crate::onnx::graph::{Graph, Node, Use};
use crate::onnx::shapes::Facts;
use serde::Serialize;
use std::collections::BTreeMap;

/// Of one inference where that applies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cost {
    /// Elements of weights, floats or integers.
    pub parameters: u64,
    /// Those that are not zero.
    pub nonzero: u64,
    /// Multiplications of convolutions and matrix products.
    pub macs: u64,
    /// Of the file.
    pub bytes: u64,
}

impl Cost {
    /// # Errors
    /// When the network cannot be written.
    pub fn of(network: &Network) -> Result<Self, Error> {
        let graph = network.graph();
        let facts = network.facts();
        let (mut parameters, mut nonzero) = (0, 0);
        let read = graph.uses();
        for (id, _) in graph.values().filter(|(id, _)| !read.of(*id).is_empty()) {
            let Some(tensor) = graph.constant(id).filter(|_| is_parameter(graph, read.of(id))) else { continue };
            let whole = || Some(tensor.to_i64s()?.into_iter().map(|value| value as f64).collect());
            let values: Vec<f64> = tensor.to_f64s().or_else(whole).unwrap_or_default();
            parameters += values.len() as u64;
            nonzero += values.iter().filter(|&&value| value != 0.0).count() as u64;
        }
        let macs = graph.nodes().map(|(_, node)| macs(&facts, node)).sum();
        Ok(Self { parameters, nonzero, macs, bytes: network.size()? })
    }
}

/// Floats that something else than a scale is made of, and integers that stand for such.
fn is_parameter(graph: &Graph, readers: &[Use]) -> bool {
    readers.iter().any(|reader| {
        let Use::Input(node, input) = *reader else { return true };
        let Some(node) = graph.node(node) else { return false };
        let constant = node.input(input).and_then(|value| graph.constant(value));
        let is_float = constant.is_some_and(|tensor| !tensor.element().is_integer());
        match node.op.as_str() {
            "QuantizeLinear" | "DequantizeLinear" => input == 0,
            "ConvInteger" | "MatMulInteger" => input == 1,
            _ => is_float,
        }
    })
}

/// Multiplications of one node; 0 where it has none, or its sizes are not known.
pub fn macs(facts: &Facts, node: &Node) -> u64 {
    let shape = |value| facts.shape(value);
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let found = || {
        let (x, w, y) = (shape(node.input(0)?)?, shape(node.input(1)?)?, shape(node.output(0)?)?);
        Some(match node.op.as_str() {
            "Conv" => size(&y) * size(w.get(1..)?),
            "ConvTranspose" => size(&x) * size(w.get(1..)?),
            "Gemm" => size(&y) * x.get(1 - usize::from(node.int("transA").unwrap_or(0) != 0)).copied()? as u64,
            "MatMul" => size(&y) * x.last().copied()? as u64,
            _ => 0,
        })
    };
    if node.domain.is_empty() { found().unwrap_or(0) } else { 0 }
}

/// What of a device's time each node has, from a report of `selvedge bench --json` there.
#[derive(Debug, Clone)]
pub struct Times {
    /// ms a run, with the multiplications and the elements of the output when it was measured.
    nodes: BTreeMap<String, (f64, f64, f64)>,
    /// ms of what is no node of the network.
    rest: f64,
}

impl Times {
    /// Bytes of a report.
    pub const MAX_REPORT: usize = 64 << 20;

    /// Of the network that was measured.
    ///
    /// # Errors
    /// When it is no report, or one of another model.
    pub fn of_report(text: &[u8], network: &Network) -> Result<Self, Error> {
        #[derive(serde::Deserialize)]
        struct Layer {
            node: Option<String>,
            ms: f64,
        }
        #[derive(serde::Deserialize)]
        struct Report {
            layers: Vec<Layer>,
        }
        let form = "a file that `selvedge bench MODEL --json` wrote on the device is expected";
        if text.len() > Self::MAX_REPORT {
            return Err(Error::unfit(format!("the report is over {} MiB; {form}", Self::MAX_REPORT >> 20)));
        }
        let report: Report = serde_json::from_slice(text)
            .map_err(|error| Error::unfit(format!("the report does not read: {error}; {form}")))?;
        let sizes = sizes(network);
        let mut times = Self { nodes: BTreeMap::new(), rest: 0.0 };
        for layer in report.layers {
            if !layer.ms.is_finite() || layer.ms < 0.0 {
                return Err(Error::unfit(format!("the report has a layer of {} ms; {form}", layer.ms)));
            }
            match layer.node.and_then(|name| Some((sizes.get(&name).copied()?, name))) {
                Some(((macs, elements), name)) => {
                    times.nodes.entry(name).or_insert((0.0, macs, elements)).0 += layer.ms;
                }
                None => times.rest += layer.ms,
            }
        }
        let multiplies = sizes.iter().filter(|(_, (macs, _))| *macs > 0.0);
        let (found, all) = multiplies
            .fold((0, 0), |(found, all), (name, _)| (found + usize::from(times.nodes.contains_key(name)), all + 1));
        if found * 2 < all || found == 0 {
            return Err(Error::unfit(format!(
                "the report knows {found} of this model's {all} layers: measure this very model, or the one quantized from it"
            )));
        }
        Ok(times)
    }

    /// ms a run: each node's time in proportion to its multiplications, or without any to what it makes.
    pub fn estimate(&self, network: &Network) -> f64 {
        let sizes = sizes(network);
        let ratio = |new: f64, old: f64| if old > 0.0 { new / old } else { 1.0 };
        let now = |(name, &(ms, macs, elements)): (&String, &(f64, f64, f64))| match sizes.get(name) {
            Some(&(new, _)) if macs > 0.0 => ms * ratio(new, macs),
            Some(&(_, new)) => ms * ratio(new, elements),
            None => 0.0,
        };
        self.rest + self.nodes.iter().map(now).sum::<f64>()
    }
}

/// Multiplications and elements of the output, by the node's name.
fn sizes(network: &Network) -> BTreeMap<String, (f64, f64)> {
    let (graph, facts) = (network.graph(), network.facts());
    let of = |node: &Node| {
        let made = node.output(0).and_then(|value| facts.shape(value)).unwrap_or_default();
        (macs(&facts, node) as f64, made.iter().product::<usize>() as f64)
    };
    graph.nodes().map(|(_, node)| (node.name.clone(), of(node))).collect()
}
