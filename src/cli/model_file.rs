//! The model that `inspect` and `bench` are asked about: an ONNX file, a model's directory, or a packed bundle.

use super::{advise, plain};
use crate::bundle::{Bundle, Manifest};
use crate::config::{Config, ConfigError};
use crate::engine::{Ends, EndsError, Model, Settings, Shapes};
use crate::onnx::{Parts, ReadError};
use crate::store::read_model_dir;
use crate::sys::{Disk as _, RealDisk, available_memory};
use crate::tensor::TensorSpec;
use anyhow::{Context as _, anyhow, bail};
use std::path::{Path, PathBuf};

/// Which model, and how it is to run.
#[derive(Debug, clap::Args)]
pub(super) struct ModelArgs {
    /// An ONNX file, a model's directory (manifest.toml, model.onnx, golden samples), or a packed bundle.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The shape of an input whose dimensions the ONNX file leaves open; may be given more than once.
    #[arg(long = "shape", value_name = "NAME=1x3x224x224", value_parser = parse_shape)]
    shapes: Vec<(String, Vec<usize>)>,
    /// The configuration whose engine.isa and engine.threads hold; /etc/selvedge/selvedge.toml where it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A model that has been read, and not yet loaded.
#[derive(Debug)]
pub(super) struct Source {
    /// As it was named.
    pub path: String,
    /// From its manifest: name and version.
    pub release: Option<String>,
    pub onnx: Parts,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// What was assumed.
    pub notes: Vec<String>,
    /// Where it came as one.
    #[cfg_attr(not(feature = "compress"), expect(dead_code, reason = "compression reads it"))]
    pub bundle: Option<Bundle>,
}

/// One input may be as large as the engine lets any tensor be.
const MAX_INPUT: usize = 1 << 30;
const MAX_RANK: usize = 16;

impl ModelArgs {
    /// Another model under the same settings.
    #[cfg(feature = "compress")]
    pub fn beside(&self, model: PathBuf) -> Self {
        Self { model, shapes: self.shapes.clone(), config: self.config.clone() }
    }

    /// Puts the engine's settings in force and reads the model.
    pub fn open(&self, threads: Option<usize>) -> anyhow::Result<Source> {
        let settings = self.settings(threads)?;
        settings.state()?;
        settings.isa().map_err(|error| {
            let hint = "unset SELVEDGE_ISA, or set isa = \"auto\" under [engine] in the configuration";
            advise(error, "choose the instruction set", hint)
        })?;
        let source = self.read()?;
        for spec in &source.inputs {
            if spec.byte_size().is_none_or(|size| size > MAX_INPUT) {
                bail!(
                    "input {:?} of shape {} takes over 1 GiB: state a smaller --shape",
                    spec.name,
                    times(&spec.shape)
                );
            }
        }
        Ok(source)
    }

    fn settings(&self, threads: Option<usize>) -> anyhow::Result<Settings> {
        let path = self.config.as_deref().unwrap_or(Path::new(Config::PATH));
        let engine = match Config::load(&RealDisk, path) {
            Ok(config) => Some(config.engine),
            // Nobody asked for the installed one, which may not be there, or not be readable for this user.
            Err(ConfigError::Absent { .. } | ConfigError::Read { .. }) if self.config.is_none() => None,
            Err(error) => return Err(error.into()),
        };
        let configured = engine.as_ref().and_then(|engine| engine.threads);
        Ok(Settings {
            isa: engine.and_then(|engine| engine.isa),
            threads: threads.or(configured).unwrap_or_else(Settings::default_threads),
        })
    }

    fn read(&self) -> anyhow::Result<Source> {
        let shown = plain(&self.model.display().to_string());
        let what = format!("read the model {shown}");
        let hint = "name an ONNX file, or a directory with manifest.toml, model.onnx and golden.safetensors";
        let metadata = std::fs::metadata(&self.model).map_err(|error| advise(error, what.as_str(), hint))?;
        if metadata.is_dir() {
            let (bundle, _) = read_model_dir(&self.model).map_err(|error| advise(error, what.as_str(), hint))?;
            return self.of_bundle(shown, &bundle);
        }
        if !metadata.is_file() {
            return Err(advise(anyhow!("it is no plain file"), what, hint));
        }
        if is_tar(&self.model) {
            let bytes = RealDisk.read(&self.model, Bundle::MAX_BYTES).context(what.clone())?.unwrap_or_default();
            let bundle = Bundle::unpack(bytes).map_err(|error| advise(error, what, hint))?;
            return self.of_bundle(shown, &bundle);
        }
        let onnx = read_onnx(&self.model)?;
        self.of_onnx(shown, onnx)
    }

    fn of_bundle(&self, path: String, bundle: &Bundle) -> anyhow::Result<Source> {
        let manifest: &Manifest = bundle.manifest();
        let (inputs, outputs) = match self.shapes.is_empty() {
            true => (manifest.input_specs(), manifest.output_specs()),
            false => self.at_shapes(&path, bundle)?,
        };
        Ok(Source {
            path,
            release: Some(format!("{} version {}", manifest.name, manifest.version)),
            onnx: bundle.model().to_vec().into(),
            inputs,
            outputs,
            notes: Vec::new(),
            bundle: Some(bundle.clone()),
        })
    }

