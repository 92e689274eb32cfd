//! `compress`: a plan's steps in a row, stopped and gone on with, changed at its end; and plans that are no good.

use crate::program;
use serde_json::Value;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/compress");

fn selvedge(dir: &Path, args: &[&str]) -> Command {
    let mut command = program::selvedge();
    command.args(args).env_remove("SELVEDGE_ISA").current_dir(dir);
    command
}

fn done(dir: &Path, plan: &str) -> Value {
    let output = selvedge(dir, &["compress", plan, "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(dir: &Path, text: &str) -> String {
    std::fs::write(dir.join("bad.toml"), text).unwrap();
    let Output { status, stderr, stdout } = selvedge(dir, &["compress", "bad.toml"]).output().unwrap();
    let told = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.len()), (Some(1), 0), "{told}");
    assert!(told.starts_with("selvedge: ") && !told.contains("panicked") && told.len() < 4000, "{told}");
    told
}

fn head(out: &str) -> String {
    format!(
        "model = '{VECTORS}/digits.onnx'\ndata = '{VECTORS}/train.npz'\nscale = 0.0625\nout = '{out}'\nname = 'digits'\n"
    )
}

const PRUNE: &str = "[[step]]\ndo = 'prune'\nratio = 0.4\nmultiple = 4\nepochs = 2\n";
const QUANTIZE: &str = "[[step]]\ndo = 'quantize'\ncalibration = 'mse'\n";

fn cached(done: &Value) -> Vec<bool> {
    done["steps"].as_array().unwrap().iter().map(|step| step["cached"].as_bool().unwrap()).collect()
}

#[test]
fn a_plan_ends_with_a_directory_to_publish_and_a_second_run_does_again_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |plan: String| std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    write(format!("{}{PRUNE}{QUANTIZE}", head("next")));
    let first = done(dir.path(), "plan.toml");
    assert_eq!(cached(&first), [false, false]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}"));
    let (before, after) = (&first["before"], &first["after"]);
    assert!(number(&after["cost"]["bytes"]) < 0.35 * number(&before["cost"]["bytes"]), "{first}");
    assert!(number(&after["cost"]["macs"]) < 0.7 * number(&before["cost"]["macs"]), "{first}");
    assert!(number(&after["test"]["value"]) > 90.0 && number(&after["latency-ms"]) > 0.0, "{first}");
    let model = std::fs::read(dir.path().join("next/model.onnx")).unwrap();
    let checked = selvedge(dir.path(), &["bench", "next", "--json"]).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");

    // The same plan gives the same bytes, by what was kept and anew.
    write(format!("{}{PRUNE}{QUANTIZE}", head("again")));
    assert_eq!(cached(&done(dir.path(), "plan.toml")), [true, true]);
    assert_eq!(std::fs::read(dir.path().join("again/model.onnx")).unwrap(), model);
    write(format!("cache = 'other'\n{}{PRUNE}{QUANTIZE}", head("anew")));
    assert_eq!(cached(&done(dir.path(), "plan.toml")), [false, false]);
    assert_eq!(std::fs::read(dir.path().join("anew/model.onnx")).unwrap(), model);

    // Another end: the step before it is not done again.
    write(format!("{}{PRUNE}{QUANTIZE}per-tensor = true\n", head("changed")));
    assert_eq!(cached(&done(dir.path(), "plan.toml")), [true, false]);
}

#[test]
fn a_plan_that_is_killed_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let long = "[[step]]\ndo = 'quantize'\nqat = true\nepochs = 100000\n";
    std::fs::write(dir.path().join("plan.toml"), format!("{}{PRUNE}{long}", head("next"))).unwrap();
    let mut command = selvedge(dir.path(), &["compress", "plan.toml"]);
    let mut child = command.stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    let mut told = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step 2") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut told, &mut line).unwrap() > 0, "it ended before its second step");
    }
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("next").exists(), "nothing is half-written");
    std::fs::write(dir.path().join("plan.toml"), format!("{}{PRUNE}{QUANTIZE}", head("next"))).unwrap();
    assert_eq!(cached(&done(dir.path(), "plan.toml")), [true, false]);
}

