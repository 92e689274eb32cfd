//! Promises of publishing: what a device gets from the board, and what a kill leaves.

mod rollout;
mod roots;
mod signers;
mod teams;

use super::fixture::{DEVICE, Device, Shown};
use super::keys::KeyRing;
use super::*;
use crate::bundle::delta::{Expected, apply};
use crate::bundle::{Bundle, Node, expand, topics};
use crate::store::read_model_dir;
use crate::sys::{Disk, FaultyDisk, ManualClock, RealDisk, Torn, unix_now};
use crate::trust::{Needs, Progress, Recipient, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const DAY: u64 = 86_400;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// The digits model under another version, with one file changed.
fn bundle(version: u32, labels: &str) -> Bundle {
    let mut files = BTreeMap::new();
    for name in ["manifest.toml", "model.onnx", "golden.safetensors", "labels.txt"] {
        files.insert(name.to_owned(), std::fs::read(model("digits").join(name)).unwrap());
    }
    let manifest = String::from_utf8(files["manifest.toml"].clone()).unwrap();
    let lines = manifest.lines().map(|line| match line.split('=').next().map(str::trim) {
        Some("version") => format!("version = {version}\n"),
        _ => format!("{line}\n"),
    });
    files.insert("manifest.toml".to_owned(), lines.collect::<String>().into_bytes());
    if !labels.is_empty() {
        files.insert("labels.txt".to_owned(), labels.as_bytes().to_vec());
    }
    Bundle::pack(&files).unwrap()
}

fn repository() -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::init(&dir.path().join("repo"), &InitOptions::default()).unwrap();
    (dir, repository)
}

fn shop() -> Audience {
    Audience::group("shop")
}

const PLAIN: PublishOptions = PublishOptions { allow_downgrade: false, retry: false, deltas: 0, urgent: false };
const BACK: PublishOptions = PublishOptions { allow_downgrade: true, ..PLAIN };
const DELTAS: PublishOptions = PublishOptions { deltas: PublishOptions::DELTAS, ..PLAIN };

#[tokio::test]
async fn what_is_published_comes_to_the_device_to_the_byte() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    let (bundle, _) = read_model_dir(&model("digits")).unwrap();
    let publication = repository.publish(&bundle, &shop(), &PLAIN).unwrap();
    let last = publication.posts.last().unwrap();
    assert_eq!(last.topic, topics::tuf("timestamp.json"), "the timestamp last");
    board.take(&publication).await.unwrap();
    let mut device = Device::new(&repository);
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    let offers = device.trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]));
    assert_eq!(board.fetch(&offers[0].digest).digest(), bundle.digest());
    assert_eq!(offers[0].size, board.bytes(&offers[0].digest).len() as u64);
    assert!(device.versions(&board, "office").is_empty());
}

#[tokio::test]
async fn chunks_that_are_there_are_not_posted_again() {
    let (_dir, mut repository) = repository();
    let first = repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap();
    repository.confirm(&first).unwrap();
    let second = repository.publish(&bundle(2, "a\nb\n0\n1\n2\n3\n4\n5\n6\n7\n"), &shop(), &PLAIN).unwrap();
    let topics: BTreeSet<&str> = first.posts.iter().map(|post| post.topic.as_str()).collect();
    let again = second.posts.iter().filter(|post| post.topic.contains("/chunk/"));
    assert!(again.clone().all(|post| !topics.contains(post.topic.as_str())));
    let release = second.release.unwrap();
    assert_eq!(release.new_chunks + 1, again.count(), "the new chunks and the node");
    assert!(release.new_wire <= release.wire && release.new_chunks <= release.chunks);
    assert!(!second.posts.iter().any(|post| post.topic.ends_with("root.json")), "the root is there already");
}

#[tokio::test]
async fn an_upload_broken_at_any_post_is_made_good_by_the_next() {
    for broken in 0.. {
        let (_dir, mut repository) = repository();
        let board = Shown { left: Mutex::new(Some(broken)), ..Shown::default() };
        let first = repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap();
        let done = board.take(&first).await.is_ok();
        *board.left.lock().unwrap() = None;
        let mut device = Device::new(&repository);
        if !done {
            assert_eq!(device.update(&board).await.unwrap(), Progress::Waiting, "post {broken}");
        }
        let second = repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap();
        board.take(&second).await.unwrap();
        repository.confirm(&second).unwrap();
        assert_eq!(device.update(&board).await.unwrap(), Progress::Committed, "post {broken}");
        assert_eq!(device.versions(&board, "shop"), [2], "post {broken}");
        if done {
            break;
        }
    }
}

