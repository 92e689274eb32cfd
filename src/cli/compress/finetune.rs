//! `selvedge finetune`: a deployed model and new local data -> its next version.

use super::output::{OutArgs, judged};
use super::training::TrainArgs;
use super::{Bar, DataArgs, Opened, eval, failed};
use crate::cli::model_file::{ModelArgs, Source};
use crate::cli::{advise, print, publish};
use crate::compress::data::Part;
use crate::compress::finetune::{Old, Tuned, finetune};
use crate::compress::score::{Metric, Score};
use crate::compress::train::{Parts, Samples};
use crate::compress::{Network, Progress as _};
use crate::config;
use anyhow::{anyhow, bail};
use std::path::PathBuf;
use std::process::ExitCode;

/// Let a deployed model, float or int8, follow new data, and keep what it knew.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge finetune models/digits --data bumped.npz --out next/
  selvedge finetune models/digits --data bumped.npz --keep-data old.npz --max-forget 1 --out next/
  selvedge finetune models/digits --data new/ --parts head --out next/             only the last layer: the smallest update
  selvedge finetune float.onnx --data new/ --parts norms --out next.onnx           only mean and variance of norms
  selvedge finetune models/digits --data new/ --out next/ --publish-to shop --broker mqtt://broker.local

Weights that are integers stay on their levels, and scales stay what they were.
Exit status: 0 written, 1 not (nothing is half-written).")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    /// Data that it shall not forget: some of it is learnt along.
    #[arg(long, value_name = "PATH", requires = "data")]
    keep_data: Option<PathBuf>,
    /// How much worse it may be on that data: percentage points, dB, or percent of an error.
    #[arg(long, value_name = "DROP", default_value_t = 1.0, requires = "keep_data")]
    max_forget: f64,
    /// What counts as right; by default what suits the labels.
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    #[command(flatten)]
    training: TrainArgs,
    /// Publish it at once, to this group; may be given more than once.
    #[arg(long, value_name = "GROUP", value_parser = config::group_name)]
    publish_to: Vec<String>,
    #[command(flatten)]
    with: publish::With,
}

/// All that is told.
struct Done {
    tuned: Tuned,
    /// On the test part of the new data, and of the old.
    new: [Score; 2],
    old: Option<[Score; 2]>,
}

impl Args {
    /// All that can be told without reading the model: `labelled` says whether each sample has a label, where that is known.
    ///
    /// # Errors
    /// What does not go, and what to do.
    pub(super) fn check(&self, labelled: Option<bool>) -> anyhow::Result<()> {
        let recipe = self.training.recipe(self.data.seed())?;
        if !self.max_forget.is_finite() || self.max_forget < 0.0 {
            bail!("--max-forget takes a number from 0");
        }
        if self.publish_to.is_empty() != self.with.broker.is_none() {
            bail!("--publish-to and --broker go together");
        }
        if !self.publish_to.is_empty() && self.out.is_file() {
            bail!("what is published is a model's directory: name an --out without .onnx");
        }
        if labelled == Some(false) && recipe.parts != Parts::Norms {
            bail!(
                "finetuning needs a label for each sample: state --labels, or let norms alone follow with --parts norms"
            );
        }
        Ok(())
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.check(None)?;
    let recipe = args.training.recipe(args.data.seed())?;
    let source = args.model.open(None)?;
    args.out.check(&source)?;
    let Some(new) = args.data.open(&source)? else {
        return Err(advise(anyhow!("there is nothing to learn from"), "finetune", "state --data"));
    };
    args.check(Some(new.data.is_labelled()))?;
    let old = match &args.keep_data {
        Some(path) => args.data.beside(path.clone()).open(&source)?,
        None => None,
    };
    let mut bar = Bar::new().keeping(args.training.resume.clone());
    bar.catch_interrupt()?;
    let done = work(&args, &recipe, &source, &new, old.as_ref(), &mut bar);
    bar.clear();
    let done = done?;
    print(&if args.with.json { json(&args, &recipe, &done)? } else { text(&args, &done) })?;
    let learnt = done.tuned.changed.weights > 0 && done.new[1].drop_from(&done.new[0]) < 0.0;
    match args.publish_to.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false if done.tuned.stopped || !learnt => {
            let why = if done.tuned.stopped { "it was stopped early" } else { "it answers the new data no better" };
            let out = args.out.out.display();
            bail!("written, but not published: {why}; look at it, then `selvedge publish {out}`")
        }
        false => published(args),
    }
}

