//! Candidates beside the live version, on a whole device.

use super::*;
use crate::privacy::{Measure, ModelStatus, Verdict};
use crate::sys::{ManualClock, unix_now};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

pub(super) const SHADOW: &str = "[shadow]\nanswers = 20\nmin-agreement = 0.9\n";
const CANARY: &str = "[canary]\nshare = 0.25\nrequests = 10\n";

/// Version 2, whose manifest asks for these gates; a table of that name that is there already gives way.
pub(super) fn gated(gates: &str) -> Bundle {
    numbered(2, gates)
}

/// The same model under another name.
pub(super) fn letters() -> Bundle {
    made(&[("version = 2", "version = 1"), ("name = \"digits\"", "name = \"letters\"")], "")
}

/// The same under that number.
pub(super) fn numbered(version: u32, gates: &str) -> Bundle {
    made(&[("version = 2", &format!("version = {version}"))], gates)
}

fn made(changes: &[(&str, &str)], gates: &str) -> Bundle {
    let dir = model_dir("digits-adapted");
    let files = ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"];
    let mut files: BTreeMap<String, Vec<u8>> =
        files.map(|name| (name.to_owned(), fs::read(dir.join(name)).unwrap())).into();
    let manifest = String::from_utf8(files["manifest.toml"].clone()).unwrap();
    let kept = manifest.split("\n[").filter(|part| !part.starts_with("budget") || !gates.contains("[budget]"));
    let manifest = kept.collect::<Vec<_>>().join("\n[") + "\n" + gates;
    let manifest = changes.iter().fold(manifest, |text, (from, to)| text.replacen(from, to, 1));
    files.insert("manifest.toml".into(), manifest.into_bytes());
    Bundle::pack(&files).unwrap()
}

fn world(gates: &str) -> World {
    World::with(&[gated(gates)])
}

/// Golden inputs to which both versions say the same, and those to which they do not.
pub(super) fn images(world: &World) -> [Vec<Vec<Tensor>>; 2] {
    let (adapted, _) = read_model_dir(&model_dir("digits-adapted")).unwrap();
    let load = |bundle: &Bundle| crate::update::gate::load(bundle, 1).unwrap();
    let (one, two) = (load(&world.factory), load(&adapted));
    let samples = world.factory.golden().iter().chain(adapted.golden());
    let inputs = samples.map(|sample| sample.inputs.values().cloned().collect::<Vec<Tensor>>());
    let alike = |inputs: &Vec<Tensor>| {
        let compare = crate::engine::Compare::Argmax { atol: 0.0 };
        compare.agree(&one.run(inputs).unwrap(), &two.run(inputs).unwrap())
    };
    let (same, other): (Vec<_>, Vec<_>) = inputs.partition(alike);
    assert!(!same.is_empty() && !other.is_empty(), "{} alike, {} not", same.len(), other.len());
    [same, other]
}

async fn fetched(world: &World) -> Device {
    let mut device = Device::start(world, &settled(world).await, 1000).await.unwrap();
    device.link(world).await.unwrap();
    device
}

fn status(device: &Device) -> ModelStatus {
    device.updater.status().models[0].clone()
}

pub(super) fn last(device: &Device) -> (Verdict, Stage, Code) {
    let outcome = device.updater.status().outcomes.last().cloned().unwrap();
    (outcome.verdict, outcome.stage, outcome.code)
}

#[tokio::test]
async fn a_shadow_that_agrees_answers_nobody_and_then_goes_on() {
    let world = world(SHADOW);
    let [same, _] = images(&world);
    let mut device = fetched(&world).await;
    for asked in 1..=20 {
        assert_eq!(device.answer(&same[asked % same.len()]).await.unwrap(), 1);
        let now = status(&device);
        assert_eq!((now.state, now.candidate, now.agreement), (ModelState::Shadow, Some(2), Some(1.0)));
        device.updater.tick().await.unwrap();
    }
    let now = status(&device);
    assert_eq!((now.state, now.live, now.agreement), (ModelState::Probation, Some(2), None));
}

#[tokio::test]
async fn a_shadow_that_disagrees_is_refused_as_soon_as_that_is_certain() {
    let world = world(SHADOW);
    let [same, other] = images(&world);
    let mut device = fetched(&world).await;
    let mut asked = 0;
    for inputs in [&same[0], &other[0], &other[0], &other[0], &same[0]] {
        if status(&device).state == ModelState::Shadow {
            assert_eq!(device.answer(inputs).await.unwrap(), 1);
            asked += 1;
        }
        device.updater.tick().await.unwrap();
    }
    assert_eq!(asked, 4, "of twenty two may differ");
    assert_eq!(last(&device), (Verdict::Refused, Stage::Shadow, Code::Disagrees));
    let now = status(&device);
    assert_eq!((now.state, now.live), (ModelState::Idle, Some(1)));
    device.link(&world).await.unwrap();
    assert_eq!(status(&device).state, ModelState::Idle, "it is not tried again");
}

#[tokio::test]
async fn a_canary_answers_its_share_and_then_goes_on() {
    let world = world(&[SHADOW, CANARY].concat());
    let [same, _] = images(&world);
    let mut device = fetched(&world).await;
    for _ in 0..20 {
        device.answer(&same[0]).await.unwrap();
    }
    device.updater.tick().await.unwrap();
    assert_eq!(status(&device).state, ModelState::Canary);
    let mut versions = Vec::new();
    while status(&device).state == ModelState::Canary {
        versions.push(device.answer(&same[0]).await.unwrap());
        device.updater.tick().await.unwrap();
    }
    assert_eq!((versions.len(), versions.iter().filter(|&&version| version == 2).count()), (40, 10));
    let now = status(&device);
    assert_eq!((now.state, now.live, now.previous), (ModelState::Probation, Some(2), Some(1)));
}

