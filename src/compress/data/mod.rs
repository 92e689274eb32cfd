//! The operator's own data as samples for a model: arrays, images, series, sounds.
//!
//! Invariant: a sample fits the model's inputs, its values are finite, and it is the same each time it is asked for;
//! a file that is not as expected is named with what was expected.
//! Not here: what is done with samples.
//!
//! | where | what |
//! |---|---|
//! | `x.npz`, `x.safetensors` | an array for each input by name (of one input: any name), samples outermost; `labels` or `y` |
//! | `x.npy` | the one input; labels by `--labels` |
//! | `x.csv` | a sample each line, in the input's row-major order; a column `label` |
//! | a folder of images or of WAV files | as the manifest's `preprocess` says; subfolders are classes |
//!
//! A sample without a label: -1 among integers, NaN among floats, an empty cell or line, a subfolder `unlabelled`.

mod arrays;
mod files;
mod split;
mod table;
#[cfg(test)]
mod tests;

pub(in crate::compress) use split::mix;
pub use split::{Part, Shares, Split};

use crate::bundle::{Layout, Preprocess};
use crate::tensor::{DataType, Tensor, TensorSpec};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is asked of a model, and what it should answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// In the order of the model's inputs.
    pub inputs: Vec<Tensor>,
    pub label: Option<Label>,
}

/// What a sample is, or should give.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    Class(usize),
    /// Of the first output, row-major.
    Values(Vec<f32>),
}

/// How files become inputs.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Of the first input, for images and sounds.
    pub preprocess: Option<Preprocess>,
    /// Names of classes, in the model's order; subfolders in alphabetical order where there are none.
    pub classes: Vec<String>,
    /// A file of labels beside the data: npy, or a text with one each line.
    pub labels: Option<PathBuf>,
    /// Array values times this; 1 where `None`.
    pub scale: Option<f32>,
}

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("read {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: {problem}")]
    Form { path: PathBuf, problem: String },
    #[error("{path}, sample {sample}: {problem}")]
    Sample { path: PathBuf, sample: usize, problem: String },
    #[error("{path} is over {} MiB; give the data in parts, or as a folder", MAX_BYTES >> 20)]
    TooLarge { path: PathBuf },
}

/// Of one file. What is larger belongs into a folder, which is read as it is needed.
const MAX_BYTES: u64 = 4 << 30;
/// Of samples, and of files in a folder.
const MAX_SAMPLES: usize = 10_000_000;

/// Samples by number; a copy shares them.
#[derive(Debug, Clone)]
pub struct Dataset {
    path: PathBuf,
    specs: Vec<TensorSpec>,
    rows: Arc<Rows>,
    labels: Vec<Option<Label>>,
    /// Names of classes, where the data tells them.
    classes: Vec<String>,
    /// Of images, where the manifest says it, or files were read so.
    layout: Option<Layout>,
}

#[derive(Debug)]
enum Rows {
    /// For each input an array with samples outermost, and what its values are multiplied with.
    Arrays {
        arrays: Vec<Tensor>,
        scale: f32,
    },
    Files(files::Folder),
    /// One after the other.
    Joined(Box<[Dataset; 2]>),
}

impl Dataset {
    /// Opens data for a model of these inputs, each with a first dimension of 1 where samples have none.
    ///
    /// # Errors
    /// When it is of no known kind, does not fit the inputs, or is larger than the bounds.
    pub fn open(path: &Path, specs: &[TensorSpec], reading: &Reading) -> Result<Self, DataError> {
        let metadata = std::fs::metadata(path).map_err(|source| DataError::File { path: path.into(), source })?;
        let mut data = match metadata.is_dir() {
            true => files::open(path, specs, reading)?,
            false => Self::of_file(path, specs, reading)?,
        };
        if let Some(labels) = &reading.labels {
            data.labels = table::labels(labels, &data.classes)?;
            // Empty lines at a text's end stand for nothing.
            while data.labels.len() > data.len() && data.labels.last() == Some(&None) {
                data.labels.pop();
            }
        }
        if let Some(Preprocess::Image(how)) = &reading.preprocess {
            data.layout = Some(how.layout);
        }
        let (labels, samples) = (data.labels.len(), data.len());
        if samples == 0 {
            return Err(form(path, "there are no samples in it"));
        }
        if labels != samples {
            return Err(form(path, format!("there are {samples} samples and {labels} labels")));
        }
        Ok(data)
    }

