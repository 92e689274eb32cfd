//! Promises of changed copies: along the right axes, of the input's type, or refused.

use super::*;
use crate::compress::Silent;
use crate::compress::data::{Reading, tensor_of};
use crate::compress::sketch::{Sketch, noise};
use crate::compress::train::{Plain, Recipe, Samples, fit, read};
use crate::engine::Shapes;
use crate::onnx::ElementType;
use crate::onnx::graph::{Attribute, Declared};
use std::path::Path;

const FLIP_AND_SHIFT: Augment = Augment { flip: true, shift: 1, cutout: 0, contrast: 0.0, noise: 0.0 };

/// Channels last, as files of TensorFlow have them: a Transpose stands before the convolution.
fn channels_last(shape: &[usize]) -> Network {
    let mut sketch = Sketch::new(&[("x", shape)]);
    let perm = Attribute::Ints(if shape.len() == 4 { vec![0, 3, 1, 2] } else { vec![0, 2, 1] });
    let centred = sketch.0.graph.add_constant("half", crate::onnx::Tensor::scalar_f32(0.5));
    let input = sketch.input(0);
    let moved = sketch.node("Sub", &[input, centred], &[]);
    let turned = sketch.node("Transpose", &[moved], &[("perm", perm)]);
    let kernel = [&[2, shape[shape.len() - 1]][..], &vec![1; shape.len() - 2]].concat();
    let output = sketch.conv(turned, &kernel, 1);
    sketch.network_with_norms(output)
}

fn channels_first(shape: &[usize]) -> Network {
    let mut sketch = Sketch::new(&[("x", shape)]);
    let kernel = [&[2, shape[1]][..], &vec![1; shape.len() - 2]].concat();
    let output = sketch.conv(sketch.input(0), &kernel, 1);
    sketch.network_with_norms(output)
}

/// Nothing that says where channels stand.
fn flattened(shape: &[usize]) -> Network {
    let mut sketch = Sketch::new(&[("x", shape)]);
    let flat = sketch.node("Flatten", &[sketch.input(0)], &[]);
    let weight = sketch.weights(&[shape.iter().product(), 3], 0.5);
    let output = sketch.node("MatMul", &[flat, weight], &[]);
    sketch.network_with_norms(output)
}

fn changed(network: &Network, how: Augment, values: &[f32], seed: u64) -> Vec<f32> {
    let mut values = values.to_vec();
    how.ready(network, &noise(network, 1)).unwrap().change(&mut values, seed);
    values
}

#[test]
fn both_layouts_of_an_image_are_changed_alike() {
    let (channels, high, wide) = (2, 5, 6);
    let first: Vec<f32> = (0..channels * high * wide).map(|at| 1.0 + at as f32).collect();
    let last = |first: &[f32]| -> Vec<f32> {
        let at = |at: usize| at % channels * high * wide + at / channels;
        (0..first.len()).map(|to| first[at(to)]).collect()
    };
    let [nchw, nhwc] = [channels_first(&[1, channels, high, wide]), channels_last(&[1, high, wide, channels])];
    let cutout = Augment { cutout: 2, contrast: 0.2, ..FLIP_AND_SHIFT };
    let mut different = 0;
    for seed in 0..40 {
        for how in [FLIP_AND_SHIFT, cutout] {
            let of_first = changed(&nchw, how, &first, seed);
            assert_eq!(changed(&nhwc, how, &last(&first), seed), last(&of_first), "{seed}");
            different += usize::from(of_first != first);
        }
    }
    assert!(different > 60, "{different}");
    // Mirrored alone, it is each row backwards.
    let flip = Augment { shift: 0, ..FLIP_AND_SHIFT };
    let backwards: Vec<f32> = first.chunks(wide).flat_map(|row| row.iter().rev().copied()).collect();
    assert!((0..20).any(|seed| changed(&nchw, flip, &first, seed) == backwards));
}

#[test]
fn lines_are_moved_along_their_length() {
    let (length, channels) = (7, 3);
    let series: Vec<f32> = (0..length * channels).map(|at| 1.0 + at as f32).collect();
    let network = channels_last(&[1, length, channels]);
    let shift = Augment { flip: false, ..FLIP_AND_SHIFT };
    let later = [&vec![0.0; channels][..], &series[..(length - 1) * channels]].concat();
    assert!((0..20).any(|seed| changed(&network, shift, &series, seed) == later));
}

