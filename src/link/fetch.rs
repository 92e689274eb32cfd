//! Fetches what the engine lacks: one node, then its chunks, a few at a time. Pure.
//!
//! Invariants: at most `MAX_WINDOW` chunk topics and one node topic are subscribed; what a joined
//! index may take is bounded; bytes that do not match their digest go to the engine once for each
//! distinct content, and the topic is asked for again a few times: they may have been broken on the way. The
//! subscription stays, for the right ones may come later.
//!
//! Requests and answers cross: an engine asks for what is on its way to it. So the last chunks are
//! kept and brought again from memory, or much would go over the network twice.

use super::bridge::Action;
use crate::bundle::{ChunkRef, Digest, MAX_CHUNK_WIRE, Node, expand, topics};
use crate::ipc::{MAX_WINDOW, ToEngine};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most bytes that the parts of an index may join to.
const MAX_JOINED: usize = 8 << 20;
/// Distinct wrong contents of one topic that the engine hears of.
const MAX_WRONG: usize = 8;
/// Times that a topic is asked for again after wrong bytes; what really stands there comes as often.
const MAX_AGAIN: u8 = 3;

/// Chunks that are kept: no more can cross with requests.
const MAX_RECENT: usize = 2 * MAX_WINDOW;

/// A topic that something is awaited on.
#[derive(Debug)]
struct Awaited {
    digest: Digest,
    /// Places in the list that have this digest; empty for a node.
    ordinals: Vec<u32>,
    wrong: BTreeSet<Digest>,
    again: u8,
}

impl Awaited {
    fn new(digest: Digest) -> Self {
        Self { digest, ordinals: Vec::new(), wrong: BTreeSet::new(), again: 0 }
    }

    /// Whether these bytes are what is awaited; `None` when the engine need not hear of them.
    fn judge(&mut self, topic: &str, bytes: &[u8], out: &mut Vec<Action>) -> Option<bool> {
        let digest = Digest::of(bytes);
        if digest == self.digest {
            return Some(true);
        }
        if self.again < MAX_AGAIN {
            self.again += 1;
            out.push(Action::Subscribe(topic.to_owned()));
        }
        (self.wrong.len() < MAX_WRONG && self.wrong.insert(digest)).then_some(false)
    }
}

/// The parts of an index, as they come.
#[derive(Debug)]
struct Parts {
    sha256: Digest,
    raw: Vec<Option<Vec<u8>>>,
    size: usize,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    node: Option<Awaited>,
    chunks: BTreeMap<String, Awaited>,
    /// The ordinals of the last request for chunks.
    asked: Vec<u32>,
    /// What ordinals refer to.
    list: Vec<ChunkRef>,
    parts: Option<Parts>,
    recent: VecDeque<(Digest, Vec<u8>)>,
}

impl Fetcher {
    pub fn nothing(&mut self, out: &mut Vec<Action>) {
        let node = self.node.take().map(|node| topics::chunk(&node.digest));
        self.asked.clear();
        let chunks = std::mem::take(&mut self.chunks).into_keys();
        out.extend(node.into_iter().chain(chunks).map(Action::Unsubscribe));
    }

    /// A target's node, or that of one of its deltas.
    pub fn target(&mut self, digest: Digest, out: &mut Vec<Action>) {
        if self.node.as_ref().is_some_and(|node| node.digest == digest) {
            // Asked again because nothing came: a subscription that is made anew brings what stands there.
            out.push(Action::Subscribe(topics::chunk(&digest)));
            return;
        }
        self.nothing(out);
        (self.list, self.parts) = (Vec::new(), None);
        self.node = Some(Awaited::new(digest));
        out.push(Action::Subscribe(topics::chunk(&digest)));
    }

    pub fn chunks(&mut self, ordinals: &[u32], out: &mut Vec<Action>) {
        let mut wanted = BTreeMap::<String, Awaited>::new();
        let mut at_hand = Vec::new();
        for &ordinal in ordinals.iter().take(MAX_WINDOW) {
            let chunk = usize::try_from(ordinal).ok().and_then(|i| self.list.get(i));
            let Some(chunk) = chunk else {
                tracing::warn!("the engine asks for chunk {ordinal} of {}", self.list.len());
                continue;
            };
            if let Some((_, bytes)) = self.recent.iter().find(|(digest, _)| *digest == chunk.sha256) {
                at_hand.push((ordinal, bytes.clone()));
                continue;
            }
            let awaited = wanted.entry(topics::chunk(&chunk.sha256)).or_insert_with(|| Awaited::new(chunk.sha256));
            if !awaited.ordinals.contains(&ordinal) {
                awaited.ordinals.push(ordinal);
            }
        }
        let again = std::mem::replace(&mut self.asked, ordinals.to_vec()) == ordinals;
        self.await_chunks(wanted, again, out);
        for (ordinal, bytes) in at_hand {
            self.keep_part(ordinal, &bytes);
            out.push(Action::ToEngine(ToEngine::Chunk { ordinal, bytes }));
        }
        self.join(out);
    }

