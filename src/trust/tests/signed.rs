//! Sets whose every version, key and date a test chooses, and JSON that is signed as it stands.

use super::super::author::{self, Holders, SigningKey, Stamp};
use super::super::fixture::{DAY, NOW, Operator};
use super::super::{Offered, Role};
use crate::bundle::Digest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub type Signers<'a> = BTreeMap<Role, Vec<&'a SigningKey>>;

pub fn signers(operator: &Operator) -> Signers<'_> {
    operator.keys.iter().map(|(&role, key)| (role, vec![key])).collect()
}

/// Versions of timestamp, snapshot and targets.
pub type Versions = (u32, u32, u32);

/// A set of these versions, signed by these keys, in date for long.
pub fn set(operator: &Operator, (t, s, g): Versions, signers: &Signers<'_>) -> Offered {
    let stamp = |version| Stamp { version, expires: NOW + 1000 * DAY };
    let targets = author::targets(stamp(g), &BTreeMap::new(), &signers[&Role::Targets]).unwrap();
    let snapshot = author::snapshot(stamp(s), (g, &targets), &signers[&Role::Snapshot]).unwrap();
    let root = operator.roots.len() as u32;
    let timestamp = author::timestamp(stamp(t), NOW, root, (s, &snapshot), &signers[&Role::Timestamp]).unwrap();
    let mut offered = Offered::default();
    offered.insert(Role::Targets, g, targets).unwrap();
    offered.insert(Role::Snapshot, s, snapshot).unwrap();
    offered.insert(Role::Timestamp, t, timestamp).unwrap();
    offered
}

/// A root of the version with these keys for one role and the operator's for the others.
pub fn root(operator: &Operator, version: u32, role: Role, holders: Holders<'_>, signed_by: &[&SigningKey]) -> Vec<u8> {
    let mut all = super::super::fixture::holders(&operator.keys);
    all.insert(role, holders);
    author::root(Stamp { version, expires: NOW + 1000 * DAY }, &all, signed_by).unwrap()
}

/// Any JSON under good signatures. Plain ASCII is in canonical form when keys are sorted, as here.
pub fn sign(signed: &Value, keys: &[&SigningKey]) -> Vec<u8> {
    let message = serde_json::to_vec(signed).unwrap();
    let signature =
        |key: &&SigningKey| json!({"keyid": key.id().unwrap(), "sig": hex::encode(key.sign(&message).unwrap())});
    let signatures: Vec<Value> = keys.iter().map(signature).collect();
    serde_json::to_vec(&json!({"signatures": signatures, "signed": signed})).unwrap()
}

/// What stands in a metadata file under "signed".
pub fn signed(bytes: &[u8]) -> Value {
    serde_json::from_slice::<Value>(bytes).unwrap()["signed"].take()
}

/// A timestamp that names the snapshot, whatever that holds.
pub fn timestamp_over(operator: &Operator, version: u32, snapshot: &[u8]) -> Vec<u8> {
    let stamp = Stamp { version, expires: NOW + DAY };
    author::timestamp(stamp, NOW, 1, (version, snapshot), &[&operator.keys[&Role::Timestamp]]).unwrap()
}

/// As it stands in a snapshot or a timestamp.
pub fn meta(version: u32, bytes: &[u8]) -> Value {
    json!({"hashes": {"sha256": Digest::of(bytes).to_string()}, "length": bytes.len(), "version": version})
}
