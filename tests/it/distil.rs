//! `distil` as people and programs call it, on good data and on bad. Students of templates are loaded by onnxruntime where
//! there is a Python that has it: SELVEDGE_PYTHON, or target/venv as tests/it/serve/clients.rs says.

use crate::program;
use crate::serve::clients::python;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TEACHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/digits.onnx");
const TRAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/train.npz");
const HELD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress/held.npz");
const DATA: [&str; 4] = ["--data", TRAIN, "--scale", "0.0625"];

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = program::selvedge();
    command.args(args).env_remove("SELVEDGE_ISA").current_dir(dir);
    command
}

/// `selvedge distil` of the digits.
fn distil<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["distil", TEACHER][..], &DATA, more].concat()
}

fn told(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(dir: &Path, args: &[&str]) -> String {
    told(command(dir, args).output().unwrap())
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&text(dir, args)).unwrap()
}

fn refusal(dir: &Path, args: &[&str], status: i32) -> String {
    let output = command(dir, args).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{args:?}: {told}");
    assert!(!told.contains("panicked") && told.len() < 4000, "{told}");
    told
}

fn errors(dir: &Path, model: &str) -> f64 {
    let score = json(dir, &["eval", model, "--data", HELD, "--scale", "0.0625", "--json"]);
    (370.0 * (1.0 - score["value"].as_f64().unwrap() / 100.0)).round()
}

#[test]
fn a_students_answers_get_better_and_all_is_told_as_text_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let base = ["--student", "template:image:8:2", "--out", "a.onnx", "--epochs", "12", "--hint", "conv3=block2"];
    let all = distil(&[&base[..], &["--relation", "distance:0.5,angle", "--json"]].concat());
    let found = json(dir.path(), &all);
    assert_eq!(found["epochs"].as_array().unwrap().len(), 12, "{found}");
    let side = |at: usize| &found["test"][at];
    let score = |at: usize| side(at)["score"]["value"].as_f64().unwrap();
    assert!(score(0) > 97.0 && score(1) < 40.0 && score(2) > 85.0, "{found}");
    assert!(side(2)["parameters"].as_u64().unwrap() * 5 < side(0)["parameters"].as_u64().unwrap(), "{found}");
    assert_eq!(
        (&found["recipe"]["hints"][0]["weight"], &found["recipe"]["relations"]["angle"]),
        (&10.0.into(), &2.0.into())
    );
    let told = text(dir.path(), &distil(&["--student", "a.onnx", "--out", "b.onnx", "--epochs", "3"]));
    assert!(
        told.contains("student after") && told.contains("validation") && told.ends_with("wrote b.onnx\n"),
        "{told}"
    );
    assert!(errors(dir.path(), "b.onnx") < 60.0);
    // The same again is the same file.
    text(dir.path(), &distil(&["--student", "a.onnx", "--out", "c.onnx", "--epochs", "3"]));
    assert_eq!(std::fs::read(dir.path().join("b.onnx")).unwrap(), std::fs::read(dir.path().join("c.onnx")).unwrap());
    let help = text(dir.path(), &["distil", "--help"]);
    assert!(["template:image", "template:series", "template:table"].iter().all(|name| help.contains(name)), "{help}");
}

