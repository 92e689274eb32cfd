//! Signing keys: files that only their owner can read, and what signs in their place.
//!
//! A key is one of: `NAME.pk8`, PKCS#8 in the open; `NAME.pem`, PKCS#8 under a passphrase, with its
//! public half in `NAME.pub`; `NAME.toml`, a command that signs. Only what is signed with is opened.

use super::RepositoryError;
use super::passphrase::{Passphrase, Sealed, seal};
use super::repository::Repository;
use super::signer::Command;
use crate::sys::{Disk as _, RealDisk};
use crate::trust::Role;
use crate::trust::author::SigningKey;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{RoleType, Root};

const MAX_KEY_BYTES: u64 = 4096;

/// The keys that are at hand, by key id.
#[derive(Debug, Default)]
pub(super) struct KeyRing {
    keys: BTreeMap<String, SigningKey>,
    /// Where each came from, for people.
    names: BTreeMap<String, String>,
}

pub(super) fn role_type(role: Role) -> RoleType {
    match role {
        Role::Root => RoleType::Root,
        Role::Timestamp => RoleType::Timestamp,
        Role::Snapshot => RoleType::Snapshot,
        Role::Targets => RoleType::Targets,
    }
}

impl KeyRing {
    /// All keys of the directory.
    pub fn load(dir: &Path, passphrase: &Passphrase) -> Result<Self, RepositoryError> {
        let mut ring = Self::default();
        for name in &RealDisk.list(dir)? {
            let path = dir.join(name);
            let Some((stem, form)) = name.rsplit_once('.') else { continue };
            let key = match form {
                "pk8" => Some(open_key(&path)?),
                "pem" => {
                    let public = read_public(&dir.join(format!("{stem}.pub")))?;
                    Some(SigningKey::elsewhere(public, Box::new(Sealed::new(path, passphrase.clone()))))
                }
                "toml" => Some(Command::read(&path)?.into_key()),
                _ => None,
            };
            if let Some(key) = key {
                ring.names.insert(key.id()?, stem.to_owned());
                ring.add(key)?;
            }
        }
        Ok(ring)
    }

    pub fn add(&mut self, key: SigningKey) -> Result<(), RepositoryError> {
        self.keys.insert(key.id()?, key);
        Ok(())
    }

    pub fn name(&self, id: &str) -> Option<&str> {
        self.names.get(id).map(String::as_str)
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &SigningKey)> {
        self.keys.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// Those at hand of these ids.
    pub fn of(&self, ids: &[Decoded<Hex>]) -> Vec<&SigningKey> {
        ids.iter().filter_map(|id| self.keys.get(&hex::encode(&**id))).collect()
    }

    /// Those at hand that the root names for a role, few or many.
    pub fn held(&self, root: &Root, role: Role) -> Vec<&SigningKey> {
        self.of(root.roles.get(&role_type(role)).map(|keys| keys.keyids.as_slice()).unwrap_or_default())
    }

    /// Enough keys to sign a role.
    pub fn signers(&self, root: &Root, role: Role) -> Result<Vec<&SigningKey>, RepositoryError> {
        let needed = root.roles.get(&role_type(role)).map_or(1, |keys| keys.threshold.get());
        enough(role.name(), self.held(root, role), needed)
    }
}

pub(super) fn enough<'a>(
    role: &str,
    held: Vec<&'a SigningKey>,
    needed: u64,
) -> Result<Vec<&'a SigningKey>, RepositoryError> {
    if (held.len() as u64) < needed {
        return Err(RepositoryError::MissingKey { role: role.to_owned(), needed, found: held.len() });
    }
    Ok(held)
}

fn open_key(path: &Path) -> Result<SigningKey, RepositoryError> {
    let bytes = RealDisk.read(path, MAX_KEY_BYTES)?.unwrap_or_default();
    SigningKey::from_pkcs8(&bytes).map_err(|source| RepositoryError::BadKey { path: path.to_owned(), source })
}

