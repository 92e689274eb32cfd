#![allow(unsafe_code, reason = "an allocator that counts")]
//! A run of an int8 region allocates nothing once its state is there: counted by the allocator of this program.

use selvedge::engine::int8::fast::Plan;
use selvedge::engine::int8::lower;
use selvedge::kernels::{Isa, Threads};
use selvedge::onnx::normalise::normalise;
use selvedge::onnx::{Limits, Model};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Regions of every model of the vectors, and of the shipped ones.
fn plans(threads: &Threads) -> Vec<(String, Plan)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let vectors = std::fs::read(format!("{root}tests/vectors/int8/vectors.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&vectors).unwrap();
    let mut models: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .filter_map(|(key, view)| Some((key.strip_suffix("/model")?.to_owned(), view.data().to_vec())))
        .collect();
    models.push(("digits".into(), std::fs::read(format!("{root}models/digits/model.onnx")).unwrap()));
    let mut plans = Vec::new();
    for (name, bytes) in models {
        let mut model = Model::from_bytes(&bytes, &Limits::default()).unwrap();
        let Ok(facts) = normalise(&mut model, &[].into()) else { continue };
        for program in lower(&mut model, &facts, 0).unwrap().regions {
            let plan = Plan::within(Arc::new(program), Isa::best(), threads.clone(), &mut { Plan::BUDGET });
            plans.push((name.clone(), plan));
        }
    }
    plans
}

// One test alone: another's allocations would count.
#[test]
fn a_run_allocates_nothing() {
    let mut quiet = 0;
    for threads in [Threads::alone(), Threads::new(2).unwrap()] {
        for (name, plan) in plans(&threads) {
            if plan.slow().next().is_some() {
                continue;
            }
            let ends = |ids: &[_]| ids.iter().map(|&id| plan.bytes_outside(id).unwrap()).collect::<Vec<_>>();
            // As words, so that floats are aligned.
            let room = |bytes: &usize| vec![0.0_f32; bytes.div_ceil(4)];
            let (inputs, outputs) = (ends(plan.program().inputs()), ends(plan.program().outputs()));
            let mut given: Vec<Vec<f32>> = inputs.iter().map(room).collect();
            let mut made: Vec<Vec<f32>> = outputs.iter().map(room).collect();
            let bytes = selvedge::kernels::words::bytes_mut;
            let given: Vec<&[u8]> = given.iter_mut().zip(&inputs).map(|(v, &n)| &bytes(v)[..n]).collect();
            let mut made: Vec<&mut [u8]> = made.iter_mut().zip(&outputs).map(|(v, &n)| &mut bytes(v)[..n]).collect();
            let mut state = plan.state();
            let mut run = || plan.run_into(&mut state, &given, &mut made, &mut |_| {}).unwrap();
            run();
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            (0..3).for_each(|_| run());
            let allocated = ALLOCATIONS.load(Ordering::SeqCst) - before;
            assert_eq!(allocated, 0, "allocations in three runs of a region of {name}, {}", threads.count());
            quiet += 1;
        }
    }
    assert!(quiet > 200, "only {quiet} regions without slow steps");
    println!("{quiet} regions");
}