    /// Subscribes to what is new, drops what is no longer asked for, leaves the rest alone.
    /// The very same request again means that nothing came: then all are subscribed to anew, which brings
    /// what stands there.
    fn await_chunks(&mut self, mut wanted: BTreeMap<String, Awaited>, again: bool, out: &mut Vec<Action>) {
        let mut before = std::mem::take(&mut self.chunks);
        let node = self.node.take().map(|node| topics::chunk(&node.digest));
        let dropped = before.keys().filter(|topic| !wanted.contains_key(*topic)).cloned();
        out.extend(node.into_iter().chain(dropped).map(Action::Unsubscribe));
        for (topic, awaited) in &mut wanted {
            match before.remove(topic) {
                Some(old) => {
                    (awaited.wrong, awaited.again) = (old.wrong, old.again);
                    if again {
                        out.push(Action::Subscribe(topic.clone()));
                    }
                }
                None => out.push(Action::Subscribe(topic.clone())),
            }
        }
        self.chunks = wanted;
    }

    /// What stands under a topic; passed over when nothing is awaited there, or the place is empty.
    pub fn message(&mut self, topic: &str, bytes: &[u8], out: &mut Vec<Action>) {
        if bytes.is_empty() {
            return;
        }
        if self.node.as_ref().is_some_and(|node| topics::chunk(&node.digest) == topic) {
            self.node_came(topic, bytes, out);
        } else if self.chunks.contains_key(topic) {
            self.chunk_came(topic, bytes, out);
        }
    }

    fn node_came(&mut self, topic: &str, bytes: &[u8], out: &mut Vec<Action>) {
        let Some(right) = self.node.as_mut().and_then(|node| node.judge(topic, bytes, out)) else { return };
        if right {
            self.node = None;
            out.push(Action::Unsubscribe(topic.to_owned()));
            self.open(bytes);
        }
        out.push(Action::ToEngine(ToEngine::Node { bytes: bytes.to_vec() }));
    }

    fn open(&mut self, bytes: &[u8]) {
        match Node::parse(bytes) {
            Ok(Node::Index(index)) => self.list = index.chunks,
            Ok(Node::Delta(delta)) => self.list = delta.chunks,
            Ok(Node::Parts { sha256, parts }) => {
                let raw = vec![None; parts.len()];
                self.parts = Some(Parts { sha256, raw, size: 0 });
                self.list = parts;
            }
            Err(e) => tracing::warn!("what a target stands for cannot be read: {e}"),
        }
    }

    fn chunk_came(&mut self, topic: &str, bytes: &[u8], out: &mut Vec<Action>) {
        let Some(awaited) = self.chunks.get_mut(topic) else { return };
        let Some(right) = awaited.judge(topic, bytes, out) else { return };
        let ordinals = awaited.ordinals.clone();
        if right {
            let digest = awaited.digest;
            self.remember(digest, bytes);
            self.chunks.remove(topic);
            out.extend([Action::Unsubscribe(topic.to_owned()), Action::GetsOn(true)]);
        }
        for ordinal in ordinals {
            let bytes = bytes.to_vec();
            if right {
                self.keep_part(ordinal, &bytes);
            }
            out.push(Action::ToEngine(ToEngine::Chunk { ordinal, bytes }));
        }
        self.join(out);
    }

    fn remember(&mut self, digest: Digest, bytes: &[u8]) {
        if bytes.len() <= MAX_CHUNK_WIRE {
            self.recent.truncate(MAX_RECENT - 1);
            self.recent.push_front((digest, bytes.to_vec()));
        }
    }

    fn keep_part(&mut self, ordinal: u32, wire: &[u8]) {
        let Ok(ordinal) = usize::try_from(ordinal) else { return };
        let (Some(parts), Some(chunk)) = (&mut self.parts, self.list.get(ordinal)) else { return };
        let Some(place @ None) = parts.raw.get_mut(ordinal) else { return };
        match expand(wire, chunk) {
            Ok(raw) if parts.size + raw.len() <= MAX_JOINED => {
                parts.size += raw.len();
                *place = Some(raw);
            }
            Ok(_) => {
                tracing::warn!("an index is over {MAX_JOINED} bytes");
                self.parts = None;
            }
            Err(e) => tracing::warn!("part {ordinal} of an index: {e}"),
        }
    }

    /// Once all parts are there, ordinals refer to the index that they make up.
    fn join(&mut self, out: &mut Vec<Action>) {
        let complete = |parts: &mut Parts| parts.raw.iter().all(Option::is_some);
        let Some(parts) = self.parts.take_if(complete) else { return };
        self.nothing(out);
        let joined: Vec<u8> = parts.raw.into_iter().flatten().flatten().collect();
        if Digest::of(&joined) != parts.sha256 {
            return tracing::warn!("the parts of an index join to something else");
        }
        match Node::parse_joined(&joined) {
            Ok(index) => self.list = index.chunks,
            Err(e) => tracing::warn!("an index that was joined from parts: {e}"),
        }
    }
}
