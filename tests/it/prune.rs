//! `prune` as people and programs call it, on good data and on bad.

use crate::program::run_in as selvedge;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const FLOAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/digits.onnx");
const TRAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/train.npz");
const HELD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/held.npz");
const DATA: [&str; 4] = ["--data", TRAIN, "--scale", "0.0625"];

fn prune(dir: &Path, args: &[&str]) -> Output {
    selvedge(dir, &[&["prune", FLOAT][..], args].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_model_gets_smaller_and_is_quantized_and_served_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        prune(dir.path(), &[&DATA[..], &["--ratio", "0.4", "--multiple", "4", "--out", "small.onnx"]].concat());
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    for expected in ["conv2", "it is an output of the model", "multiplies", "test: after", "ms here"] {
        assert!(told.contains(expected), "{expected:?} in {told}");
    }
    assert!(told.ends_with("wrote small.onnx\n"), "{told}");
    let quantize =
        ["quantize", "small.onnx", "--data", TRAIN, "--scale", "0.0625", "--name", "digits", "--out", "int8"];
    assert!(selvedge(dir.path(), &quantize).status.success());
    let held = ["--data", HELD, "--scale", "0.0625", "--json"];
    let score = json(&selvedge(dir.path(), &[&["eval", "int8"][..], &held].concat()));
    assert!(score["value"].as_f64().unwrap() > 93.0, "{score}");
    // What is pruned and quantized is not pruned again.
    let again = selvedge(dir.path(), &["prune", "int8", "--out", "again.onnx"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("prune the float model"), "{again:?}");
}

#[test]
fn a_device_report_a_stop_rule_and_zeros_are_told_to_programs() {
    let dir = tempfile::tempdir().unwrap();
    let bench = selvedge(dir.path(), &["bench", FLOAT, "--runs", "20", "--json"]);
    std::fs::write(dir.path().join("board.json"), &bench.stdout).unwrap();
    let layers = json(&bench)["layers"].as_array().unwrap().clone();
    let ms: f64 = layers.iter().map(|layer| layer["ms"].as_f64().unwrap()).sum();
    // What lies between layers takes most of so small a network's time, and stays.
    let target = format!("{:.7}", ms * 0.85);
    let bound = ["--target-latency", &target, "--report", "board.json", "--epochs", "0", "--json", "--out", "a.onnx"];
    let told = json(&prune(dir.path(), &[&DATA[..], &bound].concat()));
    let estimated = told["estimated-ms"]["after"].as_f64().unwrap();
    assert!(estimated <= ms * 0.85 + 1e-6 && estimated > ms * 0.3, "{told}");
    let rule = ["--max-loss-rise", "0.02", "--steps", "6", "--epochs", "1", "--json", "--out", "b.onnx"];
    let output = prune(dir.path(), &[&DATA[..], &rule].concat());
    let told = json(&output);
    let rise = told["loss"]["after"].as_f64().unwrap() - told["loss"]["before"].as_f64().unwrap();
    assert!(output.status.success() && rise <= 0.02 && told["report"]["steps"].as_array().unwrap().len() > 1, "{told}");
    assert!(told["after"]["parameters"].as_u64() < told["before"]["parameters"].as_u64(), "{told}");
    // The same rule, but a target that it does not let be reached.
    let far = [&DATA[..], &rule[..6], &["--ratio", "0.94", "--json", "--out", "c.onnx"]].concat();
    let output = prune(dir.path(), &far);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(json(&output)["broken-bounds"][0].as_str().unwrap().contains("loss rises too much"));
    let zeros = ["--what", "weights", "--ratio", "0.8", "--json", "--out", "d.onnx"];
    let told = json(&prune(dir.path(), &[&DATA[..], &zeros].concat()));
    let [all, left] = ["parameters", "nonzero"].map(|name| told["after"][name].as_f64().unwrap());
    assert!((left / all - 0.2).abs() < 0.01, "{told}");
}

#[test]
fn bad_input_is_refused_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("other.json"), r#"{"layers": [{"node": "elsewhere", "ms": 1.0}]}"#).unwrap();
    std::fs::write(dir.path().join("no.json"), "no report").unwrap();
    std::fs::write(
        dir.path().join("bare.csv"),
        format!("{}\n{}\n", ["0.5"; 64].join(","), ["0.2"; 64].join(",")).repeat(9),
    )
    .unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["--measure", "taylor"], "--data"),
        (&["--ratio", "1.5"], "between 0 and 1"),
        (&["--multiple", "0"], "from 1 to 1024"),
        (&["--target-macs", "5"], "cannot be reached"),
        (&["--ignore", "conv*"], "ignored"),
        (&["--target-latency", "1", "--report", "other.json"], "measure this very model"),
        (&["--target-latency", "1", "--report", "no.json"], "does not read"),
        (&["--data", "bare.csv", "--epochs", "2"], "a label for each sample"),
        (&["--what", "weights", "--measure", "bn-scale"], "of channels"),
    ];
    for (args, expected) in cases {
        let output = prune(dir.path(), &[args, &["--out", "o.onnx"]].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {told}");
        assert!(told.starts_with("selvedge: ") && told.contains(expected), "{args:?}: {told}");
        assert!(!dir.path().join("o.onnx").exists() && !dir.path().join("o.onnx.new").exists(), "{args:?}");
    }
}
