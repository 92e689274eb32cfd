//! tract: types and optimizes a graph, and runs it.
//!
//! Invariant: a `Program` has the inputs and outputs of its manifest, as far as typing shows them;
//! what typing leaves open is checked with every answer.
//! Not here: reading ONNX (`graph`), catching panics (`model`).

use super::common::Common;
use super::graph::chain;
use super::model::{LoadError, RunError, Side, form};
use super::region::{self, Region};
use super::watch;
use crate::tensor::{DataType, Tensor, TensorSpec};
use std::sync::Arc;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

/// One tensor between two nodes. More would not fit the boards, and a failed allocation that large
/// ends the process.
const MAX_TENSOR_BYTES: usize = 1 << 30;

/// The compiled graph, weights included.
#[derive(Debug)]
pub(super) struct Program {
    plan: Arc<TypedRunnableModel>,
}

impl Program {
    /// `regions` are what the graph's nodes of that kind name.
    pub(super) fn compile(
        proto: &ModelProto,
        regions: &[Region],
        outputs: &[TensorSpec],
        common: &Common,
    ) -> Result<Self, LoadError> {
        let broken = |e: TractError| LoadError::Graph(chain(&e));
        let mut framework = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_output_types(true)
            .with_ignore_value_info(true);
        region::register(&mut framework);
        let inferred = region::with(regions, || framework.model_for_proto_model(proto)).map_err(broken)?;
        let typed = inferred.into_typed().map_err(broken)?;
        check_sizes(&typed)?;
        let mut optimized = typed.into_optimized().map_err(broken)?;
        check_sizes(&optimized)?;
        check_outputs(&optimized, outputs)?;
        common.join(&mut optimized).map_err(broken)?;
        let plan = optimized.into_runnable().map_err(broken)?;
        Ok(Self { plan })
    }

    /// Inputs must fit the specs that the program was compiled for.
    ///
    /// The state lives for one run, within one thread: tract keeps scratch memory of each state in
    /// the thread that ran it, and frees it only where the state is dropped in that same thread.
    /// Kept over runs, every version that ever served would leave some behind in every worker.
    /// A new one costs about 1 µs a node, and leaves nothing half-computed after an error.
    pub(super) fn run(&self, inputs: &[Tensor], outputs: &[TensorSpec]) -> Result<Vec<Tensor>, RunError> {
        let inputs = inputs.iter().map(to_tract).collect::<TractResult<_>>().map_err(compute)?;
        let results = self.plan.spawn().and_then(|mut state| state.run(inputs)).map_err(compute)?;
        Self::answers(&results, outputs)
    }

    /// As `run`, for a thread that is watched.
    pub(super) fn run_watched(&self, inputs: &[Tensor], outputs: &[TensorSpec]) -> Result<Vec<Tensor>, RunError> {
        let inputs = inputs.iter().map(to_tract).collect::<TractResult<_>>().map_err(compute)?;
        let mut state = self.plan.spawn().map_err(compute)?;
        let results = state.run_plan_with_eval(inputs, |context, state, node, inputs| {
            watch::node(node.id, || tract_onnx::tract_core::plan::eval(context, state, node, inputs))
        });
        Self::answers(&results.map_err(compute)?, outputs)
    }

    fn answers(results: &[TValue], outputs: &[TensorSpec]) -> Result<Vec<Tensor>, RunError> {
        results.iter().zip(outputs).map(|(result, spec)| from_tract(result, spec)).collect()
    }
}

/// An output as typing shows it: no datatype where it is none of ours, no shape where that depends on values.
pub(super) type Typed = Option<(DataType, Option<Vec<usize>>)>;

/// What a node is, by the number that a watch calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    /// tract's name for it.
    pub operator: String,
    /// The number of the region that it is.
    pub region: Option<usize>,
}

impl Program {
    /// All nodes, by number; `regions` are those that it was compiled with.
    pub(super) fn nodes(&self, regions: &[Region]) -> Vec<NodeFacts> {
        let facts = |node: &TypedNode| NodeFacts {
            name: node.name.chars().take(80).collect(),
            operator: node.op.name().chars().take(80).collect(),
            region: node.op_as::<Region>().and_then(|region| regions.iter().position(|other| other == region)),
        };
        self.plan.model().nodes().iter().map(facts).collect()
    }

    /// The outputs of a graph, in its order.
    pub(super) fn outputs(proto: &ModelProto) -> Result<Vec<Typed>, LoadError> {
        let broken = |e: TractError| LoadError::Graph(chain(&e));
        let framework = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_output_types(true)
            .with_ignore_value_info(true);
        let typed = framework.model_for_proto_model(proto).and_then(InferenceModelExt::into_typed).map_err(broken)?;
        let facts = (0..proto.graph.as_ref().map_or(0, |graph| graph.output.len())).map(|at| typed.output_fact(at));
        let known =
            |fact: &TypedFact| Some((datatype(fact.datum_type)?, fact.shape.as_concrete().map(<[usize]>::to_vec)));
        facts.map(|fact| fact.map(known).map_err(broken)).collect()
    }
}

