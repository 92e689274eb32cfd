//! How often a quantized model is expected to answer other than the float one, from few samples: quantization noise that
//! was seen on some samples is added to the logits of others, and what then changes its order is counted.
//!
//! Invariant: the same answers give the same figure; a model without noise has none, one whose answers are no numbers has
//! nothing but.
//!
//! Of n samples, counting sees no less than one in n, and sees nothing at all where the noise happened to miss the few
//! samples that are near a decision. Here each sample meets the noise of its neighbours, and its margin is a draw as well:
//! one that is a hair's breadth from a decision would else be lost however little noise there is, and hold up the rest.
//! Three things make the noise the sample's own, and each was needed for the figure to meet the count on hundreds of others:
//! - it is taken by rank, since the largest logits carry more of it than the same classes do where they are small: class by
//!   class only half of what was counted is found;
//! - neighbours are those of a similar margin: samples near a decision are noisier than sure ones;
//! - it is as likely one way as the other: half the variance for nothing.
//!
//! A normal approximation by the errors' covariance found half of what was counted, too. Probabilities become logits first:
//! noise on a probability depends on the probability.
//! Not here: what to do about it (`search`).

use crate::compress::score::Answers;
use serde::Serialize;

/// Expected disagreement with the float model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expected {
    /// Percent of samples.
    pub disagreement: f64,
    /// The standard error that so few samples leave, points.
    pub error: f64,
}

/// The float model's decisions on some samples: logits in falling order.
#[derive(Debug, Clone)]
pub struct Decisions {
    form: Form,
    /// By falling margin of the largest logit.
    samples: Vec<Decision>,
}

#[derive(Debug, Clone)]
struct Decision {
    /// Which of the answers.
    at: usize,
    /// Classes of the largest logits, the largest first.
    classes: Vec<usize>,
    logits: Vec<f64>,
}

/// What a model's first output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Logits,
    /// Of all classes: they sum to 1.
    Probabilities,
    /// One probability: yes where it is over a half.
    Sigmoid,
    /// One value: yes where it is over a half.
    OverHalf,
}

/// Logits that are looked at: what is behind them does not come first.
const LARGEST: usize = 20;

/// Fewer samples than this say nothing of noise.
const FEWEST: usize = 8;

/// So many samples with the smallest margins tell how finely margins are known: theirs spread over as much.
const NEAREST: usize = 5;

/// Samples that lend their noise to one: a fifth of all, within these.
const LENDERS: std::ops::RangeInclusive<usize> = 7..=128;

impl Decisions {
    /// By the float model's answers; `None` where there are too few, or no classes.
    pub fn of(reference: &Answers) -> Option<Self> {
        let answers = reference.each();
        let numbers = answers.iter().all(|answer| answer.len() == reference.values() && all_finite(answer));
        if answers.len() < FEWEST || reference.values() == 0 || !numbers {
            return None;
        }
        let form = Form::of(answers);
        let mut samples: Vec<Decision> =
            answers.iter().enumerate().map(|(at, answer)| Decision::of(at, &form.logits(answer))).collect();
        samples.sort_by(|a, b| a.margin().total_cmp(&b.margin()).reverse());
        Some(Self { form, samples })
    }

    /// What the noise of these answers to the same samples does to decisions.
    pub fn expected(&self, answers: &Answers) -> Expected {
        let Some(noise) = self.noise(answers) else { return Expected { disagreement: 100.0, error: 0.0 } };
        let count = self.samples.len();
        let most = (count / 5).clamp(*LENDERS.start(), *LENDERS.end()).min(count - 1);
        let width = self.samples[count.saturating_sub(1 + NEAREST)].margin().max(f64::MIN_POSITIVE);
        let flips = |(at, sample): (usize, &Decision)| {
            let first = at.saturating_sub(most / 2).min(count - 1 - most);
            let lenders = (first..=first + most).filter(|&lender| lender != at);
            let turned = lenders.map(|lender| [1.0, -1.0].map(|sign| sample.flips(&noise[lender], sign, width)));
            turned.flatten().sum::<f64>() / (2 * most) as f64
        };
        let each: Vec<f64> = self.samples.iter().enumerate().map(flips).collect();
        let n = count as f64;
        let mean = each.iter().sum::<f64>() / n;
        let variance = each.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Expected { disagreement: 100.0 * mean, error: 100.0 * (variance / n).sqrt() }
    }

