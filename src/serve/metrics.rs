//! `GET /metrics`: numbers in Prometheus' text format. They stay on the machine; what leaves it is
//! in `privacy`.

use super::api::Api;
use crate::engine::{Counts, Live};
use std::fmt::Write as _;
use std::sync::Arc;

pub(super) fn text(api: &Api) -> String {
    let models: Vec<(String, Counts)> = api.slots.list().iter().map(|live| (label(live), live.counts())).collect();
    let mut out = String::new();
    counter(&mut out, "selvedge_requests_total", "Inferences that were answered.");
    for (model, counts) in &models {
        let _ = writeln!(out, "selvedge_requests_total{{{model}}} {}", counts.answered);
    }
    counter(&mut out, "selvedge_failures_total", "Inferences that the model could not compute or not in time.");
    for (model, counts) in &models {
        let _ = writeln!(out, "selvedge_failures_total{{{model}}} {}", counts.failed);
    }
    let _ = writeln!(out, "# HELP selvedge_latency_seconds Waiting and running, of the answered.");
    let _ = writeln!(out, "# TYPE selvedge_latency_seconds histogram");
    for (model, counts) in &models {
        histogram(&mut out, model, counts);
    }
    counter(&mut out, "selvedge_refused_total", "Requests that got another status than 200, by that status.");
    for (status, count) in api.refused.counts() {
        let _ = writeln!(out, "selvedge_refused_total{{status=\"{status}\"}} {count}");
    }
    gauge(&mut out, "selvedge_queue_length", "Requests that wait for a worker.", api.workers.queued());
    gauge(&mut out, "selvedge_workers_running", "Workers that run an inference.", api.workers.running());
    let connections = api.limits.connections.saturating_sub(api.connections.available_permits());
    gauge(&mut out, "selvedge_connections", "Open connections to the API.", connections);
    out
}

fn label(live: &Arc<Live>) -> String {
    let name = live.name().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("model=\"{name}\",version=\"{}\"", live.version())
}

fn counter(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
}

fn gauge(out: &mut String, name: &str, help: &str, value: usize) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

fn histogram(out: &mut String, model: &str, counts: &Counts) {
    const NAME: &str = "selvedge_latency_seconds";
    let mut below = 0;
    let all: u64 = counts.latency.iter().sum();
    let (_, bounded) = counts.latency.split_last().unwrap_or((&0, &[]));
    for (power, count) in bounded.iter().enumerate() {
        below += count;
        let bound = (1u64 << power) as f64 / 1e6;
        let _ = writeln!(out, "{NAME}_bucket{{{model},le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(out, "{NAME}_bucket{{{model},le=\"+Inf\"}} {all}");
    let _ = writeln!(out, "{NAME}_sum{{{model}}} {}", counts.total_micros as f64 / 1e6);
    let _ = writeln!(out, "{NAME}_count{{{model}}} {all}");
}
