#![allow(unsafe_code, reason = "loops compiled for instructions that were found; table lookups by vector")]
//! Elementwise operators on quantized values: Add, Mul, and everything of one input by table.
//!
//! Invariant: one rounding for every architecture, in f32:
//! Add is `rint(fma(a, ra, fma(b, rb, c)))` with `c = zp − fma(za, ra, zb·rb)`, Mul is `rint(fma((a − za)(b − zb), m, zp))`, both clamped.
//! Rejected: fixed-point sums (one more rounding), tables of all 65,536 pairs (they leave the first-level cache).

use super::here::{Here, by_isa};
use super::isa::Isa;
use super::pack::PackError;
use super::round::{bounded, nearest_byte};
use super::storage::Storage;

/// Scale and zero point (of the signed domain) of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub zero_point: i8,
}

/// What an operator of two inputs is made of.
#[derive(Debug, Clone, Copy)]
pub struct BinarySpec {
    pub a: Quantization,
    pub b: Quantization,
    pub output: Quantization,
    /// Clamp, as of a ReLU; −128 and 127 where there is none.
    pub lo: i8,
    pub hi: i8,
}

/// The sum of two quantized tensors.
#[derive(Debug, Clone)]
pub struct Add {
    here: Here,
    line: Line,
}

/// The product of two quantized tensors.
#[derive(Debug, Clone)]
pub struct Mul {
    here: Here,
    line: Line,
}

/// Coefficients, bounds, storage.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Of a sum: `[ra, rb, c]`; of a product: `[m, za, zb]`.
    by: [f32; 3],
    zero_point: f32,
    lo: f32,
    hi: f32,
    flip: u8,
}

impl Line {
    fn new(spec: &BinarySpec, storage: Storage, by: [f32; 3]) -> Result<Self, PackError> {
        if spec.lo > spec.hi {
            return Err(PackError::Bounds { lo: spec.lo, hi: spec.hi });
        }
        if let Some(&multiplier) = by.iter().find(|by| by.is_nan() || by.abs() > 1e30) {
            return Err(PackError::Multiplier { channel: 0, multiplier });
        }
        Ok(Self {
            by,
            zero_point: f32::from(spec.output.zero_point),
            lo: f32::from(spec.lo),
            hi: f32::from(spec.hi),
            flip: storage.flip(),
        })
    }

    #[inline(always)]
    fn value(&self, byte: u8) -> f32 {
        f32::from((byte ^ self.flip).cast_signed())
    }

    #[inline(always)]
    fn byte(&self, value: f32) -> u8 {
        nearest_byte(bounded(value, self.lo, self.hi)) ^ self.flip
    }
}

impl Add {
    /// # Errors
    /// If a ratio of scales is not a number of use, or this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage, spec: &BinarySpec) -> Result<Self, PackError> {
        let (ra, rb) = (spec.a.scale / spec.output.scale, spec.b.scale / spec.output.scale);
        let zeros = f32::from(spec.a.zero_point).mul_add(ra, rb * f32::from(spec.b.zero_point));
        let c = f32::from(spec.output.zero_point) - zeros;
        Ok(Self { here: Here::new(isa, storage)?, line: Line::new(spec, storage, [ra, rb, c])? })
    }

    /// By `[ra, rb, c]` for values of the signed domain, with the output's zero point in c, and clamped to both bounds.
    /// A difference has a negative ratio.
    ///
    /// # Errors
    /// If a coefficient is not a number of use, or this CPU lacks `isa`.
    pub fn by(isa: Isa, storage: Storage, by: [f32; 3], [lo, hi]: [i8; 2]) -> Result<Self, PackError> {
        let any = Quantization { scale: 1.0, zero_point: 0 };
        let spec = BinarySpec { a: any, b: any, output: any, lo, hi };
        Ok(Self { here: Here::new(isa, storage)?, line: Line::new(&spec, storage, by)? })
    }

    /// `b` is repeated along `a` if it is shorter: one value for each channel of NHWC.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8]) {
        check(a, b, output);
        for (a, output) in a.chunks_exact(b.len().max(1)).zip(output.chunks_exact_mut(b.len().max(1))) {
            add(self.here, self.line, a, b, output);
        }
    }
}

impl Mul {
    /// # Errors
    /// If the ratio of scales is not a number of use, or this CPU lacks `isa`.
    pub fn new(isa: Isa, storage: Storage, spec: &BinarySpec) -> Result<Self, PackError> {
        let m = spec.a.scale * spec.b.scale / spec.output.scale;
        let by = [m, f32::from(spec.a.zero_point), f32::from(spec.b.zero_point)];
        Ok(Self { here: Here::new(isa, storage)?, line: Line::new(spec, storage, by)? })
    }

    /// As [`Add::run`].
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8]) {
        check(a, b, output);
        for (a, output) in a.chunks_exact(b.len().max(1)).zip(output.chunks_exact_mut(b.len().max(1))) {
            multiply(self.here, self.line, a, b, output);
        }
    }
}

