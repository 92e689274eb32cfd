//! How it stands with the broker, for `selvedge check` on the board; it stays there.
//!
//! Written when it changes, not at each attempt: a board whose broker is away for months writes once.

use crate::sys::{Disk, unix_now};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAX_BYTES: u64 = 4096;
/// Characters: escaped, each takes at most twelve bytes of the file.
const MAX_REASON: usize = 300;

/// Where the link notes it.
fn path(state: &Path) -> PathBuf {
    state.join("session.json")
}

/// The session, as the link saw it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Since when, by the board's clock: seconds since 1970.
    pub since: u64,
    /// Why there is none.
    pub lost: Option<String>,
}

impl Session {
    /// Nothing where no link has run yet, or the note cannot be read: then it says nothing.
    pub fn last(disk: &dyn Disk, state: &Path) -> Option<Self> {
        let bytes = disk.read(&path(state), MAX_BYTES).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }
}

#[derive(Debug)]
pub(super) struct Noted {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    last: Option<Session>,
}

impl Noted {
    pub fn new(disk: Arc<dyn Disk>, state: &Path) -> Self {
        let last = Session::last(&*disk, state);
        Self { disk, path: path(state), last }
    }

    /// A session stands, or why none does. A disk that is full hinders nothing.
    pub fn note(&mut self, lost: Option<&str>) {
        let lost = lost.map(|reason| reason.chars().take(MAX_REASON).collect::<String>());
        if self.last.as_ref().is_some_and(|last| last.lost == lost) {
            return;
        }
        let session = Session { since: unix_now(), lost };
        let bytes = serde_json::to_vec(&session).expect("plain data serializes");
        match self.disk.commit(&self.path, &bytes) {
            Ok(()) => self.last = Some(session),
            Err(e) => tracing::warn!("the state of the session is not noted: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FaultyDisk;

    #[test]
    fn what_stays_the_same_is_written_once_and_what_is_said_can_be_read() {
        let (disk, state) = (FaultyDisk::new(), Path::new("/var/lib/selvedge-link"));
        assert_eq!(Session::last(&disk, state), None);
        let mut noted = Noted::new(Arc::new(disk.clone()), state);
        noted.note(Some("down"));
        let written = disk.operations();
        (0..1000).for_each(|_| noted.note(Some("down")));
        // Nor by a link that was started again.
        Noted::new(Arc::new(disk.clone()), state).note(Some("down"));
        assert_eq!(disk.operations(), written);
        assert_eq!(Session::last(&disk, state).unwrap().lost.as_deref(), Some("down"));
        noted.note(None);
        assert_eq!(Session::last(&disk, state).unwrap().lost, None);
        noted.note(Some(&"\u{1f9f5}".repeat(100_000)));
        assert!(Session::last(&disk, state).is_none_or(|session| session.lost.is_some()));
        disk.commit(&state.join("session.json"), b"{").unwrap();
        assert_eq!(Session::last(&disk, state), None);
    }

    #[test]
    fn a_full_disk_hinders_nothing_and_it_is_noted_once_there_is_room() {
        let (disk, state) = (FaultyDisk::new(), Path::new("/s"));
        let mut noted = Noted::new(Arc::new(disk.clone()), state);
        disk.full_after(0);
        noted.note(None);
        disk.mend();
        noted.note(None);
        assert!(Session::last(&disk, state).is_some());
    }
}
