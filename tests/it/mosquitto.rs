//! A real Mosquitto for one test, a proxy that counts what passes, and a client of few manners.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{Connect, ConnectProperties, Filter, Packet, Publish, Subscribe};
use rumqttc::v5::mqttbytes::{Error as CodecError, QoS};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MISSING: &str = "Mosquitto is not installed; run: apt-get update && apt-get install -y mosquitto";

/// A broker on a free port of 127.0.0.1 that keeps its state in a directory of its own.
#[derive(Debug)]
pub struct Mosquitto {
    port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl Mosquitto {
    pub fn start() -> Self {
        Self::start_with("allow_anonymous true")
    }

    /// With more lines in its configuration.
    pub fn start_with(lines: &str) -> Self {
        let mut broker = Self::stopped(lines);
        broker.run();
        broker
    }

    /// Not running yet; its port refuses connections.
    pub fn stopped(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "listener {port} 127.0.0.1\nuser root\npersistence true\npersistence_location {}/\nlog_dest none\n{lines}\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        Self { port, dir, process: None }
    }

    pub fn run(&mut self) {
        let mut command = Command::new(program("mosquitto"));
        command.arg("-c").arg(self.dir.path().join("mosquitto.conf"));
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect(MISSING));
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("Mosquitto does not listen on port {}", self.port);
    }

    /// Makes it write its state to disk, as it does every half hour by itself.
    pub fn save(&self) {
        let process = self.process.as_ref().unwrap();
        let id = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(id, rustix::process::Signal::USR1).unwrap();
        let db = self.dir.path().join("mosquitto.db");
        for _ in 0..300 {
            std::thread::sleep(Duration::from_millis(10));
            let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
            let before = size(&db);
            std::thread::sleep(Duration::from_millis(50));
            if before > 0 && size(&db) == before {
                return;
            }
        }
        panic!("Mosquitto did not save its state");
    }

    /// Makes it read passwords, access lists and certificates again.
    pub fn reload(&self) {
        let id = rustix::process::Pid::from_child(self.process.as_ref().unwrap());
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }

    /// As a power cut does it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// What it keeps on disk is gone, as after a power cut before it first saved.
    pub fn forget(&self) {
        assert!(self.process.is_none(), "kill it first");
        // It may not have saved yet.
        let _ = std::fs::remove_file(self.dir.path().join("mosquitto.db"));
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A file of users for `password_file`, with one user.
pub fn password_file(dir: &Path, user: &str, password: &str) -> PathBuf {
    let path = dir.join("passwords");
    let mut command = Command::new(program("mosquitto_passwd"));
    command.args(["-b", "-c"]).arg(&path).args([user, password]);
    assert!(command.status().expect(MISSING).success());
    path
}

fn program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{MISSING}"))
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Stands between a client and a broker, counts, and may write down all that passes, or slow it.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub port: u16,
    to_broker: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    /// For each connection and direction what passed.
    record: Option<Arc<Mutex<Vec<Vec<u8>>>>>,
    /// Bytes a second from the broker; zero for no limit.
    pace: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(broker: u16) -> Self {
        Self::with(broker, None).await
    }

    /// One that keeps every byte of both directions.
    pub async fn recording(broker: u16) -> Self {
        Self::with(broker, Some(Arc::default())).await
    }

    async fn with(broker: u16, record: Option<Arc<Mutex<Vec<Vec<u8>>>>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            to_broker: Arc::default(),
            connections: Arc::default(),
            record,
            pace: Arc::default(),
        };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                this.connections.fetch_add(1, Ordering::SeqCst);
                let broker = tokio::net::TcpStream::connect(("127.0.0.1", broker)).await;
                if let Ok(broker) = broker {
                    tokio::spawn(this.clone().pass(client, broker));
                }
            }
        });
        proxy
    }

    /// Bytes that clients sent.
    pub fn to_broker(&self) -> u64 {
        self.to_broker.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// From now on so many bytes a second come from the broker, as over a poor line.
    pub fn slow_down(&self, bytes_a_second: u64) {
        self.pace.store(bytes_a_second, Ordering::SeqCst);
    }

    /// What passed so far, a stream for each connection and direction.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        self.record.as_ref().expect("a recording proxy").lock().unwrap().clone()
    }

    fn stream(&self) -> Option<usize> {
        let mut streams = self.record.as_ref()?.lock().unwrap();
        streams.push(Vec::new());
        Some(streams.len() - 1)
    }

    fn note(&self, stream: Option<usize>, bytes: &[u8]) {
        if let (Some(record), Some(stream)) = (&self.record, stream) {
            record.lock().unwrap()[stream].extend_from_slice(bytes);
        }
    }

    async fn pass(self, client: tokio::net::TcpStream, broker: tokio::net::TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_broker, mut to_broker) = broker.into_split();
        let up = async {
            let (stream, mut buffer) = (self.stream(), vec![0; 65_536]);
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                self.to_broker.fetch_add(length as u64, Ordering::SeqCst);
                self.note(stream, &buffer[..length]);
                if to_broker.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
            to_broker.shutdown().await.ok();
        };
        let down = async {
            let (stream, mut buffer) = (self.stream(), vec![0; 16_384]);
            while let Ok(length @ 1..) = from_broker.read(&mut buffer).await {
                self.note(stream, &buffer[..length]);
                if to_client.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
                if let pace @ 1.. = self.pace.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_secs_f64(length as f64 / pace as f64)).await;
                }
            }
            to_client.shutdown().await.ok();
        };
        tokio::join!(up, down);
    }
}

/// A client that does what no session of ours would: it sends packets of any size, keeps its
/// session on the broker, takes other clients' ids. Blocking.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// What came and is no whole packet yet.
    buffer: BytesMut,
}

impl RawClient {
    pub fn connect(port: u16, id: &str, keep_session: bool) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Self { stream, buffer: BytesMut::new() };
        let connect = Connect {
            keep_alive: 60,
            client_id: id.to_owned(),
            clean_start: !keep_session,
            properties: Some(ConnectProperties {
                session_expiry_interval: Some(if keep_session { 3600 } else { 0 }),
                ..ConnectProperties::new()
            }),
        };
        client.send(&Packet::Connect(connect, None, None));
        assert!(matches!(client.receive(), Packet::ConnAck(_)));
        client
    }

    pub fn publish(&mut self, topic: &str, bytes: Vec<u8>, retain: bool) {
        let publish = Publish::new(topic, QoS::AtLeastOnce, bytes, None);
        self.send(&Packet::Publish(Publish { pkid: 1, retain, ..publish }));
        assert!(matches!(self.receive(), Packet::PubAck(_)));
    }

    pub fn subscribe(&mut self, filter: &str) {
        let subscribe = Subscribe::new(Filter::new(filter, QoS::AtLeastOnce), None);
        self.send(&Packet::Subscribe(Subscribe { pkid: 1, ..subscribe }));
        assert!(matches!(self.receive(), Packet::SubAck(_)));
    }

    pub fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn receive(&mut self) -> Packet {
        self.try_receive().unwrap()
    }

    /// An error once the connection has ended, or brings nothing for ten seconds.
    pub fn try_receive(&mut self) -> std::io::Result<Packet> {
        let mut some = [0; 65_536];
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return Ok(packet),
                Err(CodecError::InsufficientBytes(_)) => {}
                Err(error) => panic!("the broker does not speak MQTT: {error}"),
            }
            match self.stream.read(&mut some)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                length => self.buffer.extend_from_slice(&some[..length]),
            }
        }
    }

    /// The stream, so that another thread can end it.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }
}
