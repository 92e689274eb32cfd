//! Elementwise operators, pools and conversions, against their definition, value by value.

use super::*;

pub fn suite(isa: Isa, storage: Storage) {
    sums_and_products(isa, storage);
    tables(storage);
    pools(isa, storage);
    floats(isa, storage);
    images(isa, storage);
}

const SCALES: [[f32; 3]; 4] = [[0.05, 0.07, 0.1], [0.5, 0.25, 0.5], [1.0, 0.001, 0.9], [0.25, 0.5, 0.125]];
const ZEROS: [[i8; 3]; 5] = [[0, 0, 0], [-128, 127, -128], [127, -128, 127], [-128, -128, 127], [3, -5, 1]];

/// All 65,536 pairs, for each scale and each extreme of zero points.
fn sums_and_products(isa: Isa, storage: Storage) {
    let (a, b) = pairs(storage);
    let mut output = vec![0; a.len()];
    for (i, (scales, zeros)) in SCALES.iter().flat_map(|s| ZEROS.iter().map(move |z| (s, z))).enumerate() {
        let of = |j: usize| Quantization { scale: scales[j], zero_point: zeros[j] };
        let (lo, hi) = if i % 2 == 0 { (-128, 127) } else { (zeros[2].min(100), 101_i8.max(zeros[2])) };
        let spec = BinarySpec { a: of(0), b: of(1), output: of(2), lo, hi };
        let bounds = |x: f32| storage.byte(x.round_ties_even().clamp(f32::from(lo), f32::from(hi)) as i8);
        let [za, zb, zo] = zeros.map(f32::from);
        let (ra, rb) = (scales[0] / scales[2], scales[1] / scales[2]);
        let c = zo - za.mul_add(ra, rb * zb);
        Add::new(isa, storage, &spec).unwrap().run(&a, &b, &mut output);
        for (j, &byte) in output.iter().enumerate() {
            let (a, b) = pair(j);
            assert_eq!(byte, bounds(a.mul_add(ra, b.mul_add(rb, c))), "{isa} {spec:?}: {a} + {b}");
        }
        let m = scales[0] * scales[1] / scales[2];
        Mul::new(isa, storage, &spec).unwrap().run(&a, &b, &mut output);
        for (j, &byte) in output.iter().enumerate() {
            let (a, b) = pair(j);
            assert_eq!(byte, bounds(((a - za) * (b - zb)).mul_add(m, zo)), "{isa} {spec:?}: {a} * {b}");
        }
        // A shorter right side is repeated.
        let mut repeated = vec![0; a.len()];
        Mul::new(isa, storage, &spec).unwrap().run(&a, &b[..256], &mut repeated);
        assert_eq!(repeated, output);
    }
}

fn pair(index: usize) -> (f32, f32) {
    ((index / 256) as f32 - 128.0, (index % 256) as f32 - 128.0)
}

fn tables(storage: Storage) {
    let of = |scale, zero_point| Quantization { scale, zero_point };
    let table = tabulate(storage, of(0.5, 3), of(0.25, -128), |x| x.max(0.0));
    for length in 0..300 {
        let input: Vec<u8> = (0..length).map(|i| (i * 11 + 5) as u8).collect();
        let mut output = vec![0; length];
        look_up(&table, &input, &mut output);
        for (&from, &to) in input.iter().zip(&output) {
            let wanted = ((i32::from(storage.value(from)) - 3).max(0) * 2 - 128).min(127);
            assert_eq!(i32::from(storage.value(to)), wanted);
        }
    }
}

fn pools(isa: Isa, storage: Storage) {
    let mut rng = Lcg(9);
    for case in 0..60 {
        let channels = 1 + rng.below(140);
        let geometry = Geometry {
            input: [4 + rng.below(4), 4 + rng.below(4)],
            kernel: [1 + rng.below(3), 1 + rng.below(3)],
            stride: [1 + rng.below(2), 1 + rng.below(2)],
            dilation: [1, 1],
            pads: [rng.below(3), rng.below(3), rng.below(3), rng.below(3)],
            pixel_stride: channels,
            row_stride: 0,
        };
        let geometry = Geometry { row_stride: channels * geometry.input[1], ..geometry };
        let values = rng.values(geometry.input[0] * geometry.row_stride);
        let map = Indirection::new(&geometry).unwrap();
        let input = stored(storage, &values);
        let [mut greatest, mut average] = [vec![0; map.pixels() * channels], vec![0; map.pixels() * channels]];
        let (from, to) = (Quantization { scale: 0.02, zero_point: 7 }, Quantization { scale: 0.03, zero_point: -100 });
        let tile = |data| TileMut::new(data, map.pixels(), channels, channels);
        MaxPool::new(isa, storage).unwrap().run(&input, &map, &mut tile(&mut greatest));
        let pool = AveragePool::new(isa, storage, from, to, case % 2 == 0).unwrap();
        pool.run(&input, &map, &mut tile(&mut average));
        for i in 0..map.pixels() * channels {
            let (pixel, c) = (i / channels, i % channels);
            let window = inside(&geometry, pixel / map.output()[1], pixel % map.output()[1]);
            let seen: Vec<i32> = window.iter().map(|p| i32::from(values[p * channels + c])).collect();
            let wanted = seen.iter().copied().max().unwrap_or(-128) as i8;
            assert_eq!(greatest[i], storage.byte(wanted), "{isa} maximum {geometry:?}");
            let n = if case % 2 == 0 { map.taps() } else { seen.len().max(1) };
            let sum = seen.iter().map(|x| x - 7).sum();
            let wanted = requantize(sum, 0.02 / (0.03 * n as f32), -100, -128, 127);
            assert_eq!(average[i], storage.byte(wanted), "{isa} average {geometry:?}");
        }
    }
}

