//! Deaths and absences, with real processes and signals. Needs mosquitto.

use crate::device::Device;
use crate::mosquitto::Mosquitto;
use std::process::Command;
use std::time::Duration;

fn state(status: &serde_json::Value) -> &str {
    status["models"][0]["state"].as_str().unwrap_or_default()
}

/// Version 2 answers and has not proven itself.
fn on_probation() -> (Mosquitto, Device) {
    let broker = Mosquitto::start();
    let mut device = Device::start(broker.port(), broker.port(), "info");
    assert_eq!((device.live(), device.infer()), (1, 200));
    device.publish("digits-adapted");
    device.wait("probation", |status| status["models"][0]["live"] == 2 && state(status) == "probation");
    (broker, device)
}

#[test]
fn an_engine_killed_on_probation_goes_back_at_its_next_start_and_says_why() {
    let (_broker, mut device) = on_probation();
    device.crash_engine("-KILL");
    assert_eq!((device.live(), device.infer()), (1, 200));
    let outcomes = device.status()["outcomes"].clone();
    let last = outcomes.as_array().unwrap().iter().find(|outcome| outcome["code"] == "crashed").unwrap();
    assert_eq!((&last["verdict"], &last["version"]), (&"rolled-back".into(), &2.into()));
    // The offer still stands on the board; it is not taken again.
    device.wait("the quarantine", |status| {
        status["outcomes"].as_array().is_some_and(|all| all.iter().any(|o| o["code"] == "quarantined"))
    });
    assert_eq!(device.live(), 1);
}

#[test]
fn an_orderly_stop_on_probation_is_no_death() {
    let (_broker, mut device) = on_probation();
    device.signal("-TERM");
    assert!(device.engine.wait().unwrap().success());
    device.start_engine();
    assert_eq!(device.live(), 2);
    for _ in 0..60 {
        assert_eq!(device.infer(), 200);
    }
    device.wait("the end of the probation", |status| state(status) == "idle");
    assert_eq!(device.status()["models"][0]["previous"], 1);
}

#[test]
fn a_device_serves_without_a_broker_and_takes_the_update_when_there_is_one() {
    let mut broker = Mosquitto::stopped("");
    let mut device = Device::start(broker.port(), broker.port(), "info");
    for _ in 0..20 {
        assert_eq!(device.infer(), 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    broker.run();
    device.publish("digits-adapted");
    device.wait("the update", |status| status["models"][0]["live"] == 2);
    assert_eq!(device.infer(), 200);
}

#[test]
fn a_second_engine_on_the_same_state_is_refused_and_harms_nothing() {
    let (_broker, device) = on_probation();
    let text = std::fs::read_to_string(device.path("selvedge.toml")).unwrap();
    let other = text.replace("run/api.sock", "run/other.sock").replace("run/link.sock", "run/other-link.sock");
    std::fs::write(device.path("other.toml"), other).unwrap();
    let output = Command::new("timeout")
        .args(["10", env!("CARGO_BIN_EXE_selvedge"), "engine", "--config"])
        .arg(device.path("other.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another engine"), "{said}");
    assert_eq!((device.live(), device.infer()), (2, 200));
}
