//! `selvedge rollout`: what is under way, looked at, stopped, let go on, taken back.

mod watch;

pub(super) use watch::{keep_known, known_now, parse_percent};

use super::needs::needs_text;
use super::publish::{NOT_SENT, With};
use super::waves::waves_text;
use super::{Align, Table, print};
use crate::bundle::ModelName;
use crate::publish::{Left, Rollout, Turn, Turned};
use crate::sys::unix_now;
use crate::trust::{Custom, Hold};
use clap::Subcommand;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Look at a rollout, pause it, let it go on, or take it back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge rollout show digits
  selvedge rollout pause digits --broker mqtt://broker.local
  selvedge rollout resume digits --broker mqtt://broker.local
  selvedge rollout abort digits --broker mqtt://broker.local
  selvedge rollout abort digits --version 6 --back --broker mqtt://broker.local
  selvedge rollout watch digits --abort-at 10% --least 3 --publish --broker mqtt://broker.local

A board that is switched off hears of it when it is back. What a board runs it runs on, but for `abort --back`, which sends
it to the version that it ran before; one that has none stays. An aborted version is over: publish a corrected one, or
publish it again.

What teams offer of the same version is stopped as well where their keys are at hand. What cannot be signed here stands as it
was and is named; the exit status is 1 then.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is offered of a model: to whom, in which waves, and what is stopped.
    Show(Of),
    /// Let no board begin; one that is fetching stops, and keeps what it has.
    Pause(Of),
    /// Let a paused rollout go on.
    Resume(Of),
    /// Let nobody take it any more; a board that has it at a gate drops it.
    Abort {
        #[command(flatten)]
        of: Of,
        /// Send boards that run it back to the version before.
        #[arg(long)]
        back: bool,
    },
    /// Count the devices that refuse a version or go back from it, and stop the rollout when they are too many.
    #[command(
        after_help = "One device has one vote, by what it says itself; the broker's access list sees to it that none speaks for
another. Devices that were not known when the version was first watched (known/ in the publishing directory) or that
--devices does not list have none: who makes up ids stops nothing.

Exit status: 0 watched to the end, 1 failed, 3 the threshold was reached."
    )]
    Watch(watch::Args),
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The model's name, as in its manifest.
    #[arg(value_name = "MODEL", value_parser = parse_model)]
    model: ModelName,
    /// The version; without it, that of the newest publication.
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    #[command(flatten)]
    with: With,
}

pub(super) fn parse_model(name: &str) -> Result<ModelName, String> {
    ModelName::new(name).map_err(|error| error.to_string())
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Show(of) => show(&of).map(|()| ExitCode::SUCCESS),
        Command::Pause(of) => turn(of, Turn::Pause).await,
        Command::Resume(of) => turn(of, Turn::Resume).await,
        Command::Abort { of, back: false } => turn(of, Turn::Abort).await,
        Command::Abort { of, back: true } => turn(of, Turn::CallBack).await,
        Command::Watch(args) => watch::run(args).await,
    }
}

/// Until Ctrl-C, and aborts it at that share of failures.
pub(super) async fn watch_publication(
    (model, version): (ModelName, u32),
    with: With,
    percent: u8,
) -> anyhow::Result<ExitCode> {
    watch::run(watch::Args::of(Of { model, version: Some(version), with }, percent)).await
}

fn show(of: &Of) -> anyhow::Result<()> {
    let is_meant = |rollout: &Rollout| of.version.is_none_or(|version| rollout.custom.version == version);
    let rollouts: Vec<Rollout> = of.with.dir.open()?.rollouts(&of.model).into_iter().filter(is_meant).collect();
    if of.with.json {
        let values: Vec<Value> = rollouts.iter().map(value).collect();
        return print(&format!("{:#}\n", Value::from(values)));
    }
    if rollouts.is_empty() {
        return print(&format!("nothing of {} is offered\n", of.model));
    }
    print(&table(&rollouts, unix_now()).to_string())
}

async fn turn(of: Of, turn: Turn) -> anyhow::Result<ExitCode> {
    let mut repository = of.with.dir.open()?;
    let Turned { changed, left, publication } = repository.turn(&of.model, of.version, turn)?;
    let sent = of.with.broker.send(&mut repository, &publication).await?;
    let code = if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if of.with.json {
        let values: Vec<Value> = changed.iter().map(value).collect();
        let left: Vec<Value> =
            left.iter().map(|left| json!({ "team": left.team, "why": left.why.to_string() })).collect();
        print(&format!("{:#}\n", json!({ "rollouts": values, "left": left, "sent": sent })))?;
        return Ok(code);
    }
    let version = changed.first().map_or(0, |rollout| rollout.custom.version);
    print(&format!("{} version {version} is {turn}\n{}", of.model, table(&changed, unix_now())))?;
    for left in &left {
        print(&format!("not {turn}: {}", left_text(left)))?;
    }
    print(if sent { "sent\n" } else { NOT_SENT })?;
    Ok(code)
}

/// Whose offer stands as it was, why, and what to do.
fn left_text(left: &Left) -> String {
    let Left { team, why } = left;
    match team {
        Some(team) => format!(
            "what {team} signs of it: {}; have them do it, or end their offers with `selvedge trust undelegate {team}`\n",
            super::plain(&why.to_string())
        ),
        None => format!("what the operator signs of it: {}\n", super::plain(&why.to_string())),
    }
}

pub(super) fn table(rollouts: &[Rollout], now: u64) -> Table {
    let (left, right) = (Align::Left, Align::Right);
    let mut table =
        Table::new([("version", right), ("state", left), ("for", left), ("waves", left), ("signed by", left)]);
    for Rollout { team, custom } in rollouts {
        let waves = waves_text(&custom.waves, now).unwrap_or_else(|| "all at once".into());
        let state = state(custom).to_owned() + if custom.urgent { ", urgent" } else { "" };
        let team = team.as_deref().unwrap_or("the operator");
        table.row([&custom.version.to_string(), &state, &audience(custom), &waves, team]);
    }
    table
}

pub(super) fn state(custom: &Custom) -> &'static str {
    match custom.hold {
        None => "open",
        Some(Hold::Paused) => "paused",
        Some(Hold::Withdrawn) => "aborted",
        Some(Hold::Recalled) => "called back",
    }
}

fn audience(custom: &Custom) -> String {
    let devices = custom.audience.devices.as_ref().map(|devices| devices.ids.len());
    let devices = devices.map(|n| if n == 1 { "1 device".to_owned() } else { format!("{n} devices") });
    let whom: Vec<String> = custom.audience.groups.iter().cloned().chain(devices).collect();
    let share = match custom.audience.percent {
        100 => String::new(),
        percent => format!("{percent} % of "),
    };
    let needs = needs_text(&custom.needs).map_or_else(String::new, |needs| format!(", with {needs}"));
    format!("{share}{}{needs}", whom.join(", "))
}

fn value(rollout: &Rollout) -> Value {
    let Rollout { team, custom } = rollout;
    json!({
        "model": custom.model,
        "version": custom.version,
        "state": state(custom),
        "urgent": custom.urgent,
        "groups": custom.audience.groups,
        "devices": custom.audience.devices.as_ref().map_or(0, |devices| devices.ids.len()),
        "percent": custom.audience.percent,
        "needs": custom.needs,
        "waves": custom.waves,
        "team": team,
    })
}
