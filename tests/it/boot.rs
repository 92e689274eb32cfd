//! Boots a root that holds the package, on this machine's own `/usr`, and lets a probe look for ways out,
//! or the real daemon serve.
//!
//! Needs root, systemd-nspawn and overlay mounts; where they are not there it says so and skips.

use crate::program;
use crate::systemd::{install, repository};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// A way through a boot: what it wants, what it runs once that is there, the end.
fn story(wants: &str, script: &str) -> String {
    format!(
        "[Unit]\nWants={wants}\nAfter={wants}\n[Service]\nType=oneshot\nExecStart=/bin/sh -c '{script}'\n\
         ExecStopPost=/usr/bin/systemctl --no-block poweroff\n"
    )
}

const JOURNAL: &str = "journalctl --no-pager -n 60 >/var/lib/journal 2>&1";

/// What the probe found as engine and as link, with those keys taken out of the units; `None` where nothing can be booted.
pub fn probed(without: &[&str]) -> Option<String> {
    let root = Booted::with(&repository().join("tests/it/probe.pl"), |stage| {
        for unit in ["selvedge-engine.service", "selvedge-link.service"] {
            let path = stage.join("usr/lib/systemd/system").join(unit);
            let text = fs::read_to_string(&path).unwrap();
            let stays = |line: &&str| !without.iter().any(|key| line.starts_with(&format!("{key}=")));
            let text: Vec<&str> = text.lines().filter(stays).collect();
            fs::write(&path, text.join("\n") + "\n").unwrap();
        }
    });
    let context = root.run(&story("selvedge.target", JOURNAL))?;
    let said = root.found("selvedge/probe") + &root.found("selvedge-link/probe");
    assert!(!said.is_empty(), "the probe said nothing:\n{context}");
    Some(format!("{said}\n{context}"))
}

/// What the real daemon answers behind its walls: over its socket, over the proxy; how its units stand then.
pub fn answered() -> Option<String> {
    let root = Booted::with(Path::new(env!("CARGO_BIN_EXE_selvedge")), |stage| {
        let model = stage.join("usr/share/digits");
        fs::create_dir_all(&model).unwrap();
        for file in ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"] {
            fs::copy(repository().join("models/digits").join(file), model.join(file)).unwrap();
        }
        let config = stage.join("etc/selvedge/selvedge.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("factory = []", "factory = [\"/usr/share/digits\"]")).unwrap();
    });
    let script = format!(
        "exec >/var/lib/said 2>&1; curl -sS --unix-socket /run/selvedge/api.sock http://localhost/v2/models; echo; \
         curl -sS http://127.0.0.1:8000/v2/health/ready; echo; \
         curl -sS --unix-socket /run/selvedge/api.sock http://localhost/selvedge/status; echo; sleep 1; \
         systemctl is-active selvedge-engine selvedge-link selvedge-proxy; {JOURNAL}"
    );
    let context = root.run(&story("selvedge.target selvedge-proxy.socket", &script))?;
    Some(format!("{}\n{context}", root.found("said")))
}

/// A card on the boot partition, and what the board is after its first boot: the card's id, then what was found.
pub fn first_boot() -> Option<(String, String)> {
    let office = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| program::text_in(office.path(), args);
    run(&["trust", "init"]);
    let made = run(&["provision", "--broker", "mqtts://localhost", "--groups", "shop", "--out", "card", "--json"]);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let root = Booted::with(Path::new(env!("CARGO_BIN_EXE_selvedge")), |_| {});
    let card = root.work.path().join("root/boot/firmware/selvedge");
    fs::create_dir_all(&card).unwrap();
    for file in fs::read_dir(office.path().join("card")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), card.join(file.file_name())).unwrap();
        // As everything on a FAT partition.
        fs::set_permissions(card.join(file.file_name()), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = format!(
        "exec >/var/lib/said 2>&1; cd /etc/selvedge; cat selvedge.toml; stat -c \"%%n %%G %%a\" *; \
         test -e /boot/firmware/selvedge || echo card gone; systemctl is-active selvedge-link | sed s/^/link\\ /; {JOURNAL}"
    );
    let context = root.run(&story("selvedge.target", &script))?;
    Some((made["cards"][0]["id"].as_str().unwrap().to_owned(), format!("{}\n{context}", root.found("said"))))
}

/// A root with the package, and where it is staged.
struct Booted {
    work: tempfile::TempDir,
}

impl Booted {
    /// Installs `binary` and lets `change` what is staged.
    fn with(binary: &Path, change: impl FnOnce(&Path)) -> Self {
        let work = tempfile::tempdir().unwrap();
        let stage = work.path().join("stage");
        let output = install(&stage, binary, false);
        assert!(output.status.success(), "{output:?}");
        change(&stage);
        lay_out(&work.path().join("root"), &stage);
        Self { work }
    }

    /// Boots it; the journal's end and what stood on the console, or `None` where nothing can be booted.
    fn run(&self, story: &str) -> Option<String> {
        let (root, stage) = (self.work.path().join("root"), self.work.path().join("stage"));
        fs::write(root.join("etc/systemd/system/story.service"), story).unwrap();
        let tried = nspawn(&root, &stage, &["/usr/bin/true"]);
        if !tried.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no system can be booted here (root and systemd-nspawn are needed): {tried:?}");
            return None;
        }
        let booted = nspawn(&root, &stage, &["--console=read-only", "-b", "systemd.unit=story.service"]).unwrap();
        Some(format!("{}\n{}", self.found("journal"), String::from_utf8_lossy(&booted.stdout)))
    }

    /// What was written there in the booted root.
    fn found(&self, path: &str) -> String {
        fs::read_to_string(self.work.path().join("root/var/lib").join(path)).unwrap_or_default()
    }
}

/// A root without `/usr`, which is this machine's.
fn lay_out(root: &Path, stage: &Path) {
    for dir in ["usr", "etc/systemd/system", "etc/selvedge", "var/lib", "run", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for dir in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(dir)) {
            symlink(target, root.join(dir)).unwrap();
        }
    }
    fs::copy(stage.join("etc/selvedge/selvedge.toml"), root.join("etc/selvedge/selvedge.toml")).unwrap();
    let write = |path: &str, text: &str| fs::write(root.join("etc").join(path), text).unwrap();
    write("os-release", "ID=selvedge-test\n");
    write("machine-id", "0123456789abcdef0123456789abcdef\n");
    write("passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n");
    write("group", "root:x:0:\nnogroup:x:65534:\n");
    write("selvedge/broker-password", "secret");
}

/// In a mount namespace of its own, so that nothing of this machine's `/run` is touched.
fn nspawn(root: &Path, stage: &Path, args: &[&str]) -> std::io::Result<Output> {
    let overlay = format!("--overlay-ro=/usr:{}:/usr", stage.join("usr").display());
    let script = "mount -t tmpfs tmpfs /run && exec timeout 60 systemd-nspawn \"$@\"";
    Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", "--quiet", "--register=no", "--keep-unit", "--private-network", "-D"])
        .arg(root)
        .arg(overlay)
        .args(args)
        .output()
}
