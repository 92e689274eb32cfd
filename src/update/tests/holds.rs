//! What the operator has stopped stays stopped: over starts, beside newer versions, until its medium is the trouble.

use super::gates::{SHADOW, gated, images, last, letters, numbered};
use super::rollout::{HOUR, clock, digits_of, pass, shop, world};
use super::*;
use crate::privacy::{Verdict, WaitsFor};
use crate::sys::{ManualClock, unix_now};
use crate::trust::{Wave, Waves};

impl Device {
    /// What is signed, and nothing of what it asks for then.
    async fn hear(&mut self, world: &World) {
        self.updater.link_is_new().unwrap();
        for message in world.metadata() {
            self.updater.on_message(message).await.unwrap();
        }
    }

    /// As the driver does it, without a link.
    async fn restarted(world: &World, disk: &FaultyDisk, boot: u128) -> Self {
        let mut device = Self::start(world, disk, boot).await.unwrap();
        device.updater.resume().await.unwrap();
        device.updater.tick().await.unwrap();
        device
    }
}

fn held(device: &Device) -> (ModelState, Option<WaitsFor>) {
    let status = digits_of(device);
    (status.state, status.waits_for)
}

/// A device whose shadow has seen enough, and has not been looked at since.
async fn shadowed(world: &World) -> (FaultyDisk, Device) {
    let [same, _] = images(world);
    let disk = settled(world).await;
    let mut device = Device::start(world, &disk, 1000).await.unwrap();
    device.link(world).await.unwrap();
    for _ in 0..20 {
        device.answer(&same[0]).await.unwrap();
    }
    (disk, device)
}

