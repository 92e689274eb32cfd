//! What lowering knows while it walks the graph: what stands for each ONNX value, and the steps so far.
//!
//! Invariant: every step was checked when it was made. A representation never rounds what the graph does not round.

use super::super::check::{check_step, is_of_a_size};
use super::super::op::{Curve, Op, Table};
use super::super::program::{Draft, QuantParams, Step, Type, ValueId as Id};
use super::super::reference::index;
use super::super::round;
use super::params::{QuantConst, signed_bytes};
use super::reason::{MAX_COPIES, Reason};
use crate::onnx::graph::{Graph, NodeId, Uses, ValueId};
use crate::onnx::shapes::Facts;
use crate::onnx::{ElementType, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What stands for an ONNX value inside regions.
#[derive(Debug, Clone)]
pub(super) enum Rep {
    /// An 8-bit tensor.
    Int8(Id),
    /// A float tensor: a function of an int8 value, element by element.
    Curve { source: Id, curve: Arc<Curve> },
    /// A float tensor that a region computes.
    Float(Id),
    /// An 8-bit tensor with scale and zero point of its own.
    Dynamic(Id),
    /// A float tensor that is a quantized constant.
    Constant(Arc<QuantConst>),
}

/// An int8 value with what it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub id: Id,
    pub params: QuantParams,
}

#[derive(Debug)]
pub(super) struct Lowering<'a> {
    pub graph: &'a Graph,
    pub facts: &'a Facts,
    pub uses: Uses,
    pub draft: Draft,
    /// The number of the step that makes a value.
    pub makers: HashMap<Id, usize>,
    pub reps: HashMap<ValueId, Rep>,
    /// ONNX values that come into regions from outside.
    pub entries: BTreeMap<ValueId, Id>,
    /// Float forms of ONNX values that regions have.
    pub floats: HashMap<ValueId, Id>,
    /// For each step, the place in the walk of the node that it was made for.
    pub places: Vec<usize>,
    /// The place of the node at hand.
    pub place: usize,
    /// The name of the node at hand.
    pub node: Arc<str>,
    /// The places of all nodes.
    walk: HashMap<NodeId, usize>,
    pub reasons: BTreeMap<NodeId, Reason>,
    /// INT8 and UINT8 constants in the signed domain: one for all who read it.
    constants: RefCell<HashMap<ValueId, Arc<[i8]>>>,
    /// Bytes that copies of constants may still take.
    copies: Cell<usize>,
    /// Smallest and largest value that an int8 value can have, where less than all.
    bounds: HashMap<Id, (i8, i8)>,
    /// Values that are a table of another one, which is none itself.
    tables: HashMap<Id, (Id, Arc<Table>)>,
}

impl<'a> Lowering<'a> {
    pub fn new(graph: &'a Graph, facts: &'a Facts, order: &[NodeId], room: usize) -> Self {
        Self {
            graph,
            facts,
            uses: graph.uses(),
            draft: Draft::default(),
            makers: HashMap::new(),
            reps: HashMap::new(),
            entries: BTreeMap::new(),
            floats: HashMap::new(),
            places: Vec::new(),
            place: 0,
            node: "".into(),
            walk: order.iter().enumerate().map(|(place, &id)| (id, place)).collect(),
            reasons: BTreeMap::new(),
            constants: RefCell::default(),
            copies: Cell::new(MAX_COPIES.max(room)),
            bounds: HashMap::new(),
            tables: HashMap::new(),
        }
    }

    /// Takes what a copy of a constant will take from what is left.
    pub fn pay(&self, bytes: usize) -> Result<(), Reason> {
        self.copies.set(self.copies.get().checked_sub(bytes).ok_or(Reason::Memory)?);
        Ok(())
    }

    /// A constant of INT8 or UINT8 in the signed domain.
    pub fn signed_constant(&self, value: ValueId, tensor: &Tensor) -> Result<Arc<[i8]>, Reason> {
        if let Some(known) = self.constants.borrow().get(&value) {
            return Ok(Arc::clone(known));
        }
        self.pay(tensor.len())?;
        let data = signed_bytes(tensor).ok_or(Reason::Element(tensor.element()))?;
        self.constants.borrow_mut().insert(value, Arc::clone(&data));
        Ok(data)
    }

    pub fn shape(&self, value: ValueId) -> Result<Vec<usize>, Reason> {
        let shape = self.facts.shape(value).ok_or(Reason::Shape)?;
        // Empty tensors are nobody's hot path. What is too large is known before anything is made for it.
        if is_of_a_size(&shape) { Ok(shape) } else { Err(Reason::Shape) }
    }

