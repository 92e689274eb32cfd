//! What became of each layer: how far its answers are off, what is cut off, and why it is as it is; for people, programs
//! and as a picture.
//!
//! Invariant: figures are of the engine's own runs on samples that decided nothing but the bounds.

use super::search::Outcome;
use super::work::Prepared;
use crate::compress::data::Dataset;
use crate::compress::probe::Probe;
use crate::compress::score::sqnr;
use crate::compress::{Error, Progress};
use crate::onnx::graph::ValueId;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerReport {
    pub name: String,
    pub operator: String,
    /// 8, 4, …; 32 where it stays float.
    pub bits: u32,
    /// Weights.
    pub elements: usize,
    /// Of its output in the quantized model against the float one, dB: what was lost up to here.
    pub sqnr_db: Option<f64>,
    /// What the input held while calibrating.
    pub input_lo: Option<f32>,
    pub input_hi: Option<f32>,
    /// What of it is represented.
    pub range_lo: Option<f32>,
    pub range_hi: Option<f32>,
    /// Share of the input's values that are cut off, percent.
    pub saturated_percent: Option<f64>,
    pub why: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QuantizeReport {
    pub layers: Vec<LayerReport>,
    /// Products that were never candidates: name and reason.
    pub kept: Vec<(String, String)>,
    pub notes: Vec<String>,
}

/// Samples that it looks at.
const SAMPLES: usize = 32;

impl QuantizeReport {
    /// Looks into the float model and the quantized one.
    ///
    /// # Errors
    /// When one of them cannot be run.
    pub fn new(
        prepared: &Prepared,
        outcome: &Outcome,
        data: Option<(&Dataset, &[usize])>,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let layers = &prepared.placed.layers;
        let seen = match data {
            Some((data, numbers)) => look(prepared, outcome, data, &numbers[..numbers.len().min(SAMPLES)], progress)?,
            None => BTreeMap::new(),
        };
        let report = layers.iter().map(|layer| {
            let float = outcome.exceptions.float.contains(&layer.name);
            let bits = outcome.exceptions.bits.get(&layer.name).copied().unwrap_or(prepared.recipe.weights.bits);
            let observed = prepared.observed.get(&layer.input);
            let graph = prepared.network.graph();
            LayerReport {
                name: layer.name.clone(),
                operator: graph.node(layer.node).map(|node| node.op.clone()).unwrap_or_default(),
                bits: if float { 32 } else { bits },
                elements: graph.constant(layer.weight).map_or(0, |weight| weight.len()),
                sqnr_db: seen.get(&layer.output).map(|seen| seen.sqnr),
                input_lo: observed.map(|observed| observed.extremes.lo),
                input_hi: observed.map(|observed| observed.extremes.hi),
                range_lo: observed.map(|observed| observed.range.lo),
                range_hi: observed.map(|observed| observed.range.hi),
                saturated_percent: seen.get(&layer.input).map(|seen| seen.saturated),
                why: outcome.reasons.get(&layer.name).cloned().unwrap_or_else(|| "as asked for".into()),
            }
        });
        let kept = prepared.placed.kept.iter().map(|kept| (kept.name.clone(), kept.why.clone())).collect();
        Ok(Self { layers: report.collect(), kept, notes: prepared.notes.clone() })
    }
}

/// Of one value.
#[derive(Debug, Clone, Copy, Default)]
struct Looked {
    sqnr: f64,
    saturated: f64,
}

fn look(
    prepared: &Prepared,
    outcome: &Outcome,
    data: &Dataset,
    numbers: &[usize],
    progress: &mut dyn Progress,
) -> Result<BTreeMap<ValueId, Looked>, Error> {
    let layers = &prepared.placed.layers;
    let wanted: Vec<ValueId> = layers.iter().flat_map(|layer| [layer.input, layer.output]).collect();
    let real = |value: &ValueId| outcome.quantized.real.get(value).copied().unwrap_or(*value);
    let made = outcome.quantized.network.graph();
    let is_there = |value: &ValueId| {
        let value = real(value);
        made.producer(value).is_some() || made.inputs.iter().any(|port| port.value == value)
    };
    let wanted: Vec<ValueId> = wanted.into_iter().filter(is_there).collect();
    let mut float = Probe::new(&prepared.network, &wanted)?;
    let mut quantized = Probe::new(&outcome.quantized.network, &wanted.iter().map(real).collect::<Vec<_>>())?;
    let mut sums = BTreeMap::<ValueId, (Looked, f64)>::new();
    progress.step("looking at layers", numbers.len());
    for (done, &number) in numbers.iter().enumerate() {
        let sample = data.sample(number)?;
        let other = quantized.run(&sample.inputs)?;
        for (value, seen) in float.run(&sample.inputs)? {
            let Some(other) = other.get(&real(&value)) else { continue };
            let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
            let range = prepared.observed.get(&value).map(|observed| observed.range);
            let outside = |&&value: &&f32| range.is_some_and(|range| value < range.lo || value > range.hi);
            let (sum, count) = sums.entry(value).or_default();
            sum.sqnr += sqnr(&wide(&seen.values), &wide(&other.values));
            sum.saturated +=
                100.0 * seen.values.iter().filter(outside).count() as f64 / seen.values.len().max(1) as f64;
            *count += 1.0;
        }
        progress.at(done + 1);
    }
    let mean = |(value, (sum, count)): (ValueId, (Looked, f64))| {
        (value, Looked { sqnr: sum.sqnr / count, saturated: sum.saturated / count })
    };
    Ok(sums.into_iter().map(mean).collect())
}

/// A bar for each layer: its SQNR in dB, those in float lighter.
pub fn svg(report: &QuantizeReport, title: &str) -> String {
    const ROW: usize = 18;
    const LEFT: usize = 260;
    const WIDTH: usize = 420;
    let layers: Vec<&LayerReport> = report.layers.iter().filter(|layer| layer.sqnr_db.is_some()).collect();
    let most = layers.iter().filter_map(|layer| layer.sqnr_db).fold(10.0_f64, f64::max);
    let height = layers.len() * ROW + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"38\" fill=\"#555\">signal over quantization noise of each layer's output, dB</text>\n",
        LEFT + WIDTH + 70,
        escaped(title),
    );
    for (row, layer) in layers.iter().enumerate() {
        let (y, db) = (46 + row * ROW, layer.sqnr_db.unwrap_or(0.0));
        let length = (db.max(0.0) / most * WIDTH as f64).round();
        let color = if layer.bits == 32 { "#b8c4d6" } else { "#3566a8" };
        let name: String = layer.name.chars().rev().take(36).collect::<Vec<_>>().into_iter().rev().collect();
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{length}\" height=\"{}\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"#555\">{db:.1}, {}</text>",
            LEFT - 8,
            y + 12,
            escaped(&name),
            y + 2,
            ROW - 4,
            LEFT as f64 + length + 6.0,
            y + 12,
            if layer.bits == 32 { "float".to_owned() } else { format!("{} bit", layer.bits) },
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        '"' => "&quot;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}
