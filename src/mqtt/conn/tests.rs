use super::*;
use crate::config::Broker;
use crate::mqtt::{Backoff, Will};
use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::PingResp;
use tokio::sync::oneshot;

type Answer = oneshot::Receiver<Result<(), PublishError>>;

fn conn(now: Instant) -> Conn {
    greeting(now).0
}

fn greeting(now: Instant) -> (Conn, Vec<Packet>) {
    let broker = Broker {
        host: "h".into(),
        port: 1,
        username: Some("user".into()),
        password_file: None,
        keep_alive: Duration::from_secs(60),
        tls: None,
    };
    let options = Options {
        broker,
        client_id: "id".into(),
        will: Some(Will { topic: "t/online".into(), bytes: Bytes::from_static(b"off") }),
        backoff: Backoff::default(),
        dates: crate::mqtt::Dates::of_operator(),
    };
    let mut conn = Conn::open(&options, Some("secret".into()), now).unwrap();
    let greeting = flush(&mut conn, now);
    (conn, greeting)
}

/// What the connection has to send, as packets; and it is sent.
fn flush(conn: &mut Conn, now: Instant) -> Vec<Packet> {
    let mut bytes = BytesMut::from(conn.outbox.bytes());
    let mut none: OnSent = Box::new(|_| {});
    conn.wrote(bytes.len(), now, &mut none);
    std::iter::from_fn(|| Packet::read(&mut bytes, None).ok()).collect()
}

fn publish(conn: &mut Conn, size: usize, now: Instant) -> Answer {
    let (done, answer) = oneshot::channel();
    let publish =
        Publish { topic: "t/status".into(), bytes: vec![0; size].into(), retain: true, kind: Kind::Status, done };
    conn.publish(publish, now);
    answer
}

/// An acceptance as a broker writes it, with one property: its number and its value.
fn ack(property: &[u8]) -> ConnAck {
    let head = [0x20, 3 + property.len() as u8, 0, 0, property.len() as u8];
    let mut bytes = BytesMut::from(&[&head, property].concat()[..]);
    let packet = Packet::read(&mut bytes, None).unwrap();
    let Packet::ConnAck(ack) = packet else { panic!("{packet:?}") };
    ack
}

#[test]
fn the_greeting_states_our_limit_and_keeps_nothing_on_the_broker() {
    let now = Instant::now();
    let (mut fresh, greeting) = greeting(now);
    let [Packet::Connect(connect, Some(will), Some(login))] = &greeting[..] else { panic!("{greeting:?}") };
    let properties = connect.properties.as_ref().unwrap();
    assert_eq!((properties.max_packet_size, properties.session_expiry_interval), (Some(MAX_PACKET), Some(0)));
    assert!(connect.clean_start && connect.keep_alive == 60 && will.retain);
    assert_eq!((login.username.as_str(), login.password.as_str()), ("user", "secret"));
    assert!(!format!("{fresh:?}").contains("secret"));
    fresh.accepted(&ack(&[19, 0, 7])).unwrap();
    assert_eq!(fresh.keep_alive, Duration::from_secs(7));
    assert!(fresh.accepted(&ack(&[37, 0])).is_err());
    assert!(fresh.accepted(&ack(&[36, 0])).is_err());
}

#[test]
fn a_publish_over_the_brokers_limit_is_refused_before_it_is_sent() {
    let now = Instant::now();
    let mut conn = conn(now);
    conn.accepted(&ack(&[39, 0, 0, 3, 232])).unwrap();
    let mut answer = publish(&mut conn, 1000, now);
    let error = answer.try_recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("the limit is 1000"), "{error}");
    assert!(flush(&mut conn, now).is_empty() && conn.is_idle());
}

