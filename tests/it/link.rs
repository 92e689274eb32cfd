//! The link between a real Mosquitto and an engine that the test plays.

use crate::mosquitto::{Mosquitto, Proxy, RawClient};
use crate::mqtt::{QUICK, connected, message};
use selvedge::bundle::{ChunkRef, Digest, Index, ModelName, Node, topics};
use selvedge::config::{self, Broker, DeviceId};
use selvedge::ipc::{Fetch, MAX_WINDOW, PROTOCOL, Role, ToEngine, ToLink, read_frame, write_frame};
use selvedge::link::{self, LinkError};
use selvedge::mqtt;
use selvedge::privacy::{Kind, Ledger, Status, Tell, totals};
use selvedge::sys::RealDisk;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(15);
const DEVICE: DeviceId = DeviceId([7; 16]);

/// A link under test, with its engine's end of the socket.
struct Rig {
    dir: tempfile::TempDir,
    listener: UnixListener,
    stop: oneshot::Sender<()>,
    link: JoinHandle<Result<(), LinkError>>,
}

impl Rig {
    fn start(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine_socket = dir.path().join("link.sock");
        let listener = UnixListener::bind(&engine_socket).unwrap();
        let broker = Broker {
            host: "127.0.0.1".into(),
            port,
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(60),
            tls: None,
        };
        let options = link::Options {
            config: config::Link { broker, state: dir.path().join("state"), ledger_limit: 4 << 20 },
            device: DEVICE,
            engine_socket,
            disk: Arc::new(RealDisk),
            backoff: QUICK,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let link = tokio::spawn(link::run(options, async { drop(stopped.await) }));
        Self { dir, listener, stop, link }
    }

    async fn engine(&self) -> Engine {
        let (stream, _) = timeout(LONG, self.listener.accept()).await.unwrap().unwrap();
        let mut engine = Engine(stream);
        engine.say(ToLink::Hello { protocol: PROTOCOL, root: 1 }).await;
        assert_eq!(engine.hear().await, ToEngine::Hello { protocol: PROTOCOL });
        engine
    }

    async fn stop(self) -> PathBuf {
        self.stop.send(()).unwrap();
        timeout(LONG, self.link).await.unwrap().unwrap().unwrap();
        let ledger = self.dir.path().join("state/egress.jsonl");
        let kept = std::env::temp_dir().join(format!("selvedge-ledger-{}", std::process::id()));
        std::fs::copy(ledger, &kept).unwrap();
        kept
    }
}

struct Engine(UnixStream);

impl Engine {
    async fn say(&mut self, message: ToLink) {
        write_frame(&mut self.0, &message).await.unwrap();
    }

    async fn hear(&mut self) -> ToEngine {
        timeout(LONG, read_frame(&mut self.0)).await.expect("a word from the link in time").unwrap()
    }

