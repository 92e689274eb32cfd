//! Training: gradients through ONNX graphs, on candle's tensors.
//!
//! Invariant: the model that is trained is the model that is deployed: the same nodes, read from and written to the same
//! graph.
//! Not here: what distillation, pruning and quantization-aware training put into the loop.
//!
//! ```text
//! ops        operators with gradients      interpret   one ONNX node
//! program    a network's nodes, in order   loss        what is made small
//! optimise   steps                         fit         the loop
//! augment    changed copies of images         weights     which constants they are
//! zeros      weights that stay at zero             pass        walks over samples
//! state      where it stands after an epoch
//! ```
//!
//! Rejected: candle-onnx (most models fail on missing operators), burn (code generation only).

mod augment;
pub mod fit;
mod interpret;
pub mod loss;
mod memory;
mod ops;
mod optimise;
mod pass;
mod program;
mod state;
#[cfg(test)]
mod tests;
mod weights;
mod zeros;

pub use augment::{Augment, Augmenter};
pub use fit::{Batch, Epoch, Guide, Parts, Plain, Recipe, Samples, Trained, fit};
pub use ops::unary::Unary;
pub use ops::{Kernel, View, apply, fake, values};
pub use optimise::{Method, Schedule};
pub use pass::{Gradients, gradients, loss_of, read, settle_norms};
pub use program::{Mode, NoTap, Program, Run, Tap};
pub use state::State;
pub use weights::{Weight, weights};
pub use zeros::{Held, Zeros};
