//! What was measured, for people and for programs.

use super::super::inspect::count;
use super::super::model_file::{Source, end_of, times};
use super::super::{Align, Table, bytes, plain};
use super::compare::Compared;
use super::measure::{Distribution, Sums};
use crate::engine::{NodeFacts, Report};
use serde::Serialize;
use serde_json::{Value, json};

const LEFT: Align = Align::Left;
const RIGHT: Align = Align::Right;

/// Rows of layers that are shown without `--all`.
const SHOWN: usize = 20;

/// All that one call of `bench` has found.
#[derive(Debug)]
pub(super) struct Results<'a> {
    pub source: &'a Source,
    pub report: &'a Report,
    pub input: String,
    /// Reading and packing, ms.
    pub load_ms: f64,
    pub first_ms: f64,
    pub runs: usize,
    pub latency: Distribution,
    /// Multiplications of int8 values a second.
    pub peak: f64,
    pub watched: usize,
    pub layers: Vec<Layer>,
    pub peak_rss: u64,
    pub compared: Option<Compared>,
}

/// A step of a region, a float node, or what lies between them.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Layer {
    pub layer: String,
    /// Of the file.
    pub node: Option<String>,
    /// `int8`, `float`, or `other` for what is neither.
    pub kind: &'static str,
    pub region: Option<usize>,
    pub shape: Option<Vec<usize>>,
    pub kernel: Option<&'static str>,
    pub macs: u64,
    /// Mean of a run.
    pub ms: f64,
    /// Of a run.
    pub share: f64,
    pub gmacs_per_second: Option<f64>,
    pub of_measured_peak: Option<f64>,
}

impl Layer {
    fn new(layer: String, kind: &'static str, ms: f64) -> Self {
        let (region, shape, kernel) = (None, None, None);
        Self {
            layer,
            node: None,
            kind,
            region,
            shape,
            kernel,
            macs: 0,
            ms,
            share: 0.0,
            gmacs_per_second: None,
            of_measured_peak: None,
        }
    }
}

/// Slowest first.
pub(super) fn layers(sums: &Sums, nodes: &[NodeFacts], report: &Report, peak: f64) -> Vec<Layer> {
    let runs = sums.runs.max(1) as f64;
    let total = sums.total.as_secs_f64() * 1e3 / runs;
    let mut layers: Vec<Layer> = Vec::new();
    for (&(node, stage), time) in &sums.parts {
        let Some(facts) = nodes.get(node) else { continue };
        let ms = time.as_secs_f64() * 1e3 / runs;
        let region = facts.region.and_then(|number| Some((number, report.regions.get(number)?)));
        layers.push(match (region, stage) {
            (Some((number, region)), Some(at)) => step(number, at, region.stages.get(at), ms, peak),
            (Some((number, _)), None) => {
                Layer { region: Some(number), ..Layer::new(format!("outputs of region {number}"), "other", ms) }
            }
            (None, _) => Layer::new(format!("{} {}", facts.operator, facts.name), "float", ms),
        });
    }
    let between = total - layers.iter().map(|layer| layer.ms).sum::<f64>();
    layers.push(Layer::new("between nodes".into(), "other", between.max(0.0)));
    layers.iter_mut().for_each(|layer| layer.share = if total > 0.0 { layer.ms / total } else { 0.0 });
    layers.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    layers
}

fn step(region: usize, at: usize, stage: Option<&crate::engine::StageFacts>, ms: f64, peak: f64) -> Layer {
    let name = stage.map_or("step", |stage| stage.operator.as_str());
    let mut layer = Layer { region: Some(region), ..Layer::new(format!("{region}.{at} {name}"), "int8", ms) };
    if let Some(stage) = stage {
        layer.node = (!stage.node.is_empty()).then(|| stage.node.clone());
        layer.shape = Some(stage.shape.clone());
        layer.kernel = Some(stage.kernel);
        layer.macs = stage.macs;
        if stage.macs > 0 && ms > 0.0 {
            let rate = stage.macs as f64 / (ms / 1e3);
            layer.gmacs_per_second = Some(rate / 1e9);
            // The peak is that of int8.
            layer.of_measured_peak = (peak > 0.0 && stage.float_macs == 0).then_some(rate / peak);
        }
    }
    layer
}

