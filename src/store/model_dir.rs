//! A model's directory as a bundle: the files that its manifest needs, and no others.

use crate::bundle::{Bundle, Manifest, ManifestError, PackError};
use crate::sys::{Disk as _, DiskError, RealDisk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ModelDirError {
    #[error("{0} has no manifest.toml; a model's directory holds manifest.toml, model.onnx and golden.safetensors")]
    NoManifest(PathBuf),
    #[error("{0} is no plain file; links and directories are not published")]
    NotPlain(PathBuf),
    #[error("{path}")]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("{path} makes no bundle")]
    Pack { path: PathBuf, source: PackError },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Packs the directory; the second value names what was left out because nothing refers to it.
pub fn read_model_dir(dir: &Path) -> Result<(Bundle, Vec<String>), ModelDirError> {
    let path = dir.join("manifest.toml");
    let manifest = read(dir, "manifest.toml")?.ok_or_else(|| ModelDirError::NoManifest(dir.to_owned()))?;
    let manifest = Manifest::parse(&manifest).map_err(|source| ModelDirError::Manifest { path, source })?;
    let labels = manifest.outputs.iter().filter_map(|output| output.labels.as_deref());
    let needed: Vec<&str> = ["manifest.toml", "model.onnx", "golden.safetensors"].into_iter().chain(labels).collect();
    let mut files = BTreeMap::new();
    for &name in &needed {
        // A label file comes from the manifest: a name in another directory is the packer's to refuse.
        let is_here = Path::new(name).file_name().is_some_and(|file| file == name);
        if let Some(bytes) = if is_here { read(dir, name)? } else { None } {
            files.insert(name.to_owned(), bytes);
        }
    }
    let bundle = Bundle::pack(&files).map_err(|source| ModelDirError::Pack { path: dir.to_owned(), source })?;
    let left_out = RealDisk.list(dir)?.into_iter().filter(|name| !needed.contains(&name.as_str())).collect();
    Ok((bundle, left_out))
}

fn read(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelDirError> {
    let path = dir.join(name);
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_file() => Err(ModelDirError::NotPlain(path)),
        Ok(_) | Err(_) => Ok(RealDisk.read(&path, Bundle::MAX_BYTES)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_directory_gives_what_its_manifest_needs_and_plain_files_only() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
        let dir = tempfile::tempdir().unwrap();
        for name in ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"] {
            std::fs::copy(model.join(name), dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("notes.txt"), b"not for boards").unwrap();
        let (bundle, left_out) = read_model_dir(dir.path()).unwrap();
        assert_eq!(left_out, ["notes.txt"]);
        assert!(!bundle.packed().windows(14).any(|w| w == b"not for boards"));
        std::fs::remove_file(dir.path().join("model.onnx")).unwrap();
        assert!(matches!(read_model_dir(dir.path()), Err(ModelDirError::Pack { .. })));
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("model.onnx")).unwrap();
        assert!(matches!(read_model_dir(dir.path()), Err(ModelDirError::NotPlain(_))));
        assert!(matches!(read_model_dir(Path::new("/nowhere")), Err(ModelDirError::NoManifest(_))));
    }
}
