//! An offer as one file, for sites with no network.

use super::RepositoryError;
use super::cutting::Audience;
use super::repository::{Pending, Repository};
use crate::bundle::{ModelName, topics};
use crate::inbox;

/// A pack, ready to be written.
#[derive(Debug)]
pub struct Packed {
    pub version: u32,
    pub chunks: usize,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Repository {
    /// What is offered of a model to that audience, with all metadata that leads to it. Deltas stay out: a board may
    /// have any version, and the whole always does.
    pub fn pack(&self, model: &ModelName, audience: &Audience) -> Result<Packed, RepositoryError> {
        let (version, mut chunks) = self.offered(model, audience)?;
        chunks.sort();
        chunks.dedup();
        let count = chunks.len();
        let publication = self.publication(Pending { roots: (1..=self.root_version()).collect(), chunks })?;
        let prefix = format!("{}/", topics::PREFIX);
        let name = |topic: &str| topic.strip_prefix(&prefix).unwrap_or(topic).to_owned();
        let entries: Vec<(String, &[u8])> =
            publication.posts.iter().map(|post| (name(&post.topic), &post.bytes[..])).collect();
        let mut bytes = Vec::new();
        inbox::write(&mut bytes, &entries).map_err(RepositoryError::Pack)?;
        if bytes.len() as u64 > inbox::MAX_BYTES {
            return Err(RepositoryError::PackSize { bytes: bytes.len() as u64, limit: inbox::MAX_BYTES });
        }
        Ok(Packed { version, chunks: count, bytes })
    }
}