pub(super) fn text(results: &Results<'_>, all: bool) -> String {
    let mut parts = vec![head(results).to_string(), latency(results).to_string(), by_layer(results, all)];
    parts.push(memory(results).to_string());
    if let Some(compared) = &results.compared {
        parts.push(comparison(compared));
    }
    let notes = results.source.notes.iter().fold(String::new(), |text, note| text + "note: " + &plain(note) + "\n");
    parts.extend((!notes.is_empty()).then_some(notes));
    parts.join("\n")
}

fn head(results: &Results<'_>) -> Table {
    let Results { source, report, .. } = results;
    let mut table = Table::new([("model", LEFT), (&plain(&source.path), LEFT)]);
    if let Some(release) = &source.release {
        table.row(["release", release]);
    }
    let engine = &report.engine;
    let shapes: Vec<String> =
        report.inputs.iter().map(|spec| format!("{} {}", spec.name, times(&spec.shape))).collect();
    table.row(["input", &format!("{}; {}", results.input, shapes.join(", "))]);
    match &report.not_int8 {
        Some(why) => table.row(["int8", &format!("no: {why}")]),
        None => table.row(["int8", &format!("{} MACs a run", count(report.macs() - report.float_macs()))]),
    };
    if report.float_macs() > 0 {
        table.row(["float", &format!("{} MACs a run in regions", count(report.float_macs()))]);
    }
    table.row(["kernels", &format!("{}, {}", engine.isa, engine.isa_because)]);
    let peak = format!("{:.1} GMAC/s in int8, measured on {}", results.peak / 1e9, threads(engine.threads));
    table.row(["peak", &peak]);
    table
}

fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}

fn latency(results: &Results<'_>) -> Table {
    let of = &results.latency;
    let mut table = Table::new([
        ("runs", RIGHT),
        ("min", RIGHT),
        ("p50", RIGHT),
        ("p90", RIGHT),
        ("p99", RIGHT),
        ("max", RIGHT),
        ("mean", RIGHT),
        ("a second", RIGHT),
        ("GMAC/s", RIGHT),
        ("of peak", RIGHT),
    ]);
    let rate = results.report.macs() as f64 / of.p50.max(1e-9);
    let (gmacs, share) = match results.report.macs() {
        0 => ("-".to_owned(), "-".to_owned()),
        // The peak is that of int8.
        _ if results.report.float_macs() > 0 => (format!("{:.1}", rate / 1e9), "-".to_owned()),
        _ => (format!("{:.1}", rate / 1e9), percent(rate / results.peak.max(1.0))),
    };
    let mut cells = vec![results.runs.to_string()];
    cells.extend([of.min, of.p50, of.p90, of.p99, of.max, of.mean].map(span));
    cells.extend([format!("{:.1}", 1.0 / of.mean.max(1e-9)), gmacs, share]);
    table.row(cells);
    table
}

fn by_layer(results: &Results<'_>, all: bool) -> String {
    let mut table = Table::new([
        ("layer", LEFT),
        ("node", LEFT),
        ("output", LEFT),
        ("kernel", LEFT),
        ("time", RIGHT),
        ("share", RIGHT),
        ("MACs", RIGHT),
        ("GMAC/s", RIGHT),
        ("of peak", RIGHT),
    ]);
    let shown = if all { results.layers.len() } else { SHOWN };
    results.layers.iter().take(shown).for_each(|layer| {
        table.row(cells(layer));
    });
    let mut text = table.to_string();
    let rest = results.layers.get(shown..).unwrap_or_default();
    if !rest.is_empty() {
        let share: f64 = rest.iter().map(|layer| layer.share).sum();
        text += &format!("{} more: {} of the time; --all shows them\n", rest.len(), percent(share));
    }
    let float: f64 = results.layers.iter().filter(|layer| layer.kind == "float").map(|layer| layer.share).sum();
    let runs = results.watched;
    text += &format!(
        "float (tract): {} of the time; by layer: means of {runs} runs that were looked into\n",
        percent(float)
    );
    text
}

