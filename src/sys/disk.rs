//! Files as the update path needs them: whole, bounded, durable in a stated order.

use super::counted::Written;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What a file operation failed at; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} holds more than {limit} bytes; it is not a file that Selvedge wrote")]
    TooLarge { path: PathBuf, limit: u64 },
}

impl DiskError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// True when the disk is full or its quota is used up: the one error that a caller can wait out.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::TooLarge { .. } => false,
        }
    }
}

/// Who may read a file, besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub mode: u32,
    pub group: Option<u32>,
}

impl Access {
    /// Its owner alone.
    pub const PRIVATE: Self = Self { mode: 0o600, group: None };
    pub const PUBLIC: Self = Self { mode: 0o644, group: None };
}

/// Single operations; nothing is durable until `sync` (contents) and `sync_dir` (names) return.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// The whole file, or `None` when there is none; an error when it is larger than `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError>;
    /// Bytes of a file, or `None` when there is none.
    fn size(&self, path: &Path) -> Result<Option<u64>, DiskError>;
    /// Fills `into` from the middle of a file; an error where it ends before.
    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// The names in a directory, sorted; empty when it does not exist.
    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError>;
    /// Makes a directory and its parents.
    fn create_dir(&self, dir: &Path) -> Result<(), DiskError>;
    /// Makes or replaces the contents of a file.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError>;
    /// Adds to the end of a file, making it first when there is none.
    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError>;
    fn sync(&self, path: &Path) -> Result<(), DiskError>;
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError>;
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;
    /// Removes a file; none there is no error.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;
    /// Removes a directory and all below it; none there is no error.
    fn remove_dir(&self, dir: &Path) -> Result<(), DiskError>;
    /// Sets who may read a file.
    fn protect(&self, path: &Path, access: Access) -> Result<(), DiskError>;
    /// Bytes free for us on the file system that holds `path`.
    fn free(&self, path: &Path) -> Result<u64, DiskError>;

    /// What was written, where somebody counts it.
    fn written(&self) -> Written {
        Written::default()
    }

    /// Replaces a file so that after a power cut either the old or the new contents stand:
    /// write beside it, sync, rename, sync the directory. Done means durable.
    fn commit(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        // Of a bare name the parent is the empty path, which is no directory.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let new = with_suffix(path, ".new");
        self.create_dir(dir)?;
        self.write(&new, bytes)?;
        self.sync(&new)?;
        self.rename(&new, path)?;
        self.sync_dir(dir)
    }

    /// As `commit`, of a file that nobody else may read at any moment.
    fn commit_as(&self, path: &Path, bytes: &[u8], access: Access) -> Result<(), DiskError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let new = with_suffix(path, ".new");
        self.create_dir(dir)?;
        self.remove(&new)?;
        // Protected while it holds nothing.
        self.write(&new, &[])?;
        self.protect(&new, access)?;
        self.append(&new, bytes)?;
        self.sync(&new)?;
        self.rename(&new, path)?;
        self.sync_dir(dir)
    }

    /// As `commit`, of a file that reads from another one beside it, which comes in pieces: after a power cut both are the
    /// old ones, or both the new ones, or the file is not there. Where it fails before that, nothing new is left.
    fn commit_with<'a>(
        &self,
        path: &Path,
        bytes: &[u8],
        other: &Path,
        pieces: &mut (dyn Iterator<Item = &'a [u8]> + 'a),
    ) -> Result<(), DiskError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (new, new_other) = (with_suffix(path, ".new"), with_suffix(other, ".new"));
        self.create_dir(dir)?;
        let mut write = || {
            self.write(&new_other, &[])?;
            pieces.filter(|piece| !piece.is_empty()).try_for_each(|piece| self.append(&new_other, piece))?;
            self.sync(&new_other)?;
            self.write(&new, bytes)?;
            self.sync(&new)
        };
        if let Err(error) = write() {
            // The disk may be full of it; that it did not fit is what is to be told.
            let _ = self.remove(&new_other).and_then(|()| self.remove(&new));
            return Err(error);
        }
        // The old one would read from the new other one.
        self.remove(path)?;
        self.sync_dir(dir)?;
        self.rename(&new_other, other)?;
        self.sync_dir(dir)?;
        self.rename(&new, path)?;
        self.sync_dir(dir)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DiskError::io("open", path, e)),
        };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| DiskError::io("read", path, e))?;
        if bytes.len() as u64 > limit {
            return Err(DiskError::TooLarge { path: path.to_owned(), limit });
        }
        Ok(Some(bytes))
    }

    fn size(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DiskError::io("look at", path, e)),
        }
    }

    fn read_at(&self, path: &Path, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        File::open(path)
            .and_then(|file| file.read_exact_at(into, offset))
            .map_err(|e| DiskError::io("read in the middle of", path, e))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(DiskError::io("list", dir, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| DiskError::io("list", dir, e))?;
            // A name that is not UTF-8 is none of ours.
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let new = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).count();
        fs::create_dir_all(dir).map_err(|e| DiskError::io("create directory", dir, e))?;
        // A name is durable once the directory that holds it is synced.
        dir.ancestors().skip(1).take(new).filter(|dir| !dir.as_os_str().is_empty()).try_for_each(|dir| self.sync(dir))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        fs::write(path, bytes).map_err(|e| DiskError::io("write", path, e))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|e| DiskError::io("append to", path, e))
    }

    fn sync(&self, path: &Path) -> Result<(), DiskError> {
        File::open(path).and_then(|file| file.sync_all()).map_err(|e| DiskError::io("sync", path, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.sync(dir)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that renames")]
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        fs::rename(from, to).map_err(|e| DiskError::io("rename to", to, e))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        absent_is_fine(fs::remove_file(path)).map_err(|e| DiskError::io("remove", path, e))
    }

    fn remove_dir(&self, dir: &Path) -> Result<(), DiskError> {
        absent_is_fine(fs::remove_dir_all(dir)).map_err(|e| DiskError::io("remove", dir, e))
    }

    fn protect(&self, path: &Path, access: Access) -> Result<(), DiskError> {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        let group = access.group.map_or(Ok(()), |group| chown(path, None, Some(group)));
        group
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(access.mode)))
            .map_err(|e| DiskError::io("set owner and mode of", path, e))
    }

    fn free(&self, path: &Path) -> Result<u64, DiskError> {
        // What will be made below a directory takes its space.
        let standing = path.ancestors().find(|path| path.exists()).unwrap_or(path);
        let stat =
            rustix::fs::statvfs(standing).map_err(|e| DiskError::io("read the free space of", path, e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// By what a change of a file is seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// Opens a stranger's file to read: a plain one, never through a link; a pipe is not waited for. None where it is
/// something else, or gone.
pub fn open_plain(path: &Path) -> io::Result<Option<(File, Stamp)>> {
    use rustix::fs::OFlags;
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    // Looked at before: to open a device may do something.
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(_) | Err(_) => return Ok(None),
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let stamp = Stamp { inode: metadata.ino(), bytes: metadata.len(), modified };
    Ok(metadata.is_file().then_some((file, stamp)))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
