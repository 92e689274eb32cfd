//! One device's status for people.

use super::remedy::{remedy, wait_remedy};
use super::{Align, Table};
use crate::privacy::{Code, Inventory, Lacks, Measure, ModelStatus, Outcome, Status};
use crate::sys::date;
use serde::Serialize;
use std::collections::BTreeSet;

pub(super) fn text(status: &Status) -> String {
    let mut parts = vec![models(&status.models)];
    if !status.outcomes.is_empty() {
        parts.push(outcomes(&status.outcomes));
    }
    let remedies = remedies(&status.outcomes);
    if !remedies.is_empty() {
        parts.push(remedies);
    }
    parts.push(format!("waits for: {}\n", waits_for(status)));
    parts.push(board(status));
    parts.join("\n")
}

fn models(models: &[ModelStatus]) -> String {
    if models.is_empty() {
        return "no model is installed: publish one to a group of this device, or name a directory under engine.factory\n".into();
    }
    let (left, right) = (Align::Left, Align::Right);
    let mut table =
        Table::new([("model", left), ("live", right), ("previous", right), ("state", left), ("candidate", right)]);
    for model in models {
        table.row([
            model.model.to_string(),
            number(model.live),
            number(model.previous),
            name(&model.state),
            number(model.candidate),
        ]);
    }
    table.to_string()
}

fn outcomes(outcomes: &[Outcome]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new([
        ("device time", left),
        ("model", left),
        ("version", right),
        ("verdict", left),
        ("stage", left),
        ("code", left),
        ("expected", right),
        ("actual", right),
    ]);
    // Newest first: what one looks for.
    for outcome in outcomes.iter().rev() {
        table.row([
            date(outcome.time),
            outcome.model.as_ref().map_or("-".to_owned(), ToString::to_string),
            number(outcome.version),
            name(&outcome.verdict),
            name(&outcome.stage),
            outcome.code.name(),
            measure(outcome.expected),
            measure(outcome.actual),
        ]);
    }
    table.to_string()
}

/// One line for each code that asks for something, by the newest outcome first.
fn remedies(outcomes: &[Outcome]) -> String {
    let mut said = BTreeSet::new();
    let line = |code: Code| Some(format!("{}: {}\n", code.name(), remedy(code)?));
    outcomes.iter().rev().filter_map(|outcome| line(outcome.code)).filter(|line| said.insert(line.clone())).collect()
}

fn waits_for(status: &Status) -> String {
    let Lacks { metadata, index, chunks, of_chunks } = status.lacks;
    let chunks = match (chunks, of_chunks) {
        (0, _) => None,
        (1, 0) => Some("1 chunk".to_owned()),
        (n, 0) => Some(format!("{n} chunks")),
        (n, all) => Some(format!("{n} of {all} chunks")),
    };
    let held = status.models.iter().filter_map(|model| {
        let why = model.waits_for?;
        Some(format!("{} for {}:{} ({})", name(&why), model.model, number(model.candidate), wait_remedy(why)))
    });
    let lacks: Vec<String> =
        [metadata.then(|| "metadata".to_owned()), index.then(|| "an offer's index".to_owned()), chunks]
            .into_iter()
            .flatten()
            .chain(held)
            .collect();
    if lacks.is_empty() { "nothing".into() } else { lacks.join(", ") }
}

fn board(status: &Status) -> String {
    let inventory = &status.inventory;
    let mut table = Table::new([("board", Align::Left), ("", Align::Left)]);
    let network = match inventory.network_denied {
        true => "denied to the engine",
        false => "NOT denied to the engine (engine.deny-network)",
    };
    table
        .row(["name", inventory.board.as_ref().map_or("-", |board| board.as_str())])
        .row(["runtime", &runtime(inventory)])
        .row(["cores", &inventory.cores.to_string()])
        .row(["int8 kernels", &name(&inventory.isa)])
        .row(["memory", &format!("{} of {} MiB used", inventory.memory_used_mib, inventory.memory_total_mib)])
        .row(["engine", &format!("{} MiB resident", inventory.engine_rss_mib)])
        .row(["disk free", &format!("{} MiB", inventory.disk_free_mib)])
        .row(["temperature", &temperature(inventory)])
        .row(["uptime", &span(inventory.uptime_seconds)])
        .row(["network", network])
        .row(["root", &format!("version {}", inventory.root_version)])
        .row(["device time", &date(status.time)])
        .row(["audit log", &audit(status)]);
    table.to_string()
}

/// Whole, to be held against a log: `selvedge audit verify --head`.
fn audit(status: &Status) -> String {
    status.audit.map_or("-".into(), |head| format!("line {}, {}", head.number, head.sha256))
}

pub(super) fn runtime(inventory: &Inventory) -> String {
    let (major, minor, patch) = inventory.runtime;
    format!("{major}.{minor}.{patch}")
}

