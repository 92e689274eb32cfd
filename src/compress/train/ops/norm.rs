//! Normalisations: over a batch, over the last dimensions, and softmax.

use super::{Kernel, View};
use rayon::prelude::*;

/// Mean and variance of each channel over a batch.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    pub mean: Vec<f32>,
    /// Divided by the number of values, as the norm itself does.
    pub variance: Vec<f32>,
    /// Values of a channel.
    pub count: usize,
}

impl Moments {
    /// Of `[N, C, ...]`.
    pub fn of(values: &[f32], shape: &[usize]) -> Self {
        let channels = shape.get(1).copied().unwrap_or(1);
        let plane: usize = shape.iter().skip(2).product();
        let count = values.len() / channels.max(1);
        let of_channel = |channel: usize| {
            let planes = || values.chunks(plane).skip(channel).step_by(channels);
            let sum: f64 = planes().flatten().map(|&x| f64::from(x)).sum();
            let mean = sum / count.max(1) as f64;
            let squares: f64 = planes().flatten().map(|&x| (f64::from(x) - mean).powi(2)).sum();
            (mean as f32, (squares / count.max(1) as f64) as f32)
        };
        let (mean, variance) = (0..channels).into_par_iter().map(of_channel).unzip();
        Self { mean, variance, count }
    }
}

/// BatchNormalization of x by scale and shift, with moments that are either the batch's own or given.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    pub moments: Moments,
    /// The moments are the batch's: the gradient goes through them too.
    pub training: bool,
    pub epsilon: f32,
}

impl BatchNorm {
    fn inverse(&self, channel: usize) -> f32 {
        1.0 / (self.moments.variance[channel] + self.epsilon).sqrt()
    }
}

impl Kernel for BatchNorm {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let (x, scale, shift) = (inputs[0], inputs[1].values, inputs[2].values);
        let plane: usize = x.shape.iter().skip(2).product();
        let mut y = vec![0.0; x.values.len()];
        y.par_chunks_mut(plane).zip(x.values.par_chunks(plane)).enumerate().for_each(|(at, (y, x))| {
            let channel = at % scale.len();
            let factor = scale[channel] * self.inverse(channel);
            let add = shift[channel] - self.moments.mean[channel] * factor;
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor + add);
        });
        (y, x.shape.to_vec())
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, wanted: &[bool]) -> Vec<Option<Vec<f32>>> {
        let (x, scale) = (inputs[0], inputs[1].values);
        let channels = scale.len();
        let plane: usize = x.shape.iter().skip(2).product();
        // Per channel: the sum of the gradient, and of the gradient times the normalised value.
        let sums = |channel: usize| {
            let (mean, inverse) = (self.moments.mean[channel], self.inverse(channel));
            let planes = x.values.chunks(plane).zip(grad.values.chunks(plane)).skip(channel).step_by(channels);
            planes.fold((0.0_f64, 0.0_f64), |(sum, product), (x, dy)| {
                let each = x.iter().zip(dy).map(|(x, dy)| (x - mean) * inverse * dy).sum::<f32>();
                (sum + f64::from(dy.iter().sum::<f32>()), product + f64::from(each))
            })
        };
        let (shift, factor): (Vec<f64>, Vec<f64>) = (0..channels).into_par_iter().map(sums).unzip();
        let by_x = || {
            let mut dx = vec![0.0; x.values.len()];
            let count = self.moments.count.max(1) as f64;
            let planes = dx.par_chunks_mut(plane).zip(x.values.par_chunks(plane)).zip(grad.values.par_chunks(plane));
            planes.enumerate().for_each(|(at, ((dx, x), dy))| {
                let channel = at % channels;
                let (mean, inverse) = (self.moments.mean[channel], self.inverse(channel));
                let outer = scale[channel] * inverse;
                let (average, slope) = match self.training {
                    true => ((shift[channel] / count) as f32, (factor[channel] / count) as f32 * inverse),
                    false => (0.0, 0.0),
                };
                dx.iter_mut().zip(x).zip(dy).for_each(|((dx, x), dy)| {
                    *dx = outer * (dy - average - (x - mean) * slope);
                });
            });
            dx
        };
        let floats = |sums: &[f64]| sums.iter().map(|&sum| sum as f32).collect();
        vec![wanted[0].then(by_x), wanted[1].then(|| floats(&factor)), wanted[2].then(|| floats(&shift))]
    }
}

