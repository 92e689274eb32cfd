//! Candidates beside the live version, on a whole device, and whatever kills the engine meanwhile. Needs mosquitto.

use crate::device::{Device, Signal};
use crate::load::{Load, Seen};
use crate::mosquitto::Mosquitto;
use crate::operate::{Operator, gated_release};
use selvedge::privacy::{Code, ModelState, Stage, Status, Verdict};

fn is_at(state: ModelState, live: u32) -> impl Fn(&Status) -> bool {
    move |status| status.models.iter().any(|m| m.live == Some(live) && m.state == state)
}

#[tokio::test(flavor = "multi_thread")]
async fn through_shadow_and_canary_no_request_is_lost_and_each_is_answered_by_the_version_that_it_names() {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.start().await;
    let load = device.load();
    load.answered_by(1).await;
    let gates = "\n[shadow]\nanswers = 100\nmin-agreement = 0.5\n[canary]\nshare = 0.25\nrequests = 25\n";
    operator.publish(&gated_release(2, 0, 20, gates)).await;
    let shadow = device.wait("the shadow", is_at(ModelState::Shadow, 1)).await;
    assert_eq!(shadow.models[0].candidate, Some(2));
    device.wait("version 2", is_at(ModelState::Idle, 2)).await;
    let seen = load.stop();
    assert!(seen.iter().all(|(_, seen)| matches!(seen, Seen::Answer { right: true, .. })), "{seen:?}");
    let changes = Load::versions(&seen);
    assert!(changes.len() > 20, "a quarter of some hundred were the canary's: {changes:?}");
    assert_eq!((changes.first(), changes.last()), (Some(&1), Some(&2)));
}

/// Dies by each signal while a candidate stands at this gate, and comes back without it.
async fn killed_at(state: ModelState, gates: &str, verdict: Verdict) {
    let broker = Mosquitto::start();
    let mut operator = Operator::new(broker.port());
    let mut device = Device::new(broker.port(), &operator.root(), "info");
    device.start().await;
    let load = device.load();
    for (version, signal) in [(2, Signal::KILL), (3, Signal::SEGV), (4, Signal::ABORT)] {
        operator.publish(&gated_release(version, 0, 20, gates)).await;
        device.wait("its gate", is_at(state, 1)).await;
        let died = device.end_engine(signal);
        assert!(!died.success(), "{died}");
        device.start_engine();
        device.ready().await;
        let status = device.status().await.unwrap();
        assert!(is_at(ModelState::Idle, 1)(&status), "{signal:?}: {status:#?}");
        let outcome = status.outcomes.iter().find(|outcome| outcome.version == Some(version)).unwrap();
        let told = (outcome.verdict, outcome.stage, outcome.code);
        assert_eq!(told, (verdict, Stage::Restart, Code::Crashed), "{signal:?}");
    }
    Load::versions(&load.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_the_engine_beside_a_shadow_costs_the_shadow() {
    killed_at(ModelState::Shadow, "\n[shadow]\nanswers = 1000000\nmin-agreement = 0.0\n", Verdict::Refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_the_engine_beside_a_canary_takes_the_canary_back() {
    killed_at(ModelState::Canary, "\n[canary]\nshare = 0.1\nrequests = 1000000\n", Verdict::RolledBack).await;
}
