//! One loaded version of a model, with its sessions and counts.
//!
//! Invariant: who holds a `Live` is answered by it, whatever is installed in the meantime.

use super::model::{Model, RunError, Session};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A first inference on zeros, before any request.
    #[error("{name} version {version} cannot run")]
    Warm { name: String, version: u32, source: RunError },
}

/// What one version did since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub answered: u64,
    /// The model's own failures; a request of the wrong form is none.
    pub failed: u64,
    /// Of the answered: bucket `i` holds what waited and ran for less than `2^i` µs.
    pub latency: [u64; 26],
    /// Of the answered, waiting and running together.
    pub total_micros: u64,
}

/// One loaded version of a model.
#[derive(Debug)]
pub struct Live {
    name: String,
    version: u32,
    model: Model,
    /// Class names by output.
    labels: BTreeMap<String, Vec<String>>,
    idle: Mutex<Vec<Session>>,
    sessions: usize,
    answered: AtomicU64,
    failed: AtomicU64,
    total_micros: AtomicU64,
    latency: [AtomicU64; 26],
    /// What a run takes, a mean that forgets.
    run_micros: AtomicU64,
}

impl Live {
    /// Runs of a model up to here cost less than handing them to another thread and back is worth.
    const QUICK_MICROS: u64 = 300;

    /// Makes and warms one session a worker. Takes as many inferences: not for the serving path.
    pub fn new(name: &str, version: u32, model: Model, workers: usize) -> Result<Arc<Self>, LiveError> {
        Self::with_labels(name, version, model, workers, BTreeMap::new())
    }

    /// As `new`, with class names, in order, for some outputs.
    pub fn with_labels(
        name: &str,
        version: u32,
        model: Model,
        workers: usize,
        labels: BTreeMap<String, Vec<String>>,
    ) -> Result<Arc<Self>, LiveError> {
        let mut run_micros = u64::MAX;
        let mut warmed = || {
            let mut session = model.session()?;
            let start = Instant::now();
            session.warm()?;
            run_micros = run_micros.min(micros(start.elapsed()));
            Ok(session)
        };
        let idle = (0..workers).map(|_| warmed()).collect::<Result<Vec<_>, _>>();
        let idle = idle.map_err(|source| LiveError::Warm { name: name.to_owned(), version, source })?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            version,
            model,
            labels,
            idle: Mutex::new(idle),
            sessions: workers,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            total_micros: AtomicU64::new(0),
            latency: Default::default(),
            run_micros: AtomicU64::new(run_micros),
        }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The class names of an output, where its manifest has some.
    pub fn labels(&self, output: &str) -> Option<&[String]> {
        self.labels.get(output).map(Vec::as_slice)
    }

    pub fn counts(&self) -> Counts {
        Counts {
            answered: self.answered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            latency: std::array::from_fn(|i| self.latency[i].load(Relaxed)),
            total_micros: self.total_micros.load(Relaxed),
        }
    }

    /// Runs here and now, in this thread, uncounted; for tests before a model serves.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle {
            Some(session) => session,
            None => self.model.session()?,
        };
        let outputs = session.run(inputs);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.sessions {
            idle.push(session);
        }
        outputs
    }

    /// Its runs are short, and none can be much longer than the others.
    pub(super) fn is_quick(&self) -> bool {
        self.model.is_straight() && self.run_micros.load(Relaxed) <= Self::QUICK_MICROS
    }

    /// `took` holds the waiting, `ran` does not; it is nothing where it tells nothing of the next run.
    pub(super) fn count_answer(&self, took: Duration, ran: Option<Duration>) {
        if let Some(ran) = ran {
            // A lost race loses one sample of a mean.
            let mean = self.run_micros.load(Relaxed);
            self.run_micros.store(mean - mean / 8 + micros(ran) / 8, Relaxed);
        }
        let micros = micros(took);
        let bits = (u64::BITS - micros.leading_zeros()) as usize;
        self.latency[bits.min(self.latency.len() - 1)].fetch_add(1, Relaxed);
        self.total_micros.fetch_add(micros, Relaxed);
        self.answered.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
