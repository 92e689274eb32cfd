#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! Vectors of 128 bits as Arm's baseline has them: its instructions there, plain arrays elsewhere.
//!
//! Invariant: both give the same numbers; arithmetic is modulo the width.

#[cfg(target_arch = "aarch64")]
mod of_arm {
    use std::arch::aarch64::*;

    #[derive(Debug, Clone, Copy)]
    pub struct I16x8(int16x8_t);
    #[derive(Debug, Clone, Copy)]
    pub struct I32x4(int32x4_t);

    // SAFETY of all below: every CPU of this architecture has these instructions; slices are looked at for their length.
    impl I16x8 {
        // SAFETY: eight zeros.
        pub const ZERO: Self = Self(unsafe { std::mem::transmute::<[i16; 8], int16x8_t>([0; 8]) });

        /// # Safety
        /// Eight numbers are there.
        #[inline(always)]
        pub unsafe fn load(from: *const i16) -> Self {
            // SAFETY: the same contract.
            Self(unsafe { vld1q_s16(from) })
        }

        #[inline(always)]
        pub fn store(self, to: &mut [i16]) {
            let to = &mut to[..8];
            // SAFETY: eight numbers.
            unsafe { vst1q_s16(to.as_mut_ptr(), self.0) };
        }

        /// Signed bytes less another one.
        #[inline(always)]
        pub fn difference(bytes: [u8; 8], less: i8) -> Self {
            // SAFETY: eight bytes.
            Self(unsafe { vsubl_s8(vreinterpret_s8_u8(vld1_u8(bytes.as_ptr())), vdup_n_s8(less)) })
        }

        #[inline(always)]
        pub fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vaddq_s16(self.0, other.0) })
        }

        #[inline(always)]
        pub fn minus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vsubq_s16(self.0, other.0) })
        }

        #[inline(always)]
        pub fn shift_up<const BITS: i32>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vshlq_n_s16::<BITS>(self.0) })
        }
    }

    impl I32x4 {
        // SAFETY: four zeros.
        pub const ZERO: Self = Self(unsafe { std::mem::transmute::<[i32; 4], int32x4_t>([0; 4]) });

        #[inline(always)]
        pub fn load(from: &[i32]) -> Self {
            let from = &from[..4];
            // SAFETY: four numbers.
            Self(unsafe { vld1q_s32(from.as_ptr()) })
        }

        #[inline(always)]
        pub fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vaddq_s32(self.0, other.0) })
        }

        #[inline(always)]
        pub fn minus(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vsubq_s32(self.0, other.0) })
        }

        #[inline(always)]
        pub fn times(self, factor: i32) -> Self {
            // SAFETY: as above.
            Self(unsafe { vmulq_n_s32(self.0, factor) })
        }

        #[inline(always)]
        pub fn shift_up<const BITS: i32>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vshlq_n_s32::<BITS>(self.0) })
        }

        /// Zeros come in.
        #[inline(always)]
        pub fn shift_down<const BITS: i32>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vreinterpretq_s32_u32(vshrq_n_u32::<BITS>(vreinterpretq_u32_s32(self.0))) })
        }

        /// The sign comes in.
        #[inline(always)]
        pub fn shift_down_signed<const BITS: i32>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe { vshrq_n_s32::<BITS>(self.0) })
        }

        /// `rint(clamp(f32(x)·m, bounds)) + zero_point`
        #[inline(always)]
        pub fn requantized(self, multipliers: &[f32], bounds: [f32; 2], zero_point: i8) -> [u8; 4] {
            let multipliers = &multipliers[..4];
            // SAFETY: four numbers.
            unsafe {
                let scaled = vmulq_f32(vcvtq_f32_s32(self.0), vld1q_f32(multipliers.as_ptr()));
                let bounded = vminq_f32(vmaxq_f32(scaled, vdupq_n_f32(bounds[0])), vdupq_n_f32(bounds[1]));
                let near = vaddq_s32(vcvtnq_s32_f32(bounded), vdupq_n_s32(i32::from(zero_point)));
                let words = vmovn_s32(near);
                let bytes = vmovn_s16(vcombine_s16(words, words));
                vget_lane_u32::<0>(vreinterpret_u32_s8(bytes)).to_le_bytes()
            }
        }

        /// Of four rows, the products of eight numbers each with eight lines of sixteen.
        ///
        /// # Safety
        /// Eight times sixteen weights are there.
        #[inline(always)]
        pub unsafe fn add_products(sums: &mut [[Self; 4]; 4], rows: &[I16x8; 4], weights: *const i16) {
            macro_rules! line {
                ($($k:literal)*) => {$(
                    // SAFETY: sixteen weights of each line.
                    let (a, b) = unsafe { (vld1q_s16(weights.add($k * 16)), vld1q_s16(weights.add($k * 16 + 8))) };
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        // SAFETY: as above.
                        unsafe {
                            sums[0].0 = vmlal_laneq_s16::<$k>(sums[0].0, vget_low_s16(a), row.0);
                            sums[1].0 = vmlal_high_laneq_s16::<$k>(sums[1].0, a, row.0);
                            sums[2].0 = vmlal_laneq_s16::<$k>(sums[2].0, vget_low_s16(b), row.0);
                            sums[3].0 = vmlal_high_laneq_s16::<$k>(sums[3].0, b, row.0);
                        }
                    }
                )*};
            }
            line!(0 1 2 3 4 5 6 7);
        }
    }
}

