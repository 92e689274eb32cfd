//! When the owner of the board lets an update go on: windows, load, heat, supply. Pure, but for `Watch`, which remembers.
//!
//! Invariant: what holds an update back ends by itself, or by what the owner can see and change. A board that does not know
//! the hour waits for it, `CLOCK_LIMIT` in all at most.
//!
//! A version that its operator marks as urgent does not wait for windows, for the clock or for a quiet moment. It waits for
//! heat and supply all the same: a board that goes off amid an update helps nobody.

use crate::config;
use crate::privacy::WaitsFor;
use crate::sys::{Disk, DiskError};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// How long a board that does not know the hour keeps to windows that it cannot tell.
pub(super) const CLOCK_LIMIT: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// That long waited is written so often.
const NOTED_EVERY: Duration = Duration::from_secs(10 * 60);
/// More than that from one look to the next was not all spent waiting.
const LONGEST_STEP: Duration = NOTED_EVERY;
/// Of requests, for their mean.
const SPAN: Duration = Duration::from_secs(5 * 60);
/// Before that nothing is known of them.
const LEAST_SPAN: Duration = Duration::from_secs(60);
const SAMPLED_EVERY: Duration = Duration::from_secs(15);
/// What was too hot has to cool down by so much.
const COOLER: f32 = 3.0;

/// What the rules are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Device time.
    pub time: u64,
    /// A time source disciplines it: it tells the hour, not only what is past for certain.
    pub is_known: bool,
    /// How long the clock was waited for.
    pub waited: Duration,
    /// Requests in a minute; none before there were enough to look at.
    pub requests: Option<u64>,
    pub celsius: Option<f32>,
    pub on_battery: bool,
    /// What was waited for before.
    pub before: Option<WaitsFor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Fetch,
    /// Checks, a swap, a next gate.
    Install,
}

/// What a step has to wait for, if anything.
pub(super) fn waits_for(rules: &config::Update, now: &Now, step: Step, is_urgent: bool) -> Option<WaitsFor> {
    if now.on_battery && !rules.on_battery {
        return Some(WaitsFor::Battery);
    }
    if step == Step::Install && is_too_hot(rules, now) {
        return Some(WaitsFor::Heat);
    }
    if is_urgent {
        return None;
    }
    if step == Step::Install && rules.max_requests.is_some_and(|most| now.requests.is_none_or(|n| n > most)) {
        return Some(WaitsFor::Busy);
    }
    let is_free = step == Step::Fetch && rules.fetch_outside_window;
    if is_free || rules.windows.is_empty() {
        return None;
    }
    if !now.is_known {
        return (now.waited < CLOCK_LIMIT).then_some(WaitsFor::Clock);
    }
    let local = now.time.saturating_add_signed(rules.utc_offset);
    (!rules.windows.iter().any(|window| window.holds(local))).then_some(WaitsFor::Window)
}

fn is_too_hot(rules: &config::Update, now: &Now) -> bool {
    let limit = |most: u64| most as f32 - if now.before == Some(WaitsFor::Heat) { COOLER } else { 0.0 };
    rules.max_celsius.zip(now.celsius).is_some_and(|(most, celsius)| celsius > limit(most))
}

/// Requests over the last minutes, by how many there were in all.
#[derive(Debug, Default)]
pub(super) struct Load(VecDeque<(Duration, u64)>);

impl Load {
    pub fn sample(&mut self, at: Duration, total: u64) {
        let is_due = self.0.back().is_none_or(|(last, _)| at.saturating_sub(*last) >= SAMPLED_EVERY);
        if is_due {
            self.0.push_back((at, total));
        }
        while self.0.front().is_some_and(|(first, _)| at.saturating_sub(*first) > SPAN) {
            self.0.pop_front();
        }
    }

    /// A new version counts from nothing: less than before is a new beginning.
    pub fn per_minute(&self) -> Option<u64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let span = last.0.saturating_sub(first.0);
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        let requests: u64 = pairs.map(|((_, a), (_, b))| if b >= a { b - a } else { *b }).sum();
        (span >= LEAST_SPAN).then(|| requests.saturating_mul(60) / span.as_secs().max(1))
    }
}

