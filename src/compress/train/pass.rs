//! Walks over samples: what is read, what the loss is there, what gradients and moments are.
//!
//! Invariant: samples are read as they are, but for changed copies where those are asked for; weights stay.
//! Not here: steps (`fit`).

use super::augment::Augmenter;
use super::fit::{Batch, Guide, Plain};
use super::loss::{Form, by_labels, logits};
use super::program::{Mode, NoTap, Program, Run, computing, inputs_of};
use crate::compress::data::{Dataset, mix};
use crate::compress::{Error, Network, Progress};
use crate::onnx::graph::ValueId;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// Samples that are judged at once.
pub(super) const BATCH: usize = 64;

/// The loss by labels; `None` where a sample has none.
pub(super) fn labelled(
    batch: &Batch,
    run: &Run,
    logits: Option<(ValueId, Form)>,
    smoothing: f32,
) -> Result<Option<Tensor>, Error> {
    let Some((value, form)) = logits.filter(|_| batch.labels.iter().all(Option::is_some)) else { return Ok(None) };
    by_labels(run.value(value).map_err(computing)?, form, &batch.labels, smoothing).map(Some)
}

/// Reads samples, changed as is asked for.
///
/// # Errors
/// When one cannot be read.
pub fn read(data: &Dataset, numbers: &[usize], augmenter: &Augmenter, seed: u64) -> Result<Batch, Error> {
    let mut batch = Batch { inputs: Vec::new(), labels: Vec::new(), numbers: numbers.to_vec() };
    for &number in numbers {
        let sample = data.sample(number)?;
        let mut inputs = inputs_of(&sample)?;
        if let Some(first) = inputs.first_mut().filter(|_| !augmenter.is_none()) {
            let as_floats = first.to_dtype(DType::F32).and_then(|floats| super::ops::values(&floats));
            let mut values = as_floats.map_err(computing)?;
            augmenter.change(&mut values, mix(seed ^ number as u64));
            let changed = Tensor::from_vec(values, first.dims(), &Device::Cpu);
            *first = changed.and_then(|changed| changed.to_dtype(first.dtype())).map_err(computing)?;
        }
        batch.inputs.push(inputs);
        batch.labels.push(sample.label);
    }
    Ok(batch)
}

/// The mean loss of a program over samples.
///
/// # Errors
/// When a sample does not run, or has no label that fits.
pub fn mean_loss(program: &Program, data: &Dataset, numbers: &[usize], guide: &mut dyn Guide) -> Result<f64, Error> {
    let logits = logits(program.network());
    let mut wanted = guide.wanted();
    wanted.extend(logits.map(|(value, _)| value));
    let mut sum = 0.0;
    for numbers in numbers.chunks(BATCH) {
        let batch = read(data, numbers, &Augmenter::default(), 0)?;
        let run = program.run(&batch.inputs, Mode::Inference, &wanted, guide)?;
        let labelled = labelled(&batch, &run, logits, 0.0)?;
        let loss = guide.judged(&batch, &run, labelled)?.detach();
        sum += f64::from(loss.to_scalar::<f32>().map_err(computing)?) * numbers.len() as f64;
    }
    Ok(sum / numbers.len().max(1) as f64)
}

/// The mean loss of a network over samples, by labels.
///
/// # Errors
/// As [`mean_loss`].
pub fn loss_of(network: &Network, data: &Dataset, numbers: &[usize]) -> Result<f64, Error> {
    let program = Program::new(network, &|_| false)?;
    mean_loss(&program, data, numbers, &mut Plain)
}

/// Gradients of the loss by labels.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// Mean over samples, by weight.
    pub mean: BTreeMap<ValueId, Vec<f32>>,
    /// Mean of squares over samples: the diagonal of the empirical Fisher information.
    pub square: BTreeMap<ValueId, Vec<f32>>,
}

/// One sample at a time, with norms as inference has them.
///
/// # Errors
/// As [`fit`].
pub fn gradients(
    network: &Network,
    data: &Dataset,
    numbers: &[usize],
    progress: &mut dyn Progress,
) -> Result<Gradients, Error> {
    let program = Program::new(network, &|_| true)?;
    let logits = logits(network);
    let wanted: Vec<ValueId> = logits.map(|(value, _)| value).into_iter().collect();
    let mut gradients = Gradients::default();
    progress.step("gradients", numbers.len());
    for (at, &number) in numbers.iter().enumerate() {
        let batch = read(data, &[number], &Augmenter::default(), 0)?;
        let run = program.run(&batch.inputs, Mode::Inference, &wanted, &mut NoTap)?;
        let loss = labelled(&batch, &run, logits, 0.0)?
            .ok_or_else(|| Error::unfit("gradients need a label for each sample: state --labels"))?;
        let found = loss.backward().map_err(computing)?;
        for (value, variable) in program.variables() {
            let Some(gradient) = found.get(variable) else { continue };
            let gradient = super::ops::values(gradient).map_err(computing)?;
            let zeros = || vec![0.0; gradient.len()];
            let (mean, square) = (
                gradients.mean.entry(*value).or_insert_with(zeros),
                gradients.square.entry(*value).or_insert_with(zeros),
            );
            let share = 1.0 / numbers.len() as f32;
            mean.iter_mut().zip(&gradient).for_each(|(mean, g)| *mean += share * g);
            square.iter_mut().zip(&gradient).for_each(|(square, g)| *square += share * g * g);
        }
        progress.at(at + 1);
    }
    Ok(gradients)
}

/// Lets norms take the moments of data without training: after channels were removed, theirs are no longer true.
///
/// # Errors
/// As [`fit`].
pub fn settle_norms(network: &Network, data: &Dataset, numbers: &[usize], seed: u64) -> Result<Network, Error> {
    let mut program = Program::new(network, &|_| false)?;
    for (at, numbers) in shuffled(numbers, seed).chunks(BATCH).enumerate() {
        if numbers.len() == 1 && at > 0 {
            break;
        }
        let batch = read(data, numbers, &Augmenter::default(), 0)?;
        let run = program.run(&batch.inputs, Mode::Training, &[], &mut NoTap)?;
        // The mean over all batches so far.
        program.move_norms(&run.moments, 1.0 / (at + 1) as f32);
    }
    program.finish()
}

/// In another order, by the seed.
pub fn shuffled(numbers: &[usize], seed: u64) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = numbers.iter().map(|&number| (mix(seed ^ mix(number as u64)), number)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, number)| number).collect()
}
