//! `selvedge compare`: two models on the same data: size, accuracy, agreement, time.

use super::{Bar, JudgeArgs, eval, failed, network};
use crate::cli::model_file::{ModelArgs, Source};
use crate::cli::{Align, Table, bytes, print};
use crate::compress::data::Dataset;
use crate::compress::score::{self, Answers, Metric, Score};
use crate::compress::{Network, Progress as _};
use crate::engine::Session;
use crate::sys::{Clock as _, RealClock};
use anyhow::{Context as _, bail};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Put two models side by side on your own data: size, accuracy, agreement, time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge compare float.onnx int8.onnx --data held.npz
  selvedge compare models/digits compressed/ --data images/ --json

Exit status: 0 compared, 1 a model or the data cannot be read or run.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The other model; its inputs and outputs are those of the first.
    #[arg(value_name = "OTHER")]
    other: PathBuf,
    #[command(flatten)]
    judge: JudgeArgs,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Side {
    model: String,
    bytes: usize,
    /// `None` without labels.
    score: Option<Score>,
    /// Median of runs that alternate with the other's, ms.
    latency_ms: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Compared {
    models: [Side; 2],
    agreement: Score,
    sqnr: Score,
    /// The second's over the first's.
    latency_ratio: f64,
    size_ratio: f64,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.model.open(None)?;
    let other = args.model.beside(args.other.clone()).open(None)?;
    let Some(opened) = args.judge.data.open(&source)? else { bail!("state --data: what both are asked") };
    let numbers = opened.part(args.judge.part);
    let networks = [network(&source)?, network(&other)?];
    if networks[0].inputs != networks[1].inputs {
        bail!("{} and {} take different inputs", source.path, other.path);
    }
    let mut bar = Bar::new();
    let mut answers = Vec::new();
    for (network, source) in networks.iter().zip([&source, &other]) {
        bar.step("answers", numbers.len());
        let given = score::answers(network, &opened.data, &numbers, &mut bar);
        answers.push(given.map_err(|error| failed(error, format!("run {}", source.path)))?);
    }
    let [first, second] = answers.try_into().ok().context("two models give two answers")?;
    let latencies = latencies(&networks, &opened.data, numbers.first().copied().unwrap_or(0))?;
    bar.clear();
    let compared = compared(args, [&source, &other], &[first, second], latencies, &opened.data, &numbers)?;
    print(&if args.json { format!("{:#}\n", serde_json::to_value(&compared)?) } else { text(&compared) })?;
    Ok(ExitCode::SUCCESS)
}

fn compared(
    args: &Args,
    sources: [&Source; 2],
    answers: &[Answers; 2],
    latencies: [f64; 2],
    data: &Dataset,
    numbers: &[usize],
) -> anyhow::Result<Compared> {
    let metric = args.judge.metric.unwrap_or_else(|| Metric::fitting(data, answers[0].values()));
    let side = |at: usize| {
        let score = metric.needs_labels().then(|| score::score(metric, &answers[at], data, numbers, None)).transpose();
        let score = score.map_err(|error| failed(error, format!("judge {}", sources[at].path)))?;
        let (model, bytes) = (sources[at].path.clone(), sources[at].onnx.size());
        anyhow::Ok(Side { model, bytes, score, latency_ms: latencies[at] })
    };
    let against = |metric| {
        score::score(metric, &answers[1], data, numbers, Some(&answers[0]))
            .map_err(|error| failed(error, "compare answers"))
    };
    Ok(Compared {
        models: [side(0)?, side(1)?],
        agreement: against(Metric::Agreement)?,
        sqnr: against(Metric::Sqnr)?,
        latency_ratio: latencies[1] / latencies[0].max(1e-9),
        size_ratio: sources[1].onnx.size() as f64 / sources[0].onnx.size().max(1) as f64,
    })
}

/// Medians of runs in turn, so that whatever else the machine does meets both.
pub(super) fn latencies(networks: &[Network; 2], data: &Dataset, number: usize) -> anyhow::Result<[f64; 2]> {
    const RUNS: usize = 51;
    let clock = RealClock::new();
    let sample = data.sample(number)?;
    let load = |network: &Network| network.session().map_err(|error| failed(error, "load a model"));
    let mut sessions: [Session; 2] = [load(&networks[0])?, load(&networks[1])?];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            let began = clock.monotonic();
            session.run(&sample.inputs)?;
            times.push(clock.monotonic().saturating_sub(began));
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[RUNS / 2].as_secs_f64() * 1e3
    }))
}

fn text(compared: &Compared) -> String {
    let mut table =
        Table::new([("model", Align::Left), ("bytes", Align::Right), ("ms", Align::Right), ("score", Align::Left)]);
    for side in &compared.models {
        let score = side.score.as_ref().map_or_else(|| "no labels".into(), eval::shown);
        table.row([side.model.clone(), bytes(side.bytes as u64), format!("{:.3}", side.latency_ms), score]);
    }
    format!(
        "{table}\nsize x {:.3}, time x {:.3}\nagreement: {}\noutputs: {}\n",
        compared.size_ratio,
        compared.latency_ratio,
        eval::shown(&compared.agreement),
        eval::shown(&compared.sqnr)
    )
}
