//! Every key: its name, its default, its bounds.

use super::read::Reader;
use super::update;
use super::{Broker, Config, Device, DeviceId, Engine, Link, Log, LogFormat, Proxy};
use crate::kernels::{Isa, IsaError, Threads};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use url::Url;

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
        deny_network: r.flag("engine", "deny-network", true),
        status_interval: Duration::from_secs(r.whole("engine", "status-interval-seconds", 60, 1..=86_400)),
    }
}

fn link(r: &mut Reader) -> Link {
    let (host, port) = r.text("link", "broker", broker).unwrap_or_else(|| ("localhost".into(), 1883));
    let broker = Broker {
        host,
        port,
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

fn broker(text: &str) -> Result<(String, u16), String> {
    let expected = "\"mqtt://host\" or \"mqtt://host:1883\" is expected";
    let bad = || format!("{} is no broker: {expected}", quoted(text));
    let url = Url::parse(text).map_err(|_| bad())?;
    match url.scheme() {
        "mqtt" => {}
        "mqtts" | "ssl" | "tls" => return Err("TLS to the broker is not there yet: use mqtt:// on a network that you trust; updates are signed either way, status is readable".into()),
        "ws" | "wss" => return Err(format!("MQTT over WebSocket is not there: {expected}")),
        _ => return Err(bad()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not stand in the address: use `username` and `password-file`".into());
    }
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match url.port().unwrap_or(1883) {
        port @ 1.. if bare && (1..=255).contains(&host.len()) => Ok((host.to_owned(), port)),
        _ => Err(bad()),
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

/// What stood in the file, shortened and safe to print.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!("{short:?}")
}