/// How long the clock was waited for, over starts: a board that is switched off each night must not wait for ever.
#[derive(Debug, Default)]
pub(super) struct ClockWait {
    waited: Duration,
    noted: Duration,
    last: Option<Duration>,
    /// What waited went on; others may still wait.
    pub is_over: bool,
}

#[derive(Serialize, Deserialize)]
struct Noted {
    seconds: u64,
}

const FILE: &str = "clock-wait.json";

impl ClockWait {
    /// What does not read is a wait that begins.
    pub fn read(disk: &dyn Disk, state: &Path) -> Self {
        let bytes = disk.read(&state.join(FILE), 1024).ok().flatten();
        let noted: Option<Noted> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let waited = noted.map_or(Duration::ZERO, |noted| Duration::from_secs(noted.seconds).min(CLOCK_LIMIT));
        Self { waited, noted: waited, ..Self::default() }
    }

    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// While something waits for the clock.
    pub fn goes_on(&mut self, now: Duration, disk: &dyn Disk, state: &Path) -> Result<(), DiskError> {
        let since = self.last.replace(now).map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.waited = self.waited.saturating_add(since.min(LONGEST_STEP));
        if self.waited.saturating_sub(self.noted) < NOTED_EVERY {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&Noted { seconds: self.waited.as_secs() }).expect("plain data serializes");
        disk.commit(&state.join(FILE), &bytes)?;
        self.noted = self.waited;
        Ok(())
    }

    /// Something else is waited for now, or nothing.
    pub fn rests(&mut self) {
        self.last = None;
    }

