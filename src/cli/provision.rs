//! `selvedge provision`: a board's id, credentials and root of trust, as files.

#[cfg(feature = "operator")]
mod operator;

use super::{advise, plain, print};
use crate::enrol::{self, ETC, Installed, Place};
use crate::sys::{Disk as _, RealDisk};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// Whose members may read the secrets.
const LINK_GROUP: &str = "selvedge-link";
/// Of /etc/group.
const MAX_GROUPS: u64 = 1 << 20;

#[cfg(feature = "operator")]
const EXAMPLES: &str = "Examples:
  selvedge provision broker --name broker.lan --out broker/
  selvedge provision operator --out operator/
  selvedge provision --broker mqtts://broker.lan --groups shop --out card/
  selvedge provision --broker mqtts://broker.lan --groups shop --out cards/ --count 20
  selvedge provision --broker mqtts://broker.lan --groups shop --out card/ --id 00112233445566778899aabbccddeeff
  sudo selvedge provision --install card/      on the board
  selvedge provision list
  selvedge provision revoke 00112233445566778899aabbccddeeff

A card is a directory: copy it to the boot partition of an SD card, as `selvedge`, and the board takes it over at its
next boot; or onto a running board, and --install it there. The card is the only place that holds the device's key or
password: it is not kept here. What was made, and for whom, stands in devices/ of the publishing directory, with the key
of the authority that signs: keep it as you keep the keys.";

#[cfg(not(feature = "operator"))]
const EXAMPLES: &str = "Example:
  sudo selvedge provision --install card/

A card is a directory that the operator's `selvedge provision` made.";

/// Give a board its id, credentials, root of trust and configuration; shut one out again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[cfg_attr(feature = "operator", command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true))]
pub struct Args {
    #[cfg(feature = "operator")]
    #[command(subcommand)]
    command: Option<operator::Command>,
    #[command(flatten)]
    install: Install,
    #[cfg(feature = "operator")]
    #[command(flatten)]
    make: operator::Make,
}

#[derive(Debug, clap::Args)]
struct Install {
    /// On the board, as root: take over the card in the first of these directories that is there.
    #[arg(long = "install", value_name = "DIR", num_args = 1..=4, required = cfg!(not(feature = "operator")))]
    from: Vec<PathBuf>,
    /// Put the files below another root, of an image that is mounted.
    #[arg(long, value_name = "DIR", default_value = "/", requires = "from")]
    root: PathBuf,
    /// Take it over although the board is another device so far.
    #[arg(long, requires = "from")]
    force: bool,
    /// Remove the card when all of it is taken over.
    #[arg(long, requires = "from")]
    clear: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    #[cfg(feature = "operator")]
    if args.install.from.is_empty() || args.command.is_some() {
        return operator::run(args.command, args.make);
    }
    install(&args.install)
}

fn install(args: &Install) -> anyhow::Result<()> {
    let there: Vec<&PathBuf> = args.from.iter().filter(|dir| dir.is_dir()).collect();
    let Some(card) = there.first() else {
        let names: Vec<String> = args.from.iter().map(|dir| plain(&dir.display().to_string())).collect();
        bail!("no card is there: looked for {}", names.join(", "));
    };
    let shown = plain(&card.display().to_string());
    // "." has no name that could be removed.
    let card = &card.canonicalize()?;
    if args.clear && enrol::is_cleared(&RealDisk, card)? {
        enrol::clear(&RealDisk, card)?;
        return print(&format!("{shown} holds nothing of a card any more\n"));
    }
    let etc = args.root.join(ETC.trim_start_matches('/'));
    let place = Place { etc: &etc, link_group: Some(group(&args.root)?), force: args.force };
    let installed = enrol::install(&RealDisk, card, &place).map_err(|e| {
        advise(
            e,
            format!("take over {shown}"),
            "mend it and install the card once more: until then the link may find a half of it",
        )
    })?;
    print(&told(&installed, &etc))?;
    if args.clear {
        let cleared = enrol::clear(&RealDisk, card).map_err(|e| {
            advise(
                e,
                format!("remove {shown}"),
                "the board has all of it, but its secrets still lie there: remove them",
            )
        })?;
        let others = if cleared.others > 0 { "; what is none of a card's was left there" } else { "" };
        return print(&format!("removed {shown}{others}\n"));
    }
    print(&format!("{shown} still holds its secrets: remove it, or --clear\n"))
}

fn told(installed: &Installed, etc: &Path) -> String {
    let etc = plain(&etc.display().to_string());
    let trust = match installed.new_root {
        true => {
            "its root of trust is another one: if it was another operator's, remove `trust` in the engine's state directory \
                 (/var/lib/selvedge), or no update is taken\n"
        }
        false => "",
    };
    match installed.changed {
        true => format!(
            "this board is device {}: {etc} is written\n{trust}next: selvedge check, then systemctl restart selvedge.target\n",
            installed.device
        ),
        false => format!("this board is device {}: {etc} held all of it already\n", installed.device),
    }
}

/// The number of the link's group on that system.
fn group(root: &Path) -> anyhow::Result<u32> {
    let path = root.join("etc/group");
    let bytes = RealDisk.read(&path, MAX_GROUPS)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find_map(|line| line.strip_prefix(LINK_GROUP)?.strip_prefix(':'));
    let id = line.and_then(|line| line.split(':').nth(1)?.parse().ok());
    id.with_context(|| {
        let path = plain(&path.display().to_string());
        format!("{path} has no group {LINK_GROUP}, for whom the secrets are: install Selvedge first (systemd/install)")
    })
}
