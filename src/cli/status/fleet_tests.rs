use super::*;
use crate::bundle::ModelName;
use crate::privacy::{Code, Inventory, Measure, Outcome, Stage, Verdict};
use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(words: &str) -> Args {
    let words = ["x", "--broker", "mqtt://b"].into_iter().chain(words.split_whitespace());
    Cli::try_parse_from(words).unwrap().args
}

fn model(name: &str, live: u32, state: ModelState) -> ModelStatus {
    let candidate = (state != ModelState::Idle).then_some(live + 1);
    ModelStatus {
        model: ModelName::new(name).unwrap(),
        live: Some(live),
        previous: None,
        state,
        candidate,
        agreement: None,
        waits_for: None,
    }
}

fn status(models: Vec<ModelStatus>) -> Status {
    let inventory = Inventory {
        runtime: (0, 1, 0),
        memory_total_mib: 3900,
        memory_used_mib: 512,
        temperature_celsius: Some(51.25),
        ..Inventory::default()
    };
    let outcomes = vec![Outcome {
        model: ModelName::new("digits").ok(),
        version: Some(3),
        verdict: Verdict::Refused,
        stage: Stage::Golden,
        code: Code::GoldenMismatch,
        expected: Measure::None,
        actual: Measure::None,
        time: 900,
    }];
    Status { time: 1000, models, inventory, outcomes, ..Status::default() }
}

fn id(n: u128) -> String {
    hex::encode(n.to_be_bytes())
}

fn fleet(devices: u128) -> Fleet {
    let mut fleet = Fleet::default();
    for n in 0..devices {
        let state = if n % 10 == 0 { ModelState::Probation } else { ModelState::Idle };
        let version = if n % 4 == 0 { 1 } else { 2 };
        fleet.take(&topics::device_online(id(n)), format!("{{\"online\":{}}}", n % 2 == 0).as_bytes());
        let status = serde_json::to_vec(&status(vec![model("digits", version, state)])).unwrap();
        fleet.take(&topics::device_status(id(n)), &status);
    }
    fleet
}

#[test]
fn each_device_is_a_row_by_id_and_one_without_a_state_stays_visible() {
    let mut fleet = fleet(2);
    fleet.take(&topics::device_online(id(7)), br#"{"online":false}"#);
    fleet.take(&topics::device_online(id(8)), b"nonsense");
    let text = text(&args(""), &fleet, 1060).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("device                            online   models    state"), "{text}");
    let first = "00000000000000000000000000000000  online   digits:1  probation digits:2  golden-mismatch digits:3    512/3900      51.2 °C  0.1.0         1 min";
    assert_eq!(lines[1], first);
    assert!(lines[2].contains("offline  digits:2  idle"), "{text}");
    assert_eq!(lines[3], "00000000000000000000000000000007  offline");
    assert_eq!(lines[5], "3 devices, 1 online; 1 messages were not of the known form and passed over");
}

#[test]
fn one_device_is_shown_whole_and_one_that_is_not_there_is_said() {
    let fleet = fleet(2);
    let shown = text(&args(&format!("--device {}", id(1))), &fleet, 1005).unwrap();
    assert!(shown.starts_with(&format!("device {}, offline, told 5 s ago", id(1))), "{shown}");
    assert!(shown.contains("golden-mismatch: too few golden samples"), "{shown}");
    let missing = text(&args(&format!("--device {}", id(9))), &fleet, 1005).unwrap_err();
    assert!(super::super::super::told(&missing).contains(&id(9)));
    let json: serde_json::Value =
        serde_json::from_str(&json(&args(&format!("--device {}", id(1))), &fleet).unwrap()).unwrap();
    assert_eq!((&json["online"], &json["status"]["models"][0]["live"]), (&false.into(), &2.into()));
}

#[test]
fn groups_count_every_device_once_the_largest_first() {
    let fleet = fleet(100);
    let text = text(&args("--group-by version"), &fleet, 0).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "models    devices   share  online  updating");
    assert_eq!(lines[1], "digits:2       75  75.0 %      25         5");
    assert_eq!(lines[2], "digits:1       25  25.0 %      25         5");
    for by in ["outcome", "runtime"] {
        let all: u64 = json(&args(&format!("--group-by {by}")), &fleet)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["devices"].as_u64().unwrap())
            .sum();
        assert_eq!(all, 100, "{by}");
    }
}

#[test]
fn ten_thousand_devices_are_ten_thousand_lines() {
    let fleet = fleet(10_000);
    assert_eq!(text(&args(""), &fleet, 0).unwrap().lines().count(), 10_003);
    assert_eq!(json(&args(""), &fleet).unwrap().lines().count(), 10_000);
}

#[test]
fn a_device_with_many_models_keeps_to_its_line() {
    let models: Vec<ModelStatus> = (0..32).map(|n| model(&format!("model-{n}"), n, ModelState::Fetching)).collect();
    let status = status(models);
    assert_eq!(super::models(&status), "model-0:0, model-1:1, model-2:2, 29 more");
    assert!(state(&status).ends_with(", 29 more"));
}

#[test]
fn an_empty_board_says_what_to_look_at() {
    let text = text(&args(""), &Fleet::default(), 0).unwrap();
    assert!(text.starts_with("no device has told anything"), "{text}");
    assert_eq!(json(&args(""), &Fleet::default()).unwrap(), "");
}

#[test]
fn what_only_a_fleet_has_is_refused_without_a_broker() {
    for words in ["--group-by version", "--device 00112233445566778899aabbccddeeff", "--seconds 5"] {
        let words = ["x"].into_iter().chain(words.split(' '));
        assert!(Cli::try_parse_from(words).is_err());
    }
}
