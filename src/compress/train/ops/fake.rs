//! Rounding to levels in the forward direction, straight through backwards, so that weights learn to be rounded.
//!
//! Straight-through estimator: Bengio et al. 2013, arXiv:1308.3432. Learned scales: Esser et al. 2020 (LSQ), arXiv:1902.08153.

use super::{Kernel, View};

/// Real values to the nearest representable: `scale * (clamp(round(x / scale) + zero, low, high) - zero)`.
///
/// Inputs: x, and scales: one, or one for each index of `axis`. Backwards x's gradient passes where x is within the range,
/// and the scale gets LSQ's.
#[derive(Debug, Clone, PartialEq)]
pub struct Fake {
    /// One for each scale.
    pub zeros: Vec<f32>,
    pub low: f32,
    pub high: f32,
    /// The dimension of x that scales count; anything where there is one scale.
    pub axis: usize,
}

impl Fake {
    /// Consecutive values that share a scale.
    fn run(&self, shape: &[usize]) -> usize {
        if self.zeros.len() == 1 {
            shape.iter().product::<usize>().max(1)
        } else {
            shape[self.axis + 1..].iter().product()
        }
    }
}

impl Kernel for Fake {
    fn name(&self) -> &'static str {
        "fake quantization"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let (x, scales) = (inputs[0], inputs[1].values);
        let mut y = vec![0.0; x.values.len()];
        let run = self.run(x.shape);
        for (at, (y, x)) in y.chunks_mut(run).zip(x.values.chunks(run)).enumerate() {
            let (scale, zero) = (scales[at % scales.len()], self.zeros[at % scales.len()]);
            for (y, x) in y.iter_mut().zip(x) {
                let level = ((x / scale).round_ties_even() + zero).max(self.low).min(self.high);
                *y = (level - zero) * scale;
            }
        }
        (y, x.shape.to_vec())
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, wanted: &[bool]) -> Vec<Option<Vec<f32>>> {
        let (x, scales) = (inputs[0], inputs[1].values);
        let run = self.run(x.shape);
        let mut by_x = vec![0.0; x.values.len()];
        let mut by_scale = vec![0.0_f64; scales.len()];
        let values = by_x.chunks_mut(run).zip(x.values.chunks(run)).zip(grad.values.chunks(run));
        for (at, ((dx, x), dy)) in values.enumerate() {
            let (scale, zero) = (scales[at % scales.len()], self.zeros[at % scales.len()]);
            let mut sum = 0.0_f64;
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                let level = x / scale + zero;
                let slope = match level {
                    level if level < self.low => self.low - zero,
                    level if level > self.high => self.high - zero,
                    level => {
                        *dx = *dy;
                        (x / scale).round_ties_even() - (level - zero)
                    }
                };
                sum += f64::from(slope * dy);
            }
            by_scale[at % scales.len()] += sum;
        }
        // LSQ's factor keeps a scale's steps in proportion to its weights' (its section 2.2).
        let each = x.values.len() as f64 / scales.len() as f64;
        let factor = 1.0 / (each * f64::from(self.high).max(1.0)).sqrt();
        let scale = || by_scale.iter().map(|sum| (sum * factor) as f32).collect();
        vec![Some(by_x), wanted[1].then(scale)]
    }
}
