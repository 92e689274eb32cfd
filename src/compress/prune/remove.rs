//! Takes units out of a graph: constants become smaller, and what states sizes states the new ones.
//!
//! Invariant: names, inputs and outputs stay; what is left computes what it did with the units' weights at zero.

use super::follow::{Followed, Role};
use super::groups::Unit;
use super::ids::Id;
use crate::compress::{Error, Network};
use crate::onnx::Tensor;
use crate::onnx::graph::{Attribute, Graph, Node, NodeId, ValueId};
use crate::onnx::shapes::{Facts, InputShapes, Item, infer};
use std::collections::BTreeSet;

/// Without the classes `gone`.
///
/// # Errors
/// When a constant is of a type that cannot be cut.
pub fn removed(network: &Network, followed: &Followed, gone: &BTreeSet<Id>) -> Result<Network, Error> {
    let mut network = network.clone();
    let cutter = Cutter { followed, gone, facts: network.facts() };
    let graph = &mut network.model.graph;
    let constants: Vec<ValueId> = graph.values().map(|(id, _)| id).filter(|&id| graph.constant(id).is_some()).collect();
    for value in constants {
        for axis in 0..followed.axes(value).len() {
            let Some(kept) = cutter.kept(value, axis) else { continue };
            let tensor = graph.constant(value).and_then(|tensor| selected(tensor, axis, &kept));
            let name = graph.value(value).name.clone();
            let tensor =
                tensor.ok_or_else(|| Error::unfit(format!("tensor {name:?} holds no plain numbers to cut")))?;
            graph.set_constant(value, tensor);
        }
    }
    let nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    for id in nodes {
        cutter.restate(graph, id);
    }
    Ok(network)
}

struct Cutter<'a> {
    followed: &'a Followed,
    gone: &'a BTreeSet<Id>,
    /// From before.
    facts: Facts,
}

