//! The same model wholly in float, by stock tract: how much slower, and how far apart the answers are.

use super::measure::{Distribution, Limit, Progress};
use crate::engine::Session;
use crate::sys::Clock;
use crate::tensor::{Tensor, TensorSpec};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Compared {
    /// Of each, by turns.
    pub runs: usize,
    pub ours_ms: f64,
    pub float_ms: f64,
    /// Median by median: above 1 where ours is faster.
    pub ratio: f64,
    pub outputs: Vec<Difference>,
}

/// Of one output.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Difference {
    pub name: String,
    /// Of any two values; nothing where one is not a number.
    pub largest_difference: Option<f64>,
    /// Of the float model's values.
    pub largest_value: Option<f64>,
}

/// Runs of one before it is the other's turn; the first of them finds the other's data in the caches and does not count.
const BLOCK: usize = 5;

/// In turn, so that what else the machine does meets both.
pub(super) fn compare(
    [ours, float]: [&mut Session; 2],
    inputs: &[Tensor],
    outputs: &[TensorSpec],
    limit: Limit,
    clock: &Arc<dyn Clock>,
    progress: &mut Progress,
) -> anyhow::Result<Compared> {
    let (mine, theirs) = (ours.run(inputs)?, float.run(inputs)?);
    let outputs = outputs.iter().zip(mine.iter().zip(&theirs)).map(|(spec, (a, b))| difference(&spec.name, a, b));
    let outputs = outputs.collect();
    progress.say("comparing with float");
    let mut taken = [Vec::new(), Vec::new()];
    let start = clock.monotonic();
    loop {
        for (session, taken) in [&mut *ours, &mut *float].into_iter().zip(&mut taken) {
            session.run(inputs)?;
            for _ in 1..BLOCK {
                let began = clock.monotonic();
                session.run(inputs)?;
                taken.push(clock.monotonic().saturating_sub(began));
            }
        }
        let done = match limit {
            Limit::Time(time) => clock.monotonic().saturating_sub(start) >= time,
            Limit::Runs(runs) => taken[0].len() >= runs,
        };
        if done {
            break;
        }
    }
    let median = |taken: &[Duration]| Distribution::of(taken).map_or(0.0, |of| of.p50 * 1e3);
    let (ours_ms, float_ms) = (median(&taken[0]), median(&taken[1]));
    let ratio = if ours_ms > 0.0 { float_ms / ours_ms } else { 0.0 };
    Ok(Compared { runs: taken[0].len(), ours_ms, float_ms, ratio, outputs })
}

fn difference(name: &str, ours: &Tensor, float: &Tensor) -> Difference {
    let (a, b) = (ours.to_f64(), float.to_f64());
    // A value that is no number makes the whole unknown.
    let largest = |mut values: Box<dyn Iterator<Item = f64> + '_>| {
        values.try_fold(0.0_f64, |most, value| value.is_finite().then(|| most.max(value)))
    };
    Difference {
        name: name.to_owned(),
        largest_difference: largest(Box::new(a.iter().zip(&b).map(|(a, b)| (a - b).abs()))),
        largest_value: largest(Box::new(b.iter().map(|b| b.abs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32(vec![values.len()], values).unwrap()
    }

    #[test]
    fn the_largest_difference_is_found_and_what_is_no_number_is_not_hidden() {
        let told = difference("y", &tensor(&[1.0, -2.0]), &tensor(&[1.5, -4.0]));
        assert_eq!((told.largest_difference, told.largest_value), (Some(2.0), Some(4.0)));
        let broken = difference("y", &tensor(&[f32::NAN, -2.0]), &tensor(&[1.5, -4.0]));
        assert_eq!((broken.largest_difference, broken.largest_value), (None, Some(4.0)));
    }
}
