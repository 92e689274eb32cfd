//! `onnx`, `kernels` and the int8 regions, for tests under AddressSanitizer.

#[path = "../../../src/kernels/mod.rs"]
pub mod kernels;
#[path = "../../../src/onnx/mod.rs"]
pub mod onnx;

pub mod engine;
