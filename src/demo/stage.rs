//! What the story plays on: a broker, a device of two processes, an operator, in one directory.

use super::broker;
use super::camera::{self, Files};
use super::client::Client;
use super::error::DemoError;
use crate::bundle::topics;
use crate::config::{self, Broker, DeviceId};
use crate::device::{Child, Role};
use crate::mqtt::{self, Backoff, Event, Handle};
use crate::privacy::{Entry, Kind, Ledger, Status};
use crate::publish::{InitOptions, Publication, Repository};
use crate::sys::{self, RealDisk};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// The group that the demo's device is in.
pub(super) const GROUP: &str = "demo";

#[derive(Debug)]
pub(super) struct Stage {
    pub dir: PathBuf,
    pub operator: Operator,
    engine: Child,
    link: Child,
}

/// Keys and metadata in a directory, and a session that posts and listens.
#[derive(Debug)]
pub(super) struct Operator {
    pub repository: Repository,
    handle: Handle,
    status: watch::Receiver<Option<Status>>,
}

impl Stage {
    /// Sets everything up below `dir` and waits until the device serves and the operator sees it.
    pub(super) async fn set(dir: &Path) -> Result<Self, DemoError> {
        let broker = broker::start().await.map_err(DemoError::Broker)?;
        let repository = Repository::init(&dir.join("operator"), &InitOptions::default())?;
        write(&dir.join("root.json"), &repository.root_json()?)?;
        write_model(&dir.join("factory/digits"), &camera::plain())?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| DemoError::Random)?;
        let device = DeviceId(id);
        let config = dir.join("selvedge.toml");
        write(&config, configuration(dir, broker, device).as_bytes())?;
        for state in ["engine", "link", "run"] {
            make(&dir.join(state))?;
        }
        let engine = Child::spawn(Role::Engine, &config, log(dir, "engine")?.into())?;
        let link = Child::spawn(Role::Link, &config, log(dir, "link")?.into())?;
        let operator = Operator::connect(broker, repository, device)?;
        let mut stage = Self { dir: dir.to_owned(), operator, engine, link };
        stage.wait_until_ready().await?;
        Ok(stage)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("run/api.sock")
    }

    /// What the link wrote down of each packet that left the device.
    pub(super) fn ledger(&self) -> Result<Vec<Entry>, DemoError> {
        Ok(Ledger::read(&RealDisk, &self.dir.join("link/egress.jsonl"))?)
    }

    /// Ends both processes in order: the link takes its leave of the broker first.
    pub(super) async fn strike(mut self) -> Result<Vec<Entry>, DemoError> {
        self.link.stop().await?;
        self.engine.stop().await?;
        let entries = self.ledger();
        self.operator.handle.close().await;
        entries
    }

    async fn wait_until_ready(&mut self) -> Result<(), DemoError> {
        let ready = async {
            loop {
                if let Ok(mut client) = Client::connect(&self.dir.join("run/api.sock")).await
                    && client.is_ready().await
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.operator.wait(|status| !status.models.is_empty()).await
        };
        let limit = Duration::from_secs(20);
        tokio::select! {
            ready = timeout(limit, ready) => ready.map_err(|_| DemoError::Late("the device does not come up"))?.map(drop),
            status = self.engine.wait() => Err(DemoError::Ended("engine", status?)),
            status = self.link.wait() => Err(DemoError::Ended("link", status?)),
        }
    }
}

impl Operator {
    fn connect(broker: SocketAddr, repository: Repository, device: DeviceId) -> Result<Self, DemoError> {
        let broker =
            Broker { host: broker.ip().to_string(), port: broker.port(), ..config::Config::default().link.broker };
        let options = mqtt::Options {
            broker,
            client_id: "demo-operator".into(),
            will: None,
            backoff: Backoff { min: Duration::from_millis(100), ..Backoff::default() },
            dates: mqtt::Dates::of_operator(),
        };
        let (handle, events) = mqtt::start(options, Box::new(|_| ()))?;
        let (to, status) = watch::channel(None);
        tokio::spawn(listen(handle.clone(), events, topics::device_status(device), to));
        Ok(Self { repository, handle, status })
    }

    /// Posts in order; each is acknowledged by the broker before the next.
    pub(super) async fn upload(&mut self, publication: &Publication) -> Result<(), DemoError> {
        for post in &publication.posts {
            self.handle.publish(&*post.topic, post.bytes.clone(), true, Kind::Protocol).await?;
        }
        Ok(())
    }

    /// Uploads what is the operator's own, and notes that the board has it.
    pub(super) async fn publish(&mut self, publication: &Publication) -> Result<(), DemoError> {
        self.upload(publication).await?;
        Ok(self.repository.confirm(publication)?)
    }

    /// The device's newest status.
    pub(super) fn status(&self) -> Option<Status> {
        self.status.borrow().clone()
    }

    /// Waits for a status of the device that satisfies.
    pub(super) async fn wait(&mut self, mut satisfies: impl FnMut(&Status) -> bool) -> Result<Status, DemoError> {
        let found = self.status.wait_for(|status| status.as_ref().is_some_and(&mut satisfies)).await;
        found.ok().and_then(|status| status.clone()).ok_or(DemoError::Late("the operator's session ended"))
    }
}

async fn listen(handle: Handle, mut events: mpsc::Receiver<Event>, topic: String, to: watch::Sender<Option<Status>>) {
    handle.subscribe(topic.clone()).await;
    while let Some(event) = events.recv().await {
        if let Event::Message(message) = event
            && message.topic == topic
            && let Ok(status) = serde_json::from_slice(&message.bytes)
        {
            to.send_replace(Some(status));
        }
    }
}

fn configuration(dir: &Path, broker: SocketAddr, device: DeviceId) -> String {
    let path = |name: &str| format!("{:?}", dir.join(name).to_string_lossy());
    format!(
        "[device]\nid = \"{device}\"\ngroups = [\"{GROUP}\"]\n\
         [engine]\nstate = {}\nsocket = {}\nlink-socket = {}\nroot = {}\nfactory = [{}]\ndeny-network = {}\n\
         [link]\nbroker = \"mqtt://{broker}\"\nstate = {}\n",
        path("engine"),
        path("run/api.sock"),
        path("run/link.sock"),
        path("root.json"),
        path("factory/digits"),
        // Where the system cannot, the story goes on and its verdict says so.
        sys::can_deny_network(),
        path("link"),
    )
}

fn write_model(dir: &Path, files: &Files) -> Result<(), DemoError> {
    make(dir)?;
    files.iter().try_for_each(|(name, contents)| write(&dir.join(name), contents))
}

fn make(dir: &Path) -> Result<(), DemoError> {
    fs::create_dir_all(dir).map_err(|source| DemoError::File { path: dir.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    fs::write(path, bytes).map_err(|source| DemoError::File { path: path.to_owned(), source })
}

fn log(dir: &Path, name: &str) -> Result<File, DemoError> {
    let path = dir.join(format!("{name}.log"));
    File::create(&path).map_err(|source| DemoError::File { path, source })
}
