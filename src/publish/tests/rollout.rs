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
    let mut turn = |version, turn| repository.turn(&digits(), version, turn).map(|(changed, _)| changed.len());
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
    assert_eq!(holds(&repository), [(3, None)], "a newer version takes its place");
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
    board.take(&repository.turn(&digits(), None, Turn::Pause).unwrap().1).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!(offered(&device, 900, 5), (1, None), "what is below");
    board.take(&repository.turn(&digits(), None, Turn::Abort).unwrap().1).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!(offered(&device, 900, 5), (1, None));
}

#[tokio::test]
async fn a_teams_rollout_is_turned_with_the_teams_key_and_not_without() {
    let (dir, mut repository) = repository();
    let path = dir.path().join("repo");
    let key = make_key(&path, "vision", None).unwrap();
    drop(repository);
    repository = Repository::open(&path).unwrap();
    let patterns = vec!["digits/*".to_owned()];
    let team = Team { name: "vision".into(), patterns, keys: vec![key], threshold: 1, terminating: true };
    repository.delegate(&team).unwrap();
    repository.publish_as("vision", &bundle(2, ""), &shop(), &PLAIN).unwrap();
    let (changed, _) = repository.turn(&digits(), None, Turn::Pause).unwrap();
    assert_eq!(changed[0].team.as_deref(), Some("vision"));
    assert!(repository.teams()[0].is_signed);
    drop(repository);
    for name in RealDisk.list(&path.join("keys")).unwrap() {
        if name.starts_with("vision") {
            std::fs::remove_file(path.join("keys").join(name)).unwrap();
        }
    }
    let mut repository = Repository::open(&path).unwrap();
    assert!(repository.turn(&digits(), None, Turn::Resume).is_err());
    assert_eq!(holds(&repository), [(2, Some(Hold::Paused))], "nothing changed");
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
    repository.check_keys().unwrap();
}
