//! The loop: batches, losses, steps, and keeping the best.
//!
//! Invariant: the network that comes out is the best on the validation part, the one that went in included unless it is
//! told otherwise; the same seed and data give the same network.

use super::augment::{Augment, Augmenter};
use super::loss::{Form, logits};
use super::memory;
use super::optimise::{Method, Optimiser, Schedule};
use super::pass::{BATCH, labelled, mean_loss, read, shuffled};
use super::program::{Mode, Program, Run, Tap, computing};
use super::state::{State, key};
use super::weights::{Weight, weights};
use super::zeros::{Held, Zeros};
use crate::compress::data::{Dataset, Label, mix};
use crate::compress::{Error, Network, Progress};
use crate::onnx::graph::{NodeId, ValueId, describe};
use candle_core::{DType, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Recipe {
    pub epochs: usize,
    pub batch: usize,
    pub rate: f32,
    pub method: Method,
    pub weight_decay: f32,
    pub schedule: Schedule,
    /// Share of the way over which the rate rises.
    pub warmup: f64,
    pub label_smoothing: f32,
    /// Gradients longer than this are shortened to it; 0 for never.
    pub clip: f32,
    pub augment: Augment,
    pub parts: Parts,
    pub zeros: Zeros,
    pub seed: u64,
}

/// What is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Parts {
    /// Every weight.
    #[default]
    All,
    /// The last layer's weights alone.
    Head,
    /// No weight: only mean and variance of norms follow the new data.
    Norms,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 32,
            rate: 1e-3,
            method: Method::AdamW,
            weight_decay: 1e-4,
            schedule: Schedule::Cosine,
            warmup: 0.05,
            label_smoothing: 0.0,
            clip: 5.0,
            augment: Augment::default(),
            parts: Parts::All,
            zeros: Zeros::Keep,
            seed: 1,
        }
    }
}

impl Recipe {
    /// # Errors
    /// What is out of bounds, and what is expected.
    pub fn check(&self) -> Result<(), Error> {
        let within = |what: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::unfit(format!("{what} {value} is not from {low} to {high}"))),
        };
        within("epochs", self.epochs as f64, 0.0, 1e5)?;
        within("a batch of", self.batch as f64, 1.0, 65536.0)?;
        within("a learning rate of", f64::from(self.rate), 1e-12, 100.0)?;
        within("weight decay", f64::from(self.weight_decay), 0.0, 10.0)?;
        within("warmup", self.warmup, 0.0, 0.9)?;
        within("label smoothing", f64::from(self.label_smoothing), 0.0, 0.9)?;
        within("clip", f64::from(self.clip), 0.0, 1e9)
    }
}

/// Samples that are trained on at once.
#[derive(Debug)]
pub struct Batch {
    /// By sample, then by input.
    pub inputs: Vec<Vec<Tensor>>,
    pub labels: Vec<Option<Label>>,
    /// In the data.
    pub numbers: Vec<usize>,
}

/// What may be put into the loop: other losses, values changed on their way, weights held to a form.
pub trait Guide: Tap {
    /// Values from inside that the loss looks at.
    fn wanted(&self) -> Vec<ValueId> {
        Vec::new()
    }

    /// Variables of its own, each with the factor of its rate.
    fn variables(&self) -> Vec<(Var, f32)> {
        Vec::new()
    }

    /// The loss of a batch, beside that of its labels; `None` where labels have none.
    ///
    /// # Errors
    /// What candle says.
    fn loss(&mut self, _: &Batch, _: &Run, by_labels: Option<Tensor>) -> Result<Tensor, Error> {
        by_labels.ok_or_else(|| Error::unfit("training needs a label for each sample: state --labels"))
    }

    /// The network as it is now is the best so far.
    fn keep(&mut self) {}

    /// Writes what another process would need to go on, besides its variables.
    fn save(&self, _: &mut State) {}

    /// Reads what was written so.
    ///
    /// # Errors
    /// When it was another's.
    fn restore(&mut self, _: &mut State) -> Result<(), Error> {
        Ok(())
    }