impl Cutter<'_> {
    fn stays(&self, id: Id) -> bool {
        !self.gone.contains(&self.followed.classes.find(id))
    }

    /// Positions that stay; `None` where all do.
    fn kept(&self, value: ValueId, axis: usize) -> Option<Vec<usize>> {
        let ids = self.followed.ids(value, axis)?;
        let kept: Vec<usize> = (0..ids.len()).filter(|&at| self.stays(ids[at])).collect();
        (kept.len() < ids.len()).then_some(kept)
    }

    /// How many stay; `None` where all do.
    fn count(&self, value: ValueId, axis: usize) -> Option<i64> {
        i64::try_from(self.kept(value, axis)?.len()).ok()
    }

    /// What attributes and constants of the node state of sizes.
    fn restate(&self, graph: &mut Graph, id: NodeId) -> Option<()> {
        let node = graph.node(id)?.clone();
        match node.op.as_str() {
            "Conv" | "ConvTranspose" => self.group(graph, id, &node),
            "Reshape" | "Expand" => {
                let sizes = graph.constant(node.input(1)?)?.to_i64s()?;
                let output = node.output(0)?;
                let open = if node.is("Reshape") { -1 } else { 1 };
                // Sizes of an Expand may be fewer than the dimensions: they are the last ones.
                let before = self.facts.shape(output)?.len().checked_sub(sizes.len())?;
                let new = |(at, &size): (usize, &i64)| match self.count(output, before + at) {
                    Some(count) if size != open => count,
                    _ => size,
                };
                replace(graph, id, 1, sizes.iter().enumerate().map(new).collect(), &sizes)
            }
            "Resize" => {
                let sizes = graph.constant(node.input(3)?)?.to_i64s()?;
                let axes: Vec<usize> = match node.ints("axes") {
                    Some(axes) => axes.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<_>>()?,
                    None => (0..sizes.len()).collect(),
                };
                let new = |(&axis, &size): (&usize, &i64)| self.count(node.input(0)?, axis).or(Some(size));
                let new = axes.iter().zip(&sizes).map(new).collect::<Option<_>>()?;
                replace(graph, id, 3, new, &sizes)
            }
            "Split" => self.split(graph, id, &node),
            "Slice" => self.slice(graph, id, &node),
            "Gather" => self.gather(graph, id, &node),
            _ => None,
        }
    }

    /// Whole groups that went; where groups lost one channel each they stay as many.
    fn group(&self, graph: &mut Graph, id: NodeId, node: &Node) -> Option<()> {
        let group = node.int("group").filter(|&group| group > 1)?;
        let before = i64::try_from(self.followed.ids(node.input(0)?, 1)?.len()).ok()?;
        let (each, left) = (before / group, self.count(node.input(0)?, 1)?);
        if each < group {
            graph.node_mut(id)?.attributes.insert("group".to_owned(), Attribute::Int(left / each));
        }
        Some(())
    }

    fn split(&self, graph: &mut Graph, id: NodeId, node: &Node) -> Option<()> {
        let rank = self.facts.shape(node.input(0)?)?.len();
        let axis = positive(node.int("axis").unwrap_or(0), rank)?;
        self.kept(node.input(0)?, axis)?;
        let size = |value: &Option<ValueId>| {
            let whole = || i64::try_from(*self.facts.shape((*value)?)?.get(axis)?).ok();
            self.count((*value)?, axis).or_else(whole)
        };
        let sizes: Vec<i64> = node.outputs.iter().map(size).collect::<Option<_>>()?;
        let constant = graph.add_constant("split_sizes", Tensor::vector_i64(&sizes));
        let node = graph.node_mut(id)?;
        node.inputs.truncate(1);
        node.inputs.push(Some(constant));
        node.attributes.remove("num_outputs");
        Some(())
    }

    fn slice(&self, graph: &mut Graph, id: NodeId, node: &Node) -> Option<()> {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let shape = self.facts.shape(x)?;
        let ints = |at: usize| graph.constant(node.input(at)?)?.to_i64s();
        let (starts, ends) = (ints(1)?, ints(2)?);
        let axes = match node.input(3) {
            Some(_) => ints(3)?.iter().map(|&axis| positive(axis, shape.len())).collect::<Option<Vec<_>>>()?,
            None => (0..starts.len()).collect(),
        };
        let (mut new_starts, mut new_ends) = (starts.clone(), ends.clone());
        for (at, &axis) in axes.iter().enumerate() {
            let Some(kept) = self.kept(x, axis) else { continue };
            let size = i64::try_from(shape[axis]).ok()?;
            let start = if starts[at] < 0 { starts[at].saturating_add(size) } else { starts[at] }.clamp(0, size);
            let before = kept.iter().filter(|&&place| (place as i64) < start).count();
            let taken = self.followed.ids(y, axis)?.iter().filter(|&&id| self.stays(id)).count();
            new_starts[at] = i64::try_from(before).ok()?;
            new_ends[at] = i64::try_from(before + taken).ok()?;
        }
        replace(graph, id, 1, new_starts, &starts);
        replace(graph, id, 2, new_ends, &ends)
    }

    fn gather(&self, graph: &mut Graph, id: NodeId, node: &Node) -> Option<()> {
        let data = node.input(0)?;
        let rank = self.facts.shape(data)?.len();
        let axis = positive(node.int("axis").unwrap_or(0), rank)?;
        let kept = self.kept(data, axis)?;
        let size = self.followed.ids(data, axis)?.len();
        let indices = graph.constant(node.input(1)?)?.clone();
        let places = indices.to_i64s()?.into_iter().map(|place| positive(place, size)).collect::<Option<Vec<_>>>()?;
        let new: Vec<i64> =
            places.iter().filter_map(|place| kept.binary_search(place).ok()).map(|place| place as i64).collect();
        let shape = if indices.shape().len() == 1 { vec![new.len()] } else { indices.shape().to_vec() };
        let constant = graph.add_constant("indices", Tensor::from_i64s(indices.element(), shape, &new)?);
        graph.node_mut(id)?.inputs[1] = Some(constant);
        Some(())
    }
}

/// A new constant for that input, where it differs: others may read the old one.
fn replace(graph: &mut Graph, id: NodeId, input: usize, new: Vec<i64>, old: &[i64]) -> Option<()> {
    if new != old {
        let element = graph.constant(graph.node(id)?.input(input)?)?.element();
        let tensor = Tensor::from_i64s(element, vec![new.len()], &new)?;
        let constant = graph.add_constant("sizes", tensor);
        graph.node_mut(id)?.inputs[input] = Some(constant);
    }
    Some(())
}

