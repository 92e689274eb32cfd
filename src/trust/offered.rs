//! What the board shows, as far as it has come. Untrusted, bounded.

use super::delegation;
use crate::bundle::topics::{MAX_DELEGATED, is_delegated_name};
use std::collections::BTreeMap;
use std::fmt;

/// TUF's top-level roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Root,
    Timestamp,
    Snapshot,
    Targets,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Root, Self::Timestamp, Self::Snapshot, Self::Targets];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
        }
    }

    /// The name of its file on the board. The timestamp has one for all versions.
    pub fn file(self, version: u32) -> String {
        match self {
            Self::Timestamp => "timestamp.json".to_owned(),
            Self::Root | Self::Snapshot | Self::Targets => format!("{version}.{}.json", self.name()),
        }
    }

    /// The most bytes of one file.
    pub const fn limit(self) -> usize {
        match self {
            Self::Root | Self::Timestamp => 64 << 10,
            Self::Snapshot | Self::Targets => 1 << 20,
        }
    }

    /// The most files that are held: one timestamp, since the board shows one.
    const fn most(self) -> usize {
        match self {
            Self::Timestamp => 1,
            Self::Snapshot | Self::Targets => 8,
            Self::Root => 32,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a file is not held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("{role} metadata of {actual} bytes is over the limit of {limit}; it is passed over")]
    Bytes { role: Role, limit: usize, actual: usize },
    #[error("targets metadata delegates in a form or a number that is not read; it is passed over")]
    Delegations,
}

/// Untrusted metadata by role and version; the versions are what the bringer says.
#[derive(Debug, Clone, Default)]
pub struct Offered {
    timestamp: Option<Vec<u8>>,
    versioned: BTreeMap<(Role, u32), Vec<u8>>,
    /// Of delegated roles, the last that came of each name.
    delegated: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Offered {
    /// Adds a file, or replaces what was there of that version (any version, for the timestamp).
    /// Over its bound a role loses its lowest version.
    pub fn insert(&mut self, role: Role, version: u32, bytes: Vec<u8>) -> Result<(), TooMuch> {
        if bytes.len() > role.limit() {
            let (limit, actual) = (role.limit(), bytes.len());
            return Err(TooMuch::Bytes { role, limit, actual });
        }
        if role == Role::Targets && !delegation::is_bounded(&bytes) {
            return Err(TooMuch::Delegations);
        }
        if role == Role::Timestamp {
            self.timestamp = Some(bytes);
            return Ok(());
        }
        self.versioned.insert((role, version), bytes);
        let held = || self.versioned.keys().filter(|key| key.0 == role);
        if held().count() > role.most()
            && let Some(lowest) = held().next().copied()
        {
            self.versioned.remove(&lowest);
        }
        Ok(())
    }

    /// Adds the file of a delegated role, or replaces what was there of that name. What is no name of
    /// one is passed over; beyond as many as may be delegated to, another makes room.
    pub fn insert_delegated(&mut self, name: &str, version: u32, bytes: Vec<u8>) -> Result<(), TooMuch> {
        if bytes.len() > delegation::MAX_BYTES {
            let (limit, actual) = (delegation::MAX_BYTES, bytes.len());
            return Err(TooMuch::Bytes { role: Role::Targets, limit, actual });
        }
        if !delegation::is_bounded(&bytes) {
            return Err(TooMuch::Delegations);
        }
        if !is_delegated_name(name) {
            return Ok(());
        }
        if self.delegated.len() >= MAX_DELEGATED && !self.delegated.contains_key(name) {
            self.delegated.pop_first();
        }
        self.delegated.insert(name.to_owned(), (version, bytes));
        Ok(())
    }

    pub(super) fn delegated(&self, name: &str, version: u32) -> Option<&[u8]> {
        self.delegated.get(name).filter(|(of, _)| *of == version).map(|(_, bytes)| bytes.as_slice())
    }

    pub(super) fn has_delegated(&self) -> bool {
        !self.delegated.is_empty()
    }

    pub(super) fn timestamp(&self) -> Option<&[u8]> {
        self.timestamp.as_deref()
    }

    pub(super) fn get(&self, role: Role, version: u32) -> Option<&[u8]> {
        self.versioned.get(&(role, version)).map(Vec::as_slice)
    }

    /// All files by the names that they have on the board.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let timestamp = self.timestamp().map(|bytes| (Role::Timestamp.file(0), bytes));
        let versioned = self.versioned.iter().map(|(&(role, version), bytes)| (role.file(version), bytes.as_slice()));
        timestamp.into_iter().chain(versioned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_the_newest_stays() {
        let mut offered = Offered::default();
        for version in 1..1000 {
            for role in Role::ALL {
                offered.insert(role, version, vec![0; 8]).unwrap();
            }
        }
        assert_eq!(offered.files().count(), 1 + 8 + 8 + 32);
        assert!(offered.get(Role::Targets, 999).is_some());
        assert!(offered.get(Role::Targets, 991).is_none());
    }

    #[test]
    fn a_file_over_its_limit_is_not_taken() {
        let mut offered = Offered::default();
        for role in Role::ALL {
            assert!(offered.insert(role, 1, vec![b' '; role.limit() + 1]).is_err());
        }
        assert_eq!(offered.files().count(), 0);
    }

    #[test]
    fn files_of_delegated_roles_are_bounded_in_number_name_and_size() {
        let mut offered = Offered::default();
        for n in 0..1000 {
            offered.insert_delegated(&format!("team-{n}"), n, vec![0; 8]).unwrap();
        }
        assert_eq!(offered.delegated.len(), MAX_DELEGATED);
        offered.insert_delegated("team-999", 9, vec![1]).unwrap();
        assert_eq!((offered.delegated("team-999", 999), offered.delegated("team-999", 9)), (None, Some(&[1][..])));
        for name in ["", "targets", "root", "../x", "a/b", "a.b", "#", "A"] {
            offered.insert_delegated(name, 1, Vec::new()).unwrap();
        }
        assert!(offered.insert_delegated("vision", 1, vec![0; delegation::MAX_BYTES + 1]).is_err());
        assert_eq!(offered.delegated.len(), MAX_DELEGATED);
    }

    #[test]
    fn a_second_file_of_a_version_replaces_the_first() {
        let mut offered = Offered::default();
        offered.insert(Role::Timestamp, 9, b"old".to_vec()).unwrap();
        offered.insert(Role::Timestamp, 1, b"new".to_vec()).unwrap();
        offered.insert(Role::Root, 2, b"old".to_vec()).unwrap();
        offered.insert(Role::Root, 2, b"new".to_vec()).unwrap();
        assert_eq!(offered.timestamp(), Some(&b"new"[..]));
        assert_eq!(offered.get(Role::Root, 2), Some(&b"new"[..]));
    }
}
