//! Distillation: a small network learns from the answers of a large one.
//!
//! Invariant: the student that comes out takes and gives what the one that went in did; a quantized student stays
//! quantized; the teacher is run by the engine, so that it may hold any operator that is served.
//! Not here: the loop (`train`), files and tables (`cli`).
//!
//! ```text
//! teacher    what the teacher puts into the loop     loss    soft targets, relations
//! hint       tensors that should be alike            names   tensors by name
//! template   students to start from                  rounded   with quantization-aware training
//! ```
//!
//! Hinton et al. 2015, arXiv:1503.02531; FitNets, Romero et al. 2015, arXiv:1412.6550; relations, Park et al. 2019,
//! arXiv:1904.05068.

mod hint;
pub mod loss;
mod names;
mod rounded;
mod teacher;
pub mod template;
#[cfg(test)]
mod tests;

pub use rounded::distil_rounded;
pub use teacher::Teacher;
pub use template::Template;

use super::data::Label;
use super::train::loss::{Form, check_label};
use super::train::{self, Guide, Samples, Trained, fit};
use super::{Error, Network, Progress};
use serde::{Deserialize, Serialize};

/// What a student learns from its teacher:
/// `alpha · labels + (1 − alpha) · T² · soft targets + hints + relations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Recipe {
    /// Logits of both are divided by it before their softmax.
    pub temperature: f32,
    /// Share of the labels' loss. Samples without a label learn from soft targets alone.
    pub alpha: f32,
    pub soft: Soft,
    pub hints: Vec<Hint>,
    pub relations: Option<Relations>,
}

/// How a student's answers are held to the teacher's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Soft {
    /// Divergence of the student's probabilities from the teacher's.
    #[default]
    Kl,
    /// The same gradient; the number holds the teacher's entropy too.
    CrossEntropy,
    /// Squared difference of answers, where they are values, not classes; the temperature is none.
    MeanSquared,
}

/// A tensor of the student that should tell what one of the teacher's does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hint {
    /// A tensor's name, or that of the node that gives it.
    pub teacher: String,
    pub student: String,
    #[serde(default = "usual_weight")]
    pub weight: f32,
}

/// Soft targets have the factor T², and hints are shares of what there is: on the digits 10 did more than 1.
pub const HINT_WEIGHT: f32 = 10.0;

fn usual_weight() -> f32 {
    HINT_WEIGHT
}

/// What samples are to each other, in one tensor of each network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Relations {
    /// By default what the last layer with weights reads.
    pub teacher: Option<String>,
    pub student: Option<String>,
    /// Weight of distances between two samples.
    pub distance: f32,
    /// Weight of angles between three.
    pub angle: f32,
}

impl Default for Recipe {
    fn default() -> Self {
        Self { temperature: 4.0, alpha: 0.3, soft: Soft::Kl, hints: Vec::new(), relations: None }
    }
}

impl Recipe {
    /// # Errors
    /// What is out of bounds, and what is expected.
    pub fn check(&self) -> Result<(), Error> {
        let within = |what: &str, value: f32, low: f32, high: f32| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::unfit(format!("{what} {value} is not from {low} to {high}"))),
        };
        within("a temperature of", self.temperature, 0.1, 1000.0)?;
        within("alpha", self.alpha, 0.0, 1.0)?;
        for hint in &self.hints {
            within("a hint's weight of", hint.weight, 0.0, 1e6)?;
        }
        if let Some(relations) = &self.relations {
            within("the weight of distances", relations.distance, 0.0, 1e6)?;
            within("the weight of angles", relations.angle, 0.0, 1e6)?;
        }
        Ok(())
    }
}

/// Trains a student by its teacher. `inner` is another guide that holds at the same time, as quantization-aware training
/// does: its taps and projections apply, and what it adds to a loss is added to this one.
///
/// # Errors
/// When the two do not take or give the same, a named tensor does not exist or labels do not fit; and as [`fit`].
pub fn distil(
    teacher: &Network,
    student: &Network,
    samples: Samples<'_>,
    recipe: &Recipe,
    training: &train::Recipe,
    inner: &mut dyn Guide,
    progress: &mut dyn Progress,
) -> Result<Trained, Error> {
    recipe.check()?;
    training.check()?;
    check_labels(samples, recipe, student)?;
    let mut guide = Teacher::new(teacher, student, samples, recipe, training, inner)?;
    let mut trained = fit(student, samples, training, &mut guide, progress)?;
    let note = serde_json::to_string(recipe).map_err(|error| Error::unfit(format!("write the recipe: {error}")))?;
    let metadata = &mut trained.network.model.metadata;
    metadata.retain(|(key, _)| key != "selvedge.distil");
    metadata.push(("selvedge.distil".into(), note));
    Ok(trained)
}

fn check_labels(samples: Samples<'_>, recipe: &Recipe, student: &Network) -> Result<(), Error> {
    let numbers = || samples.train.iter().chain(samples.validation).copied();
    if recipe.alpha >= 1.0 && numbers().any(|number| samples.data.label(number).is_none()) {
        return Err(Error::unfit(
            "an alpha of 1 learns from labels alone, and there are samples without: state --labels, or a smaller --alpha",
        ));
    }
    let width: usize = student.outputs.first().map_or(0, |spec| spec.shape.iter().product());
    let form = train::loss::logits(student).map_or(Form::Logits, |(_, form)| form);
    for (number, label) in numbers().filter_map(|number| Some((number, samples.data.label(number)?))) {
        if matches!(label, Label::Values(_)) && form != Form::Binary && recipe.soft != Soft::MeanSquared {
            return Err(Error::unfit("labels are values, not classes: state --soft mean-squared"));
        }
        let at = |error| Error::unfit(format!("sample {number}: {error}"));
        check_label(label, width, form).map_err(at)?;
    }
    Ok(())
}
