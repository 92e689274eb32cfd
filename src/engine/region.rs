//! Int8 regions as operators of tract's: it gives them their inputs and schedules them between float nodes.
//!
//! Invariant: whatever thread runs it, a region gives what its program says; states for that are kept and used again,
//! at most as many as have run at once.
//! Not here: which nodes are in a region (`int8::lower`), what one computes (`int8`).
//! Rejected: tract's own state of a node (a new one for each run, see `backend`: the memory would be made anew).

use super::int8::fast::{Plan, State};
use super::int8::lower::{self, Kept, LowerError};
use super::int8::program::{Program, Type, Value};
use super::{graph, settings::Settings, watch};
use crate::kernels::{Isa, IsaError, SharedWeights};
use crate::onnx::graph::Graph;
use crate::onnx::normalise::NormaliseError;
use crate::onnx::shapes::InputShapes;
use crate::onnx::{self, Encoded, Limits, Parts};
use crate::tensor::TensorSpec;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// What the regions of one model may take for each run at the same time, in bytes.
const MAX_MEMORY: usize = 2 << 30;

/// Why a model's quantized parts stay float.
#[derive(Debug, thiserror::Error)]
enum DivideError {
    #[error(transparent)]
    Normalise(#[from] NormaliseError),
    #[error(transparent)]
    Lower(#[from] LowerError),
    #[error("a run would take {0} bytes, the limit is {MAX_MEMORY}")]
    Memory(usize),
}

/// A graph whose quantized parts are regions, each a node that names its number.
#[derive(Debug)]
pub(super) struct Divided {
    /// ONNX.
    pub graph: Parts,
    pub regions: Vec<Region>,
}

/// What becomes of a file's nodes, for reports.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Of the graph and those within its nodes, by operator: how many the file has, how many of them are left when
    /// constants are folded, how many of those stay float.
    pub operators: BTreeMap<String, [usize; 3]>,
    pub kept: Vec<Kept>,
    /// Why all of it stays float.
    pub whole: Option<String>,
    /// Regions are of floats alone.
    pub unquantized: bool,
    /// Bytes of constants that float nodes read.
    pub float_weights: usize,
}

impl Account {
    fn count(&mut self, graph: &Graph, column: usize) {
        for (_, node) in graph.nodes().filter(|(_, node)| node.domain != lower::DOMAIN) {
            self.operators.entry(node.op.chars().take(80).collect()).or_default()[column] += 1;
            node.subgraphs().for_each(|inner| self.count(inner, column));
        }
    }

    fn keep(&mut self, kept: Vec<Kept>) {
        for node in &kept {
            self.operators.entry(node.op.chars().take(80).collect()).or_default()[2] += 1;
        }
        self.kept = kept;
    }

    /// What was to be int8 stays float after all.
    pub fn all_float(&mut self, why: String) {
        self.operators.values_mut().for_each(|counts| counts[2] = counts[1]);
        self.whole = Some(why);
    }

