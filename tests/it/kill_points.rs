//! A running daemon, killed at every single change that it makes to its state: from the first start to the end of an update.
//! Needs mosquitto and a C compiler.

use crate::device::{Device, GROUP};
use crate::mosquitto::Mosquitto;
use crate::operate::{Operator, release};
use crate::serve::harness::{held_out, json_request, post};
use selvedge::bundle::Bundle;
use selvedge::config::DeviceId;
use selvedge::privacy::{Code, ModelState, Status};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// Devices at a time.
const AT_ONCE: usize = 4;

fn library(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/kill_at.c");
    let made = dir.join("kill_at.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&made).arg(&source).arg("-ldl");
    let output = command.output().expect("a C compiler; run: apt-get install gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    made
}

fn is_live(version: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(version) && m.state == ModelState::Idle)
}

fn is_given_up(status: &Status) -> bool {
    is_live(1)(status) && status.outcomes.iter().any(|o| o.version == Some(2) && o.code == Code::Crashed)
}

/// What a device of the run has in common with the others.
struct Site {
    broker: u16,
    root: Vec<u8>,
    library: PathBuf,
}

/// Where it died, and whether the update was given up for it.
type Death = (String, bool);

impl Site {
    /// Kills a new device at its `at`-th change. Nothing where it has got to the end before.
    async fn kill_at(&self, at: usize) -> Option<Death> {
        let mut device = Device::new(self.broker, &self.root, "info");
        let id = |id: DeviceId| format!("id = \"{id}\"");
        device.configure(&id(crate::device::ID), &id(DeviceId((at as u128).to_be_bytes())));
        let (state, log) = (device.path("engine"), device.path("killed.log"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (library, dir, log_text, at_text) = (text(&self.library), text(&state), text(&log), at.to_string());
        let environment =
            [("LD_PRELOAD", &*library), ("KILL_DIR", &*dir), ("KILL_LOG", &*log_text), ("KILL_AT", &*at_text)];
        device.start_engine_with(&environment);
        device.start_link();
        let ended = loop {
            if let Some(ended) = device.engine_has_ended() {
                break ended;
            }
            keep_asking(&device).await;
            if device.status().await.as_ref().is_some_and(is_live(2)) {
                return None;
            }
        };
        let place = std::fs::read_to_string(&log).unwrap_or_default().trim().to_owned();
        assert_eq!(ended.signal(), Some(9), "{at}, {place}: {ended}\n{}", device.log("engine"));
        device.start_engine();
        device.ready().await;
        let version = answer(&device).await;
        assert!(matches!(version.as_deref(), Some("1" | "2")), "{at}, {place}: {version:?}\n{}", device.log("engine"));
        let status = loop {
            keep_asking(&device).await;
            let what = format!("killed at {at}, {place}: an end");
            let now = device.wait(&what, |status| !status.models.is_empty()).await;
            if is_live(2)(&now) || is_given_up(&now) {
                break now;
            }
        };
        Some((place, is_given_up(&status)))
    }
}

/// The version that answers.
async fn answer(device: &Device) -> Option<String> {
    let request = post("/v2/models/digits/infer", "", json_request(&held_out()[3].0).as_bytes());
    let reply = device.ask(&request).await.filter(|reply| reply.status == 200)?;
    reply.json()["model_version"].as_str().map(str::to_owned)
}

/// Some requests, for whatever is on probation.
async fn keep_asking(device: &Device) {
    for _ in 0..3 {
        answer(device).await;
    }
    sleep(Duration::from_millis(30)).await;
}

/// Without digits, as `chunk` and `bundle` have them for names.
fn kind(place: &str) -> String {
    let name = |part: &str| {
        if part.len() >= 32 && part.bytes().all(|b| b.is_ascii_hexdigit()) { "DIGEST".into() } else { part.to_owned() }
    };
    place.split('/').map(|part| part.split('.').map(name).collect::<Vec<_>>().join(".")).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_change_of_a_first_start_and_an_update_the_daemon_comes_back_and_ends_it() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let bundle: Bundle = release(2, 0, 5);
    operator.publish(&bundle).await;
    assert_eq!(GROUP, "shop");
    let dir = tempfile::tempdir().unwrap();
    let site = Arc::new(Site { broker: broker.port(), root: operator.root(), library: library(dir.path()) });
    let (next, over) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicBool::new(false)));
    let run = || {
        let (site, next, over) = (site.clone(), next.clone(), over.clone());
        async move {
            let mut deaths = Vec::new();
            while !over.load(Ordering::SeqCst) {
                match site.kill_at(next.fetch_add(1, Ordering::SeqCst)).await {
                    Some(death) => deaths.push(death),
                    None => over.store(true, Ordering::SeqCst),
                }
            }
            deaths
        }
    };
    let runs: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(run())).collect();
    let mut deaths: Vec<Death> = Vec::new();
    for run in runs {
        deaths.extend(run.await.expect("no device fails"));
    }
    let mut places = BTreeMap::<String, (u32, u32)>::new();
    for (place, given_up) in &deaths {
        let counts = places.entry(kind(place)).or_default();
        *counts = (counts.0 + 1, counts.1 + u32::from(*given_up));
    }
    for (place, (times, given_up)) in &places {
        println!("{times:3} deaths, {given_up:3} updates given up: {place}");
    }
    println!("{{\"figure\": \"powercut/kill-points\", \"value\": {}, \"unit\": \"points\"}}", deaths.len());
    // Trust, the journal, the chunks, the bundle and the audit log: all of it was under way once.
    for part in ["trust", "journal", "fetch", "models", "audit"] {
        assert!(places.keys().any(|place| place.contains(part)), "nobody died at {part}: {places:?}");
    }
    assert!(deaths.len() > 60, "only {} points", deaths.len());
}
