//! By which time the dates of a certificate are judged.
//!
//! Invariant: a clock that nobody vouches for neither lets an ended certificate in nor keeps a good one out: a board
//! starts at 1970, or at the date of its image, or with a battery that ran empty.
//! Not here: device time as updates know it (`trust`). It rises by what the operator signed, and a signature of
//! a wrong date must not shut out the session that would bring the right one.

use crate::sys::{Clock, RealClock, built};
use std::sync::Arc;

/// What is known of the time.
#[derive(Debug, Clone)]
pub struct Dates {
    clock: Arc<dyn Clock>,
    /// A person reads what fails, and can set the clock.
    attended: bool,
}

/// A time, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It is that time.
    Now(u64),
    /// It is that time or later.
    Since(u64),
}

impl Dates {
    /// A device: its clock counts once a time source has set it; until then the date of this build does.
    pub fn of_device(clock: Arc<dyn Clock>) -> Self {
        Self { clock, attended: false }
    }

    /// A person's machine: its clock counts.
    pub fn of_operator() -> Self {
        Self { clock: Arc::new(RealClock::new()), attended: true }
    }

    pub(super) fn known(&self) -> Known {
        let now = self.clock.system();
        match (self.attended || self.clock.synchronized()) && now >= built() {
            true => Known::Now(now),
            // A date before the program was written is wrong, whoever vouches for it.
            false => Known::Since(built()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ManualClock;

    #[test]
    fn a_clock_counts_when_it_is_set_and_possible() {
        let year = 365 * 86_400;
        for (system, synchronized, known) in [
            (0, false, Known::Since(built())),
            (0, true, Known::Since(built())),
            (built() + 70 * year, false, Known::Since(built())),
            (built() + year, true, Known::Now(built() + year)),
            (built() - 1, true, Known::Since(built())),
        ] {
            let dates = Dates::of_device(Arc::new(ManualClock::new(system, synchronized)));
            assert_eq!(dates.known(), known, "{system} {synchronized}");
        }
    }
}