    /// All of it, for that reason.
    fn whole(mut self, model: &onnx::Model, why: String) -> (Option<Divided>, Self) {
        self.operators.values_mut().for_each(|counts| (counts[1], counts[2]) = (0, 0));
        self.count(&model.graph, 1);
        self.operators.values_mut().for_each(|counts| counts[2] = counts[1]);
        self.kept.clear();
        self.float_weights = constants(&model.graph);
        self.whole = Some(why);
        (None, self)
    }
}

/// Bytes of constants that nodes read, those of graphs within nodes among them.
fn constants(graph: &Graph) -> usize {
    let read: BTreeSet<_> = graph.nodes().flat_map(|(_, node)| node.reads()).collect();
    let own = read.into_iter().filter_map(|id| graph.constant(id)).map(|tensor| tensor.bytes().len());
    let inner = graph.nodes().flat_map(|(_, node)| node.subgraphs()).map(constants);
    own.chain(inner).sum()
}

pub(super) const UNQUANTIZED: &str = "nothing in it is quantized";

/// Takes out of a model the parts that regions compute: what is quantized, and products of floats. Nothing where there
/// are none, or where this front end refuses the file: what is wrong with it, the other one says.
pub(super) fn divide(
    file: Encoded<'_>,
    inputs: &[TensorSpec],
    weights: &SharedWeights,
) -> Result<(Option<Divided>, Account), IsaError> {
    let limits = Limits { nodes: graph::MAX_NODES, ..Limits::default() };
    let mut account = Account::default();
    let mut model = match onnx::Model::from_parts(file, &limits) {
        Ok(model) => model,
        Err(error) => return Ok(account.whole(&onnx::Model::default(), causes(error))),
    };
    account.count(&model.graph, 0);
    if names_regions(&model.graph) {
        return Ok(account.whole(&model, UNQUANTIZED.into()));
    }
    let moved = onnx::normalise::gather_first(&mut model.graph);
    let quantized = is_quantized(&model);
    if !quantized && !model.graph.nodes().any(|(_, node)| multiplies(&model.graph, node)) {
        let (_, account) = account.whole(&model, UNQUANTIZED.into());
        let moved = model.to_parts().ok().filter(|_| moved > 0);
        return Ok((moved.map(|graph| Divided { graph, regions: Vec::new() }), account));
    }
    let isa = Settings::current().isa()?.isa;
    // Whoever had memory for a file has it for what is made of it: of what a device takes, no more than the least.
    let room = file.size().saturating_mul(2);
    let regions = match lowered(&mut model, inputs, (isa, weights, room), &mut account) {
        Ok(regions) => regions,
        Err(error) => {
            tracing::warn!(%error, "the quantized parts run in float");
            return Ok(account.whole(&model, causes(error)));
        }
    };
    match model.to_parts() {
        Ok(graph) if !regions.is_empty() => {
            account.unquantized = !quantized;
            account.float_weights = constants(&model.graph);
            Ok((Some(Divided { graph, regions }), account))
        }
        Ok(_) => {
            let quantized = if quantized { "none of its quantized parts can run in int8" } else { UNQUANTIZED };
            account.whole = Some(quantized.into());
            Ok((None, account))
        }
        Err(error) => Ok(account.whole(&model, causes(error))),
    }
}

/// With its causes, on one line.
fn causes(error: impl std::error::Error + 'static) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

/// The regions of a model, which names them by their numbers afterwards.
fn lowered(
    model: &mut onnx::Model,
    inputs: &[TensorSpec],
    (isa, weights, room): (Isa, &SharedWeights, usize),
    account: &mut Account,
) -> Result<Vec<Region>, DivideError> {
    let shapes: InputShapes = inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let facts = onnx::normalise::normalise(model, &shapes)?;
    account.count(&model.graph, 1);
    // Bodies of loops and branches stay as they are.
    model.graph.nodes().flat_map(|(_, node)| node.subgraphs()).for_each(|inner| account.count(inner, 2));
    let lowered = lower::lower(model, &facts, room)?;
    let macs: u64 = lowered.regions.iter().map(Program::macs).sum();
    let mut budget = Plan::BUDGET.max(room);
    let regions: Vec<Region> =
        lowered.regions.into_iter().map(|program| Region::new(program, isa, &mut budget, weights)).collect();
    let memory = regions.iter().map(|region| region.0.plan.memory()).sum();
    if memory > MAX_MEMORY {
        return Err(DivideError::Memory(memory));
    }
    let slow: Vec<_> = regions.iter().flat_map(|region| region.0.plan.slow()).collect();
    tracing::debug!(regions = regions.len(), %isa, macs, float_nodes = lowered.kept.len(), ?slow, "int8");
    for kept in lowered.kept.iter().take(20) {
        tracing::debug!(node = kept.node, reason = %kept.reason, "stays float");
    }
    account.keep(lowered.kept);
    Ok(regions)
}

fn is_quantized(model: &onnx::Model) -> bool {
    let says = |op: &str| op.starts_with("QLinear") || op.starts_with("QGemm") || op.contains("Integer");
    let quantizer =
        |op: &str| op.ends_with("QuantizeLinear") || op.starts_with("DynamicQuantize") || op == "DequantizeLinear";
    model.graph.nodes().any(|(_, node)| says(&node.op) || quantizer(&node.op) || brings_weights(&model.graph, node))
}

/// A Cast of 8-bit weights to float, which some exporters write in place of a DequantizeLinear.
fn brings_weights(graph: &Graph, node: &onnx::graph::Node) -> bool {
    const FEWEST: usize = 4096;
    let bytes = [onnx::ElementType::I8, onnx::ElementType::U8];
    let weights = |value| graph.constant(value).is_some_and(|w| bytes.contains(&w.element()) && w.len() >= FEWEST);
    node.is("Cast") && node.input(0).is_some_and(weights)
}

/// A convolution, or a large product, of floats by constants: regions do it faster than tract.
fn multiplies(graph: &Graph, node: &onnx::graph::Node) -> bool {
    const FEWEST: usize = 1 << 14;
    let fewest = if node.is("Conv") { 1 } else { FEWEST };
    let by_node = |value| graph.producer(value).is_some_and(|(_, node)| node.is("Constant"));
    let constant = |value| graph.constant(value).map_or_else(|| by_node(value), |weights| weights.len() >= fewest);
    ["Conv", "MatMul", "Gemm"].iter().any(|op| node.is(op)) && node.input(1).is_some_and(constant)
}

/// A file from outside that takes a part of it for a region of ours: whoever reads it otherwise refuses it.
fn names_regions(graph: &onnx::graph::Graph) -> bool {
    graph.nodes().any(|(_, node)| node.domain == lower::DOMAIN || node.subgraphs().any(names_regions))
}

/// One region, made ready for this CPU.
#[derive(Clone)]
pub(super) struct Region(Arc<Shared>);

struct Shared {
    plan: Plan,
    idle: Mutex<Vec<State>>,
}

impl Region {
    fn new(program: Program, isa: Isa, budget: &mut usize, weights: &SharedWeights) -> Self {
        let plan = Plan::sharing(Arc::new(program), isa, Settings::helpers(), budget, weights);
        Self(Arc::new(Shared { plan, idle: Mutex::default() }))
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.0.plan
    }

    fn ends(&self, ids: impl Fn(&Program) -> &[super::int8::program::ValueId]) -> Vec<&Value> {
        let program = self.0.plan.program();
        ids(program).iter().map(|&id| program.value(id)).collect()
    }

    fn inputs(&self) -> Vec<&Value> {
        self.ends(Program::inputs)
    }

    fn outputs(&self) -> Vec<&Value> {
        self.ends(Program::outputs)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} steps)", self.0.plan.program().steps().len())
    }
}

