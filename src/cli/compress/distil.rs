//! `selvedge distil`: a large model and some data -> a small one that learnt its answers.

use super::output::OutArgs;
use super::training::TrainArgs;
use super::{Bar, DataArgs, Opened, eval, failed, with_norms};
use crate::cli::model_file::{ModelArgs, Source};
use crate::cli::{Align, Table, bytes, print};
use crate::compress::data::Part;
use crate::compress::distil::{HINT_WEIGHT, Hint, Recipe, Relations, Soft, Template, distil, distil_rounded, template};
use crate::compress::prune::Cost;
use crate::compress::quantize;
use crate::compress::score::{self, Metric, Score};
use crate::compress::train::{self, Epoch, Plain, Samples, Trained};
use crate::compress::{Network, Progress as _};
use anyhow::bail;
use std::path::PathBuf;
use std::process::ExitCode;

/// Let a small model learn the answers of a large one, MODEL, by your own data: soft targets, hints, relations.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Students: an ONNX file that takes and gives what the teacher does (a pruned or a quantized one, too), or
  template:image[:WIDTH[:DEPTH]]    images: convolutions by channel and point; 16:3
  template:series[:WIDTH[:DEPTH]]   series and sounds: the same along time; 16:3
  template:table[:WIDTH[:DEPTH]]    rows of a table, or any numbers: layers of products; 64:2
Hints can be hung on a template's tensors stem, block1, block2 ..., features, logits.

Examples:
  selvedge distil large.onnx --student template:image:8:2 --data images/ --out small.onnx
  selvedge distil large.onnx --student pruned.onnx --data train.npz --epochs 20 --rate 0.001 --out taught.onnx
  selvedge distil large.onnx --student template:image --data images/ --hint relu2=block1 --hint relu3=block2:5 --out small.onnx
  selvedge distil large.onnx --student small.onnx --data images/ --relation distance:1,angle:2 --out taught.onnx
  selvedge distil large.onnx --student small.onnx --data images/ --qat 10 --out int8.onnx     with rounding at the end

Labels are optional: without them soft targets teach alone. Ctrl-C ends with the best so far.
Exit status: 0 written, 1 not (nothing is half-written)."
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Who learns: an ONNX file, or template:image, template:series, template:table with :WIDTH:DEPTH if need be.
    #[arg(long, value_name = "STUDENT", value_parser = parse_student)]
    student: Student,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    /// How soft targets are: logits are divided by it.
    #[arg(long, value_name = "T", default_value_t = 4.0)]
    temperature: f32,
    /// Share of the labels beside soft targets.
    #[arg(long, value_name = "SHARE", default_value_t = Recipe::default().alpha)]
    alpha: f32,
    /// How answers are held to the teacher's.
    #[arg(long, value_enum, default_value = "kl")]
    soft: Soft,
    /// A tensor of the teacher that one of the student's should tell, by their names or their nodes'; with a weight, by
    /// default 10. May be given more than once.
    #[arg(long = "hint", value_name = "TEACHER=STUDENT[:WEIGHT]", value_parser = parse_hint)]
    hints: Vec<Hint>,
    /// What samples are to each other, with weights: distance:1, angle:2, or both with a comma between them.
    #[arg(long, value_name = "KIND:WEIGHT", value_parser = parse_relations)]
    relation: Option<Relations>,
    /// The tensors that relations look at; by default what the last layers with weights read.
    #[arg(long, value_name = "TEACHER=STUDENT", requires = "relation", value_parser = parse_pair)]
    relation_at: Option<(String, String)>,
    #[command(flatten)]
    training: TrainArgs,
    /// So many epochs more with rounding in the loop, at a tenth of the rate (quantization-aware training): the result is
    /// int8.
    #[arg(long, value_name = "EPOCHS")]
    qat: Option<usize>,
    /// Bits of weights: 8, 4, 3 or 2.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "qat")]
    bits: u32,
    /// What counts as right; by default what suits the labels.
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Who learns.
#[derive(Debug, Clone)]
enum Student {
    File(PathBuf),
    Template(Template),
}

