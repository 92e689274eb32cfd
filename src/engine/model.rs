//! A loaded model and the sessions that run it.

use super::backend::{NodeFacts, Program};
use super::common::Common;
use super::open::Open;
use super::region::{self, Account, Region};
use super::watch::{self, NodeTime, Watch};
use super::{graph, guard};
use crate::kernels::IsaError;
use crate::onnx::Encoded;
use crate::sys::{Clock, give_back_memory, give_way};
use crate::tensor::{DataType, Tensor, TensorSpec};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which end of a model a tensor is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Input,
    Output,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

/// Why a file cannot serve as a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the ONNX file has {actual} bytes, the limit is {limit}")]
    TooLarge { actual: usize, limit: usize },
    #[error("not an ONNX file, or a damaged one: {0}")]
    Format(String),
    #[error("the graph has {actual} {what}, the limit is {limit}")]
    TooMany { what: &'static str, actual: usize, limit: usize },
    #[error("tensor {0:?} lies in a file of its own; save the model with its weights inside")]
    ExternalData(String),
    #[error("tensor {name:?} {problem}")]
    Weights { name: String, problem: String },
    #[error("no support for {}; replace these operators or export for operator set 13 to 18", .0.join(", "))]
    Unsupported(Vec<String>),
    #[error("the manifest names the {side} {name:?} twice")]
    NamedTwice { side: Side, name: String },
    #[error("the manifest names no {0}; a model needs at least one")]
    Nothing(Side),
    #[error("the graph has no {side} {name:?}; its {side}s are {}", quoted(.graph))]
    NoSuch { side: Side, name: String, graph: Vec<String> },
    #[error("the graph also needs the input {0:?}; add it to the manifest")]
    Lacking(String),
    #[error("{side} {name:?} is {expected} in the manifest and {actual} in the graph")]
    Datatype { side: Side, name: String, expected: DataType, actual: String },
    #[error("{side} {name:?} has the shape {expected:?} in the manifest and {actual} in the graph")]
    Shape { side: Side, name: String, expected: Vec<usize>, actual: String },
    /// The inputs' largest shapes as the manifest states them.
    #[error("it cannot be made ready for its largest inputs, {inputs}: {problem}")]
    Largest { inputs: String, problem: String },
    #[error("node {node:?} makes a tensor of {shape}, over the limit of {limit} bytes")]
    HugeTensor { node: String, shape: String, limit: usize },
    /// The inference engine's own words, outermost first; they name the node.
    #[error("the graph does not hold together: {0}")]
    Graph(String),
    #[error("the graph breaks an assumption at {place}; check it with onnx.checker, and please report it")]
    Panicked { place: String },
    #[error(transparent)]
    Isa(#[from] IsaError),
    #[error("start the loading thread")]
    Thread(#[source] std::io::Error),
}

fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

/// Why one inference gave no answer. The texts may quote the input: they are for whoever sent it,
/// never for a log.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{expected} inputs are needed, {actual} were given")]
    Count { expected: usize, actual: usize },
    #[error("input {name:?} is {expected}; given was {actual}")]
    Input { name: String, expected: String, actual: String },
    #[error("the model cannot take inputs of these shapes, {inputs}: {problem}")]
    Shape { inputs: String, problem: String },
    #[error("the model cannot compute this input: {0}")]
    Compute(String),
    #[error("output {name:?} came out as {actual}, the manifest says {expected}")]
    Output { name: String, expected: String, actual: String },
    #[error("the model broke on this input at {place}")]
    Panicked { place: String },
}

impl RunError {
    /// True when the model itself would have been fine with another input of the right form.
    pub fn is_callers_fault(&self) -> bool {
        match self {
            Self::Count { .. } | Self::Input { .. } | Self::Shape { .. } => true,
            Self::Compute(_) | Self::Output { .. } | Self::Panicked { .. } => false,
        }
    }
}

/// Whether requests go before the work on a file, or one of them waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    GiveWay,
    AtOnce,
}

/// A network ready to run; clones share the weights.
#[derive(Debug, Clone)]
pub struct Model {
    program: Arc<Program>,
    regions: Arc<[Region]>,
    inputs: Arc<[TensorSpec]>,
    outputs: Arc<[TensorSpec]>,
    is_straight: bool,
    /// Where requests may choose shapes.
    pub(super) open: Option<Arc<Open>>,
}

impl Model {
    /// The largest ONNX file. Weights beside the messages, which only this process puts there, do not count.
    pub const MAX_BYTES: usize = 512 << 20;
    /// Deep graphs recurse deeply in the importer; the pages are only used if they are.
    const STACK: usize = 64 << 20;

