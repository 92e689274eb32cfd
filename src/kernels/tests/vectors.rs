//! What onnxruntime computes, on x86-64, with its quantized operators: `tests/vectors/kernels/make.py` made it.

use std::collections::HashMap;
use std::str::FromStr;

use super::*;

const TEXT: &str = include_str!("../../../tests/vectors/kernels/onnxruntime.txt");

/// One case: an operator's name, its fields.
struct Case {
    operator: &'static str,
    fields: HashMap<&'static str, &'static str>,
}

impl Case {
    fn numbers<T: FromStr>(&self, key: &str) -> Vec<T> {
        self.fields[key].split(' ').map(|word| word.parse().ok().unwrap()).collect()
    }

    fn array<T: FromStr, const N: usize>(&self, key: &str) -> [T; N] {
        self.numbers(key).try_into().ok().unwrap()
    }

    fn number<T: FromStr>(&self, key: &str) -> T {
        self.fields[key].parse().ok().unwrap()
    }

    /// Values in the signed domain.
    fn values(&self, key: &str) -> Vec<i8> {
        let flip = if self.fields.get("type") == Some(&"u8") { 0x80 } else { 0 };
        self.bytes(key).into_iter().map(|byte| (byte ^ flip).cast_signed()).collect()
    }

    fn bytes(&self, key: &str) -> Vec<u8> {
        let digits = self.fields[key].as_bytes().chunks_exact(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn signed(&self, key: &str) -> Vec<i8> {
        self.bytes(key).into_iter().map(u8::cast_signed).collect()
    }

    /// A zero point in the signed domain.
    fn zero(&self, value: i32) -> i8 {
        i8::try_from(if self.fields.get("type") == Some(&"u8") { value - 128 } else { value }).unwrap()
    }
}

fn cases() -> Vec<Case> {
    let text = TEXT.split_once('\n').unwrap().1;
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    let cases = blocks.map(|block| {
        let mut lines = block.lines();
        let operator = lines.next().unwrap();
        Case { operator, fields: lines.map(|line| line.split_once(' ').unwrap()).collect() }
    });
    cases.collect()
}

pub fn suite(on: Subject, isa: Isa) {
    let cases = cases();
    assert!(cases.len() > 40, "{} cases", cases.len());
    for case in &cases {
        match case.operator {
            "QLinearConv" => convolution(on, case),
            "QLinearMatMul" => product(on, case),
            "QLinearAdd" | "QLinearMul" => binary(on, isa, case),
            "QLinearSigmoid" => sigmoid(on, case),
            "QLinearGlobalAveragePool" => global_average(on, isa, case),
            other => panic!("{other}"),
        }
    }
}

fn same(on: Subject, case: &Case, got: &[u8], wanted: &[i8]) {
    assert_eq!(got, stored(on.storage, wanted), "{on} {} {:?}", case.operator, case.fields);
}

/// From NCHW to NHWC, or back: the transposed matrix.
fn transposed<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let columns = values.len() / rows;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

fn convolution(on: Subject, case: &Case) {
    let [_, channels, height, width]: [usize; 4] = case.array("shape");
    let (n, group): (usize, usize) = (case.number("n"), case.number("group"));
    let geometry = Geometry {
        input: [height, width],
        kernel: case.array("kernel"),
        stride: case.array("stride"),
        dilation: [1, 1],
        pads: case.array("pads"),
        pixel_stride: channels,
        row_stride: channels * width,
    };
    let taps = geometry.kernel[0] * geometry.kernel[1];
    let (xs, ys): (f32, f32) = (case.number("xs"), case.number("ys"));
    let multipliers: Vec<f32> = case.numbers::<f32>("ws").iter().map(|ws| xs * ws / ys).collect();
    let (input_zero_point, zero_point) = (case.zero(case.number("xz")), case.zero(case.number("yz")));
    let requant = Requant { multipliers: &multipliers, zero_point, lo: -128, hi: 127, table: None };
    let (weights, bias) = (case.signed("w"), case.numbers("b"));
    let mut input = stored(on.storage, &transposed(&case.values("x"), channels));
    input.extend([0; SLACK]);
    let padding = vec![on.storage.byte(input_zero_point); channels + SLACK];
    let map = Indirection::new(&geometry).unwrap();
    let mut output = vec![0; map.pixels() * n];
    let mut tile = TileMut::new(&mut output, map.pixels(), n, n);
    if group == 1 {
        let weights = WeightView::oihw(&weights, n, channels, taps).unwrap();
        let spec = GemmSpec { weights, weight_zero_points: &[], bias: &bias, input_zero_point, requant };
        let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
        gemm.run(&Source { data: &input, rows: Rows::Indirect { map: &map, padding: &padding } }, &mut tile);
    } else {
        let spec = DepthwiseSpec {
            weights: &weights,
            channels,
            kernel: geometry.kernel,
            weight_zero_points: &[],
            bias: &bias,
            input_zero_point,
            requant,
        };
        Depthwise::with_tier(on.depthwise, on.storage, &spec).unwrap().run(&input, &map, &padding, &mut tile);
    }
    same(on, case, &output, &transposed(&case.values("y"), n));
}

fn product(on: Subject, case: &Case) {
    let [m, k, n]: [usize; 3] = ["m", "k", "n"].map(|key| case.number(key));
    let (xs, ys): (f32, f32) = (case.number("xs"), case.number("ys"));
    let multipliers: Vec<f32> = case.numbers::<f32>("ws").iter().map(|ws| xs * ws / ys).collect();
    let zero_point = case.zero(case.number("yz"));
    let weights = case.signed("w");
    let spec = GemmSpec {
        weights: WeightView::matrix(&weights, k, n).unwrap(),
        weight_zero_points: &case.signed("wz"),
        bias: &[],
        input_zero_point: case.zero(case.number("xz")),
        requant: Requant { multipliers: &multipliers, zero_point, lo: -128, hi: 127, table: None },
    };
    let gemm = Gemm::with_tier(on.tier, on.storage, &spec).unwrap();
    let mut input = stored(on.storage, &case.values("x"));
    input.extend([0; SLACK]);
    let mut output = vec![0; m * n];
    gemm.run(&Source { data: &input, rows: Rows::Direct { stride: k } }, &mut TileMut::new(&mut output, m, n, n));
    same(on, case, &output, &case.values("y"));
}

fn binary(on: Subject, isa: Isa, case: &Case) {
    let (scales, zeros): ([f32; 3], [i8; 3]) = (case.array("scales"), case.array("zeros"));
    let of = |i: usize| Quantization { scale: scales[i], zero_point: zeros[i] };
    let spec = BinarySpec { a: of(0), b: of(1), output: of(2), lo: -128, hi: 127 };
    let (a, b) = pairs(on.storage);
    let mut output = vec![0; a.len()];
    match case.operator {
        "QLinearAdd" => Add::new(isa, on.storage, &spec).unwrap().run(&a, &b, &mut output),
        _ => Mul::new(isa, on.storage, &spec).unwrap().run(&a, &b, &mut output),
    }
    let hash = output.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(on.storage.value(byte).cast_unsigned())).wrapping_mul(0x100_0000_01B3)
    });
    assert_eq!(format!("{hash:016x}"), case.fields["fnv"], "{on} {} {:?}", case.operator, case.fields);
}

fn sigmoid(on: Subject, case: &Case) {
    let (scales, zeros): ([f32; 2], [i8; 2]) = (case.array("scales"), case.array("zeros"));
    let of = |i: usize| Quantization { scale: scales[i], zero_point: zeros[i] };
    let table = tabulate(on.storage, of(0), of(1), |x| 1.0 / (1.0 + (-x).exp()));
    let input: Vec<i8> = (-128..=127).collect();
    let mut output = vec![0; 256];
    look_up(&table, &stored(on.storage, &input), &mut output);
    same(on, case, &output, &case.values("y"));
}

fn global_average(on: Subject, isa: Isa, case: &Case) {
    let (scales, zeros): ([f32; 2], [i32; 2]) = (case.array("scales"), case.array("zeros"));
    let of = |i: usize| Quantization { scale: scales[i], zero_point: case.zero(zeros[i]) };
    let (c, pixels) = (case.number("c"), case.number("pixels"));
    let mut output = vec![0; c];
    let pool = AveragePool::new(isa, on.storage, of(0), of(1), false).unwrap();
    pool.run_global(&stored(on.storage, &case.values("x")), pixels, c, &mut output);
    same(on, case, &output, &case.values("y"));
}
