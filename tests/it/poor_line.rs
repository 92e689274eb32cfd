//! Whole devices on a line that cuts, stalls, doubles, mixes up and shortens what a real Mosquitto sends. Needs mosquitto.

use crate::device::Device;
use crate::load::Load;
use crate::mosquitto::Mosquitto;
use crate::operate::{Operator, release};
use selvedge::privacy::{ModelState, Status};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Names in a bundle of some twenty chunks.
const LARGE: usize = 2_500_000;
/// The most bytes of a chunk.
const CHUNK: u64 = 96 * 1024;

/// What the line does to what comes from the broker.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ill {
    /// Ends each connection after so many bytes.
    Cuts(usize),
    /// Lets so many bytes of a connection through, then none, and leaves it open.
    Stalls(usize),
    /// Sends every message twice, the second marked so.
    Doubles,
    /// Gathers four messages and sends the last one first.
    MixesUp,
    /// Ends every third large message in its middle, and goes on with the next packet.
    Tears,
    /// Takes half of the payload from every third large message that comes for the first time, and makes its length fit.
    Shortens,
    Well,
}

#[derive(Debug, Default)]
struct Passed {
    connections: u64,
    /// Of each topic of chunks: payload bytes that went to the device, all times together, and once.
    chunks: BTreeMap<String, (u64, u64)>,
}

#[derive(Debug, Clone)]
struct Line {
    port: u16,
    ill: Arc<Mutex<Ill>>,
    passed: Arc<Mutex<Passed>>,
}

impl Line {
    async fn start(broker: u16, ill: Ill) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Self { port, ill: Arc::new(Mutex::new(ill)), passed: Arc::default() };
        let this = line.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                this.passed.lock().unwrap().connections += 1;
                if let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await {
                    tokio::spawn(this.clone().pass(client, broker));
                }
            }
        });
        line
    }

    fn heal(&self) {
        *self.ill.lock().unwrap() = Ill::Well;
    }

    fn connections(&self) -> u64 {
        self.passed.lock().unwrap().connections
    }

    /// Bytes of chunks that came more often than once.
    fn again(&self) -> u64 {
        self.passed.lock().unwrap().chunks.values().map(|(all, once)| all.saturating_sub(*once)).sum()
    }

    async fn pass(self, client: TcpStream, broker: TcpStream) {
        let (mut from_client, to_client) = client.into_split();
        let (from_broker, mut to_broker) = broker.into_split();
        let up = async { tokio::io::copy(&mut from_client, &mut to_broker).await.ok() };
        tokio::select! {
            _ = up => {}
            () = self.clone().down(from_broker, to_client) => {}
        }
    }

    async fn down(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (mut sent, mut number, mut held) = (0, 0_u64, Vec::new());
        // Read in a task of its own: a packet that is half read cannot be waited for with a limit.
        let (whole, mut packets) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(packet) = packet(&mut from).await
                && whole.send(packet).await.is_ok()
            {}
        });
        loop {
            let next = timeout(Duration::from_millis(100), packets.recv()).await;
            let ill = *self.ill.lock().unwrap();
            let packets: Vec<Vec<u8>> = match next {
                Ok(Some(packet)) if ill == Ill::MixesUp && kind(&packet) == PUBLISH && held.len() < 3 => {
                    held.push(packet);
                    continue;
                }
                Ok(Some(packet)) => {
                    number += u64::from(packet.len() > 10_000);
                    let is_new = message(&packet).is_some_and(|(topic, _)| self.is_new(topic));
                    let ill = if ill == Ill::Shortens && !is_new { Ill::Well } else { ill };
                    let last_first: Vec<_> = held.drain(..).rev().collect();
                    [made(ill, packet, number), last_first].concat()
                }
                Err(_) => held.drain(..).rev().collect(),
                Ok(None) => return,
            };
            for packet in packets {
                let room = match ill {
                    Ill::Cuts(after) | Ill::Stalls(after) => after.saturating_sub(sent).min(packet.len()),
                    Ill::Doubles | Ill::MixesUp | Ill::Tears | Ill::Shortens | Ill::Well => packet.len(),
                };
                self.note(&packet, room);
                if to.write_all(&packet[..room]).await.is_err() {
                    return;
                }
                sent += room;
                match ill {
                    Ill::Cuts(_) if room < packet.len() => return,
                    Ill::Stalls(_) if room < packet.len() => return sleep(Duration::from_secs(3600)).await,
                    Ill::Cuts(_)
                    | Ill::Stalls(_)
                    | Ill::Doubles
                    | Ill::MixesUp
                    | Ill::Tears
                    | Ill::Shortens
                    | Ill::Well => {}
                }
            }
        }
    }

    fn is_new(&self, topic: &str) -> bool {
        !self.passed.lock().unwrap().chunks.contains_key(topic.trim_start_matches(CHUNKS))
    }

    fn note(&self, packet: &[u8], passed: usize) {
        let Some((topic, payload)) = message(packet) else { return };
        let Some(digest) = topic.strip_prefix(CHUNKS) else { return };
        let (size, head) = (payload.len() as u64, packet.len() - payload.len());
        let mut all = self.passed.lock().unwrap();
        let counts = all.chunks.entry(digest.to_owned()).or_default();
        counts.0 += passed.saturating_sub(head) as u64;
        counts.1 = counts.1.max(size);
    }
}

const CHUNKS: &str = "selvedge/v1/chunk/";
const PUBLISH: u8 = 3;

