//! One device: its update side and its link, as tasks of this process.

use crate::broker::address;
use selvedge::bundle::Bundle;
use selvedge::config::{self, DeviceId};
use selvedge::engine::{Slots, Workers};
use selvedge::link;
use selvedge::mqtt::Backoff;
use selvedge::privacy::{Inventory, ModelState, Status};
use selvedge::store::read_model_dir;
use selvedge::sys::{CountedDisk, Disk, RealClock, RealDisk};
use selvedge::tensor::Tensor;
use selvedge::update::{Parts, Serving, Updater, run};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// What all devices have in common.
pub struct Shared {
    root: Vec<u8>,
    port: u16,
    factory: Bundle,
    picture: Vec<Tensor>,
    workers: Workers,
}

impl Shared {
    pub fn new(root: Vec<u8>, port: u16) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
        let factory = read_model_dir(&dir).unwrap().0;
        let picture = factory.golden()[0].inputs.values().cloned().collect();
        let workers = Workers::start(2, 4096).unwrap();
        Self { root, port, factory, picture, workers }
    }
}

pub struct Device {
    status: watch::Receiver<Status>,
    disk: Arc<dyn Disk>,
}

impl Device {
    pub async fn start(number: usize, dir: &Path, shared: Arc<Shared>) -> Self {
        std::fs::create_dir(dir).unwrap();
        let (state, socket) = (dir.join("engine"), dir.join("link.sock"));
        std::fs::create_dir(&state).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(CountedDisk::new(Arc::new(RealDisk), state.clone()));
        let id = DeviceId((number as u128 + 1).to_be_bytes());
        let slots = Arc::new(Slots::default());
        let parts = Parts {
            disk: disk.clone(),
            clock: Arc::new(RealClock::new()),
            state,
            root: Some(shared.root.clone()),
            device: id.0,
            groups: vec!["fleet".into()],
            slots: slots.clone(),
            workers: 1,
            factory: vec![shared.factory.clone()],
            boot: 1,
            inventory: Box::new(Inventory::default),
            memory: None,
            throttled: Arc::new(|| false),
            rules: config::Config::default().update,
            on_battery: Box::new(|| false),
        };
        let updater = Updater::start(parts).await.unwrap();
        let (told, status) = watch::channel(updater.status());
        let (turned, _) = watch::channel(Instant::now());
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = Serving { listener, every: Duration::from_secs(60), told, turned, inbox: None };
        tokio::spawn(async move { run(updater, serving, std::future::pending()).await.unwrap() });
        let config = config::Link { broker: address(shared.port), state: dir.join("link"), ledger_limit: 4 << 20 };
        let options = link::Options {
            config,
            device: id,
            engine_socket: socket,
            disk: Arc::new(RealDisk),
            backoff: Backoff::default(),
        };
        tokio::spawn(async move { link::run(options, std::future::pending()).await.unwrap() });
        tokio::spawn(ask(slots, shared));
        Self { status, disk }
    }

    /// Serves that version, proven.
    pub fn is_on(&self, version: u32) -> bool {
        let status = self.status.borrow();
        status.models.iter().any(|model| model.live == Some(version) && model.state == ModelState::Idle)
    }

    /// Bytes that it gave to its storage, the link's ledger aside.
    pub fn written(&self) -> u64 {
        self.disk.written().bytes
    }
}

/// The board's own program.
async fn ask(slots: Arc<Slots>, shared: Arc<Shared>) {
    loop {
        sleep(Duration::from_millis(500)).await;
        if let Some(taken) = slots.take("digits") {
            shared.workers.infer(taken.live, shared.picture.clone(), Duration::from_secs(60)).await.unwrap();
        }
    }
}
