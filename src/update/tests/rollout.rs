//! Rollouts and the owner's rules, on a device whose clock, heat and supply a test sets.

use super::*;
use crate::config::Config;
use crate::privacy::{ModelStatus, Verdict, WaitsFor};
use crate::sys::{ManualClock, unix_now};
use crate::trust::{Wave, Waves};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What surrounds the board.
#[derive(Debug, Default)]
pub struct Weather {
    celsius: AtomicU32,
    battery: AtomicBool,
}

impl Weather {
    pub fn inventory(self: Arc<Self>) -> Box<dyn Fn() -> Inventory + Send + Sync> {
        Box::new(move || {
            let celsius = self.celsius.load(Ordering::Relaxed) as f32;
            Inventory { temperature_celsius: Some(celsius), memory_total_mib: 926, ..Inventory::default() }
        })
    }

    pub fn on_battery(self: Arc<Self>) -> Box<dyn Fn() -> bool + Send + Sync> {
        Box::new(move || self.battery.load(Ordering::Relaxed))
    }
}

pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// After this what waits is looked at again.
pub(super) const MOMENT: Duration = Duration::from_secs(6);

pub(super) fn adapted() -> Bundle {
    read_model_dir(&model_dir("digits-adapted")).unwrap().0
}

/// Nothing is published yet.
pub(super) fn world(rules: &str) -> World {
    World { rules: Config::parse(rules, "rules").unwrap().update, ..World::with(&[]) }
}

impl World {
    pub(super) fn publish(&mut self, audience: &Audience, options: &PublishOptions) {
        let publication = self.repository.publish(&adapted(), audience, options).unwrap();
        self.post(publication);
    }

    pub(super) fn turn(&mut self, turn: Turn) {
        let publication = self.repository.turn(&digits(), None, turn).unwrap().publication;
        self.post(publication);
    }

    /// As a board without a battery for its clock: nobody tells it the time.
    pub(super) async fn device(&self, disk: &FaultyDisk, clock: &Arc<ManualClock>, boot: u128) -> Device {
        let board = (clock.clone() as Arc<dyn Clock>, Arc::new(|| false) as Arc<dyn Fn() -> bool + Send + Sync>);
        Device::start_on(self, disk, boot, board).await.unwrap()
    }
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(0, false))
}

pub(super) fn shop() -> Audience {
    Audience::group("shop")
}

pub(super) fn digits_of(device: &Device) -> ModelStatus {
    device.updater.status().models[0].clone()
}

/// The state that a device tells, and for what it waits.
pub(super) fn waits(device: &Device) -> (ModelState, Option<WaitsFor>) {
    let status = digits_of(device);
    assert!(status.waits_for.is_none() || status.candidate == Some(2), "{status:?}");
    (status.state, status.waits_for)
}

pub(super) const WAITING: fn(WaitsFor) -> (ModelState, Option<WaitsFor>) = |why| (ModelState::Waiting, Some(why));
pub(super) const ON_PROBATION: (ModelState, Option<WaitsFor>) = (ModelState::Probation, None);

/// Lets time pass and the device look.
pub(super) async fn pass(device: &mut Device, clock: &ManualClock, time: Duration) {
    clock.advance(time);
    device.updater.tick().await.unwrap();
}

