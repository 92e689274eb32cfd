//! A fleet on one real Mosquitto: `cargo bench --bench fleet -- [--devices 1000]`.
//!
//! Each device is the real thing in this process: trust, update, gates and journal on one side of a Unix socket, the link with its
//! ledger and its MQTT session on the other. What is not there: the HTTP API (each device is asked twice a second by a call
//! instead, so that probation ends), a network that is slow, and an SD card (state lies in /dev/shm unless `--state` says
//! otherwise). The model is the digits one with names that do not compress; it is loaded, checked and run for real.
//!
//! Prints progress, a table, and one JSON line a figure. Broker and devices share this machine's cores: times are of
//! the two together. Needs Linux and Mosquitto.

mod attempts;
mod broker;
mod device;
mod operator;

use attempts::Attempts;
use broker::Broker;
use device::{Device, Shared};
use operator::Operator;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const KIB: f64 = 1024.0;
/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(900);
/// How long the broker is away.
const AWAY: Duration = Duration::from_secs(20);
/// Shares of the fleet, and when they begin.
const WAVES: [(u8, u64); 4] = [(10, 0), (25, 20), (50, 40), (100, 60)];
/// Bytes of names in each version.
const NAMES: usize = 400_000;

struct Args {
    devices: usize,
    state: PathBuf,
}

fn args() -> Args {
    let mut args = Args { devices: 1000, state: "/dev/shm".into() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--devices" => args.devices = words.next().and_then(|n| n.parse().ok()).expect("--devices takes a number"),
            "--state" => args.state = words.next().expect("--state takes a directory").into(),
            // Of cargo.
            "--bench" => {}
            other => panic!("{other}: --devices N and --state DIRECTORY are known"),
        }
    }
    args
}

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

fn main() {
    let args = args();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let needs = 16 * args.devices as u64;
    assert!(limit.current.is_none_or(|now| now >= needs), "{needs} open files are needed: ulimit -n {needs}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let figures = runtime.block_on(measure(&args));
    runtime.shutdown_timeout(Duration::from_secs(10));
    println!();
    for Figure { name, value, unit } in &figures {
        println!("{name:<40} {value:>12.3} {unit}");
    }
    for Figure { name, value, unit } in figures {
        println!("{}", serde_json::json!({ "figure": name, "value": value, "unit": unit }));
    }
}

struct Fleet {
    devices: Vec<Device>,
    begun: Instant,
}

impl Fleet {
    fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Seconds until half, 95 of 100 and all of them are so.
    async fn until(&self, what: &str, is_so: impl Fn(&Device) -> bool) -> [f64; 3] {
        let start = Instant::now();
        let all = self.devices.len();
        let marks = [all.div_ceil(2), (all * 95).div_ceil(100), all];
        let mut times = [None; 3];
        let mut said = 0;
        loop {
            let count = self.devices.iter().filter(|device| is_so(device)).count();
            let seconds = start.elapsed().as_secs_f64();
            for (time, mark) in times.iter_mut().zip(marks) {
                if time.is_none() && count >= mark {
                    *time = Some(seconds);
                }
            }
            if count * 10 / all > said {
                said = count * 10 / all;
                println!("  {:>6.1} s: {what}: {count} of {all}", self.now());
            }
            if let [Some(half), Some(most), Some(last)] = times {
                return [half, most, last];
            }
            assert!(start.elapsed() < LIMIT, "{what}: {count} of {all} after {LIMIT:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn measure(args: &Args) -> Vec<Figure> {
    let dir = tempfile::Builder::new().prefix("selvedge-fleet").tempdir_in(&args.state).unwrap();
    let mut broker = Broker::start(&dir.path().join("broker"));
    let mut operator = Operator::new(broker.port());
    let all = args.devices;
    println!("{all} devices on Mosquitto {}, state in {}", broker.version(), args.state.display());
    let shared = Arc::new(Shared::new(operator.root(), broker.port()));
    let mut fleet = Fleet { devices: Vec::new(), begun: Instant::now() };
    for number in 0..all {
        fleet.devices.push(Device::start(number, &dir.path().join(number.to_string()), shared.clone()).await);
    }
    let mut figures = Vec::new();
    let mut figure = |name: &str, value: f64, unit| figures.push(Figure { name: name.into(), value, unit });
    figure("fleet/devices", all as f64, "devices");
    operator.publish(2, NAMES).await;
    fleet.until("on version 2", |device| device.is_on(2)).await;
    // All sessions stand now, and nothing is under way.
    broker.settle().await;
    let (quiet, idle) = (broker.peak_memory(), broker.sent().await);

    println!("one update for all at once");
    let rate = broker.rate();
    let wire = operator.publish(3, NAMES).await;
    let [half, most, last] = fleet.until("on version 3", |device| device.is_on(3)).await;
    let peak_at_once = rate.stop();
    broker.settle().await;
    let bytes = (broker.sent().await - idle) as f64 / all as f64;
    figure("fleet/seconds-50pct", half, "s");
    figure("fleet/seconds-95pct", most, "s");
    figure("fleet/seconds-100pct", last, "s");
    figure("fleet/update-wire-kib", wire as f64 / KIB, "KiB");
    figure("fleet/bytes-per-device-kib", bytes / KIB, "KiB");
    figure("fleet/bytes-per-device-ratio", bytes / wire as f64, "of the update's chunks");
    figure("fleet/broker-peak-mib", broker.peak_memory() as f64 / KIB, "MiB");
    figure("fleet/broker-idle-peak-mib", quiet as f64 / KIB, "MiB");
    let written = fleet.devices.iter().map(Device::written).max().unwrap_or(0);
    figure("fleet/most-written-kib", written as f64 / KIB, "KiB a device");

    println!("one update in waves: {WAVES:?} (percent, seconds)");
    let rate = broker.rate();
    operator.publish_in_waves(4, NAMES, &WAVES).await;
    let [half, most, last] = fleet.until("on version 4", |device| device.is_on(4)).await;
    figure("fleet/peak-mib-per-s", peak_at_once as f64 / KIB / KIB, "MiB/s out of the broker, all at once");
    figure("fleet/waves-peak-mib-per-s", rate.stop() as f64 / KIB / KIB, "MiB/s out of the broker, in waves");
    figure("fleet/waves-seconds-50pct", half, "s");
    figure("fleet/waves-seconds-95pct", most, "s");
    figure("fleet/waves-seconds-100pct", last, "s");

    println!("the broker is killed, away for {} s, and comes back", AWAY.as_secs());
    let attempts = Attempts::start();
    broker.kill();
    sleep(AWAY).await;
    let restarted = attempts.seconds();
    broker.run();
    operator.repair().await;
    operator.publish(5, NAMES).await;
    let [half, most, last] = fleet.until("on version 5", |device| device.is_on(5)).await;
    let counts = attempts.stop();
    let (away, back) = counts.split_at(restarted.min(counts.len()));
    let peak = |counts: &[u64]| counts.iter().copied().max().unwrap_or(0) as f64;
    figure("fleet/reconnects-peak-per-s", peak(back), "attempts a second, once it is back");
    figure("fleet/attempts-peak-per-s-away", peak(away), "attempts a second, while it is away");
    figure("fleet/attempts", counts.iter().sum::<u64>() as f64, "attempts in all");
    figure("fleet/seconds-50pct-after-restart", half, "s");
    figure("fleet/seconds-95pct-after-restart", most, "s");
    figure("fleet/seconds-100pct-after-restart", last, "s");
    figures
}
