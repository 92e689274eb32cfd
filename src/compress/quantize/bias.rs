//! The correction of biases by data.
//!
//! Invariant: without data nothing changes.
//!
//! Nagel et al., 2019 (<https://arxiv.org/abs/1906.04721>), section 4.2.

use super::rows::Rows;
use super::scheme::Affine;
use super::weights::{IntegerWeights, Matrix};

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
