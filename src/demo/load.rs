//! The customer's side: pictures at a steady rate, every answer noted.

use super::camera::{Camera, Image};
use super::client::{Answer, Client, ClientError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub sent: Instant,
    pub took: Duration,
    /// The version that answered and whether it was right; `None` for a failure.
    pub answer: Option<(u32, bool)>,
}

/// Clients that go on until they are stopped.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    camera: Arc<Camera>,
    socket: PathBuf,
    samples: Mutex<Vec<Sample>>,
    /// Why the last failure failed.
    complaint: Mutex<Option<String>>,
    stopped: AtomicBool,
}

impl Load {
    /// `clients` connections that make `rate` requests a second together.
    pub(super) fn start(camera: Arc<Camera>, socket: &Path, clients: u32, rate: u32) -> Self {
        let shared = Arc::new(Shared {
            camera,
            socket: socket.to_owned(),
            samples: Mutex::default(),
            complaint: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(shoot(shared.clone(), Duration::from_secs(1) * clients / rate));
        }
        Self { shared, tasks }
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        lock(&self.shared.samples).clone()
    }

    /// The newest requests, at most `count`, that were sent after `since`.
    pub(super) fn recent(&self, since: Instant, count: usize) -> Vec<Sample> {
        lock(&self.shared.samples).iter().rev().take_while(|sample| sample.sent >= since).take(count).copied().collect()
    }

    pub(super) fn complaint(&self) -> Option<String> {
        lock(&self.shared.complaint).clone()
    }

    /// Ends once the requests that are under way are answered.
    pub(super) async fn stop(mut self) -> Vec<Sample> {
        self.shared.stopped.store(true, Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.samples()
    }
}

async fn shoot(shared: Arc<Shared>, period: Duration) {
    let mut client = None;
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shared.stopped.load(Relaxed) {
        tick.tick().await;
        let (image, label) = shared.camera.shoot();
        let sent = Instant::now();
        let answer = ask(&mut client, &shared.socket, &image).await;
        let took = sent.elapsed();
        if let Err(error) = &answer {
            *lock(&shared.complaint) = Some(error.to_string());
            client = None;
        }
        let answer = answer.ok().map(|answer| (answer.version, answer.digit == label));
        lock(&shared.samples).push(Sample { sent, took, answer });
    }
}

async fn ask(client: &mut Option<Client>, socket: &Path, image: &Image) -> Result<Answer, ClientError> {
    let mut connected = match client.take() {
        Some(client) => client,
        None => Client::connect(socket).await?,
    };
    let answer = connected.infer(image).await;
    *client = Some(connected);
    answer
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The share of right answers among all requests; a failure is none.
pub(super) fn accuracy<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Option<f64> {
    let (mut right, mut all) = (0_u32, 0_u32);
    for sample in samples {
        right += u32::from(matches!(sample.answer, Some((_, true))));
        all += 1;
    }
    (all > 0).then(|| f64::from(right) / f64::from(all))
}

/// The latency that the given share of the answers stayed below.
pub(super) fn quantile<'a>(samples: impl IntoIterator<Item = &'a Sample>, share: f64) -> Option<Duration> {
    let mut took: Vec<Duration> = samples.into_iter().filter(|s| s.answer.is_some()).map(|s| s.took).collect();
    took.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = (took.len() as f64 * share) as usize;
    took.get(place.min(took.len().saturating_sub(1))).copied()
}
