//! `selvedge trust`: the operator's keys, the root that devices start from, and who else may sign.

mod keys;
mod roots;
mod teams;

use super::print;
use super::publish::{DirArg, shown};
use crate::publish::{Expiries, InitOptions, Repository, Sealing};
use crate::trust::Role;
use clap::{Subcommand, ValueEnum};

/// Make, show and renew the keys that devices trust; let teams sign their own models.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(Init),
    Root(Root),
    Keys(keys::Keys),
    NewKey(keys::NewKey),
    ExternalKey(keys::ExternalKey),
    Rotate(roots::Rotate),
    Revoke(roots::Revoke),
    Sign(roots::Sign),
    Import(roots::Import),
    Teams(teams::Teams),
    Delegate(teams::Delegate),
    Undelegate(teams::Undelegate),
    Accept(teams::Accept),
}

/// Make a publishing directory: keys, and the root.json that goes to every device.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust init
  selvedge trust init --dir fleet --root-keys 3 --threshold 2 --encrypt root")]
struct Init {
    #[command(flatten)]
    dir: DirArg,
    /// How many root keys are made; keep them apart, and offline.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_keys: u32,
    /// How many of them must sign a new root.
    #[arg(long = "threshold", alias = "root-threshold", value_name = "N", default_value_t = 1)]
    root_threshold: u32,
    /// Put these keys under a passphrase.
    #[arg(long, value_name = "WHICH")]
    encrypt: Option<Encrypt>,
    /// Days that boards take offers after the last publication or refresh.
    #[arg(long, value_name = "DAYS", default_value_t = Expiries::default().timestamp,
        value_parser = clap::value_parser!(u32).range(1..=3650))]
    timestamp_days: u32,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Encrypt {
    /// The root's.
    Root,
    /// All; then a timer that refreshes needs --passphrase-file.
    All,
}

/// Write the newest root to standard output, for a device's /etc/selvedge/root.json.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  selvedge trust root > root.json")]
struct Root {
    #[command(flatten)]
    dir: DirArg,
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
        Command::Keys(args) => keys::list(&args),
        Command::NewKey(args) => keys::make(&args),
        Command::ExternalKey(args) => keys::external(args),
        Command::Rotate(args) => roots::rotate(args).await,
        Command::Revoke(args) => roots::revoke(args).await,
        Command::Sign(args) => roots::sign(&args),
        Command::Import(args) => roots::import(&args).await,
        Command::Teams(args) => teams::list(&args),
        Command::Delegate(args) => teams::delegate(args).await,
        Command::Undelegate(args) => teams::undelegate(&args).await,
        Command::Accept(args) => teams::accept(&args).await,
    }
}

fn init(args: &Init) -> anyhow::Result<()> {
    let options = InitOptions {
        root_keys: args.root_keys,
        root_threshold: args.root_threshold,
        expiries: Expiries { timestamp: args.timestamp_days, ..Expiries::default() },
        sealing: match args.encrypt {
            None => Sealing::None,
            Some(Encrypt::Root) => Sealing::Root,
            Some(Encrypt::All) => Sealing::All,
        },
    };
    Repository::init_with(&args.dir.dir, &options, &args.dir.passphrase())?;
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
         2. move {keys}/root.* to a medium that you keep offline, with a copy; only a new root needs them\n  \
         3. selvedge publish MODEL_DIR --to GROUP --broker mqtt://HOST\n  \
         4. run `selvedge refresh --broker mqtt://HOST` from a daily timer\n",
        dir = shown(&args.dir.dir)
    ))
}

fn root(args: &Root) -> anyhow::Result<()> {
    let root = args.dir.open()?.root_json()?;
    print(&String::from_utf8_lossy(&root))
}
