//! `selvedge quantize`: a float model and some data -> an int8 model that keeps its answers.

use super::output::{OutArgs, commit, judged};
use super::training::TrainArgs;
use super::{Bar, DataArgs, Opened, eval, failed, network};
use crate::cli::model_file::{ModelArgs, Source};
use crate::cli::{Align, Table, bytes, print};
use crate::compress::data::Part;
use crate::compress::quantize::{
    ActivationScheme, Bounds, Calibration, Equalize, Expected, Form, Judge, Outcome, Prepared, QuantizeReport, Recipe,
    Rounding, Scales, Training, WeightScheme, prepare, qat, search, svg, unjudged,
};
use crate::compress::score::{self, Metric, Score};
use crate::compress::train::Samples;
use crate::compress::{Network, Progress as _};
use crate::sys::RealClock;
use anyhow::bail;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a float model an int8 one, by your own data: after training, or with more of it (--qat).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge quantize float.onnx --data images/ --out int8.onnx
  selvedge quantize float.onnx --data train.npz --max-drop 0.5 --out int8.onnx   gives layers back to float
  selvedge quantize float.onnx --data train.npz --low-bits 4 --max-bytes 40000 --rounding adaround --out small.onnx
  selvedge quantize float.onnx --form dynamic --out int8.onnx                     without data
  selvedge quantize float.onnx --data train.npz --bits 3 --qat --epochs 20 --out small.onnx
  selvedge quantize models/mine --data images/ --out next/                        a model's directory, ready to publish

Exit status: 0 written, 1 not (nothing is half-written), 3 written, but a bound is not kept.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    /// What becomes integers.
    #[arg(long, value_enum, default_value = "static")]
    form: Form,
    /// Bits of weights: 8, 4, 3 or 2. Fewer than 8 are stored a byte each, unless --store-int4 is given.
    #[arg(long, value_name = "N", default_value_t = 8)]
    bits: u32,
    /// Store weights of 4 bits and fewer two in a byte, as INT4: a smaller file, and the same kernels.
    #[arg(long)]
    store_int4: bool,
    /// One scale for a layer's weights instead of one for each output channel.
    #[arg(long)]
    per_tensor: bool,
    /// Weights with a zero point.
    #[arg(long)]
    affine_weights: bool,
    /// Bits of activations: 8 or 16; 4 in simulation.
    #[arg(long, value_name = "N", default_value_t = 8)]
    activation_bits: u32,
    /// Activations with the zero point in the middle.
    #[arg(long)]
    symmetric_activations: bool,
    /// Signed levels for activations; ONNX Runtime is faster with unsigned ones.
    #[arg(long)]
    signed: bool,
    /// How ranges come from data: min-max, moving-average, percentile, percentile:99.99, mse, entropy.
    #[arg(long, value_name = "HOW", default_value = "mse")]
    calibration: Calibration,
    /// How weights come to their levels; by default the nearest ones at 8 bits, and with fewer as a layer's outputs are met best on your data.
    #[arg(long, value_enum)]
    rounding: Option<Rounding>,
    /// Cross-layer equalization.
    #[arg(long, value_enum, default_value = "exact")]
    equalize: Equalize,
    /// Leave biases as they are.
    #[arg(long)]
    no_bias_correction: bool,
    /// SmoothQuant for transformers; 0.5 suits most.
    #[arg(long, value_name = "ALPHA")]
    smooth: Option<f32>,
    /// Samples that calibrate.
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// A layer that stays float, by its node's name; `*` at the end stands for any ending. May be given more than once.
    #[arg(long, value_name = "NODE")]
    keep: Vec<String>,
    /// Sums, products and concatenations of activations in integers: yes or no; by default unless it is a transformer.
    #[arg(long, value_name = "YES/NO", value_parser = parse_yes)]
    elementwise: Option<bool>,
    /// Give layers back to float until the result is at most so much worse than the float model on the validation part:
    /// percentage points, dB, or percent of an error. Agreement with the float model is what few samples let expect of
    /// others, not only what is counted on them. Weights are rounded by their outputs first, unless --rounding says how.
    #[arg(long, value_name = "DROP", requires = "data")]
    max_drop: Option<f64>,
    /// Let layers fall to so many bits, those that mind it least first; needs --max-bytes or --max-drop.
    #[arg(long, value_name = "N", requires = "data")]
    low_bits: Option<u32>,
    /// Bytes that weights may take, those of few bits counted as packed.
    #[arg(long, value_name = "BYTES", requires = "low_bits")]
    max_bytes: Option<u64>,
    /// Spend what is left of so many ms a run on float layers.
    #[arg(long, value_name = "MS", requires = "data")]
    max_latency: Option<f64>,
    /// What counts as right; by default what suits the labels.
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// A picture of what each layer lost: SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Train the model with the rounding in the loop (quantization-aware training); needs labels.
    #[arg(long, requires = "data")]
    qat: bool,
    /// Where scales come from while it is trained.
    #[arg(long, value_enum, default_value = "recomputed", requires = "qat")]
    scales: Scales,
    #[command(flatten)]
    training: TrainArgs,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

