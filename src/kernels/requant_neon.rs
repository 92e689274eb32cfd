#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Accumulators to bytes on Arm.
//!
//! Invariant: the bytes of [`requantize`](super::requantize). Where [`Finish::plain`] holds, a number is rounded by adding
//! 1.5·2²³ plus the zero point, after which its integer is the lower half of its bits: 16 instructions for 16 values
//! instead of 22. An even zero point leaves ties as they are; an odd one would turn them round, so that its last bit is
//! added afterwards.
//! Functions without features of their own are inlined always, or else accumulators go through memory.

use std::arch::aarch64::*;

use super::gemm::{Call, Finish, MAX_COLUMNS};

/// Beyond it an f32 holds integers alone.
const INTEGERS: f32 = 12_582_912.0;

/// The constants of a requantization, in every lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    zero_point: int16x8_t,
    lo: int8x16_t,
    hi: int8x16_t,
    integers: float32x4_t,
    one: int16x8_t,
}

impl End {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn new(finish: &Finish) -> Self {
        Self {
            zero_point: vdupq_n_s16(finish.zero_point),
            lo: vdupq_n_s8(finish.lo.cast_signed()),
            hi: vdupq_n_s8(finish.hi.cast_signed()),
            integers: vdupq_n_f32(INTEGERS + f32::from(finish.zero_point & !1)),
            one: vdupq_n_s16(1),
        }
    }
}

/// 16 bytes of output from 16 accumulators. Conversions saturate, so that nothing is clamped before.
#[inline(always)]
pub(super) fn quantize_16(end: &End, acc: [int32x4_t; 4], m: [float32x4_t; 4]) -> uint8x16_t {
    // SAFETY: registers alone.
    unsafe {
        let q = |j: usize| vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc[j]), m[j]));
        let low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(q(0)), q(1)), end.zero_point);
        let high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(q(2)), q(3)), end.zero_point);
        let bytes = vqmovn_high_s16(vqmovn_s16(low), high);
        vreinterpretq_u8_s8(vminq_s8(vmaxq_s8(bytes, end.lo), end.hi))
    }
}

/// The same where [`Finish::plain`] holds; `ODD` where the zero point is.
#[inline(always)]
pub(super) fn quantize_plain<const ODD: bool>(end: &End, acc: [int32x4_t; 4], m: [float32x4_t; 4]) -> uint8x16_t {
    // SAFETY: registers alone.
    unsafe {
        let word = |j: usize| {
            let number = vmulq_f32(vcvtq_f32_s32(acc[j]), m[j]);
            vreinterpretq_s16_f32(vaddq_f32(number, end.integers))
        };
        let (mut low, mut high) = (vuzp1q_s16(word(0), word(1)), vuzp1q_s16(word(2), word(3)));
        if ODD {
            (low, high) = (vaddq_s16(low, end.one), vaddq_s16(high, end.one));
        }
        vreinterpretq_u8_s8(vqmovn_high_s16(vqmovn_s16(low), high))
    }
}

/// # Safety
/// There are 16 multipliers.
#[inline(always)]
pub(super) unsafe fn load_16(multipliers: *const f32) -> [float32x4_t; 4] {
    // SAFETY: as said.
    let float32x4x4_t(a, b, c, d) = unsafe { vld1q_f32_x4(multipliers) };
    [a, b, c, d]
}

/// # Safety
/// There are `V` times eight values.
#[inline(always)]
pub(super) unsafe fn load_sums<const V: usize>(from: *const i32) -> [[int32x4_t; 2]; V] {
    // SAFETY: as said, and vectors are read two by two while there are two.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 2]; V];
        for v in (0..V / 2 * 2).step_by(2) {
            let int32x4x4_t(a, b, c, d) = vld1q_s32_x4(from.add(v * 8));
            (sums[v], sums[v + 1]) = ([a, b], [c, d]);
        }
        if V % 2 == 1 {
            sums[V - 1] = [vld1q_s32(from.add((V - 1) * 8)), vld1q_s32(from.add((V - 1) * 8 + 4))];
        }
        sums
    }
}

