//! Keys: which there are, new ones, and those that a command signs with.

use super::super::publish::{DirArg, shown};
use super::super::{Align, Table, print};
use crate::publish::{self, add_command, make_key, parse_public};
use anyhow::Context as _;
use std::time::Duration;

/// Show the keys that count and those that are at hand.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  selvedge trust keys")]
pub struct Keys {
    #[command(flatten)]
    dir: DirArg,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Make a key, for a team or for a role that is to be rotated to it; its public half is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge trust new-key vision --dir team             a team's key, on the team's machine
  selvedge trust new-key root-b --dir usb --encrypt    a root key, on a machine without a network")]
pub struct NewKey {
    /// The name of its file in keys/.
    name: String,
    #[command(flatten)]
    dir: DirArg,
    /// Put it under a passphrase.
    #[arg(long)]
    encrypt: bool,
}

/// Let a command sign with a key that is not in a file: in a token, a key service, elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  selvedge trust external-key targets-hsm --public 8f1c... -- /usr/local/bin/sign-with-token --label selvedge

The command gets the bytes to sign on standard input and writes the Ed25519 signature to standard output: 64 bytes,
or 128 hexadecimal digits. It may ask for a PIN on the terminal. No shell reads its arguments.")]
pub struct ExternalKey {
    /// The name of its file in keys/.
    name: String,
    /// The public half: 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", value_parser = public)]
    public: [u8; 32],
    /// Seconds that it may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    dir: DirArg,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn public(text: &str) -> anyhow::Result<[u8; 32]> {
    parse_public(text).context("the public half of a key is 64 hexadecimal digits; `selvedge trust keys` shows it")
}

pub fn list(args: &Keys) -> anyhow::Result<()> {
    let states = args.dir.open()?.key_states();
    if args.json {
        let key = |key: &publish::KeyState| serde_json::json!({ "id": key.id, "public": key.public, "file": key.name, "roles": key.roles });
        let keys: Vec<_> = states.iter().map(key).collect();
        return print(&format!("{:#}\n", serde_json::json!({ "keys": keys })));
    }
    let columns = [("key", Align::Left), ("signs", Align::Left), ("file", Align::Left), ("public half", Align::Left)];
    let mut table = Table::new(columns);
    for key in &states {
        let roles = if key.roles.is_empty() { "-".to_owned() } else { key.roles.join(", ") };
        let id = key.id.get(..16).unwrap_or(&key.id);
        table.row([id, &roles, key.name.as_deref().unwrap_or("not here"), &key.public]);
    }
    print(&table.to_string())
}

pub fn make(args: &NewKey) -> anyhow::Result<()> {
    let passphrase = args.dir.passphrase();
    let public = make_key(&args.dir.dir, &args.name, args.encrypt.then_some(&passphrase))?;
    let dir = shown(&args.dir.dir.join("keys"));
    print(&format!("made {} in {dir}; keep a copy\npublic half: {}\n", args.name, hex::encode(public)))
}

pub fn external(args: ExternalKey) -> anyhow::Result<()> {
    let command = publish::Command::new(args.public, args.command, Duration::from_secs(args.timeout))?;
    add_command(&args.dir.dir, &args.name, &command)?;
    print(&format!(
        "{} signs by its command from now on; a role uses it after `selvedge trust rotate ROLE --key {}`\n",
        args.name,
        hex::encode(args.public)
    ))
}
