//! 100 swaps under four clients that ask as fast as they can.
//!
//! A swap's window runs from the start of loading to the moment after the install. A request that
//! overlaps one is inside.

use crate::client::Client;
use crate::server::{Server, image};
use crate::{Figure, figure, quantile, sorted};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tokio::time::Instant;

const SWAPS: u32 = 100;
const CLIENTS: usize = 4;
/// Between swaps, so that there is an outside.
const REST: Duration = Duration::from_millis(150);

struct Asked {
    start: Instant,
    end: Instant,
    wrong: bool,
}

pub fn measure(server: &Server) -> Vec<Figure> {
    println!("swap: {SWAPS} swaps, each loading the whole file, under {CLIENTS} clients");
    // What the two kinds of version answer.
    let expected = [2, 3].map(|v| server.load(v).run(&[image()]).unwrap()[0].bytes().to_vec());
    let first = server.slots.get("digits").unwrap().version();
    // Versions that may answer: from the one before an install is done to the one being installed.
    let (oldest, newest) = (AtomicU32::new(first), AtomicU32::new(first));
    let done = AtomicBool::new(false);
    let (windows, asked) = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| client(server, &expected, &oldest, &newest, &done))).collect();
        let windows = swaps(server, first, &oldest, &newest);
        done.store(true, SeqCst);
        let asked: Vec<Asked> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (windows, asked)
    });
    report(&windows, &asked)
}

fn swaps(server: &Server, first: u32, oldest: &AtomicU32, newest: &AtomicU32) -> Vec<(Instant, Instant)> {
    std::thread::sleep(REST);
    let mut windows = Vec::new();
    for version in first + 1..=first + SWAPS {
        let start = Instant::now();
        let live = server.load(version);
        newest.store(version, SeqCst);
        drop(server.slots.install(live));
        oldest.store(version, SeqCst);
        windows.push((start, Instant::now()));
        std::thread::sleep(REST);
        if version % 20 == 0 {
            println!("  {} of {SWAPS}", version - first);
        }
    }
    windows
}

fn client(
    server: &Server,
    expected: &[Vec<u8>; 2],
    oldest: &AtomicU32,
    newest: &AtomicU32,
    done: &AtomicBool,
) -> Vec<Asked> {
    let mut client = Client::connect(&server.socket);
    let mut asked = Vec::new();
    while !done.load(SeqCst) {
        let lowest = oldest.load(SeqCst);
        let start = Instant::now();
        let reply = client.ask();
        let end = Instant::now();
        let possible = lowest..=newest.load(SeqCst);
        let right = reply.status == 200
            && possible.contains(&reply.version)
            && reply.output == expected[reply.version as usize % 2];
        asked.push(Asked { start, end, wrong: !right });
    }
    asked
}

fn report(windows: &[(Instant, Instant)], asked: &[Asked]) -> Vec<Figure> {
    let during = |a: &Asked| windows.iter().any(|(start, end)| a.start < *end && a.end > *start);
    let micros = |a: &Asked| (a.end - a.start).as_secs_f64() * 1e6;
    let (inside, outside): (Vec<_>, Vec<_>) = asked.iter().partition(|a| during(a));
    let inside = sorted(inside.into_iter().map(micros).collect());
    let outside = sorted(outside.into_iter().map(micros).collect());
    let loads = sorted(windows.iter().map(|(start, end)| (*end - *start).as_secs_f64() * 1e3).collect());
    println!("  a swap takes p50 {:.1} ms, p99 {:.1} ms", quantile(&loads, 0.5), quantile(&loads, 0.99));
    for (what, times) in [("inside", &inside), ("outside", &outside)] {
        let (p50, p99) = (quantile(times, 0.5), quantile(times, 0.99));
        println!("  {what:<8} {:>7} requests, p50 {p50:>7.1} µs, p99 {p99:>7.1} µs", times.len());
    }
    spread(windows, asked);
    let failed = asked.iter().filter(|a| a.wrong).count();
    vec![
        figure("swap/failed", failed as f64, "requests"),
        figure("swap/p99-ratio", quantile(&inside, 0.99) / quantile(&outside, 0.99), "ratio"),
    ]
}

/// The ratio wavers with what else the machine does: each twenty swaps by themselves, from best to worst.
fn spread(windows: &[(Instant, Instant)], asked: &[Asked]) {
    let ratio = |windows: &[(Instant, Instant)]| {
        let (from, to) = (windows[0].0 - REST, windows[windows.len() - 1].1);
        let during = |a: &&Asked| windows.iter().any(|(start, end)| a.start < *end && a.end > *start);
        let near = asked.iter().filter(|a| a.start > from && a.end < to);
        let (inside, outside): (Vec<_>, Vec<_>) = near.partition(during);
        let p99 = |asked: Vec<&Asked>| {
            quantile(&sorted(asked.iter().map(|a| (a.end - a.start).as_secs_f64()).collect()), 0.99)
        };
        p99(inside) / p99(outside)
    };
    let ratios: Vec<String> =
        sorted(windows.chunks(20).map(ratio).collect()).iter().map(|ratio| format!("{ratio:.2}")).collect();
    println!("  p99 inside over outside, by twenty swaps: {}", ratios.join(", "));
}
