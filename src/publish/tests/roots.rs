//! Roots: thresholds, single keys revoked, signed on another machine.

use super::*;
use crate::trust::author::SigningKey;

fn init(root_keys: u32, root_threshold: u32) -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { root_keys, root_threshold, ..InitOptions::default() };
    let repository = Repository::init(&dir.path().join("repo"), &options).unwrap();
    (dir, repository)
}

/// Takes root keys of the directory away to places of their own.
fn take_away(path: &Path, names: &[&str]) -> Vec<TempDir> {
    let away = |name: &&str| {
        let place = tempfile::tempdir().unwrap();
        let file = format!("{name}.pk8");
        std::fs::copy(path.join("keys").join(&file), place.path().join(&file)).unwrap();
        std::fs::remove_file(path.join("keys").join(&file)).unwrap();
        place
    };
    names.iter().map(away).collect()
}

fn ids(repository: &Repository, role: Role) -> Vec<String> {
    repository.current().public_keys(role).iter().map(|key| key.id().unwrap()).collect()
}

fn nobody() -> Passphrase {
    Passphrase::default()
}

#[tokio::test]
async fn a_root_is_signed_on_machines_apart_and_counts_when_enough_have() {
    let (dir, repository) = init(3, 2);
    let path = dir.path().join("repo");
    let board = Shown::default();
    board.take(&repository.everything().unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    drop(repository);
    let away = take_away(&path, &["root.1", "root.2", "root.3"]);
    let mut repository = Repository::open(&path).unwrap();
    let error = repository.rotate(&[Role::Timestamp].into()).unwrap_err();
    assert!(matches!(error, RepositoryError::MissingKey { needed: 2, found: 0, .. }), "{error}");
    let changes = [(Role::Timestamp, KeyChange::replace())].into();
    let proposal = repository.propose(&changes, None).unwrap();
    let change = &proposal.changes()[0];
    assert_eq!((change.role, change.added.len(), change.removed.len()), (Role::Timestamp, 1, 1));
    let carried = proposal.to_bytes();

    let sign = |place: &TempDir| {
        let mut copy = Proposal::from_bytes(&carried).unwrap();
        assert_eq!(copy.sign(place.path(), &nobody()).unwrap(), 1);
        assert_eq!(copy.sign(place.path(), &nobody()).unwrap(), 1, "signing twice is signing once");
        assert_eq!(copy.counts().0, Count { valid: 1, needed: 2 });
        copy
    };
    let mut first = sign(&away[0]);
    let error = repository.accept_root(&first).unwrap_err();
    assert!(matches!(error, RepositoryError::Unsigned { .. }), "{error}");
    assert_eq!(repository.current().root_version, 1);
    first.merge(&sign(&away[2])).unwrap();
    assert!(first.is_complete());
    let brought = Proposal::from_bytes(&first.to_bytes()).unwrap();
    board.take(&repository.accept_root(&brought).unwrap()).await.unwrap();
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    assert_eq!(device.trust.root_version(), 2);
    let error = repository.accept_root(&brought).unwrap_err();
    assert!(matches!(error, RepositoryError::BadProposal(_)), "it was for another root: {error}");
}

#[tokio::test]
async fn a_single_key_is_revoked_and_its_signature_counts_no_more() {
    let (_dir, mut repository) = init(3, 2);
    let board = Shown::default();
    board.take(&repository.everything().unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    let before = ids(&repository, Role::Root);
    let revoke = |id: &str| KeyChange { revoke: vec![id.to_owned()], ..KeyChange::default() };
    for (wrong, role) in
        [("", Role::Root), ("00000000", Role::Root), (&before[0][..7], Role::Root), (&before[0], Role::Targets)]
    {
        let error = repository.propose(&[(role, revoke(wrong))].into(), None).unwrap_err();
        assert!(matches!(error, RepositoryError::NoSuchKey { .. }), "{wrong}: {error}");
    }
    board.take(&repository.rotate_with(&[(Role::Root, revoke(&before[0][..8]))].into(), None).unwrap()).await.unwrap();
    assert_eq!(ids(&repository, Role::Root), before[1..]);
    device.update(&board).await.unwrap();
    assert_eq!(device.trust.root_version(), 2);
    // Where too few would stay, new ones come.
    for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
        let old = ids(&repository, role);
        board.take(&repository.rotate_with(&[(role, revoke(&old[0]))].into(), None).unwrap()).await.unwrap();
        let new = ids(&repository, role);
        assert_eq!((new.len(), new.contains(&old[0])), (old.len(), false), "{role}");
        assert_eq!(repository.current().threshold(role), if role == Role::Root { 2 } else { 1 });
        assert_eq!(device.update(&board).await.unwrap(), Progress::Committed, "{role}");
    }
    assert_eq!(device.trust.root_version(), 6);
}

#[tokio::test]
async fn thresholds_of_every_role_change_and_devices_hold_to_them() {
    let (_dir, mut repository) = init(1, 1);
    let board = Shown::default();
    board.take(&repository.everything().unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    for (n, role) in (2..).zip(Role::ALL) {
        let change = KeyChange { threshold: Some(2), ..KeyChange::default() };
        board.take(&repository.rotate_with(&[(role, change)].into(), None).unwrap()).await.unwrap();
        assert_eq!((ids(&repository, role).len(), repository.current().threshold(role)), (2, 2), "a key came");
        assert_eq!(device.update(&board).await.unwrap(), Progress::Committed, "{role}");
        assert_eq!(device.trust.root_version(), n);
    }
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!(device.versions(&board, "shop"), [1]);
    for threshold in [0, 17] {
        let change = KeyChange { threshold: Some(threshold), ..KeyChange::default() };
        let error = repository.propose(&[(Role::Root, change)].into(), None).unwrap_err();
        assert!(matches!(error, RepositoryError::Options(_)), "{error}");
    }
}

#[test]
fn a_root_whose_keys_nobody_here_holds_is_not_made_to_count() {
    let (_dir, mut repository) = init(1, 1);
    let elsewhere = *SigningKey::generate().unwrap().public_bytes();
    let change = KeyChange { add: vec![elsewhere], ..KeyChange::replace() };
    let proposal = repository.propose(&[(Role::Timestamp, change)].into(), None).unwrap();
    assert!(proposal.is_complete());
    let error = repository.accept_root(&proposal).unwrap_err();
    assert!(matches!(&error, RepositoryError::MissingKey { role, .. } if role == "timestamp"), "{error}");
    assert_eq!(repository.current().root_version, 1);
    assert!(repository.refresh().is_ok());
}

#[test]
fn new_root_keys_alone_make_no_root() {
    let (dir, repository) = init(1, 1);
    drop(repository);
    let path = dir.path().join("repo");
    let _away = take_away(&path, &["root.1"]);
    let mut repository = Repository::open(&path).unwrap();
    let proposal = repository.propose(&[(Role::Root, KeyChange::replace())].into(), None).unwrap();
    assert_eq!(proposal.counts(), (Count { valid: 0, needed: 1 }, Count { valid: 1, needed: 1 }));
    assert!(matches!(repository.accept_root(&proposal), Err(RepositoryError::Unsigned { .. })));
    assert_eq!(repository.current().root_version, 1);
}

#[test]
fn what_is_no_proposal_is_refused_and_says_why() {
    let (_dir, mut repository) = init(1, 1);
    let good = repository.propose(&BTreeMap::new(), None).unwrap();
    let text = String::from_utf8(good.to_bytes()).unwrap();
    let many = vec![b' '; 300 << 10];
    let deep = b"[".repeat(100_000);
    let other = text.replace("\"selvedge-proposal\": 1", "\"selvedge-proposal\": 2");
    let skipped = text.replace("\"version\": 2", "\"version\": 3");
    assert!(other != text && skipped != text);
    for bytes in [b"".as_slice(), b"{}", b"null", &many, &deep, other.as_bytes(), skipped.as_bytes()] {
        let error = Proposal::from_bytes(bytes).unwrap_err();
        assert!(matches!(error, RepositoryError::BadProposal(_)), "{error}");
    }
    let mut forged: serde_json::Value = serde_json::from_str(&text).unwrap();
    forged["proposed"]["signed"]["expires"] = serde_json::json!("2999-01-01T00:00:00Z");
    let forged = Proposal::from_bytes(forged.to_string().as_bytes()).unwrap();
    assert!(!forged.is_complete(), "its signatures are of another root");
    assert!(matches!(repository.accept_root(&forged), Err(RepositoryError::Unsigned { .. })));
}

#[tokio::test]
async fn a_kill_while_a_proposed_root_is_taken_leaves_a_directory_that_goes_on() {
    let (dir, mut repository) = init(2, 2);
    let path = dir.path().join("repo");
    let proposal = repository.propose(&BTreeMap::new(), None).unwrap();
    drop(repository);
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = copy(&path);
            let mut repository = on(&disk, &path, unix_now());
            disk.cut_after(cut);
            let done = repository.accept_root(&proposal).is_ok();
            let disk = disk.reboot(torn);
            let mut repository = on(&disk, &path, unix_now());
            let version = repository.current().root_version;
            assert!(version == 2 || !done && version == 1, "{torn:?} cut {cut}");
            let publication = if version == 1 { repository.accept_root(&proposal) } else { repository.refresh() };
            let board = Shown::default();
            board.take(&publication.unwrap()).await.unwrap();
            let root = std::fs::read(path.join("metadata/1.root.json")).unwrap();
            let trust = crate::trust::Trust::open(Arc::new(FaultyDisk::new()), Path::new("/t"), &root).unwrap();
            let mut device = Device { trust };
            assert_eq!(device.update(&board).await.unwrap(), Progress::Committed, "{torn:?} cut {cut}");
            assert_eq!(device.trust.root_version(), 2, "{torn:?} cut {cut}");
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_operators_clock_that_ran_years_ahead_is_set_right_by_new_timestamp_keys() {
    let (dir, repository) = init(1, 1);
    let board = Shown::default();
    board.take(&repository.everything().unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    drop(repository);
    let path = dir.path().join("repo");
    let (disk, now) = (copy(&path), unix_now());
    let ahead = now + 1000 * DAY;
    board.take(&on(&disk, &path, ahead).publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    device.update(&board).await.unwrap();
    let unset = ManualClock::new(0, false);
    assert_eq!(device.trust.device_time(&unset), ahead);
    let mut repository = on(&disk, &path, now);
    board.take(&repository.refresh().unwrap()).await.unwrap();
    assert_eq!(repository.issued(), ahead, "a refresh does not date back");
    device.update(&board).await.unwrap();
    board.take(&repository.rotate(&[Role::Timestamp].into()).unwrap()).await.unwrap();
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    assert_eq!((repository.issued(), device.trust.device_time(&unset)), (now, now));
    assert_eq!(device.versions(&board, "shop"), [1]);
}

#[tokio::test]
async fn root_keys_move_to_machines_that_were_never_online() {
    let (dir, mut repository) = init(1, 1);
    let board = Shown::default();
    board.take(&repository.everything().unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    let far = [dir.path().join("a"), dir.path().join("b")];
    let add = far.iter().map(|place| make_key(place, "root-key", None).unwrap()).collect();
    let change = KeyChange { add, threshold: Some(2), ..KeyChange::replace() };
    let mut proposal = repository.propose(&[(Role::Root, change)].into(), None).unwrap();
    assert_eq!(proposal.counts(), (Count { valid: 1, needed: 1 }, Count { valid: 0, needed: 2 }));
    for place in &far {
        assert!(matches!(repository.accept_root(&proposal), Err(RepositoryError::Unsigned { .. })));
        assert_eq!(proposal.sign(&place.join("keys"), &nobody()).unwrap(), 1);
    }
    board.take(&repository.accept_root(&proposal).unwrap()).await.unwrap();
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    assert_eq!(device.trust.root_version(), 2);
    let error = repository.rotate(&[Role::Timestamp].into()).unwrap_err();
    assert!(matches!(error, RepositoryError::MissingKey { needed: 2, found: 0, .. }), "the old one counts no more");
}
