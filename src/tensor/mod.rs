//! Tensors by name, datatype, shape and bytes: the words that bundles, engine and API share.
//!
//! Invariant: a `Tensor` holds exactly as many bytes as its shape and datatype say.
//! Not here: arithmetic; the engine does that.

use serde::{Deserialize, Serialize};

/// Element types by their names in the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
}

impl DataType {
    pub const ALL: [Self; 12] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// Whether it holds fractions.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Fp32 | Self::Fp64)
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a model says of one input or output. The shape is concrete: outermost dimension first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<usize>,
    /// Where requests may have other sizes: the largest of each dimension. One that equals the shape's is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shape: Option<Vec<usize>>,
}

impl TensorSpec {
    /// Of that shape alone.
    pub fn new(name: impl Into<String>, datatype: DataType, shape: Vec<usize>) -> Self {
        Self { name: name.into(), datatype, shape, max_shape: None }
    }

    /// The same at another shape, and that alone.
    pub fn at(&self, shape: Vec<usize>) -> Self {
        Self::new(self.name.clone(), self.datatype, shape)
    }

    /// Whether a request may come in that shape.
    pub fn admits(&self, shape: &[usize]) -> bool {
        if shape == self.shape {
            return true;
        }
        let Some(max) = &self.max_shape else { return false };
        let fits = |((&dim, &own), &max): ((&usize, &usize), &usize)| {
            if own == max { dim == own } else { (1..=max).contains(&dim) }
        };
        shape.len() == self.shape.len() && shape.iter().zip(&self.shape).zip(max).all(fits)
    }

    /// Whether no dimension of another shape is larger, and there are as many.
    pub fn covers(&self, other: &Self) -> bool {
        self.shape.len() == other.shape.len() && self.shape.iter().zip(&other.shape).all(|(own, other)| own >= other)
    }

    /// Each dimension's size; `None` where requests choose it.
    pub fn dimensions(&self) -> impl Iterator<Item = Option<usize>> {
        let max = self.max_shape.as_ref().unwrap_or(&self.shape);
        self.shape.iter().zip(max).map(|(&own, &max)| (own == max).then_some(own))
    }

    /// As in messages: `FP32 [1, 3, 224, 224]`, `FP32 [1 to 8, 3, 1 to 640, 1 to 640]`.
    pub fn form(&self) -> String {
        let max = self.max_shape.as_ref().unwrap_or(&self.shape);
        let each = self.dimensions().zip(max);
        let dims: Vec<String> =
            each.map(|(own, max)| own.map_or_else(|| format!("1 to {max}"), |own| own.to_string())).collect();
        format!("{} [{}]", self.datatype, dims.join(", "))
    }

    /// Bytes of such a tensor, or `None` where the product does not fit.
    pub fn byte_size(&self) -> Option<usize> {
        byte_size(self.datatype, &self.shape)
    }
}

fn byte_size(datatype: DataType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(datatype.size(), |size, &dimension| size.checked_mul(dimension))
}

/// The bytes did not fit the shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{datatype} of shape {shape:?} takes {expected:?} bytes, these are {actual}")]
pub struct SizeMismatch {
    pub datatype: DataType,
    pub shape: Vec<usize>,
    /// `None` where the product of the shape overflows.
    pub expected: Option<usize>,
    pub actual: usize,
}

/// Elements in row-major order, little-endian.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    datatype: DataType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Without the values: they are inputs and results, and have no place in a log.
impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.datatype, self.shape)
    }
}

impl Tensor {
    pub fn new(datatype: DataType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self, SizeMismatch> {
        let expected = byte_size(datatype, &shape);
        if expected != Some(bytes.len()) {
            let actual = bytes.len();
            return Err(SizeMismatch { datatype, shape, expected, actual });
        }
        Ok(Self { datatype, shape, bytes })
    }

    /// An FP32 tensor of the given values.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self, SizeMismatch> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(DataType::Fp32, shape, bytes)
    }

    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// True when datatype and shape are the ones that `spec` states.
    pub fn fits(&self, spec: &TensorSpec) -> bool {
        self.datatype == spec.datatype && self.shape == spec.shape
    }

    /// All values as FP64, for comparing; 64-bit integers lose their last bits.
    pub fn to_f64(&self) -> Vec<f64> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|word| value(*word)).collect()
        }
        let bytes = &self.bytes;
        match self.datatype {
            DataType::Bool | DataType::Uint8 => each::<1>(bytes, |[byte]| byte.into()),
            DataType::Int8 => each(bytes, |word| i8::from_le_bytes(word).into()),
            DataType::Uint16 => each(bytes, |word| u16::from_le_bytes(word).into()),
            DataType::Int16 => each(bytes, |word| i16::from_le_bytes(word).into()),
            DataType::Fp16 => each(bytes, |word| half::f16::from_le_bytes(word).into()),
            DataType::Uint32 => each(bytes, |word| u32::from_le_bytes(word).into()),
            DataType::Int32 => each(bytes, |word| i32::from_le_bytes(word).into()),
            DataType::Fp32 => each(bytes, |word| f32::from_le_bytes(word).into()),
            DataType::Uint64 => each(bytes, |word| u64::from_le_bytes(word) as f64),
            DataType::Int64 => each(bytes, |word| i64::from_le_bytes(word) as f64),
            DataType::Fp64 => each(bytes, f64::from_le_bytes),
        }
    }

    /// The values of an FP32 tensor; `None` for any other datatype.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.datatype == DataType::Fp32).then(|| {
            let (words, _) = self.bytes.as_chunks::<4>();
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_holds_just_its_shape() {
        assert!(Tensor::new(DataType::Int16, vec![2, 3], vec![0; 12]).is_ok());
        let wrong = Tensor::new(DataType::Int16, vec![2, 3], vec![0; 11]).unwrap_err();
        assert_eq!(wrong.expected, Some(12));
        let huge = Tensor::new(DataType::Int16, vec![usize::MAX, 3], vec![]).unwrap_err();
        assert_eq!(huge.expected, None);
    }

    #[test]
    fn an_open_dimension_goes_up_to_its_largest() {
        let fixed = TensorSpec::new("x", DataType::Fp32, vec![1, 3, 8]);
        assert!(fixed.admits(&[1, 3, 8]) && !fixed.admits(&[1, 3, 7]));
        assert_eq!(fixed.form(), "FP32 [1, 3, 8]");
        let open = TensorSpec { max_shape: Some(vec![4, 3, 16]), ..fixed };
        assert!(open.admits(&[4, 3, 1]) && open.admits(&[1, 3, 16]));
        for shape in [&[0, 3, 8][..], &[5, 3, 8], &[1, 2, 8], &[1, 3, 17], &[1, 3], &[1, 3, 8, 1]] {
            assert!(!open.admits(shape), "{shape:?}");
        }
        assert_eq!(open.form(), "FP32 [1 to 4, 3, 1 to 16]");
        assert_eq!(open.dimensions().collect::<Vec<_>>(), [None, Some(3), None]);
    }

    #[test]
    fn names_go_both_ways() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::from_name(datatype.name()), Some(datatype));
            let json = serde_json::to_string(&datatype).unwrap();
            assert_eq!(json, format!("\"{datatype}\""));
        }
        assert_eq!(DataType::from_name("fp32"), None);
    }
}
