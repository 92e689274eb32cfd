//! From a pack to live, with no link at all.

use super::*;
use crate::inbox::{Inbox, Pack};

/// The offer as it comes on a stick, in a directory of its own.
fn packed(world: &World) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let pack = world.repository.pack(&digits(), &Audience::group("shop")).unwrap();
    let path = dir.path().join("digits.pack");
    std::fs::write(&path, pack.bytes).unwrap();
    (dir, path)
}

fn open(path: &Path) -> Pack {
    Pack::open(std::fs::File::open(path).unwrap()).unwrap()
}

async fn take(device: &mut Device, pack: &Pack) {
    device.updater.take_pack(pack, &|| ()).await.unwrap();
}

#[tokio::test]
async fn a_pack_in_the_inbox_becomes_the_live_version_with_no_link() {
    let world = World::new();
    let (dir, path) = packed(&world);
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 2).await.unwrap();
    let mut inbox = Inbox::new(dir.path());
    assert!(inbox.look(Duration::from_secs(0)).is_none());
    let found = inbox.look(Duration::from_secs(10)).unwrap();
    assert_eq!(found.path, path);
    take(&mut device, &Pack::open(found.file).unwrap()).await;
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    assert_eq!(device.updater.status().models[0].state, ModelState::Idle);
    // The same stick again: nothing to do, nothing to complain of.
    let before = device.updater.status().outcomes;
    take(&mut device, &open(&path)).await;
    assert_eq!(device.updater.status().outcomes, before);
    drop(device);
    let mut device = Device::start(&world, &disk, 3).await.unwrap();
    take(&mut device, &open(&path)).await;
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

/// Version 2 is offered by a team that the model was delegated to.
fn world_of_a_team() -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    drop(Repository::init(&path, &InitOptions::default()).unwrap());
    let key = make_key(&path, "vision", None).unwrap();
    let mut repository = Repository::open(&path).unwrap();
    let (name, patterns) = ("vision".to_owned(), vec!["digits/*".to_owned()]);
    let team = Team { name, patterns, keys: vec![key], threshold: 1, terminating: true };
    repository.delegate(&team).unwrap();
    let (factory, _) = read_model_dir(&model_dir("digits")).unwrap();
    let (adapted, _) = read_model_dir(&model_dir("digits-adapted")).unwrap();
    let options = PublishOptions::default();
    repository.publish_as("vision", &adapted, &Audience::group("shop"), &options).unwrap();
    let root = repository.root_json().unwrap();
    World::of(root, factory, repository, dir)
}

#[tokio::test]
async fn a_teams_model_comes_by_a_pack_too() {
    let world = world_of_a_team();
    let (_dir, path) = packed(&world);
    let mut device = Device::start(&world, &settled(&world).await, 2).await.unwrap();
    take(&mut device, &open(&path)).await;
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn a_pack_is_believed_no_more_than_a_link() {
    let world = World::new();
    let other = World::new();
    let (_dir, path) = packed(&other);
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 2).await.unwrap();
    take(&mut device, &open(&path)).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1, "another operator's");
    assert!(device.updater.verified().is_none());

    // A chunk that was changed on the way.
    let (_dir, path) = packed(&world);
    let sound = std::fs::read(&path).unwrap();
    let largest = world.board.values().max_by_key(|bytes| bytes.len()).unwrap();
    let at = sound.windows(largest.len()).position(|bytes| bytes == &largest[..]).unwrap();
    let mut changed = sound.clone();
    changed[at + 50] ^= 1;
    std::fs::write(&path, changed).unwrap();
    take(&mut device, &open(&path)).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    assert_eq!(device.updater.status().outcomes.last().unwrap().code, Code::DigestMismatch);
    std::fs::write(&path, sound).unwrap();
    take(&mut device, &open(&path)).await;
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2, "the sound one after it");
}

#[tokio::test]
async fn power_cut_at_any_operation_while_a_pack_is_taken() {
    let world = World::new();
    let (_dir, path) = packed(&world);
    let base = settled(&world).await;
    for torn in [Torn::Lost, Torn::Kept] {
        for cut in (0..).step_by(3 * STEP) {
            let disk = base.reboot(Torn::Kept);
            let mut device = Device::start(&world, &disk, 1000).await.unwrap();
            disk.cut_after(cut);
            let done = device.updater.take_pack(&open(&path), &|| ()).await.is_ok();
            let disk = disk.reboot(torn);
            let mut device = Device::start(&world, &disk, 1001).await.unwrap();
            assert!([1, 2].contains(&device.ask(&world).await.unwrap()), "{torn:?}, cut after {cut}");
            device.updater.resume().await.unwrap();
            take(&mut device, &open(&path)).await;
            device.serve(&world).await.unwrap();
            assert_eq!(device.ask(&world).await.unwrap(), 2, "{torn:?}, cut after {cut}");
            if done {
                assert!(cut > 20, "the pack was not taken");
                count_points(&format!("pack-{torn:?}").to_lowercase(), cut / (3 * STEP as u64) + 1);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_device_with_a_base_takes_the_whole_from_a_pack_without_deltas() {
    let world = World::with_delta();
    let (_dir, path) = packed(&world);
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 2).await.unwrap();
    take(&mut device, &open(&path)).await;
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}
