//! AdaRound: up or down for each weight, so that the layer's output, not the weight, is met best.
//!
//! Invariant: a level is one of the two beside the weight; no flip of one weight or of two lessens the error by what counts,
//! which is never above that of the nearest levels; the same rows give the same levels on any number of threads.
//! Not here: scales (`weights`), biases (`bias`).
//!
//! Nagel et al., 2020 (<https://arxiv.org/abs/2004.10568>), section 3: with the inputs `x` in float and `q` as they come
//! once they are quantized, the error of one output channel with weights `w` and levels that stand for `s` is
//! `|q s - x w|^2`, a quadratic form in bits with the same `q'q` for all channels, and half of its gradient is
//! `q'q (s - w) + q'(q - x) w`. Both sums are made once; then each channel goes downhill from its nearest levels.
//!
//! Rejected: that paper's relaxation by sigmoids. 1000 of its steps on batches ended far above what flips find, on rows
//! that none had seen, too; 100 or 300 on the same form with flips of one weight behind them ended above flips of two,
//! and all of them took tens of times as long.

use super::rows::Rows;
use super::scheme::Affine;
use super::weights::{IntegerWeights, Matrix};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// Of the mean square of an input, added for each weight: what few rows do not tell is left to the weight itself.
const RIDGE: f32 = 0.05;
/// Output channels that share a product.
const CHANNELS: usize = 32;
/// Weights that are compared at a time.
const LANES: usize = 16;
/// Walks over all pairs; a handful is what they take.
const SWEEPS: usize = 32;

/// Chooses levels for all groups of a layer; `input` quantizes its input.
pub fn adaround(matrix: &Matrix, weights: &IntegerWeights, rows: &Rows, input: &Affine) -> Vec<i32> {
    let width = matrix.width;
    let groups = rows.width.checked_div(width).unwrap_or(0);
    if rows.count() == 0 || groups == 0 || !matrix.rows.is_multiple_of(groups) {
        return weights.levels.clone();
    }
    let of_group = matrix.rows / groups;
    let solve = |group: usize| {
        let (first, last) = (group * of_group, (group + 1) * of_group);
        let form = Form::new(rows, group * width, width, input);
        let part = move |from: usize| {
            let to = (from + CHANNELS).min(last);
            form.as_ref().map_or_else(
                || weights.levels[from * width..to * width].to_vec(),
                |form| form.solve(matrix, weights, from..to),
            )
        };
        let starts: Vec<usize> = (first..last).step_by(CHANNELS).collect();
        starts.into_par_iter().flat_map_iter(part).collect::<Vec<i32>>()
    };
    (0..groups).into_par_iter().flat_map_iter(solve).collect()
}

/// What all output channels of a group share.
struct Form {
    /// `q'q` over the number of rows; equal to its transpose, so that either order of elements is its rows.
    gram: Array2<f32>,
    /// Its diagonal.
    squares: Vec<f32>,
    /// `(q - x)'q` over the number of rows.
    cross: Array2<f32>,
    /// The mean square of an input.
    power: f32,
}

impl Form {
    fn new(rows: &Rows, first: usize, width: usize, input: &Affine) -> Option<Self> {
        let real = Array2::from_shape_vec((rows.count(), width), rows.columns(first, width)).ok()?;
        let quantized = real.mapv(|value| input.fake(value));
        let share = 1.0 / rows.count() as f32;
        let mut gram = quantized.t().dot(&quantized) * share;
        // Not `x'q`: the small difference of large sums would be lost in their rounding.
        let cross = (&quantized - &real).t().dot(&quantized) * share;
        let power = (gram.diag().sum() / width as f32).max(f32::MIN_POSITIVE);
        gram.diag_mut().mapv_inplace(|value| value + RIDGE * power);
        let squares = gram.diag().to_vec();
        Some(Self { gram, squares, cross, power })
    }

    fn row(&self, k: usize) -> &[f32] {
        let width = self.gram.nrows();
        self.gram.as_slice_memory_order().map_or(&[], |all| &all[k * width..(k + 1) * width])
    }

    /// Levels of some output channels.
    fn solve(&self, matrix: &Matrix, weights: &IntegerWeights, channels: std::ops::Range<usize>) -> Vec<i32> {
        let span = channels.start * matrix.width..channels.end * matrix.width;
        let mut levels = weights.levels[span.clone()].to_vec();
        let shape = (channels.len(), matrix.width);
        let Ok(real) = ArrayView2::from_shape(shape, &matrix.values[span]) else { return levels };
        let off = Array2::from_shape_fn(shape, |(at, k)| {
            let affine = weights.of_row(channels.start + at);
            affine.dequantize(levels[at * matrix.width + k]) - real[[at, k]]
        });
        let slopes = off.dot(&self.gram) + real.dot(&self.cross);
        let rows = levels.chunks_exact_mut(matrix.width).zip(real.outer_iter()).zip(slopes.outer_iter());
        for (at, ((levels, real), slope)) in rows.enumerate() {
            let affine = weights.of_row(channels.start + at);
            let steps = levels.iter().zip(real).map(|(&level, &weight)| flip(&affine, weight, level)).collect();
            Descent {
                form: self,
                least: affine.scale.powi(2) * self.power * 1e-3,
                slope: slope.to_vec(),
                steps,
                levels,
            }
            .run();
        }
        levels
    }
}

