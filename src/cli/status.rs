//! `selvedge status`: how this device fares, or with `--broker` how all do.
//!
//! It looks and changes nothing. The device's view asks the engine over the socket of the local API;
//! the fleet's view reads what the devices said of themselves last, from the broker.

mod ask;
mod device;
#[cfg(feature = "operator")]
mod fleet;
mod remedy;

#[cfg(feature = "operator")]
pub(super) use device::{name, number, span};
#[cfg(feature = "operator")]
pub(super) use fleet::few;
#[cfg(feature = "operator")]
pub(super) use remedy::{remedy, wait_remedy};

use super::{Align, ConfigArg, Table, advise, print};
use crate::config::ConfigError;
use crate::device::stop_signal;
use crate::privacy::Status;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Show models, outcomes of updates and the board's health: of this device, or of all through the broker.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge status                                        this device
  selvedge status --socket /run/selvedge/api.sock --json
  selvedge status --broker mqtt://broker.local           all devices, as they told last
  selvedge status --broker mqtt://broker.local --group-by version
  selvedge status --broker mqtt://broker.local --device 00112233445566778899aabbccddeeff

Exit status: 0 shown, 1 nobody answered. What a refusal means is in docs/outcomes.md.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The engine's socket itself, where no configuration is at hand.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    #[cfg(feature = "operator")]
    #[command(flatten)]
    fleet: fleet::Args,
    /// JSON instead of tables; of a fleet one line a device.
    #[arg(long)]
    json: bool,
    /// Show it anew every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// Between two looks of `--watch`.
pub(super) const AGAIN: Duration = Duration::from_secs(2);

pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let show = async {
        #[cfg(feature = "operator")]
        if let Some(broker) = args.fleet.broker()? {
            return fleet::run(&args.fleet, &broker, args.json, args.watch).await;
        }
        this_device(args).await
    };
    tokio::select! {
        shown = show => shown?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn this_device(args: &Args) -> anyhow::Result<()> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => engine_socket(&args.config)?,
    };
    let look = async || {
        let status = ask::status(&socket).await?;
        Ok(if args.json { json(&status)? } else { device::text(&status) })
    };
    print(&look().await?)?;
    if !args.watch {
        return Ok(());
    }
    loop {
        tokio::time::sleep(AGAIN).await;
        // An engine that restarts is worth watching.
        let text = look().await.unwrap_or_else(|error: anyhow::Error| super::told(&error));
        refresh(&text)?;
    }
}

fn engine_socket(config: &ConfigArg) -> anyhow::Result<PathBuf> {
    match config.load() {
        Ok(config) => Ok(config.engine.socket),
        Err(error) => Err(match error.downcast_ref::<ConfigError>() {
            Some(ConfigError::Absent { .. }) => advise(
                error,
                "find the engine",
                "name its socket with --socket, its configuration with --config, or a broker with --broker",
            ),
            _ => error,
        }),
    }
}

fn json(status: &Status) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(status)? + "\n")
}

/// Over what stood there on a terminal; below it in a file.
pub(super) fn refresh(text: &str) -> anyhow::Result<()> {
    const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";
    let before = if std::io::stdout().is_terminal() { HOME_AND_CLEAR } else { "" };
    print(&format!("{before}{text}"))
}
