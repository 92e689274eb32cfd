//! Everything that is tested from outside, in one executable.

mod boot;
mod commands;
mod config;
mod docs;
mod mosquitto;
mod systemd;
