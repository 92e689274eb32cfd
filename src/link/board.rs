//! Follows the metadata on the board: timestamp names the snapshot, the snapshot the targets, the
//! engine the next root. Pure.
//!
//! Invariant: at most four topics are followed. Metadata is read leniently, only for versions,
//! names and digests; the engine gets the bytes as they are and decides.

use super::bridge::Action;
use crate::bundle::{Digest, topics};
use crate::ipc::{Role, ToEngine};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A topic that metadata of one version stands under.
#[derive(Debug)]
struct Followed {
    version: u32,
    topic: String,
    /// Of what was forwarded last; the same again is not news.
    seen: Option<Digest>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Board {
    followed: BTreeMap<Role, Followed>,
    /// The newest targets by the order of their names.
    targets: Vec<Named>,
}

/// What one target leads to.
#[derive(Debug, Default)]
struct Named {
    node: Option<Digest>,
    /// In the metadata's order; none where one names no SHA-256.
    deltas: Vec<Option<Digest>>,
}

/// Of each target.
const MAX_DELTAS: usize = 8;

impl Board {
    /// Looks at everything anew, so that what is retained comes again.
    pub fn start(&mut self, root: u32, out: &mut Vec<Action>) {
        self.stop(out);
        self.follow(Role::Timestamp, 0, out);
        match root.checked_add(1) {
            Some(next) => self.follow(Role::Root, next, out),
            None => tracing::warn!("the engine trusts the last root version there is"),
        }
    }

    pub fn stop(&mut self, out: &mut Vec<Action>) {
        let followed = std::mem::take(&mut self.followed).into_values();
        out.extend(followed.map(|f| Action::Unsubscribe(f.topic)));
        self.targets.clear();
    }

    pub fn target(&self, ordinal: u32) -> Option<Digest> {
        self.targets.get(usize::try_from(ordinal).ok()?)?.node
    }

    /// The node of one of a target's deltas.
    pub fn delta(&self, ordinal: u32, delta: u32) -> Option<Digest> {
        let target = self.targets.get(usize::try_from(ordinal).ok()?)?;
        *target.deltas.get(usize::try_from(delta).ok()?)?
    }

    /// True when the topic is one of these.
    pub fn message(&mut self, topic: &str, bytes: &[u8], out: &mut Vec<Action>) -> bool {
        let Some((&role, followed)) = self.followed.iter_mut().find(|(_, f)| f.topic == topic) else { return false };
        // An empty message says that the board was cleared there: nothing to bring.
        if bytes.is_empty() || followed.seen.replace(Digest::of(bytes)) == Some(Digest::of(bytes)) {
            return true;
        }
        let version = match role {
            Role::Timestamp => own_version(bytes).unwrap_or(0),
            Role::Root | Role::Snapshot | Role::Targets => followed.version,
        };
        out.push(Action::ToEngine(ToEngine::Metadata { role, version, bytes: bytes.to_vec() }));
        match role {
            Role::Timestamp => self.follow_named(Role::Snapshot, "snapshot.json", bytes, out),
            Role::Snapshot => self.follow_named(Role::Targets, "targets.json", bytes, out),
            Role::Targets => self.targets = named(bytes).unwrap_or_default(),
            Role::Root => {}
        }
        true
    }

    fn follow_named(&mut self, role: Role, name: &str, bytes: &[u8], out: &mut Vec<Action>) {
        match named_version(bytes, name) {
            Some(version) => self.follow(role, version, out),
            None => tracing::warn!("metadata on the board does not say which {name} belongs to it"),
        }
    }

    fn follow(&mut self, role: Role, version: u32, out: &mut Vec<Action>) {
        let topic = topics::tuf(match role {
            Role::Timestamp => "timestamp.json".to_owned(),
            Role::Root => format!("{version}.root.json"),
            Role::Snapshot => format!("{version}.snapshot.json"),
            Role::Targets => format!("{version}.targets.json"),
        });
        if self.followed.get(&role).is_some_and(|f| f.topic == topic) {
            return;
        }
        out.push(Action::Subscribe(topic.clone()));
        let followed = Followed { version, topic, seen: None };
        if let Some(old) = self.followed.insert(role, followed) {
            out.push(Action::Unsubscribe(old.topic));
        }
    }
}

#[derive(Deserialize)]
struct Envelope<T> {
    signed: T,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Deserialize)]
struct Listing {
    meta: BTreeMap<String, Versioned>,
}

#[derive(Deserialize)]
struct Targets {
    targets: BTreeMap<String, Target>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    custom: serde_json::Value,
}

fn own_version(bytes: &[u8]) -> Option<u32> {
    let envelope: Envelope<Versioned> = serde_json::from_slice(bytes).ok()?;
    Some(envelope.signed.version)
}

fn named_version(bytes: &[u8], name: &str) -> Option<u32> {
    let envelope: Envelope<Listing> = serde_json::from_slice(bytes).ok()?;
    let version = envelope.signed.meta.get(name)?.version;
    (version > 0).then_some(version)
}

fn named(bytes: &[u8]) -> Option<Vec<Named>> {
    let envelope: Envelope<Targets> = serde_json::from_slice(bytes).ok()?;
    let node = |delta: &serde_json::Value| delta.get("node")?.as_str()?.parse().ok();
    let named = |target: Target| {
        let deltas = target.custom.get("deltas").and_then(serde_json::Value::as_array);
        let deltas = deltas.into_iter().flatten().take(MAX_DELTAS).map(node).collect();
        Named { node: target.hashes.get("sha256").and_then(|hash| hash.parse().ok()), deltas }
    };
    Some(envelope.signed.targets.into_values().map(named).collect())
}