#[test]
fn quantized_students_stay_so_and_float_ones_become_so() {
    let dir = tempfile::tempdir().unwrap();
    let how = ["--bits", "2", "--rounding", "nearest", "--equalize", "off", "--no-bias-correction", "--out", "2.onnx"];
    let quantize = [&["quantize", TEACHER][..], &how].concat();
    text(dir.path(), &[&quantize[..], &DATA].concat());
    let before = errors(dir.path(), "2.onnx");
    text(dir.path(), &distil(&["--student", "2.onnx", "--out", "taught.onnx", "--epochs", "6"]));
    let after = errors(dir.path(), "taught.onnx");
    assert!(after < before, "{before} errors of 2 bits, {after} after its teacher");
    let student =
        ["--student", "template:image:8:2", "--name", "small", "--out", "small", "--epochs", "12", "--qat", "3"];
    let found = json(dir.path(), &distil(&[&student[..], &["--hint", "conv3=block1", "--json"]].concat()));
    assert_eq!(found["rounded-epochs"].as_array().unwrap().len(), 3);
    assert!(found["test"][2]["score"]["value"].as_f64().unwrap() > 80.0, "{found}");
    for model in ["taught.onnx", "small/model.onnx"] {
        assert!(text(dir.path(), &["inspect", model]).contains("QuantizeLinear"), "{model}");
    }
    assert!(text(dir.path(), &["bench", "small", "--runs", "3"]).contains("small version 1"));
    let told = refusal(dir.path(), &distil(&["--student", "2.onnx", "--out", "o.onnx", "--qat", "1"]), 1);
    assert!(told.contains("quantized already"), "{told}");
}

#[test]
fn an_interrupt_keeps_the_best_so_far() {
    if program::emulated() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let student = ["--student", "template:image:8:2"];
    text(dir.path(), &distil(&[&student[..], &["--out", "start.onnx", "--epochs", "0"]].concat()));
    let args = distil(&[&student[..], &["--out", "a.onnx", "--epochs", "90000", "--json"]].concat());
    let mut started = command(dir.path(), &args);
    let process = started.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let tasks = PathBuf::from(format!("/proc/{}/task", process.id()));
    let listens = || {
        let tasks = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.into_iter().any(|name| name.trim() == "interrupt")
    };
    let since = Instant::now();
    while !listens() {
        assert!(since.elapsed() < Duration::from_secs(60), "nobody listens for an interrupt");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A few epochs.
    std::thread::sleep(Duration::from_millis(1500));
    let id = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the best so far is kept"), "{output:?}");
    let found: Value = serde_json::from_str(&told(output)).unwrap();
    assert!(found["stopped"] == true, "{found}");
    // The best of what there was, the start included, is what was written.
    let number = |value: &Value| value.as_f64().unwrap();
    let before = number(&found["loss"]["before"]);
    let losses = found["epochs"].as_array().unwrap().iter().map(|epoch| number(&epoch["validation-loss"]));
    let best = losses.fold(before, f64::min);
    assert_eq!(number(&found["loss"]["after"]), best);
    let (start, made) = (errors(dir.path(), "start.onnx"), errors(dir.path(), "a.onnx"));
    if best < 0.7 * before {
        assert!(made < start, "{start} errors to {made}");
    } else if best == before {
        assert_eq!(made, start);
    }
}

#[test]
fn bad_input_is_refused_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.onnx"), b"no model").unwrap();
    std::fs::write(dir.path().join("plain.csv"), format!("{}\n", ["0.5"; 64].join(",")).repeat(9)).unwrap();
    std::fs::write(
        dir.path().join("far.csv"),
        format!("{},3\n{},12\n", ["0.5"; 64].join(","), ["1"; 64].join(",")).repeat(9),
    )
    .unwrap();
    let student = ["--student", "template:image:8:2", "--out", "o.onnx"];
    let of = |more: &[&'static str]| distil(&[&student[..], more].concat());
    let with_data =
        |path: &'static str, more: &[&'static str]| [&["distil", TEACHER, "--data", path][..], &student, more].concat();
    let wild =
        ["--student", TEACHER, "--out", "o.onnx", "--epochs", "10", "--rate", "100", "--clip", "0", "--method", "sgd"];
    let cases = [
        (distil(&["--student", "bad.onnx", "--out", "o.onnx"]), "hint"),
        (distil(&["--student", "absent.onnx", "--out", "o.onnx"]), "absent.onnx"),
        (distil(&["--student", "template:table", "--out", "new"]), "state --name"),
        ([&["distil", TEACHER][..], &student].concat(), "state --data"),
        (with_data("plain.csv", &["--alpha", "1"]), "--labels"),
        (with_data("far.csv", &[]), "class 12"),
        (of(&["--hint", "conv3=blok1"]), "\"block1\" is the nearest"),
        (of(&["--hint", "logit=block1"]), "\"logits\" is the nearest"),
        (of(&["--relation", "angle", "--relation-at", "conv3=nowhere"]), "\"nowhere\""),
        (distil(&wild), "--rate"),
        (of(&["--temperature", "0"]), "temperature"),
        (of(&["--alpha", "2"]), "alpha"),
        (of(&["--epochs", "200000"]), "epochs"),
        (of(&["--qat", "1", "--bits", "5"]), "8, 4, 3 or 2"),
    ];
    for (args, expected) in cases {
        let told = refusal(dir.path(), &args, 1);
        assert!(told.contains(expected), "{args:?}: {told}");
        let left = ["o.onnx", "o.onnx.new", "new"].iter().any(|name| dir.path().join(name).exists());
        assert!(!left, "{args:?}");
    }
    let told = refusal(dir.path(), &distil(&["--student", "template:cnn", "--out", "o.onnx"]), 2);
    assert!(told.contains("image, series or table"), "{told}");
}

