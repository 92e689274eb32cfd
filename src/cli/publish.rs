//! `selvedge publish`: a model to those who are to run it.

use super::broker::BrokerArgs;
use super::needs::{NeedsArgs, needs_text};
use super::rollout::{keep_known, known_now, parse_percent, watch_publication};
use super::waves::{Plan, waves_text};
use super::{Align, Table, bytes, print};
use crate::bundle::Bundle;
use crate::config;
use crate::publish::{Audience, Fleet, Listener, Passphrase, Publication, PublishOptions, Reach, Release, Repository};
use crate::store::read_model_dir;
use crate::sys::{Disk as _, RealClock, RealDisk, is_throttled, unix_now};
use crate::trust::Custom;
use crate::update::{self, Board};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Sign a model and put it on the board, for a group, single devices, or a share of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge publish models/digits --to shop --broker mqtt://broker.local
  selvedge publish models/digits --to shop --percent 10 --broker mqtt://broker.local
  selvedge publish models/digits --to shop --waves '5%, 25% after 2h, 100% after 1d' --broker mqtt://broker.local
  selvedge publish models/digits --to shop --board 'Raspberry Pi 4*' --min-memory 900 --broker mqtt://broker.local
  selvedge publish models/digits --to shop --from-versions 3..5 --dry-run --broker mqtt://broker.local
  selvedge publish models/digits-old --to shop --allow-downgrade --broker mqtt://broker.local
  selvedge publish models/digits --to shop --as vision --dir team --submission digits.tar
  selvedge publish --repair --broker mqtt://broker.local    put back what the board has lost

Publishing again with a higher --percent widens a rollout; no device that has the version loses it. What a board must be
(--board, --min-memory and the like) is signed, and each board holds it against itself before it fetches anything; one that
is not meant takes the next lower version that is. Offers with and without such conditions stand beside each other.
Without --broker the directory is brought up to date and the next command with --broker sends it.")]
pub struct Args {
    /// The model's directory: manifest.toml, model.onnx, golden.safetensors and its label files.
    #[arg(value_name = "MODEL_DIR", required_unless_present = "repair")]
    model: Option<PathBuf>,
    /// Publish nothing new: look at what the board shows, and put back exactly what is missing or not as it was signed.
    #[arg(long, conflicts_with_all = ["model", "to", "device", "percent", "allow_downgrade", "no_check", "retry", "deltas", "team", "waves", "dry_run", "watch", "urgent"], requires = "broker")]
    repair: bool,
    /// A group whose devices shall run it; may be given more than once.
    #[arg(long = "to", value_name = "GROUP", required_unless_present_any = ["device", "repair"], value_parser = config::group_name)]
    to: Vec<String>,
    /// A device that shall run it, by its 32-digit id; may be given more than once. Ids are published salted only.
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    device: Vec<[u8; 16]>,
    /// The share of those that gets it.
    #[arg(long, value_name = "0-100", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
    /// The share by time: such as '5%, 25% after 2h, 100% after 1d', or '100% at 2026-12-01T06:00:00Z'. A board goes by the
    /// time that it knows for certain, so that a wave may come late on one, and never early.
    #[arg(long, value_name = "WAVES", conflicts_with = "percent")]
    waves: Option<Plan>,
    /// Boards shall not wait for their maintenance windows, nor for a quiet moment; for heat and battery they do.
    #[arg(long)]
    urgent: bool,
    /// This version shall replace newer ones.
    #[arg(long)]
    allow_downgrade: bool,
    /// Do not try the model here first: for budgets that only the boards can meet.
    #[arg(long)]
    no_check: bool,
    /// Let boards on which this version failed try it again.
    #[arg(long)]
    retry: bool,
    /// From how many of the versions that are offered now there shall be deltas; 0 for none, 8 at most.
    #[arg(long, value_name = "N", default_value_t = PublishOptions::DELTAS, value_parser = parse_deltas)]
    deltas: usize,
    /// Sign and send nothing: say how many of the devices that told the broker of themselves it is for.
    #[arg(long, requires = "broker", conflicts_with_all = ["submission", "json"])]
    dry_run: bool,
    /// Then watch it until Ctrl-C, and abort it when so many percent of the devices that it concerns, and three at least,
    /// have failed; `selvedge rollout watch` has more to choose from.
    #[arg(long, value_name = "PERCENT", requires = "broker", value_parser = parse_percent)]
    #[arg(conflicts_with_all = ["submission", "dry_run"])]
    watch: Option<u8>,
    #[command(flatten)]
    needs: NeedsArgs,
    /// Sign as this team, with its own key; see `selvedge trust delegate`.
    #[arg(long = "as", value_name = "TEAM")]
    team: Option<String>,
    /// Write what is to be published to a file, for `selvedge trust accept` where the other keys are.
    #[arg(long, value_name = "FILE", requires = "team", conflicts_with_all = ["broker", "json"])]
    submission: Option<PathBuf>,
    #[command(flatten)]
    with: With,
}

