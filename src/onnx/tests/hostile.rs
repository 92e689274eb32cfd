//! Files made to harm: each is refused or read, and nothing panics or grows.

use super::*;
use crate::onnx::graph::GraphError;
use crate::onnx::normalise::normalise;
use crate::onnx::shapes::InputShapes;
use crate::onnx::{ReadError, TensorError, WireError};

/// Everything that a device does with a file.
fn whole(bytes: &[u8], limits: &Limits) -> Result<(), ReadError> {
    let mut model = Model::from_bytes(bytes, limits)?;
    let inputs = InputShapes::from([("x".to_owned(), vec![1, 1, 4, 4])]);
    drop(normalise(&mut model, &inputs).or_else(|_| normalise(&mut model, &InputShapes::new())));
    let written = model.to_proto().expect("no circle comes from normalising");
    // What we write, we read.
    Model::from_bytes(&written.encode_to_vec(), &Limits::default()).expect("what was written is sound");
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_refused_or_read() {
    let bytes = sample().encode_to_vec();
    whole(&bytes, &Limits::default()).unwrap();
    for cut in 0..bytes.len() {
        let _ = whole(&bytes[..cut], &Limits::default());
    }
    assert!(whole(&[], &Limits::default()).is_err());
}

#[test]
fn a_file_with_any_bit_flipped_is_refused_or_read() {
    let bytes = sample().encode_to_vec();
    let limits = Limits { memory: 1 << 20, ..Limits::default() };
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let _ = whole(&flipped, &limits);
        }
        for value in [0, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = whole(&changed, &limits);
        }
    }
}

#[test]
fn small_files_cannot_become_large_in_memory() {
    let graph = GraphProto { node: vec![NodeProto::default(); 1000], ..Default::default() };
    let bytes = model(17, graph).encode_to_vec();
    assert!(bytes.len() < 2100);
    let limits = Limits { nodes: 999, ..Limits::default() };
    assert!(matches!(whole(&bytes, &limits), Err(ReadError::Wire(WireError::Nodes { limit: 999 }))));
    let limits = Limits { memory: 100_000, ..Limits::default() };
    assert!(matches!(whole(&bytes, &limits), Err(ReadError::Wire(WireError::Memory { .. }))));
    let limits = Limits { file: 10, ..Limits::default() };
    assert!(matches!(whole(&bytes, &limits), Err(ReadError::TooLarge { limit: 10, .. })));
}

#[test]
fn deep_subgraphs_are_refused() {
    let mut graph = GraphProto::default();
    for _ in 0..9 {
        let body = node("Loop", &[], &[]).with(graph_attribute("body", graph));
        graph = GraphProto { node: vec![body], ..Default::default() };
    }
    let refused = whole(&model(17, graph.clone()).encode_to_vec(), &Limits::default()).unwrap_err();
    assert!(matches!(refused, ReadError::Wire(WireError::Subgraphs { limit: 8, .. })), "{refused:?}");
    for _ in 0..200 {
        let body = node("Loop", &[], &[]).with(graph_attribute("body", graph));
        graph = GraphProto { node: vec![body], ..Default::default() };
    }
    let limits = Limits { subgraph_depth: usize::MAX - 1, ..Limits::default() };
    let refused = whole(&model(17, graph).encode_to_vec(), &limits).unwrap_err();
    assert!(matches!(refused, ReadError::Wire(WireError::Nesting { .. })), "{refused:?}");
}

fn with_tensor(tensor: TensorProto) -> Result<Model, ReadError> {
    read(&model(17, GraphProto { initializer: vec![tensor], ..Default::default() }))
}

#[test]
fn tensors_that_do_not_fill_their_shape_are_refused() {
    let huge = i64::MAX;
    for dims in [&[huge, huge][..], &[huge], &[-1], &[1 << 32, 1 << 32], &[1; 17], &[3], &[1]] {
        let refused = with_tensor(floats("w", dims, &[1.0, 2.0])).unwrap_err();
        assert!(matches!(refused, ReadError::Tensor { .. }), "{dims:?}: {refused:?}");
    }
    assert!(with_tensor(floats("w", &[0, huge, huge], &[])).is_ok());
    let refused = with_tensor(raw("w", ElementType::I16, &[2], &[0; 3])).unwrap_err();
    let text = format!("{refused}: {}", std::error::Error::source(&refused).unwrap());
    assert_eq!(
        text,
        "tensor \"w\" of the graph's initializers: INT16 of shape [2] needs 4 bytes, and there are 3: the file is damaged"
    );
    let complex = TensorProto { data_type: 14, ..floats("w", &[1], &[1.0]) };
    assert!(matches!(with_tensor(complex), Err(ReadError::Tensor { source: TensorError::Element(_), .. })));
    let too_large = TensorProto { data_type: 3, int32_data: vec![128], dims: vec![1], ..Default::default() };
    assert!(matches!(with_tensor(too_large), Err(ReadError::Tensor { source: TensorError::Value(_), .. })));
}

