//! The fast executor: a program on the kernels of this CPU, in memory that is planned once.
//!
//! Invariant: the bytes of the reference, whatever the CPU and the number of threads. A run allocates nothing but what
//! the reference needs for a step that has no kernel.
//! Not here: what a step means (`reference`), threads (`kernels` has them; kernels hand out tiles).
//!
//! Inside, images lie in NHWC and all else as ONNX has it (`layout`); int8 is stored as the kernels want it.
//! Memory: values whose lives do not overlap share a slot; a slot is as large as the largest of its values.
//! Rejected: one arena with offsets (stages read and write it at once, which safe Rust does not express); padding of
//! channels to 16 (kernels may read beyond a pixel, for that meets zero weights).

mod aligned;
mod chain;
mod dense;
mod ends;
mod float;
mod kernel;
mod layout;
mod movement;
mod pointwise;
mod product;
mod profile;
mod run;
mod slots;
mod stage;
mod turn;
mod upright;
mod winograd;

pub use profile::StageFacts;
pub use stage::Stage;

use super::program::{Program, ValueId};
use super::reference::{self, InputError};
use crate::kernels::{Gemm, Isa, SharedWeights, Threads, words};
use aligned::Aligned;
use layout::Layout;
use product::Product;
use slots::{Home, Slots};
use stage::Builder;
use std::sync::{Arc, Mutex};

/// A program made ready for one instruction set. Sessions share it.
#[derive(Debug)]
pub struct Plan {
    program: Arc<Program>,
    isa: Isa,
    threads: Threads,
    /// By value.
    layouts: Vec<Layout>,
    stages: Vec<Stage>,
    products: Vec<Product>,
    slots: Slots,
    /// By value: the number of the input, or of the output, that it is read from or written to where it lies.
    borrowed: Vec<Option<usize>>,
    lent: Vec<Option<usize>>,
}

/// What one session needs to run a plan.
#[derive(Debug)]
pub struct State {
    bytes: Vec<Vec<u8>>,
    floats: Vec<Aligned>,
    /// Scale and zero point of dynamic values, by slot of bytes.
    dynamic: Vec<(f32, i8)>,
    scratch: Scratch,
}

/// What stages use besides values.
#[derive(Debug, Default)]
struct Scratch {
    /// A pixel of zero points that are known at run time.
    padding: Vec<u8>,
    /// What float taps in the padding read.
    zeros: Aligned,
    /// An image of floats with the padding around it.
    image: Aligned,
    /// By number of the product.
    products: Vec<Gemm>,
    /// Numbers that a thread works with: one for each thread.
    numbers: Mutex<Vec<Vec<i16>>>,
}

impl Plan {
    /// What maps and packed weights of one model may take, in bytes.
    pub const BUDGET: usize = 1 << 30;

    /// On one thread. `isa` must be available on this CPU; steps that its kernels do not know run by the reference.
    pub fn new(program: Arc<Program>, isa: Isa) -> Self {
        Self::within(program, isa, Threads::alone(), &mut { Self::BUDGET })
    }

    /// As `new`; kernels pay from the budget before they take memory, and steps that cannot run by the reference.
    pub fn within(program: Arc<Program>, isa: Isa, threads: Threads, budget: &mut usize) -> Self {
        Self::sharing(program, isa, threads, budget, &SharedWeights::default())
    }

    /// As `within`; packed weights that are equal to ones of other plans are had in common.
    pub fn sharing(
        program: Arc<Program>,
        isa: Isa,
        threads: Threads,
        budget: &mut usize,
        weights: &SharedWeights,
    ) -> Self {
        let program = upright::upright(program);
        let layouts = layout::layouts(&program);
        let mut builder = Builder { program: &program, layouts: &layouts, isa, budget, weights, products: Vec::new() };
        let stages = builder.stages();
        let products = builder.products;
        let borrowed = Self::borrowed(&program, &layouts);
        let lent = Self::lent(&program, &layouts, &stages);
        let outside: Vec<bool> = borrowed.iter().zip(&lent).map(|(a, b)| a.is_some() || b.is_some()).collect();
        let slots = Slots::new(&program, &layouts, &stages, &outside);
        // Kernels have packed what they need; the reference reads the file's own.
        let packed: Vec<bool> = packed_steps(&program, &stages);
        let program = Arc::new(program.without_weights(&packed));
        Self { program, isa, threads, layouts, stages, products, slots, borrowed, lent }
    }

