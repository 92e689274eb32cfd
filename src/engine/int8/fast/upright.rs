//! Steps that take values as ONNX has them, among images that lie in NHWC.
//!
//! Invariant: the program computes the same. A value that such a step reads or makes, and that would lie in NHWC for its
//! neighbours' sake, is turned by a reshape to its own shape.

use super::super::op::Op;
use super::super::program::{Draft, Program, Step};
use super::layout::{Layout, layouts};
use std::sync::Arc;

/// Whether its kernel goes along what lies innermost as ONNX has it.
fn goes_along_rows(op: &Op) -> bool {
    matches!(op, Op::Linear(_) | Op::MatMul(_) | Op::FloatLinear(_) | Op::FloatMatMul | Op::Rows { .. })
}

/// With reshapes where they are needed.
pub(super) fn upright(program: Arc<Program>) -> Arc<Program> {
    let layouts = layouts(&program);
    let is_turned = |id: super::ValueId| layouts[id.index()] == Layout::Nhwc;
    let turns =
        |step: &Step| goes_along_rows(&step.op) && step.inputs.iter().chain([&step.output]).any(|&id| is_turned(id));
    if !program.steps().iter().any(turns) {
        return program;
    }
    let mut draft = Draft {
        values: program.values().to_vec(),
        steps: Vec::new(),
        inputs: program.inputs().to_vec(),
        outputs: program.outputs().to_vec(),
    };
    for step in program.steps() {
        let mut step = step.clone();
        if !turns(&step) {
            draft.steps.push(step);
            continue;
        }
        for id in step.inputs.iter_mut().filter(|id| is_turned(**id)) {
            let value = program.value(*id).clone();
            let own = draft.value(value.shape, value.ty);
            let reshape = Step { op: Op::Reshape, inputs: vec![*id], output: own, node: Arc::clone(&step.node) };
            draft.steps.push(reshape);
            *id = own;
        }
        if is_turned(step.output) {
            let value = program.value(step.output).clone();
            let (own, output) = (draft.value(value.shape, value.ty), step.output);
            step.output = own;
            let node = Arc::clone(&step.node);
            draft.steps.extend([step, Step { op: Op::Reshape, inputs: vec![own], output, node }]);
        } else {
            draft.steps.push(step);
        }
    }
    Program::new(draft).map_or(program, Arc::new)
}
