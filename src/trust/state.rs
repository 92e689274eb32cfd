//! What a device has come to trust, as one file. Every byte of it is under a digest.

use crate::bundle::Digest;
use crate::sys::{Disk, DiskError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tough::schema::{RoleType, Root, Signed};

const FORMAT: u32 = 1;

/// The most that the file may take: what `Role::limit` allows, escaped as JSON strings are.
const MAX_BYTES: usize = 32 << 20;

/// Roots that are kept; older ones only prove what the oldest kept one stands for.
const MAX_ROOTS: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Of `state`, serialized.
    sha256: Digest,
    state: State,
}

/// Metadata as it came, to the byte; all of it verified before it got here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct State {
    format: u32,
    /// Device time never falls below: the newest `issued` of a trusted timestamp.
    pub floor: u64,
    /// Oldest first, without a gap; the last is the trusted one.
    pub roots: Vec<String>,
    pub set: Option<Set>,
}

/// A timestamp with the snapshot and the targets that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Set {
    pub timestamp: String,
    pub snapshot: String,
    pub targets: String,
    /// Of the delegated roles, by name, those that came and hold; a file without any has none of this.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub delegated: BTreeMap<String, String>,
    /// A newer root replaced the keys of timestamp or snapshot: versions that the old keys signed
    /// bind no more, or whoever stole them could have made them endless (TUF 5.3.11).
    pub versions_void: bool,
    /// A newer root replaced the keys of the timestamp: the floor that the old keys raised binds
    /// the next set no more, for the same reason.
    pub floor_void: bool,
}

/// Why there is no state to go on from.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Corrupt(&'static str),
}

impl State {
    pub fn bootstrap(root: String) -> Self {
        Self { format: FORMAT, floor: 0, roots: vec![root], set: None }
    }

    /// `None` only when there is no file: one that cannot be read is never taken for an absent one.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, LoadError> {
        let Some(bytes) = disk.read(path, MAX_BYTES as u64)? else {
            return Ok(None);
        };
        let file: File = serde_json::from_slice(&bytes).map_err(|_| LoadError::Corrupt("it is cut or overwritten"))?;
        if file.state.format != FORMAT {
            return Err(LoadError::Corrupt("it is of another format"));
        }
        if Digest::of(&file.state.to_bytes()) != file.sha256 {
            return Err(LoadError::Corrupt("its digest does not match"));
        }
        if file.state.roots.is_empty() {
            return Err(LoadError::Corrupt("it holds no root"));
        }
        Ok(Some(file.state))
    }

    pub fn save(&self, disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
        let file = File { sha256: Digest::of(&self.to_bytes()), state: self.clone() };
        let bytes = serde_json::to_vec(&file).expect("plain data serializes");
        if bytes.len() > MAX_BYTES {
            return Err(DiskError::TooLarge { path: path.to_owned(), limit: MAX_BYTES as u64 });
        }
        disk.commit(path, &bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data serializes")
    }

    pub fn root(&self) -> &str {
        self.roots.last().map_or("", String::as_str)
    }

    /// Puts newer roots on top; what replaced keys had signed loses its hold.
    pub fn add_roots(&mut self, new: Vec<String>) {
        let before = parse_root(self.root());
        self.roots.extend(new);
        let surplus = self.roots.len().saturating_sub(MAX_ROOTS);
        self.roots.drain(..surplus);
        let (Some(before), Some(after), Some(set)) = (before, parse_root(self.root()), self.set.as_mut()) else {
            return;
        };
        let replaced = |role| before.signed.keys(role).ne(after.signed.keys(role));
        set.floor_void |= replaced(RoleType::Timestamp);
        set.versions_void |= replaced(RoleType::Timestamp) || replaced(RoleType::Snapshot);
    }
}

pub(super) fn parse_root(text: &str) -> Option<Signed<Root>> {
    serde_json::from_str(text).ok()
}

pub(super) fn version(root: &Signed<Root>) -> Option<u32> {
    u32::try_from(root.signed.version.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FaultyDisk;

    fn saved() -> Vec<u8> {
        let disk = FaultyDisk::new();
        let set = Set {
            timestamp: "{\"t\": \"\\u00e9\"}".to_owned(),
            snapshot: "s".to_owned(),
            targets: "é\n".to_owned(),
            delegated: [("vision".to_owned(), "\"".to_owned())].into(),
            versions_void: false,
            floor_void: true,
        };
        let state = State { floor: u64::MAX, set: Some(set), ..State::bootstrap("root".to_owned()) };
        state.save(&disk, Path::new("/f")).unwrap();
        assert_eq!(State::load(&disk, Path::new("/f")).unwrap(), Some(state));
        disk.read(Path::new("/f"), 1 << 20).unwrap().unwrap()
    }

    fn load(bytes: &[u8]) -> Result<Option<State>, LoadError> {
        let disk = FaultyDisk::new();
        disk.commit(Path::new("/f"), bytes).unwrap();
        State::load(&disk, Path::new("/f"))
    }

    #[test]
    fn a_file_cut_anywhere_is_corrupt_and_never_absent() {
        let whole = saved();
        for len in 0..whole.len() {
            assert!(matches!(load(&whole[..len]), Err(LoadError::Corrupt(_))), "cut to {len}");
        }
    }

    #[test]
    fn a_state_without_delegated_roles_is_written_as_before_there_were_any() {
        let set = Set {
            timestamp: "t".to_owned(),
            snapshot: "s".to_owned(),
            targets: "g".to_owned(),
            delegated: BTreeMap::new(),
            versions_void: false,
            floor_void: true,
        };
        let state = State { set: Some(set), ..State::bootstrap("r".to_owned()) };
        let written = r#"{"format":1,"floor":0,"roots":["r"],"set":{"timestamp":"t","snapshot":"s","targets":"g","versions-void":false,"floor-void":true}}"#;
        assert_eq!(String::from_utf8(state.to_bytes()).unwrap(), written);
        assert_eq!(serde_json::from_str::<State>(written).unwrap(), state);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_corrupt() {
        let whole = saved();
        for at in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            // The case of a hexadecimal digit carries nothing.
            let same = load(&bytes).is_ok_and(|state| state == load(&whole).unwrap());
            assert!(same && bytes[at / 8].is_ascii_hexdigit() || load(&bytes).is_err(), "bit {at}");
        }
    }
}
