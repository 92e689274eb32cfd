//! What goes to the board and in which order. The board itself is somebody else's.

use crate::bundle::{Digest, ModelName, topics};
use futures::{StreamExt as _, TryStreamExt as _};
use std::error::Error as StdError;

/// One retained message, QoS 1. No bytes clear the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    pub topic: String,
    pub bytes: Vec<u8>,
}

/// Posts in publishing order: chunks, nodes, roots, targets, snapshot, and the timestamp last.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    pub posts: Vec<Post>,
    /// What was published, where it was a model.
    pub release: Option<Release>,
    pub(super) chunks: Vec<Digest>,
    pub(super) roots: Vec<u32>,
}

impl Publication {
    pub fn size(&self) -> u64 {
        self.posts.iter().map(|post| post.bytes.len() as u64).sum()
    }
}

/// One published version in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub model: ModelName,
    pub version: u32,
    /// Of the packed bundle: digest and bytes.
    pub sha256: Digest,
    pub size: u64,
    pub chunks: usize,
    /// Chunks that no earlier publication had.
    pub new_chunks: usize,
    /// Compressed bytes of all chunks, and of the new ones.
    pub wire: u64,
    pub new_wire: u64,
    /// Versions that new deltas begin at, and the bytes that a device fetches then.
    pub deltas: Vec<(u32, u64)>,
}

#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error("reach the broker at {broker}")]
    Connect { broker: String, source: Box<dyn StdError + Send + Sync> },
    #[error("post to {topic}; the directory is whole: run the command again, what lacks goes out then")]
    Post { topic: String, source: Box<dyn StdError + Send + Sync> },
}

/// Where posts go.
#[async_trait::async_trait]
pub trait Board: Send + Sync {
    /// Returns when the broker has acknowledged it.
    async fn post(&self, topic: &str, bytes: &[u8]) -> Result<(), BoardError>;
}

/// How many chunks are on their way at a time.
const IN_FLIGHT: usize = 8;

/// Sends everything: chunks a few at a time, metadata one by one and after all chunks, so that no
/// device sees a timestamp before what it leads to. `progress` gets posts done and in all.
pub async fn upload(
    board: &dyn Board,
    publication: &Publication,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<(), BoardError> {
    let total = publication.posts.len();
    let prefix = format!("{}/chunk/", topics::PREFIX);
    let (chunks, metadata): (Vec<&Post>, Vec<&Post>) =
        publication.posts.iter().partition(|post| post.topic.starts_with(&prefix));
    let mut done = 0;
    progress(done, total);
    let sends: Vec<_> = chunks.iter().map(|post| board.post(&post.topic, &post.bytes)).collect();
    let mut sent = futures::stream::iter(sends).buffered(IN_FLIGHT);
    while sent.try_next().await?.is_some() {
        done += 1;
        progress(done, total);
    }
    for post in metadata {
        board.post(&post.topic, &post.bytes).await?;
        done += 1;
        progress(done, total);
    }
    Ok(())
}
