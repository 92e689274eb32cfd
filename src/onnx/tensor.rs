//! Constant tensors of a file: element type, shape, bytes that graphs share.
//!
//! Invariant: a `Tensor` holds exactly the bytes (or texts) that its type and shape ask for.
//! Not here: arithmetic (`normalise::evaluate`); the protobuf forms (`decode`).

use super::proto::tensor_proto::DataType as Number;
use std::sync::Arc;

/// Element types of ONNX that a device meets. Complex numbers and 8-bit floats are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElementType {
    F32,
    F64,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    /// Two elements a byte, the first in the low half.
    I4,
    /// Two elements a byte, the first in the low half.
    U4,
    Text,
}

impl ElementType {
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F64,
        Self::F16,
        Self::Bf16,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::Bool,
        Self::I4,
        Self::U4,
        Self::Text,
    ];

    /// Bits of one element; 0 for texts, whose lengths differ.
    pub const fn bits(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 64,
            Self::F32 | Self::I32 | Self::U32 => 32,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 16,
            Self::I8 | Self::U8 | Self::Bool => 8,
            Self::I4 | Self::U4 => 4,
            Self::Text => 0,
        }
    }

    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16)
    }

    /// Integers, not booleans.
    pub const fn is_integer(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool | Self::Text)
    }

    const fn proto(self) -> Number {
        match self {
            Self::F32 => Number::Float,
            Self::F64 => Number::Double,
            Self::F16 => Number::Float16,
            Self::Bf16 => Number::Bfloat16,
            Self::I8 => Number::Int8,
            Self::I16 => Number::Int16,
            Self::I32 => Number::Int32,
            Self::I64 => Number::Int64,
            Self::U8 => Number::Uint8,
            Self::U16 => Number::Uint16,
            Self::U32 => Number::Uint32,
            Self::U64 => Number::Uint64,
            Self::Bool => Number::Bool,
            Self::I4 => Number::Int4,
            Self::U4 => Number::Uint4,
            Self::Text => Number::String,
        }
    }

    /// The number that stands for this type in a file.
    pub const fn to_onnx(self) -> i32 {
        self.proto() as i32
    }

    /// `None` for types that are left out, and for numbers that are none.
    pub fn from_onnx(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.to_onnx() == number)
    }

    /// Lowest and highest value of an integer type.
    pub const fn range(self) -> Option<(i128, i128)> {
        match self {
            Self::I4 => Some((-8, 7)),
            Self::U4 => Some((0, 15)),
            Self::I8 => Some((i8::MIN as i128, i8::MAX as i128)),
            Self::U8 => Some((0, u8::MAX as i128)),
            Self::I16 => Some((i16::MIN as i128, i16::MAX as i128)),
            Self::U16 => Some((0, u16::MAX as i128)),
            Self::I32 => Some((i32::MIN as i128, i32::MAX as i128)),
            Self::U32 => Some((0, u32::MAX as i128)),
            Self::I64 => Some((i64::MIN as i128, i64::MAX as i128)),
            Self::U64 => Some((0, u64::MAX as i128)),
            Self::F32 | Self::F64 | Self::F16 | Self::Bf16 | Self::Bool | Self::Text => None,
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.proto().as_str_name())
    }
}

/// Elements of a shape; `None` where the product does not fit.
pub fn count(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes it empty, however large the others are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim))
}

/// Bytes did not fit type and shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{element} of shape {shape:?} takes {expected:?} bytes, these are {actual}")]
pub struct SizeMismatch {
    pub element: ElementType,
    pub shape: Vec<usize>,
    /// `None` where the product of the shape overflows.
    pub expected: Option<usize>,
    pub actual: usize,
}

#[derive(Clone, PartialEq)]
enum Data {
    Bytes(Arc<Vec<u8>>),
    Texts(Arc<Vec<Vec<u8>>>),
}

/// Elements in row-major order, little-endian. A clone shares the bytes.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    element: ElementType,
    shape: Vec<usize>,
    data: Data,
}

/// Without the values: weights fill pages.
impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.element, self.shape)
    }
}

impl Tensor {
    /// Any type but `Text`.
    pub fn new(element: ElementType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self, SizeMismatch> {
        let expected = Self::byte_size(element, &shape);
        if expected != Some(bytes.len()) {
            return Err(SizeMismatch { element, shape, expected, actual: bytes.len() });
        }
        Ok(Self { element, shape, data: Data::Bytes(Arc::new(bytes)) })
    }

    /// Texts as they stand in the file; nobody says that they are UTF-8.
    pub fn from_texts(shape: Vec<usize>, texts: Vec<Vec<u8>>) -> Result<Self, SizeMismatch> {
        let expected = count(&shape);
        if expected != Some(texts.len()) {
            return Err(SizeMismatch { element: ElementType::Text, shape, expected, actual: texts.len() });
        }
        Ok(Self { element: ElementType::Text, shape, data: Data::Texts(Arc::new(texts)) })
    }

    /// One dimension of INT64.
    pub fn vector_i64(values: &[i64]) -> Self {
        Self::of_elements(ElementType::I64, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()))
    }

    pub fn scalar_i64(value: i64) -> Self {
        Self::of_elements(ElementType::I64, Vec::new(), value.to_le_bytes())
    }

