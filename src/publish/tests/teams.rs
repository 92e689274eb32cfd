//! Teams: their own keys for their own models, at hand or handed in.

use super::*;
use crate::bundle::Digest;
use crate::publish::submission::Submission;
use crate::trust::author::{self, SigningKey, Stamp, TargetEntry};

/// The team's part of a directory: all but the keys, and a key of its own.
fn copy_for_team(from: &Path, to: &Path) {
    for part in ["", "metadata", "chunks"] {
        std::fs::create_dir_all(to.join(part)).unwrap();
        for name in RealDisk.list(&from.join(part)).unwrap() {
            if from.join(part).join(&name).is_file() {
                std::fs::copy(from.join(part).join(&name), to.join(part).join(&name)).unwrap();
            }
        }
    }
}

fn team(name: &str, model: &str, key: [u8; 32]) -> Team {
    Team { name: name.into(), patterns: vec![format!("{model}/*")], keys: vec![key], threshold: 1, terminating: true }
}

struct World {
    dir: TempDir,
    repository: Repository,
    board: Shown,
    device: Device,
}

impl World {
    /// An operator whose team `vision` has the digits, with its key in a directory of its own.
    async fn new() -> Self {
        let (dir, mut repository) = repository();
        let key = make_key(&dir.path().join("team"), "vision", None).unwrap();
        let board = Shown::default();
        let device = Device::new(&repository);
        board.take(&repository.delegate(&team("vision", "digits", key)).unwrap()).await.unwrap();
        copy_for_team(&dir.path().join("repo"), &dir.path().join("team"));
        Self { dir, repository, board, device }
    }

    fn team(&self) -> Repository {
        Repository::open(&self.dir.path().join("team")).unwrap()
    }

    async fn take(&mut self, publication: Result<Publication, RepositoryError>) {
        self.board.take(&publication.unwrap()).await.unwrap();
        self.device.update(&self.board).await.unwrap();
    }

    fn versions(&self) -> Vec<u32> {
        self.device.versions(&self.board, "shop")
    }
}

