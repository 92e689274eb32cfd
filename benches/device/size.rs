//! Bytes of what goes on a board. It is not built here: that takes minutes.

use crate::process::device_build;
use crate::{Figure, figure};

pub fn measure() -> Vec<Figure> {
    let path = device_build();
    match std::fs::metadata(&path) {
        Ok(found) => {
            println!("size: {}", path.display());
            vec![figure("size/device-binary-mib", found.len() as f64 / f64::from(1 << 20), "MiB")]
        }
        Err(_) => {
            println!("size: {} is not there; run: cargo build --profile device --no-default-features", path.display());
            Vec::new()
        }
    }
}
