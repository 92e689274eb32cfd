//! A convolution as the standard defines it, in 64 bits; and the memory that kernels want it in.

use super::guard::Guarded;
use super::*;

/// Powers of two make ties; others make none. By turns some are so large that results leave 16 bits, or none.
pub fn multipliers(rng: &mut Lcg, n: usize, k: usize) -> Vec<f32> {
    let typical = 1.0 / (k as f32 * 40.0 + 1.0);
    let large = if rng.below(2) == 0 { 0.5 } else { typical / 3.0 };
    (0..n)
        .map(|i| match i % 3 {
            0 => typical.log2().round().exp2(),
            1 => typical * (1.0 + rng.below(1000) as f32 / 500.0),
            _ => large,
        })
        .collect()
}

pub fn requant<'a>(rng: &mut Lcg, multipliers: &'a [f32]) -> Requant<'a> {
    let zero_point = [-128_i8, 127, 0, 5][rng.below(4)];
    let lo = if rng.below(2) == 0 { -128 } else { zero_point };
    let hi = if rng.below(2) == 0 { 127 } else { zero_point.saturating_add(60) };
    Requant { multipliers, zero_point, lo, hi, table: None }
}

pub fn expected(requant: &Requant<'_>, storage: Storage, column: usize, acc: i64) -> u8 {
    let multiplier = requant.multipliers[column % requant.multipliers.len()];
    let acc = i32::try_from(acc).unwrap();
    let value = requantize(acc, multiplier, requant.zero_point, requant.lo, requant.hi);
    storage.byte(value)
}

/// A convolution with everything that its result depends on.
pub struct Convolution {
    pub geometry: Geometry,
    pub channels: usize,
    pub n: usize,
    pub zero: i8,
    pub input: Vec<i8>,
    pub weights: Vec<i8>,
    pub weight_zeros: Vec<i8>,
}

impl Convolution {
    pub fn new(rng: &mut Lcg, geometry: Geometry, channels: usize, n: usize) -> Self {
        let [height, width] = geometry.input;
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let zero = [-128, 127, -1][rng.below(3)];
        let (input, weights) = (rng.values(height * width * channels), rng.values(n * taps * channels));
        Self { geometry, channels, n, zero, input, weights, weight_zeros: vec![] }
    }

    /// The input as kernels want it, behind each pixel whatever its stride leaves; and the row of padding.
    pub fn memory(&self, storage: Storage, reach: usize) -> (Guarded, Guarded) {
        let Geometry { input: [height, width], pixel_stride, row_stride, .. } = self.geometry;
        let mut bytes = vec![0x5A; (height - 1) * row_stride + (width - 1) * pixel_stride + reach];
        for (pixel, values) in self.input.chunks(self.channels).enumerate() {
            let at = pixel / width * row_stride + pixel % width * pixel_stride;
            bytes[at..][..self.channels].copy_from_slice(&stored(storage, values));
        }
        let mut padding = vec![0x33; reach];
        padding[..self.channels].fill(storage.byte(self.zero));
        (Guarded::new(&bytes), Guarded::new(&padding))
    }

    /// Σ(a − za)(w − zw) at an output pixel, weights in OIHW.
    pub fn sum(&self, y: usize, x: usize, n: usize) -> i64 {
        let taps = self.geometry.kernel[0] * self.geometry.kernel[1];
        self.window(y, x, n, 0..self.channels, |c, tap| (n * self.channels + c) * taps + tap)
    }

    /// The same, of one channel alone.
    pub fn depthwise_sum(&self, y: usize, x: usize, n: usize) -> i64 {
        let taps = self.geometry.kernel[0] * self.geometry.kernel[1];
        self.window(y, x, n, n..n + 1, |_, tap| n * taps + tap)
    }

    fn window(
        &self,
        y: usize,
        x: usize,
        n: usize,
        channels: std::ops::Range<usize>,
        index: impl Fn(usize, usize) -> usize,
    ) -> i64 {
        let g = self.geometry;
        let zero = self.weight_zeros.get(n).copied().unwrap_or(0);
        let mut sum = 0;
        for tap in 0..g.kernel[0] * g.kernel[1] {
            let row = (y * g.stride[0] + tap / g.kernel[1] * g.dilation[0]).wrapping_sub(g.pads[0]);
            let col = (x * g.stride[1] + tap % g.kernel[1] * g.dilation[1]).wrapping_sub(g.pads[1]);
            if row >= g.input[0] || col >= g.input[1] {
                continue;
            }
            for c in channels.clone() {
                let value = i64::from(self.input[(row * g.input[1] + col) * self.channels + c]) - i64::from(self.zero);
                sum += value * (i64::from(self.weights[index(c, tap)]) - i64::from(zero));
            }
        }
        sum
    }
}
