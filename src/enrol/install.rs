//! A card taken over by a board.
//!
//! Invariants: nothing is changed before the whole card is read and checked; the configuration, which names the rest,
//! is written last; the card is cleared only after all of it is durable. So a power cut at any point leaves a card that
//! the next boot takes over again, or a board that has all of it.

use super::card::{CERTIFICATE, CONFIG, CREDENTIALS, Card, KEY, ROOT, SECRETS};
use super::merge::merge;
use crate::config::{Config, ConfigError, DeviceId};
use crate::mqtt::TlsError;
use crate::sys::{Access, Disk, DiskError};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0} is not there: `selvedge provision` makes a whole card; copy all of it")]
    Missing(PathBuf),
    #[error("{0} is no text")]
    NotText(PathBuf),
    #[error("the card's configuration is of no use")]
    Config(#[source] ConfigError),
    #[error("{0} names no device: `id` under [device] is expected")]
    NoId(PathBuf),
    #[error("{0} is no root of trust: copy it again from the operator")]
    NotRoot(PathBuf),
    #[error("the card's configuration names {path}, which is not of a card: {expected} is expected")]
    Elsewhere { path: PathBuf, expected: PathBuf },
    #[error("the card's certificates are of no use")]
    Tls(#[source] TlsError),
    #[error("this board is device {there}, the card is for {card}: is it the right card? --force makes it that device")]
    OtherDevice { there: DeviceId, card: DeviceId },
    #[error(
        "{0} is another root than the card's, of another operator or an older one: is it the right board? --force puts the card's there"
    )]
    OtherOperator(PathBuf),
    #[error("{path} cannot be taken on: correct it, or move it away")]
    Existing { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// Where a card goes.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// `/etc/selvedge`, or where that stands in another root.
    pub etc: &'a Path,
    /// Whose link may read the secrets.
    pub link_group: Option<u32>,
    /// Another device's place may be taken.
    pub force: bool,
}

/// What became of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    pub device: DeviceId,
    /// False where the board had all of it.
    pub changed: bool,
    /// It has another root of trust than before: what the engine trusted so far is in the way.
    pub new_root: bool,
}

/// Puts a card's files into their place.
pub fn install(disk: &dyn Disk, card: &Path, place: &Place<'_>) -> Result<Installed, InstallError> {
    let card_dir = card;
    let card = Card::read(disk, card_dir)?;
    let at = |name: &str| place.etc.join(name);
    let existing = disk.read(&at(CONFIG), Config::MAX_BYTES)?;
    let (config, there) = taken_on(existing.as_deref(), &card, &at(CONFIG))?;
    let other = there.filter(|there| *there != card.id);
    if let Some(there) = other.filter(|_| !place.force) {
        return Err(InstallError::OtherDevice { there, card: card.id });
    }
    let is_known = there == Some(card.id);
    let had_root = disk.size(&at(ROOT))?.is_some();
    // A board without an `id` goes by its machine's, so that only its root tells whose it is.
    let new_root = had_root && !is_known && !card.root.is_empty() && !is_same(disk, &at(ROOT), &card.root);
    if new_root && !place.force {
        return Err(InstallError::OtherOperator(at(ROOT)));
    }
    if let Some(gone) = card.gone.first() {
        return emptied(disk, &card, gone, card_dir, place, there);
    }
    let mut changed = false;
    let secret = Access { mode: if place.link_group.is_some() { 0o640 } else { 0o600 }, group: place.link_group };
    let mut put = |name: &str, bytes: &[u8], access: Access| -> Result<(), DiskError> {
        let same = is_same(disk, &at(name), bytes);
        changed |= !same;
        // A secret's mode may have been opened since.
        if same && access != secret { Ok(()) } else { disk.commit_as(&at(name), bytes, access) }
    };
    for (name, bytes) in &card.credentials {
        put(name, bytes, if SECRETS.contains(name) { secret } else { Access::PUBLIC })?;
    }
    // A device that goes on keeps the root that it has gone on from.
    if !is_known || !had_root {
        put(ROOT, &card.root, Access::PUBLIC)?;
    }
    put(CONFIG, config.as_bytes(), Access::PUBLIC)?;
    remove_unnamed(disk, &card, place.etc)?;
    Ok(Installed { device: card.id, changed, new_root })
}

