//! Versions on disk and the journal that says which of them is live.
//!
//! Layout below the state directory: `journal.json`, `models/<name>/<digest>.bundle`.
//! Invariant: what the journal names as live or previous is whole on disk before the journal names
//! it, and goes from disk only after the journal has forgotten it.
//! Not here: why a version becomes live (`update`), who made it (`trust`).
//!
//! Rejected: symbolic links for "current" (two names to keep in step), a database (the journal is
//! one small file that is replaced whole).

mod journal;
mod model_dir;

pub use journal::{Entry, Gates, Journal, JournalError, Phase, Quarantined, Run, Seen, Trial, VersionRef};
pub use model_dir::{ModelDirError, read_model_dir};

use crate::bundle::{Bundle, Digest, ModelName, PackError};
use crate::sys::{Disk, DiskError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{path} is missing")]
    Missing { path: PathBuf },
    #[error("{path} has the digest {actual}, not the one in the journal: the medium lost data")]
    Damaged { path: PathBuf, actual: Digest },
    #[error("{path} does not unpack")]
    Pack { path: PathBuf, source: PackError },
}

/// The versions of all models of one device.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    journal: Journal,
}

impl Store {
    /// Opens the state directory. A journal that does not read is set aside and reported by the
    /// second value: the device then starts from its factory models, and trust brings the rest back.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, Option<JournalError>), DiskError> {
        let path = dir.join("journal.json");
        let bytes = disk.read(&path, Journal::MAX_BYTES)?;
        let (journal, lost) = match bytes.as_deref().map(Journal::parse) {
            None => (Journal::default(), None),
            Some(Ok(journal)) => (journal, None),
            Some(Err(error)) => {
                disk.rename(&path, &dir.join("journal.damaged"))?;
                (Journal::default(), Some(error))
            }
        };
        let dir = dir.to_owned();
        Ok((Self { disk, dir, journal }, lost))
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes the next state durable. Nothing may act on it before this returns.
    pub fn record(&mut self, next: Journal) -> Result<(), DiskError> {
        if next != self.journal {
            self.disk.commit(&self.dir.join("journal.json"), &next.to_bytes())?;
            self.journal = next;
        }
        Ok(())
    }

    /// Puts a bundle where the journal may name it. Adding it again changes nothing, and writes nothing: a factory model
    /// is added at each start.
    pub fn add(&self, bundle: &Bundle) -> Result<(), DiskError> {
        let path = self.path(&bundle.manifest().name, &bundle.digest());
        match (self.disk.read(&path, Bundle::MAX_BYTES), path.parent()) {
            // It came there whole, by its name; that name may not be durable yet.
            (Ok(Some(found)), Some(dir)) if found == bundle.packed() => self.disk.sync_dir(dir),
            (_, _) => self.disk.commit(&path, bundle.packed()),
        }
    }

    /// Reads a version and checks that it is still what the journal says.
    pub fn load(&self, model: &ModelName, version: &VersionRef) -> Result<Bundle, StoreError> {
        let path = self.path(model, &version.bundle);
        let Some(packed) = self.disk.read(&path, Bundle::MAX_BYTES)? else {
            return Err(StoreError::Missing { path });
        };
        let actual = Digest::of(&packed);
        if actual != version.bundle {
            return Err(StoreError::Damaged { path, actual });
        }
        Bundle::unpack(packed).map_err(|source| StoreError::Pack { path, source })
    }

    /// The bundles of a model that the journal names, and where they lie.
    pub fn named(&self, model: &ModelName) -> Vec<(Digest, PathBuf)> {
        let entry = self.journal.models.get(model);
        entry.into_iter().flat_map(Entry::named).map(|digest| (digest, self.path(model, &digest))).collect()
    }

    /// Removes the bundles that the journal does not name.
    pub fn collect_garbage(&self) -> Result<(), DiskError> {
        let models = self.dir.join("models");
        for name in self.disk.list(&models)? {
            let entry = ModelName::new(&name).ok().and_then(|name| self.journal.models.get(&name));
            let named: Vec<String> = entry.into_iter().flat_map(Entry::named).map(|d| file_name(&d)).collect();
            let dir = models.join(&name);
            for file in self.disk.list(&dir)?.into_iter().filter(|file| !named.contains(file)) {
                self.disk.remove(&dir.join(file))?;
            }
        }
        Ok(())
    }

    fn path(&self, model: &ModelName, digest: &Digest) -> PathBuf {
        self.dir.join("models").join(model.as_str()).join(file_name(digest))
    }
}

fn file_name(digest: &Digest) -> String {
    format!("{digest}.bundle")
}
