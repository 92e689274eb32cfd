//! `manifest.toml`: what a model takes and gives, and what it must prove before it serves.

use super::gates::{Budget, CanaryGate, GoldenPolicy, Probation, ShadowGate};
use super::preprocess::Preprocess;
use crate::tensor::{DataType, TensorSpec};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// A model's name: 1 to 32 of `a-z`, `0-9`, `-` and `_`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ModelName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no model name: use 1 to 32 of a-z, 0-9, '-' and '_', starting with a letter or digit")]
pub struct BadName(String);

impl ModelName {
    pub fn new(name: &str) -> Result<Self, BadName> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = name.bytes().next().is_some_and(plain)
            && name.len() <= 32
            && name.bytes().all(|c| plain(c) || c == b'-' || c == b'_');
        if good { Ok(Self(name.to_owned())) } else { Err(BadName(name.chars().take(40).collect())) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

/// One version of one model, in its publisher's words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// Of this file; 1.
    pub format: u32,
    pub name: ModelName,
    /// Grows with every release of this model.
    pub version: u32,
    #[serde(default)]
    pub description: String,
    /// The oldest Selvedge that can run it, `major.minor.patch`.
    pub runtime: String,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    pub golden: GoldenPolicy,
    #[serde(default)]
    pub budget: Budget,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowGate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryGate>,
    #[serde(default)]
    pub probation: Probation,
}

/// An input as the ONNX graph names it, with the shape that this deployment uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    pub name: String,
    pub datatype: DataType,
    /// What the samples have, and requests where `max-shape` says nothing else.
    pub shape: Vec<usize>,
    /// The largest size of each dimension that requests may choose; the others are those of `shape`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shape: Option<Vec<usize>>,
    /// How a file becomes such an input; for the operator's tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<Preprocess>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Output {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<usize>,
    /// A file of the bundle with a class name on each line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest.toml is over {} bytes", Manifest::MAX_BYTES)]
    TooLarge,
    #[error("manifest.toml is not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    #[error("manifest.toml: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("manifest.toml: `{field}` {problem}")]
    Value { field: String, problem: String },
}

impl Manifest {
    pub const MAX_BYTES: usize = 64 * 1024;
    const MAX_TENSORS: usize = 64;
    const MAX_RANK: usize = 8;
    /// One tensor of a request or an answer.
    const MAX_TENSOR_BYTES: usize = 256 << 20;

    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(ManifestError::NotText)?;
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Inputs as the engine wants them, in the graph's names.
    pub fn input_specs(&self) -> Vec<TensorSpec> {
        let fixed = |i: &Input| TensorSpec::new(i.name.clone(), i.datatype, i.shape.clone());
        self.inputs.iter().map(|i| TensorSpec { max_shape: i.max_shape.clone(), ..fixed(i) }).collect()
    }

    pub fn output_specs(&self) -> Vec<TensorSpec> {
        self.outputs.iter().map(|o| TensorSpec::new(o.name.clone(), o.datatype, o.shape.clone())).collect()
    }

    /// The oldest runtime as numbers that compare.
    pub fn runtime_triple(&self) -> Option<(u16, u16, u16)> {
        parse_triple(&self.runtime)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let require = |good: bool, field: &str, problem: &str| good.then_some(()).ok_or_else(|| value(field, problem));
        require(self.format == 1, "format", "is not 1: this Selvedge is too old for it")?;
        require(self.version > 0, "version", "must be 1 or more")?;
        require(self.runtime_triple().is_some(), "runtime", "must be like \"0.1.0\"")?;
        require(self.description.len() <= 1024, "description", "is over 1024 bytes")?;
        self.golden.check()?;
        self.budget.check()?;
        self.shadow.as_ref().map_or(Ok(()), ShadowGate::check)?;
        self.canary.as_ref().map_or(Ok(()), CanaryGate::check)?;
        self.probation.check()?;
        check_tensors("inputs", &self.input_specs())?;
        check_tensors("outputs", &self.output_specs())
    }
}

pub(super) fn value(field: &str, problem: &str) -> ManifestError {
    ManifestError::Value { field: field.to_owned(), problem: problem.to_owned() }
}

fn check_tensors(field: &str, specs: &[TensorSpec]) -> Result<(), ManifestError> {
    if specs.is_empty() || specs.len() > Manifest::MAX_TENSORS {
        return Err(value(field, "must be 1 to 64"));
    }
    for (i, spec) in specs.iter().enumerate() {
        let name_is_good = (1..=256).contains(&spec.name.len());
        let is_first = specs[..i].iter().all(|other| other.name != spec.name);
        let is_good =
            |spec: &TensorSpec| spec.byte_size().is_some_and(|size| (1..=Manifest::MAX_TENSOR_BYTES).contains(&size));
        let shape_is_good = spec.shape.len() <= Manifest::MAX_RANK && is_good(spec);
        let problem = match (name_is_good, is_first, shape_is_good) {
            (false, _, _) => "name must be 1 to 256 bytes",
            (true, false, _) => "name stands twice",
            (true, true, false) => "shape must be concrete, of at most 8 dimensions and 256 MiB",
            (true, true, true) => match &spec.max_shape {
                Some(max) if !spec.at(max.clone()).covers(spec) => {
                    "max-shape must have a size for each of shape's, none smaller"
                }
                Some(max) if !is_good(&spec.at(max.clone())) => "max-shape must be of at most 256 MiB",
                Some(_) | None => continue,
            },
        };
        return Err(value(&format!("{field}[{i}]"), problem));
    }
    Ok(())
}

