//! A whole device for a test: engine and link as processes of their own, with their logs in files.

use crate::load::Load;
use crate::program;
use crate::serve::harness::{Reply, models};
use selvedge::config::DeviceId;
use selvedge::privacy::{Entry, Ledger, Status};
use selvedge::sys::RealDisk;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

pub use rustix::process::Signal;

pub const ID: DeviceId = DeviceId([9; 16]);
pub const GROUP: &str = "shop";
/// How long anything may take that a test waits for.
pub const LONG: Duration = Duration::from_secs(90);

/// Its directory and the processes that run now. Dropped, they are killed.
pub struct Device {
    pub dir: tempfile::TempDir,
    engine: Option<Child>,
    link: Option<Child>,
}

impl Device {
    /// In a directory of its own, nothing running yet. `log` is the level.
    pub fn new(broker: u16, root: &[u8], log: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{:?}", dir.path().join(name));
        let config = format!(
            "[device]\nid = \"{ID}\"\ngroups = [\"{GROUP}\"]\n\
             [engine]\nstate = {}\nsocket = {}\nlink-socket = {}\nroot = {}\nfactory = [{:?}]\nworkers = 2\n\
             status-interval-seconds = 1\n{}\
             [link]\nbroker = \"mqtt://127.0.0.1:{broker}\"\nstate = {}\nledger-limit-mib = 32\n\
             [log]\nlevel = \"{log}\"\n",
            path("engine"),
            path("api.sock"),
            path("link.sock"),
            path("root.json"),
            models().join("digits"),
            program::wall(),
            path("link"),
        );
        fs::write(dir.path().join("selvedge.toml"), config).unwrap();
        fs::write(dir.path().join("root.json"), root).unwrap();
        Self { dir, engine: None, link: None }
    }

    /// One more model from the factory: `y = table[x]`, which breaks where there is no such place.
    pub fn add_lookup(&self) {
        let dir = self.path("lookup");
        fs::create_dir(&dir).unwrap();
        for (name, contents) in lookup() {
            fs::write(dir.join(name), contents).unwrap();
        }
        self.configure("factory = [", &format!("factory = [{dir:?}, "));
    }

