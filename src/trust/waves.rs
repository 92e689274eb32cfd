//! A rollout over time: which share of an audience is in by when, and what the operator has stopped.

use serde::{Deserialize, Serialize};

/// From that moment of device time so much of the audience is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Wave {
    /// 1 to 100.
    pub percent: u8,
    /// Seconds since 1970 UTC.
    pub from: u64,
}

/// Waves in order, each later and larger than the one before; without any, all are in at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Wave>", into = "Vec<Wave>")]
pub struct Waves(Vec<Wave>);

/// What the operator has stopped. What runs goes on running, but for a version that is called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Nobody begins, and who has begun waits.
    Paused,
    /// For good: nobody takes it any more.
    Withdrawn,
    /// The same, and who has it goes back to the version before.
    Recalled,
}

impl Waves {
    pub const MAX: usize = 16;

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Wave> {
        self.0.iter()
    }

    /// The share that is in at that time.
    pub fn percent_at(&self, time: u64) -> u8 {
        let begun = self.0.iter().rfind(|wave| wave.from <= time).map_or(0, |wave| wave.percent);
        if self.is_empty() { 100 } else { begun }
    }

    /// Those that had not begun at that time, put off by so many seconds.
    #[cfg(feature = "operator")]
    pub fn put_off(&self, after: u64, by: u64) -> Self {
        let put_off = |wave: &Wave| match wave.from > after {
            true => Wave { from: wave.from.saturating_add(by), ..*wave },
            false => *wave,
        };
        // At the end of time they would fall together: then they stay.
        Self::try_from(self.0.iter().map(put_off).collect::<Vec<_>>()).unwrap_or_else(|_| self.clone())
    }

    /// When a device at that place is in; none where no wave reaches it.
    pub fn begin_at(&self, place: u8) -> Option<u64> {
        if self.is_empty() { Some(0) } else { self.0.iter().find(|wave| place < wave.percent).map(|wave| wave.from) }
    }
}

impl TryFrom<Vec<Wave>> for Waves {
    type Error = &'static str;

    fn try_from(waves: Vec<Wave>) -> Result<Self, Self::Error> {
        let rises = |pair: &[Wave]| pair[0].percent < pair[1].percent && pair[0].from < pair[1].from;
        let is_share = |wave: &Wave| (1..=100).contains(&wave.percent);
        if waves.len() > Self::MAX || !waves.iter().all(is_share) || !waves.windows(2).all(rises) {
            return Err("waves are 16 at most, of 1 to 100 percent, each later and larger than the one before");
        }
        Ok(Self(waves))
    }
}

impl From<Waves> for Vec<Wave> {
    fn from(waves: Waves) -> Self {
        waves.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(text: &str) -> Result<Waves, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_share_begins_at_its_second_and_no_sooner() {
        let waves =
            waves(r#"[{"percent": 5, "from": 100}, {"percent": 25, "from": 200}, {"percent": 90, "from": 300}]"#);
        let waves = waves.unwrap();
        let at = [0, 99, 100, 199, 200, 299, 300, u64::MAX].map(|time| waves.percent_at(time));
        assert_eq!(at, [0, 0, 5, 5, 25, 25, 90, 90]);
        let begin = [0, 4, 5, 24, 25, 89, 90, 99].map(|place| waves.begin_at(place));
        assert_eq!(begin, [Some(100), Some(100), Some(200), Some(200), Some(300), Some(300), None, None]);
        assert_eq!((Waves::default().percent_at(0), Waves::default().begin_at(99)), (100, Some(0)));
    }

    #[cfg(feature = "operator")]
    #[test]
    fn waves_that_had_begun_stand_and_the_others_keep_their_distance() {
        let text = r#"[{"percent": 5, "from": 100}, {"percent": 25, "from": 200}, {"percent": 90, "from": 300}]"#;
        let starts = |waves: &Waves| waves.iter().map(|wave| wave.from).collect::<Vec<_>>();
        let waves = waves(text).unwrap();
        for (after, expected) in
            [(99, [1100, 1200, 1300]), (100, [100, 1200, 1300]), (299, [100, 200, 1300]), (300, [100, 200, 300])]
        {
            assert_eq!(starts(&waves.put_off(after, 1000)), expected, "{after}");
        }
        assert_eq!(waves.put_off(100, u64::MAX), waves, "never two at one time");
    }

    #[test]
    fn hostile_waves_are_no_waves() {
        let wave = |percent: u64, from: u64| format!(r#"{{"percent": {percent}, "from": {from}}}"#);
        let many: Vec<String> = (1..=17).map(|n| wave(n, n)).collect();
        for text in [
            format!("[{}]", many.join(",")),
            format!("[{}, {}]", wave(25, 100), wave(5, 200)),
            format!("[{}, {}]", wave(5, 200), wave(25, 100)),
            format!("[{}, {}]", wave(5, 100), wave(25, 100)),
            format!("[{}]", wave(0, 1)),
            format!("[{}]", wave(101, 1)),
            r#"[{"percent": 5, "from": -1}]"#.to_owned(),
            r#"[{"percent": 5}]"#.to_owned(),
            r#"[{"percent": 5, "from": 1, "until": 2}]"#.to_owned(),
        ] {
            assert!(waves(&text).is_err(), "{text}");
        }
        assert!(waves(&format!("[{}]", many[..16].join(","))).is_ok());
    }
}
