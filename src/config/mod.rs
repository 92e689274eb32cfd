//! Configuration: TOML text in, checked values out.
//!
//! Invariant: a `Config` is complete and in bounds; no later code has to doubt it.
//! Not here: the model's manifest (`bundle`). The commented reference is `config/selvedge.toml`.

mod address;
mod error;
mod id;
mod read;
mod sections;
mod update;
mod window;

pub use address::Address;
pub use error::{ConfigError, Problem};
pub use id::{DeviceId, IdError};
pub use sections::group as group_name;
pub use update::Update;
pub use window::Window;

use crate::kernels::Isa;
use crate::sys::Disk;
use read::Reader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All sections. Each role uses its own and `device`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub device: Device,
    pub engine: Engine,
    pub update: Update,
    pub link: Link,
    pub proxy: Proxy,
    pub log: Log,
}

impl Config {
    /// Of the file.
    pub const MAX_BYTES: u64 = 64 * 1024;
    /// Where the package puts it.
    pub const PATH: &str = "/etc/selvedge/selvedge.toml";

    pub fn load(disk: &dyn Disk, path: &Path) -> Result<Self, ConfigError> {
        let read = disk.read(path, Self::MAX_BYTES);
        let bytes = read.map_err(|source| ConfigError::Read { source })?;
        let bytes = bytes.ok_or_else(|| ConfigError::Absent { path: path.to_owned() })?;
        let name = path.display().to_string();
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &name),
            Err(source) => Err(ConfigError::NotText { name, source }),
        }
    }

    /// Reads a whole configuration; `name` is what errors call it. All problems are reported at once.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let name = name.to_owned();
        if text.len() as u64 > Self::MAX_BYTES {
            return Err(ConfigError::TooLarge { name });
        }
        let mut reader = Reader::new(text);
        let config = sections::all(&mut reader);
        match reader.finish() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigError::Invalid { name, problems }),
        }
    }

    /// Every key that a configuration may hold, as `section.key`, in the order in which they are read.
    pub fn known_keys() -> Vec<String> {
        let mut reader = Reader::new("");
        sections::all(&mut reader);
        reader.known()
    }
}

impl Default for Config {
    fn default() -> Self {
        sections::all(&mut Reader::new(""))
    }
}

/// `[device]`: who this board is.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// 32 hexadecimal digits. Without it the id is derived from `/etc/machine-id`.
    pub id: Option<DeviceId>,
    /// The groups whose offers this device takes.
    pub groups: Vec<String>,
}

/// `[engine]`: the process that sees inputs and results.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Versions, journal and trust; `/var/lib/selvedge`.
    pub state: PathBuf,
    /// Unix socket of the local API; `/run/selvedge/api.sock`.
    pub socket: PathBuf,
    /// Unix socket that the link connects to; `/run/selvedge-ipc/link.sock`.
    pub link_socket: PathBuf,
    /// The operator's root of trust; `/etc/selvedge/root.json`. Without the file no update is taken.
    pub root: PathBuf,
    /// Model directories that are installed at the start when nothing newer of that name is there.
    pub factory: Vec<PathBuf>,
    /// A directory whose packs are taken; none by default.
    pub inbox: Option<PathBuf>,
    /// Inferences that run at the same time; one a core by default.
    pub workers: usize,
    /// Instructions of the int8 kernels; `None`, "auto": the best that the CPU has.
    pub isa: Option<Isa>,
    /// Threads of one inference; without it the engine's default.
    pub threads: Option<usize>,
    /// Requests that may wait for a worker before others are refused with 503; 64.
    pub queue: usize,
    /// Largest body of a request, bytes; 16 MiB.
    pub max_body: usize,
    /// How long a request may wait and run; 10 s.
    pub deadline: Duration,
    /// What takes longer than this hangs: an inference, the check of a version; 300 s.
    pub hang: Duration,
    /// Give up the right to make internet sockets at the start, and refuse to run where that fails; true.
    pub deny_network: bool,
    /// How often the state is told; 60 s. Changes are told at once.
    pub status_interval: Duration,
}

/// `[link]`: the process that talks to the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub broker: Broker,
    /// The ledger; `/var/lib/selvedge-link`.
    pub state: PathBuf,
    /// Bytes of one of the two ledger files; 4 MiB.
    pub ledger_limit: u64,
}

impl Link {
    /// The egress ledger.
    pub fn ledger(&self) -> PathBuf {
        self.state.join("egress.jsonl")
    }
}

/// Where the broker is and who we are to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub username: Option<String>,
    /// A file that holds the password, so that it stands in no configuration and no log.
    pub password_file: Option<PathBuf>,
    /// Seconds between signs of life; 60 s, at least 5.
    pub keep_alive: Duration,
    /// Without it all goes in the clear.
    pub tls: Option<Tls>,
}

/// How we know the broker, and by what it knows us. Files are read anew for each attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the authorities that may vouch for the broker. Without it: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM: ours first, then what leads to the broker's authority.
    pub certificate_file: PathBuf,
    /// PEM, not under a passphrase.
    pub key_file: PathBuf,
}

/// `[proxy]`: the loopback address that `selvedge run` forwards to the API's socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// `127.0.0.1:8000`; only loopback addresses are taken.
    pub listen: SocketAddr,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// As `tracing`'s filter: `info`, `selvedge=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
    Journald,
}
