//! What one version of one model is, on disk and on the wire: names, digests, manifest, golden
//! samples, the packed file, its chunks, their index, deltas between versions.
//!
//! Invariant: bytes in, checked values out; every parser states its bound and refuses what is over.
//! Not here: files, sockets, trust. A `Bundle` may come from anywhere; `trust` and `update` decide.
//!
//! Rejected: zip (two tables of contents that can disagree), npz for golden samples (pickle).

mod chunks;
pub mod delta;
mod digest;
mod gates;
mod golden;
mod index;
mod manifest;
mod pack;
mod preprocess;
pub mod topics;

pub use chunks::{ChunkRef, ExpandError, MAX_CHUNK_WIRE, expand};
#[cfg(feature = "operator")]
pub use chunks::{Cut, cut, cut_evenly};
pub use digest::{Digest, NotADigest};
pub use gates::{Budget, CanaryGate, GoldenPolicy, Likeness, Probation, ShadowGate};
pub use golden::{GoldenError, GoldenSample, datatype, parse_golden};
pub use index::{DeltaIndex, Index, IndexError, Node};
pub use manifest::{BadName, Input, Manifest, ManifestError, ModelName, Output};
pub use pack::{Bundle, PackError};
pub use preprocess::{AudioPreprocess, ColorOrder, ImagePreprocess, Layout, Preprocess, Resize};
