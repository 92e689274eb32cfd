//! From the start of the process to its first right answer over HTTP.

use crate::client::Picture;
use crate::process::{Device, executable};
use crate::{Figure, figure};
use std::time::Duration;
use tokio::time::Instant;

const ROUNDS: usize = 15;
/// Between two attempts to connect; it is part of what is measured.
const POLL: Duration = Duration::from_micros(200);
const LIMIT: Duration = Duration::from_secs(20);

pub fn measure() -> Vec<Figure> {
    println!("start: {ROUNDS} times each, of {}", executable().display());
    let picture = Picture::read();
    // Brings the executable into the page cache.
    once(&Device::new(), &picture);
    let first = (0..ROUNDS).map(|_| once(&Device::new(), &picture)).collect();
    let device = Device::new();
    once(&device, &picture);
    let again = (0..ROUNDS).map(|_| once(&device, &picture)).collect();
    let figures = [("start/first-start-ms", first), ("start/first-answer-ms", again)];
    figures.into_iter().map(|(name, times)| figure(name, median(name, times), "ms")).collect()
}

fn once(device: &Device, picture: &Picture) -> f64 {
    let start = Instant::now();
    let mut engine = device.start("engine");
    while !picture.ask(&device.socket()) {
        engine.assert_runs();
        assert!(start.elapsed() < LIMIT, "no right answer within {LIMIT:?}");
        std::thread::sleep(POLL);
    }
    start.elapsed().as_secs_f64() * 1e3
}

fn median(name: &str, mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    println!("  {name:<22} {:.1} to {:.1} ms", times[0], times[times.len() - 1]);
    times[times.len() / 2]
}
