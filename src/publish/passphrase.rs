//! Keys under a passphrase: PKCS#8 in PEM, encrypted with scrypt and AES-256-CBC (PBES2), as
//! `openssl pkcs8 -topk8 -scrypt` writes it too. The key of a file is opened when it first signs.

use crate::trust::author::{SigningKey, Signs};
use pkcs8::der::zeroize::Zeroizing;
use pkcs8::der::{Decode as _, pem::PemLabel as _};
use pkcs8::pkcs5::{EncryptionScheme, pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument};
use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const MAX_FILE: u64 = 4096;

/// The most memory and rounds that a key file may ask for to be opened.
const MAX_SCRYPT_BYTES: u64 = 256 << 20;
const MAX_ROUNDS: u32 = 10_000_000;

#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    #[error("read the passphrase from {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0} holds no passphrase on its first line, or one of more than 1,024 bytes")]
    Empty(PathBuf),
    #[error("ask for the passphrase")]
    Ask(#[source] io::Error),
    #[error("the key needs a passphrase, and there is no terminal to ask at: give --passphrase-file")]
    NoTerminal,
    #[error("the two passphrases differ; nothing was made")]
    Differ,
    #[error("read the key file {path}")]
    Key { path: PathBuf, source: io::Error },
    #[error("{0} is no key under a passphrase (PEM, ENCRYPTED PRIVATE KEY)")]
    Form(PathBuf),
    #[error("{0} asks for more than 256 MiB or ten million rounds to be opened; it was not made here")]
    TooCostly(PathBuf),
    #[error("the passphrase does not open {0}")]
    Wrong(PathBuf),
    #[error("random numbers")]
    Random,
    #[error("encrypt the key")]
    Seal(#[source] pkcs8::Error),
}

/// Where the passphrase of a directory's keys comes from; asked for once at most.
#[derive(Clone, Default)]
pub struct Passphrase {
    file: Option<PathBuf>,
    known: Arc<OnceLock<Zeroizing<String>>>,
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passphrase").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Passphrase {
    /// The first line of a file; without one, it is asked for at the terminal.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, known: Arc::default() }
    }

    fn get(&self, is_new: bool) -> Result<&str, PassphraseError> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let said = match &self.file {
            Some(path) => from_file(path)?,
            None => ask(is_new)?,
        };
        Ok(self.known.get_or_init(|| said))
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, PassphraseError> {
    let failed = |source| PassphraseError::File { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)).map_err(failed)?;
    let line = text.lines().next().unwrap_or_default();
    let is_good = (1..=1024).contains(&line.len());
    is_good.then(|| Zeroizing::new(line.to_owned())).ok_or_else(|| PassphraseError::Empty(path.to_owned()))
}

fn ask(is_new: bool) -> Result<Zeroizing<String>, PassphraseError> {
    if !io::stdin().is_terminal() {
        return Err(PassphraseError::NoTerminal);
    }
    let ask = |what: &str| rpassword::prompt_password(what).map(Zeroizing::new).map_err(PassphraseError::Ask);
    let said = ask(if is_new { "New passphrase of the keys: " } else { "Passphrase of the keys: " })?;
    if is_new && *ask("Once more: ")? != *said {
        return Err(PassphraseError::Differ);
    }
    Ok(said)
}

/// A private key as a file that its passphrase opens.
pub(super) fn seal(key: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<String>, PassphraseError> {
    let said = passphrase.get(true)?;
    let whole = PrivateKeyInfoRef::from_der(key).map_err(|e| PassphraseError::Seal(e.into()))?;
    // Without the public half, which OpenSSL does not read there.
    let info = PrivateKeyInfoRef::new(whole.algorithm, whole.private_key);
    let sealed = info.encrypt_with_params(cost()?, said).map_err(PassphraseError::Seal)?;
    let label = EncryptedPrivateKeyInfoRef::PEM_LABEL;
    sealed.to_pem(label, LineEnding::LF).map_err(|e| PassphraseError::Seal(e.into()))
}

/// scrypt at 2^14, 8, 5: as much work as OWASP asks for, and within the 32 MiB that OpenSSL allows.
fn cost() -> Result<pbes2::Parameters, PassphraseError> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut iv)).map_err(|_| PassphraseError::Random)?;
    let scrypt = scrypt::Params::new(14, 8, 5).expect("constants");
    pbes2::Parameters::generate_scrypt_aes256cbc(scrypt, &salt, iv).map_err(|e| PassphraseError::Seal(e.into()))
}

fn open(path: &Path, passphrase: &Passphrase) -> Result<SigningKey, PassphraseError> {
    let failed = |source| PassphraseError::Key { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)).map_err(failed)?;
    let form = || PassphraseError::Form(path.to_owned());
    let (label, document) = SecretDocument::from_pem(&text).map_err(|_| form())?;
    if label != EncryptedPrivateKeyInfoRef::PEM_LABEL {
        return Err(form());
    }
    let sealed = EncryptedPrivateKeyInfoRef::from_der(document.as_bytes()).map_err(|_| form())?;
    if is_too_costly(&sealed.encryption_algorithm) {
        return Err(PassphraseError::TooCostly(path.to_owned()));
    }
    let wrong = || PassphraseError::Wrong(path.to_owned());
    let key = sealed.decrypt(passphrase.get(false)?).map_err(|_| wrong())?;
    SigningKey::from_pkcs8(key.as_bytes()).map_err(|_| wrong())
}

fn is_too_costly(scheme: &EncryptionScheme) -> bool {
    let Some(parameters) = scheme.pbes2() else { return true };
    let scrypt = parameters.kdf.scrypt().is_some_and(|scrypt| {
        let bytes = scrypt.cost_parameter.saturating_mul(128).saturating_mul(u64::from(scrypt.block_size));
        bytes > MAX_SCRYPT_BYTES || scrypt.parallelization > 16
    });
    scrypt || parameters.kdf.pbkdf2().is_some_and(|pbkdf2| pbkdf2.iteration_count > MAX_ROUNDS)
}

/// A key that is opened when it first signs.
#[derive(Debug)]
pub(super) struct Sealed {
    path: PathBuf,
    passphrase: Passphrase,
    opened: OnceLock<SigningKey>,
}

impl Sealed {
    pub fn new(path: PathBuf, passphrase: Passphrase) -> Self {
        Self { path, passphrase, opened: OnceLock::new() }
    }
}

impl Signs for Sealed {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        let key = match self.opened.get() {
            Some(key) => key,
            None => {
                let key = open(&self.path, &self.passphrase)?;
                self.opened.get_or_init(|| key)
            }
        };
        Ok(key.sign(message)?)
    }
}
