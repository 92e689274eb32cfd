//! `selvedge prune`: a float model and some data -> the fewest weights that still answer right.

use super::output::{OutArgs, judged};
use super::training::TrainArgs;
use super::{Bar, DataArgs, Opened, eval, failed, with_norms};
use crate::cli::model_file::{ModelArgs, Source, end_of};
use crate::cli::{Align, Table, advise, bytes, plain, print};
use crate::compress::data::Part;
use crate::compress::prune::{
    Cost, GroupReport, Measure, Outcome, PruneReport, Recipe, Schedule, Scope, Target, Times, What, prune,
};
use crate::compress::score::{Metric, Score};
use crate::compress::train::Samples;
use crate::compress::{Network, Progress as _};
use anyhow::bail;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Remove what a float model does not need, by your own data: channels, neurons, heads, or single weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge prune float.onnx --data train.npz --ratio 0.5 --multiple 8 --out small.onnx
  selvedge prune float.onnx --data images/ --target-macs 50000000 --measure taylor --scope global --steps 5 --out small.onnx
  selvedge prune float.onnx --data images/ --steps 10 --max-loss-rise 0.02 --out small.onnx               as far as it may
  selvedge prune float.onnx --data images/ --target-latency 12 --report board.json --out small.onnx
  selvedge prune float.onnx --data images/ --what weights --ratio 0.8 --out sparse.onnx                   zeros

Exit status: 0 written, 1 not (nothing is half-written), 3 written, but a bound is not kept.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    /// What goes.
    #[arg(long, value_enum, default_value = "channels")]
    what: What,
    /// How importance is measured.
    #[arg(long, value_enum, default_value = "l2")]
    measure: Measure,
    /// The same share of each group, or the least important of all.
    #[arg(long, value_enum, default_value = "local")]
    scope: Scope,
    /// Share of the channels (or single weights) that goes; 0.5 where no target is stated, or all that the stop rule allows.
    #[arg(long, value_name = "SHARE", group = "target")]
    ratio: Option<f64>,
    /// Multiplications of an inference that may be left.
    #[arg(long, value_name = "N", group = "target")]
    target_macs: Option<u64>,
    /// Parameters that may be left; of single weights those that are not zero.
    #[arg(long, value_name = "N", group = "target")]
    target_parameters: Option<u64>,
    /// Bytes that the file may have.
    #[arg(long, value_name = "BYTES", group = "target")]
    target_bytes: Option<u64>,
    /// Milliseconds of an inference on the device whose report is given.
    #[arg(long, value_name = "MS", group = "target", requires = "report")]
    target_latency: Option<f64>,
    /// What `selvedge bench MODEL --json` said of this model on the device.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// A node whose channels stay, by name; `*` at the end stands for any ending. May be given more than once.
    #[arg(long, value_name = "NODE")]
    ignore: Vec<String>,
    /// Channels that stay are a multiple of it: 8 or 16 suit the kernels.
    #[arg(long, value_name = "N", default_value_t = 1)]
    multiple: usize,
    /// Share of a group's units that may go in one step.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    most: f64,
    /// Steps: measure, remove, fine-tune, again.
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    /// How much of the way each step goes.
    #[arg(long, value_enum, default_value = "cubic")]
    pace: Schedule,
    /// Samples that activations and gradients are looked at with.
    #[arg(long, value_name = "N", default_value_t = 256)]
    samples: usize,
    /// The stop rule: the fewest parameters whose loss on the validation part is at most so much above the model's own.
    #[arg(long, value_name = "EPSILON", requires = "data")]
    max_loss_rise: Option<f64>,
    /// What counts as right; by default what suits the labels.
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Of fine-tuning.
    #[command(flatten)]
    tuning: TrainArgs,
}

