//! What a well-behaved client gets.

use super::harness::{
    Device, Options, bump, engine_config, golden, held_out, json_request, largest, load, models, post,
};
use safetensors::SafeTensors;
use selvedge::engine::{Live, Model};
use selvedge::serve::bind;
use selvedge::tensor::{DataType, Tensor, TensorSpec};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn health_metadata_and_index_say_what_is_live() {
    let device = Device::start();
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"]
    {
        assert_eq!(device.get(path).await.status, 200, "{path}");
    }
    let server = device.get("/v2").await.json();
    assert_eq!(server["name"], "selvedge");
    assert!(server["extensions"].as_array().unwrap().contains(&"binary_tensor_data".into()));
    for path in ["/v2/models/digits", "/v2/models/digits/versions/1"] {
        let model = device.get(path).await.json();
        assert_eq!(model["versions"][0], "1");
        assert_eq!(model["inputs"][0], serde_json::json!({"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8]}));
        assert_eq!(model["outputs"][0], serde_json::json!({"name": "logits", "datatype": "FP32", "shape": [1, 10]}));
    }
    let index = device.post("/v2/repository/index", "{}").await.json();
    assert_eq!(index, device.get("/v2/models").await.json());
    assert_eq!((&index[0]["name"], &index[0]["state"]), (&"digits".into(), &"READY".into()));
    assert_eq!(device.get("/selvedge/status").await.json()["models"], 1);

    device.slots.remove("digits");
    let ready = device.get("/v2/health/ready").await;
    assert_eq!((ready.status, device.get("/v2/health/live").await.status), (503, 200));
    assert_eq!(device.get("/v2/models/digits/ready").await.status, 404);
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let device = Device::start();
    device.answers().await;
    device.answers().await;
    device.get("/nowhere").await;
    let text = device.get("/metrics").await.text();
    for line in [
        "selvedge_requests_total{model=\"digits\",version=\"1\"} 2",
        "selvedge_failures_total{model=\"digits\",version=\"1\"} 0",
        "selvedge_latency_seconds_count{model=\"digits\",version=\"1\"} 2",
        "selvedge_latency_seconds_bucket{model=\"digits\",version=\"1\",le=\"+Inf\"} 2",
        "selvedge_refused_total{status=\"404\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn json_and_binary_give_the_same_answer() {
    let device = Device::start();
    let (image, digit) = held_out()[3];
    let json = device.post("/v2/models/digits/versions/1/infer", &json_request(&image)).await.json();
    assert_eq!(
        (&json["id"], &json["model_name"], &json["model_version"]),
        (&"7".into(), &"digits".into(), &"1".into())
    );
    let values: Vec<f32> = serde_json::from_value(json["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(largest(&values), digit);

    let head = r#"{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,8,8],"parameters":{"binary_data_size":256}}],
        "parameters":{"binary_data_output":true}}"#;
    let pixels: Vec<u8> = image.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let request = post("/v2/models/digits/infer", &length, &[head.as_bytes(), &pixels].concat());
    let reply = device.send(&request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let json_length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let (head, binary) = reply.body.split_at(json_length);
    let head: serde_json::Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 40);
    let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(binary, expected, "the JSON numbers read back as the same bits");
}

#[tokio::test]
async fn nested_data_and_classes_with_labels_work() {
    let device = Device::start();
    let (image, digit) = held_out()[5];
    let rows: Vec<Vec<f32>> = image.chunks(8).map(<[f32]>::to_vec).collect();
    let request = serde_json::json!({
        "inputs": [{ "name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [[rows]] }],
        "outputs": [{ "name": "logits", "parameters": { "classification": 3 } }],
    });
    let reply = device.post("/v2/models/digits/infer", &request.to_string()).await.json();
    let output = &reply["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&"BYTES".into(), &serde_json::json!([1, 3])));
    let best: Vec<&str> = output["data"][0].as_str().unwrap().split(':').collect();
    assert_eq!(best[1..], [digit.to_string(), digit.to_string()]);
}

#[tokio::test]
async fn a_connection_takes_many_requests() {
    let device = Device::start();
    let mut stream = device.connect().await;
    for _ in 0..50 {
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn the_served_models_are_as_accurate_as_the_reference_says() {
    let reference = std::fs::read(super::harness::models().join("accuracy.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let samples = held_out();
    for dir in ["digits", "digits-adapted"] {
        let live = load(dir);
        for (camera, bumped) in [("plain", false), ("bumped", true)] {
            let right = |(image, digit): &&([f32; 64], u8)| {
                let image = if bumped { bump(image) } else { *image };
                let input = Tensor::from_f32(vec![1, 1, 8, 8], &image).unwrap();
                largest(&live.run(&[input]).unwrap()[0].to_f32().unwrap()) == *digit
            };
            let right = samples.iter().filter(right).count() as f64;
            let expected = reference["right"][dir]["int8"][camera].as_f64().unwrap();
            let off = (right - expected).abs() / samples.len() as f64;
            assert!(off <= 0.01, "{dir} {camera}: {right} right, the reference has {expected}");
        }
    }
}

#[test]
fn golden_samples_are_answered_within_their_tolerance() {
    for dir in ["digits", "digits-adapted"] {
        let live = load(dir);
        let (samples, atol) = golden(dir);
        for (number, sample) in samples.iter().enumerate() {
            let outputs = live.run(&[sample.inputs["image"].clone()]).unwrap();
            let expected = sample.outputs["logits"].to_f32().unwrap();
            for (a, b) in outputs[0].to_f32().unwrap().iter().zip(&expected) {
                assert!(f64::from((a - b).abs()) <= atol, "{dir} sample {number}: {a} for {b}");
            }
        }
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_was_taken_and_frees_the_socket() {
    let device = Device::start();
    let mut idle = device.connect().await;
    idle.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    // A request under way: its body is not complete yet.
    let (image, _) = held_out()[0];
    let request = post("/v2/models/digits/infer", "", json_request(&image).as_bytes());
    let mut under_way = device.connect().await;
    under_way.write_all(&request[..request.len() - 10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    let socket = device.socket.clone();
    let stopping = tokio::spawn(device.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!stopping.is_finished());
    under_way.write_all(&request[request.len() - 10..]).await.unwrap();
    assert_eq!(super::harness::Reply::read(&mut under_way).await.status, 200);
    stopping.await.unwrap().unwrap();
    assert_eq!(idle.read(&mut buffer).await.unwrap(), 0, "idle connections are closed");
    assert!(tokio::net::UnixStream::connect(&socket).await.is_err());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let first = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(bind(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(first);
    assert!(bind(&path).is_ok());
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(bind(&file).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn large_bodies_within_the_limit_are_served() {
    let device = Device::with(Options { config: engine_config(4 << 20), ..Options::default() });
    let (image, _) = held_out()[0];
    let padded = json_request(&image).replace("\"id\"", &format!("{}\"id\"", " ".repeat(3 << 20)));
    let reply = device.post("/v2/models/digits/infer", &padded).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// The net of `tests/vectors/open`, whose batch, height and width are open.
fn open_net() -> std::sync::Arc<Live> {
    let file = std::fs::read(models().join("../tests/vectors/open/open.safetensors")).unwrap();
    let onnx = SafeTensors::deserialize(&file).unwrap().tensor("model").unwrap().data().to_vec();
    let spec = |name: &str, shape: &[usize]| TensorSpec::new(name, DataType::Fp32, shape.to_vec());
    let input = TensorSpec { max_shape: Some(vec![4, 3, 16, 32]), ..spec("x", &[1, 3, 16, 16]) };
    let model = Model::load(&onnx, &[input], &[spec("map", &[1, 5, 8, 8]), spec("scores", &[1, 7])]).unwrap();
    Live::new("net", 1, model, 1).unwrap()
}

#[tokio::test]
async fn requests_choose_the_sizes_that_a_model_leaves_open() {
    let device = Device::start();
    device.slots.install(open_net());
    let metadata = device.get("/v2/models/net").await.json();
    assert_eq!(metadata["inputs"][0]["shape"], serde_json::json!([-1, 3, 16, -1]));
    assert_eq!(metadata["outputs"][0]["shape"], serde_json::json!([-1, 5, 8, -1]));
    assert_eq!(metadata["outputs"][1]["shape"], serde_json::json!([-1, 7]));
    let request = |shape: [usize; 4]| {
        let data = vec![0.25; shape.iter().product()];
        serde_json::json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": shape, "data": data }] }).to_string()
    };
    for (shape, map) in [([1, 3, 16, 16], [1, 5, 8, 8]), ([3, 3, 16, 32], [3, 5, 8, 16]), ([2, 3, 16, 1], [2, 5, 8, 1])]
    {
        let answer = device.post("/v2/models/net/infer", &request(shape)).await.json();
        assert_eq!(answer["outputs"][0]["shape"], serde_json::json!(map), "{shape:?}: {answer}");
        assert_eq!(answer["outputs"][0]["data"].as_array().unwrap().len(), map.iter().product::<usize>());
        assert_eq!(answer["outputs"][1]["shape"], serde_json::json!([shape[0], 7]));
    }
    for shape in [[5, 3, 16, 16], [1, 3, 16, 33], [1, 3, 15, 16], [1, 3, 16, 0]] {
        let refused = device.post("/v2/models/net/infer", &request(shape)).await;
        assert_eq!(refused.status, 400, "{shape:?}: {}", refused.text());
        assert!(refused.text().contains("FP32 [1 to 4, 3, 16, 1 to 32]"), "{}", refused.text());
    }
}
