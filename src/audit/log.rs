//! Writing the chain: one append and one sync for all lines of a step.

use super::chain::{self, ChainError, Scan};
use super::line::{Decision, Line, Part};
use super::{FILE_BYTES, FILES};
use crate::bundle::{Digest, ModelName};
use crate::privacy::AuditHead;
use crate::sys::{Disk, DiskError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{error, warn};

/// The writer's end; one process writes.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    boot: u128,
    /// None until the first line, and after an error: what stands on disk then is looked at anew.
    end: Option<End>,
}

/// Where the chain ends.
#[derive(Debug, Clone)]
struct End {
    file: u64,
    oldest: u64,
    bytes: u64,
    number: u64,
    sha256: Digest,
    root: u32,
    /// Who serves, as far as the files that are kept tell.
    serves: BTreeMap<ModelName, Option<u32>>,
}

impl End {
    fn nothing(file: u64) -> Self {
        let serves = BTreeMap::new();
        Self { file, oldest: file, bytes: 0, number: 0, sha256: Line::NOTHING, root: 0, serves }
    }

    fn heed(&mut self, decision: &Decision) {
        if let Decision::File { oldest, root, .. } = decision {
            (self.oldest, self.root) = (*oldest, *root);
        } else if let Decision::Root { to, .. } = decision {
            self.root = *to;
        } else if let Decision::Serves { model, version, .. } = decision {
            self.serves.insert(model.clone(), *version);
        }
    }
}

impl Log {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, boot: u128) -> Self {
        Self { disk, dir, boot, end: None }
    }

    /// The newest line, as far as this run has written one.
    pub fn head(&self) -> Option<AuditHead> {
        let end = self.end.as_ref().filter(|end| end.number > 0)?;
        Some(AuditHead { number: end.number, sha256: end.sha256 })
    }

    /// The root that the chain knows of.
    pub fn root(&mut self, time: u64) -> Result<u32, DiskError> {
        Ok(self.end(time)?.root)
    }

    /// The version that serves by the chain; None where it does not say.
    pub fn serves(&mut self, time: u64, model: &ModelName) -> Result<Option<Option<u32>>, DiskError> {
        Ok(self.end(time)?.serves.get(model).copied())
    }

    /// Makes the lines durable; the effect of what they say comes after.
    pub fn record(&mut self, time: u64, decisions: &[Decision]) -> Result<(), DiskError> {
        if decisions.is_empty() {
            return Ok(());
        }
        let end = self.end(time)?;
        // An error on the way leaves it unknown what stands on disk.
        self.end = None;
        self.end = Some(self.write(end, time, decisions)?);
        Ok(())
    }

    fn end(&mut self, time: u64) -> Result<End, DiskError> {
        match &self.end {
            Some(end) => Ok(end.clone()),
            None => {
                let end = self.open(time)?;
                self.end = Some(end.clone());
                Ok(end)
            }
        }
    }

    fn write(&self, mut end: End, time: u64, decisions: &[Decision]) -> Result<End, DiskError> {
        let is_full = end.bytes >= FILE_BYTES;
        if is_full || end.number == 0 {
            let file = if is_full { end.file + 1 } else { end.file };
            let oldest = end.oldest.max((file + 1).saturating_sub(FILES));
            end = End { file, oldest, bytes: 0, ..end };
            let first = Decision::File { file, oldest, root: end.root };
            let text = self.add(&mut end, time, [&first].into_iter().chain(decisions));
            self.disk.commit(&chain::path(&self.dir, file), text.as_bytes())?;
            self.make_room(&end)?;
        } else {
            let path = chain::path(&self.dir, end.file);
            let text = self.add(&mut end, time, decisions);
            self.disk.append(&path, text.as_bytes())?;
            self.disk.sync(&path)?;
        }
        Ok(end)
    }

    fn add<'a>(&self, end: &mut End, time: u64, decisions: impl IntoIterator<Item = &'a Decision>) -> String {
        let mut all = String::new();
        for decision in decisions {
            let (number, before, decision) = (end.number + 1, end.sha256, decision.clone());
            end.heed(&decision);
            let (text, sha256) = Line { number, time, boot: self.boot, before, decision }.text();
            all += &text;
            all.push('\n');
            (end.number, end.sha256) = (number, sha256);
        }
        end.bytes += all.len() as u64;
        all
    }

    fn make_room(&self, end: &End) -> Result<(), DiskError> {
        let old = chain::files(&*self.disk, &self.dir)?.into_iter().filter(|&file| file < end.oldest);
        old.map(|file| chain::path(&self.dir, file)).try_for_each(|path| self.disk.remove(&path))
    }

    fn open(&self, time: u64) -> Result<End, DiskError> {
        match chain::scan(&*self.disk, &self.dir) {
            Ok(scan) => self.go_on(scan, time),
            Err(ChainError::Disk(error @ DiskError::Io { .. })) => Err(error),
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "the audit log is set aside; a new one begins");
                self.begin_anew(time)
            }
        }
    }

    fn go_on(&self, scan: Scan, time: u64) -> Result<End, DiskError> {
        let Some((file, AuditHead { number, sha256 })) = scan.files.last().copied().zip(scan.chain.head()) else {
            return self.begin(time);
        };
        let mut end = End { bytes: scan.whole.len() as u64, number, sha256, ..End::nothing(file) };
        scan.chain.lines.iter().for_each(|(line, _)| end.heed(&line.decision));
        self.make_room(&end)?;
        match scan.unfinished {
            Some(broken) => {
                warn!(error = &broken as &dyn std::error::Error, "the last line of the audit log is taken away");
                self.disk.commit(&chain::path(&self.dir, file), &scan.whole)?;
                self.write(end, time, &[Decision::Damage { part: Part::LastLine }])
            }
            None => Ok(end),
        }
    }

    /// The first line of a chain; where another one was set aside, this is told. Files go on behind those, so that no
    /// name comes twice.
    fn begin(&self, time: u64) -> Result<End, DiskError> {
        let kept = chain::set_aside(&*self.disk, &self.dir)?;
        let number = |name: &String| name.strip_suffix(".damaged")?.parse::<u64>().ok();
        let file = kept.iter().filter_map(number).max().unwrap_or(0).saturating_add(1);
        let end = End::nothing(file);
        if kept.is_empty() { Ok(end) } else { self.write(end, time, &[Decision::Damage { part: Part::AuditLog }]) }
    }

    /// What does not hold together is kept for who looks into it, the newest of it, and is written to no more.
    fn begin_anew(&self, time: u64) -> Result<End, DiskError> {
        for file in chain::files(&*self.disk, &self.dir)? {
            let to = self.dir.join(format!("{file:08}.damaged"));
            self.disk.rename(&chain::path(&self.dir, file), &to)?;
        }
        let kept = chain::set_aside(&*self.disk, &self.dir)?;
        let over = kept.len().saturating_sub(usize::try_from(FILES).unwrap_or(usize::MAX));
        kept.iter().take(over).try_for_each(|name| self.disk.remove(&self.dir.join(name)))?;
        self.begin(time)
    }
}

/// Where the log of a state directory lies.
pub fn dir(state: &Path) -> PathBuf {
    state.join("audit")
}
