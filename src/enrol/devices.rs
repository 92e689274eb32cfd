//! The operator's side: cards for devices, files for the broker, and taking either back.
//!
//! Invariant: the registry is written before anything that it names leaves, and the broker's files are made from it, so
//! that the next command mends what a power cut left undone.

use super::authority::{Authority, Signed, Usage};
use super::card::{AUTHORITY, CERTIFICATE, CONFIG, ETC, KEY, PASSWORD, ROOT};
use super::password;
use super::registry::{Issue, Kind, Registry, RegistryError};
use crate::config::{Address, DeviceId};
use crate::sys::{Access, Disk, DiskError};
use std::path::{Path, PathBuf};

const DAY: u64 = 86_400;
const REGISTRY: &str = "registry.json";
const AUTHORITY_KEY: &str = "ca.key";
/// What the broker needs, beside its own certificate.
const REVOKED: &str = "revoked.crl";
const PASSWORDS: &str = "passwd";
const MAX_KEY: u64 = 16 << 10;
/// Of a hundred thousand that are revoked.
const MAX_LIST: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("read {path}")]
    Registry { path: PathBuf, source: RegistryError },
    #[error("{0} is not there: put the authority's key back to sign or revoke")]
    NoKey(PathBuf),
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("this system gives no random numbers")]
    Random(#[from] getrandom::Error),
    #[error("{0} is not empty: name another directory, so that no card is mixed with another")]
    NotEmpty(PathBuf),
    #[error("{0} is not among those that credentials were made for: `selvedge provision list` shows them")]
    Unknown(String),
    #[error("a certificate needs TLS: write the broker's address as mqtts://HOST, or take --password")]
    NeedsTls,
    #[error(
        "the card was not written, and what {name} had so far is revoked already: make it once more with --id {name}"
    )]
    Half { name: String, source: Box<EnrolError> },
    #[error("the clock says a time before this program was built: set it, dates of certificates come from it")]
    Clock,
}

/// By what one is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    Certificate,
    Password,
}

/// What a new card shall say.
#[derive(Debug, Clone)]
pub struct Request {
    /// Without one a new board's; with one that was made before, that one's old credentials are revoked.
    pub id: Option<DeviceId>,
    pub groups: Vec<String>,
    pub broker: Address,
    pub credential: Credential,
    /// How long a certificate holds.
    pub days: u32,
    /// The broker's certificate is by an authority of the system's.
    pub system_authorities: bool,
}

/// A card that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub id: DeviceId,
    pub card: PathBuf,
    /// Credentials of the same id that no longer count.
    pub replaced: usize,
}

/// Files for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerFiles {
    pub revoked: PathBuf,
    /// Where somebody has a password.
    pub passwords: Option<PathBuf>,
}

/// Who is let in, in `devices/` of a publishing directory. Whoever holds one holds that directory's lock.
#[derive(Debug)]
pub struct Devices<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    registry: Registry,
    authority: Authority,
    now: u64,
}

impl<'a> Devices<'a> {
    /// What the registry says; nothing where there is none yet. Needs no key.
    pub fn list(disk: &dyn Disk, repo: &Path) -> Result<Vec<Issue>, EnrolError> {
        Ok(read(disk, &repo.join("devices"))?.map_or_else(Vec::new, |registry| registry.issued))
    }

    /// Opens it, and makes the authority at the first use.
    pub fn open(disk: &'a dyn Disk, repo: &Path, now: u64) -> Result<Self, EnrolError> {
        if now < crate::sys::built() {
            return Err(EnrolError::Clock);
        }
        let dir = repo.join("devices");
        let registry = match read(disk, &dir)? {
            Some(registry) => registry,
            None => make(disk, &dir, now)?,
        };
        let key = disk.read(&dir.join(AUTHORITY_KEY), MAX_KEY)?;
        let key = key.ok_or_else(|| EnrolError::NoKey(dir.join(AUTHORITY_KEY)))?;
        let authority = Authority::open(&registry.authority, &String::from_utf8_lossy(&key))?;
        let mut this = Self { disk, dir, registry, authority, now };
        // Also what a power cut left undone.
        this.broker_files()?;
        Ok(this)
    }

