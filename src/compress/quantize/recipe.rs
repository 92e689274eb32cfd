//! What is asked of quantization.
//!
//! Invariant: the defaults are what suits int8 kernels: symmetric weights by channel, affine unsigned activations.

use super::qat::Scales;
use super::range::Calibration;
use super::weights::WeightScheme;
use crate::compress::{Error, train};
use serde::{Deserialize, Serialize};

/// The form that comes out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Weights and activations, with ranges from calibration data.
    #[default]
    Static,
    /// Weights, and activations with the range that they have in each run.
    Dynamic,
    /// Weights alone: a smaller file; products stay those of floats.
    WeightsOnly,
}

/// How a weight comes to its level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    #[default]
    Nearest,
    /// Up or down as the layer's output is met best, by data.
    Adaround,
}

/// Which neighbouring convolutions are brought in line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Equalize {
    /// Those with nothing or a ReLU between them: the model computes what it did.
    #[default]
    Exact,
    /// Also those with a Clip from 0 (ReLU6), which becomes a ReLU.
    All,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ActivationScheme {
    /// 8 or 16; 4 in simulation: a byte each, cut off at 16 levels.
    pub bits: u32,
    pub symmetric: bool,
    /// Signed levels: -128 to 127.
    pub signed: bool,
    pub calibration: Calibration,
}

impl Default for ActivationScheme {
    fn default() -> Self {
        Self { bits: 8, symmetric: false, signed: false, calibration: Calibration::Mse }
    }
}

/// All of it; what is recorded in the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    pub form: Form,
    pub weights: WeightScheme,
    pub activations: ActivationScheme,
    pub rounding: Rounding,
    /// Cross-layer equalization.
    pub equalize: Equalize,
    pub bias_correction: bool,
    /// SmoothQuant's alpha, for LayerNormalizations before products.
    pub smooth: Option<f32>,
    /// Samples that calibrate.
    pub samples: usize,
    /// Layers that stay in float; `*` at the end stands for any ending.
    pub keep: Vec<String>,
    /// Sums, products and concatenations of activations in integers too; by default unless this is a transformer.
    pub elementwise: Option<bool>,
    /// Training with the rounding in the loop; `None` for none.
    pub qat: Option<Training>,
    pub seed: u64,
}

/// Quantization-aware training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Training {
    pub scales: Scales,
    pub training: train::Recipe,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            form: Form::Static,
            weights: WeightScheme::default(),
            activations: ActivationScheme::default(),
            rounding: Rounding::Nearest,
            equalize: Equalize::Exact,
            bias_correction: true,
            smooth: None,
            samples: 512,
            keep: Vec::new(),
            elementwise: None,
            qat: None,
            seed: 1,
        }
    }
}

impl Recipe {
    /// # Errors
    /// Where values do not go together; says which.
    pub fn check(&self) -> Result<(), Error> {
        let require = |good: bool, problem: &str| good.then_some(()).ok_or_else(|| Error::unfit(problem));
        require([2, 3, 4, 8].contains(&self.weights.bits), "weights take 8, 4, 3 or 2 bits")?;
        require([4, 8, 16].contains(&self.activations.bits), "activations take 8 or 16 bits, or 4 in simulation")?;
        require(self.samples > 0, "at least one sample has to calibrate")?;
        require(self.smooth.is_none_or(|alpha| (0.0..=1.0).contains(&alpha)), "SmoothQuant's alpha is from 0 to 1")?;
        if let Calibration::Percentile(kept) = self.activations.calibration {
            require(kept > 50.0 && kept <= 100.0, "a percentile is over 50 and at most 100")?;
        }
        let dynamic = self.form == Form::Dynamic && !self.weights.symmetric;
        require(!dynamic, "the dynamic form takes symmetric weights")?;
        let packed = self.weights.packed && self.form == Form::Dynamic;
        require(!packed, "the dynamic form multiplies bytes: it has no place for INT4")?;
        let rounded = self.qat.is_some() && self.rounding == Rounding::Adaround;
        require(!rounded, "training with the rounding in the loop takes the place of AdaRound: state one of the two")?;
        let learned = self.qat.as_ref().is_some_and(|qat| qat.scales == Scales::Learned);
        require(!learned || self.weights.symmetric, "learned scales are for symmetric weights")?;
        let parts = self.qat.as_ref().is_some_and(|qat| qat.training.parts == train::Parts::Norms);
        require(!parts, "norms are part of the weights when they are quantized: train all, or the head")?;
        let trained = self.qat.is_some() && self.form != Form::Static;
        require(!trained, "training with the rounding in the loop is for the static form")?;
        let learnt = self.rounding == Rounding::Adaround && self.form != Form::Static;
        require(!learnt, "AdaRound is for the static form: it rounds by what quantized inputs do")
    }

    /// Whether calibration data is needed at all.
    pub fn needs_data(&self) -> bool {
        self.form == Form::Static || self.rounding == Rounding::Adaround || self.smooth.is_some()
    }
}
