//! Convolutions of 3x3 by Winograd's filtering, where that is quicker: on CPUs without dot products.

use super::super::op::{Conv, Window};
use super::Scratch;
use super::kernel::{At, Built, Kernel};
use super::layout::Layout;
use super::run::Scope;
use crate::kernels::{Frame, GemmSpec, Isa, TileMut, WeightView, Winograd};
use std::sync::PoisonError;

/// Fewer tiles than this do not make up for reading eight times as many bytes of weights.
const FEWEST_TILES: usize = 16;
/// With fewer channels on either side transforming takes longer than it saves.
const FEWEST_CHANNELS: usize = 16;

/// Whether a convolution runs by it: to so many output channels, from so many input channels, to so many pixels.
pub(super) fn is_worth(isa: Isa, conv: &Conv, [outputs, channels]: [usize; 2], output: [usize; 2]) -> bool {
    let Window { kernel, stride, dilation, .. } = conv.window;
    let fits = kernel == [3, 3] && stride == [1, 1] && dilation == [1, 1] && conv.group == 1;
    let tiles = output[0].div_ceil(Winograd::LINES) * output[1].div_ceil(Winograd::LINES);
    isa == Isa::Neon && fits && tiles >= FEWEST_TILES && outputs.min(channels) >= FEWEST_CHANNELS
}

impl At<'_> {
    pub(super) fn winograd(&self, conv: &Conv) -> Built {
        let (&[_, c, h, w], &[_, m, oh, ow]) = (self.inputs[0].shape.as_slice(), self.output.shape.as_slice()) else {
            return Ok(None);
        };
        let images = self.from[0] == Layout::Nhwc && self.to == Layout::Nhwc;
        if !images || !is_worth(self.isa, conv, [m, c], [oh, ow]) {
            return Ok(None);
        }
        let table = self.table(&conv.finish);
        let requant = self.requant(&conv.finish, table.as_ref());
        let (Some(requant), Some(params)) = (requant, Self::params(self.inputs[0])) else { return Ok(None) };
        let spec = GemmSpec {
            weights: WeightView::oihw(&conv.weights.data, m, c, 9)?,
            weight_zero_points: &conv.weights.zero_points,
            bias: &conv.bias,
            input_zero_point: params.zero_point,
            requant,
        };
        let frame = Frame { input: [h, w], output: [oh, ow], pads: [conv.window.pads[0], conv.window.pads[1]] };
        let made = Winograd::new(&spec)?.map(|mut winograd| {
            winograd.share(self.weights);
            Kernel::Winograd { winograd: Box::new(winograd), frame }
        });
        Ok(made)
    }
}

impl Scope<'_> {
    pub(super) fn winograd(&self, winograd: &Winograd, frame: &Frame, scratch: &Scratch, output: &mut [u8]) {
        let (&[n, c, h, w], &[_, m, oh, ow]) = (self.shape(self.stage.inputs[0]), self.shape(self.stage.output)) else {
            panic!("images")
        };
        let input = self.bytes(self.stage.inputs[0]);
        let spare = || scratch.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = [Winograd::LINES * ow, winograd.column_step()];
        for (image, output) in output.chunks_exact_mut(m * oh * ow).enumerate().take(n) {
            let input = &input[image * c * h * w..];
            self.share(TileMut::new(output, oh * ow, m, m), steps, 9 * c, |tile| {
                let Some(mut numbers) = spare().pop() else { panic!("numbers for each thread") };
                winograd.run(input, frame, &mut numbers, tile);
                spare().push(numbers);
            });
        }
    }
}
