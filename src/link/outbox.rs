//! What waits to be told: the newest of each kind and no more. Pure.
//!
//! Invariant: one publish at a time, each kind at most once a second, whatever the engine does.
//! Status is latest-value and told again in each session; metrics are dropped while offline.

use crate::privacy::{Metrics, Status, Tell};
use std::time::Duration;
use tokio::time::Instant;

/// Between two publishes of one kind.
const PAUSE: Duration = Duration::from_secs(1);

/// A publish that is due.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    Online,
    Status(Box<Status>),
    Metrics(Metrics),
}

/// How a publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Told,
    /// The session was lost under it.
    Interrupted,
    /// The broker or its limits refuse it: trying again would not help.
    Refused,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    connected: bool,
    online: bool,
    status: Option<Box<Status>>,
    status_due: bool,
    metrics: Option<Metrics>,
    /// A publish is under way.
    busy: bool,
    status_not_before: Option<Instant>,
    metrics_not_before: Option<Instant>,
}

impl Outbox {
    /// The last will may have been published, and a broker may have lost what it retained.
    pub fn session(&mut self, connected: bool) {
        self.connected = connected;
        self.online = connected;
        self.status_due = self.status.is_some();
        self.metrics = None;
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Takes what the engine tells, if it is as long as it may be.
    pub fn tell(&mut self, tell: Tell) {
        match tell {
            Tell::Status(status)
                if status.models.len() <= Status::MAX_MODELS && status.outcomes.len() <= Status::MAX_OUTCOMES =>
            {
                self.status = Some(status);
                self.status_due = true;
            }
            Tell::Metrics(metrics) if metrics.models.len() <= Status::MAX_MODELS => {
                self.metrics = self.connected.then_some(metrics);
            }
            Tell::Status(_) | Tell::Metrics(_) => tracing::warn!("the engine tells more than it may: dropped"),
        }
    }

    /// What to publish now; `done` must follow.
    pub fn take(&mut self, now: Instant) -> Option<Due> {
        let due = self.next(now)?;
        self.busy = true;
        match &due {
            Due::Online => self.online = false,
            Due::Status(_) => {
                self.status_due = false;
                self.status_not_before = Some(now + PAUSE);
            }
            Due::Metrics(_) => {
                self.metrics = None;
                self.metrics_not_before = Some(now + PAUSE);
            }
        }
        Some(due)
    }

    fn next(&self, now: Instant) -> Option<Due> {
        let may = |not_before: Option<Instant>| not_before.is_none_or(|t| now >= t);
        if !self.connected || self.busy {
            return None;
        }
        if self.online {
            return Some(Due::Online);
        }
        if self.status_due && may(self.status_not_before) {
            return self.status.clone().map(Due::Status);
        }
        self.metrics.clone().filter(|_| may(self.metrics_not_before)).map(Due::Metrics)
    }

    /// When to ask `take` again, if nothing else happens before.
    pub fn wake(&self) -> Option<Instant> {
        if !self.connected || self.busy {
            return None;
        }
        let status = self.status_not_before.filter(|_| self.status_due);
        let metrics = self.metrics_not_before.filter(|_| self.metrics.is_some());
        status.into_iter().chain(metrics).min()
    }

    pub fn done(&mut self, due: &Due, how: Done) {
        self.busy = false;
        if how == Done::Interrupted {
            match due {
                Due::Online => self.online = self.connected,
                Due::Status(_) => self.status_due = true,
                Due::Metrics(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::ModelName;
    use crate::privacy::{ModelState, ModelStatus};

    fn status(sequence: u64) -> Tell {
        Tell::Status(Box::new(Status { sequence, ..Status::default() }))
    }

    fn sequence(due: Option<Due>) -> Option<u64> {
        match due? {
            Due::Status(status) => Some(status.sequence),
            Due::Online | Due::Metrics(_) => None,
        }
    }

    /// Connected, and the first word is out.
    fn online(now: Instant) -> Outbox {
        let mut outbox = Outbox::default();
        outbox.session(true);
        assert_eq!(outbox.take(now), Some(Due::Online));
        assert_eq!(outbox.take(now), None, "one at a time");
        outbox.done(&Due::Online, Done::Told);
        outbox
    }

    #[test]
    fn a_flood_of_statuses_becomes_one_a_second_and_the_latest_wins() {
        let start = Instant::now();
        let mut outbox = online(start);
        let mut told = Vec::new();
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            outbox.tell(status(millis));
            if let Some(due) = outbox.take(now) {
                outbox.done(&due, Done::Told);
                told.extend(sequence(Some(due)));
            }
        }
        assert_eq!(told, [0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000]);
        let wake = outbox.wake().unwrap();
        assert_eq!(sequence(outbox.take(wake)), Some(9999));
    }

    #[test]
    fn status_is_told_again_in_each_session_and_metrics_are_not_kept() {
        let start = Instant::now();
        let mut outbox = online(start);
        outbox.session(false);
        outbox.tell(status(1));
        outbox.tell(Tell::Metrics(Metrics::default()));
        outbox.tell(status(2));
        assert_eq!((outbox.take(start), outbox.wake()), (None, None));
        for session in 0..2 {
            let now = start + session * 2 * PAUSE;
            outbox.session(true);
            assert_eq!(outbox.take(now), Some(Due::Online));
            outbox.done(&Due::Online, Done::Told);
            let due = outbox.take(now).unwrap();
            assert_eq!(sequence(Some(due.clone())), Some(2));
            outbox.done(&due, Done::Told);
            assert_eq!(outbox.take(now), None);
        }
    }

    #[test]
    fn what_was_interrupted_is_told_again_and_what_was_refused_is_not() {
        let start = Instant::now();
        let mut outbox = online(start);
        outbox.tell(status(1));
        let due = outbox.take(start).unwrap();
        outbox.done(&due, Done::Interrupted);
        assert_eq!(sequence(outbox.take(start + PAUSE)), Some(1));
        outbox.done(&due, Done::Refused);
        assert_eq!(outbox.take(start + 5 * PAUSE), None);
    }

    #[test]
    fn more_than_the_schema_holds_is_dropped() {
        let start = Instant::now();
        let mut outbox = online(start);
        let model = ModelStatus {
            model: ModelName::new("m").unwrap(),
            live: None,
            previous: None,
            state: ModelState::Idle,
            candidate: None,
            agreement: None,
            waits_for: None,
        };
        outbox
            .tell(Tell::Status(Box::new(Status { models: vec![model; Status::MAX_MODELS + 1], ..Status::default() })));
        assert_eq!(outbox.take(start), None);
    }
}
