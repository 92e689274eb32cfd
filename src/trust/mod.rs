//! Whom a device believes: TUF state and the clock floor. Bytes in, `Verified` out.
//!
//! Invariant: a `Verified` was signed, whole, in date and not older than what came before; trust is
//! committed in one step and never reduced, by no power cut and by no input. State that cannot be
//! read is an error, never "absent". Missing or not matching yet means wait, never refuse: the
//! board cannot say "there is none". A wrong clock is never reported as a bad signature.
//! Not here: where the bytes come from (`link`), what is done with an offer (`update`).
//!
//! A role that targets delegate to stands or falls alone: one that is missing or bad is left out, and
//! what the others sign counts.
//!
//! tough does the TUF checks; `verify` says how it is kept from the disk and the clock.
//!
//! Dates: the timestamp carries a signed `issued`, the only thing that raises the floor. A stale
//! set that is newer than the floor can still be replayed until it expires by device time.
//! A root that replaces the timestamp's keys also voids the floor that the old keys set: a stolen
//! key may have pushed it centuries ahead.
//!
//! Rejected: tough's own datastore as the state (no sync, no rename; half-written means absent);
//! `latest_known_time` (a board without a clock battery steps back at every start).

#[cfg(feature = "operator")]
pub mod author;
mod delegation;
mod device;
#[cfg(all(test, feature = "operator"))]
mod fixture;
mod needs;
mod offer;
mod offered;
mod state;
#[cfg(all(test, feature = "operator"))]
mod tests;
mod verify;
mod waves;

#[cfg(feature = "operator")]
pub use delegation::{covers, patterns};
pub use device::{Complaint, OpenError, Progress, Trust, UpdateError};
pub use needs::{Board, BoardPattern, Has, Needs, Recipient, RuntimeVersion, Versions};
pub use offer::{Contents, Custom, DeltaRef, Offer, SaltedIds, Selector, Verified};
#[cfg(feature = "operator")]
pub use offer::{counts, in_share};
pub use offered::{Offered, Role, TooMuch};
pub use verify::{Refusal, RefusalCode};
pub use waves::{Hold, Wave, Waves};
