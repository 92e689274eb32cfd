//! What files give, and what hostile ones are told.

use super::*;
use crate::bundle::{AudioPreprocess, ColorOrder, ImagePreprocess, Layout, Resize};
use image::{Rgb, RgbImage};
use std::collections::BTreeSet;

fn spec(shape: &[usize]) -> Vec<TensorSpec> {
    vec![TensorSpec::new("x", DataType::Fp32, shape.to_vec())]
}

fn open(path: &Path, shape: &[usize]) -> Result<Dataset, DataError> {
    Dataset::open(path, &spec(shape), &Reading::default())
}

fn told(result: Result<Dataset, DataError>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

fn values(data: &Dataset, sample: usize) -> Vec<f32> {
    data.sample(sample).unwrap().inputs[0].to_f32().unwrap()
}

#[test]
fn the_digits_of_an_npz_have_labels_and_are_scaled() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress/held.npz");
    let reading = Reading { scale: Some(1.0 / 16.0), ..Reading::default() };
    let data = Dataset::open(&path, &spec(&[1, 1, 8, 8]), &reading).unwrap();
    assert_eq!((data.len(), data.is_labelled()), (370, true));
    let classes: BTreeSet<usize> = (0..370)
        .filter_map(|at| if let Some(Label::Class(class)) = data.label(at) { Some(*class) } else { None })
        .collect();
    assert_eq!(classes.len(), 10);
    assert!(values(&data, 7).iter().all(|value| (0.0..=1.0).contains(value)));
    assert!(values(&data, 7).iter().any(|value| *value > 0.9));
    assert!(told(open(&path, &[1, 3, 8, 8])).contains("do not fit input \"x\": FP32 [1, 3, 8, 8] is expected"));
}

#[test]
fn lines_of_a_csv_are_samples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let written = |text: &str| {
        std::fs::write(&path, text).unwrap();
        open(&path, &[1, 2])
    };
    let data = written("a,b,label\n1,2.5,cat\n-3,4,ant\n").unwrap();
    assert_eq!((values(&data, 0), data.classes()), (vec![1.0, 2.5], &["ant".to_owned(), "cat".to_owned()][..]));
    assert_eq!([data.label(0), data.label(1)], [Some(&Label::Class(1)), Some(&Label::Class(0))]);
    assert_eq!(written("1,2\n3,4\n").unwrap().len(), 2);
    assert_eq!(written("1,2,0.5\n3,4,1.5\n").unwrap().label(1), Some(&Label::Values(vec![1.5])));
    assert!(told(written("1,2,3,4\n")).contains("there are 4 columns; input \"x\" takes 2 values"));
    assert!(told(written("1,2\n3,four\n")).contains("line 2, column 2: \"four\" is no number"));
    assert!(told(written("1,2\n3\n")).contains("record 1"));
    assert!(told(written("")).contains("no samples"));
    written("1,nan\n").unwrap().sample(0).unwrap_err();
}

#[test]
fn labels_may_be_in_a_file_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (path, labels) = (dir.path().join("x.csv"), dir.path().join("labels.txt"));
    std::fs::write(&path, "1,2\n3,4\n").unwrap();
    let reading = Reading { labels: Some(labels.clone()), ..Reading::default() };
    std::fs::write(&labels, "1\n0\n").unwrap();
    let data = Dataset::open(&path, &spec(&[1, 2]), &reading).unwrap();
    assert_eq!(data.label(0), Some(&Label::Class(1)));
    std::fs::write(&labels, "1\n").unwrap();
    assert!(told(Dataset::open(&path, &spec(&[1, 2]), &reading)).contains("2 samples and 1 labels"));
}

