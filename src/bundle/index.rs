//! The index of a bundle: its chunks in order. Itself content-addressed; when it does not fit one
//! chunk, a node lists the chunks that it is cut into. A delta's is a node of its own.
//!
//! JSON; unknown fields are for later readers and are passed over, except `enc`: a bundle that is
//! encrypted cannot be read by this version and is refused.

use super::chunks::{ChunkRef, MAX_CHUNK_WIRE};
use super::{Bundle, Digest, ModelName};
use serde::{Deserialize, Serialize};

/// What a bundle is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub model: ModelName,
    pub version: u32,
    /// Of the packed bundle.
    pub sha256: Digest,
    pub size: u64,
    pub chunks: Vec<ChunkRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enc: Option<serde_json::Value>,
    /// Other places to fetch chunks from; kept for later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<serde_json::Value>,
}

/// What a delta is made of: its chunks join to what `delta::apply` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaIndex {
    /// The packed bundle that it is for.
    pub from: Digest,
    /// Of the packed bundle that it makes.
    pub sha256: Digest,
    pub size: u64,
    pub chunks: Vec<ChunkRef>,
}

/// A content-addressed document on the way to the chunks: the index, or the list of its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Node {
    Index(Index),
    Delta(DeltaIndex),
    Parts {
        /// Of the index that the parts join to.
        sha256: Digest,
        parts: Vec<ChunkRef>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index is not of the known form")]
    Syntax(#[from] serde_json::Error),
    #[error("the index is over {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the bundle is encrypted; this Selvedge cannot read it: update the runtime first")]
    Encrypted,
    #[error("the index does not add up: {0}")]
    Sum(&'static str),
}

impl Index {
    pub fn new(model: ModelName, version: u32, packed: &[u8], chunks: Vec<ChunkRef>) -> Self {
        Self {
            model,
            version,
            sha256: Digest::of(packed),
            size: packed.len() as u64,
            chunks,
            enc: None,
            sources: Vec::new(),
        }
    }

    /// Bytes to fetch in all.
    pub fn wire_size(&self) -> u64 {
        self.chunks.iter().map(|c| u64::from(c.wire)).sum()
    }

    fn check(&self) -> Result<(), IndexError> {
        if self.enc.is_some() {
            return Err(IndexError::Encrypted);
        }
        if self.size > Bundle::MAX_BYTES {
            return Err(IndexError::Sum("the bundle is over 512 MiB"));
        }
        check_chunks(&self.chunks)?;
        let raw: u64 = self.chunks.iter().map(|c| u64::from(c.raw)).sum();
        if raw != self.size {
            return Err(IndexError::Sum("the chunks do not make up its size"));
        }
        Ok(())
    }
}

impl DeltaIndex {
    fn check(&self) -> Result<(), IndexError> {
        if self.size > Bundle::MAX_BYTES {
            return Err(IndexError::Sum("the bundle is over 512 MiB"));
        }
        check_chunks(&self.chunks)
    }
}

impl Node {
    /// The most bytes of an index that was joined from parts: 512 MiB in the smallest chunks.
    const MAX_JOINED: usize = 8 << 20;

    /// Reads what a target's digest stands for; checked by the caller against that digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        if bytes.len() > MAX_CHUNK_WIRE {
            return Err(IndexError::TooLarge { limit: MAX_CHUNK_WIRE });
        }
        let node: Self = serde_json::from_slice(bytes)?;
        match &node {
            Self::Index(index) => index.check()?,
            Self::Delta(delta) => delta.check()?,
            Self::Parts { parts, .. } => check_chunks(parts)?,
        }
        Ok(node)
    }

    /// Reads an index that parts were joined to.
    pub fn parse_joined(bytes: &[u8]) -> Result<Index, IndexError> {
        if bytes.len() > Self::MAX_JOINED {
            return Err(IndexError::TooLarge { limit: Self::MAX_JOINED });
        }
        match serde_json::from_slice(bytes)? {
            Self::Index(index) => index.check().map(|()| index),
            Self::Delta(_) | Self::Parts { .. } => Err(IndexError::Sum("parts join to no index")),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data serializes")
    }

    /// The chunks that are needed next.
    pub fn chunks(&self) -> &[ChunkRef] {
        match self {
            Self::Index(index) => &index.chunks,
            Self::Delta(delta) => &delta.chunks,
            Self::Parts { parts, .. } => parts,
        }
    }
}

fn check_chunks(chunks: &[ChunkRef]) -> Result<(), IndexError> {
    let in_bounds = |c: &ChunkRef| (1..=MAX_CHUNK_WIRE).contains(&(c.wire as usize)) && c.raw > 0;
    if chunks.is_empty() {
        return Err(IndexError::Sum("it has no chunks"));
    }
    if !chunks.iter().all(in_bounds) {
        return Err(IndexError::Sum("a chunk is empty or over 96 KiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(size: u64, raw: u32) -> Index {
        let chunk = ChunkRef { sha256: Digest::of(b"wire"), wire: 4, raw };
        Index { size, ..Index::new(ModelName::new("m").unwrap(), 1, b"", vec![chunk]) }
    }

    #[test]
    fn a_sound_index_comes_back() {
        let node = Node::Index(index(9, 9));
        assert_eq!(Node::parse(&node.to_bytes()).unwrap(), node);
        assert_eq!(Node::parse_joined(&node.to_bytes()).unwrap(), index(9, 9));
    }

    #[test]
    fn sums_and_bounds_are_checked() {
        let parse = |index| Node::parse(&Node::Index(index).to_bytes());
        assert!(matches!(parse(index(10, 9)), Err(IndexError::Sum(_))));
        assert!(matches!(parse(index(u64::MAX, 9)), Err(IndexError::Sum(_))));
        let empty = Index::new(ModelName::new("m").unwrap(), 1, b"", vec![]);
        assert!(matches!(parse(empty), Err(IndexError::Sum(_))));
        assert!(matches!(Node::parse(&vec![b' '; MAX_CHUNK_WIRE + 1]), Err(IndexError::TooLarge { .. })));
        assert!(matches!(Node::parse(b"[]"), Err(IndexError::Syntax(_))));
    }

    #[test]
    fn an_encrypted_bundle_is_refused_and_other_news_passed_over() {
        let text = String::from_utf8(Node::Index(index(9, 9)).to_bytes()).unwrap();
        let with = |field: &str| text.replacen('{', &format!("{{{field},"), 1).into_bytes();
        assert!(matches!(Node::parse(&with("\"enc\":{\"alg\":1}")), Err(IndexError::Encrypted)));
        assert!(Node::parse(&with("\"deltas\":[1]")).is_ok());
    }

    #[test]
    fn the_index_of_a_delta_comes_back_within_its_bounds() {
        let delta = |size, chunks| DeltaIndex { from: Digest::of(b"1"), sha256: Digest::of(b"2"), size, chunks };
        let node = Node::Delta(delta(9, index(9, 9).chunks));
        assert_eq!(Node::parse(&node.to_bytes()).unwrap(), node);
        assert!(matches!(Node::parse_joined(&node.to_bytes()), Err(IndexError::Sum(_))));
        for wrong in [delta(Bundle::MAX_BYTES + 1, index(9, 9).chunks), delta(9, vec![])] {
            assert!(matches!(Node::parse(&Node::Delta(wrong).to_bytes()), Err(IndexError::Sum(_))));
        }
    }

    #[test]
    fn parts_do_not_nest() {
        let node = Node::Parts { sha256: Digest::of(b""), parts: index(9, 9).chunks };
        assert!(Node::parse(&node.to_bytes()).is_ok());
        assert!(matches!(Node::parse_joined(&node.to_bytes()), Err(IndexError::Sum(_))));
    }
}
