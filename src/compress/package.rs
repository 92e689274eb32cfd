//! A compressed model as a model's directory: manifest, model, golden samples, labels; ready to publish.
//!
//! Invariant: golden answers are the engine's own; the operator's data is in them only where that was asked for.
//! Not here: files on disk.

use super::data::{Sample, mix};
use super::{Error, Network};
use crate::bundle::{Budget, Bundle, GoldenPolicy, Input, Manifest, ModelName, Output, Probation};
use crate::engine::Model;
use crate::tensor::{DataType, Tensor, TensorSpec};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;

/// Samples that a device proves itself with.
pub const GOLDEN: usize = 16;

/// Where the manifest comes from.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// The next version of this one.
    Next(&'a Bundle),
    /// A first version.
    Named(&'a ModelName),
}

/// The directory's files by name.
///
/// # Errors
/// When the model does not answer, or the files make no bundle.
pub fn package(network: &Network, base: Base<'_>, golden: &[Vec<Tensor>]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let size = network.size()?;
    if size > Model::MAX_BYTES as u64 {
        return Err(Error::unfit(format!(
            "the model takes {} MiB, and a device loads at most {}: make it smaller, or state an --out that ends with .onnx",
            size.div_ceil(1 << 20),
            Model::MAX_BYTES >> 20
        )));
    }
    let onnx = network.encode()?;
    let mut session = network.session()?;
    let answers: Vec<Vec<Tensor>> = golden.iter().map(|inputs| session.run(inputs)).collect::<Result<_, _>>()?;
    let mut files = BTreeMap::from([("model.onnx".to_owned(), onnx)]);
    let atol = tolerance(&answers);
    let manifest = match base {
        Base::Next(bundle) => {
            for output in &bundle.manifest().outputs {
                if let (Some(name), Some(labels)) = (&output.labels, bundle.labels(&output.name)) {
                    files.insert(
                        name.clone(),
                        labels.iter().map(|label| format!("{label}\n")).collect::<String>().into_bytes(),
                    );
                }
            }
            let old = bundle.manifest().clone();
            Manifest { version: old.version.saturating_add(1), golden: GoldenPolicy { atol, ..old.golden }, ..old }
        }
        Base::Named(name) => first(network, name.clone(), atol),
    };
    let text = toml::to_string(&manifest).map_err(|error| Error::unfit(format!("write the manifest: {error}")))?;
    files.insert("manifest.toml".into(), text.into_bytes());
    files.insert("golden.safetensors".into(), written(network, golden, &answers)?);
    Bundle::pack(&files).map_err(|error| Error::unfit(format!("what came out makes no bundle: {error}")))?;
    Ok(files)
}

fn first(network: &Network, name: ModelName, atol: f64) -> Manifest {
    let input = |spec: &TensorSpec| Input {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape: spec.shape.clone(),
        max_shape: None,
        preprocess: None,
    };
    let output = |spec: &TensorSpec| Output {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape: spec.shape.clone(),
        labels: None,
    };
    Manifest {
        format: 1,
        name,
        version: 1,
        description: String::new(),
        runtime: env!("CARGO_PKG_VERSION").to_owned(),
        inputs: network.inputs.iter().map(input).collect(),
        outputs: network.outputs.iter().map(output).collect(),
        golden: GoldenPolicy { atol, min_agreement: 1.0 },
        budget: Budget::default(),
        shadow: None,
        canary: None,
        probation: Probation::default(),
    }
}

/// Integers are the same everywhere; what is float between them may round otherwise on another processor and so move an
/// answer by a step or two: two percent of the largest.
fn tolerance(answers: &[Vec<Tensor>]) -> f64 {
    let largest = answers.iter().flatten().flat_map(Tensor::to_f64).fold(0.0_f64, |most, value| most.max(value.abs()));
    (largest * 0.02 * 1e4).ceil().max(1.0) / 1e4
}

fn written(network: &Network, inputs: &[Vec<Tensor>], outputs: &[Vec<Tensor>]) -> Result<Vec<u8>, Error> {
    let side = |number: usize, side: &str, specs: &[TensorSpec], tensors: &[Tensor]| {
        let name = |spec: &TensorSpec| format!("{number}.{side}.{}", spec.name);
        specs.iter().map(name).zip(tensors.to_vec()).collect::<Vec<_>>()
    };
    let named: Vec<(String, Tensor)> = inputs
        .iter()
        .zip(outputs)
        .enumerate()
        .flat_map(|(number, (asked, given))| {
            [side(number, "in", &network.inputs, asked), side(number, "out", &network.outputs, given)].concat()
        })
        .collect();
    let failed = |error: safetensors::SafeTensorError| Error::unfit(format!("write golden samples: {error}"));
    let mut views = Vec::with_capacity(named.len());
    for (name, tensor) in &named {
        views.push((name.clone(), viewed(tensor).map_err(failed)?));
    }
    safetensors::serialize(views, None).map_err(failed)
}

fn viewed(tensor: &Tensor) -> Result<TensorView<'_>, safetensors::SafeTensorError> {
    let dtype = match tensor.datatype() {
        DataType::Bool => Dtype::BOOL,
        DataType::Uint8 => Dtype::U8,
        DataType::Uint16 => Dtype::U16,
        DataType::Uint32 => Dtype::U32,
        DataType::Uint64 => Dtype::U64,
        DataType::Int8 => Dtype::I8,
        DataType::Int16 => Dtype::I16,
        DataType::Int32 => Dtype::I32,
        DataType::Int64 => Dtype::I64,
        DataType::Fp16 => Dtype::F16,
        DataType::Fp32 => Dtype::F32,
        DataType::Fp64 => Dtype::F64,
    };
    TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes())
}

/// Inputs that are nobody's data: noise within the range that the data has, made by the seed.
pub fn synthetic(specs: &[TensorSpec], ranges: &[(f32, f32)], seed: u64) -> Vec<Vec<Tensor>> {
    let sample = |number: usize| {
        let input = |(at, spec): (usize, &TensorSpec)| {
            let (lo, hi) = ranges.get(at).copied().unwrap_or((0.0, 1.0));
            let start = mix(seed ^ mix((number * specs.len() + at) as u64));
            let noise = |at: usize| (mix(start ^ at as u64) >> 40) as f32 / (1_u32 << 24) as f32;
            let count = spec.shape.iter().product::<usize>();
            let shaped = |value: f64| if spec.datatype.is_float() { value } else { value.round() };
            let values: Vec<f64> = (0..count).map(|at| shaped(f64::from(lo + (hi - lo) * noise(at)))).collect();
            super::data::tensor_of(spec.datatype, spec.shape.clone(), &values)
                .or_else(|| super::data::tensor_of(spec.datatype, spec.shape.clone(), &vec![0.0; count]))
        };
        specs.iter().enumerate().filter_map(input).collect()
    };
    (0..GOLDEN).map(sample).collect()
}

/// The least and the largest value of each input over samples.
pub fn ranges(samples: &[Sample]) -> Vec<(f32, f32)> {
    let of_input = |at: usize| {
        let values = samples.iter().filter_map(|sample| sample.inputs.get(at)).flat_map(Tensor::to_f64);
        let (lo, hi) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), value| (lo.min(value), hi.max(value)));
        if lo > hi { (0.0, 1.0) } else { (lo as f32, hi as f32) }
    };
    (0..samples.first().map_or(0, |sample| sample.inputs.len())).map(of_input).collect()
}

/// Golden inputs out of samples.
pub fn of_samples(samples: &[Sample]) -> Vec<Vec<Tensor>> {
    samples.iter().take(GOLDEN).map(|sample| sample.inputs.clone()).collect()
}
