//! The task of a session: one connection after the other, with the backoff between them.
//!
//! Invariant: it never waits for its caller and its caller never waits for the network but by
//! choice. Events that nobody takes stop the reading of more messages, not pings, publishes or
//! subscriptions, so no circle of full channels can form.

use super::backoff::Retry;
use super::conn::Conn;
use super::handle::{Publish, Shared};
use super::reason::Lost;
use super::tls::{self, Line};
use super::{Event, OnSent, Options};
use crate::sys::{Disk as _, RealDisk};
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet};
use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// From the name's look-up to the broker's yes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a close may wait for what was queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Events that may wait for the caller before reading stops.
const MAX_EVENTS: usize = 64;
const MAX_PASSWORD: u64 = 4096;

/// A connection's two directions.
struct Stream {
    read: ReadHalf<Box<dyn Line>>,
    write: WriteHalf<Box<dyn Line>>,
    /// TLS may hold back what it took.
    held: bool,
}

impl Stream {
    fn new(line: Box<dyn Line>) -> Self {
        let (read, write) = tokio::io::split(line);
        Self { read, write, held: false }
    }
}

/// What the caller wants, besides publishing.
#[derive(Debug)]
pub(super) enum Control {
    Subscribe(String),
    Unsubscribe(String),
    Close(oneshot::Sender<()>),
}

struct Closing {
    done: Option<oneshot::Sender<()>>,
    until: Instant,
}

pub(super) struct Session {
    options: Options,
    on_sent: OnSent,
    controls: mpsc::Receiver<Control>,
    publishes: mpsc::Receiver<Publish>,
    events: mpsc::Sender<Event>,
    shared: Shared,
    /// Filters that every session subscribes to.
    wanted: BTreeSet<String>,
    /// Events that wait for room in `events`.
    waiting: VecDeque<Event>,
    closing: Option<Closing>,
    /// No publish will come any more.
    drained: bool,
}

impl Session {
    pub fn new(
        options: Options,
        on_sent: OnSent,
        controls: mpsc::Receiver<Control>,
        publishes: mpsc::Receiver<Publish>,
        events: mpsc::Sender<Event>,
        shared: Shared,
    ) -> Self {
        Self {
            options,
            on_sent,
            controls,
            publishes,
            events,
            shared,
            wanted: BTreeSet::new(),
            waiting: VecDeque::new(),
            closing: None,
            drained: false,
        }
    }

    pub async fn run(mut self) {
        let mut retry = Retry::new(self.options.backoff);
        while self.closing.is_none() {
            self.shared.attempts.fetch_add(1, Ordering::Relaxed);
            let (lost, held) = match self.connect().await {
                Ok((stream, conn)) => {
                    let start = Instant::now();
                    let Err(lost) = self.serve(stream, conn).await else { break };
                    (lost, start.elapsed())
                }
                Err(lost) => (lost, Duration::ZERO),
            };
            if self.closing.is_some() {
                break;
            }
            // Without chance the wait is the longest: never a storm.
            let useful = self.shared.useful.swap(false, Ordering::Relaxed);
            let retry_in = retry.next(held, useful, getrandom::u64().unwrap_or(u64::MAX));
            let reason = lost.to_string();
            tracing::warn!("no session with the broker: {reason}; next attempt in {:.1} s", retry_in.as_secs_f64());
            self.tell(Event::Disconnected { reason, retry_in });
            self.rest(Instant::now() + retry_in).await;
        }
        if let Some(done) = self.closing.and_then(|closing| closing.done) {
            done.send(()).ok();
        }
    }

    /// Waits, open for the caller's wishes.
    async fn rest(&mut self, until: Instant) {
        while self.closing.is_none() {
            tokio::select! {
                () = sleep_until(until) => return,
                control = self.controls.recv() => self.control(control, None),
                () = room(&self.events), if !self.waiting.is_empty() => self.deliver(),
            }
        }
    }