    /// A card with what one device needs.
    pub fn provision(&mut self, request: &Request, root: &[u8], card: &Path) -> Result<Made, EnrolError> {
        if request.credential == Credential::Certificate && !request.broker.tls {
            return Err(EnrolError::NeedsTls);
        }
        self.must_be_empty(card)?;
        let id = request.id.map_or_else(random_id, Ok)?;
        let name = id.to_string();
        let replaced = self.registry.revoke(Kind::Device, &name, self.now);
        let mut files = Vec::new();
        if request.broker.tls && !request.system_authorities {
            files.push((AUTHORITY, self.authority_pem()?, Access::PUBLIC));
        }
        let (issue, secrets) = self.issue(Kind::Device, &name, request.credential, request.days)?;
        self.record(Issue { groups: request.groups.clone(), ..issue })?;
        files.extend(secrets);
        files.push((ROOT, root.to_vec(), Access::PUBLIC));
        // Last: a directory without it is no card.
        files.push((CONFIG, configuration(id, request).into_bytes(), Access::PUBLIC));
        let half = |e| if replaced == 0 { e } else { EnrolError::Half { name, source: Box::new(e) } };
        self.write(card, files).map_err(half)?;
        Ok(Made { id, card: card.to_owned(), replaced })
    }

    /// The operator's own credentials, for the commands that talk to the broker.
    pub fn operator(&mut self, credential: Credential, days: u32, out: &Path) -> Result<usize, EnrolError> {
        self.must_be_empty(out)?;
        let replaced = self.registry.revoke(Kind::Operator, OPERATOR, self.now);
        let (issue, secrets) = self.issue(Kind::Operator, OPERATOR, credential, days)?;
        self.record(issue)?;
        let named = |name| match name {
            CERTIFICATE => "operator.pem",
            KEY => "operator.key",
            other => other,
        };
        let mut files = vec![(AUTHORITY, self.authority_pem()?, Access::PUBLIC)];
        files.extend(secrets.into_iter().map(|(name, bytes, access)| (named(name), bytes, access)));
        self.write(out, files)?;
        Ok(replaced)
    }

    /// The broker's certificate and all else that Mosquitto's shipped configurations name.
    pub fn broker(&mut self, names: &[String], days: u32, out: &Path) -> Result<(), EnrolError> {
        self.must_be_empty(out)?;
        let ends = self.now + u64::from(days) * DAY;
        let serial = random_serial()?;
        let first = names.first().map_or("broker", String::as_str);
        let signed = self.authority.sign(first, &Usage::Server(names.to_vec()), &serial, (self.now, ends))?;
        let issue =
            Issue { serial: Some(hex::encode(serial)), ends: Some(ends), ..self.blank(Kind::Broker, &names.join(" ")) };
        self.record(issue)?;
        let revoked = self.disk.read(&self.dir.join(REVOKED), MAX_LIST)?.unwrap_or_default();
        let files = vec![
            (AUTHORITY, self.authority_pem()?, Access::PUBLIC),
            ("broker.pem", signed.certificate.into_bytes(), Access::PUBLIC),
            (REVOKED, revoked, Access::PUBLIC),
            ("broker.key", signed.key.into_bytes(), Access::PRIVATE),
        ];
        self.write(out, files)
    }

    /// Shuts a device out, or the operator's credentials; how many credentials that took back.
    pub fn revoke(&mut self, name: &str) -> Result<usize, EnrolError> {
        let kind = if name == OPERATOR { Kind::Operator } else { Kind::Device };
        if !self.registry.issued.iter().any(|issue| issue.is_of(kind, name)) {
            return Err(EnrolError::Unknown(name.to_owned()));
        }
        let count = self.registry.revoke(kind, name, self.now);
        self.save()?;
        Ok(count)
    }

    /// Writes the broker's files as the registry has them.
    pub fn broker_files(&mut self) -> Result<BrokerFiles, EnrolError> {
        let (revoked, passwords) = (self.dir.join(REVOKED), self.dir.join(PASSWORDS));
        let list = self.authority.list(self.registry.lists, self.registry.issued.iter(), self.now)?;
        self.disk.commit(&revoked, list.as_bytes())?;
        let text = self.registry.passwords();
        let wanted = !text.is_empty() || self.disk.size(&passwords)?.is_some();
        if wanted {
            self.disk.commit_as(&passwords, text.as_bytes(), Access::PRIVATE)?;
        }
        Ok(BrokerFiles { revoked, passwords: wanted.then_some(passwords) })
    }

