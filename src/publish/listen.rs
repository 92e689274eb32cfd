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
    heard: Heard,
}

/// What came of the session's events.
#[derive(Debug)]
struct Heard {
    events: mpsc::Receiver<Event>,
    fleet: Fleet,
    /// Why there is no session now.
    lost: Option<String>,
}

impl Listener {
    /// Opens a session and subscribes; `Fleet::filters` are all devices.
    pub async fn open(broker: &config::Broker, filters: &[String]) -> Result<Self, BoardError> {
        let (handle, events) = open(broker).await?;
        for filter in filters {
            handle.subscribe(filter.clone()).await;
        }
        Ok(Self { handle, heard: Heard { events, fleet: Fleet::default(), lost: None } })
    }

    /// Takes what comes, for that long or until there is enough. A lost session comes back by
    /// itself, and the broker tells again what stands on the board.
    pub async fn listen(&mut self, time: Duration, enough: impl Fn(&Fleet) -> bool) {
        self.heard.listen(time, enough).await;
    }

    /// Until nothing that stood on the board and no new device came for `quiet`; false where it still came after `most`.
    pub async fn settle(&mut self, quiet: Duration, most: Duration) -> bool {
        self.heard.settle(quiet, most).await
    }

    pub fn fleet(&self) -> &Fleet {
        &self.heard.fleet
    }

    /// Why nothing is heard now; none while the session stands.
    pub fn lost(&self) -> Option<&str> {
        self.heard.lost.as_deref()
    }

    pub async fn close(mut self) {
        // A full queue of events would hold the farewell up.
        self.heard.events.close();
        self.handle.close().await;
    }
}

impl Heard {
    async fn listen(&mut self, time: Duration, enough: impl Fn(&Fleet) -> bool) {
        let until = Instant::now() + time;
        while !enough(&self.fleet) && self.take(until).await.is_some() {}
    }

    /// One event, if one comes in time: whether it told what stood on the board, or of a device that was not known.
    async fn take(&mut self, until: Instant) -> Option<bool> {
        let known = self.fleet.rows().len();
        let mut stood = false;
        match timeout_at(until, self.events.recv()).await.ok().flatten()? {
            Event::Message(message) => {
                stood = message.retained;
                self.fleet.take(&message.topic, &message.bytes);
            }
            // The board is shown anew from here on.
            Event::Connected => (self.lost, stood) = (None, true),
            Event::Disconnected { reason, .. } => self.lost = Some(reason),
        }
        Some(stood || self.fleet.rows().len() > known)
    }

    async fn settle(&mut self, quiet: Duration, most: Duration) -> bool {
        let end = Instant::now() + most;
        let mut last = Instant::now();
        loop {
            let is_news = self.take(end.min(last + quiet)).await;
            // Without a session, silence says nothing.
            if is_news == Some(true) || self.lost.is_some() {
                last = Instant::now();
            }
            if Instant::now() >= end || self.events.is_closed() {
                return false;
            }
            if last.elapsed() >= quiet {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::topics;
    use crate::mqtt::Message;

    const QUIET: Duration = Duration::from_millis(400);

    fn heard() -> (mpsc::Sender<Event>, Heard) {
        let (sender, events) = mpsc::channel(8);
        (sender, Heard { events, fleet: Fleet::default(), lost: None })
    }

    fn tell(sender: &mpsc::Sender<Event>, device: u128) {
        let topic = topics::device_online(hex::encode(device.to_be_bytes()));
        let message = Message { topic, bytes: br#"{"online":true}"#.to_vec().into(), retained: true };
        // Who has heard enough must not hold the test up.
        let _ = sender.try_send(Event::Message(message));
    }

    #[tokio::test]
    async fn who_comes_late_over_a_slow_line_is_known_as_well() {
        let (sender, mut heard) = heard();
        let slow = async {
            for device in 0..20 {
                tell(&sender, device);
                tokio::time::sleep(QUIET / 8).await;
            }
        };
        let (settled, ()) = tokio::join!(heard.settle(QUIET, Duration::from_secs(60)), slow);
        assert!(settled, "it ends by itself");
        assert_eq!(heard.fleet.rows().len(), 20);
    }

    #[tokio::test]
    async fn a_session_that_is_lost_is_no_silence_and_its_return_is_seen() {
        let (sender, mut heard) = heard();
        let lost = Event::Disconnected { reason: "hung up".to_owned(), retry_in: Duration::ZERO };
        sender.send(lost).await.unwrap();
        heard.listen(QUIET / 4, |_| false).await;
        assert_eq!(heard.lost.as_deref(), Some("hung up"));
        let back = async {
            tokio::time::sleep(QUIET * 3).await;
            sender.send(Event::Connected).await.unwrap();
            tell(&sender, 7);
        };
        let (settled, ()) = tokio::join!(heard.settle(QUIET, Duration::from_secs(60)), back);
        assert!(settled && heard.lost.is_none());
        assert_eq!(heard.fleet.rows().len(), 1);
    }

    #[tokio::test]
    async fn a_fleet_without_end_is_heard_for_a_bounded_time() {
        let (sender, mut heard) = heard();
        let flood = async {
            for device in 0..1000 {
                tell(&sender, device);
                tokio::time::sleep(QUIET / 16).await;
                if sender.is_closed() {
                    break;
                }
            }
        };
        let settle = async {
            let settled = heard.settle(QUIET, QUIET * 2).await;
            heard.events.close();
            settled
        };
        assert!(!tokio::join!(settle, flood).0);
    }
}
