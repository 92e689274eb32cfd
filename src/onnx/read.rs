//! Bytes or a file -> `Model`, within stated bounds.
//!
//! Invariant: whatever the bytes are, the answer is a sound graph or an error that says where; never
//! a panic, and never more memory than `Limits` allow.
//! Not here: whether operators are known (`normalise`, `shapes` and the engine each know their own).

use super::decode::{External, TensorError};
use super::graph::{GraphError, Model, build};
use super::parts::Encoded;
use super::proto::ModelProto;
use super::tensor::Tensor;
use super::wire::{self, Bounds, WireError};
use prost::Message as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// What a model may ask of whoever reads it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The model's file, in bytes.
    pub file: u64,
    /// All external data together, in bytes.
    pub external: u64,
    /// What the messages take once decoded, in bytes.
    pub memory: usize,
    /// Nodes, those of subgraphs included.
    pub nodes: usize,
    /// Subgraphs within subgraphs.
    pub subgraph_depth: usize,
}

impl Default for Limits {
    /// Room for what runs on a board of a few GB.
    fn default() -> Self {
        Self { file: 1 << 30, external: 2 << 30, memory: 2 << 30, nodes: 100_000, subgraph_depth: 8 }
    }
}

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("read the model {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("the model takes {size} bytes, {limit} are allowed")]
    TooLarge { size: u64, limit: u64 },
    #[error(
        "reading it takes {} MiB of memory, and it may have {} of those that are free",
        needed.div_ceil(1 << 20),
        memory >> 20
    )]
    Memory { needed: u64, memory: u64 },
    #[error("the model's bytes are refused")]
    Wire(#[from] WireError),
    #[error("the model's bytes are no ONNX messages")]
    Decode(#[from] prost::DecodeError),
    #[error("there is no graph in it: this is not an ONNX model")]
    NoGraph,
    #[error("it states no version of its operators; export it anew")]
    NoOpset,
    #[error("tensor {name:?} of {place}")]
    Tensor { name: String, place: String, source: TensorError },
    #[error("the graph does not hold together")]
    Graph(#[from] GraphError),
}

impl Model {
    /// Reads a model that is all in one file.
    pub fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Self, ReadError> {
        read(bytes, None, Vec::new(), limits)
    }

    /// Reads a model whose weights may be beside it in memory; they are shared, and no limit is for them.
    pub fn from_parts(model: Encoded<'_>, limits: &Limits) -> Result<Self, ReadError> {
        read(model.head, None, model.weights.to_vec(), limits)
    }

    /// Reads a model, and the files beside it that hold its weights.
    pub fn from_file(path: &Path, limits: &Limits) -> Result<Self, ReadError> {
        let failed = |source| ReadError::File { path: path.to_owned(), source };
        let resolved = path.canonicalize().map_err(failed)?;
        let file = File::open(&resolved).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size > limits.file {
            return Err(ReadError::TooLarge { size, limit: limits.file });
        }
        let mut bytes = Vec::new();
        // One byte more tells a file that has grown meanwhile.
        file.take(limits.file.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        read(&bytes, Some(resolved), Vec::new(), limits)
    }
}

/// A file of so many bytes; one that is longer by now is cut off there, and broken.
pub(super) fn bounded(path: &Path, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    File::open(path)?.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(bytes: &[u8], model: Option<PathBuf>, weights: Vec<Tensor>, limits: &Limits) -> Result<Model, ReadError> {
    let size = bytes.len() as u64;
    if size > limits.file {
        return Err(ReadError::TooLarge { size, limit: limits.file });
    }
    let Limits { memory, nodes, subgraph_depth, .. } = *limits;
    wire::check(bytes, Bounds { memory, nodes, subgraph_depth })?;
    let proto = ModelProto::decode(bytes)?;
    let external = External { model, limit: limits.external, left: limits.external, weights };
    build(proto, external, limits)
}
