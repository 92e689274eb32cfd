//! Rollouts on whole devices over a real broker: waves, a pause in the middle of a fetch, a way back, the owner's rules; and
//! the operator's commands over them. Needs mosquitto.

use crate::device::{Device, GROUP, Signal};
use crate::load::{Load, Seen};
use crate::mosquitto::{Mosquitto, Proxy};
use crate::operate::{Operator, release};
use crate::program;
use selvedge::bundle::{ModelName, topics};
use selvedge::config::Broker;
use selvedge::privacy::{Code, Measure, ModelState, ModelStatus, Outcome, Stage, Status, Verdict, WaitsFor};
use selvedge::publish::{Audience, Board as _, PublishOptions, Turn, connect};
use selvedge::sys::unix_now;
use selvedge::trust::{Wave, Waves, in_share};
use std::path::Path;
use std::process::Output;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Names in a bundle that is large enough to be caught on its way.
const LARGE: usize = 2_500_000;
/// Bytes a second: a large bundle takes about eight seconds.
const SLOW: u64 = 250_000;

fn digits() -> ModelName {
    ModelName::new("digits").unwrap()
}

fn is_live(version: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(version) && m.state == ModelState::Idle)
}

fn waits_for(why: WaitsFor) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.waits_for == Some(why) && m.candidate == Some(2))
}

