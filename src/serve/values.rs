//! Tensor values as JSON, both ways.
//!
//! Invariant: a number arrives as the tensor's type holds it or is refused: nothing wraps around,
//! is cut or turns into an infinity. What goes out reads back as the same bits.
//!
//! serde_json's own floats can be off by one in the last bit, and a detour over `f64` rounds twice:
//! each number goes from its text to its type in one step.

use crate::tensor::{DataType, Tensor, TensorSpec};
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Reads `data` of an input: flat in row-major order, or nested as the shape says.
pub(super) fn parse(spec: &TensorSpec, data: &RawValue) -> Result<Tensor, String> {
    if spec.datatype == DataType::Fp16 {
        return Err("FP16 has no form in JSON; send it as binary data (parameters.binary_data_size)".into());
    }
    let mut reader = Reader::new(spec);
    let mut rest = data.get();
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'[' => reader.open().map(|()| 1)?,
            b']' => reader.close().map(|()| 1)?,
            b',' | b' ' | b'\t' | b'\r' | b'\n' => 1,
            b'"' | b'{' | b'n' => return Err("only numbers, true and false stand in `data`".into()),
            _ => {
                let end = rest.find([',', ']', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
                reader.value(&rest[..end])?;
                end
            }
        };
        rest = &rest[length..];
    }
    reader.finish()
}

/// Follows the lists of a JSON text that is known to be well-formed.
struct Reader<'a> {
    spec: &'a TensorSpec,
    expected: usize,
    bytes: Vec<u8>,
    count: usize,
    /// How many things stand so far in each of the lists that are open.
    open: Vec<usize>,
    /// How many lists the first value stood in; all others must, too.
    leaf_depth: Option<usize>,
}

impl<'a> Reader<'a> {
    fn new(spec: &'a TensorSpec) -> Self {
        Self {
            spec,
            expected: spec.shape.iter().product(),
            bytes: Vec::with_capacity(spec.byte_size().unwrap_or(0)),
            count: 0,
            open: Vec::new(),
            leaf_depth: None,
        }
    }

    fn open(&mut self) -> Result<(), String> {
        if self.open.len() >= self.spec.shape.len().max(1) {
            return Err(format!("lists nest deeper than the shape {:?}", self.spec.shape));
        }
        self.open.iter_mut().last().into_iter().for_each(|length| *length += 1);
        self.open.push(0);
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let length = self.open.pop().unwrap_or(0);
        let depth = self.open.len();
        let shape = &self.spec.shape;
        let nested = shape.len() > 1 && self.leaf_depth == Some(shape.len());
        if nested && shape[depth] != length {
            return Err(format!("a list of {length}, dimension {depth} of {shape:?} takes {}", shape[depth]));
        }
        Ok(())
    }

    fn value(&mut self, text: &str) -> Result<(), String> {
        if self.count == self.expected {
            return Err(format!("more than the {} values of {:?}", self.expected, self.spec.shape));
        }
        let depth = self.open.len();
        let flat_or_full = depth == 1 || (depth > 0 && depth == self.spec.shape.len());
        if !flat_or_full || depth != *self.leaf_depth.get_or_insert(depth) {
            return Err("values must all stand in one flat list, or nested as the shape says".into());
        }
        self.open.iter_mut().last().into_iter().for_each(|length| *length += 1);
        let datatype = self.spec.datatype;
        let wrong = || format!("value {}: {} is no {datatype}", self.count, &text[..text.len().min(40)]);
        append(datatype, text, &mut self.bytes).ok_or_else(wrong)?;
        self.count += 1;
        Ok(())
    }

    fn finish(self) -> Result<Tensor, String> {
        if self.count != self.expected {
            return Err(format!("{} values, shape {:?} takes {}", self.count, self.spec.shape, self.expected));
        }
        Tensor::new(self.spec.datatype, self.spec.shape.clone(), self.bytes).map_err(|e| e.to_string())
    }
}

/// The bytes of one value, where the type holds it.
fn append(datatype: DataType, text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    macro_rules! parsed {
        ($type:ty) => {
            bytes.extend_from_slice(&text.parse::<$type>().ok()?.to_le_bytes())
        };
    }
    match datatype {
        DataType::Uint8 => parsed!(u8),
        DataType::Uint16 => parsed!(u16),
        DataType::Uint32 => parsed!(u32),
        DataType::Uint64 => parsed!(u64),
        DataType::Int8 => parsed!(i8),
        DataType::Int16 => parsed!(i16),
        DataType::Int32 => parsed!(i32),
        DataType::Int64 => parsed!(i64),
        DataType::Fp32 => bytes.extend(text.parse().ok().filter(|v: &f32| v.is_finite())?.to_le_bytes()),
        DataType::Fp64 => bytes.extend(text.parse().ok().filter(|v: &f64| v.is_finite())?.to_le_bytes()),
        DataType::Bool if text == "true" || text == "1" => bytes.push(1),
        DataType::Bool if text == "false" || text == "0" => bytes.push(0),
        DataType::Bool | DataType::Fp16 => return None,
    }
    Some(())
}

/// Writes a tensor's values as one flat list.
pub(super) struct Flat<'a>(pub &'a Tensor);

