//! What is missing of an offer, and where the rest lies.
//!
//! Two roads lead to a bundle: its chunks, or a delta from a version that is on disk. The shortest delta for which there is
//! room goes first; when it fails in any way, the chunks are fetched instead.
//!
//! Chunks of both are kept on disk by the digest of their wire bytes as soon as they are checked, so that an interrupted
//! download goes on after a reboot. The node and its parts are small and fetched anew.

use super::assemble::{Assembly, Recipe, read_chunk};
use super::machine::Offered;
use crate::bundle::delta::DeltaError;
use crate::bundle::{
    Bundle, ChunkRef, DeltaIndex, Digest, ExpandError, Index, IndexError, ModelName, Node, PackError, expand,
};
use crate::ipc::{Fetch, MAX_WINDOW};
use crate::sys::{Disk, DiskError};
use crate::trust::{Contents, DeltaRef};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One offer on its way.
#[derive(Debug)]
pub struct Download {
    pub model: ModelName,
    pub offered: Offered,
    wanted: Wanted,
    /// Bundles of the model on disk, by digest.
    bases: Vec<(Digest, PathBuf)>,
    /// Nodes of deltas that failed.
    failed: Vec<Digest>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Node,
    Parts {
        sha256: Digest,
        parts: Vec<ChunkRef>,
        got: Vec<Option<Vec<u8>>>,
    },
    Chunks {
        index: Index,
        have: Vec<bool>,
    },
    /// The delta at that place of the offer's.
    DeltaNode(usize),
    DeltaChunks {
        place: usize,
        index: DeltaIndex,
        base: PathBuf,
        have: Vec<bool>,
    },
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
    /// Putting it together ended in a panic.
    #[error("putting the bundle together broke")]
    Broke,
    /// A delta did not lead to the bundle; the chunks still may.
    #[error("the delta cannot be used: the chunks are fetched instead")]
    Delta(#[source] DeltaFault),
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

/// What is wrong with a delta.
#[derive(Debug, thiserror::Error)]
pub enum DeltaFault {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("its index is of another delta than the target says")]
    Other,
    #[error(transparent)]
    Apply(#[from] DeltaError),
    #[error("the version that it is for does not read any more")]
    Base(#[source] DiskError),
    #[error("its bytes have not come for a long time")]
    Absent,
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
    /// The target's place in the metadata that the link holds.
    pub ordinal: u32,
    /// Of the node.
    pub size: u64,
    /// The version's budget of memory.
    pub memory_mib: Option<u32>,
    /// It waits for no quiet hour.
    pub urgent: bool,
    /// What the deltas make.
    pub bundle: Option<Contents>,
    pub deltas: Vec<DeltaRef>,
}

impl Download {
    /// `dir` keeps the chunks; `bases` are bundles of the model on disk.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        wanted: Wanted,
        bases: Vec<(Digest, PathBuf)>,
    ) -> Result<Self, DiskError> {
        let (model, offered, dir) = (wanted.model.clone(), wanted.offered, dir.to_owned());
        let mut this = Self { model, offered, wanted, bases, failed: Vec::new(), disk, dir, phase: Phase::Node };
        this.phase = this.first_phase()?;
        Ok(this)
    }

    /// The link has forgotten what it brought, or its list of targets changed.
    pub fn restart(&mut self, wanted: Wanted) -> Result<(), DiskError> {
        self.wanted = wanted;
        self.phase = self.first_phase()?;
        Ok(())
    }

    pub fn wanted_version(&self) -> &Wanted {
        &self.wanted
    }

    /// The same version is offered in other words, and all of it is here.
    pub fn note(&mut self, wanted: Wanted) {
        self.wanted = wanted;
    }

    /// The delta with the fewest bytes whose base is here and for which there is room; else the chunks, which take no less.
    fn first_phase(&self) -> Result<Phase, DiskError> {
        let Some(bundle) = self.wanted.bundle else { return Ok(Phase::Node) };
        let free = self.disk.free(&self.dir)?;
        let is_open = |delta: &DeltaRef| {
            let needed = delta.wire.saturating_add(bundle.size).saturating_add(RESERVE);
            self.base(delta).is_some() && !self.failed.contains(&delta.node) && needed <= free
        };
        let open = self.wanted.deltas.iter().enumerate().filter(|(_, delta)| is_open(delta));
        Ok(open.min_by_key(|(_, delta)| delta.wire).map_or(Phase::Node, |(place, _)| Phase::DeltaNode(place)))
    }

    fn base(&self, delta: &DeltaRef) -> Option<&PathBuf> {
        self.bases.iter().find(|(digest, _)| *digest == delta.from).map(|(_, path)| path)
    }

    /// Takes another road when a delta is under way: true if one was. It is not tried again.
    pub fn give_delta_up(&mut self) -> Result<bool, DiskError> {
        let place = match &self.phase {
            Phase::DeltaNode(place) | Phase::DeltaChunks { place, .. } => *place,
            Phase::Node | Phase::Parts { .. } | Phase::Chunks { .. } => return Ok(false),
        };
        self.failed.extend(self.wanted.deltas.get(place).map(|delta| delta.node));
        self.phase = self.first_phase()?;
        Ok(true)
    }

    pub fn is_delta(&self) -> bool {
        matches!(self.phase, Phase::DeltaNode(_) | Phase::DeltaChunks { .. })
    }

    pub fn awaits_index(&self) -> bool {
        !matches!(self.phase, Phase::Chunks { .. } | Phase::DeltaChunks { .. })
    }

    pub fn missing(&self) -> usize {
        match &self.phase {
            Phase::Node | Phase::DeltaNode(_) => 0,
            Phase::Parts { got, .. } => got.iter().filter(|part| part.is_none()).count(),
            Phase::Chunks { have, .. } | Phase::DeltaChunks { have, .. } => have.iter().filter(|have| !**have).count(),
        }
    }

    /// Chunks in all, where they are known.
    pub fn total(&self) -> usize {
        match &self.phase {
            Phase::Node | Phase::DeltaNode(_) | Phase::Parts { .. } => 0,
            Phase::Chunks { have, .. } | Phase::DeltaChunks { have, .. } => have.len(),
        }
    }

    /// What to ask the link for now.
    pub fn request(&self) -> Fetch {
        let first = |missing: &mut dyn Iterator<Item = usize>| {
            let ordinals = missing.take(MAX_WINDOW).filter_map(|i| u32::try_from(i).ok()).collect();
            Fetch::Chunks { ordinals }
        };
        match &self.phase {
            Phase::Node => Fetch::Target { ordinal: self.wanted.ordinal },
            Phase::DeltaNode(place) => {
                let delta = u32::try_from(*place).unwrap_or(u32::MAX);
                Fetch::Delta { ordinal: self.wanted.ordinal, delta }
            }
            Phase::Parts { got, .. } => first(&mut got.iter().enumerate().filter(|(_, p)| p.is_none()).map(|(i, _)| i)),
            Phase::Chunks { have, .. } | Phase::DeltaChunks { have, .. } => {
                first(&mut have.iter().enumerate().filter(|(_, h)| !**h).map(|(i, _)| i))
            }
        }
    }

    /// What `request` is for, by place and digest.
    pub fn wanted(&self) -> Vec<(u32, Digest)> {
        let chunks = match &self.phase {
            Phase::Node => return vec![(0, self.offered.target)],
            Phase::DeltaNode(place) => return vec![(0, self.wanted.deltas[*place].node)],
            Phase::Parts { parts, .. } => parts,
            Phase::Chunks { index: Index { chunks, .. }, .. }
            | Phase::DeltaChunks { index: DeltaIndex { chunks, .. }, .. } => chunks,
        };
        let Fetch::Chunks { ordinals } = self.request() else { return Vec::new() };
        ordinals.into_iter().filter_map(|i| Some((i, chunks.get(i as usize)?.sha256))).collect()
    }

    /// The node came.
    pub fn node(&mut self, bytes: &[u8]) -> Result<Progress, FetchError> {
        let actual = Digest::of(bytes);
        let (expected, size) = match &self.phase {
            Phase::Node => (self.offered.target, self.wanted.size),
            Phase::DeltaNode(place) => {
                let delta = &self.wanted.deltas[*place];
                (delta.node, delta.size)
            }
            Phase::Parts { .. } | Phase::Chunks { .. } | Phase::DeltaChunks { .. } => return Ok(Progress::Ignored),
        };
        if actual != expected && self.is_of_another_road(actual) {
            return Ok(Progress::Ignored);
        }
        if actual != expected || bytes.len() as u64 != size {
            return Err(FetchError::Mismatch { expected, actual });
        }
        if let Phase::DeltaNode(place) = self.phase {
            return self.begin_delta(place, bytes);
        }
        match Node::parse(bytes)? {
            Node::Index(index) => self.begin_chunks(index),
            Node::Parts { sha256, parts } => {
                let got = vec![None; parts.len()];
                self.phase = Phase::Parts { sha256, parts, got };
                Ok(Progress::More)
            }
            Node::Delta(_) => Err(IndexError::Sum("a delta stands where the index should").into()),
        }
    }

    /// What was asked for before the road changed may still come.
    fn is_of_another_road(&self, node: Digest) -> bool {
        node == self.offered.target || self.wanted.deltas.iter().any(|delta| delta.node == node)
    }

    fn begin_delta(&mut self, place: usize, bytes: &[u8]) -> Result<Progress, FetchError> {
        let fault = |fault: DeltaFault| FetchError::Delta(fault);
        let (delta, bundle) = (self.wanted.deltas[place], self.wanted.bundle);
        let Node::Delta(index) = Node::parse(bytes).map_err(|e| fault(e.into()))? else {
            return Err(fault(DeltaFault::Other));
        };
        let says = Contents { sha256: index.sha256, size: index.size };
        let base = self.base(&delta).cloned().filter(|_| index.from == delta.from && bundle == Some(says));
        let base = base.ok_or_else(|| fault(DeltaFault::Other))?;
        let (have, missing) = self.on_disk(&index.chunks)?;
        self.check_room(missing + index.size)?;
        let complete = have.iter().all(|have| *have);
        self.phase = Phase::DeltaChunks { place, index, base, have };
        Ok(if complete { Progress::Complete } else { Progress::More })
    }

    /// A part or chunk came.
    pub fn chunk(&mut self, ordinal: u32, bytes: &[u8]) -> Result<Progress, FetchError> {
        let i = ordinal as usize;
        match &mut self.phase {
            Phase::Node | Phase::DeltaNode(_) => Ok(Progress::Ignored),
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
            Phase::Chunks { index: Index { chunks, .. }, have }
            | Phase::DeltaChunks { index: DeltaIndex { chunks, .. }, have, .. } => {
                let Some(chunk) = chunks.get(i).filter(|_| !have[i]) else { return Ok(Progress::Ignored) };
                check(chunk, bytes)?;
                self.disk.commit(&chunk_path(&self.dir, chunk), bytes)?;
                // The same chunk may stand in several places.
                let same = chunks.iter().zip(have.iter_mut()).filter(|(c, _)| c.sha256 == chunk.sha256);
                same.for_each(|(_, have)| *have = true);
                Ok(if have.iter().all(|have| *have) { Progress::Complete } else { Progress::More })
            }
        }
    }

    fn begin_chunks(&mut self, index: Index) -> Result<Progress, FetchError> {
        if (&index.model, index.version) != (&self.model, self.offered.version) {
            return Err(self.other_model(&index.model, index.version).into());
        }
        let (have, missing) = self.on_disk(&index.chunks)?;
        self.check_room(missing + index.size)?;
        let complete = have.iter().all(|have| *have);
        self.phase = Phase::Chunks { index, have };
        Ok(if complete { Progress::Complete } else { Progress::More })
    }

    /// Which chunks are there, and the bytes of those that are not.
    fn on_disk(&self, chunks: &[ChunkRef]) -> Result<(Vec<bool>, u64), DiskError> {
        let mut have = Vec::with_capacity(chunks.len());
        let mut missing = 0;
        for chunk in chunks {
            let is_there = read_chunk(&*self.disk, &self.dir, chunk)?.is_some();
            have.push(is_there);
            missing += if is_there { 0 } else { u64::from(chunk.wire) };
        }
        Ok((have, missing))
    }

    fn check_room(&self, needed: u64) -> Result<(), FetchError> {
        let (needed, free) = (needed + RESERVE, self.disk.free(&self.dir)?);
        if free < needed { Err(FetchError::Full { needed, free }) } else { Ok(()) }
    }

    /// How a complete download is put together.
    pub fn assembly(&self) -> Option<Assembly> {
        let recipe = match &self.phase {
            Phase::Chunks { index, .. } => {
                Recipe { chunks: index.chunks.clone(), sha256: index.sha256, size: index.size, base: None }
            }
            Phase::DeltaChunks { index, base, .. } => {
                let base = Some(base.clone());
                Recipe { chunks: index.chunks.clone(), sha256: index.sha256, size: index.size, base }
            }
            Phase::Node | Phase::Parts { .. } | Phase::DeltaNode(_) => return None,
        };
        Some(Assembly::new(self.disk.clone(), &self.dir, recipe))
    }

    /// The medium lost a chunk since: it is fetched again.
    pub fn lost(&mut self, digest: Digest) {
        if let Phase::Chunks { index: Index { chunks, .. }, have }
        | Phase::DeltaChunks { index: DeltaIndex { chunks, .. }, have, .. } = &mut self.phase
        {
            let lost = chunks.iter().zip(have).filter(|(chunk, _)| chunk.sha256 == digest);
            lost.for_each(|(_, have)| *have = false);
        }
    }

    /// The bundle is what was offered.
    pub fn check(&self, bundle: &Bundle) -> Result<(), FetchError> {
        let manifest = bundle.manifest();
        if (&manifest.name, manifest.version) != (&self.model, self.offered.version) {
            return Err(self.other_model(&manifest.name, manifest.version).into());
        }
        Ok(())
    }

    fn other_model(&self, model: &ModelName, version: u32) -> ContentError {
        ContentError::OtherModel {
            model: self.model.clone(),
            version: self.offered.version,
            actual_model: model.clone(),
            actual_version: version,
        }
    }
}

/// Left free for the journal, trust and the logs of others.
const RESERVE: u64 = 8 << 20;

pub(super) fn chunk_path(dir: &Path, chunk: &ChunkRef) -> PathBuf {
    dir.join(chunk.sha256.to_string())
}

fn check(chunk: &ChunkRef, bytes: &[u8]) -> Result<(), FetchError> {
    let (expected, actual) = (chunk.sha256, Digest::of(bytes));
    if actual == expected { Ok(()) } else { Err(FetchError::Mismatch { expected, actual }) }
}

fn join(parts: &[Option<Vec<u8>>]) -> Option<Vec<u8>> {
    parts.iter().map(|part| part.as_deref()).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
}
