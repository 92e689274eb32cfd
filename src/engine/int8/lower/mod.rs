//! Quantized ONNX graphs to int8 regions and what stays in float.
//!
//! Invariant: the graph that comes out computes what the one that went in does, up to the rounding that QuantizeLinear
//! asks for; every region is convex; a node that cannot be lowered stays, with a reason.
//! Not here: reading files, shapes (`onnx`), running anything.
//!
//! Floats begin a region at convolutions and large products with constants, and go on in it as far as there are operators
//! for them: measured beside tract, such a region is quicker down to convolutions of a few pixels.
//!
//! One walk in order of execution gives each ONNX value a representation ([`state::Rep`]): an 8-bit tensor, a function
//! of one, a float tensor that a region computes. Nothing is removed on the way: afterwards the graph's outputs demand
//! what they need from regions first, and what no demand reaches is dead.
//! Rejected: rewriting patterns one after another (each exporter spells them in its own way, and a pattern that misses
//! by one node leaves a convolution in float); fusing by name of the exporter.

mod cast;
mod channels;
mod dynamic;
mod elementwise;
mod flat;
mod float;
mod float_conv;
mod fold;
mod fuse;
mod movement;
mod params;
mod partition;
mod primitive;
mod product;
mod quantize;
mod reason;
mod resize;
mod sink;
mod spelled;
mod state;
mod window;

pub use reason::Reason;

use super::program::Program;
use crate::onnx::Model;
use crate::onnx::graph::{Cycle, Graph, Node, NodeId, describe};
use crate::onnx::shapes::Facts;
use params::{is_dequantize, is_quantize};
use state::Lowering;
use std::sync::Arc;

/// Domain of the operator that stands for a region.
pub const DOMAIN: &str = "ai.selvedge";
/// The operator that stands for a region: its attribute `region` is the region's number.
pub const OPERATOR: &str = "Int8Region";

/// A node that stays in float.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Name, operator and version.
    pub node: String,
    pub op: String,
    pub reason: Reason,
}

/// What came of a graph.
#[derive(Debug, Clone, Default)]
pub struct Lowered {
    /// By the number in the nodes' attribute.
    pub regions: Vec<Program>,
    pub kept: Vec<Kept>,
    /// Nodes of QuantizeLinear and DequantizeLinear that remain in the graph: by blocks, to 4 bits, or by scales that
    /// are computed. All others are in regions, or spelled out as arithmetic.
    pub quantizers: Vec<String>,
}

/// Why a graph could not be lowered at all; a single node that cannot stays in float instead.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    #[error(transparent)]
    Cycle(#[from] Cycle),
    #[error("region {region}")]
    Region { region: usize, source: super::CheckError },
}

/// Moves what is quantized into regions. `facts` are of this graph; values with a dimension that is not known stay.
/// Copies of constants may take `room` bytes, or what they always may.
///
/// # Errors
/// When the graph has a circle, or a region that was made is not well formed.
pub fn lower(model: &mut Model, facts: &Facts, room: usize) -> Result<Lowered, LowerError> {
    let order = model.graph.order()?;
    let mut lowering = Lowering::new(&model.graph, facts, &order, room);
    for (place, &id) in order.iter().enumerate() {
        let Some(node) = model.graph.node(id) else { continue };
        lowering.place = place;
        lowering.node = name(&model.graph, node);
        // A node ahead may have taken this one in.
        if node.outputs.iter().flatten().any(|output| lowering.reps.contains_key(output)) {
            continue;
        }
        if let Err(reason) = visit(&mut lowering, node) {
            lowering.reasons.insert(id, reason);
        }
    }
    let plan = partition::plan(lowering, &order)?;
    let kept = plan.kept.iter().filter_map(|(id, reason)| {
        let node = model.graph.node(*id)?;
        Some(Kept { node: describe(node), op: node.op.clone(), reason: reason.clone() })
    });
    let kept = kept.collect();
    let regions = partition::rewrite(&mut model.graph, plan);
    let left = primitive::spell_out(&mut model.graph, facts);
    let describe_left = |&id: &NodeId| model.graph.node(id).map(describe);
    let quantizers = left.iter().filter_map(describe_left).collect();
    model.opsets.insert(DOMAIN.to_owned(), 1);
    Ok(Lowered { regions, kept, quantizers })
}

/// As reports call a node: by its name, or by what it makes.
fn name(graph: &Graph, node: &Node) -> Arc<str> {
    const LONGEST: usize = 200;
    let made = || node.output(0).map_or("", |value| graph.value(value).name.as_str());
    let name = if node.name.is_empty() { made() } else { &node.name };
    name.chars().take(LONGEST).collect::<String>().into()
}

fn visit(lowering: &mut Lowering, node: &Node) -> Result<(), Reason> {
    if is_quantize(node) {
        return lowering.visit_quantize(node);
    }
    if is_dequantize(node) {
        return lowering.visit_dequantize(node);
    }
    if let Some(function) = elementwise::unary(lowering, node) {
        return lowering.visit_unary(node, function);
    }
    if let Some(function) = elementwise::binary(node) {
        return lowering.visit_binary(node, function);
    }
    match (node.domain.as_str(), node.op.as_str()) {
        ("", "Conv") => lowering.visit_conv(node),
        ("", "Gemm") => lowering.visit_gemm(node),
        ("", "MatMul") => lowering.visit_mat_mul(node),
        ("", "Cast") => lowering.visit_cast(node),
        ("", "Concat") => lowering.visit_concat(node),
        ("", "MaxPool" | "GlobalMaxPool") => lowering.visit_max_pool(node),
        ("", "AveragePool" | "GlobalAveragePool" | "ReduceMean") => lowering.visit_average(node),
        ("", "Softmax") => lowering.visit_softmax(node),
        ("", "BatchNormalization") => lowering.visit_batch_norm(node),
        ("", "LayerNormalization") => lowering.visit_layer_norm(node),
        ("", "Resize" | "Upsample") => lowering.visit_resize(node),
        (
            "",
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Slice" | "Split" | "Gather" | "Pad"
            | "DepthToSpace" | "SpaceToDepth" | "Dropout",
        ) => lowering.visit_movement(node),
        ("", "DynamicQuantizeLinear") => lowering.visit_dynamic_quantize(node),
        ("", "ConvInteger" | "MatMulInteger") => lowering.visit_integer_product(node),
        ("com.microsoft", "DynamicQuantizeMatMul" | "MatMulIntegerToFloat") => lowering.visit_fused_dynamic(node),
        ("" | "com.microsoft", _) => lowering.visit_q_operator(node),
        (_, _) => Err(Reason::Operator),
    }
}
