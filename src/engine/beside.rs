//! A candidate beside the live version: it hears live requests off their path (shadow), or answers a share of them
//! (canary).
//!
//! Invariant: a shadow makes no request wait: what comes while it is busy passes it by. What it computes is compared and
//! dropped; counts alone stay.
//! Not here: for how long, and what is good enough (`update`).

use super::guard;
use super::live::Live;
use crate::sys::give_way;
use crate::tensor::Tensor;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// When two answers to one request are the same answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compare {
    /// The largest value stands at the same place along the last dimension, everywhere in every output. Outputs with
    /// one value there are compared by value.
    Argmax { atol: f64 },
    /// Every value is within this of the other.
    Values { atol: f64 },
}

impl Compare {
    /// Outputs in the same order. A NaN agrees with a NaN alone.
    pub fn agree(self, live: &[Tensor], candidate: &[Tensor]) -> bool {
        live.len() == candidate.len() && live.iter().zip(candidate).all(|(a, b)| self.agree_on(a, b))
    }

    fn agree_on(self, a: &Tensor, b: &Tensor) -> bool {
        let width = a.shape().last().copied().unwrap_or(1);
        let (x, y) = (a.to_f64(), b.to_f64());
        if a.shape() != b.shape() {
            return false;
        }
        match self {
            Self::Argmax { .. } if width > 1 => {
                x.chunks_exact(width).zip(y.chunks_exact(width)).all(|(x, y)| largest(x) == largest(y))
            }
            Self::Argmax { atol } | Self::Values { atol } => x.iter().zip(&y).all(|(x, y)| near(*x, *y, atol)),
        }
    }
}

/// Within tolerance; a NaN is near a NaN only.
pub fn near(x: f64, y: f64, atol: f64) -> bool {
    (x - y).abs() <= atol || x == y || (x.is_nan() && y.is_nan())
}

/// The place of the first of the largest values.
fn largest(row: &[f64]) -> usize {
    let first = |best: usize, at: usize| if row[at].total_cmp(&row[best]).is_gt() { at } else { best };
    (1..row.len()).fold(0, first)
}

/// What a shadow has heard.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Heard {
    /// Requests that both versions were asked.
    pub answers: u64,
    /// Of these, answered alike.
    pub agreeing: u64,
    /// Of these, those on which the candidate failed.
    pub failed: u64,
    /// The candidate's time over the live version's, the median of the last ones.
    pub slowdown: Option<f64>,
}

/// A request with the live version's answer to it.
struct Question {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    ran: Duration,
}

#[derive(Debug, Default)]
struct Record {
    heard: Heard,
    slowdowns: VecDeque<f64>,
}

/// The thread's and the requests' common part.
#[derive(Debug)]
struct Common {
    candidate: Arc<Live>,
    compare: Compare,
    record: Mutex<Record>,
    start: Instant,
    /// Questions that wait or run.
    inside: AtomicU64,
    /// µs from `start` to when the present run began, plus one; 0 while idle.
    began: AtomicU64,
}

/// A candidate with a thread of its own, which gives way to all others.
#[derive(Debug)]
pub struct Shadow {
    common: Arc<Common>,
    questions: SyncSender<Question>,
}

impl Shadow {
    /// One runs, one waits: requests are copied for it, and may be large.
    const PLACES: u64 = 2;
    /// Inferences may recurse through nested graphs.
    const STACK: usize = 8 << 20;
    const KEPT_SLOWDOWNS: usize = 255;

    /// # Errors
    /// When the system gives no thread.
    pub fn start(candidate: Arc<Live>, compare: Compare) -> std::io::Result<Arc<Self>> {
        let record = Mutex::default();
        let (inside, began) = (AtomicU64::new(0), AtomicU64::new(0));
        let common = Arc::new(Common { candidate, compare, record, start: Instant::now(), inside, began });
        let (questions, incoming) = sync_channel(Self::PLACES as usize);
        let thread = std::thread::Builder::new().name("shadow".into()).stack_size(Self::STACK);
        let own = common.clone();
        thread.spawn(move || own.work(&incoming))?;
        Ok(Arc::new(Self { common, questions }))
    }

    pub fn candidate(&self) -> &Arc<Live> {
        &self.common.candidate
    }

    /// Whether it is worth copying a request for it.
    pub fn has_room(&self) -> bool {
        self.common.inside.load(Relaxed) < Self::PLACES
    }

    /// Asks it the same; it is passed by where it is busy.
    pub fn hear(&self, inputs: Vec<Tensor>, outputs: Vec<Tensor>, ran: Duration) {
        self.common.inside.fetch_add(1, Relaxed);
        if self.questions.try_send(Question { inputs, outputs, ran }).is_err() {
            self.common.inside.fetch_sub(1, Relaxed);
        }
    }

    pub fn heard(&self) -> Heard {
        let record = self.common.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last: Vec<f64> = record.slowdowns.iter().copied().collect();
        last.sort_by(f64::total_cmp);
        Heard { slowdown: last.get(last.len() / 2).copied(), ..record.heard }
    }

    /// How long its present inference has been running.
    pub fn running_for(&self) -> Duration {
        match self.common.began.load(Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_micros((self.common.micros() + 1).saturating_sub(began)),
        }
    }
}

impl Common {
    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Until nobody can ask any more.
    fn work(&self, questions: &Receiver<Question>) {
        give_way();
        while let Ok(question) = questions.recv() {
            self.began.store(self.micros() + 1, Relaxed);
            let start = Instant::now();
            let answer = guard::catch(|| self.candidate.run(&question.inputs));
            let took = start.elapsed();
            self.began.store(0, Relaxed);
            let answer = answer.ok().and_then(Result::ok);
            let agrees = answer.as_ref().is_some_and(|outputs| self.compare.agree(&question.outputs, outputs));
            self.note(agrees, answer.is_none(), took, question.ran);
            self.inside.fetch_sub(1, Relaxed);
        }
    }

