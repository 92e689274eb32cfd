//! What the engine promises of files and requests, good and bad.

use super::fixture::{FLOAT, bytes, model, node, number, spec, unary, value, weights};
use super::*;
use crate::tensor::{DataType, Tensor};
use std::sync::Arc;
use std::time::Duration;

fn load_unary(op: &str) -> Result<Model, LoadError> {
    Model::load(&unary(op), &[spec("x", &[2, 4])], &[spec("y", &[2, 4])])
}

fn eight(values: [f32; 8]) -> Vec<Tensor> {
    vec![Tensor::from_f32(vec![2, 4], &values).unwrap()]
}

fn digits() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits/model.onnx")).unwrap()
}

fn load_digits(onnx: &[u8]) -> Result<Model, LoadError> {
    Model::load(onnx, &[spec("image", &[1, 1, 8, 8])], &[spec("logits", &[1, 10])])
}

#[test]
fn symbols_take_the_manifests_sizes_and_stale_shapes_are_ignored() {
    let mut session = load_unary("Relu").unwrap().session().unwrap();
    let outputs = session.run(&eight([-1.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0, -8.0])).unwrap();
    assert_eq!(outputs, eight([0.0, 2.0, 0.0, 4.0, 5.0, 0.0, 7.0, 0.0]));
}

#[test]
fn inputs_and_outputs_come_in_the_manifests_order() {
    let onnx = model(&[
        node("Sub", &["a", "b"], &["difference"], &[]),
        node("Add", &["a", "b"], &["sum"], &[]),
        value(11, "a", FLOAT, &["1"]),
        value(11, "b", FLOAT, &["1"]),
        value(12, "difference", FLOAT, &["1"]),
        value(12, "sum", FLOAT, &["1"]),
    ]);
    let inputs = [spec("b", &[1]), spec("a", &[1])];
    let model = Model::load(&onnx, &inputs, &[spec("sum", &[1]), spec("difference", &[1])]).unwrap();
    let one = |v| Tensor::from_f32(vec![1], &[v]).unwrap();
    let outputs = model.session().unwrap().run(&[one(3.0), one(10.0)]).unwrap();
    assert_eq!(outputs, [one(13.0), one(7.0)]);
    // A part of the outputs will do.
    assert!(Model::load(&onnx, &inputs, &[spec("difference", &[1])]).is_ok());
}

#[test]
fn what_a_manifest_gets_wrong_is_named() {
    let onnx = unary("Relu");
    let (x, y) = (spec("x", &[2, 4]), spec("y", &[2, 4]));
    let load = |inputs: &[_], outputs: &[_]| Model::load(&onnx, inputs, outputs).unwrap_err().to_string();
    let says = |text: String, words: &[&str]| words.iter().for_each(|w| assert!(text.contains(w), "{text} / {w}"));

    says(load(&[spec("z", &[2, 4])], std::slice::from_ref(&y)), &["no input \"z\"", "\"x\""]);
    says(load(std::slice::from_ref(&x), &[spec("z", &[2, 4])]), &["no output \"z\"", "\"y\""]);
    says(load(&[spec("x", &[2, 5])], std::slice::from_ref(&y)), &["[2, 5]", "[batch, 4]"]);
    says(load(std::slice::from_ref(&x), &[spec("y", &[2, 5])]), &["output \"y\"", "[2, 5]", "2,4"]);
    says(load(&[x.clone(), x.clone()], std::slice::from_ref(&y)), &["twice"]);
    says(load(&[], std::slice::from_ref(&y)), &["no input"]);
    let mut wrong = x.clone();
    wrong.datatype = DataType::Int8;
    says(load(&[wrong], std::slice::from_ref(&y)), &["INT8", "FP32"]);
    let mut wrong = y.clone();
    wrong.datatype = DataType::Int64;
    says(load(std::slice::from_ref(&x), &[wrong]), &["output \"y\"", "INT64", "FP32"]);

    let two = model(&[
        node("Add", &["a", "b"], &["y"], &[]),
        value(11, "a", FLOAT, &["1"]),
        value(11, "b", FLOAT, &["1"]),
        value(12, "y", FLOAT, &["1"]),
    ]);
    let lacking = Model::load(&two, &[spec("a", &[1])], &[spec("y", &[1])]);
    says(lacking.unwrap_err().to_string(), &["also needs the input \"b\""]);
}

