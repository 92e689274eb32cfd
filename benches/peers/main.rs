//! Selvedge's side of `benches/peers/run`: `peers int8|float THREADS` answers the lines that server.py describes.
//!
//! `int8` is the engine as it serves; `float` leaves int8 regions out, so that all of a graph is tract's.

#![allow(clippy::disallowed_methods, reason = "a bench times the real machine")]

use selvedge::engine::{Model, Session, Settings};
use selvedge::tensor::{Tensor, TensorSpec};
use std::io::BufRead as _;
use std::path::Path;
use std::time::Instant;

/// io.json, as zoo.py writes it.
#[derive(serde::Deserialize)]
struct Sides {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

/// As server.py has them.
fn values(directory: &Path, place: usize, spec: &TensorSpec) -> Tensor {
    if let Ok(bytes) = std::fs::read(directory.join(format!("input{place}.bin"))) {
        return Tensor::new(spec.datatype, spec.shape.clone(), bytes).unwrap();
    }
    let count = spec.shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 1000) as f64 / 250.0 - 2.0) as f32).collect();
    Tensor::from_f32(spec.shape.clone(), &values).unwrap()
}

struct Loaded {
    session: Session,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

fn load(directory: &Path, in_float: bool) -> (Loaded, f64) {
    let sides: Sides = serde_json::from_slice(&std::fs::read(directory.join("io.json")).unwrap()).unwrap();
    let start = Instant::now();
    let file = std::fs::read(directory.join("model.onnx")).unwrap();
    let model = match in_float {
        false => Model::load(&file, &sides.inputs, &sides.outputs).unwrap(),
        true => Model::load_float(&file, &sides.inputs, &sides.outputs).unwrap(),
    };
    let session = model.session().unwrap();
    let took = start.elapsed().as_secs_f64();
    let inputs = sides.inputs.iter().enumerate().map(|(place, spec)| values(directory, place, spec)).collect();
    (Loaded { session, inputs, outputs: Vec::new() }, took)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let [form, threads] = &asked[..] else {
        println!("peers: measured beside others; run: benches/peers/run");
        return;
    };
    Settings { threads: threads.parse().unwrap(), ..Settings::default() }.state().unwrap();
    let mut loaded = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let said = match (command, &mut loaded) {
            ("load", _) => {
                let (model, took) = load(Path::new(argument), form == "float");
                loaded = Some(model);
                serde_json::json!(took)
            }
            ("run", Some(Loaded { session, inputs, outputs })) => {
                let times = (0..argument.parse().unwrap()).map(|_| {
                    let start = Instant::now();
                    *outputs = session.run(inputs).unwrap();
                    start.elapsed().as_nanos() as u64
                });
                serde_json::json!(times.collect::<Vec<_>>())
            }
            ("output", Some(Loaded { outputs, .. })) => serde_json::json!(outputs[0].to_f64()),
            ("memory", _) => serde_json::json!(resident()),
            _ => panic!("{line}: not a command, or nothing loaded"),
        };
        println!("{said}");
    }
}
