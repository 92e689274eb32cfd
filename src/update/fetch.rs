//! What is missing of an offer, and where the rest lies.
//!
//! Chunks are kept on disk by the digest of their wire bytes as soon as they are checked, so that
//! an interrupted download goes on after a reboot. The node and its parts are small and fetched anew.

use super::machine::Offered;
use crate::bundle::{Bundle, ChunkRef, Digest, ExpandError, Index, IndexError, ModelName, Node, PackError, expand};
use crate::ipc::{Fetch, MAX_WINDOW};
use crate::sys::{Disk, DiskError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One offer on its way.
#[derive(Debug)]
pub struct Download {
    pub model: ModelName,
    pub offered: Offered,
    /// The target's place in the metadata that the link holds.
    ordinal: u32,
    /// Of the node.
    size: u64,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Node,
    Parts { sha256: Digest, parts: Vec<ChunkRef>, got: Vec<Option<Vec<u8>>> },
    Chunks { index: Index, have: Vec<bool> },
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Wrong bytes stand on the board; the right ones may come.
    #[error("the board shows bytes with the digest {actual} where {expected} should be")]
    Mismatch { expected: Digest, actual: Digest },
    /// There is no room; there may be later.
    #[error("the update takes {needed} bytes on disk, {free} are free")]
    Full { needed: u64, free: u64 },
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The signed digest led here, and still it cannot be used: the publisher's fault.
    #[error("the offer cannot be used")]
    Content(#[source] ContentError),
}

#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Expand(#[from] ExpandError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("it holds {actual_model} version {actual_version}, the target says {model} version {version}")]
    OtherModel { model: ModelName, version: u32, actual_model: ModelName, actual_version: u32 },
    #[error("the bundle has the digest {actual}, its index says {expected}")]
    Digest { expected: Digest, actual: Digest },
}

impl<E: Into<ContentError>> From<E> for FetchError {
    fn from(error: E) -> Self {
        Self::Content(error.into())
    }
}

/// What a piece of news led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Not asked for, or known already.
    Ignored,
    More,
    Complete,
}

/// What a download was asked to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub model: ModelName,
    pub offered: Offered,
    pub ordinal: u32,
    pub size: u64,
}

