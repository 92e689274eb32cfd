//! Where tensors lie in a file, and which of the old is which of the new.
//!
//! Read from the bytes as they are: ONNX (protobuf), safetensors, and tars of both; where they lie is what counts, which a
//! decoder does not tell. What cannot be read has no tensors here and goes as plain bytes.

use crate::bundle::delta::Width;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Smaller ones go with the rest.
const SMALLEST: usize = 16;
/// Old tensors of the same type and size that a new one without a known name is held against.
const MAX_CANDIDATES: usize = 64;
/// Numbers of a tensor that are looked at to tell how near another is.
const SAMPLE: usize = 4096;
/// Graphs within graphs.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub name: String,
    pub kind: u64,
    pub dims: Vec<u64>,
    pub place: Range<usize>,
}

/// A tensor of the new file with one of the old that has as many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub old: Range<usize>,
    pub new: Range<usize>,
    pub width: Width,
    pub stride: usize,
}

/// In the order of the new file.
pub(super) fn pairs(old: &[u8], new: &[u8]) -> Vec<Pair> {
    let olds = find(old);
    let mut by_content = HashMap::<&[u8], usize>::new();
    let mut by_name = HashMap::<(&str, u64, usize), usize>::new();
    let mut alike = BTreeMap::<(u64, usize), Vec<usize>>::new();
    for (i, tensor) in olds.iter().enumerate() {
        by_content.entry(&old[tensor.place.clone()]).or_insert(i);
        by_name.entry((&tensor.name, tensor.kind, tensor.place.len())).or_insert(i);
        alike.entry((tensor.kind, tensor.place.len())).or_default().push(i);
    }
    let mut pairs = Vec::new();
    for tensor in find(new) {
        let bytes = &new[tensor.place.clone()];
        let key = (tensor.kind, bytes.len());
        let width = width(&tensor);
        let named = by_name.get(&(tensor.name.as_str(), tensor.kind, bytes.len())).copied();
        let same = named.filter(|&i| old[olds[i].place.clone()] == *bytes).or_else(|| by_content.get(bytes).copied());
        let near = || {
            let candidates = alike.get(&key).into_iter().flatten().take(MAX_CANDIDATES);
            let cost = |i: usize| width.map(|width| moved_bits(&old[olds[i].place.clone()], bytes, width));
            let mut costs: Vec<(f64, usize)> = candidates.filter_map(|&i| Some((cost(i)?, i))).collect();
            costs.extend(named.and_then(|i| Some((cost(i)?, i))));
            let best = costs.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
            best.filter(|(cost, _)| width.is_some_and(|w| *cost < 0.97 * plain_bits(bytes, w.bytes())))
                .map(|best| best.1)
        };
        let Some(i) = same.or_else(near) else {
            continue;
        };
        let stride = stride(&tensor, width);
        pairs.push(Pair {
            old: olds[i].place.clone(),
            new: tensor.place.clone(),
            width: width.unwrap_or(Width::One),
            stride,
        });
    }
    pairs
}

/// What lies outside of tensors.
pub(super) fn rests(file: &[u8]) -> Vec<Range<usize>> {
    let mut rests = Vec::new();
    let mut at = 0;
    for tensor in find(file) {
        rests.push(at..tensor.place.start);
        at = tensor.place.end;
    }
    rests.push(at..file.len());
    rests
}

/// Of which differences are told; integers of eight bytes are sizes and go as they are.
fn width(tensor: &Tensor) -> Option<Width> {
    match tensor.kind {
        1 | 6 | 12 => Some(Width::Four),
        4 | 5 | 10 | 16 => Some(Width::Two),
        2 | 3 | 9 | 17..=22 => Some(Width::One),
        _ => None,
    }
}

/// Numbers in a row: one output channel of a convolution, one row of a matrix.
fn stride(tensor: &Tensor, width: Option<Width>) -> usize {
    let row: u64 = tensor.dims.iter().skip(1).product();
    let all = tensor.place.len() / width.map_or(1, Width::bytes);
    if tensor.dims.len() < 2 || row == 0 { all } else { usize::try_from(row).unwrap_or(all) }
}

/// About how many bits the differences take: their numbers of bits by their frequency, and the bits.
pub(super) fn moved_bits(old: &[u8], new: &[u8], width: Width) -> f64 {
    let bytes = width.bytes();
    let numbers = new.len() / bytes;
    let step = (numbers / SAMPLE).max(1);
    let mut classes = [0_u32; 33];
    let mut below = 0_u64;
    for at in (0..numbers).step_by(step) {
        let part = at * bytes..(at + 1) * bytes;
        let read = |file: &[u8]| file[part.clone()].iter().rev().fold(0_u32, |n, &b| n << 8 | u32::from(b));
        let unused = 32 - 8 * u32::try_from(bytes).unwrap_or(4);
        let difference = (read(new).wrapping_sub(read(old)) << unused).cast_signed() >> unused;
        let class = 32 - difference.unsigned_abs().leading_zeros();
        classes[class as usize] += 1;
        below += u64::from(class);
    }
    (entropy(&classes) + below as f64) * step as f64
}

/// About how many bits the bytes take by themselves, by their frequency at each place of a number.
pub(super) fn plain_bits(bytes: &[u8], width: usize) -> f64 {
    let step = (bytes.len() / width / SAMPLE).max(1);
    let of_place = |place: usize| {
        let mut counts = [0_u32; 256];
        bytes.chunks_exact(width).step_by(step).for_each(|number| counts[usize::from(number[place])] += 1);
        entropy(&counts)
    };
    (0..width).map(of_place).sum::<f64>() * step as f64
}