    /// The loss that chooses between epochs: without what only guides on the way.
    ///
    /// # Errors
    /// What candle says.
    fn judged(&mut self, batch: &Batch, run: &Run, by_labels: Option<Tensor>) -> Result<Tensor, Error> {
        self.loss(batch, run, by_labels)
    }

    /// After each step.
    ///
    /// # Errors
    /// What candle says.
    fn project(&mut self, _: &Program) -> Result<(), Error> {
        Ok(())
    }
}

/// Labels alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Tap for Plain {}
impl Guide for Plain {}

/// One walk over the training data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Epoch {
    /// Mean over the walk.
    pub train_loss: f64,
    /// After it.
    pub validation_loss: f64,
    pub rate: f32,
}

/// What came of it.
#[derive(Debug)]
pub struct Trained {
    pub network: Network,
    /// Of the network that went in, on the validation part.
    pub before: f64,
    /// Of the network that came out.
    pub after: f64,
    pub epochs: Vec<Epoch>,
    /// The operator stopped it: the best so far came out.
    pub stopped: bool,
    /// Weights that were zero and were held there.
    pub zeros: usize,
}

/// Data in the parts that training may look at.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    pub data: &'a Dataset,
    pub train: &'a [usize],
    /// Chooses between epochs; never the test part.
    pub validation: &'a [usize],
}

/// Trains.
///
/// # Errors
/// When an operator's gradient is not known, labels do not fit, or the loss is no number: with the step and the layer.
pub fn fit(
    network: &Network,
    samples: Samples<'_>,
    recipe: &Recipe,
    guide: &mut dyn Guide,
    progress: &mut dyn Progress,
) -> Result<Trained, Error> {
    recipe.check()?;
    if samples.train.is_empty() || samples.validation.is_empty() {
        return Err(Error::unfit(
            "there are no samples to train on, or none to choose by: give more, or another --split",
        ));
    }
    let augmenter = recipe.augment.ready(network, samples.data)?;
    let program = Program::new(network, &chosen(network, recipe.parts))?;
    let at_once = recipe.batch.min(samples.train.len()).max(BATCH.min(samples.validation.len()).div_ceil(3));
    memory::check(memory::estimate(&program, at_once), crate::sys::available_memory(), recipe.batch)?;
    let before = mean_loss(&program, samples.data, samples.validation, guide)?;
    let mut fitting = Fitting::new(program, samples, recipe, guide, before);
    fitting.augmenter = augmenter;
    let key = key(network, samples, recipe)?;
    let begin = match progress.kept(key).and_then(|kept| State::of_bytes(&kept)) {
        Some(kept) => fitting.restore(kept)?,
        None => 0,
    };
    for epoch in begin..recipe.epochs {
        if progress.is_stopped() {
            fitting.trained.stopped = true;
            break;
        }
        fitting.epoch(epoch, progress)?;
        if !fitting.trained.stopped && progress.keeps(epoch + 1 == recipe.epochs) {
            progress.keep(key, &fitting.save(epoch + 1)?.to_bytes())?;
        }
    }
    Ok(fitting.trained)
}

/// Which weights are trained.
pub fn chosen(network: &Network, parts: Parts) -> impl Fn(&Weight) -> bool {
    let graph = network.graph();
    let place: BTreeMap<NodeId, usize> = graph.order().unwrap_or_default().into_iter().zip(0..).collect();
    let is_product =
        |weight: &&Weight| graph.node(weight.node).is_some_and(|node| matches!(&*node.op, "Conv" | "Gemm" | "MatMul"));
    let head = weights(graph).iter().filter(is_product).filter_map(|weight| place.get(&weight.node).copied()).max();
    move |weight| match parts {
        Parts::All => true,
        Parts::Head => place.get(&weight.node).copied() >= head,
        Parts::Norms => false,
    }
}

