//! The session against a real Mosquitto that is down, killed, or does what hurts.

use crate::mosquitto::{Mosquitto, Proxy, RawClient, password_file};
use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use selvedge::config::Broker;
use selvedge::mqtt::{self, Backoff, Dates, Event, Handle, MAX_PACKET, Message, Options, PublishError, Sent, Will};
use selvedge::privacy::Kind;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};

/// The real one, a tenth as long and with a low top.
pub const QUICK: Backoff = Backoff {
    min: Duration::from_millis(100),
    first: Duration::from_millis(200),
    max: Duration::from_secs(1),
    stable_after: Duration::from_secs(18),
};

const LONG: Duration = Duration::from_secs(10);

fn options(port: u16, id: &str) -> Options {
    Options {
        broker: Broker {
            host: "127.0.0.1".into(),
            port,
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(60),
            tls: None,
        },
        client_id: id.into(),
        will: None,
        backoff: QUICK,
        dates: Dates::of_operator(),
    }
}

fn start(options: Options) -> (Handle, Receiver<Event>) {
    mqtt::start(options, Box::new(|_| {})).unwrap()
}

pub async fn connected(events: &mut Receiver<Event>) {
    let wait = async { while events.recv().await.expect("the session goes on") != Event::Connected {} };
    timeout(LONG, wait).await.expect("connected in time");
}

pub async fn message(events: &mut Receiver<Event>) -> Message {
    let wait = async {
        loop {
            match events.recv().await.expect("the session goes on") {
                Event::Message(message) => return message,
                Event::Connected | Event::Disconnected { .. } => {}
            }
        }
    };
    timeout(LONG, wait).await.expect("a message in time")
}

pub async fn lost(events: &mut Receiver<Event>) -> String {
    let wait = async {
        loop {
            match events.recv().await.expect("the session goes on") {
                Event::Disconnected { reason, .. } => return reason,
                Event::Connected | Event::Message(_) => {}
            }
        }
    };
    timeout(LONG, wait).await.expect("lost in time")
}

/// The most attempts that `QUICK` allows in this time, whatever the chance.
pub fn most_attempts(time: Duration) -> u64 {
    (time.as_millis() / QUICK.min.as_millis()) as u64 + 2
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_is_tried_seldom_and_found_when_it_is_back() {
    let mut broker = Mosquitto::stopped("allow_anonymous true");
    let (handle, mut events) = start(options(broker.port(), "down"));
    let begun = Instant::now();
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.publish("t/late", "kept", true, Kind::Status).await }
    });
    assert!(lost(&mut events).await.contains("cannot reach 127.0.0.1"));
    sleep(Duration::from_secs(3)).await;
    let attempts = handle.attempts();
    assert!((3..=most_attempts(begun.elapsed())).contains(&attempts), "{attempts} attempts");
    broker.run();
    connected(&mut events).await;
    waiting.await.unwrap().expect("what waited for the broker is published");
    handle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_a_close_is_quick_and_who_waits_is_told() {
    let broker = Mosquitto::stopped("");
    let (handle, mut events) = start(options(broker.port(), "offline"));
    lost(&mut events).await;
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.publish("t/a", "x", false, Kind::Status).await }
    });
    sleep(Duration::from_millis(50)).await;
    timeout(Duration::from_secs(1), handle.close()).await.expect("no waiting for a broker");
    assert_eq!(waiting.await.unwrap(), Err(PublishError::Closed));
    assert_eq!(events.recv().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_that_leaves_is_reported() {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port()).await;
    let reported = Arc::new(Mutex::new(Vec::<Sent>::new()));
    let sink = reported.clone();
    let mut options = options(proxy.port, "counted");
    options.broker.username = Some("someone".into());
    options.broker.keep_alive = Duration::from_secs(1);
    options.will = Some(Will { topic: "t/online".into(), bytes: Bytes::from_static(b"gone") });
    let (handle, mut events) = mqtt::start(options, Box::new(move |sent| sink.lock().unwrap().push(sent))).unwrap();
    handle.subscribe("t/#").await;
    connected(&mut events).await;
    for size in [0, 1, 100, 127, 128, 16_384, 300_000, 1 << 20] {
        handle.publish("t/a", vec![7; size], size == 1, Kind::Status).await.unwrap();
        assert_eq!(message(&mut events).await.bytes.len(), size);
    }
    handle.unsubscribe("t/#").await;
    sleep(Duration::from_millis(1200)).await;
    handle.close().await;
    sleep(Duration::from_millis(200)).await;

    let reported = reported.lock().unwrap();
    let sum: u64 = reported.iter().map(|sent| sent.bytes).sum();
    assert_eq!(sum, proxy.to_broker());
    let kinds: BTreeSet<Kind> = reported.iter().map(|sent| sent.kind).collect();
    let all = [Kind::Connect, Kind::Status, Kind::Subscribe, Kind::Unsubscribe, Kind::Protocol, Kind::Disconnect];
    assert_eq!(kinds, all.into());
    assert!(reported.iter().filter(|s| s.kind == Kind::Status).all(|s| s.topic == "t/a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_packet_that_waits_makes_no_storm_and_others_still_come() {
    let broker = Mosquitto::start();
    let port = broker.port();
    let big = vec![7; 2 * MAX_PACKET as usize];
    // One lies in the session of our id, one is retained.
    drop({
        let mut before = RawClient::connect(port, "victim", true);
        before.subscribe("t/#");
        before
    });
    let mut operator = RawClient::connect(port, "operator", false);
    operator.publish("t/big", big.clone(), false);
    operator.publish("t/big", big, true);
    operator.publish("t/small", b"small".to_vec(), true);

    let proxy = Proxy::start(port).await;
    let (handle, mut events) = start(options(proxy.port, "victim"));
    handle.subscribe("t/#").await;
    assert_eq!(message(&mut events).await.topic, "t/small");
    sleep(Duration::from_millis(500)).await;
    operator.publish("t/next", b"next".to_vec(), false);
    assert_eq!(message(&mut events).await.topic, "t/next");
    assert_eq!((proxy.connections(), handle.attempts()), (1, 1));

    let refused = handle.publish("t/x", vec![0; MAX_PACKET as usize], false, Kind::Status).await;
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })));
    handle.close().await;
}

