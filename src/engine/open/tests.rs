//! Against onnxruntime at several shapes: `tests/vectors/open/make.py`.

use super::super::fixture;
use super::super::model::{LoadError, Model, RunError};
use super::*;
use crate::tensor::DataType;
use safetensors::SafeTensors;

const FILE: &[u8] = include_bytes!("../../../tests/vectors/open/open.safetensors");

fn tensors() -> SafeTensors<'static> {
    SafeTensors::deserialize(FILE).unwrap()
}

fn onnx() -> Vec<u8> {
    tensors().tensor("model").unwrap().data().to_vec()
}

fn input(max: &[usize]) -> [TensorSpec; 1] {
    [TensorSpec { max_shape: Some(max.to_vec()), ..TensorSpec::new("x", DataType::Fp32, vec![1, 3, 16, 16]) }]
}

fn outputs() -> [TensorSpec; 2] {
    [TensorSpec::new("map", DataType::Fp32, vec![1, 5, 8, 8]), TensorSpec::new("scores", DataType::Fp32, vec![1, 7])]
}

fn load(max: &[usize]) -> Result<Model, LoadError> {
    Model::load(&onnx(), &input(max), &outputs())
}

fn given(name: &str) -> Tensor {
    let view = tensors().tensor(name).unwrap().data().to_vec();
    Tensor::new(DataType::Fp32, tensors().tensor(name).unwrap().shape().to_vec(), view).unwrap()
}

fn zeros(shape: [usize; 4]) -> Tensor {
    Tensor::from_f32(shape.to_vec(), &vec![0.0; shape.iter().product()]).unwrap()
}

#[test]
fn each_shape_gives_what_onnxruntime_gives() {
    let model = load(&[4, 3, 32, 32]).unwrap();
    assert_eq!(model.outputs()[0].form(), "FP32 [1 to 4, 5, 1 to 16, 1 to 16]");
    assert_eq!(model.outputs()[1].form(), "FP32 [1 to 4, 7]");
    let mut session = model.session().unwrap();
    for _ in 0..2 {
        for name in ["1x16x16", "2x16x24", "3x9x31", "4x1x2", "1x32x32"] {
            let made = session.run(&[given(&format!("{name}/x"))]).unwrap();
            for (made, output) in made.iter().zip(["map", "scores"]) {
                let wanted = given(&format!("{name}/{output}"));
                assert_eq!(made.shape(), wanted.shape(), "{name} {output}");
                let far = made.to_f64().iter().zip(wanted.to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(far < 1e-5, "{name} {output} is {far} off");
            }
        }
    }
}

#[test]
fn shapes_beyond_the_largest_are_refused_before_anything_is_made() {
    let model = load(&[2, 3, 32, 16]).unwrap();
    let mut session = model.session().unwrap();
    for shape in [[3, 3, 16, 16], [1, 3, 33, 16], [1, 3, 16, 8], [1, 1, 16, 16]] {
        let told = session.run(&[zeros(shape)]).unwrap_err();
        assert!(told.is_callers_fault(), "{told}");
        assert!(told.to_string().contains("FP32 [1 to 2, 3, 1 to 32, 16]"), "{told}");
    }
    assert_eq!(model.open.as_ref().unwrap().ready(), [[2, 3, 32, 16]; 0], "nothing is ready");
    let closed = Model::load(&onnx(), &[TensorSpec::new("x", DataType::Fp32, vec![1, 3, 16, 16])], &outputs()).unwrap();
    assert!(closed.session().unwrap().run(&[zeros([2, 3, 16, 16])]).is_err());
}

#[test]
fn the_shapes_asked_for_last_stay_ready_and_share_their_weights() {
    let model = load(&[20, 3, 16, 16]).unwrap();
    let mut session = model.session().unwrap();
    for batch in 2..=KEPT + 3 {
        session.run(&[zeros([batch, 3, 16, 16])]).unwrap();
    }
    session.run(&[zeros([5, 3, 16, 16])]).unwrap();
    session.run(&[zeros([20, 3, 16, 16])]).unwrap();
    let open = model.open.as_ref().unwrap();
    let batches: Vec<usize> = open.ready().iter().map(|shape| shape[0]).collect();
    assert_eq!(batches, [6, 7, 8, 9, 10, 11, 5, 20]);
    // Two 1x1 convolutions, the first one, the depthwise one apart, and the product: four in all, whatever is ready.
    assert_eq!(open.common.weights.in_use(), 4);
}

#[test]
fn shapes_with_large_states_make_room_for_the_last() {
    let model = load(&[20, 3, 16, 16]).unwrap();
    let open = model.open.as_ref().unwrap();
    let at = |batch: usize| open.at(model.inputs(), &[zeros([batch, 3, 16, 16])]).unwrap();
    let mut ready: VecDeque<Model> = [2, 20, 3].map(at).into();
    let [small, large, last] = [0, 1, 2].map(|place| ready[place].state_bytes());
    assert!(small < large && last < large);
    trim(&mut ready, small + large + last);
    assert_eq!(ready.len(), 3);
    trim(&mut ready, large + last - 1);
    assert_eq!(ready.len(), 1, "neither the first nor the second had room");
    trim(&mut ready, 0);
    assert_eq!(ready[0].inputs()[0].shape[0], 3, "the last stays");
}

#[test]
fn constants_of_nodes_outside_of_regions_are_in_memory_once() {
    // A table of floats whose rows are looked up: no region takes it.
    let rows: Vec<u8> = (0..64 * 64).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let onnx = fixture::model(&[
        fixture::weights("table", &[64, 64], fixture::FLOAT, &fixture::bytes(9, &rows)),
        fixture::node("Gather", &["table", "x"], &["y"], &[]),
        fixture::value(11, "x", 7, &["n"]),
        fixture::value(12, "y", fixture::FLOAT, &["n", "64"]),
    ]);
    let x = TensorSpec { max_shape: Some(vec![16]), ..TensorSpec::new("x", DataType::Int64, vec![8]) };
    let model = Model::load(&onnx, &[x], &[TensorSpec::new("y", DataType::Fp32, vec![8, 64])]).unwrap();
    let mut session = model.session().unwrap();
    for n in [3_usize, 5] {
        let places = Tensor::new(DataType::Int64, vec![n], [63_i64.to_le_bytes()].concat().repeat(n)).unwrap();
        let made = session.run(&[places]).unwrap();
        assert_eq!((made[0].shape(), made[0].to_f64()[64]), ([n, 64].as_slice(), 63.0 * 64.0));
    }
    let uses = model.open.as_ref().unwrap().common.uses();
    assert!(uses.len() == 1 && uses[0] >= 3, "one table for the manifest's shape and two others: {uses:?}");
}

#[test]
fn several_who_ask_for_a_shape_get_it_made_once() {
    let model = load(&[8, 3, 16, 16]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = model.session().unwrap();
                for batch in [2, 3, 4] {
                    let made = session.run(&[zeros([batch, 3, 16, 16])]).unwrap();
                    assert_eq!(made[1].shape(), [batch, 7]);
                }
            });
        }
    });
    assert_eq!(model.open.as_ref().unwrap().ready().len(), 3);
}

