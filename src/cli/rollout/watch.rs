//! `selvedge rollout watch`: counts failures, and stops a rollout that has too many.

use super::{Of, left_text};
use crate::bundle::ModelName;
use crate::cli::waves::seconds;
use crate::cli::{plain, print};
use crate::config::{self, DeviceId};
use crate::device::stop_signal;
use crate::publish::{
    Fleet, Listener, Passphrase, Repository, RepositoryError, Threshold, Turn, Turned, Votes, until_through,
};
use anyhow::{Context as _, bail};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    of: Of,
    /// Stop it when that share of the devices which it concerns has failed.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    abort_at: u8,
    /// And never for fewer devices than these.
    #[arg(long, value_name = "N", default_value_t = LEAST, value_parser = parse_least)]
    least: usize,
    /// What is done then.
    #[arg(long, value_enum, default_value_t = Then::Abort)]
    then: Then,
    /// Sign and send it; without this it is only said, with exit status 3.
    #[arg(long)]
    publish: bool,
    /// The devices that count, one id a line. Without it those that the broker knows when a version is first watched.
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
    /// Watch for so long, such as 2h; without it until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    time: Option<u64>,
}

impl Args {
    pub fn of(of: Of, abort_at: u8) -> Self {
        Self { of, abort_at, least: LEAST, then: Then::Abort, publish: true, devices: None, time: None }
    }
}

/// Failures that are not chance any more.
const LEAST: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Then {
    /// Nobody begins any more, until it is resumed.
    Pause,
    /// Nobody takes it any more, for good.
    Abort,
    /// The same, and who runs it goes back to the version before.
    Back,
}

impl Then {
    fn turn(self) -> Turn {
        match self {
            Self::Pause => Turn::Pause,
            Self::Abort => Turn::Abort,
            Self::Back => Turn::CallBack,
        }
    }
}

/// What devices told before is retained. All of it has come when none came for so long; a slow line takes its time.
const QUIET: Duration = Duration::from_secs(4);
const FIRST: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_secs(2);
/// The threshold was reached.
const REACHED: u8 = 3;

pub(in crate::cli) fn parse_percent(text: &str) -> Result<u8, String> {
    let percent = text.trim_end_matches('%').parse().ok().filter(|percent| (1..=100).contains(percent));
    percent.ok_or_else(|| "a share is written 10%, from 1% to 100%".to_owned())
}

fn parse_least(text: &str) -> Result<usize, String> {
    let least = text.parse().ok().filter(|&least| least >= Threshold::LEAST);
    least.ok_or_else(|| format!("at least {}: one device alone must not stop the others' updates", Threshold::LEAST))
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let unsent = AtomicBool::new(false);
    tokio::select! {
        code = watch(args, &unsent) => code,
        () = stop => match unsent.load(Ordering::Relaxed) {
            true => bail!("stopped, and what was signed is not sent; `selvedge refresh` sends it"),
            false => Ok(ExitCode::SUCCESS),
        },
    }
}

async fn watch(args: Args, unsent: &AtomicBool) -> anyhow::Result<ExitCode> {
    let Some(broker) = args.of.with.broker.address()? else { bail!("whose devices shall be watched? give --broker") };
    let passphrase = args.of.with.dir.passphrase();
    let dir = &args.of.with.dir.dir;
    let model = &args.of.model;
    let version = begin(&args, dir, &passphrase)?;
    let mut listener = settled(&broker, args.devices.is_none()).await?;
    let known = known(&args, dir, &passphrase, (model, version), listener.fleet())?;
    tell(&args, &format!("{} known devices count, {} are heard of now\n", known.len(), listener.fleet().rows().len()))?;
    let threshold = Threshold { percent: args.abort_at, least: args.least };
    let until = args.time.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (mut said, mut is_away) = (None, false);
    loop {
        say_session(&args, listener.lost(), &mut is_away)?;
        let votes = Votes::of(listener.fleet(), &known, model, version);
        if said.as_ref() != Some(&votes) {
            say(&args, version, &votes)?;
        }
        if threshold.is_reached(&votes) {
            listener.close().await;
            return reached(&args, version, &votes, &passphrase, unsent).await;
        }
        said = Some(votes);
        if until.is_some_and(|until| Instant::now() >= until) {
            listener.close().await;
            return Ok(ExitCode::SUCCESS);
        }
        listener.listen(AGAIN, |_| false).await;
    }
}

/// A session that has heard what stands on the board; all of it, where it decides who counts.
async fn settled(broker: &config::Broker, is_all_needed: bool) -> anyhow::Result<Listener> {
    let mut listener = Listener::open(broker, &Fleet::filters()).await?;
    if !listener.settle(QUIET, FIRST).await && is_all_needed {
        let known = listener.fleet().rows().len();
        let lost = listener.lost().map(plain);
        listener.close().await;
        if let Some(why) = lost {
            bail!("the broker is away, and {known} devices had told of themselves: {why}; try again when it is back");
        }
        bail!("devices still came after {} s, {known} so far: name those that count with --devices", FIRST.as_secs());
    }
    Ok(listener)
}

/// The devices that the broker knows now: before anything new is sent to them.
pub(in crate::cli) async fn known_now(broker: &config::Broker) -> anyhow::Result<BTreeSet<[u8; 16]>> {
    let listener = settled(broker, true).await?;
    let ids = listener.fleet().rows().keys().copied().collect();
    listener.close().await;
    Ok(ids)
}

/// They are those that count, unless the version was watched before.
pub(in crate::cli) fn keep_known(
    repository: &Repository,
    (model, version): (&ModelName, u32),
    ids: &BTreeSet<[u8; 16]>,
) -> anyhow::Result<()> {
    // Nobody known is no fleet to be counted: the watch says so.
    if !ids.is_empty() && repository.known_devices(model, version)?.is_none() {
        repository.keep_known_devices(model, version, ids)?;
    }
    Ok(())
}

