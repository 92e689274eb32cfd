//! `selvedge pack`: an offer on a stick.

use super::needs::NeedsArgs;
use super::publish::{DirArg, parse_id};
use super::rollout::parse_model;
use super::{advise, bytes, print};
use crate::bundle::ModelName;
use crate::config;
use crate::inbox;
use crate::publish::{Audience, Packed};
use crate::sys::{Disk as _, RealDisk};
use anyhow::bail;
use std::path::PathBuf;

/// Write what is offered of a model into one file, for boards with no network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge publish models/digits --to shop                   sign the offer first; no broker is needed
  selvedge pack digits --to shop --out /media/stick/digits.pack

On the board, engine.inbox names the directory into which the file is copied, or the stick is mounted. The file is as
good as the offer in it: boards take it while its timestamp has not expired, 30 days unless `trust init` was told
otherwise; `selvedge refresh`, and pack again.")]
pub struct Args {
    /// The model's name, as in its manifest.
    #[arg(value_name = "MODEL", value_parser = parse_model)]
    model: ModelName,
    /// The groups that it was published to; the same as with `publish`.
    #[arg(long = "to", value_name = "GROUP", required_unless_present = "device", value_parser = config::group_name)]
    to: Vec<String>,
    /// The devices that it was published to; the same as with `publish`.
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    device: Vec<[u8; 16]>,
    #[command(flatten)]
    needs: NeedsArgs,
    /// The file; its name ends in .pack.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    dir: DirArg,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    if !args.out.to_string_lossy().ends_with(inbox::SUFFIX) {
        bail!("{} does not end in {}: boards would pass it over", args.out.display(), inbox::SUFFIX);
    }
    let audience = Audience {
        groups: args.to,
        devices: args.device,
        percent: 100,
        needs: args.needs.needs(),
        ..Audience::default()
    };
    let Packed { version, chunks, bytes: file } = args.dir.open()?.pack(&args.model, &audience)?;
    let written = RealDisk.commit(&args.out, &file);
    written.map_err(|error| advise(error, "write the pack", "is there room, and may you write there?"))?;
    let size = file.len() as u64;
    if args.json {
        let value = serde_json::json!({ "model": args.model, "version": version, "chunks": chunks, "bytes": size,
            "file": args.out });
        return print(&format!("{value:#}\n"));
    }
    let what = format!("{} version {version}, {chunks} chunks, {}", args.model, bytes(size));
    print(&format!("packed {what}: {}\n", args.out.display()))
}
