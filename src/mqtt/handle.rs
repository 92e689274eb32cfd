//! The caller's end of a session.

use super::session::{Control, Session};
use super::wire::MAX_PACKET;
use super::{Event, OnSent, Options};
use crate::privacy::Kind;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Publishes that wait for their turn.
const QUEUE: usize = 64;

/// A publish on its way, with who waits for it.
#[derive(Debug)]
pub(super) struct Publish {
    pub topic: String,
    pub bytes: Bytes,
    pub retain: bool,
    pub kind: Kind,
    pub done: oneshot::Sender<Result<(), PublishError>>,
}

impl Publish {
    /// Who waited may be gone; that is theirs to decide.
    pub fn finish(self, result: Result<(), PublishError>) {
        self.done.send(result).ok();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("{topic} would take a packet of {actual} bytes, the limit is {limit}: publish it in smaller parts")]
    TooLarge { topic: String, actual: u64, limit: u64 },
    #[error("{0:?} is no topic: it must have 1 to 65535 bytes and no '+', '#' or NUL")]
    Topic(String),
    #[error("the session was lost before the broker acknowledged {topic}: publish again")]
    Interrupted { topic: String },
    #[error("the broker refused {topic}: {reason}")]
    Refused { topic: String, reason: String },
    #[error("the session with the broker is closed")]
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the client id must have 1 to 65535 bytes")]
    ClientId,
    #[error("the broker's host is empty: set `broker` under [link]")]
    Host,
    #[error("`username` under [link] is over 65535 bytes")]
    Username,
    #[error("the last will's topic or message is empty or over 65535 bytes")]
    Will,
    #[error("a session needs a tokio runtime around it")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
}

/// Starts a session that lasts until `close`, or until the last handle is dropped; then it ends
/// without a word, and the broker publishes the last will. `on_sent` hears of
/// each packet that left. Events must be read, or messages stop coming; nothing else does.
pub fn start(options: Options, on_sent: OnSent) -> Result<(Handle, mpsc::Receiver<Event>), StartError> {
    check(&options)?;
    let runtime = tokio::runtime::Handle::try_current()?;
    let (control, controls) = mpsc::channel(QUEUE);
    let (publish, publishes) = mpsc::channel(QUEUE);
    let (event, events) = mpsc::channel(QUEUE);
    let (attempts, useful) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let shared = Shared { attempts: attempts.clone(), useful: useful.clone() };
    let session = Session::new(options, on_sent, controls, publishes, event, shared);
    runtime.spawn(session.run());
    let handle = Handle { control, publish, attempts, useful };
    Ok((handle, events))
}

fn check(options: &Options) -> Result<(), StartError> {
    let fits = |bytes: usize| (1..=usize::from(u16::MAX)).contains(&bytes);
    if !fits(options.client_id.len()) {
        return Err(StartError::ClientId);
    }
    if options.broker.host.is_empty() {
        return Err(StartError::Host);
    }
    if options.broker.username.as_ref().is_some_and(|name| name.len() > u16::MAX.into()) {
        return Err(StartError::Username);
    }
    if options.will.as_ref().is_some_and(|w| !fits(w.topic.len()) || !fits(w.bytes.len())) {
        return Err(StartError::Will);
    }
    Ok(())
}

/// Clones share one session.
#[derive(Debug, Clone)]
pub struct Handle {
    control: mpsc::Sender<Control>,
    publish: mpsc::Sender<Publish>,
    attempts: Arc<AtomicU64>,
    useful: Arc<AtomicBool>,
}

/// What both ends of a session look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub attempts: Arc<AtomicU64>,
    /// The session gets the caller on; taken back at its end.
    pub useful: Arc<AtomicBool>,
}

impl Handle {
    /// Publishes at QoS 1; done when the broker has acknowledged. While there is no session it
    /// waits for one: who cannot wait puts a time-out around it. Cancelled before its turn it is
    /// not sent.
    pub async fn publish(
        &self,
        topic: impl Into<String>,
        bytes: impl Into<Bytes>,
        retain: bool,
        kind: Kind,
    ) -> Result<(), PublishError> {
        let (topic, bytes) = (topic.into(), bytes.into());
        if topic.is_empty() || topic.len() > u16::MAX.into() || topic.contains(['+', '#', '\0']) {
            return Err(PublishError::Topic(topic.chars().take(200).collect()));
        }
        // Fixed header of 5 bytes, two of length, two of id, one of properties.
        let actual = topic.len() as u64 + bytes.len() as u64 + 10;
        let limit = u64::from(MAX_PACKET);
        if actual > limit {
            return Err(PublishError::TooLarge { topic, actual, limit });
        }
        let (done, answer) = oneshot::channel();
        let publish = Publish { topic, bytes, retain, kind, done };
        self.publish.send(publish).await.map_err(|_| PublishError::Closed)?;
        answer.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Wants what is published under `filter`, in this session and all later ones. Asking again for
    /// a filter that is wanted makes the broker send its retained messages again. What the
    /// broker refuses is logged with its reason, and asked for again in the next session.
    pub async fn subscribe(&self, filter: impl Into<String>) {
        self.control.send(Control::Subscribe(filter.into())).await.ok();
    }

    /// Messages that were under way may still come.
    pub async fn unsubscribe(&self, filter: impl Into<String>) {
        self.control.send(Control::Unsubscribe(filter.into())).await.ok();
    }

    /// Ends the session: what was queued is still sent, for some seconds at most, then DISCONNECT,
    /// so that the last will is not published.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.control.send(Control::Close(done)).await.is_ok() {
            closed.await.ok();
        }
    }

    /// This session brings the caller on, or has nothing more to bring. When it breaks while it does, the next attempt is
    /// soon. Say it only of what cannot come for ever, or a broker that hangs up after each message makes a storm.
    pub fn gets_on(&self, does: bool) {
        self.useful.store(does, Ordering::Relaxed);
    }

    /// Attempts to connect so far.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }
}
