//! What the board is and how it fares, by sysinfo.

use crate::privacy::Inventory;
use crate::sys::{Clock, Disk, network_is_denied, resident_bytes};
use crate::update::runtime;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use sysinfo::{Components, System};

/// Reads the board's sensors, at most every five seconds.
#[derive(Debug)]
pub struct Sensors {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    state: PathBuf,
    network_denied: bool,
    last: Mutex<Option<(Duration, Inventory)>>,
}

const FRESH: Duration = Duration::from_secs(5);

impl Sensors {
    /// `state` is on the file system whose free space counts.
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, state: PathBuf) -> Self {
        Self { disk, clock, state, network_denied: network_is_denied(), last: Mutex::new(None) }
    }

    /// The caller fills in what is not the board's.
    pub fn read(&self) -> Inventory {
        let now = self.clock.monotonic();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, inventory)) if now.saturating_sub(*at) < FRESH => inventory.clone(),
            Some(_) | None => {
                let inventory = self.measure();
                *last = Some((now, inventory.clone()));
                inventory
            }
        }
    }

    fn measure(&self) -> Inventory {
        // A sensor that the system hides counts as absent: the rest of the state is still worth telling.
        let system = System::new().ok().map(|mut system| {
            system.refresh_memory();
            system
        });
        let sensors = Components::new_with_refreshed_list().ok();
        let readings = sensors.iter().flat_map(|list| list.iter()).filter_map(sysinfo::Component::temperature);
        let hottest = readings.reduce(f32::max);
        Inventory {
            runtime: runtime(),
            root_version: 0,
            cores: std::thread::available_parallelism().map_or(0, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
            memory_total_mib: system.as_ref().map_or(0, |system| mib(system.total_memory())),
            memory_used_mib: system.as_ref().map_or(0, |system| mib(system.used_memory())),
            engine_rss_mib: mib(resident_bytes()),
            disk_free_mib: mib(self.disk.free(&self.state).unwrap_or(0)),
            temperature_celsius: hottest.filter(|celsius| celsius.is_finite()),
            uptime_seconds: System::uptime().unwrap_or(0),
            network_denied: self.network_denied,
        }
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}
