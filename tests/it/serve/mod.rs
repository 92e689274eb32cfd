//! The local API with the digits models behind it.

mod clients;
mod good;
mod harness;
mod hostile;
mod swap;
