//! Signing keys: PKCS#8 files that only their owner can read.

use super::RepositoryError;
use crate::sys::{Disk as _, RealDisk};
use crate::trust::Role;
use crate::trust::author::SigningKey;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use tough::schema::{RoleType, Root};

const MAX_KEY_BYTES: u64 = 4096;

/// The keys that are at hand, by key id.
#[derive(Debug, Default)]
pub(super) struct KeyRing {
    keys: BTreeMap<String, SigningKey>,
}

pub(super) fn role_type(role: Role) -> RoleType {
    match role {
        Role::Root => RoleType::Root,
        Role::Timestamp => RoleType::Timestamp,
        Role::Snapshot => RoleType::Snapshot,
        Role::Targets => RoleType::Targets,
    }
}

impl KeyRing {
    /// All `*.pk8` files of the directory.
    pub fn load(dir: &Path) -> Result<Self, RepositoryError> {
        let mut ring = Self::default();
        for name in RealDisk.list(dir)?.iter().filter(|name| name.ends_with(".pk8")) {
            let path = dir.join(name);
            let bytes = RealDisk.read(&path, MAX_KEY_BYTES)?.unwrap_or_default();
            let key = SigningKey::from_pkcs8(&bytes).map_err(|source| RepositoryError::BadKey { path, source })?;
            ring.add(key)?;
        }
        Ok(ring)
    }

    pub fn add(&mut self, key: SigningKey) -> Result<(), RepositoryError> {
        self.keys.insert(key.id()?, key);
        Ok(())
    }

    /// Those at hand that the root names for a role, few or many.
    pub fn held(&self, root: &Root, role: Role) -> Vec<&SigningKey> {
        let named = root.roles.get(&role_type(role)).map(|keys| keys.keyids.as_slice()).unwrap_or_default();
        named.iter().filter_map(|id| self.keys.get(&hex::encode(&**id))).collect()
    }

    /// Enough keys to sign a role.
    pub fn signers(&self, root: &Root, role: Role) -> Result<Vec<&SigningKey>, RepositoryError> {
        let held = self.held(root, role);
        let needed = root.roles.get(&role_type(role)).map_or(1, |keys| keys.threshold.get());
        if (held.len() as u64) < needed {
            return Err(RepositoryError::MissingKey { role, needed, found: held.len() });
        }
        Ok(held)
    }
}

/// Makes a key and its file, durable before anything is signed with it.
pub(super) fn create(dir: &Path, name: &str) -> Result<SigningKey, RepositoryError> {
    let path = dir.join(format!("{name}.pk8"));
    let failed = |source| RepositoryError::KeyFile { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let key = SigningKey::generate()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(key.pkcs8().unwrap_or_default()).and_then(|()| file.sync_all()).map_err(failed)?;
    RealDisk.sync_dir(dir)?;
    Ok(key)
}