/// What every command needs that changes what the board shows.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct With {
    #[command(flatten)]
    pub dir: DirArg,
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// JSON instead of a table or text.
    #[arg(long)]
    pub json: bool,
}

/// Where the operator's keys and metadata are.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DirArg {
    /// The publishing directory that `selvedge trust init` made.
    #[arg(long, value_name = "DIR", default_value = "repo")]
    pub dir: PathBuf,
    /// A file whose first line is the passphrase of keys that have one; else it is asked for.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl DirArg {
    pub fn open(&self) -> anyhow::Result<Repository> {
        Ok(Repository::open_with(&self.dir, &self.passphrase())?)
    }

    pub fn passphrase(&self) -> Passphrase {
        Passphrase::new(self.passphrase_file.clone())
    }
}

impl Args {
    /// Of a model's directory, for groups.
    #[cfg(feature = "compress")]
    pub(super) fn of_dir(model: PathBuf, to: Vec<String>, with: With) -> Self {
        let (device, percent) = (Vec::new(), 100);
        let (team, submission, deltas) = (None, None, PublishOptions::DELTAS);
        Self {
            model: Some(model),
            repair: false,
            to,
            device,
            percent,
            waves: None,
            urgent: false,
            allow_downgrade: false,
            no_check: false,
            retry: false,
            deltas,
            dry_run: false,
            watch: None,
            needs: NeedsArgs::default(),
            team,
            submission,
            with,
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let Some(model) = &args.model else { return super::repair::run(&args.with).await };
    let (bundle, left_out) = read_model_dir(model)?;
    if !args.no_check {
        check(&bundle).await?;
    }
    let needs = args.needs.needs();
    let waves = args.waves.as_ref().map(|plan| plan.from(unix_now())).transpose()?.unwrap_or_default();
    let audience = Audience { groups: args.to, devices: args.device, percent: args.percent, needs, waves };
    if let Some(broker) = args.with.broker.address()?.filter(|_| args.dry_run) {
        return preview(&bundle, &audience, &broker).await;
    }
    let known = known_before(args.watch, &args.with.broker).await?;
    let mut repository = args.with.dir.open()?;
    let (allow_downgrade, retry, deltas, urgent) = (args.allow_downgrade, args.retry, args.deltas, args.urgent);
    let options = PublishOptions { allow_downgrade, retry, deltas, urgent };
    if let (Some(team), Some(path)) = (&args.team, &args.submission) {
        let (bytes, release) = repository.submit_as(team, &bundle, &audience, &options)?;
        RealDisk.commit(path, &bytes)?;
        print(&table(&release, &audience, bytes.len() as u64, 1))?;
        let path = shown(path);
        return print(&format!("wrote {path}: `selvedge trust accept {path}` where the operator's keys are\n"));
    }
    let publication = match &args.team {
        Some(team) => repository.publish_as(team, &bundle, &audience, &options)?,
        None => repository.publish(&bundle, &audience, &options)?,
    };
    let release = publication.release.as_ref().context("a publication of a model says which")?;
    keep_known(&repository, (&release.model, release.version), &known)?;
    if args.with.json {
        let sent = args.with.broker.send(&mut repository, &publication).await?;
        return print(&json(release, &audience, &publication, &left_out, sent));
    }
    print(&table(release, &audience, publication.size(), publication.posts.len()))?;
    if !left_out.is_empty() {
        print(&format!("left out, as the manifest does not name them: {}\n", super::plain(&left_out.join(", "))))?;
    }
    let sent = args.with.broker.send(&mut repository, &publication).await?;
    print(if sent { "published\n" } else { NOT_SENT })
}

/// Whose failures will count where it is to be watched: who is known before anything is sent.
async fn known_before(watch: Option<u8>, broker: &BrokerArgs) -> anyhow::Result<BTreeSet<[u8; 16]>> {
    match broker.address()?.filter(|_| watch.is_some()) {
        Some(broker) => known_now(&broker).await,
        None => Ok(BTreeSet::new()),
    }
}

/// As `run`, and watches what was published where that was asked for.
pub async fn run_and_watch(args: Args) -> anyhow::Result<ExitCode> {
    let Some(percent) = args.watch else {
        run(args).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let model = args.model.as_deref().context("what is watched is a model that is published")?;
    let (bundle, _) = read_model_dir(model)?;
    let (model, version) = (bundle.manifest().name.clone(), bundle.manifest().version);
    let with = args.with.clone();
    run(args).await?;
    watch_publication((model, version), with, percent).await
}

/// What each board will ask of it, asked here: before a version is spent on a model that cannot run.
async fn check(bundle: &Bundle) -> anyhow::Result<()> {
    let bundle = bundle.clone();
    let checked = tokio::task::spawn_blocking(move || {
        update::check(&bundle, 1, &Board { clock: &RealClock::new(), throttled: &is_throttled })
    })
    .await?;
    match checked {
        Ok(_) => Ok(()),
        Err(failure) => {
            let hint = "nothing was signed; mend the model, or publish it all the same with --no-check";
            Err(super::advise(failure, "the model fails here what boards will ask of it", hint))
        }
    }
}

/// How long to listen for what devices told; it is retained, and comes at once.
const LISTEN: Duration = Duration::from_secs(3);

async fn preview(bundle: &Bundle, audience: &Audience, broker: &config::Broker) -> anyhow::Result<()> {
    let mut listener = Listener::open(broker, &Fleet::filters()).await?;
    listener.listen(LISTEN, |_| false).await;
    let reach = Reach::of(listener.fleet(), &bundle.manifest().name, audience, unix_now());
    listener.close().await;
    print(&reach_text(&reach, audience))
}

fn reach_text(reach: &Reach, audience: &Audience) -> String {
    let Reach { known, silent, fit, now } = reach;
    let mut table = Table::new([("devices", Align::Left), ("", Align::Right)]);
    table.row(["known to the broker", &known.to_string()]);
    if *silent > 0 {
        table.row(["that told nothing of their boards", &silent.to_string()]);
    }
    table.row(["with such a board", &fit.to_string()]).row(["of these in at once", &now.to_string()]);
    let groups = audience.groups.join(", ");
    let whom = if groups.is_empty() {
        String::new()
    } else {
        format!(
            "it is for those of them that are in {groups}, which only they know: devices do not tell their groups\n"
        )
    };
    format!("{table}{whom}nothing was signed\n")
}

/// What a command without `--broker` ends with.
pub(super) const NOT_SENT: &str =
    "not sent: the directory is up to date; `selvedge refresh --broker mqtt://HOST` sends what the board lacks\n";

fn audience_text(audience: &Audience) -> String {
    let devices = match audience.devices.len() {
        0 => None,
        1 => Some("1 device".to_owned()),
        n => Some(format!("{n} devices")),
    };
    let whom: Vec<String> = audience.groups.iter().cloned().chain(devices).collect();
    let whom = match audience.percent {
        100 => whom.join(", "),
        percent => format!("{percent} % of {}", whom.join(", ")),
    };
    let needs = needs_text(&audience.needs).map(|needs| format!("with {needs}"));
    let waves = waves_text(&audience.waves, unix_now());
    [Some(whom), needs, waves].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn table(release: &Release, audience: &Audience, size: u64, messages: usize) -> String {
    let mut table = Table::new([("model", Align::Left), (release.model.as_str(), Align::Left)]);
    table
        .row(["version", &release.version.to_string()])
        .row(["bundle", &bytes(release.size)])
        .row(["chunks", &format!("{} new of {}", release.new_chunks, release.chunks)])
        .row(["compressed", &format!("{} new of {}", bytes(release.new_wire), bytes(release.wire))])
        .row(["deltas", &deltas_text(release)])
        .row(["to send", &format!("{} in {messages} messages", bytes(size))])
        .row(["audience", &audience_text(audience)])
        .row(["sha256", &release.sha256.to_string()]);
    table.to_string()
}

fn deltas_text(release: &Release) -> String {
    let text = |&(version, wire): &(u32, u64)| format!("{} from version {version}", bytes(wire));
    let texts: Vec<String> = release.deltas.iter().map(text).collect();
    if texts.is_empty() { "none new".to_owned() } else { texts.join(", ") }
}

fn json(release: &Release, audience: &Audience, publication: &Publication, left_out: &[String], sent: bool) -> String {
    let devices: Vec<String> = audience.devices.iter().map(hex::encode).collect();
    let value = serde_json::json!({
        "model": release.model,
        "version": release.version,
        "sha256": release.sha256,
        "bytes": release.size,
        "chunks": { "new": release.new_chunks, "total": release.chunks },
        "wire-bytes": { "new": release.new_wire, "total": release.wire },
        "deltas": release.deltas.iter().map(|(from, wire)| serde_json::json!({ "from": from, "wire-bytes": wire })).collect::<Vec<_>>(),
        "audience": { "groups": audience.groups, "devices": devices, "percent": audience.percent, "needs": audience.needs,
            "waves": audience.waves },
        "messages": publication.posts.len(),
        "message-bytes": publication.size(),
        "left-out": left_out,
        "sent": sent,
    });
    format!("{value:#}\n")
}

fn parse_deltas(text: &str) -> anyhow::Result<usize> {
    let most = Custom::MAX_DELTAS;
    text.parse().ok().filter(|&deltas| deltas <= most).with_context(|| format!("a number from 0 to {most}"))
}

pub(super) fn parse_id(text: &str) -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id)
        .ok()
        .context("a device id is 32 hexadecimal digits; `selvedge check` shows it")?;
    Ok(id)
}

/// Warns of a root that ends soon: renewing it needs its keys, which may be far away.
pub(super) fn root_warning(repository: &Repository, now: u64) -> Option<String> {
    const SOON: u64 = 180;
    let days = repository.root_expires().saturating_sub(now) / 86_400;
    let text = format!("the root expires in {days} days; renew it with its keys: `selvedge trust rotate`\n");
    (days < SOON).then_some(text)
}

/// For messages: the directory as it was given.
pub(super) fn shown(path: &Path) -> String {
    super::plain(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_are_32_digits() {
        assert_eq!(parse_id("000102030405060708090a0b0c0d0e0f").unwrap()[15], 15);
        for bad in ["", "00", "000102030405060708090a0b0c0d0e0g", "000102030405060708090a0b0c0d0e0f00"] {
            assert!(parse_id(bad).is_err());
        }
    }

    #[test]
    fn an_audience_reads_as_a_sentence() {
        let mut audience = Audience::group("shop");
        assert_eq!(audience_text(&audience), "shop");
        audience.devices = vec![[0; 16]];
        audience.percent = 5;
        assert_eq!(audience_text(&audience), "5 % of shop, 1 device");
        audience.needs.memory_mib = Some(900);
        assert_eq!(audience_text(&audience), "5 % of shop, 1 device, with 900 MiB or more");
    }
}
