//! A bundle as one file: an uncompressed tar of plain files, the same bytes for the same contents.

use super::Digest;
use super::golden::{GoldenError, GoldenSample, parse_golden};
use super::manifest::{Manifest, ManifestError};
use std::collections::BTreeMap;
use std::io::{self, Read as _};

/// A packed model whose parts are all there and readable. Says nothing of who made it.
#[derive(Debug, Clone)]
pub struct Bundle {
    packed: Vec<u8>,
    manifest: Manifest,
    files: BTreeMap<String, Vec<u8>>,
    golden: Vec<GoldenSample>,
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("the bundle is over {} MiB", Bundle::MAX_BYTES >> 20)]
    TooLarge,
    #[error("the bundle is not a readable tar")]
    Tar(#[source] io::Error),
    #[error(
        "entry {0:?}: a bundle holds plain files with names of a-z, A-Z, 0-9, '.', '-' and '_', each once, 64 at most"
    )]
    Entry(String),
    #[error("there is no {0}")]
    Missing(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Golden(#[from] GoldenError),
}

const MANIFEST: &str = "manifest.toml";
const MODEL: &str = "model.onnx";
const GOLDEN: &str = "golden.safetensors";

impl Bundle {
    /// The most that a packed bundle may take.
    pub const MAX_BYTES: u64 = 512 << 20;
    const MAX_FILES: usize = 64;

    /// Packs the files of a model directory, by name.
    pub fn pack(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, PackError> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            if !is_plain(name) {
                return Err(PackError::Entry(shown(name)));
            }
            let mut header = tar::Header::new_ustar();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            tar.append_data(&mut header, name, &contents[..]).map_err(PackError::Tar)?;
        }
        Self::unpack(tar.into_inner().map_err(PackError::Tar)?)
    }

    /// Reads a packed bundle and everything in it but the model, which the engine reads.
    pub fn unpack(packed: Vec<u8>) -> Result<Self, PackError> {
        if packed.len() as u64 > Self::MAX_BYTES {
            return Err(PackError::TooLarge);
        }
        let files = read_entries(&packed)?;
        let file = |name: &str| files.get(name).ok_or_else(|| PackError::Missing(name.to_owned()));
        let manifest = Manifest::parse(file(MANIFEST)?)?;
        file(MODEL)?;
        let golden = parse_golden(file(GOLDEN)?)?;
        for labels in manifest.outputs.iter().filter_map(|o| o.labels.as_deref()) {
            file(labels)?;
        }
        Ok(Self { packed, manifest, files, golden })
    }

    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.packed)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ONNX file.
    pub fn model(&self) -> &[u8] {
        &self.files[MODEL]
    }

    pub fn golden(&self) -> &[GoldenSample] {
        &self.golden
    }

    /// Class names of an output, where it has any: one a line of its label file.
    pub fn labels(&self, output: &str) -> Option<Vec<String>> {
        let output = self.manifest.outputs.iter().find(|o| o.name == output)?;
        let text = String::from_utf8_lossy(&self.files[output.labels.as_deref()?]);
        Some(text.lines().map(str::to_owned).collect())
    }
}

fn read_entries(packed: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, PackError> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(packed);
    for entry in archive.entries().map_err(PackError::Tar)? {
        let mut entry = entry.map_err(PackError::Tar)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let is_file = entry.header().entry_type() == tar::EntryType::Regular;
        if !is_file || !is_plain(&name) || files.contains_key(&name) || files.len() == Bundle::MAX_FILES {
            return Err(PackError::Entry(shown(&name)));
        }
        // The archive is in memory: no entry is longer than what is there.
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).map_err(PackError::Tar)?;
        files.insert(name, contents);
    }
    Ok(files)
}

fn is_plain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> BTreeMap<String, Vec<u8>> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits/");
        ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"]
            .map(|name| (name.to_owned(), std::fs::read(format!("{dir}{name}")).unwrap()))
            .into()
    }

    #[test]
    fn packing_is_deterministic_and_comes_back() {
        let bundle = Bundle::pack(&digits()).unwrap();
        let again = Bundle::unpack(bundle.packed().to_vec()).unwrap();
        assert_eq!(again.digest(), Bundle::pack(&digits()).unwrap().digest());
        assert_eq!(again.model(), digits()["model.onnx"]);
        assert_eq!(again.labels("logits").unwrap().len(), 10);
    }

    #[test]
    fn a_part_that_lacks_is_named() {
        for name in ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"] {
            let mut files = digits();
            files.remove(name);
            let error = Bundle::pack(&files).unwrap_err();
            assert!(matches!(&error, PackError::Missing(missing) if missing == name), "{error}");
        }
    }

    #[test]
    fn names_that_leave_the_bundle_are_refused() {
        for name in ["../x", "/etc/passwd", ".hidden", "a/b", ""] {
            let mut files = digits();
            files.insert(name.to_owned(), vec![]);
            assert!(matches!(Bundle::pack(&files), Err(PackError::Entry(_))), "{name}");
        }
    }

    #[test]
    fn links_and_truncation_are_refused() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "model.onnx", "/etc/passwd").unwrap();
        assert!(matches!(Bundle::unpack(tar.into_inner().unwrap()), Err(PackError::Entry(_))));

        let whole = Bundle::pack(&digits()).unwrap();
        for len in (0..whole.packed().len() - 1024).step_by(97) {
            assert!(Bundle::unpack(whole.packed()[..len].to_vec()).is_err(), "cut to {len}");
        }
    }
}