struct Fitting<'a> {
    program: Program,
    samples: Samples<'a>,
    recipe: &'a Recipe,
    augmenter: Augmenter,
    held: Held,
    guide: &'a mut dyn Guide,
    optimiser: Optimiser,
    logits: Option<(ValueId, Form)>,
    step: usize,
    /// Variables and norms as they were when the network was best; `None` while that is the one that came.
    best: Option<State>,
    trained: Trained,
}

impl<'a> Fitting<'a> {
    fn new(program: Program, samples: Samples<'a>, recipe: &'a Recipe, guide: &'a mut dyn Guide, before: f64) -> Self {
        let mut optimiser = Optimiser::new(recipe.method, recipe.weight_decay);
        program.variables().values().for_each(|variable| optimiser.add(variable, 1.0));
        guide.variables().iter().for_each(|(variable, factor)| optimiser.add(variable, *factor));
        let network = program.network().clone();
        let logits = logits(&network);
        let held = Held::of(&network, recipe.zeros);
        let zeros = held.count(&program);
        let trained = Trained { network, before, after: before, epochs: Vec::new(), stopped: false, zeros };
        let augmenter = Augmenter::default();
        Self { program, samples, recipe, augmenter, held, guide, optimiser, logits, step: 0, best: None, trained }
    }

    fn epoch(&mut self, epoch: usize, progress: &mut dyn Progress) -> Result<(), Error> {
        let numbers = shuffled(self.samples.train, mix(self.recipe.seed ^ mix(epoch as u64)));
        // A norm of one sample has no variance to learn by.
        let whole = self.recipe.batch > 1 && numbers.len() > self.recipe.batch;
        let batches: Vec<&[usize]> =
            numbers.chunks(self.recipe.batch).filter(|batch| !whole || batch.len() > 1).collect();
        progress.step(&format!("epoch {} of {}", epoch + 1, self.recipe.epochs), batches.len());
        let (mut sum, mut rate) = (0.0, 0.0);
        for (at, numbers) in batches.iter().enumerate() {
            let done = (epoch as f64 + at as f64 / batches.len() as f64) / self.recipe.epochs as f64;
            let share = self.recipe.schedule.share(done, self.recipe.warmup);
            // The first step of a warm-up would be none at all.
            rate = (f64::from(self.recipe.rate) * share.max(1e-3)) as f32;
            sum += self.batch(numbers, epoch, rate)?;
            progress.at(at + 1);
            if progress.is_stopped() {
                self.trained.stopped = true;
                break;
            }
        }
        let validation_loss = mean_loss(&self.program, self.samples.data, self.samples.validation, self.guide)?;
        self.trained.epochs.push(Epoch { train_loss: sum / batches.len().max(1) as f64, validation_loss, rate });
        if validation_loss <= self.trained.after || !self.trained.after.is_finite() {
            self.trained.after = validation_loss;
            self.trained.network = self.program.finish()?;
            self.best = Some(self.program.state()?);
            self.guide.keep();
        }
        Ok(())
    }

    /// All that decides how it goes on after so many epochs.
    fn save(&self, epochs: usize) -> Result<State, Error> {
        let mut state = State::default();
        [epochs, self.step, self.trained.epochs.len()].iter().for_each(|&number| state.number(number as u64));
        state.number(self.trained.after.to_bits());
        for epoch in &self.trained.epochs {
            let reals = [epoch.train_loss, epoch.validation_loss, f64::from(epoch.rate)];
            reals.iter().for_each(|real| state.number(real.to_bits()));
        }
        state.append(self.program.state()?);
        state.number(u64::from(self.best.is_some()));
        self.best.iter().for_each(|best| state.append(best.clone()));
        self.optimiser.save(&mut state);
        for (variable, _) in self.guide.variables() {
            state.floats(super::ops::values(&variable).map_err(computing)?);
        }
        self.guide.save(&mut state);
        Ok(state)
    }

