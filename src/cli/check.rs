//! `selvedge check`: is this configuration right, and is this machine ready for it?
//!
//! It looks and changes nothing; the broker is not called.

mod findings;
mod tls;

use super::{Align, ConfigArg, Table, print};
use crate::config::{Config, DeviceId};
use crate::sys::RealDisk;
use findings::{Finding, Level};
use std::path::Path;
use std::process::ExitCode;

/// Check the configuration and what it needs on this machine: directories, modes, root of trust, sockets, certificates, device id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge check                                    the installed configuration
  selvedge check --config ./selvedge.toml --json    another one, for other programs

Exit status: 0 nothing stands in the way, 1 something does. Warnings alone are 0.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (id, findings) = look(&args.config.config);
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    print(&if args.json { json(id, &findings, failed) } else { text(id, &findings, failed) })?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn look(path: &Path) -> (Option<DeviceId>, Vec<Finding>) {
    match Config::load(&RealDisk, path) {
        Ok(config) => {
            let id = config.device.id.map_or_else(|| DeviceId::from_machine_id(&RealDisk), Ok);
            let mut all = vec![Finding::ok("configuration", path.display().to_string())];
            all.extend(findings::all(&config, &id));
            (id.ok(), all)
        }
        Err(error) => {
            let causes = anyhow::Error::from(error);
            (None, vec![Finding::error("configuration", format!("{causes:#}"), "correct it, then check again")])
        }
    }
}

fn text(id: Option<DeviceId>, findings: &[Finding], failed: bool) -> String {
    let mut out = String::new();
    if let Some(id) = id {
        out += &format!("device {id}\n\n");
    }
    let mut table = Table::new([("", Align::Left), ("what", Align::Left), ("found", Align::Left)]);
    let (mut whole, mut remedies) = (String::new(), Table::new([("to do", Align::Left), ("", Align::Left)]));
    for finding in findings {
        // What has several lines stands below the table, whole.
        let (first, rest) = finding.found.split_once('\n').unwrap_or((&finding.found, ""));
        table.row([finding.level.name(), finding.what, first]);
        if !rest.is_empty() {
            whole += &format!("\n{rest}\n");
        }
        if let Some(remedy) = &finding.remedy {
            remedies.row([finding.what, remedy]);
        }
    }
    let remedies = if remedies.is_empty() { String::new() } else { format!("\n{remedies}") };
    let verdict = if failed { "not ready" } else { "ready" };
    format!("{out}{table}{whole}{remedies}\n{verdict}\n")
}

fn json(id: Option<DeviceId>, findings: &[Finding], failed: bool) -> String {
    let value = serde_json::json!({
        "device": id.map(|id| id.to_string()),
        "ready": !failed,
        "findings": findings,
    });
    format!("{value:#}\n")
}
