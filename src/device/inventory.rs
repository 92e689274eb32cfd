//! What the board is and how it fares, by sysinfo.

use crate::engine::Isa;
use crate::privacy::{Arch, BoardName, InstructionSet, Inventory};
use crate::sys::{self, Clock, Disk, network_is_denied, resident_bytes};
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
    isa: InstructionSet,
    board: Option<BoardName>,
    last: Mutex<Option<(Duration, Inventory)>>,
}

const FRESH: Duration = Duration::from_secs(5);

impl Sensors {
    /// `state` is on the file system whose free space counts; `isa` is what models are loaded for.
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, state: PathBuf, isa: Isa) -> Self {
        let isa = instruction_set(isa);
        let board = sys::board_name().and_then(|name| BoardName::of(&name));
        Self { disk, clock, state, network_denied: network_is_denied(), isa, board, last: Mutex::new(None) }
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
            isa: self.isa,
            arch: Arch::OWN,
            board: self.board.clone(),
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

/// In the words of the closed set.
fn instruction_set(isa: Isa) -> InstructionSet {
    match isa {
        Isa::Scalar => InstructionSet::Scalar,
        Isa::Neon => InstructionSet::Neon,
        Isa::Dotprod => InstructionSet::Dotprod,
        Isa::I8mm => InstructionSet::I8mm,
        Isa::Avx2 => InstructionSet::Avx2,
        Isa::AvxVnni => InstructionSet::Avxvnni,
        Isa::Avx512Vnni => InstructionSet::Avx512vnni,
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_is_told_by_the_name_that_it_has_everywhere() {
        for isa in Isa::ALL {
            assert_eq!(serde_json::to_value(instruction_set(isa)).unwrap(), isa.name());
        }
    }
}
