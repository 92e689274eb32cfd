//! What a model is made of and what became of it here: for `selvedge inspect`, `selvedge bench` and other programs.
//!
//! Invariant: a report tells of a model that has loaded; its fields are a format that other programs read (kebab-case
//! JSON), so that they are added to and never change their meaning.
//! Not here: tables for people (`cli`), what a run takes (`watch`).

use super::int8::fast::StageFacts;
use super::model::{LoadError, Model};
use super::region::{Account, Region, UNQUANTIZED};
use super::settings::{Because, Settings};
use crate::kernels::Isa;
use crate::onnx::{self, Encoded, Limits};
use crate::tensor::TensorSpec;
use serde::Serialize;
use std::collections::BTreeMap;

/// All that is known of a loaded model.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    pub file: FileFacts,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    pub engine: EngineFacts,
    /// By name.
    pub operators: Vec<OperatorFacts>,
    pub regions: Vec<RegionFacts>,
    /// Why nothing runs in int8, where nothing does.
    pub not_int8: Option<String>,
    /// Nodes that stay float though others do not, in order of execution.
    pub float: Vec<FloatNode>,
    pub memory: MemoryFacts,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileFacts {
    pub bytes: usize,
    pub producer: String,
    pub ir_version: i64,
    /// Versions of operator sets by domain; ONNX's own is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
}

/// By what int8 regions run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EngineFacts {
    pub isa: &'static str,
    pub isa_because: Because,
    /// What this CPU has, best last.
    pub available: Vec<&'static str>,
    /// Of one inference.
    pub threads: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorFacts {
    pub operator: String,
    /// Nodes in the file.
    pub file: usize,
    /// Nodes that are within int8 regions.
    pub int8: usize,
    /// Nodes that run in float.
    pub float: usize,
}

/// A part of the graph that runs in int8, or in float by the kernels beside those of int8.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RegionFacts {
    pub macs: u64,
    /// Those of floats among them.
    pub float_macs: u64,
    /// Weights as the file has them, bytes.
    pub weights: usize,
    /// What kernels keep, packed weights above all, bytes; shared by all runs.
    pub packed: usize,
    /// What each run at the same time takes, bytes.
    pub state: usize,
    pub stages: Vec<StageFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FloatNode {
    /// Name, operator and version.
    pub node: String,
    pub operator: String,
    pub reason: String,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryFacts {
    /// Of regions, packed; shared by all runs. Those of floats among them.
    pub int8_weights: usize,
    /// Constants of float nodes, as the file has them; shared by all runs.
    pub float_weights: usize,
    /// Of int8 regions, for each run at the same time.
    pub int8_state: usize,
}

impl Report {
    /// Loads a model and tells of it.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load<'a>(
        onnx: impl Into<Encoded<'a>>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<(Model, Self), LoadError> {
        let onnx = onnx.into();
        let (model, account) = Model::examine(onnx, inputs, outputs)?;
        let report = Self::new(file_facts(onnx), &model, account)?;
        Ok((model, report))
    }

    fn new(file: FileFacts, model: &Model, account: Account) -> Result<Self, LoadError> {
        let regions: Vec<RegionFacts> = model.regions().iter().map(region).collect();
        let sum = |of: fn(&RegionFacts) -> usize| regions.iter().map(of).sum();
        let memory = MemoryFacts {
            int8_weights: sum(|region| region.packed),
            float_weights: account.float_weights,
            int8_state: sum(|region| region.state),
        };
        let threads = model.regions().first().map_or(1, |region| region.plan().threads());
        let float = account.kept.into_iter().map(|kept| FloatNode {
            node: kept.node,
            operator: kept.op,
            reason: kept.reason.to_string(),
        });
        Ok(Self {
            file,
            inputs: model.inputs().to_vec(),
            outputs: model.outputs().to_vec(),
            engine: EngineFacts::here(threads)?,
            operators: account.operators.into_iter().map(operator).collect(),
            regions,
            not_int8: account.whole.or_else(|| account.unquantized.then(|| UNQUANTIZED.into())),
            float: float.collect(),
            memory,
        })
    }

    /// Multiplications of regions in a run.
    pub fn macs(&self) -> u64 {
        self.regions.iter().map(|region| region.macs).sum()
    }

    /// Those of floats among them.
    pub fn float_macs(&self) -> u64 {
        self.regions.iter().map(|region| region.float_macs).sum()
    }
}

impl Model {
    /// What each int8 region computes, step by step, for people.
    pub fn listings(&self) -> Vec<String> {
        self.regions().iter().map(|region| region.plan().program().to_string()).collect()
    }
}

impl EngineFacts {
    fn here(threads: usize) -> Result<Self, LoadError> {
        let choice = Settings::current().isa()?;
        Ok(Self {
            isa: choice.isa.name(),
            isa_because: choice.because,
            available: Isa::available().iter().map(|isa| isa.name()).collect(),
            threads,
        })
    }
}

/// Of the file's head; nothing where the front end for int8 refuses it.
fn file_facts(onnx: Encoded<'_>) -> FileFacts {
    let bytes = onnx.size();
    match onnx::Model::from_parts(onnx, &Limits::default()) {
        Ok(model) => {
            let name = |domain: String| if domain.is_empty() { "ai.onnx".into() } else { domain };
            FileFacts {
                bytes,
                producer: model.producer.chars().take(200).collect(),
                ir_version: model.ir_version,
                opsets: model.opsets.into_iter().map(|(domain, version)| (name(domain), version)).collect(),
            }
        }
        Err(_) => FileFacts { bytes, ..FileFacts::default() },
    }
}

fn operator((operator, [file, folded, float]): (String, [usize; 3])) -> OperatorFacts {
    OperatorFacts { operator, file, int8: folded.saturating_sub(float), float }
}

fn region(region: &Region) -> RegionFacts {
    let plan = region.plan();
    let stages = plan.stage_facts();
    RegionFacts {
        macs: plan.program().macs(),
        float_macs: stages.iter().map(|stage| stage.float_macs).sum(),
        weights: stages.iter().map(|stage| stage.weights).sum(),
        packed: stages.iter().map(|stage| stage.packed).sum(),
        state: plan.memory(),
        stages,
    }
}
