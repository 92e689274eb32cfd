//! The API with a digits model, in threads of its own.

use selvedge::bundle::Manifest;
use selvedge::config;
use selvedge::engine::{Live, Model, Slots, Workers};
use selvedge::serve::{Api, bind, serve};
use selvedge::tensor::{Tensor, TensorSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const WORKERS: usize = 2;

pub struct Server {
    pub slots: Arc<Slots>,
    pub workers: Arc<Workers>,
    pub socket: PathBuf,
    /// Version `i` is `sources[i % 2]`.
    sources: [Source; 2],
    pub runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

struct Source {
    onnx: Vec<u8>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

impl Source {
    fn read(dir: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(dir);
        let manifest = Manifest::parse(&std::fs::read(dir.join("manifest.toml")).unwrap()).unwrap();
        Self {
            onnx: std::fs::read(dir.join("model.onnx")).unwrap(),
            inputs: manifest.input_specs(),
            outputs: manifest.output_specs(),
        }
    }
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let slots = Arc::new(Slots::default());
        let config = engine_config();
        let workers = Arc::new(Workers::start(config.workers, config.queue).unwrap());
        let api = Api::new(slots.clone(), workers.clone(), &config, Arc::new(|| serde_json::Value::Null));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(async { bind(&socket).unwrap() });
        runtime.spawn(serve(api, vec![listener], std::future::pending()));
        let sources = [Source::read("digits-adapted"), Source::read("digits")];
        let server = Self { slots, workers, socket, sources, runtime, _dir: dir };
        server.slots.install(server.load(1));
        server
    }

    /// As an update does it: the whole file, its sessions, warmed.
    pub fn load(&self, version: u32) -> Arc<Live> {
        let source = &self.sources[version as usize % 2];
        let model = Model::load(&source.onnx, &source.inputs, &source.outputs).unwrap();
        Live::new("digits", version, model, WORKERS).unwrap()
    }
}

fn engine_config() -> config::Engine {
    config::Engine {
        state: PathBuf::new(),
        socket: PathBuf::new(),
        link_socket: PathBuf::new(),
        root: PathBuf::new(),
        factory: Vec::new(),
        inbox: None,
        workers: WORKERS,
        isa: None,
        threads: None,
        queue: 64,
        max_body: 16 << 20,
        deadline: Duration::from_secs(10),
        hang: std::time::Duration::from_secs(300),
        deny_network: false,
        status_interval: Duration::from_secs(60),
    }
}

/// An image: the same each time, so that answers can be compared.
pub fn image() -> Tensor {
    let pixels: Vec<f32> = (0..64).map(|i| (i * 7 % 17) as f32 / 16.0).collect();
    Tensor::from_f32(vec![1, 1, 8, 8], &pixels).unwrap()
}
