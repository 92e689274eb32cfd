//! What a device pays for Selvedge: `cargo bench --bench device`.
//!
//! Runs the real executable as `engine` and `link` in a temporary directory, with the digits model.
//! Prints progress, a table, and one JSON line a figure. Names given as arguments choose among
//! start, rss and size. Start-up times are of this machine and of a page cache that is warm.

mod client;
mod process;
mod rss;
mod size;
mod start;

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

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    let mut figures = Vec::new();
    if wanted("start") {
        figures.extend(start::measure());
    }
    if wanted("rss") {
        figures.extend(rss::measure());
    }
    if wanted("size") {
        figures.extend(size::measure());
    }
    println!();
    for figure in &figures {
        println!("{:<26} {:>12.3} {}", figure.name, figure.value, figure.unit);
    }
    for Figure { name, value, unit } in figures {
        println!("{}", serde_json::json!({ "figure": name, "value": value, "unit": unit }));
    }
}
