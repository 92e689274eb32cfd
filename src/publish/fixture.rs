//! A board and a device in memory, for tests.

use super::submission::file_name;
use super::{Board, BoardError, Publication, Repository, upload};
use crate::bundle::{Bundle, Digest, Node, expand, topics};
use crate::sys::{FaultyDisk, ManualClock};
use crate::trust::{Offered, Progress, Recipient, Role, Trust, UpdateError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub const DEVICE: [u8; 16] = [1; 16];

/// A board in memory that fails after a number of posts.
#[derive(Default)]
pub struct Shown {
    pub topics: Mutex<BTreeMap<String, Vec<u8>>>,
    pub left: Mutex<Option<usize>>,
}

#[async_trait::async_trait]
impl Board for Shown {
    async fn post(&self, topic: &str, bytes: &[u8]) -> Result<(), BoardError> {
        let mut left = self.left.lock().unwrap();
        if *left == Some(0) {
            return Err(BoardError::Post { topic: topic.to_owned(), source: "the line is down".into() });
        }
        *left = left.map(|left| left - 1);
        let mut topics = self.topics.lock().unwrap();
        if bytes.is_empty() {
            topics.remove(topic)
        } else {
            topics.insert(topic.to_owned(), bytes.to_vec())
        };
        Ok(())
    }
}

impl Shown {
    pub async fn take(&self, publication: &Publication) -> Result<(), BoardError> {
        upload(self, publication, &mut |_, _| ()).await
    }

    pub fn get(&self, topic: &str) -> Option<Vec<u8>> {
        self.topics.lock().unwrap().get(topic).cloned()
    }

    pub fn offered(&self) -> Offered {
        let mut offered = Offered::default();
        for (topic, bytes) in self.topics.lock().unwrap().iter() {
            let Some(file) = topic.strip_prefix("selvedge/v1/tuf/") else { continue };
            let version = file.split('.').next().unwrap().parse().unwrap_or(0);
            match Role::ALL.into_iter().find(|role| role.file(version) == file) {
                Some(role) => offered.insert(role, version, bytes.clone()).unwrap(),
                None => {
                    let (version, team) = file_name(file).unwrap();
                    offered.insert_delegated(&team, version, bytes.clone()).unwrap();
                }
            }
        }
        offered
    }

    pub fn bytes(&self, digest: &Digest) -> Vec<u8> {
        let bytes = self.get(&topics::chunk(digest)).unwrap_or_else(|| panic!("{digest} is not on the board"));
        assert_eq!(Digest::of(&bytes), *digest);
        bytes
    }

    /// The bundle under a node, fetched as a device does.
    pub fn fetch(&self, node: &Digest) -> Bundle {
        let index = match Node::parse(&self.bytes(node)).unwrap() {
            Node::Index(index) => index,
            Node::Delta(_) => panic!("a delta where the index should be"),
            Node::Parts { parts, .. } => {
                let joined: Vec<u8> =
                    parts.iter().flat_map(|part| expand(&self.bytes(&part.sha256), part).unwrap()).collect();
                Node::parse_joined(&joined).unwrap()
            }
        };
        let packed: Vec<u8> =
            index.chunks.iter().flat_map(|chunk| expand(&self.bytes(&chunk.sha256), chunk).unwrap()).collect();
        assert_eq!(Digest::of(&packed), index.sha256);
        Bundle::unpack(packed).unwrap()
    }
}

pub struct Device {
    pub trust: Trust,
}

impl Device {
    pub fn new(repository: &Repository) -> Self {
        let root = repository.root_json().unwrap();
        Self { trust: Trust::open(Arc::new(FaultyDisk::new()), Path::new("/t"), &root).unwrap() }
    }

    pub async fn update(&mut self, board: &Shown) -> Result<Progress, UpdateError> {
        self.trust.update(&board.offered(), &ManualClock::new(0, false)).await
    }

    /// Versions offered to a device of the group, each fetched whole.
    pub fn versions(&self, board: &Shown, group: &str) -> Vec<u32> {
        let offers = self.trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &[group.to_owned()]));
        let version = |offer: &crate::trust::Offer| {
            let bundle = board.fetch(&offer.digest);
            assert_eq!((bundle.manifest().version, &bundle.manifest().name), (offer.version, &offer.model));
            offer.version
        };
        offers.iter().map(version).collect()
    }
}
