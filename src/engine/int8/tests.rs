//! Held against onnxruntime, case by case: `tests/vectors/int8/make.py` says what each case is.

mod faults;
mod float;
mod float_nets;
pub(super) mod hand;
mod hostile;
mod random;
mod shuffles;

use super::fast::Plan;
use super::lower::{DOMAIN, Lowered, lower};
use super::program::Program;
use super::reference::run_bytes;
use crate::kernels::{Isa, Threads};
use crate::onnx::graph::{Graph, NodeId, ValueId};
use crate::onnx::normalise::normalise;
use crate::onnx::shapes::{Facts, InputShapes};
use crate::onnx::{Limits, Model};
use float::Value;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

/// What the generator notes of a case.
#[derive(Debug, Deserialize)]
struct Case {
    compare: String,
    lsb: f64,
    #[expect(dead_code, reason = "for readers of the file")]
    why: String,
    whole: bool,
    step: f64,
    relative: f64,
}

/// How far a case is from onnxruntime, in steps of the output's scale.
struct Difference {
    largest: f64,
    share: f64,
}

fn vectors() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/int8/vectors.safetensors");
    std::fs::read(path).unwrap()
}

/// A model as the engine will have it: regions, and what stays.
fn lowered(bytes: &[u8], shapes: &InputShapes) -> Result<(Model, Facts, Lowered), String> {
    let mut model = Model::from_bytes(bytes, &Limits::default()).map_err(|e| e.to_string())?;
    let facts = normalise(&mut model, shapes).map_err(|e| e.to_string())?;
    let lowered = lower(&mut model, &facts, 0).map_err(|e| format!("{e}: {:?}", std::error::Error::source(&e)))?;
    Ok((model, facts, lowered))
}

/// Runs regions by the reference, and the rest by a small interpreter.
fn execute(
    graph: &Graph,
    facts: &Facts,
    lowered: &Lowered,
    inputs: HashMap<ValueId, Value>,
) -> Result<HashMap<ValueId, Value>, String> {
    let mut values = inputs;
    for id in graph.order().map_err(|e| e.to_string())? {
        let made = if graph.node(id).unwrap().domain == DOMAIN {
            region(graph, id, lowered, &values)?
        } else {
            float::evaluate(graph, facts, graph.node(id).unwrap(), &values)?
        };
        for (output, value) in graph.node(id).unwrap().outputs.iter().zip(made) {
            values.extend(output.map(|output| (output, value)));
        }
    }
    Ok(values)
}

fn region(
    graph: &Graph,
    id: NodeId,
    lowered: &Lowered,
    values: &HashMap<ValueId, Value>,
) -> Result<Vec<Value>, String> {
    let node = graph.node(id).unwrap();
    let program = &lowered.regions[node.int("region").unwrap() as usize];
    let read = |value: ValueId| float::read(graph, values, value).map(|value| value.bytes);
    let inputs: Vec<Vec<u8>> = node.inputs.iter().flatten().map(|&v| read(v)).collect::<Result<_, _>>()?;
    let slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let outputs = run_bytes(program, &slices).map_err(|e| e.to_string())?;
    on_kernels(program, &slices, &outputs)?;
    let shapes = program.outputs().iter().map(|&id| program.value(id).shape.clone());
    Ok(outputs.into_iter().zip(shapes).map(|(bytes, shape)| Value { bytes, shape }).collect())
}

/// The fast executor gives the reference's bytes, on every instruction set of this CPU, alone and with helpers, run
/// after run.
fn on_kernels(program: &Program, inputs: &[&[u8]], wanted: &[Vec<u8>]) -> Result<(), String> {
    static HELPED: LazyLock<Threads> = LazyLock::new(|| Threads::new(3).unwrap());
    let program = Arc::new(program.clone());
    let plans = Isa::available().iter().flat_map(|&isa| [(isa, Threads::alone()), (isa, HELPED.clone())]);
    for (isa, threads) in plans {
        let count = threads.count();
        let plan = Plan::within(Arc::clone(&program), isa, threads, &mut { Plan::BUDGET });
        let mut state = plan.state();
        for run in 0..2 {
            let found = plan.run(&mut state, inputs).map_err(|e| e.to_string())?;
            if found != wanted {
                let differ = |index: &usize| found[*index] != wanted[*index];
                let outputs: Vec<_> = (0..wanted.len()).filter(differ).map(|i| program.outputs()[i]).collect();
                let outputs = outputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "{isa} on {count} threads: {outputs} is not the reference's in run {run} of\n{program}"
                ));
            }
        }
    }
    Ok(())
}

