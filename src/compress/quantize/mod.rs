//! Quantization: float weights and activations -> integers, by data; after training, or with more of it (`qat`).
//!
//! Invariant: without an accuracy bound what is asked for is done; with one, the result keeps it or says that it cannot.
//! Not here: files.
//!
//! ```text
//! prepare -> place -> observe -> scales, rounding, biases -> write -> judge, and give layers back to float
//! ```

mod adaround;
mod bias;
mod expected;
mod observe;
mod place;
mod qat;
mod range;
mod recipe;
mod report;
mod rescale;
mod rows;
mod scheme;
mod search;
#[cfg(test)]
mod tests;
mod union;
mod weights;
mod work;
mod write;

pub use expected::{Decisions, Expected};
pub use place::Kept;
pub use qat::{Qat, Scales, qat};
pub use range::Calibration;
pub use recipe::{ActivationScheme, Equalize, Form, Recipe, Rounding, Training};
pub use report::{LayerReport, QuantizeReport, svg};
pub use scheme::{Affine, Levels, Range};
pub use search::{Bounds, Judge, Outcome, search, unjudged};
pub use weights::WeightScheme;
pub use work::{Exceptions, Prepared, prepare};
pub use write::Quantized;
