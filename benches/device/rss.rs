//! Resident memory of both processes after a while of work.

use crate::client::Picture;
use crate::process::Device;
use crate::{Figure, figure};
use std::time::Duration;
use tokio::time::Instant;

const REQUESTS: usize = 1_000;

pub fn measure() -> Vec<Figure> {
    println!("rss: engine after {REQUESTS} requests, link after five seconds without its broker");
    let picture = Picture::read();
    let device = Device::new();
    let mut engine = device.start("engine");
    let start = Instant::now();
    while !picture.ask(&device.socket()) {
        engine.assert_runs();
        assert!(start.elapsed() < Duration::from_secs(20), "no right answer in time");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut link = device.start("link");
    picture.ask_many(&device.socket(), REQUESTS);
    std::thread::sleep(Duration::from_secs(5));
    engine.assert_runs();
    link.assert_runs();
    vec![figure("rss/digits-mib", engine.resident_mib(), "MiB"), figure("rss/link-mib", link.resident_mib(), "MiB")]
}
