//! What `check` looks at.

use super::super::plain;
use super::tls;
use crate::config::{self, Broker, Config, DeviceId, IdError};
use crate::engine::Settings;
use crate::enrol::looks_like_root;
use crate::link::Session;
use crate::sys::{self, Clock as _, Disk as _, RealClock, RealDisk, date};
use serde::Serialize;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) what: &'static str,
    pub(super) found: String,
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, found: found.into(), remedy: None }
    }

    pub(super) fn error(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Error, what, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn warning(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, what, found: found.into(), remedy: Some(remedy.into()) }
    }
}

const MIB: u64 = 1024 * 1024;
/// A model of the usual size, twice: the live one and the next.
const LITTLE_ROOM: u64 = 64 * MIB;
/// More is neither a password nor a key.
const MAX_SECRET: u64 = 16 * 1024;
/// More is no root of trust.
const MAX_ROOT: u64 = 1024 * 1024;

pub(super) fn all(config: &Config, id: &Result<DeviceId, IdError>) -> Vec<Finding> {
    let engine = &config.engine;
    let mut all = vec![device_id(config, id), groups(&config.device.groups)];
    all.push(state("engine state", &engine.state));
    all.push(room(&engine.state));
    all.push(state("link state", &config.link.state));
    all.push(socket_directory("API socket", &engine.socket));
    all.push(socket_directory("link socket", &engine.link_socket));
    all.push(root(&engine.root));
    all.extend(engine.factory.iter().map(|path| factory(path)));
    all.push(line(&config.link.broker));
    all.push(password(&config.link.broker));
    all.extend(config.link.broker.tls.iter().flat_map(|tls| tls::all(tls, id.as_ref().ok().copied())));
    all.push(session(&config.link.state));
    all.push(kernels(engine));
    all.push(threads(engine));
    all.push(seccomp(engine.deny_network));
    all.push(clock(!config.update.windows.is_empty()));
    all
}

fn device_id(config: &Config, id: &Result<DeviceId, IdError>) -> Finding {
    let what = "device id";
    match id {
        Ok(_) if config.device.id.is_some() => Finding::ok(what, "from the configuration"),
        Ok(_) => Finding::ok(what, "from /etc/machine-id"),
        Err(e) => Finding::error(what, e.to_string(), "every board needs an id of its own"),
    }
}

fn groups(groups: &[String]) -> Finding {
    match groups {
        [] => Finding::warning(
            "groups",
            "none",
            "set `groups` under [device], else only offers to this very device are taken",
        ),
        some => Finding::ok("groups", some.join(", ")),
    }
}

/// A directory that only its owner may look into.
fn state(what: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Finding::warning(
                what,
                format!("{shown} is not there yet"),
                format!("the unit makes it at its first start; on a console: install -d -m 0700 {shown}"),
            );
        }
        Err(e) => return Finding::error(what, format!("{shown}: {e}"), "run this as root"),
    };
    // A link is what systemd's private state directories are.
    let meta = if meta.is_symlink() { std::fs::metadata(path).unwrap_or(meta) } else { meta };
    let owner = format!("{shown}, owner {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777);
    if !meta.is_dir() {
        return Finding::error(what, format!("{shown} is no directory"), "move it away");
    }
    if meta.mode() & 0o077 != 0 {
        return Finding::error(what, owner, format!("others must not look into it: chmod 0700 {shown}"));
    }
    match writable(path, &meta) {
        true => Finding::ok(what, owner),
        false => Finding::warning(
            what,
            format!("{owner}; not writable for who asks"),
            "run this as the unit's user or as root to be sure",
        ),
    }
}

/// For root every directory seems writable: what its owner may do counts then.
fn writable(path: &Path, meta: &Metadata) -> bool {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(path, access).is_ok() && meta.mode() & 0o300 == 0o300
}

fn room(state: &Path) -> Finding {
    let there = state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    match RealDisk.free(there) {
        Ok(free) if free < LITTLE_ROOM => Finding::warning(
            "disk",
            format!("{} MiB free", free / MIB),
            "an update needs room for two versions of a model",
        ),
        Ok(free) => Finding::ok("disk", format!("{} MiB free", free / MIB)),
        Err(e) => {
            Finding::error("disk", anyhow::Error::from(e).root_cause().to_string(), "is the file system mounted?")
        }
    }
}

fn socket_directory(what: &'static str, socket: &Path) -> Finding {
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Finding::error(what, format!("{shown} is no directory"), "move it away"),
        Ok(meta) if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 => {
            Finding::error(what, format!("anyone may replace files in {shown}"), format!("chmod o-w {shown}"))
        }
        Ok(_) => Finding::ok(what, socket.display().to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Finding::warning(
            what,
            format!("{shown} is not there yet"),
            "systemd-tmpfiles --create selvedge.conf makes it",
        ),
        Err(e) => Finding::error(what, format!("{shown}: {e}"), "run this as root"),
    }
}

