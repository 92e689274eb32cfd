#![allow(unsafe_code, reason = "loops compiled for instructions that were found")]
//! Between floats and quantized values, and from NCHW to NHWC on the way.
//!
//! Invariant: `saturate(rint(x / scale) + zp)`, half to even, with a division as ONNX has it; what is not a number
//! becomes the lowest value.
//! A first layer's input goes to pixels of four bytes, with its border of zero points: one pixel is one group of four
//! products, one line of a window is one run of bytes, and no tap is looked up.
//! Rejected: multiplication by the reciprocal (it rounds differently).

use super::elementwise::Quantization;
use super::here::{Here, by_isa};
use super::indirect::Geometry;
use super::isa::Isa;
use super::pack::PackError;
use super::round::{bounded, nearest_byte};
use super::storage::Storage;
use super::transpose::{BLOCK, part};

/// Conversions of one tensor.
#[derive(Debug, Clone)]
pub struct Convert {
    here: Here,
    line: Line,
    padding: u8,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    scale: f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    flip: u8,
}

/// An image's size, and the border around it in NHWC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Bytes from one pixel to the next in NHWC, at least `channels`.
    pub pixel_stride: usize,
    /// Top, left, bottom, right.
    pub border: [usize; 4],
}

impl Image {
    /// Bytes from one line to the next in NHWC.
    pub fn row_stride(&self) -> usize {
        (self.border[1] + self.width + self.border[3]) * self.pixel_stride
    }

    /// The window over a first layer's image, its border included, in which a line of the window is one tap of
    /// `kernel width * pixel stride` bytes (weights: [`lines_of_pixels`]).
    pub fn lines(&self, kernel: [usize; 2], stride: [usize; 2]) -> Geometry {
        let [top, left, bottom, right] = self.border;
        let width = left + self.width + right;
        Geometry {
            input: [top + self.height + bottom, (width + 1).saturating_sub(kernel[1])],
            kernel: [kernel[0], 1],
            stride,
            dilation: [1, 1],
            pads: [0; 4],
            pixel_stride: self.pixel_stride,
            row_stride: self.row_stride(),
        }
    }

    /// Bytes in NHWC, without slack.
    pub fn bytes(&self) -> usize {
        (self.border[0] + self.height + self.border[2]) * self.row_stride()
    }
}

/// A first layer's weights, `[n][channels][kernel height][kernel width]` in ONNX, for pixels of four bytes:
/// `[n][kernel height][kernel width * 4]`, for [`WeightView::ohwi`](super::WeightView::ohwi) with a tap for each line.
///
/// # Panics
/// If there are more than four channels, or not as many weights.
pub fn lines_of_pixels(weights: &[i8], n: usize, channels: usize, kernel: [usize; 2]) -> Vec<i8> {
    let (taps, line) = (kernel[0] * kernel[1], kernel[1] * 4);
    assert!(channels <= 4 && weights.len() == n * channels * taps, "{n} times {channels} channels of {kernel:?}");
    let mut lines = vec![0; n * kernel[0] * line];
    for (i, &weight) in weights.iter().enumerate() {
        let (o, c, tap) = (i / taps / channels, i / taps % channels, i % taps);
        lines[(o * taps + tap) * 4 + c] = weight;
    }
    lines
}

