//! `selvedge fleet`: the fleet live, as an operator acts on it: who runs what, who is at it, who refused and why, who lags.
//!
//! It looks and changes nothing. `selvedge status --broker` shows what devices told, as they told it; this holds it against
//! what is offered.

mod show;

use super::broker::BrokerArgs;
use super::publish::DirArg;
use super::rollout::parse_model;
use super::status::{AGAIN, refresh};
use super::{advise, print};
use crate::bundle::ModelName;
use crate::device::stop_signal;
use crate::publish::{Fleet, Listener, Look, Only, look};
use crate::sys::{terminal_rows, unix_now};
use crate::trust::Custom;
use anyhow::bail;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

/// Show the fleet live: versions, progress, refusals with their remedies, what devices wait for, stragglers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge fleet --broker mqtt://broker.local                     in place on a terminal, until Ctrl-C
  selvedge fleet --broker mqtt://broker.local --only failing      those that refused a version or went back from it
  selvedge fleet --broker mqtt://broker.local --only stragglers --model digits --once
  selvedge fleet --broker mqtt://broker.local --json              a line for each device, and again when it changes

A straggler is online and still without a version more than an hour after its wave began. What is offered stands in the
publishing directory; without one there are no stragglers. Devices do not tell their groups: one that runs a model counts
as one of those that the model is offered to. Where a device is not in the group, it is no straggler, and only you know.")]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    dir: DirArg,
    /// Of this model alone.
    #[arg(long, value_name = "MODEL", value_parser = parse_model)]
    model: Option<ModelName>,
    /// Such devices alone.
    #[arg(long, value_name = "WHICH")]
    only: Option<Which>,
    /// How long to listen before the first look; what devices told is retained, and comes at once.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Look once, and show all.
    #[arg(long)]
    once: bool,
    /// JSON, one line a device, instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Whose last word on a model is a refusal or a way back.
    Failing,
    /// Online, and behind for more than an hour.
    Stragglers,
    Offline,
    /// Held back by a pause, a window, load, heat or a battery.
    Waiting,
    /// Fetching, checking, on trial.
    Updating,
}

impl Which {
    fn only(self) -> Only {
        match self {
            Self::Failing => Only::Failing,
            Self::Stragglers => Only::Stragglers,
            Self::Offline => Only::Offline,
            Self::Waiting => Only::Waiting,
            Self::Updating => Only::Updating,
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    tokio::select! {
        shown = live(&args) => shown?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn live(args: &Args) -> anyhow::Result<()> {
    let Some(broker) = args.broker.address()? else { bail!("whose fleet? give --broker mqtt://HOST") };
    let mut listener = Listener::open(&broker, &Fleet::filters()).await.map_err(|error| {
        advise(
            error,
            "show the fleet",
            "is the broker up and its address right? `selvedge status` asks this machine's engine",
        )
    })?;
    listener.listen(Duration::from_secs(args.seconds), |_| false).await;
    let in_place = std::io::stdout().is_terminal() && !args.json;
    let mut told = BTreeMap::new();
    loop {
        let (offered, now) = (offered(args)?, unix_now());
        let looks = chosen(args, look(listener.fleet(), &offered, args.model.as_ref(), now));
        if args.once && !args.json {
            print(&show::page(listener.fleet(), &looks, now, None))?;
        } else if in_place {
            refresh(&show::page(listener.fleet(), &looks, now, Some(terminal_rows().unwrap_or(24))))?;
        } else {
            news(args.json, &looks, now, &mut told)?;
        }
        if args.once {
            listener.close().await;
            return Ok(());
        }
        listener.listen(AGAIN, |_| false).await;
    }
}

/// What the directory offers, where there is one; it may be published from meanwhile.
fn offered(args: &Args) -> anyhow::Result<Vec<Custom>> {
    if !args.dir.dir.join("settings.json").exists() {
        return Ok(Vec::new());
    }
    Ok(crate::publish::offered(&args.dir.dir)?)
}

fn chosen<'a>(args: &Args, looks: Vec<Look<'a>>) -> Vec<Look<'a>> {
    let is_meant = |look: &Look<'_>| args.only.is_none_or(|which| look.is(which.only()));
    looks.into_iter().filter(is_meant).collect()
}

/// Devices of which there is something new to say, a line each.
fn news(json: bool, looks: &[Look<'_>], now: u64, told: &mut BTreeMap<[u8; 16], String>) -> anyhow::Result<()> {
    let mut text = String::new();
    for look in looks {
        let line = if json { show::json(look) } else { show::line(look) };
        if told.get(&look.id) != Some(&line) {
            text += &if json { format!("{line}\n") } else { format!("{}  {line}\n", crate::sys::date(now)) };
            told.insert(look.id, line);
        }
    }
    print(&text)
}
