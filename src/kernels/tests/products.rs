//! Products and convolutions of every small shape, against sums in 64 bits.

use super::convolution::{Convolution, expected, multipliers, requant};
use super::guard::Guarded;
use super::*;

pub fn suite(on: Subject) {
    small_shapes(on);
    convolutions(on);
    large_sums(on);
    minimum_pairs(on);
    weight_zero_points(on);
    dynamic(on);
    activations(on);
    tiles_and_tables(on);
}

const OPEN: Requant<'_> = Requant { multipliers: &[0.01], zero_point: 0, lo: -128, hi: 127, table: None };

/// Every M up to 9, N up to 33, K up to 70, with input that ends where the kernel's reach does.
fn small_shapes(on: Subject) {
    const M: usize = 9;
    const N: usize = 33;
    const K: usize = 70;
    let mut rng = Lcg(1);
    let (a, w) = (rng.values(M * K), rng.values(N * K));
    let bias: Vec<i32> = (0..N).map(|_| rng.next() as i32 % 5000).collect();
    let zeros = [-128_i8, 127, 0, 3];
    for k in 1..=K {
        let zero = zeros[k % 4];
        let sums: Vec<i64> = (0..M * N).map(|i| dot(&a[i / N * K..][..k], &w[i % N * K..][..k], zero)).collect();
        let multipliers = multipliers(&mut rng, N, k);
        for n in 1..=N {
            let weights: Vec<i8> = (0..n).flat_map(|n| w[n * K..][..k].to_vec()).collect();
            let requant = Requant { multipliers: &multipliers[..n], ..requant(&mut rng, &[]) };
            let spec = GemmSpec {
                weights: WeightView::ohwi(&weights, n, 1, k).unwrap(),
                weight_zero_points: &[],
                bias: &bias[..n],
                input_zero_point: zero,
                requant,
            };
            let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
            for m in 1..=M {
                let stride = k + (n + m) % 3;
                let mut input = vec![0xA5; (m - 1) * stride + gemm.row_reach()];
                for row in 0..m {
                    input[row * stride..][..k].copy_from_slice(&stored(on.storage, &a[row * K..][..k]));
                }
                let mut output = vec![0xEE; m * (n + 1)];
                let source = Source { data: &input, rows: Rows::Direct { stride } };
                gemm.run(&source, &mut TileMut::new(&mut output, m, n + 1, n));
                for (i, &byte) in output.iter().enumerate() {
                    let (row, column) = (i / (n + 1), i % (n + 1));
                    let wanted = if column == n {
                        0xEE
                    } else {
                        let acc = sums[row * N + column] + i64::from(bias[column]);
                        expected(&requant, on.storage, column, acc)
                    };
                    assert_eq!(byte, wanted, "{on} M{m} N{n} K{k}: row {row}, column {column}");
                }
            }
        }
    }
}

fn dot(a: &[i8], w: &[i8], zero: i8) -> i64 {
    a.iter().zip(w).map(|(&a, &w)| (i64::from(a) - i64::from(zero)) * i64::from(w)).sum()
}

impl Convolution {
    fn check(&self, on: Subject, requant: &Requant<'_>) {
        let taps = self.geometry.kernel[0] * self.geometry.kernel[1];
        let spec = GemmSpec {
            weights: WeightView::oihw(&self.weights, self.n, self.channels, taps).unwrap(),
            weight_zero_points: &self.weight_zeros,
            bias: &[],
            input_zero_point: self.zero,
            requant: *requant,
        };
        let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
        let map = Indirection::new(&self.geometry).unwrap();
        let (input, padding) = self.memory(on.storage, gemm.row_reach());
        let mut output = Guarded::new(&vec![0; map.pixels() * self.n]);
        let source = Source { data: input.bytes(), rows: Rows::Indirect { map: &map, padding: padding.bytes() } };
        gemm.run(&source, &mut TileMut::new(output.bytes_mut(), map.pixels(), self.n, self.n));
        for (i, &byte) in output.bytes().iter().enumerate() {
            let (pixel, n) = (i / self.n, i % self.n);
            let acc = self.sum(pixel / map.output()[1], pixel % map.output()[1], n);
            let wanted = expected(requant, on.storage, n, acc);
            assert_eq!(byte, wanted, "{on} {:?} C{} pixel {pixel}, {n}", self.geometry, self.channels);
        }
    }
}

/// Kernels of 1 to 5, strides of 1 to 3, dilations, pads on each side, channels from the first layer's 4 upwards.
fn convolutions(on: Subject) {
    let mut rng = Lcg(2);
    for case in 0..160 {
        let kernel = [1 + rng.below(5), 1 + rng.below(3)];
        let channels = [3, 4, 12, 16, 17, 24, 33][case % 7];
        let pixel_stride = channels + rng.below(2) * 5;
        let input = [5 + rng.below(5), 6 + rng.below(4)];
        let geometry = Geometry {
            input,
            kernel,
            stride: [1 + rng.below(3), 1 + rng.below(2)],
            dilation: [1, 1 + rng.below(2)],
            pads: [rng.below(3), rng.below(3), rng.below(2), rng.below(3)],
            pixel_stride,
            row_stride: input[1] * pixel_stride + rng.below(2) * 7,
        };
        let n = 1 + rng.below(40);
        let convolution = Convolution::new(&mut rng, geometry, channels, n);
        let multipliers = multipliers(&mut rng, n, channels * kernel[0] * kernel[1]);
        let requant = requant(&mut rng, &multipliers);
        convolution.check(on, &requant);
    }
}

