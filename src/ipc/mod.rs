//! What engine and link say to each other over their Unix socket.
//!
//! Invariant: towards the link go numbers, enums and bounded names only. The engine asks for things
//! by their ordinal in lists that the link itself brought, so a request carries no free bits.
//! Towards the engine go untrusted bytes, each frame bounded; the engine verifies all of them.
//! Not here: what is asked when (`update`), where the bytes come from (`link`).

mod frame;
mod message;

pub use frame::{FrameError, read_frame, write_frame};
pub use message::{Fetch, MAX_WINDOW, PROTOCOL, Role, ToEngine, ToLink};
