//! Chunks: a bundle cut where its content says, each piece compressed by itself.
//!
//! Cut points follow the content (FastCDC), so that an edit changes the chunks around it and no
//! others. A chunk's identity is the SHA-256 of its wire bytes: a receiver checks before it expands.

use super::Digest;
use serde::{Deserialize, Serialize};

/// One chunk: the digest of its wire bytes, how many they are, and how many they expand to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    pub sha256: Digest,
    pub wire: u32,
    pub raw: u32,
}

/// The most wire bytes of one chunk: below the packet limit of every broker met so far
/// (AWS 128 KiB, Mosquitto 2.1 two megabytes), with room for topic and header.
pub const MAX_CHUNK_WIRE: usize = 96 * 1024;

/// Raw bytes never exceed this, so that zstd's framing of incompressible data stays below the wire limit.
const MAX_CHUNK_RAW: usize = 95 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    #[error("a chunk does not decompress")]
    Zstd(#[source] std::io::Error),
    #[error("a chunk expands to {actual} bytes, its index says {expected}")]
    Size { expected: u32, actual: usize },
}

/// Expands a chunk whose digest was checked; memory is bounded by the size in the index.
pub fn expand(wire: &[u8], chunk: &ChunkRef) -> Result<Vec<u8>, ExpandError> {
    let capacity = (chunk.raw as usize).min(MAX_CHUNK_RAW);
    let raw = zstd::bulk::decompress(wire, capacity).map_err(ExpandError::Zstd)?;
    if raw.len() != chunk.raw as usize {
        return Err(ExpandError::Size { expected: chunk.raw, actual: raw.len() });
    }
    Ok(raw)
}

/// A chunk ready to be published.
#[cfg(feature = "operator")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub chunk: ChunkRef,
    pub wire: Vec<u8>,
}

/// Cuts and compresses. The same bytes give the same chunks.
#[cfg(feature = "operator")]
pub fn cut(bytes: &[u8]) -> std::io::Result<Vec<Cut>> {
    const MIN: usize = 16 * 1024;
    const AVERAGE: usize = 48 * 1024;
    fastcdc::v2020::FastCDC::new(bytes, MIN, AVERAGE, MAX_CHUNK_RAW)
        .map(|piece| one(&bytes[piece.offset..piece.offset + piece.length]))
        .collect()
}

/// Cuts what no other version has a part of, and what is compressed already: into as few as may be.
#[cfg(feature = "operator")]
pub fn cut_evenly(bytes: &[u8]) -> std::io::Result<Vec<Cut>> {
    bytes.chunks(MAX_CHUNK_RAW).map(one).collect()
}

#[cfg(feature = "operator")]
fn one(raw: &[u8]) -> std::io::Result<Cut> {
    const LEVEL: i32 = 19;
    let wire = zstd::bulk::compress(raw, LEVEL)?;
    let chunk = ChunkRef {
        sha256: Digest::of(&wire),
        wire: u32::try_from(wire.len()).expect("bounded by the chunk size"),
        raw: u32::try_from(raw.len()).expect("bounded by the chunk size"),
    };
    Ok(Cut { chunk, wire })
}

#[cfg(all(test, feature = "operator"))]
mod tests {
    use super::*;

    /// Bytes that do not compress: a counter's digests.
    fn noise(len: usize) -> Vec<u8> {
        let blocks = (0..).flat_map(|i: u64| *crate::bundle::Digest::of(&i.to_le_bytes()).as_bytes());
        blocks.take(len).collect()
    }

    #[test]
    fn chunks_join_to_the_same_bytes_within_their_bound() {
        for bytes in [noise(700_000), vec![7; 700_000], noise(1), Vec::new()] {
            for cuts in [cut(&bytes).unwrap(), cut_evenly(&bytes).unwrap()] {
                let joined: Vec<u8> = cuts.iter().flat_map(|c| expand(&c.wire, &c.chunk).unwrap()).collect();
                assert_eq!(joined, bytes);
                assert!(cuts.iter().all(|c| c.wire.len() <= MAX_CHUNK_WIRE));
            }
        }
    }

    #[test]
    fn an_insertion_leaves_most_chunks_alone() {
        let old = noise(1_000_000);
        let mut new = old.clone();
        new.splice(300_000..300_000, [1, 2, 3]);
        let known: Vec<_> = cut(&old).unwrap().into_iter().map(|c| c.chunk).collect();
        let changed = cut(&new).unwrap().iter().filter(|c| !known.contains(&c.chunk)).count();
        assert!(changed <= 3, "{changed} of {} changed", known.len());
    }

    #[test]
    fn a_bomb_is_stopped_at_the_stated_size() {
        let wire = zstd::bulk::compress(&vec![0; 50_000_000], 19).unwrap();
        let chunk =
            |raw| ChunkRef { sha256: crate::bundle::Digest::of(&wire), wire: u32::try_from(wire.len()).unwrap(), raw };
        assert!(matches!(expand(&wire, &chunk(1000)), Err(ExpandError::Zstd(_))));
        assert!(matches!(expand(&wire, &chunk(u32::MAX)), Err(ExpandError::Zstd(_))));
        assert!(matches!(expand(b"not zstd", &chunk(1000)), Err(ExpandError::Zstd(_))));
    }
}
