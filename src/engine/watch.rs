//! Where the time of a run goes: node by node, and within int8 regions stage by stage.
//!
//! Invariant: a thread that nobody watches reads no clock, and what runs is the same either way.
//! Not here: sums and tables.
//!
//! tract calls a region with nothing but its inputs, so that the watch waits in the thread for it.

use crate::sys::Clock;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// One node of the graph in one run; times are the clock's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTime {
    /// Among [`Model::nodes`](super::Model::nodes).
    pub node: usize,
    pub began: Duration,
    pub ended: Duration,
    /// When each stage ended, for a region; the first one takes the inputs in.
    pub stages: Vec<Duration>,
}

/// A clock, and what was seen by it.
#[derive(Debug)]
pub(super) struct Watch {
    clock: Arc<dyn Clock>,
    pub nodes: Vec<NodeTime>,
    stages: Vec<Duration>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

impl Watch {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, nodes: Vec::new(), stages: Vec::new() }
    }
}

/// Watches this thread while `run` runs it; gives the watch back, or nothing where `run` panicked.
pub(super) fn during<T>(watch: Watch, run: impl FnOnce() -> T) -> (T, Option<Watch>) {
    WATCH.replace(Some(watch));
    let made = run();
    (made, WATCH.take())
}

/// Runs a node, by number.
pub(super) fn node<T>(number: usize, run: impl FnOnce() -> T) -> T {
    let now = || WATCH.with_borrow(|watch| watch.as_ref().map(|watch| watch.clock.monotonic()));
    let began = now();
    let made = run();
    if let (Some(began), Some(ended)) = (began, now()) {
        WATCH.with_borrow_mut(|watch| {
            let Some(watch) = watch else { return };
            let stages = std::mem::take(&mut watch.stages);
            watch.nodes.push(NodeTime { node: number, began, ended, stages });
        });
    }
    made
}

/// Runs a region, which says when each of its stages has ended.
pub(super) fn stages<T>(run: impl FnOnce(&mut dyn FnMut(usize)) -> T) -> T {
    let Some(mut watch) = WATCH.take() else { return run(&mut |_| {}) };
    let made = run(&mut |_| watch.stages.push(watch.clock.monotonic()));
    WATCH.replace(Some(watch));
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ManualClock;

    #[test]
    fn nodes_and_the_stages_within_them_are_timed_and_nothing_without_a_watch() {
        let clock = Arc::new(ManualClock::new(0, true));
        let tick = || clock.advance(Duration::from_micros(1));
        let run = || {
            node(0, tick);
            node(1, || {
                stages(|ended| {
                    tick();
                    ended(0);
                    tick();
                    ended(1);
                });
                tick();
            })
        };
        let ((), watch) = during(Watch::new(clock.clone()), run);
        let micros = Duration::from_micros;
        let first = NodeTime { node: 0, began: micros(0), ended: micros(1), stages: vec![] };
        let second = NodeTime { node: 1, began: micros(1), ended: micros(4), stages: vec![micros(2), micros(3)] };
        assert_eq!(watch.unwrap().nodes, [first, second]);
        run();
        assert!(WATCH.with_borrow(Option::is_none));
    }
}
