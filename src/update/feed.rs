//! A pack from the inbox, fed in as a link would bring it.
//!
//! Invariant: nothing in a pack is believed for where it came from: metadata, nodes and chunks go through
//! `Updater::on_message`, to the same trust, the same freshness and the same gates.

use super::updater::Updater;
use crate::bundle::Digest;
use crate::bundle::topics::is_delegated_name;
use crate::inbox::{Pack, PackError};
use crate::ipc::{Fetch, Role, ToEngine};
use crate::sys::DiskError;
use tracing::warn;

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("the pack does not read")]
    Pack(#[from] PackError),
}

impl Updater {
    /// Takes from a pack what this device lacks; `alive` is called now and then. The link has to begin anew after it.
    pub async fn take_pack(&mut self, pack: &Pack, alive: &(dyn Fn() + Sync)) -> Result<(), FeedError> {
        self.link_is_new()?;
        let fed = self.feed(pack, alive).await;
        self.link_is_new()?;
        fed
    }

    async fn feed(&mut self, pack: &Pack, alive: &(dyn Fn() + Sync)) -> Result<(), FeedError> {
        let mut files: Vec<(File<'_>, &str)> = pack.metadata().filter_map(|name| Some((file(name)?, name))).collect();
        files.sort();
        for (file, name) in files {
            let Some(bytes) = pack.read_metadata(name)? else { continue };
            let message = match file {
                File::Top(role, version) => ToEngine::Metadata { role, version, bytes },
                File::Team(name, version) => ToEngine::Delegated { name: name.to_owned(), version, bytes },
            };
            self.on_message(message).await?;
            alive();
        }
        self.next_download()?;
        let mut last = Vec::new();
        loop {
            let wanted = self.wanted();
            // What was brought and is asked for again was not what its name says.
            if wanted.is_empty() || wanted == last {
                return Ok(());
            }
            if !self.bring(pack, &wanted).await? {
                return Ok(());
            }
            last = wanted;
            alive();
        }
    }

    /// Brings what is wanted; false where the pack has none of it.
    async fn bring(&mut self, pack: &Pack, wanted: &[(u32, Digest)]) -> Result<bool, FeedError> {
        let request = self.request();
        let mut brought = false;
        for (ordinal, digest) in wanted {
            let Some(bytes) = pack.content(digest)? else { continue };
            brought = true;
            let message = match request {
                Fetch::Chunks { .. } => ToEngine::Chunk { ordinal: *ordinal, bytes },
                Fetch::Nothing | Fetch::Target { .. } | Fetch::Delta { .. } => ToEngine::Node { bytes },
            };
            self.on_message(message).await?;
        }
        if !brought && matches!(request, Fetch::Delta { .. }) {
            self.asked_in_vain()?;
            return Ok(true);
        }
        if !brought {
            warn!(lacks = %wanted[0].1, "the pack does not hold what this device wants");
            // It may hold what another model wants.
            return Ok(self.pass_over()?);
        }
        Ok(true)
    }
}

/// In the order in which a board is read: roots, the timestamp before what it names, then what the targets delegate to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum File<'a> {
    Top(Role, u32),
    Team(&'a str, u32),
}

fn file(name: &str) -> Option<File<'_>> {
    let stem = name.strip_suffix(".json")?;
    let (version, kind) = stem.split_once('.').unwrap_or(("0", stem));
    let version = version.parse().ok()?;
    Some(match kind {
        "root" => File::Top(Role::Root, version),
        "timestamp" => File::Top(Role::Timestamp, version),
        "snapshot" => File::Top(Role::Snapshot, version),
        "targets" => File::Top(Role::Targets, version),
        team if is_delegated_name(team) => File::Team(team, version),
        _ => return None,
    })
}
