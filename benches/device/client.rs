//! One request with JSON over a connection of its own: what a first client of a device sends.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A held-out picture and what it shows.
pub struct Picture {
    request: Vec<u8>,
    label: usize,
}

impl Picture {
    pub fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits/heldout.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (images, labels) = (file.tensor("images").unwrap(), file.tensor("labels").unwrap());
        let pixels: Vec<f32> = images.data()[..64].iter().map(|&pixel| f32::from(pixel) / 16.0).collect();
        let input = serde_json::json!({"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": pixels});
        let body = serde_json::json!({ "inputs": [input] }).to_string();
        let head = format!(
            "POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self { request: [head.as_bytes(), body.as_bytes()].concat(), label: usize::from(labels.data()[0]) }
    }

    /// True when the answer is there and right; false while nobody answers.
    pub fn ask(&self, socket: &Path) -> bool {
        let Ok(stream) = UnixStream::connect(socket) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        self.ask_over(stream).is_some_and(|digit| digit == self.label)
    }

    /// That many over one connection; each must be right.
    pub fn ask_many(&self, socket: &Path, count: usize) {
        let mut stream = UnixStream::connect(socket).unwrap();
        for _ in 0..count {
            let again = stream.try_clone().unwrap();
            assert_eq!(self.ask_over(again), Some(self.label));
        }
        stream.flush().unwrap();
    }

    fn ask_over(&self, mut stream: UnixStream) -> Option<usize> {
        stream.write_all(&self.request).ok()?;
        let mut bytes = vec![0; 16 * 1024];
        let mut length = 0;
        loop {
            let read = stream.read(&mut bytes[length..]).ok()?;
            if read == 0 {
                return None;
            }
            length += read;
            if let Some(logits) = logits(&bytes[..length]) {
                return (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            }
        }
    }
}

/// The output, once the whole answer is there.
fn logits(bytes: &[u8]) -> Option<Vec<f64>> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let answer: serde_json::Value = serde_json::from_slice(bytes.get(end..end + length)?).unwrap();
    let data = answer["outputs"][0]["data"].as_array()?;
    Some(data.iter().filter_map(serde_json::Value::as_f64).collect())
}
