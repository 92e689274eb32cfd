//! `selvedge demo`: the whole story on this machine.

use super::{Align, Table, bytes, print};
use crate::demo::{self, Options, Report};
use crate::privacy::Code;
use std::path::PathBuf;
use std::process::ExitCode;

/// Tells the whole story on this machine, in less than a minute: a device serves, its camera is
/// bumped, an update mends it while requests keep coming, bad offers are refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge demo
  selvedge demo --keep /tmp/story    look at keys, state, ledger and logs afterwards

Everything is local: broker, device and operator run here, on loopback and Unix sockets.
Exit status: 0 when every demand in the last table held, else 1.")]
pub struct Args {
    /// Keep all files in this new directory.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Requests a second.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=2000))]
    rate: u32,
    /// JSON instead of tables, and no live display.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = Options { keep: args.keep.clone(), rate: args.rate, live: !args.json };
    let stopped = crate::device::stop_signal()?;
    let report = tokio::select! {
        report = demo::run(&options) => report?,
        () = stopped => anyhow::bail!("stopped before the end; nothing is left behind"),
    };
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&tables(&report))?;
    }
    if let Some(dir) = &args.keep {
        eprintln!("kept in {}", dir.display());
    }
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tables(report: &Report) -> String {
    let update = format!(
        "update: {} fetched, first answer of the new version {:.0} ms after its publication\n",
        bytes(report.update_bytes),
        report.publication_to_answer_ms
    );
    [requests(report), update, refusals(report), egress(report), demands(report)].join("\n")
}

fn requests(report: &Report) -> String {
    let right = Align::Right;
    let mut table = Table::new([
        ("act", Align::Left),
        ("sent", right),
        ("answered", right),
        ("failed", right),
        ("p50 ms", right),
        ("p99 ms", right),
        ("accuracy", right),
        ("by version", Align::Left),
    ]);
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
    for act in &report.acts {
        let versions: Vec<String> = act.versions.iter().map(u32::to_string).collect();
        table.row([
            act.name.to_owned(),
            act.sent.to_string(),
            act.answered.to_string(),
            act.failed.to_string(),
            number(act.p50_ms),
            number(act.p99_ms),
            act.accuracy.map_or("-".to_owned(), |a| format!("{:.1} %", a * 100.0)),
            versions.join(", "),
        ]);
    }
    table.to_string()
}

fn refusals(report: &Report) -> String {
    let left = Align::Left;
    let mut table = Table::new([
        ("bad offer", left),
        ("refused for", left),
        ("expected", left),
        ("actual", left),
        ("serves on", left),
    ]);
    for refusal in &report.refusals {
        table.row([
            refusal.offer.to_owned(),
            refusal.code.map_or("-".to_owned(), Code::name),
            refusal.expected.clone(),
            refusal.actual.clone(),
            refusal.serves.map_or("-".to_owned(), |version| format!("version {version}")),
        ]);
    }
    table.to_string()
}

fn egress(report: &Report) -> String {
    let mut table = Table::new([("left the device", Align::Left), ("packets", Align::Right), ("bytes", Align::Right)]);
    for line in &report.egress {
        let kind = serde_json::to_value(line.kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        table.row([kind, line.packets.to_string(), line.bytes.to_string()]);
    }
    let total = |of: fn(&crate::demo::Egress) -> u64| report.egress.iter().map(of).sum::<u64>().to_string();
    table.row(["all".to_owned(), total(|line| line.packets), total(|line| line.bytes)]);
    table.to_string()
}

fn demands(report: &Report) -> String {
    let mut table = Table::new([("", Align::Left), ("demand", Align::Left), ("seen", Align::Left)]);
    for demand in &report.demands {
        table.row([if demand.held { "ok" } else { "NO" }, demand.what, &demand.seen]);
    }
    table.to_string()
}
