//! Maintenance windows: days and hours of the week, by an offset from UTC that the configuration states.
//!
//! Rejected: names of time zones. Boards come without the tables that they need, and a table that is missing or old moves a
//! window without anybody seeing it. An offset does not follow summer time: a window is an hour wide of it for half a year.

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: u64 = 86_400;
/// Days from a Monday to 1970-01-01.
const EPOCH: u64 = 3;

/// Minutes of a day, on some days; one that ends before it begins ends on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Monday is bit 0; the days on which it begins.
    days: u8,
    from: u16,
    to: u16,
}

impl Window {
    /// Whether it is open, by seconds since 1970 of the board's own time.
    pub fn holds(&self, local: u64) -> bool {
        let day = u8::try_from((local / DAY + EPOCH) % 7).unwrap_or(0);
        let minute = u16::try_from(local % DAY / 60).unwrap_or(0);
        let begins_on = |day: u8| self.days & (1 << day) != 0;
        let over_midnight = self.to <= self.from;
        let today = begins_on(day) && minute >= self.from && (over_midnight || minute < self.to);
        today || over_midnight && begins_on((day + 6) % 7) && minute < self.to
    }
}

impl std::str::FromStr for Window {
    type Err = String;

    /// `Mon-Fri 22:00-05:00`, `Sat,Sun 00:00-24:00`, `22:00-05:00`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let short: String = text.chars().take(60).collect();
        let bad = || {
            format!("{short:?} is no window: one like \"Mon-Fri 22:00-05:00\" or \"Sat,Sun 00:00-24:00\" is expected")
        };
        let (days, hours) = text.trim().rsplit_once(' ').unwrap_or(("Mon-Sun", text.trim()));
        let (from, to) = hours.split_once('-').ok_or_else(bad)?;
        let days = days.trim().split(',').map(days_of).try_fold(0, |all, days| Some(all | days?)).ok_or_else(bad)?;
        let window = minute(from).zip(minute(to)).map(|(from, to)| Self { days, from, to });
        window.filter(|window| window.from < 24 * 60 && window.from != window.to).ok_or_else(bad)
    }
}

fn days_of(text: &str) -> Option<u8> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name.trim()));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    let length = (last + 7 - first) % 7;
    Some((0..=length).fold(0, |days, n| days | 1 << ((first + n) % 7)))
}

/// Up to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two =
        |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u16>().ok())?;
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= 24 * 60).then_some(minute)
}

/// Seconds east of UTC: `+01:00`, `-03:30`.
pub(super) fn offset(text: &str) -> Result<i64, String> {
    let short: String = text.chars().take(60).collect();
    let bad =
        || format!("{short:?} is no offset from UTC: one like \"+01:00\" or \"-03:30\", at most 14 hours, is expected");
    let sign = match text.chars().next() {
        Some('+') => 1,
        Some('-') => -1,
        Some(_) | None => return Err(bad()),
    };
    let minutes = text.get(1..).and_then(minute).filter(|minutes| *minutes <= 14 * 60).ok_or_else(bad)?;
    Ok(sign * i64::from(minutes) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30 00:00 UTC, a Monday (`date -u -d 2026-11-30 +%s`).
    const MONDAY: u64 = 1_795_996_800;

    fn open(window: &str, day: u64, hour: u64, minute: u64) -> bool {
        window.parse::<Window>().unwrap().holds(MONDAY + day * DAY + hour * 3600 + minute * 60)
    }

    #[test]
    fn the_first_day_of_1970_was_a_thursday() {
        let thursday: Window = "Thu 00:00-24:00".parse().unwrap();
        assert!(thursday.holds(0) && thursday.holds(DAY - 1) && !thursday.holds(DAY));
        // 2099-12-31, a Thursday too.
        assert!(thursday.holds(4_102_358_400) && !thursday.holds(4_102_358_400 - 1));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let nights = "Mon-Fri 22:00-05:00";
        for (day, hour, minute, is_open) in [
            (0, 0, 0, false),
            (0, 21, 59, false),
            (0, 22, 0, true),
            (1, 4, 59, true),
            (1, 5, 0, false),
            (4, 23, 0, true),
            (5, 4, 59, true),
            (5, 22, 0, false),
            (6, 23, 0, false),
        ] {
            assert_eq!(open(nights, day, hour, minute), is_open, "day {day} {hour}:{minute}");
        }
    }

    #[test]
    fn days_may_be_listed_or_go_round_the_week_or_be_left_out() {
        for (window, days) in [
            ("Sat,Sun 00:00-24:00", vec![5, 6]),
            ("Sat-Mon 00:00-24:00", vec![0, 5, 6]),
            ("wed 00:00-24:00", vec![2]),
            ("Mon-Tue,Thu 00:00-24:00", vec![0, 1, 3]),
            ("00:00-24:00", vec![0, 1, 2, 3, 4, 5, 6]),
        ] {
            let open: Vec<u64> = (0..7).filter(|&day| open(window, day, 12, 0)).collect();
            assert_eq!(open, days, "{window}");
        }
    }

    #[test]
    fn what_is_no_window_and_no_offset_is_refused() {
        for bad in [
            "",
            "Mon",
            "22:00",
            "22:00-22:00",
            "22-05",
            "24:00-05:00",
            "22:00-24:01",
            "22:60-23:00",
            "2:00-3:00",
            "Montag 22:00-05:00",
            "Mon- 22:00-05:00",
            "Mon,,Tue 22:00-05:00",
            "+2:00-03:00",
            "Mon 22:00-05:00-06:00",
        ] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
        assert_eq!([offset("+00:00"), offset("-03:30"), offset("+14:00")], [Ok(0), Ok(-12_600), Ok(50_400)]);
        for bad in ["", "1", "01:00", "+14:01", "+1:00", "+aa:bb", "Europe/Berlin", "+é:00"] {
            assert!(offset(bad).is_err(), "{bad}");
        }
    }
}