fn parse_triple(text: &str) -> Option<(u16, u16, u16)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let triple = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(triple)
}

#[cfg(test)]
mod tests {
    use super::super::gates::Likeness;
    use super::*;

    pub(crate) const EXAMPLE: &str = r#"
        format = 1
        name = "digits"
        version = 2
        runtime = "0.1.0"
        [[inputs]]
        name = "image"
        datatype = "FP32"
        shape = [1, 1, 8, 8]
        [[outputs]]
        name = "logits"
        datatype = "FP32"
        shape = [1, 10]
        [golden]
        atol = 0.1
    "#;

    fn refusal(from: &str, to: &str) -> String {
        let text = EXAMPLE.replace(from, to);
        assert_ne!(text, EXAMPLE, "nothing replaced");
        Manifest::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_read() {
        let manifest = Manifest::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(manifest.input_specs()[0].byte_size(), Some(256));
        assert_eq!(manifest.probation, Probation::default());
        assert_eq!((manifest.shadow, manifest.canary), (None, None));
    }

    #[test]
    fn gates_are_on_where_they_are_named() {
        let text = format!("{EXAMPLE}\n[shadow]\nmin-agreement = 0.9\n[canary]\nshare = 0.1\nrequests = 7");
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let (shadow, canary) = (manifest.shadow.unwrap(), manifest.canary.unwrap());
        assert_eq!((shadow.answers, shadow.seconds, shadow.compare), (100, 86_400, Likeness::Argmax));
        assert_eq!((canary.requests, canary.seconds, canary.max_errors), (7, 86_400, 0));
    }

    #[test]
    fn gates_out_of_their_bounds_are_named() {
        for (gate, field) in [
            ("[budget]\nlatency-ms = 0", "budget.latency-ms"),
            ("[shadow]\nmin-agreement = 1.1", "shadow.min-agreement"),
            ("[shadow]\nmin-agreement = 1\nanswers = 0", "shadow.answers"),
            ("[shadow]\nmin-agreement = 1\nseconds = 2592001", "shadow.seconds"),
            ("[shadow]\nmin-agreement = 1\natol = nan", "shadow.atol"),
            ("[shadow]\nmin-agreement = 1\nmax-slowdown = 0.0", "shadow.max-slowdown"),
            ("[canary]\nshare = 0.6", "canary.share"),
            ("[canary]\nshare = 0.1\nrequests = 0", "canary.requests"),
            ("[canary]\nshare = 0.1\nseconds = 0", "canary.seconds"),
            ("[probation]\nseconds = 4000000000", "probation.seconds"),
            ("[probation]\nlatency-ms = -1", "probation.latency-ms"),
        ] {
            let told = Manifest::parse(format!("{EXAMPLE}\n{gate}").as_bytes()).unwrap_err().to_string();
            assert!(told.contains(&format!("`{field}`")), "{gate}: {told}");
        }
    }

    #[test]
    fn an_input_may_be_open() {
        let text = EXAMPLE.replace("[1, 1, 8, 8]", "[1, 1, 8, 8]\nmax-shape = [4, 1, 8, 32]");
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.input_specs()[0].form(), "FP32 [1 to 4, 1, 8, 1 to 32]");
    }

    #[test]
    fn bad_values_are_named() {
        assert!(refusal("format = 1", "format = 2").contains("`format`"));
        assert!(refusal("version = 2", "version = 0").contains("`version`"));
        assert!(refusal("\"digits\"", "\"../etc\"").contains("no model name"));
        assert!(refusal("[1, 1, 8, 8]", "[1, 1, 0, 8]").contains("`inputs[0]`"));
        assert!(refusal("[1, 1, 8, 8]", "[99999999999, 99999999999]").contains("`inputs[0]`"));
        for max in ["[1, 1, 8]", "[1, 1, 8, 7]", "[1, 1, 8, 8, 8]", "[99999999999, 1, 99999999999, 8]"] {
            let told = refusal("[1, 1, 8, 8]", &format!("[1, 1, 8, 8]\nmax-shape = {max}"));
            assert!(told.contains("`inputs[0]` max-shape"), "{told}");
        }
        assert!(refusal("atol = 0.1", "atol = nan").contains("`golden.atol`"));
        assert!(refusal("version = 2", "version = 2\nvresion = 3").contains("vresion"));
        assert!(refusal("\"0.1.0\"", "\"newest\"").contains("`runtime`"));
    }

    #[test]
    fn size_is_bounded() {
        let big = vec![b'#'; Manifest::MAX_BYTES + 1];
        assert!(matches!(Manifest::parse(&big), Err(ManifestError::TooLarge)));
    }
}
