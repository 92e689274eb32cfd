//! Int8 regions: what they compute, how quantized graphs become them, and what each must give, bit for bit.
//!
//! Invariant: a `Program` gives the same bytes on every architecture and by every executor; `reference` says which.
//! Not here: tract, threads, the fast kernels, sessions.
//!
//! ```text
//! onnx graph -> lower -> float graph + Programs -> an executor
//! ```

pub mod approximate;
mod check;
mod display;
pub mod fast;
pub mod function;
pub mod lower;
pub mod op;
pub mod program;
pub mod reference;
mod round;
pub mod rows;
#[cfg(test)]
mod tests;

pub use check::CheckError;
pub use lower::{Lowered, Reason, lower};
pub use program::{Program, QuantParams, Type};
