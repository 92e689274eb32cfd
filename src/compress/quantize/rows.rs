//! What a layer multiplies its weights with, a row for each output position: of a convolution a patch of its input.
//!
//! Invariant: positions are chosen by the seed alone; padding is zeros.

use crate::compress::data::mix;
use crate::compress::probe::Seen;
use crate::onnx::graph::Node;

/// Rows of one layer, those of all groups side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub width: usize,
    pub values: Vec<f32>,
}

impl Rows {
    pub fn new(width: usize) -> Self {
        Self { width, values: Vec::new() }
    }

    pub fn count(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// The columns `at..at + width` of every row.
    pub fn columns(&self, at: usize, width: usize) -> Vec<f32> {
        self.values.chunks_exact(self.width.max(1)).flat_map(|row| &row[at..at + width]).copied().collect()
    }
}

/// Where a row's values lie in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// The last dimension.
    Matrix {
        width: usize,
    },
    Conv(ConvWindow),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvWindow {
    /// Of the whole input.
    channels: usize,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Before the first element; `None`: the same size as the input, the odd one in front or behind.
    pads: Option<Vec<usize>>,
    pads_lower: bool,
}

impl Window {
    pub fn of_matrix(width: usize) -> Self {
        Self::Matrix { width }
    }

    /// Of a convolution with weights `[M, C / group, kernel...]`.
    pub fn of_conv(node: &Node, weights: &[usize]) -> Self {
        let kernel = weights.get(2..).unwrap_or_default().to_vec();
        let list = |name: &str, otherwise: usize| {
            let stated =
                node.ints(name).map(|ints| ints.iter().map(|&int| usize::try_from(int).unwrap_or(0)).collect());
            stated.unwrap_or_else(|| vec![otherwise; kernel.len()])
        };
        let groups = usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(1);
        let auto = node.text("auto_pad").unwrap_or("NOTSET");
        let pads = (!auto.starts_with("SAME")).then(|| match auto {
            "VALID" => vec![0; kernel.len()],
            _ => list("pads", 0).into_iter().chain(vec![0; kernel.len()]).take(kernel.len()).collect(),
        });
        Self::Conv(ConvWindow {
            channels: weights.get(1).copied().unwrap_or(0) * groups,
            strides: list("strides", 1),
            dilations: list("dilations", 1),
            pads,
            pads_lower: auto == "SAME_LOWER",
            kernel,
        })
    }

    /// Values of one row.
    pub fn width(&self) -> usize {
        match self {
            Self::Matrix { width } => *width,
            Self::Conv(conv) => conv.channels * conv.kernel.iter().product::<usize>(),
        }
    }

    /// Adds at most `most` rows of this input, at positions by the seed.
    pub fn take(&self, seen: &Seen, most: usize, seed: u64, rows: &mut Rows) {
        match self {
            Self::Matrix { width } => {
                let all = seen.values.len().checked_div(*width).unwrap_or(0);
                for position in chosen(all, most, seed) {
                    rows.values.extend(&seen.values[position * width..(position + 1) * width]);
                }
            }
            Self::Conv(conv) => conv.take(seen, most, seed, rows),
        }
    }
}

/// Different numbers below `all`, in order; all of them where there are no more.
fn chosen(all: usize, most: usize, seed: u64) -> Vec<usize> {
    if all <= most {
        return (0..all).collect();
    }
    // One out of each of as many equal parts.
    let part = |number: usize| {
        let (from, to) = (number * all / most, (number + 1) * all / most);
        from + usize::try_from(mix(seed ^ mix(number as u64)) % (to - from).max(1) as u64).unwrap_or(0)
    };
    (0..most).map(part).collect()
}

impl ConvWindow {
    fn take(&self, seen: &Seen, most: usize, seed: u64, rows: &mut Rows) {
        let [_, channels, sizes @ ..] = seen.shape.as_slice() else { return };
        if *channels != self.channels || sizes.len() != self.kernel.len() || sizes.is_empty() {
            return;
        }
        let outputs: Vec<(usize, usize)> = (0..sizes.len()).map(|dim| self.outputs(dim, sizes[dim])).collect();
        let batch = seen.shape[0];
        let positions = outputs.iter().map(|(count, _)| count).product::<usize>();
        for chosen in chosen(batch * positions, most, seed) {
            let (image, mut rest) = (chosen / positions, chosen % positions);
            let mut at = vec![0; sizes.len()];
            for dim in (0..sizes.len()).rev() {
                at[dim] = rest % outputs[dim].0;
                rest /= outputs[dim].0;
            }
            let starts: Vec<isize> = (0..sizes.len())
                .map(|dim| (at[dim] * self.strides[dim]).cast_signed() - outputs[dim].1.cast_signed())
                .collect();
            self.patch(seen, image, sizes, &starts, rows);
        }
    }

