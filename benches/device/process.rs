//! The processes of a device, in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Device {
    dir: tempfile::TempDir,
}

impl Device {
    /// Nothing is installed yet; the digits model waits as the factory's.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state", "run", "link"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let at = |name: &str| format!("{:?}", dir.path().join(name));
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
        // Nobody listens on port 1: a link that waits for its broker.
        let config = format!(
            "[device]\nid = \"00112233445566778899aabbccddeeff\"\n\
             [engine]\nstate = {}\nsocket = {}\nlink-socket = {}\nroot = {}\nfactory = [{model:?}]\n\
             [link]\nstate = {}\nbroker = \"mqtt://127.0.0.1:1\"\n",
            at("state"),
            at("run/api.sock"),
            at("run/link.sock"),
            at("root.json"),
            at("link"),
        );
        std::fs::write(dir.path().join("selvedge.toml"), config).unwrap();
        Self { dir }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/api.sock")
    }

    pub fn start(&self, role: &str) -> Process {
        let mut command = Command::new(executable());
        command.arg(role).arg("--config").arg(self.dir.path().join("selvedge.toml"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Process(child)
    }
}

/// The device's own build where it is there, else the one of this bench.
pub fn executable() -> PathBuf {
    let device = device_build();
    if device.exists() { device } else { PathBuf::from(env!("CARGO_BIN_EXE_selvedge")) }
}

/// `target/device/selvedge`, beside `target/release`.
pub fn device_build() -> PathBuf {
    let release = Path::new(env!("CARGO_BIN_EXE_selvedge"));
    let target = release.parent().and_then(Path::parent).unwrap();
    target.join("device/selvedge")
}

/// Killed when dropped.
pub struct Process(Child);

impl Process {
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    pub fn assert_runs(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the process ended: run it by hand to see why");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
