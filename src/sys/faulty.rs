//! A disk in memory that loses power, fills up or becomes read-only at a chosen operation.
//!
//! The model is the pessimistic one that journaling file systems allow: contents are durable after
//! `sync`, names after `sync_dir`, and between the two a cut may keep any part. What was synced survives a later
//! append: those file systems write whole sectors and leave the blocks before the end alone. Not modelled: bad
//! sectors (the digests of what is stored find those).

use super::disk::{Access, Disk, DiskError};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a power cut leaves of changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torn {
    /// Nothing: names and contents are as of the last sync.
    Lost,
    /// Names as last seen, unsynced contents cut in half; of an append, what was appended.
    Half,
    /// Names as last seen, unsynced contents replaced by zeros of the same length; of an append, what was appended.
    Zeros,
    /// All of it: the cut came just after the cache was written back.
    Kept,
}

impl Torn {
    pub const ALL: [Self; 4] = [Self::Lost, Self::Half, Self::Zeros, Self::Kept];
}

#[derive(Debug, Clone, Default)]
struct File {
    contents: Vec<u8>,
    /// What a sync has made durable.
    durable: Option<Vec<u8>>,
    /// Since that sync the file was only appended to.
    grew: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    PowerCut { after: u64 },
    Full { after: u64 },
    ReadOnly { after: u64 },
}

type Names = BTreeMap<PathBuf, Arc<Mutex<File>>>;

#[derive(Debug)]
struct State {
    names: Names,
    durable_names: Names,
    operations: u64,
    fault: Fault,
}

