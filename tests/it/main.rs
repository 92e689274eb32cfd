//! Everything that is tested from outside, in one executable. Each module says what it needs installed.

mod boot;
mod broker_acl;
mod commands;
mod config;
mod demo;
mod docs;
mod link;
mod mosquitto;
mod mqtt;
mod operator;
mod serve;
mod status;
mod systemd;
