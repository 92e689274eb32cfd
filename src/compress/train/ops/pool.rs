//! MaxPool and AveragePool over windows of any size, stride, padding and dilation.

use super::conv::{Window, dims4};
use super::{Kernel, View};
use rayon::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Max,
    /// What lies in the padding counts as zeros where `padded`, else not at all.
    Average {
        padded: bool,
    },
}

/// A pool of one window over planes. `window.size` is of the image that comes in.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    pub kind: Kind,
    pub window: Window,
    /// After the last row and column: where padding counts, it ends there.
    pub after: [usize; 2],
}

impl Pool {
    /// Visits each output with the offsets of what it covers.
    fn windows(&self, mut visit: impl FnMut(usize, &[usize])) {
        let window = &self.window;
        let mut covered = Vec::with_capacity(window.kernel[0] * window.kernel[1]);
        let inside = |axis: usize, out: usize, k: usize| {
            let at = (out * window.stride[axis] + k * window.dilation[axis]).checked_sub(window.pads[axis])?;
            (at < window.size[axis]).then_some(at)
        };
        for row in 0..window.out[0] {
            for column in 0..window.out[1] {
                covered.clear();
                for h in (0..window.kernel[0]).filter_map(|k| inside(0, row, k)) {
                    let line = (0..window.kernel[1]).filter_map(|k| inside(1, column, k));
                    covered.extend(line.map(|w| h * window.size[1] + w));
                }
                visit(row * window.out[1] + column, &covered);
            }
        }
    }

    /// What the sum of an output's window is divided by.
    fn divisor(&self, out: usize, covered: usize) -> f32 {
        let Kind::Average { padded: true } = self.kind else { return covered.max(1) as f32 };
        let window = &self.window;
        let position = [out / window.out[1], out % window.out[1]];
        // A window that hangs over the padding's end, as rounding sizes up allows, counts only up to it.
        let within = |axis: usize| {
            let end = window.size[axis] + window.pads[axis] + self.after[axis];
            let taps =
                (0..window.kernel[axis]).map(|k| position[axis] * window.stride[axis] + k * window.dilation[axis]);
            taps.filter(|at| *at < end).count()
        };
        (within(0) * within(1)).max(1) as f32
    }
}

fn largest(plane: &[f32], covered: &[usize]) -> Option<usize> {
    // The first of equals, as most frameworks have it.
    covered.iter().copied().reduce(|best, at| if plane[at] > plane[best] { at } else { best })
}

impl Kernel for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let x = inputs[0];
        let [n, c, ..] = dims4(x.shape);
        let (pixels, outs) = (self.window.pixels(), self.window.outs());
        let mut y = vec![0.0; n * c * outs];
        y.par_chunks_mut(outs).zip(x.values.par_chunks(pixels)).for_each(|(y, plane)| {
            self.windows(|out, covered| {
                y[out] = match self.kind {
                    Kind::Max => largest(plane, covered).map_or(0.0, |at| plane[at]),
                    Kind::Average { .. } => {
                        covered.iter().map(|&at| plane[at]).sum::<f32>() / self.divisor(out, covered.len())
                    }
                };
            });
        });
        let shape = match x.shape.len() {
            3 => vec![n, c, self.window.out[1]],
            _ => vec![n, c, self.window.out[0], self.window.out[1]],
        };
        (y, shape)
    }

    fn backward(&self, inputs: &[View<'_>], _: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let x = inputs[0];
        let (pixels, outs) = (self.window.pixels(), self.window.outs());
        let mut dx = vec![0.0; x.values.len()];
        let planes = dx.par_chunks_mut(pixels).zip(x.values.par_chunks(pixels)).zip(grad.values.par_chunks(outs));
        planes.for_each(|((dx, plane), dy)| {
            self.windows(|out, covered| match self.kind {
                Kind::Max => {
                    if let Some(at) = largest(plane, covered) {
                        dx[at] += dy[out];
                    }
                }
                Kind::Average { .. } => {
                    let share = dy[out] / self.divisor(out, covered.len());
                    covered.iter().for_each(|&at| dx[at] += share);
                }
            });
        });
        vec![Some(dx)]
    }
}