    /// Puts something else into its configuration, before it starts.
    pub fn configure(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("selvedge.toml")).unwrap();
        assert!(config.contains(from), "{config}");
        fs::write(self.path("selvedge.toml"), config.replacen(from, to, 1)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command that starts a role, its log in a file; a core file would land in the device's directory.
    /// (Of its guest an emulator writes one itself, whatever the guest forbids: there none is allowed.)
    pub fn command(&self, role: &str) -> Command {
        let log = self.path(&format!("{role}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let limit = if program::emulated() { "0" } else { "unlimited" };
        let boot = self.path("boot_id");
        let mut command = if boot.exists() { Command::new("unshare") } else { Command::new("sh") };
        let mut script = format!("ulimit -c {limit} || true; exec \"$@\"");
        if boot.exists() {
            script = format!("mount --bind '{}' /proc/sys/kernel/random/boot_id && {script}", boot.display());
            command.args(["--mount", "sh"]);
        }
        command.args(["-c", &script, "sh"]).args(program::words()).args([role, "--config"]);
        command.arg(self.path("selvedge.toml")).arg("--with-parent").current_dir(self.dir.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    pub fn start_engine(&mut self) {
        assert!(self.engine.is_none());
        self.engine = Some(self.command("engine").spawn().unwrap());
    }

    #[cfg(not(target_arch = "aarch64"))]
    /// The same with more in its environment.
    pub fn start_engine_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.engine.is_none());
        self.engine = Some(self.command("engine").envs(environment.iter().copied()).spawn().unwrap());
    }

    #[cfg(not(target_arch = "aarch64"))]
    /// From its next start on it believes that the board has booted anew. Needs root.
    pub fn reboot(&self, boot: u128) {
        let digits = format!("{boot:032x}");
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
        fs::write(self.path("boot_id"), parts.join("-") + "\n").unwrap();
    }

    #[cfg(not(target_arch = "aarch64"))]
    /// How the engine ended by itself, or by somebody else's hand.
    pub async fn engine_ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.engine.as_mut().expect("it was started").try_wait().unwrap() {
                self.engine = None;
                return status;
            }
            assert!(start.elapsed() < LONG, "it does not end\n{}", self.log("engine"));
            sleep(Duration::from_millis(20)).await;
        }
    }

    #[cfg(not(target_arch = "aarch64"))]
    /// Whether it has ended by now.
    pub fn engine_has_ended(&mut self) -> Option<ExitStatus> {
        let ended = self.engine.as_mut()?.try_wait().unwrap()?;
        self.engine = None;
        Some(ended)
    }

    pub fn start_link(&mut self) {
        assert!(self.link.is_none());
        self.link = Some(self.command("link").spawn().unwrap());
    }

    /// Both, and waits until the engine serves.
    pub async fn start(&mut self) {
        self.start_engine();
        self.start_link();
        self.ready().await;
    }

    pub fn engine_id(&self) -> u32 {
        self.engine.as_ref().expect("the engine runs").id()
    }

    pub fn end_engine(&mut self, signal: Signal) -> ExitStatus {
        end(&mut self.engine, signal)
    }

    pub fn end_link(&mut self, signal: Signal) -> ExitStatus {
        end(&mut self.link, signal)
    }

    pub async fn ready(&mut self) {
        let start = Instant::now();
        while self.get("/v2/health/ready").await.is_none_or(|reply| reply.status != 200) {
            let ended = self.engine.as_mut().and_then(|engine| engine.try_wait().unwrap());
            assert!(ended.is_none() && start.elapsed() < LONG, "{ended:?}\n{}", self.log("engine"));
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends bytes as they are; `None` where nobody answers.
    pub async fn ask(&self, request: &[u8]) -> Option<Reply> {
        ask(&self.path("api.sock"), request).await
    }

    pub async fn get(&self, path: &str) -> Option<Reply> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    pub async fn status(&self) -> Option<Status> {
        serde_json::from_slice(&self.get("/selvedge/status").await?.body).ok()
    }

    /// Until the engine's own status is as wanted.
    pub async fn wait(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            let status = self.status().await;
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            let logs = || format!("{}\n{}", self.log("engine"), self.log("link"));
            assert!(start.elapsed() < LONG, "{what}: {status:#?}\n{}", logs());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self, role: &str) -> String {
        fs::read_to_string(self.path(&format!("{role}.log"))).unwrap_or_default()
    }

    pub fn ledger(&self) -> Vec<Entry> {
        Ledger::read(&RealDisk, &self.path("link/egress.jsonl")).unwrap()
    }

    /// Chunks that the engine keeps of an update under way, by their digests.
    pub fn chunks(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("engine/fetch")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())).collect()
    }

    pub async fn wait_for_chunks(&self, count: usize) {
        let start = Instant::now();
        while self.chunks().len() < count {
            assert!(start.elapsed() < LONG, "{} chunks\n{}", self.chunks().len(), self.log("engine"));
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn load(&self) -> Load {
        Load::start(self.path("api.sock"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for process in [&mut self.engine, &mut self.link].into_iter().filter_map(Option::as_mut) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn end(process: &mut Option<Child>, signal: Signal) -> ExitStatus {
    let mut process = process.take().expect("it runs");
    let start = Instant::now();
    loop {
        // An error says that it has ended by itself; its status tells. Rust's runtime passes over the
        // first fault that it did not make itself, so that one is sent again.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&process), signal);
        for _ in 0..if signal == Signal::SEGV { 10 } else { 2000 } {
            if let Some(status) = process.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(start.elapsed() < LONG, "{signal:?} does not end it");
    }
}

pub async fn ask(socket: &Path, request: &[u8]) -> Option<Reply> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    // It may answer before it has read everything.
    let _ = stream.write_all(request).await;
    let reply = Reply::read(&mut stream).await;
    let length = reply.header("content-length").and_then(|length| length.parse().ok());
    (reply.status != 0 && length == Some(reply.body.len())).then_some(reply)
}

/// The files of a model that looks up one of four values.
fn lookup() -> [(&'static str, Vec<u8>); 3] {
    // Protobuf by hand, with the numbers of onnx.proto; no length here is over 127.
    let bytes = |field: u8, bytes: &[u8]| [&[field << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let number = |field: u8, value: u8| vec![field << 3, value];
    const FLOAT: u8 = 1;
    const INT64: u8 = 7;
    let table: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let table = [number(1, 4), number(2, FLOAT), bytes(8, b"table"), bytes(9, &table)].concat();
    let node = [bytes(1, b"table"), bytes(1, b"x"), bytes(2, b"y"), bytes(4, b"Gather")].concat();
    let value = |name: &[u8], datatype| {
        let shape = bytes(1, &number(1, 1));
        let tensor = [number(1, datatype), bytes(2, &shape)].concat();
        [bytes(1, name), bytes(2, &bytes(1, &tensor))].concat()
    };
    let sides = [bytes(11, &value(b"x", INT64)), bytes(12, &value(b"y", FLOAT))].concat();
    let graph = [bytes(1, &node), bytes(5, &table), sides].concat();
    let model = [
        number(1, 8),
        [vec![7 << 3 | 2, 0x80 | (graph.len() & 0x7f) as u8, (graph.len() >> 7) as u8], graph].concat(),
        bytes(8, &number(2, 13)),
    ]
    .concat();
    let (x, y) = (2_i64.to_le_bytes(), 3.0_f32.to_le_bytes());
    let view = |dtype, data| safetensors::tensor::TensorView::new(dtype, vec![1], data).unwrap();
    let golden = [("0.in.x", view(safetensors::Dtype::I64, &x)), ("0.out.y", view(safetensors::Dtype::F32, &y))];
    let golden = safetensors::serialize(golden, None).unwrap();
    let manifest = "format = 1\nname = \"lookup\"\nversion = 1\nruntime = \"0.1.0\"\n\
        [[inputs]]\nname = \"x\"\ndatatype = \"INT64\"\nshape = [1]\n\
        [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1]\n\
        [golden]\natol = 0.0\nmin-agreement = 1.0\n[probation]\nrequests = 1\nmax-errors = 0\n";
    [("manifest.toml", manifest.into()), ("model.onnx", model), ("golden.safetensors", golden)]
}

/// All files below a directory, with their contents.
pub fn files(dir: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            found.extend(files(&path)?);
        } else if kind.is_file() {
            found.push((path.clone(), fs::read(&path)?));
        }
    }
    Ok(found)
}
