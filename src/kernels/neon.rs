#![allow(unsafe_code, reason = "vector instructions on pointers")]
#![allow(clippy::needless_range_loop, reason = "registers go by their numbers")]
//! Armv8.0: products of bytes in 16 bits, two at a time, then into 32.
//!
//! Invariant: two products in 16 bits overflow only where both are −128·−128; weights that have two −128 where they
//! would meet take the variant that widens each product by itself.
//! Two input channels of a row stand in every lane of a vector, those of eight columns' weights in another: `sadalp` adds
//! the two up, so that accumulators are columns, and nothing is added across them at the end.
//! 2 rows by 32 columns: 54 instructions for 256 products, of which 48 multiply and add.
//! Rejected: `smlal` by lane (half of the products an instruction), 16 input channels in a vector (columns to be added up
//! across their lanes; K in steps of 16).

use std::arch::aarch64::*;
use std::arch::asm;

use super::gemm::{Call, Tier};
use super::pack::Pack;
use super::requant_neon::{End, Place, finish, next_weights};

pub(super) static TIER: Tier = Tier {
    pack: Pack { nr: 16, kr: 2 },
    strips: 2,
    rows: 4,
    // SAFETY: the same contract.
    gemm: |call, _| unsafe { dispatch::<true>(call) },
    settles: false,
    // SAFETY: the same contract.
    gemm_paired_minimum: Some(|call, _| unsafe { dispatch::<false>(call) }),
};

/// # Safety
/// The contract of [`Call`].
unsafe fn dispatch<const PAIRS: bool>(call: &Call<'_>) {
    // SAFETY: the same contract; as many vectors of eight columns as the call's strips have.
    unsafe {
        match call.columns.div_ceil(8) {
            1 => rows::<4, 1, PAIRS>(call),
            2 => rows::<4, 2, PAIRS>(call),
            3 => rows::<2, 3, PAIRS>(call),
            _ => rows::<2, 4, PAIRS>(call),
        }
    }
}

/// # Safety
/// The contract of [`Call`], of `V` vectors of columns.
#[inline(always)]
unsafe fn rows<const R: usize, const V: usize, const PAIRS: bool>(call: &Call<'_>) {
    let whole = call.rows / R;
    // SAFETY: tiles of R rows, and then of one, are the call's.
    unsafe {
        if whole > 0 && call.offsets.is_null() {
            i8_gemm_neon::<R, V, PAIRS, true>(call, 0, whole);
        } else if whole > 0 {
            i8_gemm_neon::<R, V, PAIRS, false>(call, 0, whole);
        }
        if call.rows > whole * R {
            i8_gemm_neon::<1, V, PAIRS, false>(call, whole * R, call.rows - whole * R);
        }
    }
}

/// Two bytes in every lane of a vector, and behind them. In assembly: the compiler takes both halves of what it knows to
/// be the same everywhere for one, and then has to part the weights.
///
/// # Safety
/// Two bytes are readable.
#[inline(always)]
unsafe fn everywhere(from: &mut *const i8) -> int8x16_t {
    let pair;
    // SAFETY: by the contract; nothing else is read, nothing written.
    unsafe {
        asm!("ld1r {{ {pair:v}.8h }}, [{from}], #2", pair = out(vreg) pair, from = inout(reg) *from,
            options(pure, readonly, nostack, preserves_flags));
    }
    pair
}

/// Adds the products of two vectors of activations with two of weights, for 16 columns: twice two vectors. In assembly:
/// the compiler multiplies more at once than there are registers for.
macro_rules! add_two {
    ($acc:expr, $v:expr, $x:expr, $w:expr, $($line:literal),+) => {
        asm!($($line),+,
            a = inout(vreg) $acc[$v][0], b = inout(vreg) $acc[$v][1],
            c = inout(vreg) $acc[$v + 1][0], d = inout(vreg) $acc[$v + 1][1],
            x = in(vreg) $x[0], y = in(vreg) $x[1],
            w0 = in(vreg) $w[0], w1 = in(vreg) $w[1], w2 = in(vreg) $w[2], w3 = in(vreg) $w[3],
            t0 = out(vreg) _, t1 = out(vreg) _, t2 = out(vreg) _, t3 = out(vreg) _,
            options(pure, nomem, nostack, preserves_flags))
    };
}
macro_rules! add_pairs {
    ($acc:expr, $v:expr, $x:expr, $w:expr) => {
        add_two!(
            $acc,
            $v,
            $x,
            $w,
            "smull {t0:v}.8h, {x:v}.8b, {w0:v}.8b",
            "smull2 {t1:v}.8h, {x:v}.16b, {w0:v}.16b",
            "smull {t2:v}.8h, {x:v}.8b, {w1:v}.8b",
            "smull2 {t3:v}.8h, {x:v}.16b, {w1:v}.16b",
            "smlal {t0:v}.8h, {y:v}.8b, {w2:v}.8b",
            "smlal2 {t1:v}.8h, {y:v}.16b, {w2:v}.16b",
            "smlal {t2:v}.8h, {y:v}.8b, {w3:v}.8b",
            "smlal2 {t3:v}.8h, {y:v}.16b, {w3:v}.16b",
            "sadalp {a:v}.4s, {t0:v}.8h",
            "sadalp {b:v}.4s, {t1:v}.8h",
            "sadalp {c:v}.4s, {t2:v}.8h",
            "sadalp {d:v}.4s, {t3:v}.8h"
        )
    };
}

