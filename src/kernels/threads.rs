#![allow(
    unsafe_code,
    reason = "lends a closure to threads that outlive it, which no scope of the standard library does without starting them anew"
)]
//! Threads that stay, and help whoever asks with one piece of work at a time.
//!
//! Invariant: when [`Threads::run`] returns, no other thread is inside of the work, and none enters it any more.
//! Who asks does the work himself too, and never waits for a thread that has not begun: on a busy machine a late helper
//! finds nothing left. Where others are being helped at the moment, the work is done alone.
//! Not here: how work is cut into pieces (see [`Grid`](super::Grid)).
//! Rejected: a work-stealing pool (it allocates for each piece or needs a tree of joins; a layer takes 20 µs, and one
//! queue of tiles is enough), scoped threads (they are started anew for each layer).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rounds of waiting before a thread goes to sleep: some 50 µs, longer than the gap between two layers.
const SPINS: usize = 4000;

/// In `gate`: the work may be entered. Below it: how many are inside.
const OPEN: usize = 1 << 31;

/// A caller and its helpers. Clones are the same threads, which end with the last of them.
#[derive(Debug, Clone)]
pub struct Threads(Option<Arc<Helpers>>);

#[derive(Debug)]
struct Helpers {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who is being helped.
    busy: Mutex<()>,
    gate: AtomicUsize,
    /// Grows with each piece of work.
    round: AtomicUsize,
    work: Mutex<Option<Lent>>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    ends: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The work, for as long as the gate is open or somebody inside.
#[derive(Debug, Clone, Copy)]
struct Lent(*const (dyn Fn() + Sync));

// SAFETY: what it points to is Sync, and `Threads::run` keeps it alive for as long as a helper may have it.
unsafe impl Send for Lent {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// Most that can be had.
    pub const MAX: usize = 64;

    /// Nobody but the caller.
    pub const fn alone() -> Self {
        Self(None)
    }

    /// `count` threads, the caller's among them; at most [`MAX`](Self::MAX).
    ///
    /// # Errors
    /// If the system starts no more.
    pub fn new(count: usize) -> std::io::Result<Self> {
        let helpers = count.clamp(1, Self::MAX) - 1;
        if helpers == 0 {
            return Ok(Self::alone());
        }
        let shared = Arc::new(Shared::default());
        let mut made = Helpers { shared: Arc::clone(&shared), handles: Vec::with_capacity(helpers) };
        for number in 1..=helpers {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("int8-{number}"));
            made.handles.push(thread.spawn(move || shared.help())?);
        }
        Ok(Self(Some(Arc::new(made))))
    }

    /// The caller's among them.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |helpers| helpers.handles.len() + 1)
    }

    /// Calls `work` at least once, and at the same time in as many other threads as are free. Allocates nothing.
    ///
    /// # Panics
    /// If `work` does, in any thread.
    pub fn run(&self, work: &(dyn Fn() + Sync)) {
        let Some(helpers) = &self.0 else { return work() };
        let shared = &helpers.shared;
        let _turn = match shared.busy.try_lock() {
            Ok(turn) => turn,
            // Somebody's work panicked; it is over.
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return work(),
        };
        // SAFETY: the lifetime alone changes. `Inside` below ends only when no helper has the work any more.
        let lent = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        *lock(&shared.work) = Some(Lent(lent));
        shared.gate.store(OPEN, Ordering::Release);
        shared.round.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.bed));
            shared.bell.notify_all();
        }
        let inside = Inside(shared);
        work();
        drop(inside);
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// While the caller is at work, whether it returns or panics.
struct Inside<'a>(&'a Shared);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut waited = 0_usize;
        while self.0.gate.load(Ordering::Acquire) != 0 {
            waited += 1;
            if waited < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        *lock(&self.0.work) = None;
    }
}

impl Shared {
    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if self.ends.load(Ordering::Acquire) {
                return;
            }
            if self.enter() {
                let lent = *lock(&self.work);
                if let Some(Lent(work)) = lent {
                    // SAFETY: this thread is inside of the gate, so that the caller waits.
                    let work = AssertUnwindSafe(unsafe { &*work });
                    if let Err(panic) = catch_unwind(work) {
                        *lock(&self.panic) = Some(panic);
                    }
                }
                self.gate.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Whether the gate was open; then this thread is inside.
    fn enter(&self) -> bool {
        let more = |gate: usize| (gate & OPEN != 0).then_some(gate + 1);
        self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Until there is another round than `seen`.
    fn wait(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let round = self.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            std::hint::spin_loop();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut bed = lock(&self.bed);
        let round = loop {
            let round = self.round.load(Ordering::SeqCst);
            if round != seen {
                break round;
            }
            // The time bounds what a lost bell would cost.
            let slept = self.bell.wait_timeout(bed, Duration::from_secs(10));
            bed = slept.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(bed);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        round
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.shared.bed));
        self.shared.bell.notify_all();
        for handle in self.handles.drain(..) {
            // A helper catches what its work throws.
            let _ = handle.join();
        }
    }
}
