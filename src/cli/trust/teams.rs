//! Teams: who signs for which models beside the operator.

use super::super::publish::{DirArg, NOT_SENT, With, shown};
use super::super::{Align, Table, print};
use super::keys::public;
use super::roots::done;
use crate::publish::{MAX_SUBMISSION, Publication, Repository, Team, TeamState};
use crate::sys::{Disk as _, RealDisk, date};
use anyhow::Context as _;
use std::path::PathBuf;

/// Show who may sign for which models.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  selvedge trust teams")]
pub struct Teams {
    #[command(flatten)]
    dir: DirArg,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Let a team sign models of its own with its own key; given again, it changes keys and models.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust delegate vision --model digits --key 8f1c... --broker mqtt://broker.local
  selvedge trust delegate vision --pattern 'cam-*/*' --key 8f1c... --key 07ab... --threshold 2

The team makes its key with `selvedge trust new-key vision --dir team` and gives you the public half. It needs a copy
of this directory without keys/ beside it, and then publishes with `selvedge publish --as vision --dir team`.
Needs the keys of targets. What a revoked key has signed is offered no more; what runs goes on running.")]
pub struct Delegate {
    /// The team's name: 1 to 32 of a-z, 0-9, '-' and '_'.
    team: String,
    /// A model that it may sign; may be given more than once.
    #[arg(long, value_name = "MODEL", required_unless_present = "pattern")]
    model: Vec<String>,
    /// A pattern MODEL/NAME of what it may sign, with * and ?; may be given more than once.
    #[arg(long, value_name = "PATTERN")]
    pattern: Vec<String>,
    /// The public half of its key; may be given more than once.
    #[arg(long = "key", value_name = "HEX", required = true, value_parser = public)]
    keys: Vec<[u8; 32]>,
    /// How many of its keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: u32,
    /// Let teams that were named later sign the same models too.
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    with: With,
}

/// Take the right to sign back from a team.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  selvedge trust undelegate vision --broker mqtt://broker.local")]
pub struct Undelegate {
    /// The team's name; `selvedge trust teams` shows them.
    team: String,
    #[command(flatten)]
    with: With,
}

/// Take what a team has signed elsewhere, and publish it. Needs the keys of snapshot and timestamp.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  selvedge trust accept digits.tar --broker mqtt://broker.local

Signatures, digests and what was delegated are checked first; a submission changes nothing that others sign.")]
pub struct Accept {
    /// What `selvedge publish --as TEAM --submission` wrote.
    submission: PathBuf,
    #[command(flatten)]
    with: With,
}

pub fn list(args: &Teams) -> anyhow::Result<()> {
    let teams = args.dir.open()?.teams();
    if args.json {
        let teams: Vec<_> = teams.iter().map(json).collect();
        return print(&format!("{:#}\n", serde_json::json!({ "teams": teams })));
    }
    let mut table = Table::new([
        ("team", Align::Left),
        ("may sign", Align::Left),
        ("keys", Align::Left),
        ("version", Align::Right),
        ("until", Align::Left),
        ("offers", Align::Left),
    ]);
    for team in &teams {
        let offers: Vec<String> = team.offers.iter().map(|(model, version)| format!("{model} {version}")).collect();
        let (version, until) = match team.version {
            0 => ("-".to_owned(), "-".to_owned()),
            version if team.is_signed => (version.to_string(), date(team.expires)),
            version => (version.to_string(), "not signed by its keys".to_owned()),
        };
        let keys = format!("{} of {}", team.threshold, team.keys.len());
        table.row([&team.name, &team.patterns.join(", "), &keys, &version, &until, &offers.join(", ")]);
    }
    print(&table.to_string())
}

fn json(team: &TeamState) -> serde_json::Value {
    let offer =
        |(model, version): &(crate::bundle::ModelName, u32)| serde_json::json!({ "model": model, "version": version });
    serde_json::json!({
        "name": team.name,
        "patterns": team.patterns,
        "keys": team.keys,
        "threshold": team.threshold,
        "terminating": team.terminating,
        "version": team.version,
        "expires": team.expires,
        "signed": team.is_signed,
        "offers": team.offers.iter().map(offer).collect::<Vec<_>>(),
    })
}

pub async fn delegate(args: Delegate) -> anyhow::Result<()> {
    let models = args.model.iter().map(|model| format!("{model}/*"));
    let team = Team {
        name: args.team,
        patterns: models.chain(args.pattern).collect(),
        keys: args.keys,
        threshold: args.threshold,
        terminating: !args.shared,
    };
    let mut repository = args.with.dir.open()?;
    let publication = repository.delegate(&team)?;
    let said = format!("{} may sign {}\n", team.name, team.patterns.join(", "));
    send(&args.with, &mut repository, &publication, &said).await
}

pub async fn undelegate(args: &Undelegate) -> anyhow::Result<()> {
    let mut repository = args.with.dir.open()?;
    let publication = repository.undelegate(&args.team)?;
    let said = format!("{} may sign nothing more\n", super::super::plain(&args.team));
    send(&args.with, &mut repository, &publication, &said).await
}

pub async fn accept(args: &Accept) -> anyhow::Result<()> {
    let path = &args.submission;
    let bytes = RealDisk.read(path, MAX_SUBMISSION)?.with_context(|| format!("{} is not there", shown(path)))?;
    let mut repository = args.with.dir.open()?;
    let publication = repository.accept(&bytes)?;
    send(&args.with, &mut repository, &publication, "taken\n").await
}

async fn send(with: &With, repository: &mut Repository, publication: &Publication, said: &str) -> anyhow::Result<()> {
    let sent = with.broker.send(repository, publication).await?;
    if with.json {
        let teams: Vec<_> = repository.teams().iter().map(json).collect();
        return done(repository, sent, &serde_json::json!({ "teams": teams }));
    }
    print(said)?;
    print(if sent { "sent\n" } else { NOT_SENT })
}
