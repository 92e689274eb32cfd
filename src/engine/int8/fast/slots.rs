//! Which values share memory.

use super::super::program::{Program, Type, ValueId};
use super::super::reference::last_uses;
use crate::kernels::SLACK;

/// Where a value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    Bytes(usize),
    /// Floats and accumulators.
    Floats(usize),
}

#[derive(Debug)]
pub(super) struct Slots {
    /// By value.
    pub homes: Vec<Home>,
    /// Size of each slot, with slack.
    pub bytes: Vec<usize>,
    /// Floats in each slot.
    pub floats: Vec<usize>,
}

/// Slots of one kind, and those that are free.
#[derive(Debug, Default)]
struct Pool {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Pool {
    /// The free slot that fits best, grown where none is large enough.
    fn take(&mut self, size: usize) -> usize {
        let fits = |&at: &usize| (self.sizes[self.free[at]] < size, self.sizes[self.free[at]].abs_diff(size));
        let Some(at) = (0..self.free.len()).min_by_key(fits) else {
            self.sizes.push(size);
            return self.sizes.len() - 1;
        };
        let slot = self.free.swap_remove(at);
        self.sizes[slot] = self.sizes[slot].max(size);
        slot
    }
}

impl Slots {
    pub fn new(program: &Program) -> Self {
        let (mut bytes, mut floats) = (Pool::default(), Pool::default());
        let mut homes = vec![Home::Bytes(usize::MAX); program.values().len()];
        let last = last_uses(program);
        let mut settle = |id: ValueId, bytes: &mut Pool, floats: &mut Pool| {
            let value = program.value(id);
            homes[id.index()] = match value.ty {
                Type::Int8(_) | Type::Dynamic => Home::Bytes(bytes.take(value.count() + SLACK)),
                Type::F32 | Type::I32 => Home::Floats(floats.take(value.count())),
            };
            homes[id.index()]
        };
        // Constants are written once, and inputs before the first step.
        let constants = program.steps().iter().filter(|step| step.op.is_constant()).map(|step| step.output);
        for id in program.inputs().iter().copied().chain(constants) {
            settle(id, &mut bytes, &mut floats);
        }
        let mut made = vec![None; program.values().len()];
        for (index, step) in program.steps().iter().enumerate().filter(|(_, step)| !step.op.is_constant()) {
            made[step.output.index()] = Some(settle(step.output, &mut bytes, &mut floats));
            for id in step.inputs.iter().chain([&step.output]) {
                let unread = last[id.index()] == usize::MAX && *id == step.output && !program.outputs().contains(id);
                if last[id.index()] == index || unread {
                    // Taken, so that a value that is read twice is freed once.
                    match made[id.index()].take() {
                        Some(Home::Bytes(slot)) => bytes.free.push(slot),
                        Some(Home::Floats(slot)) => floats.free.push(slot),
                        None => {}
                    }
                }
            }
        }
        Self { homes, bytes: bytes.sizes, floats: floats.sizes }
    }
}
