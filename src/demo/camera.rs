//! The digits and the camera that sees them.
//!
//! Images are held out from training; `models/README.md` has their origin and licence (UCI Optical
//! Recognition of Handwritten Digits, CC BY 4.0).

use crate::bundle::{Bundle, PackError};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// 8x8 pixels from 0 to 1, row by row.
pub(super) type Image = [f32; 64];

/// Gives images one after the other, over and over, as the camera hangs.
#[derive(Debug)]
pub(super) struct Camera {
    images: Vec<(Image, u8)>,
    next: AtomicUsize,
    bumped: AtomicBool,
}

impl Camera {
    /// The held-out images that ship in the executable.
    pub(super) fn embedded() -> Result<Self, safetensors::SafeTensorError> {
        let file = SafeTensors::deserialize(include_bytes!("../../models/digits/heldout.safetensors"))?;
        let (pixels, labels) = (file.tensor("images")?, file.tensor("labels")?);
        let images = pixels.data().as_chunks::<64>().0.iter().map(|image| image.map(|pixel| f32::from(pixel) / 16.0));
        let images = images.zip(labels.data().iter().copied()).collect();
        Ok(Self { images, next: AtomicUsize::new(0), bumped: AtomicBool::new(false) })
    }

    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    /// From now on the pictures come turned and inverted.
    pub(super) fn bump(&self) {
        self.bumped.store(true, Relaxed);
    }

    /// The next picture and what it shows.
    pub(super) fn shoot(&self) -> (Image, u8) {
        let (image, label) = self.images[self.next.fetch_add(1, Relaxed) % self.images.len()];
        let bumped = self.bumped.load(Relaxed);
        (if bumped { turn_and_invert(&image) } else { image }, label)
    }
}

/// A quarter turn clockwise and the negative: `out[r][c] = 1 - in[7-c][r]`.
fn turn_and_invert(image: &Image) -> Image {
    std::array::from_fn(|i| 1.0 - image[(7 - i % 8) * 8 + i / 8])
}

/// The model for the camera as it was installed.
pub(super) fn plain() -> Files {
    files([
        ("manifest.toml", include_bytes!("../../models/digits/manifest.toml")),
        ("model.onnx", include_bytes!("../../models/digits/model.onnx")),
        ("golden.safetensors", include_bytes!("../../models/digits/golden.safetensors")),
        ("labels.txt", include_bytes!("../../models/digits/labels.txt")),
    ])
}

/// The model for the camera as it hangs after the bump.
pub(super) fn adapted() -> Files {
    files([
        ("manifest.toml", include_bytes!("../../models/digits-adapted/manifest.toml")),
        ("model.onnx", include_bytes!("../../models/digits-adapted/model.onnx")),
        ("golden.safetensors", include_bytes!("../../models/digits-adapted/golden.safetensors")),
        ("labels.txt", include_bytes!("../../models/digits-adapted/labels.txt")),
    ])
}

/// The files of a model directory.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

fn files(files: [(&str, &[u8]); 4]) -> Files {
    files.map(|(name, contents)| (name.to_owned(), contents.to_vec())).into()
}

/// The same files as another version, with another description.
pub(super) fn release(mut files: Files, version: u32, description: &str) -> Result<Bundle, PackError> {
    if let Some(manifest) = files.get_mut("manifest.toml") {
        let text = String::from_utf8_lossy(manifest).into_owned();
        let lines = text.lines().map(|line| match line.split('=').next().map(str::trim) {
            Some("version") => format!("version = {version}\n"),
            Some("description") => format!("description = {description:?}\n"),
            Some(_) | None => format!("{line}\n"),
        });
        *manifest = lines.collect::<String>().into_bytes();
    }
    Bundle::pack(&files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_turns_and_an_even_number_of_negatives_change_nothing() {
        let camera = Camera::embedded().unwrap();
        let (image, _) = camera.shoot();
        let turned = (0..4).fold(image, |image, _| turn_and_invert(&image));
        assert_eq!(turned, image);
        assert_ne!(turn_and_invert(&image), image);
        assert!(camera.len() >= 300);
    }

    #[test]
    fn a_release_changes_its_version_only() {
        let bundle = release(adapted(), 7, "x").unwrap();
        assert_eq!((bundle.manifest().version, bundle.manifest().description.as_str()), (7, "x"));
        assert_eq!(bundle.model(), adapted()["model.onnx"]);
    }
}
