//! A disk that fills up, or that the kernel makes read-only, at every single operation.

use super::*;

#[tokio::test]
async fn a_disk_that_fills_up_at_any_operation_stops_the_update_and_never_the_service() {
    hamper(&World::new(), FaultyDisk::full_after).await;
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_at_any_operation_stops_the_update_and_never_the_service() {
    hamper(&World::new(), FaultyDisk::read_only_after).await;
}

/// The fault comes after each operation of the update, and goes again.
async fn hamper(world: &World, fault: fn(&FaultyDisk, u64)) {
    let base = settled(world).await;
    for after in (0..).step_by(STEP) {
        let disk = base.reboot(Torn::Kept);
        let mut device = Device::start(world, &disk, 1000).await.unwrap();
        fault(&disk, after);
        let mut first = device.link(world).await;
        if first.is_ok() {
            first = device.serve(world).await;
        }
        let version = device.ask(world).await.unwrap();
        assert!([1, 2].contains(&version), "after {after}");
        disk.mend();
        // The next link finishes the job.
        device.link(world).await.unwrap_or_else(|error| panic!("after {after}: {error}"));
        device.serve(world).await.unwrap();
        assert_eq!(device.ask(world).await.unwrap(), 2, "after {after}");
        drop(device);
        let device = Device::start(world, &disk, 1001).await.unwrap();
        assert_eq!(device.ask(world).await.unwrap(), 2, "after {after}, restarted");
        if first.is_ok() && after > 20 {
            return;
        }
    }
}

#[tokio::test]
async fn a_device_that_starts_on_a_read_only_disk_serves_what_was_live_at_any_point_of_an_update() {
    let world = World::new();
    let base = settled(&world).await;
    for cut in (0..).step_by(STEP) {
        let disk = base.reboot(Torn::Kept);
        disk.cut_after(cut);
        let (done, _) = update(&world, &disk, 1000).await;
        let disk = disk.reboot(Torn::Lost);
        disk.read_only_after(0);
        let device =
            Device::start(&world, &disk, 1001).await.unwrap_or_else(|error| panic!("{cut}: no start: {error}"));
        let version = device.ask(&world).await.unwrap_or_else(|error| panic!("{cut}: no answer: {error}"));
        assert!([1, 2].contains(&version), "{cut}");
        drop(device);
        disk.mend();
        recovers(&world, &disk, 0, &format!("read-only after {cut}")).await;
        if done.is_ok() {
            return;
        }
    }
}

#[tokio::test]
async fn an_update_by_delta_is_stopped_by_the_same_and_the_service_never() {
    let world = World::with_delta();
    hamper(&world, FaultyDisk::full_after).await;
    hamper(&world, FaultyDisk::read_only_after).await;
}

#[tokio::test]
async fn a_rollback_on_a_disk_that_becomes_read_only_at_any_operation_ends_once_it_is_mended() {
    let world = World::new();
    let base = on_probation(&world).await;
    for after in (0..).step_by(STEP) {
        let disk = base.reboot(Torn::Kept);
        let mut device = Device::start(&world, &disk, 1001).await.unwrap();
        disk.read_only_after(after);
        let done = roll_back(&mut device).await.is_ok();
        assert!([1, 2].contains(&device.ask(&world).await.unwrap()), "after {after}");
        disk.mend();
        device.updater.resume().await.unwrap();
        if device.updater.entry(&digits()).trial.is_some() {
            // What it failed for is still so.
            roll_back(&mut device).await.unwrap();
        }
        assert_eq!(device.ask(&world).await.unwrap(), 1, "after {after}");
        drop(device);
        assert_eq!(Device::start(&world, &disk, 1002).await.unwrap().ask(&world).await.unwrap(), 1, "after {after}");
        if done {
            return;
        }
    }
}
