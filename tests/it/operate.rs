//! The operator's side of a device under test: keys, versions of the digits, and what the device tells.

use crate::device::{GROUP, ID};
use crate::load::model_of;
use crate::mqtt::QUICK;
use crate::serve::harness::models;
use selvedge::bundle::{Bundle, topics};
use selvedge::config::Broker;
use selvedge::mqtt::{self, Event};
use selvedge::privacy::Status;
use selvedge::publish::{Audience, InitOptions, Publication, PublishOptions, Repository, connect, upload};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use tokio::sync::watch;

/// A directory with keys and metadata, and what devices tell.
pub struct Operator {
    _dir: tempfile::TempDir,
    pub repository: Repository,
    port: u16,
}

impl Operator {
    pub fn new(broker: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(&dir.path().join("repository"), &InitOptions::default()).unwrap();
        Self { _dir: dir, repository, port: broker }
    }

    pub fn root(&self) -> Vec<u8> {
        self.repository.root_json().unwrap()
    }

    pub async fn publish(&mut self, bundle: &Bundle) -> Publication {
        self.publish_as(bundle, &PublishOptions::default()).await
    }

    #[cfg(not(target_arch = "aarch64"))]
    /// Where it failed before, it is to be tried again.
    pub async fn retry(&mut self, bundle: &Bundle) -> Publication {
        self.publish_as(bundle, &PublishOptions { retry: true, ..PublishOptions::default() }).await
    }

    async fn publish_as(&mut self, bundle: &Bundle, options: &PublishOptions) -> Publication {
        let audience = Audience::group(GROUP);
        let publication = self.repository.publish(bundle, &audience, options).unwrap();
        self.upload(&publication).await;
        self.repository.confirm(&publication).unwrap();
        publication
    }

    pub async fn upload(&self, publication: &Publication) {
        let board = connect(&broker(self.port)).await.unwrap();
        upload(&board, publication, &mut |_, _| {}).await.unwrap();
        board.close().await;
    }

    /// The newest status that the device has told over the broker; the session outlives the broker.
    pub async fn watch(&self) -> watch::Receiver<Option<Status>> {
        let topic = topics::device_status(ID);
        let options = mqtt::Options {
            broker: broker(self.port),
            client_id: "watcher".into(),
            will: None,
            backoff: QUICK,
            dates: mqtt::Dates::of_operator(),
        };
        let (handle, mut events) = mqtt::start(options, Box::new(|_| {})).unwrap();
        handle.subscribe(topic.clone()).await;
        let (to, status) = watch::channel(None);
        tokio::spawn(async move {
            // It lives as long as the session does.
            let _handle = handle;
            while let Some(event) = events.recv().await {
                if let Event::Message(message) = event
                    && message.topic == topic
                {
                    to.send_replace(serde_json::from_slice(&message.bytes).ok());
                }
            }
        });
        status
    }
}

fn broker(port: u16) -> Broker {
    let keep_alive = Duration::from_secs(60);
    Broker { host: "127.0.0.1".into(), port, username: None, password_file: None, keep_alive, tls: None }
}

/// A version of the digits, its label file made large by names that do not compress well, on
/// probation for so many requests.
pub fn release(version: u32, label_bytes: usize, probation: u32) -> Bundle {
    gated_release(version, label_bytes, probation, "")
}

/// The same, with tables of gates at the end of its manifest.
pub fn gated_release(version: u32, label_bytes: usize, probation: u32, gates: &str) -> Bundle {
    let dir = models().join(model_of(version));
    let read = |name: &str| (name.to_owned(), fs::read(dir.join(name)).unwrap());
    let mut files: BTreeMap<String, Vec<u8>> =
        ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"].map(read).into();
    let manifest = String::from_utf8(files["manifest.toml"].clone()).unwrap();
    let line = |line: &str| match line.split('=').next().map(str::trim) {
        Some("version") => format!("version = {version}\n"),
        Some("requests") => format!("requests = {probation}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    files.insert("manifest.toml".into(), (manifest.lines().map(line).collect::<String>() + gates).into_bytes());
    files.get_mut("labels.txt").unwrap().extend(names(u64::from(version), label_bytes));
    Bundle::pack(&files).unwrap()
}

fn names(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 58) as usize]
    };
    (0..bytes).map(|i| if i % 72 == 71 { b'\n' } else { next() }).collect()
}
