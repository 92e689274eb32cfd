//! Follows the metadata on the board: timestamp names the snapshot, the snapshot the targets and the
//! roles that they delegate to, the engine the next root. Pure.
//!
//! Invariant: at most four topics are followed, and one for each of at most `MAX_DELEGATED` roles.
//! Metadata is read leniently, only for versions, names and digests; the engine gets the bytes as
//! they are and decides.

use super::bridge::Action;
use crate::bundle::Digest;
use crate::bundle::topics::{self, MAX_DELEGATED, is_delegated_name};
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

impl Followed {
    fn new(version: u32, topic: String) -> Self {
        Self { version, topic, seen: None }
    }

    /// An empty message says that the board was cleared there: nothing to bring.
    fn is_news(&mut self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.seen.replace(Digest::of(bytes)) != Some(Digest::of(bytes))
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Board {
    followed: BTreeMap<Role, Followed>,
    /// Delegated roles, by name.
    delegated: BTreeMap<String, Followed>,
    /// Of the newest targets.
    targets: Vec<Named>,
    /// The roles that those delegate to, in their order, and what each has.
    roles: Vec<(String, Vec<Named>)>,
    /// Versions of delegated roles as the newest snapshot has them.
    listed: BTreeMap<String, u32>,
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
        let delegated = std::mem::take(&mut self.delegated).into_values();
        out.extend(followed.chain(delegated).map(|f| Action::Unsubscribe(f.topic)));
        *self = Self::default();
    }

    /// By an ordinal as `ipc::Fetch::Target` has it.
    pub fn target(&self, ordinal: u32) -> Option<Digest> {
        self.named(ordinal)?.node
    }

    /// The node of one of a target's deltas.
    pub fn delta(&self, ordinal: u32, delta: u32) -> Option<Digest> {
        *self.named(ordinal)?.deltas.get(usize::try_from(delta).ok()?)?
    }

    fn named(&self, ordinal: u32) -> Option<&Named> {
        let (file, place) = (usize::try_from(ordinal >> 16).ok()?, usize::from(ordinal as u16));
        let named = match file.checked_sub(1) {
            None => &self.targets,
            Some(role) => &self.roles.get(role)?.1,
        };
        named.get(place)
    }

    /// True when the topic is one of these.
    pub fn message(&mut self, topic: &str, bytes: &[u8], out: &mut Vec<Action>) -> bool {
        if let Some((name, followed)) = self.delegated.iter_mut().find(|(_, f)| f.topic == topic) {
            if followed.is_news(bytes) {
                let (name, version) = (name.clone(), followed.version);
                if let Some((_, digests)) = self.roles.iter_mut().find(|(role, _)| *role == name) {
                    *digests = own_targets(bytes);
                }
                out.push(Action::ToEngine(ToEngine::Delegated { name, version, bytes: bytes.to_vec() }));
            }
            return true;
        }
        let Some((&role, followed)) = self.followed.iter_mut().find(|(_, f)| f.topic == topic) else { return false };
        if !followed.is_news(bytes) {
            return true;
        }
        let version = match role {
            Role::Timestamp => own_version(bytes).unwrap_or(0),
            Role::Root | Role::Snapshot | Role::Targets => followed.version,
        };
        out.push(Action::ToEngine(ToEngine::Metadata { role, version, bytes: bytes.to_vec() }));
        match role {
            Role::Timestamp => self.follow_named(Role::Snapshot, "snapshot.json", bytes, out),
            Role::Snapshot => {
                self.listed = delegated_versions(bytes);
                self.follow_named(Role::Targets, "targets.json", bytes, out);
                self.follow_delegated(out);
            }
            Role::Targets => self.take_targets(bytes, out),
            Role::Root => {}
        }
        true
    }

    fn take_targets(&mut self, bytes: &[u8], out: &mut Vec<Action>) {
        self.targets = own_targets(bytes);
        let mut before: BTreeMap<String, Vec<Named>> = std::mem::take(&mut self.roles).into_iter().collect();
        self.roles = delegated_names(bytes)
            .into_iter()
            .map(|name| {
                let digests = before.remove(&name).unwrap_or_default();
                (name, digests)
            })
            .collect();
        self.follow_delegated(out);
    }

    /// Those that the targets name and the snapshot lists.
    fn follow_delegated(&mut self, out: &mut Vec<Action>) {
        let wanted = |name: &str| self.listed.get(name).copied();
        let wanted: BTreeMap<String, u32> =
            self.roles.iter().filter_map(|(name, _)| Some((name.clone(), wanted(name)?))).collect();
        let topic = |name: &str, version: u32| topics::tuf(format!("{version}.{name}.json"));
        self.delegated.retain(|name, followed| {
            let stays = wanted.get(name) == Some(&followed.version);
            if !stays {
                out.push(Action::Unsubscribe(followed.topic.clone()));
            }
            stays
        });
        for (name, version) in wanted {
            self.delegated.entry(name.clone()).or_insert_with(|| {
                let topic = topic(&name, version);
                out.push(Action::Subscribe(topic.clone()));
                Followed::new(version, topic)
            });
        }
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
        if let Some(old) = self.followed.insert(role, Followed::new(version, topic)) {
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

#[derive(Deserialize)]
struct Delegating {
    delegations: Delegations,
}

#[derive(Deserialize)]
struct Delegations {
    roles: Vec<Delegated>,
}

#[derive(Deserialize)]
struct Delegated {
    name: String,
}

fn signed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok().map(|envelope: Envelope<T>| envelope.signed)
}

fn own_version(bytes: &[u8]) -> Option<u32> {
    signed(bytes).map(|versioned: Versioned| versioned.version)
}

fn named_version(bytes: &[u8], name: &str) -> Option<u32> {
    let listing: Listing = signed(bytes)?;
    let version = listing.meta.get(name)?.version;
    (version > 0).then_some(version)
}

fn delegated_versions(bytes: &[u8]) -> BTreeMap<String, u32> {
    let meta = signed(bytes).map(|listing: Listing| listing.meta).unwrap_or_default();
    let named = |(file, listed): (String, Versioned)| {
        let name = file.strip_suffix(".json").filter(|name| is_delegated_name(name))?;
        Some((name.to_owned(), listed.version))
    };
    meta.into_iter().filter_map(named).collect()
}

/// In their order, places of odd names included: an ordinal counts them.
fn delegated_names(bytes: &[u8]) -> Vec<String> {
    let roles = signed(bytes).map(|targets: Delegating| targets.delegations.roles).unwrap_or_default();
    roles.into_iter().take(MAX_DELEGATED).map(|role| role.name).collect()
}

/// Targets by the order of their names.
fn own_targets(bytes: &[u8]) -> Vec<Named> {
    let node = |delta: &serde_json::Value| delta.get("node")?.as_str()?.parse().ok();
    let named = |target: Target| {
        let deltas = target.custom.get("deltas").and_then(serde_json::Value::as_array);
        let deltas = deltas.into_iter().flatten().take(MAX_DELTAS).map(node).collect();
        Named { node: target.hashes.get("sha256").and_then(|hash| hash.parse().ok()), deltas }
    };
    let targets = signed(bytes).map(|targets: Targets| targets.targets).unwrap_or_default();
    targets.into_values().map(named).collect()
}
