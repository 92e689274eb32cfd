//! Everything that is tested from outside, in one executable. Each module says what it needs installed.

#![allow(clippy::disallowed_methods, reason = "these tests time the real machine")]

mod boot;
mod broker;
mod broker_acl;
mod commands;
mod config;
mod demo;
mod device;
mod docs;
mod link;
mod mosquitto;
mod mqtt;
mod operator;
mod privacy;
mod program;
mod secrets;
mod serve;
mod status;
mod systemd;
mod vectors;
