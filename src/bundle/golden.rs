//! Golden samples: inputs with the answers that the publisher saw, as a safetensors file.
//!
//! Tensor names are `<sample>.in.<tensor>` and `<sample>.out.<tensor>`, samples counted from 0.

use crate::tensor::{DataType, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// One question with its answer; tensors by the names of the manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GoldenSample {
    pub inputs: BTreeMap<String, Tensor>,
    pub outputs: BTreeMap<String, Tensor>,
}

#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error("golden.safetensors is not a safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
    #[error("golden.safetensors: tensor {0:?} is not named <sample>.in.<tensor> or <sample>.out.<tensor>")]
    Name(String),
    #[error("golden.safetensors: tensor {name:?} has the type {dtype}, which Selvedge does not serve")]
    Type { name: String, dtype: String },
    #[error("golden.safetensors: tensor {name:?}")]
    Size { name: String, source: crate::tensor::SizeMismatch },
    #[error("golden.safetensors: {0}")]
    Samples(&'static str),
}

const MAX_SAMPLES: usize = 1024;

/// Reads the samples in order. A file has 1 to 1024 of them, counted without a gap.
pub fn parse_golden(bytes: &[u8]) -> Result<Vec<GoldenSample>, GoldenError> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut samples = BTreeMap::<usize, GoldenSample>::new();
    for (name, view) in file.tensors() {
        let bad_name = || GoldenError::Name(name.chars().take(80).collect());
        let (number, is_input, tensor_name) = split_name(&name).ok_or_else(bad_name)?;
        let datatype = datatype(view.dtype())
            .ok_or_else(|| GoldenError::Type { name: name.clone(), dtype: format!("{:?}", view.dtype()) })?;
        let tensor = Tensor::new(datatype, view.shape().to_vec(), view.data().to_vec())
            .map_err(|source| GoldenError::Size { name: name.clone(), source })?;
        let sample = samples.entry(number).or_default();
        let side = if is_input { &mut sample.inputs } else { &mut sample.outputs };
        side.insert(tensor_name.to_owned(), tensor);
    }
    if samples.is_empty() || samples.len() > MAX_SAMPLES {
        return Err(GoldenError::Samples("there must be 1 to 1024 samples"));
    }
    if samples.keys().enumerate().any(|(i, &number)| i != number) {
        return Err(GoldenError::Samples("samples are counted from 0 without a gap"));
    }
    Ok(samples.into_values().collect())
}

fn split_name(name: &str) -> Option<(usize, bool, &str)> {
    let (number, rest) = name.split_once('.')?;
    let (side, tensor) = rest.split_once('.')?;
    let is_input = match side {
        "in" => true,
        "out" => false,
        _ => return None,
    };
    Some((number.parse().ok()?, is_input, tensor))
}

/// The element type of a safetensors file as ours; `None` where no model here takes it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the file format's types grow; those that no model here takes are refused"
)]
pub fn datatype(dtype: Dtype) -> Option<DataType> {
    let datatype = match dtype {
        Dtype::BOOL => DataType::Bool,
        Dtype::U8 => DataType::Uint8,
        Dtype::U16 => DataType::Uint16,
        Dtype::U32 => DataType::Uint32,
        Dtype::U64 => DataType::Uint64,
        Dtype::I8 => DataType::Int8,
        Dtype::I16 => DataType::Int16,
        Dtype::I32 => DataType::Int32,
        Dtype::I64 => DataType::Int64,
        Dtype::F16 => DataType::Fp16,
        Dtype::F32 => DataType::Fp32,
        Dtype::F64 => DataType::Fp64,
        _ => return None,
    };
    Some(datatype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn file(names: &[&str]) -> Vec<u8> {
        let data = [0u8; 4];
        let views = names.iter().map(|name| {
            let view = TensorView::new(Dtype::F32, vec![1], &data).unwrap();
            ((*name).to_owned(), view)
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn samples_come_in_order() {
        let samples = parse_golden(&file(&["0.in.x", "0.out.y", "1.in.x", "1.out.y"])).unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[1].outputs["y"].to_f32(), Some(vec![0.0]));
    }

    #[test]
    fn hostile_files_are_refused() {
        assert!(matches!(parse_golden(&file(&["x"])), Err(GoldenError::Name(_))));
        assert!(matches!(parse_golden(&file(&["1.in.x"])), Err(GoldenError::Samples(_))));
        assert!(matches!(parse_golden(&file(&["0.both.x"])), Err(GoldenError::Name(_))));
        assert!(matches!(parse_golden(b"\xff\xff\xff\xff\xff\xff\xff\xff{}"), Err(GoldenError::Format(_))));
        assert!(parse_golden(&[]).is_err());
    }
}
