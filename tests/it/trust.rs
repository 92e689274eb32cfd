//! Trust from outside: the operator's commands, and what they make read by the TUF project's own
//! client. Needs a Python with `tuf`; see tests/clients/requirements.txt.

use crate::program;
use crate::serve::clients::python;
use selvedge::sys::{FaultyDisk, ManualClock};
use selvedge::trust::{Offered, Progress, Recipient, RefusalCode, Role, Trust};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

struct Site {
    dir: tempfile::TempDir,
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Site {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        program::selvedge().args(args).current_dir(self.dir.path()).output().unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        told(&self.run(args))
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A key made in a directory; its public half.
    fn key(&self, name: &str, dir: &str) -> String {
        let said = self.done(&["trust", "new-key", name, "--dir", dir]);
        said.split("public half: ").nth(1).unwrap().trim().to_owned()
    }

    /// All but the keys.
    fn copy_for_team(&self, to: &str) {
        for part in ["", "metadata", "chunks"] {
            std::fs::create_dir_all(self.path(to).join(part)).unwrap();
            for entry in std::fs::read_dir(self.path("repo").join(part)).unwrap() {
                let entry = entry.unwrap();
                if entry.path().is_file() {
                    std::fs::copy(entry.path(), self.path(to).join(part).join(entry.file_name())).unwrap();
                }
            }
        }
    }

    /// Names of the targets in the newest file of a role.
    fn targets(&self, role: &str) -> Vec<String> {
        let suffix = format!(".{role}.json");
        let names = std::fs::read_dir(self.path("repo/metadata")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let newest = names.filter_map(|name| name.strip_suffix(&suffix)?.parse::<u32>().ok()).max().unwrap();
        let bytes = std::fs::read(self.path(&format!("repo/metadata/{newest}{suffix}"))).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        value["signed"]["targets"].as_object().unwrap().keys().cloned().collect()
    }
}

fn digits() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits").display().to_string()
}

/// What the TUF project's client finds, with a cache that it keeps.
fn look(site: &Site, python: &str, targets: &[String]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/tuf_client.py");
    std::fs::create_dir_all(site.path("cache")).unwrap();
    let mut command = std::process::Command::new(python);
    command.arg(script).args(["repo/metadata", "repo/metadata/1.root.json", "cache"]).args(targets);
    serde_json::from_str(&told(&command.current_dir(site.dir.path()).output().unwrap())).unwrap()
}

#[test]
fn the_tuf_projects_client_reads_what_we_publish_through_rotation_and_delegation() {
    let python = python();
    let site = Site::new();
    site.done(&["trust", "init", "--root-keys", "3", "--threshold", "2"]);
    site.done(&["publish", &digits(), "--to", "shop", "--no-check"]);
    let own = site.targets("targets");
    let first = look(&site, &python, &own);
    assert_eq!(first["versions"]["root"], 1);
    assert_eq!(first["targets"][&own[0]]["sha256"].as_str().unwrap().len(), 64);

    site.done(&["trust", "rotate", "root", "timestamp", "snapshot", "targets"]);
    site.done(&["trust", "rotate"]);
    let keys: Value = serde_json::from_str(&site.done(&["trust", "keys", "--json"])).unwrap();
    let root_key = keys["keys"].as_array().unwrap().iter().find(|key| key["roles"][0] == "root").unwrap();
    site.done(&["trust", "revoke", "root", &root_key["id"].as_str().unwrap()[..12]]);

    let key = site.key("vision", "team");
    site.done(&["trust", "delegate", "vision", "--model", "digits", "--key", &key]);
    site.copy_for_team("team");
    let as_team = ["publish", &digits(), "--to", "lab", "--no-check", "--as", "vision", "--dir", "team"];
    site.done(&[&as_team[..], &["--submission", "digits.tar"]].concat());
    site.done(&["trust", "accept", "digits.tar"]);
    let theirs = site.targets("vision");
    let all = [own.clone(), theirs.clone(), vec!["digits/none".to_owned()]].concat();
    let found = look(&site, &python, &all);
    assert_eq!(found["versions"]["root"], 4);
    assert_eq!(found["targets"][&own[0]], first["targets"][&own[0]]);
    assert_eq!(found["targets"][&theirs[0]]["sha256"].as_str().unwrap().len(), 64, "by way of the delegation");
    assert_eq!(found["targets"]["digits/none"], Value::Null);

    site.done(&["trust", "undelegate", "vision"]);
    assert_eq!(look(&site, &python, &theirs)["targets"][&theirs[0]], Value::Null);
}

#[test]
fn a_root_is_carried_to_another_machine_signed_and_brought_back() {
    let site = Site::new();
    std::fs::write(site.path("phrase"), "correct horse\n").unwrap();
    let phrase = ["--passphrase-file", "phrase"];
    site.done(&[&["trust", "init", "--root-keys", "2", "--threshold", "2", "--encrypt", "root"], &phrase[..]].concat());
    for n in 1..=2 {
        let place = site.path(&format!("usb{n}"));
        std::fs::create_dir(&place).unwrap();
        for form in ["pem", "pub"] {
            let file = format!("root.{n}.{form}");
            std::fs::copy(site.path("repo/keys").join(&file), place.join(&file)).unwrap();
            std::fs::remove_file(site.path("repo/keys").join(&file)).unwrap();
        }
    }
    let error = site.fails(&["trust", "rotate", "timestamp"]);
    assert!(error.contains("keys/ has 0 of the 2 keys that sign root"), "{error}");
    let said = site.done(&["trust", "rotate", "timestamp", "--export", "a"]);
    assert!(said.contains("timestamp: comes") && said.contains("signed: 0 of 2"), "{said}");
    std::fs::copy(site.path("a"), site.path("b")).unwrap();
    site.done(&[&["trust", "sign", "a", "--keys", "usb1"], &phrase[..]].concat());
    let error = site.fails(&["trust", "import", "a"]);
    assert!(error.contains("1 of 2 by the keys that count now"), "{error}");
    let error = site.fails(&["trust", "sign", "b", "--keys", "usb2"]);
    assert!(error.contains("--passphrase-file"), "no terminal to ask at: {error}");
    let said = site.done(&[&["trust", "sign", "b", "--keys", "usb2"], &phrase[..]].concat());
    assert!(said.contains("signed: 1 of 2"), "{said}");
    let said = site.done(&["trust", "import", "a", "b"]);
    assert!(said.contains("root 2 counts"), "{said}");
    assert!(site.done(&["refresh"]).contains("refreshed"));
    let error = site.fails(&["trust", "import", "a", "b"]);
    assert!(error.contains("after another root"), "{error}");
}

#[test]
fn tables_of_keys_and_teams_are_for_people_and_machines() {
    let site = Site::new();
    site.done(&["trust", "init"]);
    let key = site.key("vision", "repo");
    site.done(&["trust", "delegate", "vision", "--model", "digits", "--pattern", "cam-*/*", "--key", &key]);
    site.done(&["publish", &digits(), "--to", "shop", "--no-check", "--as", "vision"]);
    let table = site.done(&["trust", "teams"]);
    assert!(table.contains("digits/*, cam-*/*") && table.contains("1 of 1"), "{table}");
    let teams: Value = serde_json::from_str(&site.done(&["trust", "teams", "--json"])).unwrap();
    assert_eq!(teams["teams"][0]["offers"][0]["model"], "digits");
    let delegated = ["trust", "delegate", "sound", "--model", "words", "--key", &key, "--json"];
    let said: Value = serde_json::from_str(&site.done(&delegated)).unwrap();
    assert_eq!((&said["root"], &said["sent"], &said["teams"][1]["name"]), (&1.into(), &false.into(), &"sound".into()));
    let said: Value = serde_json::from_str(&site.done(&["trust", "rotate", "snapshot", "--json"])).unwrap();
    assert_eq!((&said["root"], &said["roles"][0]), (&2.into(), &"snapshot".into()));
    site.done(&["trust", "rotate", "targets", "--export", "p"]);
    let said: Value = serde_json::from_str(&site.done(&["trust", "sign", "p", "--json"])).unwrap();
    assert_eq!(
        (&said["root"], &said["complete"], &said["changes"][0]["role"]),
        (&3.into(), &true.into(), &"targets".into())
    );
    let said: Value = serde_json::from_str(&site.done(&["trust", "import", "p", "--json"])).unwrap();
    assert_eq!(said["root"], 3);
    let table = site.done(&["trust", "keys"]);
    assert!(table.contains(&key) && table.contains("timestamp"), "{table}");
    for (args, says) in [
        (&["trust", "undelegate", "nobody"][..], "nothing is delegated to"),
        (&["trust", "revoke", "root", "00000000"], "no single key"),
        (&["trust", "accept", "nowhere"], "is not there"),
        (&["trust", "import", "nowhere"], "is not there"),
        (&["trust", "new-key", "../x"], "a key's name is"),
        (&["trust", "rotate", "root", "targets", "--threshold", "2"], "are for one role"),
        (&["trust", "external-key", "x", "--public", &"0".repeat(64), "--dir", "/proc/nowhere", "--", "y"], "key file"),
    ] {
        let error = site.fails(args);
        assert!(error.contains(says), "{args:?}: {error}");
    }
}

#[tokio::test]
async fn a_device_reads_what_the_tuf_projects_library_signs() {
    let python = python();
    let site = Site::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/tuf_repository.py");
    told(&std::process::Command::new(python).arg(script).arg(site.dir.path()).output().unwrap());
    let read = |name: &str| std::fs::read(site.path(name)).unwrap();
    let disk = Arc::new(FaultyDisk::new());
    let mut trust = Trust::open(disk, Path::new("/trust"), &read("1.root.json")).unwrap();
    let clock = ManualClock::new(0, false);
    let mut offered = Offered::default();
    offered.insert(Role::Timestamp, 6, read("timestamp.json")).unwrap();
    offered.insert(Role::Snapshot, 5, read("5.snapshot.json")).unwrap();
    offered.insert(Role::Targets, 4, read("4.targets.json")).unwrap();
    assert_eq!(trust.update(&offered, &clock).await.unwrap(), Progress::Waiting, "its root is to come");
    for version in [2, 3] {
        offered.insert(Role::Root, version, read(&format!("{version}.root.json"))).unwrap();
    }
    assert_eq!(trust.update(&offered, &clock).await.unwrap(), Progress::Committed);
    assert_eq!(trust.root_version(), 3);
    let models = |trust: &Trust| -> Vec<(String, u32)> {
        let offers = trust.verified().unwrap().offers_for(&Recipient::bare(&[1; 16], &["shop".to_owned()]));
        offers.into_iter().map(|offer| (offer.model.to_string(), offer.version)).collect()
    };
    assert_eq!(models(&trust), [("house".to_owned(), 3)]);
    for (name, version) in [("vision", 9), ("sound", 2)] {
        offered.insert_delegated(name, version, read(&format!("{version}.{name}.json"))).unwrap();
    }
    assert_eq!(trust.update(&offered, &clock).await.unwrap(), Progress::Committed);
    assert_eq!(models(&trust), [("digits".to_owned(), 5), ("house".to_owned(), 3)], "words/a is not vision's");
    let complaints = trust.take_complaints();
    assert_eq!((complaints.len(), complaints[0].name.as_str()), (1, "sound"));
    assert_eq!(complaints[0].refusal.code, RefusalCode::BadSignature);
}

/// All that is called `fn NAME` under a directory.
fn functions(dir: &Path, found: &mut std::collections::BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_tables_of_trust_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = std::collections::BTreeSet::new();
    for dir in ["src/trust", "src/publish", "tests/it"] {
        functions(&root.join(dir), &mut found);
    }
    let text = std::fs::read_to_string(root.join("tests/metadata.rs")).unwrap();
    found.extend(text.split("fn ").skip(1).filter_map(|rest| Some(rest.split('(').next()?.to_owned())));
    let document = std::fs::read_to_string(root.join("docs/trust.md")).unwrap();
    let named: Vec<&str> =
        document.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 3).collect();
    let ours: Vec<&&str> = named.iter().filter(|name| !name.starts_with("test_")).collect();
    assert!(ours.len() > 40, "{}", ours.len());
    let missing: Vec<_> = ours.into_iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
