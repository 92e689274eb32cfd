//! Operators of older sets, and Microsoft's twins of ONNX's own, in the form of the newest.
//!
//! Invariant: a node that leaves here bears the target version and means what it meant. What changed its
//! meaning since and has no rule here is refused by name.
//! Spec: the changelog, <https://github.com/onnx/onnx/blob/main/docs/Changelog.md>.

use super::fold::{Folder, scalar};
use super::{NormaliseError, OLDEST};
use crate::onnx::graph::{Attribute, Node, NodeId, ValueId, describe};
use crate::onnx::tensor::{ElementType, Tensor};
use std::collections::BTreeMap;

/// Microsoft's operators that ONNX has meanwhile, with the same inputs and attributes.
const TWINS: [&str; 3] = ["QuantizeLinear", "DequantizeLinear", "Gelu"];

/// Changed in meaning, and too rare to convert: operator, the version from which on it is today's, what was.
const REFUSED: [(&str, i64, &str); 3] = [
    ("Scan", 9, "this form of Scan has a batch dimension of its own"),
    ("GroupNormalization", 21, "this form of GroupNormalization has its scale by group"),
    ("DFT", 20, "this form of DFT has its axis as an attribute"),
];

/// Returns the nodes that now stand in its place, in order.
pub(super) fn upgrade(folder: &mut Folder, id: NodeId) -> Result<Vec<NodeId>, NormaliseError> {
    if let Some(node) = folder.graph.node_mut(id) {
        spell_out(node);
    }
    let Some(node) = folder.graph.node(id) else { return Ok(Vec::new()) };
    let twin = node.domain == "com.microsoft" && TWINS.contains(&node.op.as_str());
    if !twin && (!node.domain.is_empty() || node.version >= folder.target) {
        return Ok(vec![id]);
    }
    let version = if twin { folder.target } else { node.version };
    if version < OLDEST {
        return Err(NormaliseError::TooOld(version));
    }
    let node = node.clone();
    if let Some((_, _, problem)) = REFUSED.iter().find(|(op, since, _)| *op == node.op && version < *since) {
        return Err(NormaliseError::Version { node: describe(&node), problem });
    }
    let mut rule = Rule { folder, node };
    rule.apply(version)?;
    let Rule { folder, mut node } = rule;
    node.domain = String::new();
    node.version = folder.target;
    let softmax = matches!(node.op.as_str(), "Softmax" | "LogSoftmax" | "Hardmax") && version < 13;
    if let Some(slot) = folder.graph.node_mut(id) {
        *slot = node;
    }
    Ok(if softmax { softmax_over_the_rest(folder, id) } else { vec![id] })
}

/// A default that tract 0.23.9 takes for another one: zeros of 64 bits, where ONNX means FLOAT.
fn spell_out(node: &mut Node) {
    let fills = node.domain.is_empty() && node.op == "ConstantOfShape";
    if fills
        && !node.attributes.contains_key("value")
        && let Some(zero) = Tensor::from_f64s(ElementType::F32, vec![1], &[0.0])
    {
        node.attributes.insert("value".to_owned(), Attribute::Tensor(zero));
    }
}

/// A node on its way.
struct Rule<'a, 'g> {
    folder: &'a mut Folder<'g>,
    node: Node,
}

impl Rule<'_, '_> {
    fn apply(&mut self, version: i64) -> Result<(), NormaliseError> {
        match self.node.op.as_str() {
            "Clip" if version < 11 => self.bounds(),
            "Slice" if version < 10 => {
                self.ints_to_input("starts", 1);
                self.ints_to_input("ends", 2);
                self.ints_to_input("axes", 3);
            }
            "Pad" if version < 11 => {
                self.ints_to_input("pads", 1);
                self.float_to_input("value", 2);
            }
            "Squeeze" | "Unsqueeze" | "ReduceSum" if version < 13 => self.ints_to_input("axes", 1),
            op if op.starts_with("Reduce") && op != "ReduceSum" && version < 18 => self.ints_to_input("axes", 1),
            "Split" if version < 18 => self.split(),
            "TopK" if version < 10 => {
                if let Some(Attribute::Int(k)) = self.node.attributes.remove("k") {
                    self.set_input(1, "k", Tensor::vector_i64(&[k]));
                }
            }
            "Dropout" if version < 12 => self.node.attributes.clear(),
            "Upsample" => self.upsample(),
            "Resize" if version < 11 => self.resize_of_10(),
            "Resize" => self.resize()?,
            "Scatter" => self.node.op = "ScatterElements".to_owned(),
            "GridSample" if version < 20 => self.grid_sample(),
            "BatchNormalization" if version < 14 => self.batch_normalization()?,
            _ => {}
        }
        Ok(())
    }

    fn refuse(&self, problem: &'static str) -> NormaliseError {
        NormaliseError::Version { node: describe(&self.node), problem }
    }

    fn set_input(&mut self, at: usize, name: &str, tensor: Tensor) {
        let value = self.folder.constant(name, tensor);
        if self.node.inputs.len() <= at {
            self.node.inputs.resize(at + 1, None);
        }
        self.node.inputs[at] = Some(value);
    }

    fn ints_to_input(&mut self, name: &str, at: usize) {
        if let Some(Attribute::Ints(values)) = self.node.attributes.remove(name) {
            self.set_input(at, name, Tensor::vector_i64(&values));
        }
    }

    /// In the type of the data, FLOAT where that is unknown.
    fn float_to_input(&mut self, name: &str, at: usize) {
        if let Some(Attribute::Float(value)) = self.node.attributes.remove(name) {
            let element = self.node.input(0).and_then(|data| self.folder.facts.element(data));
            let tensor = scalar(element.unwrap_or(ElementType::F32), f64::from(value));
            self.set_input(at, name, tensor.unwrap_or_else(|| Tensor::scalar_f32(value)));
        }
    }

