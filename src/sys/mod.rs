//! The machine underneath: disk, clock, processes, each real or faulty.
//!
//! Invariant: this is the only place that renames, syncs or reads a clock, so that a test can put
//! a power cut between any two operations and a wrong time behind every decision.
//! Not here: what is written and when; the callers order their operations.

mod board;
mod clock;
mod counted;
mod disk;
mod faulty;
mod memory;
mod process;
mod throttle;

pub use board::{board_name, is_on_battery};
pub use clock::{Clock, ManualClock, RealClock, built, date, unix_now};
pub use counted::{CountedDisk, Written};
pub use disk::{Access, Disk, DiskError, RealDisk, Stamp, open_plain};
pub use faulty::{FaultyDisk, Torn};
pub use memory::memory_limit;
pub use process::{
    DenyError, RUNNER, available_memory, boot_id, can_deny_network, command, deny_network, give_back_memory, give_way,
    network_is_denied, network_sockets, peak_resident_bytes, resident_bytes, seal_memory, terminal_rows,
};
pub use throttle::is_throttled;