#[test]
fn sparse_tensors_stay_within_their_shape_and_bounds() {
    let sparse = |dims: &[i64], at: &[i64]| SparseTensorProto {
        values: Some(floats("s", &[2], &[1.0, 2.0])),
        indices: Some(longs("", &[2], at)),
        dims: dims.to_vec(),
    };
    let with = |sparse| read(&model(17, GraphProto { sparse_initializer: vec![sparse], ..Default::default() }));
    let made = with(sparse(&[2, 2], &[0, 3])).unwrap();
    let (id, _) = made.graph.values().next().unwrap();
    assert_eq!(made.graph.constant(id).unwrap().to_f32s().unwrap(), [1.0, 0.0, 0.0, 2.0]);
    assert!(with(sparse(&[2, 2], &[0, 4])).is_err());
    assert!(with(sparse(&[2, 2], &[-1, 0])).is_err());
    assert!(with(sparse(&[1 << 40], &[0, 1])).is_err());
}

#[test]
fn graphs_that_do_not_hold_together_are_refused() {
    let with = |nodes: Vec<NodeProto>| read(&model(17, GraphProto { node: nodes, ..Default::default() })).unwrap_err();
    let twice = with(vec![node("Constant", &[], &["a"]), node("Constant", &[], &["a"])]);
    assert!(matches!(twice, ReadError::Graph(GraphError::TwoProducers { .. })));
    let dangling = with(vec![node("Relu", &["nowhere"], &["a"])]);
    assert!(matches!(dangling, ReadError::Graph(GraphError::Dangling { .. })));
    let circle = with(vec![node("Relu", &["b"], &["a"]), node("Relu", &["a"], &["b"])]);
    assert!(matches!(circle, ReadError::Graph(GraphError::Cycle(_))));
    let itself = with(vec![node("Add", &["a", "a"], &["a"])]);
    assert!(matches!(itself, ReadError::Graph(GraphError::Cycle(_))));
    let through_body = GraphProto { node: vec![node("Relu", &["a"], &["inner"])], ..Default::default() };
    let circle = with(vec![node("Loop", &[], &["a"]).with(graph_attribute("body", through_body))]);
    assert!(matches!(circle, ReadError::Graph(GraphError::Cycle(_))));
    let unknown = with(vec![node("Relu", &[], &["a"]).in_domain("my.own")]);
    assert!(matches!(unknown, ReadError::Graph(GraphError::NoVersion { .. })));
}

pub(super) fn external(location: &str, entries: &[(&str, &str)]) -> ModelProto {
    let entry = |(key, value): (&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
    let mut tensor = floats("w", &[2], &[]);
    tensor.data_location = 1;
    tensor.external_data = [("location", location)].iter().chain(entries).map(|&pair| entry(pair)).collect();
    let output = vec![info("w", &[2])];
    model(17, GraphProto { initializer: vec![tensor], output, ..Default::default() })
}

#[test]
fn external_data_comes_from_beside_the_model_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(dir.path().join("secret"), [0; 8]).unwrap();
    std::fs::write(path.join("w.bin"), [0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), path.join("link")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path.join("zero")).unwrap();
    let file = path.join("model.onnx");
    let open = |location: &str, entries: &[(&str, &str)], limit: u64| {
        std::fs::write(&file, external(location, entries).encode_to_vec()).unwrap();
        Model::from_file(&file, &Limits { external: limit, ..Limits::default() })
    };
    let good = open("w.bin", &[("offset", "4"), ("length", "8")], 8).unwrap();
    let tensor = good.graph.constant(good.graph.outputs[0].value).unwrap();
    assert_eq!(tensor.to_f32s().unwrap(), [1.0, 2.0]);
    assert!(open("./w.bin", &[("offset", "4")], 8).is_ok());
    assert!(open("w.bin", &[("offset", "4"), ("length", "8")], 7).is_err());
    for location in ["../secret", "link", "zero", "/etc/passwd", "", ".", "model.onnx", "missing", "a\0b"] {
        assert!(open(location, &[("length", "8")], 100).is_err(), "{location:?}");
    }
    for entries in [
        &[("offset", "8"), ("length", "8")][..],
        &[("offset", "18446744073709551615"), ("length", "8")],
        &[("offset", "-4"), ("length", "8")],
        &[("length", "4")],
        &[],
    ] {
        assert!(open("w.bin", entries, 100).is_err(), "{entries:?}");
    }
    assert!(read(&external("w.bin", &[])).is_err());
}