/// Beyond 2^24, where f32 no longer holds every integer, and, multiplied, beyond what 32 bits do.
fn large_sums(on: Subject) {
    let k = 2000;
    let patterns: [(i8, i8); 4] = [(-128, -128), (-128, 127), (127, 127), (127, -127)];
    for (value, weight) in patterns {
        let (m, n) = (5, 20);
        let weights: Vec<i8> = (0..n * k).map(|i| if i % 97 == 0 { 3 } else { weight }).collect();
        let input: Vec<i8> = (0..m * k).map(|i| if i % 89 == 0 { 1 } else { value }).collect();
        for multiplier in [1.0_f32 / 16_777_216.0, 4.0e-6, 1.0, 1e6, 1e38] {
            let zero_point = if multiplier >= 1.0 { [-128, 127][usize::from(value == weight)] } else { 0 };
            let requant = Requant { multipliers: &[multiplier], zero_point, ..OPEN };
            let zero = if value == 127 { -128 } else { 127 };
            let spec = GemmSpec {
                weights: WeightView::ohwi(&weights, n, 1, k).unwrap(),
                weight_zero_points: &[],
                bias: &[1 << 20],
                input_zero_point: zero,
                requant,
            };
            let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
            let mut data = stored(on.storage, &input);
            data.extend([7; SLACK]);
            let mut output = vec![0; m * n];
            gemm.run(
                &Source { data: &data, rows: Rows::Direct { stride: k } },
                &mut TileMut::new(&mut output, m, n, n),
            );
            for (i, &byte) in output.iter().enumerate() {
                let acc = (1 << 20) + dot(&input[i / n * k..][..k], &weights[i % n * k..][..k], zero);
                assert!(acc.abs() > 1 << 24, "{acc} is not large");
                assert_eq!(byte, expected(&requant, on.storage, 0, acc), "{on} {value}x{weight} {multiplier}");
            }
        }
    }
}

/// −128 times −128, wherever two may meet in 16 bits.
fn minimum_pairs(on: Subject) {
    let k = 32;
    let input = vec![-128_i8; 4 * k];
    for first in 0..k {
        for second in first + 1..k {
            let mut weights = vec![1_i8; 5 * k];
            (weights[2 * k + first], weights[2 * k + second]) = (-128, -128);
            let requant = Requant { multipliers: &[1.0 / 512.0], ..OPEN };
            let spec = GemmSpec {
                weights: WeightView::ohwi(&weights, 5, 1, k).unwrap(),
                weight_zero_points: &[],
                bias: &[],
                input_zero_point: 0,
                requant,
            };
            let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
            let data = stored(on.storage, &input);
            let mut output = vec![0; 20];
            gemm.run(
                &Source { data: &data, rows: Rows::Direct { stride: k } },
                &mut TileMut::new(&mut output, 4, 5, 5),
            );
            for (i, &byte) in output.iter().enumerate() {
                let acc = dot(&input[..k], &weights[i % 5 * k..][..k], 0);
                assert_eq!(byte, expected(&requant, on.storage, 0, acc), "{on}: −128 at {first} and {second}");
            }
        }
    }
}

/// Such that fold into the weights, and such that do not.
fn weight_zero_points(on: Subject) {
    let mut rng = Lcg(3);
    for zeros in [vec![], vec![1; 20], vec![-128; 20], vec![127; 20], rng.values(20)] {
        let geometry = Geometry {
            input: [4, 4],
            kernel: [2, 3],
            stride: [1, 1],
            dilation: [1, 1],
            pads: [1, 1, 0, 1],
            pixel_stride: 21,
            row_stride: 84,
        };
        let mut convolution = Convolution::new(&mut rng, geometry, 21, 20);
        if zeros.first() == Some(&1) {
            convolution.weights.iter_mut().for_each(|weight| *weight = (*weight).max(-127));
        }
        convolution.weight_zeros = zeros;
        let multipliers = multipliers(&mut rng, 20, 126);
        convolution.check(on, &Requant { multipliers: &multipliers, ..OPEN });
    }
}

