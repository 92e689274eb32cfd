//! The operator's side: cards, the broker's files, who is let in, shutting out.

use super::super::publish::{DirArg, shown};
use super::super::{Align, Table, advise, print};
use crate::config::{Address, DeviceId, group_name};
use crate::enrol::{BrokerFiles, Credential, Devices, Issue, Kind, Made, Request};
use crate::publish::Repository;
use crate::sys::{Access, Disk as _, RealDisk, date, unix_now};
use anyhow::bail;
use std::path::{Path, PathBuf};

/// Of a hundred thousand lines.
const MAX_PASSWORDS: u64 = 32 << 20;

/// Ten years: what shuts a device out is its revocation, not a date that nobody watches.
const DAYS: u32 = 3650;
const MOST: u32 = 1000;
/// A certificate that ends within so many seconds is shown as such.
const SOON: u64 = 90 * 86_400;

#[derive(Debug, clap::Args)]
pub struct Make {
    #[command(flatten)]
    dir: DirArg,
    /// The broker that the devices will talk to: mqtts://HOST[:PORT].
    #[arg(long, value_name = "URL", value_parser = address, required_unless_present = "from", conflicts_with = "from")]
    broker: Option<Address>,
    /// The groups whose offers they take.
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = group_name, conflicts_with = "from")]
    groups: Vec<String>,
    /// Where the card is written; with --count a directory for each below it.
    #[arg(long, value_name = "DIR", required_unless_present = "from", conflicts_with = "from")]
    out: Option<PathBuf>,
    /// An id that a board has. Credentials that were made for it before are revoked. Without it: a new, random one.
    #[arg(long, value_name = "ID", value_parser = id, conflicts_with_all = ["count", "from"])]
    id: Option<DeviceId>,
    /// How many cards, each for another device.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)), conflicts_with = "from")]
    count: Option<u32>,
    /// A random password instead of a certificate.
    #[arg(long, conflicts_with = "from")]
    password: bool,
    /// How long a certificate holds.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=10_000),
        conflicts_with_all = ["password", "from"])]
    days: u32,
    /// The broker's certificate is by an authority that the boards' system trusts.
    #[arg(long, conflicts_with = "from")]
    system_ca: bool,
    /// JSON instead of text.
    #[arg(long, conflicts_with = "from")]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Broker(Broker),
    Operator(Operator),
    List(List),
    Revoke(Revoke),
}

/// Make the broker's certificate, and all else that the shipped Mosquitto configuration names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge provision broker --name broker.lan --out broker/
  selvedge provision broker --name broker.lan --name 192.168.1.10 --out broker/ --password")]
pub struct Broker {
    #[command(flatten)]
    dir: DirArg,
    /// A name or an address by which devices and operator reach it; may be repeated.
    #[arg(long = "name", value_name = "NAME", required = true, value_parser = host)]
    names: Vec<String>,
    /// Where the files are written.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// With the configuration for devices with passwords.
    #[arg(long)]
    password: bool,
    /// How long the certificate holds.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    days: u32,
}

/// Make the operator's own credentials for the broker; those of before are revoked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  selvedge provision operator --out operator/
  selvedge publish models/digits --to shop --broker mqtts://broker.lan --ca operator/ca.pem \\
      --certificate operator/operator.pem --key operator/operator.key")]
pub struct Operator {
    #[command(flatten)]
    dir: DirArg,
    /// Where the files are written.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A random password instead of a certificate.
    #[arg(long)]
    password: bool,
    /// How long the certificate holds.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    days: u32,
}

