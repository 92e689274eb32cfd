//! A client that costs next to nothing: one connection, one prepared request, no parsing beyond need.

use crate::server::image;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug, Default, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub version: u32,
    /// The output's bytes.
    pub output: Vec<u8>,
}

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let json = r#"{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,8,8],"parameters":{"binary_data_size":256}}],"parameters":{"binary_data_output":true}}"#;
        let head = format!(
            "POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\
             Inference-Header-Content-Length: {}\r\n\r\n{json}",
            json.len() + 256,
            json.len(),
        );
        Self {
            stream: UnixStream::connect(socket).unwrap(),
            request: [head.as_bytes(), image().bytes()].concat(),
            buffer: vec![0; 16 * 1024],
        }
    }

    pub fn ask(&mut self) -> Reply {
        self.stream.write_all(&self.request).unwrap();
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[length..]).unwrap();
            assert!(read > 0, "the server closed the connection");
            length += read;
            if let Some(reply) = parse(&self.buffer[..length]) {
                return reply;
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let length: usize = header("content-length")?.parse().ok()?;
    let body = bytes.get(end..end + length)?;
    let json = header("inference-header-content-length").and_then(|n| n.parse().ok()).unwrap_or(length);
    let text = std::str::from_utf8(&body[..json]).ok()?;
    let version = text.split("\"model_version\":\"").nth(1).and_then(|rest| rest.split('"').next());
    Some(Reply {
        status: head.split(' ').nth(1)?.parse().ok()?,
        version: version.and_then(|v| v.parse().ok()).unwrap_or(0),
        output: body[json..].to_vec(),
    })
}
