//! Deltas of a publication: from which versions, made, cut, named in the target's metadata.
//!
//! A device that is to go over to a version runs, as a rule, one that is offered when it is published: to the same audience or
//! to another. From the newest of these a delta is made, where it takes less than nine tenths of the whole. What an earlier
//! publication of the same version made is kept.
//!
//! Invariant: a delta was applied once before it is signed.

use super::RepositoryError;
use super::chunks::Chunks;
use super::cutting::Cutting;
use super::delta;
use crate::bundle::{Bundle, Cut, DeltaIndex, Digest, MAX_CHUNK_WIRE, Node, cut_evenly};
use crate::trust::author::TargetEntry;
use crate::trust::{Contents, Custom, DeltaRef};
use std::collections::BTreeSet;

/// One that was made.
#[derive(Debug)]
struct Made {
    reference: DeltaRef,
    node: Vec<u8>,
    cuts: Vec<Cut>,
}

/// The deltas of one publication.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    made: Vec<Made>,
    /// Of earlier publications of the same version.
    kept: Vec<DeltaRef>,
    bundle: Option<Contents>,
    /// What they begin at, and their bytes.
    pub from: Vec<(u32, u64)>,
}

impl Deltas {
    /// From the newest `most` versions that `entries` offer of the bundle's model.
    pub fn of<'a>(
        bundle: &Bundle,
        cutting: &Cutting,
        entries: impl Iterator<Item = &'a TargetEntry>,
        chunks: &Chunks,
        most: usize,
    ) -> Result<Self, RepositoryError> {
        let mut this = Self::default();
        if most == 0 {
            return Ok(this);
        }
        let most = most.min(Custom::MAX_DELTAS);
        let sha256 = bundle.digest();
        this.bundle = Some(Contents { sha256, size: bundle.packed().len() as u64 });
        let mut of_model: Vec<&TargetEntry> =
            entries.filter(|entry| entry.custom.model == bundle.manifest().name).collect();
        of_model.sort_by_key(|entry| std::cmp::Reverse(entry.custom.published));
        let mut seen = BTreeSet::from([sha256]);
        for entry in &of_model {
            let kept = entry.custom.deltas.iter().filter(|_| entry.custom.bundle == this.bundle);
            this.kept.extend(kept.filter(|delta| seen.insert(delta.from)));
        }
        this.kept.truncate(most);
        let whole: u64 = cutting.wire();
        // Targets of single devices may be thousands, of few versions.
        let mut nodes = BTreeSet::new();
        for entry in of_model.into_iter().filter(|entry| nodes.insert(entry.digest)) {
            if this.kept.len() + this.made.len() == most {
                break;
            }
            let (index, _) = chunks.index(entry.digest)?;
            if !seen.insert(index.sha256) {
                continue;
            }
            let old = chunks.bundle(&index)?;
            let Some(made) = Made::new(&old, bundle)?.filter(|made| made.reference.wire < whole / 10 * 9) else {
                continue;
            };
            this.from.push((index.version, made.reference.wire));
            this.made.push(made);
        }
        Ok(this)
    }

    /// Says in a target's metadata which there are.
    pub fn name(&self, custom: &mut Custom) {
        custom.deltas = self.made.iter().map(|made| made.reference).chain(self.kept.iter().copied()).collect();
        custom.bundle = self.bundle.filter(|_| !custom.deltas.is_empty());
    }

    /// What is to stand on the board, in publishing order.
    pub fn contents(&self) -> impl Iterator<Item = (Digest, &Vec<u8>)> {
        self.made.iter().flat_map(|made| {
            let cuts = made.cuts.iter().map(|cut| (cut.chunk.sha256, &cut.wire));
            cuts.chain([(made.reference.node, &made.node)])
        })
    }
}

impl Made {
    /// None where the delta is too long to be listed.
    fn new(old: &[u8], bundle: &Bundle) -> Result<Option<Self>, RepositoryError> {
        let (from, new) = (Digest::of(old), bundle.packed());
        let Some((delta, _)) = delta::make(old, new) else { return Ok(None) };
        let cuts = cut_evenly(&delta).map_err(RepositoryError::Cut)?;
        let chunks = cuts.iter().map(|cut| cut.chunk).collect();
        let index = DeltaIndex { from, sha256: bundle.digest(), size: new.len() as u64, chunks };
        let node = Node::Delta(index).to_bytes();
        if node.len() > MAX_CHUNK_WIRE {
            return Ok(None);
        }
        let size = node.len() as u64;
        let wire = size + cuts.iter().map(|cut| cut.wire.len() as u64).sum::<u64>();
        let reference = DeltaRef { from, node: Digest::of(&node), size, wire };
        Ok(Some(Self { reference, node, cuts }))
    }
}