/// Show for whom credentials were made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  selvedge provision list --json")]
pub struct List {
    #[command(flatten)]
    dir: DirArg,
    /// Those that no longer count, too.
    #[arg(long)]
    all: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Shut a device out, or credentials of the operator that were lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge provision revoke 00112233445566778899aabbccddeeff
  selvedge provision revoke operator

The broker has to be told: the command says which file to copy. A device that is shut out serves on.")]
pub struct Revoke {
    #[command(flatten)]
    dir: DirArg,
    /// A device's id, or `operator`.
    #[arg(value_name = "ID", value_parser = revocable)]
    name: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub fn run(command: Option<Command>, make: Make) -> anyhow::Result<()> {
    match command {
        None => cards(make),
        Some(Command::Broker(args)) => broker(&args),
        Some(Command::Operator(args)) => operator(&args),
        Some(Command::List(args)) => list(&args),
        Some(Command::Revoke(args)) => revoke(&args),
    }
}

/// The directory, locked, and who is let in by it.
fn open(dir: &DirArg) -> anyhow::Result<(Repository, Devices<'static>)> {
    let repository = dir.open()?;
    let devices = Devices::open(&RealDisk, &dir.dir, unix_now())?;
    Ok((repository, devices))
}

fn credential(password: bool) -> Credential {
    if password { Credential::Password } else { Credential::Certificate }
}

fn cards(args: Make) -> anyhow::Result<()> {
    let (Some(broker), Some(out)) = (args.broker, args.out) else { bail!("--broker and --out are needed") };
    let (repository, mut devices) = open(&args.dir)?;
    let root = repository.root_json()?;
    let mut request = Request {
        id: args.id,
        groups: args.groups,
        broker,
        credential: credential(args.password),
        days: args.days,
        system_authorities: args.system_ca,
    };
    let mut made = Vec::new();
    for _ in 0..args.count.unwrap_or(1) {
        let card = match args.count {
            None => out.clone(),
            Some(_) => {
                let id = new_id()?;
                request.id = Some(id);
                out.join(id.to_string())
            }
        };
        made.push(devices.provision(&request, &root, &card)?);
    }
    let files = devices.broker_files()?;
    print(&if args.json { cards_json(&made, &files) } else { cards_text(&made, &files, args.password) })
}

fn cards_json(made: &[Made], files: &BrokerFiles) -> String {
    let card =
        |made: &Made| serde_json::json!({ "id": made.id.to_string(), "card": made.card, "revoked": made.replaced });
    let cards: Vec<_> = made.iter().map(card).collect();
    format!("{:#}\n", serde_json::json!({ "cards": cards, "revoked": files.revoked, "passwords": files.passwords }))
}

fn cards_text(made: &[Made], files: &BrokerFiles, password: bool) -> String {
    let mut table = Table::new([("device", Align::Left), ("card", Align::Left), ("revoked", Align::Right)]);
    for made in made {
        table.row([made.id.to_string(), shown(&made.card), made.replaced.to_string()]);
    }
    let mut text = format!(
        "{table}\nnext: copy the card to the SD card's boot partition, as `selvedge`; or onto the board, and there: sudo selvedge \
         provision --install DIR\nthe card alone holds the secret: remove it once the board has it\n"
    );
    if let Some(passwords) = files.passwords.as_ref().filter(|_| password) {
        text += &passwords_text(passwords);
    }
    if made.iter().any(|made| made.replaced > 0) {
        text += &revoked_text(&files.revoked);
    }
    text
}

fn broker(args: &Broker) -> anyhow::Result<()> {
    let (_repository, mut devices) = open(&args.dir)?;
    devices.broker(&args.names, args.days, &args.out)?;
    let (conf, text) = match args.password {
        true => ("selvedge-tls-password.conf", include_str!("../../../config/mosquitto/selvedge-tls-password.conf")),
        false => ("selvedge-tls.conf", include_str!("../../../config/mosquitto/selvedge-tls.conf")),
    };
    let acl = include_str!("../../../config/mosquitto/selvedge.acl");
    for (name, text) in [(conf, text), ("selvedge.acl", acl)] {
        RealDisk.commit_as(&args.out.join(name), text.as_bytes(), Access::PUBLIC)?;
    }
    let mut passwords = String::new();
    if args.password {
        // Mosquitto does not start without the file.
        let known = devices.broker_files()?.passwords;
        let known =
            known.and_then(|path| RealDisk.read(&path, MAX_PASSWORDS).transpose()).transpose()?.unwrap_or_default();
        RealDisk.commit_as(&args.out.join("selvedge.passwd"), &known, Access::PRIVATE)?;
        passwords = "  sudo mv /etc/mosquitto/selvedge/selvedge.passwd /etc/mosquitto/\n".to_owned();
    }
    print(&format!(
        "made {out} for {names}\n\nnext, on the broker's machine:\n  \
         sudo cp -rT {out} /etc/mosquitto/selvedge && sudo chown -R mosquitto: /etc/mosquitto/selvedge\n  \
         sudo mv /etc/mosquitto/selvedge/{conf} /etc/mosquitto/conf.d/ && sudo mv /etc/mosquitto/selvedge/selvedge.acl /etc/mosquitto/\n\
         {passwords}  sudo systemctl restart mosquitto\n\
         its key is in {out} alone: remove that once the broker has it\n",
        out = shown(&args.out),
        names = args.names.join(", "),
    ))
}

fn operator(args: &Operator) -> anyhow::Result<()> {
    let (_repository, mut devices) = open(&args.dir)?;
    let replaced = devices.operator(credential(args.password), args.days, &args.out)?;
    let files = devices.broker_files()?;
    let out = shown(&args.out);
    let mut text = match args.password {
        true => format!(
            "made {out}\n\nuse: --broker mqtts://operator@HOST --ca {out}/ca.pem --password-file {out}/broker-password\n"
        ),
        false => format!(
            "made {out}\n\nuse: --broker mqtts://HOST --ca {out}/ca.pem --certificate {out}/operator.pem --key {out}/operator.key\n"
        ),
    };
    if let Some(passwords) = files.passwords.filter(|_| args.password) {
        text += &passwords_text(&passwords);
    }
    if replaced > 0 {
        text += &revoked_text(&files.revoked);
    }
    print(&text)
}

fn list(args: &List) -> anyhow::Result<()> {
    let issued = Devices::list(&RealDisk, &args.dir.dir)?;
    let issued: Vec<Issue> = issued.into_iter().filter(|issue| args.all || issue.revoked.is_none()).collect();
    if args.json {
        // As the registry has them, but for what a password could be guessed by.
        let issued: Vec<Issue> =
            issued.into_iter().map(|issue| Issue { hash: issue.hash.map(|_| "kept".into()), ..issue }).collect();
        return print(&format!("{:#}\n", serde_json::json!({ "issued": issued })));
    }
    if issued.is_empty() {
        return print("no credentials were made yet\n");
    }
    print(&format!("{}", table(&issued, unix_now())))
}

fn table(issued: &[Issue], now: u64) -> Table {
    let columns = ["who", "kind", "by", "groups", "made", "ends", "state"];
    let mut table = Table::new(columns.map(|column| (column, Align::Left)));
    for issue in issued {
        let state = match (issue.revoked, issue.ends) {
            (Some(time), _) => format!("revoked {}", date(time)),
            (None, Some(ends)) if ends < now => "ended".to_owned(),
            (None, Some(ends)) if ends < now.saturating_add(SOON) => "ends soon".to_owned(),
            (None, _) => "counts".to_owned(),
        };
        table.row([
            issue.name.clone(),
            kind(issue.kind).to_owned(),
            if issue.serial.is_some() { "certificate" } else { "password" }.to_owned(),
            issue.groups.join(", "),
            date(issue.made),
            issue.ends.map_or_else(|| "never".to_owned(), date),
            state,
        ]);
    }
    table
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Device => "device",
        Kind::Operator => "operator",
        Kind::Broker => "broker",
    }
}

fn revoke(args: &Revoke) -> anyhow::Result<()> {
    if Devices::list(&RealDisk, &args.dir.dir)?.is_empty() {
        bail!("no credentials were made in {} yet", shown(&args.dir.dir));
    }
    let (_repository, mut devices) = open(&args.dir)?;
    let count =
        devices.revoke(&args.name).map_err(|e| advise(e, "revoke", "`selvedge provision list --all` shows all"))?;
    let files = devices.broker_files()?;
    if args.json {
        let value = serde_json::json!({
            "name": args.name, "revoked": count, "list": files.revoked, "passwords": files.passwords,
        });
        return print(&format!("{value:#}\n"));
    }
    let mut text = match count {
        0 => format!("{}: nothing of it counted any more\n", args.name),
        1 => format!("{}: its credentials no longer count\n", args.name),
        many => format!("{}: {many} credentials no longer count\n", args.name),
    };
    text += &revoked_text(&files.revoked);
    if let Some(passwords) = &files.passwords {
        text += &passwords_text(passwords);
    }
    print(&text)
}

fn revoked_text(list: &Path) -> String {
    format!(
        "the broker has to know: copy {} to /etc/mosquitto/selvedge/revoked.crl, then sudo systemctl restart mosquitto \
         (a session that stands outlives a reload)\n",
        shown(list)
    )
}

fn passwords_text(passwords: &Path) -> String {
    format!(
        "the broker has to know: copy {} to /etc/mosquitto/selvedge.passwd (mosquitto:, 0600), then sudo systemctl reload mosquitto; \
         users that `mosquitto_passwd` put there are not in it\n",
        shown(passwords)
    )
}

fn address(text: &str) -> Result<Address, String> {
    let address = Address::parse(text)?;
    match address.username {
        None => Ok(address),
        Some(_) => Err("a device's user is its id: write the address without one".into()),
    }
}

fn id(text: &str) -> Result<DeviceId, String> {
    text.parse().map_err(|e: crate::config::IdError| e.to_string())
}

fn revocable(text: &str) -> Result<String, String> {
    if text == "operator" { Ok(text.to_owned()) } else { id(text).map(|id| id.to_string()) }
}

/// A name that a certificate can be for, as `mqtts://` has it.
fn host(text: &str) -> Result<String, String> {
    let plain = Address::parse(&format!("mqtts://{text}:1")).ok().filter(|_| !text.contains([':', '/', '@', '?', '#']));
    let v6 = text.parse::<std::net::Ipv6Addr>().ok().map(|_| text.to_owned());
    v6.or(plain.map(|address| address.host))
        .ok_or_else(|| "a host name like broker.lan, or an address, is expected".to_owned())
}

fn new_id() -> anyhow::Result<DeviceId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(DeviceId(id))
}
