//! `check`, `ledger` and `audit` as people call them: what they say, and how they end.

use crate::program;
use selvedge::audit::{Decision, Log};
use selvedge::kernels::Isa;
use selvedge::sys::RealDisk;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

fn selvedge(args: &[&str]) -> Output {
    program::selvedge().args(args).output().unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A configuration whose every path is in `dir`, and what it needs.
fn ready(dir: &Path) -> String {
    for name in ["state", "link"] {
        fs::create_dir(dir.join(name)).unwrap();
        mode(&dir.join(name), 0o700);
    }
    fs::write(dir.join("root.json"), r#"{"signed": {"_type": "root"}, "signatures": []}"#).unwrap();
    fs::write(dir.join("password"), "secret").unwrap();
    mode(&dir.join("password"), 0o640);
    let d = dir.display();
    let text = format!(
        "[device]\nid = \"00112233445566778899aabbccddeeff\"\ngroups = [\"porch\"]\n[engine]\nstate = \"{d}/state\"\n\
         socket = \"{d}/api.sock\"\nlink-socket = \"{d}/link.sock\"\nroot = \"{d}/root.json\"\n{}[link]\nstate = \"{d}/link\"\n\
         username = \"porch\"\npassword-file = \"{d}/password\"\n",
        program::wall()
    );
    let path = dir.join("selvedge.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Exit status and the level of one finding.
fn checked(config: &str, what: &str) -> (Option<i32>, String) {
    let output = selvedge(&["check", "--json", "--config", config]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["ready"], output.status.success());
    let findings = json["findings"].as_array().unwrap();
    let finding =
        findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("no {what}: {json}"));
    (output.status.code(), finding["level"].as_str().unwrap().to_owned())
}

#[test]
fn check_passes_a_ready_device_and_prints_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let config = ready(dir.path());
    let output = selvedge(&["check", "--config", &config]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    assert!(text.contains("device 00112233445566778899aabbccddeeff") && text.ends_with("\nready\n"), "{text}");
    assert!(!text.contains("error") && !text.contains("secret"), "{text}");
}

#[test]
fn check_finds_what_stands_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = ready(dir.path());
    let path = |name: &str| dir.path().join(name);

    mode(&path("password"), 0o644);
    assert_eq!(checked(&config, "broker password"), (Some(1), "error".into()));
    mode(&path("password"), 0o640);

    mode(&path("state"), 0o755);
    assert_eq!(checked(&config, "engine state"), (Some(1), "error".into()));
    mode(&path("state"), 0o700);

    fs::write(path("root.json"), "{}").unwrap();
    assert_eq!(checked(&config, "root of trust"), (Some(1), "error".into()));
    fs::write(path("root.json"), vec![b' '; 2 << 20]).unwrap();
    assert_eq!(checked(&config, "root of trust"), (Some(1), "error".into()));
    // Without a root the device serves what it has: a warning.
    fs::remove_file(path("root.json")).unwrap();
    assert_eq!(checked(&config, "root of trust"), (Some(0), "warning".into()));

    let ready = fs::read_to_string(&config).unwrap();
    let lacking = Isa::ALL.into_iter().find(|isa| !isa.is_available()).unwrap();
    fs::write(&config, ready.replace("[engine]\n", &format!("[engine]\nisa = \"{lacking}\"\n"))).unwrap();
    assert_eq!(checked(&config, "int8 kernels"), (Some(1), "error".into()));
    fs::write(&config, ready.replace("[engine]\n", "[engine]\nisa = \"scalar\"\nthreads = 64\n")).unwrap();
    assert_eq!(checked(&config, "int8 kernels"), (Some(0), "ok".into()));
    assert_eq!(checked(&config, "threads"), (Some(0), "warning".into()));

    fs::write(&config, "[engine]\nqueu = 1\n").unwrap();
    assert_eq!(checked(&config, "configuration"), (Some(1), "error".into()));
}

#[test]
fn the_ledger_shows_totals_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("egress.jsonl");
    let name = file.to_str().unwrap();

    let none = selvedge(&["ledger", "--file", name]);
    let told = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(1) && told.contains("nothing has left") && told.contains("\nhint: "), "{told}");

    let line = |kind: &str, bytes: u32| {
        format!("{{\"time\":0,\"kind\":\"{kind}\",\"topic\":\"a\\u001b[2J\",\"bytes\":{bytes}}}\n")
    };
    fs::write(&file, line("status", 100) + &line("connect", 20) + &line("status", 1)).unwrap();
    let text = String::from_utf8(selvedge(&["ledger", "--file", name]).stdout).unwrap();
    assert!(text.contains("status         2    101") && text.contains("all            3    121"), "{text}");
    assert!(!text.contains('\u{1b}'), "a topic writes to the terminal");
    let json = selvedge(&["ledger", "--file", name, "--by-kind", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["status"]["bytes"], 101);
    let last = selvedge(&["ledger", "--file", name, "--last", "1", "--json"]).stdout;
    assert_eq!(String::from_utf8(last).unwrap(), line("status", 1));

    fs::write(&file, line("status", 1) + "nonsense\n").unwrap();
    let json = selvedge(&["ledger", "--file", name, "--by-kind", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["status"]["bytes"], 1, "a torn line hides no other");
}

#[test]
fn the_audit_log_is_shown_and_what_was_done_to_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit");
    let name = log.to_str().unwrap();
    let audit = |args: &[&str]| {
        let output = selvedge(&[&["audit"], args, &["--dir", name]].concat());
        let told = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), told)
    };
    let (code, told) = audit(&["verify"]);
    assert!(code == 1 && told.contains("there is no log") && told.contains("\nhint: "), "{told}");

    let mut writer = Log::new(Arc::new(RealDisk), log.clone(), 7);
    for root in 0..4 {
        writer.record(1_800_000_000, &[Decision::Root { from: root, to: root + 1 }]).unwrap();
    }
    let head = writer.head().unwrap();
    let (code, told) = audit(&["show", "--last", "1"]);
    assert!(code == 0 && told.contains("2027-01-15") && told.contains("root 4 is trusted instead of 3"), "{told}");
    let (_, json) = audit(&["show", "--json", "--last", "1"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["number"], &json["sha256"]), (&5.into(), &head.sha256.to_string().into()));
    let (code, told) = audit(&["verify", "--head", &head.sha256.to_string()]);
    assert!(code == 0 && told.contains("lines 1 to 5") && told.contains("is line 5"), "{told}");
    assert_eq!(selvedge(&["audit", "verify", "--head", "12"]).status.code(), Some(2));

    let file = log.join("00000001.log");
    let sound = fs::read_to_string(&file).unwrap();
    let cut = sound.trim_end().rfind('\n').unwrap() + 1;
    fs::write(&file, &sound[..cut]).unwrap();
    assert_eq!(audit(&["verify"]).0, 0, "a chain that ends sooner holds together");
    let (code, told) = audit(&["verify", "--head", &head.sha256.to_string()]);
    assert!(code == 1 && told.contains("cut off or rewritten"), "{told}");

    fs::write(&file, sound.replacen("\"from\":1", "\"from\":9", 1)).unwrap();
    let (code, told) = audit(&["verify"]);
    assert!(code == 1 && told.contains("00000001.log, line 3") && told.contains("it was changed"), "{told}");
}

#[test]
fn wrong_usage_ends_with_two() {
    assert_eq!(selvedge(&["check", "--colour"]).status.code(), Some(2));
    assert_eq!(selvedge(&[]).status.code(), Some(2));
    assert_eq!(selvedge(&["ledger", "--by-kind", "--last", "3"]).status.code(), Some(2));
}
