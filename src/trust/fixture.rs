//! An operator who signs in memory, for tests.

use super::author::{self, Holders, SigningKey, Stamp, TargetEntry};
use super::{Custom, Offered, Role, Selector};
use crate::bundle::{Digest, ModelName};
use std::collections::BTreeMap;

pub const NOW: u64 = 1_800_000_000;
pub const DAY: u64 = 86_400;

pub struct Operator {
    pub keys: BTreeMap<Role, SigningKey>,
    pub roots: Vec<Vec<u8>>,
    pub expires: BTreeMap<Role, u64>,
}

/// One signed set; its three files share a version.
#[derive(Clone)]
pub struct Made {
    pub version: u32,
    pub timestamp: Vec<u8>,
    pub snapshot: Vec<u8>,
    pub targets: Vec<u8>,
}

pub fn holders(keys: &BTreeMap<Role, SigningKey>) -> BTreeMap<Role, Holders<'_>> {
    keys.iter().map(|(&role, key)| (role, Holders { keys: vec![key], threshold: 1 })).collect()
}

impl Operator {
    pub fn new() -> Self {
        let keys: BTreeMap<_, _> = Role::ALL.map(|role| (role, SigningKey::generate().unwrap())).into();
        let expires = Role::ALL.map(|role| (role, NOW + 90 * DAY)).into();
        let stamp = Stamp { version: 1, expires: NOW + 90 * DAY };
        let root = author::root(stamp, &holders(&keys), &[&keys[&Role::Root]]).unwrap();
        Self { keys, roots: vec![root], expires }
    }

    pub fn stamp(&self, role: Role, version: u32) -> Stamp {
        Stamp { version, expires: self.expires[&role] }
    }

    /// The digits model of that version for the group "shop", signed at `issued`.
    pub fn make(&self, version: u32, issued: u64) -> Made {
        let model = ModelName::new("digits").unwrap();
        let audience = Selector { groups: vec!["shop".to_owned()], devices: None, percent: 100 };
        let custom = Custom::new(model, version, audience);
        let entry = TargetEntry { digest: Digest::of(&version.to_le_bytes()), size: 4, custom };
        let entries = [("digits/shop".to_owned(), entry)].into();
        let key = |role| &self.keys[&role];
        let targets = author::targets(self.stamp(Role::Targets, version), &entries, &[key(Role::Targets)]).unwrap();
        let snapshot = self.stamp(Role::Snapshot, version);
        let snapshot = author::snapshot(snapshot, (version, &targets), &[key(Role::Snapshot)]).unwrap();
        let (stamp, root) = (self.stamp(Role::Timestamp, version), self.roots.len() as u32);
        let signers = [key(Role::Timestamp)];
        let timestamp = author::timestamp(stamp, issued, root, (version, &snapshot), &signers).unwrap();
        Made { version, timestamp, snapshot, targets }
    }

    /// A new root in which the role has a new key.
    pub fn rotate(&mut self, role: Role) {
        let last: tough::schema::Signed<tough::schema::Root> =
            serde_json::from_slice(self.roots.last().unwrap()).unwrap();
        let new = SigningKey::generate().unwrap();
        let changed = [(role, Holders { keys: vec![&new], threshold: 1 })].into();
        let stamp = self.stamp(Role::Root, self.roots.len() as u32 + 1);
        let mut signers = vec![&self.keys[&Role::Root]];
        if role == Role::Root {
            signers.push(&new);
        }
        let root = author::next_root(last.signed, stamp, &changed, &signers).unwrap();
        self.roots.push(root);
        self.keys.insert(role, new);
    }

    pub fn offer_root(&self, offered: &mut Offered, version: u32) {
        offered.insert(Role::Root, version, self.roots[version as usize - 1].clone()).unwrap();
    }
}

impl Made {
    pub fn offered(&self) -> Offered {
        let mut offered = Offered::default();
        self.put(&mut offered);
        offered
    }

    pub fn put(&self, offered: &mut Offered) {
        offered.insert(Role::Timestamp, self.version, self.timestamp.clone()).unwrap();
        offered.insert(Role::Snapshot, self.version, self.snapshot.clone()).unwrap();
        offered.insert(Role::Targets, self.version, self.targets.clone()).unwrap();
    }
}
