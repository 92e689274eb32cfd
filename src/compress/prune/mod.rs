//! Pruning: a network and some data -> the fewest weights that still answer right.
//!
//! Invariant: what comes out is a smaller network of the same operators, inputs and outputs (structured), or the same
//! network with zeros (single weights); removal alone computes what zeroing would; a step that breaks the stop rule never
//! reaches the result, the best so far does; nothing is decided on test data.
//! Not here: training (`train`), command lines.
//!
//! ```text
//! ids, follow   which channels depend on each other     groups      units of them
//! importance    how much a unit matters                 statistics  what channels hold
//! cost          parameters, multiplications, time       choose      which units go
//! remove        out of the graph                        mask        single weights
//! schedule      steps, and when to stop                 iterate     all of it
//! loss          of the engine's answers
//! ```

mod choose;
mod cost;
pub mod follow;
pub mod groups;
pub mod ids;
mod importance;
mod iterate;
mod loss;
mod mask;
mod remove;
mod schedule;
mod statistics;
#[cfg(test)]
mod tests;

pub use choose::{Scope, Terms, chosen, to_target};
pub use cost::{Cost, Times, macs};
pub use importance::{Evidence, Measure, importance};
pub use iterate::{GroupReport, Outcome, PruneReport, StepReport, prune};
pub use loss::loss;
pub use mask::{Masks, masked};
pub use remove::{removed, settle, zeroed};
pub use schedule::{Rule, Schedule, Search};
pub use statistics::{Statistics, statistics};

use crate::compress::{Error, train};
use serde::{Deserialize, Serialize};

/// What goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Single weights become zeros.
    Weights,
    /// Whatever channels there are: filters, neurons, heads.
    Channels,
    /// Output channels of convolutions alone.
    Filters,
    /// Columns of matrix products alone.
    Neurons,
    /// Heads of attentions alone.
    Heads,
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Share of the units, or of single weights, that goes.
    Ratio(f64),
    /// Multiplications that may be left.
    Macs(u64),
    /// Parameters that may be left; of single weights, those that are not zero.
    Parameters(u64),
    /// Bytes of the file.
    Bytes(u64),
    /// ms a run, by a device's report.
    Latency(f64),
}

/// How to prune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Recipe {
    pub what: What,
    pub measure: Measure,
    pub scope: Scope,
    pub target: Target,
    /// Names of nodes whose channels stay; `*` at the end stands for any ending.
    pub ignore: Vec<String>,
    /// Channels that stay are a multiple of it, unless all of a group do.
    pub multiple: usize,
    /// Share of a group's units that may go in a step.
    pub most: f64,
    /// 1: all at once.
    pub steps: usize,
    pub schedule: Schedule,
    /// Fine-tuning after each step; by its seed, that of all else.
    pub tuning: train::Recipe,
    /// Samples that activations and gradients are looked at with.
    pub samples: usize,
    /// ε of the stop rule.
    pub max_loss_rise: Option<f64>,
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            what: What::Channels,
            measure: Measure::L2,
            scope: Scope::Local,
            target: Target::Ratio(0.5),
            ignore: Vec::new(),
            multiple: 1,
            most: 0.9,
            steps: 1,
            schedule: Schedule::default(),
            tuning: train::Recipe { epochs: 5, ..train::Recipe::default() },
            samples: 256,
            max_loss_rise: None,
            seed: 1,
        }
    }
}

impl Recipe {
    /// # Errors
    /// What is out of bounds, and what is expected.
    pub fn check(&self) -> Result<(), Error> {
        let require = |fits: bool, what: &str| if fits { Ok(()) } else { Err(Error::unfit(what)) };
        require((1..=1024).contains(&self.multiple), "a multiple is from 1 to 1024")?;
        require((1..=1000).contains(&self.steps), "pruning takes 1 to 1000 steps")?;
        self.tuning.check()?;
        require(self.most > 0.0 && self.most < 1.0, "the largest share of a group is between 0 and 1")?;
        require(self.samples > 0, "at least one sample is looked at")?;
        let rise = self.max_loss_rise.unwrap_or(0.0);
        require(rise.is_finite() && rise >= 0.0, "the rise of the loss that is allowed is a number from 0")?;
        match self.target {
            Target::Ratio(ratio) => require(ratio > 0.0 && ratio < 1.0, "a ratio is between 0 and 1")?,
            Target::Latency(ms) => require(ms.is_finite() && ms > 0.0, "a latency is a number of ms over 0")?,
            Target::Macs(_) | Target::Parameters(_) | Target::Bytes(_) => {}
        }
        if self.what != What::Weights {
            return Ok(());
        }
        let single =
            matches!(self.measure, Measure::L1 | Measure::L2 | Measure::Taylor | Measure::Fisher | Measure::Random);
        require(single, "this measure is of channels: for single weights state l1, taylor, fisher or random")?;
        let counts = matches!(self.target, Target::Ratio(_) | Target::Parameters(_));
        require(counts, "zeros save neither multiplications nor time: for single weights state a ratio or parameters")
    }
}
