//! `inspect` and `bench` as people and programs call them, on good files and on bad ones.

use crate::program;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits");
const ONNX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits/model.onnx");

fn selvedge(args: &[&str]) -> Output {
    program::selvedge().args(args).env_remove("SELVEDGE_ISA").output().unwrap()
}

fn text(args: &[&str]) -> String {
    let output = selvedge(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&text(args)).unwrap()
}

/// What is told of a failure, which has a hint and nothing on standard output.
fn refusal(args: &[&str]) -> String {
    let output = selvedge(args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {told}");
    assert!(told.starts_with("selvedge: ") && told.contains("\nhint: "), "{args:?}: {told}");
    assert!(!told.contains("panicked") && told.len() < 4000, "{told}");
    told
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number_field(field: usize, value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value, &mut out);
    out
}

fn field(field: usize, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3 | 2, &mut out);
    varint(value.len(), &mut out);
    out.extend_from_slice(value);
    out
}

/// An input (field 11) or output (12) of an element type; dimensions are numbers or names.
fn end(at: usize, name: &str, element: usize, dims: &[&str]) -> Vec<u8> {
    let dim = |dim: &&str| match dim.parse() {
        Ok(size) => field(1, &number_field(1, size)),
        Err(_) => field(1, &field(2, dim.as_bytes())),
    };
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    let tensor = [number_field(1, element), field(2, &shape)].concat();
    field(at, &[field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat())
}

/// `y = op(x)` in an ONNX file.
fn unary(op: &str, element: usize, dims: &[&str], input: &str) -> Vec<u8> {
    let node = field(1, &[field(1, input.as_bytes()), field(2, b"y"), field(4, op.as_bytes())].concat());
    let graph = [node, end(11, input, element, dims), end(12, "y", element, dims)].concat();
    [number_field(1, 8), field(7, &graph), field(8, &number_field(2, 13))].concat()
}

/// A file in `dir`, by its whole path.
fn written(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn inspect_shows_what_runs_in_int8_by_which_kernels() {
    let shown = text(&["inspect", DIGITS, "--all", "--program"]);
    for part in ["digits version 1", "235.5 k MACs in 1 region", "image", "1x1x8x8", "QuantizeLinear", "indirect GEMM"]
    {
        assert!(shown.contains(part), "no {part:?}: {shown}");
    }
    assert!(shown.contains("steps of region 0") && shown.contains("= conv %"), "{shown}");
    assert!(shown.contains("the best of this CPU"), "{shown}");
}

#[test]
fn inspects_json_keeps_its_keys() {
    let told = json(&["inspect", DIGITS, "--json"]);
    let top = "engine file float float-macs inputs macs memory model not-int8 notes operators outputs regions release";
    assert_eq!(keys(&told), top.split(' ').collect());
    assert_eq!(keys(&told["engine"]), BTreeSet::from(["available", "isa", "isa-because", "threads"]));
    assert_eq!(keys(&told["file"]), BTreeSet::from(["bytes", "ir-version", "opsets", "producer"]));
    assert_eq!(keys(&told["memory"]), BTreeSet::from(["float-weights", "int8-state", "int8-weights"]));
    assert_eq!(keys(&told["operators"][0]), BTreeSet::from(["file", "float", "int8", "operator"]));
    let region = &told["regions"][0];
    assert_eq!(keys(region), BTreeSet::from(["float-macs", "macs", "packed", "stages", "state", "weights"]));
    let stage = "activations float-macs isa kernel macs node operator packed shape slow weights";
    assert_eq!(keys(&region["stages"][0]), stage.split(' ').collect());
    assert_eq!(region["stages"][1]["node"], "conv1");
    let macs: u64 = region["stages"].as_array().unwrap().iter().map(|stage| stage["macs"].as_u64().unwrap()).sum();
    assert_eq!((macs, &told["macs"]), (235_520, &region["macs"]));
    assert_eq!(told["operators"][0], serde_json::json!({ "operator": "Conv", "file": 3, "int8": 3, "float": 0 }));
    assert_eq!((&told["not-int8"], &told["float"]), (&Value::Null, &serde_json::json!([])));
    assert_eq!(told["file"]["bytes"].as_u64(), Some(std::fs::metadata(ONNX).unwrap().len()));
    assert!(json(&["inspect", DIGITS, "--json", "--program"])["programs"][0].as_str().unwrap().contains("= linear"));
}

#[test]
fn an_open_batch_is_one_and_said_and_other_open_sizes_are_asked_for() {
    let told = json(&["inspect", ONNX, "--json"]);
    assert_eq!(told["inputs"][0]["shape"], serde_json::json!([1, 1, 8, 8]));
    let four = json(&["inspect", ONNX, "--json", "--shape", "image=4x1x8x8"]);
    assert_eq!(four["outputs"][0]["shape"], serde_json::json!([4, 10]));
    assert_eq!(four["macs"].as_u64(), Some(4 * 235_520));

    let dir = tempfile::tempdir().unwrap();
    let batch = written(dir.path(), "batch.onnx", &unary("Relu", 1, &["batch", "4"], "x"));
    let told = text(&["inspect", &batch]);
    assert!(told.contains("note: input \"x\" leaves its first dimension open: 1 here"), "{told}");
    let open = written(dir.path(), "open.onnx", &unary("Relu", 1, &["1", "3", "H", "W"], "x"));
    let told = refusal(&["inspect", &open]);
    assert!(
        told.contains("input \"x\" has the shape [1, 3, H, W]") && told.contains("--shape 'x=1x3x224x224'"),
        "{told}"
    );
    assert_eq!(json(&["inspect", &open, "--json", "--shape", "x=1x3x5x7"])["outputs"][0]["shape"][3], 7);
}

#[test]
fn a_model_that_is_not_quantized_says_so_and_is_measured_in_float() {
    let dir = tempfile::tempdir().unwrap();
    let float = written(dir.path(), "float.onnx", &unary("Sigmoid", 1, &["1", "64"], "x"));
    let told = json(&["inspect", &float, "--json"]);
    assert_eq!((&told["not-int8"], &told["macs"]), (&"nothing in it is quantized".into(), &0.into()));
    assert_eq!(told["operators"][0], serde_json::json!({ "operator": "Sigmoid", "file": 1, "int8": 0, "float": 1 }));
    let measured = json(&["bench", &float, "--runs", "3", "--json"]);
    let layers = measured["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["kind"] == "float"), "{measured}");
}

#[test]
fn files_that_are_no_models_are_told_apart_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(ONNX).unwrap();
    let half = written(dir.path(), "half.onnx", &good[..good.len() / 2]);
    let empty = written(dir.path(), "empty.onnx", &[]);
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let noise = written(dir.path(), "noise.onnx", &noise);
    let tar = written(dir.path(), "tar.bundle", &[&[0; 257][..], b"ustar", &[0; 2000]].concat());
    let unknown = written(dir.path(), "unknown.onnx", &unary("Frobnicate", 1, &["1", "4"], "x"));
    let words = written(dir.path(), "words.onnx", &unary("Identity", 8, &["1"], "x"));
    for command in ["inspect", "bench"] {
        for file in [&half, &empty, &noise, &tar, &unknown, &words] {
            let told = refusal(&[command, file]);
            assert!(told.contains(file.as_str()), "{told}");
        }
        assert!(refusal(&[command, &unknown]).contains("Frobnicate"));
        assert!(refusal(&[command, "/nowhere/x.onnx"]).contains("No such file"));
        assert!(refusal(&[command, "/dev/zero"]).contains("no plain file"));
        assert!(refusal(&[command, dir.path().to_str().unwrap()]).contains("manifest.toml"));
        assert!(refusal(&[command, ONNX, "--shape", "imag=1x1x8x8"]).contains("its inputs are [\"image\"]"));
        assert!(refusal(&[command, ONNX, "--shape", "image=1x3x8x8"]).contains("[1, 3, 8, 8]"));
        let told = refusal(&[command, DIGITS, "--shape", "image=2x1x8x8"]);
        assert!(told.contains("manifest.toml does not let image have the shape 2x1x8x8"), "{told}");
    }
}

/// A directory of the net in `tests/vectors/open`, whose manifest lets requests choose batch, height and width.
fn open_directory(dir: &Path) -> String {
    let vectors = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/open/open.safetensors")).unwrap();
    let vectors = SafeTensors::deserialize(&vectors).unwrap();
    let view = |name: &str| vectors.tensor(name).unwrap();
    let sample = |end: &str, name: &str| (format!("0.{end}.{name}"), view(&format!("1x16x16/{name}")));
    let golden = [sample("in", "x"), sample("out", "map"), sample("out", "scores")];
    let golden = safetensors::serialize(golden, None).unwrap();
    let manifest = r#"
        format = 1
        name = "open"
        version = 1
        runtime = "0.1.0"
        [[inputs]]
        name = "x"
        datatype = "FP32"
        shape = [1, 3, 16, 16]
        max-shape = [4, 3, 32, 32]
        [[outputs]]
        name = "map"
        datatype = "FP32"
        shape = [1, 5, 8, 8]
        [[outputs]]
        name = "scores"
        datatype = "FP32"
        shape = [1, 7]
        [golden]
        atol = 0.01
    "#;
    written(dir, "manifest.toml", manifest.as_bytes());
    written(dir, "model.onnx", view("model").data());
    written(dir, "golden.safetensors", &golden);
    dir.to_str().unwrap().to_owned()
}

#[test]
fn a_model_of_several_shapes_is_shown_and_timed_at_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let open = open_directory(dir.path());
    let shown = text(&["inspect", &open]);
    assert!(shown.contains("1x3x16x16, at most 4x3x32x32"), "{shown}");
    assert!(shown.contains("1x5x8x8, at most 4x5x16x16"), "{shown}");
    let timed = text(&["bench", &open, "--shape", "x=2x3x16x24", "--runs", "3"]);
    assert!(timed.contains("x 2x3x16x24"), "{timed}");
    let told = refusal(&["bench", &open, "--shape", "x=5x3x16x16"]);
    assert!(told.contains("does not let x have the shape 5x3x16x16"), "{told}");
}

#[test]
fn a_shape_of_terabytes_is_refused_before_memory_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let open = written(dir.path(), "open.onnx", &unary("Relu", 1, &["a", "b"], "x"));
    for shape in ["x=1000000x1000000", "x=18446744073709551615x18446744073709551615"] {
        let output = selvedge(&["bench", &open, "--shape", shape]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains("over 1 GiB"), "{told}");
    }
}

