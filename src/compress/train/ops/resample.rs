//! Resize as a sparse product along one axis: each output is a weighted sum of inputs.

use super::{Kernel, View};

/// Along one axis of a tensor: for each output the inputs and their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Resample {
    pub axis: usize,
    pub taps: Vec<Vec<(usize, f32)>>,
}

impl Resample {
    /// Inputs of each index behind the axis, how many there are before it, and the axis' size.
    fn strides(&self, shape: &[usize]) -> (usize, usize, usize) {
        let inner = shape[self.axis + 1..].iter().product();
        (shape[..self.axis].iter().product(), shape[self.axis], inner)
    }
}

impl Kernel for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let x = inputs[0];
        let (outer, size, inner) = self.strides(x.shape);
        let mut y = vec![0.0; outer * self.taps.len() * inner];
        for block in 0..outer {
            for (out, taps) in self.taps.iter().enumerate() {
                let y = &mut y[(block * self.taps.len() + out) * inner..][..inner];
                for &(at, weight) in taps {
                    let x = &x.values[(block * size + at) * inner..][..inner];
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
                }
            }
        }
        let mut shape = x.shape.to_vec();
        shape[self.axis] = self.taps.len();
        (y, shape)
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let x = inputs[0];
        let (outer, size, inner) = self.strides(x.shape);
        let mut dx = vec![0.0; x.values.len()];
        for block in 0..outer {
            for (out, taps) in self.taps.iter().enumerate() {
                let dy = &grad.values[(block * self.taps.len() + out) * inner..][..inner];
                for &(at, weight) in taps {
                    let dx = &mut dx[(block * size + at) * inner..][..inner];
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += weight * dy);
                }
            }
        }
        vec![Some(dx)]
    }
}
