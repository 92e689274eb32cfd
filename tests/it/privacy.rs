//! No input and no result leaves the device: not to the broker, not on the wire, not into a log, not
//! onto the disk, whatever goes wrong meanwhile. Needs mosquitto; `/proc/<pid>/fd` needs root.

use crate::device::{Device, LONG, Signal, files};
use crate::load::{self, Load};
use crate::mosquitto::{Mosquitto, Proxy, RawClient};
use crate::operate::{Operator, release};
use crate::secrets::{Scanner, Secrets};
use crate::serve::harness::{Reply, post};
use rumqttc::v5::mqttbytes::v5::{Packet, PubAck};
use selvedge::bundle::Digest;
use selvedge::privacy::{
    AuditHead, Code, Inventory, Lacks, Measure, Metrics, ModelMetrics, ModelState, ModelStatus, Outcome, Stage, Status,
    Verdict,
};
use selvedge::sys;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const INFER: &str = "/v2/models/digits/infer";

/// What a subscriber to everything saw: topics and payloads.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Subscribes to `#` and keeps what comes.
fn eavesdrop(port: u16) -> (Seen, TcpStream) {
    let mut client = RawClient::connect(port, "eavesdropper", false);
    client.subscribe("#");
    let (seen, stream) = (Seen::default(), client.stream());
    let keep = seen.clone();
    std::thread::spawn(move || {
        while let Ok(packet) = client.try_receive() {
            if let Packet::Publish(publish) = packet {
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                keep.lock().unwrap().push((topic, publish.payload.to_vec()));
                if publish.pkid != 0 {
                    client.send(&Packet::PubAck(PubAck::new(publish.pkid, None)));
                }
            }
        }
    });
    (seen, stream)
}

/// All keys of an object and of what is in it.
fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            into.insert(key.clone());
            keys(value, into);
        }),
        Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn keys_of(value: &impl serde::Serialize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(value).unwrap(), &mut found);
    found
}

/// The closed set, from the types themselves: of a status, of metrics. All is filled in.
fn closed_set() -> (BTreeSet<String>, BTreeSet<String>) {
    let model = selvedge::bundle::ModelName::new("m").unwrap();
    let state = ModelState::Idle;
    let status = Status {
        sequence: 0,
        time: 0,
        models: vec![ModelStatus {
            model: model.clone(),
            live: None,
            previous: None,
            state,
            candidate: None,
            agreement: Some(0.5),
            waits_for: None,
        }],
        outcomes: vec![Outcome {
            model: None,
            version: None,
            verdict: Verdict::Live,
            stage: Stage::Probation,
            code: Code::Ok,
            expected: Measure::None,
            actual: Measure::None,
            time: 0,
        }],
        lacks: Lacks::default(),
        inventory: Inventory::default(),
        audit: Some(AuditHead { number: 1, sha256: Digest::of(b"") }),
    };
    let model = ModelMetrics { model, version: 1, answered: 0, failed: 0, latency: Default::default() };
    (keys_of(&status), keys_of(&Metrics { models: vec![model], ..Metrics::default() }))
}

/// The set of keys that the device used, and that no message holds more than its type does.
fn check_schema(seen: &[(String, Vec<u8>)]) {
    let of = |name: &str| {
        let end = format!("/{name}");
        seen.iter().filter(move |(topic, _)| topic.ends_with(&end)).map(|(_, bytes)| &bytes[..])
    };
    let (mut status_keys, mut metrics_keys, mut online_keys) = Default::default();
    for bytes in of("status") {
        let status: Status = serde_json::from_slice(bytes).unwrap();
        assert_eq!(serde_json::to_vec(&status).unwrap(), bytes, "exactly what the type holds");
        keys(&serde_json::from_slice(bytes).unwrap(), &mut status_keys);
    }
    for bytes in of("metrics") {
        let metrics: Metrics = serde_json::from_slice(bytes).unwrap();
        assert_eq!(serde_json::to_vec(&metrics).unwrap(), bytes, "exactly what the type holds");
        keys(&serde_json::from_slice(bytes).unwrap(), &mut metrics_keys);
    }
    of("online").for_each(|bytes| keys(&serde_json::from_slice(bytes).unwrap(), &mut online_keys));
    let (status, metrics) = closed_set();
    assert_eq!(status_keys, status);
    assert_eq!(metrics_keys, metrics);
    assert_eq!(online_keys, BTreeSet::from(["boot".to_owned(), "online".to_owned()]));
    assert!(of("status").count() >= 3 && of("metrics").count() >= 3, "told several times");
    let rooms: BTreeSet<&str> = seen.iter().filter_map(|(topic, _)| topic.split('/').nth(2)).collect();
    assert_eq!(rooms, BTreeSet::from(["chunk", "dev", "tuf"]));
}

