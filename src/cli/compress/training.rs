//! How to train, as the commands that do so take it.

use crate::compress::train::{Augment, Method, Parts, Recipe, Schedule, Zeros};
use std::path::PathBuf;

/// How to train.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub(in crate::cli) struct TrainArgs {
    /// Walks over the training part; 10 by default, for `prune` 5 after each step, for `distil` as many as make 1500 steps.
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Samples a step.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// How far a step goes at most; 0.001 by default, 0.01 for a template's student.
    #[arg(long, value_name = "RATE")]
    pub rate: Option<f32>,
    /// adamw, sgd (momentum 0.9), or sgd:MOMENTUM.
    #[arg(long, value_name = "HOW", default_value = "adamw", value_parser = parse_method)]
    method: Method,
    /// How the rate falls: cosine, constant, or step:TIMES:FACTOR.
    #[arg(long, value_name = "HOW", default_value = "cosine", value_parser = parse_schedule)]
    schedule: Schedule,
    /// Share of the way over which the rate rises first.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    warmup: f64,
    /// How much weights shrink a step, times the rate.
    #[arg(long, value_name = "FACTOR", default_value_t = 1e-4)]
    weight_decay: f32,
    /// Share of each label that is spread over all classes.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    label_smoothing: f32,
    /// Gradients longer than this are shortened to it; 0 for never.
    #[arg(long, value_name = "LENGTH", default_value_t = 5.0)]
    clip: f32,
    /// Change images, so that they are not learnt by heart: flip, shift:PIXELS, cutout:PIXELS, contrast:0.2, noise:0.05,
    /// with commas between them; along the rows and columns that the manifest's layout tells, or the model.
    #[arg(long, value_name = "HOW", default_value = "")]
    augment: Augment,
    /// What is trained.
    #[arg(long, value_enum, default_value = "all")]
    parts: Parts,
    /// What becomes of single weights that pruning put to zero: they stay zero, or learn again.
    #[arg(long, value_enum, default_value = "keep")]
    zeros: Zeros,
    /// A directory where training keeps how far it is, to go on from there when it was killed; as plans do it.
    #[arg(long, value_name = "DIR", hide = true)]
    pub resume: Option<PathBuf>,
}

impl TrainArgs {
    /// What is not stated is as [`Recipe::default`] has it.
    ///
    /// # Errors
    /// What is out of bounds, and what is expected.
    pub fn recipe(&self, seed: u64) -> anyhow::Result<Recipe> {
        let usual = Recipe::default();
        let recipe = Recipe {
            epochs: self.epochs.unwrap_or(usual.epochs),
            batch: self.batch,
            rate: self.rate.unwrap_or(usual.rate),
            method: self.method,
            weight_decay: self.weight_decay,
            schedule: self.schedule,
            warmup: self.warmup,
            label_smoothing: self.label_smoothing,
            clip: self.clip,
            augment: self.augment,
            parts: self.parts,
            zeros: self.zeros,
            seed,
        };
        recipe.check()?;
        Ok(recipe)
    }
}

fn parse_method(text: &str) -> Result<Method, String> {
    let expected = || "adamw, sgd or sgd:MOMENTUM is expected, with a momentum from 0 to below 1".to_owned();
    match text.split_once(':') {
        None if text == "adamw" => Ok(Method::AdamW),
        None if text == "sgd" => Ok(Method::Sgd { momentum: 0.9 }),
        Some(("sgd", momentum)) => {
            let momentum = momentum.parse().ok().filter(|momentum| (0.0..1.0).contains(momentum));
            momentum.map(|momentum| Method::Sgd { momentum }).ok_or_else(expected)
        }
        None | Some(_) => Err(expected()),
    }
}

fn parse_schedule(text: &str) -> Result<Schedule, String> {
    let expected = || "cosine, constant or step:TIMES:FACTOR is expected, as in step:3:0.1".to_owned();
    match *text.split(':').collect::<Vec<_>>() {
        ["cosine"] => Ok(Schedule::Cosine),
        ["constant"] => Ok(Schedule::Constant),
        ["step", steps, factor] => {
            let steps = steps.parse().ok().filter(|steps| (1..=1000).contains(steps));
            let factor = factor.parse().ok().filter(|factor| *factor > 0.0 && *factor <= 1.0);
            steps.zip(factor).map(|(steps, factor)| Schedule::Step { steps, factor }).ok_or_else(expected)
        }
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_schedules_are_read_and_anything_else_is_told_what_they_look_like() {
        assert_eq!(parse_method("sgd:0.5"), Ok(Method::Sgd { momentum: 0.5 }));
        assert_eq!(parse_method("adamw"), Ok(Method::AdamW));
        assert_eq!(parse_schedule("step:3:0.1"), Ok(Schedule::Step { steps: 3, factor: 0.1 }));
        assert_eq!(parse_schedule("constant"), Ok(Schedule::Constant));
        for bad in ["", "adam", "sgd:1", "sgd:nan", "adamw:0.9", "sgd:"] {
            assert!(parse_method(bad).unwrap_err().contains("sgd:MOMENTUM"), "{bad}");
        }
        for bad in ["", "cosine:1", "step", "step:0:0.1", "step:3:0", "step:3:nan", "step:3:2"] {
            assert!(parse_schedule(bad).unwrap_err().contains("step:3:0.1"), "{bad}");
        }
    }
}