    /// Inputs in the shapes that were asked for, which the manifest must leave open.
    fn at_shapes(&self, path: &str, bundle: &Bundle) -> anyhow::Result<(Vec<TensorSpec>, Vec<TensorSpec>)> {
        let mut inputs = bundle.manifest().input_specs();
        for (name, shape) in &self.shapes {
            let hint = "name the model.onnx in it to try shapes that its manifest.toml does not allow";
            let spec = inputs.iter_mut().find(|spec| spec.name == *name && spec.admits(shape));
            let refused = || anyhow!("its manifest.toml does not let {} have the shape {}", plain(name), times(shape));
            let spec = spec.ok_or_else(|| advise(refused(), path.to_owned(), hint))?;
            *spec = spec.at(shape.clone());
        }
        let stated: Shapes = inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        let ends = Ends::of(bundle.model(), &stated).map_err(|error| {
            advise(error, format!("read the model {path}"), "state a --shape that its graph can take")
        })?;
        let named = |spec: &TensorSpec| ends.outputs.iter().find(|end| end.name == spec.name).cloned();
        let outputs = bundle.manifest().output_specs().into_iter().map(|spec| named(&spec).unwrap_or(spec)).collect();
        Ok((inputs.iter().map(|spec| spec.at(spec.shape.clone())).collect(), outputs))
    }

    fn of_onnx(&self, path: String, onnx: Parts) -> anyhow::Result<Source> {
        let stated: Shapes = self.shapes.iter().cloned().collect();
        let ends = Ends::of(&onnx, &stated).map_err(|error| {
            let hint = hint(&error);
            advise(error, format!("read the model {path}"), hint)
        })?;
        let note =
            |name: &String| format!("input {name:?} leaves its first dimension open: 1 here; --shape states another");
        let notes = ends.assumed.iter().map(note).collect();
        Ok(Source { path, release: None, onnx, inputs: ends.inputs, outputs: ends.outputs, notes, bundle: None })
    }
}

fn hint(error: &EndsError) -> String {
    match error {
        EndsError::Open { name, example, .. } => {
            format!("--shape '{}={example}' with sizes that the model is used with", plain(name))
        }
        EndsError::Unknown(name) => format!("--shape '{}=1x10' with the shape that it has for this input", plain(name)),
        EndsError::NoSuch { .. } => "--shape takes a name of these, '=' and sizes: --shape 'image=1x3x224x224'".into(),
        EndsError::Normalise(_) => "a --shape must agree with the dimensions that the file states".into(),
        EndsError::Element { .. } => "export the model with tensors of numbers at its ends".into(),
        EndsError::Read(_) => NO_ONNX.into(),
        EndsError::Load(_) => "export the model anew without what is named here".into(),
    }
}

const NO_ONNX: &str = "is this an ONNX file, whole? `python -m onnx.checker` says more of it";

/// An ONNX file, with the files beside it that hold its weights. Reading may take three quarters of the memory that is free:
/// running it takes some, too.
pub(super) fn read_onnx(path: &Path) -> anyhow::Result<Parts> {
    let memory = available_memory() / 4 * 3;
    Parts::read(path, Model::MAX_BYTES as u64, memory).map_err(|error| {
        let hint = match &error {
            ReadError::Memory { .. } => "close other programs, or do this on a machine with more memory",
            ReadError::File { .. } => "does it exist, and may you read it?",
            ReadError::Tensor { .. } => "files of weights lie in the model's directory, as they were exported",
            ReadError::TooLarge { .. }
            | ReadError::Wire(_)
            | ReadError::Decode(_)
            | ReadError::NoGraph
            | ReadError::NoOpset
            | ReadError::Graph(_) => NO_ONNX,
        };
        advise(error, format!("read the model {}", plain(&path.display().to_string())), hint)
    })
}

fn is_tar(path: &Path) -> bool {
    let mut magic = [0; 5];
    RealDisk.read_at(path, 257, &mut magic).is_ok() && magic == *b"ustar"
}

/// A node's name for a table: its end, which tells it from others.
pub(super) fn end_of(name: &str) -> String {
    const LONGEST: usize = 32;
    let name = plain(name);
    let length = name.chars().count();
    match length > LONGEST {
        true => format!("…{}", name.chars().skip(length - LONGEST + 1).collect::<String>()),
        false => name,
    }
}

/// `1x3x224x224`; `scalar` for a shape without dimensions.
pub(super) fn times(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn parse_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let expected = "a name, '=' and sizes with 'x' between them are expected, as in image=1x3x224x224";
    // Names may hold an '=', sizes do not.
    let (name, sizes) = text.rsplit_once('=').ok_or(expected)?;
    let sizes: Option<Vec<usize>> =
        sizes.split(['x', ',']).map(|size| size.trim().parse().ok().filter(|&size| size > 0)).collect();
    match sizes {
        Some(sizes) if sizes.len() <= MAX_RANK && !name.is_empty() => Ok((name.to_owned(), sizes)),
        Some(_) | None => Err(expected.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_anything_else_is_told_what_they_look_like() {
        assert_eq!(parse_shape("image=1x3x224x224"), Ok(("image".into(), vec![1, 3, 224, 224])));
        assert_eq!(parse_shape("a=b=7"), Ok(("a=b".into(), vec![7])));
        for bad in ["image", "image=", "=1x2", "image=1x0", "image=-1", "image=1xx2", "image=99999999999999999999"] {
            assert!(parse_shape(bad).unwrap_err().contains("image=1x3x224x224"), "{bad}");
        }
        assert!(parse_shape(&format!("x={}", ["1"; 17].join("x"))).is_err());
        assert_eq!([times(&[]), times(&[1, 8])], ["scalar", "1x8"]);
    }
}
