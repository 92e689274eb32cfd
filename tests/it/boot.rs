//! Boots a root that holds the package, on this machine's own `/usr`, and lets a probe look for ways out.
//!
//! Needs root, systemd-nspawn and overlay mounts; where they are not there it says so and skips.

use crate::systemd::{install, repository};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// Starts engine and link, shows what went on, ends.
const STORY: &str = "\
[Unit]
Wants=selvedge.target
After=selvedge.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'journalctl --no-pager -n 60 >/var/lib/journal 2>&1'
ExecStopPost=/usr/bin/systemctl --no-block poweroff
";

/// What the probe found as engine and as link, with those keys taken out of the units; `None` where nothing can be booted.
pub fn probed(without: &[&str]) -> Option<String> {
    let work = tempfile::tempdir().unwrap();
    let (root, stage) = (work.path().join("root"), work.path().join("stage"));
    let output = install(&stage, &repository().join("tests/it/probe.pl"), false);
    assert!(output.status.success(), "{output:?}");
    for unit in ["selvedge-engine.service", "selvedge-link.service"] {
        let path = stage.join("usr/lib/systemd/system").join(unit);
        let text = fs::read_to_string(&path).unwrap();
        let stays = |line: &&str| !without.iter().any(|key| line.starts_with(&format!("{key}=")));
        let text: Vec<&str> = text.lines().filter(stays).collect();
        fs::write(&path, text.join("\n") + "\n").unwrap();
    }
    lay_out(&root, &stage);
    let tried = nspawn(&root, &stage, &["/usr/bin/true"]);
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no system can be booted here (root and systemd-nspawn are needed): {tried:?}");
        return None;
    }
    let booted = nspawn(&root, &stage, &["--console=read-only", "-b", "systemd.unit=story.service"]).unwrap();
    let found = |path: &str| fs::read_to_string(root.join("var/lib").join(path)).unwrap_or_default();
    let said = found("selvedge/probe") + &found("selvedge-link/probe");
    let context = format!("{}\n{}", found("journal"), String::from_utf8_lossy(&booted.stdout));
    assert!(!said.is_empty(), "the probe said nothing:\n{context}");
    Some(format!("{said}\n{context}"))
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
    write("systemd/system/story.service", STORY);
}

/// In a mount namespace of its own, so that nothing of this machine's `/run` is touched.
fn nspawn(root: &Path, stage: &Path, args: &[&str]) -> std::io::Result<Output> {
    let overlay = format!("--overlay-ro=/usr:{}:/usr", stage.join("usr").display());
    let script = "mount -t tmpfs tmpfs /run && exec timeout 60 systemd-nspawn \"$@\"";
    Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", "--quiet", "--register=no", "--keep-unit", "-D"])
        .arg(root)
        .arg(overlay)
        .args(args)
        .output()
}
