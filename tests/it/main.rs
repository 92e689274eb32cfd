//! Everything that is tested from outside, in one executable.

mod boot;
mod broker_acl;
mod commands;
mod config;
mod docs;

mod systemd;