impl Download {
    /// `dir` keeps the chunks.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, wanted: Wanted) -> Self {
        let Wanted { model, offered, ordinal, size } = wanted;
        Self { model, offered, ordinal, size, disk, dir: dir.to_owned(), phase: Phase::Node }
    }

    /// The link has forgotten what it brought, or its list of targets changed.
    pub fn restart(&mut self, ordinal: u32) {
        self.ordinal = ordinal;
        self.phase = Phase::Node;
    }

    pub fn awaits_index(&self) -> bool {
        !matches!(self.phase, Phase::Chunks { .. })
    }

    pub fn missing(&self) -> usize {
        match &self.phase {
            Phase::Node => 0,
            Phase::Parts { got, .. } => got.iter().filter(|part| part.is_none()).count(),
            Phase::Chunks { have, .. } => have.iter().filter(|have| !**have).count(),
        }
    }

    /// What to ask the link for now.
    pub fn request(&self) -> Fetch {
        let first = |missing: &mut dyn Iterator<Item = usize>| {
            let ordinals = missing.take(MAX_WINDOW).filter_map(|i| u32::try_from(i).ok()).collect();
            Fetch::Chunks { ordinals }
        };
        match &self.phase {
            Phase::Node => Fetch::Target { ordinal: self.ordinal },
            Phase::Parts { got, .. } => first(&mut got.iter().enumerate().filter(|(_, p)| p.is_none()).map(|(i, _)| i)),
            Phase::Chunks { have, .. } => first(&mut have.iter().enumerate().filter(|(_, h)| !**h).map(|(i, _)| i)),
        }
    }

    /// The node came.
    pub fn node(&mut self, bytes: &[u8]) -> Result<Progress, FetchError> {
        if !matches!(self.phase, Phase::Node) {
            return Ok(Progress::Ignored);
        }
        let (expected, actual) = (self.offered.target, Digest::of(bytes));
        if actual != expected || bytes.len() as u64 != self.size {
            return Err(FetchError::Mismatch { expected, actual });
        }
        match Node::parse(bytes)? {
            Node::Index(index) => self.begin_chunks(index),
            Node::Parts { sha256, parts } => {
                let got = vec![None; parts.len()];
                self.phase = Phase::Parts { sha256, parts, got };
                Ok(Progress::More)
            }
        }
    }

    /// A part or chunk came.
    pub fn chunk(&mut self, ordinal: u32, bytes: &[u8]) -> Result<Progress, FetchError> {
        let i = ordinal as usize;
        match &mut self.phase {
            Phase::Node => Ok(Progress::Ignored),
            Phase::Parts { sha256, parts, got } => {
                let Some(part) = parts.get(i).filter(|_| got[i].is_none()) else { return Ok(Progress::Ignored) };
                check(part, bytes)?;
                got[i] = Some(expand(bytes, part)?);
                let Some(joined) = join(got) else { return Ok(Progress::More) };
                let (expected, actual) = (*sha256, Digest::of(&joined));
                if actual != expected {
                    return Err(ContentError::Digest { expected, actual }.into());
                }
                let index = Node::parse_joined(&joined)?;
                self.begin_chunks(index)
            }
            Phase::Chunks { index, have } => {
                let Some(chunk) = index.chunks.get(i).filter(|_| !have[i]) else { return Ok(Progress::Ignored) };
                check(chunk, bytes)?;
                self.disk.commit(&chunk_path(&self.dir, chunk), bytes)?;
                // The same chunk may stand in several places.
                let same = index.chunks.iter().zip(have.iter_mut()).filter(|(c, _)| c.sha256 == chunk.sha256);
                same.for_each(|(_, have)| *have = true);
                Ok(if have.iter().all(|have| *have) { Progress::Complete } else { Progress::More })
            }
        }
    }

    fn begin_chunks(&mut self, index: Index) -> Result<Progress, FetchError> {
        if (&index.model, index.version) != (&self.model, self.offered.version) {
            return Err(self.other_model(&index.model, index.version).into());
        }
        let mut have = Vec::with_capacity(index.chunks.len());
        for chunk in &index.chunks {
            have.push(self.stored(chunk)?.is_some());
        }
        let to_come = index.chunks.iter().zip(&have).filter(|(_, have)| !**have);
        let needed = to_come.map(|(c, _)| u64::from(c.wire)).sum::<u64>() + index.size + RESERVE;
        let free = self.disk.free(&self.dir)?;
        if free < needed {
            return Err(FetchError::Full { needed, free });
        }
        let complete = have.iter().all(|have| *have);
        self.phase = Phase::Chunks { index, have };
        Ok(if complete { Progress::Complete } else { Progress::More })
    }

    /// Puts the chunks together; every digest is checked on the way.
    pub fn assemble(&mut self) -> Result<Bundle, FetchError> {
        let Phase::Chunks { index, have } = &mut self.phase else {
            unreachable!("only a complete download is assembled")
        };
        let mut packed = Vec::new();
        for (chunk, have) in index.chunks.iter().zip(have) {
            let Some(wire) = read_chunk(&*self.disk, &self.dir, chunk)? else {
                // The medium lost it since: it is fetched again.
                *have = false;
                let (expected, actual) = (chunk.sha256, Digest::of(&[]));
                return Err(FetchError::Mismatch { expected, actual });
            };
            packed.extend(expand(&wire, chunk)?);
        }
        let (expected, actual) = (index.sha256, Digest::of(&packed));
        if actual != expected {
            return Err(ContentError::Digest { expected, actual }.into());
        }
        let bundle = Bundle::unpack(packed)?;
        let manifest = bundle.manifest();
        if (&manifest.name, manifest.version) != (&self.model, self.offered.version) {
            return Err(self.other_model(&manifest.name, manifest.version).into());
        }
        Ok(bundle)
    }

    fn other_model(&self, model: &ModelName, version: u32) -> ContentError {
        ContentError::OtherModel {
            model: self.model.clone(),
            version: self.offered.version,
            actual_model: model.clone(),
            actual_version: version,
        }
    }

    fn stored(&self, chunk: &ChunkRef) -> Result<Option<Vec<u8>>, DiskError> {
        read_chunk(&*self.disk, &self.dir, chunk)
    }
}

/// Left free for the journal, trust and the logs of others.
const RESERVE: u64 = 8 << 20;

/// `None` where it is not there or not whole.
fn read_chunk(disk: &dyn Disk, dir: &Path, chunk: &ChunkRef) -> Result<Option<Vec<u8>>, DiskError> {
    let wire = disk.read(&chunk_path(dir, chunk), chunk.wire.into())?;
    Ok(wire.filter(|wire| Digest::of(wire) == chunk.sha256))
}

fn chunk_path(dir: &Path, chunk: &ChunkRef) -> PathBuf {
    dir.join(chunk.sha256.to_string())
}

fn check(chunk: &ChunkRef, bytes: &[u8]) -> Result<(), FetchError> {
    let (expected, actual) = (chunk.sha256, Digest::of(bytes));
    if actual == expected { Ok(()) } else { Err(FetchError::Mismatch { expected, actual }) }
}

fn join(parts: &[Option<Vec<u8>>]) -> Option<Vec<u8>> {
    parts.iter().map(|part| part.as_deref()).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
}
