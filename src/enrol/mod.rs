//! How a board comes by its id, its credentials and its root of trust, and how one is shut out again.
//!
//! Invariants: what could let somebody in is in the registry before it leaves the operator's hands, so that it can be
//! revoked; a device's private key or password is written once, onto its card, and not kept; a card is taken over whole
//! or, after a power cut, again at the next boot.
//! Not here: the session (`mqtt`), what a broker lets whom do (`config/mosquitto`).
//!
//! A *card* is a directory with what one device needs, for the boot partition or a running board. The device's part,
//! `install`, is in every build; the operator's makes certificates with `rcgen`. Rejected: a service that boards enrol
//! with by themselves. It would have to tell a new board from a stranger, which only the hands that hold it can.

#[cfg(feature = "operator")]
mod authority;
mod card;
#[cfg(feature = "operator")]
mod devices;
mod install;
mod merge;
#[cfg(feature = "operator")]
mod password;
#[cfg(feature = "operator")]
mod registry;
#[cfg(all(test, feature = "operator"))]
mod tests;

pub use card::{ETC, looks_like_root};
#[cfg(feature = "operator")]
pub use devices::{BrokerFiles, Credential, Devices, EnrolError, Made, Request};
pub use install::{Cleared, InstallError, Installed, Place, clear, install, is_cleared};
#[cfg(feature = "operator")]
pub use registry::{Issue, Kind};
