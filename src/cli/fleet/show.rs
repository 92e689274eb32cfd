//! The fleet as text: counts, then the devices, those first with which there is most to do.

use crate::cli::status::{few, name, number, remedy, span, wait_remedy};
use crate::cli::{Align, Table};
use crate::config::DeviceId;
use crate::privacy::{Code, ModelStatus, Outcome, Status};
use crate::publish::{Fleet, Look, Only};
use crate::sys::date;
use std::collections::{BTreeMap, BTreeSet};

/// As many lines as a terminal has, or all.
pub(super) fn page(fleet: &Fleet, looks: &[Look<'_>], now: u64, rows: Option<usize>) -> String {
    let mut text = format!("{}\n{}\n", summary(fleet, looks), versions(looks));
    let remedies = remedies(looks);
    let used = text.lines().count() + remedies.lines().count() + 4;
    let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(used).max(3));
    let mut order: Vec<&Look<'_>> = looks.iter().collect();
    order.sort_by_key(|look| std::cmp::Reverse(look.weight()));
    if !looks.is_empty() {
        text += &devices(&order[..room.min(order.len())], now).to_string();
    }
    if order.len() > room {
        text += &format!("{} more; --only and --model narrow it, --once shows all\n", order.len() - room);
    }
    if !remedies.is_empty() {
        text += &format!("\n{remedies}");
    }
    text
}

fn summary(fleet: &Fleet, looks: &[Look<'_>]) -> String {
    let count = |only: Only| looks.iter().filter(|look| look.is(only)).count();
    let offline = count(Only::Offline);
    let mut text = format!(
        "{} devices: {} online, {offline} offline; {} updating, {} waiting, {} failing, {} stragglers",
        looks.len(),
        looks.len() - offline,
        count(Only::Updating),
        count(Only::Waiting),
        count(Only::Failing),
        count(Only::Stragglers),
    );
    if looks.len() < fleet.rows().len() {
        text += &format!(" (of {} devices)", fleet.rows().len());
    }
    if fleet.rows().is_empty() {
        text = "no device has told anything: is this the broker of their `link` section, and may this user read selvedge/v1/dev/+/status there?".into();
    }
    if fleet.ignored() > 0 {
        text += &format!("\n{} messages were not of the known form, or too many, and passed over", fleet.ignored());
    }
    text + "\n"
}

fn told<'a>(look: &Look<'a>) -> Option<&'a Status> {
    look.row.status.as_ref()
}

/// How many devices run which version.
fn versions(looks: &[Look<'_>]) -> Table {
    let right = Align::Right;
    let mut table = Table::new([("model", Align::Left), ("version", right), ("devices", right), ("share", right)]);
    let mut counts: BTreeMap<(&str, Option<u32>), usize> = BTreeMap::new();
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for model in looks.iter().filter_map(told).flat_map(|status| &status.models) {
        *counts.entry((model.model.as_str(), model.live)).or_default() += 1;
        *all.entry(model.model.as_str()).or_default() += 1;
    }
    // A hostile one may name models that nobody published.
    const MOST: usize = 12;
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|((model, _), n)| (std::cmp::Reverse(all[model]), *model, std::cmp::Reverse(*n)));
    for ((model, version), n) in counts.iter().take(MOST) {
        let share = format!("{:.1} %", *n as f64 / all[model] as f64 * 100.0);
        table.row([(*model).to_owned(), number(*version), n.to_string(), share]);
    }
    table
}