/// The configuration that the board shall have, and the device that it is so far.
fn taken_on(existing: Option<&[u8]>, card: &Card, path: &Path) -> Result<(String, Option<DeviceId>), InstallError> {
    let Some(existing) = existing else { return Ok((card.config.clone(), None)) };
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| InstallError::Existing { path: path.into(), source };
    let existing = std::str::from_utf8(existing).map_err(|e| failed(e.into()))?;
    let name = path.display().to_string();
    let there = Config::parse(existing, &name).map_err(|e| failed(e.into()))?.device.id;
    let merged = merge(existing, &card.config).map_err(|e| failed(e.into()))?;
    Config::parse(&merged, &name).map_err(|e| failed(e.into()))?;
    Ok((merged, there))
}

fn is_same(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> bool {
    disk.read(path, bytes.len() as u64).is_ok_and(|found| found.as_deref() == Some(bytes))
}

/// A card without its secrets has been taken over by this board, or is of no use.
fn emptied(
    disk: &dyn Disk,
    card: &Card,
    gone: &str,
    dir: &Path,
    place: &Place<'_>,
    there: Option<DeviceId>,
) -> Result<Installed, InstallError> {
    let mut whole = there == Some(card.id);
    for name in &card.gone {
        whole &= disk.size(&place.etc.join(name))?.is_some();
    }
    for (name, bytes) in card.credentials.iter().filter(|(name, _)| *name == CERTIFICATE) {
        whole &= is_same(disk, &place.etc.join(name), bytes);
    }
    match whole {
        true => Ok(Installed { device: card.id, changed: false, new_root: false }),
        false => Err(InstallError::Missing(dir.join(gone))),
    }
}

/// Credentials of before, which nothing names any more.
fn remove_unnamed(disk: &dyn Disk, card: &Card, etc: &Path) -> Result<(), DiskError> {
    let mut removed = false;
    for name in CREDENTIALS {
        let path = etc.join(name);
        let named = card.credentials.iter().any(|(named, _)| *named == name);
        if !named && disk.size(&path)?.is_some() {
            disk.remove(&path)?;
            removed = true;
        }
    }
    if removed { disk.sync_dir(etc) } else { Ok(()) }
}

/// True where a directory, as a power cut in the middle of `clear` may leave it, has nothing of a card.
pub fn is_cleared(disk: &dyn Disk, card: &Path) -> Result<bool, InstallError> {
    let names = disk.list(card)?;
    Ok(!names.iter().any(|name| CREDENTIALS.contains(&name.as_str()) || [ROOT, CONFIG].contains(&name.as_str())))
}

/// What was left of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// Files that are none of a card's and stay.
    pub others: usize,
}

/// Removes a card that was taken over: its secrets first, its configuration last.
pub fn clear(disk: &dyn Disk, card: &Path) -> Result<Cleared, InstallError> {
    for name in SECRETS {
        disk.remove(&card.join(name))?;
    }
    disk.sync_dir(card)?;
    for name in CREDENTIALS.into_iter().filter(|name| *name != KEY).chain([ROOT]) {
        disk.remove(&card.join(name))?;
    }
    disk.sync_dir(card)?;
    disk.remove(&card.join(CONFIG))?;
    disk.sync_dir(card)?;
    let others = disk.list(card)?.len();
    if others == 0 {
        disk.remove_dir(card)?;
        // Of a bare name the parent is the empty path, which is no directory.
        let parent = card.parent().filter(|parent| !parent.as_os_str().is_empty());
        disk.sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(Cleared { others })
}
