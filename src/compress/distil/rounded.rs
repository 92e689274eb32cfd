//! Distillation with the rounding of quantization in the loop.

use super::{Recipe, distil};
use crate::compress::quantize::{self, Exceptions, Qat, Quantized, Scales, prepare};
use crate::compress::train::{self, Samples, Trained};
use crate::compress::{Error, Network, Progress};

/// Trains a float student by its teacher while it is rounded as quantization will round it, and quantizes it.
///
/// # Errors
/// As [`distil`], and as [`prepare`] where the student cannot be quantized.
pub fn distil_rounded(
    teacher: &Network,
    student: &Network,
    samples: Samples<'_>,
    recipe: &Recipe,
    training: &train::Recipe,
    quantization: &quantize::Recipe,
    progress: &mut dyn Progress,
) -> Result<(Trained, Quantized), Error> {
    // As it will run: without its norms, which rounding would meet otherwise.
    let folded = Network::with_ends(&student.parts()?, student.inputs.clone(), student.outputs.clone())?;
    let mut prepared = prepare(&folded, Some((samples.data, samples.train)), quantization, progress)?;
    let (nothing, scales) = (Exceptions::default(), Scales::Recomputed);
    let mut rounding = Qat::new(&prepared, &nothing, scales)?;
    let trained = distil(teacher, &prepared.network, samples, recipe, training, &mut rounding, progress)?;
    rounding.finish(&mut prepared, trained.network.clone())?;
    prepared.recipe.qat = Some(quantize::Training { scales, training: training.clone() });
    let quantized = prepared.quantized(&nothing, progress)?;
    Ok((trained, quantized))
}