fn devices(looks: &[&Look<'_>], now: u64) -> Table {
    let left = Align::Left;
    let mut table = Table::new([
        ("device", left),
        ("online", left),
        ("told", Align::Right),
        ("models", left),
        ("under way", left),
        ("waits for", left),
        ("last failure", left),
        ("behind", left),
    ]);
    for look in looks {
        let told = told(look).map_or("-".into(), |status| format!("{} ago", span(now.saturating_sub(status.time))));
        table.row([
            DeviceId(look.id).to_string(),
            online(look).to_owned(),
            told,
            models(look),
            under_way(look),
            waits(look),
            failures(look),
            behind(look, now),
        ]);
    }
    table
}

fn online(look: &Look<'_>) -> &'static str {
    match look.row.online {
        Some(true) => "online",
        Some(false) => "offline",
        None => "unknown",
    }
}

fn models(look: &Look<'_>) -> String {
    let model = |model: &ModelStatus| format!("{}:{}", model.model, number(model.live));
    few(told(look).into_iter().flat_map(|status| &status.models).map(model).collect())
}

fn under_way(look: &Look<'_>) -> String {
    let lacks = told(look).map(|status| status.lacks).unwrap_or_default();
    let lacks = match (lacks.chunks, lacks.of_chunks) {
        (0, _) => String::new(),
        (n, 0) => format!(", lacks {n} chunks"),
        (n, all) => format!(", {} of {all} chunks", all.saturating_sub(n)),
    };
    let model = |model: &&ModelStatus| format!("{} {}:{}", name(&model.state), model.model, number(model.candidate));
    let busy = few(look.busy.iter().map(model).collect());
    if busy == "-" { busy } else { busy + &lacks }
}

fn waits(look: &Look<'_>) -> String {
    let why: BTreeSet<_> = look.busy.iter().filter_map(|model| model.waits_for).collect();
    few(why.iter().map(name).collect())
}

fn failures(look: &Look<'_>) -> String {
    let failure = |outcome: &&Outcome| {
        let model = outcome.model.as_ref().map(|model| format!(" {model}:{}", number(outcome.version)));
        outcome.code.name() + &model.unwrap_or_default()
    };
    few(look.failures.iter().map(failure).collect())
}

fn behind(look: &Look<'_>, now: u64) -> String {
    let lag = |lag: &crate::publish::Lag| {
        format!("{}:{} for {}", lag.model, lag.version, span(now.saturating_sub(lag.since)))
    };
    few(look.lags.iter().map(lag).collect())
}

/// One line for each code, and for each wait, that stands above.
fn remedies(looks: &[Look<'_>]) -> String {
    let codes: BTreeMap<String, Code> =
        looks.iter().flat_map(|look| &look.failures).map(|outcome| (outcome.code.name(), outcome.code)).collect();
    let line = |(name, code): (&String, &Code)| remedy(*code).map(|remedy| format!("{name}: {remedy}\n"));
    let waits: BTreeSet<_> = looks.iter().flat_map(|look| &look.busy).filter_map(|model| model.waits_for).collect();
    let waits = waits.iter().map(|why| format!("{}: {}\n", name(why), wait_remedy(*why)));
    codes.iter().filter_map(line).chain(waits).collect()
}

/// A device on one line, without what changes by the second.
pub(super) fn line(look: &Look<'_>) -> String {
    let parts = [
        ("", under_way(look)),
        ("waits for ", waits(look)),
        ("failed: ", failures(look)),
        ("behind: ", few(look.lags.iter().map(|lag| format!("{}:{}", lag.model, lag.version)).collect())),
    ];
    let said: Vec<String> =
        parts.into_iter().filter(|(_, said)| said != "-").map(|(word, said)| word.to_owned() + &said).collect();
    let words = [DeviceId(look.id).to_string(), online(look).to_owned(), models(look)];
    words.into_iter().chain(said).collect::<Vec<_>>().join("  ")
}

pub(super) fn json(look: &Look<'_>) -> String {
    let remedy = |outcome: &&Outcome| {
        serde_json::json!({ "model": outcome.model, "version": outcome.version, "verdict": outcome.verdict,
            "stage": outcome.stage, "code": outcome.code, "expected": outcome.expected, "actual": outcome.actual,
            "time": outcome.time, "remedy": remedy(outcome.code) })
    };
    let lag = |lag: &crate::publish::Lag| serde_json::json!({ "model": lag.model, "version": lag.version, "since": lag.since, "date": date(lag.since) });
    let status = told(look);
    serde_json::json!({
        "device": DeviceId(look.id).to_string(),
        "online": look.row.online,
        "time": status.map(|status| status.time),
        "models": status.map(|status| &status.models),
        "lacks": status.map(|status| status.lacks),
        "board": status.and_then(|status| status.inventory.board.clone()),
        "failures": look.failures.iter().map(remedy).collect::<Vec<_>>(),
        "behind": look.lags.iter().map(lag).collect::<Vec<_>>(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{ModelName, topics};
    use crate::privacy::{Lacks, Measure, ModelState, Stage, Verdict, WaitsFor};
    use crate::publish::look;

    fn id(n: u128) -> String {
        hex::encode(n.to_be_bytes())
    }

    fn status(n: u128) -> Status {
        let digits = ModelName::new("digits").unwrap();
        let (mut state, mut waits_for, mut outcomes, mut lacks) = (ModelState::Idle, None, vec![], Lacks::default());
        match n % 10 {
            1 => (state, lacks.chunks, lacks.of_chunks) = (ModelState::Fetching, 12, 30),
            2 => (state, waits_for) = (ModelState::Waiting, Some(WaitsFor::Window)),
            3 => outcomes.push(Outcome {
                model: Some(digits.clone()),
                version: Some(6),
                verdict: Verdict::RolledBack,
                stage: Stage::Probation,
                code: Code::TooManyErrors,
                expected: Measure::Count(0),
                actual: Measure::Count(3),
                time: 900,
            }),
            _ => {}
        }
        let candidate = (state != ModelState::Idle).then_some(6);
        let live = Some(if n.is_multiple_of(2) { 6 } else { 5 });
        let model = ModelStatus { model: digits, live, previous: None, state, candidate, agreement: None, waits_for };
        Status { time: 1000, models: vec![model], outcomes, lacks, ..Status::default() }
    }

    fn fleet(devices: u128) -> Fleet {
        let mut fleet = Fleet::default();
        for n in 0..devices {
            fleet.take(&topics::device_online(id(n)), format!("{{\"online\":{}}}", n % 10 != 9).as_bytes());
            fleet.take(&topics::device_status(id(n)), &serde_json::to_vec(&status(n)).unwrap());
        }
        fleet
    }

    #[test]
    fn counts_come_first_then_devices_by_what_there_is_to_do_then_remedies() {
        let fleet = fleet(10);
        let text = page(&fleet, &look(&fleet, &[], None, 1060), 1060, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "10 devices: 9 online, 1 offline; 1 updating, 1 waiting, 1 failing, 0 stragglers");
        assert_eq!(
            &lines[2..5],
            [
                "model   version  devices   share",
                "digits        5        5  50.0 %",
                "digits        6        5  50.0 %"
            ]
        );
        assert!(lines[7].starts_with(&id(3)) && lines[7].contains("too-many-errors digits:6"), "{text}");
        assert!(
            lines[8].starts_with(&id(2)) && lines[8].contains("waiting digits:6 ") && lines[8].contains("  window  "),
            "{text}"
        );
        assert!(lines[9].starts_with(&id(1)) && lines[9].contains("fetching digits:6, 18 of 30 chunks"), "{text}");
        assert!(lines[10].starts_with(&id(9)) && lines[10].contains("offline  1 min ago"), "{text}");
        assert!(text.contains("too-many-errors: too many of its first requests failed"), "{text}");
        assert!(text.contains("window: none of its maintenance windows is open"), "{text}");
    }

    #[test]
    fn ten_thousand_devices_fit_a_terminal_and_say_how_many_are_left_out() {
        let fleet = fleet(10_000);
        let looks = look(&fleet, &[], None, 1060);
        let text = page(&fleet, &looks, 1060, Some(40));
        assert!(text.lines().count() <= 40, "{}", text.lines().count());
        assert!(text.contains(" more; --only and --model narrow it"), "{text}");
        assert!(page(&fleet, &looks, 1060, None).lines().count() > 10_000);
        assert!(page(&fleet, &looks, 1060, Some(0)).lines().count() < 30, "a tiny one");
    }

    #[test]
    fn a_line_and_its_json_say_what_is_to_be_done() {
        let fleet = fleet(4);
        let looks = look(&fleet, &[], None, 1060);
        assert_eq!(line(&looks[0]), format!("{}  online  digits:6", id(0)));
        assert_eq!(line(&looks[2]), format!("{}  online  digits:6  waiting digits:6  waits for window", id(2)));
        assert_eq!(line(&looks[3]), format!("{}  online  digits:5  failed: too-many-errors digits:6", id(3)));
        let json: serde_json::Value = serde_json::from_str(&json(&looks[3])).unwrap();
        assert_eq!(json["failures"][0]["code"], "too-many-errors");
        assert!(json["failures"][0]["remedy"].as_str().unwrap().contains("requests failed"), "{json}");
    }

    #[test]
    fn an_empty_board_and_junk_are_said() {
        let mut fleet = Fleet::default();
        fleet.take(&topics::device_status(id(1)), b"junk");
        let text = page(&fleet, &[], 0, None);
        assert!(text.starts_with("no device has told anything"), "{text}");
        assert!(text.contains("1 messages were not of the known form"), "{text}");
    }
}
