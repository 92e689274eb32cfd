//! A bundle on its way to the board: chunks, the node that lists them, and for whom it is.

use super::RepositoryError;
use super::board::Release;
use crate::bundle::{Bundle, Cut, Digest, Index, MAX_CHUNK_WIRE, ModelName, Node, cut};
use crate::trust::{Needs, SaltedIds, Selector, Waves};
use std::collections::BTreeSet;

/// Who is to run it: the devices of these groups and these devices, of them those with such boards, and of them a share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audience {
    pub groups: Vec<String>,
    pub devices: Vec<[u8; 16]>,
    /// 0 to 100.
    pub percent: u8,
    pub needs: Needs,
    /// How much of that share is in by when; all of it at once without any.
    pub waves: Waves,
}

impl Audience {
    const MAX_GROUPS: usize = 64;
    const MAX_NAME: usize = 64;

    /// All devices of one group.
    pub fn group(name: &str) -> Self {
        Self { groups: vec![name.to_owned()], percent: 100, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<(), RepositoryError> {
        let is_name = |name: &String| (1..=Self::MAX_NAME).contains(&name.len());
        let problem = if self.groups.is_empty() && self.devices.is_empty() {
            "nobody is addressed; give a group with --to or a device with --device"
        } else if self.percent > 100 {
            "a percentage is 0 to 100"
        } else if self.groups.len() > Self::MAX_GROUPS || !self.groups.iter().all(is_name) {
            "there may be 64 groups, with names of 1 to 64 bytes"
        } else if self.needs.live.is_some_and(|versions| versions.min > versions.max) {
            "a range of versions goes from the lower one to the higher one"
        } else {
            return Ok(());
        };
        Err(RepositoryError::Options(problem))
    }

    /// The same for the same model and audience, whatever the share: a new publication replaces the old.
    pub(super) fn target_name(&self, model: &ModelName) -> String {
        let groups: BTreeSet<&str> = self.groups.iter().map(String::as_str).collect();
        let devices: BTreeSet<String> = self.devices.iter().map(hex::encode).collect();
        let text = match self.needs.is_empty() {
            true => serde_json::to_vec(&(groups, devices)),
            false => serde_json::to_vec(&(groups, devices, &self.needs)),
        };
        let text = text.expect("plain data serializes");
        format!("{model}/{}", hex::encode(Digest::of(&text).short()))
    }

    /// As it stands in the metadata: ids only salted, with a new salt each time.
    pub(super) fn selector(&self) -> Result<Selector, RepositoryError> {
        let mut groups = self.groups.clone();
        groups.sort();
        groups.dedup();
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|_| RepositoryError::Random)?;
        let salted = || SaltedIds::new(Digest::from_bytes(salt), &self.devices);
        let devices = (!self.devices.is_empty()).then(salted);
        Ok(Selector { groups, devices, percent: self.percent })
    }
}

/// Everything that a bundle becomes, in publishing order.
#[derive(Debug)]
pub(super) struct Cutting {
    index: Index,
    /// The chunks, then the parts of the index where it has any.
    pub cuts: Vec<Cut>,
    pub node: Vec<u8>,
}

impl Cutting {
    pub fn of(bundle: &Bundle) -> Result<Self, RepositoryError> {
        let mut cuts = cut(bundle.packed()).map_err(RepositoryError::Cut)?;
        let refs = cuts.iter().map(|cut| cut.chunk).collect();
        let manifest = bundle.manifest();
        let index = Index::new(manifest.name.clone(), manifest.version, bundle.packed(), refs);
        let mut node = Node::Index(index.clone()).to_bytes();
        if node.len() > MAX_CHUNK_WIRE {
            let parts = cut(&node).map_err(RepositoryError::Cut)?;
            let refs = parts.iter().map(|part| part.chunk).collect();
            node = Node::Parts { sha256: Digest::of(&node), parts: refs }.to_bytes();
            cuts.extend(parts);
        }
        Node::parse(&node).map_err(RepositoryError::Index)?;
        Ok(Self { index, cuts, node })
    }

    pub fn node_digest(&self) -> Digest {
        Digest::of(&self.node)
    }

    /// Bytes of all that a device fetches.
    pub fn wire(&self) -> u64 {
        self.node.len() as u64 + self.cuts.iter().map(|cut| cut.wire.len() as u64).sum::<u64>()
    }

    /// In numbers; `new` tells the chunks that were not there before.
    pub fn release(&self, new: &BTreeSet<Digest>) -> Release {
        let distinct: BTreeSet<Digest> = self.index.chunks.iter().map(|chunk| chunk.sha256).collect();
        let wire = |among: &dyn Fn(&Digest) -> bool| {
            let mut left = distinct.clone();
            let mut take = |digest: &Digest| left.remove(digest) && among(digest);
            self.index.chunks.iter().filter(|chunk| take(&chunk.sha256)).map(|chunk| u64::from(chunk.wire)).sum()
        };
        Release {
            model: self.index.model.clone(),
            version: self.index.version,
            sha256: self.index.sha256,
            size: self.index.size,
            chunks: distinct.len(),
            new_chunks: distinct.intersection(new).count(),
            wire: wire(&|_| true),
            new_wire: wire(&|digest| new.contains(digest)),
            deltas: Vec::new(),
        }
    }
}
