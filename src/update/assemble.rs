//! A bundle from the chunks on disk, or from an older bundle and a delta's chunks.
//!
//! Invariant: what comes out has the signed digest; memory is that of the bundle and a little more, whatever a delta says.
//! Nothing is written here: an assembly that is cut off is made again.

use super::fetch::{ContentError, DeltaFault, FetchError, chunk_path};
use crate::bundle::delta::{DeltaError, Expected, ReadAt, apply};
use crate::bundle::{Bundle, ChunkRef, Digest, expand};
use crate::sys::{Disk, DiskError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to come out, and of what.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub chunks: Vec<ChunkRef>,
    pub sha256: Digest,
    pub size: u64,
    /// The bundle that the chunks are a delta to.
    pub base: Option<PathBuf>,
}

/// A download that is complete. It may take seconds, so it is for a thread of its own.
#[derive(Debug)]
pub struct Assembly {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    recipe: Recipe,
}

impl Assembly {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, recipe: Recipe) -> Self {
        Self { disk, dir: dir.to_owned(), recipe }
    }

    pub fn run(&self) -> Result<Bundle, FetchError> {
        let mut packed = Vec::new();
        let mut chunks = Chunks::new(self);
        match &self.recipe.base {
            None => chunks.all(&mut packed)?,
            Some(base) => self.by_delta(base, chunks, &mut packed)?,
        }
        let (expected, actual) = (self.recipe.sha256, Digest::of(&packed));
        if actual != expected {
            return Err(ContentError::Digest { expected, actual }.into());
        }
        Ok(Bundle::unpack(packed)?)
    }

    fn by_delta(&self, base: &Path, mut chunks: Chunks<'_>, packed: &mut Vec<u8>) -> Result<(), FetchError> {
        let base = Base::open(&*self.disk, base).map_err(FetchError::Delta)?;
        let expected = Expected { sha256: self.recipe.sha256, size: self.recipe.size };
        let done = apply(&base, &mut chunks, &expected, packed);
        match chunks.failed {
            // Why the delta could not be read says more than that it could not.
            Some(error) => Err(error),
            None => done.map_err(|error: DeltaError| FetchError::Delta(error.into())),
        }
    }
}

/// The chunks, expanded, one after the other.
struct Chunks<'a> {
    from: &'a Assembly,
    next: usize,
    at_hand: io::Cursor<Vec<u8>>,
    failed: Option<FetchError>,
}

impl<'a> Chunks<'a> {
    fn new(from: &'a Assembly) -> Self {
        Self { from, next: 0, at_hand: io::Cursor::default(), failed: None }
    }

    fn all(&mut self, into: &mut Vec<u8>) -> Result<(), FetchError> {
        while let Some(raw) = self.chunk()? {
            into.extend(raw);
        }
        Ok(())
    }

    fn chunk(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        let Assembly { disk, dir, recipe } = self.from;
        let Some(chunk) = recipe.chunks.get(self.next) else { return Ok(None) };
        let Some(wire) = read_chunk(&**disk, dir, chunk)? else {
            return Err(FetchError::Mismatch { expected: chunk.sha256, actual: Digest::of(&[]) });
        };
        self.next += 1;
        Ok(Some(expand(&wire, chunk)?))
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.at_hand.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            match self.chunk() {
                Ok(Some(raw)) => self.at_hand = io::Cursor::new(raw),
                Ok(None) => return Ok(0),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::Error::other("a chunk does not read"));
                }
            }
        }
    }
}

/// A bundle on disk.
struct Base<'a> {
    disk: &'a dyn Disk,
    path: &'a Path,
    size: u64,
}

impl<'a> Base<'a> {
    fn open(disk: &'a dyn Disk, path: &'a Path) -> Result<Self, DeltaFault> {
        // One that is gone is as one of no bytes: the delta reads outside of it.
        let size = disk.size(path).map_err(DeltaFault::Base)?.unwrap_or(0);
        Ok(Self { disk, path, size })
    }
}

impl ReadAt for Base<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(self.path, offset, into).map_err(io::Error::other)
    }
}

/// `None` where it is not there or not whole.
pub(super) fn read_chunk(disk: &dyn Disk, dir: &Path, chunk: &ChunkRef) -> Result<Option<Vec<u8>>, DiskError> {
    let wire = disk.read(&chunk_path(dir, chunk), chunk.wire.into())?;
    Ok(wire.filter(|wire| Digest::of(wire) == chunk.sha256))
}
