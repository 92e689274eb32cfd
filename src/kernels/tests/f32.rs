//! Convolutions and pools of floats: in the order of sums that they state, to the bit.

use super::floats::{floats, guarded, values};
use super::*;

const NEVER: f32 = -7.25;

/// A convolution of one group, or a depthwise one.
struct Case {
    geometry: Geometry,
    channels: usize,
    n: usize,
    depthwise: bool,
    input: Vec<f32>,
    weights: Vec<f32>,
    bytes: Vec<i8>,
    zeros: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    bounds: Option<[f32; 2]>,
}

impl Case {
    fn new(rng: &mut Lcg, seed: usize) -> Self {
        let channels = [1, 3, 4, 7, 8, 15, 16, 17, 33, 70, 130, 300][seed % 12];
        let depthwise = seed % 3 == 2;
        let n = if depthwise { channels } else { 1 + rng.below(70) };
        let geometry = loop {
            let pads = std::array::from_fn(|_| rng.below(3));
            let [kernel, stride, dilation] = [4, 3, 2].map(|most| [1 + rng.below(most), 1 + rng.below(most)]);
            let input = [1 + rng.below(7), 1 + rng.below(9)];
            let (pixel_stride, row_stride) = (channels, input[1] * channels);
            let geometry = Geometry { input, kernel, stride, dilation, pads, pixel_stride, row_stride };
            if geometry.output().is_ok() {
                break geometry;
            }
        };
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let depth = if depthwise { 1 } else { channels };
        let count = geometry.input[0] * geometry.input[1] * channels;
        Self {
            geometry,
            channels,
            n,
            depthwise,
            input: values(rng, count),
            weights: values(rng, n * taps * depth),
            bytes: rng.values(n * taps * depth),
            zeros: match seed % 4 {
                0 => vec![0],
                1 => vec![-7],
                _ => rng.values(n),
            },
            scales: if seed.is_multiple_of(2) { vec![0.25] } else { (0..n).map(|i| 0.01 + i as f32 * 0.003).collect() },
            bias: if seed.is_multiple_of(5) { vec![] } else { values(rng, n) },
            bounds: [None, Some([0.0, f32::INFINITY]), Some([-1.0, 6.0])][seed / 2 % 3],
        }
    }

    fn depth(&self) -> usize {
        if self.depthwise { 1 } else { self.channels }
    }

    /// As the head of `f32_conv` says it.
    fn expected(&self, pixel: usize, channel: usize, bytes: bool) -> f32 {
        let (g, depth) = (&self.geometry, self.depth());
        let taps = g.kernel[0] * g.kernel[1];
        let width = g.output().unwrap()[1];
        let mut sum = 0.0_f32;
        for tap in 0..taps {
            let at = |axis: usize, output: usize, tap: usize| {
                let at = (output * g.stride[axis] + tap * g.dilation[axis]).checked_sub(g.pads[axis]);
                at.filter(|&at| at < g.input[axis])
            };
            let row = at(0, pixel / width, tap / g.kernel[1]);
            let place = row.zip(at(1, pixel % width, tap % g.kernel[1]));
            if self.depthwise && place.is_none() {
                continue;
            }
            for k in 0..depth {
                let from = if self.depthwise { channel } else { k };
                let x = place.map_or(0.0, |(y, x)| self.input[(y * g.input[1] + x) * self.channels + from]);
                let index = (channel * depth + k) * taps + tap;
                let zero = self.zeros[channel % self.zeros.len()];
                let byte = || f32::from(self.bytes[index]) - f32::from(zero);
                sum = x.mul_add(if bytes { byte() } else { self.weights[index] }, sum);
            }
        }
        if bytes {
            sum *= self.scales[channel % self.scales.len()];
        }
        if let Some(bias) = self.bias.get(channel) {
            sum += bias;
        }
        self.bounds.map_or(sum, |[low, high]| sum.max(low).min(high))
    }

