#[path = "../../../src/engine/int8/mod.rs"]
pub mod int8;