/// The directory, without keys, on a disk that can fail.
fn copy(dir: &Path) -> FaultyDisk {
    let disk = FaultyDisk::new();
    for part in ["", "metadata", "chunks"] {
        for name in RealDisk.list(&dir.join(part)).unwrap() {
            let path = dir.join(part).join(name);
            if path.is_file() {
                disk.commit(&path, &std::fs::read(&path).unwrap()).unwrap();
            }
        }
    }
    disk
}

fn on(disk: &FaultyDisk, dir: &Path, now: u64) -> Repository {
    let keys = KeyRing::load(&dir.join("keys"), &Passphrase::default()).unwrap();
    Repository::assemble(Arc::new(disk.clone()), Arc::new(ManualClock::new(now, true)), dir, keys).unwrap()
}

#[tokio::test]
async fn a_kill_at_any_operation_leaves_a_directory_that_publishes_old_or_new() {
    let (dir, mut repository) = repository();
    repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap();
    drop(repository);
    let path = dir.path().join("repo");
    for torn in Torn::ALL {
        for cut in 0.. {
            let disk = copy(&path);
            disk.cut_after(cut);
            let done = on_cut(&disk, &path);
            let after = disk.reboot(torn);
            let mut repository = on(&after, &path, unix_now());
            let board = Shown::default();
            board.take(&repository.everything().unwrap()).await.unwrap();
            let mut device = Device::new(&repository);
            device.update(&board).await.unwrap();
            let found = device.versions(&board, "shop");
            assert!(found == [2] || !done && found == [1], "{torn:?} cut {cut}: {found:?}");
            board.take(&repository.publish(&bundle(2, ""), &shop(), &DELTAS).unwrap()).await.unwrap();
            device.update(&board).await.unwrap();
            assert_eq!(device.versions(&board, "shop"), [2], "{torn:?} cut {cut}");
            if done {
                break;
            }
        }
    }
}

/// Publishes version 2 on a disk that fails; true when it came through.
fn on_cut(disk: &FaultyDisk, path: &Path) -> bool {
    let keys = KeyRing::load(&path.join("keys"), &Passphrase::default()).unwrap();
    let clock = Arc::new(ManualClock::new(unix_now(), true));
    Repository::assemble(Arc::new(disk.clone()), clock, path, keys)
        .is_ok_and(|mut repository| repository.publish(&bundle(2, ""), &shop(), &DELTAS).is_ok())
}

#[test]
fn one_command_at_a_time() {
    let (dir, repository) = repository();
    let path = dir.path().join("repo");
    assert!(matches!(Repository::open(&path), Err(RepositoryError::Locked(_))));
    drop(repository);
    assert!(Repository::open(&path).is_ok());
}

#[test]
fn a_directory_is_made_once_and_missing_ones_are_named() {
    let (dir, repository) = repository();
    drop(repository);
    let path = dir.path().join("repo");
    assert!(matches!(Repository::init(&path, &InitOptions::default()), Err(RepositoryError::AlreadyThere(_))));
    assert!(matches!(Repository::open(dir.path()), Err(RepositoryError::NotThere(_))));
    for (root_keys, root_threshold) in [(1, 2), (1, 0), (0, 0), (99, 1)] {
        let options = InitOptions { root_keys, root_threshold, ..InitOptions::default() };
        assert!(matches!(Repository::init(&dir.path().join("x"), &options), Err(RepositoryError::Options(_))));
    }
}

#[tokio::test]
async fn a_version_must_grow_or_be_marked() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    repository.publish(&bundle(3, ""), &shop(), &PLAIN).unwrap();
    let error = repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(error, RepositoryError::NotNewer { published: 3, offered: 2, .. }), "{error}");
    let other = bundle(3, "x\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    for audience in [shop(), Audience::group("office")] {
        let error = repository.publish(&other, &audience, &BACK).unwrap_err();
        assert!(matches!(error, RepositoryError::VersionTaken { version: 3, .. }), "{error}");
    }
    repository.publish(&bundle(3, ""), &shop(), &PLAIN).unwrap();
    board.take(&repository.publish(&bundle(2, ""), &shop(), &BACK).unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    let offers = device.trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]));
    assert_eq!((offers[0].version, offers[0].allow_downgrade), (2, true));
}