    /// One dimension of FLOAT.
    pub fn vector_f32(values: &[f32]) -> Self {
        Self::of_elements(ElementType::F32, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()))
    }

    pub fn scalar_f32(value: f32) -> Self {
        Self::of_elements(ElementType::F32, Vec::new(), value.to_le_bytes())
    }

    /// `None` where a value does not fit the type, or their number not the shape.
    pub fn from_i64s(element: ElementType, shape: Vec<usize>, values: &[i64]) -> Option<Self> {
        let (low, high) = if element == ElementType::Bool { (0, 1) } else { element.range()? };
        let size = element.bits().div_ceil(8);
        let fits = values.iter().all(|&value| (low..=high).contains(&i128::from(value)));
        // Two's complement: the low bytes are the value in every width.
        let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(size)).collect();
        if element.bits() == 4 {
            bytes = bytes.chunks(2).map(|two| (two[0] & 15) | (two.get(1).unwrap_or(&0) << 4)).collect();
        }
        // An odd number of halves takes as many bytes as the even one after it.
        let fits = fits && count(&shape) == Some(values.len());
        if fits && size > 0 { Self::new(element, shape, bytes).ok() } else { None }
    }

    /// Rounded to the nearest value of the type; `None` where that is no float, or their number does not fit.
    pub fn from_f64s(element: ElementType, shape: Vec<usize>, values: &[f64]) -> Option<Self> {
        let bytes: Vec<u8> = match element {
            ElementType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ElementType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            ElementType::F16 => values.iter().flat_map(|&v| half::f16::from_f64(v).to_le_bytes()).collect(),
            ElementType::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f64(v).to_le_bytes()).collect(),
            ElementType::I8
            | ElementType::I16
            | ElementType::I32
            | ElementType::I64
            | ElementType::U8
            | ElementType::U16
            | ElementType::U32
            | ElementType::U64
            | ElementType::Bool
            | ElementType::I4
            | ElementType::U4
            | ElementType::Text => return None,
        };
        Self::new(element, shape, bytes).ok()
    }

    fn of_elements(element: ElementType, shape: Vec<usize>, bytes: impl IntoIterator<Item = u8>) -> Self {
        Self { element, shape, data: Data::Bytes(Arc::new(bytes.into_iter().collect())) }
    }

    /// Bytes of such a tensor; `None` where they do not fit in memory, and for texts.
    pub fn byte_size(element: ElementType, shape: &[usize]) -> Option<usize> {
        if element == ElementType::Text {
            return None;
        }
        Some(count(shape)?.checked_mul(element.bits())?.div_ceil(8))
    }

    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Outermost dimension first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements.
    pub fn len(&self) -> usize {
        count(&self.shape).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Little-endian elements; empty for texts.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Texts(_) => &[],
        }
    }

    /// The same bytes, to keep without a copy; `None` for texts.
    pub fn shared(&self) -> Option<Arc<Vec<u8>>> {
        match &self.data {
            Data::Bytes(bytes) => Some(Arc::clone(bytes)),
            Data::Texts(_) => None,
        }
    }

    pub fn texts(&self) -> Option<&[Vec<u8>]> {
        match &self.data {
            Data::Bytes(_) => None,
            Data::Texts(texts) => Some(texts),
        }
    }

    /// The same elements in another shape of as many.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        (count(&shape) == count(&self.shape)).then(|| Self { shape, ..self.clone() })
    }

    /// Integers and booleans by value; `None` for other types and for what INT64 does not hold.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        let bytes = self.bytes();
        match self.element {
            ElementType::I64 => Some(each(bytes, i64::from_le_bytes)),
            ElementType::I32 => Some(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
            ElementType::I16 => Some(each(bytes, |b| i64::from(i16::from_le_bytes(b)))),
            ElementType::I8 => Some(each(bytes, |b| i64::from(i8::from_le_bytes(b)))),
            ElementType::U64 => each(bytes, |b| i64::try_from(u64::from_le_bytes(b)).ok()).into_iter().collect(),
            ElementType::U32 => Some(each(bytes, |b| i64::from(u32::from_le_bytes(b)))),
            ElementType::U16 => Some(each(bytes, |b| i64::from(u16::from_le_bytes(b)))),
            ElementType::U8 | ElementType::Bool => Some(bytes.iter().map(|&b| i64::from(b)).collect()),
            ElementType::U4 => Some(self.nibbles().map(i64::from).collect()),
            ElementType::I4 => Some(self.nibbles().map(|n| i64::from(n) - i64::from(n & 8) * 2).collect()),
            ElementType::F32 | ElementType::F64 | ElementType::F16 | ElementType::Bf16 | ElementType::Text => None,
        }
    }

    /// Floats by value; `None` for other types.
    pub fn to_f64s(&self) -> Option<Vec<f64>> {
        let bytes = self.bytes();
        match self.element {
            ElementType::F32 => Some(each(bytes, |b| f64::from(f32::from_le_bytes(b)))),
            ElementType::F64 => Some(each(bytes, f64::from_le_bytes)),
            ElementType::F16 => Some(each(bytes, |b| half::f16::from_le_bytes(b).to_f64())),
            ElementType::Bf16 => Some(each(bytes, |b| half::bf16::from_le_bytes(b).to_f64())),
            ElementType::I8
            | ElementType::I16
            | ElementType::I32
            | ElementType::I64
            | ElementType::U8
            | ElementType::U16
            | ElementType::U32
            | ElementType::U64
            | ElementType::Bool
            | ElementType::I4
            | ElementType::U4
            | ElementType::Text => None,
        }
    }

    /// FLOAT elements by value; `None` for other types, which are not converted.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        (self.element == ElementType::F32).then(|| each(self.bytes(), f32::from_le_bytes))
    }

    fn nibbles(&self) -> impl Iterator<Item = u8> {
        self.bytes().iter().flat_map(|b| [b & 15, b >> 4]).take(self.len())
    }
}

fn each<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}
