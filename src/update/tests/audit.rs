//! The audit log says what the device did, whatever happens to the power.

use super::*;
use crate::audit::{self, After, Decision, Part};
use crate::privacy::Verdict;

fn decisions(disk: &FaultyDisk) -> Vec<Decision> {
    let chain = audit::read(disk, Path::new("/state/audit")).unwrap();
    chain.lines.into_iter().map(|(line, _)| line.decision).collect()
}

/// The chain is whole, and whoever serves has its line.
pub(super) fn is_whole(disk: &FaultyDisk, live: u32, case: &str) {
    let chain = audit::read(disk, Path::new("/state/audit")).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let serves = |decision: &Decision| {
        if let Decision::Serves { version, .. } = decision { Some(*version) } else { None }
    };
    let last = chain.lines.iter().rev().find_map(|(line, _)| serves(&line.decision));
    assert_eq!(last, Some(Some(live)), "{case}");
}

/// Decisions in short.
fn words(disk: &FaultyDisk) -> Vec<String> {
    let word = |decision: Decision| match decision {
        Decision::Start { after } => format!("start {after:?}"),
        Decision::Offer { version, .. } => format!("offer {version}"),
        Decision::Fetched { version, .. } => format!("fetched {version}"),
        Decision::Passed { version, stage, .. } => format!("passed {version} {stage:?}"),
        Decision::Serves { version, instead_of, .. } => format!("serves {version:?} instead of {instead_of:?}"),
        Decision::Ended { verdict, code, .. } => format!("{verdict:?} {code:?}"),
        Decision::Damage { part } => format!("damage {part:?}"),
        Decision::Root { from, to } => format!("root {from} {to}"),
        Decision::Quarantined { .. } => "quarantined".into(),
        Decision::Lifted { .. } => "lifted".into(),
        Decision::Factory { version, .. } => format!("factory {version}"),
        Decision::File { file, .. } => format!("file {file}"),
        Decision::Omitted { lines } => format!("omitted {lines}"),
    };
    decisions(disk).into_iter().map(word).collect()
}

const BEGIN: [&str; 5] = ["file 1", "start Nothing", "root 0 1", "factory 1", "serves Some(1) instead of None"];
const TRIED: [&str; 4] = ["offer 2", "fetched 2", "passed 2 Golden", "serves Some(2) instead of Some(1)"];

#[tokio::test]
async fn an_update_is_told_from_offer_to_live_and_the_status_names_the_last_line() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 1000).await.0.unwrap();
    let told = [&BEGIN[..], &["start PowerCut"], &TRIED, &["Live Ok"]].concat();
    assert_eq!(words(&disk), told);
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    device.link(&world).await.unwrap();
    device.updater.stop().unwrap();
    assert_eq!(words(&disk).last().unwrap(), "start Death", "nothing more was decided");
    let head = audit::read(&disk, Path::new("/state/audit")).unwrap().head();
    assert_eq!(device.updater.status().audit, head);
    assert!(head.is_some());
    drop(device);
    let _device = Device::start(&world, &disk, 1000).await.unwrap();
    assert_eq!(words(&disk).last().unwrap(), "start Stop");
}

#[tokio::test]
async fn a_rollback_its_quarantine_and_its_retry_are_told() {
    let mut world = World::new();
    let disk = on_probation(&world).await;
    let mut device = Device::start(&world, &disk, 1001).await.unwrap();
    roll_back(&mut device).await.unwrap();
    drop(device);
    update(&world, &disk, 1002).await.0.unwrap();
    let (adapted, _) = read_model_dir(&model_dir("digits-adapted")).unwrap();
    let again = PublishOptions { retry: true, ..PublishOptions::default() };
    let publication = world.repository.publish(&adapted, &Audience::group("shop"), &again).unwrap();
    world.post(publication);
    update(&world, &disk, 1003).await.0.unwrap();
    let back = ["RolledBack TooManyErrors", "quarantined", "serves Some(1) instead of Some(2)"];
    let told = [
        &BEGIN[..],
        &["start PowerCut"],
        &TRIED,
        &["start PowerCut"],
        &back,
        &["start PowerCut", "Refused Quarantined", "start PowerCut", "lifted"],
        &TRIED,
        &["Live Ok"],
    ];
    let told: Vec<&str> = told.concat();
    let said = words(&disk);
    let said: Vec<&str> = said.iter().map(String::as_str).filter(|word| *word != "Refused Quarantined").collect();
    let told: Vec<&str> = told.into_iter().filter(|word| *word != "Refused Quarantined").collect();
    assert_eq!(said, told);
    assert!(words(&disk).contains(&"Refused Quarantined".to_owned()));
}

#[tokio::test]
async fn refused_metadata_is_told_once_in_a_row_and_a_flood_of_it_within_a_budget() {
    let world = World::new();
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 2).await.unwrap();
    let mut bad: serde_json::Value = serde_json::from_slice(&world.shown("timestamp.json")).unwrap();
    bad["signed"]["version"] = 77.into();
    let bytes = serde_json::to_vec(&bad).unwrap();
    for _ in 0..10 {
        device.updater.link_is_new().unwrap();
        let bytes = bytes.clone();
        device.updater.on_message(ToEngine::Metadata { role: Role::Timestamp, version: 0, bytes }).await.unwrap();
    }
    let refused = |disk: &FaultyDisk| decisions(disk).iter().filter(|d| is_refusal(d)).count();
    assert_eq!(refused(&disk), 1, "{:?}", words(&disk));
    let before = disk.operations();
    for count in 0..1000 {
        let outcome = crate::privacy::Outcome {
            model: None,
            version: None,
            verdict: Verdict::Refused,
            stage: Stage::Metadata,
            code: Code::StaleMetadata,
            expected: crate::privacy::Measure::Count(0),
            actual: crate::privacy::Measure::Count(count),
            time: 0,
        };
        device.updater.note(vec![Decision::from(&outcome)]).unwrap();
    }
    assert!((60..=70).contains(&refused(&disk)), "{}", refused(&disk));
    assert!(disk.operations() - before <= 2 * 70, "an append and a sync each");
    device.link(&world).await.unwrap();
    assert!(words(&disk).iter().any(|word| word.starts_with("omitted 9")), "{:?}", words(&disk));
}

fn is_refusal(decision: &Decision) -> bool {
    matches!(decision, Decision::Ended { verdict: Verdict::Refused, stage: Stage::Metadata, .. })
}

#[tokio::test]
async fn what_was_found_damaged_is_told() {
    let world = World::new();
    let disk = settled(&world).await;
    disk.write(Path::new("/state/journal.json"), &[0; 300]).unwrap();
    disk.write(Path::new("/state/trust/trust.json"), b"{").unwrap();
    drop(Device::start(&world, &disk, 2).await.unwrap());
    let found = |part| decisions(&disk).contains(&Decision::Damage { part });
    assert!(found(Part::Journal) && found(Part::Trust), "{:?}", words(&disk));
    assert!(!found(Part::AuditLog));
    assert!(decisions(&disk).contains(&Decision::Start { after: After::Nothing }));
}

#[tokio::test]
async fn a_start_on_a_full_disk_is_told_once_there_is_room() {
    let world = World::new();
    let disk = settled(&world).await;
    disk.full_after(0);
    let mut device = Device::start(&world, &disk, 2).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    disk.mend();
    device.link(&world).await.unwrap();
    assert!(
        words(&disk)
            .ends_with(&["start PowerCut".to_owned()].into_iter().chain(TRIED.map(String::from)).collect::<Vec<_>>())
    );
}