/// What the other level beside the weight adds to its value: 0 where there is none.
fn flip(affine: &Affine, weight: f32, level: i32) -> f32 {
    let lower = (weight / affine.scale).floor() + affine.zero_point as f32;
    let within = lower >= affine.levels.min as f32 && lower < affine.levels.max as f32;
    match (within, level as f32 <= lower) {
        (false, _) => 0.0,
        (true, true) => affine.scale,
        (true, false) => -affine.scale,
    }
}

/// One output channel on its way down.
struct Descent<'a> {
    form: &'a Form,
    /// An improvement of less than a thousandth of what one step of one weight does is none: it is rounding, or not worth
    /// the walk.
    least: f32,
    /// Half of the error's gradient.
    slope: Vec<f32>,
    /// What flipping a weight adds to it.
    steps: Vec<f32>,
    levels: &'a mut [i32],
}

impl Descent<'_> {
    fn run(mut self) {
        // The error falls with each flip, so that this ends by itself; the bound is for rounding.
        for _ in 0..16 * self.levels.len() {
            match self.best_single() {
                Some(k) => self.flip(k),
                None => break,
            }
        }
        for _ in 0..SWEEPS {
            if !self.sweep() {
                break;
            }
        }
    }

    /// What flipping one weight adds to the error.
    fn single(&self, k: usize) -> f32 {
        self.steps[k] * (2.0 * self.slope[k] + self.steps[k] * self.form.squares[k])
    }

    fn best_single(&self) -> Option<usize> {
        let singles = (0..self.levels.len()).map(|k| (self.single(k), k));
        singles.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(gain, _)| *gain < -self.least).map(|(_, k)| k)
    }

    fn flip(&mut self, k: usize) {
        let step = self.steps[k];
        self.slope.iter_mut().zip(self.form.row(k)).for_each(|(slope, sum)| *slope += step * sum);
        self.levels[k] += if step > 0.0 { 1 } else { -1 };
        self.steps[k] = -step;
    }

    /// Each weight in turn, alone or with the one that goes best with it; whether any was flipped.
    fn sweep(&mut self) -> bool {
        let mut moved = false;
        let mut singles: Vec<f32> = (0..self.levels.len()).map(|k| self.single(k)).collect();
        for k in 0..self.levels.len() {
            if self.steps[k] == 0.0 {
                continue;
            }
            // Not with itself.
            let single = std::mem::replace(&mut singles[k], f32::INFINITY);
            let best = self.partner(k, &singles, single);
            singles[k] = single;
            if singles[k] + best.0 >= -self.least {
                continue;
            }
            self.flip(k);
            if best.1 != k {
                self.flip(best.1);
            }
            singles.iter_mut().enumerate().for_each(|(k, single)| *single = self.single(k));
            moved = true;
        }
        moved
    }

    /// The weight whose flip along with that one's adds least to the error, and what it adds to that one's; itself and
    /// nothing where none helps.
    fn partner(&self, k: usize, singles: &[f32], single: f32) -> (f32, usize) {
        let both = 2.0 * self.steps[k];
        let row = self.form.row(k);
        // Where there is nothing to flip the step is 0, and so is the gain.
        let gain = |single: f32, step: f32, sum: f32| single + both * step * sum;
        let mut least = [0.0_f32; LANES];
        let lanes = singles.chunks(LANES).zip(self.steps.chunks(LANES)).zip(row.chunks(LANES));
        for ((singles, steps), row) in lanes {
            let all = least.iter_mut().zip(singles).zip(steps).zip(row);
            all.for_each(|(((least, &single), &step), &sum)| {
                let gain = gain(single, step, sum);
                *least = if gain < *least { gain } else { *least };
            });
        }
        let least = least.iter().copied().fold(0.0, f32::min);
        if least == 0.0 || single + least >= -self.least {
            return (0.0, k);
        }
        let found = (0..row.len()).find(|&l| gain(singles[l], self.steps[l], row[l]) == least);
        found.map_or((0.0, k), |l| (least, l))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::data::mix;
    use crate::compress::quantize::scheme::{Levels, Range};
    use crate::compress::quantize::weights::WeightScheme;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        (0..count as u64).map(|at| (mix(seed ^ mix(at)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0).collect()
    }

    /// Inputs that hang together, as those of images do: each is half of the one before.
    fn rows(seed: u64, count: usize, width: usize) -> Rows {
        let mut values = noise(seed, count * width);
        (1..values.len()).for_each(|at| values[at] += values[at - 1] * 0.5);
        Rows { width, values }
    }

    fn input() -> Affine {
        Affine::of_range(Range { lo: -2.0, hi: 2.0 }, Levels::of_activations(8, false))
    }

    fn weights(matrix: &Matrix) -> IntegerWeights {
        IntegerWeights::nearest(matrix, &WeightScheme { bits: 3, ..WeightScheme::default() }, &[])
    }

    /// What is made as small as can be, from the rows themselves: of one channel.
    fn error(real: &[f32], made: &[f32], rows: &Rows, first: usize) -> f64 {
        let width = real.len();
        let (mut output, mut power) = (0.0, 0.0);
        for row in rows.values.chunks_exact(rows.width) {
            let mut off = 0.0;
            for k in 0..width {
                let quantized = input().fake(row[first + k]);
                off += f64::from(quantized) * f64::from(made[k]) - f64::from(row[first + k]) * f64::from(real[k]);
                power += f64::from(quantized).powi(2) / width as f64;
            }
            output += off * off;
        }
        let own: f64 = real.iter().zip(made).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (output + f64::from(RIDGE) * power * own) / rows.count() as f64
    }

    #[test]
    fn no_flip_of_one_weight_or_two_helps_any_more_and_few_weights_come_near_the_best_of_all() {
        const WIDTH: usize = 10;
        let (mut found, mut best, mut nearest) = (0.0, 0.0, 0.0);
        for seed in 0..8 {
            // Two groups of two channels each.
            let matrix = Matrix { rows: 4, width: WIDTH, values: noise(seed, 4 * WIDTH) };
            let (rows, weights) = (rows(seed + 100, 60, 2 * WIDTH), weights(&matrix));
            let levels = adaround(&matrix, &weights, &rows, &input());
            for channel in 0..4 {
                let (real, affine) = (matrix.row(channel), weights.of_row(channel));
                let span = channel * WIDTH..(channel + 1) * WIDTH;
                let of = |levels: &[i32]| {
                    let made: Vec<f32> = levels.iter().map(|&level| affine.dequantize(level)).collect();
                    error(real, &made, &rows, channel / 2 * WIDTH)
                };
                let choices: Vec<f64> = (0..1_u32 << WIDTH)
                    .map(|bits| {
                        let one = |k: usize| {
                            let lower = (real[k] / affine.scale).floor() as i32 + i32::from(bits >> k & 1 == 1);
                            lower.clamp(affine.levels.min, affine.levels.max)
                        };
                        of(&(0..WIDTH).map(one).collect::<Vec<i32>>())
                    })
                    .collect();
                let made = of(&levels[span.clone()]);
                let bits = (0..1_u32 << WIDTH).find(|&bits| choices[bits as usize] == made);
                let bits = bits.expect("levels are those beside the weights");
                for (one, other) in (0..WIDTH).flat_map(|one| (0..=one).map(move |other| (one, other))) {
                    let flipped = choices[(bits ^ (1 << one | 1 << other)) as usize];
                    assert!(flipped >= made * 0.98, "{seed}, {channel}: {one}, {other}: {flipped} of {made}");
                }
                found += made;
                best += choices.iter().copied().fold(f64::INFINITY, f64::min);
                nearest += of(&weights.levels[span]);
            }
        }
        assert!(found <= best * 1.1, "{found} beside {best}");
        assert!(found < nearest * 0.75, "{found} beside {nearest}");
    }

    #[test]
    fn any_number_of_threads_gives_the_same_levels() {
        let matrix = Matrix { rows: 70, width: 40, values: noise(1, 70 * 40) };
        let (rows, weights) = (rows(2, 200, 40), weights(&matrix));
        let by = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| adaround(&matrix, &weights, &rows, &input()))
        };
        assert_eq!(by(1), by(3));
        assert_ne!(by(1), weights.levels);
    }

    #[test]
    fn weights_beyond_the_levels_stay_at_their_ends() {
        let matrix = Matrix { rows: 40, width: 30, values: noise(3, 40 * 30) };
        let affine = Affine { scale: 0.2, zero_point: 0, levels: Levels::of_weights(3) };
        let weights = IntegerWeights::by(&matrix, vec![affine]);
        let levels = adaround(&matrix, &weights, &rows(4, 90, 30), &input());
        for ((&weight, &level), &nearest) in matrix.values.iter().zip(&levels).zip(&weights.levels) {
            let lower = (weight / 0.2).floor() as i32;
            assert!([lower.clamp(-3, 3), (lower + 1).clamp(-3, 3)].contains(&level), "{weight}: {nearest} to {level}");
        }
        assert_ne!(levels, weights.levels);
    }

    #[test]
    fn rows_that_do_not_fit_change_nothing() {
        let matrix = Matrix { rows: 3, width: 4, values: noise(1, 12) };
        let weights = weights(&matrix);
        for rows in [Rows::new(4), rows(1, 5, 8), rows(1, 5, 3)] {
            assert_eq!(adaround(&matrix, &weights, &rows, &input()), weights.levels);
        }
    }
}