fn kind(packet: &[u8]) -> u8 {
    packet[0] >> 4
}

/// A whole packet; nothing once the connection has ended.
async fn packet(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut bytes = vec![from.read_u8().await.ok()?];
    let mut length = 0;
    for i in 0..4 {
        let byte = from.read_u8().await.ok()?;
        bytes.push(byte);
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let head = bytes.len();
    bytes.resize(head + length, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some(bytes)
}

/// Of a PUBLISH of QoS 1: where its remaining length ends.
fn head(packet: &[u8]) -> usize {
    1 + packet[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1
}

/// Topic and payload of a PUBLISH.
fn message(packet: &[u8]) -> Option<(&str, &[u8])> {
    if kind(packet) != PUBLISH {
        return None;
    }
    let body = &packet[head(packet)..];
    let (length, body) = body.split_first_chunk::<2>()?;
    let (topic, body) = body.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let body = if packet[0] & 0b110 == 0 { body } else { body.get(2..)? };
    // Properties of fewer than 128 bytes, behind one byte that says how many.
    let properties = usize::from(*body.first()?);
    Some((std::str::from_utf8(topic).ok()?, body.get(1 + properties..)?))
}

/// What the line makes of one packet; `number` counts the large ones.
fn made(ill: Ill, packet: Vec<u8>, number: u64) -> Vec<Vec<u8>> {
    let is_chosen = packet.len() > 10_000 && number.is_multiple_of(3);
    match ill {
        Ill::Doubles if kind(&packet) == PUBLISH => {
            let mut second = packet.clone();
            second[0] |= 0b1000;
            vec![packet, second]
        }
        Ill::Tears if is_chosen => vec![packet[..packet.len() / 2].to_vec()],
        Ill::Shortens if is_chosen => {
            let payload = message(&packet).map_or(0, |(_, payload)| payload.len());
            let body = &packet[head(&packet)..packet.len() - payload / 2];
            let mut short = vec![packet[0]];
            let mut left = body.len();
            while left >= 128 {
                short.push((left & 0x7f) as u8 | 0x80);
                left >>= 7;
            }
            short.push(left as u8);
            short.extend(body);
            vec![short]
        }
        Ill::Doubles | Ill::Tears | Ill::Shortens | Ill::Cuts(_) | Ill::Stalls(_) | Ill::MixesUp | Ill::Well => {
            vec![packet]
        }
    }
}

fn is_live(version: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(version) && m.state == ModelState::Idle)
}

/// An update of some twenty chunks over that line, to its end; how long it took.
async fn updated_over(ill: Ill) -> (Line, Duration) {
    let broker = Mosquitto::start();
    let line = Line::start(broker.port(), ill).await;
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(line.port, &operator.root(), "info");
    device.configure("[link]\n", "[link]\nkeep-alive-seconds = 5\n");
    operator.publish(&release(2, LARGE, 20)).await;
    let begun = Instant::now();
    device.start().await;
    let load = device.load();
    device.wait("version 2", is_live(2)).await;
    assert_eq!(Load::versions(&load.stop()), [1, 2], "{ill:?}");
    let took = begun.elapsed();
    println!("{ill:?}: {took:.1?}, {} connections, {} bytes again", line.connections(), line.again());
    (line, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_after_every_chunk_or_two_ends_an_update_and_brings_little_twice() {
    let (line, _) = updated_over(Ill::Cuts(150_000)).await;
    let cuts = line.connections() - 1;
    assert!(cuts >= 10, "{cuts} cuts");
    // Less than a window: what is lost is the chunk that was on its way. (And the node, a few kilobytes, is fetched anew.)
    assert!(line.again() <= cuts * (CHUNK + 8192), "{} bytes again in {cuts} cuts", line.again());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_falls_silent_is_given_up_and_the_update_goes_on_over_the_next() {
    let (line, took) = updated_over(Ill::Stalls(800_000)).await;
    let stalls = line.connections() - 1;
    assert!((1..=6).contains(&stalls), "{stalls} stalls in {took:?}");
    assert!(line.again() <= stalls * (CHUNK + 8192), "{} bytes again in {stalls} stalls", line.again());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_come_twice_or_in_another_order_end_in_the_same_version() {
    let (line, _) = updated_over(Ill::Doubles).await;
    assert_eq!(line.connections(), 1);
    let (line, _) = updated_over(Ill::MixesUp).await;
    assert_eq!((line.connections(), line.again()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_and_shortened_messages_are_fetched_again_and_nothing_wrong_is_installed() {
    let (line, _) = updated_over(Ill::Tears).await;
    assert!(line.connections() > 3, "what follows a torn message is no MQTT: {} connections", line.connections());
    // In a session that goes on, what was short is asked for once more.
    let (line, took) = updated_over(Ill::Shortens).await;
    assert_eq!(line.connections(), 1);
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_never_lets_a_session_stand_is_tried_seldom_and_serves_when_it_heals() {
    let broker = Mosquitto::start();
    let line = Line::start(broker.port(), Ill::Cuts(60)).await;
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(line.port, &operator.root(), "info");
    operator.publish(&release(2, 0, 20)).await;
    device.start().await;
    let load = device.load();
    sleep(Duration::from_secs(20)).await;
    assert!((2..=20).contains(&line.connections()), "{} connections", line.connections());
    line.heal();
    device.wait("version 2", is_live(2)).await;
    assert_eq!(Load::versions(&load.stop()), [1, 2]);
}
