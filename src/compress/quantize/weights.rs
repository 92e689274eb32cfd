//! Weights as integers: a scale for a tensor or for each output channel, and the levels.
//!
//! Invariant: a bias in units of `input scale x weight scale` fits INT32 with room for the products beside it.
//! Not here: rounding that looks at data (`rounding`).

use super::scheme::{Affine, Levels, Range};
use crate::onnx::{ElementType, Tensor};
use serde::{Deserialize, Serialize};

/// How weights are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WeightScheme {
    /// 8, or 4, 3, 2: fewer are stored a byte each and compress on the wire.
    pub bits: u32,
    /// A scale for each output channel.
    pub per_channel: bool,
    /// No zero point.
    pub symmetric: bool,
    /// Ranges by the least squared error, instead of by the extremes.
    pub least_squares: bool,
    /// Of 4 bits and fewer two in a byte, as INT4; else a byte each.
    pub packed: bool,
}

impl Default for WeightScheme {
    fn default() -> Self {
        Self { bits: 8, per_channel: true, symmetric: true, least_squares: false, packed: false }
    }
}

impl WeightScheme {
    fn levels(&self) -> Levels {
        let mut levels = Levels::of_weights(self.bits);
        if self.packed && self.bits <= 4 {
            levels.element = ElementType::I4;
        }
        // With a zero point the lowest level is of use.
        if self.symmetric { levels } else { Levels { min: levels.min - 1, ..levels } }
    }
}

/// Weights with a row for each output channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    /// Weights of one output channel.
    pub width: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    /// Of a layer's weights, whose output channels are counted by that dimension; FLOAT alone.
    pub fn of(tensor: &Tensor, axis: usize) -> Option<Self> {
        let (shape, values) = (tensor.shape(), tensor.to_f32s()?);
        let rows = *shape.get(axis)?;
        let width = values.len().checked_div(rows)?;
        let values = if axis == 0 { values } else { transposed(&values, width) };
        Some(Self { rows, width, values })
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}

/// `[k, n]` to `[n, k]`, or back.
pub fn transposed<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let columns = values.len().checked_div(rows).unwrap_or(0);
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Weights in integers, rows as the matrix has them.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerWeights {
    /// One, or one for each row.
    pub affine: Vec<Affine>,
    pub levels: Vec<i32>,
}

impl IntegerWeights {
    /// Each weight to its nearest level. `smallest` is what a row's scale must be at least, for its bias.
    pub fn nearest(matrix: &Matrix, scheme: &WeightScheme, smallest: &[f32]) -> Self {
        Self::by(matrix, scales(matrix, scheme, smallest))
    }

    /// By scales that are known: one, or one for each row.
    pub fn by(matrix: &Matrix, affine: Vec<Affine>) -> Self {
        let of = |row: usize| affine[row.min(affine.len() - 1)];
        let levels = (0..matrix.rows).flat_map(|row| matrix.row(row).iter().map(move |&value| of(row).quantize(value)));
        let levels = levels.collect();
        Self { levels, affine }
    }

    /// The same with other scales, but where a bias needs larger ones.
    pub fn rescaled(&self, matrix: &Matrix, scales: &[f32], smallest: &[f32]) -> Self {
        let least = |at: usize| match scales.len() {
            1 => smallest.iter().copied().fold(0.0, f32::max),
            _ => smallest.get(at).copied().unwrap_or(0.0),
        };
        let scaled =
            |(at, (affine, &scale)): (usize, (&Affine, &f32))| Affine { scale: scale.max(least(at)), ..*affine };
        Self::by(matrix, self.affine.iter().zip(scales).enumerate().map(scaled).collect())
    }

    pub fn of_row(&self, row: usize) -> Affine {
        self.affine[row.min(self.affine.len() - 1)]
    }

    /// What they stand for.
    pub fn values(&self, width: usize) -> Vec<f32> {
        let value = |(at, &level): (usize, &i32)| self.of_row(at / width.max(1)).dequantize(level);
        self.levels.iter().enumerate().map(value).collect()
    }
}

