//! New roots: rotation and revocation, at once or by way of machines without a network.

use super::super::print;
use super::super::publish::{NOT_SENT, With, shown};
use super::RoleName;
use super::keys::public;
use crate::publish::{Count, KeyChange, MAX_PROPOSAL, Passphrase, Proposal, Repository, RoleChange};
use crate::sys::{Disk as _, RealDisk};
use crate::trust::Role;
use anyhow::{Context as _, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Renew the root, and give roles new keys: after a theft, or before the root expires.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust rotate --broker mqtt://broker.local                       renew the root, same keys
  selvedge trust rotate timestamp snapshot --broker mqtt://broker.local    new online keys
  selvedge trust rotate root --key 8f1c... --key 07ab... --threshold 2 --export root.proposal

Needs the root's keys in keys/; where they are elsewhere, --export writes a proposal, `selvedge trust sign` signs it
there, and `selvedge trust import` makes it count. A device that was off follows root by root when it comes back.
Old keys are worth nothing afterwards.")]
pub struct Rotate {
    /// Roles whose keys are all replaced.
    roles: Vec<RoleName>,
    #[command(flatten)]
    keys: NewKeys,
    #[command(flatten)]
    change: Change,
}

/// Take single keys away from a role: one that was lost, or whose holder has left.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust revoke root 3fa90c12 --broker mqtt://broker.local
  selvedge trust revoke targets 3fa90c12 --key 8f1c... --export root.proposal

Where fewer keys than the threshold would stay, new ones are made. A team's keys: `selvedge trust delegate` anew.")]
pub struct Revoke {
    /// Whose keys they are.
    role: RoleName,
    /// Ids of keys, or their first 8 digits or more; `selvedge trust keys` shows them.
    #[arg(required = true, value_name = "KEY")]
    revoked: Vec<String>,
    #[command(flatten)]
    keys: NewKeys,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
struct NewKeys {
    /// The public half of a key that comes; may be given more than once. What lacks to the threshold is made here.
    #[arg(long = "key", value_name = "HEX", value_parser = public)]
    add: Vec<[u8; 32]>,
    /// How many of the role's keys must sign.
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,
    /// Put keys that are made under the passphrase.
    #[arg(long)]
    encrypt: bool,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Write the new root to a file, to be signed elsewhere, and change nothing yet.
    #[arg(long, value_name = "FILE", conflicts_with = "broker")]
    export: Option<PathBuf>,
    #[command(flatten)]
    with: With,
}

/// Look at a proposed root and sign it with the keys of a directory. Needs no network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust sign root.proposal --keys /media/usb/keys
  selvedge trust sign root.proposal                          only show it")]
pub struct Sign {
    /// What `selvedge trust rotate --export` wrote; signatures are added to it.
    proposal: PathBuf,
    /// The directory with the keys that sign.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// A file whose first line is the passphrase of keys that have one; else it is asked for.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Make a proposed root count that enough have signed; then refresh.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  selvedge trust import alice.proposal bob.proposal --broker mqtt://broker.local

Several copies of one proposal, each signed by others, are put together.")]
pub struct Import {
    /// What `selvedge trust sign` has signed.
    #[arg(required = true, value_name = "PROPOSAL")]
    proposals: Vec<PathBuf>,
    #[command(flatten)]
    with: With,
}

pub async fn rotate(args: Rotate) -> anyhow::Result<()> {
    let is_one = args.roles.len() == 1;
    if !is_one && (!args.keys.add.is_empty() || args.keys.threshold.is_some()) {
        bail!("--key and --threshold are for one role: rotate the others by a command of their own");
    }
    let role_change =
        || KeyChange { add: args.keys.add.clone(), threshold: args.keys.threshold, ..KeyChange::replace() };
    let changes = args.roles.iter().map(|role| (role.role(), role_change())).collect();
    apply(changes, args.keys.encrypt, args.change).await
}

pub async fn revoke(args: Revoke) -> anyhow::Result<()> {
    let NewKeys { add, threshold, encrypt } = args.keys;
    let change = KeyChange { replace: false, revoke: args.revoked, add, threshold };
    apply([(args.role.role(), change)].into(), encrypt, args.change).await
}

async fn apply(changes: BTreeMap<Role, KeyChange>, encrypt: bool, change: Change) -> anyhow::Result<()> {
    let With { dir, broker, json } = change.with;
    let mut repository = dir.open()?;
    let passphrase = dir.passphrase();
    let seal = encrypt.then_some(&passphrase);
    if let Some(path) = &change.export {
        let proposal = repository.propose(&changes, seal)?;
        RealDisk.commit(path, &proposal.to_bytes())?;
        print(&describe(&proposal, json))?;
        let note = format!("wrote {}; nothing has changed yet\n", shown(path));
        return if json { Ok(()) } else { print(&note) };
    }
    let publication = repository.rotate_with(&changes, seal)?;
    let sent = broker.send(&mut repository, &publication).await?;
    if json {
        let roles: Vec<&str> = changes.into_keys().map(Role::name).collect();
        return done(&repository, sent, &serde_json::json!({ "roles": roles }));
    }
    let names: Vec<&str> = changes.into_keys().map(Role::name).collect();
    let what = if names.is_empty() { "renewed the root".to_owned() } else { format!("new keys: {}", names.join(", ")) };
    print(&format!("{what}\nkeep a copy of keys/, and take the root's keys away again\n"))?;
    print(if sent { "sent\n" } else { NOT_SENT })
}

pub fn sign(args: &Sign) -> anyhow::Result<()> {
    let mut proposal = read(&args.proposal)?;
    if let Some(keys) = &args.keys {
        let count = proposal.sign(keys, &Passphrase::new(args.passphrase_file.clone()))?;
        if count == 0 {
            bail!("none of the keys in {} signs this root; nothing was written", shown(keys));
        }
        RealDisk.commit(&args.proposal, &proposal.to_bytes())?;
    }
    print(&describe(&proposal, args.json))
}

pub async fn import(args: &Import) -> anyhow::Result<()> {
    let mut all = args.proposals.iter().map(|path| read(path));
    let mut proposal = all.next().context("a proposal is needed")??;
    for other in all {
        proposal.merge(&other?)?;
    }
    let mut repository = args.with.dir.open()?;
    let publication = repository.accept_root(&proposal)?;
    let sent = args.with.broker.send(&mut repository, &publication).await?;
    if args.with.json {
        return done(&repository, sent, &serde_json::json!({}));
    }
    print(&format!("root {} counts\n", proposal.version()))?;
    print(if sent { "sent\n" } else { NOT_SENT })
}

fn read(path: &Path) -> anyhow::Result<Proposal> {
    let bytes = RealDisk.read(path, MAX_PROPOSAL)?.with_context(|| format!("{} is not there", shown(path)))?;
    Ok(Proposal::from_bytes(&bytes)?)
}

/// The end of a command that has changed something, as JSON.
pub fn done(repository: &Repository, sent: bool, more: &serde_json::Value) -> anyhow::Result<()> {
    let mut value = serde_json::json!({ "root": repository.root_version(), "sent": sent });
    for (name, field) in more.as_object().into_iter().flatten() {
        value[name] = field.clone();
    }
    print(&format!("{value:#}\n"))
}

fn json(proposal: &Proposal) -> String {
    let (old, new) = proposal.counts();
    let count = |count: Count| serde_json::json!({ "valid": count.valid, "needed": count.needed });
    let change = |change: &RoleChange| {
        serde_json::json!({
            "role": change.role.name(),
            "added": change.added,
            "removed": change.removed,
            "threshold": { "before": change.threshold.0, "after": change.threshold.1 },
        })
    };
    let value = serde_json::json!({
        "root": proposal.version(),
        "expires": proposal.expires(),
        "changes": proposal.changes().iter().map(change).collect::<Vec<_>>(),
        "signed": { "current": count(old), "proposed": count(new) },
        "complete": proposal.is_complete(),
    });
    format!("{value:#}\n")
}

/// What it would change, and how many have signed.
fn describe(proposal: &Proposal, as_json: bool) -> String {
    if as_json {
        return json(proposal);
    }
    let mut text = format!("root {}, until {}\n", proposal.version(), crate::sys::date(proposal.expires()));
    for change in proposal.changes() {
        let ids = |ids: &[String]| ids.iter().map(|id| id.get(..16).unwrap_or(id)).collect::<Vec<_>>().join(" ");
        for (what, ids) in [("comes", ids(&change.added)), ("goes", ids(&change.removed))] {
            if !ids.is_empty() {
                text += &format!("  {}: {what} {ids}\n", change.role);
            }
        }
        if change.threshold.0 != change.threshold.1 {
            text += &format!("  {}: threshold {} instead of {}\n", change.role, change.threshold.1, change.threshold.0);
        }
    }
    let (old, new) = proposal.counts();
    let count = |count: Count| format!("{} of {}", count.valid, count.needed);
    text + &format!("signed: {} by the keys that count now, {} by those that are to\n", count(old), count(new))
}
