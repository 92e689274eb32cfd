#![allow(unsafe_code, reason = "an allocator that counts")]
#![cfg(feature = "operator")]
//! Applying a delta takes the same few MiB whatever the files and the delta: counted by the allocator of this program.

use selvedge::bundle::Digest;
use selvedge::bundle::delta::{Expected, Instruction, MAX_STRIDE, Width, apply, write};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        MOST.fetch_max(now, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bound of `bundle::delta`.
const BOUND: usize = 14 << 20;

/// Bytes that were held at the most while this delta was applied, beyond those that were before.
fn peak(old: &[u8], delta: &[u8], expected: &Expected) -> usize {
    let before = NOW.load(Ordering::SeqCst);
    MOST.store(before, Ordering::SeqCst);
    let _ = apply(&old, delta, expected, &mut std::io::sink());
    MOST.load(Ordering::SeqCst) - before
}

#[test]
fn applying_takes_a_bounded_memory_for_good_deltas_and_for_bad_ones() {
    let noise = |length: usize| -> Vec<u8> {
        (0_u64..).flat_map(|i| *Digest::of(&i.to_le_bytes()).as_bytes()).take(length).collect()
    };
    let old = noise(8 << 20);
    let add = |width| Instruction::Add { from: 0, length: 1 << 18, width, stride: MAX_STRIDE };
    let script = [
        Instruction::Learn { from: 0, length: 1 << 19 },
        Instruction::Copy { from: 0, length: 8 << 20 },
        add(Width::One),
        add(Width::Two),
        add(Width::Four),
        Instruction::Insert { length: 1 << 19 },
    ];
    let mut new = old.clone();
    for _ in 0..3 {
        new.extend(&old[1..=1 << 18]);
    }
    new.extend(&old[..1 << 19]);
    let (delta, _) = write(&old, &new, &script);
    let expected = Expected { sha256: Digest::of(&new), size: new.len() as u64 };
    let used = peak(&old, &delta, &expected);
    assert!(used < BOUND, "{used} bytes");
    assert!(used > 1 << 20, "{used} bytes: it did not run");
    let huge = Expected { size: 512 << 20, ..expected };
    for seed in 0..20 {
        let bad = [b"SVd1", &noise(200_000 + seed)[seed..]].concat();
        let used = peak(&old, &bad, &huge);
        assert!(used < BOUND, "{used} bytes for bad delta {seed}");
    }
    let zeros = [&b"SVd1"[..], &[0; 5000]].concat();
    assert!(peak(&old, &zeros, &huge) < BOUND);
}
