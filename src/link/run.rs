//! The driver: sockets and timers around the bridge.
//!
//! Invariant: it always listens to the engine; it takes from the broker only when the engine has
//! taken what came before, so memory stays bounded and the slow side sets the pace.

use super::bridge::{Action, Bridge};
use super::engine::{EngineEvent, dial};
use super::noted::Noted;
use super::outbox::{Done, Due, Outbox};
use crate::bundle::topics;
use crate::config::{self, DeviceId};
use crate::ipc::ToEngine;
use crate::mqtt::{self, Event, Handle, PublishError, Sent, Will};
use crate::privacy::{Entry, Kind, Ledger, LedgerError};
use crate::sys::{Disk, RealClock, boot_id, unix_now};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::future::{Future, pending};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// What the link needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    pub config: config::Link,
    /// Also the client id towards the broker, so that its access list can use it.
    pub device: DeviceId,
    /// The engine's socket for links.
    pub engine_socket: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub backoff: mqtt::Backoff,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("open the egress ledger: nothing is sent that cannot be written down")]
    Ledger(#[from] LedgerError),
    #[error("start the session with the broker")]
    Start(#[from] mqtt::StartError),
    #[error("the session's task ended by itself: restart the link")]
    Session,
}

/// Runs until `shutdown`, then says that the device is offline and takes its leave.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), LinkError> {
    let ledger_path = options.config.state.join("egress.jsonl");
    let ledger = Ledger::open(options.disk.clone(), &ledger_path, options.config.ledger_limit)?;
    let boot = boot_id();
    let session = mqtt::Options {
        broker: options.config.broker.clone(),
        client_id: options.device.to_string(),
        will: Some(Will { topic: topics::device_online(options.device), bytes: online(false, boot).into() }),
        backoff: options.backoff,
        dates: mqtt::Dates::of_device(Arc::new(RealClock::new())),
    };
    let (handle, mut events) = mqtt::start(session, write_down(ledger))?;
    let (sender, mut engine) = mpsc::channel(16);
    // Dropped, and so ended, when this function returns.
    let mut dialer = JoinSet::new();
    dialer.spawn(dial(options.engine_socket, sender));
    let noted = Noted::new(options.disk, &options.config.state);
    let mut driver = Driver::new(handle, options.device, boot, noted);
    tokio::pin!(shutdown);
    let result = loop {
        driver.publish_next();
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            event = events.recv(), if driver.to_engine.is_empty() => match event {
                Some(event) => driver.broker(event).await,
                None => break Err(LinkError::Session),
            },
            Some(event) = engine.recv() => driver.engine(event).await,
            () = driver.step() => {}
        }
    };
    driver.leave().await;
    result
}

/// Every packet that left becomes a line. A full disk must not stop the updates that could free
/// it: then the log says how many lines lack.
fn write_down(mut ledger: Ledger) -> mqtt::OnSent {
    let mut lost = 0_u64;
    Box::new(move |sent: Sent| {
        let entry = Entry { time: unix_now(), kind: sent.kind, topic: sent.topic, bytes: sent.bytes };
        if let Err(e) = ledger.record(&entry) {
            lost += 1;
            if lost.is_power_of_two() {
                tracing::error!("{lost} packets are not in the egress ledger: {e}");
            }
        }
    })
}

fn online(online: bool, boot: u128) -> String {
    format!("{{\"online\":{online},\"boot\":\"{boot:032x}\"}}")
}

type Publishing = BoxFuture<'static, (Due, Result<(), PublishError>)>;

struct Driver {
    handle: Handle,
    device: DeviceId,
    boot: u128,
    noted: Noted,
    bridge: Bridge,
    outbox: Outbox,
    publishing: Option<Publishing>,
    engine: Option<mpsc::Sender<ToEngine>>,
    /// What the engine has not taken yet.
    to_engine: VecDeque<ToEngine>,
}

impl Driver {
    fn new(handle: Handle, device: DeviceId, boot: u128, noted: Noted) -> Self {
        Self {
            handle,
            device,
            boot,
            noted,
            bridge: Bridge::new(),
            outbox: Outbox::default(),
            publishing: None,
            engine: None,
            to_engine: VecDeque::new(),
        }
    }

