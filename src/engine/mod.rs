//! A model, the sessions that run it, the threads that run sessions, and what is live.
//!
//! Invariant: whatever an ONNX file holds, loading it ends in a `Model` or an error, and a request
//! is answered by the version that took it. A panic below stays in the request that caused it.
//! Not here: manifests and versions on disk (`bundle`, `store`), what to do with a bad model
//! (`update`), HTTP (`serve`).
//!
//! Quantized parts of a graph run as regions of ours (`int8`), each an operator to tract (`region`), which runs what
//! stays in float. It is named in `backend`, `faults`, `graph` and `region` alone.
//! Rejected: a pool of sessions behind one lock for all models (a slow model would hold up the
//! others' sessions); async workers (inference is CPU work and would stall timers and sockets).

mod backend;
mod beside;
mod common;
mod ends;
mod faults;
mod graph;
mod guard;
pub mod int8;
mod live;
mod model;
mod open;
mod peak;
mod region;
mod report;
mod settings;
mod slots;
mod watch;
mod workers;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

/// An instruction set, as settings and the configuration name it.
pub use crate::kernels::{Isa, IsaError};
pub use backend::NodeFacts;
pub use beside::{Canary, Compare, Heard, Shadow, near};
pub use ends::{Ends, EndsError, Shapes};
pub use int8::fast::StageFacts;
pub use live::{Counts, Live, LiveError};
pub use model::{LoadError, Model, RunError, Session, Side};
pub use peak::peak;
pub use report::{EngineFacts, FileFacts, FloatNode, MemoryFacts, OperatorFacts, RegionFacts, Report};
pub use settings::{AlreadyStated, Because, ISA_VARIABLE, IsaChoice, Settings};
pub use slots::{Beside, Slots, Taken};
pub use watch::NodeTime;
pub use workers::{Answer, InferError, Workers};
