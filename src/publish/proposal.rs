//! A new root on its way round those who must sign it: what counts now, and what is to follow.
//!
//! It is one file, so that it can be carried to a machine without a network, signed there and
//! brought back. It carries no private key. Nothing in it is believed: signatures decide.

use super::RepositoryError;
use super::keys::{KeyRing, role_type};
use super::passphrase::Passphrase;
use crate::trust::Role;
use crate::trust::author::{self, SigningKey};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tough::schema::{self, Root, Signed};

/// The most bytes of a proposal: two roots.
pub const MAX_PROPOSAL: u64 = 256 << 10;

const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Proposal {
    /// Of this file; 1.
    selvedge_proposal: u32,
    current: Signed<Root>,
    proposed: Signed<Root>,
}

/// Good signatures of those needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub valid: u64,
    pub needed: u64,
}

impl Count {
    fn is_enough(self) -> bool {
        self.valid >= self.needed
    }
}

/// What a proposal changes about one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleChange {
    pub role: Role,
    /// Key ids.
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Before and after.
    pub threshold: (u64, u64),
}

impl Proposal {
    pub(super) fn new(current: Signed<Root>, proposed: &[u8]) -> Result<Self, RepositoryError> {
        let proposed = serde_json::from_slice(proposed).map_err(|e| RepositoryError::BadProposal(e.to_string()))?;
        Ok(Self { selvedge_proposal: FORMAT, current, proposed })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RepositoryError> {
        let bad = |problem: String| RepositoryError::BadProposal(problem);
        if bytes.len() as u64 > MAX_PROPOSAL {
            return Err(bad(format!("{} bytes, where two roots have at most {MAX_PROPOSAL}", bytes.len())));
        }
        let proposal: Self = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if proposal.selvedge_proposal != FORMAT {
            return Err(bad("its format is not 1; use a newer Selvedge".to_owned()));
        }
        if proposal.proposed.signed.version.get() != proposal.current.signed.version.get().saturating_add(1) {
            return Err(bad("the proposed root is not the next after the current one".to_owned()));
        }
        Ok(proposal)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain data serializes")
    }

    /// Of the proposed root.
    pub fn version(&self) -> u64 {
        self.proposed.signed.version.get()
    }

    /// Seconds since 1970 UTC.
    pub fn expires(&self) -> u64 {
        u64::try_from(self.proposed.signed.expires.as_second()).unwrap_or(0)
    }

    /// By the keys of the current root, and by those of the proposed one: both must be enough.
    pub fn counts(&self) -> (Count, Count) {
        (count(&self.current.signed, &self.proposed), count(&self.proposed.signed, &self.proposed))
    }

    pub fn is_complete(&self) -> bool {
        let (old, new) = self.counts();
        old.is_enough() && new.is_enough()
    }

    pub fn changes(&self) -> Vec<RoleChange> {
        let change = |role| {
            let ids = |root: &Root| -> Vec<String> {
                root.roles
                    .get(&role_type(role))
                    .map(|keys| keys.keyids.iter().map(|id| hex::encode(&**id)).collect())
                    .unwrap_or_default()
            };
            let threshold = |root: &Root| root.roles.get(&role_type(role)).map_or(0, |keys| keys.threshold.get());
            let (old, new) = (ids(&self.current.signed), ids(&self.proposed.signed));
            let without = |these: &[String], those: &[String]| -> Vec<String> {
                these.iter().filter(|id| !those.contains(id)).cloned().collect()
            };
            let threshold = (threshold(&self.current.signed), threshold(&self.proposed.signed));
            RoleChange { role, added: without(&new, &old), removed: without(&old, &new), threshold }
        };
        let differs = |c: &RoleChange| !c.added.is_empty() || !c.removed.is_empty() || c.threshold.0 != c.threshold.1;
        Role::ALL.into_iter().map(change).filter(differs).collect()
    }

    /// Signs with the keys in a directory that the current or the proposed root names; how many did.
    pub fn sign(&mut self, keys: &Path, passphrase: &Passphrase) -> Result<usize, RepositoryError> {
        self.sign_with(&KeyRing::load(keys, passphrase)?)
    }

    pub(super) fn sign_with(&mut self, ring: &KeyRing) -> Result<usize, RepositoryError> {
        let mut signers = ring.held(&self.current.signed, Role::Root);
        for key in ring.held(&self.proposed.signed, Role::Root) {
            let id = key.id()?;
            if !signers.iter().any(|known| known.id().is_ok_and(|known| known == id)) {
                signers.push(key);
            }
        }
        self.cosign(&signers)?;
        Ok(signers.len())
    }

    pub(super) fn cosign(&mut self, signers: &[&SigningKey]) -> Result<(), RepositoryError> {
        let bytes = author::cosign(self.proposed.clone(), signers)?;
        self.proposed = serde_json::from_slice(&bytes).map_err(|e| RepositoryError::BadProposal(e.to_string()))?;
        Ok(())
    }

    /// Takes over what others have signed of the same root, by their keys.
    pub fn merge(&mut self, other: &Self) -> Result<(), RepositoryError> {
        if other.proposed.signed != self.proposed.signed || other.current.signed != self.current.signed {
            return Err(RepositoryError::BadProposal("it proposes another root than the first".to_owned()));
        }
        for signature in &other.proposed.signatures {
            if !self.proposed.signatures.iter().any(|known| known.keyid == signature.keyid) {
                self.proposed.signatures.push(signature.clone());
            }
        }
        Ok(())
    }

    pub(super) fn current(&self) -> &Root {
        &self.current.signed
    }

    pub(super) fn proposed(&self) -> &Signed<Root> {
        &self.proposed
    }
}

fn count(by: &Root, root: &Signed<Root>) -> Count {
    let needed = by.roles.get(&schema::RoleType::Root).map_or(u64::MAX, |keys| keys.threshold.get());
    // One signature alone each: tough says how many are good only where they are too few.
    let mut one = by.clone();
    if let Some(keys) = one.roles.get_mut(&schema::RoleType::Root) {
        keys.threshold = std::num::NonZeroU64::MIN;
    }
    let is_good = |signature: &schema::Signature| {
        one.verify_role(&Signed { signed: root.signed.clone(), signatures: vec![signature.clone()] }).is_ok()
    };
    let mut ids: Vec<_> = root.signatures.iter().filter(|s| is_good(s)).map(|s| s.keyid.clone()).collect();
    ids.sort();
    ids.dedup();
    Count { valid: ids.len() as u64, needed }
}
