//! `selvedge bench`: how fast a model runs here, and where the time goes.
//!
//! Runs whose latency counts are not looked into; one in five is run once more with a look at the clock behind each
//! layer, and counts for the layers alone.

mod compare;
mod measure;
mod show;
mod trace;

use super::model_file::{ModelArgs, Source};
use super::{advise, print};
use crate::engine::{LoadError, Model, Report, Session, Settings, peak};
use crate::sys::{Clock, Disk as _, RealClock, RealDisk, peak_resident_bytes};
use crate::tensor::Tensor;
use measure::{Distribution, Input, Limit, Measured, Progress};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Measure how fast a model runs here: latency, throughput, time by layer, memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge bench models/digits
  selvedge bench detector.onnx --shape images=1x3x640x640 --time 10s --all
  selvedge bench model.onnx --trace timeline.json     then open it at ui.perfetto.dev
  selvedge bench model.onnx --compare float --json

Exit status: 0 measured, 1 the model cannot be loaded or run.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// How long to measure: 500ms, 3s, 1m.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_time)]
    time: Duration,
    /// So many runs instead.
    #[arg(long, value_name = "N", conflicts_with = "time", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: Option<u32>,
    /// Threads of one inference, instead of the configuration's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    /// What the inputs hold.
    #[arg(long, value_enum, default_value = "random")]
    input: Input,
    /// Of random inputs: the same seed gives the same inputs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Also run it wholly in float by stock tract; tells the ratio, and how far apart the answers are.
    #[arg(long, value_name = "WITH", value_enum)]
    compare: Option<With>,
    /// Write a timeline of the runs that were looked into: trace events, for ui.perfetto.dev.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Every layer, not the slowest twenty.
    #[arg(long)]
    all: bool,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// What to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum With {
    Float,
}

/// Runs in a timeline: of a large network some hundred thousand slices.
const TRACED: usize = 200;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.model.open(args.threads.map(usize::from))?;
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    let mut progress = Progress::new(args.json);
    let measured = bench(args, &source, &clock, &mut progress);
    progress.clear();
    print(&measured?)?;
    Ok(ExitCode::SUCCESS)
}

fn bench(args: &Args, source: &Source, clock: &Arc<dyn Clock>, progress: &mut Progress) -> anyhow::Result<String> {
    progress.say("loading");
    let began = clock.monotonic();
    let loaded = Report::load(&source.onnx, &source.inputs, &source.outputs);
    let (model, report) = loaded.map_err(|error| cannot_load(source, "load the model", error))?;
    let load_ms = clock.monotonic().saturating_sub(began).as_secs_f64() * 1e3;
    let inputs = measure::inputs(&source.inputs, args.input, args.seed)?;
    let mut session = model.session()?;
    progress.say("warming up");
    let first = measure::warm_up(&mut session, &inputs, clock).map_err(|error| cannot_run(args, source, error))?;
    // Before anything that is not the model's takes memory.
    let peak_rss = peak_resident_bytes();
    progress.say("measuring the peak");
    let isa = Settings::current().isa()?.isa;
    let peak = peak(isa, report.engine.threads, clock)?;
    let limit = args.runs.map_or(Limit::Time(args.time), |runs| Limit::Runs(runs as usize));
    let keep = if args.trace.is_some() { TRACED } else { 0 };
    let measured = measure::measure(&mut session, &inputs, limit, keep, clock, progress)?;
    let compared = match args.compare {
        Some(With::Float) => Some(against_float(source, &mut session, &inputs, limit, clock, progress)?),
        None => None,
    };
    let nodes = model.nodes();
    if let Some(file) = &args.trace {
        let trace = trace::trace(&source.path, &measured.kept, &nodes, &report.regions);
        write(file, &trace)?;
    }
    let Measured { latencies, watched, .. } = measured;
    let latency = Distribution::of(&latencies).unwrap_or(Distribution::NOTHING);
    let input = match args.input {
        Input::Random => format!("random, seed {}", args.seed),
        Input::Zero => "zeros".to_owned(),
    };
    let layers = show::layers(&watched, &nodes, &report, peak);
    let results = show::Results {
        source,
        report: &report,
        input,
        load_ms,
        first_ms: first.as_secs_f64() * 1e3,
        runs: latencies.len(),
        latency,
        peak,
        watched: watched.runs,
        layers,
        peak_rss,
        compared,
    };
    Ok(if args.json { format!("{:#}\n", show::json(&results)) } else { show::text(&results, args.all) })
}

fn against_float(
    source: &Source,
    session: &mut Session,
    inputs: &[Tensor],
    limit: Limit,
    clock: &Arc<dyn Clock>,
    progress: &mut Progress,
) -> anyhow::Result<compare::Compared> {
    progress.say("loading it in float");
    let float = Model::load_float(&source.onnx, &source.inputs, &source.outputs);
    let mut float = float.map_err(|error| cannot_load(source, "load the model wholly in float", error))?.session()?;
    compare::compare([session, &mut float], inputs, &source.outputs, limit, clock, progress)
}

fn cannot_load(source: &Source, what: &str, error: LoadError) -> anyhow::Error {
    let hint = format!("`selvedge inspect {}` says more where it loads; is the file sound?", source.path);
    advise(error, format!("{what} {}", source.path), hint)
}

fn cannot_run(args: &Args, source: &Source, error: anyhow::Error) -> anyhow::Error {
    let hint = match args.input {
        Input::Random => "its inputs may bear no random values: try --input zero, or another --seed",
        Input::Zero => "its inputs may bear no zeros: try --input random",
    };
    advise(error, format!("run the model {}", source.path), hint)
}

fn write(file: &Path, trace: &serde_json::Value) -> anyhow::Result<()> {
    let hint = "name a file in a directory that is there and that you may write to";
    let written = RealDisk.write(file, &serde_json::to_vec(trace)?);
    written.map_err(|error| {
        advise(error, format!("write the timeline {}", super::plain(&file.display().to_string())), hint)
    })
}

/// `500ms`, `3s`, `1m`; seconds without a unit.
fn parse_time(text: &str) -> Result<Duration, String> {
    const HOUR: f64 = 3600.0;
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a time is written 500ms, 3s or 1m".into()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "a time is written 500ms, 3s or 1m".to_owned())? * unit;
    let fits = seconds > 0.0 && seconds <= HOUR;
    fits.then(|| Duration::from_secs_f64(seconds)).ok_or_else(|| "a time is above 0 and at most one hour".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit_and_bounded() {
        let read = |text| parse_time(text).map(|time| time.as_millis());
        assert_eq!([read("500ms"), read("3s"), read("2"), read("1m")], [Ok(500), Ok(3000), Ok(2000), Ok(60_000)]);
        for bad in ["", "s", "-1s", "0s", "nan", "inf", "2h", "61m", "1e9"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
