//! Calibration: what a tensor held over the data -> the range that is represented.
//!
//! Invariant: data gives the same range whatever the order of its values within a sample.
//! Not here: how the data gets there (`observe`).
//!
//! Percentile and entropy as in Migacz, *8-bit Inference with TensorRT* (GTC 2017); the mean squared error as in
//! Banner et al., 2019 (<https://arxiv.org/abs/1810.05723>), searched instead of solved.

use super::scheme::{Affine, Levels, Range};
use serde::{Deserialize, Serialize};

/// How ranges come from data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// The extremes of all samples.
    MinMax,
    /// A moving average of each sample's extremes: `new = 0.9 old + 0.1 sample`.
    MovingAverage,
    /// Without the outermost share of values, in percent kept: 99.999.
    Percentile(f32),
    /// What gives the smallest mean squared error.
    Mse,
    /// What loses the least information: the smallest Kullback-Leibler divergence.
    Entropy,
}

impl Calibration {
    /// Whether it looks at more than extremes, and so at the data a second time.
    pub fn needs_histogram(self) -> bool {
        match self {
            Self::MinMax | Self::MovingAverage => false,
            Self::Percentile(_) | Self::Mse | Self::Entropy => true,
        }
    }
}

impl std::str::FromStr for Calibration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, kept) = text.split_once(':').map_or((text, None), |(name, kept)| (name, Some(kept)));
        match (name, kept) {
            ("min-max", None) => Ok(Self::MinMax),
            ("moving-average", None) => Ok(Self::MovingAverage),
            ("mse", None) => Ok(Self::Mse),
            ("entropy", None) => Ok(Self::Entropy),
            ("percentile", None) => Ok(Self::Percentile(99.999)),
            ("percentile", Some(kept)) if kept.parse::<f32>().is_ok() => {
                Ok(Self::Percentile(kept.parse().unwrap_or(100.0)))
            }
            _ => Err("min-max, moving-average, percentile, percentile:99.99, mse or entropy is expected".into()),
        }
    }
}

const MOMENTUM: f32 = 0.9;

/// Extremes of one tensor over samples.
#[derive(Debug, Clone, Copy)]
pub struct Extremes {
    pub all: Range,
    pub average: Range,
}

impl Default for Extremes {
    fn default() -> Self {
        Self { all: Range::EMPTY, average: Range::EMPTY }
    }
}

impl Extremes {
    pub fn see(&mut self, sample: Range) {
        let mix = |old: f32, new: f32| MOMENTUM * old + (1.0 - MOMENTUM) * new;
        self.average = match self.all.lo > self.all.hi {
            true => sample,
            false => Range { lo: mix(self.average.lo, sample.lo), hi: mix(self.average.hi, sample.hi) },
        };
        self.all = self.all.union(sample);
    }
}

/// Counts of values in equal bins over a range that holds them all.
#[derive(Debug, Clone)]
pub struct Histogram {
    range: Range,
    counts: Vec<u64>,
}

const BINS: usize = 2048;

impl Histogram {
    pub fn new(range: Range) -> Self {
        Self { range: range.with_zero(), counts: vec![0; BINS] }
    }

