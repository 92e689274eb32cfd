//! What is refused at load, and what stops a call before it touches memory.

use std::panic::catch_unwind;

use super::*;

const REQUANT: Requant<'_> = Requant { multipliers: &[0.1], zero_point: 0, lo: -128, hi: 127, table: None };

fn spec<'a>(weights: WeightView<'a>, bias: &'a [i32]) -> GemmSpec<'a> {
    GemmSpec { weights, weight_zero_points: &[], bias, input_zero_point: 0, requant: REQUANT }
}

fn gemm(spec: &GemmSpec<'_>) -> Result<Gemm, PackError> {
    Gemm::new(Isa::Scalar, Storage::S8, spec)
}

/// Σ|w|·255 + |b| up to 2^31 − 1, and one more.
#[test]
fn sums_that_may_leave_31_bits_are_refused() {
    let weights = [-128, 127, 0, -128];
    let view = WeightView::ohwi(&weights, 2, 1, 2).unwrap();
    let most = i32::MAX - 255 * 255;
    assert!(gemm(&spec(view, &[most, 0])).is_ok());
    assert!(gemm(&spec(view, &[-most, 0])).is_ok());
    let reach = i64::from(i32::MAX) + 1;
    assert_eq!(gemm(&spec(view, &[most + 1, 0])).unwrap_err(), PackError::Overflow { channel: 0, reach });
    assert_eq!(gemm(&spec(view, &[-most - 1, 0])).unwrap_err(), PackError::Overflow { channel: 0, reach });
    assert_eq!(gemm(&spec(view, &[0, -most - 1])).err(), None, "the second channel's weights are smaller");
    let bias = [0, most];
    let zero_points = GemmSpec { weight_zero_points: &[127], ..spec(view, &bias) };
    assert!(matches!(gemm(&zero_points), Err(PackError::Overflow { channel: 1, .. })));
    let depthwise = |bias: &[i32]| {
        let (input_zero_point, requant) = (0, REQUANT);
        let weights = &[-128, 127];
        let spec = DepthwiseSpec {
            weights,
            channels: 1,
            kernel: [1, 2],
            weight_zero_points: &[],
            bias,
            input_zero_point,
            requant,
        };
        Depthwise::new(Isa::Scalar, Storage::S8, &spec)
    };
    assert!(depthwise(&[most]).is_ok());
    assert_eq!(depthwise(&[most + 1]).unwrap_err(), PackError::Overflow { channel: 0, reach });
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let weights = [1; 12];
    assert!(matches!(WeightView::oihw(&weights, 2, 3, 3), Err(PackError::Length { wanted: 18, found: 12, .. })));
    let view = WeightView::matrix(&weights, 4, 3).unwrap();
    assert!(matches!(gemm(&spec(view, &[1, 2])), Err(PackError::Length { what: "bias", wanted: 3, .. })));
    let requant = Requant { multipliers: &[0.1, f32::NAN, 0.1], ..REQUANT };
    assert!(matches!(gemm(&GemmSpec { requant, ..spec(view, &[]) }), Err(PackError::Multiplier { channel: 1, .. })));
    let spec_of = |kernel: [usize; 2], weights| DepthwiseSpec {
        weights,
        channels: 1,
        kernel,
        weight_zero_points: &[],
        bias: &[],
        input_zero_point: 0,
        requant: REQUANT,
    };
    let many = vec![0; 256 * 256];
    let depthwise = |kernel, weights| Depthwise::new(Isa::Scalar, Storage::S8, &spec_of(kernel, weights));
    assert!(depthwise([257, 255], &many[..257 * 255]).is_ok());
    assert!(matches!(depthwise([256, 256], &many), Err(PackError::Length { what: "taps", found: 65_536, .. })));
    let requant = Requant { lo: 3, hi: 2, ..REQUANT };
    assert_eq!(gemm(&GemmSpec { requant, ..spec(view, &[]) }).unwrap_err(), PackError::Bounds { lo: 3, hi: 2 });
    for isa in Isa::ALL {
        for storage in [Storage::S8, Storage::U8] {
            let here = isa.is_available() && isa.supports(storage);
            assert_eq!(Gemm::new(isa, storage, &spec(view, &[])).is_ok(), here, "{isa} {storage:?}");
            assert_eq!(MaxPool::new(isa, storage).is_ok(), here, "{isa} {storage:?}");
        }
    }
}

#[test]
fn windows_that_cannot_slide_are_refused() {
    let good = Geometry {
        input: [4, 4],
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0; 4],
        pixel_stride: 8,
        row_stride: 32,
    };
    let of = |geometry| Indirection::new(&geometry).map(|map| map.output());
    assert_eq!(of(good), Ok([2, 2]));
    assert!(matches!(of(Geometry { kernel: [3, 0], ..good }), Err(GeometryError::Zero(_))));
    assert!(matches!(of(Geometry { dilation: [2, 1], ..good }), Err(GeometryError::TooSmall(_))));
    assert!(matches!(of(Geometry { row_stride: 1 << 30, ..good }), Err(GeometryError::TooLarge(_))));
    assert!(matches!(of(Geometry { row_stride: usize::MAX, ..good }), Err(GeometryError::TooLarge(_))));
}

#[test]
fn short_slices_stop_a_call() {
    let weights = vec![1; 20 * 24];
    let gemm = gemm(&spec(WeightView::ohwi(&weights, 24, 1, 20).unwrap(), &[])).unwrap();
    let run = |bytes: usize, rows: usize, first: usize| {
        let gemm = &gemm;
        catch_unwind(move || {
            let (input, mut output) = (vec![0; bytes], vec![0; 24 * rows]);
            let (_, mut tile) = TileMut::new(&mut output, rows, 24, 24).split_columns(first);
            gemm.run(&Source { data: &input, rows: Rows::Direct { stride: 20 } }, &mut tile);
        })
    };
    assert!(run(60, 3, 0).is_ok());
    assert!(run(59, 3, 0).is_err(), "one byte less than three rows");
    assert!(run(60, 3, 16).is_ok());
    assert!(run(60, 3, 8).is_err(), "inside of a strip");
    assert!(catch_unwind(|| TileMut::new(&mut [0_u8; 10], 2, 6, 5).rows()).is_err());
    assert!(catch_unwind(|| TileMut::new(&mut [0_u8; 100], 2, 6, 7).rows()).is_err(), "rows overlap");
    assert!(catch_unwind(|| TileMut::new(&mut [0_u8; 10], usize::MAX, usize::MAX, 1).rows()).is_err());
}
