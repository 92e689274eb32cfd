//! Threads that run sessions, behind one bounded queue.
//!
//! Invariant: a request ends: answered, failed, or given back as busy, late or stopped. One whose
//! client went away before it ran is not run.
//!
//! A model that is quick, and has no loop that could make it slow, runs in the caller's thread while
//! a worker's place is free: two wake-ups of threads cost more than such a run (60 µs on a PC).
//! Rejected: `block_in_place` for all, since a model that hangs would hold its deadline's timer up too.

use super::guard;
use super::live::Live;
use super::model::RunError;
use crate::tensor::Tensor;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Outputs in the order of the model's specs, and where the time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub outputs: Vec<Tensor>,
    pub queued: Duration,
    pub ran: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum InferError {
    #[error("all {0} places in the queue are taken; try again shortly")]
    Busy(usize),
    #[error("no answer within {0:?}, the request's own timeout or the configuration's engine.deadline-ms")]
    Deadline(Duration),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the engine is stopping")]
    Stopped,
}

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
/// Counted, by the worker or by the caller that gave up.
const COUNTED: u8 = 2;

struct Job {
    live: Arc<Live>,
    inputs: Vec<Tensor>,
    /// In the manifest's shape.
    usual: bool,
    reply: oneshot::Sender<Result<Answer, InferError>>,
    since: Instant,
    deadline: Duration,
    stage: Arc<AtomicU8>,
}

struct Shared {
    queue: Mutex<VecDeque<Job>>,
    ready: Condvar,
    limit: usize,
    stopped: AtomicBool,
    start: Instant,
    /// Inferences at a time.
    workers: usize,
    /// For each worker, then for as many callers: µs from `start` to when it began what it runs
    /// now, plus one; 0 while idle.
    began: Vec<AtomicU64>,
}

/// The threads; they end with this.
pub struct Workers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("queued", &self.queued()).field("running", &self.running()).finish()
    }
}

impl Workers {
    /// Inferences may recurse through nested graphs.
    const STACK: usize = 8 << 20;