fn check(a: &[u8], b: &[u8], output: &[u8]) {
    let fits = a.len() == output.len() && (a.is_empty() || (!b.is_empty() && a.len().is_multiple_of(b.len())));
    assert!(fits, "inputs of {} and {} values, output of {}", a.len(), b.len(), output.len());
}

by_isa! {
    fn add(line: Line, a: &[u8], b: &[u8], output: &mut [u8]) {
        let [ra, rb, c] = line.by;
        for ((output, &a), &b) in output.iter_mut().zip(a).zip(b) {
            *output = line.byte(line.value(a).mul_add(ra, line.value(b).mul_add(rb, c)));
        }
    }
}

by_isa! {
    fn multiply(line: Line, a: &[u8], b: &[u8], output: &mut [u8]) {
        let [m, za, zb] = line.by;
        for ((output, &a), &b) in output.iter_mut().zip(a).zip(b) {
            // Exact: both factors have at most nine bits.
            let product = (line.value(a) - za) * (line.value(b) - zb);
            *output = line.byte(product.mul_add(m, line.zero_point));
        }
    }
}

/// The table of a function of real numbers, from stored byte to stored byte:
/// `saturate(rint(f(input) / scale) + zp)`, as dequantize, compute, quantize give it.
pub fn tabulate(
    storage: Storage,
    input: Quantization,
    output: Quantization,
    function: impl Fn(f32) -> f32,
) -> [u8; 256] {
    std::array::from_fn(|byte| {
        let value = i16::from(storage.value(byte as u8)) - i16::from(input.zero_point);
        let quotient = function(f32::from(value) * input.scale) / output.scale;
        let zero_point = f32::from(output.zero_point);
        let rounded = quotient.max(-128.0 - zero_point).min(127.0 - zero_point).round_ties_even();
        storage.byte((rounded + zero_point) as i8)
    })
}

/// Looks every byte up.
///
/// # Panics
/// If the lengths differ.
pub fn look_up(table: &[u8; 256], input: &[u8], output: &mut [u8]) {
    assert_eq!(input.len(), output.len(), "lengths of input and output");
    output.copy_from_slice(input);
    look_up_in_place(table, output);
}

/// Looks every byte up, in place.
#[cfg(target_arch = "aarch64")]
pub fn look_up_in_place(table: &[u8; 256], values: &mut [u8]) {
    use std::arch::aarch64::*;
    let (vectors, rest) = values.as_chunks_mut::<16>();
    if !vectors.is_empty() {
        // SAFETY: four times 64 bytes of a table of 256; 16 bytes of each vector.
        unsafe {
            let quarters: [uint8x16x4_t; 4] = std::array::from_fn(|i| vld1q_u8_x4(table.as_ptr().add(i * 64)));
            for vector in vectors {
                let index = vld1q_u8(vector.as_ptr());
                let mut found = vqtbl4q_u8(quarters[0], index);
                for i in 1..4 {
                    // An index outside of a quarter leaves what was found.
                    found = vqtbx4q_u8(found, quarters[i], vsubq_u8(index, vdupq_n_u8(64 * i as u8)));
                }
                vst1q_u8(vector.as_mut_ptr(), found);
            }
        }
    }
    rest.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

/// Looks every byte up, in place.
#[cfg(target_arch = "x86_64")]
pub fn look_up_in_place(table: &[u8; 256], values: &mut [u8]) {
    // Shorter ones are not worth the loads of the table.
    if values.len() >= 16 && is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: this CPU has both.
        unsafe { look_up_by_vectors(table, values) }
    } else {
        values.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
    }
}

/// Each half of the table by `vpermi2b`, which takes seven bits of an index; the eighth chooses between the halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up_by_vectors(table: &[u8; 256], values: &mut [u8]) {
    use std::arch::x86_64::*;
    // SAFETY: four times 64 bytes of a table of 256.
    let quarters: [__m512i; 4] =
        std::array::from_fn(|i| unsafe { _mm512_loadu_si512(table.as_ptr().add(i * 64).cast()) });
    for chunk in values.chunks_mut(64) {
        let mask = u64::MAX >> (64 - chunk.len());
        // SAFETY: the mask keeps to the chunk, which has 1 to 64 bytes.
        unsafe {
            let index = _mm512_maskz_loadu_epi8(mask, chunk.as_ptr().cast());
            let low = _mm512_permutex2var_epi8(quarters[0], index, quarters[1]);
            let high = _mm512_permutex2var_epi8(quarters[2], index, quarters[3]);
            let found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
            _mm512_mask_storeu_epi8(chunk.as_mut_ptr().cast(), mask, found);
        }
    }
}

/// Looks every byte up, in place.
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
pub fn look_up_in_place(table: &[u8; 256], values: &mut [u8]) {
    values.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}
