#![allow(unsafe_code, reason = "loops compiled for instructions that were found")]
//! Softmax of quantized values, one row at a time.
//!
//! Invariant: `rint(clamp(f32(e)·r, −128 − zp, 127 − zp)) + zp`, where e is the exponential by table of the distance to
//! the row's largest value and r = f32(1 / (f64(Σe)·scale)).
//! A row's outputs are a table as well: there are no more than 256 distances, so that each is rounded once.

use super::elementwise::Quantization;
use super::here::{Here, by_isa};
use super::isa::Isa;
use super::pack::PackError;
use super::round::{bounded, nearest_byte};
use super::storage::Storage;

/// Softmax along what lies innermost.
#[derive(Debug, Clone)]
pub struct Softmax {
    here: Here,
    exponentials: [u32; 256],
    output: Quantization,
    /// What turns stored bytes into an order of unsigned ones, by exclusive or.
    order: u8,
}

/// From a power to a stored byte.
#[derive(Debug, Clone, Copy)]
struct Line {
    ratio: f32,
    lo: f32,
    hi: f32,
    zero_point: u8,
    flip: u8,
}

impl Softmax {
    /// `exponentials` by distance.
    ///
    /// # Errors
    /// If the scale is not positive, or this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage, exponentials: &[u32; 256], output: Quantization) -> Result<Self, PackError> {
        if !(output.scale > 0.0 && output.scale.is_finite()) {
            return Err(PackError::Multiplier { channel: 0, multiplier: output.scale });
        }
        let order = storage.flip() ^ 0x80;
        Ok(Self { here: Here::new(isa, storage)?, exponentials: *exponentials, output, order })
    }

    /// One row.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn run(&self, input: &[u8], output: &mut [u8]) {
        assert_eq!(input.len(), output.len(), "lengths of input and output");
        let largest = input.iter().map(|byte| byte ^ self.order).max().unwrap_or(0);
        let distance = |byte: u8| usize::from(largest - (byte ^ self.order));
        let sum: u64 = input.iter().map(|&byte| u64::from(self.exponentials[distance(byte)])).sum();
        let zero_point = f32::from(self.output.zero_point);
        let line = Line {
            ratio: (1.0 / (sum as f64 * f64::from(self.output.scale))) as f32,
            lo: -128.0 - zero_point,
            hi: 127.0 - zero_point,
            zero_point: self.output.zero_point.cast_unsigned(),
            flip: self.here.storage().flip(),
        };
        let mut bytes = [0; 256];
        settle(self.here, line, &self.exponentials, &mut bytes);
        output.iter_mut().zip(input).for_each(|(to, &byte)| *to = bytes[distance(byte)]);
    }
}

by_isa! {
    fn settle(line: Line, powers: &[u32; 256], bytes: &mut [u8; 256]) {
        for (byte, &power) in bytes.iter_mut().zip(powers) {
            let scaled = bounded(power as f32 * line.ratio, line.lo, line.hi);
            *byte = nearest_byte(scaled).wrapping_add(line.zero_point) ^ line.flip;
        }
    }
}