    /// How many epochs were gone.
    fn restore(&mut self, mut state: State) -> Result<usize, Error> {
        let [epochs, step, count, after] = [(); 4].map(|()| state.take_number());
        (self.step, self.trained.after) = (step? as usize, f64::from_bits(after?));
        for _ in 0..count? {
            let mut real = || state.take_number().map(f64::from_bits);
            let (train_loss, validation_loss, rate) = (real()?, real()?, real()? as f32);
            self.trained.epochs.push(Epoch { train_loss, validation_loss, rate });
        }
        let now = self.program.take_state(&mut state)?;
        if state.take_number()? == 1 {
            let best = self.program.take_state(&mut state)?;
            self.program.restore(&mut best.clone())?;
            self.trained.network = self.program.finish()?;
            self.best = Some(best);
        }
        self.program.restore(&mut now.clone())?;
        self.optimiser.restore(&mut state)?;
        for (variable, _) in self.guide.variables() {
            set(&variable, state.take_floats(variable.elem_count())?)?;
        }
        self.guide.restore(&mut state)?;
        Ok(epochs? as usize)
    }

    fn batch(&mut self, numbers: &[usize], epoch: usize, rate: f32) -> Result<f64, Error> {
        let seed = mix(self.recipe.seed ^ mix(0x5eed ^ epoch as u64));
        let batch = read(self.samples.data, numbers, &self.augmenter, seed)?;
        let mut wanted = self.guide.wanted();
        wanted.extend(self.logits.map(|(value, _)| value));
        // Where the head alone is trained, what it reads stays as it was.
        let mode = if self.recipe.parts == Parts::Head { Mode::Inference } else { Mode::Training };
        let run = self.program.run(&batch.inputs, mode, &wanted, self.guide)?;
        let labelled = labelled(&batch, &run, self.logits, self.recipe.label_smoothing)?;
        let loss = self.guide.loss(&batch, &run, labelled)?;
        let value = f64::from(loss.to_scalar::<f32>().map_err(computing)?);
        self.step += 1;
        if !value.is_finite() {
            return Err(self.not_finite(&batch, value));
        }
        let gradients = loss.backward().map_err(computing)?;
        let clip = self.clip(&gradients, &batch)?;
        self.optimiser.step(&gradients, rate, clip).map_err(computing)?;
        self.program.move_norms(&run.moments, 0.1);
        self.held.hold(&self.program)?;
        self.guide.project(&self.program)?;
        Ok(value)
    }

    fn clip(&mut self, gradients: &candle_core::backprop::GradStore, batch: &Batch) -> Result<f32, Error> {
        let norm = self.optimiser.norm(gradients).map_err(computing)?;
        if !norm.is_finite() {
            return Err(self.not_finite(batch, norm));
        }
        let most = f64::from(self.recipe.clip);
        Ok(if most > 0.0 && norm > most { (most / norm) as f32 } else { 1.0 })
    }

    /// Says where the first value that is no number stands.
    fn not_finite(&mut self, batch: &Batch, value: f64) -> Error {
        let mut find = Find { at: None };
        let run = self.program.run(&batch.inputs, Mode::Training, &[], &mut find);
        let graph = self.program.network().graph();
        let place = match find.at.and_then(|value| graph.producer(value)) {
            Some((_, node)) => format!("first in what {} gives", describe(node)),
            None if run.is_err() => "and the model no longer runs".into(),
            None => "in the loss or its gradient".into(),
        };
        Error::unfit(format!(
            "the loss is {value} at step {}, {place}: train with a lower --rate (it is {}), or a smaller --clip",
            self.step, self.recipe.rate
        ))
    }
}

/// Gives a variable other values.
pub(super) fn set(variable: &Var, values: Vec<f32>) -> Result<(), Error> {
    let tensor = Tensor::from_vec(values, variable.shape(), variable.device()).map_err(computing)?;
    variable.set(&tensor).map_err(computing)
}

struct Find {
    at: Option<ValueId>,
}

impl Tap for Find {
    fn value(&mut self, value: ValueId, tensor: Tensor) -> candle_core::Result<Tensor> {
        if self.at.is_none() && tensor.dtype() == DType::F32 {
            let finite = super::ops::values(&tensor)?.iter().all(|value| value.is_finite());
            self.at = (!finite).then_some(value);
        }
        Ok(tensor)
    }
}
