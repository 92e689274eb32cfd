//! `selvedge audit`: what this device decided, and whether its log still holds together.

use super::{Align, ConfigArg, Table, advise, print};
use crate::audit::{self, Chain, ChainError, Decision, Line};
use crate::bundle::Digest;
use crate::privacy::Measure;
use crate::sys::{RealDisk, date};
use anyhow::anyhow;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what this device decided, or verify that the log of it is whole.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge audit show                    the last twenty decisions
  selvedge audit show --last 500 --json  a JSON line a decision, as it stands in the log
  selvedge audit verify                  is every line as it was written, and in its place?
  selvedge audit verify --head HASH      and is the line there that the device told its operator
                                         (audit.sha256 of `selvedge status --json`)?
  selvedge audit verify --dir COPY       the same of a copy of the directory")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the last decisions, newest last.
    Show {
        #[command(flatten)]
        from: From,
        /// How many decisions.
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: usize,
    },
    /// Check every line; exit status 1 and the first line that does not fit where one does not.
    Verify {
        #[command(flatten)]
        from: From,
        /// A digest that the device told once: the line that ends in it has to be there.
        #[arg(long, value_name = "HASH")]
        head: Option<Digest>,
    },
}

#[derive(Debug, clap::Args)]
struct From {
    #[command(flatten)]
    config: ConfigArg,
    /// The log's directory itself, where no configuration is at hand.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Show { from, last } => {
            let lines = read(from, "show")?.lines;
            let lines = &lines[lines.len().saturating_sub(*last)..];
            print(&if from.json { json(lines) } else { text(lines) })?;
        }
        Command::Verify { from, head } => {
            let chain = read(from, "verify")?;
            let found = head.map(|head| chain.find(head)).transpose();
            let hint = "keep the directory as it is: what the device did since then is to be asked elsewhere";
            let found = found.map_err(|error| advise(error, "verify the audit log", hint))?;
            print(&verdict(from, &chain, found))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(from: &From, what: &str) -> anyhow::Result<Chain> {
    let dir = match &from.dir {
        Some(dir) => dir.clone(),
        None => audit::dir(&from.config.load()?.engine.state),
    };
    let what = format!("{what} the audit log {}", dir.display());
    let chain = audit::read(&RealDisk, &dir).map_err(|error| {
        let hint = hint(&error);
        advise(error, &what, hint)
    })?;
    if chain.lines.is_empty() {
        let hint = "the engine writes it at its start: is this the `audit` directory within its `state`?";
        return Err(advise(anyhow!("there is no log"), what, hint));
    }
    Ok(chain)
}

fn hint(error: &ChainError) -> &'static str {
    match error {
        ChainError::Disk(_) => "it belongs to the engine: run this as root or as selvedge",
        ChainError::Broken(_) | ChainError::TooMany { .. } | ChainError::Head { .. } => {
            "keep the directory as it is and compare it with what the device told: `selvedge status --json`, audit"
        }
        ChainError::SetAside(_) => "the engine began a new log then; its first lines say when",
    }
}

fn verdict(from: &From, chain: &Chain, found: Option<u64>) -> String {
    let (Some(head), Some((first, _))) = (chain.head(), chain.lines.first()) else { return String::new() };
    if from.json {
        let said = serde_json::json!({ "whole": true, "first": first.number, "last": head.number,
            "sha256": head.sha256, "head-found-at": found });
        return format!("{said}\n");
    }
    let told = found.map(|number| format!("the line that was told is line {number}\n")).unwrap_or_default();
    format!("whole: lines {} to {}\n{told}head: {}\n", first.number, head.number, head.sha256)
}

fn json(lines: &[(Line, Digest)]) -> String {
    let line = |(line, sha256): &(Line, Digest)| {
        let mut value = serde_json::to_value(line).unwrap_or_default();
        value["sha256"] = serde_json::to_value(sha256).unwrap_or_default();
        format!("{value}\n")
    };
    lines.iter().map(line).collect()
}

fn text(lines: &[(Line, Digest)]) -> String {
    let left = Align::Left;
    let columns = [("line", Align::Right), ("device time", left), ("model", left), ("version", Align::Right)];
    let mut table = Table::new([columns[0], columns[1], columns[2], columns[3], ("decision", left)]);
    for (line, _) in lines {
        let Told { model, version, decision } = told(&line.decision);
        let version = version.map_or("-".into(), |version| version.to_string());
        table.row([line.number.to_string(), date(line.time), model.unwrap_or("-".into()), version, decision]);
    }
    table.to_string()
}

struct Told {
    model: Option<String>,
    version: Option<u32>,
    decision: String,
}

/// A decision in words.
fn told(decision: &Decision) -> Told {
    let plain = |decision: String| Told { model: None, version: None, decision };
    let of = |model: &crate::bundle::ModelName, version: Option<u32>, decision: String| Told {
        model: Some(model.to_string()),
        version,
        decision,
    };
    match decision {
        Decision::File { file, .. } => plain(format!("file {file} begins")),
        Decision::Start { after } => plain(format!("start after {}", name(after))),
        Decision::Damage { part } => plain(format!("damaged: {}", name(part))),
        Decision::Root { from, to } => plain(format!("root {to} is trusted instead of {from}")),
        Decision::Omitted { lines } => plain(format!("{lines} lines of what the network repeats are left out")),
        Decision::Factory { model, version, .. } => of(model, Some(*version), "installed from the factory".into()),
        Decision::Offer { model, version, .. } => of(model, Some(*version), "offer taken".into()),
        Decision::Lifted { model, version, retry, .. } => {
            of(model, Some(*version), format!("may try again, retry {retry}"))
        }
        Decision::Fetched { model, version, .. } => of(model, Some(*version), "fetched".into()),
        Decision::Passed { model, version, stage } => of(model, Some(*version), format!("passed {}", name(stage))),
        Decision::Serves { model, version, instead_of } => {
            let instead = instead_of.map_or_else(String::new, |version| format!(" instead of version {version}"));
            let who = if version.is_some() { "serves" } else { "nothing serves" };
            of(model, *version, who.to_owned() + &instead)
        }
        Decision::Quarantined { model, target, .. } => of(model, None, format!("quarantined: target {target}")),
        Decision::Ended { verdict, model, version, stage, code, expected, actual } => {
            let numbers = match (expected, actual) {
                (Measure::None, Measure::None) => String::new(),
                (expected, actual) => format!(", expected {expected}, actual {actual}"),
            };
            let decision = format!("{} at {}: {}{numbers}", name(verdict), name(stage), code.name());
            Told { model: model.as_ref().map(ToString::to_string), version: *version, decision }
        }
    }
}

fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
