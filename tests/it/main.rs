//! Everything that is tested from outside, in one executable.

mod boot;
mod config;
mod systemd;
