//! Time: seconds of the calendar and a count that never goes back.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from. Calendar time is whole seconds since 1970-01-01 UTC.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The system's idea of the date, right or wrong.
    fn system(&self) -> u64;
    /// True when the kernel says that a time source disciplines the clock (`adjtimex`).
    fn synchronized(&self) -> bool;
    /// Time since some fixed point in this boot.
    fn monotonic(&self) -> Duration;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads a clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn system(&self) -> u64 {
        unix_now()
    }

    fn synchronized(&self) -> bool {
        // systemd-timesyncd touches this file at its first fix. `adjtimex`, which would speak for any
        // time source, is denied to the hardened unit; with chrony the clock counts as not synchronized
        // and device time goes by the operator's signatures.
        std::path::Path::new("/run/systemd/timesync/synchronized").exists()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The system's date, for what only people read: a ledger line, a log, a signature made on a PC.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads a clock")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A clock that a test sets.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<(u64, bool, Duration)>,
}

impl ManualClock {
    pub fn new(system: u64, synchronized: bool) -> Self {
        Self { now: Mutex::new((system, synchronized, Duration::ZERO)) }
    }

    pub fn set_system(&self, system: u64, synchronized: bool) {
        let mut now = self.lock();
        (now.0, now.1) = (system, synchronized);
    }

    /// Lets time pass: both clocks advance.
    pub fn advance(&self, by: Duration) {
        let mut now = self.lock();
        now.0 += by.as_secs();
        now.2 += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, bool, Duration)> {
        self.now.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Clock for ManualClock {
    fn system(&self) -> u64 {
        self.lock().0
    }

    fn synchronized(&self) -> bool {
        self.lock().1
    }

    fn monotonic(&self) -> Duration {
        self.lock().2
    }
}
