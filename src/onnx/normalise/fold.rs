//! The walk: each node is brought to the one form, inferred, and folded where its inputs are known.
//!
//! Invariant: what folding reads and makes stays within `BUDGET`, and no constant is larger than what it
//! was made from, small ones apart. Where the budget ends, nodes stay, and the model is still right.

use super::{NormaliseError, branches, evaluate, opset, quantize};
use crate::onnx::graph::{Attribute, Declared, Dim, Graph, NodeId, Uses, ValueId};
use crate::onnx::shapes::{Fact, Facts, InputShapes, Item};
use crate::onnx::tensor::{ElementType, Tensor};
use std::collections::BTreeMap;

/// Bytes that folding may read and make for one model.
pub(super) const BUDGET: usize = 1 << 30;

/// Bytes up to which a constant may be larger than what it is made from.
const SMALL: usize = 64 << 10;

/// Bytes up to which a body gets its own copy of a constant from around it.
const COPIED: usize = 1 << 10;

/// Rounds of inlining: a branch may hold further branches.
const MAX_ROUNDS: usize = 64;

/// One graph at work.
pub(super) struct Folder<'a> {
    pub graph: &'a mut Graph,
    pub facts: Facts,
    /// Version of ONNX's own operators.
    pub target: i64,
    budget: &'a mut usize,
    /// Values that another takes the place of.
    replaced: BTreeMap<ValueId, ValueId>,
    uses: Option<Uses>,
}

impl<'a> Folder<'a> {
    /// `captured` says what is known of values from around this graph.
    pub fn run(
        graph: &'a mut Graph,
        inputs: &InputShapes,
        captured: &[(ValueId, Fact)],
        target: i64,
        budget: &'a mut usize,
    ) -> Result<Facts, NormaliseError> {
        let mut round = 0;
        loop {
            let mut facts = Facts::begin(graph, inputs);
            captured.iter().for_each(|(value, fact)| facts.set(*value, fact.clone()));
            let mut folder = Folder { graph, facts, target, budget, replaced: BTreeMap::new(), uses: None };
            folder.pass()?;
            let facts = folder.facts;
            round += 1;
            if !branches::inline(graph) || round == MAX_ROUNDS {
                return Ok(facts);
            }
        }
    }

    fn pass(&mut self) -> Result<(), NormaliseError> {
        for id in self.graph.order()? {
            for id in opset::upgrade(self, id)? {
                self.inner(id)?;
                self.facts.step(self.graph, id);
                self.fold(id);
            }
        }
        self.graph.replace_all(&self.replaced);
        self.graph.remove_dead();
        Ok(())
    }

    /// Whether the model reads a value; what rules add does not count.
    pub fn is_read(&mut self, value: ValueId) -> bool {
        let graph = &*self.graph;
        !self.uses.get_or_insert_with(|| graph.uses()).of(value).is_empty()
    }