#[test]
fn a_step_that_is_killed_while_it_trains_goes_on_there_and_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let tune = "[[step]]\ndo = 'finetune'\nepochs = 60\nrate = 0.0002\n";
    let plan = |name: &str| std::fs::write(dir.path().join(format!("{name}.toml")), head(name) + tune).unwrap();
    plan("whole");
    let whole = done(dir.path(), "whole.toml");
    plan("parts");
    let mut command = selvedge(dir.path(), &["compress", "parts.toml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let states = || {
        let part = |entry: std::fs::DirEntry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
        let cache = std::fs::read_dir(dir.path().join("parts.cache")).into_iter().flatten().flatten();
        let files = cache.flat_map(part).map(|entry| entry.file_name().to_string_lossy().into_owned());
        files.filter(|name| name.ends_with(".state")).count()
    };
    let since = Instant::now();
    while states() == 0 {
        assert!(since.elapsed() < Duration::from_secs(120), "nothing was kept");
        std::thread::sleep(Duration::from_millis(10));
    }
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("parts").exists() && states() == 1);
    let parts = done(dir.path(), "parts.toml");
    assert_eq!(parts["steps"][0]["report"]["epochs"], whole["steps"][0]["report"]["epochs"]);
    assert_eq!(parts["steps"][0]["report"]["epochs"].as_array().unwrap().len(), 60);
    let model = |name: &str| std::fs::read(dir.path().join(name).join("model.onnx")).unwrap();
    assert!(model("whole") == model("parts"), "other bytes");
    assert_eq!(states(), 0, "what is done needs no state");
}

#[test]
fn a_plan_is_checked_whole_before_its_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let told = refused(dir.path(), &format!("{}{PRUNE}[[step]]\ndo = 'quantize'\nbitz = 8\n", head("next")));
    assert!(told.contains("step 2") && told.contains("--bits"), "{told}");
    let told = refused(dir.path(), &format!("{}[[step]]\ndo = 'shrink'\n", head("next")));
    assert!(told.contains("shrink") && told.contains("prune"), "{told}");
    let told = refused(dir.path(), &format!("{}[[step]]\ndo = 'prune'\nseed = 3\n", head("next")));
    assert!(told.contains("seed") && told.contains("above the first"), "{told}");
    let told = refused(dir.path(), &head("next"));
    assert!(told.contains("[[step]]"), "{told}");
    let told = refused(dir.path(), &format!("modle = 'x'\n{}{PRUNE}", head("next")));
    assert!(told.contains("modle"), "{told}");
    let told = refused(dir.path(), &format!("{}{PRUNE}", head("next").replace("digits.onnx", "absent.onnx")));
    assert!(told.contains("absent.onnx"), "{told}");
    // What a command says of its own options, too, and of labels that are not there.
    let second = |step: &str| refused(dir.path(), &format!("{}{PRUNE}[[step]]\n{step}", head("next")));
    for (step, expected) in [
        ("do = 'quantize'\nlow-bits = 4\n", "--max-bytes"),
        ("do = 'quantize'\nepochs = 3\n", "--qat"),
        ("do = 'quantize'\nmax-drop = inf\n", "numbers from 0"),
        ("do = 'prune'\nratio = 1.5\n", "between 0 and 1"),
        ("do = 'prune'\ntarget-latency = 3.0\n", "--report"),
        ("do = 'finetune'\nbatch = 0\n", "a batch of"),
        ("do = 'finetune'\nmax-forget = inf\nkeep-data = 'x.npz'\n", "--max-forget"),
        ("do = 'distil'\nstudent = 'template:image'\ntemperature = 0.0\n", "temperature"),
        ("do = 'distil'\nstudent = 'template:image'\nepochs = 200000\n", "epochs"),
    ] {
        let told = second(step);
        assert!(told.contains("step 2") && told.contains(expected) && !told.contains("step 1"), "{step}: {told}");
    }
    std::fs::write(dir.path().join("plain.csv"), format!("{}\n", ["0.5"; 64].join(",")).repeat(9)).unwrap();
    let plain = head("next").replace(&format!("{VECTORS}/train.npz"), "plain.csv");
    for step in ["do = 'finetune'\n", "do = 'quantize'\nqat = true\n", "do = 'prune'\nepochs = 2\n"] {
        let told = refused(dir.path(), &format!("{plain}{QUANTIZE}[[step]]\n{step}"));
        assert!(told.contains("step 2") && told.contains("label"), "{step}: {told}");
    }
    // A file that is missing is told with where it was looked for.
    let told = second("do = 'distil'\nstudent = 'absent.onnx'\n");
    assert!(told.contains("absent.onnx") && told.contains("relative to the plan"), "{told}");
    assert!(!dir.path().join("next").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("bad.cache")).map_or(0, Iterator::count), 0);
}

