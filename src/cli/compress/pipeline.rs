//! `selvedge compress plan.toml`: distil, prune, finetune, quantize in a row, and what came of it.
//!
//! Invariant: the whole plan is read and every step's options are checked before the first begins; a step's result is kept
//! by the content of all that it depends on, so that a plan that was stopped, or changed at its end, goes on where it can:
//! within a step where its training stood.
//! Each step is the command of its name, in a process of its own: what holds of one holds of the other.

mod cache;
mod plan;

use super::output::{OutArgs, commit_model, judged};
use super::{Bar, DataArgs, Opened, compare, eval, failed};
use crate::cli::model_file::{ModelArgs, Source, read_onnx};
use crate::cli::{Align, Command, Table, advise, bytes, plain, print};
use crate::compress::Network;
use crate::compress::data::Part;
use crate::compress::prune::Cost;
use crate::compress::score::{Metric, Score};
use crate::onnx::{Files, Parts};
use anyhow::{Context as _, anyhow, bail};
use cache::Cache;
use plan::{Plan, Step};
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Compress a model by a plan: distil, prune, finetune, quantize in a row.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge compress plan.toml --check     is the plan as it should be?
  selvedge compress plan.toml

A plan:
  model = \"float.onnx\"            # or a model's directory
  data = \"images\"                 # as --data takes it; labels, scale, split, metric as well
  seed = 1
  out = \"next\"                    # a name with .onnx is a file, any other a model's directory
  name = \"digits\"                 # where the model has none yet

  [[step]]
  do = \"prune\"                    # distil, prune, finetune or quantize
  ratio = 0.5                     # the command's options without their dashes: see `selvedge prune --help`
  multiple = 8

  [[step]]
  do = \"quantize\"
  max-drop = 0.5

