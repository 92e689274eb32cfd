//! Reading the chain, and the first line that does not fit.

use super::line::{Decision, Line};
use super::{FILE_BYTES, FILES, MAX_LINE};
use crate::bundle::Digest;
use crate::privacy::AuditHead;
use crate::sys::{Disk, DiskError};
use std::path::{Path, PathBuf};

/// The most that is read of one file: rotation lets no file grow so far.
const MOST: u64 = FILE_BYTES + 64 * MAX_LINE as u64;
/// More files than a rotation that was cut off leaves.
const MOST_FILES: usize = 4 * FILES as usize;

/// Why a line does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it is not what its own digest says: it was changed")]
    Digest,
    #[error("it has no end: the power went while it was written, or it was cut; the engine's next start says so")]
    Unfinished,
    #[error("it has {bytes} bytes, at most {MAX_LINE} are expected")]
    Long { bytes: usize },
    #[error("it is of no known form; was it written by a newer selvedge?")]
    Form(#[source] serde_json::Error),
    #[error("it is line {actual} of the chain, {expected} is expected: lines were removed, added or swapped")]
    Number { expected: u64, actual: u64 },
    #[error("it goes on from {actual}, the line before is {expected}")]
    Before { expected: Digest, actual: Digest },
    #[error("it does not begin file {file} of the chain")]
    File { file: u64 },
    #[error("it says that files from {oldest} on are kept, and file {missing} is not there: it was removed")]
    Missing { oldest: u64, missing: u64 },
    #[error("the file has no line")]
    Empty,
}

/// The first line that does not fit.
#[derive(Debug, thiserror::Error)]
#[error("{path}, line {line}")]
pub struct Broken {
    pub path: PathBuf,
    /// Within its file, from 1.
    pub line: usize,
    #[source]
    pub fault: Fault,
}

#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("the log does not hold together")]
    Broken(#[from] Broken),
    #[error("{dir} holds {files} files of a log, at most {MOST_FILES} are expected; it is not one that selvedge wrote")]
    TooMany { dir: PathBuf, files: usize },
    #[error("an earlier log was found damaged and is kept as {0}; look at it, then remove it")]
    SetAside(PathBuf),
    #[error(
        "no line ends in {head}: the log was cut off or rewritten after the device told it; lines {first} to {last} are there"
    )]
    Head { head: Digest, first: u64, last: u64 },
}

/// A chain that holds together.
#[derive(Debug, Default)]
pub struct Chain {
    /// Oldest first, each with the digest that it ends in.
    pub lines: Vec<(Line, Digest)>,
}

impl Chain {
    pub fn head(&self) -> Option<AuditHead> {
        self.lines.last().map(|(line, sha256)| AuditHead { number: line.number, sha256: *sha256 })
    }

    /// The number of the line that ends in what the device told once.
    pub fn find(&self, head: Digest) -> Result<u64, ChainError> {
        let number = |at: Option<&(Line, Digest)>| at.map_or(0, |(line, _)| line.number);
        let found = self.lines.iter().find(|(_, sha256)| *sha256 == head);
        let (first, last) = (number(self.lines.first()), number(self.lines.last()));
        found.map(|(line, _)| line.number).ok_or(ChainError::Head { head, first, last })
    }
}

/// All that stands in `dir`, checked from the oldest line to the newest.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Chain, ChainError> {
    let scan = scan(disk, dir)?;
    match scan.unfinished {
        Some(broken) => Err(broken.into()),
        None => match set_aside(disk, dir)?.pop() {
            Some(name) => Err(ChainError::SetAside(dir.join(name))),
            None => Ok(scan.chain),
        },
    }
}

/// What the writer goes on from.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub chain: Chain,
    /// Numbers of the files, in order.
    pub files: Vec<u64>,
    /// Of the newest file, up to its last whole line.
    pub whole: Vec<u8>,
    /// Where the newest line has no end.
    pub unfinished: Option<Broken>,
}

