//! Nothing of an input or a result leaves the engine: not to the broker, not to a log, not to disk.
//! Needs mosquitto.

use crate::device::{Device, Recorder};
use crate::mosquitto::Mosquitto;
use selvedge::mqtt::{self, Backoff, Event};
use selvedge::privacy::Ledger;
use selvedge::sys::RealDisk;
use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A value that no model, weight or clock comes to by itself.
const VALUE: f32 = 0.723_456_1;
const TEXT: &str = "m4rked-with-care-7731";

/// The marker in every encoding that the API takes, and those that a log or a dump might use.
fn needles() -> Vec<(String, Vec<u8>)> {
    let pair = |bytes: &[u8]| [bytes, bytes].concat();
    let (single, double) = (VALUE, f64::from(VALUE));
    let half = half::f16::from_f32(VALUE);
    let mut found: Vec<(String, Vec<u8>)> = vec![
        ("text".into(), TEXT.into()),
        ("text in UTF-16".into(), TEXT.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("FP32 as decimal".into(), format!("{VALUE}").into()),
        ("FP64 as decimal".into(), format!("{double}").into()),
        ("decimal, cut".into(), "0.72345".into()),
        ("decimal with exponent".into(), format!("{VALUE:e}").into()),
        ("FP32 bytes".into(), pair(&single.to_le_bytes())),
        ("FP32 bytes, big-endian".into(), pair(&single.to_be_bytes())),
        ("FP64 bytes".into(), double.to_le_bytes().into()),
        ("FP16 bytes".into(), pair(&pair(&half.to_le_bytes()))),
        ("FP32 bytes as a list".into(), list(&single.to_le_bytes())),
    ];
    for (name, bytes) in [("text", TEXT.as_bytes().to_vec()), ("FP32 bytes", pair(&single.to_le_bytes()))] {
        found.push((format!("{name} in hex"), hex::encode(&bytes).into()));
        found.push((format!("{name} in HEX"), hex::encode_upper(&bytes).into()));
        for shift in 0..3 {
            found.push((format!("{name} in base64, shifted by {shift}"), base64_inside(&bytes, shift)));
        }
    }
    found
}

fn list(bytes: &[u8]) -> Vec<u8> {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    numbers.join(", ").into()
}

/// What stays the same of `bytes` in base64 when `shift` unknown bytes stand before them.
fn base64_inside(bytes: &[u8], shift: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let padded: Vec<u8> = std::iter::repeat_n(0, shift).chain(bytes.iter().copied()).collect();
    let whole = padded.chunks_exact(3).flat_map(|three| {
        let bits = three.iter().fold(0_usize, |bits, &byte| bits << 8 | usize::from(byte));
        [18, 12, 6, 0].map(|at| DIGITS[bits >> at & 63])
    });
    // The digits that mix with the unknown bytes do not count.
    whole.skip((shift * 8).div_ceil(6)).collect()
}

fn find(buffer: &[u8], what: &[u8]) -> bool {
    buffer.windows(what.len()).any(|window| window == what)
}

fn assert_clean(place: &str, buffer: &[u8]) {
    for (name, needle) in needles() {
        assert!(!find(buffer, &needle), "{place} holds the marked {name}");
    }
}

#[test]
fn the_scanner_finds_what_is_planted() {
    for (name, needle) in needles() {
        assert!(needle.len() >= 7, "{name} is too short to be a marker");
        let planted = [b"before ".as_slice(), &needle, b" after"].concat();
        assert!(find(&planted, &needle), "{name}");
        let caught = std::panic::catch_unwind(|| assert_clean("a buffer", &planted));
        assert!(caught.is_err(), "{name}");
    }
    // "wxM=" and so on, by another's encoder: printf 'xx' and the text, through base64.
    assert_eq!(base64_inside(b"abc", 0), b"YWJj");
    assert_eq!(base64_inside(b"abcdef", 2), b"FiY2Rl");
}

/// Good and bad requests, each with the marker in it.
fn ask_marked(device: &Device) {
    let tensor = |data: &str| format!(r#"{{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":[{data}]}}"#);
    let values = vec![format!("{VALUE}"); 64].join(",");
    let path = "/v2/models/digits/infer";
    let good = format!(r#"{{"id":"{TEXT}","parameters":{{"note":"{TEXT}"}},"inputs":[{}]}}"#, tensor(&values));
    let (code, answer) = device.post(path, "", good.as_bytes());
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&answer));
    assert!(find(&answer, TEXT.as_bytes()), "the id comes back to the client, so the request was understood");
    let head = format!(
        r#"{{"id":"{TEXT}","inputs":[{{"name":"image","shape":[1,1,8,8],"datatype":"FP32","parameters":{{"binary_data_size":256}}}}]}}"#
    );
    let bytes: Vec<u8> = std::iter::repeat_n(VALUE.to_le_bytes(), 64).flatten().collect();
    let sized = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    assert_eq!(device.post(path, &sized, &[head.as_bytes(), &bytes].concat()).0, 200);
    let bad = [
        format!(r#"{{"inputs":[{}]}}"#, tensor(&format!("{VALUE},{VALUE}"))),
        format!(r#"{{"inputs":[{}]}}"#, tensor(&values).replace("image", TEXT)),
        format!(r#"{{"inputs":[{}],"outputs":[{{"name":"{TEXT}"}}]}}"#, tensor(&values)),
        format!(r#"{{"inputs":[{}]"#, tensor(&values)),
        format!("{TEXT}{VALUE}"),
        tensor(&values).replace("FP32", TEXT),
    ];
    for body in bad {
        let (code, _) = device.post(path, "", body.as_bytes());
        assert!((400..500).contains(&code), "{body}: {code}");
    }
    assert_eq!(device.get(&format!("/v2/models/{TEXT}")).0, 404);
    assert_eq!(device.post(path, &format!("X-Note: {TEXT}\r\n"), good.as_bytes()).0, 200);
}

/// Everything that anyone publishes, for as long as it is held.
fn listen(port: u16) -> (tokio::runtime::Runtime, Arc<Mutex<Vec<(String, Vec<u8>)>>>) {
    let seen = Arc::<Mutex<Vec<(String, Vec<u8>)>>>::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let into = seen.clone();
    runtime.block_on(async move {
        let broker = selvedge::config::Broker {
            host: "127.0.0.1".into(),
            port,
            ..selvedge::config::Config::default().link.broker
        };
        let options = mqtt::Options { broker, client_id: "listener".into(), will: None, backoff: Backoff::default() };
        let (handle, mut events) = mqtt::start(options, Box::new(|_| ())).unwrap();
        handle.subscribe("#").await;
        tokio::spawn(async move {
            let _held = handle;
            while let Some(event) = events.recv().await {
                if let Event::Message(message) = event {
                    into.lock().unwrap().push((message.topic, message.bytes.to_vec()));
                }
            }
        });
    });
    (runtime, seen)
}

fn keys(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
            into.insert(key.clone());
            keys(value, into);
        }),
        serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

fn scan_files(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scan_files(&path);
        } else if let Ok(bytes) = fs::read(&path) {
            assert_clean(&path.display().to_string(), &bytes);
        }
    }
}

fn nothing_marked_leaves(log_level: &str) {
    let broker = Mosquitto::start();
    let recorder = Recorder::start(&broker);
    let (listener, seen) = listen(broker.port());
    let mut device = Device::start(recorder.port, broker.port(), log_level);
    ask_marked(&device);
    device.crash_engine("-KILL");
    ask_marked(&device);
    device.crash_engine("-SEGV");
    ask_marked(&device);
    device.publish("digits-adapted");
    while device.live() != 2 {
        ask_marked(&device);
    }
    for _ in 0..20 {
        ask_marked(&device);
    }
    device.wait("probation ends", |status| status["models"][0]["state"] == "idle");
    std::thread::sleep(Duration::from_millis(2500));
    device.stop();

    let messages = seen.lock().unwrap().clone();
    drop(listener);
    let told = |topic: &str| messages.iter().filter(|(t, _)| t.ends_with(topic)).count();
    assert!(told("/status") >= 3 && told("/metrics") >= 2 && told("/online") >= 1, "{messages:?}");
    for (topic, bytes) in &messages {
        assert_clean(&format!("a message's topic {topic}"), topic.as_bytes());
        assert_clean(&format!("a message under {topic}"), bytes);
    }
    assert_clean("the wire to the broker", &recorder.to_broker());
    assert_clean("the wire to the link", &recorder.to_link());
    for role in ["engine", "link"] {
        assert!(!device.log(role).is_empty());
    }
    // Logs, ledger, state, configuration: all that was written.
    scan_files(device.dir.path());
    only_documented_keys(&messages);
    let ledger = Ledger::read(&RealDisk, &device.path("link/egress.jsonl"), 4 << 20).unwrap();
    let written: u64 = ledger.iter().map(|entry| entry.bytes).sum();
    assert_eq!(written, recorder.to_broker().len() as u64, "the ledger holds each byte that left");
}

fn only_documented_keys(messages: &[(String, Vec<u8>)]) {
    let documented = include_str!("../../docs/privacy.md");
    let mut found = BTreeSet::new();
    for (topic, bytes) in messages.iter().filter(|(topic, _)| topic.contains("/dev/")) {
        let value = serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{topic}: {e}"));
        keys(&value, &mut found);
    }
    // The names of measures stand there as words: a count, bytes, a share.
    let measures = ["none", "count", "bytes", "microseconds", "share", "version", "time", "digest"];
    for key in found.iter().filter(|key| !measures.contains(&key.as_str())) {
        assert!(
            documented.contains(&format!("`{key}`")),
            "{key:?} left the device and docs/privacy.md does not say so"
        );
    }
}

#[test]
fn nothing_marked_leaves_the_engine() {
    nothing_marked_leaves("info");
}

#[test]
fn nothing_marked_leaves_the_engine_at_the_most_talkative_level() {
    nothing_marked_leaves("trace");
}

/// Why the engine listens on Unix sockets only: a listener that it was handed is a way out.
#[test]
fn an_inherited_tcp_listener_becomes_an_outgoing_connection() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::connect_unspec(&inherited).unwrap();
    rustix::net::connect(&inherited, &elsewhere.local_addr().unwrap()).unwrap();
    assert!(elsewhere.accept().is_ok());
}

#[test]
fn the_engine_refuses_a_tcp_socket_that_is_handed_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let text = format!(
        "[device]\nid = \"{}\"\n[engine]\nstate = {:?}\nsocket = {:?}\nlink-socket = {:?}\n",
        crate::device::ID,
        dir.path().join("state"),
        dir.path().join("api.sock"),
        dir.path().join("link.sock"),
    );
    fs::write(dir.path().join("selvedge.toml"), text).unwrap();
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=api; \
         exec {} engine --config {}",
        env!("CARGO_BIN_EXE_selvedge"),
        dir.path().join("selvedge.toml").display(),
    );
    let output = Command::new("timeout").args(["10", "bash", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("take the socket \"api\" that systemd holds"), "{said}");
}

#[test]
fn a_running_engine_has_no_internet_socket_and_cannot_make_one() {
    let broker = Mosquitto::start();
    let device = Device::start(broker.port(), broker.port(), "info");
    let proc = format!("/proc/{}", device.engine.id());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    assert_eq!(device.status()["inventory"]["network-denied"], true);
    assert_eq!(internet_sockets(device.engine.id()), 0);
    assert!(internet_sockets(device.link.id()) > 0, "the link has one, so the look is a real one");
    drop(TcpStream::connect(("127.0.0.1", broker.port())).unwrap());
}

fn internet_sockets(pid: u32) -> usize {
    let tables = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"];
    let known: Vec<String> =
        tables.iter().filter_map(|t| fs::read_to_string(format!("/proc/{pid}/net/{t}")).ok()).collect();
    let of_process = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|fd| {
        let target = fs::read_link(fd.ok()?.path()).ok()?.to_string_lossy().into_owned();
        Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    });
    of_process.filter(|inode| known.iter().any(|table| table.contains(&format!(" {inode} ")))).count()
}
