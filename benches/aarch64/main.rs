//! Selvedge's side of `benches/aarch64/run`, which counts the guest's instructions under QEMU.
//!
//! `aarch64 MODEL_DIRECTORY RUNS` loads the model through the engine, warms it up, runs it RUNS times
//! between two marks in this one thread, and prints the output as a JSON list. Loading and warm-up are
//! outside. Without arguments it says what to run instead: by itself it measures nothing.

use selvedge::engine::{Model, Settings};
use selvedge::tensor::{Tensor, TensorSpec};
use std::path::Path;

const WARM_UP: usize = 2;

/// io.json, as benches/aarch64/models.py writes it.
#[derive(serde::Deserialize)]
struct Sides {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let [directory, runs] = &asked[..] else {
        println!("aarch64: counted under QEMU, with onnxruntime beside it; run: benches/aarch64/run");
        return;
    };
    // What a helper does would not be counted.
    Settings { threads: 1, ..Settings::default() }.state().unwrap();
    let (directory, runs) = (Path::new(directory), runs.parse().unwrap());
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
    let sides: Sides = serde_json::from_slice(&read("io.json")).unwrap();
    let model = Model::load(&read("model.onnx"), &sides.inputs, &sides.outputs).unwrap();
    let input = &sides.inputs[0];
    let input = [Tensor::new(input.datatype, input.shape.clone(), read("input.bin")).unwrap()];
    let mut session = model.session().unwrap();
    for _ in 0..WARM_UP {
        session.run(&input).unwrap();
    }
    let mut outputs = Vec::new();
    mark::start();
    for _ in 0..runs {
        outputs = session.run(&input).unwrap();
    }
    mark::stop();
    println!("{}", serde_json::json!(outputs[0].to_f64()));
}

/// What benches/aarch64/inscount.c looks for. Hints of these numbers mean nothing to any core.
#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "the marks have no other form than their instruction")]
mod mark {
    use std::arch::asm;

    pub fn start() {
        // SAFETY: an unallocated hint is a no-op: no register, flag or memory changes.
        unsafe { asm!("hint #0x60", options(nostack, preserves_flags)) }
    }

    pub fn stop() {
        // SAFETY: as above.
        unsafe { asm!("hint #0x61", options(nostack, preserves_flags)) }
    }
}

#[cfg(not(target_arch = "aarch64"))]
mod mark {
    pub fn start() {}
    pub fn stop() {}
}