fn compute(error: TractError) -> RunError {
    RunError::Compute(chain(&error))
}

fn check_sizes(model: &TypedModel) -> Result<(), LoadError> {
    for node in model.nodes() {
        for output in &node.outputs {
            let Some(shape) = output.fact.shape.as_concrete() else {
                continue;
            };
            let size = output.fact.datum_type.size_of();
            let bytes = shape.iter().try_fold(size, |bytes, &dim| bytes.checked_mul(dim));
            if bytes.is_none_or(|bytes| bytes > MAX_TENSOR_BYTES) {
                return Err(LoadError::HugeTensor {
                    node: node.name.chars().take(80).collect(),
                    shape: format!("{shape:?}"),
                    limit: MAX_TENSOR_BYTES,
                });
            }
        }
    }
    Ok(())
}

fn check_outputs(model: &TypedModel, specs: &[TensorSpec]) -> Result<(), LoadError> {
    for (index, spec) in specs.iter().enumerate() {
        let fact = model.output_fact(index).map_err(|e| LoadError::Graph(chain(&e)))?;
        if datatype(fact.datum_type) != Some(spec.datatype) {
            return Err(LoadError::Datatype {
                side: Side::Output,
                name: spec.name.clone(),
                expected: spec.datatype,
                actual: type_name(fact.datum_type),
            });
        }
        // Sizes that depend on values stay symbols; the answers are checked then.
        if fact.shape.as_concrete().is_some_and(|shape| shape != spec.shape) || fact.rank() != spec.shape.len() {
            return Err(LoadError::Shape {
                side: Side::Output,
                name: spec.name.clone(),
                expected: spec.shape.clone(),
                actual: format!("{:?}", fact.shape),
            });
        }
    }
    Ok(())
}

const TYPES: [(DatumType, DataType); 12] = [
    (DatumType::Bool, DataType::Bool),
    (DatumType::U8, DataType::Uint8),
    (DatumType::U16, DataType::Uint16),
    (DatumType::U32, DataType::Uint32),
    (DatumType::U64, DataType::Uint64),
    (DatumType::I8, DataType::Int8),
    (DatumType::I16, DataType::Int16),
    (DatumType::I32, DataType::Int32),
    (DatumType::I64, DataType::Int64),
    (DatumType::F16, DataType::Fp16),
    (DatumType::F32, DataType::Fp32),
    (DatumType::F64, DataType::Fp64),
];

/// tract computes shapes in a type of its own, `TDim`; towards the outside it is INT64.
fn datatype(of: DatumType) -> Option<DataType> {
    if of == DatumType::TDim {
        return Some(DataType::Int64);
    }
    let plain = of.unquantized();
    TYPES.iter().find(|(theirs, _)| *theirs == plain).map(|(_, ours)| *ours)
}

fn datum_type(of: DataType) -> Option<DatumType> {
    TYPES.iter().find(|(_, ours)| *ours == of).map(|(theirs, _)| *theirs)
}

fn type_name(of: DatumType) -> String {
    datatype(of).map_or_else(|| format!("{of:?}"), |ours| ours.name().to_owned())
}

fn to_tract(tensor: &Tensor) -> TractResult<TValue> {
    let no_type = || TractError::msg(format!("no such type here: {}", tensor.datatype()));
    let mut value =
        tract_onnx::prelude::Tensor::zero_dt(datum_type(tensor.datatype()).ok_or_else(no_type)?, tensor.shape())?;
    if tensor.datatype() == DataType::Bool {
        // Any other byte than 0 or 1 in a `bool` would be undefined behaviour.
        let bits = tensor.bytes().iter().map(|&byte| u8::from(byte != 0));
        value.as_bytes_mut().iter_mut().zip(bits).for_each(|(to, bit)| *to = bit);
    } else {
        value.as_bytes_mut().copy_from_slice(tensor.bytes());
    }
    Ok(value.into_tvalue())
}

fn from_tract(value: &TValue, spec: &TensorSpec) -> Result<Tensor, RunError> {
    let wrong = |actual: String| RunError::Output {
        name: spec.name.clone(),
        expected: form(spec.datatype, &spec.shape),
        actual,
    };
    let actual = datatype(value.datum_type());
    if actual != Some(spec.datatype) || value.shape() != spec.shape {
        return Err(wrong(format!("{} {:?}", type_name(value.datum_type()), value.shape())));
    }
    let plain = if value.datum_type() == DatumType::TDim {
        value.cast_to::<i64>().map_err(compute)?
    } else {
        std::borrow::Cow::Borrowed(&**value)
    };
    let bytes = plain.as_bytes().to_vec();
    Tensor::new(spec.datatype, spec.shape.clone(), bytes).map_err(|e| wrong(e.to_string()))
}