#[test]
fn a_layout_is_known_by_the_manifest_the_readers_or_the_channels_or_refused() {
    let of = |network: &Network| FLIP_AND_SHIFT.ready(network, &noise(network, 1));
    let told = |shape: &[usize]| of(&flattened(shape)).unwrap_err().to_string();
    for shape in [&[1, 8, 8, 8][..], &[1, 3, 8, 3], &[1, 5, 6]] {
        let told = told(shape);
        assert!(told.contains("layout") && told.contains("\"x\""), "{told}");
    }
    let colours = flattened(&[1, 8, 6, 3]);
    let plane = of(&colours).unwrap().0.unwrap().plane;
    assert_eq!((plane.high, plane.wide, plane.inner), (8, 6, 3));
    // What moves nothing needs to know nothing.
    let noisy = Augment { noise: 0.1, contrast: 0.1, ..Augment::default() };
    let network = flattened(&[1, 8, 8, 8]);
    assert!(!noisy.ready(&network, &noise(&network, 1)).unwrap().is_none());
    // The manifest's word.
    let dir = tempfile::tempdir().unwrap();
    image::RgbImage::new(4, 4).save(dir.path().join("a.png")).unwrap();
    let how = crate::bundle::ImagePreprocess { layout: Layout::Nhwc, ..Default::default() };
    let reading = Reading { preprocess: Some(crate::bundle::Preprocess::Image(how)), ..Reading::default() };
    let square = flattened(&[1, 3, 4, 3]);
    let data = Dataset::open(dir.path(), &square.inputs, &reading).unwrap();
    let plane = FLIP_AND_SHIFT.ready(&square, &data).unwrap().0.unwrap().plane;
    assert_eq!((plane.high, plane.wide, plane.inner), (3, 4, 3));
}

/// Images of bytes, each with a label, as an npz's would be.
fn of_integers(element: ElementType) -> (Network, Dataset, tempfile::TempDir) {
    let mut sketch = Sketch::new(&[("x", &[1, 1, 6, 6])]);
    let declared = Declared::Tensor {
        element: Some(element),
        shape: Some([1, 1, 6, 6].map(crate::onnx::graph::Dim::Size).to_vec()),
    };
    sketch.0.graph.inputs[0].declared = Some(declared);
    let floats = sketch.node("Cast", &[sketch.input(0)], &[("to", Attribute::Int(1))]);
    let conv = sketch.conv(floats, &[3, 1, 3, 3], 1);
    let pooled = sketch.node("GlobalAveragePool", &[conv], &[]);
    let output = sketch.node("Flatten", &[pooled], &[]);
    let network = sketch.network_with_norms(output);
    let dir = tempfile::tempdir().unwrap();
    let line = |sample: usize| {
        let pixels = (0..36).map(|at| ((at * 37 + sample * 91) % 256).to_string()).collect::<Vec<_>>().join(",");
        format!("{pixels},{}\n", sample % 3)
    };
    std::fs::write(dir.path().join("x.csv"), (0..12).map(line).collect::<String>()).unwrap();
    let data = Dataset::open(&dir.path().join("x.csv"), &network.inputs, &Reading::default()).unwrap();
    (network, data, dir)
}

#[test]
fn images_of_bytes_stay_bytes() {
    let (network, data, _dir) = of_integers(ElementType::U8);
    let how: Augment = "flip,shift:1,cutout:2,contrast:0.5,noise:0.3".parse().unwrap();
    let augmenter = how.ready(&network, &data).unwrap();
    let numbers: Vec<usize> = (0..12).collect();
    let (plain, batch) = (read(&data, &numbers, &Augmenter::default(), 3), read(&data, &numbers, &augmenter, 3));
    let mut different = 0;
    for (before, after) in plain.unwrap().inputs.iter().zip(&batch.unwrap().inputs) {
        let [before, after]: [Vec<i64>; 2] =
            [before, after].map(|inputs| inputs[0].flatten_all().unwrap().to_vec1().unwrap());
        let values: Vec<f64> = after.iter().map(|&value| value as f64).collect();
        assert!(tensor_of(DataType::Uint8, vec![36], &values).is_some(), "{after:?}");
        different += usize::from(before != after);
    }
    assert_eq!(different, 12);
    let samples = Samples { data: &data, train: &numbers[..8], validation: &numbers[8..] };
    let recipe = Recipe { epochs: 1, augment: how, ..Recipe::default() };
    fit(&network, samples, &recipe, &mut Plain, &mut Silent).unwrap();
}

#[test]
fn numbers_that_are_no_pixels_are_not_changed() {
    let (network, data, _dir) = of_integers(ElementType::I64);
    let told = FLIP_AND_SHIFT.ready(&network, &data).unwrap_err().to_string();
    assert!(told.contains("INT64") && told.contains("images"), "{told}");
    let held = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress/digits.onnx");
    let digits = Network::of_file(&std::fs::read(held).unwrap(), &Shapes::new()).unwrap();
    assert!(Augment::default().ready(&digits, &data).unwrap().is_none());
}