/// Whether it reads and looks like one; only `trust` can say whether it is one.
fn root(path: &Path) -> Finding {
    let what = "root of trust";
    let shown = path.display();
    match RealDisk.read(path, MAX_ROOT) {
        Ok(None) => Finding::warning(
            what,
            format!("{shown} is not there"),
            "no update is taken without it: copy the operator's root.json there",
        ),
        Ok(Some(bytes)) if looks_like_root(&bytes) => Finding::ok(what, shown.to_string()),
        Ok(Some(_)) => {
            Finding::error(what, format!("{shown} is no root.json"), "copy it again from the operator's repository")
        }
        Err(e) => Finding::error(
            what,
            format!("{:#}", anyhow::Error::from(e)),
            "it must be readable for the engine: chmod 0644",
        ),
    }
}

fn factory(path: &Path) -> Finding {
    let what = "factory model";
    let manifest = path.join("manifest.toml");
    match manifest.is_file() {
        true => Finding::ok(what, path.display().to_string()),
        false => {
            Finding::error(what, format!("no {}", manifest.display()), "`factory` names directories with a model each")
        }
    }
}

/// Whether others on the way can read along.
fn line(broker: &Broker) -> Finding {
    let what = "broker";
    let address =
        config::Address { host: broker.host.clone(), port: broker.port, tls: broker.tls.is_some(), username: None };
    let here = matches!(broker.host.as_str(), "localhost" | "127.0.0.1" | "::1");
    match broker.tls.is_some() || here {
        true => Finding::ok(what, address.to_string()),
        false => Finding::warning(
            what,
            format!("{address}, in the clear"),
            "who can listen on the line reads status, metrics and password: `selvedge provision` prepares mqtts://",
        ),
    }
}

/// As the link saw it last; nobody is called.
fn session(state: &Path) -> Finding {
    let what = "session";
    match Session::last(&RealDisk, state) {
        None => Finding::ok(what, "nothing known: the link has not run yet, or this is not asked by root"),
        Some(Session { since, lost: None }) => Finding::ok(what, format!("with the broker, since {}", date(since))),
        Some(Session { since, lost: Some(reason) }) => Finding::warning(
            what,
            format!("none since {}: {}", date(since), plain(&reason)),
            "journalctl -u selvedge-link shows each attempt",
        ),
    }
}

fn password(broker: &Broker) -> Finding {
    let what = "broker password";
    match &broker.password_file {
        Some(path) => secret(what, path, "write the password alone into it"),
        None => Finding::ok(what, "none configured"),
    }
}

/// A file that is the link's alone.
pub(super) fn secret(what: &'static str, path: &Path, remedy: &str) -> Finding {
    let shown = path.display();
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => return Finding::error(what, format!("{shown}: {e}"), remedy),
    };
    if meta.mode() & 0o007 != 0 {
        let close = format!("chown root:selvedge-link {shown} && chmod 0640 {shown}");
        return Finding::error(what, format!("{shown} is open to all, mode {:04o}", meta.mode() & 0o7777), close);
    }
    if !meta.is_file() || !(1..=MAX_SECRET).contains(&meta.len()) {
        return Finding::error(what, format!("{shown} is no file of 1 to {MAX_SECRET} bytes"), remedy);
    }
    match std::fs::File::open(path) {
        Ok(_) => Finding::ok(what, shown.to_string()),
        Err(e) => Finding::warning(what, format!("{shown}: {e}"), "run this as root or as the link's user to be sure"),
    }
}

/// Whether this CPU has the instructions that the configuration, or `SELVEDGE_ISA` here, names.
fn kernels(engine: &config::Engine) -> Finding {
    let what = "int8 kernels";
    let settings = Settings { isa: engine.isa, ..Settings::default() };
    match settings.isa() {
        Ok(choice) => Finding::ok(what, choice.to_string()),
        Err(error) => Finding::error(
            what,
            error.to_string(),
            "set isa = \"auto\" under [engine], and no SELVEDGE_ISA in its environment",
        ),
    }
}

fn threads(engine: &config::Engine) -> Finding {
    let what = "threads";
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = engine.threads.unwrap_or_else(Settings::default_threads);
    let found = format!("{threads} an inference, {} inferences at a time, {cores} cores", engine.workers);
    match threads > cores {
        true => {
            Finding::warning(what, found, format!("threads of one inference wait for each other: threads = {cores}"))
        }
        false => Finding::ok(what, found),
    }
}

/// What the engine gives up the network with.
fn seccomp(deny_network: bool) -> Finding {
    let what = "network denial";
    match (deny_network, sys::can_deny_network()) {
        (true, true) => Finding::ok(what, "the engine will give up the network"),
        (true, false) => Finding::error(
            what,
            "this system takes no system call filters",
            "use a kernel with CONFIG_SECCOMP_FILTER; under an emulator, set deny-network = false",
        ),
        (false, _) => Finding::warning(
            what,
            "switched off",
            "only the unit's walls keep the engine off the network: deny-network = true",
        ),
    }
}

fn clock(has_windows: bool) -> Finding {
    match RealClock::new().synchronized() {
        true => Finding::ok("clock", "synchronized"),
        false if has_windows => Finding::warning(
            "clock",
            "nothing that counts disciplines it, and `windows` are set: updates wait three days for the hour, and then go on at any",
            "enable systemd-timesyncd; chrony and others are not seen",
        ),
        false => Finding::warning(
            "clock",
            "no time source disciplines it",
            "the device then goes by the time in the operator's signatures; enable systemd-timesyncd for better",
        ),
    }
}
