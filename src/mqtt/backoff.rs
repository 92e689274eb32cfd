//! When to try again: exponential, with full jitter, reset only by a session that held, or that brought something on.
//!
//! Pure: the caller brings the time and the chance.

use std::time::Duration;

/// Bounds of the wait between two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// No wait is shorter: this bounds the attempts whatever the chance.
    pub min: Duration,
    /// The longest first wait: over it a fleet spreads that lost its broker at once.
    pub first: Duration,
    pub max: Duration,
    /// A session that held this long makes the next wait a short one again. One that the broker
    /// ends sooner counts as a failed attempt, so a connect-then-kick backs off too.
    pub stable_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let [min, first, max, stable_after] = [1, 10, 600, 180].map(Duration::from_secs);
        Self { min, first, max, stable_after }
    }
}

/// Where in the backoff we are.
#[derive(Debug, Clone)]
pub struct Retry {
    backoff: Backoff,
    ceiling: Duration,
}

impl Retry {
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ceiling: backoff.first / 2 }
    }

    /// The wait after an attempt whose session held for `held` (zero when none came about);
    /// `useful` when the caller got on by it: on a line that breaks again and again an update would else take days.
    /// `chance` is uniform over all of `u64`.
    pub fn next(&mut self, held: Duration, useful: bool, chance: u64) -> Duration {
        if held >= self.backoff.stable_after {
            self.ceiling = self.backoff.first / 2;
        } else if useful {
            self.ceiling = self.backoff.min;
        }
        self.ceiling = self.ceiling.saturating_mul(2).min(self.backoff.max).max(self.backoff.min);
        let span = (self.ceiling - self.backoff.min).as_nanos();
        let part = (span * u128::from(chance)) >> u64::BITS;
        // The part is below the span, which came from a Duration of minutes.
        self.backoff.min + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A plain generator, so that a failure repeats.
    fn chances(mut seed: u64) -> impl FnMut() -> u64 {
        move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed ^ (seed >> 33)
        }
    }

    /// Attempts within `time` when each session holds for `held` before it is lost.
    fn attempts(time: Duration, held: Duration, mut chance: impl FnMut() -> u64) -> u32 {
        let mut retry = Retry::new(Backoff::default());
        let (mut now, mut count) = (Duration::ZERO, 0);
        while now < time {
            count += 1;
            now += held + retry.next(held, false, chance());
        }
        count
    }

    fn fail(retry: &mut Retry, times: u32) {
        for _ in 0..times {
            retry.next(Duration::ZERO, false, 0);
        }
    }

    #[test]
    fn a_broker_that_is_down_sees_few_attempts_in_a_minute_and_in_a_day() {
        for seed in 0..200 {
            assert!((3..=15).contains(&attempts(60 * SECOND, Duration::ZERO, chances(seed))), "seed {seed}");
            let day = attempts(86_400 * SECOND, Duration::ZERO, chances(seed));
            assert!((200..=420).contains(&day), "seed {seed}: {day} attempts in a day");
        }
        assert!(attempts(30 * SECOND, Duration::ZERO, || 0) <= 30, "the worst chance of all");
    }

    #[test]
    fn connect_then_kick_backs_off_like_a_broker_that_is_down() {
        for seed in 0..200 {
            let day = attempts(86_400 * SECOND, SECOND, chances(seed));
            assert!(day <= 420, "seed {seed}: {day} attempts in a day");
        }
    }

    #[test]
    fn waits_stay_in_bounds_and_double() {
        let mut retry = Retry::new(Backoff::default());
        let longest: Vec<_> =
            (0..12).map(|_| retry.next(Duration::ZERO, false, u64::MAX).as_secs_f64().round()).collect();
        assert_eq!(longest, [10., 20., 40., 80., 160., 320., 600., 600., 600., 600., 600., 600.]);
        assert_eq!(retry.next(Duration::ZERO, false, 0), SECOND);
    }

    #[test]
    fn only_a_session_that_held_for_minutes_resets() {
        let mut retry = Retry::new(Backoff::default());
        fail(&mut retry, 20);
        assert!(retry.next(179 * SECOND, false, u64::MAX) > 599 * SECOND);
        assert!(retry.next(180 * SECOND, false, u64::MAX) <= 10 * SECOND);
    }

    #[test]
    fn a_session_that_got_the_caller_on_is_followed_by_a_short_wait_however_soon_it_broke() {
        let mut retry = Retry::new(Backoff::default());
        fail(&mut retry, 20);
        assert!(retry.next(SECOND, true, u64::MAX) <= 2 * SECOND);
        assert!(retry.next(SECOND, true, u64::MAX) <= 2 * SECOND);
        assert!(retry.next(SECOND, false, u64::MAX) > 3 * SECOND);
        // One that stood for long was no broken line: a broker that goes takes a fleet's sessions with it, all of them useful once.
        assert!(retry.next(300 * SECOND, true, u64::MAX) > 9 * SECOND);
    }

    #[test]
    fn a_fleet_that_lost_its_broker_at_once_does_not_come_back_at_once() {
        let mut chance = chances(1);
        let firsts = (0..1000).map(|_| Retry::new(Backoff::default()).next(300 * SECOND, false, chance()).as_secs());
        let mut seconds = [0; 10];
        firsts.for_each(|second| seconds[second as usize] += 1);
        assert!(seconds.iter().all(|&count| count < 200), "of 1,000 in each second: {seconds:?}");
        let mut waits: Vec<_> = (0..1000)
            .map(|_| {
                let mut retry = Retry::new(Backoff::default());
                fail(&mut retry, 6);
                retry.next(Duration::ZERO, false, chance())
            })
            .collect();
        waits.sort();
        assert!(waits[900] - waits[100] > 80 * SECOND, "spread over most of two minutes");
    }

    #[test]
    fn bounds_that_contradict_each_other_do_not_panic() {
        let backoff = Backoff { min: 5 * SECOND, first: SECOND, max: SECOND, stable_after: Duration::ZERO };
        assert_eq!(Retry::new(backoff).next(Duration::MAX, false, u64::MAX), 5 * SECOND);
    }
}