    /// The next metadata of a role; other news is passed over.
    async fn metadata(&mut self, wanted: Role) -> Vec<u8> {
        loop {
            match self.hear().await {
                ToEngine::Metadata { role, bytes, .. } if role == wanted => return bytes,
                ToEngine::Metadata { .. } | ToEngine::Connected(_) => {}
                other @ (ToEngine::Hello { .. }
                | ToEngine::Node { .. }
                | ToEngine::Chunk { .. }
                | ToEngine::Delegated { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
    }
}

/// Bytes that do not compress and differ by `seed`.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let blocks = (0..).flat_map(|i: u64| *Digest::of(&[seed.to_le_bytes(), i.to_le_bytes()].concat()).as_bytes());
    blocks.take(len).collect()
}

/// Puts a model of `count` chunks on the board, with what leads to it; returns the chunks' digests.
fn publish_model(port: u16, count: u64) -> (Vec<u8>, Vec<Digest>) {
    let raw: Vec<Vec<u8>> = (0..count).map(|i| noise(i, 80_000)).collect();
    let wire: Vec<Vec<u8>> = raw.iter().map(|r| zstd::bulk::compress(r, 1).unwrap()).collect();
    let chunk = |(raw, wire): (&Vec<u8>, &Vec<u8>)| ChunkRef {
        sha256: Digest::of(wire),
        wire: wire.len() as u32,
        raw: raw.len() as u32,
    };
    let chunks: Vec<ChunkRef> = raw.iter().zip(&wire).map(chunk).collect();
    let digests = chunks.iter().map(|c| c.sha256).collect();
    let node = Node::Index(Index::new(ModelName::new("m").unwrap(), 1, &raw.concat(), chunks)).to_bytes();
    let mut operator = RawClient::connect(port, "operator", false);
    for bytes in wire.into_iter().chain([node.clone()]) {
        operator.publish(&topics::chunk(&Digest::of(&bytes)), bytes, true);
    }
    let sha256 = Digest::of(&node);
    let targets = serde_json::json!({ "a.json": { "hashes": {} }, "m.json": { "hashes": { "sha256": sha256 } } });
    let files = [
        ("2.root.json", serde_json::json!({ "signed": {} })),
        ("3.targets.json", serde_json::json!({ "signed": { "targets": targets } })),
        ("4.snapshot.json", serde_json::json!({ "signed": { "meta": { "targets.json": { "version": 3 } } } })),
        (
            "timestamp.json",
            serde_json::json!({ "signed": { "version": 5, "meta": { "snapshot.json": { "version": 4 } } } }),
        ),
    ];
    for (file, json) in files {
        operator.publish(&topics::tuf(file), json.to_string().into_bytes(), true);
    }
    (node, digests)
}

/// Fetches as an engine does: a window of what lacks, moved on at each chunk. Before the chunk
/// that makes `pause_at` it calls `pause`.
async fn fetch(engine: &mut Engine, digests: &[Digest], pause_at: usize, mut pause: impl FnMut()) {
    let mut lacks: BTreeSet<u32> = (0..digests.len() as u32).collect();
    let ask = |lacks: &BTreeSet<u32>| {
        ToLink::Fetch(match lacks.is_empty() {
            true => Fetch::Nothing,
            false => Fetch::Chunks { ordinals: lacks.iter().copied().take(MAX_WINDOW).collect() },
        })
    };
    engine.say(ask(&lacks)).await;
    while !lacks.is_empty() {
        match engine.hear().await {
            ToEngine::Chunk { ordinal, bytes } => {
                assert_eq!(Digest::of(&bytes), digests[ordinal as usize]);
                if !lacks.remove(&ordinal) {
                    continue; // Asked for again while it was on its way.
                }
                if lacks.len() == pause_at {
                    pause();
                }
                engine.say(ask(&lacks)).await;
            }
            ToEngine::Connected(_) | ToEngine::Metadata { .. } | ToEngine::Delegated { .. } => {}
            other @ (ToEngine::Hello { .. } | ToEngine::Node { .. }) => panic!("{other:?}"),
        }
    }
}

async fn open_target(engine: &mut Engine, node: &[u8]) {
    engine.metadata(Role::Targets).await;
    engine.say(ToLink::Fetch(Fetch::Target { ordinal: 1 })).await;
    loop {
        match engine.hear().await {
            ToEngine::Node { bytes } => return assert_eq!(bytes, node),
            ToEngine::Connected(_) | ToEngine::Metadata { .. } | ToEngine::Delegated { .. } => {}
            other @ (ToEngine::Hello { .. } | ToEngine::Chunk { .. }) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_of_sixty_chunks_ends_though_the_broker_is_killed_twice_on_the_way() {
    let mut broker = Mosquitto::start();
    let (node, digests) = publish_model(broker.port(), 60);
    broker.save();
    let rig = Rig::start(broker.port());
    let mut engine = rig.engine().await;
    open_target(&mut engine, &node).await;
    fetch(&mut engine, &digests[..40], 20, || {
        broker.kill();
        broker.run();
    })
    .await;
    broker.kill();
    let restart = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        broker.run();
        broker
    });
    fetch(&mut engine, &digests, 30, || {}).await;
    drop(restart.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_comes_back_gets_the_board_again() {
    let broker = Mosquitto::start();
    let (node, digests) = publish_model(broker.port(), 5);
    let rig = Rig::start(broker.port());
    for _ in 0..3 {
        let mut engine = rig.engine().await;
        assert!(engine.metadata(Role::Timestamp).await.len() > 10);
        open_target(&mut engine, &node).await;
        fetch(&mut engine, &digests, 0, || {}).await;
    }
}

fn status(sequence: u64) -> ToLink {
    ToLink::Tell(Tell::Status(Box::new(Status { sequence, ..Status::default() })))
}

fn observer(port: u16) -> mqtt::Options {
    mqtt::Options {
        broker: Broker {
            host: "127.0.0.1".into(),
            port,
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(60),
            tls: None,
        },
        client_id: "observer".into(),
        will: None,
        backoff: QUICK,
        dates: mqtt::Dates::of_operator(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_holds_every_byte_and_a_flood_of_statuses_is_one_a_second() {
    let broker = Mosquitto::start();
    let (node, digests) = publish_model(broker.port(), 10);
    let (observer, mut seen) = mqtt::start(observer(broker.port()), Box::new(|_| {})).unwrap();
    observer.subscribe("selvedge/v1/dev/#").await;
    connected(&mut seen).await;
    let proxy = Proxy::start(broker.port()).await;
    let rig = Rig::start(proxy.port);
    let mut engine = rig.engine().await;
    open_target(&mut engine, &node).await;
    fetch(&mut engine, &digests, 0, || {}).await;
    let online = message(&mut seen).await;
    assert_eq!(online.topic, topics::device_online(DEVICE));
    assert!(online.bytes.starts_with(b"{\"online\":true,\"boot\":\""));

    let begun = Instant::now();
    for sequence in 0..500 {
        engine.say(status(sequence)).await;
    }
    let mut told = 0;
    while told < 499 {
        let message = message(&mut seen).await;
        assert_eq!(message.topic, topics::device_status(DEVICE));
        let json: serde_json::Value = serde_json::from_slice(&message.bytes).unwrap();
        told = json["sequence"].as_u64().unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "the last one had to wait its second");

    let ledger = rig.stop().await;
    let farewell = message(&mut seen).await;
    assert!(farewell.bytes.starts_with(b"{\"online\":false,"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let entries = Ledger::read(&RealDisk, Path::new(&ledger)).unwrap();
    assert_eq!(entries.iter().map(|e| e.bytes).sum::<u64>(), proxy.to_broker());
    let totals = totals(&entries);
    assert_eq!(totals[&Kind::Online].0, 2);
    assert!(totals[&Kind::Status].0 <= 3, "{totals:?}");
    // Four metadata files, a node, ten chunks: each asked for once though requests cross answers.
    // The first two share a packet when the engine was there before the broker.
    assert!((14..=15).contains(&totals[&Kind::Subscribe].0), "{totals:?}");
    std::fs::remove_file(ledger).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_told_after_the_broker_is_back_and_a_dead_link_is_seen_as_offline() {
    let mut broker = Mosquitto::start();
    let (observer, mut seen) = mqtt::start(observer(broker.port()), Box::new(|_| {})).unwrap();
    observer.subscribe("selvedge/v1/dev/#").await;
    connected(&mut seen).await;
    let rig = Rig::start(broker.port());
    let mut engine = rig.engine().await;
    engine.say(status(1)).await;
    while message(&mut seen).await.topic != topics::device_status(DEVICE) {}
    broker.kill();
    while engine.hear().await != ToEngine::Connected(false) {}
    engine.say(status(2)).await;
    engine.say(status(3)).await;
    broker.run();
    let last = loop {
        let message = message(&mut seen).await;
        if message.topic == topics::device_status(DEVICE) {
            break message;
        }
    };
    assert!(last.bytes.starts_with(b"{\"sequence\":3,"), "only the newest");
    rig.link.abort();
    loop {
        let message = message(&mut seen).await;
        if message.bytes.starts_with(b"{\"online\":false,") {
            break;
        }
    }
}