/// A layer's line.
fn cells(layer: &Layer) -> [String; 9] {
    let nothing = || "-".to_owned();
    let kernel = || if layer.kind == "float" { "float (tract)" } else { "-" }.to_owned();
    [
        layer.layer.clone(),
        layer.node.as_deref().map_or_else(nothing, end_of),
        layer.shape.as_deref().map_or_else(nothing, times),
        layer.kernel.map_or_else(kernel, str::to_owned),
        span(layer.ms / 1e3),
        percent(layer.share),
        count(layer.macs),
        layer.gmacs_per_second.map_or_else(nothing, |rate| format!("{rate:.1}")),
        layer.of_measured_peak.map_or_else(nothing, percent),
    ]
}

fn memory(results: &Results<'_>) -> Table {
    let memory = results.report.memory;
    let size = |n: usize| bytes(n as u64);
    let mut table = Table::new([("memory", LEFT), ("", RIGHT)]);
    table
        .row(["packed weights", &size(memory.int8_weights)])
        .row(["weights of tract's nodes", &size(memory.float_weights)])
        .row(["state of a run", &size(memory.int8_state)])
        .row(["process at most", &bytes(results.peak_rss)])
        .row(["loading", &span(results.load_ms / 1e3)])
        .row(["first run", &span(results.first_ms / 1e3)]);
    table
}

fn comparison(compared: &Compared) -> String {
    let [ours, float] = [compared.ours_ms, compared.float_ms].map(|ms| span(ms / 1e3));
    let mut text = format!(
        "against float (tract): {float} there, {ours} here, {:.2} times as fast; medians of {} runs each, by turns\n",
        compared.ratio, compared.runs
    );
    let mut table = Table::new([("output", LEFT), ("largest difference", RIGHT), ("largest value", RIGHT)]);
    let number = |value: Option<f64>| value.map_or_else(|| "not a number".into(), |value| format!("{value:.6}"));
    for output in &compared.outputs {
        table.row([output.name.clone(), number(output.largest_difference), number(output.largest_value)]);
    }
    text += &table.to_string();
    text
}

pub(super) fn json(results: &Results<'_>) -> Value {
    let Results { source, report, latency, .. } = results;
    let ms = |seconds: f64| seconds * 1e3;
    json!({
        "model": source.path,
        "release": source.release,
        "notes": source.notes,
        "input": results.input,
        "inputs": report.inputs,
        "engine": report.engine,
        "not-int8": report.not_int8,
        "macs": report.macs(),
        "float-macs": report.float_macs(),
        "peak-gmacs-per-second": results.peak / 1e9,
        "load-ms": results.load_ms,
        "first-run-ms": results.first_ms,
        "runs": results.runs,
        "latency-ms": {
            "min": ms(latency.min),
            "mean": ms(latency.mean),
            "p50": ms(latency.p50),
            "p90": ms(latency.p90),
            "p99": ms(latency.p99),
            "max": ms(latency.max),
        },
        "runs-per-second": 1.0 / latency.mean.max(1e-9),
        "layer-runs": results.watched,
        "layers": results.layers,
        "memory": report.memory,
        "peak-rss": results.peak_rss,
        "compared": results.compared,
    })
}

/// Seconds as people read them, to four digits.
fn span(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 {
        3
    } else if value < 100.0 {
        2
    } else {
        1
    };
    format!("{value:.digits$} {unit}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let told = [0.0, 1.5e-6, 812.34e-6, 0.012_345, 0.5, 2.0].map(span);
        assert_eq!(told, ["0.000 µs", "1.500 µs", "812.3 µs", "12.35 ms", "500.0 ms", "2.000 s"]);
        assert_eq!(percent(0.9876), "98.8 %");
    }
}
