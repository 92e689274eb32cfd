//! Model directories: plain files that make a bundle.

use crate::bundle::{Bundle, PackError};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    #[error("read the model directory {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is over {} MiB; a model directory holds a model and its samples, no more", Bundle::MAX_BYTES >> 20)]
    TooLarge { path: PathBuf },
    #[error("the model directory {path}")]
    Pack { path: PathBuf, source: PackError },
}

/// Packs the plain files of a directory. What is held for people and tools stays out: hidden files,
/// `heldout.safetensors`, and texts that end in `.md`.
pub fn read_model_dir(dir: &Path) -> Result<Bundle, FactoryError> {
    let failed = |path: &Path, source| FactoryError::Read { path: path.to_owned(), source };
    let mut files = BTreeMap::new();
    let mut room = Bundle::MAX_BYTES;
    for entry in fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !path.is_file() || name.starts_with('.') || name.ends_with(".md") || name == "heldout.safetensors" {
            continue;
        }
        let mut contents = Vec::new();
        let file = fs::File::open(&path).map_err(|e| failed(&path, e))?;
        file.take(room + 1).read_to_end(&mut contents).map_err(|e| failed(&path, e))?;
        room = room.checked_sub(contents.len() as u64).ok_or_else(|| FactoryError::TooLarge { path: path.clone() })?;
        files.insert(name.to_owned(), contents);
    }
    Bundle::pack(&files).map_err(|source| FactoryError::Pack { path: dir.to_owned(), source })
}