#[tokio::test]
async fn one_group_keeps_its_version_when_another_moves_on() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    repository.publish(&bundle(1, ""), &Audience::group("stable"), &PLAIN).unwrap();
    repository.publish(&bundle(2, ""), &Audience::group("beta"), &PLAIN).unwrap();
    let listed = Audience { groups: vec![], devices: vec![DEVICE], percent: 100, ..Audience::default() };
    board.take(&repository.publish(&bundle(3, ""), &listed, &PLAIN).unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    let version = |id: &[u8; 16], group: &str| {
        let offers = device.trust.verified().unwrap().offers_for(&Recipient::bare(id, &[group.to_owned()]));
        offers.first().map(|offer| offer.version)
    };
    assert_eq!(
        [version(&[9; 16], "stable"), version(&[9; 16], "beta"), version(&[9; 16], "x")],
        [Some(1), Some(2), None]
    );
    assert_eq!(version(&DEVICE, "stable"), Some(3));
    let targets =
        board.topics.lock().unwrap().iter().find(|(topic, _)| topic.ends_with("targets.json")).unwrap().1.clone();
    assert!(!String::from_utf8(targets).unwrap().contains(&hex::encode(DEVICE)), "ids are salted");
}

#[tokio::test]
async fn retry_raises_the_epoch_and_a_wider_share_does_not() {
    let (_dir, mut repository) = repository();
    let epoch = |repository: &Repository| {
        let text = String::from_utf8(repository.everything().unwrap().posts.iter().rev().nth(2).unwrap().bytes.clone());
        let value: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        let targets = value["signed"]["targets"].as_object().unwrap();
        targets.values().next().unwrap()["custom"]["retry"].as_u64().unwrap()
    };
    let tenth = Audience { percent: 10, ..shop() };
    repository.publish(&bundle(1, ""), &tenth, &PLAIN).unwrap();
    repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(epoch(&repository), 0);
    repository.publish(&bundle(1, ""), &shop(), &PublishOptions { retry: true, ..PLAIN }).unwrap();
    assert_eq!(epoch(&repository), 1);
    repository.publish(&bundle(2, ""), &shop(), &PLAIN).unwrap();
    assert_eq!(epoch(&repository), 0);
}

#[tokio::test]
async fn refresh_keeps_offers_and_dates_ahead() {
    let (dir, mut repository) = repository();
    let board = Shown::default();
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    let path = dir.path().join("repo");
    drop(repository);
    let disk = copy(&path);
    let mut now = unix_now();
    for month in 0..30 {
        now += 29 * DAY;
        let mut repository = on(&disk, &path, now);
        board.take(&repository.refresh().unwrap()).await.unwrap();
        assert_eq!(device.update(&board).await.unwrap(), Progress::Committed, "month {month}");
        assert_eq!(device.versions(&board, "shop"), [1]);
        assert_eq!(device.trust.device_time(&ManualClock::new(0, false)), now);
    }
    let names = disk.list(&path.join("metadata")).unwrap();
    assert!(names.len() < 15, "parts that last are not signed anew each month: {names:?}");
}

#[tokio::test]
async fn a_clock_behind_the_last_publication_does_not_date_back() {
    let (dir, repository) = repository();
    drop(repository);
    let path = dir.path().join("repo");
    let disk = copy(&path);
    let mut repository = on(&disk, &path, 5);
    let board = Shown::default();
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    assert!(device.trust.device_time(&ManualClock::new(0, false)) + DAY > unix_now());
}

#[test]
fn keys_are_for_their_owner_only() {
    let (dir, _repository) = repository();
    let keys = dir.path().join("repo/keys");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&keys), 0o700);
    let names = RealDisk.list(&keys).unwrap();
    assert_eq!(names.len(), 4);
    assert!(names.iter().all(|name| mode(&keys.join(name)) == 0o600));
}