impl Args {
    fn recipe(&self, labelled: bool) -> anyhow::Result<Recipe> {
        let mut tuning = self.tuning.recipe(self.data.seed())?;
        tuning.epochs = self.tuning.epochs.unwrap_or(if labelled { 5 } else { 0 });
        let recipe = Recipe {
            what: self.what,
            measure: self.measure,
            scope: self.scope,
            target: self.target(),
            ignore: self.ignore.clone(),
            multiple: self.multiple,
            most: self.most,
            steps: self.steps,
            schedule: self.pace,
            tuning,
            samples: self.samples,
            max_loss_rise: self.max_loss_rise,
            seed: self.data.seed(),
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// All that can be told without reading the model: `labelled` says whether each sample has a label, where that is known.
    ///
    /// # Errors
    /// What does not go, and what to do.
    pub(super) fn check(&self, labelled: Option<bool>) -> anyhow::Result<()> {
        let recipe = self.recipe(labelled.unwrap_or(true))?;
        if recipe.tuning.epochs > 0 && labelled == Some(false) {
            bail!(
                "--epochs: fine-tuning needs data with a label for each sample: state --data, and --labels where it has none"
            );
        }
        if self.target_latency.is_some() && self.report.is_none() {
            bail!("a target of ms needs a device's report: state --report");
        }
        Ok(())
    }

    fn target(&self) -> Target {
        let counts = [
            self.target_macs.map(Target::Macs),
            self.target_parameters.map(Target::Parameters),
            self.target_bytes.map(Target::Bytes),
            self.target_latency.map(Target::Latency),
        ];
        let stated = counts.into_iter().flatten().next().or(self.ratio.map(Target::Ratio));
        stated.unwrap_or(Target::Ratio(if self.is_open() { 0.95 } else { 0.5 }))
    }

    /// As far as the stop rule lets it: that it stops is no fault.
    fn is_open(&self) -> bool {
        let stated = [self.target_macs, self.target_parameters, self.target_bytes].iter().any(Option::is_some);
        self.max_loss_rise.is_some() && !stated && self.target_latency.is_none() && self.ratio.is_none()
    }

    fn times(&self, network: &Network) -> anyhow::Result<Option<Times>> {
        let Some(path) = &self.report else { return Ok(None) };
        let what = || format!("read the report {}", plain(&path.display().to_string()));
        let text = bounded(path).map_err(|error| advise(error, what(), "does it exist, and may you read it?"))?;
        Times::of_report(&text, network).map(Some).map_err(|error| failed(error, what()))
    }
}

/// One byte more than a report may have is enough to refuse it.
fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(Times::MAX_REPORT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// All that is told.
struct Done {
    recipe: Recipe,
    outcome: Outcome,
    /// Of the model before and after on the test part; `None` without data.
    judged: Option<[Score; 2]>,
    /// Medians in this engine, ms.
    latencies: Option<[f64; 2]>,
    /// By the device's report, ms.
    estimated: Option<[f64; 2]>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check(None)?;
    let source = args.model.open(None)?;
    args.out.check(&source)?;
    let opened = args.data.open(&source)?;
    let labelled = opened.as_ref().is_some_and(|opened| opened.data.is_labelled());
    args.check(Some(labelled))?;
    let recipe = args.recipe(labelled)?;
    let mut bar = Bar::new().keeping(args.tuning.resume.clone());
    bar.catch_interrupt()?;
    let done = work(args, recipe, &source, opened.as_ref(), &mut bar);
    bar.clear();
    let done = done?;
    print(&if args.json { json(args, &done)? } else { text(args, &done) })?;
    Ok(if done.outcome.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn work(args: &Args, recipe: Recipe, source: &Source, opened: Option<&Opened>, bar: &mut Bar) -> anyhow::Result<Done> {
    let what = || format!("prune {}", source.path);
    let network = with_norms(source)?;
    let times = args.times(&network)?;
    let parts = opened.map(|opened| (opened.part(Part::Train), opened.part(Part::Validation)));
    let samples = opened.zip(parts.as_ref()).map(|(opened, (train, validation))| Samples {
        data: &opened.data,
        train,
        validation,
    });
    let mut outcome = prune(&network, &recipe, samples, times.as_ref(), bar).map_err(|error| failed(error, what()))?;
    if args.is_open() && !bar.is_stopped() {
        outcome.broken.clear();
    }
    let judged = match opened {
        Some(opened) => Some(judged(args.metric, &network, &outcome.network, opened, bar)?),
        None => None,
    };
    let latencies = match opened {
        Some(opened) => {
            let number = opened.part(Part::Test).first().copied().unwrap_or(0);
            Some(super::compare::latencies(&[network.clone(), outcome.network.clone()], &opened.data, number)?)
        }
        None => None,
    };
    let estimated = times.map(|times| [times.estimate(&network), times.estimate(&outcome.network)]);
    let onnx = outcome.network.parts().map_err(|error| failed(error, what()))?;
    args.out.write(source, &outcome.network, &onnx, &args.data, opened)?;
    Ok(Done { recipe, outcome, judged, latencies, estimated })
}

fn json(args: &Args, done: &Done) -> anyhow::Result<String> {
    let pair = |values: Option<[serde_json::Value; 2]>| {
        values.map(|[before, after]| serde_json::json!({ "before": before, "after": after }))
    };
    let numbers = |values: Option<[f64; 2]>| pair(values.map(|values| values.map(serde_json::Value::from)));
    let scores = done.judged.map(|scores| scores.map(|score| serde_json::json!(score)));
    let value = serde_json::json!({
        "out": args.out.out,
        "recipe": done.recipe,
        "before": done.outcome.before,
        "after": done.outcome.after,
        "loss": numbers(done.outcome.loss),
        "test": pair(scores),
        "latency-ms": numbers(done.latencies),
        "estimated-ms": numbers(done.estimated),
        "broken-bounds": done.outcome.broken,
        "report": done.outcome.report,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

fn groups(report: &PruneReport) -> Table {
    let heads = [
        ("made by", Align::Left),
        ("what", Align::Left),
        ("before", Align::Right),
        ("after", Align::Right),
        ("importance", Align::Left),
        ("why it stays", Align::Left),
    ];
    let mut table = Table::new(heads);
    let makers = |group: &GroupReport| {
        let first = group.makers.first().map(|name| end_of(name)).unwrap_or_default();
        if group.makers.len() > 1 { format!("{first} and {} more", group.makers.len() - 1) } else { first }
    };
    for group in &report.groups {
        table.row([
            makers(group),
            format!("{:?}", group.kind).to_lowercase(),
            group.before.to_string(),
            group.after.to_string(),
            format!("{:.3e} to {:.3e}", group.least_importance, group.largest_importance),
            String::new(),
        ]);
    }
    for stays in &report.stays {
        let channels = stays.channels.to_string();
        table.row([
            end_of(&stays.node),
            stays.operator.clone(),
            channels.clone(),
            channels,
            String::new(),
            stays.why.clone(),
        ]);
    }
    table
}

fn text(args: &Args, done: &Done) -> String {
    let Outcome { before, after, report, .. } = &done.outcome;
    let mut text = String::new();
    if done.recipe.what != What::Weights {
        text += &format!("{}\n", groups(report));
    }
    for node in &report.not_followed {
        text += &format!("not followed, so what it touches stays: {}\n", plain(node));
    }
    for (at, step) in report.steps.iter().enumerate() {
        let loss = step.loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
        let kept = if step.kept { "" } else { ", over the bound" };
        text += &format!("step {}: {:.0} % of the way{loss}{kept}\n", at + 1, step.share * 100.0);
    }
    text += &costs(before, after);
    let pairs = [("loss", done.outcome.loss), ("ms here", done.latencies), ("ms by the report", done.estimated)];
    for (name, pair) in pairs {
        if let Some([before, after]) = pair {
            text += &format!("{name:<12} {before:.4} -> {after:.4}\n");
        }
    }
    if let Some([before, after]) = &done.judged {
        text += &format!("test: before {}\ntest: after  {}\n", eval::shown(before), eval::shown(after));
    }
    for broken in &done.outcome.broken {
        text += &format!("NOT KEPT: {broken}\n");
    }
    text + &format!("wrote {}\n", args.out.out.display())
}

fn costs(before: &Cost, after: &Cost) -> String {
    let line = |name: &str, before: u64, after: u64| {
        format!("{name:<12} {before} -> {after} (x {:.3})\n", after as f64 / before.max(1) as f64)
    };
    let size = format!("{:<12} {} -> {}\n", "size", bytes(before.bytes), bytes(after.bytes));
    let zeros = after.parameters - after.nonzero;
    line("parameters", before.parameters, after.parameters)
        + &if zeros > 0 { format!("{:<12} {zeros} of them\n", "zeros") } else { String::new() }
        + &line("multiplies", before.macs, after.macs)
        + &size
}
