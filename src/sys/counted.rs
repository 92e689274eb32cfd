//! A disk that counts what is written: cards wear out by it.
//!
//! Counted are the bytes that are handed over and the syncs, each of which costs the card a block or more, by the first
//! name below one directory. Not counted: what the file system adds (its journal, directories, whole blocks).

use super::disk::{Access, Disk, DiskError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was written since the disk was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub syncs: u64,
}

/// See the file's head. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CountedDisk {
    disk: Arc<dyn Disk>,
    below: PathBuf,
    counts: Arc<Mutex<BTreeMap<String, Written>>>,
}

/// More names are counted as one.
const MAX_NAMES: usize = 64;

impl CountedDisk {
    pub fn new(disk: Arc<dyn Disk>, below: PathBuf) -> Self {
        Self { disk, below, counts: Arc::default() }
    }

    /// By the first name below the directory.
    pub fn by_name(&self) -> BTreeMap<String, Written> {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, Written>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counted when asked for: one that fails half-way has written, too.
    fn count(&self, path: &Path, bytes: u64, syncs: u64) {
        let first = path.strip_prefix(&self.below).ok().and_then(|rest| rest.components().next());
        let name = first.and_then(|name| name.as_os_str().to_str()).map_or("", |name| name.trim_end_matches(".new"));
        let mut counts = self.counts();
        let name = if counts.len() < MAX_NAMES || counts.contains_key(name) { name } else { "" };
        let written = counts.entry(name.to_owned()).or_default();
        written.bytes = written.bytes.saturating_add(bytes);
        written.syncs = written.syncs.saturating_add(syncs);
    }
}

impl Disk for CountedDisk {
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.read(path, limit)
    }

    fn size(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        self.disk.size(path)
    }

    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read_at(path, offset, into)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.disk.create_dir(dir)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        self.count(path, bytes.len() as u64, 0);
        self.disk.write(path, bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        self.count(path, bytes.len() as u64, 0);
        self.disk.append(path, bytes)
    }

    fn sync(&self, path: &Path) -> Result<(), DiskError> {
        self.count(path, 0, 1);
        self.disk.sync(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.count(dir, 0, 1);
        self.disk.sync_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.disk.remove_dir(dir)
    }

    fn protect(&self, path: &Path, access: Access) -> Result<(), DiskError> {
        self.disk.protect(path, access)
    }

    fn free(&self, path: &Path) -> Result<u64, DiskError> {
        self.disk.free(path)
    }

    fn written(&self) -> Written {
        let add = |sum: Written, one: &Written| Written {
            bytes: sum.bytes.saturating_add(one.bytes),
            syncs: sum.syncs.saturating_add(one.syncs),
        };
        self.counts().values().fold(Written::default(), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FaultyDisk;

    #[test]
    fn every_byte_and_sync_is_counted_where_it_goes() {
        let disk = CountedDisk::new(Arc::new(FaultyDisk::new()), "/state".into());
        disk.commit(Path::new("/state/journal.json"), &[0; 100]).unwrap();
        disk.commit(Path::new("/state/models/digits/1"), &[0; 1000]).unwrap();
        disk.append(Path::new("/state/audit/1.log"), &[0; 10]).unwrap();
        disk.sync(Path::new("/state/audit/1.log")).unwrap();
        disk.read(Path::new("/state/journal.json"), 1000).unwrap();
        let by_name = disk.by_name();
        let of = |name: &str| by_name.get(name).map_or((0, 0), |written| (written.bytes, written.syncs));
        assert_eq!(of("journal.json"), (100, 1));
        // The state directory's own sync.
        assert_eq!(of(""), (0, 1));
        assert_eq!(of("models"), (1000, 2));
        assert_eq!(of("audit"), (10, 1));
        assert_eq!(disk.written(), Written { bytes: 1110, syncs: 5 });
        (0..1000).for_each(|i| disk.write(Path::new(&format!("/state/{i}")), b"x").unwrap());
        assert!(disk.by_name().len() <= MAX_NAMES + 1);
        assert_eq!(disk.written().bytes, 2110);
    }
}