#[tokio::test]
async fn a_shadow_goes_on_after_a_stop_where_it_stood() {
    let world = world(SHADOW);
    let [same, _] = images(&world);
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    device.link(&world).await.unwrap();
    for _ in 0..12 {
        device.answer(&same[0]).await.unwrap();
    }
    device.updater.stop().unwrap();
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    device.updater.resume().await.unwrap();
    for asked in 0..8 {
        assert_eq!(status(&device).state, ModelState::Shadow, "after {asked}");
        device.answer(&same[0]).await.unwrap();
        device.updater.tick().await.unwrap();
    }
    assert_eq!(status(&device).live, Some(2));
}

#[tokio::test]
async fn a_device_that_nobody_asks_anything_goes_on_by_the_clock() {
    let world = world(&["[shadow]\nmin-agreement = 1.0\nseconds = 3600\n", "[canary]\nshare = 0.5\n"].concat());
    let clock = Arc::new(ManualClock::new(unix_now(), true));
    let disk = settled(&world).await;
    let mut device = Device::start_on(&world, &disk, 1000, (clock.clone(), Arc::new(|| false))).await.unwrap();
    device.link(&world).await.unwrap();
    for (wait, state) in [(3599, ModelState::Shadow), (1, ModelState::Canary), (86_400, ModelState::Probation)] {
        clock.advance(Duration::from_secs(wait));
        device.updater.tick().await.unwrap();
        assert_eq!(status(&device).state, state, "{wait} s later");
    }
}

#[tokio::test]
async fn what_cannot_fit_is_refused_before_a_byte_of_it_is_fetched() {
    let world = world("[budget]\nmemory-mib = 1025\n");
    let device = fetched(&world).await;
    assert_eq!(last(&device), (Verdict::Refused, Stage::Offer, Code::OverMemory));
    let outcome = device.updater.status().outcomes[0].clone();
    assert_eq!((outcome.expected, outcome.actual), (Measure::Bytes(1 << 30), Measure::Bytes(1025 << 20)));
    assert!(device.brought.is_empty(), "{:?}", device.brought);
    let device = fetched(&self::world("[budget]\nmemory-mib = 1024\n")).await;
    assert_eq!(status(&device).live, Some(2));
}

/// Every look at it takes a millisecond.
#[derive(Debug)]
struct Slow(ManualClock);

impl Clock for Slow {
    fn system(&self) -> u64 {
        self.0.system()
    }

    fn synchronized(&self) -> bool {
        self.0.synchronized()
    }

    fn monotonic(&self) -> Duration {
        self.0.advance(Duration::from_millis(1));
        self.0.monotonic()
    }
}

#[tokio::test]
async fn a_hot_board_gives_no_verdict_on_times_and_a_cool_one_does() {
    for (budget, code) in [("0.5", Some(Code::OverLatency)), ("1.5", None)] {
        let world = world(&format!("[budget]\nlatency-ms = {budget}\n"));
        let clock = Arc::new(Slow(ManualClock::new(unix_now(), true)));
        let hot = Arc::new(AtomicBool::new(true));
        let throttled = Arc::new({
            let hot = hot.clone();
            move || hot.load(SeqCst)
        });
        let disk = settled(&world).await;
        let mut device = Device::start_on(&world, &disk, 1000, (clock.clone(), throttled)).await.unwrap();
        device.link(&world).await.unwrap();
        let Some(code) = code else {
            assert_eq!(status(&device).live, Some(2), "within its budget even so");
            continue;
        };
        assert_eq!(last(&device), (Verdict::Inconclusive, Stage::SelfTest, Code::Throttled));
        assert_eq!((status(&device).state, status(&device).live), (ModelState::Checking, Some(1)));
        hot.store(false, SeqCst);
        device.updater.tick().await.unwrap();
        assert_eq!(status(&device).state, ModelState::Checking, "not yet");
        clock.0.advance(Duration::from_secs(600));
        device.updater.tick().await.unwrap();
        assert_eq!(last(&device), (Verdict::Refused, Stage::SelfTest, code));
        assert_eq!((status(&device).state, status(&device).live), (ModelState::Idle, Some(1)));
    }
}

#[tokio::test]
async fn an_engine_that_dies_again_and_again_goes_back_though_the_version_was_proven() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 1000).await.0.unwrap();
    // Each start is a run that ends without a word.
    for death in 1..=2 {
        let device = Device::start(&world, &disk, 1000).await.unwrap();
        assert_eq!(device.ask(&world).await.unwrap(), 2, "after {death}");
    }
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    assert_eq!(last(&device), (Verdict::RolledBack, Stage::Restart, Code::Crashed));
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1, "it is quarantined");
}

#[tokio::test]
async fn stops_and_power_cuts_are_no_deaths() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 1000).await.0.unwrap();
    for boot in 0..9 {
        let mut device = Device::start(&world, &disk, 1000).await.unwrap();
        device.updater.stop().unwrap();
        drop(Device::start(&world, &disk, 2000 + boot).await.unwrap());
    }
    assert_eq!(Device::start(&world, &disk, 3000).await.unwrap().ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn power_cut_at_any_operation_of_an_update_with_all_gates() {
    let gates = "[shadow]\nanswers = 20\nmin-agreement = 0.9\n[canary]\nshare = 0.5\nrequests = 10\n";
    cut_in(&world(gates), Torn::Lost, "all-gates").await;
}
