//! The board behind a session with the broker, for as long as one command takes.

use super::board::{Board, BoardError};
use crate::config;
use crate::mqtt::{self, Backoff, Dates, Event, Handle, PublishError};
use crate::privacy::Kind;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// How long a person waits for the first session.
const CONNECT: Duration = Duration::from_secs(15);

/// How long one post may take, lost sessions included.
const POST: Duration = Duration::from_secs(60);

/// A session; it ends with `close`.
#[derive(Debug)]
pub struct MqttBoard {
    handle: Handle,
}

/// Opens a session, or says why none came about in time.
pub async fn connect(broker: &config::Broker) -> Result<MqttBoard, BoardError> {
    connect_within(broker, CONNECT).await
}

async fn connect_within(broker: &config::Broker, limit: Duration) -> Result<MqttBoard, BoardError> {
    let (handle, mut events) = open_within(broker, limit).await?;
    // Events must be read, or the session stops; none of them is for us.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    Ok(MqttBoard { handle })
}

/// A session that stands, and its events.
pub(super) async fn open(broker: &config::Broker) -> Result<(Handle, mpsc::Receiver<Event>), BoardError> {
    open_within(broker, CONNECT).await
}

async fn open_within(broker: &config::Broker, limit: Duration) -> Result<(Handle, mpsc::Receiver<Event>), BoardError> {
    let name = format!("{}:{}", broker.host, broker.port);
    let failed = |source| BoardError::Connect { broker: name.clone(), source };
    let mut number = [0; 8];
    getrandom::fill(&mut number).map_err(|e| failed(e.into()))?;
    let options = mqtt::Options {
        broker: broker.clone(),
        client_id: format!("selvedge-operator-{}", hex::encode(number)),
        will: None,
        // A person waits.
        backoff: Backoff { first: Duration::from_secs(2), max: Duration::from_secs(5), ..Backoff::default() },
        dates: Dates::of_operator(),
    };
    let (handle, mut events) = mqtt::start(options, Box::new(|_| ())).map_err(|e| failed(e.into()))?;
    let mut reason = format!("no answer within {limit:?}");
    match timeout(limit, first_session(&mut events, &mut reason)).await {
        Ok(true) => Ok((handle, events)),
        Ok(false) | Err(_) => Err(failed(reason.into())),
    }
}

/// True when a session stands; why an attempt failed goes to `reason`.
async fn first_session(events: &mut mpsc::Receiver<Event>, reason: &mut String) -> bool {
    while let Some(event) = events.recv().await {
        match event {
            Event::Connected => return true,
            Event::Disconnected { reason: why, .. } => *reason = why,
            Event::Message(_) => {}
        }
    }
    false
}

impl MqttBoard {
    pub async fn close(self) {
        self.handle.close().await;
    }

    /// Posts until the broker acknowledges, through lost sessions: the same bytes twice do no harm.
    async fn insist(&self, topic: &str, bytes: &Bytes) -> Result<(), PublishError> {
        loop {
            // The kind is for a device's ledger; an operator keeps none.
            match self.handle.publish(topic, bytes.clone(), true, Kind::Protocol).await {
                Err(PublishError::Interrupted { .. }) => sleep(Duration::from_millis(100)).await,
                done => return done,
            }
        }
    }
}

#[async_trait::async_trait]
impl Board for MqttBoard {
    async fn post(&self, topic: &str, bytes: &[u8]) -> Result<(), BoardError> {
        let failed = |source| BoardError::Post { topic: topic.to_owned(), source };
        match timeout(POST, self.insist(topic, &Bytes::copy_from_slice(bytes))).await {
            Ok(result) => result.map_err(|e| failed(e.into())),
            Err(_) => Err(failed(format!("the broker did not acknowledge within {} s", POST.as_secs()).into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_said_with_its_address_and_reason() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let broker = config::Broker {
            host: "127.0.0.1".to_owned(),
            port,
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(60),
            tls: None,
        };
        let error = connect_within(&broker, Duration::from_millis(500)).await.unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(!reason.contains("no answer"), "it was refused at once: {reason}");
    }
}