#[test]
fn names_from_a_file_write_nothing_to_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let name = "\x1b[2Jx\n";
    let file = written(dir.path(), "names.onnx", &unary("Relu", 1, &["batch", "4"], name));
    for args in [&["inspect", &file, "--all", "--program"][..], &["bench", &file, "--runs", "1", "--all"]] {
        assert!(!text(args).contains('\x1b'), "{args:?}");
    }
    let open = written(dir.path(), "open.onnx", &unary("Relu", 1, &["1", "\x1b[2J"], name));
    assert!(!refusal(&["inspect", &open]).contains('\x1b'));
}

#[test]
fn bench_tells_latencies_in_order_and_layers_that_make_up_a_run() {
    let told = json(&["bench", DIGITS, "--runs", "25", "--json", "--seed", "7"]);
    let top = "compared engine first-run-ms float-macs input inputs latency-ms layer-runs layers load-ms macs memory \
               model not-int8 notes peak-gmacs-per-second peak-rss release runs runs-per-second";
    assert_eq!(keys(&told), top.split_whitespace().collect());
    assert_eq!((&told["runs"], &told["layer-runs"], &told["compared"]), (&25.into(), &5.into(), &Value::Null));
    let latency = &told["latency-ms"];
    let of = |key: &str| number(&latency[key]);
    assert_eq!(keys(latency), "max mean min p50 p90 p99".split(' ').collect());
    assert!(0.0 < of("min") && of("min") <= of("p50") && of("p50") <= of("p90"), "{latency}");
    assert!(of("p90") <= of("p99") && of("p99") <= of("max") && of("mean") <= of("max"), "{latency}");
    assert!(number(&told["peak-gmacs-per-second"]) > 0.0 && number(&told["peak-rss"]) > 1e6, "{told}");
    let layers = told["layers"].as_array().unwrap();
    let keys_of_layer = "gmacs-per-second kernel kind layer macs ms node of-measured-peak region shape share";
    assert_eq!(keys(&layers[0]), keys_of_layer.split(' ').collect());
    let shares: f64 = layers.iter().map(|layer| number(&layer["share"])).sum();
    assert!((shares - 1.0).abs() < 0.01, "{shares}");
    let macs: u64 = layers.iter().map(|layer| layer["macs"].as_u64().unwrap()).sum();
    assert_eq!(Some(macs), told["macs"].as_u64());
    let slowest: Vec<f64> = layers.iter().map(|layer| number(&layer["ms"])).collect();
    assert!(slowest.is_sorted_by(|a, b| a >= b), "{slowest:?}");
}

