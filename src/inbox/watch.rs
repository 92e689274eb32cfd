//! The directory: which file is whole, and new.

use super::SUFFIX;
use crate::sys::{self, Stamp};
use notify::{RecursiveMode, Watcher as _};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{info, warn};

/// How often the directory is looked at in any case.
const EVERY: Duration = Duration::from_secs(5);
/// And how soon after a sign of life.
const SOON: Duration = Duration::from_millis(500);
/// A file that did not change for so long was written to its end, or broken off: then its contents tell.
const STABLE: Duration = Duration::from_secs(2);
/// Names that are looked at; a directory with more is no inbox.
const MAX_NAMES: usize = 256;

/// A file to be taken.
#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub file: File,
}

/// See the module's head.
#[derive(Debug)]
pub struct Inbox {
    dir: PathBuf,
    /// Files as they were at the last look, and since when; true once taken.
    seen: BTreeMap<String, (Stamp, Duration, bool)>,
    looked: Option<Duration>,
    stirred: Arc<AtomicBool>,
    /// Keeps the watch alive.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Inbox {
    pub fn new(dir: &Path) -> Self {
        let stirred = Arc::new(AtomicBool::new(false));
        let watcher = watch(dir, stirred.clone());
        info!(inbox = %dir.display(), watched = watcher.is_some(), "packs are taken from a directory");
        Self { dir: dir.to_owned(), seen: BTreeMap::new(), looked: None, stirred, _watcher: watcher }
    }

    /// The next file that is whole and was not given out as it is now.
    pub fn look(&mut self, now: Duration) -> Option<Found> {
        let since = self.looked.map_or(EVERY, |looked| now.saturating_sub(looked));
        let is_due = since >= EVERY || (since >= SOON && self.stirred.swap(false, Ordering::Relaxed));
        if !is_due {
            return None;
        }
        self.looked = Some(now);
        let names = self.names();
        self.seen.retain(|name, _| names.contains(name));
        names.into_iter().find_map(|name| self.settle(name, now))
    }

    /// Gives out once more what was given out.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    fn settle(&mut self, name: String, now: Duration) -> Option<Found> {
        let path = self.dir.join(&name);
        let (file, stamp) = match sys::open_plain(&path) {
            Ok(opened) => opened?,
            Err(error) => {
                let is_news = self.seen.insert(name, (Stamp::default(), now, true)).is_none();
                if is_news {
                    warn!(path = %path.display(), %error, "inbox: passed over");
                }
                return None;
            }
        };
        let (seen, since, taken) = *self.seen.entry(name.clone()).or_insert((stamp, now, false));
        if seen != stamp {
            self.seen.insert(name, (stamp, now, false));
            self.stirred.store(true, Ordering::Relaxed);
            return None;
        }
        if taken {
            return None;
        }
        if now.saturating_sub(since) < STABLE {
            self.stirred.store(true, Ordering::Relaxed);
            return None;
        }
        self.seen.insert(name, (stamp, since, true));
        Some(Found { path, file })
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let names = entries.take(MAX_NAMES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(SUFFIX)).collect();
        names.sort();
        names
    }
}

fn watch(dir: &Path, stirred: Arc<AtomicBool>) -> Option<notify::RecommendedWatcher> {
    let stir = move |_: notify::Result<notify::Event>| stirred.store(true, Ordering::Relaxed);
    let watcher = notify::recommended_watcher(stir).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    // Not there yet, or inotify is denied: looking now and then finds it all the same.
    watcher.inspect_err(|error| info!(%error, "the inbox is not watched, only looked at every few seconds")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_is_given_out_once_it_stays_as_it_is_and_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut inbox = Inbox::new(dir.path());
        assert!(inbox.look(at(0)).is_none());
        let path = dir.path().join("digits.pack");
        fs::write(&path, b"half").unwrap();
        assert!(inbox.look(at(10)).is_none(), "it has just come");
        fs::write(&path, b"half and half").unwrap();
        assert!(inbox.look(at(20)).is_none(), "it still grows");
        assert_eq!(inbox.look(at(30)).unwrap().path, path);
        assert!(inbox.look(at(40)).is_none(), "once");
        fs::remove_file(&path).unwrap();
        assert!(inbox.look(at(50)).is_none());
        fs::write(&path, b"another").unwrap();
        assert!(inbox.look(at(60)).is_none());
        assert!(inbox.look(at(70)).is_some());
    }

    #[test]
    fn links_pipes_directories_and_other_names_are_passed_over_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", dir.path().join("link.pack")).unwrap();
        symlink("/dev/zero", dir.path().join("zero.pack")).unwrap();
        fs::create_dir(dir.path().join("dir.pack")).unwrap();
        fs::write(dir.path().join("readme.txt"), b"x").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe.pack"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let mut inbox = Inbox::new(dir.path());
        assert!((0..10).all(|i| inbox.look(at(10 * i)).is_none()));
        assert!(Inbox::new(Path::new("/nowhere/at/all")).look(at(0)).is_none());
        (0..2000).for_each(|i| fs::write(dir.path().join(format!("{i}.pack")), b"").unwrap());
        inbox.look(at(1000));
        assert!(inbox.seen.len() <= MAX_NAMES);
    }
}
