//! The devices that a rollout's failures are counted among: who was known when it was first watched.

use super::RepositoryError;
use super::current::damaged;
use super::repository::Repository;
use crate::bundle::ModelName;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Of one file: a hundred thousand devices.
const MAX_BYTES: u64 = 4 << 20;

impl Repository {
    fn known_file(&self, model: &ModelName, version: u32) -> PathBuf {
        self.dir().join("known").join(format!("{model}-{version}"))
    }

    /// None where that version was never watched.
    pub fn known_devices(
        &self,
        model: &ModelName,
        version: u32,
    ) -> Result<Option<BTreeSet<[u8; 16]>>, RepositoryError> {
        let path = self.known_file(model, version);
        let Some(bytes) = self.disk().read(&path, MAX_BYTES)? else { return Ok(None) };
        let line = |line: &[u8]| {
            let mut id = [0; 16];
            hex::decode_to_slice(line, &mut id).ok().map(|()| id)
        };
        let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        let ids: Option<BTreeSet<[u8; 16]>> = lines.map(line).collect();
        ids.map(Some).ok_or_else(|| damaged(path, "a line is no device's id"))
    }

    pub fn keep_known_devices(
        &self,
        model: &ModelName,
        version: u32,
        ids: &BTreeSet<[u8; 16]>,
    ) -> Result<(), RepositoryError> {
        let text: String = ids.iter().map(|id| hex::encode(id) + "\n").collect();
        Ok(self.disk().commit(&self.known_file(model, version), text.as_bytes())?)
    }
}
