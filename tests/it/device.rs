//! A device of two real processes, an operator, and a broker between them, for the tests that look
//! at all of it.

use crate::mosquitto::Mosquitto;
use selvedge::publish::{Audience, InitOptions, PublishOptions, Repository};
use selvedge::store::read_model_dir;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const ID: &str = "00112233445566778899aabbccddeeff";

pub fn model_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// Both processes, their directory, and the operator's.
pub struct Device {
    pub dir: tempfile::TempDir,
    pub repository: Repository,
    pub engine: Child,
    pub link: Child,
    broker: u16,
}

impl Device {
    /// `broker` is the port that the link connects to; `posts` the one that the operator does.
    pub fn start(link_port: u16, broker: u16, log_level: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(&dir.path().join("repo"), &InitOptions::default()).unwrap();
        for name in ["engine", "link", "run"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("root.json"), repository.root_json().unwrap()).unwrap();
        let path = |name: &str| format!("{:?}", dir.path().join(name));
        let text = format!(
            "[device]\nid = \"{ID}\"\ngroups = [\"shop\"]\n[engine]\nstate = {}\nsocket = {}\nlink-socket = {}\n\
             root = {}\nfactory = [{:?}]\nstatus-interval-seconds = 1\n\
             [link]\nbroker = \"mqtt://127.0.0.1:{link_port}\"\nstate = {}\nkeep-alive-seconds = 5\n\
             [log]\nlevel = \"{log_level}\"\n",
            path("engine"),
            path("run/api.sock"),
            path("run/link.sock"),
            path("root.json"),
            model_dir("digits"),
            path("link"),
        );
        fs::write(dir.path().join("selvedge.toml"), text).unwrap();
        let (engine, link) = (role(dir.path(), "engine"), role(dir.path(), "link"));
        let device = Self { dir, repository, engine, link, broker };
        device.wait_until_ready();
        device
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self, role: &str) -> String {
        fs::read_to_string(self.path(&format!("{role}.log"))).unwrap()
    }

    /// Kills the engine with that signal and starts it again.
    pub fn crash_engine(&mut self, signal: &str) {
        self.signal(signal);
        self.engine.wait().unwrap();
        self.start_engine();
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.engine.id().to_string()]).status().unwrap().success());
    }

    pub fn start_engine(&mut self) {
        self.engine = role(self.dir.path(), "engine");
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let start = Instant::now();
        while self.get("/v2/health/ready").0 != 200 {
            assert!(start.elapsed() < Duration::from_secs(20), "no engine:\n{}", self.log("engine"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn get(&self, path: &str) -> (u16, Vec<u8>) {
        self.http(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
    }

    pub fn post(&self, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.http(&[head.as_bytes(), body].concat())
    }

    /// Status and whole answer; 0 where there is none.
    fn http(&self, request: &[u8]) -> (u16, Vec<u8>) {
        let ask = || {
            let mut stream = UnixStream::connect(self.path("run/api.sock"))?;
            stream.write_all(request)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        let answer = ask().unwrap_or_default();
        let code = std::str::from_utf8(answer.get(9..12).unwrap_or_default()).ok().and_then(|code| code.parse().ok());
        (code.unwrap_or(0), answer)
    }

    pub fn status(&self) -> serde_json::Value {
        let (_, answer) = self.get("/selvedge/status");
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
        serde_json::from_slice(&answer[body..]).unwrap_or_default()
    }

    pub fn live(&self) -> u64 {
        self.status()["models"][0]["live"].as_u64().unwrap_or(0)
    }

    pub fn wait(&self, what: &str, satisfied: impl Fn(&serde_json::Value) -> bool) {
        let start = Instant::now();
        while !satisfied(&self.status()) {
            let logs = || format!("{}\n{}\n{}", self.status(), self.log("engine"), self.log("link"));
            assert!(start.elapsed() < Duration::from_secs(30), "{what}:\n{}", logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A good answer to a digit, by whichever version.
    pub fn infer(&self) -> u16 {
        let body =
            format!(r#"{{"inputs":[{{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":{:?}}}]}}"#, [0.5; 64]);
        self.post("/v2/models/digits/infer", "", body.as_bytes()).0
    }

    /// Signs and posts the adapted model.
    pub fn publish(&mut self, name: &str) {
        let (bundle, _) = read_model_dir(&model_dir(name)).unwrap();
        let publication =
            self.repository.publish(&bundle, &Audience::group("shop"), &PublishOptions::default()).unwrap();
        self.upload(&publication);
    }

    /// Blocking: each test of this kind has its own thread.
    pub fn upload(&mut self, publication: &selvedge::publish::Publication) {
        let broker = selvedge::config::Broker {
            host: "127.0.0.1".into(),
            port: self.broker,
            ..selvedge::config::Config::default().link.broker
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let board = selvedge::publish::connect(&broker).await.unwrap();
            selvedge::publish::upload(&board, publication, &mut |_, _| ()).await.unwrap();
            board.close().await;
        });
        self.repository.confirm(publication).unwrap();
    }

    /// Ends both in order; the directory stays.
    pub fn stop(&mut self) {
        for child in [&self.link, &self.engine] {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        self.link.wait().unwrap();
        self.engine.wait().unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for child in [&mut self.engine, &mut self.link] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn role(dir: &Path, name: &str) -> Child {
    let log = File::options().append(true).create(true).open(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args([name, "--config"]).arg(dir.join("selvedge.toml")).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}

/// Stands between the link and the broker and keeps every byte of both directions.
pub struct Recorder {
    pub port: u16,
    to_broker: Arc<Mutex<Vec<u8>>>,
    to_link: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    pub fn start(broker: &Mosquitto) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, broker) = (listener.local_addr().unwrap().port(), broker.port());
        let (to_broker, to_link) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (up, down) = (to_broker.clone(), to_link.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                let (client2, server2) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down) = (up.clone(), down.clone());
                std::thread::spawn(move || copy(client, server, &up));
                std::thread::spawn(move || copy(server2, client2, &down));
            }
        });
        Self { port, to_broker, to_link }
    }

    pub fn to_broker(&self) -> Vec<u8> {
        self.to_broker.lock().unwrap().clone()
    }

    pub fn to_link(&self) -> Vec<u8> {
        self.to_link.lock().unwrap().clone()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        kept.lock().unwrap().extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