/// The input's zero point and scale come with the input; accumulators or floats go out.
fn dynamic(on: Subject) {
    let mut rng = Lcg(4);
    for (case, input_zero_point) in [-128_i8, 127, 0, 11].into_iter().enumerate() {
        let (m, n, k) = (7, 37, 29);
        let (weights, input) = (rng.values(k * n), rng.values(m * k));
        let zeros = if case % 2 == 0 { rng.values(n) } else { vec![] };
        let scales: Vec<f32> = (0..n).map(|i| 0.01 + i as f32 / 999.0).collect();
        let requant = Requant { multipliers: &scales, ..OPEN };
        let spec = GemmSpec {
            weights: WeightView::matrix(&weights, k, n).unwrap(),
            weight_zero_points: &zeros,
            bias: &[],
            input_zero_point: 3,
            requant,
        };
        let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
        let mut data = stored(on.storage, &input);
        data.extend([7; SLACK]);
        let source = Source { data: &data, rows: Rows::Direct { stride: k } };
        let (mut sums, mut floats) = (vec![0_i32; m * n], vec![0_f32; m * n]);
        gemm.run_i32(&source, input_zero_point, &mut TileMut::new(&mut sums, m, n, n));
        let bias: Vec<f32> = (0..n).map(|i| i as f32 / 7.0).collect();
        let dynamic =
            Dynamic { input_zero_point, scale: 0.37, bias: &bias, bounds: [f32::NEG_INFINITY, f32::INFINITY] };
        gemm.run_dynamic(&source, &dynamic, &mut TileMut::new(&mut floats, m, n, n));
        for i in 0..m * n {
            let (row, column) = (i / n, i % n);
            let zero = i64::from(zeros.get(column).copied().unwrap_or(0));
            let sum: i64 = (0..k)
                .map(|k_| {
                    let value = i64::from(input[row * k + k_]) - i64::from(input_zero_point);
                    value * (i64::from(weights[k_ * n + column]) - zero)
                })
                .sum();
            assert_eq!(i64::from(sums[i]), sum, "{on} row {row}, column {column}");
            assert_eq!(floats[i], sum as i32 as f32 * (0.37 * scales[column]) + bias[column]);
        }
    }
}

/// Tiles cut anywhere give what the whole gives, in the middle of a wider tensor; so do threads; the table comes last.
fn tiles_and_tables(on: Subject) {
    let mut rng = Lcg(5);
    let (m, n, k, wide) = (23, 150, 40, 177);
    let (weights, input) = (rng.values(n * k), rng.values(m * k));
    let table: [u8; 256] = std::array::from_fn(|i| (i * 7 + 3) as u8);
    let requant = Requant { multipliers: &[0.002], zero_point: -9, table: Some(&table), ..OPEN };
    let spec = GemmSpec {
        weights: WeightView::ohwi(&weights, n, 1, k).unwrap(),
        weight_zero_points: &[],
        bias: &[],
        input_zero_point: 1,
        requant,
    };
    let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
    let mut data = stored(on.storage, &input);
    data.extend([7; SLACK]);
    let source = Source { data: &data, rows: Rows::Direct { stride: k } };
    let mut output = vec![0xEE; m * wide];
    let grid = TileMut::new(&mut output[19..], m, wide, n).grid(7, gemm.column_step());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(mut tile) = grid.take() {
                    gemm.run(&source, &mut tile);
                }
            });
        }
    });
    for (i, &byte) in output.iter().enumerate() {
        let (row, column) = (i / wide, (i % wide).wrapping_sub(19));
        let wanted = if column < n {
            let acc = dot(&input[row * k..][..k], &weights[column * k..][..k], 1);
            table[usize::from(expected(&requant, on.storage, column, acc))]
        } else {
            0xEE
        };
        assert_eq!(byte, wanted, "{on} row {row}, column {column}");
    }
}

/// Both sides are activations: the right one, transposed or not, is packed anew for each run.
fn activations(on: Subject) {
    let mut rng = Lcg(12);
    for zeros in [[0, 0], [-128, -128], [127, -128], [-128, 127], [5, -7]] {
        let (m, k, n) = (5, 37, 70);
        let requant = Requant { multipliers: &[0.0005], ..OPEN };
        let mut gemm = Gemm::of_activations_on(on.tier, on.storage, [k, n], zeros, &requant).unwrap();
        for transposed in [false, true, false] {
            let (left, right) = (rng.values(m * k), rng.values(k * n));
            let strides = if transposed { [k, 1] } else { [1, n] };
            let bytes = stored(on.storage, &right);
            gemm.repack(&WeightView::stored(&bytes, on.storage, [n, k], strides).unwrap());
            let mut data = stored(on.storage, &left);
            data.extend([7; SLACK]);
            let mut output = vec![0; m * n];
            let source = Source { data: &data, rows: Rows::Direct { stride: k } };
            gemm.run(&source, &mut TileMut::new(&mut output, m, n, n));
            for (i, &byte) in output.iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let terms = (0..k).map(|j| {
                    let b = i64::from(right[column * strides[0] + j * strides[1]]) - i64::from(zeros[1]);
                    (i64::from(left[row * k + j]) - i64::from(zeros[0])) * b
                });
                let wanted = expected(&requant, on.storage, 0, terms.sum());
                assert_eq!(byte, wanted, "{on} {zeros:?} row {row}, column {column}");
            }
        }
    }
}
