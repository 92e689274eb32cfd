//! `selvedge trust`: the operator's keys and the root that devices start from.

use super::print;
use super::publish::{BrokerArgs, DirArg, NOT_SENT, shown};
use crate::publish::{Expiries, InitOptions, Repository};
use crate::trust::Role;
use clap::{Subcommand, ValueEnum};
use std::collections::BTreeSet;

/// Make, show and renew the keys that devices trust.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(Init),
    Root(Root),
    Rotate(Rotate),
}

/// Make a publishing directory: keys, and the root.json that goes to every device.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust init
  selvedge trust init --dir fleet --root-keys 3 --root-threshold 2")]
struct Init {
    #[command(flatten)]
    dir: DirArg,
    /// How many root keys are made; keep them apart, and offline.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_keys: u32,
    /// How many of them must sign a new root.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_threshold: u32,
    /// Days that boards take offers after the last publication or refresh.
    #[arg(long, value_name = "DAYS", default_value_t = Expiries::default().timestamp,
        value_parser = clap::value_parser!(u32).range(1..=3650))]
    timestamp_days: u32,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Write the newest root to standard output, for a device's /etc/selvedge/root.json.
#[derive(Debug, clap::Args)]
struct Root {
    #[command(flatten)]
    dir: DirArg,
}

/// Renew the root, and give roles new keys: after a theft, or before the root expires. Needs the root's keys in keys/.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust rotate --broker mqtt://broker.local                       renew the root, same keys
  selvedge trust rotate timestamp snapshot --broker mqtt://broker.local    new online keys

A device that was off follows root by root when it comes back. Old keys are worth nothing afterwards.")]
struct Rotate {
    /// Roles that get new keys.
    roles: Vec<RoleName>,
    #[command(flatten)]
    dir: DirArg,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Root,
    Targets,
    Snapshot,
    Timestamp,
}

impl RoleName {
    fn role(self) -> Role {
        match self {
            Self::Root => Role::Root,
            Self::Targets => Role::Targets,
            Self::Snapshot => Role::Snapshot,
            Self::Timestamp => Role::Timestamp,
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Init(args) => init(&args),
        Command::Root(args) => root(&args),
        Command::Rotate(args) => rotate(args).await,
    }
}

fn init(args: &Init) -> anyhow::Result<()> {
    let options = InitOptions {
        root_keys: args.root_keys,
        root_threshold: args.root_threshold,
        expiries: Expiries { timestamp: args.timestamp_days, ..Expiries::default() },
    };
    Repository::init(&args.dir.dir, &options)?;
    let (keys, root) = (args.dir.dir.join("keys"), args.dir.dir.join("metadata/1.root.json"));
    if args.json {
        let value = serde_json::json!({ "directory": args.dir.dir, "keys": keys, "root": root });
        return print(&format!("{value:#}\n"));
    }
    let (keys, root) = (shown(&keys), shown(&root));
    print(&format!(
        "made {dir}\n\n\
         next:\n  \
         1. copy {root} to /etc/selvedge/root.json on each device\n  \
         2. move {keys}/root.* to a medium that you keep offline, with a copy; only `trust rotate` needs them\n  \
         3. selvedge publish MODEL_DIR --to GROUP --broker mqtt://HOST\n  \
         4. run `selvedge refresh --broker mqtt://HOST` from a daily timer\n",
        dir = shown(&args.dir.dir)
    ))
}

fn root(args: &Root) -> anyhow::Result<()> {
    let root = args.dir.open()?.root_json()?;
    print(&String::from_utf8_lossy(&root))
}

async fn rotate(args: Rotate) -> anyhow::Result<()> {
    let mut repository = args.dir.open()?;
    let roles: BTreeSet<Role> = args.roles.into_iter().map(RoleName::role).collect();
    let publication = repository.rotate(&roles)?;
    let sent = args.broker.send(&mut repository, &publication).await?;
    let names: Vec<&str> = roles.into_iter().map(Role::name).collect();
    let what = if names.is_empty() { "renewed the root".to_owned() } else { format!("new keys: {}", names.join(", ")) };
    print(&format!("{what}\nkeep a copy of keys/, and take the root's keys away again\n"))?;
    print(if sent { "sent\n" } else { NOT_SENT })
}
