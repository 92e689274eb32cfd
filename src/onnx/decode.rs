//! `TensorProto` in all its forms -> `Tensor`: raw bytes, typed lists, sparse, external files.
//!
//! Invariant: no more is allocated than the file, or the bound on external data, holds.
//! Not here: 8-bit floats and complex numbers, which are refused by name.

use super::parts;
use super::proto::tensor_proto::{DataLocation, DataType as Number};
use super::proto::{SparseTensorProto, TensorProto};
use super::tensor::{ElementType, Tensor, count};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Dimensions of a tensor.
const MAX_RANK: usize = 16;

/// What is wrong with a tensor of the file.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    #[error("its element type is {0}, which is not supported; export it as a float or integer type")]
    Element(String),
    #[error("its shape {0:?} is impossible")]
    Shape(Vec<i64>),
    #[error("{element} of shape {shape:?} needs {expected} {unit}, and there are {actual}: the file is damaged")]
    Length { element: ElementType, shape: Vec<usize>, expected: usize, actual: usize, unit: &'static str },
    #[error("a value does not fit in {0}: the file is damaged")]
    Value(ElementType),
    #[error("its parts lie in segments, which no exporter writes any more; save the model anew")]
    Segment,
    #[error("its sparse form is broken: {0}")]
    Sparse(&'static str),
    #[error("its data is in another file, {0:?}, and only this one is at hand; save the model as one file")]
    NoDirectory(String),
    #[error("its data is said to be in {0:?}, which is not a plain file beside the model")]
    Location(String),
    #[error("its data is said to be {problem} of {path}")]
    Extent { path: PathBuf, problem: String },
    #[error("external data of the model is over {limit} bytes")]
    TooMuch { limit: u64 },
    #[error("read its data from {path}")]
    Read { path: PathBuf, source: io::Error },
}

/// Where external data may come from, and how much of it may still come.
#[derive(Debug)]
pub(super) struct External {
    /// The model's file, its links resolved; `None` where the model came as bytes.
    pub model: Option<PathBuf>,
    pub limit: u64,
    pub left: u64,
    /// What stands beside messages that were made in this process.
    pub weights: Vec<Tensor>,
}

/// Any tensor of the file but sparse ones.
pub(super) fn tensor(proto: TensorProto, external: &mut External) -> Result<Tensor, TensorError> {
    if proto.segment.is_some() {
        return Err(TensorError::Segment);
    }
    let shape = shape(&proto.dims)?;
    let element = ElementType::from_onnx(proto.data_type).ok_or_else(|| TensorError::Element(name(proto.data_type)))?;
    if element == ElementType::Text {
        let length = proto.string_data.len();
        return Tensor::from_texts(shape, proto.string_data).map_err(|e| mismatch(element, e.shape, length, "texts"));
    }
    let too_large = || TensorError::Shape(proto.dims.clone());
    let expected = Tensor::byte_size(element, &shape).ok_or_else(too_large)?;
    if let Some(tensor) = external.beside(&proto) {
        return match tensor.element() == element && tensor.shape() == shape {
            true => Ok(tensor.clone()),
            false => Err(mismatch(element, shape, tensor.bytes().len(), "bytes")),
        };
    }
    let mut bytes = if proto.data_location == DataLocation::External as i32 {
        external.read(&proto, expected)?
    } else if proto.raw_data.is_empty() {
        listed(&proto, element, count(&shape).ok_or_else(too_large)?, &shape)?
    } else {
        proto.raw_data
    };
    if bytes.len() != expected {
        return Err(mismatch(element, shape, bytes.len(), "bytes"));
    }
    if element == ElementType::Bool {
        bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    }
    Tensor::new(element, shape, bytes).map_err(|e| mismatch(element, e.shape, e.actual, "bytes"))
}

/// A sparse tensor, filled up with zeros. Indices are places in the row-major order, or one row of
/// coordinates a value.
pub(super) fn dense(proto: SparseTensorProto, external: &mut External, limit: usize) -> Result<Tensor, TensorError> {
    let shape = shape(&proto.dims)?;
    let values = tensor(proto.values.ok_or(TensorError::Sparse("no values"))?, external)?;
    let indices = tensor(proto.indices.ok_or(TensorError::Sparse("no indices"))?, external)?;
    let places = indices.to_i64s().ok_or(TensorError::Sparse("indices are no integers"))?;
    let element = values.element();
    let size = element.bits() / 8;
    if size == 0 {
        return Err(TensorError::Sparse("only whole bytes can be sparse"));
    }
    let bytes = Tensor::byte_size(element, &shape).filter(|&bytes| bytes <= limit);
    let mut bytes = vec![0; bytes.ok_or_else(|| TensorError::Shape(proto.dims.clone()))?];
    let rank = if indices.shape().len() == 2 { shape.len() } else { 1 };
    if rank == 0 || places.len() != values.len() * rank {
        return Err(TensorError::Sparse("as many indices as values are needed"));
    }
    for (place, value) in places.chunks(rank).zip(values.bytes().chunks(size)) {
        let at = if rank == 1 { usize::try_from(place[0]).ok() } else { row_major(place, &shape) };
        let slot = at.and_then(|at| bytes.get_mut(at.checked_mul(size)?..)?.get_mut(..size));
        slot.ok_or(TensorError::Sparse("an index lies outside"))?.copy_from_slice(value);
    }
    Tensor::new(element, shape, bytes).map_err(|_| TensorError::Sparse("sizes do not fit"))
}

fn row_major(place: &[i64], shape: &[usize]) -> Option<usize> {
    place.iter().zip(shape).try_fold(0_usize, |at, (&index, &dim)| {
        let index = usize::try_from(index).ok().filter(|&index| index < dim)?;
        at.checked_mul(dim)?.checked_add(index)
    })
}

fn shape(dims: &[i64]) -> Result<Vec<usize>, TensorError> {
    let bad = || TensorError::Shape(dims.iter().copied().take(MAX_RANK + 1).collect());
    if dims.len() > MAX_RANK {
        return Err(bad());
    }
    dims.iter().map(|&dim| usize::try_from(dim).map_err(|_| bad())).collect()
}

fn name(number: i32) -> String {
    Number::try_from(number).map_or_else(|_| format!("unknown number {number}"), |n| n.as_str_name().to_owned())
}

fn mismatch(element: ElementType, shape: Vec<usize>, actual: usize, unit: &'static str) -> TensorError {
    let expected = if element == ElementType::Text { count(&shape) } else { Tensor::byte_size(element, &shape) }
        .unwrap_or(usize::MAX);
    TensorError::Length { element, shape, expected, actual, unit }
}

/// Bytes of a tensor whose elements stand in the list for its type.
fn listed(proto: &TensorProto, element: ElementType, count: usize, shape: &[usize]) -> Result<Vec<u8>, TensorError> {
    let actual = match element {
        ElementType::F32 => proto.float_data.len(),
        ElementType::F64 => proto.double_data.len(),
        ElementType::I64 => proto.int64_data.len(),
        ElementType::U64 | ElementType::U32 => proto.uint64_data.len(),
        ElementType::Text => proto.string_data.len(),
        ElementType::I32
        | ElementType::I16
        | ElementType::I8
        | ElementType::I4
        | ElementType::U16
        | ElementType::U8
        | ElementType::U4
        | ElementType::Bool
        | ElementType::F16
        | ElementType::Bf16 => proto.int32_data.len(),
    };
    // Half bytes are packed in pairs here too.
    let expected = if element.bits() == 4 { count.div_ceil(2) } else { count };
    if actual != expected {
        return Err(TensorError::Length { element, shape: shape.to_vec(), expected, actual, unit: "values" });
    }
    list(proto, element).ok_or(TensorError::Value(element))
}

/// `None` where a value does not fit.
fn list(proto: &TensorProto, element: ElementType) -> Option<Vec<u8>> {
    let ints = &proto.int32_data;
    match element {
        ElementType::F32 => Some(proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ElementType::F64 => Some(proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ElementType::I64 => Some(proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ElementType::U64 => Some(proto.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ElementType::U32 => narrow(&proto.uint64_data, |&v| u32::try_from(v).ok().map(u32::to_le_bytes)),
        ElementType::I32 => Some(ints.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ElementType::I16 => narrow(ints, |&v| i16::try_from(v).ok().map(i16::to_le_bytes)),
        ElementType::U16 | ElementType::F16 | ElementType::Bf16 => {
            narrow(ints, |&v| u16::try_from(v).ok().map(u16::to_le_bytes))
        }
        ElementType::I8 => narrow(ints, |&v| i8::try_from(v).ok().map(i8::to_le_bytes)),
        ElementType::U8 | ElementType::U4 | ElementType::Bool => {
            narrow(ints, |&v| u8::try_from(v).ok().map(u8::to_le_bytes))
        }
        // Pairs of signed halves: some write the byte with its sign, some without.
        ElementType::I4 => narrow(ints, |&v| (-128..256).contains(&v).then(|| [v.to_le_bytes()[0]])),
        ElementType::Text => None,
    }
}

fn narrow<T, const N: usize>(values: &[T], each: impl Fn(&T) -> Option<[u8; N]>) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * N);
    for value in values {
        bytes.extend(each(value)?);
    }
    Some(bytes)
}

impl External {
    fn beside(&self, proto: &TensorProto) -> Option<&Tensor> {
        let is_outside = proto.data_location == DataLocation::External as i32 && !self.weights.is_empty();
        let entries = proto.external_data.iter().filter(|_| is_outside);
        parts::number_beside(entries.map(|entry| (entry.key.as_str(), entry.value.as_str())))
            .and_then(|number| self.weights.get(number))
    }

    fn read(&mut self, proto: &TensorProto, expected: usize) -> Result<Vec<u8>, TensorError> {
        let entry = |key: &str| proto.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let location = entry("location").cloned().unwrap_or_default();
        let Some(model) = &self.model else {
            return Err(TensorError::NoDirectory(location.chars().take(80).collect()));
        };
        let path = beside(model, &location)?;
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| TensorError::Extent {
                path: path.clone(),
                problem: format!("at {key} {:?}", text.chars().take(80).collect::<String>()),
            }),
        };
        let offset = number("offset")?.unwrap_or(0);
        let size = std::fs::metadata(&path).map_err(|source| TensorError::Read { path: path.clone(), source })?.len();
        let length = number("length")?.unwrap_or_else(|| size.saturating_sub(offset));
        if offset.checked_add(length).is_none_or(|end| end > size) || usize::try_from(length) != Ok(expected) {
            let problem = format!("{length} bytes at {offset}, where {expected} are needed, of the {size}");
            return Err(TensorError::Extent { path, problem });
        }
        self.left = self.left.checked_sub(length).ok_or(TensorError::TooMuch { limit: self.limit })?;
        let mut bytes = Vec::with_capacity(expected);
        let read = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.take(length).read_to_end(&mut bytes)
        });
        read.map_err(|source| TensorError::Read { path, source })?;
        Ok(bytes)
    }
}

/// The file that `location` names, inside the model's directory after all links are followed, a plain
/// file, and not the model itself. Whoever may change that directory meanwhile may change the model too.
fn beside(model: &Path, location: &str) -> Result<PathBuf, TensorError> {
    let refused = || TensorError::Location(location.chars().take(80).collect());
    let relative = Path::new(location);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if location.is_empty() || location.contains('\0') || !plain {
        return Err(refused());
    }
    let dir = model.parent().unwrap_or(Path::new("/"));
    let joined = dir.join(relative);
    let path = joined.canonicalize().map_err(|source| TensorError::Read { path: joined, source })?;
    if !path.starts_with(dir) || path == model || !path.is_file() {
        return Err(refused());
    }
    Ok(path)
}
