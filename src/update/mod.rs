//! How a device takes a new version: offered, fetched, checked, tried, kept or taken back.
//!
//! Invariant: the journal says what comes next before it is done, and every effect can be done
//! twice. The engine stays on what serves until the candidate has passed its gates.
//! Not here: the network (`link`), signatures (`trust`), answering requests (`serve`).

mod assemble;
mod audited;
mod deaths;
mod driver;
mod feed;
mod fetch;
mod gate;
mod machine;
mod offers;
mod report;
mod rules;
mod start;
mod trials;
mod updater;
mod versions;
mod waiting;

pub use driver::{Serving, run};
pub use gate::{Board, Failure, check, runtime};
pub use machine::{Effect, Event, MAX_POWER_CUTS, Offered, step};
pub use start::StartError;
pub use updater::{Parts, Updater};

#[cfg(all(test, feature = "operator"))]
mod tests;
