//! Threads that help.

use crate::kernels::{Threads, TileMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Adds 1 to each value, tile by tile.
fn increment(threads: &Threads, values: &mut [u32]) {
    let count = values.len();
    let grid = TileMut::new(values, 1, count, count).grid(1, 7);
    threads.run(&|| {
        while let Some(mut tile) = grid.take() {
            tile.row(0).iter_mut().for_each(|value| *value += 1);
        }
    });
}

#[test]
fn every_piece_is_done_once_however_many_help() {
    for count in [1, 2, 3, 8] {
        let threads = Threads::new(count).unwrap();
        assert_eq!(threads.count(), count);
        let mut values = vec![0; 1000];
        for _ in 0..500 {
            increment(&threads, &mut values);
        }
        assert!(values.iter().all(|&value| value == 500), "{count} threads");
    }
}

#[test]
fn helpers_do_come_also_after_they_slept() {
    let threads = Threads::new(2).unwrap();
    for pause in [0, 50] {
        std::thread::sleep(Duration::from_millis(pause));
        let inside = AtomicUsize::new(0);
        threads.run(&|| {
            inside.fetch_add(1, Ordering::SeqCst);
            // Ends only when both are in: it would hang if nobody came.
            while inside.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        });
        assert_eq!(inside.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn several_callers_do_not_disturb_each_other() {
    let threads = Threads::new(3).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let threads = threads.clone();
            scope.spawn(move || {
                let mut values = vec![0; 333];
                for _ in 0..300 {
                    increment(&threads, &mut values);
                }
                assert!(values.iter().all(|&value| value == 300));
            });
        }
    });
}

#[test]
fn a_panic_comes_out_where_the_work_was_asked_for_and_the_threads_go_on() {
    let threads = Threads::new(2).unwrap();
    let caller = std::thread::current().id();
    for helper_panics in [false, true] {
        let inside = AtomicUsize::new(0);
        let work = || {
            inside.fetch_add(1, Ordering::SeqCst);
            while inside.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            assert!((std::thread::current().id() == caller) == helper_panics, "on purpose");
        };
        assert!(catch_unwind(AssertUnwindSafe(|| threads.run(&work))).is_err());
        let mut values = vec![0; 100];
        increment(&threads, &mut values);
        assert!(values.iter().all(|&value| value == 1));
    }
}