#[tokio::test]
async fn a_team_publishes_with_only_its_own_key_by_way_of_a_submission() {
    let mut world = World::new().await;
    let mut team = world.team();
    let error = team.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(&error, RepositoryError::MissingKey { role, .. } if role == "targets"), "{error}");
    let error = team.publish_as("vision", &bundle(1, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(&error, RepositoryError::MissingKey { role, .. } if role == "snapshot"), "{error}");
    let (first, release) = team.submit_as("vision", &bundle(1, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(release.version, 1);
    let taken = world.repository.accept(&first);
    world.take(taken).await;
    assert_eq!(world.versions(), [1]);
    let error = world.repository.accept(&first).unwrap_err();
    assert!(matches!(error, RepositoryError::BadSubmission { .. }), "taken once: {error}");
    // Two more before the next is taken: the second goes on from the first.
    team.submit_as("vision", &bundle(2, "two\n"), &shop(), &PLAIN).unwrap();
    let (third, _) = team.submit_as("vision", &bundle(3, "three\n"), &Audience::group("lab"), &PLAIN).unwrap();
    let taken = world.repository.accept(&third);
    world.take(taken).await;
    assert_eq!((world.versions(), world.device.versions(&world.board, "lab")), (vec![2], vec![3]));
    let state = &world.repository.teams()[0];
    assert_eq!((state.name.as_str(), state.version, state.is_signed, state.offers.len()), ("vision", 3, true, 2));
}

#[tokio::test]
async fn a_team_with_the_online_keys_beside_its_own_publishes_at_once() {
    let mut world = World::new().await;
    for name in ["snapshot.1.pk8", "timestamp.1.pk8"] {
        let keys = |dir: &str| world.dir.path().join(dir).join("keys").join(name);
        std::fs::copy(keys("repo"), keys("team")).unwrap();
    }
    let mut team = world.team();
    for version in 1..=3 {
        let publication = team.publish_as("vision", &bundle(version, ""), &shop(), &PLAIN);
        world.take(publication).await;
        assert_eq!(world.versions(), [version]);
    }
    let error = team.publish_as("vision", &bundle(2, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(error, RepositoryError::NotNewer { .. }), "{error}");
    let publication = team.publish_as("vision", &bundle(2, ""), &shop(), &BACK);
    world.take(publication).await;
    assert_eq!(world.versions(), [2], "a downgrade by its own explicit word");
    let everything: BTreeSet<String> = team.everything().unwrap().posts.into_iter().map(|p| p.topic).collect();
    assert!(everything.contains(&topics::tuf("4.vision.json")));
    let garbage = team.garbage().unwrap();
    assert!(garbage.posts.iter().any(|post| post.topic == topics::tuf("3.vision.json")));
    let fresh = Shown::default();
    fresh.take(&team.everything().unwrap()).await.unwrap();
    let mut device = Device::new(&world.repository);
    device.update(&fresh).await.unwrap();
    assert_eq!(device.versions(&fresh, "shop"), [2]);
}

#[tokio::test]
async fn what_the_operator_publishes_stays_beside_a_team_and_may_go_back_over_it() {
    let mut world = World::new().await;
    let published = world.repository.publish(&bundle(1, ""), &shop(), &PLAIN);
    world.take(published).await;
    copy_for_team(&world.dir.path().join("repo"), &world.dir.path().join("team"));
    let (bytes, _) = world.team().submit_as("vision", &bundle(4, "four\n"), &shop(), &PLAIN).unwrap();
    let taken = world.repository.accept(&bytes);
    world.take(taken).await;
    assert_eq!(world.versions(), [4], "the higher of the two");
    // The emergency: the operator's own word takes back what the team has offered.
    let back = world.repository.publish(&bundle(2, "two\n"), &shop(), &BACK);
    world.take(back).await;
    assert_eq!(world.versions(), [2]);
    let refreshed = world.repository.refresh();
    world.take(refreshed).await;
    assert_eq!(world.versions(), [2], "and a refresh keeps it so");
}

#[tokio::test]
async fn keys_of_a_team_are_rotated_and_revoked() {
    let mut world = World::new().await;
    let mut old = world.team();
    let (first, _) = old.submit_as("vision", &bundle(1, ""), &shop(), &PLAIN).unwrap();
    let taken = world.repository.accept(&first);
    world.take(taken).await;
    let key = make_key(&world.dir.path().join("new"), "vision-b", None).unwrap();
    let delegated = world.repository.delegate(&team("vision", "digits", key));
    world.take(delegated).await;
    assert!(world.versions().is_empty(), "what the old key signed is offered no more");
    assert!(!world.repository.teams()[0].is_signed);
    let (late, _) = old.submit_as("vision", &bundle(2, "two\n"), &shop(), &PLAIN).unwrap();
    let error = world.repository.accept(&late).unwrap_err();
    assert!(matches!(error, RepositoryError::BadSubmission { .. }), "{error}");
    copy_for_team(&world.dir.path().join("repo"), &world.dir.path().join("new"));
    let mut new = Repository::open(&world.dir.path().join("new")).unwrap();
    let (good, _) = new.submit_as("vision", &bundle(2, "two\n"), &shop(), &PLAIN).unwrap();
    let taken = world.repository.accept(&good);
    world.take(taken).await;
    assert_eq!(world.versions(), [2]);
    let gone = world.repository.undelegate("vision");
    world.take(gone).await;
    assert!(world.versions().is_empty());
    let error = world.repository.undelegate("vision").unwrap_err();
    assert!(matches!(error, RepositoryError::NoSuchTeam(_)), "{error}");
    let again = world.repository.delegate(&team("vision", "digits", key));
    world.take(again).await;
    assert_eq!(world.versions(), [2], "the snapshot never dropped it");
}

#[tokio::test]
async fn a_submission_of_what_is_not_delegated_or_not_whole_is_refused() {
    let mut world = World::new().await;
    let key = make_key(&world.dir.path().join("sound"), "sound", None).unwrap();
    let delegated = world.repository.delegate(&team("sound", "words", key));
    world.take(delegated).await;
    copy_for_team(&world.dir.path().join("repo"), &world.dir.path().join("sound"));
    let mut sound = Repository::open(&world.dir.path().join("sound")).unwrap();
    let error = sound.submit_as("sound", &bundle(1, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(error, RepositoryError::NotDelegated { .. }), "{error}");
    let error = sound.submit_as("vision", &bundle(1, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(error, RepositoryError::MissingKey { .. }), "another's name, not another's key: {error}");

    let (good, _) = world.team().submit_as("vision", &bundle(1, ""), &shop(), &PLAIN).unwrap();
    let submission = Submission::from_bytes(&good).unwrap();
    let last = *submission.chunks.keys().last().unwrap();
    let mut lacking = submission.clone();
    lacking.chunks.remove(&last);
    let renamed = Submission { team: "sound".into(), ..submission.clone() };
    let raised = Submission { version: 9, ..submission.clone() };
    let mut flipped = submission.clone();
    let middle = flipped.file.len() / 2;
    flipped.file[middle] ^= 1;
    let empty = Submission { chunks: BTreeMap::new(), ..submission.clone() };
    // The team's own key under targets that are not its own.
    let key = std::fs::read(world.dir.path().join("team/keys/vision.pk8")).unwrap();
    let key = SigningKey::from_pkcs8(&key).unwrap();
    let sign = |entries: &BTreeMap<String, TargetEntry>| {
        let stamp = Stamp { version: 1, expires: unix_now() + DAY };
        Submission { file: author::targets(stamp, entries, &[&key]).unwrap(), ..submission.clone() }
    };
    let (_, own) = world.team().current().newest_of("vision");
    let entry = own.values().next().unwrap().clone();
    let elsewhere = sign(&[("words/x".to_owned(), entry.clone())].into());
    let mut endless = entry.clone();
    endless.custom.published = u32::MAX;
    let endless = sign(&[(own.keys().next().unwrap().clone(), endless)].into());
    let ahead = Stamp { version: 1002, expires: unix_now() + DAY };
    let ahead = author::targets(ahead, &own, &[&key]).unwrap();
    let ahead = Submission { version: 1002, file: ahead, ..submission.clone() };
    let mut other = entry;
    other.custom.model = crate::bundle::ModelName::new("words").unwrap();
    let disguised = sign(&[("digits/x".to_owned(), other)].into());
    assert!(world.repository.accept(&sign(&own).to_bytes().unwrap()[..2048]).is_err());
    let before = world.repository.current().targets.version;
    for bad in [lacking, renamed, raised, flipped, empty, elsewhere, disguised, endless, ahead] {
        let error = world.repository.accept(&bad.to_bytes().unwrap()).unwrap_err();
        assert!(matches!(error, RepositoryError::BadSubmission { .. }), "{error}");
    }
    let unnamed = Digest::of(b"unnamed");
    let mut more = submission.clone();
    more.chunks.insert(unnamed, b"unnamed".to_vec());
    // The last two blocks are the tar's end.
    for cut in (0..good.len() - 1024).step_by(997) {
        assert!(world.repository.accept(&good[..cut]).is_err(), "cut to {cut}");
    }
    assert!(world.repository.accept(&[0xff; 4096]).is_err());
    assert_eq!((world.repository.current().targets.version, world.repository.teams()[0].version), (before, 0));
    let kept = || RealDisk.list(&world.dir.path().join("repo/chunks")).unwrap();
    assert!(kept().is_empty(), "nothing of them was kept");
    let taken = world.repository.accept(&more.to_bytes().unwrap());
    world.take(taken).await;
    assert_eq!(world.versions(), [1]);
    let kept = RealDisk.list(&world.dir.path().join("repo/chunks")).unwrap();
    assert!(!kept.contains(&unnamed.to_string()), "what no target leads to is left out");
}

#[tokio::test]
async fn a_kill_while_a_submission_is_taken_leaves_old_or_new() {
    let world = World::new().await;
    let (good, _) = world.team().submit_as("vision", &bundle(1, ""), &shop(), &PLAIN).unwrap();
    let path = world.dir.path().join("repo");
    drop(world.repository);
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = copy(&path);
            let mut repository = on(&disk, &path, unix_now());
            disk.cut_after(cut);
            let done = repository.accept(&good).is_ok();
            let disk = disk.reboot(torn);
            let mut repository = on(&disk, &path, unix_now());
            let is_taken = repository.teams()[0].version == 1;
            assert!(is_taken || !done, "{torn:?} cut {cut}");
            let next = if is_taken { repository.refresh() } else { repository.accept(&good) };
            let board = Shown::default();
            board.take(&next.unwrap()).await.unwrap();
            let mut device = Device::new(&repository);
            device.update(&board).await.unwrap();
            assert_eq!(device.versions(&board, "shop"), [1], "{torn:?} cut {cut}");
            if done {
                break;
            }
        }
    }
}

#[test]
fn bad_teams_are_refused() {
    let (_dir, mut repository) = repository();
    let good = team("vision", "digits", [7; 32]);
    for bad in [
        Team { name: "targets".into(), ..good.clone() },
        Team { name: "a/b".into(), ..good.clone() },
        Team { name: String::new(), ..good.clone() },
        Team { patterns: vec![], ..good.clone() },
        Team { patterns: vec!["digits".into()], ..good.clone() },
        Team { patterns: vec!["*".into()], ..good.clone() },
        Team { patterns: vec!["/x".into()], ..good.clone() },
        Team { patterns: vec!["digits/*".into(); 65], ..good.clone() },
        Team { keys: vec![], ..good.clone() },
        Team { threshold: 0, ..good.clone() },
        Team { threshold: 2, ..good.clone() },
    ] {
        assert!(matches!(repository.delegate(&bad), Err(RepositoryError::Options(_))), "{bad:?}");
    }
    let error = repository.delegate(&Team { patterns: vec!["digits/[".into()], ..good.clone() }).unwrap_err();
    assert!(matches!(error, RepositoryError::Author(_)), "{error}");
    for n in 0..32 {
        repository.delegate(&Team { name: format!("t{n}"), ..good.clone() }).unwrap();
    }
    assert!(matches!(repository.delegate(&good), Err(RepositoryError::Options(_))), "32 are read");
}