#[tokio::test]
async fn a_wave_begins_at_its_second_of_device_time_whatever_the_wall_clock_says() {
    let mut world = world("");
    let from = unix_now() + 3600;
    let waves = Waves::try_from(vec![Wave { percent: 100, from }]).unwrap();
    world.publish(&Audience { waves, ..shop() }, &PublishOptions::default());
    let begins_in = from - world.repository.issued();
    // 1970, and 2099.
    for system in [0, 4_102_358_400] {
        let (disk, clock) = (settled(&world).await, Arc::new(ManualClock::new(system, false)));
        let mut device = world.device(&disk, &clock, 2).await;
        device.link(&world).await.unwrap();
        pass(&mut device, &clock, Duration::from_secs(begins_in - 1)).await;
        assert_eq!((device.updater.request(), waits(&device)), (Fetch::Nothing, (ModelState::Idle, None)));
        pass(&mut device, &clock, Duration::from_secs(1)).await;
        assert_ne!(device.updater.request(), Fetch::Nothing, "its tick wakes it, no message does");
        device.link(&world).await.unwrap();
        assert_eq!(device.ask(&world).await.unwrap(), 2);
    }
    // One that was switched off knows only what was signed: late, and never early.
    let (disk, clock) = (settled(&world).await, clock());
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    pass(&mut device, &clock, Duration::from_secs(begins_in - 1)).await;
    drop(device);
    let mut device = world.device(&disk, &clock, 3).await;
    device.link(&world).await.unwrap();
    pass(&mut device, &clock, Duration::from_secs(begins_in - 1)).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_paused_is_begun_by_nobody_and_goes_on_when_it_is_resumed() {
    let mut world = world("");
    world.publish(&shop(), &PublishOptions::default());
    world.turn(Turn::Pause);
    let (disk, clock) = (settled(&world).await, clock());
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!(waits(&device), WAITING(WaitsFor::Pause));
    assert_eq!(device.updater.status().outcomes, [], "waiting is no outcome");
    drop(device);
    let mut device = world.device(&disk, &clock, 3).await;
    device.link(&world).await.unwrap();
    pass(&mut device, &clock, HOUR * 100).await;
    assert_eq!((device.ask(&world).await.unwrap(), waits(&device)), (1, WAITING(WaitsFor::Pause)));
    world.turn(Turn::Resume);
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    world.turn(Turn::Pause);
    device.link(&world).await.unwrap();
    assert_eq!((device.ask(&world).await.unwrap(), waits(&device)), (2, ON_PROBATION), "what runs stays");
    drop(device);
    let device = world.device(&disk, &clock, 4).await;
    assert_eq!(device.ask(&world).await.unwrap(), 2, "over a start");
}

#[tokio::test]
async fn what_is_called_back_goes_back_once_and_may_be_published_again() {
    let mut world = world("");
    world.publish(&shop(), &PublishOptions::default());
    let (disk, clock) = (settled(&world).await, clock());
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    world.turn(Turn::Abort);
    device.link(&world).await.unwrap();
    pass(&mut device, &clock, MOMENT).await;
    assert_eq!(device.ask(&world).await.unwrap(), 2, "who runs it runs it on");
    world.turn(Turn::CallBack);
    device.link(&world).await.unwrap();
    pass(&mut device, &clock, MOMENT).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    let last = device.updater.status().outcomes.last().cloned().unwrap();
    assert_eq!((last.verdict, last.code, last.version), (Verdict::RolledBack, Code::Withdrawn, Some(2)));
    device.link(&world).await.unwrap();
    drop(device);
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!((device.ask(&world).await.unwrap(), device.updater.request()), (1, Fetch::Nothing));
    world.publish(&shop(), &PublishOptions::default());
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2, "without --retry: it was not its fault");
}

#[tokio::test]
async fn power_cut_at_any_operation_of_a_call_back_leaves_a_version_that_answers_and_the_next_start_ends_it() {
    let mut world = world("");
    world.publish(&shop(), &PublishOptions::default());
    let base = settled(&world).await;
    update(&world, &base, 2).await.0.unwrap();
    world.turn(Turn::CallBack);
    for torn in [Torn::Lost, Torn::Half] {
        for cut in (0..).step_by(STEP) {
            let disk = base.reboot(Torn::Kept);
            disk.cut_after(cut);
            let done = called_back(&world, &disk, 3).await;
            let disk = disk.reboot(torn);
            let device = world.device(&disk, &clock(), 4).await;
            assert!([1, 2].contains(&device.ask(&world).await.unwrap()), "{torn:?}, cut after {cut}");
            drop(device);
            called_back(&world, &disk, 5).await.unwrap();
            let device = world.device(&disk, &clock(), 6).await;
            assert_eq!(device.ask(&world).await.unwrap(), 1, "{torn:?}, cut after {cut}");
            if done.is_ok() {
                assert!(cut > 5, "only {cut} operations");
                break;
            }
        }
    }
}

async fn called_back(world: &World, disk: &FaultyDisk, boot: u128) -> Result<()> {
    let mut device = Device::start(world, disk, boot).await?;
    device.link(world).await?;
    device.updater.tick().await?;
    Ok(device.updater.tick().await?)
}

/// Seconds from now to the next Monday, 12:00 UTC.
fn to_monday_noon() -> u64 {
    const WEEK: u64 = 7 * 86_400;
    // The first day of 1970 was a Thursday.
    let since = (unix_now() + 3 * 86_400 - 12 * 3600) % WEEK;
    WEEK - since
}