/// Requests that carry the secrets in all forms that the API takes, with what they are answered.
fn good_requests(secrets: &Secrets) -> Vec<(u16, Vec<u8>)> {
    let text = &secrets.text;
    let binary = secrets.bytes();
    let with = |data: Value| {
        let parameters = json!({ "note": text, "timeout": 5_000_000, text.clone(): text });
        let input = json!({ "name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": data, "parameters": { "note": text } });
        json!({ "id": text, "parameters": parameters, "inputs": [input] })
    };
    let nested: Vec<&[f32]> = secrets.values.chunks(8).collect();
    let head = |outputs: Value| {
        let input = json!({ "name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "parameters": { "binary_data_size": binary.len() } });
        json!({ "id": text, "inputs": [input], "outputs": outputs }).to_string()
    };
    let in_binary = |outputs: Value, bytes: &[u8]| {
        let head = head(outputs);
        let header = format!("Inference-Header-Content-Length: {}\r\nX-Note: {text}\r\n", head.len());
        post(INFER, &header, &[head.as_bytes(), bytes].concat())
    };
    let exponents: Vec<String> = secrets.values.iter().map(|value| format!("{value:e}")).collect();
    let written = |list: String| with(json!("here")).to_string().replace("\"here\"", &list);
    let exponents = written(format!("[{}]", exponents.join(" , ")));
    // As short as an FP32 can be said; `json!` says it as a double.
    let short = written(serde_json::to_string(&secrets.values).unwrap());
    let mut infinite = binary.clone();
    infinite[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    infinite[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    let look_up = json!({ "name": "x", "datatype": "INT64", "shape": [1], "data": [secrets.number], "parameters": { "note": text } });
    let look_up = json!({ "id": text, "inputs": [look_up] }).to_string();
    let classes = json!([{ "name": "logits", "parameters": { "classification": 3 } }]);
    vec![
        (200, post(INFER, "", with(json!(secrets.values)).to_string().as_bytes())),
        (200, post(INFER, "", with(json!([[nested]])).to_string().as_bytes())),
        (200, post(INFER, "", exponents.as_bytes())),
        (200, post(INFER, "", short.as_bytes())),
        (200, in_binary(json!([{ "name": "logits" }]), &binary)),
        (200, in_binary(json!([{ "name": "logits", "parameters": { "binary_data": true } }]), &binary)),
        (200, in_binary(classes, &binary)),
        (200, in_binary(json!([{ "name": "logits" }]), &infinite)),
        // The model has no such place, and breaks.
        (500, post("/v2/models/lookup/infer", "", look_up.as_bytes())),
    ]
}

/// The connection ends, with an answer or without one.
const NO_HTTP: u16 = 0;

/// Requests that carry the secrets and are refused for what is wrong with them.
fn bad_requests(secrets: &Secrets) -> Vec<(u16, Vec<u8>)> {
    let (text, values) = (&secrets.text, &secrets.values);
    let input = |name: &str, datatype: &str, shape: Value| json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": values }] });
    let shape = json!([1, 1, 8, 8]);
    let json = |value: Value| post(INFER, "", value.to_string().as_bytes());
    let list = serde_json::to_string(values).unwrap();
    let mut strings = input("image", "FP32", shape.clone());
    strings["inputs"][0]["data"] = json!([text]);
    let mut output = input("image", "FP32", shape.clone());
    output["outputs"] = json!([{ "name": text }]);
    let mut region = input("image", "FP32", shape.clone());
    region["inputs"][0]["parameters"] = json!({ "shared_memory_region": text });
    let mut typed = input("image", "FP32", shape.clone());
    typed["parameters"] = json!({ "timeout": text });
    let first = json!(values[0]).to_string();
    let endless = input("image", "FP32", shape.clone()).to_string().replacen(&first, "1e999", 1);
    let framed = |length: &str| post(INFER, &format!("Inference-Header-Content-Length: {length}\r\n"), list.as_bytes());
    vec![
        (400, json(input("image", "FP32", json!([1, 8, 8])))),
        (400, json(input("image", "FP32", json!([1, 1, 8, 9])))),
        (400, json(input(text, "FP32", shape.clone()))),
        (400, json(input("image", text, shape.clone()))),
        (400, json(input("image", "INT8", shape))),
        (400, json(strings)),
        (400, json(output)),
        (400, json(region)),
        (400, json(typed)),
        (400, post(INFER, "", endless.as_bytes())),
        (400, post(INFER, "", format!("{{\"id\":\"{text}\",\"inputs\":[{{{text} {list}").as_bytes())),
        (400, post(INFER, "", format!("{text}{list}").as_bytes())),
        (400, post(INFER, "", &[secrets.bytes(), text.clone().into_bytes()].concat())),
        (400, framed(text)),
        (400, framed("99999")),
        (404, post(&format!("/v2/models/{text}/infer"), "", list.as_bytes())),
        (404, post(&format!("/{text}?{list}"), "", list.as_bytes())),
        (415, post(INFER, &format!("Content-Encoding: {text}\r\n"), list.as_bytes())),
        (421, format!("GET /v2 HTTP/1.1\r\nHost: {text}.example\r\nConnection: close\r\n\r\n").into_bytes()),
        (403, post(INFER, &format!("Origin: https://{text}.example\r\n"), list.as_bytes())),
        (405, format!("{text} {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()),
        (NO_HTTP, format!("{text} {list}\r\n\r\n").into_bytes()),
    ]
}

/// Sends everything; results become secrets too.
async fn ask_everything(device: &Device, secrets: &mut Secrets) {
    for (status, request) in good_requests(secrets).into_iter().chain(bad_requests(secrets)) {
        let shown = || String::from_utf8_lossy(&request[..request.len().min(400)]).into_owned();
        let reply = device.ask(&request).await;
        if status == NO_HTTP {
            continue;
        }
        let reply = reply.unwrap_or_else(|| panic!("no answer to {}", shown()));
        assert_eq!(reply.status, status, "{}\n{}", shown(), reply.text());
        secrets.results.extend(results(&reply));
    }
}

/// The values of an answer in JSON; others repeat them.
fn results(reply: &Reply) -> Option<Vec<f32>> {
    let answer: Value = serde_json::from_slice(&reply.body).ok()?;
    serde_json::from_value(answer["outputs"][0]["data"].clone()).ok()
}

/// As much as a device can go through in some seconds, with secrets in every request.
async fn a_life(device: &mut Device, operator: &mut Operator, secrets: &mut Secrets) {
    device.start().await;
    ask_everything(device, secrets).await;
    for signal in [Signal::KILL, Signal::SEGV] {
        let asking: Vec<_> = good_requests(secrets).into_iter().map(|(_, request)| request).collect();
        let (socket, load) = (device.path("api.sock"), device.load());
        let flood = tokio::spawn(async move {
            while let Ok(mut stream) = tokio::net::UnixStream::connect(&socket).await {
                for request in &asking {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, request).await;
                }
            }
        });
        sleep(Duration::from_millis(100)).await;
        let ended = device.end_engine(signal);
        assert_eq!(ended.signal(), Some(signal.as_raw()), "{ended}");
        timeout(LONG, flood).await.unwrap().unwrap();
        device.start_engine();
        device.ready().await;
        // The flood may fill the queue: then others are told so.
        let wrong = |seen: &load::Seen| matches!(seen, load::Seen::Answer { right: false, .. });
        assert!(!load.stop().iter().any(|(_, seen)| wrong(seen)));
    }
    ask_everything(device, secrets).await;
    let load = device.load();
    operator.publish(&release(2, 300_000, 80)).await;
    let start = Instant::now();
    let mut after = 0;
    while after < 2 {
        ask_everything(device, secrets).await;
        let status = device.status().await.unwrap();
        let is_over = status.models.iter().any(|m| m.live == Some(2) && m.state == ModelState::Idle);
        after += i32::from(is_over);
        assert!(start.elapsed() < LONG && status.outcomes.iter().all(|o| o.code == Code::Ok), "{status:#?}");
    }
    Load::versions(&load.stop());
    // The last word tells of the last requests.
    sleep(Duration::from_millis(2200)).await;
}

/// A fast machine lives that life before its state was told often enough to look at. What is told is on disk before,
/// and a busy disk may take ten seconds and more to sync.
async fn told_several_times(seen: &Seen, device: &Device) {
    let often = |end: &str| seen.lock().unwrap().iter().filter(|(topic, _)| topic.ends_with(end)).count() >= 3;
    for _ in 0..1200 {
        if often("/status") && often("/metrics") {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let count = |end: &str| seen.lock().unwrap().iter().filter(|(topic, _)| topic.ends_with(end)).count();
    let logs = ["link.log", "engine.log"].map(|name| {
        let log = std::fs::read(device.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(3000)..]).into_owned()
    });
    panic!(
        "the device does not tell its state every second: {} times its status, {} times its metrics\n{}",
        count("/status"),
        count("/metrics"),
        logs.join("\n")
    );
}

/// With blanks for fractions of seconds: six digits a line, among which any five are sooner or later those of a secret.
fn without_clock(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let is_clock = |at: &[u8]| {
        at.iter().zip(b"00:00:00.").all(|(own, form)| if *form == b'0' { own.is_ascii_digit() } else { own == form })
    };
    for at in 0..bytes.len().saturating_sub(9) {
        if is_clock(&bytes[at..at + 9]) {
            bytes[at + 9..].iter_mut().take_while(|byte| byte.is_ascii_digit()).for_each(|byte| *byte = b' ');
            // The seconds stand right before: `9.12345` would do as well.
            bytes[at + 7] = b' ';
        }
    }
    bytes
}

async fn nothing_leaves(level: &str) {
    let broker = Mosquitto::start();
    let proxy = Proxy::recording(broker.port()).await;
    let (seen, eavesdropper) = eavesdrop(broker.port());
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(proxy.port, &operator.root(), level);
    device.add_lookup();
    let mut secrets = Secrets::new();
    a_life(&mut device, &mut operator, &mut secrets).await;
    told_several_times(&seen, &device).await;
    assert!(device.end_link(Signal::TERM).success());
    assert!(device.end_engine(Signal::TERM).success());
    sleep(Duration::from_millis(200)).await;
    eavesdropper.shutdown(std::net::Shutdown::Both).unwrap();
    let seen = seen.lock().unwrap().clone();

    let scanner = Scanner::new(&secrets);
    for (topic, payload) in &seen {
        scanner.assert_clean(&format!("the topic {topic}"), topic.as_bytes());
        scanner.assert_clean(topic, payload);
    }
    proxy.recorded().iter().for_each(|stream| scanner.assert_clean("the wire", stream));
    let kept = files(device.dir.path()).unwrap();
    kept.iter().for_each(|(path, bytes)| scanner.assert_clean(&path.display().to_string(), &without_clock(bytes)));

    let name = |name: &str| kept.iter().any(|(path, bytes)| path.ends_with(name) && !bytes.is_empty());
    assert!(["engine.log", "link.log", "engine/journal.json", "link/egress.jsonl"].into_iter().all(name));
    assert!(!kept.iter().any(|(path, _)| path.file_name().is_some_and(|name| name.to_string_lossy().contains("core"))));
    check_schema(&seen);
    let failures = |(topic, bytes): &(String, Vec<u8>)| {
        let metrics: Option<Metrics> = serde_json::from_slice(bytes).ok().filter(|_| topic.ends_with("/metrics"));
        metrics
            .into_iter()
            .flat_map(|m| m.models)
            .filter(|m| m.model.as_str() == "lookup")
            .map(|m| m.failed)
            .sum::<u64>()
    };
    assert!(seen.iter().map(failures).max() > Some(0), "that a model broke is told, as a number");
    let written: u64 = device.ledger().iter().map(|entry| entry.bytes).sum();
    assert_eq!(written, proxy.to_broker(), "the ledger holds every byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_and_no_result_leaves_the_device_or_stays_on_its_disk() {
    nothing_leaves("info").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_when_the_log_is_as_loud_as_it_gets() {
    nothing_leaves("trace,tract_core=trace,tract_core::plan=trace,hyper=trace,selvedge=trace").await;
}

/// Inodes of sockets, from the kernel's tables of those that can leave the machine.
fn network_inodes(process: u32) -> BTreeSet<u64> {
    let tables = ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "packet", "netlink"];
    let texts = tables.map(|table| std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default());
    texts.iter().flat_map(|text| text.split_whitespace()).filter_map(|word| word.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_has_a_filter_of_system_calls_and_no_socket_of_the_network() {
    let mut device = Device::new(1, Operator::new(1).root().as_slice(), "info");
    device.start_engine();
    device.ready().await;
    let process = device.engine_id();
    for entry in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let status = std::fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "every thread: {status}");
    }
    let fds = std::fs::read_dir(format!("/proc/{process}/fd"));
    let fds = fds.expect("run as root: the engine's memory and files are shut to its own user");
    let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let links: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let inode = |link: &String| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
    let inodes: BTreeSet<u64> = links.iter().filter_map(inode).collect();
    assert!(inodes.len() >= 2, "its own two listeners: {links:?}");
    assert!(inodes.is_disjoint(&network_inodes(process)), "{links:?}");
}

const ESCAPE: &str = "SELVEDGE_TEST_ESCAPE_TO";

/// Why the engine takes Unix sockets only. This test starts itself again: the filter is for good.
#[test]
fn a_process_that_gave_up_the_network_gets_out_through_a_listener_that_it_had_before() {
    if let Ok(port) = std::env::var(ESCAPE) {
        return escape(port.parse().unwrap());
    }
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = "privacy::a_process_that_gave_up_the_network_gets_out_through_a_listener_that_it_had_before";
    let mut child = sys::command(&std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture"]).env(ESCAPE, outside.local_addr().unwrap().port().to_string());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    outside.set_nonblocking(true).unwrap();
    let (mut stream, _) = outside.accept().expect("it got out");
    stream.set_nonblocking(false).unwrap();
    let mut came = String::new();
    std::io::Read::read_to_string(&mut stream, &mut came).unwrap();
    assert_eq!(came, "an input");
}

fn escape(port: u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    sys::deny_network().unwrap();
    assert!(sys::network_is_denied());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the straight way is shut");
    assert_eq!(sys::network_sockets().unwrap().iter().filter(|(_, protocol)| protocol == "TCP").count(), 1);
    rustix::net::connect_unspec(&listener).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    rustix::net::connect(&listener, &address).unwrap();
    assert_eq!(rustix::io::write(&listener, b"an input").unwrap(), 8);
}

#[test]
fn an_engine_that_is_started_with_a_socket_of_the_network_refuses_to_run() {
    let named = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_FDNAMES=api LISTEN_PID=$$ exec \"$@\"";
    let left_open = "exec 7<&0 </dev/null; exec \"$@\"";
    let as_input = "exec \"$@\"";
    let device = Device::new(1, b"{}", "info");
    for script in [named, left_open, as_input] {
        for socket in [
            OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()),
            OwnedFd::from(std::net::UdpSocket::bind("[::1]:0").unwrap()),
        ] {
            let engine = device.command("engine");
            let program: Vec<_> = engine.get_args().skip(3).collect();
            let mut command = Command::new("timeout");
            command.args(["10", "sh", "-c", script, "sh"]).args(program);
            let output = command.stdin(Stdio::from(socket)).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{script}: {said}");
            assert!(said.contains("takes Unix sockets only"), "{script}: {said}");
            assert!(!device.path("api.sock").exists(), "it listens nowhere");
        }
    }
}