/// Eight by eight pixels of the digits as images of bytes, a folder a class, and a model's directory that says how they are read.
fn images(dir: &Path) {
    let mut archive = npyz::npz::NpzArchive::open(Path::new(VECTORS).join("held.npz")).unwrap();
    let mut array = |name: &str| archive.by_name(name).unwrap().unwrap().into_vec::<u8>().unwrap();
    let (pixels, labels) = (array("image"), array("labels"));
    for (at, label) in labels.iter().enumerate() {
        let folder = dir.join("images").join(label.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let pixels = pixels[at * 64..(at + 1) * 64].iter().map(|value| value * 15).collect();
        let image = image::GrayImage::from_raw(8, 8, pixels).unwrap();
        image.save(folder.join(format!("{at:03}.png"))).unwrap();
    }
    let data = format!("{VECTORS}/train.npz");
    let model = format!("{VECTORS}/digits.onnx");
    let made = ["finetune", &model, "--data", &data, "--scale", "0.0625", "--epochs", "0", "--name", "digits"];
    let made = selvedge(dir, &[&made[..], &["--out", "model"]].concat()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let path = dir.join("model/manifest.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let preprocess = "\n[inputs.preprocess]\nkind = \"image\"\ncolor = \"gray\"\nscale = 0.00416666666\n\n[[outputs]]";
    std::fs::write(path, manifest.replacen("\n[[outputs]]", preprocess, 1)).unwrap();
}

#[test]
fn the_manifest_says_in_every_step_how_data_is_read() {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path());
    let tune = "[[step]]\ndo = 'finetune'\nepochs = 1\nrate = 0.0001\n";
    let head = "model = 'model'\ndata = 'images'\nout = 'next'\n";
    std::fs::write(dir.path().join("plan.toml"), format!("{head}{tune}{tune}")).unwrap();
    let told = done(dir.path(), "plan.toml");
    assert!(told["before"]["test"]["value"].as_f64().unwrap() > 95.0, "{told}");
    assert!(told["after"]["test"]["value"].as_f64().unwrap() > 95.0, "{told}");
    for step in told["steps"].as_array().unwrap() {
        assert!(step["report"]["test"]["new"]["before"]["value"].as_f64().unwrap() > 95.0, "{step}");
    }
}

/// Whether a process's child has the thread that waits for interrupts.
fn step_listens(parent: i32) -> bool {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let children = read(format!("/proc/{parent}/task/{parent}/children"));
    let tasks = children.split_whitespace().flat_map(|child| std::fs::read_dir(format!("/proc/{child}/task")));
    let names = tasks.flatten().flatten().map(|task| read(format!("{}/comm", task.path().display())));
    names.into_iter().any(|name| name.trim() == "interrupt")
}

#[test]
fn what_follows_a_step_that_was_stopped_is_no_result_of_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |epochs: usize| {
        let tune = format!("[[step]]\ndo = 'finetune'\nepochs = {epochs}\n");
        std::fs::write(dir.path().join("plan.toml"), format!("{}{tune}{QUANTIZE}", head("next"))).unwrap();
    };
    plan(100_000);
    let mut command = selvedge(dir.path(), &["compress", "plan.toml", "--json"]);
    let child = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
    let group = rustix::process::Pid::from_child(&child);
    let since = Instant::now();
    while !step_listens(group.as_raw_nonzero().get()) {
        assert!(since.elapsed() < Duration::from_secs(60), "the step never listened for an interrupt");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["steps"][0]["stopped"] == true, "{told}");
    let kept = std::fs::read_dir(dir.path().join("plan.cache")).unwrap().count();
    assert_eq!(kept, 0, "neither the stopped step nor what followed it");
}