    async fn connect(&mut self) -> Result<(Stream, Conn), Lost> {
        let password = password(&self.options)?;
        let mut conn = Conn::open(&self.options, password, Instant::now())?;
        let until = Instant::now() + CONNECT_TIMEOUT;
        let options = self.options.clone();
        let mut on_sent = std::mem::replace(&mut self.on_sent, Box::new(|_| {}));
        let greeted = {
            let greeting = greet(&options, &mut conn, &mut on_sent);
            tokio::pin!(greeting);
            loop {
                tokio::select! {
                    greeted = &mut greeting => break greeted,
                    () = sleep_until(until) => break Err(Lost::Timeout(CONNECT_TIMEOUT)),
                    control = self.controls.recv() => self.control(control, None),
                    () = room(&self.events), if !self.waiting.is_empty() => self.deliver(),
                }
                if self.closing.is_some() {
                    break Err(Lost::Closed);
                }
            }
        };
        self.on_sent = on_sent;
        match greeted {
            Ok(stream) => Ok((stream, conn)),
            Err(lost) => {
                conn.end(&mut self.on_sent);
                Err(lost)
            }
        }
    }

    /// Carries a session until it is lost, or closed as the caller wished.
    async fn serve(&mut self, mut stream: Stream, mut conn: Conn) -> Result<(), Lost> {
        self.tell(Event::Connected);
        conn.subscribe(&self.wanted);
        let result = loop {
            match self.step(&mut stream, &mut conn).await {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break Ok(()),
                Err(lost) => break Err(lost),
            }
        };
        // Without a word when the handles were just dropped: then the last will says it.
        if result.is_ok() && self.closing.as_ref().is_some_and(|closing| closing.done.is_some()) {
            timeout(Duration::from_secs(2), self.say_goodbye(&mut stream, &mut conn)).await.ok();
        }
        conn.end(&mut self.on_sent);
        result
    }

    /// One thing that happens: bytes either way, a wish, a deadline.
    async fn step(&mut self, stream: &mut Stream, conn: &mut Conn) -> Result<ControlFlow<()>, Lost> {
        self.take_packets(conn)?;
        if let Some(closing) = &self.closing
            && (self.drained && conn.is_idle() || Instant::now() >= closing.until)
        {
            return Ok(ControlFlow::Break(()));
        }
        let due = self.closing.as_ref().map_or(conn.deadline(), |c| c.until.min(conn.deadline()));
        let taken = self.waiting.is_empty();
        let Stream { read, write, held } = stream;
        tokio::select! {
            count = push(write, conn.outbox.bytes()), if *held || !conn.outbox.bytes().is_empty() => {
                *held = !conn.outbox.bytes().is_empty();
                conn.wrote(count?, Instant::now(), &mut self.on_sent);
            }
            count = read.read_buf(conn.inbox.space()), if taken && !conn.is_choked() => match count? {
                0 => return Err(Lost::Closed),
                _ => conn.read(Instant::now()),
            },
            () = room(&self.events), if !self.waiting.is_empty() => self.deliver(),
            control = self.controls.recv(), if !conn.is_busy() && self.closing.is_none() => {
                self.control(control, Some(conn));
            }
            publish = self.publishes.recv(), if !self.drained && conn.may_publish() => match publish {
                Some(publish) => conn.publish(publish, Instant::now()),
                None => self.drained = true,
            },
            () = sleep_until(due) => {}
        }
        if Instant::now() >= conn.deadline() {
            conn.tick(Instant::now(), taken)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn take_packets(&mut self, conn: &mut Conn) -> Result<(), Lost> {
        while self.waiting.len() < MAX_EVENTS && !conn.is_choked() {
            let Some(packet) = conn.next_packet()? else { break };
            if let Some(message) = conn.handle(packet)? {
                self.tell(Event::Message(message));
            }
        }
        Ok(())
    }

    async fn say_goodbye(&mut self, stream: &mut Stream, conn: &mut Conn) -> Result<(), Lost> {
        conn.disconnect()?;
        write_out(&mut stream.write, conn, &mut self.on_sent).await?;
        Ok(stream.write.shutdown().await?)
    }

    fn control(&mut self, control: Option<Control>, conn: Option<&mut Conn>) {
        match control {
            Some(Control::Subscribe(filter)) => {
                conn.into_iter().for_each(|conn| conn.subscribe([&filter]));
                self.wanted.insert(filter);
            }
            Some(Control::Unsubscribe(filter)) => {
                if self.wanted.remove(&filter) {
                    conn.into_iter().for_each(|conn| conn.unsubscribe(&filter));
                }
            }
            Some(Control::Close(done)) => self.close(Some(done)),
            None => self.close(None),
        }
    }

    fn close(&mut self, done: Option<oneshot::Sender<()>>) {
        self.publishes.close();
        let until = Instant::now() + CLOSE_TIMEOUT;
        self.closing.get_or_insert(Closing { done, until });
    }

    /// Of news about the session only the newest waits.
    fn tell(&mut self, event: Event) {
        if let (Event::Disconnected { .. }, Some(Event::Disconnected { .. })) = (&event, self.waiting.back()) {
            self.waiting.pop_back();
        }
        self.waiting.push_back(event);
    }

    /// Hands waiting events over; all are dropped when nobody listens any more.
    fn deliver(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                return self.waiting.push_front(event);
            }
        }
    }
}

