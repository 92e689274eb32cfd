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

/// A time that has passed for certain: this program was built later. Seconds since 1970.
pub const fn built() -> u64 {
    // 2026-04-16: the first compiler that can build this came out.
    const WRITTEN: u64 = 1_776_297_600;
    // Set by who packages, so that two builds are the same.
    let stated = match option_env!("SOURCE_DATE_EPOCH") {
        Some(text) => digits(text.as_bytes()),
        None => 0,
    };
    if stated > WRITTEN { stated } else { WRITTEN }
}

/// Zero for what is no number.
const fn digits(text: &[u8]) -> u64 {
    let (mut value, mut at) = (0_u64, 0);
    while at < text.len() {
        value = match (text[at].is_ascii_digit(), value.checked_mul(10)) {
            (true, Some(tens)) => tens + (text[at] - b'0') as u64,
            (_, _) => return 0,
        };
        at += 1;
    }
    value
}

/// Seconds since 1970 as a date in UTC (days to civil date after Howard Hinnant's `civil_from_days`).
pub fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (4_107_542_399, "2100-02-28 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(date(seconds), expected);
        }
        // Whatever a line says, it is shown.
        assert!(date(u64::MAX / 2).ends_with('Z'));
    }
}