#[tokio::test]
async fn a_restart_lets_nobody_through_a_gate_whom_the_operator_has_paused() {
    let mut world = World::with(&[gated(SHADOW)]);
    let (disk, mut device) = shadowed(&world).await;
    world.turn(Turn::Pause);
    device.hear(&world).await;
    device.updater.tick().await.unwrap();
    let stays = (ModelState::Shadow, Some(WaitsFor::Pause));
    assert_eq!(held(&device), stays);
    device.updater.stop().unwrap();
    for boot in [1000, 1001] {
        let device = Device::restarted(&world, &disk, boot).await;
        assert_eq!((device.ask(&world).await.unwrap(), held(&device)), (1, stays), "no link is there yet");
    }
    world.turn(Turn::Resume);
    let mut device = Device::restarted(&world, &disk, 1002).await;
    device.hear(&world).await;
    device.updater.tick().await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

/// The power went while version 2 was at its checks.
async fn cut_off_at_its_checks(world: &World) -> FaultyDisk {
    let base = settled(world).await;
    for cut in 0.. {
        let disk = base.reboot(Torn::Kept);
        disk.cut_after(cut);
        let done = update(world, &disk, 2).await.0;
        let disk = disk.reboot(Torn::Kept);
        let device = Device::start(world, &disk.reboot(Torn::Kept), 3).await.unwrap();
        if device.updater.entry(&digits()).trial.is_some_and(|trial| trial.phase == Phase::Checking) {
            return disk;
        }
        assert!(done.is_err(), "no operation is between the fetch and the checks");
    }
    unreachable!()
}

#[tokio::test]
async fn a_check_that_was_cut_off_waits_while_it_is_paused_and_no_power_cut_is_its_fault_meanwhile() {
    let mut world = World::new();
    let disk = cut_off_at_its_checks(&world).await;
    world.turn(Turn::Pause);
    let mut device = Device::start(&world, &disk, 3).await.unwrap();
    device.hear(&world).await;
    drop(device);
    for boot in 4..14 {
        let device = Device::restarted(&world, &disk, boot).await;
        assert_eq!(device.ask(&world).await.unwrap(), 1);
        assert_eq!(held(&device), (ModelState::Checking, Some(WaitsFor::Pause)), "boot {boot}");
    }
    world.turn(Turn::Resume);
    let mut device = Device::restarted(&world, &disk, 14).await;
    device.hear(&world).await;
    device.updater.tick().await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn a_check_that_is_held_back_keeps_no_newer_version_from_the_board() {
    let mut world = World::new();
    let disk = cut_off_at_its_checks(&world).await;
    world.turn(Turn::Pause);
    let mut device = Device::start(&world, &disk, 3).await.unwrap();
    device.hear(&world).await;
    drop(device);
    let mut device = Device::restarted(&world, &disk, 4).await;
    assert_eq!(held(&device), (ModelState::Checking, Some(WaitsFor::Pause)));
    let audience = Audience { devices: vec![[7; 16]], percent: 100, ..Audience::default() };
    let publication = world.repository.publish(&numbered(3, ""), &audience, &PublishOptions::default()).unwrap();
    world.post(publication);
    device.link(&world).await.unwrap();
    device.serve(&world).await.unwrap();
    assert_eq!((device.ask(&world).await.unwrap(), held(&device)), (3, (ModelState::Idle, None)));
}

#[tokio::test]
async fn a_check_that_was_cut_off_is_not_gone_on_with_once_its_version_is_withdrawn() {
    let mut world = World::new();
    let disk = cut_off_at_its_checks(&world).await;
    world.turn(Turn::Abort);
    let mut device = Device::start(&world, &disk, 3).await.unwrap();
    device.hear(&world).await;
    drop(device);
    let device = Device::restarted(&world, &disk, 4).await;
    assert_eq!((device.ask(&world).await.unwrap(), held(&device)), (1, (ModelState::Idle, None)));
    assert_eq!(last(&device).2, Code::Withdrawn);
}

#[tokio::test]
async fn a_board_without_a_clock_keeps_over_a_start_what_it_fetched_in_its_wave() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    let from = unix_now() + 3600;
    let waves = Waves::try_from(vec![Wave { percent: 100, from }]).unwrap();
    world.publish(&Audience { waves, ..shop() }, &PublishOptions::default());
    let begins_in = Duration::from_secs(from - world.repository.issued());
    let disk = settled(&world).await;
    for (boot, brought_again) in [(2, false), (3, true), (4, true)] {
        let clock = clock();
        let mut device = world.device(&disk, &clock, boot).await;
        device.link(&world).await.unwrap();
        assert_eq!(held(&device), (ModelState::Idle, None), "its wave has not begun, for all it knows");
        pass(&mut device, &clock, begins_in).await;
        device.link(&world).await.unwrap();
        assert_eq!(held(&device), (ModelState::Waiting, Some(WaitsFor::Clock)));
        assert_eq!(device.brought.len() == 1, brought_again, "the node, and no chunk a second time");
    }
}

/// For this device alone, and more than it has room for.
fn publish_too_large(world: &mut World) {
    let audience = Audience { devices: vec![[7; 16]], percent: 100, ..Audience::default() };
    let large = numbered(3, "[budget]\nmemory-mib = 4096\n");
    let publication = world.repository.publish(&large, &audience, &PublishOptions::default()).unwrap();
    world.post(publication);
}

fn turn_two(world: &mut World, turn: Turn) {
    let publication = world.repository.turn(&digits(), Some(2), turn).unwrap().publication;
    world.post(publication);
}

#[tokio::test]
async fn a_candidate_is_held_and_taken_away_though_a_newer_version_is_what_is_offered() {
    let mut world = World::with(&[gated(SHADOW)]);
    let (_disk, mut device) = shadowed(&world).await;
    publish_too_large(&mut world);
    turn_two(&mut world, Turn::Pause);
    device.hear(&world).await;
    assert_eq!((last(&device).1, last(&device).2), (Stage::Offer, Code::OverMemory));
    device.updater.tick().await.unwrap();
    assert_eq!(held(&device), (ModelState::Shadow, Some(WaitsFor::Pause)), "it would have passed");
    turn_two(&mut world, Turn::Abort);
    device.hear(&world).await;
    device.updater.tick().await.unwrap();
    assert_eq!((held(&device), last(&device).2), ((ModelState::Idle, None), Code::Withdrawn));
    assert_eq!(device.ask(&world).await.unwrap(), 1);
}

#[tokio::test]
async fn what_runs_is_called_back_though_a_newer_version_is_what_is_offered() {
    let mut world = World::new();
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 1000).await.unwrap();
    device.link(&world).await.unwrap();
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    drop(device);
    publish_too_large(&mut world);
    turn_two(&mut world, Turn::CallBack);
    // It was off meanwhile, and hears of both at once.
    let mut device = Device::start(&world, &disk, 1001).await.unwrap();
    device.hear(&world).await;
    device.updater.tick().await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    device.hear(&world).await;
    device.updater.tick().await.unwrap();
    assert_eq!((device.ask(&world).await.unwrap(), held(&device)), (1, (ModelState::Idle, None)));
}

#[tokio::test]
async fn a_board_that_has_none_takes_the_version_below_while_the_newer_one_is_paused() {
    let mut world = World::with(&[gated("")]);
    let audience = Audience { devices: vec![[7; 16]], percent: 100, ..Audience::default() };
    let publication = world.repository.publish(&numbered(3, ""), &audience, &PublishOptions::default()).unwrap();
    world.post(publication);
    world.turn(Turn::Pause);
    let disk = settled(&world).await;
    let mut device = Device::start(&world, &disk, 2).await.unwrap();
    device.hear(&world).await;
    assert_eq!((held(&device), digits_of(&device).candidate), ((ModelState::Fetching, None), Some(2)));
    device.link(&world).await.unwrap();
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    let paused = (ModelState::Waiting, Some(WaitsFor::Pause));
    assert_eq!((held(&device), digits_of(&device).candidate), (paused, Some(3)));
    world.turn(Turn::Resume);
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 3);
}