/// Waits until the caller has room for an event, or is gone.
async fn room(events: &mpsc::Sender<Event>) {
    events.reserve().await.ok();
}

/// Connects, says CONNECT, and waits for the broker's yes.
async fn greet(options: &Options, conn: &mut Conn, on_sent: &mut OnSent) -> Result<Stream, Lost> {
    let (host, port) = (options.broker.host.as_str(), options.broker.port);
    let tls = options.broker.tls.as_ref();
    let tls = tls.map(|tls| tls::connector(&RealDisk, tls, host, options.dates.clone())).transpose()?;
    let failed = |source| Lost::Connect { address: format!("{host}:{port}"), source };
    let socket = TcpStream::connect((host, port)).await.map_err(failed)?;
    socket.set_nodelay(true)?;
    let mut stream = Stream::new(tls::wrap(socket, tls).await.map_err(Lost::in_handshake)?);
    if let Err(broken) = write_out(&mut stream.write, conn, on_sent).await {
        // A broker that refuses our certificate hangs up, and has said why.
        return Err(await_answer(&mut stream, conn).await.err().filter(Lost::is_tls).unwrap_or(broken));
    }
    let ack = await_answer(&mut stream, conn).await?;
    conn.accepted(&ack)?;
    Ok(stream)
}

/// Writes what waits, to the last byte.
async fn write_out(write: &mut WriteHalf<Box<dyn Line>>, conn: &mut Conn, on_sent: &mut OnSent) -> Result<(), Lost> {
    while !conn.outbox.bytes().is_empty() {
        let count = write.write(conn.outbox.bytes()).await?;
        conn.wrote(count, Instant::now(), on_sent);
    }
    Ok(write.flush().await?)
}

/// Writes some of the bytes, or without any what is held back. Safe to cancel.
async fn push(write: &mut WriteHalf<Box<dyn Line>>, bytes: &[u8]) -> std::io::Result<usize> {
    match bytes {
        [] => write.flush().await.map(|()| 0),
        some => write.write(some).await,
    }
}

async fn await_answer(stream: &mut Stream, conn: &mut Conn) -> Result<ConnAck, Lost> {
    loop {
        if let Some(packet) = conn.next_packet()? {
            if let Packet::ConnAck(ack) = packet {
                return Ok(ack);
            }
            conn.handle(packet)?;
            return Err(Lost::Unexpected("something before the answer to CONNECT"));
        }
        if stream.read.read_buf(conn.inbox.space()).await? == 0 {
            return Err(Lost::Closed);
        }
        conn.read(Instant::now());
    }
}

/// Read anew for each attempt: it may be changed, or come to be, while we wait.
fn password(options: &Options) -> Result<Option<String>, Lost> {
    let Some(path) = &options.broker.password_file else { return Ok(None) };
    let bytes = RealDisk.read(path, MAX_PASSWORD)?.ok_or_else(|| Lost::NoPassword(path.clone()))?;
    let text = String::from_utf8(bytes).map_err(|_| Lost::BadPassword(path.clone()))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