    pub fn shape_of(&self, id: Id) -> Vec<usize> {
        self.draft.values[id.index()].shape.clone()
    }

    pub fn element(&self, value: ValueId) -> Result<ElementType, Reason> {
        self.facts.element(value).ok_or(Reason::Shape)
    }

    /// Makes a step, if it is well formed.
    pub fn emit(&mut self, op: Op, inputs: Vec<Id>, shape: Vec<usize>, ty: Type) -> Result<Id, Reason> {
        let output = self.draft.value(shape, ty);
        let step = Step { op, inputs, output, node: Arc::clone(&self.node) };
        check_step(&self.draft, &step)?;
        self.makers.insert(output, self.draft.steps.len());
        self.draft.steps.push(step);
        self.places.push(self.place);
        Ok(output)
    }

    pub fn emit_int8(
        &mut self,
        op: Op,
        inputs: Vec<Id>,
        shape: Vec<usize>,
        params: QuantParams,
    ) -> Result<Operand, Reason> {
        Ok(Operand { id: self.emit(op, inputs, shape, Type::Int8(params))?, params })
    }

    pub fn bound(&mut self, id: Id, low: i8, high: i8) {
        if (low, high) != (i8::MIN, i8::MAX) {
            self.bounds.insert(id, (low, high));
        }
    }

    /// Moved values have the bounds of those that they were.
    pub fn inherit(&mut self, from: Id, to: Id) {
        if let Some(&bounds) = self.bounds.get(&from) {
            self.bounds.insert(to, bounds);
        }
    }

    /// A table, unless it changes neither a value that can occur nor the parameters. A table of a table is one table.
    pub fn table(&mut self, from: Operand, table: Table, params: QuantParams) -> Result<Operand, Reason> {
        if self.changes_nothing(from, &table, params) {
            return Ok(from);
        }
        let (root, inner) = self.root(from);
        let whole = inner.map(|value| table[index(value)]);
        if self.changes_nothing(root, &whole, params) {
            return Ok(root);
        }
        let shape = self.shape_of(root.id);
        let whole = Arc::new(whole);
        let made = self.emit_int8(Op::Table(Arc::clone(&whole)), vec![root.id], shape, params)?;
        self.tables.insert(made.id, (root.id, whole));
        Ok(made)
    }

    fn changes_nothing(&self, from: Operand, table: &Table, params: QuantParams) -> bool {
        let (low, high) = self.bounds.get(&from.id).copied().unwrap_or((i8::MIN, i8::MAX));
        let same = || (low..=high).all(|value| table[index(value)] == value);
        from.params.agrees(&params) && from.params.signed == params.signed && same()
    }

    /// The value of which this one is a table, and the table; itself otherwise.
    pub fn root(&self, of: Operand) -> (Operand, Table) {
        let same = std::array::from_fn(|i| (i as u8 ^ 0x80).cast_signed());
        let Some((root, table)) = self.tables.get(&of.id) else { return (of, same) };
        match self.draft.values[root.index()].ty {
            Type::Int8(params) => (Operand { id: *root, params }, **table),
            Type::Dynamic | Type::F32 | Type::I32 => (of, same),
        }
    }

    /// To other parameters: the value that it stands for is quantized anew.
    pub fn requantized(&mut self, from: Operand, params: QuantParams) -> Result<Operand, Reason> {
        self.table(from, quantized(&identity(&from.params), &params), params)
    }

    /// An 8-bit tensor as bytes that stand for something: what made it may have meant something else.
    pub fn int8(&mut self, value: ValueId, params: QuantParams) -> Result<Operand, Reason> {
        if let Some(tensor) = self.graph.constant(value) {
            let data = self.signed_constant(value, tensor)?;
            return self.emit_int8(Op::Constant(data), Vec::new(), tensor.shape().to_vec(), params);
        }
        let known = match self.reps.get(&value) {
            Some(Rep::Int8(id)) => *id,
            Some(Rep::Curve { .. } | Rep::Float(_) | Rep::Dynamic(_) | Rep::Constant(_)) => return Err(Reason::Input),
            None => {
                let id = self.enter(value, Type::Int8(params))?;
                self.reps.insert(value, Rep::Int8(id));
                id
            }
        };
        let operand = Operand { id: known, params };
        match self.draft.values[known.index()].ty {
            Type::Int8(own) if own.agrees(&params) && own.signed == params.signed => Ok(operand),
            Type::Int8(own) => {
                let same = std::array::from_fn(|i| (i as u8 ^ 0x80).cast_signed());
                self.table(Operand { id: known, params: own }, same, params)
            }
            Type::Dynamic | Type::F32 | Type::I32 => Err(Reason::Input),
        }
    }

