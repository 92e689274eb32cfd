//! The local API with the digits models behind it.

mod clients;
mod good;
pub mod harness;
mod hostile;
mod swap;
