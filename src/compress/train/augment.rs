//! Changed copies of images, so that a model does not learn them by heart.
//!
//! Invariant: the same seed changes the same sample in the same way, and what it becomes is still of the input's type.
//! Where rows and columns stand, the manifest says, or the operators that read the input, or its number of channels; where
//! none of them does, nothing is guessed.

use crate::bundle::Layout;
use crate::compress::data::{Dataset, mix};
use crate::compress::{Error, Network};
use crate::onnx::graph::{Graph, Use, ValueId};
use crate::tensor::{DataType, TensorSpec};
use serde::{Deserialize, Serialize};

/// What may happen to an image; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Augment {
    /// Mirrored left to right, every second time.
    pub flip: bool,
    /// Moved by up to so many pixels either way; zeros come in.
    pub shift: usize,
    /// A square of this side becomes zeros (DeVries and Taylor 2017, arXiv:1708.04552).
    pub cutout: usize,
    /// Times 1 plus or minus up to this.
    pub contrast: f32,
    /// Uniform noise of up to this share of the largest value.
    pub noise: f32,
}

impl std::str::FromStr for Augment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut augment = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once(':').unwrap_or((part, ""));
            let whole = || value.parse().ok().filter(|size| (1..=1024).contains(size));
            let real = || value.parse().ok().filter(|size| *size > 0.0 && *size <= 1.0);
            let known = match (name, value) {
                ("flip", "") => {
                    augment.flip = true;
                    Some(())
                }
                ("shift", _) => whole().map(|size| augment.shift = size),
                ("cutout", _) => whole().map(|size| augment.cutout = size),
                ("contrast", _) => real().map(|size| augment.contrast = size),
                ("noise", _) => real().map(|size| augment.noise = size),
                _ => None,
            };
            known.ok_or_else(|| {
                format!("{part:?} is none of flip, shift:PIXELS, cutout:PIXELS, contrast:0.2, noise:0.05")
            })?;
        }
        Ok(augment)
    }
}