pub(super) fn temperature(inventory: &Inventory) -> String {
    let plausible = inventory.temperature_celsius.filter(|celsius| celsius.abs() < 1000.0);
    plausible.map_or("-".into(), |celsius| format!("{celsius:.1} °C"))
}

pub(in crate::cli) fn number(value: Option<u32>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

/// An enum of the closed set, as in the JSON.
pub(in crate::cli) fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn measure(measure: Measure) -> String {
    match measure {
        Measure::Time(seconds) => date(seconds),
        Measure::Bytes(n) => super::super::bytes(n),
        Measure::None
        | Measure::Count(_)
        | Measure::Microseconds(_)
        | Measure::Share(_)
        | Measure::Version(_)
        | Measure::Digest(_) => measure.to_string(),
    }
}

/// Seconds, in the two largest units.
pub(in crate::cli) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::ModelName;
    use crate::privacy::{InstructionSet, ModelState, Stage, Verdict};

    pub fn outcome(version: u32, verdict: Verdict, stage: Stage, code: Code) -> Outcome {
        Outcome {
            model: ModelName::new("digits").ok(),
            version: Some(version),
            verdict,
            stage,
            code,
            expected: Measure::Share(0.9),
            actual: Measure::Share(0.125),
            time: 1_000_000_000 + u64::from(version),
        }
    }

    fn status() -> Status {
        Status {
            time: 1_000_000_100,
            models: vec![ModelStatus {
                model: ModelName::new("digits").unwrap(),
                live: Some(2),
                previous: Some(1),
                state: ModelState::Fetching,
                candidate: Some(5),
                agreement: None,
                waits_for: None,
            }],
            outcomes: vec![
                outcome(2, Verdict::Live, Stage::Probation, Code::Ok),
                outcome(3, Verdict::Refused, Stage::Golden, Code::GoldenMismatch),
                outcome(4, Verdict::Refused, Stage::Golden, Code::GoldenMismatch),
            ],
            lacks: Lacks { metadata: false, index: true, chunks: 12, of_chunks: 0 },
            inventory: Inventory {
                runtime: (0, 1, 0),
                uptime_seconds: 90_000,
                network_denied: true,
                isa: InstructionSet::Dotprod,
                ..Inventory::default()
            },
            ..Status::default()
        }
    }

    #[test]
    fn a_status_reads_as_tables_with_the_newest_outcome_first_and_each_remedy_once() {
        let text = text(&status());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "model   live  previous  state     candidate");
        assert_eq!(lines[1], "digits     2         1  fetching          5");
        assert!(lines[4].starts_with("2001-09-09 01:46:44Z  digits        4  refused"), "{text}");
        assert!(lines[4].ends_with("golden-mismatch    90.0 %  12.5 %"), "{text}");
        assert_eq!(text.matches("golden-mismatch: ").count(), 1, "{text}");
        assert!(text.contains("waits for: an offer's index, 12 chunks\n"), "{text}");
        assert!(text.contains("uptime        1 d 1 h\n"), "{text}");
        assert!(text.contains("network       denied to the engine\n"), "{text}");
        assert!(text.contains("int8 kernels  dotprod\n"), "{text}");
        assert!(text.contains("temperature   -\n"), "{text}");
    }

    #[test]
    fn what_holds_an_update_back_is_said_with_what_ends_it() {
        let mut status = status();
        (status.models[0].state, status.lacks) = (ModelState::Waiting, Lacks::default());
        status.models[0].waits_for = Some(crate::privacy::WaitsFor::Window);
        let text = text(&status);
        assert!(text.contains("waits for: window for digits:5 (none of its maintenance windows is open"), "{text}");
        assert!(text.contains("waiting"), "{text}");
    }

    #[test]
    fn a_device_without_models_says_how_to_get_one() {
        let text = text(&Status::default());
        assert!(text.starts_with("no model is installed: publish one"), "{text}");
        assert!(text.contains("waits for: nothing"), "{text}");
        assert!(text.contains("NOT denied"), "{text}");
    }

    #[test]
    fn extreme_values_are_shown_and_break_nothing() {
        let inventory = Inventory {
            temperature_celsius: Some(f32::INFINITY),
            uptime_seconds: u64::MAX,
            memory_total_mib: u32::MAX,
            ..Inventory::default()
        };
        let mut extreme = outcome(u32::MAX, Verdict::RolledBack, Stage::Restart, Code::Expired);
        (extreme.model, extreme.time) = (None, u64::MAX);
        (extreme.expected, extreme.actual) = (Measure::Time(u64::MAX), Measure::Share(f32::NAN));
        let status = Status { inventory, time: u64::MAX, outcomes: vec![extreme], ..Status::default() };
        let text = text(&status);
        assert!(text.contains("rolled-back"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([0, 59, 60, 3_660, 200_000].map(span), ["0 s", "59 s", "1 min", "1 h 1 min", "2 d 7 h"]);
    }
}