/// The same region, not an equal one.
impl PartialEq for Region {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Region {}

fn datum_type(value: &Value) -> TractResult<DatumType> {
    match value.ty {
        Type::Int8(params) => Ok(if params.signed { DatumType::I8 } else { DatumType::U8 }),
        Type::F32 => Ok(DatumType::F32),
        Type::I32 => Ok(DatumType::I32),
        Type::Dynamic => bail!("a dynamically quantized value at the border of a region"),
    }
}

thread_local! {
    /// Those of the model that this thread imports: tract makes operators by bare functions.
    static IMPORTED: RefCell<Vec<Region>> = const { RefCell::new(Vec::new()) };
}

/// Imports a graph with those regions in it.
pub(super) fn with<T>(regions: &[Region], import: impl FnOnce() -> T) -> T {
    /// Clears the list however the import ends.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            IMPORTED.with_borrow_mut(Vec::clear);
        }
    }
    let _clear = Clear;
    IMPORTED.with_borrow_mut(|imported| regions.clone_into(imported));
    import()
}

/// Makes regions known to tract.
pub(super) fn register(framework: &mut tract_onnx::Onnx) {
    framework.op_register.insert(lower::OPERATOR, import);
}

fn import(_: &tract_onnx::model::ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let number: usize = node.get_attr("region")?;
    let region = IMPORTED.with_borrow(|imported| imported.get(number).cloned());
    let region = region.with_context(|| format!("there is no int8 region {number}"))?;
    Ok((expand(region), vec![]))
}

impl Expansion for Region {
    fn name(&self) -> StaticName {
        lower::OPERATOR.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs().len())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.inputs().len())?;
        check_output_arity(outputs, self.outputs().len())?;
        let ends = self.inputs().into_iter().zip(inputs).chain(self.outputs().into_iter().zip(outputs));
        for (value, proxy) in ends {
            let shape: TVec<TDim> = value.shape.iter().map(|dim| dim.to_dim()).collect();
            s.equals(&proxy.datum_type, datum_type(value)?)?;
            s.equals(&proxy.shape, shape)?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Region {
    fn name(&self) -> StaticName {
        lower::OPERATOR.into()
    }

    op_as_typed_op!();
}

impl EvalOp for Region {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let idle = || self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut state = kept.unwrap_or_else(|| self.0.plan.state());
        let bytes: Vec<&[u8]> = inputs.iter().map(|input| input.as_bytes()).collect();
        let tensor = |value: &Value| Tensor::zero_dt(datum_type(value)?, &value.shape);
        let mut results: Vec<Tensor> = self.outputs().into_iter().map(tensor).collect::<TractResult<_>>()?;
        let mut places: Vec<&mut [u8]> = results.iter_mut().map(|result| result.as_bytes_mut()).collect();
        watch::stages(|ended| self.0.plan.run_into(&mut state, &bytes, &mut places, ended))?;
        idle().push(state);
        Ok(results.into_iter().map(Tensor::into_tvalue).collect())
    }
}

impl TypedOp for Region {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.outputs().into_iter().map(|value| Ok(datum_type(value)?.fact(&*value.shape))).collect()
    }

    as_op!();
}

#[cfg(test)]
mod tests;
