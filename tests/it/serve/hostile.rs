//! What a broken or malicious client gets: a clear no, and never the next client's trouble.

use super::harness::{Device, Options, Reply, engine_config, held_out, json_request, post};
use selvedge::engine::{Live, Model};
use selvedge::tensor::{DataType, TensorSpec};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const INFER: &str = "/v2/models/digits/infer";

/// The good request with one part replaced.
fn altered(from: &str, to: &str) -> String {
    let good = json_request(&held_out()[0].0);
    let altered = good.replacen(from, to, 1);
    assert_ne!(good, altered, "{from}");
    altered
}

#[tokio::test]
async fn wrong_paths_methods_and_versions_are_named() {
    let device = Device::start();
    let cases = [
        ("GET /v2/models/cats HTTP/1.1", 404, "digits"),
        ("GET /v2/models/digits/versions/9 HTTP/1.1", 404, "version 1 is live"),
        ("GET /v2/models/digits/versions/01 HTTP/1.1", 404, "version 1 is live"),
        ("POST /v2/models/cats/infer HTTP/1.1", 404, "digits"),
        ("GET /v2/models/digits/infer HTTP/1.1", 405, "use POST"),
        ("DELETE /v2/models/digits HTTP/1.1", 405, "use GET"),
        ("POST /v2/health/live HTTP/1.1", 405, "use GET"),
        ("GET /v2/repository/index HTTP/1.1", 405, "use POST"),
        ("POST /v2/repository/models/digits/load HTTP/1.1", 403, "signed updates"),
        ("POST /v2/models/digits/unload HTTP/1.1", 404, "nothing is here"),
        ("GET / HTTP/1.1", 404, "/v2/models"),
        ("GET /../../etc/passwd HTTP/1.1", 404, "nothing"),
        ("GET /v2/models/..%2f..%2fetc HTTP/1.1", 404, "no model"),
        ("GET /v2/models/digits/a/b/c/d/e/f/g/h HTTP/1.1", 404, "nothing"),
    ];
    for (line, status, words) in cases {
        let request = format!("{line}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let reply = device.send(request.as_bytes()).await;
        assert_eq!(reply.status, status, "{line}: {}", reply.text());
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{line}: {error}");
        assert_eq!(reply.header("allow").is_some(), status == 405, "{line}");
    }
    device.answers().await;
}

#[tokio::test]
async fn wrong_tensors_are_refused_with_expected_and_actual() {
    let device = Device::start();
    let data = json_request(&held_out()[0].0);
    let data = &data[data.find("\"data\":").unwrap()..data.find(']').unwrap() + 1];
    let input = |rest: &str| format!(r#"{{"name":"image","datatype":"FP32","shape":[1,1,8,8]{rest}}}"#);
    let cases: Vec<(String, &str)> = vec![
        (altered("\"image\"", "\"picture\""), "no input \"picture\"; it has \"image\""),
        (altered("FP32", "INT8"), "is FP32 [1, 1, 8, 8]; the request has INT8"),
        (altered("FP32", "BYTES"), "BYTES (text is not served)"),
        (altered("FP32", "fp32"), "unknown datatype"),
        (altered("[1,1,8,8]", "[1,8,8]"), "FP32 [1, 8, 8]"),
        (altered("[1,1,8,8]", "[1,1,8,18446744073709551615]"), "18446744073709551615"),
        (altered("[1,1,8,8]", "[1,1,-8,8]"), "-8"),
        (altered("\"data\":[", "\"data\":[1,"), "more than the 64 values"),
        (altered("\"data\":[0.0,", "\"data\":["), "63 values"),
        (altered("\"data\":[0.0,", "\"data\":[1e39,"), "value 0: 1e39 is no FP32"),
        (altered("\"data\":[0.0,", "\"data\":[NaN,"), "line 1 column"),
        (altered("\"data\":[0.0,", "\"data\":[\"a\","), "only numbers"),
        (altered("\"data\":[0.0,", "\"data\":[[0.0],"), "flat list"),
        (altered("}", ",}"), "line 1 column"),
        (altered("\"data\"", "\"datum\""), "neither `data` nor"),
        (altered("\"id\":\"7\"", "\"id\":7"), "line 1 column"),
        (r#"{"inputs":[]}"#.into(), "input \"image\" is missing"),
        (r#"{"id":"a"}"#.into(), "missing field `inputs`"),
        ("".into(), "line 1 column 0"),
        ("[".repeat(60_000), "line 1 column"),
        (format!(r#"{{"inputs":[{0},{0}]}}"#, input(&format!(",{data}"))), "twice"),
        (format!(r#"{{"inputs":[{}]}}"#, input(r#","parameters":{"binary_data_size":256}"#)), "256 bytes, 0 follow"),
        (format!(r#"{{"inputs":[{}]}}"#, input(&format!(r#",{data},"parameters":{{"binary_data_size":0}}"#))), "both"),
        (format!(r#"{{"inputs":[{}]}}"#, input(r#","parameters":{"shared_memory_region":"r"}"#)), "shared memory"),
        (altered("{\"id\"", r#"{"outputs":[{"name":"x"}],"id""#), "no output \"x\"; it has \"logits\""),
        (altered("{\"id\"", r#"{"outputs":[{"name":"logits"},{"name":"logits"}],"id""#), "twice"),
        (altered("{\"id\"", r#"{"outputs":[{"name":"logits","parameters":{"classification":0}}],"id""#), "1 or more"),
        (altered("{\"id\"", r#"{"outputs":[{"name":"logits","parameters":{"classification":-1}}],"id""#), "-1"),
    ];
    for (body, words) in cases {
        let reply = device.post(INFER, &body).await;
        assert_eq!(reply.status, 400, "{words}: {}", reply.text());
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{words} / {error}");
    }
    device.answers().await;
    assert_eq!(device.slots.get("digits").unwrap().counts().failed, 0, "none of that is the model's failure");
}

#[tokio::test]
async fn binary_data_of_another_size_is_refused() {
    let device = Device::start();
    let head = |size: &str| {
        let input = format!(r#""datatype":"FP32","shape":[1,1,8,8],"parameters":{{"binary_data_size":{size}}}"#);
        format!(r#"{{"inputs":[{{"name":"image",{input}}}]}}"#)
    };
    let good = head("256");
    for (stated, json, binary, words) in [
        (good.len().to_string(), good.clone(), 255, "256 bytes, 255 follow"),
        (good.len().to_string(), good.clone(), 257, "256 bytes, 257 follow"),
        (good.len().to_string(), head("252"), 252, "252 bytes of binary data, it takes 256"),
        ("999999".into(), good.clone(), 256, "999999 and the body has"),
        ("-1".into(), good.clone(), 256, "no number"),
        ("18446744073709551616".into(), good.clone(), 256, "no number"),
        ("0".into(), good.clone(), 256, "not the JSON"),
        ((good.len() - 1).to_string(), good.clone(), 256, "not the JSON"),
        (head("18446744073709551615").len().to_string(), head("18446744073709551615"), 256, "follow the JSON"),
        (head("-1").len().to_string(), head("-1"), 256, "-1"),
    ] {
        let header = format!("Inference-Header-Content-Length: {stated}\r\n");
        let body = [json.as_bytes(), &vec![0; binary]].concat();
        let reply = device.send(&post(INFER, &header, &body)).await;
        assert_eq!(reply.status, 400, "{words}: {}", reply.text());
        assert!(reply.text().contains(words), "{words} / {}", reply.text());
    }
    device.answers().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let device = Device::start();
    let limit = 64 * 1024;
    let claimed =
        format!("POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n");
    let claimed = device.send(claimed.replace("Host: a", "Host: localhost").as_bytes()).await;
    let sent = device.send(&post(INFER, "", &vec![b' '; limit + 1])).await;
    let mut chunked =
        format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..limit / 4096 + 1 {
        chunked.push_str(&format!("1000\r\n{}\r\n", " ".repeat(4096)));
    }
    let chunked = device.send(format!("{chunked}0\r\n\r\n").as_bytes()).await;
    for reply in [claimed, sent, chunked] {
        assert_eq!(reply.status, 413, "{}", reply.text());
        assert!(reply.text().contains("limit of 65536 bytes"), "{}", reply.text());
    }
    device.answers().await;
}

#[tokio::test]
async fn compressed_bodies_are_refused() {
    let device = Device::start();
    let reply = device.send(&post(INFER, "Content-Encoding: gzip\r\n", b"\x1f\x8b\x08")).await;
    assert_eq!(reply.status, 415, "{}", reply.text());
    device.answers().await;
}

#[tokio::test]
async fn names_of_other_machines_and_foreign_web_pages_are_turned_away() {
    let device = Device::start();
    let with = |host: &str, rest: &str| format!("GET /v2 HTTP/1.1\r\n{host}Connection: close\r\n{rest}\r\n");
    for host in ["", "Host:\r\n", "Host: localhost\r\n", "Host: 127.0.0.1:8000\r\n", "Host: [::1]:8000\r\n"] {
        assert_eq!(device.send(with(host, "").as_bytes()).await.status, 200, "{host}");
    }
    for host in ["Host: evil.example\r\n", "Host: 192.168.1.5:8000\r\n", "Host: localhost.evil.example\r\n"] {
        let reply = device.send(with(host, "").as_bytes()).await;
        assert_eq!(reply.status, 421, "{host}");
    }
    let two = "Host: localhost\r\nHost: evil.example\r\n";
    assert!(matches!(device.send(with(two, "").as_bytes()).await.status, 400 | 421));
    let page = device.send(with("Host: localhost\r\n", "Origin: https://evil.example\r\n").as_bytes()).await;
    assert_eq!(page.status, 403);
    let absolute = "GET http://evil.example/v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(device.send(absolute.as_bytes()).await.status, 421);
    device.answers().await;
}

#[tokio::test]
async fn what_is_not_http_gets_an_error_or_the_door() {
    let device = Device::start();
    let long = format!("GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET /v2 HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: a\r\n".repeat(1_000));
    let both = format!("POST {INFER} HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let chunk = format!("POST {INFER} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n");
    for request in [
        "\0\0\0\0\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /v2 HTTP/9.9\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        &long,
        &many,
        &both,
        &chunk,
    ] {
        let mut stream = device.connect().await;
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.shutdown().await;
        let reply = Reply::read(&mut stream).await;
        assert!(reply.status == 0 || reply.status >= 400, "{request:.40}: {}", reply.head);
    }
    device.answers().await;
}

#[tokio::test]
async fn a_client_that_breaks_off_harms_nobody() {
    let device = Device::start();
    let whole = post(INFER, "", json_request(&held_out()[0].0).as_bytes());
    for cut in (1..whole.len()).step_by(37) {
        let mut stream = device.connect().await;
        stream.write_all(&whole[..cut]).await.unwrap();
        if cut % 2 == 0 {
            drop(stream);
            continue;
        }
        stream.shutdown().await.unwrap();
        let reply = Reply::read(&mut stream).await;
        assert!(matches!(reply.status, 0 | 400), "{cut}: {}", reply.head);
    }
    device.answers().await;
    assert_eq!(device.slots.get("digits").unwrap().counts().answered, 1);
}

#[tokio::test]
async fn a_client_that_dribbles_is_cut() {
    let device = Device::with(Options { patience: Duration::from_millis(400), ..Options::default() });
    let request = post(INFER, "", json_request(&held_out()[0].0).as_bytes());
    let head_end = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    for (start, statuses) in [(0, &[0, 408][..]), (head_end, &[408][..])] {
        let mut stream = device.connect().await;
        stream.write_all(&request[..start]).await.unwrap();
        let mut cut = false;
        for byte in &request[start..] {
            tokio::time::sleep(Duration::from_millis(25)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                cut = true;
                break;
            }
        }
        assert!(cut, "a byte every 25 ms would take seconds");
        let reply = Reply::read(&mut stream).await;
        assert!(statuses.contains(&reply.status), "{start}: {}", reply.head);
    }
    device.answers().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut() {
    let device = Device::with(Options { patience: Duration::from_millis(300), connections: 1, ..Options::default() });
    let mut stream = device.connect().await;
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let flood = async { while stream.write_all(request).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(15), flood).await.expect("the flood is cut");
    tokio::time::sleep(Duration::from_millis(100)).await;
    device.answers().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_places_come_back() {
    let device = Device::with(Options { connections: 3, ..Options::default() });
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = device.connect().await;
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        held.push(stream);
    }
    let mut one_more = device.connect().await;
    let refused = Reply::read(&mut one_more).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("too many connections"));
    drop(held);
    tokio::time::sleep(Duration::from_millis(100)).await;
    device.answers().await;
}

#[tokio::test]
async fn many_large_bodies_at_a_time_do_not_fill_the_memory() {
    let device = Device::with(Options { config: engine_config(1 << 20), ..Options::default() });
    // Each sends most of a body and holds it open; eight bodies have room.
    let mut held = Vec::new();
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    let most = [head.as_bytes(), &vec![b' '; (1 << 20) - 4096]].concat();
    for _ in 0..8 {
        let mut stream = device.connect().await;
        stream.write_all(&most).await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = device.send(&post(INFER, "", &vec![b' '; 1 << 20])).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    device.answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_503_and_a_passed_deadline_504() {
    let mut config = engine_config(64 * 1024);
    // Too short a deadline for a run in the caller's thread, which needs no place in the queue.
    (config.workers, config.queue, config.deadline) = (1, 0, Duration::from_millis(9));
    let device = Device::with(Options { config: config.clone(), ..Options::default() });
    let busy = device.post(INFER, &json_request(&held_out()[0].0)).await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")), "{}", busy.text());

    config.queue = 8;
    config.deadline = Duration::ZERO;
    let device = Device::with(Options { config, ..Options::default() });
    let late = device.post(INFER, &json_request(&held_out()[0].0)).await;
    assert_eq!(late.status, 504, "{}", late.text());
    device.workers.stop();
    assert_eq!(device.post(INFER, &json_request(&held_out()[0].0)).await.status, 503);
}

/// `y = x` over one FP32 value, as an ONNX file.
const IDENTITY: &[u8] = b"\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r";

#[tokio::test]
async fn a_result_without_a_form_in_json_is_told_and_given_as_binary() {
    let device = Device::start();
    let spec = |name: &str| TensorSpec::new(name, DataType::Fp32, vec![1]);
    let model = Model::load(IDENTITY, &[spec("x")], &[spec("y")]).unwrap();
    device.slots.install(Live::new("same", 1, model, 1).unwrap());
    for (value, status) in [(f32::NAN, 422), (f32::INFINITY, 422), (0.5, 200)] {
        for binary in [false, true] {
            let head = format!(
                r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"parameters":{{"binary_data_size":4}}}}],
                "outputs":[{{"name":"y","parameters":{{"binary_data":{binary}}}}}]}}"#
            );
            let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
            let body = [head.as_bytes(), &value.to_le_bytes()].concat();
            let reply = device.send(&post("/v2/models/same/infer", &length, &body)).await;
            let expected = if binary { 200 } else { status };
            assert_eq!(reply.status, expected, "{value} {}", reply.text());
            if binary {
                assert!(reply.body.ends_with(&value.to_le_bytes()));
            } else if status == 422 {
                assert!(reply.text().contains("binary"), "{}", reply.text());
            }
        }
    }
    device.answers().await;
}
