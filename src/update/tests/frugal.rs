//! What an update and an idle day cost a card.

use super::*;
use crate::sys::{CountedDisk, ManualClock, Written};

struct Meter(CountedDisk);

impl Meter {
    fn on(disk: &FaultyDisk) -> Self {
        Self(CountedDisk::new(Arc::new(disk.clone()), "/state".into()))
    }

    async fn start(&self, world: &World, boot: u128, clock: Arc<dyn Clock>) -> Device {
        Device::start_with(world, Arc::new(self.0.clone()), boot, (clock, Arc::new(|| false))).await.unwrap()
    }

    fn table(&self, what: &str) -> Written {
        for (name, Written { bytes, syncs }) in self.0.by_name() {
            println!("{what:<12} {:<14} {bytes:>10} B {syncs:>6} syncs", if name.is_empty() { "." } else { &name });
        }
        self.0.written()
    }
}

#[tokio::test]
async fn an_update_writes_its_bytes_twice_and_little_more() {
    let world = World::new();
    let disk = settled(&world).await;
    let meter = Meter::on(&disk);
    let mut device = meter.start(&world, 2, Arc::new(RealClock::new())).await;
    let before = meter.0.written();
    device.link(&world).await.unwrap();
    device.serve(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    let Written { bytes, syncs } = meter.table("update");
    let (bytes, syncs) = (bytes - before.bytes, syncs - before.syncs);
    println!("storage/bytes-per-update {bytes} B, {syncs} syncs, for a bundle of {} B", world.factory.packed().len());
    assert_eq!(device.updater.metrics().written_bytes, meter.0.written().bytes);
    assert_eq!(device.updater.metrics().disk_syncs, meter.0.written().syncs);
    let bundle = world.factory.packed().len() as u64;
    let chunks: u64 = device.brought.iter().map(|digest| world.content(digest).len() as u64).sum();
    // Compressed chunks, the bundle, and the fixed rest: trust, journal, log.
    assert!(bytes < chunks + bundle * 5 / 4 + (64 << 10), "{bytes} B for {chunks} + {bundle} B");
    assert!(syncs < 100, "{syncs} syncs");
}

#[tokio::test]
async fn a_start_on_the_factory_model_does_not_write_it_again() {
    let world = World::new();
    let disk = settled(&world).await;
    let meter = Meter::on(&disk);
    let device = meter.start(&world, 2, Arc::new(RealClock::new())).await;
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    let Written { bytes, syncs } = meter.table("start");
    assert!(bytes < 4096 && syncs < 8, "{bytes} B, {syncs} syncs");
}

#[tokio::test]
async fn an_idle_day_with_a_link_that_comes_and_goes_writes_next_to_nothing() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 2).await.0.unwrap();
    let meter = Meter::on(&disk);
    let clock = Arc::new(ManualClock::new(RealClock::new().system(), false));
    let mut device = meter.start(&world, 3, clock.clone()).await;
    let start = meter.0.written();
    for minute in 0..24 * 60 {
        clock.advance(Duration::from_secs(60));
        device.updater.tick().await.unwrap();
        device.updater.status();
        if minute % 10 == 0 {
            device.link(&world).await.unwrap();
        }
    }
    let Written { bytes, syncs } = meter.table("idle day");
    println!("storage/bytes-per-start {} B, {} syncs", start.bytes, start.syncs);
    println!("storage/bytes-per-idle-day {} B, {} syncs", bytes - start.bytes, syncs - start.syncs);
    assert!(bytes - start.bytes <= 16 << 10, "{} B on a day with nothing to do", bytes - start.bytes);
    assert!(syncs - start.syncs <= 16);
    assert!(start.bytes <= 16 << 10 && start.syncs <= 16, "a start: {start:?}");
}