/// Reads 64 bytes of weights and goes on behind them, into the registers that are named. In assembly, for compilers make
/// two loads and an addition of it.
macro_rules! next_weights {
    ($from:expr, $line:tt, $a:tt, $b:tt, $c:tt, $d:tt) => {{
        let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
        std::arch::asm!($line, from = inout(reg) $from, out($a) a, out($b) b, out($c) c, out($d) d,
            options(pure, readonly, nostack, preserves_flags));
        [a, b, c, d]
    }};
    (even, $from:expr) => {
        next_weights!($from, "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{from}], #64", "v28", "v29", "v30", "v31")
    };
    (odd, $from:expr) => {
        next_weights!($from, "ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{from}], #64", "v24", "v25", "v26", "v27")
    };
}

pub(super) use next_weights;

/// The tiles of a call, one after another: where the next one begins, on both sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    row: usize,
    init: *const i32,
    /// Unless rows go by a map.
    input: *const i8,
    to: *mut u8,
    /// There are as many columns as the tile has, and nothing but plain bytes is asked for.
    quick: bool,
    odd: bool,
}

impl Place {
    /// From that row of the call on, in tiles of that many columns.
    #[inline(always)]
    pub(super) fn new(call: &Call<'_>, row: usize, columns: usize) -> Self {
        Self {
            row,
            init: call.init.wrapping_add(row * call.init_stride),
            input: call.input.wrapping_add(row * call.input_stride).cast(),
            to: call.output.wrapping_add(row * call.row_stride),
            quick: call.finish.plain && call.columns >= columns && call.accumulators.is_null(),
            odd: call.finish.zero_point % 2 != 0,
        }
    }

    /// What the sums of a tile begin with.
    ///
    /// # Safety
    /// The contract of [`Call`], of whose rows are `R`, and whose strips hold `V` times eight columns.
    #[inline(always)]
    pub(super) unsafe fn sums<const R: usize, const V: usize>(&mut self, call: &Call<'_>) -> [[[int32x4_t; 2]; V]; R] {
        // SAFETY: `init` holds a value for each column of the strips, after `init_stride` for every row.
        unsafe {
            let mut sums = [[[vdupq_n_s32(0); 2]; V]; R];
            for r in 0..R {
                sums[r] = load_sums::<V>(self.init);
                self.init = self.init.wrapping_add(call.init_stride);
            }
            sums
        }
    }

    /// Where a tap of each row begins. `DIRECT` where it is known that rows go without a map.
    ///
    /// # Safety
    /// The contract of [`Call`], of whose rows are `R`; `tap` is one of its taps.
    #[inline(always)]
    pub(super) unsafe fn pixels<const R: usize, const DIRECT: bool>(
        &mut self,
        call: &Call<'_>,
        tap: usize,
    ) -> [*const i8; R] {
        let mut pixels = [self.input; R];
        for r in 0..R {
            if DIRECT || call.offsets.is_null() {
                pixels[r] = self.input;
                self.input = self.input.wrapping_add(call.input_stride);
            } else {
                // SAFETY: the same contract.
                pixels[r] = unsafe { call.pixel(self.row + r, tap).cast() };
            }
        }
        pixels
    }
}

/// Requantizes and stores rows of `V` times eight columns, or keeps their accumulators; goes on to the next rows.
///
/// # Safety
/// The contract of [`Call`], whose strips hold these columns; the rows of the place, which is for them, are its.
#[inline(always)]
pub(super) unsafe fn finish<const R: usize, const V: usize>(
    call: &Call<'_>,
    end: &End,
    place: &mut Place,
    acc: [[[int32x4_t; 2]; V]; R],
) {
    // SAFETY: the same contract; where it is quick, there are as many columns as are stored.
    unsafe {
        if !place.quick {
            let sums = acc;
            finish_slowly(call, end, place.row, &sums.as_flattened().as_flattened()[..R * V * 2], V);
        } else if place.odd {
            store_rows::<R, V, true>(call, end, &mut place.to, acc);
        } else {
            store_rows::<R, V, false>(call, end, &mut place.to, acc);
        }
        place.row += R;
    }
}