/// The model's outputs by name.
fn run_case(tensors: &SafeTensors, name: &str, case: &Case) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let model = tensors.tensor(&format!("{name}/model")).unwrap();
    let prefix = format!("{name}/in/");
    let given: Vec<_> = tensors.iter().filter_map(|(key, view)| Some((key.strip_prefix(&prefix)?, view))).collect();
    let shapes = given.iter().map(|(key, view)| ((*key).to_owned(), view.shape().to_vec())).collect();
    let (model, facts, lowered) = lowered(model.data(), &shapes)?;
    let left: Vec<String> = lowered.kept.iter().map(|kept| format!("{}: {}", kept.node, kept.reason)).collect();
    if case.whole && !left.is_empty() {
        return Err(format!("stays in float: {}", left.join("; ")));
    }
    let mut inputs = HashMap::new();
    for port in &model.graph.inputs {
        let (_, view) = given.iter().find(|(key, _)| *key == port.name).ok_or("an input is missing")?;
        inputs.insert(port.value, Value { bytes: view.data().to_vec(), shape: view.shape().to_vec() });
    }
    let values = execute(&model.graph, &facts, &lowered, inputs)?;
    let output = |port: &crate::onnx::graph::Port| {
        Ok((port.name.clone(), float::read(&model.graph, &values, port.value)?.bytes))
    };
    model.graph.outputs.iter().map(output).collect()
}

fn compare(tensors: &SafeTensors, name: &str, case: &Case) -> Result<Difference, String> {
    let outputs = run_case(tensors, name, case)?;
    let mut difference = Difference { largest: 0.0, share: 0.0 };
    for (key, bytes) in outputs {
        let off = tensors.tensor(&format!("{name}/off/{key}")).ok().filter(|_| case.compare == "off");
        let view = off.or_else(|| tensors.tensor(&format!("{name}/all/{key}")).ok()).ok_or("no such output")?;
        let (wanted, found) = (numbers(view.data(), view.dtype()), numbers(&bytes, view.dtype()));
        if wanted.len() != found.len() {
            return Err(format!("{key}: {} values, {} wanted", found.len(), wanted.len()));
        }
        let largest = wanted.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        let step = if view.dtype() != Dtype::F32 {
            1.0
        } else if case.relative > 0.0 {
            largest * case.relative
        } else {
            case.step
        };
        // Floats that stand for int8 values differ by whole steps.
        let steps = |(a, b): (&f64, &f64)| {
            let steps = if a == b { 0.0 } else { (a - b).abs() / step };
            if case.relative > 0.0 { (steps - 1.0).max(0.0) } else { (steps * 1000.0).round() / 1000.0 }
        };
        let steps: Vec<f64> = wanted.iter().zip(&found).map(steps).collect();
        let share = steps.iter().filter(|steps| **steps > 0.0).count() as f64 / steps.len() as f64;
        difference.share = difference.share.max(share);
        difference.largest = steps.into_iter().fold(difference.largest, |a, b| if b.is_nan() { b } else { a.max(b) });
    }
    Ok(difference)
}

fn numbers(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    if dtype == Dtype::F32 {
        return bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    }
    let signed = dtype == Dtype::I8;
    bytes.iter().map(|&b| if signed { f64::from(b.cast_signed()) } else { f64::from(b) }).collect()
}

/// Prints a line for each case; `EXACT=<part of a name>` chooses cases.
#[test]
fn regions_give_what_onnxruntime_gives() {
    let bytes = vectors();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases: BTreeMap<&String, &String> = header.metadata().as_ref().unwrap().iter().collect();
    assert!(cases.len() > 200, "only {} cases", cases.len());
    let wanted = std::env::var("EXACT").unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, text) in cases.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let case: Case = serde_json::from_str(text).unwrap();
        let line = match compare(&tensors, name, &case) {
            Ok(found) => {
                let line = format!("{name}: {} LSB in {:.2} % of values", found.largest, 100.0 * found.share);
                if found.largest.is_nan() || found.largest > case.lsb {
                    wrong.push(format!("{line} ({} allowed)", case.lsb));
                }
                line
            }
            Err(problem) => {
                wrong.push(format!("{name}: {problem}"));
                continue;
            }
        };
        println!("{line}");
    }
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_quantization_is_left_to_the_float_engine() {
    let bytes = vectors();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in tensors.iter().filter(|(name, _)| name.ends_with("/model")) {
        let (_, _, lowered) = lowered(view.data(), &InputShapes::new()).unwrap();
        assert_eq!(lowered.quantizers, [""; 0], "{name}");
    }
}

/// Every step of every case has a kernel on this CPU; what has none is slow, and `inspect` says so.
#[test]
fn nothing_runs_by_the_reference() {
    let bytes = vectors();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut slow = Vec::new();
    for (name, view) in tensors.iter().filter(|(name, _)| name.ends_with("/model")) {
        let (_, _, lowered) = lowered(view.data(), &InputShapes::new()).unwrap();
        for region in lowered.regions {
            let plan = Plan::new(Arc::new(region), Isa::best());
            slow.extend(plan.slow().map(|step| format!("{name}: {step}")));
        }
    }
    assert_eq!(slow, [""; 0], "{} steps", slow.len());
}
