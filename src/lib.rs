//! Selvedge: int8 neural networks on Arm Linux boards, kept current safely and privately.
//!
//! # Map
//! ```text
//! main.rs       argv[0] and subcommand -> config -> a library call
//! cli/          one file a subcommand
//! config/       raw TOML -> checked Config; the reference is config/selvedge.toml
//! sys/          disk, clock, process, real and faulty: the only place that renames, syncs, reads a clock
//! onnx/         ModelProto (generated), graph, normalisation, shapes: the one ONNX front end
//! tensor/       names, datatypes, shapes, bytes: the words that bundles, engine and API share
//! kernels/      int8 microkernels, float products beside them, packing, CPU detection; imports no sibling
//! engine/       a model, its sessions and workers; slots: what is live
//! bundle/       what a model is on disk and on the wire, deltas between versions; no I/O
//! store/        versions on disk and the journal: live, previous, trial
//! trust/        TUF state and the clock floor: bytes -> Verified
//! audit/        the chain of what the device decided
//! inbox/        packs from a directory, for sites with no network
//! update/       machine (pure), driver (effects), fetch (what is missing), assemble, gate
//! serve/        the Open Inference Protocol on Unix sockets
//! privacy/      the closed set of what may leave; the egress ledger
//! ipc/          the protocol between engine and link
//! mqtt/         the session: connect, backoff, subscriptions; the only user of the MQTT crate
//! link/         the link role: mqtt <-> ipc
//! enrol/        a board's id, credentials and root of trust: made, taken over, taken back
//! publish/      the operator: TUF repository, delta making, publishing, fleet view
//! compress/     a float model and data -> a small int8 model (feature `compress`)
//! device/       the roles of a device put together: engine, link, both on one console
//! demo/         the whole story on one machine
//! ```
//! A room to come: `pipeline` (sources).
//!
//! # Arrows
//! `tests/architecture.rs` holds this table against every `use crate::` in the source.
//! ```text
//! sys      ->
//! onnx     ->
//! tensor   ->
//! config   -> kernels
//! kernels  ->
//! bundle   -> tensor
//! engine   -> tensor onnx kernels
//! privacy  -> bundle
//! ipc      -> bundle privacy
//! store    -> bundle privacy
//! trust    -> bundle privacy
//! audit    -> bundle privacy
//! inbox    -> bundle
//! serve    -> engine bundle tensor
//! update   -> engine store trust audit inbox bundle privacy ipc tensor
//! mqtt     -> privacy
//! enrol    -> mqtt
//! link     -> mqtt ipc privacy bundle
//! publish  -> mqtt bundle trust privacy store inbox
//! compress -> engine onnx bundle tensor
//! device   -> engine serve update inbox store trust link mqtt ipc privacy bundle tensor
//! demo     -> device engine publish mqtt trust bundle privacy tensor
//! cli      -> device demo enrol link publish compress onnx mqtt trust audit inbox bundle privacy engine tensor serve store update
//! ```
//! Every module may use `sys` and its own section of `config`; a room's `tests.rs` may use any room,
//! to play its neighbours. `main` calls `cli`.
//!
//! # Invariants
//! - The process that sees inputs and results has no network; the one that has the network sees no tensor.
//! - What the device does next is in the journal before it is done.
//! - A request is answered by the version that took it.

pub mod audit;
pub mod bundle;
pub mod cli;
#[cfg(feature = "compress")]
pub mod compress;
pub mod config;
#[cfg(feature = "operator")]
pub mod demo;
pub mod device;
pub mod engine;
pub mod enrol;
pub mod inbox;
pub mod ipc;
pub mod kernels;
pub mod link;
pub mod mqtt;
pub mod onnx;
pub mod privacy;
#[cfg(feature = "operator")]
pub mod publish;
pub mod serve;
pub mod store;
pub mod sys;
pub mod tensor;
pub mod trust;
pub mod update;