#[test]
fn publishes_in_flight_stay_within_what_the_broker_takes() {
    let now = Instant::now();
    let mut conn = conn(now);
    conn.accepted(&ack(&[33, 0, 3])).unwrap();
    let mut answers = Vec::new();
    while conn.may_publish() {
        answers.push(publish(&mut conn, 1, now));
    }
    assert_eq!(answers.len(), 3);
    // Acknowledged out of order; and one that is unknown is passed over.
    for id in [3, 99, 1] {
        conn.handle(Packet::PubAck(PubAck::new(id, None))).unwrap();
    }
    let done: Vec<bool> = answers.iter_mut().map(|a| a.try_recv().is_ok()).collect();
    assert_eq!(done, [true, false, true]);
}

#[test]
fn an_id_in_use_is_never_given_out_again() {
    let now = Instant::now();
    let mut conn = conn(now);
    let _waits = publish(&mut conn, 1, now);
    let mut ids: Vec<u16> = (0..u32::from(u16::MAX)).map(|_| conn.next_id()).collect();
    assert!(!ids.contains(&1) && !ids.contains(&0));
    ids.dedup();
    assert_eq!(ids.len(), usize::from(u16::MAX));
}

#[test]
fn who_waits_when_the_session_is_lost_is_told() {
    let now = Instant::now();
    let mut conn = conn(now);
    let mut answer = publish(&mut conn, 1, now);
    let mut none: OnSent = Box::new(|_| {});
    conn.end(&mut none);
    assert!(matches!(answer.try_recv().unwrap(), Err(PublishError::Interrupted { .. })));
}

#[test]
fn a_caller_who_gave_up_is_not_published_for() {
    let now = Instant::now();
    let mut conn = conn(now);
    let (done, answer) = oneshot::channel();
    drop(answer);
    let publish = Publish { topic: "t".into(), bytes: Bytes::new(), retain: false, kind: Kind::Metrics, done };
    conn.publish(publish, now);
    assert!(flush(&mut conn, now).is_empty());
}

#[test]
fn a_quiet_broker_is_pinged_and_a_silent_one_given_up() {
    let start = Instant::now();
    let mut conn = conn(start);
    let due = conn.deadline();
    assert_eq!(due, start + Duration::from_secs(45));
    conn.tick(due, true).unwrap();
    assert_eq!(flush(&mut conn, due), [Packet::PingReq(PingReq)]);
    conn.tick(due + Duration::from_secs(59), true).unwrap();
    assert!(matches!(conn.tick(due + Duration::from_secs(60), true), Err(Lost::Silent(_))));

    conn.handle(Packet::PingResp(PingResp)).unwrap();
    conn.read(due);
    assert!(conn.tick(due + Duration::from_secs(44), true).is_ok());
}

#[test]
fn a_broker_that_never_acknowledges_is_given_up_though_it_answers_pings() {
    let start = Instant::now();
    let mut conn = conn(start);
    let _answer = publish(&mut conn, 1, start);
    let late = start + PATIENCE;
    conn.read(late);
    assert!(matches!(conn.tick(late, true), Err(Lost::Unacknowledged { .. })));
}

#[test]
fn our_own_slowness_is_not_held_against_the_broker() {
    let start = Instant::now();
    let mut conn = conn(start);
    let _answer = publish(&mut conn, 1, start);
    for minute in 1..100 {
        conn.tick(start + minute * PATIENCE, false).unwrap();
    }
    let pings = flush(&mut conn, start).iter().filter(|p| **p == Packet::PingReq(PingReq)).count();
    assert_eq!(pings, 1);
}

#[test]
fn packets_that_have_no_place_end_the_session() {
    let now = Instant::now();
    let bad = [
        Packet::PingReq(PingReq),
        Packet::ConnAck(ack(&[])),
        Packet::Publish(PublishPacket::new("t", QoS::ExactlyOnce, vec![], None)),
    ];
    for packet in bad {
        assert!(matches!(conn(now).handle(packet), Err(Lost::Unexpected(_))));
    }
    let topic = Bytes::from_static(b"\xff\xfe");
    let publish = PublishPacket { topic, ..PublishPacket::new("", QoS::AtMostOnce, vec![], None) };
    assert_eq!(conn(now).handle(Packet::Publish(publish)).unwrap(), None);
}