/// Lets hours pass, in steps of ten minutes; after how many the model was at that version.
async fn hours_until(device: &mut Device, clock: &ManualClock, model: &str, version: u32) -> u32 {
    for step in 0..200 * 6 {
        if device.slots.get(model).is_some_and(|live| live.version() == version) {
            return step / 6;
        }
        pass(device, clock, HOUR / 6).await;
    }
    panic!("{model} never came to version {version}");
}

#[tokio::test]
async fn time_in_which_nothing_waited_for_the_clock_does_not_count() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    world.publish(&shop(), &PublishOptions::default());
    let (disk, clock) = (settled(&world).await, clock());
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    for _ in 0..10 * 6 {
        pass(&mut device, &clock, HOUR / 6).await;
    }
    world.turn(Turn::Abort);
    device.link(&world).await.unwrap();
    for _ in 0..80 * 6 {
        pass(&mut device, &clock, HOUR / 6).await;
    }
    clock.advance(HOUR * 80);
    world.publish(&shop(), &PublishOptions::default());
    device.link(&world).await.unwrap();
    assert_eq!(held(&device), (ModelState::Waiting, Some(WaitsFor::Clock)));
    let hours = hours_until(&mut device, &clock, "digits", 2).await;
    assert!((61..=62).contains(&hours), "ten of 72 hours were waited, then {hours}");
}

fn publish_letters(world: &mut World) {
    let publication = world.repository.publish(&letters(), &shop(), &PublishOptions::default()).unwrap();
    world.post(publication);
}

#[tokio::test]
async fn two_models_wait_for_the_clock_for_three_days_in_all_not_one_after_the_other() {
    for rules in ["", "\nfetch-outside-window = false"] {
        let mut world = world(&format!("[update]\nwindows = [\"Mon 12:00-13:00\"]{rules}"));
        world.publish(&shop(), &PublishOptions::default());
        publish_letters(&mut world);
        let (disk, clock) = (settled(&world).await, clock());
        let mut device = world.device(&disk, &clock, 2).await;
        device.link(&world).await.unwrap();
        for _ in 0..73 * 6 {
            pass(&mut device, &clock, HOUR / 6).await;
        }
        device.link(&world).await.unwrap();
        let versions = ["digits", "letters"].map(|model| device.slots.get(model).map(|live| live.version()));
        assert_eq!(versions, [Some(2), Some(1)], "{rules}");
        pass(&mut device, &clock, HOUR / 6).await;
        assert!(disk.read(Path::new("/state/clock-wait.json"), 100).unwrap().is_none(), "the next one waits as long");
    }
}

#[tokio::test]
async fn an_urgent_version_does_not_make_another_model_wait_anew() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    publish_letters(&mut world);
    let (disk, clock) = (settled(&world).await, clock());
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    for _ in 0..40 * 6 {
        pass(&mut device, &clock, HOUR / 6).await;
    }
    world.publish(&shop(), &PublishOptions { urgent: true, ..PublishOptions::default() });
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    let hours = hours_until(&mut device, &clock, "letters", 1).await;
    assert!((31..=32).contains(&hours), "40 of 72 hours were waited, then {hours}");
}

#[tokio::test]
async fn what_is_called_back_stays_where_the_version_before_it_does_not_read_any_more() {
    let mut world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 2).await.0.unwrap();
    let before = Device::start(&world, &disk, 3).await.unwrap().updater.entry(&digits());
    assert_eq!((before.live.unwrap().version, before.previous.unwrap().version), (2, 1));
    let previous = format!("/state/models/digits/{}.bundle", before.previous.unwrap().bundle);
    let whole = disk.read(Path::new(&previous), 1 << 24).unwrap().unwrap();
    disk.write(Path::new(&previous), b"rubbish").unwrap();
    world.turn(Turn::CallBack);
    for boot in 4..6 {
        let mut device = Device::restarted(&world, &disk, boot).await;
        device.hear(&world).await;
        device.updater.tick().await.unwrap();
        assert_eq!((device.ask(&world).await.unwrap(), device.updater.entry(&digits())), (2, before.clone()));
        assert_eq!(last(&device), (Verdict::Inconclusive, Stage::Offer, Code::StorageDamaged), "and that is told");
    }
    disk.write(Path::new(&previous), &whole).unwrap();
    let device = Device::restarted(&world, &disk, 6).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1, "once it reads, it goes back");
}