#[tokio::test]
async fn publishing_needs_no_root_key_and_rotating_does() {
    let (dir, repository) = repository();
    drop(repository);
    let path = dir.path().join("repo");
    std::fs::copy(path.join("keys/root.1.pk8"), dir.path().join("offline")).unwrap();
    std::fs::remove_file(path.join("keys/root.1.pk8")).unwrap();
    let mut repository = Repository::open(&path).unwrap();
    let board = Shown::default();
    board.take(&repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    board.take(&repository.refresh().unwrap()).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    let error = repository.rotate(&[Role::Timestamp].into()).unwrap_err();
    assert!(matches!(&error, RepositoryError::MissingKey { role, .. } if role == "root"), "{error}");
    drop(repository);

    std::fs::copy(dir.path().join("offline"), path.join("keys/root.1.pk8")).unwrap();
    let mut repository = Repository::open(&path).unwrap();
    board.take(&repository.rotate(&[Role::Timestamp].into()).unwrap()).await.unwrap();
    board.take(&repository.rotate(&Role::ALL.into()).unwrap()).await.unwrap();
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    assert_eq!((device.trust.root_version(), device.versions(&board, "shop")), (3, vec![1]));
    std::fs::remove_file(path.join("keys/targets.1.pk8")).unwrap();
    drop(repository);
    assert!(Repository::open(&path).unwrap().publish(&bundle(2, ""), &shop(), &PLAIN).is_ok(), "old keys are done");
}

#[tokio::test]
async fn a_missing_online_key_is_said_before_anything_is_written() {
    let (dir, repository) = repository();
    drop(repository);
    let path = dir.path().join("repo");
    std::fs::remove_file(path.join("keys/targets.1.pk8")).unwrap();
    let mut repository = Repository::open(&path).unwrap();
    let error = repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap_err();
    assert!(matches!(&error, RepositoryError::MissingKey { role, .. } if role == "targets"), "{error}");
    assert!(RealDisk.list(&path.join("chunks")).unwrap().is_empty());
}

#[tokio::test]
async fn garbage_is_what_nothing_names() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    for version in 1..=3 {
        let labels = format!("{version}\n").repeat(10);
        board.take(&repository.publish(&bundle(version, &labels), &shop(), &PLAIN).unwrap()).await.unwrap();
    }
    let before = board.topics.lock().unwrap().len();
    let garbage = repository.garbage().unwrap();
    assert!(garbage.posts.iter().all(|post| post.bytes.is_empty()));
    for post in &garbage.posts {
        board.post(&post.topic, &post.bytes).await.unwrap();
    }
    repository.sweep(&garbage).unwrap();
    assert!(board.topics.lock().unwrap().len() < before);
    assert_eq!(repository.garbage().unwrap(), Garbage::default());
    let mut device = Device::new(&repository);
    assert_eq!(device.update(&board).await.unwrap(), Progress::Committed);
    assert_eq!(device.versions(&board, "shop"), [3]);
    let everything: BTreeSet<String> = repository.everything().unwrap().posts.into_iter().map(|p| p.topic).collect();
    assert_eq!(everything, board.topics.lock().unwrap().keys().cloned().collect(), "nothing more, nothing less");
}

#[tokio::test]
async fn an_index_over_one_chunk_goes_in_parts() {
    let (_dir, mut repository) = repository();
    let mut files: BTreeMap<String, Vec<u8>> = ["manifest.toml", "golden.safetensors", "labels.txt"]
        .map(|name| (name.to_owned(), std::fs::read(model("digits").join(name)).unwrap()))
        .into();
    // Over 1,000 chunks, and quick to compress.
    files.insert("model.onnx".to_owned(), vec![0; 100 << 20]);
    let big = Bundle::pack(&files).unwrap();
    let board = Shown::default();
    let publication = repository.publish(&big, &shop(), &PLAIN).unwrap();
    board.take(&publication).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    let offers = device.trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]));
    assert!(matches!(Node::parse(&board.bytes(&offers[0].digest)).unwrap(), Node::Parts { .. }));
    assert_eq!(board.fetch(&offers[0].digest).digest(), big.digest());
    let again = repository.everything().unwrap();
    let topics = |publication: &Publication| -> BTreeSet<String> {
        publication.posts.iter().map(|post| post.topic.clone()).collect()
    };
    assert_eq!(topics(&again), topics(&publication));
}

#[test]
fn bad_audiences_are_refused() {
    let (_dir, mut repository) = repository();
    for audience in [
        Audience { percent: 100, ..Audience::default() },
        Audience { percent: 101, ..shop() },
        Audience::group(""),
        Audience::group(&"x".repeat(65)),
    ] {
        let error = repository.publish(&bundle(1, ""), &audience, &PLAIN).unwrap_err();
        assert!(matches!(error, RepositoryError::Options(_)), "{error}");
    }
}

#[test]
fn damage_in_the_directory_is_said() {
    let (dir, mut repository) = repository();
    repository.publish(&bundle(1, ""), &shop(), &PLAIN).unwrap();
    let path = dir.path().join("repo");
    let chunk = path.join("chunks").join(&RealDisk.list(&path.join("chunks")).unwrap()[0]);
    std::fs::write(&chunk, b"other").unwrap();
    assert!(matches!(repository.everything(), Err(RepositoryError::Damaged { .. })));
    drop(repository);
    std::fs::write(path.join("metadata/timestamp.json"), b"").unwrap();
    assert!(matches!(Repository::open(&path), Err(RepositoryError::Damaged { .. })));
}