impl Flat<'_> {
    /// Why these values have no form in JSON.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let bytes = self.0.bytes();
        let non_finite = match self.0.datatype() {
            DataType::Fp16 => return Some("FP16 has no form in JSON"),
            DataType::Fp32 => bytes.as_chunks::<4>().0.iter().any(|b| !f32::from_le_bytes(*b).is_finite()),
            DataType::Fp64 => bytes.as_chunks::<8>().0.iter().any(|b| !f64::from_le_bytes(*b).is_finite()),
            DataType::Bool
            | DataType::Uint8
            | DataType::Uint16
            | DataType::Uint32
            | DataType::Uint64
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64 => false,
        };
        non_finite.then_some("it holds NaN or infinity, which have no form in JSON")
    }
}

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.bytes();
        let mut list = serializer.serialize_seq(None)?;
        macro_rules! write {
            ($type:ty) => {
                for word in bytes.as_chunks::<{ size_of::<$type>() }>().0 {
                    list.serialize_element(&<$type>::from_le_bytes(*word))?;
                }
            };
        }
        match self.0.datatype() {
            DataType::Bool => {
                for byte in bytes {
                    list.serialize_element(&(*byte != 0))?;
                }
            }
            DataType::Uint8 => write!(u8),
            DataType::Uint16 | DataType::Fp16 => write!(u16),
            DataType::Uint32 => write!(u32),
            DataType::Uint64 => write!(u64),
            DataType::Int8 => write!(i8),
            DataType::Int16 => write!(i16),
            DataType::Int32 => write!(i32),
            DataType::Int64 => write!(i64),
            DataType::Fp32 => write!(f32),
            DataType::Fp64 => write!(f64),
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: DataType, shape: &[usize]) -> TensorSpec {
        TensorSpec::new("x", datatype, shape.to_vec())
    }

    fn read(datatype: DataType, shape: &[usize], json: &str) -> Result<Tensor, String> {
        parse(&spec(datatype, shape), &RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn flat_and_nested_lists_are_the_same_tensor() {
        let flat = read(DataType::Int16, &[2, 1, 3], "[1,2,3,-4,5,32767]").unwrap();
        let nested = read(DataType::Int16, &[2, 1, 3], "[[[1,2,3]],[[-4,5,32767]]]").unwrap();
        assert!(flat == nested);
        assert_eq!(flat.bytes()[6..8], (-4i16).to_le_bytes());
    }

    #[test]
    fn lists_of_another_form_are_refused() {
        for json in [
            "[1,2,3]",
            "[1,2,3,4,5]",
            "[[1,2],[3,4],[]]",
            "[[1,2,3],[4]]",
            "[[1,2],3,4]",
            "[1,[2,3,4]]",
            "[[[1,2],[3,4]]]",
            "[[[[[[[[1]]]]]]]]",
            "[]",
            "[[],[]]",
            "1",
            "null",
            "\"1\"",
            "{}",
            "[null,1,2,3]",
            "[1,2,3,\"4\"]",
        ] {
            assert!(read(DataType::Fp32, &[2, 2], json).is_err(), "{json}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(read(DataType::Fp32, &[2, 2], &deep).is_err());
    }

    #[test]
    fn numbers_that_a_type_does_not_hold_are_refused_by_place_and_value() {
        let error = read(DataType::Int8, &[3], "[1,-128,128]").unwrap_err();
        assert_eq!(error, "value 2: 128 is no INT8");
        for (datatype, value) in [
            (DataType::Uint8, "-1"),
            (DataType::Uint8, "256"),
            (DataType::Uint16, "65536"),
            (DataType::Int16, "-32769"),
            (DataType::Int32, "2147483648"),
            (DataType::Uint32, "4294967296"),
            (DataType::Int64, "9223372036854775808"),
            (DataType::Uint64, "18446744073709551616"),
            (DataType::Int8, "1.5"),
            (DataType::Int8, "true"),
            (DataType::Bool, "2"),
            (DataType::Fp32, "1e39"),
            (DataType::Fp32, "true"),
            (DataType::Fp64, "1e999"),
            (DataType::Fp16, "1"),
        ] {
            assert!(read(datatype, &[1], &format!("[{value}]")).is_err(), "{datatype} {value}");
        }
    }

    #[test]
    fn what_goes_out_reads_back_as_the_same_bits() {
        let singles = [0.1, -0.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, 16_777_216.0, 1.0 / 3.0];
        let tensor = Tensor::from_f32(vec![7], &singles).unwrap();
        let json = serde_json::to_string(&Flat(&tensor)).unwrap();
        assert!(json.starts_with("[0.1,-0.0,"), "{json}");
        assert!(read(DataType::Fp32, &[7], &json).unwrap() == tensor);
        for datatype in DataType::ALL.into_iter().filter(|&d| d != DataType::Fp16) {
            let bytes = (0..8 * datatype.size()).map(|i| if datatype == DataType::Bool { i % 2 } else { i } as u8);
            let tensor = Tensor::new(datatype, vec![8], bytes.collect()).unwrap();
            let json = serde_json::to_string(&Flat(&tensor)).unwrap();
            assert!(read(datatype, &[8], &json).unwrap() == tensor, "{datatype} {json}");
        }
    }

    #[test]
    fn values_without_a_form_in_json_are_told_apart() {
        let tensor = |value| Tensor::from_f32(vec![1], &[value]).unwrap();
        assert!(Flat(&tensor(f32::NAN)).refusal().is_some());
        assert!(Flat(&tensor(f32::NEG_INFINITY)).refusal().is_some());
        assert!(Flat(&tensor(f32::MAX)).refusal().is_none());
    }
}