pub(super) fn path(dir: &Path, file: u64) -> PathBuf {
    dir.join(file_name(file))
}

pub(super) fn files(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, DiskError> {
    // A name that we would not write is none of ours.
    let number = |name: String| name.strip_suffix(".log")?.parse().ok().filter(|&number| file_name(number) == name);
    let mut files: Vec<u64> = disk.list(dir)?.into_iter().filter_map(number).collect();
    files.sort_unstable();
    Ok(files)
}

fn file_name(file: u64) -> String {
    format!("{file:08}.log")
}

/// Logs that were found damaged, oldest first.
pub(super) fn set_aside(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, DiskError> {
    Ok(disk.list(dir)?.into_iter().filter(|name| name.ends_with(".damaged")).collect())
}

pub(super) fn scan(disk: &dyn Disk, dir: &Path) -> Result<Scan, ChainError> {
    let files = files(disk, dir)?;
    if files.len() > MOST_FILES {
        return Err(ChainError::TooMany { dir: dir.to_owned(), files: files.len() });
    }
    let mut scan = Scan { files, ..Scan::default() };
    for (i, &file) in scan.files.clone().iter().enumerate() {
        let path = path(dir, file);
        // Gone since it was listed: the file behind it does not go on from the one before, and says so.
        let bytes = disk.read(&path, MOST)?.unwrap_or_default();
        let is_newest = i + 1 == scan.files.len();
        read_file(&mut scan, (file, &path), bytes, is_newest)?;
    }
    Ok(scan)
}

fn read_file(scan: &mut Scan, (file, path): (u64, &Path), bytes: Vec<u8>, is_newest: bool) -> Result<(), Broken> {
    let broken = |line: usize, fault| Broken { path: path.to_owned(), line, fault };
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut lines = 0;
    for text in bytes[..whole].split_inclusive(|&b| b == b'\n') {
        lines += 1;
        let (line, digest) = Line::parse(&text[..text.len() - 1]).map_err(|fault| broken(lines, fault))?;
        fits(scan, file, lines == 1, is_newest, &line).map_err(|fault| broken(lines, fault))?;
        scan.chain.lines.push((line, digest));
    }
    let is_cut = whole < bytes.len();
    match (lines, is_cut) {
        // It came into being whole, with its first line.
        (0, _) => return Err(broken(1, if is_cut { Fault::Unfinished } else { Fault::Empty })),
        (_, true) if is_newest => scan.unfinished = Some(broken(lines + 1, Fault::Unfinished)),
        (_, true) => return Err(broken(lines + 1, Fault::Unfinished)),
        (_, false) => {}
    }
    scan.whole = bytes[..whole].to_vec();
    Ok(())
}

/// Whether a line goes on from those before it.
fn fits(scan: &Scan, file: u64, begins: bool, is_newest: bool, line: &Line) -> Result<(), Fault> {
    match (&line.decision, begins) {
        (Decision::File { file: said, oldest, .. }, true) if *said == file && *oldest <= file => {
            let missing = (*oldest..file).find(|file| !scan.files.contains(file)).filter(|_| is_newest);
            if let Some(missing) = missing {
                return Err(Fault::Missing { oldest: *oldest, missing });
            }
        }
        (Decision::File { .. }, _) | (_, true) => return Err(Fault::File { file }),
        (_, false) => {}
    }
    match scan.chain.lines.last() {
        Some((last, digest)) => {
            if line.number != last.number + 1 {
                return Err(Fault::Number { expected: last.number + 1, actual: line.number });
            }
            follows(*digest, line.before)
        }
        None if line.number == 1 => follows(Line::NOTHING, line.before),
        // What it goes on from has made room.
        None if line.number > 1 => Ok(()),
        None => Err(Fault::Number { expected: 1, actual: line.number }),
    }
}

fn follows(expected: Digest, actual: Digest) -> Result<(), Fault> {
    if expected == actual { Ok(()) } else { Err(Fault::Before { expected, actual }) }
}
