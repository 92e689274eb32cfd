//! Who may sign what: new keys, fewer keys, other thresholds, by a new root.

use super::RepositoryError;
use super::board::Publication;
use super::current::DAY;
use super::keys;
use super::passphrase::Passphrase;
use super::proposal::Proposal;
use super::repository::Repository;
use crate::trust::Role;
use crate::trust::author::{self, Holders, SigningKey, Stamp};
use std::collections::{BTreeMap, BTreeSet};

const MAX_KEYS: usize = 16;

/// What happens to the keys of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// All that it has go.
    pub replace: bool,
    /// Ids of keys that go; their first eight digits are enough.
    pub revoke: Vec<String>,
    /// Public halves of keys that come, made elsewhere.
    pub add: Vec<[u8; 32]>,
    pub threshold: Option<u32>,
}

impl KeyChange {
    pub fn replace() -> Self {
        Self { replace: true, ..Self::default() }
    }
}

impl Repository {
    /// Gives the roles new keys (all of a role's) and renews the root; then refreshes. Needs the root's keys.
    pub fn rotate(&mut self, roles: &BTreeSet<Role>) -> Result<Publication, RepositoryError> {
        let changes = roles.iter().map(|&role| (role, KeyChange::replace())).collect();
        self.rotate_with(&changes, None)
    }

    /// Changes keys by a new root that the keys at hand must be enough to sign.
    pub fn rotate_with(
        &mut self,
        changes: &BTreeMap<Role, KeyChange>,
        seal: Option<&Passphrase>,
    ) -> Result<Publication, RepositoryError> {
        // Said before a key is made: a missing one leaves no trace.
        self.keys().signers(&self.current().root.signed, Role::Root)?;
        let proposal = self.propose(changes, seal)?;
        self.accept_root(&proposal)
    }

    /// A new root with these changes, signed by the keys at hand, be they enough or not. Keys that
    /// are made for it are kept; they count for nothing before the root does.
    pub fn propose(
        &mut self,
        changes: &BTreeMap<Role, KeyChange>,
        seal: Option<&Passphrase>,
    ) -> Result<Proposal, RepositoryError> {
        let version = self.current().root_version.saturating_add(1);
        let mut holders = BTreeMap::new();
        for (&role, change) in changes {
            holders.insert(role, self.change_keys(role, change, version, seal)?);
        }
        let root = self.current().root.clone();
        let expires = self.now().saturating_add(u64::from(self.root_days()) * DAY);
        let changed = holders
            .iter()
            .map(|(&role, (keys, threshold))| (role, Holders { keys: keys.iter().collect(), threshold: *threshold }));
        let bytes = author::next_root(root.signed.clone(), Stamp { version, expires }, &changed.collect(), &[])?;
        let mut proposal = Proposal::new(root, &bytes)?;
        proposal.sign_with(self.keys())?;
        Ok(proposal)
    }

    /// The role's keys after a change, by their public halves, and its threshold.
    fn change_keys(
        &mut self,
        role: Role,
        change: &KeyChange,
        version: u32,
        seal: Option<&Passphrase>,
    ) -> Result<(Vec<SigningKey>, u32), RepositoryError> {
        let before = self.current().public_keys(role);
        for id in &change.revoke {
            let named = before.iter().filter(|key| key.id().is_ok_and(|known| known.starts_with(id.as_str()))).count();
            if id.len() < 8 || named != 1 {
                return Err(RepositoryError::NoSuchKey { role: role.name().to_owned(), id: id.clone() });
            }
        }
        let count = before.len();
        let goes = |key: &SigningKey| {
            change.replace || key.id().is_ok_and(|id| change.revoke.iter().any(|gone| id.starts_with(gone.as_str())))
        };
        let mut keys: Vec<SigningKey> = before.into_iter().filter(|key| !goes(key)).collect();
        keys.extend(change.add.iter().map(|&public| SigningKey::public_only(public)));
        let wanted = if change.replace && change.add.is_empty() { count } else { keys.len() };
        let threshold = change.threshold.unwrap_or_else(|| self.current().threshold(role));
        let needed = wanted.max(threshold as usize);
        if threshold == 0 || needed > MAX_KEYS {
            return Err(RepositoryError::Options("a role has 1 to 16 keys, and a threshold of 1 to that many"));
        }
        for n in 1..=needed.saturating_sub(keys.len()) {
            let name = format!("{role}.{version}-{n}-{:x}", self.now());
            let key = keys::create(&self.key_dir(), &name, seal)?;
            keys.push(SigningKey::public_only(*key.public_bytes()));
            self.keys_mut().add(key)?;
        }
        Ok((keys, threshold))
    }

    /// Makes a proposed root count that enough have signed; then refreshes.
    pub fn accept_root(&mut self, proposal: &Proposal) -> Result<Publication, RepositoryError> {
        if proposal.current() != &self.current().root.signed {
            let (theirs, ours) = (proposal.version(), self.current().root_version);
            return Err(RepositoryError::BadProposal(format!(
                "it would be root {theirs} after another root than the newest here, {ours}"
            )));
        }
        let (old, new) = proposal.counts();
        if !proposal.is_complete() {
            return Err(RepositoryError::Unsigned { old, new });
        }
        // What a new root asks for must be at hand, or boards would wait for a timestamp that nobody can sign.
        for role in [Role::Targets, Role::Snapshot, Role::Timestamp] {
            self.keys().signers(&proposal.proposed().signed, role)?;
        }
        let version = self.current().root_version.saturating_add(1);
        let bytes = serde_json::to_vec(proposal.proposed()).expect("plain data serializes");
        self.commit_root(version, &bytes)?;
        self.refresh()
    }
}
