//! What a plan is made of, stage by stage, for reports.
//!
//! Invariant: what is told of a stage is what runs; times come from `Plan::run_into`'s hook, which this room's callers
//! hold a clock to.
//! Not here: clocks, tables.

use super::super::op::{Conv, FloatConv, FloatLinear, FloatWeights, Linear, Op, Weights};
use super::super::program::{Step, Type};
use super::Plan;
use super::kernel::Kernel;
use super::stage::Stage;
use serde::Serialize;

/// One stage: a step, or movements in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageFacts {
    /// Of its steps, joined by `+`.
    pub operator: String,
    /// The ONNX node that the first of them was made for.
    pub node: String,
    /// Of its output, as ONNX has it.
    pub shape: Vec<usize>,
    pub kernel: &'static str,
    /// The instruction set that the kernel was chosen for; `any` where the choice is none of its matter.
    pub isa: &'static str,
    /// Multiplications.
    pub macs: u64,
    /// Those of floats among them.
    pub float_macs: u64,
    /// Weights, their zero points and biases, in bytes.
    pub weights: usize,
    /// Bytes that the kernel keeps for it: packed weights, maps, tables.
    pub packed: usize,
    /// Bytes of activations that are read and written.
    pub activations: usize,
    /// Runs by the reference, which is slow.
    pub slow: bool,
}

impl Plan {
    /// In the order in which stages run.
    pub fn stage_facts(&self) -> Vec<StageFacts> {
        self.stages().iter().map(|stage| self.facts(stage)).collect()
    }

    /// Threads that take part in a run.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    fn facts(&self, stage: &Stage) -> StageFacts {
        let program = self.program();
        let steps: Vec<&Step> = stage.steps.iter().map(|&step| &program.steps()[step]).collect();
        let names: Vec<&str> = steps.iter().map(|step| step.op.name()).collect();
        let size = |id| self.layout(id).count(self.shape(id)) * bytes(program.value(id).ty);
        StageFacts {
            operator: names.join("+"),
            node: steps.first().map_or_else(String::new, |step| step.node.to_string()),
            shape: program.value(stage.output).shape.clone(),
            kernel: stage.kernel(),
            isa: if is_for_any(&stage.kernel) { "any" } else { self.isa().name() },
            macs: steps.iter().map(|step| program.macs_of(step)).sum(),
            float_macs: steps.iter().filter(|step| step.op.is_of_floats()).map(|step| program.macs_of(step)).sum(),
            weights: steps.iter().map(|step| weights(step)).sum(),
            packed: self.packed(&stage.kernel),
            activations: stage.inputs.iter().chain([&stage.output]).map(|&id| size(id)).sum(),
            slow: matches!(stage.kernel, Kernel::Reference),
        }
    }

    fn packed(&self, kernel: &Kernel) -> usize {
        match kernel {
            Kernel::Dense(dense) => dense.bytes(),
            Kernel::Grouped(groups) => groups.iter().map(super::dense::Dense::bytes).sum(),
            Kernel::Depthwise { depthwise, map } => depthwise.bytes() + map.bytes(),
            Kernel::FloatDepthwise { depthwise, map, .. } => depthwise.bytes() + map.bytes(),
            Kernel::MaxPool { map, .. } | Kernel::AveragePool { map, .. } => map.bytes(),
            Kernel::MatMul(number) => self.products[*number].gemm.bytes(),
            Kernel::FloatProducts(products) => products.bytes(),
            Kernel::FloatPool { map, .. } => map.bytes(),
            Kernel::Winograd { winograd, .. } => winograd.bytes(),
            Kernel::Move(moves) => moves.bytes(),
            Kernel::Bilinear(bilinear) => bilinear.bytes(),
            Kernel::Curve(table) => size_of_val(&**table),
            Kernel::Table(table) => size_of_val(&**table),
            Kernel::Softmax { softmax, .. } => size_of_val(&**softmax),
            Kernel::Quantize(_)
            | Kernel::Dequantize(_)
            | Kernel::DynamicQuantize
            | Kernel::Float(_)
            | Kernel::FloatBinary { .. }
            | Kernel::FloatMatMul { .. }
            | Kernel::Rows { .. }
            | Kernel::Binary { .. }
            | Kernel::GlobalAverage { .. }
            | Kernel::Concat(_)
            | Kernel::Copy
            | Kernel::Reference => 0,
        }
    }
}

/// Of one value.
fn bytes(ty: Type) -> usize {
    match ty {
        Type::Int8(_) | Type::Dynamic => 1,
        Type::F32 | Type::I32 => 4,
    }
}

/// The same whatever instruction set was chosen.
fn is_for_any(kernel: &Kernel) -> bool {
    matches!(
        kernel,
        Kernel::Curve(_) | Kernel::Table(_) | Kernel::Concat(_) | Kernel::Copy | Kernel::Move(_) | Kernel::Reference
    )
}

/// Bytes of the file in a step.
fn weights(step: &Step) -> usize {
    let bias = if let Op::Conv(Conv { bias, .. }) | Op::Linear(Linear { bias, .. }) = &step.op {
        bias.len()
    } else if let Op::FloatLinear(FloatLinear { bias, .. }) | Op::FloatConv(FloatConv { bias, .. }) = &step.op {
        bias.len()
    } else {
        0
    };
    let constant = if let Op::Constant(values) = &step.op {
        values.len()
    } else if let Op::FloatConstant(values) = &step.op {
        values.len() * 4
    } else {
        let of = |weights: &Weights| weights.shape.iter().product::<usize>() + weights.zero_points.len();
        let floats = step.op.float_weights().map(FloatWeights::bytes);
        floats.unwrap_or_else(|| step.op.weights().map_or(0, of))
    };
    constant + bias * 4
}
