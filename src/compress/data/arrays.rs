//! Arrays in npy, npz and safetensors files.
//!
//! Invariant: sizes that a header claims are checked first: of a plain file against its own, of what is compressed (npz)
//! against the bound on all of it. What is not asked for is not unpacked.

use super::{DataError, Dataset, Label, Reading, Rows, form, read, tensor_of};
use crate::tensor::{DataType, Tensor, TensorSpec};
use npyz::{DType, NpyFile, TypeChar};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

type Named = (String, Tensor);

/// Arrays of one archive.
const MAX_ARRAYS: usize = 256;
/// Elements of one array: as much as a file of the largest size holds.
const MAX_ELEMENTS: u64 = super::MAX_BYTES;

pub(super) fn npy(path: &Path) -> Result<Tensor, DataError> {
    array(&read(path)?[..]).map_err(|problem| form(path, problem))
}

/// The inputs' arrays and the labels; of one input the array may have any name.
pub(super) fn npz(path: &Path, specs: &[TensorSpec]) -> Result<Vec<Named>, DataError> {
    let failed = |source| DataError::File { path: path.to_owned(), source };
    let mut archive = npyz::npz::NpzArchive::open(path).map_err(failed)?;
    let names: Vec<String> = archive.array_names().take(MAX_ARRAYS).map(str::to_owned).collect();
    let is_input = |name: &String| specs.iter().any(|spec| spec.name == *name);
    let is_label = |name: &String| LABELS.contains(&name.as_str());
    let is_alone = specs.len() == 1 && names.iter().filter(|name| !is_label(name)).count() == 1;
    let names: Vec<String> = names.into_iter().filter(|name| is_alone || is_input(name) || is_label(name)).collect();
    let mut left = super::MAX_BYTES;
    names
        .into_iter()
        .map(|name| {
            let file = archive.by_name(&name).map_err(failed)?;
            let file = file.ok_or_else(|| form(path, format!("{name:?} is gone")))?;
            let tensor = values(file, left).map_err(|problem| form(path, format!("array {name:?}: {problem}")))?;
            left = left.saturating_sub(tensor.bytes().len() as u64);
            Ok((name, tensor))
        })
        .collect()
}

pub(super) fn safetensors(path: &Path) -> Result<Vec<Named>, DataError> {
    let bytes = read(path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| form(path, error.to_string()))?;
    let one = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let datatype = crate::bundle::datatype(view.dtype())?;
        Some((name, Tensor::new(datatype, view.shape().to_vec(), view.data().to_vec()).ok()?))
    };
    Ok(file.tensors().into_iter().take(MAX_ARRAYS).filter_map(one).collect())
}

fn array(bytes: &[u8]) -> Result<Tensor, String> {
    let file = NpyFile::new(bytes).map_err(|error| format!("it is no npy file: {error}"))?;
    values(file, bytes.len() as u64)
}

/// Little-endian elements, row-major.
fn values<R: Read>(file: NpyFile<R>, limit: u64) -> Result<Tensor, String> {
    let DType::Plain(dtype) = file.dtype() else { return Err("it holds records; plain numbers are expected".into()) };
    let elements = file.shape().iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let elements = elements.filter(|&count| count <= MAX_ELEMENTS).ok_or("its shape is larger than any file")?;
    let size = dtype.size_field();
    if elements.checked_mul(size).is_none_or(|bytes| bytes > limit) {
        return Err(format!("it claims {elements} elements: more than there can be"));
    }
    let shape: Vec<usize> = file.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
    if file.order() != npyz::Order::C && shape.len() > 1 {
        return Err("it is in Fortran's order; save numpy.ascontiguousarray(x)".into());
    }
    macro_rules! read_as {
        ($kind:ty, $datatype:expr) => {{
            let numbers = file.data::<$kind>().map_err(|error| error.to_string())?;
            let mut bytes = Vec::new();
            for number in numbers {
                bytes.extend(number.map_err(|error| format!("it is cut off: {error}"))?.to_le_bytes());
            }
            ($datatype, bytes)
        }};
    }
    let (datatype, bytes) = match (dtype.type_char(), size) {
        (TypeChar::Float, 4) => read_as!(f32, DataType::Fp32),
        (TypeChar::Float, 8) => read_as!(f64, DataType::Fp64),
        (TypeChar::Int, 1) => read_as!(i8, DataType::Int8),
        (TypeChar::Int, 2) => read_as!(i16, DataType::Int16),
        (TypeChar::Int, 4) => read_as!(i32, DataType::Int32),
        (TypeChar::Int, 8) => read_as!(i64, DataType::Int64),
        (TypeChar::Uint, 1) => read_as!(u8, DataType::Uint8),
        (TypeChar::Uint, 2) => read_as!(u16, DataType::Uint16),
        (TypeChar::Uint, 4) => read_as!(u32, DataType::Uint32),
        (TypeChar::Uint, 8) => read_as!(u64, DataType::Uint64),
        _ => return Err(format!("elements of type {} are not read; use float32, or integers", dtype)),
    };
    Tensor::new(datatype, shape, bytes).map_err(|error| error.to_string())
}

