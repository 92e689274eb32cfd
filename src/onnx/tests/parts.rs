//! Weights beside messages: in memory, and on disk.

use super::hostile::external;
use super::*;
use crate::onnx::{Data, Encoded, Files, Parts, ReadError, Tensor};
use std::path::Path;

/// A large constant that a node reads, another within a node, and a small one.
fn sample() -> Model {
    let large = |first: f32| (0..3000).map(|at| first + at as f32).collect::<Vec<_>>();
    let constant = |name: &str, values: Vec<f32>| TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: ElementType::F32.to_onnx(),
        float_data: values,
        ..Default::default()
    };
    let inner = node("Constant", &[], &["c"]).with(tensor_attribute("value", constant("", large(0.5))));
    let graph = GraphProto {
        node: vec![inner, node("Add", &["w", "c"], &["s"]), node("Mul", &["s", "one"], &["y"])],
        initializer: vec![constant("w", large(7.0)), constant("one", vec![1.0])],
        output: vec![info("y", &[3000])],
        ..Default::default()
    };
    read(&model(17, graph)).unwrap()
}

/// As it is once written, so that two can be told apart.
fn bytes(model: &Model) -> Vec<u8> {
    model.to_proto().unwrap().encode_to_vec()
}

fn write(dir: &Path, files: &Files) -> std::path::PathBuf {
    std::fs::write(dir.join("m.onnx"), &files.model).unwrap();
    if let Some(data) = &files.data {
        std::fs::write(dir.join("m.onnx.data"), data.pieces().collect::<Vec<_>>().concat()).unwrap();
    }
    dir.join("m.onnx")
}

#[test]
fn weights_beside_are_the_same_memory_and_the_model_the_same_model() {
    let model = sample();
    let parts = model.to_parts().unwrap();
    assert!(parts.whole().is_none() && Encoded::from(&parts).head().len() < 1000);
    assert_eq!(parts.size() - Encoded::from(&parts).head().len(), 24_000);
    let again = Model::from_parts((&parts).into(), &Limits { external: 0, ..Limits::default() }).unwrap();
    assert_eq!(bytes(&again), bytes(&model));
    let place = |model: &Model| {
        let tensors = model.graph.values().filter_map(|(id, _)| model.graph.constant(id));
        tensors.map(Tensor::bytes).find(|bytes| bytes.len() > 4096).unwrap().as_ptr()
    };
    assert_eq!(place(&again), place(&model));
    let shifted = Encoded { head: Encoded::from(&parts).head(), weights: &Encoded::from(&parts).weights[1..] };
    assert!(Model::from_parts(shifted, &Limits::default()).is_err());
}

#[test]
fn a_model_over_the_bound_becomes_two_files_that_are_read_as_it_was() {
    let (model, dir) = (sample(), tempfile::tempdir().unwrap());
    let whole = bytes(&model);
    let one = model.to_files(whole.len() as u64 + 100, "m.onnx.data").unwrap();
    assert!(one.data.is_none() && one.model == whole);
    let two = model.to_files(whole.len() as u64 - 1, "m.onnx.data").unwrap();
    assert_eq!(two.data.as_ref().map(Data::size), Some(12_288 + 12_000));
    assert_eq!(two.size(), (12_288 + 12_000 + two.model.len()) as u64);
    let path = write(dir.path(), &two);
    assert_eq!(bytes(&Model::from_file(&path, &Limits::default()).unwrap()), whole);
    // As the tools read it, and write it once more.
    let parts = Parts::read(&path, 1 << 20, 1 << 20).unwrap();
    assert_eq!(bytes(&Model::from_parts((&parts).into(), &Limits::default()).unwrap()), whole);
    let again = write(dir.path(), &parts.to_files(1, "m.onnx.data").unwrap());
    assert!(bytes(&Model::from_file(&again, &Limits::default()).unwrap()) == whole);
    assert_eq!(
        read(&ModelProto::decode(&parts.to_files(1 << 20, "").unwrap().model[..]).unwrap())
            .map(|model| bytes(&model))
            .unwrap(),
        whole
    );
}

#[test]
fn a_file_that_is_whole_stays_as_it_is_unless_it_is_large() {
    let (model, dir) = (sample(), tempfile::tempdir().unwrap());
    let path = write(dir.path(), &model.to_files(1 << 20, "").unwrap());
    let file = std::fs::read(&path).unwrap();
    assert_eq!(Parts::read(&path, 1 << 20, 1 << 20).unwrap().whole(), Some(&file[..]));
    let parts = Parts::read(&path, 100, 1 << 20).unwrap();
    assert!(parts.whole().is_none());
    assert_eq!(bytes(&Model::from_parts((&parts).into(), &Limits::default()).unwrap()), bytes(&model));
}

#[test]
fn what_memory_does_not_hold_is_told_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let mut huge = external("w.bin", &[]);
    huge.graph.as_mut().unwrap().initializer[0].dims = vec![1 << 20, 1 << 20];
    std::fs::write(&path, huge.encode_to_vec()).unwrap();
    let told = Parts::read(&path, 1 << 20, 1 << 30).unwrap_err();
    assert!(matches!(told, ReadError::Memory { needed, memory } if needed > 1 << 42 && memory == 1 << 30), "{told}");
    assert!(told.to_string().contains("4194305 MiB") && told.to_string().contains("1024"), "{told}");
    std::fs::write(&path, [0; 1000]).unwrap();
    assert!(matches!(Parts::read(&path, 1 << 20, 1999), Err(ReadError::Memory { needed: 2000, .. })));
}

#[test]
fn a_file_from_outside_has_nothing_beside_it_in_memory() {
    let (model, dir) = (sample(), tempfile::tempdir().unwrap());
    let path = dir.path().join("m.onnx");
    // Messages that were made for memory, and a file that says the same of itself.
    std::fs::write(&path, Encoded::from(&model.to_parts().unwrap()).head()).unwrap();
    for hostile in [std::fs::read(&path).unwrap(), external("w.bin", &[("beside", "0")]).encode_to_vec()] {
        std::fs::write(&path, &hostile).unwrap();
        assert!(Model::from_bytes(&hostile, &Limits::default()).is_err());
        assert!(Model::from_file(&path, &Limits::default()).is_err());
        assert!(Parts::read(&path, 1 << 20, 1 << 20).is_err());
    }
}
