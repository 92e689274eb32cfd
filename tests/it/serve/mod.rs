//! The local API with the digits models behind it.

pub mod clients;
mod good;
pub mod harness;
mod hostile;
mod swap;
