//! What a card holds.

use super::install::InstallError;
use crate::config::{Config, DeviceId, Identity, Tls};
use crate::mqtt;
use crate::sys::Disk;
use std::path::{Path, PathBuf};

/// Where the files of a card come to stand on a board; its configuration names them there.
pub const ETC: &str = "/etc/selvedge";

pub(super) const CONFIG: &str = "selvedge.toml";
pub(super) const ROOT: &str = "root.json";
pub(super) const AUTHORITY: &str = "ca.pem";
pub(super) const CERTIFICATE: &str = "device.pem";
pub(super) const KEY: &str = "device.key";
pub(super) const PASSWORD: &str = "broker-password";

/// Those that nobody but the link may read.
pub(super) const SECRETS: [&str; 2] = [KEY, PASSWORD];
/// Credentials, of which a card has those that its configuration names.
pub(super) const CREDENTIALS: [&str; 4] = [AUTHORITY, CERTIFICATE, KEY, PASSWORD];

/// Of the root; nothing else is nearly as large.
const MAX_FILE: u64 = 1 << 20;

/// What a card says, checked.
#[derive(Debug)]
pub(super) struct Card {
    pub id: DeviceId,
    pub config: String,
    pub root: Vec<u8>,
    /// By their names in `CREDENTIALS`.
    pub credentials: Vec<(&'static str, Vec<u8>)>,
    /// What it should have and has not, a secret among it: then it was taken over, and is half cleared.
    pub gone: Vec<&'static str>,
}

impl Card {
    /// Reads and checks it before anything is changed.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, InstallError> {
        let missing = |name: &str| InstallError::Missing(dir.join(name));
        let config = disk.read(&dir.join(CONFIG), Config::MAX_BYTES)?.ok_or_else(|| missing(CONFIG))?;
        let config = String::from_utf8(config).map_err(|_| InstallError::NotText(dir.join(CONFIG)))?;
        let parsed = Config::parse(&config, &dir.join(CONFIG).display().to_string()).map_err(InstallError::Config)?;
        let id = parsed.device.id.ok_or_else(|| InstallError::NoId(dir.join(CONFIG)))?;
        let root = disk.read(&dir.join(ROOT), MAX_FILE)?;
        if root.as_ref().is_some_and(|root| !looks_like_root(root)) {
            return Err(InstallError::NotRoot(dir.join(ROOT)));
        }
        let (mut credentials, mut gone) = (Vec::new(), Vec::new());
        for name in named(&parsed)? {
            match disk.read(&dir.join(name), MAX_FILE)? {
                Some(bytes) => credentials.push((name, bytes)),
                None => gone.push(name),
            }
        }
        let cleared = gone.iter().any(|name| SECRETS.contains(name));
        let first = gone.first().copied().or(root.is_none().then_some(ROOT)).filter(|_| !cleared);
        if let Some(name) = first {
            return Err(missing(name));
        }
        let card = Self { id, config, root: root.unwrap_or_default(), credentials, gone };
        card.check(disk, dir, &parsed)?;
        Ok(card)
    }

    /// That key and certificate belong together, and the authority is one.
    fn check(&self, disk: &dyn Disk, dir: &Path, config: &Config) -> Result<(), InstallError> {
        let Some(tls) = config.link.broker.tls.as_ref().filter(|tls| tls.ca_file.is_some() && self.gone.is_empty())
        else {
            return Ok(());
        };
        let here = Tls {
            ca_file: Some(dir.join(AUTHORITY)),
            identity: tls
                .identity
                .as_ref()
                .map(|_| Identity { certificate_file: dir.join(CERTIFICATE), key_file: dir.join(KEY) }),
        };
        mqtt::tls_files(disk, &here).map(drop).map_err(InstallError::Tls)
    }
}

/// Which credentials a configuration names. Others than a card's own would not be there on the board.
fn named(config: &Config) -> Result<Vec<&'static str>, InstallError> {
    let broker = &config.link.broker;
    let tls = broker.tls.as_ref();
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    let expected: [(Option<&PathBuf>, &str); 4] = [
        (tls.and_then(|tls| tls.ca_file.as_ref()), AUTHORITY),
        (identity.map(|identity| &identity.certificate_file), CERTIFICATE),
        (identity.map(|identity| &identity.key_file), KEY),
        (broker.password_file.as_ref(), PASSWORD),
    ];
    let named = expected.into_iter().filter_map(|(path, name)| path.map(|path| (path, name)));
    named
        .map(|(path, name)| match path == &Path::new(ETC).join(name) {
            true => Ok(name),
            false => Err(InstallError::Elsewhere { path: path.clone(), expected: Path::new(ETC).join(name) }),
        })
        .collect()
}

/// Whether it reads like a root of trust; only `trust` can say whether it is one.
pub fn looks_like_root(bytes: &[u8]) -> bool {
    let json: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    json["signed"]["_type"] == "root" && json["signatures"].is_array()
}