impl Convert {
    /// # Errors
    /// If the scale is not positive, or this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage, by: Quantization) -> Result<Self, PackError> {
        if !(by.scale > 0.0 && by.scale.is_finite()) {
            return Err(PackError::Multiplier { channel: 0, multiplier: by.scale });
        }
        let zero_point = f32::from(by.zero_point);
        let line = Line {
            scale: by.scale,
            zero_point: i32::from(by.zero_point),
            lo: -128.0 - zero_point,
            hi: 127.0 - zero_point,
            flip: storage.flip(),
        };
        Ok(Self { here: Here::new(isa, storage)?, line, padding: storage.byte(by.zero_point) })
    }

    /// # Panics
    /// If the lengths differ.
    pub fn quantize(&self, input: &[f32], output: &mut [u8]) {
        assert_eq!(input.len(), output.len(), "lengths of input and output");
        quantize(self.here, self.line, input, output);
    }

    /// # Panics
    /// If the lengths differ.
    pub fn dequantize(&self, input: &[u8], output: &mut [f32]) {
        assert_eq!(input.len(), output.len(), "lengths of input and output");
        dequantize(self.here, self.line, input, output);
    }

    /// One image from NCHW to NHWC. Border and bytes between channels and the next pixel become zero points.
    ///
    /// # Panics
    /// If the lengths do not fit the image.
    pub fn quantize_image(&self, image: &Image, input: &[f32], output: &mut [u8]) {
        let plane = image.height * image.width;
        assert!(image.channels <= image.pixel_stride, "{image:?}");
        assert_eq!(input.len(), image.channels * plane, "values of the input");
        assert!(output.len() >= image.bytes(), "output of {} bytes, {} needed", output.len(), image.bytes());
        output[..image.bytes()].fill(self.padding);
        for y in 0..image.height {
            let start = (image.border[0] + y) * image.row_stride() + image.border[1] * image.pixel_stride;
            let line = &mut output[start..][..image.width * image.pixel_stride];
            let rows = &input[y * image.width..];
            match (image.channels, image.pixel_stride) {
                (3, 4) => {
                    let row = |c: usize| &rows[c * plane..][..image.width];
                    quantize_rgb(self.here, self.line, [row(0), row(1), row(2)], line.as_chunks_mut::<4>().0);
                }
                (channels, _) if channels < 8 => {
                    for c in 0..channels {
                        let row = &rows[c * plane..][..image.width];
                        scatter(self.here, self.line, row, &mut line[c..], image.pixel_stride);
                    }
                }
                _ => self.quantize_line(image, rows, line),
            }
        }
    }
}

impl Convert {
    /// A line of an image of many channels, in blocks: by channel as it comes, then turned.
    fn quantize_line(&self, image: &Image, rows: &[f32], line: &mut [u8]) {
        let plane = image.height * image.width;
        let mut block = [0; BLOCK[0] * BLOCK[1]];
        for x in (0..image.width).step_by(BLOCK[0]) {
            for c in (0..image.channels).step_by(BLOCK[1]) {
                let (wide, high) = (BLOCK[0].min(image.width - x), BLOCK[1].min(image.channels - c));
                for (i, to) in block.chunks_mut(BLOCK[0]).enumerate().take(high) {
                    quantize(self.here, self.line, &rows[(c + i) * plane + x..][..wide], &mut to[..wide]);
                }
                part(&block, [high, wide], [BLOCK[0], image.pixel_stride], &mut line[x * image.pixel_stride + c..], 0);
            }
        }
    }
}

impl Line {
    #[inline(always)]
    fn byte(&self, value: f32) -> u8 {
        let clamped = bounded(value / self.scale, self.lo, self.hi);
        nearest_byte(clamped).wrapping_add(self.zero_point as u8) ^ self.flip
    }
}

by_isa! {
    fn quantize(line: Line, input: &[f32], output: &mut [u8]) {
        for (output, &value) in output.iter_mut().zip(input) {
            *output = line.byte(value);
        }
    }
}

by_isa! {
    fn dequantize(line: Line, input: &[u8], output: &mut [f32]) {
        for (output, &byte) in output.iter_mut().zip(input) {
            *output = (i32::from((byte ^ line.flip).cast_signed()) - line.zero_point) as f32 * line.scale;
        }
    }
}

by_isa! {
    fn quantize_rgb(line: Line, rows: [&[f32]; 3], output: &mut [[u8; 4]]) {
        let padding = (line.zero_point as u8) ^ line.flip;
        for (((output, &r), &g), &b) in output.iter_mut().zip(rows[0]).zip(rows[1]).zip(rows[2]) {
            *output = [line.byte(r), line.byte(g), line.byte(b), padding];
        }
    }
}

by_isa! {
    fn scatter(line: Line, row: &[f32], output: &mut [u8], stride: usize) {
        for (output, &value) in output.iter_mut().step_by(stride).zip(row) {
            *output = line.byte(value);
        }
    }
}