macro_rules! low {
    ($vector:expr) => {
        vget_low_s8($vector)
    };
}

/// The products of one vector of activations, each widened by itself.
macro_rules! add_one {
    ($acc:expr, $v:expr, $x:expr, $w:expr) => {
        $acc[$v][0] = vpadalq_s16($acc[$v][0], vmull_s8(low!($x), low!($w)));
        $acc[$v][1] = vpadalq_s16($acc[$v][1], vmull_high_s8($x, $w));
    };
}

/// One vector or two from `v` on, of the `all` that there are.
macro_rules! two_vectors {
    ($acc:expr, $v:literal, $all:expr, $x:expr, $w:expr, $pairs:expr) => {
        if !$pairs {
            for v in $v..$all.min($v + 2) {
                add_one!($acc, v, $x[0], $w[v - $v]);
                add_one!($acc, v, $x[1], $w[v - $v + 2]);
            }
        } else if $v + 1 < $all {
            add_pairs!($acc, $v, $x, $w);
        } else {
            let low = vmlal_s8(vmull_s8(low!($x[0]), low!($w[0])), low!($x[1]), low!($w[2]));
            let high = vmlal_high_s8(vmull_high_s8($x[0], $w[0]), $x[1], $w[2]);
            $acc[$v] = [vpadalq_s16($acc[$v][0], low), vpadalq_s16($acc[$v][1], high)];
        }
    };
}

/// Two groups, or the last one, of all rows and columns.
macro_rules! groups {
    (2, $acc:ident, $rows:ident, $first:ident, $second:ident, $pairs:expr) => {{
        let mut x = [[vdupq_n_s8(0); 2]; R];
        for r in 0..R {
            x[r] = [everywhere(&mut $rows[r]), everywhere(&mut $rows[r])];
        }
        let w = next_weights!(even, $first);
        for r in 0..R {
            two_vectors!($acc[r], 0, V, x[r], w, $pairs);
        }
        if V > 2 {
            let w = next_weights!(odd, $second);
            for r in 0..R {
                two_vectors!($acc[r], 2, V, x[r], w, $pairs);
            }
        }
    }};
    (1, $acc:ident, $rows:ident, $first:ident, $second:ident) => {{
        let (one, other) = (vld1q_s8_x2($first), vld1q_s8_x2($second));
        ($first, $second) = ($first.add(32), $second.add(32));
        let w = [one.0, one.1, other.0, other.1];
        for r in 0..R {
            let x = everywhere(&mut $rows[r]);
            for v in 0..V {
                add_one!($acc[r], v, x, w[v]);
            }
        }
    }};
}

/// Tiles of `R` rows by `V` times eight columns. `DIRECT` where it is known that rows go without a map.
///
/// # Safety
/// The contract of [`Call`], of whose rows are `tiles * R` from `row`.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn i8_gemm_neon<const R: usize, const V: usize, const PAIRS: bool, const DIRECT: bool>(
    call: &Call<'_>,
    row: usize,
    tiles: usize,
) {
    let (end, mut place) = (End::new(call.finish), Place::new(call, row, V * 8));
    // SAFETY: the rows are the call's; each tap of each has `groups * 2` readable bytes; a strip has 32 bytes for each tap
    // and group, and what is multiplied beyond the columns of the last strip is its own.
    unsafe {
        for _ in 0..tiles {
            let mut acc = place.sums::<R, V>(call);
            let mut first = call.weights;
            let mut second = if V > 2 { first.add(call.strip_bytes) } else { first };
            for tap in 0..if DIRECT { 1 } else { call.taps } {
                let mut rows = place.pixels::<R, DIRECT>(call, tap);
                for _ in 0..call.groups / 2 {
                    groups!(2, acc, rows, first, second, PAIRS);
                }
                if call.groups % 2 == 1 {
                    groups!(1, acc, rows, first, second);
                }
            }
            finish::<R, V>(call, &end, &mut place, acc);
        }
    }
}
