//! Depthwise convolutions of every kind of window, against sums in 64 bits.

use super::convolution::{Convolution, expected, multipliers, requant};
use super::guard::Guarded;
use super::*;

pub fn suite(on: Subject) {
    windows(on);
    minimum_pairs(on);
    weight_zero_points(on);
    large_images(on);
    large_multipliers(on);
}

/// The same as the convolution, with one input channel for each output channel.
fn check(on: Subject, convolution: &Convolution, requant: &Requant<'_>, cut: usize) {
    let (geometry, channels) = (convolution.geometry, convolution.channels);
    let spec = DepthwiseSpec {
        weights: &convolution.weights,
        channels,
        kernel: geometry.kernel,
        weight_zero_points: &convolution.weight_zeros,
        bias: &[],
        input_zero_point: convolution.zero,
        requant: *requant,
    };
    let depthwise = Depthwise::with_tier(on.depthwise, on.storage, &spec).unwrap();
    let map = Indirection::new(&geometry).unwrap();
    let (input, padding) = convolution.memory(on.storage, depthwise.reach());
    let stride = channels + 3;
    let mut output = Guarded::new(&vec![0xEE; (map.pixels() - 1) * stride + channels]);
    let grid = TileMut::new(output.bytes_mut(), map.pixels(), stride, channels).grid(cut, depthwise.column_step());
    while let Some(mut tile) = grid.take() {
        depthwise.run(input.bytes(), &map, padding.bytes(), &mut tile);
    }
    for (i, &byte) in output.bytes().iter().enumerate() {
        let (pixel, c) = (i / stride, i % stride);
        let wanted = if c < channels {
            let acc = convolution.depthwise_sum(pixel / map.output()[1], pixel % map.output()[1], c);
            let value = expected(requant, on.storage, c, acc);
            requant.table.map_or(value, |table| table[usize::from(value)])
        } else {
            0xEE
        };
        assert_eq!(byte, wanted, "{on} {geometry:?} C{channels} cut {cut}: pixel {pixel}, channel {c}");
    }
}

fn geometry(rng: &mut Lcg, kernel: [usize; 2], channels: usize) -> Geometry {
    let input = [3 + rng.below(7), 5 + rng.below(9)];
    let pixel_stride = channels + rng.below(2) * 5;
    Geometry {
        input,
        kernel,
        stride: [1 + rng.below(2), 1 + rng.below(3)],
        dilation: [1, 1 + rng.below(8) / 7],
        pads: [rng.below(3), rng.below(3), 1 + rng.below(2), 1 + rng.below(2)],
        pixel_stride,
        row_stride: input[1] * pixel_stride + rng.below(2) * 7,
    }
}

/// Kernels of 1 to 5, strides, dilations, pads, channels around each width of vector, tiles cut inside of lines.
fn windows(on: Subject) {
    let mut rng = Lcg(6);
    let table: [u8; 256] = std::array::from_fn(|i| (i * 5 + 1) as u8);
    for case in 0..220 {
        let channels = [1, 15, 16, 17, 24, 32, 33, 48, 63, 64, 65, 96, 130][case % 13];
        let kernel = [[3, 3], [1 + rng.below(5), 1 + rng.below(5)], [5, 5]][case % 3];
        let geometry = geometry(&mut rng, kernel, channels);
        if geometry.output().is_err() {
            continue;
        }
        let mut convolution = Convolution::new(&mut rng, geometry, channels, channels);
        convolution.weights.truncate(channels * kernel[0] * kernel[1]);
        if case % 4 < 2 {
            convolution.weights.iter_mut().for_each(|weight| *weight = (*weight).max(-127));
        }
        let multipliers = multipliers(&mut rng, channels, kernel[0] * kernel[1]);
        let mut requant = requant(&mut rng, &multipliers);
        requant.table = (case % 5 == 0).then_some(&table);
        let cut = [1000, 1, 7, 16][case % 4];
        check(on, &convolution, &requant, cut);
    }
}

/// −128·−128 at two taps, wherever they may meet in 16 bits.
fn minimum_pairs(on: Subject) {
    let geometry = Geometry {
        input: [3, 4],
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0; 4],
        pixel_stride: 20,
        row_stride: 80,
    };
    for first in 0..9 {
        for second in first + 1..9 {
            let mut weights = vec![1; 20 * 9];
            (weights[17 * 9 + first], weights[17 * 9 + second]) = (-128, -128);
            let input = vec![-128; 12 * 20];
            let convolution =
                Convolution { geometry, channels: 20, n: 20, zero: 0, input, weights, weight_zeros: vec![] };
            let requant = Requant { multipliers: &[1.0 / 512.0], zero_point: 0, lo: -128, hi: 127, table: None };
            check(on, &convolution, &requant, 100);
        }
    }
}

/// Such that fold into the weights, and such that do not.
fn weight_zero_points(on: Subject) {
    let mut rng = Lcg(7);
    for zeros in [vec![1; 40], vec![-128; 40], rng.values(40)] {
        let geometry = geometry(&mut rng, [3, 3], 40);
        let mut convolution = Convolution::new(&mut rng, geometry, 40, 40);
        convolution.weights.truncate(40 * 9);
        if zeros[0] == 1 {
            convolution.weights.iter_mut().for_each(|weight| *weight = (*weight).max(-127));
        }
        convolution.weight_zeros = zeros;
        let multipliers = multipliers(&mut rng, 40, 9);
        let requant = Requant { multipliers: &multipliers, zero_point: 3, lo: -128, hi: 127, table: None };
        check(on, &convolution, &requant, 11);
    }
}

/// As in a network: windows of 3x3 and 5x5 as wide as their pads, strides of 1 and 2.
fn large_images(on: Subject) {
    let mut rng = Lcg(8);
    for (stride, side) in [(1, 3), (2, 3), (1, 5), (2, 5)] {
        let geometry = Geometry {
            input: [14, 15],
            kernel: [side; 2],
            stride: [stride; 2],
            dilation: [1, 1],
            pads: [side / 2; 4],
            pixel_stride: 96,
            row_stride: 96 * 15,
        };
        let mut convolution = Convolution::new(&mut rng, geometry, 96, 96);
        convolution.weights.truncate(96 * side * side);
        let multipliers = multipliers(&mut rng, 96, side * side);
        check(on, &convolution, &requant(&mut rng, &multipliers), 1000);
    }
}

/// Sums that 32 bits do not hold once they are multiplied.
fn large_multipliers(on: Subject) {
    let mut rng = Lcg(9);
    let geometry = geometry(&mut rng, [3, 3], 40);
    let mut convolution = Convolution::new(&mut rng, geometry, 40, 40);
    convolution.weights.truncate(40 * 9);
    check(on, &convolution, &Requant { multipliers: &[1e7], zero_point: 3, lo: -100, hi: 100, table: None }, 11);
}