    /// A value from outside of all regions.
    pub fn enter(&mut self, value: ValueId, ty: Type) -> Result<Id, Reason> {
        if let Some(&id) = self.entries.get(&value) {
            return Ok(id);
        }
        let shape = self.shape(value)?;
        let id = self.draft.value(shape, ty);
        self.entries.insert(value, id);
        Ok(id)
    }

    /// A float tensor as int8, if that loses nothing.
    pub fn as_int8(&mut self, value: ValueId) -> Result<Operand, Reason> {
        match self.reps.get(&value).cloned() {
            Some(Rep::Curve { source, curve }) => {
                let Type::Int8(params) = self.draft.values[source.index()].ty else { return Err(Reason::Input) };
                let from = Operand { id: source, params };
                let own = identity(&params);
                if *curve == own {
                    return Ok(from);
                }
                let table = quantized(&curve, &params);
                // On the grid of the same parameters: each value stands for itself.
                let exact = curve.iter().zip(&table).all(|(&x, &q)| round::dequantize(q, &params) == x);
                if exact { self.table(from, table, params) } else { Err(Reason::Input) }
            }
            Some(Rep::Constant(constant)) => {
                let params = constant.per_tensor().ok_or(Reason::PerChannel)?;
                let op = Op::Constant(Arc::clone(&constant.data));
                self.emit_int8(op, Vec::new(), constant.shape.clone(), params)
            }
            Some(Rep::Int8(_) | Rep::Float(_) | Rep::Dynamic(_)) | None => Err(Reason::Input),
        }
    }

    /// A float tensor as int8 where all its readers lead to one QuantizeLinear through moves: rounded for that one.
    pub fn rounded(&mut self, value: ValueId) -> Result<Operand, Reason> {
        let exact = self.as_int8(value);
        let (Err(_), Some(Rep::Curve { source, curve })) = (&exact, self.reps.get(&value).cloned()) else {
            return exact;
        };
        let (Some(to), Type::Int8(params)) = (self.sink(value), self.draft.values[source.index()].ty) else {
            return exact;
        };
        let table = quantized(&curve, &to.params).map(|q| q.clamp(to.low, to.high));
        self.table(Operand { id: source, params }, table, to.params)
    }

    /// A float tensor as a region computes or looks it up; `None` where no region has it.
    pub fn as_float(&mut self, value: ValueId) -> Result<Option<Id>, Reason> {
        if let Some(&id) = self.floats.get(&value) {
            return Ok(Some(id));
        }
        // Made once for all who read it, and so where it can first be read: the one at hand may be a late one.
        let maker = self.graph.producer(value).and_then(|(id, _)| self.walk.get(&id).copied());
        let here = std::mem::replace(&mut self.place, maker.unwrap_or(0));
        let made = self.make_float(value);
        self.place = here;
        made
    }

    fn make_float(&mut self, value: ValueId) -> Result<Option<Id>, Reason> {
        let id = match self.reps.get(&value).cloned() {
            Some(Rep::Float(id)) => id,
            Some(Rep::Curve { source, curve }) => {
                let shape = self.shape_of(source);
                self.emit(Op::Dequantize(curve), vec![source], shape, Type::F32)?
            }
            Some(Rep::Constant(constant)) => {
                self.pay(constant.data.len() * 8)?;
                let data = constant.floats().into();
                self.emit(Op::FloatConstant(data), Vec::new(), constant.shape.clone(), Type::F32)?
            }
            Some(Rep::Int8(_) | Rep::Dynamic(_)) => return Ok(None),
            None => {
                let Some(tensor) = self.graph.constant(value) else { return Ok(None) };
                self.pay(tensor.len().saturating_mul(8))?;
                let Some(data) = tensor.to_f32s() else { return Ok(None) };
                self.emit(Op::FloatConstant(data.into()), Vec::new(), tensor.shape().to_vec(), Type::F32)?
            }
        };
        self.floats.insert(value, id);
        Ok(Some(id))
    }

    /// Notes that a float tensor is what an int8 value stands for.
    pub fn stands_for(&mut self, value: ValueId, operand: Operand) {
        let curve = Arc::new(identity(&operand.params));
        self.reps.insert(value, Rep::Curve { source: operand.id, curve });
    }
}

/// What each int8 value stands for.
pub(super) fn identity(params: &QuantParams) -> Curve {
    std::array::from_fn(|i| round::dequantize((i as u8 ^ 0x80).cast_signed(), params))
}

/// The table that quantizes a curve.
pub(super) fn quantized(curve: &Curve, params: &QuantParams) -> [i8; 256] {
    curve.map(|x| round::quantize(x, params))
}
