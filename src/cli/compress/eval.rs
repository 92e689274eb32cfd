//! `selvedge eval`: how right a model's answers are on the operator's data.

use super::{Bar, JudgeArgs, failed, network};
use crate::cli::model_file::ModelArgs;
use crate::cli::print;
use crate::compress::Progress as _;
use crate::compress::score::{self, Metric, Score};
use anyhow::bail;
use std::path::PathBuf;
use std::process::ExitCode;

/// Judge a model on your own data: accuracy with its interval, as it would answer on a device.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge eval models/digits --data images/                  subfolders are classes
  selvedge eval model.onnx --data held.npz --scale 0.0039     arrays `x` or the input's name, and `labels`
  selvedge eval int8.onnx --reference float.onnx --data x.npy without labels: agreement

Exit status: 0 judged, 1 the model or the data cannot be read or run.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    judge: JudgeArgs,
    /// A model to agree with, where there are no labels: an ONNX file of the same inputs and outputs.
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// JSON instead of a line.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.model.open(None)?;
    let Some(opened) = args.judge.data.open(&source)? else {
        bail!("state --data: `selvedge eval --help` says which files are read")
    };
    let numbers = opened.part(args.judge.part);
    let network = network(&source)?;
    let mut bar = Bar::new();
    bar.step("answers", numbers.len());
    let what = || format!("judge {}", source.path);
    let answers = score::answers(&network, &opened.data, &numbers, &mut bar).map_err(|error| failed(error, what()))?;
    let reference = match &args.reference {
        Some(path) => {
            let other = args.model.beside(path.clone()).open(None)?;
            let other = super::network(&other)?;
            bar.step("answers of the reference", numbers.len());
            Some(score::answers(&other, &opened.data, &numbers, &mut bar).map_err(|error| failed(error, what()))?)
        }
        None => None,
    };
    bar.clear();
    let metric = args.judge.metric.unwrap_or_else(|| Metric::fitting(&opened.data, answers.values()));
    let score = score::score(metric, &answers, &opened.data, &numbers, reference.as_ref());
    let score = score.map_err(|error| failed(error, what()))?;
    let text = if args.json { format!("{}\n", serde_json::to_string(&score)?) } else { format!("{}\n", shown(&score)) };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `98.4 % top1 (95 %: 96.5 to 99.3), 370 samples`
pub(super) fn shown(score: &Score) -> String {
    let name = format!("{:?}", score.metric).to_lowercase();
    let unit = score.metric.unit();
    let number = |value: f64| if score.metric == Metric::Mse { format!("{value:.6}") } else { format!("{value:.1}") };
    let gap = if unit.is_empty() { "" } else { " " };
    format!(
        "{}{gap}{unit} {name} (95 %: {} to {}), {} samples",
        number(score.value),
        number(score.low),
        number(score.high),
        score.samples
    )
}
