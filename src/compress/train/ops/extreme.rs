//! The largest or least of each row.
//!
//! Of several that are alike the gradient is shared out, or the first's, as torch has them: `amax` and `amin` share, pools
//! take one. candle's own gives each of them all of it.

use super::{Kernel, View};

/// Who has the gradient where several are the extreme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ties {
    /// Each the same part.
    Share,
    First,
}

/// `[rows, width]` to `[rows]`; widths are over 0.
#[derive(Debug, Clone, Copy)]
pub struct Extreme {
    pub least: bool,
    pub ties: Ties,
}

impl Extreme {
    fn of(self, row: &[f32]) -> f32 {
        let pick = |best: f32, &value: &f32| {
            // What is no number stays one, so that the loss tells of it.
            let is_beyond = if self.least { value < best } else { value > best };
            if is_beyond || value.is_nan() { value } else { best }
        };
        row.iter().skip(1).fold(row[0], pick)
    }
}

impl Kernel for Extreme {
    fn name(&self) -> &'static str {
        "extreme"
    }

    fn forward(&self, inputs: &[View<'_>]) -> (Vec<f32>, Vec<usize>) {
        let width = inputs[0].shape[1];
        let found: Vec<f32> = inputs[0].values.chunks(width).map(|row| self.of(row)).collect();
        let rows = found.len();
        (found, vec![rows])
    }

    fn backward(&self, inputs: &[View<'_>], output: View<'_>, grad: View<'_>, _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let width = inputs[0].shape[1];
        let mut all = vec![0.0; inputs[0].values.len()];
        let rows = all.chunks_mut(width).zip(inputs[0].values.chunks(width));
        for ((own, row), (extreme, grad)) in rows.zip(output.values.iter().zip(grad.values)) {
            let alike = || (0..width).filter(|&at| row[at] == *extreme);
            match self.ties {
                Ties::First => alike().take(1).for_each(|at| own[at] = *grad),
                Ties::Share => {
                    let share = grad / alike().count().max(1) as f32;
                    alike().for_each(|at| own[at] = share);
                }
            }
        }
        vec![Some(all)]
    }
}
