//! The operator's side: versions that differ in names which do not compress.

use crate::broker::address;
use selvedge::bundle::Bundle;
use selvedge::publish::{Audience, InitOptions, PublishOptions, Repository, connect, upload};
use selvedge::sys::unix_now;
use selvedge::trust::Wave;
use std::collections::BTreeMap;
use std::path::Path;

pub struct Operator {
    _dir: tempfile::TempDir,
    repository: Repository,
    port: u16,
}

impl Operator {
    pub fn new(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(&dir.path().join("repo"), &InitOptions::default()).unwrap();
        Self { _dir: dir, repository, port }
    }

    pub fn root(&self) -> Vec<u8> {
        self.repository.root_json().unwrap()
    }

    /// To all at once; bytes of its chunks.
    pub async fn publish(&mut self, version: u32, names: usize) -> u64 {
        self.publish_to(version, names, Audience::group("fleet")).await
    }

    /// To shares of them, each so many seconds from now.
    pub async fn publish_in_waves(&mut self, version: u32, names: usize, waves: &[(u8, u64)]) {
        let now = unix_now();
        let waves: Vec<Wave> = waves.iter().map(|&(percent, after)| Wave { percent, from: now + after }).collect();
        let audience = Audience { waves: waves.try_into().unwrap(), ..Audience::group("fleet") };
        self.publish_to(version, names, audience).await;
    }

    /// Without deltas: what is fetched is the whole.
    async fn publish_to(&mut self, version: u32, names: usize, audience: Audience) -> u64 {
        let options = PublishOptions { deltas: 0, ..PublishOptions::default() };
        let publication = self.repository.publish(&release(version, names), &audience, &options).unwrap();
        self.upload(&publication).await;
        self.repository.confirm(&publication).unwrap();
        publication.release.unwrap().wire
    }

    /// What the broker had not saved when it was killed.
    pub async fn repair(&self) {
        self.upload(&self.repository.everything().unwrap()).await;
    }

    async fn upload(&self, publication: &selvedge::publish::Publication) {
        let board = connect(&address(self.port)).await.unwrap();
        upload(&board, publication, &mut |_, _| {}).await.unwrap();
        board.close().await;
    }
}

fn release(version: u32, names: usize) -> Bundle {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
    let read = |name: &str| (name.to_owned(), std::fs::read(dir.join(name)).unwrap());
    let mut files: BTreeMap<String, Vec<u8>> =
        ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"].map(read).into();
    let manifest = String::from_utf8(files["manifest.toml"].clone()).unwrap();
    let line = |line: &str| match line.split('=').next().map(str::trim) {
        Some("version") => format!("version = {version}\n"),
        Some("requests") => "requests = 5\n".to_owned(),
        Some(_) | None => format!("{line}\n"),
    };
    files.insert("manifest.toml".into(), manifest.lines().map(line).collect::<String>().into_bytes());
    let mut state = u64::from(version).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters = (0..names).map(|i| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if i % 72 == 71 {
            b'\n'
        } else {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 58) as usize]
        }
    });
    files.get_mut("labels.txt").unwrap().extend(letters);
    Bundle::pack(&files).unwrap()
}