    fn issue(
        &self,
        kind: Kind,
        name: &str,
        credential: Credential,
        days: u32,
    ) -> Result<(Issue, Vec<File>), EnrolError> {
        let blank = self.blank(kind, name);
        match credential {
            Credential::Password => {
                let password = password::random()?;
                let issue = Issue { hash: Some(password::hashed(&password)?), ..blank };
                Ok((issue, vec![(PASSWORD, password.into_bytes(), Access::PRIVATE)]))
            }
            Credential::Certificate => {
                let (serial, ends) = (random_serial()?, self.now + u64::from(days) * DAY);
                let Signed { certificate, key } =
                    self.authority.sign(name, &Usage::Client, &serial, (self.now, ends))?;
                let issue = Issue { serial: Some(hex::encode(serial)), ends: Some(ends), ..blank };
                let certificate = (CERTIFICATE, certificate.into_bytes(), Access::PUBLIC);
                Ok((issue, vec![certificate, (KEY, key.into_bytes(), Access::PRIVATE)]))
            }
        }
    }

    fn blank(&self, kind: Kind, name: &str) -> Issue {
        let name = name.to_owned();
        Issue { kind, name, groups: Vec::new(), made: self.now, serial: None, ends: None, hash: None, revoked: None }
    }

    fn record(&mut self, issue: Issue) -> Result<(), EnrolError> {
        self.registry.issued.push(issue);
        self.save()
    }

    fn save(&mut self) -> Result<(), EnrolError> {
        self.registry.lists += 1;
        self.registry.write(self.disk, &self.dir.join(REGISTRY))?;
        self.broker_files().map(drop)
    }

    fn authority_pem(&self) -> Result<Vec<u8>, EnrolError> {
        let path = self.dir.join(AUTHORITY);
        self.disk.read(&path, MAX_KEY)?.ok_or(EnrolError::NoKey(path))
    }

    fn must_be_empty(&self, dir: &Path) -> Result<(), EnrolError> {
        let empty = self.disk.list(dir)?.is_empty();
        if empty { Ok(()) } else { Err(EnrolError::NotEmpty(dir.to_owned())) }
    }

    fn write(&self, dir: &Path, files: Vec<File>) -> Result<(), EnrolError> {
        for (name, bytes, access) in files {
            self.disk.commit_as(&dir.join(name), &bytes, access)?;
        }
        Ok(())
    }
}

/// Its name to the broker's access list.
const OPERATOR: &str = "operator";

type File = (&'static str, Vec<u8>, Access);

fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Registry>, EnrolError> {
    let path = dir.join(REGISTRY);
    Registry::read(disk, &path).map_err(|source| EnrolError::Registry { path, source })
}

/// A new authority; it counts from the moment that its registry stands.
fn make(disk: &dyn Disk, dir: &Path, now: u64) -> Result<Registry, EnrolError> {
    let mut number = [0; 4];
    getrandom::fill(&mut number)?;
    // Two publishing directories must not have authorities of one name.
    let name = format!("Selvedge devices {}", hex::encode(number));
    let Signed { certificate, key } = Authority::make(&name, now)?;
    disk.commit_as(&dir.join(AUTHORITY_KEY), key.as_bytes(), Access::PRIVATE)?;
    disk.commit(&dir.join(AUTHORITY), certificate.as_bytes())?;
    let registry = Registry::new(name);
    registry.write(disk, &dir.join(REGISTRY))?;
    Ok(registry)
}

fn random_id() -> Result<DeviceId, EnrolError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(DeviceId(id))
}

/// 126 random bits, in the form that DER has for positive numbers.
fn random_serial() -> Result<[u8; 16], EnrolError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

fn configuration(id: DeviceId, request: &Request) -> String {
    let groups: Vec<String> = request.groups.iter().map(|group| format!("\"{group}\"")).collect();
    let mut text = format!(
        "# Made by `selvedge provision`. config/selvedge.toml explains every key.\n\n[device]\nid = \"{id}\"\ngroups = [{}]\n\n\
         [link]\nbroker = \"{}\"\n",
        groups.join(", "),
        request.broker
    );
    let mut name = |key: &str, file: &str| text += &format!("{key} = \"{ETC}/{file}\"\n");
    if request.broker.tls && !request.system_authorities {
        name("ca-file", AUTHORITY);
    }
    match request.credential {
        Credential::Certificate => {
            name("certificate-file", CERTIFICATE);
            name("key-file", KEY);
        }
        Credential::Password => {
            name("password-file", PASSWORD);
            text += &format!("username = \"{id}\"\n");
        }
    }
    text
}