fn parse_yes(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("yes or no is expected".into()),
    }
}

impl Args {
    fn recipe(&self) -> anyhow::Result<Recipe> {
        let qat = match self.qat {
            true => Some(Training { scales: self.scales, training: self.training.recipe(self.data.seed())? }),
            false if self.training.epochs.or(self.training.rate.map(|_| 1)).is_some() => {
                bail!("--epochs and --rate are of training: add --qat")
            }
            false => None,
        };
        // At 8 bits the nearest levels lose next to nothing. Training finds its own levels, and the other forms have no
        // rows to look at.
        let by_data = self.bits < 8 && self.form == Form::Static && !self.qat;
        let by_default = if by_data { Rounding::Adaround } else { Rounding::Nearest };
        let recipe = Recipe {
            form: self.form,
            weights: WeightScheme {
                bits: self.bits,
                per_channel: !self.per_tensor,
                symmetric: !self.affine_weights,
                least_squares: self.bits <= 4,
                packed: self.store_int4,
            },
            activations: ActivationScheme {
                bits: self.activation_bits,
                symmetric: self.symmetric_activations,
                signed: self.signed,
                calibration: self.calibration,
            },
            rounding: self.rounding.unwrap_or(by_default),
            equalize: self.equalize,
            bias_correction: !self.no_bias_correction,
            smooth: self.smooth,
            samples: self.samples,
            keep: self.keep.clone(),
            elementwise: self.elementwise,
            qat,
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
        self.bounds()?;
        self.recipe()?;
        if self.qat && labelled == Some(false) {
            bail!(
                "--qat: training needs a label for each sample: state --labels, or let a teacher teach: `selvedge distil --qat`"
            );
        }
        Ok(())
    }

    fn bounds(&self) -> anyhow::Result<Bounds> {
        let numbers = [self.max_drop, self.max_latency].into_iter().flatten();
        if numbers.into_iter().any(|bound| !bound.is_finite() || bound < 0.0) {
            bail!("--max-drop and --max-latency take numbers from 0");
        }
        if self.low_bits.is_some() && self.max_bytes.is_none() && self.max_drop.is_none() {
            bail!("--low-bits needs a bound that says how far to go: --max-bytes or --max-drop");
        }
        if let Some(bits) = self.low_bits.filter(|bits| ![2, 3, 4].contains(bits) || *bits >= self.bits) {
            bail!("--low-bits {bits} is not below the {} bits of the rest: 4, 3 or 2 is expected", self.bits);
        }
        if self.store_int4 && self.bits > 4 && self.low_bits.is_none() {
            bail!("--store-int4 is for weights of 4 bits and fewer: add --bits 4, or --low-bits 4 with its bound");
        }
        Ok(Bounds {
            max_drop: self.max_drop,
            max_bytes: self.max_bytes,
            max_latency_ms: self.max_latency,
            low_bits: self.low_bits,
            round_better: self.rounding.is_none(),
        })
    }
}

/// All that is told.
struct Done {
    float_bytes: u64,
    bytes: u64,
    report: QuantizeReport,
    /// Of the float and the int8 model on the test part; `None` without data.
    judged: Option<[Score; 2]>,
    /// On the validation part, that decided.
    validated: Option<[Score; 2]>,
    /// By the validation part.
    expected: Option<Expected>,
    broken: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let bounds = args.bounds()?;
    let recipe = args.recipe()?;
    let source = args.model.open(None)?;
    args.out.check(&source)?;
    let opened = args.data.open(&source)?;
    args.check(opened.as_ref().map(|opened| opened.data.is_labelled()))?;
    let float = network(&source)?;
    let mut bar = Bar::new().keeping(args.training.resume.clone());
    if recipe.qat.is_some() {
        bar.catch_interrupt()?;
    }
    let done = work(args, bounds, &source, &float, opened.as_ref(), &recipe, &mut bar);
    bar.clear();
    let done = done?;
    print(&if args.json { json(args, &recipe, &done)? } else { text(args, &done) })?;
    Ok(if done.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn work(
    args: &Args,
    bounds: Bounds,
    source: &Source,
    float: &Network,
    opened: Option<&Opened>,
    recipe: &Recipe,
    bar: &mut Bar,
) -> anyhow::Result<Done> {
    let what = || format!("quantize {}", source.path);
    let train = opened.map(|opened| (&opened.data, opened.part(Part::Train)));
    let calibrating = train.as_ref().map(|(data, numbers)| (*data, &numbers[..]));
    let mut prepared = prepare(float, calibrating, recipe, bar).map_err(|error| failed(error, what()))?;
    if let (Some(training), Some(opened)) = (&recipe.qat, opened) {
        let (train, validation) = (opened.part(Part::Train), opened.part(Part::Validation));
        let samples = Samples { data: &opened.data, train: &train, validation: &validation };
        qat(&mut prepared, samples, training, bar).map_err(|error| failed(error, what()))?;
    }
    let (outcome, validated) = match opened {
        Some(opened) => searched(args, bounds, float, opened, &prepared, bar)?,
        None => (unjudged(&prepared, bar).map_err(|error| failed(error, what()))?, None),
    };
    let looked = opened.map(|opened| (&opened.data, opened.part(Part::Validation)));
    let looked = looked.as_ref().map(|(data, numbers)| (*data, &numbers[..]));
    let report = QuantizeReport::new(&prepared, &outcome, looked, bar).map_err(|error| failed(error, what()))?;
    let made = &outcome.quantized.network;
    let judged = match opened {
        Some(opened) => Some(judged(args.metric, float, made, opened, bar)?),
        None => None,
    };
    let onnx = made.parts().map_err(|error| failed(error, what()))?;
    let written = args.out.write(source, made, &onnx, &args.data, opened)?;
    if let Some(path) = &args.plot {
        commit(path, svg(&report, &format!("{}, quantized", source.path)).as_bytes())?;
    }
    let (broken, expected) = (outcome.broken, outcome.expected);
    Ok(Done { float_bytes: source.onnx.size() as u64, bytes: written, report, judged, validated, expected, broken })
}

type Searched = (Outcome, Option<[Score; 2]>);

fn searched(
    args: &Args,
    bounds: Bounds,
    float: &Network,
    opened: &Opened,
    prepared: &Prepared,
    bar: &mut Bar,
) -> anyhow::Result<Searched> {
    let numbers = opened.part(Part::Validation);
    let fault = |error| failed(error, "judge by the validation part");
    bar.step("the float model's answers", numbers.len());
    let reference = score::answers(float, &opened.data, &numbers, bar).map_err(fault)?;
    let metric = args.metric.unwrap_or_else(|| Metric::fitting(&opened.data, reference.values()));
    let own = score::score(metric, &reference, &opened.data, &numbers, Some(&reference)).map_err(fault)?;
    let clock = RealClock::new();
    let judge = Judge { data: &opened.data, numbers: &numbers, metric, reference, clock: &clock };
    let outcome = search(prepared, &judge, own, bounds, bar).map_err(fault)?;
    let scores = [outcome.float, outcome.score];
    Ok((outcome, Some(scores)))
}

fn json(args: &Args, recipe: &Recipe, done: &Done) -> anyhow::Result<String> {
    let pair =
        |scores: &Option<[Score; 2]>| scores.map(|[float, int8]| serde_json::json!({ "float": float, "int8": int8 }));
    let value = serde_json::json!({
        "out": args.out.out,
        "recipe": recipe,
        "float-bytes": done.float_bytes,
        "bytes": done.bytes,
        "validation": pair(&done.validated),
        "expected": done.expected,
        "test": pair(&done.judged),
        "broken-bounds": done.broken,
        "report": done.report,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

/// What became of each layer.
fn layers(report: &QuantizeReport) -> Table {
    let heads = [
        ("layer", Align::Left),
        ("op", Align::Left),
        ("bits", Align::Right),
        ("weights", Align::Right),
        ("dB", Align::Right),
        ("input held", Align::Left),
        ("represented", Align::Left),
        ("cut off", Align::Right),
        ("why", Align::Left),
    ];
    let mut table = Table::new(heads);
    let range = |lo: Option<f32>, hi: Option<f32>| match (lo, hi) {
        (Some(lo), Some(hi)) => format!("{lo:.3} to {hi:.3}"),
        _ => String::new(),
    };
    for layer in &report.layers {
        table.row([
            crate::cli::model_file::end_of(&layer.name),
            layer.operator.clone(),
            if layer.bits == 32 { "float".into() } else { layer.bits.to_string() },
            layer.elements.to_string(),
            layer.sqnr_db.map_or_else(String::new, |db| format!("{db:.1}")),
            range(layer.input_lo, layer.input_hi),
            range(layer.range_lo, layer.range_hi),
            layer.saturated_percent.map_or_else(String::new, |percent| format!("{percent:.3} %")),
            layer.why.clone(),
        ]);
    }
    table
}

fn text(args: &Args, done: &Done) -> String {
    let mut text = format!("{}\n", layers(&done.report));
    for note in &done.report.notes {
        text += &format!("{note}\n");
    }
    for (name, why) in &done.report.kept {
        text += &format!("float: {}: {why}\n", crate::cli::plain(name));
    }
    let ratio = done.bytes as f64 / done.float_bytes.max(1) as f64;
    text += &format!("size   {} -> {} (x {ratio:.3})\n", bytes(done.float_bytes), bytes(done.bytes));
    for (part, scores) in [("validation", &done.validated), ("test", &done.judged)] {
        if let Some([float, int8]) = scores {
            text += &format!("{part}: float {}\n{part}: int8  {}\n", eval::shown(float), eval::shown(int8));
        }
    }
    if let Some(expected) = done.expected {
        let Expected { disagreement, error } = expected;
        text +=
            &format!("expected of others like the validation part: {disagreement:.2} % other answers, +- {error:.2}\n");
    }
    for broken in &done.broken {
        text += &format!("NOT KEPT: {broken}\n");
    }
    text + &format!("wrote {}\n", args.out.out.display())
}