fn read_public(path: &Path) -> Result<[u8; 32], RepositoryError> {
    let bytes = RealDisk.read(path, MAX_KEY_BYTES)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    parse_public(text.trim()).ok_or_else(|| RepositoryError::NoPublicHalf(path.to_owned()))
}

/// The public half of an Ed25519 key, in 64 hexadecimal digits.
pub fn parse_public(text: &str) -> Option<[u8; 32]> {
    let mut public = [0; 32];
    hex::decode_to_slice(text, &mut public).ok()?;
    Some(public)
}

/// Makes a key and its file, durable before anything is signed with it; under the passphrase where one is given.
pub(super) fn create(dir: &Path, name: &str, passphrase: Option<&Passphrase>) -> Result<SigningKey, RepositoryError> {
    let key = SigningKey::generate()?;
    let pkcs8 = key.pkcs8().unwrap_or_default();
    match passphrase {
        None => write_new(dir, &format!("{name}.pk8"), pkcs8)?,
        Some(passphrase) => {
            let text = seal(pkcs8, passphrase).map_err(RepositoryError::Passphrase)?;
            write_new(dir, &format!("{name}.pub"), format!("{}\n", hex::encode(key.public_bytes())).as_bytes())?;
            write_new(dir, &format!("{name}.pem"), text.as_bytes())?;
        }
    }
    Ok(key)
}

/// A key of its own name in a publishing directory, or in one that is to become a team's; its public half.
pub fn make_key(dir: &Path, name: &str, passphrase: Option<&Passphrase>) -> Result<[u8; 32], RepositoryError> {
    check_name(name)?;
    Ok(*create(&dir.join("keys"), name, passphrase)?.public_bytes())
}

/// A key that a command signs with.
pub fn add_command(dir: &Path, name: &str, command: &Command) -> Result<(), RepositoryError> {
    check_name(name)?;
    write_new(&dir.join("keys"), &format!("{name}.toml"), command.to_toml().as_bytes())
}

fn check_name(name: &str) -> Result<(), RepositoryError> {
    const PROBLEM: &str = "a key's name is 1 to 32 of a-z, 0-9, '-' and '_', and starts with a letter or digit";
    crate::bundle::ModelName::new(name).map(drop).map_err(|_| RepositoryError::Options(PROBLEM))
}

/// A key as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    pub id: String,
    /// Of its file; none where it is not at hand.
    pub name: Option<String>,
    /// Public half, in hexadecimal digits.
    pub public: String,
    /// What it signs, teams among it.
    pub roles: Vec<String>,
}

impl Repository {
    /// All keys that count or are at hand, by their ids.
    pub fn key_states(&self) -> Vec<KeyState> {
        let mut states = BTreeMap::new();
        let mut note = |id: &str, public: &[u8; 32], role: Option<&str>| {
            let state = states.entry(id.to_owned()).or_insert_with(|| KeyState {
                id: id.to_owned(),
                name: self.keys().name(id).map(str::to_owned),
                public: hex::encode(public),
                roles: Vec::new(),
            });
            state.roles.extend(role.map(str::to_owned));
        };
        for role in Role::ALL {
            for key in self.current().public_keys(role) {
                note(&key.id().unwrap_or_default(), key.public_bytes(), Some(role.name()));
            }
        }
        if let Some(all) = &self.current().delegations {
            for role in &all.roles {
                for key in role.keyids.iter().filter_map(|id| all.keys.get(id)).filter_map(SigningKey::of) {
                    note(&key.id().unwrap_or_default(), key.public_bytes(), Some(&role.name));
                }
            }
        }
        for (id, key) in self.keys().all() {
            note(id, key.public_bytes(), None);
        }
        states.into_values().collect()
    }
}

/// A file that only its owner reads and that was not there before.
pub(super) fn write_new(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
    let path: PathBuf = dir.join(name);
    let failed = |source| RepositoryError::KeyFile { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(RealDisk.sync_dir(dir)?)
}