/// A broker that knows no limits: after each SUBSCRIBE it sends a packet over ours, one twice, and
/// one more. Writes down what was acknowledged.
async fn limitless_broker(listener: tokio::net::TcpListener, acknowledged: Arc<Mutex<Vec<u16>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut bytes = BytesMut::new();
        while let Ok(1..) = stream.read_buf(&mut bytes).await {
            while let Ok(packet) = Packet::read(&mut bytes, None) {
                let mut answer = BytesMut::new();
                if let Packet::Connect(..) = packet {
                    answer.extend_from_slice(&[0x20, 3, 0, 0, 0]);
                } else if let Packet::Subscribe(_) = packet {
                    for (pkid, size, dup) in [(1, 3 << 20, false), (2, 5, false), (2, 5, true), (3, 6, false)] {
                        let publish = Publish::new("t/a", QoS::AtLeastOnce, vec![0; size], None);
                        let packet = Packet::Publish(Publish { pkid, dup, ..publish });
                        packet.write(&mut answer, None).unwrap();
                    }
                } else if let Packet::PubAck(ack) = packet {
                    acknowledged.lock().unwrap().push(ack.pkid);
                }
                stream.write_all(&answer).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ignores_our_limit_cannot_make_us_hang_up_and_duplicates_are_harmless() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(limitless_broker(listener, acknowledged.clone()));
    let (handle, mut events) = start(options(port, "limits"));
    handle.subscribe("t/a").await;
    for size in [5, 5, 6] {
        assert_eq!(message(&mut events).await.bytes.len(), size);
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(*acknowledged.lock().unwrap(), [1, 2, 2, 3]);
    assert_eq!(handle.attempts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_killed_broker_subscriptions_and_retained_messages_are_back() {
    let mut broker = Mosquitto::start();
    let (handle, mut events) = start(options(broker.port(), "survivor"));
    handle.subscribe("t/#").await;
    connected(&mut events).await;
    handle.publish("t/kept", "1", true, Kind::Status).await.unwrap();
    assert!(!message(&mut events).await.retained);
    broker.save();
    broker.kill();
    lost(&mut events).await;
    broker.run();
    connected(&mut events).await;
    let back = message(&mut events).await;
    assert_eq!((back.topic.as_str(), back.retained), ("t/kept", true));
    handle.publish("t/new", "2", false, Kind::Status).await.unwrap();
    assert_eq!(message(&mut events).await.topic, "t/new");

    // Asking again for what is wanted makes the retained message come again.
    handle.subscribe("t/#").await;
    assert!(message(&mut events).await.retained);
    handle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_a_dying_broker_swallows_fails_and_does_not_hang() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let _connect = stream.read(&mut buffer).await.unwrap();
        stream.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
        let _publish = stream.read(&mut buffer).await.unwrap();
    });
    let (handle, _events) = start(options(port, "swallowed"));
    let result = timeout(LONG, handle.publish("t/a", "x", false, Kind::Status)).await.unwrap();
    assert!(matches!(result, Err(PublishError::Interrupted { .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_of_one_id_do_not_kick_each_other_in_a_storm() {
    let broker = Mosquitto::start();
    let port = broker.port();
    let (handle, mut events) = start(options(port, "twin"));
    connected(&mut events).await;
    let begun = Instant::now();
    let kicker = tokio::task::spawn_blocking(move || {
        while begun.elapsed() < Duration::from_secs(3) {
            let _kicks = RawClient::connect(port, "twin", false);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let reason = lost(&mut events).await;
    // Mosquitto 2.0.11 closes without the reason that MQTT 5 has for it.
    assert!(reason.contains("another client uses the same client id"), "{reason}");
    kicker.await.unwrap();
    let attempts = handle.attempts();
    // Each connect works, each is kicked: only the wait between them holds it down. With waits
    // that reset at each connect there would be some 20 of them.
    assert!((2..=14).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_and_a_corrected_file_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let users = password_file(dir.path(), "board", "right");
    let broker = Mosquitto::start_with(&format!("allow_anonymous false\npassword_file {}", users.display()));
    let file = dir.path().join("secret");
    let mut options = options(broker.port(), "board");
    options.broker.username = Some("board".into());
    options.broker.password_file = Some(file.clone());
    let (handle, mut events) = start(options);
    assert!(lost(&mut events).await.contains("secret is not there: put the password into it"));

    std::fs::write(&file, "wrong-7351\n").unwrap();
    let begun = (Instant::now(), handle.attempts());
    let reason = loop {
        let reason = lost(&mut events).await;
        if !reason.contains("not there") {
            break reason;
        }
    };
    assert!(reason.contains("check `username` and `password-file`"), "{reason}");
    assert!(!reason.contains("7351"));
    sleep(Duration::from_secs(1)).await;
    assert!(handle.attempts() - begun.1 <= most_attempts(begun.0.elapsed()));

    std::fs::write(&file, "right\n").unwrap();
    connected(&mut events).await;
    handle.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_no_events_can_still_publish_and_subscribe() {
    let broker = Mosquitto::start_with("allow_anonymous true\nmax_queued_messages 0");
    let (handle, mut events) = start(options(broker.port(), "slow"));
    handle.subscribe("t/#").await;
    connected(&mut events).await;
    for i in 0..500_u32 {
        let publish = handle.publish("t/a", i.to_string(), false, Kind::Status);
        let Ok(result) = timeout(Duration::from_millis(500), publish).await else { break };
        result.unwrap();
        timeout(LONG, handle.subscribe(format!("u/{i}"))).await.unwrap();
    }
    let mut last = None;
    while let Ok(Some(Event::Message(message))) = timeout(Duration::from_millis(700), events.recv()).await {
        let number: u32 = std::str::from_utf8(&message.bytes).unwrap().parse().unwrap();
        assert_eq!(number, last.map_or(0, |n| n + 1), "in order, none lost");
        last = Some(number);
    }
    assert!(last >= Some(64));
    handle.publish("t/b", "end", false, Kind::Status).await.unwrap();
    assert_eq!(message(&mut events).await.topic, "t/b");
    assert_eq!(handle.attempts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_sends_what_was_queued_and_ends_all_handles() {
    let broker = Mosquitto::start();
    let (watcher, mut seen) = start(options(broker.port(), "watcher"));
    watcher.subscribe("t/#").await;
    connected(&mut seen).await;
    let mut options = options(broker.port(), "closing");
    options.will = Some(Will { topic: "t/will".into(), bytes: Bytes::from_static(b"died") });
    let (handle, mut events) = start(options);
    connected(&mut events).await;
    let queued: Vec<_> = (0..40)
        .map(|i| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.publish(format!("t/{i}"), "x", false, Kind::Status).await })
        })
        .collect();
    sleep(Duration::from_millis(20)).await;
    let other = handle.clone();
    handle.close().await;
    for publish in queued {
        publish.await.unwrap().unwrap();
    }
    assert_eq!(other.publish("t/late", "x", false, Kind::Status).await, Err(PublishError::Closed));
    watcher.publish("t/end", "x", false, Kind::Status).await.unwrap();
    let mut topics = BTreeSet::new();
    while topics.last().map(String::as_str) != Some("t/end") {
        topics.insert(message(&mut seen).await.topic);
    }
    assert_eq!(topics.len(), 41, "all that was queued and no last will: {topics:?}");
}