/// # Safety
/// There is a multiplier for each column; so many are writable at each row of the output, which goes on behind them.
#[inline(always)]
unsafe fn store_rows<const R: usize, const V: usize, const ODD: bool>(
    call: &Call<'_>,
    end: &End,
    to: &mut *mut u8,
    acc: [[[int32x4_t; 2]; V]; R],
) {
    // SAFETY: as said; any bits are an f32.
    unsafe {
        let m = load_sums::<V>(call.multipliers.cast());
        let m = |v: usize, i: usize| vreinterpretq_f32_s32(m[v][i]);
        for r in 0..R {
            let acc = acc[r];
            for v in (0..V / 2 * 2).step_by(2) {
                let sums = [acc[v][0], acc[v][1], acc[v + 1][0], acc[v + 1][1]];
                let m = [m(v, 0), m(v, 1), m(v + 1, 0), m(v + 1, 1)];
                vst1q_u8(to.add(v * 8), quantize_plain::<ODD>(end, sums, m));
            }
            if V % 2 == 1 {
                let ([a, b], [m, n]) = (acc[V - 1], [m(V - 1, 0), m(V - 1, 1)]);
                let bytes = quantize_plain::<ODD>(end, [a, b, a, b], [m, n, m, n]);
                vst1_u8(to.add((V - 1) * 8), vget_low_u8(bytes));
            }
            *to = to.wrapping_add(call.row_stride);
        }
    }
}

/// The same of sums in memory, for what the quick way does not do: `V` times two vectors for every row.
///
/// # Safety
/// As for [`finish`]; there is a row at least.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn finish_slowly(call: &Call<'_>, end: &End, row: usize, sums: &[int32x4_t], vectors: usize) {
    // SAFETY: `accumulators` has MAX_COLUMNS for each row; there is a multiplier for each column of the strips; `output` is
    // writable for the call's columns at each row, and no more is stored.
    unsafe {
        for (r, sums) in sums.chunks_exact(vectors * 2).enumerate() {
            if !call.accumulators.is_null() {
                for (j, &sums) in sums.iter().enumerate() {
                    vst1q_s32(call.accumulators.add((row + r) * MAX_COLUMNS + j * 4), sums);
                }
                continue;
            }
            let to = call.output.add((row + r) * call.row_stride);
            for (j, four) in sums.chunks(4).enumerate() {
                // The last half of a strip may not be there; its multipliers are.
                let four = [four[0], four[1], four[four.len() - 2], four[four.len() - 1]];
                let bytes = quantize_16(end, four, load_16(call.multipliers.add(j * 16)));
                store(to.add(j * 16), (call.columns - j * 16).min(16), bytes);
            }
        }
    }
}

/// Stores the first bytes, without a call that would make the caller save its registers.
///
/// # Safety
/// `to` is writable for `count` bytes, of which at most 16 are stored.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store(mut to: *mut u8, count: usize, bytes: uint8x16_t) {
    // SAFETY: the powers of two stored add up to `count`.
    unsafe {
        if count >= 16 {
            return vst1q_u8(to, bytes);
        }
        let mut rest = bytes;
        if count & 8 != 0 {
            vst1_u8(to, vget_low_u8(rest));
            (to, rest) = (to.add(8), vextq_u8::<8>(rest, rest));
        }
        if count & 4 != 0 {
            to.cast::<u32>().write_unaligned(vgetq_lane_u32::<0>(vreinterpretq_u32_u8(rest)));
            (to, rest) = (to.add(4), vextq_u8::<4>(rest, rest));
        }
        if count & 2 != 0 {
            to.cast::<u16>().write_unaligned(vgetq_lane_u16::<0>(vreinterpretq_u16_u8(rest)));
            (to, rest) = (to.add(2), vextq_u8::<2>(rest, rest));
        }
        if count & 1 != 0 {
            *to = vgetq_lane_u8::<0>(rest);
        }
    }
}
