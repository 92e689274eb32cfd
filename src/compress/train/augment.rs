//! Changed copies of images, so that a model does not learn them by heart.
//!
//! Invariant: the same seed changes the same sample in the same way.

use crate::compress::data::mix;
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

    /// Changes an image of `[1, C, H, W]` (or `[1, C, L]`, `[1, L]`, which have lines of one row).
    pub fn change(&self, values: &mut Vec<f32>, shape: &[usize], seed: u64) {
        let mut dice = Dice(mix(seed));
        let (high, wide) = match shape {
            [.., high, wide] if shape.len() == 4 => (*high, *wide),
            [.., wide] => (1, *wide),
            [] => return,
        };
        let (flip, down, right) = (
            self.flip && dice.below(2) == 1,
            if high > 1 { dice.below(2 * self.shift + 1) as isize - self.shift as isize } else { 0 },
            dice.below(2 * self.shift + 1) as isize - self.shift as isize,
        );
        if flip || down != 0 || right != 0 {
            let from = |at: usize| {
                let (row, column) = ((at / wide) as isize - down, (at % wide) as isize - right);
                let inside = (0..high as isize).contains(&row) && (0..wide as isize).contains(&column);
                let column = if flip { wide as isize - 1 - column } else { column };
                inside.then(|| row as usize * wide + column as usize)
            };
            let moved =
                |plane: &[f32]| (0..high * wide).map(|at| from(at).map_or(0.0, |at| plane[at])).collect::<Vec<_>>();
            *values = values.chunks(high * wide).flat_map(moved).collect();
        }
        if self.cutout > 0 {
            let (top, left) = (dice.below(high), dice.below(wide));
            for plane in values.chunks_mut(high * wide) {
                for row in top..(top + self.cutout).min(high) {
                    plane[row * wide + left..row * wide + (left + self.cutout).min(wide)].fill(0.0);
                }
            }
        }
        if self.contrast > 0.0 {
            let factor = 1.0 + self.contrast * dice.real();
            values.iter_mut().for_each(|value| *value *= factor);
        }
        if self.noise > 0.0 {
            let size = self.noise * values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            values.iter_mut().for_each(|value| *value += size * dice.real());
        }
    }
}
