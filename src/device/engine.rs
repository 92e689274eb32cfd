//! The engine role: sees every input and every result, has no network.

use super::inventory::Sensors;
use super::link::{IdError, device_id};
use super::sockets::{Inherited, SocketError};
use crate::config::{self, Config};
use crate::engine::{IsaChoice, IsaError, Settings, Slots, Workers};
use crate::inbox::Inbox;
use crate::privacy::Status;
use crate::serve::{self, Api};
use crate::store::{ModelDirError, read_model_dir};
use crate::sys::{self, Clock, CountedDisk, Disk, DiskError, RealClock, RealDisk};
use crate::update::{self, Parts, Serving, StartError, Updater};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "give up the network; where the kernel cannot (under an emulator), set engine.deny-network = false and build the wall outside"
    )]
    Deny(#[source] sys::DenyError),
    #[error("seal the memory against core files and debuggers")]
    Seal(#[source] std::io::Error),
    #[error("the network is still there after it was given up: the engine does not start")]
    NotDenied,
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("choose the instruction set; see engine.isa and SELVEDGE_ISA")]
    Isa(#[from] IsaError),
    #[error("read the operator's root")]
    Root(#[source] DiskError),
    #[error(transparent)]
    Factory(#[from] ModelDirError),
    #[error("lock {path}; is another engine running with this state directory?")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("start {0} workers")]
    Workers(usize, #[source] std::io::Error),
    #[error("read the state directory")]
    Start(#[from] StartError),
    #[error("write the state directory")]
    Disk(#[from] DiskError),
    #[error("serve the local API")]
    Serve(#[source] std::io::Error),
}

/// Runs until `shutdown`: requests in flight are answered, trials marked as paused.
pub async fn run(config: &Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), EngineError> {
    sys::seal_memory().map_err(EngineError::Seal)?;
    deny_network(&config.engine)?;
    let isa = settle(&config.engine)?;
    let mut inherited = Inherited::take()?;
    let apis = inherited.listeners("api", &config.engine.socket)?;
    let links = inherited.listeners("ipc", &config.engine.link_socket)?;
    let _held = hold(&config.engine.state)?;
    let slots = Arc::new(Slots::default());
    let workers = config.engine.workers;
    let pool = Workers::start(workers, config.engine.queue).map_err(|source| EngineError::Workers(workers, source))?;
    let pool = Arc::new(pool);
    let updater = Updater::start(parts(config, isa, slots.clone())?).await?;
    let (told, status) = watch::channel(updater.status());
    let (turned, turns) = watch::channel(Instant::now());
    let api = Api::new(slots, pool.clone(), &config.engine, Arc::new(move || status_json(&status.borrow())));
    let (stop_api, api_stops) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve::serve(api, apis, async move { drop(api_stops.await) }));
    tokio::spawn(watchdog(pool, turns, config.engine.hang));
    info!(socket = %config.engine.socket.display(), "ready");
    // Not under systemd there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let every = config.engine.status_interval;
    let inbox = config.engine.inbox.as_deref().map(Inbox::new);
    let serving_links = Serving { listener: only(links), every, told, turned, inbox };
    let updated = update::run(updater, serving_links, shutdown).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    drop(stop_api);
    match serving.await {
        Ok(served) => served.map_err(EngineError::Serve)?,
        Err(error) => error!(%error, "the API's task broke"),
    }
    Ok(updated?)
}

/// One engine a state directory: a second one would take the first one's trial for a crash.
fn hold(state: &Path) -> Result<File, EngineError> {
    let path = state.join("lock");
    let failed = |source: std::io::Error| EngineError::Lock { path: path.clone(), source };
    std::fs::create_dir_all(state).map_err(failed)?;
    // On a disk that was remounted read-only, the file of an earlier start will do.
    let file = File::create(&path).or_else(|_| File::open(&path)).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
    Ok(file)
}

/// One link at a time: one socket.
fn only(mut listeners: Vec<UnixListener>) -> UnixListener {
    listeners.swap_remove(0)
}

fn deny_network(config: &config::Engine) -> Result<(), EngineError> {
    if config.deny_network {
        sys::deny_network().map_err(EngineError::Deny)?;
        if !sys::network_is_denied() {
            return Err(EngineError::NotDenied);
        }
    }
    info!(network_denied = sys::network_is_denied(), "engine starting");
    Ok(())
}

/// Says how models run here, before the first one.
fn settle(config: &config::Engine) -> Result<IsaChoice, EngineError> {
    let settings = Settings { isa: config.isa, threads: config.threads.unwrap_or_else(Settings::default_threads) };
    if let Err(error) = settings.state() {
        warn!(%error, "settings");
    }
    let settings = Settings::current();
    let choice = settings.isa()?;
    info!(isa = %choice.isa, because = %choice.because, threads = settings.threads, "int8 kernels");
    Ok(choice)
}

fn parts(config: &Config, isa: IsaChoice, slots: Arc<Slots>) -> Result<Parts, EngineError> {
    let disk: Arc<dyn Disk> = Arc::new(CountedDisk::new(Arc::new(RealDisk), config.engine.state.clone()));
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    const MAX_ROOT: u64 = 1 << 20;
    let root = disk.read(&config.engine.root, MAX_ROOT).map_err(EngineError::Root)?;
    let factory =
        config.engine.factory.iter().map(|dir| Ok(read_model_dir(dir)?.0)).collect::<Result<_, EngineError>>()?;
    let sensors = Sensors::new(disk.clone(), clock.clone(), config.engine.state.clone(), isa.isa);
    Ok(Parts {
        disk,
        clock,
        state: config.engine.state.clone(),
        root,
        device: device_id(config)?.0,
        groups: config.device.groups.clone(),
        slots,
        workers: config.engine.workers,
        factory,
        boot: sys::boot_id(),
        inventory: Box::new(move || sensors.read()),
        memory: sys::memory_limit(),
        throttled: Arc::new(sys::is_throttled),
        rules: config.update.clone(),
        on_battery: Box::new(sys::is_on_battery),
    })
}

fn status_json(status: &Status) -> serde_json::Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// Tells systemd that all goes on, while it does: neither an inference nor the check of a model takes longer than `hung`.
/// A hang on trial becomes a restart, and so a rollback.
async fn watchdog(workers: Arc<Workers>, turns: watch::Receiver<Instant>, hung: Duration) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval(limit / 3);
    loop {
        tick.tick().await;
        let idle = turns.borrow().elapsed();
        if idle < hung && workers.longest_run() < hung {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        } else {
            error!(?idle, longest_run = ?workers.longest_run(), "something hangs: waiting for the watchdog");
        }
    }
}
