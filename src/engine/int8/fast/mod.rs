//! The fast executor: a program on the kernels of this CPU, in memory that is planned once.
//!
//! Invariant: the bytes of the reference, whatever the CPU. A run allocates its outputs, what the reference needs for a
//! step that has no kernel, and small buffers for inputs that are turned and for products that end in float.
//! Not here: threads (kernels hand out tiles; one thread takes them all here), what a step means (`reference`).
//!
//! Inside, a value of four axes lies in NHWC, others as they are; int8 is stored as the kernels want it. A region's
//! float inputs come in NCHW, and are turned as they are quantized.
//! Memory: values whose lives do not overlap share a slot; a slot is as large as the largest of its values.
//! Rejected: one arena with offsets (steps read and write it at once, which safe Rust does not express); padding of
//! channels to 16 (kernels may read beyond a pixel, for that meets zero weights).

mod kernel;
mod layout;
mod run;
mod slots;

use super::op::Op;
use super::program::{Program, Step, Type, ValueId};
use super::reference::{self, InputError};
use crate::kernels::Isa;
use kernel::Kernel;
use slots::{Home, Slots};
use std::sync::Arc;

/// A program made ready for one instruction set. Sessions share it.
#[derive(Debug)]
pub struct Plan {
    program: Arc<Program>,
    isa: Isa,
    /// One for each step.
    kernels: Vec<Kernel>,
    slots: Slots,
    /// Values of four axes that lie in NCHW.
    upright: Vec<ValueId>,
}

/// What one session needs to run a plan.
#[derive(Debug)]
pub struct State {
    bytes: Vec<Vec<u8>>,
    floats: Vec<Vec<f32>>,
    /// Scale and zero point of dynamic values, by slot of bytes.
    dynamic: Vec<(f32, i8)>,
}

impl Plan {
    /// What maps and packed weights of one model may take, in bytes.
    pub const BUDGET: usize = 1 << 30;

    /// `isa` must be available on this CPU; steps that its kernels do not know run by the reference.
    pub fn new(program: Arc<Program>, isa: Isa) -> Self {
        Self::within(program, isa, &mut { Self::BUDGET })
    }

    /// As `new`; kernels pay from the budget before they take memory, and steps that cannot run by the reference.
    pub fn within(program: Arc<Program>, isa: Isa, budget: &mut usize) -> Self {
        let slots = Slots::new(&program);
        let mut kernel = |step: &Step| match budget.checked_sub(kernel::cost(&program, step)) {
            Some(left) => {
                *budget = left;
                kernel::build(&program, step, isa)
            }
            None => Kernel::Reference,
        };
        let kernels = program.steps().iter().map(&mut kernel).collect();
        let upright = upright(&program);
        Self { program, isa, kernels, slots, upright }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Steps that run by the reference, by name.
    pub fn slow(&self) -> impl Iterator<Item = &'static str> {
        let each = self.program.steps().iter().zip(&self.kernels);
        each.filter(|(_, kernel)| matches!(kernel, Kernel::Reference)).map(|(step, _)| step.op.name())
    }

    /// Memory for one session, in bytes.
    pub fn memory(&self) -> usize {
        self.slots.bytes.iter().sum::<usize>() + self.slots.floats.iter().sum::<usize>() * 4
    }

    pub fn state(&self) -> State {
        let mut state = State {
            bytes: self.slots.bytes.iter().map(|&size| vec![0; size]).collect(),
            floats: self.slots.floats.iter().map(|&size| vec![0.0; size]).collect(),
            dynamic: vec![(1.0, 0); self.slots.bytes.len()],
        };
        for step in self.program.steps().iter().filter(|step| step.op.is_constant()) {
            let data = reference::run_step(&self.program, step, Vec::new());
            self.store(&mut state, step.output, &data);
        }
        state
    }

    /// Runs the program on little-endian bytes as ONNX tensors have them, NCHW; returns its outputs in the same form.
    ///
    /// # Errors
    /// When inputs do not have the number or sizes that the program states.
    pub fn run(&self, state: &mut State, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, InputError> {
        if inputs.len() != self.program.inputs().len() {
            return Err(InputError::Count { wanted: self.program.inputs().len(), found: inputs.len() });
        }
        for (index, (&id, bytes)) in self.program.inputs().iter().zip(inputs).enumerate() {
            self.enter(state, id, index, bytes)?;
        }
        for (step, kernel) in self.program.steps().iter().zip(&self.kernels) {
            self.step(state, step, kernel);
        }
        Ok(self.program.outputs().iter().map(|&id| self.leave(state, id)).collect())
    }

    fn home(&self, id: ValueId) -> Home {
        self.slots.homes[id.index()]
    }

    fn shape(&self, id: ValueId) -> &[usize] {
        &self.program.value(id).shape
    }

    /// Whether a value lies in NHWC.
    fn is_turned(&self, id: ValueId) -> bool {
        self.shape(id).len() == 4 && !self.upright.contains(&id)
    }
}

/// Float inputs that nothing but a quantization reads: it turns them.
fn upright(program: &Program) -> Vec<ValueId> {
    let quantized = |id: &ValueId| {
        let quantizes = |step: &Step| matches!(step.op, Op::Quantize | Op::DynamicQuantize);
        let all = program.steps().iter().all(|step| quantizes(step) || !step.inputs.contains(id));
        all && program.value(*id).ty == Type::F32 && !program.outputs().contains(id)
    };
    program.inputs().iter().copied().filter(quantized).collect()
}
