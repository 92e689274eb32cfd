//! Rounding that looks at data: AdaRound, and the correction of biases.
//!
//! Invariant: a level is one of the two beside the weight; without data nothing changes.
//!
//! AdaRound (Nagel et al., 2020, <https://arxiv.org/abs/2004.10568>): up or down for each weight, so that the layer's
//! output, not the weight, is met best. `h = clamp(1.2 sigmoid(v) - 0.1, 0, 1)` is added to the lower level, and a
//! regularizer `1 - |2h - 1|^beta` with falling beta drives it to 0 or 1. The output is linear in the weights, so its
//! gradient is one product, and no tape is needed.
//! Bias correction: Nagel et al., 2019 (<https://arxiv.org/abs/1906.04721>), section 4.2, by data.

use super::rows::Rows;
use super::scheme::Affine;
use super::weights::{IntegerWeights, Matrix};
use crate::compress::data::mix;
use ndarray::{Array2, ArrayView2, Axis, s};

/// How long to look.
#[derive(Debug, Clone, Copy)]
pub struct AdaRound {
    pub iterations: usize,
    pub seed: u64,
}

const BATCH: usize = 128;
const RATE: f32 = 0.02;
const REGULARIZER: f32 = 0.01;
/// The share of iterations before the regularizer sets in.
const WARM: f32 = 0.2;

/// A layer's rows in float, and as they come once its input is quantized; for one group of it.
struct Task<'a> {
    weights: ArrayView2<'a, f32>,
    scales: Vec<Affine>,
    real: Array2<f32>,
    quantized: Array2<f32>,
    /// The mean square of an input: with the scale's, what one step of one weight adds to the squared error.
    power: f32,
}

/// Chooses levels for all groups of a layer; `input` quantizes its input.
pub fn adaround(matrix: &Matrix, weights: &IntegerWeights, rows: &Rows, input: &Affine, how: AdaRound) -> Vec<i32> {
    let groups = rows.width.checked_div(matrix.width).unwrap_or(0);
    if rows.count() == 0 || groups == 0 || !matrix.rows.is_multiple_of(groups) {
        return weights.levels.clone();
    }
    let of_group = matrix.rows / groups;
    let mut levels = Vec::with_capacity(weights.levels.len());
    for group in 0..groups {
        let first = group * of_group;
        let part = &matrix.values[first * matrix.width..(first + of_group) * matrix.width];
        let Ok(part) = ArrayView2::from_shape((of_group, matrix.width), part) else { return weights.levels.clone() };
        let real = rows.columns(group * matrix.width, matrix.width);
        let quantized = real.iter().map(|&value| input.fake(value)).collect();
        let shape = (rows.count(), matrix.width);
        let (Ok(real), Ok(quantized)) = (Array2::from_shape_vec(shape, real), Array2::from_shape_vec(shape, quantized))
        else {
            return weights.levels.clone();
        };
        let scales = (first..first + of_group).map(|row| weights.of_row(row)).collect();
        let power = real.iter().map(|value| value * value).sum::<f32>() / real.len().max(1) as f32;
        let task = Task { weights: part, scales, real, quantized, power: power.max(f32::MIN_POSITIVE) };
        let nearest = &weights.levels[first * matrix.width..(first + of_group) * matrix.width];
        levels.extend(task.solve(nearest, how));
    }
    levels
}

