//! `chunks/`: what stands under a digest, and what a target leads to.

use super::RepositoryError;
use super::current::damaged;
use crate::bundle::{self, Digest, Index, MAX_CHUNK_WIRE, Node};
use crate::sys::Disk;
use crate::trust::author::TargetEntry;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Chunks {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Chunks {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir }
    }

    /// All that are there.
    pub fn list(&self) -> Result<Vec<Digest>, RepositoryError> {
        let names = self.disk.list(&self.dir)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub fn write(&self, digest: &Digest, bytes: &[u8]) -> Result<(), RepositoryError> {
        Ok(self.disk.commit(&self.path(digest), bytes)?)
    }

    pub fn remove(&self, digest: &Digest) -> Result<(), RepositoryError> {
        Ok(self.disk.remove(&self.path(digest))?)
    }

    /// The index under a target, and the digests of its parts.
    pub fn index(&self, node: Digest) -> Result<(Index, Vec<Digest>), RepositoryError> {
        let broken = |problem: &dyn std::fmt::Display| damaged(self.path(&node), problem);
        let bytes = self.must_read(&node)?;
        match Node::parse(&bytes).map_err(|e| broken(&e))? {
            Node::Index(index) => Ok((index, Vec::new())),
            Node::Delta(_) => Err(broken(&"a delta stands where an index should")),
            Node::Parts { sha256, parts } => {
                let mut joined = Vec::new();
                for part in &parts {
                    let wire = self.must_read(&part.sha256)?;
                    joined.extend(bundle::expand(&wire, part).map_err(|e| broken(&e))?);
                }
                if Digest::of(&joined) != sha256 {
                    return Err(broken(&"its parts join to something else"));
                }
                let index = Node::parse_joined(&joined).map_err(|e| broken(&e))?;
                Ok((index, parts.iter().map(|part| part.sha256).collect()))
            }
        }
    }

    /// The packed bundle that an index lists.
    pub fn bundle(&self, index: &Index) -> Result<Vec<u8>, RepositoryError> {
        let mut packed = Vec::new();
        for chunk in &index.chunks {
            let wire = self.must_read(&chunk.sha256)?;
            packed.extend(bundle::expand(&wire, chunk).map_err(|e| damaged(self.path(&chunk.sha256), e))?);
        }
        Ok(packed)
    }

    /// All chunks under a target and its deltas, without their nodes.
    pub fn referenced(&self, entry: &TargetEntry) -> Result<Vec<Digest>, RepositoryError> {
        let (index, parts) = self.index(entry.digest)?;
        let mut all: Vec<Digest> = index.chunks.iter().map(|chunk| chunk.sha256).chain(parts).collect();
        for delta in &entry.custom.deltas {
            let bytes = self.must_read(&delta.node)?;
            let node = Node::parse(&bytes).map_err(|e| damaged(self.path(&delta.node), e))?;
            all.extend(node.chunks().iter().map(|chunk| chunk.sha256));
        }
        Ok(all)
    }

    /// The node of a target, and those of its deltas.
    pub fn nodes(entry: &TargetEntry) -> impl Iterator<Item = Digest> + '_ {
        entry.custom.deltas.iter().map(|delta| delta.node).chain([entry.digest])
    }

    fn must_read(&self, digest: &Digest) -> Result<Vec<u8>, RepositoryError> {
        self.read(digest)?.ok_or_else(|| damaged(self.path(digest), "it is not there"))
    }

    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, RepositoryError> {
        let path = self.path(digest);
        let bytes = self.disk.read(&path, MAX_CHUNK_WIRE as u64)?;
        match bytes {
            Some(bytes) if Digest::of(&bytes) != *digest => Err(damaged(path, "its digest does not match")),
            other => Ok(other),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}