    pub fn see(&mut self, values: &[f32]) {
        let (lo, width) = (f64::from(self.range.lo), self.width());
        let per_bin = if width > 0.0 { 1.0 / width } else { 0.0 };
        for &value in values {
            let bin = ((f64::from(value) - lo) * per_bin) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// Of a bin; the whole range may be wider than a float.
    fn width(&self) -> f64 {
        (f64::from(self.range.hi) - f64::from(self.range.lo)) / BINS as f64
    }

    fn middle(&self, bin: usize) -> f32 {
        self.edge(bin as f64 + 0.5)
    }

    fn edge(&self, bins: f64) -> f32 {
        (f64::from(self.range.lo) + bins * self.width()) as f32
    }

    /// The range that a method chooses for these levels.
    pub fn choose(&self, how: Calibration, levels: Levels, symmetric: bool) -> Range {
        match how {
            Calibration::MinMax | Calibration::MovingAverage => self.range,
            Calibration::Percentile(kept) => self.percentile(f64::from(kept) / 100.0),
            Calibration::Mse => self.least_squares(levels, symmetric),
            Calibration::Entropy => self.least_divergence(levels),
        }
    }

    fn percentile(&self, kept: f64) -> Range {
        let total: u64 = self.counts.iter().sum();
        let cut = ((1.0 - kept).max(0.0) / 2.0 * total as f64) as u64;
        let low = self.behind(0..BINS, cut).unwrap_or(0);
        let high = self.behind((0..BINS).rev(), cut).unwrap_or(BINS - 1);
        let (lo, hi) = (self.edge(low as f64), self.edge((high + 1) as f64));
        Range { lo, hi: if high + 1 == BINS { self.range.hi } else { hi } }.with_zero()
    }

    /// The first bin with which more than so many values are passed.
    fn behind(&self, mut bins: impl Iterator<Item = usize>, cut: u64) -> Option<usize> {
        let mut passed = 0;
        bins.find(|&bin| {
            passed += self.counts[bin];
            passed > cut
        })
    }

    /// Shrinks both ends in turn while the error falls: first in steps of a 16th, then of a 128th of the range.
    fn least_squares(&self, levels: Levels, symmetric: bool) -> Range {
        let error = |range: Range| {
            self.squared_error(if symmetric {
                Affine::symmetric(range, levels)
            } else {
                Affine::of_range(range, levels)
            })
        };
        let mut best = (error(self.range), self.range);
        for steps in [16_u16, 128] {
            let centre = best.1;
            let reach = if steps == 16 { 15 } else { 8 };
            for down in 0..=reach {
                for up in 0..=reach {
                    let [lo, hi] =
                        [(centre.lo, self.range.lo, down), (centre.hi, self.range.hi, up)].map(|(at, full, step)| {
                            // The second time it looks to both sides of what the first found.
                            let shift =
                                f32::from(step as u16) - if steps == 16 { 0.0 } else { f32::from(reach as u16) / 2.0 };
                            let end = at - full * shift / f32::from(steps);
                            if full >= 0.0 { end.clamp(0.0, full) } else { end.clamp(full, 0.0) }
                        });
                    let range = Range { lo, hi };
                    let off = error(range);
                    if hi > lo && off < best.0 {
                        best = (off, range);
                    }
                }
            }
        }
        best.1
    }

    fn squared_error(&self, affine: Affine) -> f64 {
        let one = |(bin, &count): (usize, &u64)| {
            let value = self.middle(bin);
            // Within a step values lie anywhere: a twelfth of its square, even where the middle is met.
            let inside = f64::from(affine.scale).min(self.width()).powi(2) / 12.0;
            (f64::from(affine.fake(value) - value).powi(2) + inside) * count as f64
        };
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(one).sum()
    }

    /// Of the magnitudes, for thresholds from as many bins as there are levels to all of them. The bin with zero is left
    /// out: behind a ReLU it holds half of all values, and every threshold would look good.
    fn least_divergence(&self, levels: Levels) -> Range {
        let both = self.range.lo < 0.0;
        let magnitudes = self.magnitudes();
        let kept = usize::try_from(levels.max - levels.min + 1).unwrap_or(256).min(BINS) / if both { 2 } else { 1 };
        let kept = kept.clamp(2, 256);
        let largest = self.range.largest();
        let candidates = (kept..=BINS).step_by(16).chain([BINS]);
        let best = candidates
            .map(|bins| (divergence(&magnitudes, bins, kept), bins))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(BINS, |(_, bins)| bins);
        let threshold = largest * best as f32 / BINS as f32;
        Range { lo: self.range.lo.max(-threshold), hi: self.range.hi.min(threshold) }
    }

    fn magnitudes(&self) -> Vec<f64> {
        let largest = self.range.largest();
        let mut magnitudes = vec![0.0; BINS];
        if largest > 0.0 {
            for (bin, &count) in self.counts.iter().enumerate() {
                let at = (self.middle(bin).abs() / largest * BINS as f32) as usize;
                magnitudes[at.min(BINS - 1)] += count as f64;
            }
        }
        magnitudes[0] = 0.0;
        magnitudes
    }
}

/// Kullback-Leibler divergence of a distribution cut off at `bins` (what is above goes into the last), from the same
/// in `levels` steps.
fn divergence(magnitudes: &[f64], bins: usize, levels: usize) -> f64 {
    let mut reference = magnitudes[..bins].to_vec();
    reference[bins - 1] += magnitudes[bins..].iter().sum::<f64>();
    let total: f64 = reference.iter().sum();
    if total == 0.0 {
        return f64::INFINITY;
    }
    let mut quantized = vec![0.0; bins];
    for level in 0..levels {
        let step = level * bins / levels..(level + 1) * bins / levels;
        let filled = step.clone().filter(|&bin| reference[bin] > 0.0).count();
        let sum: f64 = magnitudes[step.clone()].iter().sum();
        step.filter(|&bin| reference[bin] > 0.0).for_each(|bin| quantized[bin] = sum / filled as f64);
    }
    let quantized_total: f64 = quantized.iter().sum();
    // What the quantized distribution has not at all is as unlikely as can be, not impossible.
    let smallest = 1e-9;
    let one = |(p, q): (&f64, &f64)| {
        let (p, q) = (p / total, (q / quantized_total.max(smallest)).max(smallest));
        if p > 0.0 { p * (p / q).ln() } else { 0.0 }
    };
    reference.iter().zip(&quantized).map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most values within 1, a few far out; the same each time.
    fn skewed() -> Vec<f32> {
        let mut values: Vec<f32> = (0..20_000_u16).map(|i| (f32::from(i) * 0.618_034).fract() * 2.0 - 1.0).collect();
        values.extend([40.0, -35.0]);
        values
    }

    fn chosen(values: &[f32], how: Calibration) -> Range {
        let mut histogram = Histogram::new(Range::of(values));
        histogram.see(values);
        histogram.choose(how, Levels::of_activations(8, false), false)
    }

    fn error(values: &[f32], range: Range) -> f32 {
        let affine = Affine::of_range(range, Levels::of_activations(8, false));
        values.iter().map(|&value| (affine.fake(value) - value).powi(2)).sum()
    }

    #[test]
    fn outliers_are_kept_by_minmax_and_cut_by_the_others() {
        let values = skewed();
        assert_eq!(chosen(&values, Calibration::MinMax), Range { lo: -35.0, hi: 40.0 });
        for how in [Calibration::Percentile(99.9), Calibration::Entropy] {
            let range = chosen(&values, how);
            assert!(range.hi < 4.0 && range.hi >= 0.9, "{how:?}: {range:?}");
            assert!(range.lo > -4.0 && range.lo <= -0.9, "{how:?}: {range:?}");
        }
    }

    #[test]
    fn the_least_squares_are_no_worse_than_any_symmetric_cut() {
        let values = skewed();
        let best = error(&values, chosen(&values, Calibration::Mse));
        assert!(best < error(&values, Range { lo: -35.0, hi: 40.0 }));
        for step in 1..=64_u16 {
            let share = f32::from(step) / 64.0;
            let other = error(&values, Range { lo: -35.0 * share, hi: 40.0 * share });
            assert!(best <= other * 1.02, "{share}: {other} beside {best}");
        }
        // Nothing to gain: uniform values keep their range.
        let uniform = &values[..20_000];
        let range = chosen(uniform, Calibration::Mse);
        assert!(range.hi > 0.97 && range.lo < -0.97, "{range:?}");
    }

    #[test]
    fn what_never_varies_or_is_one_sided_has_a_range() {
        for how in [Calibration::Percentile(99.9), Calibration::Mse, Calibration::Entropy] {
            assert_eq!(chosen(&[0.0; 8], how).largest(), 0.0, "{how:?}");
            let relu: Vec<f32> = skewed().into_iter().map(|value| value.clamp(0.0, 2.0)).collect();
            let range = chosen(&relu, how);
            assert!(range.lo == 0.0 && range.hi > 0.5, "{how:?}: {range:?}");
        }
    }

    #[test]
    fn the_moving_average_follows_slowly() {
        let mut extremes = Extremes::default();
        extremes.see(Range { lo: 0.0, hi: 1.0 });
        extremes.see(Range { lo: -1.0, hi: 11.0 });
        assert_eq!(extremes.all, Range { lo: -1.0, hi: 11.0 });
        assert!((extremes.average.hi - 2.0).abs() < 1e-6 && (extremes.average.lo + 0.1).abs() < 1e-6);
    }
}
