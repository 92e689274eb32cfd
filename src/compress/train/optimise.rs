//! Steps: SGD with momentum, and AdamW; and how large they are over time.
//!
//! AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101. Cosine schedule: the same authors, arXiv:1608.03983.

use super::ops::values;
use super::state::State;
use crate::compress::Error;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// With momentum.
    Sgd { momentum: f32 },
    /// With the decay of means and squares that most use: 0.9, 0.999.
    AdamW,
}

/// The size of steps over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    Constant,
    /// Down to 0 by half a cosine.
    Cosine,
    /// Times `factor` after each of `every` parts of the way: 3 steps make four sizes.
    Step {
        steps: u32,
        factor: f32,
    },
}

impl Schedule {
    /// The share of the rate at `done` of 1; rises from 0 over the first `warmup`.
    pub fn share(self, done: f64, warmup: f64) -> f64 {
        if done < warmup {
            return done / warmup;
        }
        let rest = ((done - warmup) / (1.0 - warmup).max(1e-9)).clamp(0.0, 1.0);
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * rest).cos()),
            Self::Step { steps, factor } => {
                let taken = (rest * f64::from(steps + 1)).floor().min(f64::from(steps));
                f64::from(factor).powf(taken)
            }
        }
    }
}

/// A variable with what the method keeps of its gradients.
#[derive(Debug)]
struct Slot {
    variable: Var,
    /// Weight decay applies: to matrices, not to biases and scales.
    decays: bool,
    /// The rate is multiplied with this.
    factor: f32,
    mean: Vec<f32>,
    square: Vec<f32>,
}

/// Variables and how they move.
#[derive(Debug)]
pub struct Optimiser {
    method: Method,
    decay: f32,
    slots: Vec<Slot>,
    steps: i32,
}

impl Optimiser {
    pub fn new(method: Method, decay: f32) -> Self {
        Self { method, decay, slots: Vec::new(), steps: 0 }
    }

    /// Takes a variable in, whose rate is the common one times `factor`.
    pub fn add(&mut self, variable: &Var, factor: f32) {
        let count = variable.elem_count();
        let square = if self.method == Method::AdamW { vec![0.0; count] } else { Vec::new() };
        let slot =
            Slot { variable: variable.clone(), decays: variable.rank() > 1, factor, mean: vec![0.0; count], square };
        self.slots.push(slot);
    }

    /// Writes what the method keeps.
    pub fn save(&self, state: &mut State) {
        state.number(self.steps.cast_unsigned().into());
        for slot in &self.slots {
            state.floats(slot.mean.clone());
            state.floats(slot.square.clone());
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is of other variables.
    pub fn restore(&mut self, state: &mut State) -> std::result::Result<(), Error> {
        self.steps = state.take_number()? as i32;
        for slot in &mut self.slots {
            slot.mean = state.take_floats(slot.mean.len())?;
            slot.square = state.take_floats(slot.square.len())?;
        }
        Ok(())
    }

    /// The Euclidean norm over all gradients.
    ///
    /// # Errors
    /// What candle says.
    pub fn norm(&self, gradients: &GradStore) -> Result<f64> {
        let mut sum = 0.0;
        for slot in &self.slots {
            if let Some(gradient) = gradients.get(&slot.variable) {
                sum += values(gradient)?.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
            }
        }
        Ok(sum.sqrt())
    }

    /// Moves every variable that has a gradient; gradients are multiplied with `clip` first.
    ///
    /// # Errors
    /// What candle says.
    pub fn step(&mut self, gradients: &GradStore, rate: f32, clip: f32) -> Result<()> {
        self.steps += 1;
        let (method, decay, steps) = (self.method, self.decay, self.steps);
        for slot in &mut self.slots {
            let Some(gradient) = gradients.get(&slot.variable) else { continue };
            let mut gradient = values(gradient)?;
            gradient.iter_mut().for_each(|g| *g *= clip);
            let mut weights = values(slot.variable.as_tensor())?;
            let decay = if slot.decays { decay } else { 0.0 };
            slot.moved(&mut weights, &gradient, (method, rate * slot.factor, decay, steps));
            slot.variable.set(&Tensor::from_vec(weights, slot.variable.shape(), slot.variable.device())?)?;
        }
        Ok(())
    }
}

impl Slot {
    fn moved(&mut self, weights: &mut [f32], gradient: &[f32], (method, rate, decay, steps): (Method, f32, f32, i32)) {
        let each = weights.iter_mut().zip(gradient).zip(&mut self.mean);
        match method {
            Method::Sgd { momentum } => each.for_each(|((weight, gradient), mean)| {
                *mean = momentum * *mean + gradient + decay * *weight;
                *weight -= rate * *mean;
            }),
            Method::AdamW => {
                const MEAN: f32 = 0.9;
                const SQUARE: f32 = 0.999;
                let (first, second) = (1.0 - MEAN.powi(steps), 1.0 - SQUARE.powi(steps));
                each.zip(&mut self.square).for_each(|(((weight, gradient), mean), square)| {
                    *mean = MEAN * *mean + (1.0 - MEAN) * gradient;
                    *square = SQUARE * *square + (1.0 - SQUARE) * gradient * gradient;
                    *weight -= rate * (*mean / first / ((*square / second).sqrt() + 1e-8) + decay * *weight);
                });
            }
        }
    }
}
