#![allow(unsafe_code, reason = "an allocator that counts")]
#![cfg(feature = "operator")]
//! Hostile metadata costs a device bounded memory: counted by the allocator of this program.

use selvedge::sys::{FaultyDisk, ManualClock};
use selvedge::trust::author::{self, Holders, SigningKey, Stamp};
use selvedge::trust::{Offered, Role, Trust};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        PEAK.fetch_max(live, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one update may take beside what was there before: as measured (38 MiB), and half as much.
const MAX_BYTES: usize = 57 << 20;

const FAR: u64 = 4_000_000_000;

fn stamp(version: u32) -> Stamp {
    Stamp { version, expires: FAR }
}

/// As much of the piece as a role's file may hold, between these.
fn filled(role: Role, open: &str, piece: &str, close: &str) -> Vec<u8> {
    let count = (role.limit() - open.len() - close.len()) / piece.len();
    format!("{open}{}{close}", piece.repeat(count)).into_bytes()
}

/// Targets that delegate by many patterns of the worst kind that is read.
fn patterns(count: usize) -> Vec<u8> {
    let pattern = format!("\"{}\"", "*{a,b}?[!c]".repeat(11));
    let paths = vec![pattern; count].join(",");
    format!(
        "{{\"signatures\":[],\"signed\":{{\"_type\":\"targets\",\"spec_version\":\"1.0.0\",\"version\":2,\
         \"expires\":\"2096-10-02T07:06:40Z\",\"targets\":{{}},\"delegations\":{{\"keys\":{{}},\"roles\":[{{\"name\":\"a\",\
         \"keyids\":[],\"threshold\":1,\"terminating\":true,\"paths\":[{paths}]}}]}}}}}}"
    )
    .into_bytes()
}

fn hostile(role: Role) -> Vec<(&'static str, Vec<u8>)> {
    let name = role.name();
    let open = format!(
        "{{\"signatures\":[],\"signed\":{{\"_type\":\"{name}\",\"spec_version\":\"1.0.0\",\"version\":2,\
         \"expires\":\"2096-10-02T07:06:40Z\",\"x\":["
    );
    vec![
        ("small lists", filled(role, &open, "[],", "0]}}")),
        ("small maps", filled(role, &open, "{},", "0]}}")),
        ("maps with a key", filled(role, &open, "{\"a\":0},", "0]}}")),
        ("numbers", filled(role, &open, "0,", "0]}}")),
        ("strings", filled(role, &open, "\"\",", "0]}}")),
        ("deep lists", filled(role, &open, "[", "")),
        ("one long string", filled(role, &format!("{open}\""), "a", "\"]}}")),
        ("signatures", filled(role, "{\"signed\":{},\"signatures\":[", "{\"keyid\":\"00\",\"sig\":\"00\"},", "0]}")),
        ("doubled keys", filled(role, "{\"signatures\":[],\"signed\":{", "\"a\":[0],", "\"b\":0}}")),
        ("blanks", filled(role, "", " ", "")),
        ("patterns", patterns(if role == Role::Targets { 2048 } else { 400 })),
    ]
}

// One test alone: another's allocations would count.
#[test]
fn the_largest_and_oddest_metadata_takes_bounded_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let keys: BTreeMap<Role, SigningKey> = Role::ALL.map(|role| (role, SigningKey::generate().unwrap())).into();
    let holders = keys.iter().map(|(&role, key)| (role, Holders { keys: vec![key], threshold: 1 })).collect();
    let root = author::root(stamp(1), &holders, &[&keys[&Role::Root]]).unwrap();
    let clock = ManualClock::new(0, false);
    let mut largest = (0, String::new());
    let mut offered = Offered::default();
    assert!(offered.insert(Role::Targets, 2, patterns(2049)).is_err(), "more patterns than are read");
    for role in Role::ALL {
        for (case, bytes) in hostile(role) {
            // The parts above it are good and name it, so that it is read.
            let mut offered = Offered::default();
            let mut snapshot = bytes.clone();
            if role == Role::Targets {
                snapshot = author::snapshot(stamp(2), (2, &bytes), &[&keys[&Role::Snapshot]]).unwrap();
            }
            let signers = [&keys[&Role::Timestamp]];
            let timestamp = author::timestamp(stamp(2), 1, 1, (2, &snapshot), &signers).unwrap();
            offered.insert(Role::Timestamp, 2, timestamp).unwrap();
            offered.insert(Role::Snapshot, 2, snapshot).unwrap();
            offered.insert(role, 2, bytes).unwrap();
            let mut trust = Trust::open(Arc::new(FaultyDisk::new()), Path::new("/trust"), &root).unwrap();
            let before = LIVE.load(Ordering::SeqCst);
            PEAK.store(before, Ordering::SeqCst);
            let refused = runtime.block_on(trust.update(&offered, &clock)).is_err();
            let taken = PEAK.load(Ordering::SeqCst) - before;
            assert!(refused, "{role}: {case}");
            assert!(taken < MAX_BYTES, "{role}: {case}: {taken} bytes");
            largest = largest.max((taken, format!("{role}: {case}")));
        }
    }
    println!("at most {} KiB, by {}", largest.0 >> 10, largest.1);
}