    /// Outputs along a dimension, and the padding before it. What stands behind matters to the number alone.
    fn outputs(&self, dim: usize, size: usize) -> (usize, usize) {
        let extent = (self.kernel[dim].max(1) - 1) * self.dilations[dim] + 1;
        let stride = self.strides[dim].max(1);
        match &self.pads {
            // Positions that padding behind would add look like those that padding before has: left out.
            Some(pads) => (((size + pads[dim]).saturating_sub(extent)) / stride + 1, pads[dim]),
            None => {
                let count = size.div_ceil(stride);
                let total = ((count.max(1) - 1) * stride + extent).saturating_sub(size);
                (count, if self.pads_lower { total.div_ceil(2) } else { total / 2 })
            }
        }
    }

    fn patch(&self, seen: &Seen, image: usize, sizes: &[usize], starts: &[isize], rows: &mut Rows) {
        let plane = sizes.iter().product::<usize>();
        let taps = self.kernel.iter().product::<usize>();
        for channel in 0..self.channels {
            let plane = &seen.values[(image * self.channels + channel) * plane..][..plane];
            for tap in 0..taps {
                let (mut rest, mut place, mut inside, mut step) = (tap, 0, true, 1);
                for dim in (0..sizes.len()).rev() {
                    let along = starts[dim] + ((rest % self.kernel[dim]) * self.dilations[dim]).cast_signed();
                    rest /= self.kernel[dim];
                    inside &= (0..sizes[dim].cast_signed()).contains(&along);
                    place += along.max(0).cast_unsigned() * step;
                    step *= sizes[dim];
                }
                rows.values.push(if inside { plane[place] } else { 0.0 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::Attribute;
    use std::collections::BTreeMap;

    fn conv(attributes: &[(&str, Attribute)]) -> Node {
        let attributes: BTreeMap<String, Attribute> =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Node {
            name: String::new(),
            op: "Conv".into(),
            domain: String::new(),
            version: 21,
            attributes,
            inputs: vec![],
            outputs: vec![],
        }
    }

    #[test]
    fn patches_are_those_of_the_convolution() {
        let node = conv(&[("pads", Attribute::Ints(vec![1, 1, 1, 1])), ("strides", Attribute::Ints(vec![2, 2]))]);
        let window = Window::of_conv(&node, &[4, 1, 3, 3]);
        let seen = Seen { shape: vec![1, 1, 3, 3], values: (1..=9_u8).map(f32::from).collect() };
        let mut rows = Rows::new(window.width());
        window.take(&seen, 100, 1, &mut rows);
        assert_eq!(rows.count(), 4.min(rows.count()));
        assert_eq!(rows.values[..9], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 4.0, 5.0]);
    }

    #[test]
    fn same_padding_and_depth_are_followed() {
        let node = conv(&[("auto_pad", Attribute::Text(b"SAME_UPPER".to_vec()))]);
        let window = Window::of_conv(&node, &[2, 2, 2]);
        let seen = Seen { shape: vec![1, 2, 3], values: vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0] };
        let mut rows = Rows::new(window.width());
        window.take(&seen, 9, 1, &mut rows);
        assert_eq!(rows.count(), 3);
        assert_eq!(rows.values[8..], [3.0, 0.0, 30.0, 0.0]);
    }

    #[test]
    fn so_many_rows_are_taken_and_the_same_each_time() {
        let window = Window::of_matrix(2);
        let seen = Seen { shape: vec![1, 50, 2], values: (0..100_u8).map(f32::from).collect() };
        let take = |seed| {
            let mut rows = Rows::new(2);
            window.take(&seen, 10, seed, &mut rows);
            rows
        };
        assert_eq!((take(1).count(), take(1)), (10, take(1)));
        assert_ne!(take(1), take(2));
    }
}