fn published(args: Args) -> anyhow::Result<ExitCode> {
    let args = publish::Args::of_dir(args.out.out, args.publish_to, args.with);
    crate::cli::run(crate::cli::succeed(publish::run(args)))
}

fn work(
    args: &Args,
    recipe: &crate::compress::train::Recipe,
    source: &Source,
    new: &Opened,
    old: Option<&Opened>,
    bar: &mut Bar,
) -> anyhow::Result<Done> {
    let fault = |error| failed(error, format!("finetune {}", source.path));
    let fixed = source.inputs.iter().map(|spec| spec.at(spec.shape.clone())).collect();
    // A float model's norms stay: they follow the data too.
    let network = Network::with_norms(&source.onnx, fixed, source.outputs.clone()).map_err(fault)?;
    let parts = |opened: &Opened| [opened.part(Part::Train), opened.part(Part::Validation)];
    let (new_parts, old_parts) = (parts(new), old.map(parts));
    let samples = Samples { data: &new.data, train: &new_parts[0], validation: &new_parts[1] };
    let kept = old.zip(old_parts.as_ref()).map(|(old, [train, validation])| Old {
        samples: Samples { data: &old.data, train, validation },
        max_forget: args.max_forget,
    });
    let metric = match args.metric {
        Some(metric) => metric,
        None => Metric::fitting(&new.data, source.outputs.first().map_or(1, |spec| spec.shape.iter().product())),
    };
    let tuned = finetune(&network, samples, kept, metric, recipe, bar).map_err(fault)?;
    bar.step("writing", 1);
    let onnx = tuned.network.parts().map_err(fault)?;
    let new_scores = judged(Some(metric), &network, &tuned.network, new, bar)?;
    let old_scores = old.map(|old| judged(Some(metric), &network, &tuned.network, old, bar)).transpose()?;
    args.out.write(source, &tuned.network, &onnx, &args.data, Some(new))?;
    Ok(Done { tuned, new: new_scores, old: old_scores })
}

fn json(args: &Args, recipe: &crate::compress::train::Recipe, done: &Done) -> anyhow::Result<String> {
    let pair = |[before, after]: &[Score; 2]| serde_json::json!({ "before": before, "after": after });
    let value = serde_json::json!({
        "out": args.out.out,
        "recipe": recipe,
        "share": done.tuned.share,
        "changed": done.tuned.changed,
        "zeros-kept": done.tuned.zeros,
        "epochs": done.tuned.epochs,
        "validation": { "new": pair(&done.tuned.new), "old": done.tuned.old.as_ref().map(pair) },
        "test": { "new": pair(&done.new), "old": done.old.as_ref().map(pair) },
        "stopped": done.tuned.stopped,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

fn text(args: &Args, done: &Done) -> String {
    let mut text = String::new();
    for (at, epoch) in done.tuned.epochs.iter().enumerate() {
        let (train, validation) = (epoch.train_loss, epoch.validation_loss);
        text += &format!("epoch {:<4} loss {train:.4}, on the validation part {validation:.4}\n", at + 1);
    }
    if done.tuned.stopped {
        text += "stopped before the end: this is the best so far\n";
    }
    if done.tuned.zeros > 0 {
        text += &format!("{} weights that were zero still are (--zeros train lets them learn)\n", done.tuned.zeros);
    }
    if done.tuned.share < 1.0 {
        text += &format!("weights went {:.0} % of the way, so that the old is kept\n", done.tuned.share * 100.0);
    }
    let mut pair = |name: &str, [before, after]: &[Score; 2]| {
        text += &format!("{name}: before {}\n{name}: after  {}\n", eval::shown(before), eval::shown(after));
    };
    pair("new data", &done.new);
    if let Some(scores) = &done.old {
        pair("old data", scores);
    }
    let changed = &done.tuned.changed;
    let share = changed.weights as f64 / changed.of_weights.max(1) as f64 * 100.0;
    text += &format!(
        "changed  {} of {} weights ({share:.1} %), in {} of {} tensors\n",
        changed.weights, changed.of_weights, changed.tensors, changed.of_tensors
    );
    text += &format!("wrote {}\n", args.out.out.display());
    if !args.out.is_file() && args.publish_to.is_empty() {
        text += &format!("next: selvedge publish {} --to GROUP --broker mqtt://BROKER\n", args.out.out.display());
    }
    text
}
