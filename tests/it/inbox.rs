//! From `selvedge pack` to live by the commands alone: no broker, no link, and the engine under its walls.

use crate::program;
use crate::program::{run_in as selvedge, text_in as done};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Engine {
    let d = dir.display();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let config = format!(
        "[device]\nid = \"00112233445566778899aabbccddeeff\"\ngroups = [\"shop\"]\n[engine]\nstate = \"{d}/state\"\n\
         socket = \"{d}/api.sock\"\nlink-socket = \"{d}/link.sock\"\nroot = \"{d}/root.json\"\nfactory = [{:?}]\n\
         inbox = \"{d}/inbox\"\n{}[link]\nstate = \"{d}/link\"\n",
        models.join("digits"),
        program::wall(),
    );
    fs::write(dir.join("selvedge.toml"), config).unwrap();
    let mut command: Command = program::selvedge();
    command.args(["engine", "--config"]).arg(dir.join("selvedge.toml")).stdout(Stdio::null());
    Engine(command.spawn().unwrap())
}

fn live(dir: &Path) -> Option<u64> {
    let output = selvedge(dir, &["status", "--config", "selvedge.toml", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    status.pointer("/models/0/live")?.as_u64()
}

fn wait_for(dir: &Path, version: u64) {
    let until = Instant::now() + Duration::from_secs(90);
    while live(dir) != Some(version) {
        assert!(Instant::now() < until, "version {version} does not serve: {:?}", live(dir));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_pack_that_is_put_into_the_inbox_goes_live_and_the_log_says_so() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits-adapted");
    done(dir, &["trust", "init", "--dir", "repo"]);
    fs::copy(dir.join("repo/metadata/1.root.json"), dir.join("root.json")).unwrap();
    let none = selvedge(dir, &["pack", "digits", "--to", "shop", "--out", "digits.pack"]);
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("nothing of digits is offered"));
    done(dir, &["publish", model.to_str().unwrap(), "--to", "shop"]);
    let told = done(dir, &["pack", "digits", "--to", "shop", "--out", "digits.pack"]);
    assert!(told.contains("packed digits version 2"), "{told}");
    assert!(!selvedge(dir, &["pack", "digits", "--to", "shop", "--out", "digits.tar"]).status.success());

    fs::create_dir(dir.join("inbox")).unwrap();
    let _engine = start(dir);
    wait_for(dir, 1);
    // Half of it, as a stick that is pulled out leaves it; then the whole.
    let pack = fs::read(dir.join("digits.pack")).unwrap();
    fs::write(dir.join("inbox/a-half.pack"), &pack[..pack.len() / 2]).unwrap();
    fs::write(dir.join("inbox/digits.pack"), &pack).unwrap();
    wait_for(dir, 2);
    let shown = done(dir, &["audit", "show", "--config", "selvedge.toml"]);
    assert!(shown.contains("offer taken") && shown.contains("serves instead of version 1"), "{shown}");
    let status = selvedge(dir, &["status", "--config", "selvedge.toml", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let head = status["audit"]["sha256"].as_str().unwrap();
    done(dir, &["audit", "verify", "--config", "selvedge.toml", "--head", head]);
}
