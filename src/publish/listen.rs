//! What devices tell, over a session with the broker, gathered into a fleet.

use super::board::BoardError;
use super::fleet::Fleet;
use super::session::open;
use crate::config;
use crate::mqtt::{Event, Handle};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A session that listens; it ends with `close`.
#[derive(Debug)]
pub struct Listener {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    fleet: Fleet,
}

impl Listener {
    /// Opens a session and subscribes; `Fleet::filters` are all devices.
    pub async fn open(broker: &config::Broker, filters: &[String]) -> Result<Self, BoardError> {
        let (handle, events) = open(broker).await?;
        for filter in filters {
            handle.subscribe(filter.clone()).await;
        }
        Ok(Self { handle, events, fleet: Fleet::default() })
    }

    /// Takes what comes, for that long or until there is enough. A lost session comes back by
    /// itself, and the broker tells again what stands on the board.
    pub async fn listen(&mut self, time: Duration, enough: impl Fn(&Fleet) -> bool) {
        let until = Instant::now() + time;
        while !enough(&self.fleet)
            && let Ok(Some(event)) = timeout_at(until, self.events.recv()).await
        {
            match event {
                Event::Message(message) => self.fleet.take(&message.topic, &message.bytes),
                Event::Connected | Event::Disconnected { .. } => {}
            }
        }
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub async fn close(mut self) {
        // A full queue of events would hold the farewell up.
        self.events.close();
        self.handle.close().await;
    }
}
