//! How far training is, kept in a directory for another process to go on from.
//!
//! Invariant: a state is whole or not there; whoever names the directory vouches that program, options and data are the same.

use super::output::commit;
use crate::compress::Error;
use crate::sys::{Clock as _, RealClock};
use std::path::PathBuf;
use std::time::Duration;

/// Between two states at least, and so many times as long as it took to write the last one.
const PAUSE: Duration = Duration::from_millis(500);
const TIMES: u32 = 20;
/// Bytes of a state.
const MAX: u64 = 16 << 30;

#[derive(Debug)]
pub(super) struct Kept {
    dir: PathBuf,
    clock: RealClock,
    last: Duration,
    pause: Duration,
}

impl Kept {
    pub fn new(dir: PathBuf) -> Self {
        let clock = RealClock::new();
        let last = clock.monotonic();
        Self { dir, clock, last, pause: PAUSE }
    }

    pub fn is_due(&self, end: bool) -> bool {
        end || self.clock.monotonic().saturating_sub(self.last) >= self.pause
    }

    fn path(&self, key: u64) -> PathBuf {
        self.dir.join(format!("{key:016x}.state"))
    }

    pub fn keep(&mut self, key: u64, state: &[u8]) -> Result<(), Error> {
        let began = self.clock.monotonic();
        let written = std::fs::create_dir_all(&self.dir).map_err(anyhow::Error::from);
        let written = written.and_then(|()| commit(&self.path(key), state));
        written.map_err(|error| Error::Unfit(format!("keep how far training is: {error:#}")))?;
        self.last = self.clock.monotonic();
        self.pause = PAUSE.max(self.last.saturating_sub(began) * TIMES);
        Ok(())
    }

    /// One that cannot be read is none.
    pub fn find(&self, key: u64) -> Option<Vec<u8>> {
        let path = self.path(key);
        let size = std::fs::metadata(&path).ok()?.len();
        (size <= MAX).then(|| std::fs::read(path).ok())?
    }
}