/// One, or one for each row.
pub fn scales(matrix: &Matrix, scheme: &WeightScheme, smallest: &[f32]) -> Vec<Affine> {
    let one = |values: &[f32], least: f32| {
        let mut made = best(values, scheme);
        if values.iter().all(|&value| value == 0.0) && least > 0.0 {
            // Any scale would do for the weights; with this one the bias has 24 bits.
            made.scale = least * 64.0;
        }
        if made.scale < least {
            // Then symmetric: a zero point was for the other scale.
            made = Affine { scale: least, zero_point: 0, ..made };
        }
        made
    };
    let least = |row: usize| smallest.get(row).copied().unwrap_or(0.0);
    match scheme.per_channel {
        true => (0..matrix.rows).map(|row| one(matrix.row(row), least(row))).collect(),
        false => vec![one(&matrix.values, (0..matrix.rows).map(least).fold(0.0, f32::max))],
    }
}

fn best(values: &[f32], scheme: &WeightScheme) -> Affine {
    let made = |range: Range| match scheme.symmetric {
        true => Affine::symmetric(range, scheme.levels()),
        false => Affine::of_range(range, scheme.levels()),
    };
    let full = Range::of(values).with_zero();
    if !scheme.least_squares {
        return made(full);
    }
    let error =
        |affine: &Affine| -> f64 { values.iter().map(|&value| f64::from(affine.fake(value) - value).powi(2)).sum() };
    let cut = |step: u16| {
        let share = 1.0 - f32::from(step) / 64.0;
        made(Range { lo: full.lo * share, hi: full.hi * share })
    };
    let all = (0..48).map(cut).map(|affine| (error(&affine), affine));
    all.min_by(|a, b| a.0.total_cmp(&b.0)).map_or_else(|| made(full), |(_, affine)| affine)
}

/// The least scale of weights with which a bias fits: 30 bits for it, the rest for the products.
pub fn smallest_scale(bias: f32, input_scale: f32) -> f32 {
    bias.abs() / (input_scale * (1_u32 << 30) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let row = |size: f32| (0..16_u8).map(move |i| (f32::from(i) - 7.5) / 7.5 * size);
        Matrix { rows: 2, width: 16, values: row(1.0).chain(row(0.01)).collect() }
    }

    fn off(weights: &IntegerWeights, row: usize) -> f32 {
        let matrix = matrix();
        let values = weights.values(16);
        (0..16)
            .map(|i| (values[row * 16 + i] - matrix.row(row)[i]).abs() / matrix.row(row)[0].abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn a_scale_a_channel_keeps_small_channels() {
        let per_channel = IntegerWeights::nearest(&matrix(), &WeightScheme::default(), &[]);
        let per_tensor = WeightScheme { per_channel: false, ..WeightScheme::default() };
        let per_tensor = IntegerWeights::nearest(&matrix(), &per_tensor, &[]);
        assert!(off(&per_channel, 1) < 0.005 && off(&per_tensor, 1) > 0.2);
        assert_eq!((per_channel.affine.len(), per_tensor.affine.len()), (2, 1));
    }

    #[test]
    fn fewer_bits_are_further_off() {
        let worst =
            |bits| off(&IntegerWeights::nearest(&matrix(), &WeightScheme { bits, ..WeightScheme::default() }, &[]), 0);
        let worst: Vec<f32> = [8, 4, 3, 2].map(worst).to_vec();
        assert!(worst.is_sorted(), "{worst:?}");
    }

    #[test]
    fn the_least_squares_cut_an_outlier() {
        let mut matrix = matrix();
        matrix.values[0] = 8.0;
        let error = |least_squares| {
            let scheme = WeightScheme { bits: 4, least_squares, ..WeightScheme::default() };
            let made = IntegerWeights::nearest(&matrix, &scheme, &[]);
            matrix.row(0).iter().zip(made.values(16)).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        };
        assert!(error(true) < error(false));
    }

    #[test]
    fn a_large_bias_widens_the_scale() {
        let made = IntegerWeights::nearest(&matrix(), &WeightScheme::default(), &[0.0, smallest_scale(1e6, 1e-3)]);
        assert!(1e6 / (1e-3 * made.of_row(1).scale) <= 1.1e9);
        assert!(made.of_row(0).scale < 0.01);
    }

    #[test]
    fn a_transposed_matrix_is_the_same_again_transposed() {
        let values: Vec<u8> = (0..6).collect();
        assert_eq!(transposed(&values, 2), [0, 3, 1, 4, 2, 5]);
        assert_eq!(transposed(&transposed(&values, 2), 3), values);
    }
}
