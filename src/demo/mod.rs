//! The whole story on one machine: a device that serves, an environment that changes, an update
//! that mends it, five bad ones that are refused.
//!
//! Invariant: everything in it is the real thing (processes, broker, signatures, model, images); what
//! the final table says was counted, and the story holds only if every demand held.
//! Not here: anything that a device or an operator needs outside the demo.

mod broker;
mod camera;
mod client;
mod display;
mod error;
mod load;
mod offers;
mod stage;
mod story;
mod verdict;

pub use client::ClientError;
pub use error::DemoError;
pub use story::{Options, run};
pub use verdict::{Act, Demand, Egress, Refusal, Report};
