//! Whole devices against a real Mosquitto: brokers that are late, die, forget; engines and links that
//! are killed. Needs mosquitto.

use crate::device::{Device, LONG, Signal};
use crate::load::{Load, Seen};
use crate::mosquitto::{Mosquitto, Proxy};
use crate::operate::{Operator, release};
use selvedge::privacy::{Code, ModelState, Stage, Status, Verdict};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const ANYBODY: &str = "allow_anonymous true";
/// Names in a bundle that is large enough to be caught on its way.
const LARGE: usize = 2_500_000;
/// Bytes a second: a large bundle takes about three seconds.
const SLOW: u64 = 700_000;

fn is_live(version: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(version) && m.state == ModelState::Idle)
}

fn fetches(status: &Status) -> bool {
    status.models.iter().any(|m| m.state == ModelState::Fetching)
}

fn is_on_probation(version: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(version) && m.state == ModelState::Probation)
}

/// Every request was answered, by the version that it names.
fn all_answered(load: Load) -> Vec<u32> {
    let seen = load.stop();
    assert!(seen.len() > 20, "{seen:?}");
    assert!(seen.iter().all(|(_, seen)| matches!(seen, Seen::Answer { .. })), "{seen:?}");
    Load::versions(&seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_serves_without_a_broker_asks_for_it_seldom_and_takes_the_update_when_it_comes() {
    let mut broker = Mosquitto::stopped(ANYBODY);
    let proxy = Proxy::start(broker.port()).await;
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(proxy.port, &operator.root(), "info");
    let begun = Instant::now();
    device.start().await;
    let load = device.load();
    sleep(Duration::from_secs(30)).await;
    // Waits double from a second, each cut by chance: 5 to 8 attempts as a rule, where rumqttc by itself
    // makes tens of thousands.
    let attempts = proxy.connections();
    assert!((2..=20).contains(&attempts), "{attempts} attempts in {:?}", begun.elapsed());

    broker.run();
    operator.publish(&release(2, 0, 50)).await;
    // The wait that has begun is half a minute long as a rule; over 200 s it is once in a thousand runs.
    let start = Instant::now();
    while !device.status().await.is_some_and(|status| is_live(2)(&status)) {
        assert!(start.elapsed() < Duration::from_secs(200), "{}", device.log("link"));
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(all_answered(load), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_ends_though_the_broker_is_killed_amid_it() {
    let mut broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port()).await;
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(proxy.port, &operator.root(), "info");
    device.start().await;
    let load = device.load();
    proxy.slow_down(SLOW);
    operator.publish(&release(2, LARGE, 50)).await;
    device.wait_for_chunks(8).await;
    broker.save();
    broker.kill();
    let amid = device.chunks().len();
    sleep(Duration::from_millis(500)).await;
    assert!(fetches(&device.status().await.unwrap()), "killed amid it, with {amid} chunks");
    broker.run();
    device.wait("version 2", is_live(2)).await;
    assert_eq!(all_answered(load), [1, 2]);
    assert_eq!(device.chunks(), [""; 0], "what the update left is cleared away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_was_lost_is_told_as_lacking_and_healed_by_uploading_it_again() {
    let mut broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port()).await;
    let mut operator = Operator::new(broker.port());
    let mut told = operator.watch().await;
    let mut device = Device::new(proxy.port, &operator.root(), "info");
    device.start().await;
    let load = device.load();
    proxy.slow_down(SLOW);
    operator.publish(&release(2, LARGE, 50)).await;
    device.wait_for_chunks(8).await;
    broker.kill();
    broker.forget();
    let before = device.status().await.unwrap().sequence;
    broker.run();

    let lacking = told.wait_for(|status| {
        status.as_ref().is_some_and(|status| status.sequence > before && status.lacks.chunks > 0 && fetches(status))
    });
    let lacking = timeout(LONG, lacking).await.expect("it says what it lacks").unwrap().clone().unwrap();
    sleep(Duration::from_secs(1)).await;
    let later = device.status().await.unwrap();
    assert_eq!(later.lacks, lacking.lacks, "nothing can come");
    assert_eq!(later.outcomes, [], "missing is no reason to refuse");

    proxy.slow_down(0);
    operator.upload(&operator.repository.everything().unwrap()).await;
    let healed = told.wait_for(|status| status.as_ref().is_some_and(is_live(2)));
    let healed = timeout(LONG, healed).await.expect("version 2").unwrap().clone().unwrap();
    assert_eq!(healed.lacks, Default::default());
    assert_eq!(all_answered(load), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_on_disk_are_not_fetched_again_after_the_engine_was_killed() {
    let broker = Mosquitto::start();
    let proxy = Proxy::recording(broker.port()).await;
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(proxy.port, &operator.root(), "info");
    device.start().await;
    proxy.slow_down(SLOW);
    operator.publish(&release(2, LARGE, 5)).await;
    device.wait_for_chunks(15).await;
    device.end_engine(Signal::KILL);
    let kept = device.chunks();
    device.start_engine();
    device.ready().await;
    let load = device.load();
    proxy.slow_down(0);
    device.wait("version 2", is_live(2)).await;
    assert_eq!(all_answered(load), [1, 2]);

    let wire = proxy.recorded().concat();
    let brought = |digest: &str| {
        let topic = format!("selvedge/v1/chunk/{digest}");
        // In a publish the payload follows; where the link subscribes, only a byte of options does.
        let places =
            (0..wire.len().saturating_sub(4 + topic.len())).filter(|&i| wire[i..].starts_with(topic.as_bytes()));
        places.filter(|&i| wire[i + topic.len()..].windows(4).take(64).any(|w| w == [0x28, 0xb5, 0x2f, 0xfd])).count()
    };
    for digest in &kept {
        assert_eq!(brought(digest), 1, "{digest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_on_probation_goes_back_and_takes_that_version_no_more() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.start().await;
    let load = device.load();
    load.answered_by(1).await;
    operator.publish(&release(2, 0, 1_000_000)).await;
    device.wait("probation", is_on_probation(2)).await;

    let stopped = device.end_engine(Signal::TERM);
    assert!(stopped.success(), "{stopped}");
    device.start_engine();
    device.ready().await;
    let status = device.status().await.unwrap();
    assert!(is_on_probation(2)(&status), "a stop in order is no death: {status:#?}");
    assert_eq!(status.outcomes, []);

    device.end_engine(Signal::KILL);
    device.start_engine();
    device.ready().await;
    let status = device.status().await.unwrap();
    assert!(is_live(1)(&status), "{status:#?}");
    let outcome = status.outcomes.iter().find(|outcome| outcome.code != Code::Quarantined).unwrap();
    assert_eq!((outcome.verdict, outcome.stage, outcome.code), (Verdict::RolledBack, Stage::Restart, Code::Crashed));
    assert_eq!(outcome.version, Some(2));
    // The board still offers it.
    let quarantined = |status: &Status| status.outcomes.iter().any(|o| o.code == Code::Quarantined);
    let status = device.wait("the offer refused", quarantined).await;
    assert!(is_live(1)(&status), "{status:#?}");
    load.answered_by(1).await;
    assert_eq!(Load::versions(&load.stop()), [1, 2, 1]);

    // What was fixed since is another version.
    let load = device.load();
    load.answered_by(1).await;
    operator.publish(&release(3, 0, 20)).await;
    device.wait("version 3", is_live(3)).await;
    assert_eq!(all_answered(load), [1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_and_link_killed_ten_times_amid_an_update_leave_a_version_that_answers_rightly() {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port()).await;
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(proxy.port, &operator.root(), "info");
    device.start().await;
    let load = device.load();
    proxy.slow_down(SLOW);
    operator.publish(&release(2, LARGE, 50)).await;
    let crashed = |status: &Status| status.outcomes.iter().any(|o| o.code == Code::Crashed && o.version == Some(2));
    let (mut had, mut amid, mut given_up) = (0, 0, false);
    for moment in 1..=10 {
        sleep(Duration::from_millis(600)).await;
        device.end_engine(Signal::KILL);
        device.end_link(Signal::KILL);
        let has = device.chunks().len();
        // Fewer are left only where the bundle is whole and the kill came amid their removal, or where a kill
        // fell into its trial before.
        let bundles = std::fs::read_dir(device.path("engine/models/digits")).unwrap().count();
        assert!(has >= had || bundles > 1 || given_up, "kill {moment}: {had} chunks became {has}");
        had = has;
        amid += u32::from(has > 0);
        let asked = load.seen().len();
        device.start().await;
        sleep(Duration::from_millis(50)).await;
        let seen = &load.seen()[asked..];
        assert!(matches!(seen.last(), Some((_, Seen::Answer { right: true, .. }))), "kill {moment}: {seen:?}");
        given_up = device.status().await.as_ref().is_some_and(crashed);
    }
    assert!(amid >= 5, "only {amid} kills found it under way");
    let ended = |status: &Status| is_live(2)(status) || is_live(1)(status) && crashed(status);
    let status = device.wait("an end", ended).await;
    let versions = Load::versions(&load.stop());
    // A kill may fall into the trial; then it counts as the candidate's death.
    let good: &[&[u32]] = if crashed(&status) { &[&[1], &[1, 2, 1]] } else { &[&[1, 2]] };
    assert!(good.contains(&&*versions), "{versions:?}: {status:#?}");
}
