//! What serving and swapping cost: `cargo bench --bench serve`.
//!
//! Over the real HTTP path on a Unix socket, with the digits models. Prints progress, a table, and
//! one JSON line a figure. Names given as arguments choose among overhead, swap and memory.
//!
//! Two figures waver with what else the machine does. On two x86 cores, with the clients on the same
//! two: the overhead is 23 to 88 µs at the median (most of it is waking threads of cores that sleep),
//! `swap/p99-ratio` is 2.1 to 4.4 on Linux 6.18: a thread that wakes up waits for the turn of the one that loads. Alike
//! in one sitting: 9 where that one keeps its priority, 5 where it has the lowest, 3 with short turns as well, 1.6 as
//! SCHED_IDLE, which would hardly ever run on a board that is always busy.

mod client;
mod memory;
mod overhead;
mod server;
mod swap;

/// One measured number.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
}

pub fn figure(name: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { name, value, unit }
}

/// The value below which `share` of the sorted values lie.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    let server = server::Server::start();
    let mut figures = Vec::new();
    if wanted("overhead") {
        figures.extend(overhead::measure(&server));
    }
    if wanted("swap") {
        figures.extend(swap::measure(&server));
    }
    if wanted("memory") {
        figures.extend(memory::measure(&server));
    }
    println!();
    for figure in &figures {
        println!("{:<26} {:>12.3} {}", figure.name, figure.value, figure.unit);
    }
    for Figure { name, value, unit } in figures {
        println!("{}", serde_json::json!({ "figure": name, "value": value, "unit": unit }));
    }
}
