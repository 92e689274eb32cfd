//! Integration tests, in one binary. Each module says what it needs installed.

mod link;
mod mosquitto;
mod mqtt;
