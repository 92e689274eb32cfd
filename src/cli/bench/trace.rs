//! A timeline for ui.perfetto.dev and chrome://tracing: the trace event format of Chrome, as JSON.
//!
//! Times are microseconds since the first run. A slice holds those that began and ended within it: a run its nodes, a
//! region its steps. All of them are of the thread that runs the model; what helpers do for a step is within it.

use super::measure::Watched;
use crate::engine::{NodeFacts, RegionFacts};
use serde_json::{Value, json};
use std::time::Duration;

/// The thread that calls the model.
const THREAD: u32 = 1;

pub(super) fn trace(name: &str, runs: &[Watched], nodes: &[NodeFacts], regions: &[RegionFacts]) -> Value {
    let start = runs.first().map_or(Duration::ZERO, |run| run.began);
    let mut events = vec![
        json!({ "ph": "M", "pid": 1, "tid": THREAD, "name": "process_name", "args": { "name": name } }),
        json!({ "ph": "M", "pid": 1, "tid": THREAD, "name": "thread_name", "args": { "name": "inference" } }),
    ];
    let slice = |name: &str, kind: &str, began: Duration, ended: Duration, args: Value| {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let (from, long) = (began.saturating_sub(start), ended.saturating_sub(began));
        json!({ "ph": "X", "pid": 1, "tid": THREAD, "name": name, "cat": kind, "ts": micros(from), "dur": micros(long), "args": args })
    };
    for (number, run) in runs.iter().enumerate() {
        events.push(slice("run", "run", run.began, run.ended, json!({ "number": number })));
        for node in &run.nodes {
            let Some(facts) = nodes.get(node.node) else { continue };
            let args = json!({ "node": facts.name, "operator": facts.operator });
            let region = facts.region.and_then(|region| regions.get(region));
            let kind = if region.is_some() { "int8" } else { "float" };
            events.push(slice(&facts.operator, kind, node.began, node.ended, args));
            let stages = region.map_or(&[][..], |region| &region.stages);
            let mut from = node.began;
            for (at, (&ended, stage)) in node.stages.iter().zip(stages).enumerate() {
                let args = json!({ "step": at, "node": stage.node, "shape": stage.shape, "macs": stage.macs, "kernel": stage.kernel, "isa": stage.isa });
                events.push(slice(&stage.operator, "step", from, ended, args));
                from = ended;
            }
        }
    }
    json!({ "displayTimeUnit": "ns", "traceEvents": events })
}
