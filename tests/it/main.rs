//! Everything that is tested from outside, in one executable.

mod config;
mod systemd;
