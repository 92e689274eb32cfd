//! The demo as a user starts it. Needs nothing installed.

use crate::program;
use std::time::Duration;
use tokio::time::Instant;

fn demo(args: &[&str]) -> std::process::Output {
    program::selvedge().arg("demo").args(args).output().unwrap()
}

#[test]
fn the_story_holds_ends_within_a_minute_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let output = program::selvedge().args(["demo", "--json"]).env("TMPDIR", temporary.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    // An emulator denies nothing: there the story says that this one demand does not hold, and ends with 1.
    assert_eq!(output.status.success(), !program::emulated(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(start.elapsed() < Duration::from_secs(60));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let demands = report["demands"].as_array().unwrap();
    let walled = |demand: &serde_json::Value| demand["what"] == "the engine cannot make an internet socket";
    let holds = |demand: &serde_json::Value| demand["held"] == (!walled(demand) || !program::emulated());
    assert!(demands.len() >= 9 && demands.iter().all(holds), "{told}");
    assert_eq!(report["acts"].as_array().unwrap().iter().map(|act| act["failed"].as_u64().unwrap()).sum::<u64>(), 0);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "files are left");
}

#[test]
fn it_keeps_its_files_in_a_new_directory_only() {
    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("mine"), b"").unwrap();
    let output = demo(&["--keep", full.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
    assert_eq!(std::fs::read_dir(full.path()).unwrap().count(), 1);
}