/// With another id than the harness gives, and more lines of configuration.
fn device(broker: u16, operator: &Operator, id: u128, more: &str) -> Device {
    let device = Device::new(broker, &operator.root(), "info");
    let path = device.path("selvedge.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(&crate::device::ID.to_string(), &format!("{id:032x}"));
    std::fs::write(path, text + more).unwrap();
    device
}

/// The first id that is in the first share, or not in the second.
fn id(is_wanted: impl Fn(&[u8; 16]) -> bool) -> u128 {
    (1_u128..).find(|id| is_wanted(&id.to_be_bytes())).unwrap()
}

/// Returns how many chunks it has.
async fn publish(operator: &mut Operator, audience: &Audience, options: &PublishOptions, bytes: usize) -> usize {
    let publication = operator.repository.publish(&release(2, bytes, 5), audience, options).unwrap();
    operator.upload(&publication).await;
    operator.repository.confirm(&publication).unwrap();
    publication.release.unwrap().chunks
}

async fn turn(operator: &mut Operator, turn: Turn) {
    let publication = operator.repository.turn(&digits(), None, turn).unwrap().publication;
    operator.upload(&publication).await;
    operator.repository.confirm(&publication).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_begins_with_its_wave_and_by_itself() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let first = id(|id| in_share(&digits(), id, 10));
    let second = id(|id| !in_share(&digits(), id, 50));
    let mut first = device(broker.port(), &operator, first, "");
    let mut second = device(broker.port(), &operator, second, "");
    first.start().await;
    second.start().await;
    let now = unix_now();
    let from = now + 12;
    let waves = Waves::try_from(vec![Wave { percent: 10, from: now }, Wave { percent: 100, from }]).unwrap();
    publish(&mut operator, &Audience { waves, ..Audience::group(GROUP) }, &PublishOptions::default(), 0).await;
    let loads = (first.load(), second.load());
    first.wait("the first wave", is_live(2)).await;
    assert!(unix_now() < from, "it was live before the second began");
    while unix_now() < from {
        assert!(is_live(1)(&second.status().await.unwrap()), "too early");
        sleep(Duration::from_millis(200)).await;
    }
    // Nothing is published meanwhile.
    second.wait("the second wave", is_live(2)).await;
    for load in [loads.0, loads.1] {
        let seen = load.stop();
        assert!(seen.iter().all(|(_, seen)| matches!(seen, Seen::Answer { right: true, .. })));
        assert_eq!(Load::versions(&seen), [1, 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_the_middle_of_a_fetch_stops_it_keeps_what_came_over_a_start_and_ends() {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port()).await;
    let mut operator = Operator::new(broker.port());
    let mut device = device(proxy.port, &operator, 1, "");
    device.start().await;
    let load = device.load();
    proxy.slow_down(SLOW);
    let chunks = publish(&mut operator, &Audience::group(GROUP), &PublishOptions::default(), LARGE).await;
    device.wait_for_chunks(8).await;
    let lacks = device.status().await.unwrap().lacks;
    let (lacking, all) = (lacks.chunks as usize, lacks.of_chunks as usize);
    assert!(all == chunks && (1..=all - 4).contains(&lacking), "progress: lacks {lacking} of {all}, {chunks}");
    turn(&mut operator, Turn::Pause).await;
    device.wait("the pause", waits_for(WaitsFor::Pause)).await;
    proxy.slow_down(0);
    sleep(Duration::from_secs(1)).await;
    let kept = device.chunks();
    assert!((8..chunks).contains(&kept.len()), "{} of {chunks} chunks: it was caught in the middle", kept.len());
    sleep(Duration::from_secs(2)).await;
    device.end_engine(Signal::KILL);
    device.start_engine();
    device.ready().await;
    device.wait("the pause", waits_for(WaitsFor::Pause)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(device.chunks().len(), kept.len(), "neither more nor less");
    turn(&mut operator, Turn::Resume).await;
    device.wait("version 2", is_live(2)).await;
    assert_eq!(Load::versions(&load.stop()), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_called_back_leaves_who_runs_it_and_comes_to_nobody_else() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let (mut ran, mut late) = (device(broker.port(), &operator, 1, ""), device(broker.port(), &operator, 2, ""));
    ran.start().await;
    late.start_engine();
    late.ready().await;
    let load = ran.load();
    publish(&mut operator, &Audience::group(GROUP), &PublishOptions::default(), 0).await;
    ran.wait("version 2", is_live(2)).await;
    load.answered_by(2).await;
    turn(&mut operator, Turn::CallBack).await;
    late.start_link();
    let status = ran.wait("version 1", is_live(1)).await;
    let outcome = status.outcomes.last().unwrap();
    assert_eq!((outcome.verdict, outcome.code), (Verdict::RolledBack, Code::Withdrawn));
    load.answered_by(1).await;
    let seen = load.stop();
    assert!(seen.iter().all(|(_, seen)| matches!(seen, Seen::Answer { right: true, .. })), "no request was lost");
    assert_eq!(Load::versions(&seen), [1, 2, 1]);
    ran.end_engine(Signal::TERM);
    ran.start_engine();
    ran.ready().await;
    sleep(Duration::from_secs(2)).await;
    assert!(is_live(1)(&ran.status().await.unwrap()), "over a start");
    let status = late.status().await.unwrap();
    assert!(is_live(1)(&status) && status.outcomes.is_empty(), "{status:#?}");
    assert_eq!(late.chunks(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_cannot_tell_the_hour_fetches_waits_and_says_so_and_what_is_urgent_passes() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let windows = "[update]\nwindows = [\"Mon 03:00-03:01\"]\n";
    let (mut free, mut bound) = (device(broker.port(), &operator, 1, ""), device(broker.port(), &operator, 2, windows));
    free.start().await;
    bound.start().await;
    let (load, free_load) = (bound.load(), free.load());
    publish(&mut operator, &Audience::group(GROUP), &PublishOptions::default(), 0).await;
    free.wait("version 2", is_live(2)).await;
    let waiting = |status: &Status| waits_for(WaitsFor::Clock)(status) || waits_for(WaitsFor::Window)(status);
    bound.wait("its window", waiting).await;
    bound.wait_for_chunks(1).await;
    sleep(Duration::from_secs(6)).await;
    assert!(waiting(&bound.status().await.unwrap()));
    let urgent = PublishOptions { urgent: true, ..PublishOptions::default() };
    publish(&mut operator, &Audience::group(GROUP), &urgent, 0).await;
    bound.wait("version 2", is_live(2)).await;
    assert_eq!(Load::versions(&load.stop()), [1, 2]);
    drop(free_load);
}

/// What a device tells, that runs the version or failed with it.
fn told(failed: bool) -> Status {
    let live = Some(if failed { 1 } else { 2 });
    let model = ModelStatus::idle(digits(), live);
    let (expected, actual) = (Measure::Share(0.9), Measure::Share(0.1));
    let (stage, code, verdict) = (Stage::Golden, Code::GoldenMismatch, Verdict::Refused);
    let outcome = Outcome { model: Some(digits()), version: Some(2), verdict, stage, code, expected, actual, time: 1 };
    let outcomes = if failed { vec![outcome] } else { vec![] };
    Status { time: unix_now(), models: vec![model], outcomes, ..Status::default() }
}

/// An operator's directory, and ten devices on the broker.
struct Site {
    dir: tempfile::TempDir,
    broker: Mosquitto,
}

impl Site {
    async fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap(), broker: Mosquitto::start() };
        done(&site.run(&["trust", "init"]));
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits-adapted");
        done(&site.tell(&["publish", model.to_str().unwrap(), "--to", "shop", "--no-check"]));
        for id in 0..10 {
            site.say(id, &told(false), 1).await;
        }
        site
    }

    fn run(&self, args: &[&str]) -> Output {
        program::run_in(self.dir.path(), args)
    }

    fn tell(&self, args: &[&str]) -> Output {
        let broker = format!("mqtt://127.0.0.1:{}", self.broker.port());
        self.run(&[args, &["--broker", &broker]].concat())
    }

    async fn say(&self, id: u128, status: &Status, times: u64) {
        let (host, port) = ("127.0.0.1".to_owned(), self.broker.port());
        let broker =
            Broker { host, port, username: None, password_file: None, keep_alive: Duration::from_secs(60), tls: None };
        let board = connect(&broker).await.unwrap();
        board.post(&topics::device_online(format!("{id:032x}")), br#"{"online":true}"#).await.unwrap();
        for sequence in 0..times {
            let bytes = serde_json::to_vec(&Status { sequence, ..status.clone() }).unwrap();
            board.post(&topics::device_status(format!("{id:032x}")), &bytes).await.unwrap();
        }
        board.close().await;
    }

    fn watch(&self, time: &str) -> Output {
        self.tell(&["rollout", "watch", "digits", "--abort-at", "10%", "--least", "3", "--publish", "--for", time])
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_signs_the_end_of_a_rollout_for_three_honest_failures_and_for_no_hostile_device() {
    let site = Site::new().await;
    site.say(3, &told(true), 2000).await;
    // Made-up devices, after the first look.
    let first = site.watch("1s");
    done(&first);
    assert!(said(&first).contains("1 of 10 devices failed (golden-mismatch 1)"), "{}", said(&first));
    for stranger in 100..140 {
        site.say(stranger, &told(true), 1).await;
    }
    let second = site.watch("1s");
    done(&second);
    assert!(said(&second).contains("40 that nobody knew before do not count"), "{}", said(&second));
    assert!(said(&site.run(&["rollout", "show", "digits"])).contains("open"));

    site.say(5, &told(true), 1).await;
    site.say(7, &told(true), 1).await;
    let start = Instant::now();
    let third = site.watch("60s");
    assert_eq!(third.status.code(), Some(3), "{}", said(&third));
    assert!(start.elapsed() < Duration::from_secs(50));
    let why = "digits version 2 is aborted: 3 of 10 devices failed (golden-mismatch 3)";
    assert!(said(&third).contains(why), "{}", said(&third));
    assert!(said(&site.run(&["rollout", "show", "digits"])).contains("aborted"));

    // Published once more, and watched by the same command: those who failed have said nothing better since.
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits-adapted");
    let again = site.tell(&["publish", model.to_str().unwrap(), "--to", "shop", "--no-check", "--watch", "10%"]);
    assert_eq!(again.status.code(), Some(3), "{}", said(&again));
    assert!(said(&again).contains("published\n") && said(&again).contains("is aborted"), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_commands_stop_let_go_on_and_show_a_rollout_and_the_fleet() {
    let site = Site::new().await;
    let turned = |args: &[&str], expected: &str| {
        let output = site.tell(&[&["rollout"], args].concat());
        assert!(said(&output).contains(expected), "{args:?}: {}", said(&output));
    };
    turned(&["resume", "digits"], "no version of digits is offered that could be resumed");
    turned(&["pause", "digits"], "digits version 2 is paused");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits-adapted");
    let again = site.tell(&["publish", model.to_str().unwrap(), "--to", "shop", "--no-check"]);
    assert!(said(&again).contains("selvedge rollout resume digits"), "{}", said(&again));
    turned(&["resume", "digits"], "digits version 2 is resumed");
    turned(&["abort", "digits", "--version", "2"], "digits version 2 is aborted");
    turned(&["abort", "digits", "--back"], "digits version 2 is called back");
    turned(&["pause", "digits"], "no version of digits is offered that could be paused");

    site.say(3, &told(true), 1).await;
    let fleet = site.tell(&["fleet", "--once"]);
    done(&fleet);
    assert!(
        said(&fleet).contains("10 devices: 10 online, 0 offline; 0 updating, 0 waiting, 1 failing"),
        "{}",
        said(&fleet)
    );
    assert!(said(&fleet).contains("golden-mismatch digits:2"), "{}", said(&fleet));
    let failing = site.tell(&["fleet", "--once", "--json", "--only", "failing"]);
    let line: serde_json::Value = serde_json::from_slice(&failing.stdout).unwrap();
    assert_eq!(line["failures"][0]["code"], "golden-mismatch");
    let preview = site.tell(&[
        "publish",
        model.to_str().unwrap(),
        "--to",
        "shop",
        "--from-versions",
        "2",
        "--dry-run",
        "--no-check",
    ]);
    done(&preview);
    let text = said(&preview);
    assert!(text.contains("known to the broker  10") && text.contains("nothing was signed"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("with such a board") && line.ends_with(" 9")), "{text}");
}
