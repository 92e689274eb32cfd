//! Every key: its name, its default, its bounds.

use super::address::{Address, quoted};
use super::read::Reader;
use super::update;
use super::{Broker, Config, Device, DeviceId, Engine, Identity, Link, Log, LogFormat, Proxy, Tls};
use crate::kernels::{Isa, IsaError, Threads};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// Bytes of `sun_path` without the closing zero.
const SOCKET_PATH: usize = 107;
const MAX_WORKERS: u64 = 256;

pub(super) fn all(r: &mut Reader) -> Config {
    let (device, engine, update) = (device(r), engine(r), update::update(r));
    let config = Config { device, engine, update, link: link(r), proxy: proxy(r), log: log(r) };
    if config.engine.socket == config.engine.link_socket {
        r.conflict("engine", "link-socket", "is the same path as `socket`: the API and the link each need their own");
    }
    if config.engine.state == config.link.state {
        r.conflict("link", "state", "is the engine's `state`: the two processes share no directory");
    }
    if config.link.broker.password_file.is_some() && config.link.broker.username.is_none() {
        r.conflict("link", "password-file", "needs a `username` beside it");
    }
    config
}

fn device(r: &mut Reader) -> Device {
    Device { id: r.text("device", "id", str::parse::<DeviceId>), groups: r.list("device", "groups", 32, group) }
}

fn engine(r: &mut Reader) -> Engine {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let path = |r: &mut Reader, key, default: &str| r.text("engine", key, absolute).unwrap_or_else(|| default.into());
    let socket =
        |r: &mut Reader, key, default: &str| r.text("engine", key, socket_path).unwrap_or_else(|| default.into());
    Engine {
        state: path(r, "state", "/var/lib/selvedge"),
        socket: socket(r, "socket", "/run/selvedge/api.sock"),
        link_socket: socket(r, "link-socket", "/run/selvedge-ipc/link.sock"),
        root: path(r, "root", "/etc/selvedge/root.json"),
        factory: r.list("engine", "factory", 32, absolute),
        inbox: r.text("engine", "inbox", absolute),
        workers: size(r.whole("engine", "workers", cores.min(MAX_WORKERS), 1..=MAX_WORKERS)),
        isa: r.text("engine", "isa", isa).flatten(),
        threads: Some(size(r.whole("engine", "threads", 0, 1..=Threads::MAX as u64))).filter(|&threads| threads > 0),
        queue: size(r.whole("engine", "queue", 64, 1..=65_536)),
        max_body: size(r.whole("engine", "max-body-mib", 16, 1..=256) * MIB),
        deadline: Duration::from_millis(r.whole("engine", "deadline-ms", 10_000, 1..=600_000)),
        hang: Duration::from_secs(r.whole("engine", "hang-seconds", 300, 10..=3600)),
        deny_network: r.flag("engine", "deny-network", true),
        status_interval: Duration::from_secs(r.whole("engine", "status-interval-seconds", 60, 1..=86_400)),
    }
}

fn link(r: &mut Reader) -> Link {
    let address = r.text("link", "broker", Address::without_user).unwrap_or_default();
    let broker = Broker {
        tls: tls(r, address.tls),
        host: address.host,
        port: address.port,
        username: r.text("link", "username", username),
        password_file: r.text("link", "password-file", absolute),
        keep_alive: Duration::from_secs(r.whole("link", "keep-alive-seconds", 60, 5..=65_535)),
    };
    Link {
        broker,
        state: r.text("link", "state", absolute).unwrap_or_else(|| "/var/lib/selvedge-link".into()),
        ledger_limit: r.whole("link", "ledger-limit-mib", 4, 1..=32) * MIB,
    }
}

/// Files without TLS would not be used, and who named them believes that they are.
fn tls(r: &mut Reader, wanted: bool) -> Option<Tls> {
    let [ca_file, certificate, key] =
        ["ca-file", "certificate-file", "key-file"].map(|key| (key, r.text("link", key, absolute)));
    let named = [&ca_file, &certificate, &key].into_iter().filter(|(_, path)| path.is_some());
    for (key, _) in named.filter(|_| !wanted) {
        r.conflict("link", key, "is for TLS: it needs a `broker` that starts with mqtts://");
    }
    let identity = match (certificate.1, key.1) {
        (Some(certificate_file), Some(key_file)) => Some(Identity { certificate_file, key_file }),
        (None, None) => None,
        (Some(_), None) => {
            r.conflict("link", "certificate-file", "needs a `key-file` beside it");
            None
        }
        (None, Some(_)) => {
            r.conflict("link", "key-file", "needs a `certificate-file` beside it");
            None
        }
    };
    wanted.then_some(Tls { ca_file: ca_file.1, identity })
}

fn proxy(r: &mut Reader) -> Proxy {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
    Proxy { listen: r.text("proxy", "listen", loopback).unwrap_or(default) }
}

fn log(r: &mut Reader) -> Log {
    Log {
        level: r.text("log", "level", level).unwrap_or_else(|| "info".into()),
        format: r.text("log", "format", format).unwrap_or(LogFormat::Text),
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// An instruction set that is known; whether this CPU has it shows where models are loaded.
fn isa(text: &str) -> Result<Option<Isa>, IsaError> {
    if text == "auto" { Ok(None) } else { text.parse().map(Some) }
}

/// A group's name, as devices and offers state it.
pub fn group(name: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let good = (1..=32).contains(&name.len()) && name.bytes().all(plain);
    good.then(|| name.to_owned())
        .ok_or_else(|| format!("{} is no group: 1 to 32 of a-z, 0-9, '-' and '_' are expected", quoted(name)))
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let good = path.is_absolute() && plain && text.len() <= 1024 && !text.chars().any(char::is_control);
    good.then(|| path.to_owned()).ok_or_else(|| {
        format!("{} is no absolute path: one like \"/var/lib/selvedge\", without \"..\", is expected", quoted(text))
    })
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute(text)?;
    match text.len() {
        0..=SOCKET_PATH => Ok(path),
        long => Err(format!("{long} bytes: the path of a socket has at most {SOCKET_PATH}")),
    }
}

fn username(text: &str) -> Result<String, String> {
    let good = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
    good.then(|| text.to_owned()).ok_or_else(|| "1 to 256 bytes without control characters are expected".into())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| format!("{} is no address: one like \"127.0.0.1:8000\" is expected", quoted(text)))?;
    let refusal = "only loopback addresses are taken: the API has no passwords; give others on the network a reverse proxy that has";
    address.ip().is_loopback().then_some(address).ok_or_else(|| format!("{address}: {refusal}"))
}

/// `info`, or `target=level` pairs with commas; what the filter would read as something else is refused.
fn level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let target = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    let good = |part: &str| match part.split_once('=') {
        Some((name, level)) => target(name) && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    };
    if text.len() <= 256 && text.split(',').map(str::trim).all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is no level: off, error, warn, info, debug, trace or a list like \"info,selvedge=debug\" is expected",
        quoted(text)
    ))
}

fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "journald" => Ok(LogFormat::Journald),
        _ => Err(format!("{} is no format: \"text\", \"json\" or \"journald\" is expected", quoted(text))),
    }
}