    /// Nothing waits for it any more.
    pub fn ends(&mut self, disk: &dyn Disk, state: &Path) -> Result<(), DiskError> {
        if self.noted > Duration::ZERO {
            disk.remove(&state.join(FILE))?;
        }
        *self = Self::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use WaitsFor::{Battery, Busy, Clock, Heat, Window};

    /// 2026-11-30 00:00 UTC, a Monday.
    const MONDAY: u64 = 1_795_996_800;
    const QUIET: Now = Now {
        time: MONDAY,
        is_known: true,
        waited: Duration::ZERO,
        requests: Some(0),
        celsius: Some(40.0),
        on_battery: false,
        before: None,
    };

    fn rules(text: &str) -> config::Update {
        Config::parse(&format!("[update]\n{text}"), "rules").unwrap().update
    }

    fn both(rules: &config::Update, now: &Now, is_urgent: bool) -> [Option<WaitsFor>; 2] {
        [Step::Fetch, Step::Install].map(|step| waits_for(rules, now, step, is_urgent))
    }

    #[test]
    fn without_rules_nothing_waits() {
        let worst = Now { is_known: false, requests: None, celsius: Some(120.0), on_battery: true, ..QUIET };
        assert_eq!(both(&rules(""), &worst, false), [None, None]);
    }

    #[test]
    fn each_rule_holds_back_what_it_is_for_and_an_urgent_version_passes_by_the_hour_and_the_load_alone() {
        let all = rules(
            "windows = [\"Tue 00:00-24:00\"]\nmax-celsius = 70\nmax-requests-per-minute = 60\non-battery = false",
        );
        let cases = [
            (Now { on_battery: true, ..QUIET }, [Some(Battery), Some(Battery)], [Some(Battery), Some(Battery)]),
            (Now { celsius: Some(70.5), ..QUIET }, [None, Some(Heat)], [None, Some(Heat)]),
            (Now { celsius: Some(70.0), ..QUIET }, [None, Some(Window)], [None, None]),
            (Now { celsius: Some(68.0), before: Some(Heat), ..QUIET }, [None, Some(Heat)], [None, Some(Heat)]),
            (Now { celsius: None, ..QUIET }, [None, Some(Window)], [None, None]),
            (Now { requests: Some(61), ..QUIET }, [None, Some(Busy)], [None, None]),
            (Now { requests: None, ..QUIET }, [None, Some(Busy)], [None, None]),
            (Now { requests: Some(60), ..QUIET }, [None, Some(Window)], [None, None]),
            (QUIET, [None, Some(Window)], [None, None]),
            (Now { is_known: false, ..QUIET }, [None, Some(Clock)], [None, None]),
            (Now { is_known: false, waited: CLOCK_LIMIT, ..QUIET }, [None, None], [None, None]),
            (Now { time: MONDAY + 86_400, ..QUIET }, [None, None], [None, None]),
        ];
        for (now, plain, urgent) in cases {
            assert_eq!((both(&all, &now, false), both(&all, &now, true)), (plain, urgent), "{now:?}");
        }
        let strict = rules("windows = [\"Tue 00:00-24:00\"]\nfetch-outside-window = false");
        assert_eq!(both(&strict, &QUIET, false), [Some(Window), Some(Window)]);
    }

    #[test]
    fn windows_are_of_the_boards_own_time_at_any_date() {
        let ahead = rules("windows = [\"Tue 00:00-01:00\"]\nutc-offset = \"+02:00\"");
        let behind = rules("windows = [\"Sun 23:00-24:00\"]\nutc-offset = \"-01:00\"");
        let open =
            |rules: &config::Update, time| waits_for(rules, &Now { time, ..QUIET }, Step::Install, false).is_none();
        let evening = MONDAY + 22 * 3600;
        assert!(open(&ahead, evening) && !open(&ahead, evening - 1) && !open(&ahead, evening + 3600));
        assert!(open(&behind, MONDAY) && !open(&behind, MONDAY + 3600));
        // 1970, whose first day was a Thursday, and a time that no calendar has: no overflow.
        assert!(!open(&behind, 0) && open(&rules("windows = [\"Thu 00:00-01:00\"]"), 0));
        open(&ahead, u64::MAX);
        open(&behind, u64::MAX);
    }

    #[test]
    fn load_is_the_mean_of_five_minutes_and_a_new_version_begins_at_nothing() {
        let mut load = Load::default();
        let at = |seconds| Duration::from_secs(seconds);
        load.sample(at(0), 1000);
        load.sample(at(45), 1030);
        assert_eq!(load.per_minute(), None, "too short a time");
        load.sample(at(60), 1060);
        assert_eq!(load.per_minute(), Some(60));
        load.sample(at(61), 9999);
        assert_eq!(load.per_minute(), Some(60), "not sooner than that");
        load.sample(at(120), 20);
        assert_eq!(load.per_minute(), Some(40), "it was swapped");
        load.sample(at(10_000), 20);
        assert_eq!(load.per_minute(), None, "what was long ago does not count");
    }

    #[test]
    fn only_time_in_which_it_is_waited_for_is_waited_and_no_single_step_is_days() {
        let (disk, state) = (crate::sys::FaultyDisk::new(), Path::new("/state"));
        let mut wait = ClockWait::default();
        let mut at = |seconds| {
            wait.goes_on(Duration::from_secs(seconds), &disk, state).unwrap();
            wait.waited().as_secs()
        };
        assert_eq!([at(1000), at(1005), at(1605)], [0, 5, 605]);
        assert_eq!(at(1605 + 80 * 3600), 605 + LONGEST_STEP.as_secs());
        wait.rests();
        wait.goes_on(Duration::from_secs(400_000), &disk, state).unwrap();
        assert_eq!(wait.waited().as_secs(), 605 + LONGEST_STEP.as_secs());
    }

    #[test]
    fn what_does_not_read_is_a_wait_that_begins_and_a_hostile_one_is_bounded() {
        let disk = crate::sys::FaultyDisk::new();
        let state = Path::new("/state");
        for (bytes, waited) in [
            (&b"{"[..], Duration::ZERO),
            (b"{\"seconds\":-1}", Duration::ZERO),
            (b"{\"seconds\":7200}", Duration::from_secs(7200)),
            (b"{\"seconds\":18446744073709551615}", CLOCK_LIMIT),
        ] {
            disk.commit(&state.join(FILE), bytes).unwrap();
            assert_eq!(ClockWait::read(&disk, state).waited(), waited);
        }
    }
}
