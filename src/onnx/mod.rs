//! The one ONNX front end: file -> `ModelProto` -> our graph, one form of every operator, shapes.
//!
//! Invariant: a `Model` is sound: values have one producer each, nodes form no cycle, tensors fill
//! their shapes. Reading, normalising and inferring never panic and stay within stated bounds,
//! whatever the file holds.
//! Not here: which operators run where and how (the engine); training, sequences and maps are carried
//! along unread.
//!
//! ```text
//! Model::from_bytes -> normalise -> shapes::infer -> (lowering edits the graph) -> Model::to_proto
//! ```
//!
//! Rejected: tract's `ModelProto` (the engine behind must be replaceable, and it copies every tensor);
//! editing `ModelProto` in place (names as edges: each query walks all nodes).

mod decode;
pub mod graph;
pub mod normalise;
mod parts;
pub mod proto;
mod read;
pub mod shapes;
mod tensor;
#[cfg(test)]
mod tests;
mod wire;

pub use decode::TensorError;
pub use graph::Model;
pub use parts::{Data, Encoded, Files, Parts};
pub use read::{Limits, ReadError};
pub use tensor::{ElementType, SizeMismatch, Tensor, count};
pub use wire::WireError;