#[test]
fn bench_shows_tables_for_people() {
    let shown = text(&["bench", ONNX, "--time", "50ms", "--input", "zero", "--threads", "1"]);
    for part in ["zeros; image 1x1x8x8", "p99", "indirect GEMM", "of peak", "process at most", "measured on 1 thread"] {
        assert!(shown.contains(part), "no {part:?}: {shown}");
    }
}

#[test]
fn the_model_in_float_answers_nearly_the_same() {
    let told = json(&["bench", DIGITS, "--runs", "8", "--compare", "float", "--json"]);
    let compared = &told["compared"];
    assert_eq!(keys(compared), "float-ms ours-ms outputs ratio runs".split(' ').collect());
    assert!(number(&compared["ratio"]) > 0.0 && compared["runs"] == 8, "{compared}");
    let output = &compared["outputs"][0];
    assert_eq!(output["name"], "logits");
    // Rounding differs by steps of int8; an answer of something else would differ by its whole size.
    assert!(number(&output["largest-difference"]) < 0.2 * number(&output["largest-value"]), "{output}");
}

#[test]
fn a_timeline_holds_each_step_of_each_run_within_its_region_and_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("timeline.json");
    text(&["bench", DIGITS, "--runs", "11", "--trace", file.to_str().unwrap()]);
    let told: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let events = told["traceEvents"].as_array().unwrap();
    let slices: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let of = |kind: &str| slices.iter().filter(|slice| slice["cat"] == kind).count();
    let steps = json(&["inspect", DIGITS, "--json"])["regions"][0]["stages"].as_array().unwrap().len();
    assert_eq!((of("run"), of("int8"), of("step")), (3, 3, 3 * steps));
    assert!(events.iter().any(|event| event["ph"] == "M" && event["name"] == "thread_name"));
    // As a viewer takes them: a slice ends before those that it began in do.
    let mut open: Vec<f64> = Vec::new();
    for slice in &slices {
        let (from, to) = (number(&slice["ts"]), number(&slice["ts"]) + number(&slice["dur"]));
        while open.last().is_some_and(|&end| end <= from + 1e-6) {
            open.pop();
        }
        assert!(open.last().is_none_or(|&end| to <= end + 1e-6), "{slice} ends behind what it is in");
        assert_eq!(
            open.len(),
            match slice["cat"].as_str().unwrap() {
                "run" => 0,
                "step" => 2,
                _ => 1,
            }
        );
        open.push(to);
    }
    let conv = slices.iter().find(|slice| slice["name"] == "conv").unwrap();
    assert_eq!(keys(&conv["args"]), "isa kernel macs node shape step".split(' ').collect());
    let told = refusal(&["bench", DIGITS, "--runs", "1", "--trace", "/nowhere/x.json"]);
    assert!(told.contains("/nowhere/x.json"), "{told}");
}