#[test]
fn images_become_what_the_manifest_says() {
    let dir = tempfile::tempdir().unwrap();
    for (class, color) in [("blue", Rgb([0, 0, 255])), ("red", Rgb([255, 0, 0]))] {
        std::fs::create_dir(dir.path().join(class)).unwrap();
        RgbImage::from_pixel(9, 5, color).save(dir.path().join(class).join("one.png")).unwrap();
    }
    let read = |preprocess: ImagePreprocess, shape: &[usize]| {
        let reading = Reading { preprocess: Some(Preprocess::Image(preprocess)), ..Reading::default() };
        Dataset::open(dir.path(), &spec(shape), &reading)
    };
    let data = read(ImagePreprocess::default(), &[1, 3, 2, 2]).unwrap();
    assert_eq!((data.len(), data.classes()), (2, &["blue".to_owned(), "red".to_owned()][..]));
    assert_eq!(values(&data, 1), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let other = ImagePreprocess {
        color: ColorOrder::Bgr,
        layout: Layout::Nhwc,
        resize: Resize::Crop,
        scale: 1.0,
        mean: vec![5.0],
        std: vec![1.0, 1.0, 10.0],
    };
    assert_eq!(values(&read(other, &[1, 1, 1, 3]).unwrap(), 1), [-5.0, -5.0, 25.0]);
    let gray = ImagePreprocess { color: ColorOrder::Gray, ..ImagePreprocess::default() };
    assert_eq!(values(&read(gray, &[1, 1, 1, 1]).unwrap(), 1).len(), 1);
    let misfit = read(ImagePreprocess::default(), &[1, 4, 2, 2]).unwrap().sample(0).unwrap_err().to_string();
    assert!(misfit.contains("3 channels is expected"), "{misfit}");
    std::fs::write(dir.path().join("red/broken.png"), b"\x89PNG\r\n\x1a\nnonsense").unwrap();
    let broken = read(ImagePreprocess::default(), &[1, 3, 2, 2]).unwrap();
    let told = (0..3).find_map(|at| broken.sample(at).err()).unwrap().to_string();
    assert!(told.contains("broken.png"), "{told}");
}

#[test]
fn sounds_are_cut_and_filled() {
    let dir = tempfile::tempdir().unwrap();
    let spec_of = hound::WavSpec {
        channels: 2,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(dir.path().join("a.wav"), spec_of).unwrap();
    for sample in [16_384_i16, 0, -32_768, -32_768] {
        writer.write_sample(sample).unwrap();
    }
    writer.finalize().unwrap();
    assert_eq!(values(&open(dir.path(), &[1, 4]).unwrap(), 0), [0.25, -1.0, 0.0, 0.0]);
    let reading =
        Reading { preprocess: Some(Preprocess::Audio(AudioPreprocess { rate: Some(8_000) })), ..Reading::default() };
    let other = Dataset::open(dir.path(), &spec(&[1, 4]), &reading).unwrap();
    assert!(other.sample(0).unwrap_err().to_string().contains("16000 samples a second and 8000 are expected"));
}

#[test]
fn hostile_arrays_end_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npy");
    let written = |header: &str, data: &[u8]| {
        let header = format!("{header}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(data);
        std::fs::write(&path, bytes).unwrap();
        open(&path, &[1, 2])
    };
    let header = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    assert_eq!(written(&header("1, 2"), &[0; 8]).unwrap().len(), 1);
    assert!(told(written(&header("1, 2"), &[0; 7])).contains("cut off"));
    assert!(told(written(&header("99999999999999, 2"), &[0; 8])).contains("larger than any file"));
    assert!(told(written(&header("4000000000, 1"), &[0; 8])).contains("more than there can be"));
    assert!(told(written("{'descr': '|O', 'fortran_order': False, 'shape': (1, 2), }", &[0; 8])).contains("npy"));
    assert!(told(written(&header("1, 2").replace("False", "True"), &[0; 8])).contains("Fortran"));
    assert!(told(written("{", &[])).contains("no npy file"));
    for name in ["x.npz", "x.safetensors", "x.txt"] {
        std::fs::write(dir.path().join(name), b"nonsense").unwrap();
        assert!(open(&dir.path().join(name), &[1, 2]).is_err(), "{name}");
    }
    assert!(told(open(&dir.path().join("absent.npz"), &[1, 2])).contains("absent.npz"));
}

#[test]
fn parts_have_nothing_in_common_and_are_the_same_by_seed() {
    let split = Split::new(1000, 7, Shares::default());
    let all: BTreeSet<usize> = [&split.train[..], &split.validation, &split.test].concat().into_iter().collect();
    assert_eq!((all.len(), split.train.len(), split.validation.len()), (1000, 600, 200));
    assert_eq!(split, Split::new(1000, 7, Shares::default()));
    assert_ne!(split, Split::new(1000, 8, Shares::default()));
    for few in 0..6 {
        let split = Split::new(few, 1, Shares::default());
        assert_eq!(split.train.len() + split.validation.len() + split.test.len(), few);
        assert!(
            few < 3 || [&split.train, &split.validation, &split.test].iter().all(|part| !part.is_empty()),
            "{split:?}"
        );
    }
}

#[test]
fn values_stay_values_wherever_labels_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (path, labels) = (dir.path().join("x.csv"), dir.path().join("y.npy"));
    std::fs::write(&path, "1,2\n3,4\n").unwrap();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend([0.25_f32, -1.5].iter().flat_map(|value| value.to_le_bytes()));
    std::fs::write(&labels, bytes).unwrap();
    let data = Dataset::open(&path, &spec(&[1, 2]), &Reading { labels: Some(labels), ..Reading::default() }).unwrap();
    assert_eq!(data.label(1), Some(&Label::Values(vec![-1.5])));
}

#[test]
fn folders_of_editors_are_no_classes_and_empty_classes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".ipynb_checkpoints", "a", "b"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    RgbImage::new(2, 2).save(dir.path().join("a/1.png")).unwrap();
    assert!(told(open(dir.path(), &[1, 3, 2, 2])).contains("no image or WAV file of this class"));
    RgbImage::new(2, 2).save(dir.path().join("b/1.png")).unwrap();
    assert_eq!(open(dir.path(), &[1, 3, 2, 2]).unwrap().classes(), ["a", "b"]);
}