    /// The ends of the type are what the attributes' defaults mean.
    fn bounds(&mut self) {
        let bound = |name: &str, default: f32| self.node.float(name).is_some_and(|v| v != default && v.is_finite());
        let (low, high) = (bound("min", f32::MIN), bound("max", f32::MAX));
        if low {
            self.float_to_input("min", 1);
        }
        if high {
            self.float_to_input("max", 2);
        }
        self.node.attributes.clear();
    }

    /// Without sizes the parts are equal, and their number is stated.
    fn split(&mut self) {
        self.ints_to_input("split", 1);
        if self.node.input(1).is_none() {
            let parts = i64::try_from(self.node.outputs.len()).unwrap_or(i64::MAX);
            self.node.attributes.insert("num_outputs".to_owned(), Attribute::Int(parts));
        }
    }

    fn upsample(&mut self) {
        self.node.op = "Resize".to_owned();
        if let Some(Attribute::Floats(scales)) = self.node.attributes.remove("scales") {
            self.set_input(1, "scales", Tensor::vector_f32(&scales));
        }
        self.resize_of_10();
    }

    /// Scales move behind the region; coordinates and rounding were fixed.
    fn resize_of_10(&mut self) {
        if self.node.inputs.len() == 2 {
            self.node.inputs.insert(1, None);
        }
        for (name, value) in [("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")] {
            self.node.attributes.insert(name.to_owned(), Attribute::Text(value.into()));
        }
    }

    /// An empty region, or empty scales, were how to leave them out.
    fn resize(&mut self) -> Result<(), NormaliseError> {
        if self.node.text("coordinate_transformation_mode") == Some("tf_half_pixel_for_nn") {
            return Err(self.refuse("tf_half_pixel_for_nn is no longer a way to take coordinates"));
        }
        for slot in self.node.inputs.iter_mut().skip(1) {
            let shape = slot.and_then(|value| self.folder.facts.shape(value));
            if shape.is_some_and(|shape| shape.contains(&0)) {
                *slot = None;
            }
        }
        Ok(())
    }

    fn grid_sample(&mut self) {
        let renamed = match self.node.text("mode") {
            None | Some("bilinear") => "linear",
            Some("bicubic") => "cubic",
            Some(_) => return,
        };
        self.node.attributes.insert("mode".to_owned(), Attribute::Text(renamed.into()));
    }

    fn batch_normalization(&mut self) -> Result<(), NormaliseError> {
        if self.node.int("spatial") == Some(0) {
            return Err(self.refuse("it normalises each activation by itself"));
        }
        if self.node.outputs.iter().skip(1).any(Option::is_some) {
            // Statistics are outputs of training; exporters list them though nothing reads them.
            let outputs: Vec<ValueId> = self.node.outputs.iter().skip(1).flatten().copied().collect();
            if outputs.iter().any(|&value| self.folder.is_read(value)) {
                return Err(self.refuse("it is in training"));
            }
            self.node.outputs.truncate(1);
        }
        self.node.attributes.remove("spatial");
        Ok(())
    }
}

/// Until version 13, softmax went over all dimensions from `axis` (1 by default) on. That is today's, unless
/// more than one element lies behind the first of them: then the rest is flattened for the while.
fn softmax_over_the_rest(folder: &mut Folder, id: NodeId) -> Vec<NodeId> {
    let Some(node) = folder.graph.node(id) else { return Vec::new() };
    let (Some(data), Some(output)) = (node.input(0), node.output(0)) else { return vec![id] };
    let (version, name, old) = (node.version, node.name.clone(), node.int("axis").unwrap_or(1));
    let dims = folder.facts.dims(data).unwrap_or_default();
    let rank = i64::try_from(dims.len()).unwrap_or(i64::MAX);
    let axis = if old < 0 { old.saturating_add(rank) } else { old };
    let behind = usize::try_from(axis).ok().and_then(|axis| dims.get(axis + 1..));
    let today = behind.is_some_and(|behind| behind.iter().all(|dim| dim.size() == Some(1)));
    let stated = if today { axis } else { 1 };
    if let Some(node) = folder.graph.node_mut(id) {
        node.attributes.insert("axis".to_owned(), Attribute::Int(stated));
    }
    if today {
        return vec![id];
    }
    let [flat, soft, shape] = ["flat", "soft", "shape"].map(|what| folder.graph.add_value(&format!("{name}_{what}")));
    let part = |op: &str, inputs: &[ValueId], output, attributes| Node {
        name: format!("{name}_{}", op.to_lowercase()),
        op: op.to_owned(),
        domain: String::new(),
        version,
        attributes,
        inputs: inputs.iter().copied().map(Some).collect(),
        outputs: vec![Some(output)],
    };
    let flatten = part("Flatten", &[data], flat, BTreeMap::from([("axis".to_owned(), Attribute::Int(old))]));
    let shape_of = part("Shape", &[data], shape, BTreeMap::new());
    let restore = part("Reshape", &[soft, shape], output, BTreeMap::new());
    let before = folder.graph.add_node(flatten);
    let measure = folder.graph.add_node(shape_of);
    // Takes the output from the softmax, which then gets its own.
    let after = folder.graph.add_node(restore);
    let Some(mut node) = folder.graph.remove_node(id) else { return vec![before, measure, after] };
    node.inputs = vec![Some(flat)];
    node.outputs = vec![Some(soft)];
    let between = folder.graph.add_node(node);
    vec![before, between, measure, after]
}