Paths are relative to the plan. Results of steps are kept beside it, in NAME.cache: a second run goes on where the first
was stopped, and does again only what has changed.
Ctrl-C ends the step that runs with the best so far, and goes on with that; a second one ends at once.
Exit status: 0 written, 1 not (nothing is half-written), 3 written, but a step could not keep a bound.")]
pub struct Args {
    /// The plan.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Do every step anew.
    #[arg(long)]
    fresh: bool,
    /// Check the plan alone.
    #[arg(long)]
    check: bool,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// The ends of a plan, read as every command reads them.
#[derive(Debug, clap::Parser)]
struct Ends {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    #[arg(long, value_enum)]
    metric: Option<Metric>,
}

/// One step's result.
#[derive(Debug)]
struct Made {
    step: String,
    onnx: Parts,
    cost: Cost,
    report: serde_json::Value,
    cached: bool,
    /// A bound of its own could not be kept.
    broken: bool,
    stopped: bool,
}

/// All that is told.
struct Done {
    before: Side,
    after: Side,
    steps: Vec<Made>,
    out: PathBuf,
}

/// The model at one end.
struct Side {
    cost: Cost,
    score: Option<Score>,
    latency_ms: Option<f64>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plan = Plan::open(&args.plan)?;
    // Paths of a plan are relative to it, wherever the command is called from.
    let home = plan.home.clone();
    std::env::set_current_dir(&home).with_context(|| format!("go to {}", home.display()))?;
    let ends = plan.ends()?;
    check_steps(&plan, None)?;
    let source = ends.model.open(None)?;
    ends.out.check(&source)?;
    let opened = ends.data.open(&source)?;
    check_steps(&plan, opened.as_ref().map(|opened| opened.data.is_labelled()))?;
    if args.check {
        return print(&format!("{} steps, all as they should be\n", plan.steps.len())).map(|()| ExitCode::SUCCESS);
    }
    let interrupts = Interrupts::catch()?;
    let steps = follow(args, &plan, &source, &interrupts)?;
    let done = finish(&ends, &source, opened.as_ref(), steps)?;
    print(&if args.json { json(&done)? } else { text(&done) })?;
    Ok(if done.steps.iter().any(|made| made.broken) { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

/// Whether the commands would take their steps' options.
fn check_steps(plan: &Plan, labelled: Option<bool>) -> anyhow::Result<()> {
    let each = |(at, step): (usize, &Step)| {
        check(plan, step, labelled).with_context(|| format!("step {} of the plan, {}", at + 1, step.name))
    };
    plan.steps.iter().enumerate().try_for_each(each)
}

fn check(plan: &Plan, step: &Step, labelled: Option<bool>) -> anyhow::Result<()> {
    let line = plan.command_line(step, Path::new("model.onnx"), Path::new("result.onnx"));
    let words = std::iter::once(OsString::from("selvedge")).chain(line);
    let read = <crate::cli::Cli as clap::Parser>::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        let first: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(2).collect();
        let hint = format!("`selvedge {} --help` says what there is", step.name);
        advise(anyhow!("{}", plain(&first.join("; "))), "read its options", hint)
    })?;
    if let Command::Quantize(args) = &read.command {
        args.check(labelled)
    } else if let Command::Prune(args) = &read.command {
        args.check(labelled)
    } else if let Command::Finetune(args) = &read.command {
        args.check(labelled)
    } else if let Command::Distil(args) = &read.command {
        args.check()
    } else {
        bail!("{} is no step of a plan", step.name)
    }
}

/// Does the steps.
fn follow(args: &Args, plan: &Plan, source: &Source, interrupts: &Interrupts) -> anyhow::Result<Vec<Made>> {
    let cache = Cache::open(&plan.cache)?;
    let mut keys = vec![cache::start(plan, source)?];
    // All of them first: a file that is missing is told before the first step, not after hours.
    for step in &plan.steps {
        keys.push(cache::next(&keys[keys.len() - 1], plan, step)?);
    }
    let mut made: Vec<Made> = Vec::new();
    // What follows a step that was stopped early is of that, and no result of the plan.
    let mut stopped_before = false;
    for (at, step) in plan.steps.iter().enumerate() {
        let key = &keys[at + 1];
        let told = |how: &str| {
            // Nobody may be left to read it.
            let _ = writeln!(std::io::stderr(), "step {} of {}: {}{how}", at + 1, plan.steps.len(), step.name);
        };
        let known = if args.fresh || stopped_before { None } else { cache.find(key)? };
        let one = match known {
            Some((onnx, report)) => {
                told(", as it was before");
                Made::new(step, source, onnx, report, true)?
            }
            None => {
                told("");
                let before = made.last().map_or(&source.onnx, |made| &made.onnx);
                let part = cache.part(key);
                if args.fresh {
                    cache::remove_dir(&part)?;
                }
                // What follows a step that was stopped has no key of its own.
                let resume = Some(&part).filter(|_| !stopped_before);
                let (onnx, report, broken, stopped) =
                    execute(plan, step, &cache, before, resume.map(PathBuf::as_path), interrupts)?;
                stopped_before |= stopped;
                if !stopped_before {
                    cache.keep(key, &onnx, &report)?;
                }
                cache::remove_dir(&part)?;
                Made { broken, stopped, ..Made::new(step, source, onnx, report, false)? }
            }
        };
        made.push(one);
    }
    Ok(made)
}

impl Made {
    fn new(step: &Step, source: &Source, onnx: Parts, report: serde_json::Value, cached: bool) -> anyhow::Result<Self> {
        let cost = Cost::of(&network_of(source, &onnx)?).map_err(|error| failed(error, "look at a step's result"))?;
        let broken = report.get("broken-bounds").and_then(serde_json::Value::as_array).is_some_and(|b| !b.is_empty());
        Ok(Self { step: step.name.clone(), onnx, cost, report, cached, broken, stopped: false })
    }
}

/// With the ends that the plan's model has.
fn network_of(source: &Source, onnx: &Parts) -> anyhow::Result<Network> {
    let fixed = source.inputs.iter().map(|spec| spec.at(spec.shape.clone())).collect();
    Network::with_ends(onnx, fixed, source.outputs.clone()).map_err(|error| failed(error, "read a step's result"))
}

type Executed = (Parts, serde_json::Value, bool, bool);

/// One step, as the command of its name.
fn execute(
    plan: &Plan,
    step: &Step,
    cache: &Cache,
    before: &Parts,
    resume: Option<&Path>,
    interrupts: &Interrupts,
) -> anyhow::Result<Executed> {
    let [input, output] = cache.scratch();
    commit_model(&input, before, Files::MAX_MODEL)?;
    cache::remove(&output)?;
    let program = std::env::current_exe().context("find this program")?;
    let seen = interrupts.count();
    let mut child = std::process::Command::new(program);
    child.args(plan.command_line(step, &input, &output)).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped());
    child.args(resume.iter().flat_map(|dir| [OsStr::new("--resume"), dir.as_os_str()]));
    let ran = interrupts.with_child(|| child.spawn().and_then(std::process::Child::wait_with_output));
    let ran = ran.with_context(|| format!("run selvedge {}", step.name))?;
    if ran.status.code().is_none_or(|code| code == INTERRUPTED) {
        bail!("step {} was interrupted; what was done before it is kept: run the plan again to go on", step.name);
    }
    let broken = ran.status.code() == Some(3);
    if !ran.status.success() && !broken {
        bail!("step {} failed: see above; what was done before it is kept, and the plan goes on from there", step.name);
    }
    let report = serde_json::from_slice(&ran.stdout).with_context(|| format!("read what {} said", step.name))?;
    let onnx = read_onnx(&output)?;
    cache::remove(&input)?;
    cache::remove(&output)?;
    Ok((onnx, report, broken, interrupts.count() > seen))
}

fn finish(ends: &Ends, source: &Source, opened: Option<&Opened>, steps: Vec<Made>) -> anyhow::Result<Done> {
    let Some(last) = steps.last() else { bail!("there is no step in the plan") };
    let networks = [network_of(source, &source.onnx)?, network_of(source, &last.onnx)?];
    let (mut scores, mut latencies) = ([None; 2], [None; 2]);
    if let Some(opened) = opened {
        let mut bar = Bar::new();
        scores = judged(ends.metric, &networks[0], &networks[1], opened, &mut bar)?.map(Some);
        bar.clear();
        let number = opened.part(Part::Test).first().copied().unwrap_or(0);
        latencies = compare::latencies(&networks, &opened.data, number)?.map(Some);
    }
    let written = ends.out.write(source, &networks[1], &last.onnx, &ends.data, opened)?;
    let fault = |error| failed(error, "look at the result");
    let mut before = Cost::of(&networks[0]).map_err(fault)?;
    before.bytes = source.onnx.size() as u64;
    let side = |cost, at: usize| Side { cost, score: scores[at], latency_ms: latencies[at] };
    let after = Cost { bytes: written, ..last.cost };
    Ok(Done { before: side(before, 0), after: side(after, 1), steps, out: ends.out.out.clone() })
}

fn json(done: &Done) -> anyhow::Result<String> {
    let side =
        |side: &Side| serde_json::json!({ "cost": side.cost, "test": side.score, "latency-ms": side.latency_ms });
    let step = |made: &Made| {
        serde_json::json!({
            "step": made.step,
            "cached": made.cached,
            "stopped": made.stopped,
            "cost": made.cost,
            "report": made.report,
        })
    };
    let value = serde_json::json!({
        "out": done.out,
        "before": side(&done.before),
        "after": side(&done.after),
        "steps": done.steps.iter().map(step).collect::<Vec<_>>(),
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

fn text(done: &Done) -> String {
    let heads = [
        ("", Align::Left),
        ("size", Align::Right),
        ("parameters", Align::Right),
        ("multiplies", Align::Right),
        ("ms", Align::Right),
        ("test part", Align::Left),
    ];
    let mut table = Table::new(heads);
    let mut row = |name: String, cost: &Cost, side: Option<&Side>| {
        let time = side.and_then(|side| side.latency_ms).map_or_else(String::new, |ms| format!("{ms:.3}"));
        let score = side.and_then(|side| side.score.as_ref()).map_or_else(String::new, eval::shown);
        let counts = [cost.parameters.to_string(), cost.macs.to_string()];
        let [parameters, macs] = counts;
        table.row([name, bytes(cost.bytes), parameters, macs, time, score]);
    };
    row("before".into(), &done.before.cost, Some(&done.before));
    for made in &done.steps {
        let how = match (made.cached, made.stopped, made.broken) {
            (_, true, _) => " (stopped early)",
            (_, _, true) => " (a bound is not kept)",
            (true, ..) => " (as before)",
            (false, false, false) => "",
        };
        row(format!("{}{how}", made.step), &made.cost, None);
    }
    row("after".into(), &done.after.cost, Some(&done.after));
    let ratio = done.after.cost.bytes as f64 / done.before.cost.bytes.max(1) as f64;
    format!("{table}\nsize x {ratio:.3}\nwrote {}\n", done.out.display())
}

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Interrupts are for the step that runs; where none runs they end this process.
struct Interrupts {
    count: Arc<AtomicUsize>,
    child_runs: Arc<AtomicBool>,
}

impl Interrupts {
    fn catch() -> anyhow::Result<Self> {
        let caught = Self { count: Arc::default(), child_runs: Arc::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut heard = runtime.block_on(async { signal(SignalKind::interrupt()) })?;
        let (count, child_runs) = (Arc::clone(&caught.count), Arc::clone(&caught.child_runs));
        let listen = async move {
            while heard.recv().await.is_some() {
                count.fetch_add(1, Ordering::Relaxed);
                if !child_runs.load(Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED);
                }
            }
        };
        std::thread::Builder::new().name("interrupt".into()).spawn(move || runtime.block_on(listen))?;
        Ok(caught)
    }

    fn with_child<T>(&self, work: impl FnOnce() -> T) -> T {
        self.child_runs.store(true, Ordering::Relaxed);
        let done = work();
        self.child_runs.store(false, Ordering::Relaxed);
        done
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}
