//! How right a model's answers are, by the engine that serves it.
//!
//! Invariant: a score comes with the interval that so few samples leave open (95 %).
//! Not here: choosing by scores.

use super::data::{Dataset, Label, Sample};
use super::{Error, Network, Progress};
use crate::engine::Session;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What counts as right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of samples whose largest output is the label's class, in percent.
    Top1,
    /// Share of samples whose label is among the five largest outputs, in percent.
    Top5,
    /// Mean squared error against labels that are values.
    Mse,
    /// Share of samples where the largest output is the same as the reference's, in percent.
    Agreement,
    /// The reference's power over that of the difference, in dB: mean over samples.
    Sqnr,
}

impl Metric {
    pub fn needs_labels(self) -> bool {
        matches!(self, Self::Top1 | Self::Top5 | Self::Mse)
    }

    pub fn higher_is_better(self) -> bool {
        self != Self::Mse
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Top1 | Self::Top5 | Self::Agreement => "%",
            Self::Mse => "",
            Self::Sqnr => "dB",
        }
    }

    /// What suits the data: right classes where there are labels, else agreement with the float model.
    pub fn fitting(data: &Dataset, outputs: usize) -> Self {
        match data.label(0) {
            Some(Label::Class(_)) if data.is_labelled() => Self::Top1,
            Some(Label::Values(_)) if data.is_labelled() => Self::Mse,
            _ if outputs > 1 => Self::Agreement,
            _ => Self::Sqnr,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Score {
    pub metric: Metric,
    pub value: f64,
    /// Of the 95 % interval.
    pub low: f64,
    pub high: f64,
    pub samples: usize,
}

impl Score {
    /// How much worse than another: in points, for a squared error in percent of the other.
    pub fn drop_from(&self, other: &Self) -> f64 {
        if !self.value.is_finite() {
            return f64::INFINITY;
        }
        match self.metric {
            Metric::Mse if other.value > 0.0 => (self.value / other.value - 1.0) * 100.0,
            Metric::Mse => {
                if self.value > 0.0 {
                    f64::INFINITY
                } else {
                    0.0
                }
            }
            Metric::Top1 | Metric::Top5 | Metric::Agreement | Metric::Sqnr => other.value - self.value,
        }
    }
}

/// All first outputs of a model over samples: what is compared.
#[derive(Debug, Clone, Default)]
pub struct Answers(Vec<Vec<f64>>);

impl Answers {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(in crate::compress) fn of(each: Vec<Vec<f64>>) -> Self {
        Self(each)
    }

    /// Those of the first so many samples.
    pub fn first(&self, most: usize) -> Self {
        Self(self.0.iter().take(most).cloned().collect())
    }

    /// Each sample's first output.
    pub fn each(&self) -> &[Vec<f64>] {
        &self.0
    }

    /// Values of one sample's first output.
    pub fn values(&self) -> usize {
        self.0.first().map_or(0, Vec::len)
    }
}

/// Runs a model over samples.
///
/// # Errors
/// When it cannot be loaded, or a run fails.
pub fn answers(
    network: &Network,
    data: &Dataset,
    numbers: &[usize],
    progress: &mut dyn Progress,
) -> Result<Answers, Error> {
    let mut session = network.session()?;
    let mut answers = Answers::default();
    for (done, &number) in numbers.iter().enumerate() {
        answers.0.push(answer(&mut session, &data.sample(number)?)?);
        progress.at(done + 1);
    }
    Ok(answers)
}

fn answer(session: &mut Session, sample: &Sample) -> Result<Vec<f64>, Error> {
    let outputs = session.run(&sample.inputs)?;
    Ok(outputs.first().map(Tensor::to_f64).unwrap_or_default())
}

/// Judges answers by labels, or by those of a reference.
///
/// # Errors
/// When labels are missing or do not fit.
pub fn score(
    metric: Metric,
    answers: &Answers,
    data: &Dataset,
    numbers: &[usize],
    reference: Option<&Answers>,
) -> Result<Score, Error> {
    if numbers.is_empty() {
        return Err(Error::unfit("there are no samples in this part of the data: give more, or another --split"));
    }
    if metric.needs_labels() {
        check_labels(metric, answers, data, numbers)?;
    } else if reference.is_none_or(|reference| reference.len() != answers.len()) {
        let some = match data.labelled() {
            0 => String::new(),
            some => {
                format!("; right answers are counted where each sample has a label, and {some} of {} do", data.len())
            }
        };
        return Err(Error::unfit(format!("this metric compares with a reference model: state --reference{some}")));
    }
    let one = |at: usize| {
        let own = &answers.0[at];
        match (metric, data.label(numbers[at]), reference) {
            (Metric::Top1, Some(Label::Class(class)), _) => f64::from(u8::from(largest(own) == *class)),
            (Metric::Top5, Some(Label::Class(class)), _) => f64::from(u8::from(is_among(own, *class, 5))),
            (Metric::Mse, Some(Label::Values(values)), _) => mean_squared(own, values),
            (Metric::Agreement, _, Some(reference)) => {
                let (own, other) = (largest(own), largest(&reference.0[at]));
                f64::from(u8::from(own == other && own != usize::MAX))
            }
            (Metric::Sqnr, _, Some(reference)) => sqnr(&reference.0[at], own),
            (Metric::Top1 | Metric::Top5 | Metric::Mse | Metric::Agreement | Metric::Sqnr, _, _) => f64::NAN,
        }
    };
    let each: Vec<f64> = (0..answers.len()).map(one).collect();
    Ok(match metric {
        Metric::Top1 | Metric::Top5 | Metric::Agreement => share(metric, &each),
        Metric::Mse | Metric::Sqnr => mean(metric, &each),
    })
}

/// Refuses data whose labels are all of one class: a model that always says it would seem right.
///
/// # Errors
/// When they are.
pub fn check_classes(data: &Dataset) -> Result<(), Error> {
    let mut labels = (0..data.len()).filter_map(|at| data.label(at));
    let Some(first @ Label::Class(class)) = labels.next() else { return Ok(()) };
    let count = data.labelled();
    if count > 1 && labels.all(|label| label == first) {
        let what =
            format!("all {count} samples are of one class, {class}: a model that always says it would seem right");
        return Err(Error::unfit(what));
    }
    Ok(())
}

fn check_labels(metric: Metric, answers: &Answers, data: &Dataset, numbers: &[usize]) -> Result<(), Error> {
    let values = answers.values();
    let classes = values.max(2);
    for &number in numbers {
        match (metric, data.label(number)) {
            (_, None) => {
                return Err(Error::unfit(format!(
                    "sample {number} has no label: name classes by subfolders, or state --labels"
                )));
            }
            (Metric::Mse, Some(Label::Values(label))) if label.len() == values => {}
            (Metric::Mse, Some(_)) => {
                return Err(Error::unfit(format!(
                    "labels must hold {values} values each, as the first output does, for mse"
                )));
            }
            (_, Some(Label::Class(class))) if *class < classes => {}
            (_, Some(Label::Class(class))) => {
                return Err(Error::unfit(format!(
                    "sample {number} is of class {class}, and the first output has {values} values"
                )));
            }
            (_, Some(Label::Values(_))) => {
                return Err(Error::unfit("labels are values, not classes: state --metric mse"));
            }
        }
    }
    Ok(())
}

/// Of one value: whether it is over a half, as of a sigmoid. No class at all where a value is none.
fn largest(values: &[f64]) -> usize {
    if values.iter().any(|value| value.is_nan()) {
        return usize::MAX;
    }
    if let [one] = values {
        return usize::from(*one > 0.5);
    }
    let best = |best: usize, at: usize| if values[at] > values[best] { at } else { best };
    (1..values.len()).fold(0, best)
}

fn is_among(values: &[f64], class: usize, most: usize) -> bool {
    values.get(class).is_some_and(|own| values.iter().filter(|value| *value > own).count() < most)
}

fn mean_squared(values: &[f64], expected: &[f32]) -> f64 {
    let off = values.iter().zip(expected).map(|(value, &expected)| (value - f64::from(expected)).powi(2));
    let mean = off.sum::<f64>() / expected.len().max(1) as f64;
    if mean.is_nan() { f64::INFINITY } else { mean }
}

/// Signal over quantization noise, in dB; at most 200, so that equal answers can be averaged.
pub fn sqnr(reference: &[f64], values: &[f64]) -> f64 {
    let power: f64 = reference.iter().map(|value| value * value).sum();
    let noise: f64 = reference.iter().zip(values).map(|(a, b)| (a - b).powi(2)).sum();
    if noise == 0.0 {
        return 200.0;
    }
    if power == 0.0 || !noise.is_finite() {
        return -200.0;
    }
    (10.0 * (power / noise).log10()).clamp(-200.0, 200.0)
}

/// Wilson, 1927: holds for few samples, and near 0 and 100 %.
fn share(metric: Metric, each: &[f64]) -> Score {
    const Z: f64 = 1.96;
    let n = each.len() as f64;
    let p = each.iter().sum::<f64>() / n;
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let percent = |share: f64| 100.0 * share.clamp(0.0, 1.0);
    Score { metric, value: percent(p), low: percent(middle - half), high: percent(middle + half), samples: each.len() }
}

fn mean(metric: Metric, each: &[f64]) -> Score {
    let n = each.len() as f64;
    let value = each.iter().sum::<f64>() / n;
    let variance = each.iter().map(|one| (one - value).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let half = 1.96 * (variance / n).sqrt();
    Score { metric, value, low: value - half, high: value + half, samples: each.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_at_the_ends() {
        let all = share(Metric::Top1, &[1.0; 20]);
        assert_eq!((all.value, all.high), (100.0, 100.0));
        assert!((all.low - 83.9).abs() < 0.1, "{all:?}");
        let half = share(Metric::Top1, &[[1.0, 0.0]; 50].concat());
        assert!((half.low - 40.4).abs() < 0.1 && (half.high - 59.6).abs() < 0.1, "{half:?}");
    }

    #[test]
    fn the_largest_and_the_five_largest() {
        assert_eq!((largest(&[0.1, 3.0, 3.0]), largest(&[0.7]), largest(&[0.2])), (1, 1, 0));
        assert!(is_among(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 4, 5) && !is_among(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 5, 5));
        assert!(!is_among(&[1.0], 3, 5));
    }

    #[test]
    fn noise_of_a_hundredth_of_the_amplitude_is_40_db() {
        assert!((sqnr(&[1.0, -1.0], &[1.01, -1.01]) - 40.0).abs() < 1e-9);
        assert_eq!((sqnr(&[1.0], &[1.0]), sqnr(&[0.0], &[1.0])), (200.0, -200.0));
    }

    #[test]
    fn what_is_no_number_is_never_right() {
        assert_eq!(sqnr(&[1.0], &[f64::NAN]), -200.0);
        assert_eq!((mean_squared(&[f64::NAN], &[1.0]), largest(&[f64::NAN, 1.0])), (f64::INFINITY, usize::MAX));
        let score = |value| Score { metric: Metric::Sqnr, value, low: 0.0, high: 0.0, samples: 1 };
        assert_eq!(score(f64::NAN).drop_from(&score(1.0)), f64::INFINITY);
    }

    #[test]
    fn a_drop_is_how_much_worse() {
        let score = |metric, value| Score { metric, value, low: 0.0, high: 0.0, samples: 1 };
        assert_eq!(score(Metric::Top1, 97.0).drop_from(&score(Metric::Top1, 98.5)), 1.5);
        assert!((score(Metric::Mse, 1.1).drop_from(&score(Metric::Mse, 1.0)) - 10.0).abs() < 1e-9);
    }
}
