//! `selvedge ledger`: every packet that left this device.

use super::{Align, ConfigArg, Table, advise, bytes, plain, print};
use crate::privacy::{Entry, Kind, Ledger, LedgerError, totals};
use crate::sys::{RealDisk, date};
use anyhow::anyhow;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what left this device: packets and bytes by kind, and the last packets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge ledger                     totals by kind and the last ten packets
  selvedge ledger --by-kind           totals alone
  selvedge ledger --last 100 --json   a JSON line a packet, for other programs")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The ledger itself, where no configuration is at hand.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// JSON: one line a packet, or one object of totals with --by-kind.
    #[arg(long)]
    json: bool,
    /// Only the totals.
    #[arg(long, conflicts_with = "last")]
    by_kind: bool,
    /// How many packets to show, newest last.
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = match &args.file {
        Some(file) => file.clone(),
        None => args.config.load()?.link.ledger(),
    };
    let what = format!("show the ledger {}", path.display());
    let read = Ledger::read(&RealDisk, &path);
    let entries = read.map_err(|e| {
        let hint = hint(&e);
        advise(e, &what, hint)
    })?;
    if entries.is_empty() {
        let hint =
            "the link writes it with its first packet: is selvedge-link running, and is this its `state` directory?";
        return Err(advise(anyhow!("nothing has left this device yet, or this is not its ledger"), what, hint));
    }
    print(&if args.json { json(args, &entries) } else { text(args, &entries) })?;
    Ok(ExitCode::SUCCESS)
}

fn hint(error: &LedgerError) -> &'static str {
    match error {
        LedgerError::Disk(_) => "it belongs to the link: run this as root or as selvedge-link",
    }
}

fn last<'a>(args: &Args, entries: &'a [Entry]) -> &'a [Entry] {
    &entries[entries.len().saturating_sub(args.last)..]
}

fn json(args: &Args, entries: &[Entry]) -> String {
    if args.by_kind {
        let by_kind = totals(entries).into_iter().map(|(kind, (packets, bytes))| {
            let name = kind_name(kind);
            (name, serde_json::json!({ "packets": packets, "bytes": bytes }))
        });
        return format!("{}\n", serde_json::Value::Object(by_kind.collect()));
    }
    let line = |entry: &Entry| serde_json::to_string(entry).unwrap_or_default() + "\n";
    last(args, entries).iter().map(line).collect()
}

fn text(args: &Args, entries: &[Entry]) -> String {
    let mut table = Table::new([("kind", Align::Left), ("packets", Align::Right), ("bytes", Align::Right)]);
    let (mut packets, mut sum) = (0, 0);
    for (kind, total) in totals(entries) {
        table.row([kind_name(kind), total.0.to_string(), total.1.to_string()]);
        packets += total.0;
        sum += total.1;
    }
    table.row(["all".to_owned(), packets.to_string(), sum.to_string()]);
    let mut out = table.to_string();
    let (first, end) = (entries.first().map_or(0, |e| e.time), entries.last().map_or(0, |e| e.time));
    // Writing to a string does not fail.
    let _ = writeln!(out, "\n{} from {} to {}", bytes(sum), date(first), date(end));
    if !args.by_kind && args.last > 0 {
        let mut table =
            Table::new([("time", Align::Left), ("kind", Align::Left), ("bytes", Align::Right), ("topic", Align::Left)]);
        for entry in last(args, entries) {
            table.row([date(entry.time), kind_name(entry.kind), entry.bytes.to_string(), plain(&entry.topic)]);
        }
        let _ = write!(out, "\n{table}");
    }
    out
}

/// As in the ledger's lines.
fn kind_name(kind: Kind) -> String {
    let value = serde_json::to_value(kind).ok();
    value.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}