    /// Reads any ONNX file with the shapes and datatypes that its manifest states, in any order.
    ///
    /// Blocks until done, from milliseconds to seconds: call it where blocking is allowed. The work
    /// is done in a thread of its own with low priority, so that requests come first.
    pub fn load<'a>(
        onnx: impl Into<Encoded<'a>>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<Self, LoadError> {
        Self::examine(onnx.into(), inputs, outputs).map(|(model, _)| model)
    }

    /// As `load`, and tells what became of the file's nodes.
    pub(super) fn examine(
        onnx: Encoded<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<(Self, Account), LoadError> {
        let common = Common::default();
        let (mut model, account) = Self::load_with(onnx, inputs, outputs, &common, Pace::GiveWay)?;
        if inputs.iter().any(|spec| spec.max_shape.is_some()) {
            let open = Open::new(onnx, outputs, common);
            model.outputs = open.widened(inputs, outputs)?.into();
            model.open = Some(Arc::new(open));
        }
        Ok((model, account))
    }

    /// At the shapes that are stated, and weights in common with others.
    pub(super) fn load_with(
        onnx: Encoded<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        common: &Common,
        pace: Pace,
    ) -> Result<(Self, Account), LoadError> {
        check_names(Side::Input, inputs)?;
        check_names(Side::Output, outputs)?;
        Self::apart_at(pace, onnx, || Self::build(onnx, inputs, outputs, common))
    }

    /// As `load`, all of it in float, quantized parts too: to compare with.
    pub fn load_float<'a>(
        onnx: impl Into<Encoded<'a>>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<Self, LoadError> {
        let onnx = onnx.into();
        check_names(Side::Input, inputs)?;
        check_names(Side::Output, outputs)?;
        Self::apart(onnx, || Self::compile(onnx, &[], (inputs, outputs), &Common::default()))
    }

    /// Works on a file in a thread of its own; a panic there is an error here.
    pub(super) fn apart<T: Send>(
        onnx: Encoded<'_>,
        work: impl FnOnce() -> Result<T, LoadError> + Send,
    ) -> Result<T, LoadError> {
        Self::apart_at(Pace::GiveWay, onnx, work)
    }

    pub(super) fn apart_at<T: Send>(
        pace: Pace,
        onnx: Encoded<'_>,
        work: impl FnOnce() -> Result<T, LoadError> + Send,
    ) -> Result<T, LoadError> {
        if onnx.head().len() > Self::MAX_BYTES {
            return Err(LoadError::TooLarge { actual: onnx.head().len(), limit: Self::MAX_BYTES });
        }
        std::thread::scope(|scope| {
            let work = || {
                if pace == Pace::GiveWay {
                    give_way();
                }
                guard::catch(work).unwrap_or_else(|panic| Err(LoadError::Panicked { place: panic.0 }))
            };
            let thread = std::thread::Builder::new().name("load".into()).stack_size(Self::STACK);
            let thread = thread.spawn_scoped(scope, work).map_err(LoadError::Thread)?;
            let lost = |_| Err(LoadError::Panicked { place: "the loading thread".into() });
            let made = thread.join().unwrap_or_else(lost);
            // A file is in memory in several forms while it is read.
            give_back_memory();
            made
        })
    }

    /// With its quantized parts in int8, where that can be had; else all of it in float.
    fn build(
        onnx: Encoded<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        common: &Common,
    ) -> Result<(Self, Account), LoadError> {
        let mut account = Account::default();
        let int8 = || {
            let (divided, told) = region::divide(onnx, inputs, &common.weights)?;
            account = told;
            let Some(divided) = divided else { return Ok(None) };
            Self::compile((&divided.graph).into(), &divided.regions, (inputs, outputs), common).map(Some)
        };
        let why = match guard::catch(int8) {
            Ok(Ok(Some(model))) => return Ok((model, account)),
            Ok(Ok(None)) => None,
            Ok(Err(LoadError::Isa(error))) => return Err(error.into()),
            // The author knows the nodes of the original: its errors are the ones to tell.
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(format!("it broke at {}", panic.0)),
        };
        if let Some(why) = why {
            tracing::warn!(error = why, "not in int8: trying in float");
            account.all_float(why);
        }
        Ok((Self::compile(onnx, &[], (inputs, outputs), common)?, account))
    }

    fn compile(
        onnx: Encoded<'_>,
        regions: &[Region],
        (inputs, outputs): (&[TensorSpec], &[TensorSpec]),
        common: &Common,
    ) -> Result<Self, LoadError> {
        let proto = graph::read(onnx, regions.len(), inputs, outputs)?;
        let program = Program::compile(&proto, regions, outputs, common)?;
        let is_straight = graph::is_straight(&proto);
        let program = Arc::new(program);
        let (regions, inputs, outputs) = (regions.into(), inputs.into(), outputs.into());
        Ok(Self { program, regions, inputs, outputs, is_straight, open: None })
    }

    /// What it takes, in the order of `Session::run`.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// What it gives, in the order of `Session::run`.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// Bytes of one run between its steps.
    pub(super) fn state_bytes(&self) -> usize {
        self.regions.iter().map(|region| region.plan().memory()).sum()
    }

    pub(super) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Its nodes, by the numbers that `Session::run_watched` tells.
    pub fn nodes(&self) -> Vec<NodeFacts> {
        self.program.nodes(&self.regions)
    }

    /// Without loops: it cannot hang on one input when it was quick on others.
    pub(super) fn is_straight(&self) -> bool {
        self.is_straight
    }

    /// Whether inputs have the shapes that it was loaded for; others may have to be made ready first.
    pub(super) fn is_ready_for(&self, inputs: &[Tensor]) -> bool {
        inputs.iter().zip(self.inputs()).all(|(input, spec)| input.fits(spec))
    }

    /// Itself, or what it is at the shapes of these inputs.
    fn at(&self, inputs: &[Tensor]) -> Result<Self, RunError> {
        check_inputs(self.inputs(), inputs)?;
        match &self.open {
            Some(open) if !self.is_ready_for(inputs) => open.at(self.inputs(), inputs),
            Some(_) | None => Ok(self.clone()),
        }
    }

    /// State for one thread at a time; cheap beside the model.
    pub fn session(&self) -> Result<Session, RunError> {
        Ok(Session { model: self.clone() })
    }
}

