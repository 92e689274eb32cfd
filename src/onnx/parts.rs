//! A model as messages with large weights beside them: how rooms of one process hand each other a model of any size, and
//! how one that protobuf cannot hold lies on disk.
//!
//! Invariant: weights beside are shared, not copied. That a tensor's bytes are there says [`BESIDE`], which has a meaning
//! for what was made in this process alone: a file from outside has no weights beside it until they have been read.
//! Not here: renaming and syncing files (`sys`).
//! Rejected: one buffer (a model of n bytes takes n at every hand-over, and protobuf files end at 2 GiB).

use super::decode::{self, External};
use super::graph::{Cycle, Model};
use super::proto::TensorProto;
use super::proto::tensor_proto::DataLocation;
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto};
use super::read::{Limits, ReadError, bounded};
use super::tensor::{ElementType, Tensor};
use super::wire::{self, Bounds};
use prost::Message as _;
use std::convert::Infallible;
use std::path::Path;

/// The key under which a tensor in memory names its number among the weights.
const BESIDE: &str = "beside";

/// Tensors of fewer bytes stay in the messages: shapes and the like, which whoever reads the graph looks at.
pub(super) const FEWEST_BYTES: usize = 4096;

/// A model's messages, and the weights beside them.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    head: Vec<u8>,
    weights: Vec<Tensor>,
}

/// The same, borrowed. Bytes alone are a model that is whole in itself.
#[derive(Debug, Clone, Copy)]
pub struct Encoded<'a> {
    pub(super) head: &'a [u8],
    pub(super) weights: &'a [Tensor],
}

impl<'a> From<&'a [u8]> for Encoded<'a> {
    fn from(head: &'a [u8]) -> Self {
        Self { head, weights: &[] }
    }
}

impl<'a> From<&'a Vec<u8>> for Encoded<'a> {
    fn from(head: &'a Vec<u8>) -> Self {
        Self { head, weights: &[] }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Encoded<'a> {
    fn from(head: &'a [u8; N]) -> Self {
        Self { head, weights: &[] }
    }
}

impl<'a> From<&'a Parts> for Encoded<'a> {
    fn from(parts: &'a Parts) -> Self {
        Self { head: &parts.head, weights: &parts.weights }
    }
}

impl From<Vec<u8>> for Parts {
    fn from(head: Vec<u8>) -> Self {
        Self { head, weights: Vec::new() }
    }
}

impl From<Encoded<'_>> for Parts {
    /// Copies the messages alone.
    fn from(model: Encoded<'_>) -> Self {
        Self { head: model.head.to_vec(), weights: model.weights.to_vec() }
    }
}

impl<'a> Encoded<'a> {
    /// The messages.
    pub fn head(self) -> &'a [u8] {
        self.head
    }

    /// Bytes of messages and weights.
    pub fn size(self) -> usize {
        self.head.len() + self.weights.iter().map(|tensor| tensor.bytes().len()).sum::<usize>()
    }

    /// The bytes that stand beside, of a tensor with these keys and values for external data.
    pub fn beside<'e>(self, entries: impl Iterator<Item = (&'e str, &'e str)>) -> Option<&'a [u8]> {
        self.weights.get(number_beside(entries)?).map(Tensor::bytes)
    }

    /// All of it, in order: for sums over it.
    pub fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        std::iter::once(self.head).chain(self.weights.iter().map(Tensor::bytes))
    }
}

impl Parts {
    pub fn size(&self) -> usize {
        Encoded::from(self).size()
    }

    /// The bytes of a model that is whole in itself.
    pub fn whole(&self) -> Option<&[u8]> {
        self.weights.is_empty().then_some(self.head.as_slice())
    }