/// The version, and that it could be stopped: the passphrase is asked for now, not at night.
fn begin(args: &Args, dir: &Path, passphrase: &Passphrase) -> anyhow::Result<u32> {
    let repository = Repository::open_with(dir, passphrase)?;
    let (model, turn) = (&args.of.model, args.then.turn());
    let newest = repository.rollouts(model).first().map(|rollout| rollout.custom.version);
    let version = args.of.version.or(newest);
    let version = version.with_context(|| format!("nothing of {model} is offered; publish it first"))?;
    if args.publish {
        for left in repository.check_turn(model, version, turn)? {
            tell(args, &format!("would not be {turn}: {}", left_text(&left)))?;
        }
    }
    Ok(version)
}

fn known(
    args: &Args,
    dir: &Path,
    passphrase: &Passphrase,
    (model, version): (&ModelName, u32),
    fleet: &Fleet,
) -> anyhow::Result<BTreeSet<[u8; 16]>> {
    if let Some(path) = &args.devices {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let ids = lines.map(|line| line.parse::<DeviceId>().map(|id| id.0)).collect::<Result<BTreeSet<_>, _>>();
        return ids.with_context(|| format!("{}: one device id a line", path.display()));
    }
    let repository = Repository::open_with(dir, passphrase)?;
    if let Some(known) = repository.known_devices(model, version)? {
        return Ok(known);
    }
    let ids: BTreeSet<[u8; 16]> = fleet.rows().keys().copied().collect();
    if ids.is_empty() {
        bail!("no device has told the broker anything: whose failures should be counted? name them with --devices");
    }
    keep_known(&repository, (model, version), &ids)?;
    Ok(ids)
}

/// A word beside the counts: among lines of JSON, where those go on.
fn tell(args: &Args, text: &str) -> anyhow::Result<()> {
    if args.of.with.json { print(&format!("{}\n", json!({ "note": text.trim_end() }))) } else { print(text) }
}

/// Nothing is counted without a session, and who watches must know that.
fn say_session(args: &Args, lost: Option<&str>, is_away: &mut bool) -> anyhow::Result<()> {
    let text = match (lost, *is_away) {
        (Some(why), false) => format!("the broker is away, and nothing is heard until it is back: {}\n", plain(why)),
        (None, true) => "the broker is back\n".to_owned(),
        (Some(_), true) | (None, false) => return Ok(()),
    };
    *is_away = lost.is_some();
    tell(args, &text)
}

fn sentence(votes: &Votes) -> String {
    let Votes { concerned, failed, reasons, strangers } = votes;
    let reasons: Vec<String> = reasons.iter().map(|(code, n)| format!("{code} {n}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let strangers = match strangers {
        0 => String::new(),
        n => format!("; {n} that nobody knew before do not count"),
    };
    format!("{failed} of {concerned} devices failed{reasons}{strangers}")
}

fn say(args: &Args, version: u32, votes: &Votes) -> anyhow::Result<()> {
    let model = &args.of.model;
    if args.of.with.json {
        let Votes { concerned, failed, reasons, strangers } = votes;
        let line = json!({ "model": model, "version": version, "concerned": concerned, "failed": failed,
            "reasons": reasons, "strangers": strangers });
        return print(&format!("{line}\n"));
    }
    print(&format!("{model} version {version}: {}\n", sentence(votes)))
}

async fn reached(
    args: &Args,
    version: u32,
    votes: &Votes,
    passphrase: &Passphrase,
    unsent: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let (model, turn) = (&args.of.model, args.then.turn());
    let why = format!("{}, the limit is {} % and {}", sentence(votes), args.abort_at, args.least);
    if !args.publish {
        print(&format!("{model} version {version} is to be {turn}: {why}\n"))?;
        return Ok(ExitCode::from(REACHED));
    }
    let turned = open_patiently(&args.of.with.dir.dir, passphrase).await?.turn(model, Some(version), turn);
    let left = match turned {
        Ok(Turned { left, .. }) => left,
        Err(RepositoryError::NothingToHold { .. }) => {
            print(&format!("{model} version {version} is stopped already: {why}\n"))?;
            return Ok(ExitCode::from(REACHED));
        }
        Err(error) => return Err(error.into()),
    };
    unsent.store(true, Ordering::Relaxed);
    // Not even a terminal that is gone keeps it from the boards.
    let not_yet =
        |why: &str| drop(tell(args, &format!("signed and not sent yet, it is tried again: {}\n", plain(why))));
    until_through(AGAIN, async || send(args, passphrase).await, not_yet).await;
    unsent.store(false, Ordering::Relaxed);
    print(&format!("{model} version {version} is {turn}: {why}\n"))?;
    for left in &left {
        tell(args, &format!("not {turn}: {}", left_text(left)))?;
    }
    Ok(ExitCode::from(REACHED))
}

/// The newest that is signed: another command may have gone on since. Between attempts the directory is free for it.
async fn send(args: &Args, passphrase: &Passphrase) -> anyhow::Result<()> {
    let mut repository = open_patiently(&args.of.with.dir.dir, passphrase).await?;
    let publication = repository.outstanding()?;
    args.of.with.broker.send(&mut repository, &publication).await.map(drop)
}

/// Another command may be at work in the directory, and send much.
async fn open_patiently(dir: &Path, passphrase: &Passphrase) -> anyhow::Result<Repository> {
    loop {
        match Repository::open_with(dir, passphrase) {
            Err(RepositoryError::Locked(_)) => tokio::time::sleep(AGAIN).await,
            opened => return Ok(opened?),
        }
    }
}
