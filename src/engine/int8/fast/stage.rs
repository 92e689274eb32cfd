//! The steps of a program as an executor takes them: with their kernels, movements in a row as one.

use super::super::op::{Finish, Op};
use super::super::program::{Program, Step, Type, ValueId};
use super::chain;
use super::kernel::{self, Kernel};
use super::layout::Layout;
use super::product::Product;
use crate::kernels::{Isa, SharedWeights};

/// What makes one value.
#[derive(Debug)]
pub struct Stage {
    /// Numbers of the program's steps: one, or movements that follow one another, or a product and what follows it value by value.
    pub steps: Vec<usize>,
    /// What the first of them reads, then what those behind it read from elsewhere.
    pub inputs: Vec<ValueId>,
    pub output: ValueId,
    pub(super) kernel: Kernel,
}

impl Stage {
    /// Whether it runs by the reference.
    pub fn is_slow(&self) -> bool {
        matches!(self.kernel, Kernel::Reference)
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        self.kernel.name()
    }
}

/// What building stages takes from and adds to.
pub(super) struct Builder<'a> {
    pub program: &'a Program,
    pub layouts: &'a [Layout],
    pub isa: Isa,
    /// Bytes that kernels may still take.
    pub budget: &'a mut usize,
    pub weights: &'a SharedWeights,
    pub products: Vec<Product>,
}

impl Builder<'_> {
    pub fn stages(&mut self) -> Vec<Stage> {
        let readers = readers(self.program);
        let mut stages: Vec<Stage> = Vec::new();
        // By value: the movements that make it, first to last, which nobody else sees the inner values of.
        let mut chains: Vec<Vec<usize>> = vec![Vec::new(); self.program.values().len()];
        for (index, step) in self.program.steps().iter().enumerate().filter(|(_, step)| !step.op.is_constant()) {
            let moves = is_movement(self.program, step);
            let mut chain = self.taken(step, &mut chains, &mut stages);
            chain.push(index);
            let next = readers[step.output.index()].map(|reader| &self.program.steps()[reader]);
            let bounded = ends_in_float(&step.op) && next.is_some_and(is_bound);
            let first = &self.program.steps()[chain[0]].op;
            let follows = |next| chain::follows(self.program, self.layouts, step.output, next);
            let goes_on = first.float_weights().is_some() && next.is_some_and(follows);
            if bounded || goes_on || (moves && passes_on(self.program, step, next)) {
                chains[step.output.index()] = chain;
            } else {
                stages.push(self.stage(chain, step));
            }
        }
        stages
    }

    /// The chain that a step goes on with: the last one of its inputs'. Others end here.
    fn taken(&mut self, step: &Step, chains: &mut [Vec<usize>], stages: &mut Vec<Stage>) -> Vec<usize> {
        let waits = |id: &&ValueId| !chains[id.index()].is_empty();
        let last = step.inputs.iter().filter(waits).max_by_key(|id| chains[id.index()].last().copied()).copied();
        for id in &step.inputs {
            if Some(*id) != last && !chains[id.index()].is_empty() {
                let chain = std::mem::take(&mut chains[id.index()]);
                let last = chain.last().map(|&index| &self.program.steps()[index]);
                stages.extend(last.map(|last| self.stage(chain, last)));
            }
        }
        last.map_or_else(Vec::new, |id| std::mem::take(&mut chains[id.index()]))
    }

    fn stage(&mut self, steps: Vec<usize>, last: &Step) -> Stage {
        let each: Vec<&Step> = steps.iter().map(|&index| &self.program.steps()[index]).collect();
        let mut inputs = each.first().map_or_else(Vec::new, |first| first.inputs.clone());
        inputs.extend(chain::operands(self.program, &each));
        let cost = each.iter().map(|step| kernel::cost(self.program, self.isa, step)).fold(0, usize::saturating_add);
        let kernel = match self.budget.checked_sub(cost) {
            Some(left) => {
                *self.budget = left;
                kernel::build(self, &each, &inputs)
            }
            None => Kernel::Reference,
        };
        Stage { steps, inputs, output: last.output, kernel }
    }
}

/// By value: the only step that reads it, if there is one and the value does not leave.
fn readers(program: &Program) -> Vec<Option<usize>> {
    let mut counts = vec![0_usize; program.values().len()];
    let mut readers = vec![None; program.values().len()];
    for (index, step) in program.steps().iter().enumerate() {
        for id in &step.inputs {
            counts[id.index()] += 1;
            readers[id.index()] = Some(index);
        }
    }
    program.outputs().iter().for_each(|id| counts[id.index()] += 1);
    readers.iter().zip(counts).map(|(&reader, count)| reader.filter(|_| count == 1)).collect()
}

/// Whether the step only puts values elsewhere.
pub(super) fn is_movement(program: &Program, step: &Step) -> bool {
    step.op.is_movement() && matches!(program.value(step.output).ty, Type::Int8(_) | Type::Dynamic | Type::F32)
}

/// Whether the next movement can take this one in.
fn passes_on(program: &Program, step: &Step, next: Option<&Step>) -> bool {
    // Only one value is filled in for a whole chain.
    let fills = matches!(step.op, Op::Pad { .. });
    !fills && next.is_some_and(|next| is_movement(program, next) && !program.value(step.output).shape.is_empty())
}

/// Whether the step only bounds floats.
fn is_bound(step: &Step) -> bool {
    matches!(step.op, Op::Float(function) if kernel::bounds(function).is_some())
}

/// Whether the step is a product with weights that ends in float, and can take in bounds.
fn ends_in_float(op: &Op) -> bool {
    let finish = if let Op::Conv(conv) = op {
        &conv.finish
    } else if let Op::Linear(linear) = op {
        &linear.finish
    } else {
        return false;
    };
    matches!(finish, Finish::Float { .. })
}
