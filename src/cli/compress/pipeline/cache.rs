//! Results of steps, by the content of all that they depend on.
//!
//! Invariant: what is found was made by the same program, options, model and data; a result is whole or not there.

use super::plan::{Plan, Step};
use crate::cli::compress::output::{commit, commit_model};
use crate::cli::model_file::{Source, read_onnx};
use crate::cli::{advise, plain};
use crate::onnx::{Encoded, Files, Parts};
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A SHA-256 in hexadecimal.
pub(super) type Key = String;

#[derive(Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("make the directory {}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    fn model(&self, key: &Key) -> PathBuf {
        self.0.join(format!("{key}.onnx"))
    }

    fn report(&self, key: &Key) -> PathBuf {
        self.0.join(format!("{key}.json"))
    }

    /// Where a step keeps how far it is.
    pub fn part(&self, key: &Key) -> PathBuf {
        self.0.join(format!("{key}.part"))
    }

    /// Where a step reads from and writes to.
    pub fn scratch(&self) -> [PathBuf; 2] {
        let process = std::process::id();
        ["before", "after"].map(|name| self.0.join(format!("{name}-{process}.onnx")))
    }

    pub fn find(&self, key: &Key) -> anyhow::Result<Option<(Parts, serde_json::Value)>> {
        let path = self.model(key);
        if !path.exists() {
            return Ok(None);
        }
        let report = std::fs::read(self.report(key)).with_context(|| format!("read {}", self.report(key).display()))?;
        let onnx = read_onnx(&path)?;
        let hint = || format!("read {}: remove it, and the step is done again", self.report(key).display());
        Ok(Some((onnx, serde_json::from_slice(&report).with_context(hint)?)))
    }

    /// The model last: it is what is looked for.
    pub fn keep(&self, key: &Key, onnx: &Parts, report: &serde_json::Value) -> anyhow::Result<()> {
        commit(&self.report(key), &serde_json::to_vec(report)?)?;
        commit_model(&self.model(key), onnx, Files::MAX_MODEL).map(drop)
    }
}

/// The key before any step: this program, the model, the data.
pub(super) fn start(plan: &Plan, source: &Source) -> anyhow::Result<Key> {
    let mut sum = Sha256::new();
    contents(&mut sum, &std::env::current_exe().context("find this program")?)?;
    part(&mut sum, std::env::var_os("SELVEDGE_ISA").unwrap_or_default().as_encoded_bytes());
    part(&mut sum, plan.common_text().as_bytes());
    Encoded::from(&source.onnx).pieces().for_each(|piece| part(&mut sum, piece));
    // How data is read, and what its classes are called.
    let manifest = source.bundle.as_ref().map(|bundle| format!("{:?}", bundle.manifest()));
    part(&mut sum, manifest.unwrap_or_default().as_bytes());
    for path in plan.data.iter().chain(&plan.labels) {
        contents(&mut sum, path)?;
    }
    Ok(hex::encode(sum.finalize()))
}

/// The key of what a step makes of what had that key.
pub(super) fn next(key: &Key, plan: &Plan, step: &Step) -> anyhow::Result<Key> {
    let mut sum = Sha256::new();
    part(&mut sum, key.as_bytes());
    part(&mut sum, step.name.as_bytes());
    step.options.iter().for_each(|option| part(&mut sum, option.as_bytes()));
    for path in &step.files {
        contents(&mut sum, &plan.home.join(path))
            .with_context(|| format!("look at the files of step {}", step.name))?;
    }
    Ok(hex::encode(sum.finalize()))
}

/// With its length, so that two parts are never taken for one.
fn part(sum: &mut Sha256, bytes: &[u8]) {
    sum.update((bytes.len() as u64).to_le_bytes());
    sum.update(bytes);
}

/// A file's bytes, or those of all files of a folder with their names.
fn contents(sum: &mut Sha256, path: &Path) -> anyhow::Result<()> {
    let told = |error: std::io::Error| {
        let hint = "does it exist, and may you read it? paths in a plan are relative to the plan";
        advise(error, format!("read {}", plain(&path.display().to_string())), hint)
    };
    if path.is_dir() {
        let mut entries = std::fs::read_dir(path).map_err(told)?.collect::<Result<Vec<_>, _>>().map_err(told)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            part(sum, entry.file_name().as_encoded_bytes());
            contents(sum, &entry.path())?;
        }
        return Ok(());
    }
    let mut file = std::fs::File::open(path).map_err(told)?;
    let mut room = vec![0; 1 << 16];
    let mut length = 0_u64;
    loop {
        match file.read(&mut room).map_err(told)? {
            0 => break,
            count => {
                sum.update(&room[..count]);
                length += count as u64;
            }
        }
    }
    sum.update(length.to_le_bytes());
    Ok(())
}

/// A directory of files that may not be there.
pub(super) fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A model that may not be there, with weights beside it.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".data");
    remove_file(path).and_then(|()| remove_file(Path::new(&beside)))
}

/// A file that may not be there.
fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