fn parse_student(text: &str) -> Result<Student, String> {
    match text.strip_prefix("template:") {
        Some(template) => template.parse().map(Student::Template),
        None => Ok(Student::File(text.into())),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((teacher, student)) if !teacher.is_empty() && !student.is_empty() => Ok((teacher.into(), student.into())),
        Some(_) | None => Err("two names with '=' between them are expected, the teacher's first".into()),
    }
}

fn parse_hint(text: &str) -> Result<Hint, String> {
    let (teacher, student) = parse_pair(text)?;
    // Names may hold a colon.
    let weighted = student.rsplit_once(':').and_then(|(name, weight)| Some((name.to_owned(), weight.parse().ok()?)));
    let (student, weight) = weighted.unwrap_or((student, HINT_WEIGHT));
    Ok(Hint { teacher, student, weight })
}

fn parse_relations(text: &str) -> Result<Relations, String> {
    let expected = || "distance[:WEIGHT], angle[:WEIGHT] or both with a comma between them is expected".to_owned();
    let mut relations = Relations::default();
    for part in text.split(',') {
        let (kind, weight) = part.split_once(':').unwrap_or((part, ""));
        let weight = |usual: f32| match weight {
            "" => Ok(usual),
            stated => stated.parse().ok().filter(|weight| *weight > 0.0).ok_or_else(expected),
        };
        match kind.trim() {
            "distance" => relations.distance = weight(1.0)?,
            "angle" => relations.angle = weight(2.0)?,
            _ => return Err(expected()),
        }
    }
    Ok(relations)
}

/// Steps that a student makes by default.
const STEPS: usize = 1500;
const EPOCHS: std::ops::RangeInclusive<usize> = 20..=300;

impl Args {
    fn recipe(&self) -> Recipe {
        let relations = self.relation.clone().map(|relations| match &self.relation_at {
            Some((teacher, student)) => {
                Relations { teacher: Some(teacher.clone()), student: Some(student.clone()), ..relations }
            }
            None => relations,
        });
        let (temperature, alpha, soft) = (self.temperature, self.alpha, self.soft);
        Recipe { temperature, alpha, soft, hints: self.hints.clone(), relations }
    }

    fn training(&self, samples: usize) -> anyhow::Result<train::Recipe> {
        let mut recipe = self.training.recipe(self.data.seed())?;
        if self.training.epochs.is_none() {
            let steps = samples.div_ceil(recipe.batch).max(1);
            recipe.epochs = STEPS.div_ceil(steps).clamp(*EPOCHS.start(), *EPOCHS.end());
        }
        if self.training.rate.is_none() {
            recipe.rate = match self.student {
                Student::Template(_) => 1e-2,
                // It has learnt already.
                Student::File(_) => 1e-3,
            };
        }
        Ok(recipe)
    }

    /// All that can be told without reading a model.
    ///
    /// # Errors
    /// What does not go, and what to do.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.recipe().check().map_err(|error| failed(error, "distil"))?;
        self.quantization().check().map_err(|error| failed(error, "distil"))?;
        self.training(1).map(drop)
    }

    fn quantization(&self) -> quantize::Recipe {
        let usual = quantize::Recipe::default();
        let weights = quantize::WeightScheme { bits: self.bits, least_squares: self.bits <= 4, ..usual.weights };
        quantize::Recipe { weights, seed: self.data.seed(), ..usual }
    }
}

/// One of the models beside each other.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Side {
    model: &'static str,
    #[serde(flatten)]
    cost: Cost,
    score: Score,
}