#[cfg(not(target_arch = "aarch64"))]
mod of_arrays {
    use super::super::round::bounded;

    #[derive(Debug, Clone, Copy)]
    pub struct I16x8([i16; 8]);
    #[derive(Debug, Clone, Copy)]
    pub struct I32x4([i32; 4]);

    impl I16x8 {
        pub const ZERO: Self = Self([0; 8]);

        /// # Safety
        /// Eight numbers are there.
        pub unsafe fn load(from: *const i16) -> Self {
            // SAFETY: the same contract.
            Self(unsafe { from.cast::<[i16; 8]>().read_unaligned() })
        }

        pub fn store(self, to: &mut [i16]) {
            to[..8].copy_from_slice(&self.0);
        }

        /// Signed bytes less another one.
        pub fn difference(bytes: [u8; 8], less: i8) -> Self {
            Self(bytes.map(|byte| i16::from(byte.cast_signed()) - i16::from(less)))
        }

        pub fn plus(self, other: Self) -> Self {
            Self(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
        }

        pub fn minus(self, other: Self) -> Self {
            Self(std::array::from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
        }

        pub fn shift_up<const BITS: i32>(self) -> Self {
            Self(self.0.map(|x| x << BITS))
        }
    }

    impl I32x4 {
        pub const ZERO: Self = Self([0; 4]);

        pub fn load(from: &[i32]) -> Self {
            Self(std::array::from_fn(|i| from[i]))
        }

        pub fn plus(self, other: Self) -> Self {
            Self(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
        }

        pub fn minus(self, other: Self) -> Self {
            Self(std::array::from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
        }

        pub fn times(self, factor: i32) -> Self {
            Self(self.0.map(|x| x.wrapping_mul(factor)))
        }

        pub fn shift_up<const BITS: i32>(self) -> Self {
            Self(self.0.map(|x| x << BITS))
        }

        /// Zeros come in.
        pub fn shift_down<const BITS: i32>(self) -> Self {
            Self(self.0.map(|x| (x.cast_unsigned() >> BITS).cast_signed()))
        }

        /// The sign comes in.
        pub fn shift_down_signed<const BITS: i32>(self) -> Self {
            Self(self.0.map(|x| x >> BITS))
        }

        /// `rint(clamp(f32(x)·m, bounds)) + zero_point`
        pub fn requantized(self, multipliers: &[f32], bounds: [f32; 2], zero_point: i8) -> [u8; 4] {
            std::array::from_fn(|i| {
                let near = bounded(self.0[i] as f32 * multipliers[i], bounds[0], bounds[1]).round_ties_even();
                (near as i32 + i32::from(zero_point)) as u8
            })
        }

        /// Of four rows, the products of eight numbers each with eight lines of sixteen.
        ///
        /// # Safety
        /// Eight times sixteen weights are there.
        pub unsafe fn add_products(sums: &mut [[Self; 4]; 4], rows: &[I16x8; 4], weights: *const i16) {
            for k in 0..8 {
                // SAFETY: sixteen weights of each line.
                let line = unsafe { weights.add(k * 16).cast::<[i16; 16]>().read_unaligned() };
                for (sums, row) in sums.iter_mut().zip(rows) {
                    for (i, weight) in line.into_iter().enumerate() {
                        let product = i32::from(row.0[k]) * i32::from(weight);
                        sums[i / 4].0[i % 4] = sums[i / 4].0[i % 4].wrapping_add(product);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use of_arm::{I16x8, I32x4};
#[cfg(not(target_arch = "aarch64"))]
pub(super) use of_arrays::{I16x8, I32x4};