    /// Reads a model and the files beside it that hold its weights, within so many bytes of memory. A file of at most
    /// `whole` bytes without such is left as it is.
    pub fn read(path: &Path, whole: u64, memory: u64) -> Result<Self, ReadError> {
        let fits = |needed: u64| if needed <= memory { Ok(()) } else { Err(ReadError::Memory { needed, memory }) };
        let failed = |source| ReadError::File { path: path.to_owned(), source };
        let resolved = path.canonicalize().map_err(failed)?;
        let size = std::fs::metadata(&resolved).map_err(failed)?.len();
        // The file's bytes, and what is made of them.
        fits(size.saturating_mul(2))?;
        let bytes = bounded(&resolved, size).map_err(failed)?;
        let Limits { nodes, subgraph_depth, .. } = Limits::default();
        wire::check(&bytes, Bounds { memory: usize::try_from(memory).unwrap_or(usize::MAX), nodes, subgraph_depth })?;
        let mut proto = ModelProto::decode(&bytes[..])?;
        let mut outside = None;
        let Ok(()) = each(&mut proto, &mut |tensor| -> Result<(), Infallible> {
            if tensor.data_location == DataLocation::External as i32 {
                outside = Some(expected(tensor).saturating_add(outside.unwrap_or(0)));
            }
            Ok(())
        });
        if outside.is_none() && size <= whole {
            return Ok(bytes.into());
        }
        drop(bytes);
        let limit = outside.unwrap_or(0);
        fits(size.saturating_add(limit))?;
        let mut external = External { model: Some(resolved), limit, left: limit, weights: Vec::new() };
        let mut beside = Beside { fewest: Some(FEWEST_BYTES), ..Beside::default() };
        each(&mut proto, &mut |tensor| take_out(tensor, &mut external, &mut beside))?;
        Ok(Self { head: proto.encode_to_vec(), weights: beside.tensors })
    }
}

/// The number that a tensor's entries for external data name.
pub(super) fn number_beside<'e>(mut entries: impl Iterator<Item = (&'e str, &'e str)>) -> Option<usize> {
    entries.find(|(key, _)| *key == BESIDE)?.1.parse().ok()
}

/// What a tensor states to have.
fn expected(tensor: &TensorProto) -> u64 {
    let dims: Option<Vec<usize>> = tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let element = ElementType::from_onnx(tensor.data_type);
    let size = element.zip(dims).and_then(|(element, dims)| Tensor::byte_size(element, &dims));
    size.map_or(u64::MAX, |size| size as u64)
}

/// What is large, or in another file, goes beside.
fn take_out(proto: &mut TensorProto, external: &mut External, beside: &mut Beside) -> Result<(), ReadError> {
    let is_outside = proto.data_location == DataLocation::External as i32;
    // Types that this front end does not know may be known to another.
    let is_plain = ElementType::from_onnx(proto.data_type).is_some_and(|element| element != ElementType::Text);
    if !is_outside && (!is_plain || proto.encoded_len() < FEWEST_BYTES) {
        return Ok(());
    }
    let (name, dims, data_type) = (proto.name.clone(), proto.dims.clone(), proto.data_type);
    let tensor = decode::tensor(std::mem::take(proto), external).map_err(|source| ReadError::Tensor {
        name: name.chars().take(80).collect(),
        place: "the model".into(),
        source,
    })?;
    *proto = TensorProto { name, dims, data_type, ..TensorProto::default() };
    beside.write(&tensor, proto);
    Ok(())
}

/// Where a model's large tensors go while it is written.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Those of so many bytes; `None` where all stay in the messages.
    pub fewest: Option<usize>,
    pub tensors: Vec<Tensor>,
}

impl Beside {
    /// A tensor into its message: its bytes, or where they are.
    pub fn write(&mut self, tensor: &Tensor, proto: &mut TensorProto) {
        if self.fewest.is_none_or(|fewest| tensor.bytes().len() < fewest) {
            proto.raw_data = tensor.bytes().to_vec();
            return;
        }
        let value = self.tensors.len().to_string();
        proto.external_data = vec![StringStringEntryProto { key: BESIDE.into(), value }];
        proto.data_location = DataLocation::External as i32;
        self.tensors.push(tensor.clone());
    }
}

type Visit<'a, E> = dyn FnMut(&mut TensorProto) -> Result<(), E> + 'a;

/// Every tensor of a model, in a fixed order.
fn each<E>(model: &mut ModelProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    model.graph.iter_mut().try_for_each(|graph| of_graph(graph, visit))?;
    model.functions.iter_mut().flat_map(|function| &mut function.node).try_for_each(|node| of_node(node, visit))
}

fn of_graph<E>(graph: &mut GraphProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    graph.sparse_initializer.iter_mut().try_for_each(|sparse| of_sparse(sparse, visit))?;
    graph.node.iter_mut().try_for_each(|node| of_node(node, visit))
}

fn of_sparse<E>(sparse: &mut SparseTensorProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(visit)
}