    fn weights(&self, bytes: bool) -> F32Weights<'_> {
        match bytes {
            true => F32Weights::Bytes { values: &self.bytes, zero_points: &self.zeros, scales: &self.scales },
            false => F32Weights::Floats(&self.weights),
        }
    }

    /// In tiles, with a column of the output's memory left over.
    fn run(&self, isa: Isa, bytes: bool, high: usize) -> Vec<f32> {
        let map = Indirection::new(&self.geometry).unwrap();
        let (input, zeros) = (guarded(&self.input), guarded(&vec![0.0; self.channels]));
        let mut output = vec![NEVER; map.pixels() * (self.n + 1)];
        let tile = TileMut::new(&mut output, map.pixels(), self.n + 1, self.n);
        let [taps, depth] = [map.taps(), self.depth()];
        if self.depthwise {
            let kernel = F32Depthwise::new(isa, self.weights(bytes), [self.n, taps], &self.bias, self.bounds).unwrap();
            let grid = tile.grid(high, self.n);
            while let Some(mut tile) = grid.take() {
                kernel.run(floats(&input), &map, &mut tile);
            }
        } else {
            let (shape, strides) = ([self.n, taps, depth], [taps * depth, 1, taps]);
            let weights = self.weights(bytes);
            let spec = F32ConvSpec { weights, shape, strides, bias: &self.bias, bounds: self.bounds };
            let kernel = F32Conv::new(isa, &spec).unwrap();
            let grid = tile.grid(high, kernel.steps()[1]);
            while let Some(mut tile) = grid.take() {
                let rows = F32Rows::Indirect { map: &map, zeros: floats(&zeros) };
                kernel.run(floats(&input), rows, &mut tile);
            }
        }
        output
    }
}

#[test]
fn convolutions_of_floats_add_in_their_order_on_all_tiers() {
    let mut rng = Lcg(11);
    let (mut padded, mut direct) = (0, 0);
    for seed in 0..240 {
        let case = Case::new(&mut rng, seed);
        padded += usize::from(Indirection::new(&case.geometry).unwrap().is_padded());
        direct += usize::from(case.geometry.kernel == [1, 1]);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (bytes, high) in [(false, 1000), (true, 1000), (false, 3), (true, 5)] {
                for (i, value) in case.run(isa, bytes, high).iter().enumerate() {
                    let (pixel, channel) = (i / (case.n + 1), i % (case.n + 1));
                    let wanted = if channel == case.n { NEVER } else { case.expected(pixel, channel, bytes) };
                    let same = value.to_bits() == wanted.to_bits();
                    assert!(same, "{isa} {seed} {bytes}: {pixel}, {channel} is {value}, not {wanted}");
                }
            }
        }
    }
    assert!(padded > 100 && direct > 5, "{padded} padded, {direct} of one tap");
}

#[test]
fn products_of_rows_with_constant_weights_add_in_the_order_of_k_on_all_tiers() {
    let mut rng = Lcg(12);
    for [m, n, k] in [[1, 1, 1], [5, 33, 129], [9, 70, 64], [40, 16, 300], [17, 48, 2]] {
        let (a, b, bytes) = (values(&mut rng, m * k), values(&mut rng, k * n), rng.values(k * n));
        let left = guarded(&a);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for of_bytes in [false, true] {
                let weights = match of_bytes {
                    true => F32Weights::Bytes { values: &bytes, zero_points: &[3], scales: &[0.5] },
                    false => F32Weights::Floats(&b),
                };
                let spec = F32ConvSpec { weights, shape: [n, 1, k], strides: [1, 0, n], bias: &[], bounds: None };
                let kernel = F32Conv::new(isa, &spec).unwrap();
                let mut output = vec![NEVER; m * n];
                let grid = TileMut::new(&mut output, m, n, n).grid(7, kernel.steps()[1]);
                while let Some(mut tile) = grid.take() {
                    kernel.run(floats(&left), F32Rows::Direct { stride: k }, &mut tile);
                }
                for (i, value) in output.iter().enumerate() {
                    let weight = |at: usize| if of_bytes { f32::from(bytes[at]) - 3.0 } else { b[at] };
                    let sum = (0..k).fold(0.0_f32, |sum, l| a[i / n * k + l].mul_add(weight(l * n + i % n), sum));
                    let wanted = if of_bytes { sum * 0.5 } else { sum };
                    assert!(value.to_bits() == wanted.to_bits(), "{isa} {m}x{k}x{n}: {i} is {value}, not {wanted}");
                }
            }
        }
    }
}