    /// Power of the noise on the largest logits, as the mean of its logarithm over samples; minus infinity where there is none.
    pub fn log_power(&self, answers: &Answers) -> f64 {
        let Some(noise) = self.noise(answers) else { return f64::INFINITY };
        let power = |noise: &Vec<f64>| noise.iter().map(|one| one * one).sum::<f64>() / noise.len() as f64;
        noise.iter().map(|noise| power(noise).ln()).sum::<f64>() / noise.len() as f64
    }

    /// Each sample's by rank, without what moves all logits alike; `None` where an answer is no number.
    fn noise(&self, answers: &Answers) -> Option<Vec<Vec<f64>>> {
        let one = |sample: &Decision| {
            let answer = answers.each().get(sample.at).filter(|answer| all_finite(answer))?;
            let logits = self.form.logits(answer);
            let noise: Option<Vec<f64>> = sample
                .classes
                .iter()
                .zip(&sample.logits)
                .map(|(&class, logit)| Some(logits.get(class)? - logit))
                .collect();
            let noise = noise?;
            let mean = noise.iter().sum::<f64>() / noise.len() as f64;
            Some(noise.into_iter().map(|one| one - mean).collect())
        };
        self.samples.iter().map(one).collect()
    }
}

impl Decision {
    fn of(at: usize, logits: &[f64]) -> Self {
        let mut classes: Vec<usize> = (0..logits.len()).collect();
        // Among equals the first one is the answer.
        classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        classes.truncate(LARGEST);
        let logits = classes.iter().map(|&class| logits[class]).collect();
        Self { at, classes, logits }
    }

    fn margin(&self) -> f64 {
        self.logits.first().zip(self.logits.get(1)).map_or(f64::INFINITY, |(first, second)| first - second)
    }

    /// How likely another logit becomes the largest, where the margin may be another by up to that width, the less likely
    /// the further: a triangle, folded at 0.
    fn flips(&self, noise: &[f64], sign: f64, width: f64) -> f64 {
        let with = |rank: usize| self.logits[rank] + sign * noise[rank];
        let margin = self.margin();
        let lost = (1..self.logits.len()).map(with).fold(f64::NEG_INFINITY, f64::max) - with(0) + margin;
        if lost <= 0.0 || !lost.is_finite() {
            return 0.0;
        }
        let below = |margin: f64| match (margin / width).clamp(-1.0, 1.0) {
            at if at < 0.0 => (1.0 + at).powi(2) / 2.0,
            at => 1.0 - (1.0 - at).powi(2) / 2.0,
        };
        below(lost - margin) - below(-lost - margin)
    }
}

impl Form {
    fn of(answers: &[Vec<f64>]) -> Self {
        let is_sum = |answer: &Vec<f64>| {
            answer.iter().all(|&value| (0.0..=1.0).contains(&value)) && (answer.iter().sum::<f64>() - 1.0).abs() < 1e-3
        };
        match answers.first().map_or(0, Vec::len) {
            1 if answers.iter().flatten().all(|value| (0.0..=1.0).contains(value)) => Self::Sigmoid,
            1 => Self::OverHalf,
            _ if answers.iter().all(is_sum) => Self::Probabilities,
            _ => Self::Logits,
        }
    }

    fn logits(self, answer: &[f64]) -> Vec<f64> {
        // The least that a float holds.
        let log = |value: f64| value.max(1e-38).ln();
        match (self, answer) {
            (Self::Sigmoid, &[one]) => vec![log(1.0 - one), log(one)],
            (Self::OverHalf, &[one]) => vec![0.5, one],
            (Self::Probabilities, _) => answer.iter().map(|&value| log(value)).collect(),
            (Self::Logits | Self::Sigmoid | Self::OverHalf, _) => answer.to_vec(),
        }
    }
}

