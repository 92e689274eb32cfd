//! `[update]`: when this device takes updates.

use super::read::Reader;
use super::window::{self, Window};

/// What holds an update back, by the owner of the board. The operator sees which of it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// When a version may be installed; at any time where there is none.
    pub windows: Vec<Window>,
    /// Seconds that the windows' time is ahead of UTC.
    pub utc_offset: i64,
    /// Fetching need not wait for a window; true.
    pub fetch_outside_window: bool,
    /// Requests in a minute, over the last five, above which nothing is installed; none.
    pub max_requests: Option<u64>,
    /// Of the hottest sensor, above which nothing is installed; none.
    pub max_celsius: Option<u64>,
    /// Updates go on while a battery is emptied; true.
    pub on_battery: bool,
}

pub(super) fn update(r: &mut Reader) -> Update {
    let some = |n: u64| Some(n).filter(|&n| n > 0);
    Update {
        windows: r.list("update", "windows", 32, str::parse::<Window>),
        utc_offset: r.text("update", "utc-offset", window::offset).unwrap_or(0),
        fetch_outside_window: r.flag("update", "fetch-outside-window", true),
        max_requests: some(r.whole("update", "max-requests-per-minute", 0, 1..=1_000_000)),
        max_celsius: some(r.whole("update", "max-celsius", 0, 1..=150)),
        on_battery: r.flag("update", "on-battery", true),
    }
}