#[test]
fn pools_of_floats_take_the_pixels_that_are_inside() {
    let mut rng = Lcg(13);
    for seed in 0..60 {
        let case = Case::new(&mut rng, seed);
        let (g, c) = (&case.geometry, case.channels);
        let map = Indirection::new(g).unwrap();
        let [_, width] = map.output();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for kind in [F32PoolKind::Max, F32PoolKind::Average, F32PoolKind::AverageOfTaps] {
                let mut output = vec![NEVER; map.pixels() * c];
                let grid = TileMut::new(&mut output, map.pixels(), c, c).grid(2, 5);
                while let Some(mut tile) = grid.take() {
                    F32Pool::new(isa, kind).run(&case.input, &map, &mut tile);
                }
                for (i, value) in output.iter().enumerate() {
                    let (y, x) = (i / c / width, i / c % width);
                    let taps = (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| [ky, kx]));
                    let met: Vec<f32> = taps
                        .filter_map(|[ky, kx]| {
                            let row = (y * g.stride[0] + ky * g.dilation[0]).checked_sub(g.pads[0]);
                            let column = (x * g.stride[1] + kx * g.dilation[1]).checked_sub(g.pads[1]);
                            let place = (row.filter(|&row| row < g.input[0]), column.filter(|&x| x < g.input[1]));
                            let (Some(row), Some(column)) = place else { return None };
                            Some(case.input[(row * g.input[1] + column) * c + i % c])
                        })
                        .collect();
                    let sum = || met.iter().fold(0.0, |sum, x| sum + x);
                    let wanted = match kind {
                        F32PoolKind::Max => met.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                        F32PoolKind::Average => sum() / met.len().max(1) as f32,
                        F32PoolKind::AverageOfTaps => sum() / map.taps() as f32,
                    };
                    assert!(value.to_bits() == wanted.to_bits(), "{isa} {seed} {kind:?}: {i} is {value}, not {wanted}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "floats, ")]
fn an_input_that_is_too_short_for_its_map_is_refused() {
    let mut rng = Lcg(14);
    let mut case = Case::new(&mut rng, 1);
    case.input.truncate(2);
    case.run(Isa::Scalar, false, 1);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let isa = Isa::best();
    let new = |shape: [usize; 3], weights: F32Weights<'_>, bias: &[f32]| {
        let spec = F32ConvSpec { weights, shape, strides: [shape[2], 0, 1], bias, bounds: None };
        F32Conv::new(isa, &spec).map(|_| ()).unwrap_err().to_string()
    };
    let of = |zero_points, scales| F32Weights::Bytes { values: &[1; 6], zero_points, scales };
    assert!(new([4, 1, 2], of(&[], &[1.0]), &[]).contains("weights: 6 values, 8 needed"));
    assert!(new([4, 1, 2], F32Weights::Floats(&[0.0; 7]), &[]).contains("weights: 7 values, 8 needed"));
    assert!(new([3, usize::MAX, 2], of(&[], &[1.0]), &[]).contains("weights"));
    assert!(new([3, 1, 2], of(&[0; 2], &[1.0]), &[]).contains("zero points"));
    assert!(new([3, 1, 2], of(&[], &[1.0; 4]), &[]).contains("scales"));
    assert!(new([3, 1, 2], of(&[], &[f32::NAN]), &[]).contains("NaN"));
    assert!(new([3, 1, 2], of(&[], &[1.0]), &[0.0; 2]).contains("bias"));
    let depthwise = |weights, channels, bias: &[f32]| {
        F32Depthwise::new(isa, weights, [channels, 2], bias, None).map(|_| ()).unwrap_err().to_string()
    };
    assert!(depthwise(F32Weights::Floats(&[0.0; 6]), 4, &[]).contains("weights: 6 values, 8 needed"));
    assert!(depthwise(of(&[], &[1.0; 2]), 3, &[]).contains("scales"));
    assert!(depthwise(of(&[], &[f32::INFINITY]), 3, &[]).contains("inf"));
    assert!(depthwise(of(&[], &[1.0]), 3, &[0.0; 4]).contains("bias"));
}