/// All that is told.
struct Done {
    training: train::Recipe,
    trained: Trained,
    /// Epochs with rounding in the loop.
    rounded: Vec<Epoch>,
    sides: [Side; 3],
    labelled: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check()?;
    let teacher = args.model.open(None)?;
    let student = match &args.student {
        Student::File(path) => Some(args.model.beside(path.clone()).open(None)?),
        Student::Template(_) => None,
    };
    let source = student.as_ref().unwrap_or(&teacher);
    args.out.check(source)?;
    let Some(opened) = args.data.open(&teacher)? else { bail!("state --data: what the teacher is asked") };
    let mut bar = Bar::new().keeping(args.training.resume.clone());
    bar.catch_interrupt()?;
    let done = work(args, &teacher, source, &opened, &mut bar);
    bar.clear();
    let done = done?;
    print(&if args.json { json(args, &done)? } else { text(args, &done) })?;
    Ok(ExitCode::SUCCESS)
}

fn work(args: &Args, teacher: &Source, source: &Source, opened: &Opened, bar: &mut Bar) -> anyhow::Result<Done> {
    let what = || format!("distil {}", teacher.path);
    let large = with_norms(teacher)?;
    let start = match args.student {
        Student::File(_) => with_norms(source)?,
        Student::Template(form) => {
            template::student(form, &large, args.data.seed()).map_err(|error| failed(error, "make a student"))?
        }
    };
    if args.qat.is_some() && start.graph().nodes().any(|(_, node)| node.is("DequantizeLinear")) {
        bail!("the student is quantized already: leave --qat out, and it learns on the levels that it has");
    }
    let (train, validation) = (opened.part(Part::Train), opened.part(Part::Validation));
    let samples = Samples { data: &opened.data, train: &train, validation: &validation };
    let (recipe, training) = (args.recipe(), args.training(train.len())?);
    let trained = distil(&large, &start, samples, &recipe, &training, &mut Plain, bar);
    let trained = trained.map_err(|error| failed(error, what()))?;
    let (mut made, mut rounded) = (trained.network.clone(), Vec::new());
    // A stop ends training, not the wish for integers.
    if let Some(epochs) = args.qat.map(|epochs| if trained.stopped { 0 } else { epochs }) {
        let slower = train::Recipe { epochs, rate: training.rate / 10.0, ..training.clone() };
        // What guides has done its part: names may be gone once norms are folded, and new adapters would pull the student
        // away from where it is.
        let answers = Recipe { hints: Vec::new(), relations: None, ..recipe.clone() };
        let done = distil_rounded(&large, &made, samples, &answers, &slower, &args.quantization(), bar);
        let (trained, quantized) = done.map_err(|error| failed(error, what()))?;
        (made, rounded) = (quantized.network, trained.epochs);
    }
    let sides = sides(args, [&large, &start, &made], opened, bar)?;
    let onnx = made.parts().map_err(|error| failed(error, what()))?;
    args.out.write(source, &made, &onnx, &args.data, Some(opened))?;
    let labelled = opened.data.is_labelled();
    Ok(Done { training, trained, rounded, sides, labelled })
}

/// Teacher, student before, student after, on the test part.
fn sides(args: &Args, networks: [&Network; 3], opened: &Opened, bar: &mut Bar) -> anyhow::Result<[Side; 3]> {
    let numbers = opened.part(Part::Test);
    let fault = |error| failed(error, "judge by the test part");
    bar.step("judging", numbers.len());
    let reference = score::answers(networks[0], &opened.data, &numbers, bar).map_err(fault)?;
    let metric = args.metric.unwrap_or_else(|| Metric::fitting(&opened.data, reference.values()));
    let mut side = |model, network: &Network| {
        let answers = score::answers(network, &opened.data, &numbers, bar).map_err(fault)?;
        let score = score::score(metric, &answers, &opened.data, &numbers, Some(&reference)).map_err(fault)?;
        anyhow::Ok(Side { model, cost: Cost::of(network).map_err(fault)?, score })
    };
    let [large, start, made] = networks;
    Ok([side("teacher", large)?, side("student before", start)?, side("student after", made)?])
}

