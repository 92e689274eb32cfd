//! Rollouts that are paused, let go on, taken back; the devices whose failures count.

use super::*;
use crate::trust::{Board, Hold, Wave, Waves};

fn digits() -> crate::bundle::ModelName {
    crate::bundle::ModelName::new("digits").unwrap()
}

fn holds(repository: &Repository) -> Vec<(u32, Option<Hold>)> {
    repository.rollouts(&digits()).iter().map(|rollout| (rollout.custom.version, rollout.custom.hold)).collect()
}

#[tokio::test]
async fn a_turn_is_signed_once_and_what_cannot_follow_is_said() {
    let (_dir, mut repository) = repository();
    repository.publish(&bundle(1, ""), &Audience::group("office"), &PLAIN).unwrap();
    repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap();
    let mut turn = |version, turn| repository.turn(&digits(), version, turn).map(|turned| turned.changed.len());
    assert_eq!(turn(None, Turn::Pause).unwrap(), 1, "the newest publication's version alone");
    for (version, wrong) in [(None, Turn::Pause), (Some(1), Turn::Resume), (Some(9), Turn::Abort)] {
        let error = turn(version, wrong).unwrap_err().to_string();
        assert!(error.contains(&wrong.to_string()), "{error}");
    }
    assert_eq!(turn(None, Turn::Resume).unwrap(), 1);
    assert_eq!(turn(Some(1), Turn::Abort).unwrap(), 1);
    assert_eq!(turn(Some(2), Turn::Abort).unwrap(), 1);
    assert!(turn(Some(2), Turn::Resume).is_err() && turn(Some(2), Turn::Pause).is_err(), "for good");
    assert_eq!(turn(Some(2), Turn::CallBack).unwrap(), 1);
    assert_eq!(holds(&repository), [(2, Some(Hold::Recalled)), (1, Some(Hold::Withdrawn))]);
    repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(holds(&repository)[0], (2, None), "published again");
}

