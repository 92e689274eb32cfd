//! Models with their weights in a file of their own, as every command that writes or reads a model has them. What a large
//! model needs is done here with a small one by `--max-file`. onnxruntime judges where there is a Python that has it:
//! SELVEDGE_PYTHON, or target/venv as tests/it/serve/clients.rs says.

use crate::program::{run_in as selvedge, text_in as text};
use crate::serve::clients::python;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress");
const SPLIT: [&str; 2] = ["--max-file", "4000"];

fn size(dir: &Path, name: &str) -> u64 {
    std::fs::metadata(dir.join(name)).map_or(0, |file| file.len())
}

/// A command on the digits, into a file of less than its weights.
fn split(dir: &Path, args: &[&str], out: &str) -> String {
    let [held, train] = ["held.npz", "train.npz"].map(|name| format!("{VECTORS}/{name}"));
    let data = if args[0] == "eval" || args[0] == "compare" { held } else { train };
    let told = text(dir, &[args, &["--data", &data, "--scale", "0.0625", "--json"][..]].concat());
    if !out.is_empty() {
        let beside = format!("{out}.data");
        assert!((1..12_000).contains(&size(dir, out)) && size(dir, &beside) > 4000, "{args:?}: {}", size(dir, out));
        assert_eq!((size(dir, &format!("{out}.new")), size(dir, &format!("{beside}.new"))), (0, 0));
    }
    told
}

#[test]
fn every_command_writes_weights_beside_a_model_that_would_be_too_large_and_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let float = format!("{VECTORS}/digits.onnx");
    let [out, more] = ["--out", "--epochs"];
    let prune = ["prune", &float, "--ratio", "0.2", more, "1", out, "pruned.onnx", SPLIT[0], SPLIT[1]];
    split(dir, &prune, "pruned.onnx");
    let tune = ["finetune", "pruned.onnx", more, "1", out, "tuned.onnx", SPLIT[0], SPLIT[1]];
    split(dir, &tune, "tuned.onnx");
    let distil = ["distil", &float, "--student", "tuned.onnx", more, "1", out, "taught.onnx", SPLIT[0], SPLIT[1]];
    split(dir, &distil, "taught.onnx");
    let told = split(dir, &["quantize", "taught.onnx", out, "int8.onnx", SPLIT[0], SPLIT[1]], "int8.onnx");
    let told: Value = serde_json::from_str(&told).unwrap();
    let written = |name: &str| size(dir, name) + size(dir, &format!("{name}.data"));
    assert_eq!(told["bytes"], written("int8.onnx"), "{told}");
    // The same in one file: the same answers.
    split(dir, &["quantize", "taught.onnx", out, "one.onnx"], "");
    assert_eq!(size(dir, "one.onnx.data"), 0);
    let compared: Value = serde_json::from_str(&split(dir, &["compare", "one.onnx", "int8.onnx"], "")).unwrap();
    assert_eq!(compared["agreement"]["value"], 100.0, "{compared}");
    assert!(compared["sqnr"]["value"].as_f64().is_some_and(|db| db >= 200.0), "{compared}");
    let scores = ["one.onnx", "int8.onnx"].map(|model| split(dir, &["eval", model], ""));
    assert_eq!(scores[0], scores[1]);
    for command in [&["inspect", "int8.onnx"][..], &["bench", "int8.onnx", "--runs", "3", "--compare", "float"]] {
        assert!(text(dir, command).contains("QuantizeLinear") || command[0] == "bench");
    }
    // A device takes one file.
    split(dir, &["quantize", "taught.onnx", out, "next", "--name", "digits"], "");
    assert!(size(dir, "next/model.onnx") > 10_000 && size(dir, "next/model.onnx.data") == 0);
    std::fs::remove_file(dir.join("int8.onnx.data")).unwrap();
    let refused = selvedge(dir, &["inspect", "int8.onnx"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && told.contains("int8.onnx.data") && told.contains("hint"), "{told}");
}

#[test]
fn a_plan_takes_a_model_of_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let float = format!("{VECTORS}/digits.onnx");
    let prune = ["prune", &float, "--ratio", "0.2", "--epochs", "0", "--out", "m.onnx", SPLIT[0], SPLIT[1]];
    split(dir.path(), &prune, "m.onnx");
    let plan = format!(
        "model = 'm.onnx'\ndata = '{VECTORS}/train.npz'\nscale = 0.0625\nout = 'int8.onnx'\n[[step]]\ndo = 'quantize'\n"
    );
    std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    let told: Value = serde_json::from_str(&text(dir.path(), &["compress", "plan.toml", "--json"])).unwrap();
    assert_eq!(told["after"]["cost"]["bytes"], size(dir.path(), "int8.onnx"), "{told}");
}

const JUDGE: &str = "
import sys
import numpy as np, onnx, onnxruntime
x = np.load(sys.argv[3])
x = next(x[name] for name in x.files if name != 'labels').astype(np.float32) * 0.0625
def answers(path):
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    port, = session.get_inputs()
    return np.concatenate([session.run(None, {port.name: one.reshape(1, *port.shape[1:])})[0] for one in x[:50]])
one, two = (answers(path) for path in sys.argv[1:3])
assert np.isfinite(one).all() and (one == two).all()
places = 0
for tensor in onnx.load(sys.argv[2], load_external_data=False).graph.initializer:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if entries:
        assert entries['location'] == sys.argv[2] + '.data' and int(entries['offset']) % 4096 == 0 and int(entries['length']) > 0
        places += 1
print(places, one.argmax(1).tolist())
";

#[test]
fn onnxruntime_loads_both_files_and_answers_as_with_one() {
    let python = python();
    let dir = tempfile::tempdir().unwrap();
    let (float, held) = (format!("{VECTORS}/digits.onnx"), format!("{VECTORS}/held.npz"));
    for how in
        [&["--form", "static"][..], &["--form", "dynamic"], &["--bits", "4", "--store-int4", "--rounding", "nearest"]]
    {
        split(dir.path(), &[&["quantize", &float, "--out", "one.onnx"][..], how].concat(), "");
        split(dir.path(), &[&["quantize", &float, "--out", "two.onnx"][..], &SPLIT, how].concat(), "");
        let judge = ["-c", JUDGE, "one.onnx", "two.onnx", &held];
        let told = Command::new(&python).args(judge).current_dir(dir.path()).output().unwrap();
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.success() && !text.starts_with('0'), "{how:?}: {told:?}");
        let (_, theirs) = text.trim().split_once(' ').unwrap();
        let theirs: Vec<usize> = serde_json::from_str(theirs).unwrap();
        // Ours, of the same samples: classes as they are labelled are met as often.
        let data = npy_labels(&held);
        let right = theirs.iter().zip(&data).filter(|(a, b)| a == b).count();
        assert!(right >= 46, "{how:?}: {right} of 50");
    }
}

/// The labels of the digits that are held out.
fn npy_labels(path: &str) -> Vec<usize> {
    let mut file = npyz::npz::NpzArchive::open(path).unwrap();
    let labels = file.by_name("labels").unwrap().unwrap();
    labels.into_vec::<u8>().unwrap().into_iter().map(usize::from).collect()
}