    /// Waits for what goes on by itself: the engine takes a frame, a publish ends, a pause is over.
    /// Safe to cancel.
    async fn step(&mut self) {
        let wake = self.outbox.wake();
        tokio::select! {
            () = room(self.engine.as_ref()), if !self.to_engine.is_empty() => self.deliver(),
            (due, result) = ended(&mut self.publishing) => {
                self.publishing = None;
                self.outbox.done(&due, judge(result));
            }
            () = until(wake) => {}
        }
    }

    fn deliver(&mut self) {
        let Some(engine) = &self.engine else { return self.to_engine.clear() };
        while let Some(message) = self.to_engine.pop_front() {
            match engine.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => return self.to_engine.push_front(message),
                // Its end will be reported; until then there is nobody to tell.
                Err(mpsc::error::TrySendError::Closed(_)) => return self.to_engine.clear(),
            }
        }
    }

    async fn broker(&mut self, event: Event) {
        let actions = match event {
            Event::Connected => {
                tracing::info!("the session with the broker stands");
                self.noted.note(None);
                self.outbox.session(true);
                self.bridge.session(true)
            }
            Event::Disconnected { reason, .. } => {
                self.noted.note(Some(&reason));
                self.outbox.session(false);
                self.bridge.session(false)
            }
            Event::Message(message) => self.bridge.broker_shows(&message.topic, &message.bytes),
        };
        self.act(actions).await;
    }

    async fn engine(&mut self, event: EngineEvent) {
        let actions = match event {
            EngineEvent::Up(sender) => {
                self.to_engine.clear();
                self.engine = Some(sender);
                self.bridge.engine_up()
            }
            EngineEvent::Frame(message) => self.bridge.engine_says(message),
            EngineEvent::Down => {
                self.to_engine.clear();
                self.engine = None;
                self.bridge.engine_down()
            }
        };
        self.act(actions).await;
    }

    async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Subscribe(topic) => self.handle.subscribe(topic).await,
                Action::Unsubscribe(topic) => self.handle.unsubscribe(topic).await,
                Action::ToEngine(message) => self.to_engine.push_back(message),
                Action::Tell(tell) => self.outbox.tell(tell),
                Action::GetsOn(does) => self.handle.gets_on(does),
                Action::HangUp => {
                    self.to_engine.clear();
                    self.engine = None;
                }
            }
        }
    }

    fn publish_next(&mut self) {
        let Some(due) = self.outbox.take(Instant::now()) else { return };
        let (topic, json, retain, kind) = match &due {
            Due::Online => (topics::device_online(self.device), online(true, self.boot), true, Kind::Online),
            Due::Status(status) => (topics::device_status(self.device), json(status), true, Kind::Status),
            Due::Metrics(metrics) => (topics::device_metrics(self.device), json(metrics), false, Kind::Metrics),
        };
        let handle = self.handle.clone();
        self.publishing = Some(Box::pin(async move {
            let result = handle.publish(topic, json, retain, kind).await;
            (due, result)
        }));
    }

    async fn leave(mut self) {
        self.noted.note(Some("the link was stopped"));
        // Until now one publish after the other, and this is the last.
        drop(self.publishing);
        if !self.outbox.is_connected() {
            return self.handle.close().await;
        }
        let (topic, json) = (topics::device_online(self.device), online(false, self.boot));
        let last = self.handle.publish(topic, json, true, Kind::Online);
        match timeout(Duration::from_secs(3), last).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::info!("left without a word: {e}"),
            Err(_) => tracing::info!("left without a word: the broker is too slow"),
        }
        self.handle.close().await;
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data serializes")
}

fn judge(result: Result<(), PublishError>) -> Done {
    match result {
        Ok(()) => Done::Told,
        Err(PublishError::Interrupted { .. }) => Done::Interrupted,
        Err(
            e @ (PublishError::TooLarge { .. }
            | PublishError::Topic(_)
            | PublishError::Refused { .. }
            | PublishError::Closed),
        ) => {
            tracing::warn!("{e}");
            Done::Refused
        }
    }
}

async fn room(engine: Option<&mpsc::Sender<ToEngine>>) {
    if let Some(engine) = engine {
        engine.reserve().await.ok();
    }
}

async fn ended(publishing: &mut Option<Publishing>) -> (Due, Result<(), PublishError>) {
    match publishing {
        Some(publishing) => publishing.await,
        None => pending().await,
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => pending().await,
    }
}
