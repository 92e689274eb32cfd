//! Which values share memory.

use super::super::program::{Program, Type, ValueId};
use super::layout::Layout;
use super::stage::Stage;

/// Where a value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    Bytes(usize),
    /// Floats and accumulators.
    Floats(usize),
    /// Nowhere here: no stage makes it, or it lies in the caller's memory.
    None,
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

/// The stage behind which a value is needed no more; `None` for what nothing reads, or what leaves.
fn last_uses(program: &Program, stages: &[Stage]) -> Vec<Option<usize>> {
    let mut last = vec![None; program.values().len()];
    for (index, stage) in stages.iter().enumerate() {
        stage.inputs.iter().for_each(|id| last[id.index()] = Some(index));
        // What nothing reads is free at once.
        last[stage.output.index()] = Some(index);
    }
    program.outputs().iter().for_each(|id| last[id.index()] = None);
    last
}

impl Slots {
    /// `outside` by value: those that lie in the caller's memory.
    pub fn new(program: &Program, layouts: &[Layout], stages: &[Stage], outside: &[bool]) -> Self {
        let (mut bytes, mut floats) = (Pool::default(), Pool::default());
        let mut homes = vec![Home::None; program.values().len()];
        let last = last_uses(program, stages);
        let mut settle = |id: ValueId, bytes: &mut Pool, floats: &mut Pool| {
            if outside[id.index()] {
                return Home::None;
            }
            let (value, layout) = (program.value(id), layouts[id.index()]);
            homes[id.index()] = match value.ty {
                Type::Int8(_) | Type::Dynamic => Home::Bytes(bytes.take(layout.bytes(&value.shape))),
                Type::F32 | Type::I32 => Home::Floats(floats.take(layout.count(&value.shape))),
            };
            homes[id.index()]
        };
        // Constants are written once, and inputs before the first step.
        let constants = program.steps().iter().filter(|step| step.op.is_constant()).map(|step| step.output);
        let mut made = vec![Home::None; program.values().len()];
        for id in constants {
            settle(id, &mut bytes, &mut floats);
        }
        for &id in program.inputs() {
            made[id.index()] = settle(id, &mut bytes, &mut floats);
        }
        for (index, stage) in stages.iter().enumerate() {
            made[stage.output.index()] = settle(stage.output, &mut bytes, &mut floats);
            for id in stage.inputs.iter().chain([&stage.output]).filter(|id| last[id.index()] == Some(index)) {
                // Taken, so that a value that is read twice is freed once.
                match std::mem::replace(&mut made[id.index()], Home::None) {
                    Home::Bytes(slot) => bytes.free.push(slot),
                    Home::Floats(slot) => floats.free.push(slot),
                    Home::None => {}
                }
            }
        }
        Self { homes, bytes: bytes.sizes, floats: floats.sizes }
    }
}
