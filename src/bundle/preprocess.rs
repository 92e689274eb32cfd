//! What a file must go through to become an input: how the model was trained to see and hear.
//!
//! Not here: doing it. Devices get tensors; the operator's tools read files.

use serde::{Deserialize, Serialize};

/// By kind of file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Preprocess {
    Image(ImagePreprocess),
    Audio(AudioPreprocess),
}

impl Default for Preprocess {
    fn default() -> Self {
        Self::Image(ImagePreprocess::default())
    }
}

/// `(pixel * scale - mean) / std`, pixels from 0 to 255.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImagePreprocess {
    pub color: ColorOrder,
    pub layout: Layout,
    pub resize: Resize,
    pub scale: f32,
    /// One for each channel, or one for all; none is 0.
    pub mean: Vec<f32>,
    /// One for each channel, or one for all; none is 1.
    pub std: Vec<f32>,
}

impl Default for ImagePreprocess {
    fn default() -> Self {
        Self {
            color: ColorOrder::Rgb,
            layout: Layout::Nchw,
            resize: Resize::Stretch,
            scale: 1.0 / 255.0,
            mean: Vec::new(),
            std: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColorOrder {
    Rgb,
    Bgr,
    Gray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    Nchw,
    Nhwc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// To the input's size, whatever the proportions.
    Stretch,
    /// Until it fills the input's size; what stands over is cut on both sides.
    Crop,
}

/// Samples from -1 to 1, one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AudioPreprocess {
    /// Samples a second.
    pub rate: Option<u32>,
}