    /// Without the weights that kernels have packed.
    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// In the order in which they run.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Steps that run by the reference, by name.
    pub fn slow(&self) -> impl Iterator<Item = &'static str> {
        let slow = self.stages.iter().filter(|stage| stage.is_slow());
        slow.flat_map(|stage| stage.steps.iter().map(|&step| self.program.steps()[step].op.name()))
    }

    /// Memory for one session, in bytes.
    pub fn memory(&self) -> usize {
        let products: usize = self.products.iter().map(Product::right).sum();
        let numbers = self.numbers() * size_of::<i16>() * self.threads.count();
        let floats = self.slots.floats.iter().chain(&self.floats()).map(|&count| Aligned::taken(count)).sum::<usize>();
        let floats = floats * size_of::<f32>();
        self.slots.bytes.iter().sum::<usize>() + floats + products + numbers
    }

    /// Zeros and values of a framed image, that one session works with at most.
    fn floats(&self) -> [usize; 2] {
        let scratch = self.stages.iter().map(|stage| stage.kernel.floats());
        scratch.fold([0; 2], |most, [zeros, image]| [most[0].max(zeros), most[1].max(image)])
    }

    /// That one thread works with at most.
    fn numbers(&self) -> usize {
        self.stages.iter().map(|stage| stage.kernel.numbers()).max().unwrap_or(0)
    }

    pub fn state(&self) -> State {
        let padding = self.stages.iter().map(|stage| stage.kernel.padding()).max().unwrap_or(0);
        let [zeros, image] = self.floats();
        let mut state = State {
            bytes: self.slots.bytes.iter().map(|&size| vec![0; size]).collect(),
            floats: self.slots.floats.iter().map(|&size| Aligned::zeroed(size)).collect(),
            dynamic: vec![(1.0, 0); self.slots.bytes.len()],
            scratch: Scratch {
                padding: vec![0; padding],
                zeros: Aligned::zeroed(zeros),
                image: Aligned::zeroed(image),
                products: self.products.iter().map(|product| product.gemm.clone()).collect(),
                numbers: Mutex::new(vec![vec![0; self.numbers()]; self.threads.count()]),
            },
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
        let sizes = self.program.outputs().iter().map(|&id| self.bytes_outside(id).unwrap_or(0));
        let mut outputs: Vec<Vec<u8>> = sizes.map(|size| vec![0; size]).collect();
        let mut places: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.run_into(state, inputs, &mut places, &mut |_| {})?;
        Ok(outputs)
    }

    /// As `run`, into outputs that have the sizes of the program's; allocates nothing where no step is [slow](Self::slow).
    /// `after` is told the number of each stage that ended, in order.
    ///
    /// # Errors
    /// When inputs do not have the number or sizes that the program states.
    ///
    /// # Panics
    /// When outputs do not.
    pub fn run_into(
        &self,
        state: &mut State,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        after: &mut dyn FnMut(usize),
    ) -> Result<(), InputError> {
        if inputs.len() != self.program.inputs().len() {
            return Err(InputError::Count { wanted: self.program.inputs().len(), found: inputs.len() });
        }
        assert_eq!(outputs.len(), self.program.outputs().len(), "outputs");
        for (&id, output) in self.program.outputs().iter().zip(&*outputs) {
            assert_eq!(Some(output.len()), self.bytes_outside(id), "bytes of an output");
        }
        for (index, (&id, bytes)) in self.program.inputs().iter().zip(inputs).enumerate() {
            self.enter(state, id, index, bytes)?;
        }
        if self.is_stray(inputs, outputs) {
            return self.run_moved(state, inputs, outputs, after);
        }
        for (number, stage) in self.stages.iter().enumerate() {
            self.stage(state, stage, inputs, outputs);
            after(number);
        }
        for (&id, output) in self.program.outputs().iter().zip(outputs) {
            self.leave(state, id, output);
        }
        Ok(())
    }

    /// Whether something that is read or written where it lies does not lie as floats do.
    fn is_stray(&self, inputs: &[&[u8]], outputs: &[&mut [u8]]) -> bool {
        let read = self.borrowed.iter().flatten().any(|&index| words::floats(inputs[index]).is_none());
        read || self.lent.iter().flatten().any(|&index| words::floats(&*outputs[index]).is_none())
    }

    /// On copies, which lie as floats do.
    fn run_moved(
        &self,
        state: &mut State,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        after: &mut dyn FnMut(usize),
    ) -> Result<(), InputError> {
        let room = |bytes: usize| vec![0.0; bytes.div_ceil(4)];
        let mut given: Vec<Vec<f32>> = inputs.iter().map(|bytes| room(bytes.len())).collect();
        for (to, bytes) in given.iter_mut().zip(inputs) {
            words::bytes_mut(to)[..bytes.len()].copy_from_slice(bytes);
        }
        let copies = given.iter_mut().zip(inputs);
        let inputs: Vec<&[u8]> = copies.map(|(copy, bytes)| &words::bytes_mut(copy)[..bytes.len()]).collect();
        let mut made: Vec<Vec<f32>> = outputs.iter().map(|output| room(output.len())).collect();
        let copies = made.iter_mut().zip(&*outputs);
        let mut places: Vec<&mut [u8]> =
            copies.map(|(copy, output)| &mut words::bytes_mut(copy)[..output.len()]).collect();
        self.run_into(state, &inputs, &mut places, after)?;
        outputs.iter_mut().zip(places).for_each(|(output, place)| output.copy_from_slice(place));
        Ok(())
    }

    fn home(&self, id: ValueId) -> Home {
        self.slots.homes[id.index()]
    }

    fn layout(&self, id: ValueId) -> Layout {
        self.layouts[id.index()]
    }

    fn shape(&self, id: ValueId) -> &[usize] {
        &self.program.value(id).shape
    }
}

/// By step: whether its stage runs on a kernel.
fn packed_steps(program: &Program, stages: &[Stage]) -> Vec<bool> {
    let mut packed = vec![false; program.steps().len()];
    let fast = stages.iter().filter(|stage| !stage.is_slow());
    fast.flat_map(|stage| &stage.steps).for_each(|&step| packed[step] = true);
    packed
}