/// LayerNormalization over the last dimensions of x, by scale and shift of that many elements.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    pub width: usize,
    pub epsilon: f32,
}

impl LayerNorm {
    /// Mean and inverse deviation.
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let width = self.width as f64;
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width;
        (mean as f32, (1.0 / (variance + f64::from(self.epsilon)).sqrt()) as f32)
    }
}

impl Kernel for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let (x, scale, shift) = (inputs[0], inputs[1].values, inputs[2].values);
        let mut y = vec![0.0; x.values.len()];
        y.par_chunks_mut(self.width).zip(x.values.par_chunks(self.width)).for_each(|(y, x)| {
            let (mean, inverse) = self.moments(x);
            for (at, (y, x)) in y.iter_mut().zip(x).enumerate() {
                *y = (x - mean) * inverse * scale[at] + shift[at];
            }
        });
        (y, x.shape.to_vec())
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let (x, scale, width) = (inputs[0], inputs[1].values, self.width as f32);
        let (mut by_x, mut by_scale, mut by_shift) =
            (vec![0.0; x.values.len()], vec![0.0_f64; self.width], vec![0.0_f64; self.width]);
        let rows = by_x.chunks_mut(self.width).zip(x.values.chunks(self.width)).zip(grad.values.chunks(self.width));
        for ((dx, x), dy) in rows {
            let (mean, inverse) = self.moments(x);
            let (mut sum, mut product) = (0.0, 0.0);
            for at in 0..self.width {
                let normal = (x[at] - mean) * inverse;
                by_scale[at] += f64::from(dy[at] * normal);
                by_shift[at] += f64::from(dy[at]);
                sum += dy[at] * scale[at];
                product += dy[at] * scale[at] * normal;
            }
            for at in 0..self.width {
                let normal = (x[at] - mean) * inverse;
                dx[at] = inverse * (dy[at] * scale[at] - sum / width - normal * product / width);
            }
        }
        let floats = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
        vec![Some(by_x), Some(floats(by_scale)), Some(floats(by_shift))]
    }
}

/// Softmax over the last dimension.
#[derive(Debug, Clone, Copy)]
pub struct Softmax {
    pub width: usize,
    /// Its logarithm instead.
    pub log: bool,
}

impl Kernel for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let x = inputs[0];
        let mut y = vec![0.0; x.values.len()];
        for (y, x) in y.chunks_mut(self.width).zip(x.values.chunks(self.width)) {
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = x.iter().map(|x| (x - most).exp()).sum();
            match self.log {
                true => y.iter_mut().zip(x).for_each(|(y, x)| *y = x - most - sum.ln()),
                false => y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - most).exp() / sum),
            }
        }
        (y, x.shape.to_vec())
    }

    fn backward(&self, _: &[View<'_>], output: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let mut dx = vec![0.0; grad.values.len()];
        let rows = dx.chunks_mut(self.width).zip(output.values.chunks(self.width)).zip(grad.values.chunks(self.width));
        for ((dx, y), dy) in rows {
            match self.log {
                true => {
                    let sum: f32 = dy.iter().sum();
                    dx.iter_mut().zip(y).zip(dy).for_each(|((dx, y), dy)| *dx = dy - y.exp() * sum);
                }
                false => {
                    let sum: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
                    dx.iter_mut().zip(y).zip(dy).for_each(|((dx, y), dy)| *dx = y * (dy - sum));
                }
            }
        }
        vec![Some(dx)]
    }
}