#[test]
fn unknown_operators_are_listed_by_name_and_node() {
    let domain = bytes(7, b"com.example");
    let onnx = model(&[
        node("Relu", &["x"], &["t"], &domain),
        node("Frobnicate", &["t"], &["y"], &bytes(3, b"the-node")),
        value(11, "x", FLOAT, &["4"]),
        value(12, "y", FLOAT, &["4"]),
    ]);
    let error = Model::load(&onnx, &[spec("x", &[4])], &[spec("y", &[4])]).unwrap_err().to_string();
    assert!(error.contains("com.example.Relu (node \"t\")"), "{error}");
    assert!(error.contains("ai.onnx.Frobnicate (node \"the-node\")"), "{error}");
}

#[test]
fn weights_that_do_not_fill_their_shape_or_lie_elsewhere_are_refused() {
    let load = |weights: Vec<u8>| {
        let onnx = model(&[
            node("Add", &["x", "w"], &["y"], &[]),
            weights,
            value(11, "x", FLOAT, &["4"]),
            value(12, "y", FLOAT, &["4"]),
        ]);
        Model::load(&onnx, &[spec("x", &[4])], &[spec("y", &[4])])
    };
    assert!(load(weights("w", &[4], FLOAT, &bytes(9, &[0; 16]))).is_ok());
    let short = load(weights("w", &[4], FLOAT, &bytes(9, &[0; 12])));
    assert!(matches!(short, Err(LoadError::Weights { .. })), "{short:?}");
    for dims in [&[1 << 40][..], &[u64::MAX], &[1 << 62, 4], &[1; 40]] {
        let huge = load(weights("w", dims, FLOAT, &[]));
        assert!(matches!(huge, Err(LoadError::Weights { .. })), "{huge:?}");
    }
    let entry = [bytes(1, b"location"), bytes(2, b"/etc/passwd")].concat();
    let outside = [number(14, 1), bytes(13, &entry)].concat();
    let elsewhere = load(weights("w", &[4], FLOAT, &outside));
    assert!(matches!(elsewhere, Err(LoadError::ExternalData(name)) if name == "w"));
}

#[test]
fn tensors_too_large_for_a_board_are_refused_before_they_are_made() {
    let dims = [1_000_000_u64, 1_000_000].map(u64::to_le_bytes).concat();
    let onnx = model(&[
        weights("shape", &[2], 7, &bytes(9, &dims)),
        node("Expand", &["x", "shape"], &["y"], &[]),
        value(11, "x", FLOAT, &["1"]),
        value(12, "y", FLOAT, &["1000000", "1000000"]),
    ]);
    let huge = Model::load(&onnx, &[spec("x", &[1])], &[spec("y", &[1_000_000, 1_000_000])]);
    assert!(matches!(huge, Err(LoadError::HugeTensor { .. })), "{huge:?}");
}

#[test]
fn nesting_and_length_do_not_overflow_a_stack() {
    let mut nested = node("Relu", &["x"], &["y"], &[]);
    for _ in 0..2_000 {
        let attribute = bytes(5, &bytes(6, &nested));
        nested = node("If", &["x"], &["y"], &attribute);
    }
    assert!(matches!(load_unary_of(vec![nested]), Err(LoadError::Format(_))));

    let parens = "(".repeat(100_000);
    let onnx = model(&[
        node("Relu", &["x"], &["y"], &[]),
        value(11, "x", FLOAT, &[&parens, "4"]),
        value(12, "y", FLOAT, &[&parens]),
    ]);
    assert!(Model::load(&onnx, &[spec("x", &[2, 4])], &[spec("y", &[2, 4])]).is_ok());

    let cycle = vec![node("Relu", &["y"], &["t"], &[]), node("Relu", &["t"], &["y"], &[])];
    assert!(load_unary_of(cycle).is_err());
    assert!(matches!(load_unary_of(vec![node("Relu", &["x"], &["y"], &[]); 20_001]), Err(LoadError::TooMany { .. })));
}

fn load_unary_of(mut graph: Vec<Vec<u8>>) -> Result<Model, LoadError> {
    graph.push(value(11, "x", FLOAT, &["2", "4"]));
    graph.push(value(12, "y", FLOAT, &["2", "4"]));
    Model::load(&model(&graph), &[spec("x", &[2, 4])], &[spec("y", &[2, 4])])
}

#[test]
fn a_long_chain_of_nodes_loads() {
    let name = |i: usize| {
        if i == 0 {
            "x".to_owned()
        } else if i == 2_000 {
            "y".to_owned()
        } else {
            format!("t{i}")
        }
    };
    let chain = (0..2_000).map(|i| node("Neg", &[&name(i)], &[&name(i + 1)], &[])).collect();
    let mut session = load_unary_of(chain).unwrap().session().unwrap();
    let ones = eight([1.0; 8]);
    assert_eq!(session.run(&ones).unwrap(), ones);
}

