//! `quantize`, `eval` and `compare` as people and programs call them, on good data and on bad.

use crate::program::{run_in as selvedge, text_in as text};
use serde_json::Value;
use std::path::Path;

const FLOAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/digits.onnx");
const SKEWED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/digits-skewed.onnx");
const TRAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/train.npz");
const HELD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/held.npz");
const SCALE: [&str; 2] = ["--scale", "0.0625"];

fn refusal(dir: &Path, args: &[&str]) -> String {
    let output = selvedge(dir, args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {told}");
    assert!(told.starts_with("selvedge: ") && !told.contains("panicked") && told.len() < 4000, "{told}");
    told
}

#[test]
fn a_float_model_becomes_an_int8_one_that_keeps_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let quantize = ["quantize", FLOAT, "--data", TRAIN, SCALE[0], SCALE[1], "--out", "int8.onnx", "--plot", "loss.svg"];
    let told = text(dir.path(), &quantize);
    assert!(told.contains("conv2") && told.contains("test: int8") && told.ends_with("wrote int8.onnx\n"), "{told}");
    assert!(std::fs::read_to_string(dir.path().join("loss.svg")).unwrap().starts_with("<svg"));
    let held = ["--data", HELD, SCALE[0], SCALE[1], "--json"];
    let score: Value = serde_json::from_str(&text(dir.path(), &[&["eval", "int8.onnx"][..], &held].concat())).unwrap();
    assert!(score["value"].as_f64().unwrap() > 97.0 && score["samples"] == 370, "{score}");
    let compared = text(dir.path(), &[&["compare", FLOAT, "int8.onnx"][..], &held].concat());
    let compared: Value = serde_json::from_str(&compared).unwrap();
    assert!(
        compared["agreement"]["value"].as_f64().unwrap() > 98.0 && compared["size-ratio"].as_f64().unwrap() < 0.4,
        "{compared}"
    );
    let inspected = text(dir.path(), &["inspect", "int8.onnx"]);
    assert!(inspected.contains("QuantizeLinear"), "{inspected}");
}

#[test]
fn a_directory_is_ready_to_serve_and_holds_no_data_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let quantize = |out: &str, more: &[&str]| {
        let args = ["quantize", FLOAT, "--data", TRAIN, SCALE[0], SCALE[1], "--name", "digits", "--out", out];
        text(dir.path(), &[&args[..], more].concat());
        std::fs::read(dir.path().join(out).join("golden.safetensors")).unwrap()
    };
    let noise = quantize("noise", &[]);
    let data = quantize("data", &["--golden-from-data"]);
    // Pixels are sixteenths.
    let sixteenths = |file: &[u8]| {
        let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
        let image = tensors.tensor("0.in.image").unwrap();
        image.data().as_chunks::<4>().0.iter().all(|word| (f32::from_le_bytes(*word) * 16.0).fract() == 0.0)
    };
    assert_eq!([sixteenths(&noise), sixteenths(&data)], [false, true]);
    assert!(text(dir.path(), &["bench", "noise", "--runs", "3"]).contains("digits version 1"));
    let onto = ["quantize", FLOAT, "--form", "dynamic", "--name", "digits", "--out", "noise"];
    assert!(refusal(dir.path(), &onto).contains("there is something in noise"));
    assert!(refusal(dir.path(), &["quantize", FLOAT, "--form", "dynamic", "--out", "new"]).contains("state --name"));
    let again = ["quantize", "noise", "--form", "weights-only", "--out", "next"];
    assert!(refusal(dir.path(), &again).contains("quantized already"));
}

#[test]
fn bounds_that_are_not_kept_are_told_by_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let base =
        ["quantize", SKEWED, "--data", TRAIN, SCALE[0], SCALE[1], "--json", "--out", "a.onnx", "--low-bits", "4"];
    let output = selvedge(dir.path(), &[&base[..], &["--max-bytes", "100"]].concat());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told["broken-bounds"][0].as_str().unwrap().contains("over 100"), "{told}");
    assert!(refusal(dir.path(), &base).contains("--max-bytes or --max-drop"));
}

#[test]
fn bad_input_is_refused_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.onnx"), b"no model").unwrap();
    std::fs::write(dir.path().join("one.csv"), format!("{}\n", ["0.5"; 64].join(","))).unwrap();
    std::fs::write(dir.path().join("same.csv"), format!("{},3\n", ["0.5"; 64].join(",")).repeat(9)).unwrap();
    std::fs::write(dir.path().join("nan.csv"), format!("{}\n", ["nan"; 64].join(",")).repeat(9)).unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["quantize", "bad.onnx", "--form", "dynamic", "--out", "o.onnx"], "hint"),
        (&["quantize", FLOAT, "--out", "o.onnx"], "needs calibration data"),
        (&["quantize", FLOAT, "--data", "absent.npz", "--out", "o.onnx"], "absent.npz"),
        (&["quantize", FLOAT, "--data", "nan.csv", "--out", "o.onnx"], "NaN"),
        (&["quantize", FLOAT, "--data", "one.csv", "--out", "o.onnx"], "no samples in this part"),
        (&["quantize", FLOAT, "--data", TRAIN, "--bits", "5", "--out", "o.onnx"], "8, 4, 3 or 2"),
        (&["eval", FLOAT, "--data", "same.csv"], "one class"),
        (&["eval", FLOAT, "--data", "one.csv"], "--reference"),
    ];
    for (args, expected) in cases {
        let told = refusal(dir.path(), args);
        assert!(told.contains(expected), "{args:?}: {told}");
        assert!(!dir.path().join("o.onnx").exists() && !dir.path().join("o.onnx.new").exists(), "{args:?}");
    }
}

#[test]
fn what_has_learnt_nothing_is_written_but_not_published() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there: whoever tried to publish would say so.
    let to = ["--publish-to", "shop", "--broker", "mqtt://127.0.0.1:1", "--out", "next", "--name", "digits"];
    let output =
        selvedge(dir.path(), &[&["finetune", FLOAT, "--epochs", "0", "--data", TRAIN][..], &SCALE, &to].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("not published") && told.contains("no better"), "{told}");
    assert!(dir.path().join("next/manifest.toml").exists());
}