#[tokio::test]
async fn outside_of_its_windows_a_board_fetches_and_installs_by_itself_when_one_opens() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    world.publish(&shop(), &PublishOptions::default());
    let (disk, now) = (settled(&world).await, unix_now());
    let noon = now + to_monday_noon();
    let clock = Arc::new(ManualClock::new(noon - 1800, true));
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!((waits(&device), device.updater.status().lacks.chunks), (WAITING(WaitsFor::Window), 0));
    assert!(!disk.list(Path::new("/state/fetch")).unwrap().is_empty(), "fetched");
    pass(&mut device, &clock, Duration::from_secs(1800 - 10)).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    pass(&mut device, &clock, Duration::from_secs(20)).await;
    assert_eq!((device.ask(&world).await.unwrap(), waits(&device)), (2, ON_PROBATION), "and nobody brought anything");
    assert!(disk.list(Path::new("/state/fetch")).unwrap().is_empty(), "cleared away");
}

#[tokio::test]
async fn chunks_of_what_waits_for_a_window_are_kept_over_a_start_and_an_urgent_one_does_not_wait() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    world.publish(&shop(), &PublishOptions::default());
    let disk = settled(&world).await;
    let clock = Arc::new(ManualClock::new(unix_now() + to_monday_noon() - 1800, true));
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!(waits(&device), WAITING(WaitsFor::Window));
    drop(device);
    let mut device = world.device(&disk, &clock, 3).await;
    device.link(&world).await.unwrap();
    assert_eq!(waits(&device), WAITING(WaitsFor::Window));
    assert_eq!(device.brought.len(), 1, "the node, and no chunk a second time");
    world.publish(&shop(), &PublishOptions { urgent: true, ..PublishOptions::default() });
    device.link(&world).await.unwrap();
    pass(&mut device, &clock, MOMENT).await;
    assert_eq!((device.ask(&world).await.unwrap(), waits(&device)), (2, ON_PROBATION));
}

#[tokio::test]
async fn where_nothing_may_be_fetched_outside_of_windows_nothing_is_asked_for() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]\nfetch-outside-window = false");
    world.publish(&shop(), &PublishOptions::default());
    let disk = settled(&world).await;
    let clock = Arc::new(ManualClock::new(unix_now() + to_monday_noon() - 10, true));
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!((waits(&device), device.brought.len()), (WAITING(WaitsFor::Window), 0));
    pass(&mut device, &clock, Duration::from_secs(20)).await;
    assert!(device.updater.wants_packs(), "a pack may hold it");
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn a_board_that_never_knows_the_hour_waits_for_three_days_in_all_and_not_for_ever() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    world.publish(&shop(), &PublishOptions::default());
    // 1970; 2099; one that is synchronized and far behind what was signed.
    for (system, synchronized) in [(0, false), (4_102_358_400, false), (1000, true)] {
        let (disk, clock) = (settled(&world).await, Arc::new(ManualClock::new(system, synchronized)));
        // It is switched off each night.
        let mut hours = 0;
        let mut boot = 2;
        'days: loop {
            boot += 1;
            let mut device = world.device(&disk, &clock, boot).await;
            device.link(&world).await.unwrap();
            for _ in 0..12 {
                if device.ask(&world).await.unwrap() == 2 {
                    break 'days;
                }
                assert_eq!(waits(&device), WAITING(WaitsFor::Clock), "after {hours} hours");
                for _ in 0..6 {
                    pass(&mut device, &clock, HOUR / 6).await;
                }
                hours += 1;
            }
        }
        assert!((72..80).contains(&hours), "{hours} hours");
        assert!(disk.read(Path::new("/state/clock-wait.json"), 100).unwrap().is_none(), "the next one waits as long");
    }
}

#[tokio::test]
async fn heat_a_battery_and_load_hold_an_update_back_until_they_end() {
    let mut world = world("[update]\nmax-celsius = 70\nmax-requests-per-minute = 30\non-battery = false");
    world.publish(&shop(), &PublishOptions { urgent: true, ..PublishOptions::default() });
    let (disk, clock) = (settled(&world).await, clock());
    let (heat, battery) = (|celsius| world.weather.celsius.store(celsius, Ordering::Relaxed), &world.weather.battery);
    heat(71);
    battery.store(true, Ordering::Relaxed);
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!((waits(&device), device.brought.len()), (WAITING(WaitsFor::Battery), 0), "urgent or not");
    battery.store(false, Ordering::Relaxed);
    pass(&mut device, &clock, MOMENT).await;
    device.link(&world).await.unwrap();
    assert_eq!(waits(&device), WAITING(WaitsFor::Heat));
    pass(&mut device, &clock, MOMENT).await;
    for (celsius, version) in [(70, 1), (68, 1), (67, 2)] {
        heat(celsius);
        pass(&mut device, &clock, MOMENT).await;
        assert_eq!(device.ask(&world).await.unwrap(), version, "at {celsius} °C: it has to cool down");
    }
}