#[test]
fn the_instruction_set_is_the_one_that_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = written(dir.path(), "selvedge.toml", b"[engine]\nisa = \"scalar\"\n");
    let told = json(&["inspect", DIGITS, "--json", "--config", &config]);
    assert_eq!((&told["engine"]["isa"], &told["engine"]["isa-because"]), (&"scalar".into(), &"configuration".into()));
    let named = |name: &str| program::selvedge().args(["inspect", DIGITS, "--json"]).env("SELVEDGE_ISA", name).output();
    let told: Value = serde_json::from_slice(&named("scalar").unwrap().stdout).unwrap();
    assert_eq!((&told["engine"]["isa"], &told["engine"]["isa-because"]), (&"scalar".into(), &"environment".into()));
    let told = String::from_utf8(named("mmx").unwrap().stderr).unwrap();
    assert!(told.contains("unknown instruction set \"mmx\"") && told.contains("hint: unset SELVEDGE_ISA"), "{told}");
    let absent = selvedge(&["inspect", DIGITS, "--config", "/nowhere/selvedge.toml"]);
    assert_eq!(absent.status.code(), Some(1));
}

#[test]
fn wrong_usage_is_told_before_anything_is_read() {
    for words in
        ["--runs 0", "--runs 5 --time 1s", "--time 0s", "--threads 0", "--input ones", "--compare onnx", "--shape x"]
    {
        let args: Vec<&str> = ["bench", DIGITS].into_iter().chain(words.split(' ')).collect();
        assert_eq!(selvedge(&args).status.code(), Some(2), "{words}");
    }
}