/// What a device makes of a version by the first delta to it.
fn by_delta(board: &Shown, device: &Device, old: &Bundle) -> Bundle {
    let offers = device.trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]));
    let (delta, contents) = (offers[0].deltas[0], offers[0].bundle.unwrap());
    let bytes = board.bytes(&delta.node);
    let Node::Delta(index) = Node::parse(&bytes).unwrap() else { panic!("no delta") };
    assert_eq!((delta.from, index.from, index.sha256), (old.digest(), old.digest(), contents.sha256));
    let wires: Vec<Vec<u8>> = index.chunks.iter().map(|chunk| board.bytes(&chunk.sha256)).collect();
    assert_eq!(delta.wire, (bytes.len() + wires.concat().len()) as u64);
    let joined = wires.iter().zip(&index.chunks).flat_map(|(wire, chunk)| expand(wire, chunk).unwrap());
    let expected = Expected { sha256: contents.sha256, size: contents.size };
    let mut packed = Vec::new();
    apply(&old.packed(), &joined.collect::<Vec<u8>>()[..], &expected, &mut packed).unwrap();
    Bundle::unpack(packed).unwrap()
}

#[tokio::test]
async fn a_delta_from_the_version_before_stands_signed_on_the_board_until_nothing_names_it() {
    let (_dir, mut repository) = repository();
    let board = Shown::default();
    board.take(&repository.publish(&bundle(1, ""), &shop(), &DELTAS).unwrap()).await.unwrap();
    let publication = repository.publish(&bundle(2, ""), &shop(), &DELTAS).unwrap();
    let release = publication.release.clone().unwrap();
    let [(1, bytes)] = release.deltas[..] else { panic!("{release:?}") };
    assert!(bytes < release.wire / 10, "{bytes} of {}", release.wire);
    board.take(&publication).await.unwrap();
    let mut device = Device::new(&repository);
    device.update(&board).await.unwrap();
    assert_eq!(by_delta(&board, &device, &bundle(1, "")).digest(), bundle(2, "").digest());
    let clear = async |repository: &mut Repository| {
        let garbage = repository.garbage().unwrap();
        for post in &garbage.posts {
            board.post(&post.topic, &[]).await.unwrap();
        }
        repository.sweep(&garbage).unwrap();
    };
    // The same version to more devices: version 1 is gone, the delta from it is not.
    clear(&mut repository).await;
    board.take(&repository.publish(&bundle(2, ""), &shop(), &DELTAS).unwrap()).await.unwrap();
    device.update(&board).await.unwrap();
    assert_eq!(by_delta(&board, &device, &bundle(1, "")).digest(), bundle(2, "").digest());
    let lost = Shown::default();
    lost.take(&repository.everything().unwrap()).await.unwrap();
    assert_eq!(by_delta(&lost, &device, &bundle(1, "")).digest(), bundle(2, "").digest());
    // With the version its delta goes.
    let offers = device.trust.verified().unwrap().offers_for(&Recipient::bare(&DEVICE, &["shop".to_owned()]));
    let gone = topics::chunk(&offers[0].deltas[0].node);
    assert!(board.get(&gone).is_some());
    board.take(&repository.publish(&bundle(3, ""), &shop(), &PLAIN).unwrap()).await.unwrap();
    clear(&mut repository).await;
    assert!(board.get(&gone).is_none());
}

#[tokio::test]
async fn deltas_are_made_from_the_newest_versions_that_are_offered_and_where_they_save_bytes() {
    let (_dir, mut repository) = repository();
    for (version, group) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        repository.publish(&bundle(version, ""), &Audience::group(group), &PLAIN).unwrap();
    }
    let from = |publication: Publication| publication.release.unwrap().deltas.iter().map(|d| d.0).collect::<Vec<_>>();
    assert_eq!(from(repository.publish(&bundle(5, ""), &shop(), &DELTAS).unwrap()), [4, 3, 2]);
    assert_eq!(from(repository.publish(&bundle(6, ""), &shop(), &PLAIN).unwrap()), [0; 0]);
    assert_eq!(from(repository.publish(&bundle(6, ""), &Audience::group("a"), &DELTAS).unwrap()), [4, 3, 2]);
}