fn positive(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + i64::try_from(rank).ok()? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// Positions of one axis; `None` where elements are no whole bytes.
fn selected(tensor: &Tensor, axis: usize, kept: &[usize]) -> Option<Tensor> {
    let (outer, inner) = around(tensor.shape(), axis);
    let size = inner * tensor.element().bits() / 8;
    let whole = tensor.element().bits() >= 8;
    let length = *tensor.shape().get(axis).filter(|_| whole)?;
    let mut bytes = Vec::with_capacity(outer * kept.len() * size);
    for row in 0..outer {
        for &at in kept {
            let start = (row * length + at) * size;
            bytes.extend_from_slice(tensor.bytes().get(start..start + size)?);
        }
    }
    let mut shape = tensor.shape().to_vec();
    shape[axis] = kept.len();
    Tensor::new(tensor.element(), shape, bytes).ok()
}

/// Elements before and behind an axis.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
}

/// The same network with the units' weights at zero: what removal has to equal.
///
/// # Errors
/// When a weight is no FLOAT.
pub fn zeroed<'a>(network: &Network, units: impl IntoIterator<Item = &'a Unit>) -> Result<Network, Error> {
    let mut network = network.clone();
    let graph = &mut network.model.graph;
    let slices = units.into_iter().flat_map(|unit| &unit.slices).filter(|slice| slice.role != Role::Keeps);
    for slice in slices {
        let tensor = graph.constant(slice.value).cloned();
        let Some((tensor, mut values)) = tensor.and_then(|tensor| Some((tensor.clone(), tensor.to_f64s()?))) else {
            return Err(Error::unfit(format!("weights {:?} are no floats", graph.value(slice.value).name)));
        };
        let (_, inner) = around(tensor.shape(), slice.axis);
        let length = tensor.shape()[slice.axis];
        for (at, value) in values.iter_mut().enumerate() {
            if slice.positions.contains(&(at / inner % length)) {
                *value = 0.0;
            }
        }
        if let Some(new) = Tensor::from_f64s(tensor.element(), tensor.shape().to_vec(), &values) {
            graph.set_constant(slice.value, new);
        }
    }
    Ok(network)
}

/// States targets of reshapes that the file computes from the batch alone: 0 for what is copied, -1 for what is left, so that
/// they can be stated anew.
pub fn settle(network: &mut Network) {
    let open = infer(network.graph(), &InputShapes::new());
    let graph = &mut network.model.graph;
    let reshapes: Vec<NodeId> = graph.nodes().filter(|(_, node)| node.is("Reshape")).map(|(id, _)| id).collect();
    for id in reshapes {
        let target = graph.node(id).and_then(|node| settled(graph, node, &open));
        if let Some(target) = target {
            let constant = graph.add_constant("target", Tensor::vector_i64(&target));
            if let Some(node) = graph.node_mut(id) {
                node.inputs[1] = Some(constant);
            }
        }
    }
    graph.remove_dead();
}

fn settled(graph: &Graph, node: &Node, open: &Facts) -> Option<Vec<i64>> {
    let target = node.input(1).filter(|&target| graph.constant(target).is_none())?;
    let zeros = node.int("allowzero").unwrap_or(0) != 0;
    let from = open.dims(node.input(0)?)?;
    let items = open.of(target).contents.clone()?;
    let size = |(at, item): (usize, &Item)| match item {
        Item::Known(size) => Some(*size),
        Item::Symbol(name) => {
            let same = matches!(from.get(at), Some(crate::onnx::graph::Dim::Symbol(own)) if own == name);
            Some(if same && !zeros { 0 } else { -1 })
        }
        Item::Unknown => Some(-1),
    };
    let sizes: Vec<i64> = items.iter().enumerate().map(size).collect::<Option<_>>()?;
    (sizes.iter().filter(|&&size| size == -1).count() <= 1).then_some(sizes)
}