impl Task<'_> {
    fn solve(&self, nearest: &[i32], how: AdaRound) -> Vec<i32> {
        let (rows, width) = self.weights.dim();
        let lower = Array2::from_shape_fn((rows, width), |(row, k)| {
            let affine = &self.scales[row];
            (self.weights[[row, k]] / affine.scale).floor() + affine.zero_point as f32
        });
        let fraction = Array2::from_shape_fn((rows, width), |(row, k)| {
            let affine = &self.scales[row];
            self.weights[[row, k]] / affine.scale + affine.zero_point as f32 - lower[[row, k]]
        });
        // The sigmoid's inverse, so that h begins at the fraction.
        let mut v = fraction.mapv(|h| {
            let p = ((h + 0.1) / 1.2).clamp(0.01, 0.99);
            (p / (1.0 - p)).ln()
        });
        let target = self.real.dot(&self.weights.t());
        let mut adam = Adam::new((rows, width));
        let batch = BATCH.min(self.real.nrows());
        for iteration in 0..how.iterations {
            let at = pick(how.seed, iteration, self.real.nrows(), batch);
            let x = self.quantized.slice(s![at..at + batch, ..]);
            let soft = self.soft(&lower, &v);
            let off = x.dot(&soft.t()) - target.slice(s![at..at + batch, ..]);
            let gradient = off.t().dot(&x) * (2.0 / batch as f32);
            let progress = iteration as f32 / how.iterations as f32;
            adam.step(&mut v, |at, v| self.gradient(at, v, gradient[at], progress));
        }
        let made: Vec<i32> = self.hard(&lower, &v);
        // On all rows, as it will be: no worse than the nearest levels, or else these.
        if self.error(&made, &target) < self.error(nearest, &target) { made } else { nearest.to_vec() }
    }

    /// Weights with soft rounding.
    fn soft(&self, lower: &Array2<f32>, v: &Array2<f32>) -> Array2<f32> {
        let mut soft = lower + &v.mapv(rectified);
        for (mut row, affine) in soft.axis_iter_mut(Axis(0)).zip(&self.scales) {
            let (min, max) = (affine.levels.min as f32, affine.levels.max as f32);
            row.mapv_inplace(|level| (level.clamp(min, max) - affine.zero_point as f32) * affine.scale);
        }
        soft
    }

    /// Of the loss in v: by the output, in units of what one step does to it, and by the regularizer.
    fn gradient(&self, (row, _): (usize, usize), v: f32, by_output: f32, progress: f32) -> f32 {
        let sigmoid = 1.0 / (1.0 + (-v).exp());
        let h = 1.2 * sigmoid - 0.1;
        if !(0.0..=1.0).contains(&h) {
            return 0.0;
        }
        let slope = 1.2 * sigmoid * (1.0 - sigmoid);
        let mut gradient = by_output / (self.scales[row].scale * self.power);
        if progress > WARM {
            let beta = 2.0 + 18.0 * (1.0 - (progress - WARM) / (1.0 - WARM));
            let from_middle = 2.0 * h - 1.0;
            gradient += -REGULARIZER * 2.0 * beta * from_middle.abs().powf(beta - 1.0) * from_middle.signum();
        }
        gradient * slope
    }

    fn hard(&self, lower: &Array2<f32>, v: &Array2<f32>) -> Vec<i32> {
        let one = |((row, k), &low): ((usize, usize), &f32)| {
            let levels = self.scales[row].levels;
            let up = f32::from(u8::from(rectified(v[[row, k]]) >= 0.5));
            ((low + up) as i32).clamp(levels.min, levels.max)
        };
        lower.indexed_iter().map(one).collect()
    }

    fn error(&self, levels: &[i32], target: &Array2<f32>) -> f64 {
        let (rows, width) = self.weights.dim();
        let weights =
            Array2::from_shape_fn((rows, width), |(row, k)| self.scales[row].dequantize(levels[row * width + k]));
        let off = self.quantized.dot(&weights.t()) - target;
        off.iter().map(|&off| f64::from(off).powi(2)).sum()
    }
}

fn rectified(v: f32) -> f32 {
    (1.2 / (1.0 + (-v).exp()) - 0.1).clamp(0.0, 1.0)
}

/// Where a batch begins.
fn pick(seed: u64, iteration: usize, rows: usize, batch: usize) -> usize {
    let places = rows - batch + 1;
    usize::try_from(mix(seed ^ mix(iteration as u64)) % places as u64).unwrap_or(0)
}

/// Kingma and Ba, 2015 (<https://arxiv.org/abs/1412.6980>).
struct Adam {
    mean: Array2<f32>,
    square: Array2<f32>,
    steps: i32,
}

impl Adam {
    fn new(shape: (usize, usize)) -> Self {
        Self { mean: Array2::zeros(shape), square: Array2::zeros(shape), steps: 0 }
    }

    fn step(&mut self, v: &mut Array2<f32>, gradient: impl Fn((usize, usize), f32) -> f32) {
        self.steps += 1;
        let (first, second) = (1.0 - 0.9_f32.powi(self.steps), 1.0 - 0.999_f32.powi(self.steps));
        for (at, v) in v.indexed_iter_mut() {
            let g = gradient(at, *v);
            let (mean, square) = (&mut self.mean[at], &mut self.square[at]);
            *mean = 0.9 * *mean + 0.1 * g;
            *square = 0.999 * *square + 0.001 * g * g;
            *v -= RATE * (*mean / first) / ((*square / second).sqrt() + 1e-8);
        }
    }
}

/// What to add to each output channel's bias: the mean of what its integers take away from it on these rows.
pub fn bias_correction(matrix: &Matrix, weights: &IntegerWeights, rows: &Rows, input: &Affine) -> Vec<f32> {
    let groups = rows.width.checked_div(matrix.width).unwrap_or(0).max(1);
    let count = rows.count();
    if count == 0 || !matrix.rows.is_multiple_of(groups) || rows.width != groups * matrix.width {
        return vec![0.0; matrix.rows];
    }
    let mut means = vec![(0.0_f64, 0.0_f64); rows.width];
    for row in rows.values.chunks_exact(rows.width) {
        for ((real, quantized), &value) in means.iter_mut().map(|(a, b)| (a, b)).zip(row) {
            *real += f64::from(value);
            *quantized += f64::from(input.fake(value));
        }
    }
    let values = weights.values(matrix.width);
    let of_group = matrix.rows / groups;
    (0..matrix.rows)
        .map(|row| {
            let means = &means[row / of_group * matrix.width..][..matrix.width];
            let levels = &values[row * matrix.width..][..matrix.width];
            let off =
                matrix.row(row).iter().zip(levels).zip(means).map(|((&weight, &level), (real, quantized))| {
                    f64::from(weight) * real - f64::from(level) * quantized
                });
            (off.sum::<f64>() / count as f64) as f32
        })
        .collect()
}
