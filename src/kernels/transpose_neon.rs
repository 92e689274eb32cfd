#![allow(unsafe_code, reason = "vector instructions on pointers")]
//! Matrices of bytes with rows and columns exchanged on Arm: eight rows and sixteen columns, or eight, in registers.
//!
//! Invariant: what is read and written is inside of the slices, which is checked before.

use std::arch::aarch64::*;

use super::transpose::check;

/// `to[c][r] = from[r][c] ^ flip` where rows and columns are multiples of eight.
///
/// # Panics
/// If either is too short.
pub(super) fn whole_blocks(from: &[u8], [rows, columns]: [usize; 2], strides: [usize; 2], to: &mut [u8], flip: u8) {
    check([rows, columns], strides, [from.len(), to.len()]);
    for r in (0..rows).step_by(8) {
        // SAFETY: the last byte of the last row of either side is in its slice, and so are all before it.
        let (mut from, mut to) = unsafe { (from.as_ptr().add(r * strides[0]), to.as_mut_ptr().add(r)) };
        for c in (0..columns).step_by(16) {
            // SAFETY: as above; eight rows and so many columns are left.
            unsafe {
                if c + 16 <= columns {
                    to = turn::<16>(from, to, strides, flip);
                } else {
                    to = turn::<8>(from, to, strides, flip);
                }
            }
            from = from.wrapping_add(16);
        }
    }
}

/// Eight rows of `WIDE` columns; where the next column goes.
///
/// # Safety
/// `WIDE` bytes are readable at each of eight rows, eight are writable at each of `WIDE`.
#[inline(always)]
unsafe fn turn<const WIDE: usize>(mut from: *const u8, mut to: *mut u8, strides: [usize; 2], flip: u8) -> *mut u8 {
    // SAFETY: as said.
    unsafe {
        let flip = vdupq_n_u8(flip);
        let mut next = || {
            let row = if WIDE == 16 { vld1q_u8(from) } else { vcombine_u8(vld1_u8(from), vdup_n_u8(0)) };
            from = from.wrapping_add(strides[0]);
            veorq_u8(row, flip)
        };
        let rows = [next(), next(), next(), next(), next(), next(), next(), next()];
        // Rows four apart side by side, then two, then one: each vector is two columns at the end.
        let mut store = |a: [uint8x16_t; 4]| {
            let b = [vzip1q_u8(a[0], a[2]), vzip2q_u8(a[0], a[2]), vzip1q_u8(a[1], a[3]), vzip2q_u8(a[1], a[3])];
            let two = [vzip1q_u8(b[0], b[2]), vzip2q_u8(b[0], b[2]), vzip1q_u8(b[1], b[3]), vzip2q_u8(b[1], b[3])];
            for pair in two {
                vst1_u8(to, vget_low_u8(pair));
                to = to.wrapping_add(strides[1]);
                vst1q_lane_u64::<1>(to.cast(), vreinterpretq_u64_u8(pair));
                to = to.wrapping_add(strides[1]);
            }
        };
        let zip = |i: usize| vzip1q_u8(rows[i], rows[i + 4]);
        store([zip(0), zip(1), zip(2), zip(3)]);
        if WIDE == 16 {
            let zip = |i: usize| vzip2q_u8(rows[i], rows[i + 4]);
            store([zip(0), zip(1), zip(2), zip(3)]);
        }
        to
    }
}
