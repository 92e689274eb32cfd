//! Convolutions by Winograd's filtering, against sums in 64 bits.

use super::convolution::{Convolution, expected, multipliers, requant};
use super::*;

fn geometry(input: [usize; 2], pads: [usize; 4], channels: usize) -> Geometry {
    let row_stride = input[1] * channels;
    Geometry { input, kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pads, pixel_stride: channels, row_stride }
}

/// Runs in tiles of some lines and columns.
fn run(winograd: &Winograd, conv: &Convolution, frame: &Frame, parts: [usize; 2]) -> Vec<u8> {
    // Nothing behind the last value is read.
    let (input, _) = conv.memory(Storage::S8, conv.channels);
    let [high, wide] = frame.output;
    let mut output = vec![0xEE; high * wide * (conv.n + 1)];
    let mut scratch = vec![0x5A5A; winograd.scratch()];
    let grid = TileMut::new(&mut output, high * wide, conv.n + 1, conv.n).grid(parts[0] * wide, parts[1]);
    while let Some(mut tile) = grid.take() {
        winograd.run(input.bytes(), frame, &mut scratch, &mut tile);
    }
    output
}

fn check(rng: &mut Lcg, conv: &Convolution, table: Option<&[u8; 256]>, what: &str) -> bool {
    let Geometry { input, pads, .. } = conv.geometry;
    let output = [input[0] + pads[0] + pads[2] - 2, input[1] + pads[1] + pads[3] - 2];
    let frame = Frame { input, output, pads: [pads[0], pads[1]] };
    let bias: Vec<i32> = (0..conv.n).map(|_| rng.next() as i32 % 100_000).collect();
    let multipliers = multipliers(rng, conv.n, conv.channels * 9);
    let requant = Requant { table, ..requant(rng, &multipliers) };
    let spec = GemmSpec {
        weights: WeightView::oihw(&conv.weights, conv.n, conv.channels, 9).unwrap(),
        weight_zero_points: &conv.weight_zeros,
        bias: &bias,
        input_zero_point: conv.zero,
        requant,
    };
    let Some(winograd) = Winograd::new(&spec).unwrap() else { return false };
    let wanted = |pixel: usize, n: usize| {
        let sum = conv.sum(pixel / output[1], pixel % output[1], n) + i64::from(bias[n]);
        let byte = expected(&requant, Storage::S8, n, sum);
        table.map_or(byte, |table| table[usize::from(byte)])
    };
    for parts in [[output[0].next_multiple_of(4), conv.n.next_multiple_of(16)], [4, 16], [8, 32]] {
        for (i, &byte) in run(&winograd, conv, &frame, parts).iter().enumerate() {
            let (pixel, n) = (i / (conv.n + 1), i % (conv.n + 1));
            let wanted = if n == conv.n { 0xEE } else { wanted(pixel, n) };
            assert_eq!(byte, wanted, "{what} in {parts:?}: pixel {pixel} of {output:?}, channel {n}");
        }
    }
    true
}

#[test]
fn filtering_is_exact_for_every_small_shape() {
    let mut rng = Lcg(12);
    let table: [u8; 256] = std::array::from_fn(|i| (i * 7 + 3) as u8);
    for case in 0..220 {
        let input = [1 + rng.below(14), 1 + rng.below(14)];
        let pads = std::array::from_fn(|_| rng.below(3));
        if input[0] + pads[0] + pads[2] < 3 || input[1] + pads[1] + pads[3] < 3 {
            continue;
        }
        let (channels, n) = (1 + rng.below(40), 1 + rng.below(40));
        let mut conv = Convolution::new(&mut rng, geometry(input, pads, channels), channels, n);
        if case % 3 == 0 {
            conv.weight_zeros = rng.values(n);
        }
        let table = (case % 5 == 0).then_some(&table);
        assert!(check(&mut rng, &conv, table, &format!("case {case}: {channels} to {n}, {input:?}, pads {pads:?}")));
    }
}

/// The largest values that transformed numbers can have, either sign at each place.
#[test]
fn filtering_is_exact_at_the_extremes() {
    let mut rng = Lcg(13);
    for case in 0..64 {
        let mut conv = Convolution::new(&mut rng, geometry([8, 8], [1; 4], 16), 16, 16);
        conv.zero = if case % 2 == 0 { 127 } else { -128 };
        let far = if case % 2 == 0 { -128 } else { 127 };
        conv.input.iter_mut().for_each(|value| *value = if rng.below(4) > 0 { far } else { conv.zero });
        conv.weights.iter_mut().for_each(|weight| *weight = if rng.below(2) == 0 { -128 } else { 127 });
        if case % 4 == 3 {
            conv.weight_zeros = vec![127; 16];
        }
        assert!(check(&mut rng, &conv, None, &format!("case {case}")));
    }
}

#[test]
fn sums_that_may_leave_26_bits_are_left_to_other_kernels() {
    let mut rng = Lcg(14);
    // 9 · 114 · 128 · 255 is just below 2^25; one channel more is not.
    for (channels, fits) in [(114, true), (115, false)] {
        let mut conv = Convolution::new(&mut rng, geometry([4, 5], [1; 4], channels), channels, 3);
        conv.weights.fill(-128);
        conv.input.fill(127);
        conv.zero = -128;
        assert_eq!(check(&mut rng, &conv, None, "the largest sums"), fits, "{channels} channels");
    }
    let spec = GemmSpec {
        weights: WeightView::oihw(&[1; 32], 4, 2, 4).unwrap(),
        weight_zero_points: &[],
        bias: &[],
        input_zero_point: 0,
        requant: Requant { multipliers: &[1.0], zero_point: 0, lo: -128, hi: 127, table: None },
    };
    assert!(Winograd::new(&spec).unwrap_err().to_string().contains("3x3"));
}