    /// Starts `workers` threads (at least one) that share a queue of `queue` places.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(workers: usize, queue: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            ready: Condvar::new(),
            limit: queue,
            stopped: AtomicBool::new(false),
            start: Instant::now(),
            workers: workers.max(1),
            began: (0..workers.max(1) * 2).map(|_| AtomicU64::new(0)).collect(),
        });
        let this = Self { shared };
        for index in 0..workers.max(1) {
            let shared = this.shared.clone();
            let thread = std::thread::Builder::new().name(format!("infer-{index}")).stack_size(Self::STACK);
            thread.spawn(move || shared.work(index))?;
        }
        Ok(this)
    }

    /// Answers by `live`, whatever is installed meanwhile. Dropped before it runs, it does not run.
    pub async fn infer(&self, live: Arc<Live>, inputs: Vec<Tensor>, deadline: Duration) -> Result<Answer, InferError> {
        if let Some(result) = self.shared.run_here(&live, &inputs, deadline) {
            return result;
        }
        let (reply, answer) = oneshot::channel();
        let since = Instant::now();
        // What it says of the model is held for or against it in the manifest's shape alone.
        let usual = live.model().is_ready_for(&inputs);
        let stage = Arc::new(AtomicU8::new(WAITING));
        self.shared.push(Job { live: live.clone(), inputs, usual, reply, since, deadline, stage: stage.clone() })?;
        match tokio::time::timeout_at(since + deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(InferError::Run(RunError::Panicked { place: "the worker".into() })),
            Err(_) => {
                // A model that hangs has failed; one that never got to run has not, nor one that was to be made ready
                // for another shape first.
                if stage.swap(COUNTED, SeqCst) == RUNNING && usual {
                    live.count_failure();
                }
                Err(InferError::Deadline(deadline))
            }
        }
    }

    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.shared.lock().len()
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.shared.running()
    }

    /// How long the oldest inference has been running: for a watchdog that looks for hangs.
    pub fn longest_run(&self) -> Duration {
        let now = self.shared.micros();
        let age = |began: &AtomicU64| match began.load(SeqCst) {
            0 => 0,
            began => (now + 1).saturating_sub(began),
        };
        Duration::from_micros(self.shared.began.iter().map(age).max().unwrap_or(0))
    }

    /// Takes no more; what waits is given back, what runs goes on to its end.
    pub fn stop(&self) {
        self.shared.stopped.store(true, SeqCst);
        let waiting = std::mem::take(&mut *self.shared.lock());
        for job in waiting {
            let _ = job.reply.send(Err(InferError::Stopped));
        }
        self.shared.ready.notify_all();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Deadlines from here on are no matter for a quick model.
    const AMPLE: Duration = Duration::from_millis(10);

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn running(&self) -> usize {
        self.began.iter().filter(|began| began.load(SeqCst) != 0).count()
    }

    /// In the caller's thread, if that is allowed now. No time passes for the others: a thread of
    /// the caller's runtime is busy as long as a larger request's parsing would keep it.
    fn run_here(&self, live: &Live, inputs: &[Tensor], deadline: Duration) -> Option<Result<Answer, InferError>> {
        if deadline < Self::AMPLE
            || !live.is_quick()
            || !live.model().is_ready_for(inputs)
            || self.stopped.load(SeqCst)
            || !self.lock().is_empty()
        {
            return None;
        }
        let place = self.free_place()?;
        let start = Instant::now();
        let broke = |place| Err(RunError::Panicked { place });
        let result = guard::catch(|| live.run(inputs)).unwrap_or_else(|panic| broke(panic.0));
        let ran = start.elapsed();
        place.store(0, SeqCst);
        if ran >= deadline {
            live.count_failure();
            return Some(Err(InferError::Deadline(deadline)));
        }
        count(live, true, &result, ran, ran);
        Some(result.map_err(InferError::Run).map(|outputs| Answer { outputs, queued: Duration::ZERO, ran }))
    }

    /// Marks a caller's place as taken while fewer than `workers` run. Two that look at the same
    /// moment may make it one more for a moment; sessions are made as needed.
    fn free_place(&self) -> Option<&AtomicU64> {
        if self.running() >= self.workers {
            return None;
        }
        let now = self.micros() + 1;
        let mut places = self.began[self.workers..].iter();
        places.find(|place| place.compare_exchange(0, now, SeqCst, SeqCst).is_ok())
    }

    fn push(&self, job: Job) -> Result<(), InferError> {
        let mut queue = self.lock();
        if self.stopped.load(SeqCst) {
            return Err(InferError::Stopped);
        }
        if queue.len() >= self.limit {
            // Places of clients that went away are free.
            queue.retain(|job| !job.reply.is_closed());
        }
        if queue.len() >= self.limit {
            return Err(InferError::Busy(self.limit));
        }
        queue.push_back(job);
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    fn pop(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if self.stopped.load(SeqCst) {
                return None;
            }
            if let Some(job) = queue.pop_front() {
                return Some(job);
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, index: usize) {
        while let Some(job) = self.pop() {
            if job.reply.is_closed() {
                continue;
            }
            if job.since.elapsed() >= job.deadline {
                let _ = job.reply.send(Err(InferError::Deadline(job.deadline)));
                continue;
            }
            self.began[index].store(self.micros() + 1, SeqCst);
            // The session catches the model's panics; this one keeps the thread through ours.
            let _ = guard::catch(|| job.run());
            self.began[index].store(0, SeqCst);
        }
    }
}

impl Job {
    fn run(self) {
        self.stage.store(RUNNING, SeqCst);
        let queued = self.since.elapsed();
        let result = self.live.run(&self.inputs);
        let took = self.since.elapsed();
        let ran = took.saturating_sub(queued);
        if self.stage.swap(COUNTED, SeqCst) == RUNNING {
            count(&self.live, self.usual, &result, took, ran);
        }
        let answer = result.map_err(InferError::Run).map(|outputs| Answer { outputs, queued, ran });
        let _ = self.reply.send(answer);
    }
}

/// `usual` is a request in the manifest's shape: others may be quicker, and may not suit the model, which was not tried
/// with them.
fn count(live: &Live, usual: bool, result: &Result<Vec<Tensor>, RunError>, took: Duration, ran: Duration) {
    match result {
        Ok(_) => live.count_answer(took, usual.then_some(ran)),
        Err(e) if e.is_callers_fault() || !usual => {}
        Err(_) => live.count_failure(),
    }
}