#[test]
fn a_model_that_cannot_be_what_is_stated_is_refused_when_it_loads() {
    // Its weights are of three channels.
    let told = load(&[1, 4, 16, 16]).unwrap_err();
    assert!(matches!(told, LoadError::Largest { .. }), "{told}");
    let told = load(&[64, 3, 40_000, 40_000]).unwrap_err();
    assert!(matches!(told, LoadError::Largest { .. }), "{told}");
    let shape = RunError::Shape { inputs: String::new(), problem: String::new() };
    assert!(shape.is_callers_fault());
}

#[test]
fn a_shape_that_cannot_be_is_remembered_as_such() {
    // Reshape to [n, 4, -1]: only counts that 4 divides.
    let onnx = fixture::model(&[
        fixture::weights("to", &[2], 7, &fixture::bytes(9, &[4_i64, -1].map(i64::to_le_bytes).concat())),
        fixture::node("Reshape", &["x", "to"], &["y"], &[]),
        fixture::value(11, "x", fixture::FLOAT, &["n"]),
        fixture::value(12, "y", fixture::FLOAT, &["4", "m"]),
    ]);
    let x = TensorSpec { max_shape: Some(vec![16]), ..TensorSpec::new("x", DataType::Fp32, vec![8]) };
    let model = Model::load(&onnx, &[x], &[TensorSpec::new("y", DataType::Fp32, vec![4, 2])]).unwrap();
    assert_eq!(model.outputs()[0].form(), "FP32 [4, 1 to 4]");
    let mut session = model.session().unwrap();
    let ask = |session: &mut crate::engine::Session, n: usize| {
        session.run(&[Tensor::from_f32(vec![n], &vec![1.0; n]).unwrap()])
    };
    assert_eq!(ask(&mut session, 12).unwrap()[0].shape(), [4, 3]);
    let first = ask(&mut session, 7).unwrap_err();
    assert!(first.is_callers_fault() && first.to_string().contains("x [7]"), "{first}");
    assert_eq!(ask(&mut session, 7).unwrap_err().to_string(), first.to_string());
    let refused = model.open.as_ref().unwrap().making.lock().unwrap().len();
    assert_eq!(refused, 1);
}

#[test]
fn outputs_that_grow_beyond_a_tensor_of_a_manifest_are_refused() {
    // y = x + xᵗ, of which each side broadcasts.
    let order = fixture::bytes(
        5,
        &[fixture::bytes(1, b"perm"), fixture::number(20, 7), fixture::number(8, 1), fixture::number(8, 0)].concat(),
    );
    let onnx = fixture::model(&[
        fixture::node("Transpose", &["x"], &["t"], &order),
        fixture::node("Add", &["x", "t"], &["y"], &[]),
        fixture::value(11, "x", fixture::FLOAT, &["n", "1"]),
        fixture::value(12, "y", fixture::FLOAT, &["n", "n"]),
    ]);
    let load = |max: usize| {
        let x = TensorSpec { max_shape: Some(vec![max, 1]), ..TensorSpec::new("x", DataType::Fp32, vec![4, 1]) };
        Model::load(&onnx, &[x], &[TensorSpec::new("y", DataType::Fp32, vec![4, 4])])
    };
    assert_eq!(load(64).unwrap().outputs()[0].form(), "FP32 [1 to 64, 1 to 64]");
    let told = load(10_000).unwrap_err();
    assert!(matches!(&told, LoadError::Largest { problem, .. } if problem.contains("268435456 bytes")), "{told}");
}
