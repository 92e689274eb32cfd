//! Mosquitto, and what it says of itself.

use selvedge::config;
use selvedge::mqtt::{self, Backoff, Dates, Event};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

pub struct Broker {
    port: u16,
    config: PathBuf,
    process: Option<Child>,
}

fn program() -> PathBuf {
    let places = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("Mosquitto is not installed; run: apt-get install mosquitto")
}

impl Broker {
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("mosquitto.conf");
        // As config/mosquitto/selvedge.conf has it, without its users.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
             autosave_interval 5\nmax_packet_size 2200000\nsys_interval 1\nlog_dest none\n",
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut broker = Self { port, config, process: None };
        broker.run();
        broker
    }

    pub fn run(&mut self) {
        let mut command = Command::new(program());
        command.arg("-c").arg(&self.config).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn version(&self) -> String {
        let output = Command::new(program()).arg("-h").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or("?").to_owned()
    }

    /// The most that was resident since its start, KiB.
    pub fn peak_memory(&self) -> u64 {
        let id = self.process.as_ref().expect("it runs").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Counts what it sends from now on.
    pub fn rate(&self) -> Rate {
        Rate::start(self.port)
    }

    /// Bytes that it has sent since its start.
    pub async fn sent(&self) -> u64 {
        let (handle, mut events) = mqtt::start(options(self.port, "bench-sys"), Box::new(|_| {})).unwrap();
        handle.subscribe(SENT).await;
        let said = timeout(Duration::from_secs(30), async {
            loop {
                if let Some(Event::Message(message)) = events.recv().await
                    && !message.retained
                {
                    break count(&message.bytes);
                }
            }
        });
        let sent = said.await.expect("Mosquitto counts what it sends");
        handle.close().await;
        sent
    }

    /// Until it sends next to nothing more.
    pub async fn settle(&self) {
        let mut before = self.sent().await;
        loop {
            sleep(Duration::from_secs(2)).await;
            let now = self.sent().await;
            if now - before < 20_000 {
                return;
            }
            before = now;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the broker sends, second by second, as it says itself.
pub struct Rate {
    counting: tokio::task::JoinHandle<()>,
    most: Arc<AtomicU64>,
}

impl Rate {
    fn start(port: u16) -> Self {
        let most = Arc::<AtomicU64>::default();
        let peak = most.clone();
        let counting = tokio::spawn(async move {
            let (handle, mut events) = mqtt::start(options(port, "bench-rate"), Box::new(|_| {})).unwrap();
            handle.subscribe(SENT).await;
            let mut before = None;
            while let Some(event) = events.recv().await {
                let Event::Message(message) = event else { continue };
                let (now, bytes) = (Instant::now(), count(&message.bytes));
                if let Some((then, had)) = before.replace((now, bytes)) {
                    let seconds = now.duration_since(then).as_secs_f64().max(0.5);
                    peak.fetch_max((bytes.saturating_sub(had) as f64 / seconds) as u64, Ordering::Relaxed);
                }
            }
        });
        Self { counting, most }
    }

    /// The most bytes of a second so far.
    pub fn stop(self) -> u64 {
        self.counting.abort();
        self.most.load(Ordering::Relaxed)
    }
}

const SENT: &str = "$SYS/broker/bytes/sent";

fn count(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

fn options(port: u16, id: &str) -> mqtt::Options {
    mqtt::Options {
        broker: address(port),
        client_id: id.into(),
        will: None,
        backoff: Backoff::default(),
        dates: Dates::of_operator(),
    }
}

pub fn address(port: u16) -> config::Broker {
    config::Broker {
        host: "127.0.0.1".into(),
        port,
        username: None,
        password_file: None,
        keep_alive: Duration::from_secs(60),
        tls: None,
    }
}
