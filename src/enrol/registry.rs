//! Who was let in, by what, and who no longer is.

use crate::sys::{Access, Disk, DiskError};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Some 100,000 devices.
const MAX_BYTES: u64 = 64 << 20;
const FORMAT: u32 = 1;

/// Whom a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Device,
    Operator,
    Broker,
}

/// One credential that was given out. What it is by is in `serial` or `hash`; the secret itself is nowhere here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Issue {
    pub kind: Kind,
    /// A device's id, `operator`, or the names of a broker.
    pub name: String,
    pub groups: Vec<String>,
    /// Seconds since 1970.
    pub made: u64,
    /// Of a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<u64>,
    /// Of a password, as the broker keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

impl Issue {
    pub fn is_of(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && self.name == name
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Registry {
    format: u32,
    /// The name in the authority's certificate.
    pub authority: String,
    /// How many lists of revoked certificates were made.
    pub lists: u64,
    pub issued: Vec<Issue>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("it is damaged: put back a copy of it; without it nobody can be revoked")]
    Damaged(#[source] serde_json::Error),
    #[error("it is of format {0}, this version knows format {FORMAT}: use a newer selvedge")]
    Format(u32),
}

impl Registry {
    pub fn new(authority: String) -> Self {
        Self { format: FORMAT, authority, lists: 0, issued: Vec::new() }
    }

    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, RegistryError> {
        let Some(bytes) = disk.read(path, MAX_BYTES)? else { return Ok(None) };
        let registry: Self = serde_json::from_slice(&bytes).map_err(RegistryError::Damaged)?;
        match registry.format {
            FORMAT => Ok(Some(registry)),
            other => Err(RegistryError::Format(other)),
        }
    }

    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
        let bytes = serde_json::to_vec_pretty(self).expect("plain data serializes");
        disk.commit_as(path, &bytes, Access::PRIVATE)
    }

    /// Takes back all that still lets that one in; how many there were.
    pub fn revoke(&mut self, kind: Kind, name: &str, now: u64) -> usize {
        let live = self.issued.iter_mut().filter(|issue| issue.is_of(kind, name) && issue.revoked.is_none());
        live.map(|issue| issue.revoked = Some(now)).count()
    }

    /// Mosquitto's password file, of all who have a password.
    pub fn passwords(&self) -> String {
        let live = self.issued.iter().filter(|issue| issue.revoked.is_none());
        live.filter_map(|issue| Some(format!("{}:{}\n", issue.name, issue.hash.as_ref()?))).collect()
    }
}