fn all_finite(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::data::mix;

    /// About normal, by a number.
    fn normal(number: u64) -> f64 {
        (0..12).map(|i| mix(number * 12 + i) as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }

    /// Logits of six classes, and those with noise: more of it on the largest, and more where the margin is small.
    fn sample(number: u64) -> (Vec<f64>, Vec<f64>) {
        let logits: Vec<f64> = (0..6).map(|class| 6.0 * normal(number * 6 + class)).collect();
        let mut order = logits.clone();
        order.sort_by(|a, b| b.total_cmp(a));
        let size = if order[0] - order[1] < 0.5 { 0.16 } else { 0.08 };
        let noise = |class: usize| {
            let more = if logits[class] >= order[1] { 1.5 } else { 1.0 };
            size * more * normal((number * 6 + class as u64) ^ 0x5eed_0000_0000)
        };
        let noisy = (0..6).map(|class| logits[class] + noise(class)).collect();
        (logits, noisy)
    }

    fn samples(numbers: std::ops::Range<u64>) -> (Answers, Answers) {
        let (float, noisy): (Vec<_>, Vec<_>) = numbers.map(sample).unzip();
        (Answers::of(float), Answers::of(noisy))
    }

    fn counted(float: &Answers, noisy: &Answers) -> f64 {
        let largest = |values: &[f64]| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
        let pairs = float.each().iter().zip(noisy.each());
        100.0 * pairs.filter(|(a, b)| largest(a) != largest(b)).count() as f64 / float.len() as f64
    }

    fn expected(float: &Answers, noisy: &Answers) -> Expected {
        Decisions::of(float).unwrap().expected(noisy)
    }

    fn spread(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn sixty_samples_tell_what_twenty_thousand_count_with_less_than_half_the_variance_of_counting_them() {
        let (float, noisy) = samples(0..20_000);
        let truth = counted(&float, &noisy);
        assert!((1.0..6.0).contains(&truth), "{truth}");
        let draws = || (0..100).map(|draw| samples(draw * 60..(draw + 1) * 60));
        let (mean, off) = spread(&draws().map(|(a, b)| expected(&a, &b).disagreement).collect::<Vec<_>>());
        let (_, count_off) = spread(&draws().map(|(a, b)| counted(&a, &b)).collect::<Vec<_>>());
        assert!((mean / truth - 1.0).abs() < 0.2, "{mean} is expected of {truth}");
        assert!(off * off * 2.0 < count_off * count_off, "{off} beside {count_off}");
        // What it says of itself.
        let (said, _) = spread(&draws().map(|(a, b)| expected(&a, &b).error).collect::<Vec<_>>());
        assert!((0.5..2.0).contains(&(said / off)), "{said} of {off}");
    }

    #[test]
    fn what_counting_misses_by_chance_is_seen() {
        let blind = (0..100).map(|draw| samples(draw * 60..(draw + 1) * 60)).filter(|(a, b)| counted(a, b) == 0.0);
        let blind: Vec<f64> = blind.map(|(a, b)| expected(&a, &b).disagreement).collect();
        assert!(blind.len() > 5 && blind.iter().all(|&percent| percent > 0.2), "{blind:?}");
    }

    #[test]
    fn probabilities_are_judged_as_the_logits_behind_them_and_one_output_as_two_classes() {
        let (float, noisy) = samples(0..60);
        let softmax = |answers: &Answers| {
            let one = |logits: &Vec<f64>| {
                let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
                logits.iter().map(|logit| logit.exp() / sum).collect::<Vec<f64>>()
            };
            Answers::of(answers.each().iter().map(one).collect())
        };
        let (of_logits, of_shares) = (expected(&float, &noisy), expected(&softmax(&float), &softmax(&noisy)));
        assert!((of_logits.disagreement - of_shares.disagreement).abs() < 1e-9, "{of_logits:?} {of_shares:?}");
        let two = |answers: &Answers, form: fn(f64, f64) -> Vec<f64>| {
            Answers::of(answers.each().iter().map(|logits| form(logits[0], logits[1])).collect())
        };
        let sigmoid = |a: f64, b: f64| vec![1.0 / (1.0 + (a - b).exp())];
        let of_two = expected(&two(&float, |a, b| vec![a, b]), &two(&noisy, |a, b| vec![a, b]));
        let of_one = expected(&two(&float, sigmoid), &two(&noisy, sigmoid));
        assert!((of_two.disagreement - of_one.disagreement).abs() < 1e-9, "{of_two:?} {of_one:?}");
    }

    #[test]
    fn no_noise_changes_nothing_and_what_is_no_number_everything() {
        let (float, noisy) = samples(0..60);
        assert_eq!(expected(&float, &float), Expected { disagreement: 0.0, error: 0.0 });
        assert_eq!(Decisions::of(&float).unwrap().log_power(&float), f64::NEG_INFINITY);
        let mut bad = noisy.each().to_vec();
        bad[7][0] = f64::NAN;
        assert_eq!(expected(&float, &Answers::of(bad.clone())).disagreement, 100.0);
        assert!(Decisions::of(&Answers::of(bad)).is_none() && Decisions::of(&samples(0..7).0).is_none());
    }
}