#[test]
fn a_thin_image_is_cut_before_it_is_made_large() {
    let dir = tempfile::tempdir().unwrap();
    RgbImage::new(16_384, 1).save(dir.path().join("thin.png")).unwrap();
    let crop = ImagePreprocess { resize: Resize::Crop, ..ImagePreprocess::default() };
    let reading = Reading { preprocess: Some(Preprocess::Image(crop)), ..Reading::default() };
    // Otherwise this would take gigabytes.
    let data = Dataset::open(dir.path(), &spec(&[1, 3, 1024, 1024]), &reading).unwrap();
    assert_eq!(values(&data, 0).len(), 3 << 20);
}

#[test]
fn some_samples_may_have_no_label_in_every_kind_of_data() {
    let dir = tempfile::tempdir().unwrap();
    let (path, labels) = (dir.path().join("x.csv"), dir.path().join("labels.txt"));
    let classes = |data: &Dataset| (0..data.len()).map(|at| data.label(at).cloned()).collect::<Vec<_>>();
    let [none, one, two] = [None, Some(Label::Class(1)), Some(Label::Class(2))];
    let written = |text: &str| {
        std::fs::write(&path, text).unwrap();
        open(&path, &[1, 2]).unwrap()
    };
    let data = written("a,b,label\n1,2,1\n3,4,\n5,6,2\n");
    assert_eq!((classes(&data), data.labelled()), (vec![one.clone(), none.clone(), two.clone()], 2));
    assert!(!data.is_labelled());
    let data = written("1,2,cat\n3,4,\n5,6,ant\n");
    assert_eq!((data.classes(), data.label(0), data.label(1)), (&["ant".into(), "cat".into()][..], one.as_ref(), None));
    assert_eq!(written("1,2,0.5\n3,4,\n").label(0), Some(&Label::Values(vec![0.5])));
    assert_eq!(written("1,2,\n3,4,\n").labelled(), 0);
    std::fs::write(&path, "1,2,nan\n3,4,1\n").unwrap();
    assert!(told(open(&path, &[1, 2])).contains("leave it empty"));
    // A file of labels: empty lines; what stands behind the last is nothing.
    std::fs::write(&path, "1,2\n3,4\n5,6\n").unwrap();
    let beside = |labels: &Path| {
        Dataset::open(&path, &spec(&[1, 2]), &Reading { labels: Some(labels.to_owned()), ..Reading::default() })
    };
    for (text, expected) in [
        ("1\n\n2\n", vec![one.clone(), none.clone(), two.clone()]),
        ("1\n2\n1\n\n\n", vec![one.clone(), two.clone(), one.clone()]),
        ("1\n2\n\n", vec![one.clone(), two.clone(), none.clone()]),
    ] {
        std::fs::write(&labels, text).unwrap();
        assert_eq!(classes(&beside(&labels).unwrap()), expected, "{text:?}");
    }
    std::fs::write(&labels, "1\n2\n").unwrap();
    assert!(told(beside(&labels)).contains("3 samples and 2 labels"));
    let integers = |values: &[i64]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        arrays::of_labels(&Tensor::new(DataType::Int64, vec![values.len()], bytes).unwrap())
    };
    assert_eq!(integers(&[1, -1, 2]).unwrap(), [one, none, two]);
    assert!(integers(&[1, -2]).unwrap_err().contains("below -1"));
    let floats = |values: &[f32]| arrays::of_labels(&Tensor::from_f32(vec![values.len() / 2, 2], values).unwrap());
    assert_eq!(floats(&[0.5, 1.0, f32::NAN, f32::NAN]).unwrap(), [Some(Label::Values(vec![0.5, 1.0])), None]);
    assert!(floats(&[0.5, f32::NAN]).unwrap_err().contains("NaN"));
}

#[test]
fn a_subfolder_of_what_has_no_label_is_no_class() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "unlabelled", "z"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        RgbImage::new(2, 2).save(dir.path().join(name).join("1.png")).unwrap();
    }
    let data = open(dir.path(), &[1, 3, 2, 2]).unwrap();
    assert_eq!((data.classes(), data.labelled()), (&["a".to_owned(), "z".into()][..], 2));
    assert_eq!([data.label(0), data.label(1), data.label(2)], [Some(&Label::Class(0)), None, Some(&Label::Class(1))]);
    // Unless the model calls one of its classes so.
    let reading = Reading { classes: ["a", "unlabelled", "z"].map(str::to_owned).to_vec(), ..Reading::default() };
    assert!(Dataset::open(dir.path(), &spec(&[1, 3, 2, 2]), &reading).unwrap().is_labelled());
}