#[tokio::test]
async fn what_is_paused_is_not_published_over_by_accident() {
    let (_dir, mut repository) = repository();
    repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap();
    repository.turn(&digits(), None, Turn::Pause).unwrap();
    let refused = repository.publish(&bundle(2, ""), &Audience { percent: 50, ..shop() }, &PLAIN);
    assert!(matches!(refused, Err(RepositoryError::Paused { version: 2, .. })), "{refused:?}");
    repository.publish(&bundle(3, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(holds(&repository), [(3, None), (2, Some(Hold::Paused))], "a newer version goes before it");
}

/// What a device of the shop that runs a version hears of it.
fn heard(device: &Device, live: u32, repository: &Repository) -> Vec<(u32, Option<Hold>)> {
    let target = repository.current().all_entries().find(|entry| entry.custom.version == live).map(|e| e.digest);
    let has = |_: &crate::bundle::ModelName| crate::trust::Has { live: Some(live), targets: [target, None] };
    let shop = ["shop".to_owned()];
    let to = Recipient { has: &has, ..Recipient::bare(&DEVICE, &shop) };
    let offers = device.trust.verified().unwrap().offers_for(&to);
    offers.iter().map(|offer| (offer.version, offer.hold)).collect()
}

#[tokio::test]
async fn what_was_called_back_is_still_heard_of_after_a_corrected_version_is_published() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    let later = Waves::try_from(vec![Wave { percent: 100, from: 4_000_000_000 }]).unwrap();
    board.take(&repository.publish(&bundle(6, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    repository.turn(&digits(), None, Turn::CallBack).unwrap();
    let waves = Audience { waves: later, ..shop() };
    board.take(&repository.publish(&bundle(7, ""), &waves, &PLAIN).unwrap()).await.unwrap();
    // It was off all the while.
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    assert_eq!(heard(&device, 6, &repository), [(6, Some(Hold::Recalled))]);
    assert_eq!(device.versions(&board, "shop"), [0; 0], "and who has nothing does not take it");
    repository.publish(&bundle(8, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(holds(&repository), [(8, None), (6, Some(Hold::Recalled))]);
    repository.publish(&bundle(6, ""), &shop(), &BACK).unwrap();
    assert_eq!(holds(&repository), [(6, None)], "published again, it is stopped no more");
    assert!(repository.garbage().unwrap().posts.len() > 1 && repository.everything().is_ok());
}

#[tokio::test]
async fn what_is_kept_of_stopped_versions_is_bounded_and_calls_back_go_last() {
    let (_dir, mut repository) = repository();
    for version in 1..=12 {
        repository.publish(&bundle(version, ""), &shop(), &PLAIN).unwrap();
        let turn = if version == 2 { Turn::CallBack } else { Turn::Abort };
        repository.turn(&digits(), None, turn).unwrap();
    }
    let versions: Vec<u32> = holds(&repository).iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, [12, 11, 10, 9, 8, 7, 6, 5, 2]);
}

#[tokio::test]
async fn a_device_takes_a_turn_and_conditions_stand_beside_what_has_none() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    let needs: Needs = serde_json::from_str(r#"{"memory-mib": 900}"#).unwrap();
    let waves = Waves::try_from(vec![Wave { percent: 100, from: 5 }]).unwrap();
    let audience = Audience { needs, waves, ..shop() };
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    board.take(&repository.publish(&bundle(2, ""), &audience, &PLAIN).unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    let offered = |device: &Device, mib, time| {
        let with = Board { memory_mib: Some(mib), ..Board::default() };
        let shop = ["shop".to_owned()];
        let to = Recipient { board: &with, time, ..Recipient::bare(&DEVICE, &shop) };
        let offers = device.trust.verified().unwrap().offers_for(&to);
        (offers[0].version, offers[0].hold)
    };
    assert_eq!(
        [offered(&device, 899, 9), offered(&device, 900, 4), offered(&device, 900, 5)],
        [(1, None), (1, None), (2, None)]
    );
    board.take(&repository.turn(&digits(), None, Turn::Pause).unwrap().publication).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!(offered(&device, 900, 5), (1, None), "what is below");
    board.take(&repository.turn(&digits(), None, Turn::Abort).unwrap().publication).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!(offered(&device, 900, 5), (1, None));
}

/// A directory whose team `vision` may sign for the digits, and has its key here.
fn with_a_team() -> (tempfile::TempDir, PathBuf, Repository) {
    let (dir, repository) = repository();
    let path = dir.path().join("repo");
    let key = make_key(&path, "vision", None).unwrap();
    drop(repository);
    let mut repository = Repository::open(&path).unwrap();
    let patterns = vec!["digits/*".to_owned()];
    let team = Team { name: "vision".into(), patterns, keys: vec![key], threshold: 1, terminating: true };
    repository.delegate(&team).unwrap();
    (dir, path, repository)
}

#[tokio::test]
async fn a_teams_rollout_is_turned_with_the_teams_key_and_not_without() {
    let (_dir, path, mut repository) = with_a_team();
    repository.publish_as("vision", &bundle(2, ""), &shop(), &PLAIN).unwrap();
    let Turned { changed, left, .. } = repository.turn(&digits(), None, Turn::Pause).unwrap();
    assert!(left.is_empty());
    assert_eq!(changed[0].team.as_deref(), Some("vision"));
    assert!(repository.teams()[0].is_signed);
    repository.publish_as("vision", &bundle(3, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(holds(&repository), [(3, None), (2, Some(Hold::Paused))], "kept beside, as the operator's own are");
    drop(repository);
    for name in RealDisk.list(&path.join("keys")).unwrap() {
        if name.starts_with("vision") {
            std::fs::remove_file(path.join("keys").join(name)).unwrap();
        }
    }
    let mut repository = Repository::open(&path).unwrap();
    assert!(repository.turn(&digits(), Some(2), Turn::Resume).is_err());
    assert_eq!(holds(&repository), [(3, None), (2, Some(Hold::Paused))], "nothing changed");
}

#[tokio::test]
async fn a_team_that_offers_the_operators_version_cannot_keep_it_from_being_stopped() {
    let (_dir, path, mut repository) = with_a_team();
    let board = Shown::default();
    board.take(&repository.publish(&bundle(6, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    assert!(repository.check_turn(&digits(), 6, Turn::Abort).unwrap().is_empty());
    repository.publish_as("vision", &bundle(6, ""), &Audience::group("lab"), &PLAIN).unwrap();
    repository.publish_as("vision", &bundle(7, ""), &Audience::group("office"), &PLAIN).unwrap();
    assert!(repository.check_turn(&digits(), 6, Turn::Abort).unwrap().is_empty(), "its key is at hand");
    drop(repository);
    std::fs::remove_file(path.join("keys/vision.pk8")).unwrap();
    let mut repository = Repository::open(&path).unwrap();
    let foreseen = repository.check_turn(&digits(), 6, Turn::CallBack).unwrap();
    assert_eq!(foreseen[0].team.as_deref(), Some("vision"));
    for turn in [Turn::Pause, Turn::Resume, Turn::Abort, Turn::CallBack] {
        let Turned { changed, left, publication } = repository.turn(&digits(), Some(6), turn).unwrap();
        assert_eq!(changed.iter().map(|rollout| rollout.team.clone()).collect::<Vec<_>>(), [None], "{turn}");
        // What it paused itself, it would have to let go on first.
        let expected = if turn == Turn::Resume { None } else { Some("vision") };
        assert_eq!(left.first().and_then(|left| left.team.as_deref()), expected, "{turn}");
        board.take(&publication).await.unwrap();
    }
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    assert_eq!(device.versions(&board, "shop"), [0; 0], "nobody takes the operator's any more");
    let unable = [
        repository.turn(&digits(), Some(7), Turn::Abort).map(drop),
        repository.check_turn(&digits(), 7, Turn::Abort).map(drop),
    ];
    assert!(unable.iter().all(|is| matches!(is, Err(RepositoryError::MissingKey { .. }))), "{unable:?}");
}

#[test]
fn a_pause_puts_off_the_waves_that_had_not_begun_by_its_length() {
    const HOUR: u64 = 3600;
    let (dir, repository) = repository();
    drop(repository);
    let path = dir.path().join("repo");
    let start = unix_now() + HOUR;
    let at = |time| {
        let keys = KeyRing::load(&path.join("keys"), &Passphrase::default()).unwrap();
        let clock = Arc::new(ManualClock::new(time, true));
        Repository::assemble(Arc::new(RealDisk), clock, &path, keys).unwrap()
    };
    let plan = [(5, start), (25, start + 2 * HOUR), (100, start + 24 * HOUR)];
    let waves = Waves::try_from(plan.map(|(percent, from)| Wave { percent, from }).to_vec()).unwrap();
    at(start).publish(&bundle(2, ""), &Audience { waves, ..shop() }, &PLAIN).unwrap();
    at(start + HOUR).turn(&digits(), None, Turn::Pause).unwrap();
    let resumed = at(start + 49 * HOUR).turn(&digits(), None, Turn::Resume).unwrap();
    let custom = &resumed.changed[0].custom;
    let from: Vec<u64> = custom.waves.iter().map(|wave| (wave.from - start) / HOUR).collect();
    assert_eq!((from, custom.paused), (vec![0, 50, 72], None));
    assert_eq!(custom.waves.percent_at(start + 49 * HOUR), 5, "nobody comes in by the resuming alone");
}

#[test]
fn the_devices_that_count_are_kept_as_they_were_first_written() {
    let (dir, repository) = repository();
    assert_eq!(repository.known_devices(&digits(), 2).unwrap(), None);
    let ids: BTreeSet<[u8; 16]> = (0..1000_u128).map(u128::to_be_bytes).collect();
    repository.keep_known_devices(&digits(), 2, &ids).unwrap();
    assert_eq!(repository.known_devices(&digits(), 2).unwrap(), Some(ids));
    assert_eq!(repository.known_devices(&digits(), 3).unwrap(), None);
    std::fs::write(dir.path().join("repo/known/digits-2"), "00\n").unwrap();
    let damaged = repository.known_devices(&digits(), 2);
    assert!(matches!(damaged, Err(RepositoryError::Damaged { .. })), "{damaged:?}");
}
