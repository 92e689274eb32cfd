//! An API on a socket of its own, a client that sends raw bytes, and the digits.

use safetensors::SafeTensors;
use selvedge::bundle::{GoldenSample, Manifest, parse_golden};
use selvedge::config;
use selvedge::engine::{Live, Model, Slots, Workers};
use selvedge::serve::{Api, bind, serve};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// A model directory as the device would load it.
pub fn load(dir: &str) -> Arc<Live> {
    let dir = models().join(dir);
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let manifest = Manifest::parse(&read("manifest.toml")).unwrap();
    let model = Model::load(&read("model.onnx"), &manifest.input_specs(), &manifest.output_specs()).unwrap();
    let labels = String::from_utf8(read("labels.txt")).unwrap().lines().map(str::to_owned).collect();
    let labels = BTreeMap::from([("logits".to_owned(), labels)]);
    Live::with_labels(manifest.name.as_str(), manifest.version, model, 2, labels).unwrap()
}

pub fn golden(dir: &str) -> (Vec<GoldenSample>, f64) {
    let dir = models().join(dir);
    let manifest = Manifest::parse(&std::fs::read(dir.join("manifest.toml")).unwrap()).unwrap();
    let samples = parse_golden(&std::fs::read(dir.join("golden.safetensors")).unwrap()).unwrap();
    (samples, manifest.golden.atol)
}

/// Held-out images as the model takes them, each with its digit.
pub fn held_out() -> Vec<([f32; 64], u8)> {
    let bytes = std::fs::read(models().join("digits/heldout.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let images = file.tensor("images").unwrap().data().to_vec();
    let labels = file.tensor("labels").unwrap().data().to_vec();
    let scaled = |image: &[u8; 64]| image.map(|pixel| f32::from(pixel) / 16.0);
    images.as_chunks::<64>().0.iter().map(scaled).zip(labels).collect()
}

/// The image after somebody bumped the camera.
pub fn bump(image: &[f32; 64]) -> [f32; 64] {
    std::array::from_fn(|i| 1.0 - image[(7 - i % 8) * 8 + i / 8])
}

pub fn largest(values: &[f32]) -> u8 {
    let best = (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b]));
    u8::try_from(best.unwrap()).unwrap()
}

pub fn engine_config(max_body: usize) -> config::Engine {
    config::Engine {
        state: PathBuf::new(),
        socket: PathBuf::new(),
        link_socket: PathBuf::new(),
        root: PathBuf::new(),
        factory: Vec::new(),
        inbox: None,
        workers: 2,
        isa: None,
        threads: None,
        queue: 64,
        max_body,
        deadline: Duration::from_secs(10),
        hang: Duration::from_secs(300),
        deny_network: false,
        status_interval: Duration::from_secs(60),
    }
}

/// How the API under test differs from the default.
pub struct Options {
    pub config: config::Engine,
    /// For a head, a body and each bite of an answer.
    pub patience: Duration,
    pub connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { config: engine_config(64 * 1024), patience: Duration::from_secs(30), connections: 256 }
    }
}

pub struct Device {
    pub slots: Arc<Slots>,
    pub workers: Arc<Workers>,
    pub socket: PathBuf,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Device {
    /// Serves the plain digits model.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let slots = Arc::new(Slots::default());
        slots.install(load("digits"));
        let workers = Arc::new(Workers::start(options.config.workers, options.config.queue).unwrap());
        let status = Arc::new(|| serde_json::json!({ "models": 1 }));
        let api = Api::new(slots.clone(), workers.clone(), &options.config, status).with_bounds(
            options.patience,
            options.patience,
            options.patience,
            options.connections,
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = bind(&socket).unwrap();
        let serving = tokio::spawn(serve(api, vec![listener], async {
            let _ = stopped.await;
        }));
        Self { slots, workers, socket, stop, serving, _dir: dir }
    }

    /// Ends once everything under way is answered.
    pub async fn stop(self) -> std::io::Result<()> {
        let _ = self.stop.send(());
        self.serving.await.unwrap()
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends bytes as they are; reads until the server closes.
    pub async fn send(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        // The server may close before it has read everything; what counts is its answer.
        let _ = stream.write_all(request).await;
        Reply::read(&mut stream).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.send(&post(path, "", body.as_bytes())).await
    }

    /// One good request; true when the digit is right.
    pub async fn answers(&self) {
        let (image, digit) = held_out()[0];
        let reply = self.post("/v2/models/digits/infer", &json_request(&image)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let values: Vec<f32> = serde_json::from_value(reply.json()["outputs"][0]["data"].clone()).unwrap();
        assert_eq!(largest(&values), digit);
    }
}

/// A request with the given extra header lines (each ending in CRLF).
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub fn json_request(image: &[f32; 64]) -> String {
    let input = serde_json::json!({ "name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": &image[..] });
    serde_json::json!({ "id": "7", "inputs": [input] }).to_string()
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// Everything until the other side closes, as one reply.
    pub async fn read(stream: &mut UnixStream) -> Self {
        let mut bytes = Vec::new();
        let all = stream.read_to_end(&mut bytes);
        let _ = tokio::time::timeout(Duration::from_secs(20), all).await.expect("the server answers or closes");
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes[end..].to_vec() }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}
