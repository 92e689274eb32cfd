//! The customer's side of a device under test: requests without end, each answer held against what the version that it names
//! must say.

use crate::device::{LONG, ask};
use crate::serve::harness::{held_out, json_request, load, post};
use selvedge::tensor::{DataType, Tensor};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The version that it says it is, and whether the values are that version's.
    Answer {
        version: u32,
        right: bool,
    },
    Refused(u16),
    /// No engine, or one that died over it.
    Lost,
}

/// The customer's side: requests one after the other, every answer held against what the version that
/// it names must say.
pub struct Load {
    seen: Arc<Mutex<Vec<(Instant, Seen)>>>,
    task: JoinHandle<()>,
}

impl Load {
    pub fn start(socket: PathBuf) -> Self {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let task = tokio::spawn(shoot(socket, seen.clone()));
        Self { seen, task }
    }

    pub fn seen(&self) -> Vec<(Instant, Seen)> {
        self.seen.lock().unwrap().clone()
    }

    /// Until its newest answer is by that version.
    pub async fn answered_by(&self, wanted: u32) {
        let start = Instant::now();
        let newest = |seen: &[(Instant, Seen)]| match seen.last() {
            Some((_, Seen::Answer { version, .. })) => Some(*version),
            Some((_, Seen::Lost | Seen::Refused(_))) | None => None,
        };
        while newest(&self.seen.lock().unwrap()) != Some(wanted) {
            assert!(start.elapsed() < LONG, "version {wanted} does not answer");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn stop(self) -> Vec<(Instant, Seen)> {
        self.task.abort();
        self.seen()
    }

    /// The versions that answered, in order, each run of one once. Panics on any other answer than a
    /// right one.
    pub fn versions(seen: &[(Instant, Seen)]) -> Vec<u32> {
        let mut versions = Vec::new();
        for (_, seen) in seen {
            match seen {
                Seen::Answer { version, right: true } => versions.push(*version),
                Seen::Lost => {}
                Seen::Answer { right: false, .. } | Seen::Refused(_) => panic!("{seen:?}"),
            }
        }
        versions.dedup();
        versions
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What version 1 is, and what all later ones are.
pub fn model_of(version: u32) -> &'static str {
    if version == 1 { "digits" } else { "digits-adapted" }
}

fn logits(dir: &str, image: &[f32; 64]) -> Vec<f32> {
    let bytes = image.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let tensor = Tensor::new(DataType::Fp32, vec![1, 1, 8, 8], bytes).unwrap();
    load(dir).model().session().unwrap().run(&[tensor]).unwrap()[0].to_f32().unwrap()
}

async fn shoot(socket: PathBuf, seen: Arc<Mutex<Vec<(Instant, Seen)>>>) {
    let (image, _) = held_out()[3];
    let truth = ["digits", "digits-adapted"].map(|dir| (dir, logits(dir, &image)));
    let request = post("/v2/models/digits/infer", "", json_request(&image).as_bytes());
    loop {
        let sent = Instant::now();
        let what = match ask(&socket, &request).await {
            None => Seen::Lost,
            Some(reply) if reply.status == 200 => judge(&reply.json(), &truth),
            Some(reply) => Seen::Refused(reply.status),
        };
        seen.lock().unwrap().push((sent, what));
        sleep(Duration::from_millis(5)).await;
    }
}

fn judge(answer: &serde_json::Value, truth: &[(&str, Vec<f32>)]) -> Seen {
    let version = answer["model_version"].as_str().unwrap().parse().unwrap();
    let values: Vec<f32> = serde_json::from_value(answer["outputs"][0]["data"].clone()).unwrap();
    let (_, expected) = truth.iter().find(|(dir, _)| *dir == model_of(version)).unwrap();
    let near = expected.iter().zip(&values).all(|(e, v)| (e - v).abs() < 1e-3);
    Seen::Answer { version, right: near && values.len() == expected.len() }
}