/// The input pixels under a window.
fn inside(g: &Geometry, y: usize, x: usize) -> Vec<usize> {
    let taps = (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx)));
    let places = taps.map(|(ky, kx)| {
        ((y * g.stride[0] + ky).wrapping_sub(g.pads[0]), (x * g.stride[1] + kx).wrapping_sub(g.pads[1]))
    });
    places.filter(|(y, x)| *y < g.input[0] && *x < g.input[1]).map(|(y, x)| y * g.input[1] + x).collect()
}

/// Ties, infinities, what is not a number; and back.
fn floats(isa: Isa, storage: Storage) {
    for zero_point in [-128_i8, 127, 0, 9] {
        for scale in [0.5_f32, 0.037, 1e-3] {
            let mut input: Vec<f32> = (-600..600).map(|i| i as f32 * scale * 0.5).collect();
            input.extend((-600..600).map(|i| i as f32 * 0.0173));
            input.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, -0.0, 1e20]);
            let convert = Convert::new(isa, storage, Quantization { scale, zero_point }).unwrap();
            let (mut bytes, mut back) = (vec![0; input.len()], vec![0.0; input.len()]);
            convert.quantize(&input, &mut bytes);
            convert.dequantize(&bytes, &mut back);
            for ((&x, &byte), &back) in input.iter().zip(&bytes).zip(&back) {
                let rounded = f64::from((x / scale).round_ties_even()) + f64::from(zero_point);
                let wanted = if x.is_nan() { -128 } else { rounded.clamp(-128.0, 127.0) as i8 };
                assert_eq!(storage.value(byte), wanted, "{isa}: {x} by {scale}, {zero_point}");
                let difference = i16::from(wanted) - i16::from(zero_point);
                assert_eq!(back, f32::from(difference) * scale);
            }
        }
    }
}

/// NCHW to NHWC with a border; and the first layer through it, line by line, against the same with padding by taps.
fn images(isa: Isa, storage: Storage) {
    let mut rng = Lcg(10);
    for (channels, pixel_stride) in [(3, 4), (3, 3), (1, 4), (4, 4), (5, 16)] {
        let (height, width) = (6, 7);
        let image = Image { channels, height, width, pixel_stride, border: [1, 2, 0, 1] };
        let input: Vec<f32> = (0..channels * height * width).map(|_| rng.below(1000) as f32 * 0.3 - 150.0).collect();
        let convert = Convert::new(isa, storage, Quantization { scale: 1.0, zero_point: 5 }).unwrap();
        let mut plain = vec![0; input.len()];
        convert.quantize(&input, &mut plain);
        let mut output = vec![0xEE; image.bytes() + SLACK];
        convert.quantize_image(&image, &input, &mut output);
        assert!(output[image.bytes()..].iter().all(|&byte| byte == 0xEE));
        for (i, &byte) in output[..image.bytes()].iter().enumerate() {
            let (y, rest) = (i / image.row_stride(), i % image.row_stride());
            let (x, c) = (rest / pixel_stride, rest % pixel_stride);
            let (y, x) = (y.wrapping_sub(1), x.wrapping_sub(2));
            let inside = y < height && x < width && c < channels;
            let wanted = if inside { plain[(c * height + y) * width + x] } else { storage.byte(5) };
            assert_eq!(byte, wanted, "{isa} {image:?}: line {y}, pixel {x}, channel {c}");
        }
    }
    first_layer(isa, storage);
}

fn first_layer(isa: Isa, storage: Storage) {
    let mut rng = Lcg(11);
    let (height, width, n) = (11, 9, 24);
    let image = Image { channels: 3, height, width, pixel_stride: 4, border: [1; 4] };
    let input: Vec<f32> = (0..3 * height * width).map(|_| rng.below(256) as f32).collect();
    let by = Quantization { scale: 1.0, zero_point: -128 };
    let mut bytes = vec![0; image.bytes() + SLACK];
    Convert::new(isa, storage, by).unwrap().quantize_image(&image, &input, &mut bytes);
    let weights = rng.values(n * 27);
    let lines = lines_of_pixels(&weights, n, 3, [3, 3]);
    let spec = GemmSpec {
        weights: WeightView::ohwi(&lines, n, 3, 12).unwrap(),
        weight_zero_points: &[],
        bias: &[],
        input_zero_point: -128,
        requant: Requant { multipliers: &[0.0007], zero_point: 0, lo: -128, hi: 127, table: None },
    };
    let gemm = Gemm::new(isa, storage, &spec).unwrap();
    let map = Indirection::new(&image.lines([3, 3], [2, 2])).unwrap();
    let [rows, columns] = map.output();
    assert_eq!((rows, columns, map.is_padded()), (6, 5, false));
    let mut output = vec![0; map.pixels() * n];
    let source = Source { data: &bytes, rows: Rows::Indirect { map: &map, padding: &[] } };
    gemm.run(&source, &mut TileMut::new(&mut output, map.pixels(), n, n));
    for (i, &byte) in output.iter().enumerate() {
        let (pixel, o) = (i / n, i % n);
        let mut sum = 0;
        for tap in 0..27 {
            let (c, ky, kx) = (tap / 9, tap % 9 / 3, tap % 3);
            let (y, x) = (pixel / columns * 2 + ky, pixel % columns * 2 + kx);
            if (1..=height).contains(&y) && (1..=width).contains(&x) {
                let value = input[(c * height + y - 1) * width + x - 1] as i32;
                sum += value * i32::from(weights[o * 27 + tap]);
            }
        }
        assert_eq!(byte, storage.byte(requantize(sum, 0.0007, 0, -128, 127)), "{isa} pixel {pixel}, channel {o}");
    }
}
