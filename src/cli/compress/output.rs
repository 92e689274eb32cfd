//! What commands that change a model share: where the result goes, and how it is judged.
//!
//! Invariant: what can be refused is refused before the work; a file is whole or not there, and a directory without its
//! manifest, which comes last, is none. The test part judges, once.

use super::{Bar, DataArgs, Opened, failed};
use crate::bundle::ModelName;
use crate::cli::advise;
use crate::cli::model_file::Source;
use crate::compress::data::Part;
use crate::compress::package::{self, Base};
use crate::compress::score::{self, Metric, Score};
use crate::compress::{Network, Progress as _};
use crate::onnx::{Files, Parts};
use crate::sys::{Disk as _, RealDisk};
use anyhow::{Context as _, anyhow, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where the result goes.
#[derive(Debug, clap::Args)]
pub(super) struct OutArgs {
    /// Where to: a name with .onnx is a file, any other a model's directory with manifest and golden samples.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// The model's name in a directory, where it has none yet.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Golden samples out of your data, which then leaves with the model; noise otherwise.
    #[arg(long, requires = "data")]
    golden_from_data: bool,
    /// The largest .onnx file; of a larger model the weights come to lie beside it, in PATH.data.
    #[arg(long, value_name = "BYTES", default_value_t = Files::MAX_MODEL, value_parser = clap::value_parser!(u64).range(..=Files::MAX_MODEL))]
    max_file: u64,
}

impl OutArgs {
    pub fn is_file(&self) -> bool {
        self.out.extension().is_some_and(|extension| extension == "onnx")
    }

    /// Before hours of work.
    pub fn check(&self, source: &Source) -> anyhow::Result<()> {
        if self.is_file() {
            return Ok(());
        }
        let what = "make a model's directory";
        if source.bundle.is_none() {
            let hint = "state --name, or an --out that ends with .onnx";
            let name = self.name.as_deref().ok_or_else(|| advise(anyhow!("it has no name yet"), what, hint))?;
            ModelName::new(name)?;
        }
        let is_empty = std::fs::read_dir(&self.out).map_or(true, |mut entries| entries.next().is_none());
        if !is_empty {
            let hint = "name a new directory, or remove that one";
            return Err(advise(anyhow!("there is something in {}", self.out.display()), what, hint));
        }
        Ok(())
    }

    /// Writes the model, whose file `onnx` is, as a file or a directory; returns its bytes.
    pub fn write(
        &self,
        source: &Source,
        made: &Network,
        onnx: &Parts,
        data: &DataArgs,
        opened: Option<&Opened>,
    ) -> anyhow::Result<u64> {
        if self.is_file() {
            // A directory's golden answers show that it runs.
            made.session().map_err(|error| failed(error, "load what came out"))?;
            return commit_model(&self.out, onnx, self.max_file);
        }
        let samples = match opened {
            Some(opened) => {
                let numbers = opened.part(Part::Test);
                let samples = numbers.iter().take(package::GOLDEN).map(|&number| opened.data.sample(number));
                samples.collect::<Result<Vec<_>, _>>()?
            }
            None => Vec::new(),
        };
        let golden = match self.golden_from_data {
            true => package::of_samples(&samples),
            false => package::synthetic(&made.inputs, &package::ranges(&samples), data.seed()),
        };
        let name;
        let base = match &source.bundle {
            Some(bundle) => Base::Next(bundle),
            None => {
                name = ModelName::new(self.name.as_deref().unwrap_or_default())?;
                Base::Named(&name)
            }
        };
        let files = package::package(made, base, &golden).map_err(|error| failed(error, "make a model's directory"))?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("make the directory {}", self.out.display()))?;
        for (file, contents) in files.iter().filter(|(file, _)| *file != "manifest.toml") {
            commit(&self.out.join(file), contents)?;
        }
        commit(&self.out.join("manifest.toml"), &files["manifest.toml"])?;
        Ok(files["model.onnx"].len() as u64)
    }
}

/// Whole or not at all.
pub(super) fn commit(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    RealDisk.commit(path, contents).with_context(|| format!("write {}", path.display()))
}

/// A model as one file of at most so many bytes, or as that and a file of weights beside it; returns the bytes of both.
pub(super) fn commit_model(path: &Path, onnx: &Parts, most: u64) -> anyhow::Result<u64> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".data");
    let beside = PathBuf::from(beside);
    let name = beside.file_name().and_then(OsStr::to_str).context("the name that --out states is no UTF-8")?;
    let files = onnx.to_files(most, name)?;
    if files.model.len() as u64 > Files::MAX_MODEL {
        bail!("its graph without weights takes over 2 GiB, which no ONNX file holds: split the model");
    }
    match &files.data {
        Some(data) => RealDisk
            .commit_with(path, &files.model, &beside, &mut data.pieces())
            .with_context(|| format!("write {} and {}", path.display(), beside.display()))?,
        None => commit(path, &files.model)?,
    }
    Ok(files.size())
}

/// Both models' scores on the test part.
pub(super) fn judged(
    metric: Option<Metric>,
    before: &Network,
    after: &Network,
    opened: &Opened,
    bar: &mut Bar,
) -> anyhow::Result<[Score; 2]> {
    let numbers = opened.part(Part::Test);
    let fault = |error| failed(error, "judge by the test part");
    bar.step("judging", numbers.len());
    let reference = score::answers(before, &opened.data, &numbers, bar).map_err(fault)?;
    let answers = score::answers(after, &opened.data, &numbers, bar).map_err(fault)?;
    let metric = metric.unwrap_or_else(|| Metric::fitting(&opened.data, reference.values()));
    let score = |answers| score::score(metric, answers, &opened.data, &numbers, Some(&reference)).map_err(fault);
    Ok([score(&reference)?, score(&answers)?])
}