#[tokio::test]
async fn a_busy_board_installs_when_it_is_quiet() {
    let mut world = world("[update]\nmax-requests-per-minute = 30");
    world.publish(&shop(), &PublishOptions::default());
    let (disk, clock) = (settled(&world).await, clock());
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!(waits(&device), WAITING(WaitsFor::Busy), "it cannot tell yet");
    let inputs: Vec<Tensor> = world.factory.golden()[0].inputs.values().cloned().collect();
    for _ in 0..20 {
        for _ in 0..10 {
            device.answer(&inputs).await.unwrap();
        }
        pass(&mut device, &clock, Duration::from_secs(15)).await;
    }
    assert_eq!(waits(&device), WAITING(WaitsFor::Busy), "40 in a minute");
    for _ in 0..10 {
        pass(&mut device, &clock, Duration::from_secs(15)).await;
    }
    assert_eq!(device.ask(&world).await.unwrap(), 2, "half of the time nobody asked");
}

#[tokio::test]
async fn a_clock_that_is_set_to_1970_or_2099_while_an_update_waits_opens_no_window_and_shuts_nobody_out() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    world.publish(&shop(), &PublishOptions::default());
    let disk = settled(&world).await;
    let noon = unix_now() + to_monday_noon();
    let clock = Arc::new(ManualClock::new(noon - 7200, true));
    let mut device = world.device(&disk, &clock, 2).await;
    device.link(&world).await.unwrap();
    assert_eq!(waits(&device), WAITING(WaitsFor::Window));
    // Not synchronized any more, to a Monday's noon; synchronized, to one of 1970, decades behind what was signed.
    for (system, synchronized) in [(noon, false), (4_102_358_400, false), (388_800, true)] {
        clock.set_system(system, synchronized);
        pass(&mut device, &clock, MOMENT).await;
        assert_eq!(waits(&device), WAITING(WaitsFor::Clock), "{system}");
    }
    clock.set_system(noon, true);
    pass(&mut device, &clock, MOMENT).await;
    assert_eq!((device.ask(&world).await.unwrap(), waits(&device)), (2, ON_PROBATION));
}

#[tokio::test]
async fn power_cut_at_any_operation_of_a_wait_keeps_what_was_fetched_and_what_was_waited() {
    let mut world = world("[update]\nwindows = [\"Mon 12:00-13:00\"]");
    world.publish(&shop(), &PublishOptions::default());
    let base = settled(&world).await;
    for torn in [Torn::Lost, Torn::Zeros] {
        for cut in (0..).step_by(STEP) {
            let (disk, clock) = (base.reboot(Torn::Kept), clock());
            disk.cut_after(cut);
            let done = waited(&world, &disk, &clock, 2).await;
            let disk = disk.reboot(torn);
            // The rest of the three days, whatever of them was lost.
            let mut device = world.device(&disk, &clock, 3).await;
            device.link(&world).await.unwrap();
            assert_eq!(device.ask(&world).await.unwrap(), 1, "{torn:?}, cut after {cut}");
            for _ in 0..75 * 6 {
                pass(&mut device, &clock, HOUR / 6).await;
            }
            assert_eq!(device.ask(&world).await.unwrap(), 2, "{torn:?}, cut after {cut}");
            if done.is_ok() {
                assert!(cut > 10, "only {cut} operations");
                break;
            }
        }
    }
}

/// Four hours of waiting for the clock.
async fn waited(world: &World, disk: &FaultyDisk, clock: &Arc<ManualClock>, boot: u128) -> Result<()> {
    let board = (clock.clone() as Arc<dyn Clock>, Arc::new(|| false) as Arc<dyn Fn() -> bool + Send + Sync>);
    let mut device = Device::start_on(world, disk, boot, board).await?;
    device.link(world).await?;
    for _ in 0..24 {
        clock.advance(HOUR / 6);
        device.updater.tick().await?;
    }
    Ok(())
}