const LABELS: [&str; 6] = ["labels", "label", "y", "targets", "target", "classes"];

/// Finds the inputs and the labels among named arrays.
pub(super) fn of_named(
    path: &Path,
    mut named: Vec<Named>,
    specs: &[TensorSpec],
    reading: &Reading,
) -> Result<Dataset, DataError> {
    let is_input = |name: &str| specs.iter().any(|spec| spec.name == name);
    let at = named.iter().position(|(name, _)| LABELS.contains(&name.as_str()) && !is_input(name));
    let labels = at.map(|at| named.remove(at).1);
    let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
    let found = match (specs, named.len()) {
        ([_], 1) => vec![named.remove(0).1],
        _ => {
            let find = |spec: &TensorSpec| {
                let at = named.iter().position(|(name, _)| *name == spec.name);
                at.map(|at| named.remove(at).1).ok_or_else(|| {
                    form(path, format!("there is no array {:?} for the model's input; there are {names:?}", spec.name))
                })
            };
            specs.iter().map(find).collect::<Result<_, _>>()?
        }
    };
    let samples = found.first().and_then(|array| array.shape().first()).copied().unwrap_or(0);
    for (array, spec) in found.iter().zip(specs) {
        check(array, spec, samples).map_err(|problem| form(path, problem))?;
    }
    let labels = match labels {
        Some(array) => of_labels(&array).map_err(|problem| form(path, problem))?,
        None => vec![None; samples],
    };
    let rows = Arc::new(Rows::Arrays { arrays: found, scale: reading.scale.unwrap_or(1.0) });
    Ok(Dataset {
        path: path.into(),
        specs: specs.to_vec(),
        rows,
        labels,
        classes: reading.classes.clone(),
        layout: None,
    })
}

fn check(array: &Tensor, spec: &TensorSpec, samples: usize) -> Result<(), String> {
    let shape = array.shape();
    if shape.first() != Some(&samples) || samples > super::MAX_SAMPLES {
        return Err(format!("arrays hold different numbers of samples: {samples} and {:?}", shape.first()));
    }
    // One sample fills the input, whether or not its dimensions of 1 are written.
    let without_ones = |dims: &[usize]| dims.iter().copied().filter(|&dim| dim != 1).collect::<Vec<_>>();
    if without_ones(&shape[1..]) == without_ones(&spec.shape) {
        return Ok(());
    }
    Err(format!("samples of shape {:?} do not fit input {:?}: {} is expected", &shape[1..], spec.name, spec.form()))
}

/// Of integers -1 is no label, of floats NaN.
pub(super) fn of_labels(array: &Tensor) -> Result<Vec<Option<Label>>, String> {
    let values = array.to_f64();
    let samples = array.shape().first().copied().unwrap_or(0);
    let each = values.len().checked_div(samples).unwrap_or(0);
    let class = |value: f64| Label::Class(value as usize);
    let integers = !matches!(array.datatype(), DataType::Fp16 | DataType::Fp32 | DataType::Fp64);
    let label = |row: &[f64]| match row {
        [value] if integers && *value >= 0.0 => Ok(Some(class(*value))),
        [-1.0] if integers => Ok(None),
        [_] if integers => Err("a label is below -1, which stands for none".to_owned()),
        row if row.iter().all(|value| value.is_nan()) => Ok(None),
        row if !row.iter().all(|value| value.is_finite()) => {
            Err("a label holds NaN or infinity: NaN alone stands for none".to_owned())
        }
        row => Ok(Some(Label::Values(row.iter().map(|&value| value as f32).collect()))),
    };
    if each == 0 { Ok(vec![None; samples]) } else { values.chunks_exact(each).map(label).collect() }
}

/// One sample out of an array, as the input wants it.
pub(super) fn row(array: &Tensor, index: usize, spec: &TensorSpec, scale: f32) -> Result<Tensor, String> {
    let samples = array.shape().first().copied().unwrap_or(0);
    let size = array.bytes().len().checked_div(samples).unwrap_or(0);
    let bytes = array.bytes().get(index * size..(index + 1) * size).ok_or("there is no such sample")?;
    let shape = spec.shape.clone();
    let misfit = |_| "it does not fit the input".to_owned();
    if array.datatype() == spec.datatype && scale == 1.0 {
        return Tensor::new(spec.datatype, shape, bytes.to_vec()).map_err(misfit);
    }
    let row = Tensor::new(array.datatype(), array.shape()[1..].to_vec(), bytes.to_vec()).map_err(misfit)?;
    let values: Vec<f64> = row.to_f64().iter().map(|value| value * f64::from(scale)).collect();
    tensor_of(spec.datatype, shape, &values).ok_or_else(|| format!("a value is none of type {}", spec.datatype))
}
