#![allow(unsafe_code, reason = "reads through the same pointers as the tiers that it is the reference of")]
//! The reference tier: plain Rust, one value at a time, both storages.
//!
//! Invariant: what this computes is right by definition; every other tier equals it.
//! Not here: speed.

use super::gemm::{Call, Tier};
use super::pack::Pack;
use super::storage::Storage;

const NR: usize = 16;
const KR: usize = 4;

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: NR, kr: KR },
    strips: 1,
    rows: 4,
    gemm: |call, storage| match storage {
        // SAFETY: the same contract.
        Storage::S8 => unsafe { i8_gemm_4x16c4_scalar(call, |byte| i32::from(byte.cast_signed())) },
        // SAFETY: the same contract.
        Storage::U8 => unsafe { i8_gemm_4x16c4_scalar(call, i32::from) },
    },
    settles: false,
    gemm_paired_minimum: None,
};

/// # Safety
/// The contract of [`Call`].
unsafe fn i8_gemm_4x16c4_scalar(call: &Call<'_>, read: fn(u8) -> i32) {
    for row in 0..call.rows {
        for column in 0..call.columns {
            // SAFETY: row and column are the call's.
            unsafe {
                let acc = accumulate(call, row, column, read);
                call.put(row, column, acc);
            }
        }
    }
}

/// # Safety
/// The contract of [`Call`]; `row` and `column` below its `rows` and `columns`.
unsafe fn accumulate(call: &Call<'_>, row: usize, column: usize, read: fn(u8) -> i32) -> i32 {
    // SAFETY: `init` holds a value for every row and column.
    let mut acc = unsafe { *call.init.add(row * call.init_stride + column) };
    for tap in 0..call.taps {
        // SAFETY: row and tap are the call's.
        let pixel = unsafe { call.pixel(row, tap) };
        for k in 0..call.groups * KR {
            let index = ((tap * call.groups + k / KR) * NR + column) * KR + k % KR;
            // SAFETY: `k` is below `groups * KR`, and the strip holds NR columns of them for every tap.
            let (value, weight) = unsafe { (read(*pixel.add(k)), i32::from(*call.weights.add(index))) };
            acc = acc.wrapping_add(value * weight);
        }
    }
    acc
}
