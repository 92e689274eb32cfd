//! Steps between floats.

use super::super::op::{FloatConv, FloatLinear, FloatWeights};
use super::super::program::Type;
use super::super::rows::RowFunction;
use super::{At, Checked, Problem, finite, per_channel};

impl At<'_> {
    /// Floats in, floats out.
    pub(super) fn floats(&self, inputs: usize) -> Checked {
        self.arity(inputs)?;
        let mut types = self.inputs.iter().chain([&self.output]).map(|value| value.ty);
        if types.all(|ty| ty == Type::F32) { Ok(()) } else { Err(Problem::Type) }
    }

    pub(super) fn rows(&self, function: &RowFunction, width: usize) -> Checked {
        self.floats(1)?;
        let values = self.inputs[0].count();
        if width == 0 || !values.is_multiple_of(width) {
            return Err(Problem::Inputs(vec![self.inputs[0].shape.clone()]));
        }
        self.length("its output", self.output.count(), values / width * function.made(width))?;
        if let RowFunction::LayerNorm(norm) = function {
            let all = |what, values: &[f32]| match values.len() {
                0 => Ok(()),
                found => self.length(what, found, width),
            };
            all("scales", &norm.scale)?;
            all("the bias", &norm.bias)?;
        }
        Ok(())
    }

    pub(super) fn float_linear(&self, linear: &FloatLinear) -> Checked {
        self.floats(1)?;
        let [_, n] = self.columns(linear.weights.shape())?;
        self.float_product(&linear.weights, &linear.bias, n)
    }

    pub(super) fn float_conv(&self, conv: &FloatConv) -> Checked {
        self.floats(1)?;
        let [m, _] = self.convolution(conv.weights.shape(), &conv.window, conv.group)?;
        self.float_product(&conv.weights, &conv.bias, m)
    }

    fn float_product(&self, weights: &FloatWeights, bias: &[f32], n: usize) -> Checked {
        let wanted = weights.shape().iter().product();
        match weights {
            FloatWeights::Floats { data, .. } => self.length("weights", data.len(), wanted)?,
            FloatWeights::Bytes { weights, scales } => {
                self.length("weights", weights.data.len(), wanted)?;
                per_channel("weight zero points", weights.zero_points.len(), n)?;
                per_channel("scales", scales.len(), n)?;
                scales.iter().try_for_each(|&scale| finite(scale))?;
            }
        }
        if bias.is_empty() { Ok(()) } else { self.length("the bias", bias.len(), n) }
    }
}