fn of_node<E>(node: &mut NodeProto, visit: &mut Visit<'_, E>) -> Result<(), E> {
    for AttributeProto { t, tensors, g, graphs, sparse_tensor, sparse_tensors, .. } in &mut node.attribute {
        t.iter_mut().try_for_each(|tensor| visit(tensor))?;
        tensors.iter_mut().try_for_each(&mut *visit)?;
        g.iter_mut().try_for_each(|graph| of_graph(graph, visit))?;
        graphs.iter_mut().try_for_each(|graph| of_graph(graph, visit))?;
        sparse_tensor.iter_mut().try_for_each(|sparse| of_sparse(sparse, visit))?;
        sparse_tensors.iter_mut().try_for_each(|sparse| of_sparse(sparse, visit))?;
    }
    Ok(())
}

/// A model as files: the messages, and weights that they cannot hold in a file beside them.
#[derive(Debug)]
pub struct Files {
    pub model: Vec<u8>,
    pub data: Option<Data>,
}

/// Weights one behind the other, each at a multiple of what memory is mapped by.
#[derive(Debug, Default)]
pub struct Data {
    /// With the zeros before each.
    tensors: Vec<(usize, Tensor)>,
    size: u64,
}

/// Windows maps files by so many bytes; large tensors begin where it can.
const LARGE: u64 = 64 << 10;
/// Others map them by pages.
const PAGE: u64 = 4 << 10;

static ZEROS: [u8; LARGE as usize] = [0; LARGE as usize];

impl Data {
    /// Where it begins.
    fn push(&mut self, tensor: &Tensor) -> u64 {
        let length = tensor.bytes().len() as u64;
        let offset = self.size.next_multiple_of(if length >= LARGE { LARGE } else { PAGE });
        let zeros = usize::try_from(offset - self.size).unwrap_or(0);
        self.size = offset + length;
        self.tensors.push((zeros, tensor.clone()));
        offset
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.tensors.iter().flat_map(|(zeros, tensor)| [&ZEROS[..*zeros], tensor.bytes()])
    }
}

impl Files {
    /// What a protobuf file holds at most.
    pub const MAX_MODEL: u64 = (1 << 31) - 1;

    /// Bytes of all of them.
    pub fn size(&self) -> u64 {
        self.model.len() as u64 + self.data.as_ref().map_or(0, Data::size)
    }
}

impl Model {
    /// With large weights beside the messages, which nothing is copied of.
    pub fn to_parts(&self) -> Result<Parts, Cycle> {
        let (proto, weights) = self.split(Some(FEWEST_BYTES))?;
        Ok(Parts { head: proto.encode_to_vec(), weights })
    }

    /// One file of at most so many bytes; else two, of which the second is called `data`.
    ///
    /// Spec: ONNX's external data: `location`, `offset`, `length`.
    pub fn to_files(&self, most: u64, data: &str) -> Result<Files, Cycle> {
        let (proto, weights) = self.split(Some(FEWEST_BYTES))?;
        Ok(files(proto, &weights, most, data))
    }
}

impl Parts {
    /// As [`Model::to_files`].
    pub fn to_files(&self, most: u64, data: &str) -> Result<Files, ReadError> {
        if self.weights.is_empty() {
            return Ok(Files { model: self.head.clone(), data: None });
        }
        Ok(files(ModelProto::decode(&self.head[..])?, &self.weights, most, data))
    }
}

fn files(mut proto: ModelProto, weights: &[Tensor], most: u64, data: &str) -> Files {
    // What stands in place of a tensor's bytes takes more than what would stand before them.
    let bytes: usize = weights.iter().map(|tensor| tensor.bytes().len()).sum();
    let is_one = (proto.encoded_len() + bytes) as u64 <= most;
    let mut written = Data::default();
    let places: Vec<u64> = weights.iter().filter(|_| !is_one).map(|tensor| written.push(tensor)).collect();
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
    let Ok(()) = each(&mut proto, &mut |tensor| -> Result<(), Infallible> {
        let entries = tensor.external_data.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        let Some((number, bytes)) = number_beside(entries).and_then(|at| Some((at, weights.get(at)?.bytes()))) else {
            return Ok(());
        };
        tensor.external_data = match places.get(number) {
            Some(place) => vec![
                entry("location", data.to_owned()),
                entry("offset", place.to_string()),
                entry("length", bytes.len().to_string()),
            ],
            None => {
                tensor.data_location = DataLocation::Default as i32;
                tensor.raw_data = bytes.to_vec();
                Vec::new()
            }
        };
        Ok(())
    });
    Files { model: proto.encode_to_vec(), data: if is_one { None } else { Some(written) } }
}
