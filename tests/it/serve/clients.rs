//! Clients that others wrote: NVIDIA's `tritonclient` over the loopback forwarder, and curl.

use super::harness::{Device, held_out, json_request, models};
use selvedge::serve::{ForwardError, forward};
use std::net::SocketAddr;
use std::path::Path;
use tokio::process::Command;

const MAKE_VENV: &str = "python3 -m venv target/venv && \
    target/venv/bin/pip install 'tritonclient[http]' numpy safetensors onnxruntime onnx tuf cryptography";

pub fn python() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let default = || root.join("target/venv/bin/python").display().to_string();
    let python = std::env::var("SELVEDGE_PYTHON").unwrap_or_else(|_| default());
    assert!(Path::new(&python).exists(), "no {python}; run: {MAKE_VENV}\nor name another in SELVEDGE_PYTHON");
    python
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_gets_the_right_digits_over_the_forwarder() {
    let device = Device::start();
    let address = free_port();
    let socket = device.socket.clone();
    let forwarder = tokio::spawn(async move { forward(address, &socket, std::future::pending()).await });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/triton.py");
    let output = Command::new(python()).arg(script).arg(address.to_string()).arg(models()).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("all right"), "{told}");
    assert!(!forwarder.is_finished());
    forwarder.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_the_right_digit_over_the_socket() {
    let device = Device::start();
    for (image, digit) in &held_out()[..5] {
        let request = json_request(image).replacen(
            "{",
            r#"{"outputs":[{"name":"logits","parameters":{"classification":1}}],"#,
            1,
        );
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--unix-socket"])
            .arg(&device.socket)
            .args(["http://localhost/v2/models/digits/infer", "--data-binary", &request])
            .output()
            .await
            .expect("curl is installed: apt-get install curl");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        let best = answer["outputs"][0]["data"][0].as_str().unwrap();
        assert!(best.ends_with(&format!(":{digit}:{digit}")), "{best} for {digit}");
    }
}

#[tokio::test]
async fn the_forwarder_takes_loopback_addresses_only() {
    for address in ["0.0.0.0:0", "192.168.1.1:80", "[::]:0"] {
        let forwarded = forward(address.parse().unwrap(), Path::new("/nowhere"), async {}).await;
        assert!(matches!(forwarded, Err(ForwardError::NotLoopback(_))), "{address}");
    }
    assert!(forward(free_port(), Path::new("/nowhere"), async {}).await.is_ok(), "it ends when told to");
}
