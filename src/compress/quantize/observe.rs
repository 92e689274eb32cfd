//! One or two walks over the calibration data: ranges of activations, and rows of what layers multiply.
//!
//! Invariant: what is kept does not grow with the number of samples.

use super::place::{Kind, Layer};
use super::range::{Calibration, Extremes, Histogram};
use super::rows::{Rows, Window};
use super::scheme::{Levels, Range};
use crate::compress::data::{Dataset, Sample};
use crate::compress::probe::{Probe, Seen};
use crate::compress::{Error, Network, Progress};
use crate::onnx::graph::ValueId;
use std::collections::BTreeMap;

/// Samples that calibrate.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    pub data: &'a Dataset,
    pub numbers: &'a [usize],
}

impl Samples<'_> {
    /// Each in turn, with word of how far it is.
    pub fn each(
        &self,
        what: &str,
        progress: &mut dyn Progress,
        mut work: impl FnMut(&Sample) -> Result<(), Error>,
    ) -> Result<(), Error> {
        progress.step(what, self.numbers.len());
        for (done, &number) in self.numbers.iter().enumerate() {
            work(&self.data.sample(number)?)?;
            progress.at(done + 1);
        }
        Ok(())
    }
}

/// What a value held.
#[derive(Debug, Clone)]
pub struct Observed {
    pub extremes: Range,
    /// What is to be represented.
    pub range: Range,
}

/// How ranges are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    pub calibration: Calibration,
    pub levels: Levels,
    pub symmetric: bool,
}

/// Ranges of values over the samples.
pub fn ranges(
    network: &Network,
    values: &[ValueId],
    samples: Samples<'_>,
    choice: Choice,
    progress: &mut dyn Progress,
) -> Result<BTreeMap<ValueId, Observed>, Error> {
    let mut probe = Probe::new(network, values)?;
    let mut extremes = BTreeMap::<ValueId, Extremes>::new();
    samples.each("ranges", progress, |sample| {
        for (value, seen) in probe.run(&sample.inputs)? {
            let range = finite(network, value, &seen)?;
            extremes.entry(value).or_default().see(range);
        }
        Ok(())
    })?;
    let plain = |extremes: &Extremes| match choice.calibration {
        Calibration::MovingAverage => extremes.average.with_zero(),
        Calibration::MinMax | Calibration::Percentile(_) | Calibration::Mse | Calibration::Entropy => {
            extremes.all.with_zero()
        }
    };
    if !choice.calibration.needs_histogram() {
        let observed = |(value, extremes): (ValueId, Extremes)| {
            (value, Observed { extremes: extremes.all, range: plain(&extremes) })
        };
        return Ok(extremes.into_iter().map(observed).collect());
    }
    let mut histograms: BTreeMap<ValueId, Histogram> =
        extremes.iter().map(|(&value, extremes)| (value, Histogram::new(extremes.all))).collect();
    samples.each("histograms", progress, |sample| {
        for (value, seen) in probe.run(&sample.inputs)? {
            if let Some(histogram) = histograms.get_mut(&value) {
                histogram.see(&seen.values);
            }
        }
        Ok(())
    })?;
    let observed = |(value, histogram): (ValueId, Histogram)| {
        let range = histogram.choose(choice.calibration, choice.levels, choice.symmetric);
        (value, Observed { extremes: extremes[&value].all, range })
    };
    Ok(histograms.into_iter().map(observed).collect())
}

fn finite(network: &Network, value: ValueId, seen: &Seen) -> Result<Range, Error> {
    if seen.values.iter().all(|value| value.is_finite()) {
        return Ok(Range::of(&seen.values));
    }
    let name = &network.graph().value(value).name;
    Err(Error::unfit(format!(
        "tensor {name:?} holds NaN or infinity on this data: the model overflows before it is quantized"
    )))
}

/// Rows of a layer that rounding and biases are judged on: so many, and where a convolution has more weights for an output
/// than that four for each of them, so that they say more than there is to choose.
const ROWS: std::ops::RangeInclusive<usize> = 1024..=4096;

/// Rows of layers' inputs, evenly over the samples and by the seed within each.
pub fn rows(
    network: &Network,
    layers: &[&Layer],
    samples: Samples<'_>,
    seed: u64,
    progress: &mut dyn Progress,
) -> Result<Vec<Rows>, Error> {
    let values: Vec<ValueId> = layers.iter().map(|layer| layer.input).collect();
    let mut probe = Probe::new(network, &values)?;
    let windows: Vec<Window> = layers.iter().map(|layer| window(network, layer)).collect();
    let mut rows: Vec<Rows> = windows.iter().map(|window| Rows::new(window.width())).collect();
    let most: Vec<usize> =
        layers.iter().map(|layer| (4 * taken(network, layer)).clamp(*ROWS.start(), *ROWS.end())).collect();
    let mut number = 0;
    samples.each("what layers see", progress, |sample| {
        let seen = probe.run(&sample.inputs)?;
        for (((layer, window), rows), &most) in layers.iter().zip(&windows).zip(&mut rows).zip(&most) {
            if let Some(seen) = seen.get(&layer.input).filter(|_| rows.count() < most) {
                window.take(seen, most.div_ceil(samples.numbers.len().max(1)), seed ^ number, rows);
            }
        }
        number += 1;
        Ok(())
    })?;
    Ok(rows)
}

/// Weights of one output.
fn taken(network: &Network, layer: &Layer) -> usize {
    let weight = network.graph().constant(layer.weight);
    weight.map_or(0, |weight| weight.len() / weight.shape().get(layer.axis).copied().unwrap_or(1).max(1))
}

fn window(network: &Network, layer: &Layer) -> Window {
    let graph = network.graph();
    let shape = graph.constant(layer.weight).map(|weight| weight.shape().to_vec()).unwrap_or_default();
    match (layer.kind, graph.node(layer.node)) {
        (Kind::Conv, Some(node)) => Window::of_conv(node, &shape),
        _ => Window::of_matrix(shape[1 - layer.axis.min(1)]),
    }
}
