//! Waves of a rollout as people write and read them.

use crate::sys::date;
use crate::trust::{Wave, Waves};
use anyhow::{Context as _, anyhow, bail};

/// `5%, 25% after 2h, 100% after 1d`; times still by what will be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan(Vec<(u8, When)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Seconds from now.
    After(u64),
    /// Seconds since 1970 UTC.
    At(u64),
}

impl std::str::FromStr for Plan {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let waves: Vec<(u8, When)> = text.split(',').map(wave).collect::<anyhow::Result<_>>()?;
        let untimed = waves.iter().skip(1).any(|(_, when)| *when == When::After(0));
        if untimed {
            bail!("only the first wave may be without a time; write the others as '25% after 2h'");
        }
        let plan = Self(waves);
        // With any now, as long as all times are from it.
        if plan.0.iter().all(|(_, when)| matches!(when, When::After(_))) {
            plan.from(0)?;
        }
        Ok(plan)
    }
}

impl Plan {
    pub fn from(&self, now: u64) -> anyhow::Result<Waves> {
        let at = |when: When| match when {
            When::After(seconds) => now.saturating_add(seconds),
            When::At(time) => time,
        };
        let waves: Vec<Wave> = self.0.iter().map(|&(percent, when)| Wave { percent, from: at(when) }).collect();
        Waves::try_from(waves).map_err(|error| anyhow!(error))
    }
}

fn wave(text: &str) -> anyhow::Result<(u8, When)> {
    let text = text.trim();
    let (share, when) = text.split_once(' ').unwrap_or((text, ""));
    let percent = share.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|p| (1..=100).contains(p));
    let percent = percent.with_context(|| format!("{share:?} is no share of 1% to 100%"))?;
    let when = match when.trim().split_once(' ') {
        None if when.trim().is_empty() => When::After(0),
        Some(("after", span)) => When::After(seconds(span.trim())?),
        Some(("at", time)) => {
            let time = time.trim().parse::<jiff::Timestamp>();
            let time = time.with_context(|| "a time is written 2026-12-01T06:00:00Z")?;
            When::At(u64::try_from(time.as_second()).context("a time before 1970")?)
        }
        Some(_) | None => bail!("after a share stands nothing, `after 2h` or `at 2026-12-01T06:00:00Z`, not {when:?}"),
    };
    Ok((percent, when))
}

/// `90s`, `30m`, `2h`, `1d`.
pub(super) fn seconds(text: &str) -> anyhow::Result<u64> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let found =
        units.iter().find_map(|(unit, size)| text.strip_suffix(unit)?.parse::<u32>().ok().map(|n| u64::from(n) * size));
    found
        .filter(|&seconds| seconds > 0)
        .with_context(|| format!("{text:?} is no span of time; write 90s, 30m, 2h or 1d"))
}

/// With the share that is in at that time; nothing where all are in at once.
pub(super) fn waves_text(waves: &Waves, now: u64) -> Option<String> {
    let wave = |wave: &Wave| format!("{} % from {}", wave.percent, date(wave.from));
    let all: Vec<String> = waves.iter().map(wave).collect();
    (!waves.is_empty()).then(|| format!("{}; {} % now", all.join(", "), waves.percent_at(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(text: &str) -> Vec<(u8, u64)> {
        let waves = text.parse::<Plan>().unwrap().from(1_000).unwrap();
        waves.iter().map(|wave| (wave.percent, wave.from)).collect()
    }

    #[test]
    fn waves_are_read_from_now_on_or_by_dates() {
        assert_eq!(waves("5%, 25% after 2h, 100% after 1d"), [(5, 1_000), (25, 8_200), (100, 87_400)]);
        assert_eq!(waves("10% after 90s,100% after 30m"), [(10, 1_090), (100, 2_800)]);
        assert_eq!(waves("5%, 100% at 2026-12-01T06:00:00Z"), [(5, 1_000), (100, 1_796_104_800)]);
        assert_eq!(waves("5%, 100% at 2026-12-01T07:00:00+01:00"), [(5, 1_000), (100, 1_796_104_800)]);
    }

    #[test]
    fn what_is_no_plan_says_what_is() {
        for (text, says) in [
            ("", "share of 1% to 100%"),
            ("5", "share of 1% to 100%"),
            ("0%", "share of 1% to 100%"),
            ("101%", "share of 1% to 100%"),
            ("5%, 25%", "only the first"),
            ("25%, 5% after 2h", "larger than the one before"),
            ("5% after 2h, 25% after 1h", "later"),
            ("5% after 2 hours", "no span of time"),
            ("5% after -1h", "no span of time"),
            ("5% at noon", "2026-12-01T06:00:00Z"),
            ("5% in 2h", "after 2h"),
        ] {
            let error = text.parse::<Plan>().unwrap_err();
            assert!(format!("{error:#}").contains(says), "{text}: {error:#}");
        }
        let late = "5%, 100% at 1999-12-01T06:00:00Z".parse::<Plan>().unwrap();
        assert!(late.from(1_796_104_800).is_err(), "before the first");
    }

    #[test]
    fn waves_read_as_a_sentence() {
        assert_eq!(waves_text(&Waves::default(), 0), None);
        let waves = "5%, 100% after 1h".parse::<Plan>().unwrap().from(0).unwrap();
        let text = "5 % from 1970-01-01 00:00:00Z, 100 % from 1970-01-01 01:00:00Z; 5 % now";
        assert_eq!(waves_text(&waves, 3599).as_deref(), Some(text));
    }
}