fn json(args: &Args, done: &Done) -> anyhow::Result<String> {
    let value = serde_json::json!({
        "out": args.out.out,
        "recipe": args.recipe(),
        "training": done.training,
        "loss": { "before": done.trained.before, "after": done.trained.after },
        "epochs": done.trained.epochs,
        "rounded-epochs": done.rounded,
        "stopped": done.trained.stopped,
        "zeros-kept": done.trained.zeros,
        "test": done.sides,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

/// Losses by epoch: of many those at equal distances, and the last.
fn losses(epochs: &[Epoch]) -> Table {
    const ROWS: usize = 12;
    let heads =
        [("epoch", Align::Right), ("training", Align::Right), ("validation", Align::Right), ("rate", Align::Right)];
    let mut table = Table::new(heads);
    let every = epochs.len().div_ceil(ROWS).max(1);
    for (at, epoch) in epochs.iter().enumerate().filter(|(at, _)| (at + 1) % every == 0 || at + 1 == epochs.len()) {
        table.row([
            (at + 1).to_string(),
            format!("{:.4}", epoch.train_loss),
            format!("{:.4}", epoch.validation_loss),
            format!("{:.1e}", epoch.rate),
        ]);
    }
    table
}

fn text(args: &Args, done: &Done) -> String {
    let mut text = format!("{}\n", losses(&done.trained.epochs));
    text += &format!("loss on the validation part {:.4} -> {:.4}\n", done.trained.before, done.trained.after);
    if !done.rounded.is_empty() {
        text += &format!("\nwith rounding:\n{}\n", losses(&done.rounded));
    }
    if done.trained.zeros > 0 {
        text += &format!("{} weights that were zero still are (--zeros train lets them learn)\n", done.trained.zeros);
    }
    if !done.labelled {
        text += "there are samples without a label: soft targets taught them alone\n";
    }
    if done.trained.stopped {
        text += &format!("stopped after {} epochs: this is the best so far\n", done.trained.epochs.len());
    }
    let heads = [
        ("model", Align::Left),
        ("parameters", Align::Right),
        ("multiplies", Align::Right),
        ("size", Align::Right),
        ("test part", Align::Left),
    ];
    let mut table = Table::new(heads);
    for Side { model, cost, score } in &done.sides {
        let (parameters, macs) = (cost.parameters.to_string(), cost.macs.to_string());
        table.row([(*model).to_owned(), parameters, macs, bytes(cost.bytes), eval::shown(score)]);
    }
    text + &format!("\n{table}\nwrote {}\n", args.out.out.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_and_relations_are_read_and_anything_else_is_told_what_they_look_like() {
        let hint = |text: &str| parse_hint(text).map(|hint| (hint.teacher, hint.student, hint.weight));
        assert_eq!(hint("a=b"), Ok(("a".into(), "b".into(), HINT_WEIGHT)));
        assert_eq!(hint("a:0=b:1:2.5"), Ok(("a:0".into(), "b:1".into(), 2.5)));
        assert_eq!(hint("a=b:x"), Ok(("a".into(), "b:x".into(), HINT_WEIGHT)));
        for bad in ["", "a", "=b", "a="] {
            assert!(hint(bad).unwrap_err().contains("the teacher's first"), "{bad}");
        }
        let both = parse_relations("distance:3,angle").unwrap();
        assert_eq!((both.distance, both.angle), (3.0, 2.0));
        for bad in ["", "angles", "angle:0", "angle:nan", "distance:1;angle:2"] {
            assert!(parse_relations(bad).unwrap_err().contains("distance[:WEIGHT]"), "{bad}");
        }
        assert!(parse_student("template:cnn").unwrap_err().contains("image, series or table"));
        assert!(matches!(parse_student("model.onnx"), Ok(Student::File(_))));
    }
}