/// See the module's head. Clones share one disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultyDisk {
    /// A sound, empty disk.
    pub fn new() -> Self {
        Self::with(Names::new())
    }

    fn with(names: Names) -> Self {
        let state = State { durable_names: names.clone(), names, operations: 0, fault: Fault::None };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Power goes after `operations` more changes; each later operation fails.
    pub fn cut_after(&self, operations: u64) {
        let mut state = self.state();
        let after = state.operations + operations;
        state.fault = Fault::PowerCut { after };
    }

    /// After `operations` more changes no write finds space; all else goes on.
    pub fn full_after(&self, operations: u64) {
        let mut state = self.state();
        let after = state.operations + operations;
        state.fault = Fault::Full { after };
    }

    /// After `operations` more changes none is taken any more, as by a kernel that found an error on the medium; reading goes on.
    pub fn read_only_after(&self, operations: u64) {
        let mut state = self.state();
        let after = state.operations + operations;
        state.fault = Fault::ReadOnly { after };
    }

    /// Space and power are back; what was done stays.
    pub fn mend(&self) {
        self.state().fault = Fault::None;
    }

    /// How many changes were asked for since the disk was made.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The disk as the next boot finds it.
    pub fn reboot(&self, torn: Torn) -> Self {
        let state = self.state();
        let names = match torn {
            Torn::Lost => &state.durable_names,
            Torn::Half | Torn::Zeros | Torn::Kept => &state.names,
        };
        let found = names.iter().map(|(path, file)| {
            let contents = survivor(&lock(file), torn);
            let file = File { durable: Some(contents.clone()), contents, grew: false };
            (path.clone(), Arc::new(Mutex::new(file)))
        });
        Self::with(found.collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Counts a change and says whether the fault hits it. A write meets a full disk, a removal does not.
    fn change(&self, doing: &'static str, path: &Path, needs_space: bool) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.state();
        let done = state.operations;
        state.operations += 1;
        let failure = match state.fault {
            Fault::PowerCut { after } if done >= after => Some(io::Error::other("the power is off")),
            Fault::Full { after } if done >= after && needs_space => Some(io::ErrorKind::StorageFull.into()),
            Fault::ReadOnly { after } if done >= after => Some(io::ErrorKind::ReadOnlyFilesystem.into()),
            Fault::None | Fault::PowerCut { .. } | Fault::Full { .. } | Fault::ReadOnly { .. } => None,
        };
        match failure {
            Some(source) => Err(DiskError::io(doing, path, source)),
            None => Ok(state),
        }
    }

    fn look(&self, doing: &'static str, path: &Path) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.state();
        match state.fault {
            Fault::PowerCut { after } if state.operations >= after => {
                Err(DiskError::io(doing, path, io::Error::other("the power is off")))
            }
            Fault::None | Fault::PowerCut { .. } | Fault::Full { .. } | Fault::ReadOnly { .. } => Ok(state),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn survivor(file: &File, torn: Torn) -> Vec<u8> {
    if file.durable.as_ref() == Some(&file.contents) {
        return file.contents.clone();
    }
    let durable = file.durable.clone().unwrap_or_default();
    let (kept, torn_off) = file.contents.split_at(if file.grew { durable.len() } else { 0 });
    let mut kept = kept.to_vec();
    match torn {
        Torn::Lost => return durable,
        Torn::Half => kept.extend(&torn_off[..torn_off.len() / 2]),
        Torn::Zeros => kept.resize(file.contents.len(), 0),
        Torn::Kept => kept.extend(torn_off),
    }
    kept
}

fn missing(doing: &'static str, path: &Path) -> DiskError {
    DiskError::io(doing, path, io::ErrorKind::NotFound.into())
}

impl Disk for FaultyDisk {
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let state = self.look("read", path)?;
        let Some(file) = state.names.get(path) else {
            return Ok(None);
        };
        let contents = lock(file).contents.clone();
        if contents.len() as u64 > limit {
            return Err(DiskError::TooLarge { path: path.to_owned(), limit });
        }
        Ok(Some(contents))
    }

    fn size(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        let state = self.look("look at", path)?;
        Ok(state.names.get(path).map(|file| lock(file).contents.len() as u64))
    }

    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let doing = "read in the middle of";
        let state = self.look(doing, path)?;
        let file = lock(state.names.get(path).ok_or_else(|| missing(doing, path))?);
        let there = usize::try_from(offset).ok().and_then(|at| file.contents.get(at..)?.get(..into.len()));
        into.copy_from_slice(there.ok_or_else(|| DiskError::io(doing, path, io::ErrorKind::UnexpectedEof.into()))?);
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let state = self.look("list", dir)?;
        let mut names: Vec<String> = state
            .names
            .keys()
            .filter_map(|path| path.strip_prefix(dir).ok()?.components().next())
            .filter_map(|first| first.as_os_str().to_str().map(str::to_owned))
            .collect();
        names.dedup();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), DiskError> {
        // Directories have no state of their own here: a name carries its path.
        self.change("create directory", dir, true).map(drop)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.change("write", path, true)?;
        let mut file = lock(state.names.entry(path.to_owned()).or_default());
        (file.contents, file.grew) = (bytes.to_vec(), false);
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.change("append to", path, true)?;
        let mut file = lock(state.names.entry(path.to_owned()).or_default());
        file.grew |= file.durable.as_ref() == Some(&file.contents);
        file.contents.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, path: &Path) -> Result<(), DiskError> {
        let state = self.change("sync", path, true)?;
        let file = state.names.get(path).ok_or_else(|| missing("sync", path))?;
        let mut file = lock(file);
        (file.durable, file.grew) = (Some(file.contents.clone()), false);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let mut state = self.change("sync", dir, true)?;
        let state = &mut *state;
        state.durable_names.retain(|path, _| path.parent() != Some(dir));
        let here = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        state.durable_names.extend(here.map(|(path, file)| (path.clone(), file.clone())));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut state = self.change("rename to", to, false)?;
        let file = state.names.remove(from).ok_or_else(|| missing("rename", from))?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.change("remove", path, false)?.names.remove(path);
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.change("remove", dir, false)?.names.retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn protect(&self, path: &Path, _: Access) -> Result<(), DiskError> {
        match self.change("set owner and mode of", path, false)?.names.contains_key(path) {
            true => Ok(()),
            false => Err(missing("set owner and mode of", path)),
        }
    }

    fn free(&self, path: &Path) -> Result<u64, DiskError> {
        let state = self.look("read the free space of", path)?;
        match state.fault {
            Fault::Full { after } if state.operations >= after => Ok(0),
            Fault::None | Fault::PowerCut { .. } | Fault::Full { .. } | Fault::ReadOnly { .. } => Ok(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(path: &str, contents: &[u8]) -> FaultyDisk {
        let disk = FaultyDisk::new();
        disk.commit(Path::new(path), contents).unwrap();
        disk
    }

    #[test]
    fn two_files_cut_anywhere_are_both_old_or_both_new_or_the_first_is_not_there() {
        let [model, data] = ["/a/m", "/a/m.data"].map(Path::new);
        for torn in Torn::ALL {
            for after in 0.. {
                let disk = FaultyDisk::new();
                disk.commit_with(model, b"old", data, &mut [&b"o"[..], b"ld"].into_iter()).unwrap();
                disk.cut_after(after);
                let done = disk.commit_with(model, b"new", data, &mut [&b"n"[..], b"", b"ew"].into_iter()).is_ok();
                let disk = disk.reboot(torn);
                let [first, second] = [model, data].map(|path| disk.read(path, 100).unwrap());
                assert!(first.is_none() || first == second, "{torn:?} {after}: {first:?} {second:?}");
                assert!(!done || first.as_deref() == Some(b"new"), "{torn:?} {after}");
                if done {
                    break;
                }
            }
        }
    }

    #[test]
    fn two_files_that_do_not_fit_leave_the_old_ones_alone() {
        let [model, data] = ["/a/m", "/a/m.data"].map(Path::new);
        let mut refused = 0;
        for after in 0.. {
            let disk = FaultyDisk::new();
            disk.commit_with(model, b"old", data, &mut [&b"old"[..]].into_iter()).unwrap();
            disk.full_after(after);
            if disk.commit_with(model, b"new", data, &mut [&b"new"[..]].into_iter()).is_ok() {
                break;
            }
            let [first, second] = [model, data].map(|path| disk.read(path, 100).unwrap());
            // Where names did not fit any more, what has been written is whole and stays.
            let left = disk.list(Path::new("/a")).unwrap();
            assert!(first.is_none() || (first == second && left.len() == 2), "{after}: {first:?} {left:?}");
            refused += usize::from(first.is_some());
        }
        assert!(refused > 3, "{refused}");
    }

    #[test]
    fn a_commit_cut_anywhere_leaves_the_old_or_the_new() {
        for torn in Torn::ALL {
            for cut in 0.. {
                let disk = disk_with("/a/f", b"old");
                disk.cut_after(cut);
                let done = disk.commit(Path::new("/a/f"), b"new").is_ok();
                let found = disk.reboot(torn).read(Path::new("/a/f"), 9).unwrap().unwrap();
                let acceptable: &[&[u8]] = if done { &[b"new"] } else { &[b"old", b"new"] };
                assert!(acceptable.contains(&&found[..]), "{torn:?} cut {cut}: {found:?}");
                if done {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_bare_write_is_lost_without_sync() {
        let disk = disk_with("/a/f", b"old");
        disk.write(Path::new("/a/f"), b"new").unwrap();
        let read = |torn| disk.reboot(torn).read(Path::new("/a/f"), 9).unwrap().unwrap();
        assert_eq!(read(Torn::Lost), b"old");
        assert_eq!(read(Torn::Half), b"n");
        assert_eq!(read(Torn::Zeros), [0, 0, 0]);
    }

    #[test]
    fn an_append_may_be_lost_and_leaves_what_was_synced() {
        let disk = disk_with("/a/f", b"old");
        disk.append(Path::new("/a/f"), b"next").unwrap();
        let read = |torn| disk.reboot(torn).read(Path::new("/a/f"), 9).unwrap().unwrap();
        assert_eq!(read(Torn::Lost), b"old");
        assert_eq!(read(Torn::Half), b"oldne");
        assert_eq!(read(Torn::Zeros), b"old\0\0\0\0");
        disk.write(Path::new("/a/f"), b"new!").unwrap();
        assert_eq!(disk.reboot(Torn::Half).read(Path::new("/a/f"), 9).unwrap().unwrap(), b"ne");
    }

    #[test]
    fn a_full_disk_refuses_writes_and_allows_removals() {
        let disk = disk_with("/a/f", b"old");
        disk.full_after(0);
        assert!(disk.write(Path::new("/a/g"), b"x").unwrap_err().is_full());
        disk.remove(Path::new("/a/f")).unwrap();
        assert_eq!(disk.read(Path::new("/a/f"), 9).unwrap(), None);
    }

    #[test]
    fn a_read_only_disk_reads_and_takes_no_change_until_it_is_mended() {
        let disk = disk_with("/a/f", b"old");
        disk.read_only_after(1);
        disk.remove(Path::new("/a/f")).unwrap();
        assert!(!disk.write(Path::new("/a/g"), b"x").unwrap_err().is_full());
        assert!(disk.remove(Path::new("/a/f")).is_err());
        assert_eq!(disk.read(Path::new("/a/f"), 9).unwrap(), None);
        disk.mend();
        disk.write(Path::new("/a/g"), b"x").unwrap();
    }

    #[test]
    fn a_file_over_its_limit_is_an_error() {
        let disk = disk_with("/a/f", b"12345");
        assert!(matches!(disk.read(Path::new("/a/f"), 4), Err(DiskError::TooLarge { limit: 4, .. })));
    }
}
