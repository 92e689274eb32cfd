//! Attempts to connect, second by second, as the kernel counts them for this network namespace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

/// Counts in a thread of its own, so that a busy runtime does not stretch its seconds.
pub struct Attempts {
    begun: Instant,
    over: Arc<AtomicBool>,
    counting: JoinHandle<Vec<u64>>,
}

impl Attempts {
    pub fn start() -> Self {
        let begun = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let counting = std::thread::spawn(move || {
            let (mut counts, mut before) = (Vec::new(), active_opens());
            while !is_over.load(Ordering::Relaxed) {
                let next = begun + Duration::from_secs(counts.len() as u64 + 1);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let now = active_opens();
                counts.push(now - before);
                before = now;
            }
            counts
        });
        Self { begun, over, counting }
    }

    /// Whole seconds since the start.
    pub fn seconds(&self) -> usize {
        self.begun.elapsed().as_secs() as usize
    }

    /// Attempts of each second.
    pub fn stop(self) -> Vec<u64> {
        self.over.store(true, Ordering::Relaxed);
        self.counting.join().expect("it counts")
    }
}

/// TCP connections that were begun here, whatever became of them.
fn active_opens() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "ActiveOpens").unwrap().1.parse().unwrap()
}
