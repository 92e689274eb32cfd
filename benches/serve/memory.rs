//! Resident memory after 1,000 swaps, less what it was after 10, with one client asking.

use crate::client::Client;
use crate::server::Server;
use crate::{Figure, figure};

const SWAPS: u32 = 1_000;

pub fn measure(server: &Server) -> Vec<Figure> {
    println!("memory: {SWAPS} swaps");
    let first = server.slots.get("digits").unwrap().version();
    let mut client = Client::connect(&server.socket);
    let mut after_ten = 0.0;
    for swap in 1..=SWAPS {
        drop(server.slots.install(server.load(first + swap)));
        assert_eq!(client.ask().version, first + swap);
        if swap == 10 {
            after_ten = resident_mib();
        }
        if swap == 10 || swap % 200 == 0 {
            println!("  {swap:>5}: {:.2} MiB", resident_mib());
        }
    }
    vec![figure("swap/rss-growth-mib", resident_mib() - after_ten, "MiB")]
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
