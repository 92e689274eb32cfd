//! A first walk over the encoded bytes, before anything is decoded.
//!
//! Invariant: what passes here decodes within the stated memory and depth, whatever it claims. Two
//! bytes on the wire can become a node of some 200 bytes in memory, so the file's size bounds nothing.
//! Not here: whether the messages make sense.

use super::proto;
use std::mem::size_of;

/// Messages within messages, subgraphs included. The decoder's own bound is 100.
const MAX_NESTING: usize = 80;

/// What the walk refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the bytes end, or break off, at offset {offset}: this is not ONNX, or not all of it")]
    Broken { offset: usize },
    #[error("messages lie {limit} deep in each other at offset {offset}: no exporter does that")]
    Nesting { offset: usize, limit: usize },
    #[error("subgraphs lie more than {limit} deep in each other at offset {offset}")]
    Subgraphs { offset: usize, limit: usize },
    #[error("there are more than {limit} nodes; split the model")]
    Nodes { limit: usize },
    #[error("the file would take more than {limit} bytes once read; split the model")]
    Memory { limit: usize },
}

/// Message types whose fields the walk follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    ValueInfo,
    Type,
    /// Sequence, optional and map hold a type.
    Holder,
    Shaped,
    Shape,
    /// Held strings alone, nothing that needs following.
    Small(usize),
}

/// What a length-delimited field holds.
enum Held {
    Message(Kind),
    Bytes,
    Numbers { size: usize },
}

impl Kind {
    /// Bytes of the decoded struct, as a vector holds it while it grows.
    fn cost(self) -> usize {
        2 * match self {
            Self::Model => size_of::<proto::ModelProto>(),
            Self::Graph => size_of::<proto::GraphProto>(),
            Self::Node => size_of::<proto::NodeProto>(),
            Self::Attribute => size_of::<proto::AttributeProto>(),
            Self::Tensor => size_of::<proto::TensorProto>(),
            Self::Sparse => size_of::<proto::SparseTensorProto>(),
            Self::Function => size_of::<proto::FunctionProto>(),
            Self::ValueInfo => size_of::<proto::ValueInfoProto>(),
            Self::Type | Self::Holder | Self::Shaped => size_of::<proto::TypeProto>(),
            Self::Shape => size_of::<proto::TensorShapeProto>(),
            Self::Small(size) => size,
        }
    }

    fn field(self, number: u64) -> Held {
        const ENTRY: Kind = Kind::Small(size_of::<proto::StringStringEntryProto>());
        const OPSET: Kind = Kind::Small(size_of::<proto::OperatorSetIdProto>());
        const NOTE: Kind = Kind::Small(size_of::<proto::TensorAnnotation>() + 64);
        const DIM: Kind = Kind::Small(size_of::<proto::tensor_shape_proto::Dimension>());
        let message = match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Kind::Graph,
            (Self::Model, 8) | (Self::Function, 9) => OPSET,
            (Self::Model | Self::Function, 14)
            | (Self::Graph | Self::Tensor, 16)
            | (Self::Node, 9)
            | (Self::Tensor, 13)
            | (Self::ValueInfo, 4) => ENTRY,
            (Self::Model, 25) => Kind::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Kind::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Kind::Tensor,
            (Self::Graph, 11..=13) | (Self::Function, 12) => Kind::ValueInfo,
            (Self::Graph, 14) => NOTE,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Kind::Sparse,
            (Self::Node, 5) | (Self::Function, 11) => Kind::Attribute,
            (Self::Attribute, 14 | 15) | (Self::ValueInfo, 2) | (Self::Holder, 1 | 2) => Kind::Type,
            (Self::Type, 1 | 8) => Kind::Shaped,
            (Self::Type, 4 | 5 | 9) => Kind::Holder,
            (Self::Shaped, 2) => Kind::Shape,
            (Self::Shape, 1) => DIM,
            (Self::Tensor, 1 | 7 | 11) | (Self::Attribute, 8) | (Self::Sparse, 3) => return Held::Numbers { size: 8 },
            (Self::Tensor, 5) => return Held::Numbers { size: 4 },
            _ => return Held::Bytes,
        };
        Held::Message(message)
    }
}

/// Bounds of the walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub memory: usize,
    pub nodes: usize,
    pub subgraph_depth: usize,
}

/// Walks over an encoded `ModelProto`.
pub(super) fn check(bytes: &[u8], bounds: Bounds) -> Result<(), WireError> {
    let mut walk = Walk { bytes, at: 0, memory: 0, nodes: 0, bounds };
    walk.message(Kind::Model, bytes.len(), 0, 0)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    memory: usize,
    nodes: usize,
    bounds: Bounds,
}

impl Walk<'_> {
    fn message(&mut self, kind: Kind, end: usize, nesting: usize, graphs: usize) -> Result<(), WireError> {
        if nesting > MAX_NESTING {
            return Err(WireError::Nesting { offset: self.at, limit: MAX_NESTING });
        }
        // The main graph is no subgraph.
        if graphs > self.bounds.subgraph_depth + 1 {
            return Err(WireError::Subgraphs { offset: self.at, limit: self.bounds.subgraph_depth });
        }
        if kind == Kind::Node {
            self.nodes += 1;
            if self.nodes > self.bounds.nodes {
                return Err(WireError::Nodes { limit: self.bounds.nodes });
            }
        }
        self.take(kind.cost())?;
        while self.at < end {
            let key = self.varint(end)?;
            match key & 7 {
                0 => {
                    self.varint(end)?;
                    self.take(16)?;
                }
                1 => self.skip(8, end)?,
                5 => self.skip(4, end)?,
                2 => self.delimited(kind.field(key >> 3), end, nesting, graphs)?,
                _ => return Err(WireError::Broken { offset: self.at }),
            }
        }
        Ok(())
    }

    fn delimited(&mut self, held: Held, end: usize, nesting: usize, graphs: usize) -> Result<(), WireError> {
        let offset = self.at;
        let length = usize::try_from(self.varint(end)?).map_err(|_| WireError::Broken { offset })?;
        let inner = self.at.checked_add(length).filter(|&inner| inner <= end);
        let inner = inner.ok_or(WireError::Broken { offset })?;
        match held {
            Held::Message(kind) => {
                return self.message(kind, inner, nesting + 1, graphs + usize::from(kind == Kind::Graph));
            }
            // A string's own size stands in a vector that may have grown to twice its need.
            Held::Bytes => self.take(2 * size_of::<String>() + length)?,
            Held::Numbers { size } => self.take(2 * size * length)?,
        }
        self.at = inner;
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> Result<(), WireError> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.bounds.memory { Err(WireError::Memory { limit: self.bounds.memory }) } else { Ok(()) }
    }

    fn skip(&mut self, bytes: usize, end: usize) -> Result<(), WireError> {
        let offset = self.at;
        self.at = offset.checked_add(bytes).filter(|&at| at <= end).ok_or(WireError::Broken { offset })?;
        self.take(2 * bytes)
    }

    fn varint(&mut self, end: usize) -> Result<u64, WireError> {
        let offset = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes[..end].get(self.at).ok_or(WireError::Broken { offset })?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Broken { offset })
    }
}
