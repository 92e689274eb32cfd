//! What the devices said of themselves last, as rows. Pure: messages in, rows out.

use crate::bundle::topics;
use crate::privacy::Status;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// `None` until it said so.
    pub online: Option<bool>,
    pub status: Option<Status>,
    /// Of the status, as it came.
    size: usize,
}

/// The `online` message; other fields are the device's own.
#[derive(Debug, Deserialize)]
struct Online {
    online: bool,
}

/// Collects `dev/+/online` and `dev/+/status`. A device writes its own branch as it likes: what is
/// not of the known form is counted and passed over.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    rows: BTreeMap<[u8; 16], Row>,
    bytes: usize,
    ignored: u64,
}

impl Fleet {
    /// The most bytes of one message.
    pub const MAX_MESSAGE: usize = 64 * 1024;
    /// The most devices that are held.
    pub const MAX_DEVICES: usize = 100_000;
    /// The most bytes of all that they told: of a whole status some 2 KiB are usual.
    pub const MAX_BYTES: usize = 256 << 20;

    /// The subscriptions that it wants.
    pub fn filters() -> [String; 2] {
        [topics::device_online("+"), topics::device_status("+")]
    }

    /// Takes one message; an empty one clears what was said before.
    pub fn take(&mut self, topic: &str, bytes: &[u8]) {
        if self.try_take(topic, bytes).is_none() {
            self.ignored = self.ignored.saturating_add(1);
        }
    }

    /// By device id.
    pub fn rows(&self) -> &BTreeMap<[u8; 16], Row> {
        &self.rows
    }

    /// Messages that were not of the known form.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn try_take(&mut self, topic: &str, bytes: &[u8]) -> Option<()> {
        let (id, branch) = topic.strip_prefix(topics::PREFIX)?.strip_prefix("/dev/")?.split_once('/')?;
        let id = read_id(id)?;
        let is_known = self.rows.contains_key(&id);
        if bytes.len() > Self::MAX_MESSAGE || !is_known && self.rows.len() >= Self::MAX_DEVICES {
            return None;
        }
        let is_cleared = bytes.is_empty();
        match branch {
            "online" if is_cleared => self.rows.entry(id).or_default().online = None,
            "status" if is_cleared => {
                let row = self.rows.entry(id).or_default();
                self.bytes -= std::mem::take(&mut row.size);
                row.status = None;
            }
            "online" => {
                let message: Online = serde_json::from_slice(bytes).ok()?;
                self.rows.entry(id).or_default().online = Some(message.online);
            }
            "status" => {
                let status: Status = serde_json::from_slice(bytes).ok()?;
                let is_bounded =
                    status.models.len() <= Status::MAX_MODELS && status.outcomes.len() <= Status::MAX_OUTCOMES;
                let before = self.rows.get(&id).map_or(0, |row| row.size);
                let all = self.bytes - before + bytes.len();
                let status = Some(status).filter(|_| is_bounded && all <= Self::MAX_BYTES)?;
                let row = self.rows.entry(id).or_default();
                (row.status, row.size, self.bytes) = (Some(status), bytes.len(), all);
            }
            _ => return None,
        }
        if self.rows.get(&id) == Some(&Row::default()) {
            self.rows.remove(&id);
        }
        Some(())
    }
}

/// 32 lower-case hexadecimal digits and nothing else: an id goes to a terminal.
fn read_id(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).ok()?;
    (hex::encode(id) == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::ModelName;
    use crate::privacy::{ModelState, ModelStatus};

    const ID: &str = "000102030405060708090a0b0c0d0e0f";

    fn status(models: usize) -> Vec<u8> {
        let model = ModelStatus {
            model: ModelName::new("digits").unwrap(),
            live: Some(2),
            previous: Some(1),
            state: ModelState::Idle,
            candidate: None,
            agreement: None,
            waits_for: None,
        };
        serde_json::to_vec(&Status { sequence: 7, models: vec![model; models], ..Status::default() }).unwrap()
    }

    #[test]
    fn messages_become_rows() {
        let mut fleet = Fleet::default();
        fleet.take(&topics::device_online(ID), br#"{"online":true,"boot":"ab"}"#);
        fleet.take(&topics::device_status(ID), &status(1));
        let row = fleet.rows().values().next().unwrap();
        assert_eq!((fleet.rows().len(), row.online, fleet.ignored()), (1, Some(true), 0));
        assert_eq!(row.status.as_ref().unwrap().models[0].live, Some(2));
        fleet.take(&topics::device_status(ID), b"");
        assert_eq!(fleet.rows().values().next().unwrap().status, None);
        fleet.take(&topics::device_online(ID), b"");
        assert!(fleet.rows().is_empty());
    }

    #[test]
    fn hostile_messages_are_counted_and_change_nothing() {
        let mut fleet = Fleet::default();
        let status_topic = topics::device_status(ID);
        let hostile: [(&str, Vec<u8>); 9] = [
            (&status_topic, vec![b' '; Fleet::MAX_MESSAGE + 1]),
            (&status_topic, status(Status::MAX_MODELS + 1)),
            (&status_topic, "[".repeat(60_000).into_bytes()),
            (&status_topic, String::from_utf8(status(1)).unwrap().replace("digits", "\\u001b[2J").into_bytes()),
            (&status_topic, vec![0xff, 0xfe]),
            ("selvedge/v1/dev/\u{1b}[2J/status", status(1)),
            ("selvedge/v1/dev/000102030405060708090A0B0C0D0E0F/status", status(1)),
            ("selvedge/v1/dev/000102030405060708090a0b0c0d0e0f/online/x", b"{\"online\":true}".to_vec()),
            ("other", status(1)),
        ];
        for (topic, bytes) in &hostile {
            fleet.take(topic, bytes);
        }
        assert_eq!((fleet.rows().len(), fleet.ignored()), (0, hostile.len() as u64));
    }

    #[test]
    fn the_bytes_of_all_that_is_told_are_bounded_and_what_is_cleared_makes_room() {
        let mut fleet = Fleet::default();
        let mut large = status(1);
        large.extend(vec![b' '; Fleet::MAX_MESSAGE - large.len()]);
        let fit = Fleet::MAX_BYTES / Fleet::MAX_MESSAGE;
        let topic = |n: usize| topics::device_status(hex::encode((n as u128).to_be_bytes()));
        (0..=fit).for_each(|n| fleet.take(&topic(n), &large));
        assert_eq!((fleet.rows().len(), fleet.ignored()), (fit, 1));
        fleet.take(&topic(0), &large);
        fleet.take(&topic(1), b"");
        fleet.take(&topic(fit), &large);
        assert_eq!((fleet.rows().len(), fleet.ignored()), (fit, 1));
    }

    #[test]
    fn the_number_of_devices_is_bounded() {
        let mut fleet = Fleet::default();
        for n in 0..=Fleet::MAX_DEVICES as u128 {
            fleet.take(&topics::device_online(hex::encode(n.to_be_bytes())), br#"{"online":true}"#);
        }
        assert_eq!((fleet.rows().len(), fleet.ignored()), (Fleet::MAX_DEVICES, 1));
        fleet.take(&topics::device_online(hex::encode(0u128.to_be_bytes())), br#"{"online":false}"#);
        assert_eq!(fleet.ignored(), 1, "those known are still heard");
    }
}