#[test]
fn damaged_files_end_in_an_answer_within_bounded_time() {
    let whole = digits();
    load_digits(&whole).unwrap();
    // Loading takes an emulated processor a second.
    let rounds = if emulated() { 40 } else { 300 };
    let mut tries = 0;
    let mut check = |bytes: &[u8]| {
        let start = tokio::time::Instant::now();
        if let Ok(model) = load_digits(bytes) {
            // What loads may still fail to run; it must not break out.
            let _ = model.session().and_then(|mut session| session.warm());
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        tries += 1;
    };
    for cut in (0..whole.len()).step_by(whole.len() / 40) {
        check(&whole[..cut]);
    }
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..=round % 4 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Structure sits at both ends; the middle is weights.
            let span = if random & 1 == 0 { bytes.len() } else { 3_000 };
            let at = bytes.len() - 1 - (random >> 33) as usize % span;
            bytes[at] = (random >> 20) as u8;
        }
        check(&bytes);
    }
    assert!(tries > rounds);
}

#[test]
fn inputs_of_the_wrong_form_are_the_callers_fault() {
    let mut session = load_unary("Relu").unwrap().session().unwrap();
    let wrong = Tensor::from_f32(vec![4, 2], &[0.0; 8]).unwrap();
    let error = session.run(&[wrong]).unwrap_err();
    assert!(error.is_callers_fault());
    assert_eq!(error.to_string(), "input \"x\" is FP32 [2, 4]; given was FP32 [4, 2]");
    assert!(session.run(&[]).unwrap_err().is_callers_fault());
    assert!(session.run(&eight([1.0; 8])).is_ok());
}

#[test]
fn slots_give_back_what_they_replace() {
    let live = |version| Live::new("m", version, load_unary("Relu").unwrap(), 1).unwrap();
    let slots = Slots::default();
    assert!(slots.install(live(1)).is_none());
    let held = slots.get("m").unwrap();
    assert_eq!(slots.install(live(2)).unwrap().version(), 1);
    assert_eq!((held.version(), slots.get("m").unwrap().version()), (1, 2));
    assert_eq!(slots.list().len(), 1);
    assert_eq!(slots.remove("m").unwrap().version(), 2);
    assert!(slots.get("m").is_none() && slots.remove("m").is_none());
}

/// An index out of range fails at run time: the input picks a row of the weights.
fn gather() -> Model {
    let onnx = model(&[
        weights("w", &[4], FLOAT, &bytes(9, &[0; 16])),
        node("Gather", &["w", "i"], &["y"], &[]),
        value(11, "i", 7, &["1"]),
        value(12, "y", FLOAT, &["1"]),
    ]);
    let mut input = spec("i", &[1]);
    input.datatype = DataType::Int64;
    Model::load(&onnx, &[input], &[spec("y", &[1])]).unwrap()
}

