//! Everything that is tested from outside, in one executable. Each module says what it needs installed.

#![allow(clippy::disallowed_methods, reason = "these tests time the real machine")]

mod authority;
// Of tract's float arithmetic, which emulated takes minutes.
#[cfg(not(target_arch = "aarch64"))]
mod backend;
mod boot;
mod broker;
mod broker_acl;
mod commands;
#[cfg(feature = "compress")]
mod compress;
mod config;
// Of the machine that builds, not of the one that is built for.
#[cfg(not(target_arch = "aarch64"))]
mod cross;
// Of models that an emulator would take an hour for, and of this machine's kernel.
#[cfg(not(target_arch = "aarch64"))]
mod deaths;
mod demo;
mod device;
#[cfg(feature = "compress")]
mod distil;
mod docs;
mod gates;
mod inbox;
#[cfg(not(target_arch = "aarch64"))]
mod kill_points;
#[cfg(feature = "compress")]
mod large;
mod link;
mod load;
mod mosquitto;
mod mqtt;
mod operate;
mod operator;
#[cfg(feature = "compress")]
mod plan;
mod poor_line;
mod privacy;
mod program;
mod provision;
#[cfg(feature = "compress")]
mod prune;
mod rollout;
mod secrets;
mod serve;
mod status;
mod systemd;
mod tls;
mod tools;
mod trust;
mod vectors;