fn check_names(side: Side, specs: &[TensorSpec]) -> Result<(), LoadError> {
    if specs.is_empty() {
        return Err(LoadError::Nothing(side));
    }
    let mut seen = BTreeSet::new();
    match specs.iter().find(|spec| !seen.insert(&spec.name)) {
        Some(spec) => Err(LoadError::NamedTwice { side, name: spec.name.clone() }),
        None => Ok(()),
    }
}

/// Runs a model, one request after the other.
#[derive(Debug)]
pub struct Session {
    model: Model,
}

impl Session {
    /// Inputs and outputs in the order of the model's specs.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let model = self.model.at(inputs)?;
        let run = || model.program.run(inputs, model.outputs());
        guard::catch(run).unwrap_or_else(|panic| Err(RunError::Panicked { place: panic.0 }))
    }

    /// As `run`, with a look at the clock before and after every node and stage.
    pub fn run_watched(
        &mut self,
        inputs: &[Tensor],
        clock: &Arc<dyn Clock>,
    ) -> Result<(Vec<Tensor>, Vec<NodeTime>), RunError> {
        let model = self.model.at(inputs)?;
        let run = || guard::catch(|| model.program.run_watched(inputs, model.outputs()));
        let (made, watch) = watch::during(Watch::new(clock.clone()), run);
        let outputs = made.unwrap_or_else(|panic| Err(RunError::Panicked { place: panic.0 }))?;
        Ok((outputs, watch.map(|watch| watch.nodes).unwrap_or_default()))
    }

    /// Runs once on zeros, so that the first request finds memory and caches in place.
    pub fn warm(&mut self) -> Result<(), RunError> {
        let inputs: Vec<_> = self.model.inputs().iter().filter_map(zeros).collect();
        self.run(&inputs).map(drop)
    }
}

fn zeros(spec: &TensorSpec) -> Option<Tensor> {
    let bytes = vec![0; spec.byte_size()?];
    Tensor::new(spec.datatype, spec.shape.clone(), bytes).ok()
}

fn check_inputs(specs: &[TensorSpec], inputs: &[Tensor]) -> Result<(), RunError> {
    if specs.len() != inputs.len() {
        return Err(RunError::Count { expected: specs.len(), actual: inputs.len() });
    }
    let takes = |spec: &TensorSpec, input: &Tensor| input.datatype() == spec.datatype && spec.admits(input.shape());
    match specs.iter().zip(inputs).find(|(spec, input)| !takes(spec, input)) {
        Some((spec, input)) => Err(RunError::Input {
            name: spec.name.clone(),
            expected: spec.form(),
            actual: form(input.datatype(), input.shape()),
        }),
        None => Ok(()),
    }
}

/// Datatype and shape as in messages: `FP32 [1, 10]`.
pub(super) fn form(datatype: DataType, shape: &[usize]) -> String {
    format!("{datatype} {shape:?}")
}