    /// A constant that a rule needs.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let fact = Fact::of_constant(&tensor);
        let value = self.graph.add_constant(name, tensor);
        self.facts.set(value, fact);
        value
    }

    /// The bodies of a node, with what is known around them.
    fn inner(&mut self, id: NodeId) -> Result<(), NormaliseError> {
        let Some(node) = self.graph.node(id) else { return Ok(()) };
        let outer: Vec<ValueId> = node.subgraphs().flat_map(|graph| &graph.captures).map(|c| c.outer).collect();
        let known: BTreeMap<ValueId, Option<Tensor>> =
            outer.into_iter().map(|value| (value, self.graph.constant(value).cloned())).collect();
        let Some(node) = self.graph.node_mut(id) else { return Ok(()) };
        for graph in node.subgraphs_mut() {
            forget_shapes(graph);
            let mut captured = Vec::new();
            for capture in std::mem::take(&mut graph.captures) {
                match known.get(&capture.outer) {
                    Some(Some(tensor)) if tensor.bytes().len() <= COPIED => {
                        graph.set_constant(capture.inner, tensor.clone());
                    }
                    Some(_) | None => {
                        captured.push((capture.inner, self.facts.of(capture.outer).clone()));
                        graph.captures.push(capture);
                    }
                }
            }
            Folder::run(graph, &InputShapes::new(), &captured, self.target, self.budget)?;
        }
        Ok(())
    }

    fn fold(&mut self, id: NodeId) {
        let Some(node) = self.graph.node(id) else { return };
        if let Some(source) = evaluate::passes_through(node, &self.facts)
            && let Some(output) = node.output(0)
        {
            match self.graph.constant(source).cloned() {
                Some(tensor) => self.graph.set_constant(output, tensor),
                None => drop(self.replaced.insert(output, source)),
            }
            return;
        }
        if let Some(tensor) = self.known(id).or_else(|| self.evaluated(id))
            && let Some(output) = self.graph.node(id).and_then(|node| node.output(0))
        {
            self.facts.set(output, Fact::of_constant(&tensor));
            self.graph.set_constant(output, tensor);
            return;
        }
        quantize::widen(self, id);
        quantize::turn_weights(self, id);
        self.settle_reshape(id);
    }

    /// The output, where inference knows its elements.
    fn known(&self, id: NodeId) -> Option<Tensor> {
        let node = self.graph.node(id)?;
        let only = node.output(0).filter(|_| node.outputs.iter().flatten().count() == 1)?;
        let fact = self.facts.of(only);
        Tensor::from_i64s(fact.element?, fact.concrete()?, &fact.known_contents()?)
    }

    fn evaluated(&mut self, id: NodeId) -> Option<Tensor> {
        let node = self.graph.node(id)?;
        let output = node.output(0).filter(|_| node.outputs.iter().flatten().count() == 1)?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                Some(value) => Some(self.graph.constant(*value)?),
                None => None,
            });
        }
        let read: usize = inputs.iter().flatten().map(|tensor| tensor.bytes().len()).sum();
        let fact = self.facts.of(output);
        let size = match (fact.element, fact.concrete()) {
            // A constant's own bytes are there already.
            _ if node.is("Constant") => 0,
            (Some(element), Some(shape)) => Tensor::byte_size(element, &shape)?,
            // What the shape does not tell has no more elements than `evaluate` takes.
            (None, _) | (_, None) => SMALL,
        };
        if size > SMALL.max(read) || !evaluate::is_known(node) {
            return None;
        }
        // Views share their bytes.
        let views = ["Constant", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"];
        let work = if views.contains(&node.op.as_str()) { 0 } else { read.saturating_add(size) };
        *self.budget = self.budget.checked_sub(work)?;
        evaluate::evaluate(node, &inputs, fact)
    }

    /// Takes the work out of the budget; `None` where that is used up.
    pub fn pay(&mut self, bytes: usize) -> Option<()> {
        *self.budget = self.budget.checked_sub(bytes)?;
        Some(())
    }

    /// A target of which one size is open becomes a constant: 0 copies, -1 is computed.
    fn settle_reshape(&mut self, id: NodeId) {
        let Some(node) = self.graph.node(id).filter(|node| node.is("Reshape")) else { return };
        let (Some(data), Some(target)) = (node.input(0), node.input(1)) else { return };
        let allow_zero = node.int("allowzero").unwrap_or(0) != 0;
        let (Some(items), None) = (&self.facts.of(target).contents, self.graph.constant(target)) else { return };
        let dims = self.facts.dims(data).unwrap_or_default();
        let mut open = items.iter().filter(|item| **item == Item::Known(-1)).count();
        let mut settled = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let copies = matches!((item, dims.get(at)), (Item::Symbol(a), Some(Dim::Symbol(b))) if a == b);
            settled.push(match item {
                Item::Known(value) => *value,
                Item::Symbol(_) if copies && !allow_zero => 0,
                Item::Symbol(_) | Item::Unknown => {
                    open += 1;
                    -1
                }
            });
        }
        if open > 1 || (open == 1 && allow_zero && settled.contains(&0)) {
            return;
        }
        let value = self.constant("shape", Tensor::vector_i64(&settled));
        if let Some(node) = self.graph.node_mut(id) {
            node.inputs[1] = Some(value);
        }
        self.facts.step(self.graph, id);
    }
}

/// What a body's ends look like may change with every turn of a loop, whatever the file notes.
fn forget_shapes(graph: &mut Graph) {
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        if let Some(Declared::Tensor { shape, .. }) = &mut port.declared {
            *shape = None;
        }
    }
}

/// A scalar of a type, for a rule that turns an attribute into an input.
pub(super) fn scalar(element: ElementType, value: f64) -> Option<Tensor> {
    if element.is_float() {
        return Tensor::from_f64s(element, Vec::new(), &[value]);
    }
    let (low, high) = element.range()?;
    let whole = (value.trunc() as i128).clamp(low, high);
    Tensor::from_i64s(element, Vec::new(), &[i64::try_from(whole).ok()?])
}

/// The tensor of a `Constant` node, whichever attribute holds it.
pub(super) fn constant_of(attributes: &BTreeMap<String, Attribute>) -> Option<Tensor> {
    let (name, value) = attributes.iter().find(|(name, _)| name.starts_with("value"))?;
    match (name.as_str(), value) {
        ("value", Attribute::Tensor(tensor)) => Some(tensor.clone()),
        ("value_float", Attribute::Float(value)) => Some(Tensor::scalar_f32(*value)),
        ("value_floats", Attribute::Floats(values)) => Some(Tensor::vector_f32(values)),
        ("value_int", Attribute::Int(value)) => Some(Tensor::scalar_i64(*value)),
        ("value_ints", Attribute::Ints(values)) => Some(Tensor::vector_i64(values)),
        ("value_string", Attribute::Text(text)) => Tensor::from_texts(Vec::new(), vec![text.clone()]).ok(),
        ("value_strings", Attribute::Texts(texts)) => Tensor::from_texts(vec![texts.len()], texts.clone()).ok(),
        _ => None,
    }
}
