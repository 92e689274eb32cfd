//! The egress ledger: one JSON line for each packet that left, appended, never rewritten.
//!
//! Two files bound it: at `limit` bytes the ledger becomes `<name>.1` and a new one begins. Lines
//! are not synced one by one (an SD card would wear out); a power cut may take the last ones.

use crate::sys::{Disk, DiskError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a packet was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Opening the session: client id, credentials, last will.
    Connect,
    Online,
    Status,
    Metrics,
    /// Names of metadata or chunks that the device wants.
    Subscribe,
    Unsubscribe,
    /// Acknowledgements and pings: fixed bytes.
    Protocol,
    Disconnect,
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// Seconds since 1970 UTC by the system's clock.
    pub time: u64,
    pub kind: Kind,
    /// Empty for packets without one; the first where a packet names several.
    pub topic: String,
    /// Of the whole packet, header included.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// No ledger of ours is larger; see `ledger-limit-mib`.
const MOST: u64 = 64 << 20;

/// The writer's end; one process writes.
#[derive(Debug)]
pub struct Ledger {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    limit: u64,
    written: u64,
}

impl Ledger {
    /// Goes on where the ledger at `path` ends.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, limit: u64) -> Result<Self, LedgerError> {
        if let Some(dir) = path.parent() {
            disk.create_dir(dir)?;
        }
        let found = match disk.read(path, limit.saturating_mul(2)) {
            // The limit was lowered since: the old ledger steps back whole.
            Err(DiskError::TooLarge { .. }) => {
                disk.rename(path, &older(path))?;
                None
            }
            found => found?,
        };
        let written = found.as_ref().map_or(0, |bytes| bytes.len() as u64);
        // A line that a power cut tore is closed, so that the next one stands by itself.
        if found.is_some_and(|bytes| bytes.last().is_some_and(|&b| b != b'\n')) {
            disk.append(path, b"\n")?;
        }
        Ok(Self { disk, path: path.to_owned(), limit, written })
    }

    pub fn record(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        let mut line = serde_json::to_vec(entry).expect("plain data serializes");
        line.push(b'\n');
        if self.written + line.len() as u64 > self.limit {
            self.disk.rename(&self.path, &older(&self.path))?;
            self.written = 0;
        }
        self.disk.append(&self.path, &line)?;
        self.written += line.len() as u64;
        Ok(())
    }

    /// All entries that stand, oldest first. Lines that a power cut or a full disk tore are passed over
    /// and counted in the log: the others are still the proof.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<Entry>, LedgerError> {
        let mut entries = Vec::new();
        for path in [older(path), path.to_owned()] {
            let bytes = disk.read(&path, MOST)?.unwrap_or_default();
            let mut torn = 0;
            for line in bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(entry) => entries.push(entry),
                    Err(_) => torn += 1,
                }
            }
            if torn > 0 {
                tracing::warn!(path = %path.display(), torn, "lines of the ledger are torn");
            }
        }
        Ok(entries)
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Packets and bytes by kind.
pub fn totals<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Kind, (u64, u64)> {
    let mut totals = BTreeMap::<Kind, (u64, u64)>::new();
    for entry in entries {
        let total = totals.entry(entry.kind).or_default();
        total.0 += 1;
        total.1 += entry.bytes;
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FaultyDisk;

    fn entry(bytes: u64) -> Entry {
        Entry { time: 1, kind: Kind::Status, topic: "t".into(), bytes }
    }

    #[test]
    fn it_goes_on_after_a_torn_line_and_stays_within_two_files() {
        let disk = FaultyDisk::new();
        let path = Path::new("/l/egress");
        let open = || Ledger::open(Arc::new(disk.clone()), path, 300).unwrap();
        open().record(&entry(1)).unwrap();
        disk.append(path, b"{\"time\":1,\"ki\0\0\0").unwrap();
        open().record(&entry(2)).unwrap();
        let read = || Ledger::read(&disk, path).unwrap();
        assert_eq!(read(), [entry(1), entry(2)]);
        let mut ledger = open();
        (3..100).for_each(|i| ledger.record(&entry(i)).unwrap());
        assert_eq!(read().last(), Some(&entry(99)));
        assert!(disk.read(path, 300).unwrap().is_some());
        assert_eq!(totals(&[entry(1), entry(2)])[&Kind::Status], (2, 3));
    }
}
