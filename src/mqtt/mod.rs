//! The session with the broker: connect, back off, subscribe again, publish, count what leaves.
//!
//! Invariants: a packet reaches the socket only through `wire::Outbox`, which reports its exact size;
//! attempts are spaced by the backoff whatever the broker does; nothing of a lost session is
//! carried over into the next but the set of wanted filters.
//! Not here: topics and their meaning (`link`, `publish`), the ledger (`privacy`).
//!
//! TLS is rustls with aws-lc, as tough has them; rumqttc's own is left out: it knows no dates but the system clock's.
//!
//! From rumqttc come the packets of MQTT 5 and their encoding. Rejected: its event loop. It retries
//! without a pause, replays its queue, stalls on colliding packet ids (bytebeamio/rumqtt#1056), gives up the
//! connection at a packet over its limit and comes back for the same packet (#884, #924), takes a
//! DISCONNECT without properties for an unfinished packet, and does not say what it wrote.

mod backoff;
mod conn;
mod dates;
mod files;
mod handle;
mod reason;
mod session;
mod tls;
mod wire;

pub use backoff::{Backoff, Retry};
pub use dates::Dates;
pub use files::{Certificate, TlsFiles, tls_files};
pub use handle::{Handle, PublishError, StartError, start};
pub use tls::TlsError;
pub use wire::MAX_PACKET;

use crate::config;
use crate::privacy::Kind;
use bytes::Bytes;
use std::time::Duration;

/// Whom to talk to, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    pub broker: config::Broker,
    pub client_id: String,
    pub will: Option<Will>,
    pub backoff: Backoff,
    /// By which time the broker's certificate is judged.
    pub dates: Dates,
}

/// What the broker publishes, retained, when we are gone without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub bytes: Bytes,
}

/// What someone published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub bytes: Bytes,
    /// It stood on the board before we subscribed.
    pub retained: bool,
}

/// What happens to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Connected,
    /// A session was lost or an attempt failed; the next attempt is in `retry_in`.
    Disconnected {
        reason: String,
        retry_in: Duration,
    },
    Message(Message),
}

/// One packet that left, as written to the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub kind: Kind,
    /// Empty for packets without one; the first where a packet names several.
    pub topic: String,
    /// Of the whole packet, header included; less when the connection broke within it.
    pub bytes: u64,
}

/// Who is told of each packet.
pub type OnSent = Box<dyn FnMut(Sent) + Send>;