fn index(i: i64) -> Vec<Tensor> {
    vec![Tensor::new(DataType::Int64, vec![1], i.to_le_bytes().to_vec()).unwrap()]
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_request_that_breaks_the_model_is_counted_and_harms_no_other() {
    let live = Live::new("m", 1, gather(), 1).unwrap();
    let workers = Workers::start(1, 8).unwrap();
    for _ in 0..3 {
        let broken = workers.infer(live.clone(), index(1 << 40), LONG).await;
        assert!(matches!(broken, Err(InferError::Run(ref e)) if !e.is_callers_fault()), "{broken:?}");
        assert!(workers.infer(live.clone(), index(3), LONG).await.is_ok());
    }
    let wrong_form = workers.infer(live.clone(), eight([0.0; 8]), LONG).await;
    assert!(matches!(wrong_form, Err(InferError::Run(e)) if e.is_callers_fault()));
    let counts = live.counts();
    assert_eq!((counts.answered, counts.failed), (3, 3));
    assert_eq!(counts.latency.iter().sum::<u64>(), 3);
}

/// Whether this processor is emulated: then everything takes its while with less.
fn emulated() -> bool {
    std::env::var_os(crate::sys::RUNNER).is_some()
}

/// Of the matrices below.
fn side() -> usize {
    if emulated() { 160 } else { 512 }
}

/// A model that takes a while: matrix products in a row.
fn slow() -> Arc<Live> {
    let n = side();
    let name = |i: usize| {
        if i == 0 {
            "x".to_owned()
        } else if i == 40 {
            "y".to_owned()
        } else {
            format!("t{i}")
        }
    };
    let mut graph: Vec<_> = (0..40).map(|i| node("MatMul", &[&name(i), "x"], &[&name(i + 1)], &[])).collect();
    let size = n.to_string();
    graph.push(value(11, "x", FLOAT, &[&size, &size]));
    graph.push(value(12, "y", FLOAT, &[&size, &size]));
    let model = Model::load(&model(&graph), &[spec("x", &[n, n])], &[spec("y", &[n, n])]).unwrap();
    Live::new("slow", 1, model, 1).unwrap()
}

fn square() -> Vec<Tensor> {
    vec![Tensor::from_f32(vec![side(), side()], &vec![0.0; side() * side()]).unwrap()]
}

#[tokio::test]
async fn a_full_queue_a_passed_deadline_and_a_stop_each_say_so() {
    let live = slow();
    let workers = Arc::new(Workers::start(1, 1).unwrap());
    let ask = |deadline| {
        let (workers, live) = (workers.clone(), live.clone());
        tokio::spawn(async move { workers.infer(live, square(), deadline).await })
    };
    let running = ask(LONG);
    while workers.running() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(workers.longest_run() < LONG);
    let late = ask(Duration::from_millis(5)).await.unwrap();
    assert!(matches!(late, Err(InferError::Deadline(_))));
    // The late one's place in the queue is free again; one waits, the next is refused.
    let waiting = ask(LONG);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let busy = workers.infer(live.clone(), square(), LONG).await;
    assert!(matches!(busy, Err(InferError::Busy(1))), "{busy:?}");
    workers.stop();
    assert!(matches!(waiting.await.unwrap(), Err(InferError::Stopped)));
    assert!(running.await.unwrap().is_ok(), "what ran at the stop is answered");
    let after = workers.infer(live.clone(), square(), LONG).await;
    assert!(matches!(after, Err(InferError::Stopped)));
    assert_eq!((live.counts().answered, live.counts().failed), (1, 0), "waiting too long is no fault of the model");
}

#[tokio::test]
async fn a_model_that_hangs_past_the_deadline_has_failed_once() {
    let live = slow();
    let workers = Workers::start(1, 1).unwrap();
    // Long enough for a worker to begin, on a busy machine too, and less than the model takes.
    let patience = Duration::from_millis(if emulated() { 100 } else { 15 });
    let late = workers.infer(live.clone(), square(), patience).await;
    assert!(matches!(late, Err(InferError::Deadline(_))));
    while workers.running() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((live.counts().answered, live.counts().failed), (0, 1));
}

#[tokio::test]
async fn a_request_whose_client_went_away_is_not_run() {
    let live = slow();
    let workers = Arc::new(Workers::start(1, 8).unwrap());
    let first = tokio::spawn({
        let (workers, live) = (workers.clone(), live.clone());
        async move { workers.infer(live, square(), LONG).await.unwrap() }
    });
    while workers.running() == 0 {
        tokio::task::yield_now().await;
    }
    let gone = workers.infer(live.clone(), square(), LONG);
    assert!(tokio::time::timeout(Duration::from_millis(1), gone).await.is_err());
    first.await.unwrap();
    workers.infer(live.clone(), square(), LONG).await.unwrap();
    assert_eq!(live.counts().answered, 2);
}

#[tokio::test]
async fn a_quick_model_answers_alike_in_the_callers_thread_and_in_a_worker() {
    let relu = load_unary("Relu").unwrap();
    let live = Live::new("m", 1, relu, 1).unwrap();
    let workers = Workers::start(1, 8).unwrap();
    let input = eight([-1.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0, -8.0]);
    // However busy the machine of this test is.
    while !live.is_quick() {
        live.count_answer(Duration::ZERO, Some(Duration::ZERO));
    }
    let known = live.counts().answered;
    let here = workers.infer(live.clone(), input.clone(), LONG).await.unwrap();
    // Too little time to take the risk.
    let there = workers.infer(live.clone(), input, Duration::from_millis(9)).await.unwrap();
    assert_eq!(here.outputs, there.outputs);
    assert_eq!((here.queued, live.counts().answered), (Duration::ZERO, known + 2));
    assert!(there.queued > Duration::ZERO);
    workers.stop();
    let stopped = workers.infer(live, eight([0.0; 8]), LONG).await;
    assert!(matches!(stopped, Err(InferError::Stopped)), "{stopped:?}");
}

#[test]
fn a_slow_model_or_one_with_graphs_in_its_nodes_is_not_quick() {
    assert!(!slow().is_quick());
    let straight = graph::read((&unary("Relu")).into(), 0, &[spec("x", &[2, 4])], &[spec("y", &[2, 4])]).unwrap();
    assert!(graph::is_straight(&straight));
    let mut nested = straight.clone();
    let inner = nested.graph.clone();
    let attribute = tract_onnx::pb::AttributeProto { g: inner, ..Default::default() };
    nested.graph.as_mut().unwrap().node[0].attribute.push(attribute);
    assert!(!graph::is_straight(&nested));
}