    fn of_file(path: &Path, specs: &[TensorSpec], reading: &Reading) -> Result<Self, DataError> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "npz" => arrays::of_named(path, arrays::npz(path, specs)?, specs, reading),
            "safetensors" => arrays::of_named(path, arrays::safetensors(path)?, specs, reading),
            "npy" => arrays::of_named(path, vec![("data".into(), arrays::npy(path)?)], specs, reading),
            "csv" => table::csv(path, specs, reading),
            other => {
                let expected = "a folder of images or WAV files, npz, npy, safetensors or csv is expected";
                Err(form(path, format!("{other:?} is no kind of data that is known; {expected}")))
            }
        }
    }

    pub fn len(&self) -> usize {
        match &*self.rows {
            Rows::Arrays { arrays, .. } => arrays.first().and_then(|array| array.shape().first()).copied().unwrap_or(0),
            Rows::Files(folder) => folder.len(),
            Rows::Joined(both) => both[0].len() + both[1].len(),
        }
    }

    /// This data and then that, for the same model.
    ///
    /// # Errors
    /// When one has labels and the other has none, or their classes differ.
    pub fn joined(&self, other: &Self) -> Result<Self, DataError> {
        if self.is_labelled() != other.is_labelled() || self.classes != other.classes {
            return Err(form(&other.path, format!("it has other labels or classes than {}", self.path.display())));
        }
        let labels = [&self.labels[..], &other.labels].concat();
        Ok(Self { labels, rows: Arc::new(Rows::Joined(Box::new([self.clone(), other.clone()]))), ..self.clone() })
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_labelled(&self) -> bool {
        self.labels.iter().all(Option::is_some)
    }

    /// How many samples have a label.
    pub fn labelled(&self) -> usize {
        self.labels.iter().flatten().count()
    }

    /// Names of classes by number; empty where the data tells none.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How images are laid out, as far as the manifest says so or files were read so.
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// Labels by sample, without reading the samples.
    pub fn label(&self, index: usize) -> Option<&Label> {
        self.labels.get(index)?.as_ref()
    }

    /// Reads one sample.
    ///
    /// # Errors
    /// When its file cannot be read, or a value is not finite.
    pub fn sample(&self, index: usize) -> Result<Sample, DataError> {
        let inputs = match &*self.rows {
            Rows::Joined(both) => {
                let first = both[0].len();
                return if index < first { both[0].sample(index) } else { both[1].sample(index - first) };
            }
            Rows::Arrays { arrays, scale } => {
                let row = |(array, spec): (&Tensor, &TensorSpec)| arrays::row(array, index, spec, *scale);
                arrays.iter().zip(&self.specs).map(row).collect::<Result<Vec<_>, _>>()
            }
            Rows::Files(folder) => folder.read(index, &self.specs[0]).map(|input| vec![input]),
        };
        let fault = |problem| DataError::Sample { path: self.path.clone(), sample: index, problem };
        let inputs = inputs.map_err(fault)?;
        let finite =
            |tensor: &Tensor| tensor.to_f32().is_none_or(|values| values.iter().all(|value| value.is_finite()));
        if !inputs.iter().all(finite) {
            return Err(fault("a value is NaN or infinite: mend or remove the sample".into()));
        }
        Ok(Sample { inputs, label: self.labels.get(index).cloned().flatten() })
    }
}

fn form(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Form { path: path.to_owned(), problem: problem.into() }
}

/// A file's bytes, within the bound.
fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    use std::io::Read as _;
    let failed = |source| DataError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES { Err(DataError::TooLarge { path: path.to_owned() }) } else { Ok(bytes) }
}

/// Numbers as a tensor of another datatype; `None` where one does not fit an integer type.
pub(super) fn tensor_of(datatype: DataType, shape: Vec<usize>, values: &[f64]) -> Option<Tensor> {
    fn each<const N: usize>(values: &[f64], write: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&value| write(value)).collect()
    }
    let whole = |lo: f64, hi: f64| values.iter().all(|value| value.fract() == 0.0 && (lo..=hi).contains(value));
    let signed = |bits: i32| whole(-(2.0_f64.powi(bits - 1)), 2.0_f64.powi(bits - 1) - 1.0);
    let unsigned = |bits: i32| whole(0.0, 2.0_f64.powi(bits) - 1.0);
    // Casts are within bounds: those are asked for first.
    let bytes = match datatype {
        DataType::Fp32 => each(values, |value| (value as f32).to_le_bytes()),
        DataType::Fp64 => each(values, f64::to_le_bytes),
        DataType::Fp16 => each(values, |value| half::f16::from_f64(value).to_le_bytes()),
        DataType::Bool if unsigned(1) => each(values, |value| [value as u8]),
        DataType::Uint8 if unsigned(8) => each(values, |value| [value as u8]),
        DataType::Uint16 if unsigned(16) => each(values, |value| (value as u16).to_le_bytes()),
        DataType::Uint32 if unsigned(32) => each(values, |value| (value as u32).to_le_bytes()),
        DataType::Uint64 if unsigned(53) => each(values, |value| (value as u64).to_le_bytes()),
        DataType::Int8 if signed(8) => each(values, |value| (value as i8).to_le_bytes()),
        DataType::Int16 if signed(16) => each(values, |value| (value as i16).to_le_bytes()),
        DataType::Int32 if signed(32) => each(values, |value| (value as i32).to_le_bytes()),
        DataType::Int64 if signed(54) => each(values, |value| (value as i64).to_le_bytes()),
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64 => return None,
    };
    Tensor::new(datatype, shape, bytes).ok()
}