const SERIES: &str = "
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
rng = np.random.default_rng(1)
weight = numpy_helper.from_array(rng.normal(size=(200, 3)).astype(np.float32) / 14, 'weight')
ends = [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['n', 2, 100]), helper.make_tensor_value_info('y', TensorProto.FLOAT, ['n', 3])]
nodes = [helper.make_node('Flatten', ['x'], ['flat']), helper.make_node('MatMul', ['flat', 'weight'], ['sum']), helper.make_node('Softmax', ['sum'], ['y'])]
model = helper.make_model(helper.make_graph(nodes, 'g', ends[:1], ends[1:], [weight]), opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
onnx.save(model, 'series.onnx')
np.savez('series.npz', x=rng.normal(size=(120, 2, 100)).astype(np.float32))
";

const JUDGE: &str = "
import sys
import numpy as np, onnx, onnxruntime
path, data, scale = sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3])
onnx.checker.check_model(onnx.load(path), full_check=True)
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
port, = session.get_inputs()
x = next(data[name] for name in data.files if name not in ('labels', 'y')).astype(np.float32) * scale
x = x.reshape(len(x), *port.shape[1:])
given = session.run(None, {port.name: x})[0]
assert np.isfinite(given).all()
if 'labels' in data.files:
    print(int((given.argmax(1) != data['labels']).sum()))
else:
    print(given.shape)
";

#[test]
fn students_of_every_template_are_models_for_onnxruntime_with_the_same_answers() {
    let python = python();
    let dir = tempfile::tempdir().unwrap();
    let run = |script: &str, args: &[&str]| {
        told(Command::new(&python).arg("-c").arg(script).args(args).current_dir(dir.path()).output().unwrap())
    };
    for student in ["template:image:8:2", "template:table:32"] {
        text(dir.path(), &distil(&["--student", student, "--out", "a.onnx", "--epochs", "6"]));
        let theirs: f64 = run(JUDGE, &["a.onnx", HELD, "0.0625"]).trim().parse().unwrap();
        let ours = errors(dir.path(), "a.onnx");
        assert!((theirs - ours).abs() <= 1.0 && ours < 200.0, "{student}: {theirs} errors, {ours} by us");
    }
    run(SERIES, &[]);
    let series =
        ["distil", "series.onnx", "--data", "series.npz", "--student", "template:series:8:2", "--out", "s.onnx"];
    let told = text(dir.path(), &[&series[..], &["--epochs", "20"]].concat());
    assert!(told.contains("agreement") && told.contains("without a label"), "{told}");
    assert_eq!(run(JUDGE, &["s.onnx", "series.npz", "1"]).trim(), "(120, 3)");
}
