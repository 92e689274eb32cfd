//! The loop around `Updater`: one link at a time, ticks, reports.
//!
//! A disk that fails does not end the engine: what serves goes on serving, and after a rest the link
//! is made to begin anew, which tries the step again.

use super::feed::FeedError;
use super::updater::Updater;
use crate::inbox::{Found, Inbox, Pack};
use crate::ipc::{Fetch, FrameError, PROTOCOL, Role, ToEngine, ToLink, read_frame, write_frame};
use crate::privacy::{Inventory, Status, Tell};
use crate::sys::DiskError;
use std::future::Future;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

/// Where the loop gets its links and puts its reports.
#[derive(Debug)]
pub struct Serving {
    pub listener: UnixListener,
    /// How often the state is told when nothing changes.
    pub every: Duration,
    /// The newest status, for the local API.
    pub told: watch::Sender<Status>,
    /// Set at each turn of the loop, for a watchdog.
    pub turned: watch::Sender<Instant>,
    /// Where packs may come.
    pub inbox: Option<Inbox>,
}

/// How often versions on probation are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A request that brought nothing is made again. Seldom: what stands wrong on the board comes again with it.
const ASK_AGAIN: Duration = Duration::from_secs(15 * 60);
/// After an error of the disk: a full one is not filled again at once, nor everything fetched anew.
const REST: Duration = Duration::from_secs(60);
/// A link that does not read for so long is let go.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Runs until `shutdown`; then marks trials as paused and returns.
pub async fn run(mut updater: Updater, serving: Serving, shutdown: impl Future<Output = ()>) -> Result<(), DiskError> {
    let mut driver = Driver {
        serving,
        link: None,
        asked: None,
        asked_at: Instant::now(),
        connected: false,
        said: None,
        said_at: None,
        sequence: 0,
        resting: None,
    };
    if let Err(error) = updater.resume().await {
        error!(error = &error as &dyn std::error::Error, "an interrupted update could not go on");
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    loop {
        driver.serving.turned.send_replace(Instant::now());
        let done = tokio::select! {
            () = &mut shutdown => return updater.stop(),
            accepted = driver.serving.listener.accept() => driver.on_link(&mut updater, accepted).await,
            message = next(&mut driver.link) => driver.on_message(&mut updater, message).await,
            _ = tick.tick() => driver.on_tick(&mut updater).await,
        };
        if let Err(error) = done {
            error!(error = &error as &dyn std::error::Error, "the disk does not take it: updates rest a while");
            driver.resting = Some(Instant::now() + REST);
        }
        driver.speak(&mut updater).await;
    }
}

#[derive(Debug)]
struct Link {
    writer: OwnedWriteHalf,
    messages: mpsc::Receiver<Result<ToEngine, FrameError>>,
}

#[derive(Debug)]
struct Driver {
    serving: Serving,
    link: Option<Link>,
    asked: Option<(u32, Fetch)>,
    asked_at: Instant,
    /// The link has a session with the broker.
    connected: bool,
    said: Option<Status>,
    said_at: Option<Instant>,
    sequence: u64,
    /// A disk error makes the update side pause until then; the state is told all the same.
    resting: Option<Instant>,
}

/// The link's next message; never ready without a link.
async fn next(link: &mut Option<Link>) -> Option<Result<ToEngine, FrameError>> {
    match link {
        Some(link) => link.messages.recv().await,
        None => std::future::pending().await,
    }
}

/// Frames are read in a task of their own, since reading one cannot be interrupted.
async fn read(mut reader: OwnedReadHalf, to: mpsc::Sender<Result<ToEngine, FrameError>>) {
    loop {
        let message = read_frame(&mut reader).await;
        let ended = message.is_err();
        if to.send(message).await.is_err() || ended {
            return;
        }
    }
}

impl Driver {
    async fn on_tick(&mut self, updater: &mut Updater) -> Result<(), DiskError> {
        match self.resting {
            Some(until) if Instant::now() < until => Ok(()),
            Some(_) => {
                (self.resting, self.link) = (None, None);
                updater.resume().await
            }
            None => {
                if self.waits_in_vain() {
                    updater.asked_in_vain()?;
                }
                updater.tick().await?;
                let now = updater.parts.clock.monotonic();
                if updater.wants_packs() {
                    self.serving.inbox.as_mut().into_iter().for_each(Inbox::forget);
                }
                match self.serving.inbox.as_mut().and_then(|inbox| inbox.look(now)) {
                    Some(found) => self.on_pack(updater, found).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// With a session and a request, and nothing came of it.
    fn waits_in_vain(&self) -> bool {
        let asks = self.asked.as_ref().is_some_and(|(_, fetch)| *fetch != Fetch::Nothing);
        asks && self.connected && self.link.is_some() && self.asked_at.elapsed() > ASK_AGAIN
    }

    async fn on_link(
        &mut self,
        updater: &mut Updater,
        accepted: std::io::Result<(tokio::net::UnixStream, tokio::net::unix::SocketAddr)>,
    ) -> Result<(), DiskError> {
        match accepted {
            Ok((stream, _)) => {
                info!("link connected");
                let (reader, writer) = stream.into_split();
                let (to, messages) = mpsc::channel(16);
                tokio::spawn(read(reader, to));
                self.link = Some(Link { writer, messages });
                (self.asked, self.said) = (None, None);
                updater.link_is_new()?;
                if self.resting.is_some() { Ok(()) } else { updater.next_download() }
            }
            Err(error) => {
                warn!(%error, "a link could not connect");
                tokio::time::sleep(TICK).await;
                Ok(())
            }
        }
    }

    /// A pack is taken whole, and the link begins anew behind it.
    async fn on_pack(&mut self, updater: &mut Updater, found: Found) -> Result<(), DiskError> {
        let path = found.path.display();
        let turned = &self.serving.turned;
        let alive = || {
            turned.send_replace(Instant::now());
        };
        let fed = match Pack::open(found.file) {
            Ok(pack) => updater.take_pack(&pack, &alive).await,
            Err(error) => Err(error.into()),
        };
        self.link = None;
        match fed {
            Ok(()) => info!(%path, "inbox: taken"),
            Err(FeedError::Pack(error)) => {
                warn!(%path, error = &error as &dyn std::error::Error, "inbox: passed over");
            }
            Err(FeedError::Disk(error)) => {
                // Once more when the disk has rested.
                self.serving.inbox.as_mut().into_iter().for_each(Inbox::forget);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn on_message(
        &mut self,
        updater: &mut Updater,
        message: Option<Result<ToEngine, FrameError>>,
    ) -> Result<(), DiskError> {
        match message {
            Some(Ok(ToEngine::Hello { protocol })) if protocol != PROTOCOL => {
                warn!(protocol, expected = PROTOCOL, "the link is of another version; restart it");
                self.link = None;
                Ok(())
            }
            Some(Ok(_)) if self.resting.is_some() => Ok(()),
            Some(Ok(message)) => {
                // What a lost session kept from coming was not asked for in vain.
                if let ToEngine::Connected(connected) = message {
                    (self.connected, self.asked_at) = (connected, Instant::now());
                }
                // The link's list of targets may have changed: a request into it is made again.
                let lists = |role: &Role| matches!(role, Role::Targets | Role::Timestamp);
                if matches!(&message, ToEngine::Delegated { .. })
                    || matches!(&message, ToEngine::Metadata { role, .. } if lists(role))
                {
                    self.asked = None;
                }
                updater.on_message(message).await
            }
            Some(Err(error)) => {
                info!(error = &error as &dyn std::error::Error, "link gone");
                self.link = None;
                Ok(())
            }
            None => {
                self.link = None;
                Ok(())
            }
        }
    }

    /// Tells the link and the local API what changed, and asks for what is missing.
    async fn speak(&mut self, updater: &mut Updater) {
        let request = if self.resting.is_some() { Fetch::Nothing } else { updater.request() };
        let asking = (updater.root_version(), request);
        let stale = asking.1 != Fetch::Nothing && self.asked_at.elapsed() > ASK_AGAIN;
        if self.link.is_some() && (self.asked.as_ref() != Some(&asking) || stale) {
            let root_is_news = self.asked.as_ref().is_none_or(|(root, _)| *root != asking.0);
            if root_is_news {
                self.send(ToLink::Hello { protocol: PROTOCOL, root: asking.0 }).await;
            }
            self.send(ToLink::Fetch(asking.1.clone())).await;
            (self.asked, self.asked_at) = (Some(asking), Instant::now());
        }
        let status = Status { sequence: self.sequence + 1, ..updater.status() };
        let is_due = self.said_at.is_none_or(|at| at.elapsed() >= self.serving.every);
        let is_news = self.said.as_ref().is_none_or(|said| differs(said, &status));
        if is_news || is_due {
            self.serving.told.send_replace(status.clone());
            self.send(ToLink::Tell(Tell::Status(Box::new(status.clone())))).await;
            (self.said, self.sequence) = (Some(status), self.sequence + 1);
        }
        if is_due {
            self.send(ToLink::Tell(Tell::Metrics(updater.metrics()))).await;
            self.said_at = Some(Instant::now());
        }
    }

    async fn send(&mut self, message: ToLink) {
        let Some(link) = &mut self.link else { return };
        match timeout(WRITE_LIMIT, write_frame(&mut link.writer, &message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                info!(error = &error as &dyn std::error::Error, "link gone");
                self.link = None;
            }
            Err(_) => {
                warn!("the link does not read; it is let go");
                self.link = None;
            }
        }
    }
}

/// By what an operator acts on: not by counters, clocks and sensors.
fn differs(a: &Status, b: &Status) -> bool {
    let quiet = |status: &Status| Status { sequence: 0, time: 0, inventory: Inventory::default(), ..status.clone() };
    quiet(a) != quiet(b)
}