fn entropy(counts: &[u32]) -> f64 {
    let all = f64::from(counts.iter().sum::<u32>().max(1));
    counts.iter().filter(|&&n| n > 0).map(|&n| f64::from(n) * (all / f64::from(n)).log2()).sum()
}

/// All tensors of a file that are large enough, in its order, none within another.
pub(super) fn find(file: &[u8]) -> Vec<Tensor> {
    let mut found = Vec::new();
    let files = entries(file);
    for place in files.into_iter().chain(std::iter::once(0..file.len())) {
        let before = found.len();
        safetensors(file, place.clone(), &mut found);
        if found.len() == before {
            message(file, place, Kind::Model, 0, &mut found);
        }
    }
    found.retain(|tensor: &Tensor| tensor.place.len() >= SMALLEST);
    found.sort_by_key(|tensor| tensor.place.start);
    let mut end = 0;
    found.retain(|tensor| {
        let is_apart = tensor.place.start >= end;
        end = if is_apart { tensor.place.end } else { end };
        is_apart
    });
    found
}

/// The files of a tar.
fn entries(file: &[u8]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut archive = tar::Archive::new(file);
    let Ok(entries) = archive.entries() else {
        return places;
    };
    for entry in entries.map_while(Result::ok) {
        let start = usize::try_from(entry.raw_file_position()).ok();
        let size = usize::try_from(entry.size()).ok();
        let place = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        places.extend(place.filter(|place| place.end <= file.len()));
    }
    places
}

fn safetensors(file: &[u8], place: Range<usize>, found: &mut Vec<Tensor>) {
    let Ok((size, header)) = safetensors::SafeTensors::read_metadata(&file[place.clone()]) else {
        return;
    };
    let start = place.start + 8 + size;
    for (name, info) in header.tensors() {
        let known =
            [(Dtype::F32, 1), (Dtype::I32, 6), (Dtype::U32, 6), (Dtype::F16, 10), (Dtype::I8, 3), (Dtype::U8, 3)];
        let kind = known.iter().find(|(dtype, _)| *dtype == info.dtype).map_or(0, |(_, kind)| *kind);
        let (from, to) = info.data_offsets;
        let dims = info.shape.iter().map(|&dim| dim as u64).collect();
        found.push(Tensor { name, kind, dims, place: start + from..start + to });
    }
}

/// The messages of ONNX that lead to tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

impl Kind {
    const fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Graph, 1) => Some(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) => Some(Self::Tensor),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Model | Self::Graph | Self::Node | Self::Attribute | Self::Tensor, _) => None,
        }
    }
}

/// Walks one message as far as it can be read.
fn message(file: &[u8], place: Range<usize>, kind: Kind, depth: usize, found: &mut Vec<Tensor>) {
    if kind == Kind::Tensor {
        return found.extend(tensor(file, place));
    }
    let mut at = place.start;
    while depth < MAX_DEPTH * 4 && at < place.end {
        let Some(field) = field(file, at..place.end) else {
            return;
        };
        if let Some(inner) = kind.field(field.number).filter(|_| field.is_bytes) {
            message(file, field.place.clone(), inner, depth + 1, found);
        }
        at = field.place.end;
    }
}

fn tensor(file: &[u8], place: Range<usize>) -> Option<Tensor> {
    let mut tensor = Tensor { name: String::new(), kind: 0, dims: Vec::new(), place: 0..0 };
    let mut at = place.start;
    while at < place.end {
        let field = field(file, at..place.end)?;
        match (field.number, field.is_bytes) {
            (1, true) => {
                let mut from = field.place.start;
                while from < field.place.end {
                    let (dim, next) = varint(file, from..field.place.end)?;
                    tensor.dims.push(dim);
                    from = next;
                }
            }
            (1, false) => tensor.dims.push(field.value),
            (2, false) => tensor.kind = field.value,
            (8, true) => tensor.name = String::from_utf8_lossy(&file[field.place.clone()]).into_owned(),
            // Packed floats are as raw ones.
            (4 | 9, true) => tensor.place = field.place.clone(),
            _ => {}
        }
        at = field.place.end;
    }
    (!tensor.place.is_empty() && tensor.dims.len() <= 8).then_some(tensor)
}

struct Field {
    number: u64,
    is_bytes: bool,
    /// Of a number.
    value: u64,
    /// Of the contents; ends where the next field begins.
    place: Range<usize>,
}

fn field(file: &[u8], place: Range<usize>) -> Option<Field> {
    let (key, at) = varint(file, place.clone())?;
    let (value, contents) = match key & 7 {
        0 => varint(file, at..place.end).map(|(value, end)| (value, at..end))?,
        1 => (0, at..at.checked_add(8)?),
        2 => {
            let (length, at) = varint(file, at..place.end)?;
            (0, at..at.checked_add(usize::try_from(length).ok()?)?)
        }
        5 => (0, at..at.checked_add(4)?),
        _ => return None,
    };
    (contents.end <= place.end && key >> 3 > 0).then_some(Field {
        number: key >> 3,
        is_bytes: key & 7 == 2,
        value,
        place: contents,
    })
}

/// The number and where it ends.
fn varint(file: &[u8], place: Range<usize>) -> Option<(u64, usize)> {
    let mut value = 0;
    for (i, &byte) in file[place.clone()].iter().take(10).enumerate() {
        value |= u64::from(byte & 127) << (7 * i);
        if byte < 128 {
            return Some((value, place.start + i + 1));
        }
    }
    None
}