    fn note(&self, agrees: bool, failed: bool, took: Duration, live: Duration) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.heard.answers += 1;
        record.heard.agreeing += u64::from(agrees);
        record.heard.failed += u64::from(failed);
        if !failed {
            record.slowdowns.push_back(took.as_secs_f64() / live.as_secs_f64().max(1e-6));
        }
        if record.slowdowns.len() > Shadow::KEPT_SLOWDOWNS {
            record.slowdowns.pop_front();
        }
    }
}

/// A candidate that answers a share of the requests, evenly spread.
#[derive(Debug)]
pub struct Canary {
    candidate: Arc<Live>,
    share: f64,
    asked: AtomicU64,
}

impl Canary {
    /// `share` from 0 to 1.
    pub fn new(candidate: Arc<Live>, share: f64) -> Arc<Self> {
        Arc::new(Self { candidate, share, asked: AtomicU64::new(0) })
    }

    pub fn candidate(&self) -> &Arc<Live> {
        &self.candidate
    }

    /// Whether the next request is its own.
    pub(super) fn is_next(&self) -> bool {
        let before = self.asked.fetch_add(1, Relaxed) as f64;
        ((before + 1.0) * self.share).floor() > (before * self.share).floor()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, Slots, fixture, slots::Beside};
    use super::*;
    use crate::tensor::{DataType, TensorSpec};

    fn row(values: &[f32]) -> Vec<Tensor> {
        vec![Tensor::from_f32(vec![1, values.len()], values).unwrap()]
    }

    /// y = x + of, on four values.
    fn plus(version: u32, of: [f32; 4]) -> Arc<Live> {
        let raw: Vec<u8> = of.iter().flat_map(|v| v.to_le_bytes()).collect();
        let onnx = fixture::model(&[
            fixture::weights("of", &[4], fixture::FLOAT, &fixture::bytes(9, &raw)),
            fixture::node("Add", &["x", "of"], &["y"], &[]),
            fixture::value(11, "x", fixture::FLOAT, &["1", "4"]),
            fixture::value(12, "y", fixture::FLOAT, &["1", "4"]),
        ]);
        let spec = |name: &str| [TensorSpec::new(name, DataType::Fp32, vec![1, 4])];
        Live::new("m", version, Model::load(&onnx, &spec("x"), &spec("y")).unwrap(), 1).unwrap()
    }

    #[test]
    fn the_same_choice_is_the_same_answer_whatever_the_values() {
        let by_choice = Compare::Argmax { atol: 0.1 };
        assert!(by_choice.agree(&row(&[0.0, 3.0, 1.0]), &row(&[0.4, 0.9, 0.8])));
        assert!(!by_choice.agree(&row(&[0.0, 3.0, 1.0]), &row(&[0.4, 0.9, 1.0])));
        assert!(by_choice.agree(&row(&[2.0]), &row(&[2.05])), "one value has no choice");
        assert!(!by_choice.agree(&row(&[2.0]), &row(&[2.2])));
        let by_value = Compare::Values { atol: 0.1 };
        assert!(by_value.agree(&row(&[1.0, f32::NAN]), &row(&[1.05, f32::NAN])));
        assert!(!by_value.agree(&row(&[1.0, f32::NAN]), &row(&[1.05, 0.0])));
        assert!(!by_value.agree(&row(&[1.0, 2.0]), &row(&[1.0])), "another shape");
        assert!(!by_value.agree(&row(&[1.0]), &[]));
    }

    #[test]
    fn a_shadow_hears_what_the_live_version_answered_and_counts_what_it_thinks_of_it() {
        let shadow = Shadow::start(plus(2, [0.0, 0.0, 0.0, 5.0]), Compare::Argmax { atol: 0.0 }).unwrap();
        for (input, wait) in [([9.0, 1.0, 1.0, 1.0], 1), ([1.0, 2.0, 1.0, 0.0], 2)] {
            shadow.hear(row(&input), row(&input), Duration::from_micros(50));
            while shadow.heard().answers < wait {
                std::thread::yield_now();
            }
        }
        // Of another shape: the candidate cannot take it.
        shadow.hear(row(&[1.0]), row(&[1.0]), Duration::from_micros(50));
        while shadow.heard().answers < 3 {
            std::thread::yield_now();
        }
        let Heard { answers, agreeing, failed, slowdown } = shadow.heard();
        assert_eq!((answers, agreeing, failed), (3, 1, 1));
        assert!(slowdown.is_some_and(|ratio| ratio > 0.0));
        assert_eq!(shadow.running_for(), Duration::ZERO);
    }

    #[test]
    fn a_canary_takes_its_share_evenly_and_only_of_requests_that_name_no_version() {
        let slots = Slots::default();
        slots.install(plus(1, [0.0; 4]));
        slots.set_beside("m", Some(Beside::Canary(Canary::new(plus(2, [1.0; 4]), 0.2))));
        let taken: Vec<u32> = (0..50).map(|_| slots.take("m").unwrap().live.version()).collect();
        assert_eq!(taken.iter().filter(|&&version| version == 2).count(), 10);
        assert!(taken.windows(5).all(|five| five.iter().filter(|&&version| version == 2).count() == 1));
        assert_eq!(slots.get("m").unwrap().version(), 1);
        slots.install(plus(3, [0.0; 4]));
        assert!(slots.beside("m").is_none(), "whoever stood beside the old one is gone");
        slots.set_beside("nobody", Some(Beside::Canary(Canary::new(plus(2, [1.0; 4]), 1.0))));
        assert!(slots.take("nobody").is_none());
    }
}