/// Numbers from a seed, one after another.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = mix(self.0.wrapping_add(1));
        ((u128::from(self.0) * count as u128) >> 64) as usize
    }

    /// From -1 to 1.
    fn real(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Augment {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Makes it ready for the first input of a network.
    ///
    /// # Errors
    /// When that input holds no images, or nothing says how they are laid out.
    pub fn ready(self, network: &Network, data: &Dataset) -> Result<Augmenter, Error> {
        let Some(spec) = network.inputs.first().filter(|_| !self.is_none()) else { return Ok(Augmenter::default()) };
        let levels = if spec.datatype == DataType::Uint8 {
            Some((0.0, 255.0))
        } else if spec.datatype == DataType::Int8 {
            Some((-128.0, 127.0))
        } else if spec.datatype.is_float() {
            None
        } else {
            return Err(Error::unfit(format!(
                "--augment changes images, and input {:?} is of type {}: train without it",
                spec.name, spec.datatype
            )));
        };
        let layout = || data.layout().or_else(|| by_readers(network.graph())).or_else(|| by_channels(&spec.shape));
        let moves = self.flip || self.shift > 0 || self.cutout > 0;
        let plane = match (&spec.shape[..], moves) {
            // In one row: nothing depends on where a value stands.
            (shape, false) => Some(Plane { high: 1, wide: shape.iter().product(), inner: 1 }),
            ([_, wide], true) => Some(Plane { high: 1, wide: *wide, inner: 1 }),
            (&[_, a, b], true) => by_readers(network.graph()).map(|layout| match layout {
                Layout::Nchw => Plane { high: 1, wide: b, inner: 1 },
                Layout::Nhwc => Plane { high: 1, wide: a, inner: b },
            }),
            (&[_, a, b, c], true) => layout().map(|layout| match layout {
                Layout::Nchw => Plane { high: b, wide: c, inner: 1 },
                Layout::Nhwc => Plane { high: a, wide: b, inner: c },
            }),
            _ => None,
        };
        let plane = plane.ok_or_else(|| unknown(spec))?;
        Ok(Augmenter(Some(Ready { how: self, plane, levels })))
    }
}

fn unknown(spec: &TensorSpec) -> Error {
    Error::unfit(format!(
        "--augment: nothing says where rows and columns of input {:?} stand, {}: say so in the manifest ([inputs.preprocess], \
         layout = \"nchw\" or \"nhwc\"), or leave flip, shift and cutout out",
        spec.name,
        spec.form()
    ))
}

/// By the number of channels, where only one dimension can be one: 1 to 4.
fn by_channels(shape: &[usize]) -> Option<Layout> {
    let &[_, first, _, last] = shape else { return None };
    match ((1..=4).contains(&first), (1..=4).contains(&last)) {
        (true, false) => Some(Layout::Nchw),
        (false, true) => Some(Layout::Nhwc),
        (true, true) | (false, false) => None,
    }
}

/// Operators whose first input has its channels second.
const OF_CHANNELS: [&str; 8] = [
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "BatchNormalization",
    "InstanceNormalization",
];

/// Operators that leave every value where it stands.
const IN_PLACE: [&str; 10] =
    ["Add", "Sub", "Mul", "Div", "Cast", "Identity", "Relu", "Clip", "QuantizeLinear", "DequantizeLinear"];

/// By what reads the first input: a convolution and the like takes channels second, a Transpose before it says where they were.
fn by_readers(graph: &Graph) -> Option<Layout> {
    let uses = graph.uses();
    // From the input on, each value with whether its channels were last.
    let mut ahead: Vec<(ValueId, bool)> = vec![(graph.inputs.first()?.value, false)];
    let mut seen = Vec::new();
    while let Some((value, turned)) = ahead.pop() {
        if seen.contains(&value) {
            continue;
        }
        seen.push(value);
        for reader in uses.of(value) {
            let Use::Input(node, input) = *reader else { continue };
            let Some(node) = graph.node(node) else { continue };
            if OF_CHANNELS.contains(&node.op.as_str()) && input == 0 {
                return Some(if turned { Layout::Nhwc } else { Layout::Nchw });
            }
            let turned = match node.ints("perm") {
                Some([0, 3, 1, 2] | [0, 2, 1]) if node.is("Transpose") && !turned => true,
                None if IN_PLACE.contains(&node.op.as_str()) => turned,
                _ => continue,
            };
            ahead.extend(node.output(0).map(|output| (output, turned)));
        }
    }
    None
}

/// An image: planes, each of rows, each of columns, each of `inner` channels.
#[derive(Debug, Clone, Copy)]
struct Plane {
    high: usize,
    wide: usize,
    inner: usize,
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    how: Augment,
    plane: Plane,
    /// Of an input of integers its least and its greatest.
    levels: Option<(f32, f32)>,
}

/// Changes samples of one input; by default none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Augmenter(Option<Ready>);

impl Augmenter {
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Changes one sample.
    pub fn change(&self, values: &mut Vec<f32>, seed: u64) {
        let Some(Ready { how, plane, levels }) = self.0 else { return };
        let Plane { high, wide, inner } = plane;
        let mut dice = Dice(mix(seed));
        let (flip, down, right) = (
            how.flip && dice.below(2) == 1,
            if high > 1 { dice.below(2 * how.shift + 1) as isize - how.shift as isize } else { 0 },
            dice.below(2 * how.shift + 1) as isize - how.shift as isize,
        );
        if flip || down != 0 || right != 0 {
            *values = moved(values, plane, flip, down, right);
        }
        if how.cutout > 0 {
            let (top, left) = (dice.below(high), dice.below(wide));
            for plane in values.chunks_mut(high * wide * inner) {
                for row in top..(top + how.cutout).min(high) {
                    let (from, to) = (row * wide + left, row * wide + (left + how.cutout).min(wide));
                    plane[from * inner..to * inner].fill(0.0);
                }
            }
        }
        if how.contrast > 0.0 {
            let factor = 1.0 + how.contrast * dice.real();
            values.iter_mut().for_each(|value| *value *= factor);
        }
        if how.noise > 0.0 {
            let size = how.noise * values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            values.iter_mut().for_each(|value| *value += size * dice.real());
        }
        if let Some((least, most)) = levels {
            values.iter_mut().for_each(|value| *value = value.round_ties_even().clamp(least, most));
        }
    }
}

/// Mirrored left to right, and moved; zeros come in.
fn moved(values: &[f32], plane: Plane, flip: bool, down: isize, right: isize) -> Vec<f32> {
    let Plane { high, wide, inner } = plane;
    let from = |at: usize| {
        let (place, channel) = (at / inner, at % inner);
        let (row, column) = ((place / wide) as isize - down, (place % wide) as isize - right);
        let inside = (0..high as isize).contains(&row) && (0..wide as isize).contains(&column);
        let column = if flip { wide as isize - 1 - column } else { column };
        inside.then(|| (row as usize * wide + column as usize) * inner + channel)
    };
    let all = high * wide * inner;
    values.chunks(all).flat_map(|plane| (0..all).map(|at| from(at).map_or(0.0, |at| plane[at]))).collect()
}

#[cfg(test)]
mod tests;
