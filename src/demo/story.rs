//! The story, act by act.

use super::camera::{Camera, adapted, release};
use super::display::Display;
use super::error::DemoError;
use super::load::Load;
use super::offers::{Attackers, Bad};
use super::stage::{GROUP, Stage};
use super::verdict::{Moments, Refusal, Report};
use crate::privacy::{ModelState, Outcome, Status};
use crate::publish::{Audience, PublishOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How the story is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Keep keys, state and logs there; otherwise they are gone at the end.
    pub keep: Option<PathBuf>,
    /// Requests a second.
    pub rate: u32,
    /// Live lines on standard error.
    pub live: bool,
}

const LIMIT: Duration = Duration::from_secs(50);
const CLIENTS: u32 = 4;
/// How long each act is watched.
const ACT: Duration = Duration::from_secs(3);
/// How long the device has to refuse an offer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Tells the story. The report says whether every demand held.
pub async fn run(options: &Options) -> Result<Report, DemoError> {
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let temporary = tempfile::Builder::new().prefix("selvedge-demo-").permissions(private).tempdir();
    let temporary = temporary.map_err(|source| DemoError::File { path: std::env::temp_dir(), source })?;
    let dir = match &options.keep {
        Some(dir) => empty_dir(dir)?,
        None => temporary.path().to_owned(),
    };
    match timeout(LIMIT, tell(options, &dir)).await {
        Ok(report) => report,
        Err(_) => Err(DemoError::Late("the story does not end")),
    }
}

fn empty_dir(dir: &std::path::Path) -> Result<PathBuf, DemoError> {
    let failed = |source| DemoError::File { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let dir = dir.canonicalize().map_err(failed)?;
    match std::fs::read_dir(&dir).map_err(failed)?.next() {
        None => Ok(dir),
        Some(_) => Err(DemoError::NotEmpty(dir)),
    }
}

async fn tell(options: &Options, dir: &std::path::Path) -> Result<Report, DemoError> {
    let display = Display::new(options.live);
    display.act("a device starts: engine (no network) and link (no data), two processes");
    let camera = Arc::new(Camera::embedded()?);
    let mut stage = Stage::set(dir).await?;
    let load = Arc::new(Load::start(camera.clone(), &stage.socket(), CLIENTS, options.rate));
    let watching = display.watch(load.clone());
    let played = play(&display, &camera, &mut stage, &load).await;
    watching.abort();
    // The watcher lets go of its share when it ends.
    let _ = watching.await;
    let samples = match Arc::try_unwrap(load) {
        Ok(load) => load.stop().await,
        Err(load) => load.samples(),
    };
    let denied = stage.operator.status().is_some_and(|status| status.inventory.network_denied);
    let ledger = stage.strike().await?;
    display.end();
    let (moments, refusals, update_bytes) = played?;
    Ok(Report::new(&samples, moments, refusals, update_bytes, &ledger, denied))
}

type Played = (Moments, Vec<Refusal>, u64);

async fn play(display: &Display, camera: &Camera, stage: &mut Stage, load: &Load) -> Result<Played, DemoError> {
    display.act(&format!("digits version 1 answers {} held-out pictures, over and over", camera.len()));
    let start = Instant::now();
    sleep(ACT).await;
    let mut attackers = Attackers::prepare(&stage.dir, &stage.operator)?;

    display.act("the camera is bumped: pictures come turned and inverted");
    camera.bump();
    let bumped = Instant::now();
    sleep(ACT).await;

    display.act("the operator publishes version 2, adapted to the bumped camera");
    let published = Instant::now();
    let update_bytes = publish_adapted(stage).await?;
    let swapped = wait_for_version(load, published, 2).await?;
    display.act("version 2 answers, on probation; version 1 stays pinned");
    let live = stage.operator.wait(|status| is_live(status, 2));
    timeout(PATIENCE, live).await.map_err(|_| DemoError::Late("version 2 does not pass its probation"))??;
    display.act("version 2 has passed its probation");
    sleep(ACT).await;
    let attacked = Instant::now();
    let refusals = refuse_all(display, stage, &mut attackers).await?;
    let moments = Moments { start, bumped, published, swapped, attacked, end: Instant::now() };
    Ok((moments, refusals, update_bytes))
}

/// Signs and posts the good update; returns the bytes that the device has to fetch.
async fn publish_adapted(stage: &mut Stage) -> Result<u64, DemoError> {
    let bundle = release(adapted(), 2, "adapted to the bumped camera")?;
    let operator = &mut stage.operator;
    let publication = operator.repository.publish(&bundle, &Audience::group(GROUP), &PublishOptions::default())?;
    operator.publish(&publication).await?;
    Ok(publication.size())
}

async fn wait_for_version(load: &Load, since: Instant, version: u32) -> Result<Instant, DemoError> {
    let seen = async {
        loop {
            let recent = load.recent(since, 1000);
            let first = recent.iter().rev().find(|sample| sample.answer.is_some_and(|(v, _)| v == version));
            if let Some(sample) = first {
                return sample.sent;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, seen).await.map_err(|_| DemoError::Late("version 2 does not answer"))
}

fn is_live(status: &Status, version: u32) -> bool {
    status.models.iter().any(|model| model.live == Some(version) && model.state == ModelState::Idle)
}

async fn refuse_all(
    display: &Display,
    stage: &mut Stage,
    attackers: &mut Attackers,
) -> Result<Vec<Refusal>, DemoError> {
    let mut refusals = Vec::new();
    for bad in Bad::ALL {
        display.act(&format!("an offer that is bad: {}", bad.text()));
        let known = stage.operator.status().map(|status| status.outcomes).unwrap_or_default();
        attackers.offer(bad, &mut stage.operator).await?;
        let is_news = |outcome: &&Outcome| !known.contains(outcome);
        let told = stage.operator.wait(|status| status.outcomes.iter().any(|outcome| is_news(&outcome)));
        let status = match timeout(PATIENCE, told).await {
            Ok(status) => Some(status?),
            Err(_) => stage.operator.status(),
        };
        let outcome = status.iter().flat_map(|status| &status.outcomes).rfind(is_news).cloned();
        let serves = status.as_ref().and_then(|status| status.models.first()?.live);
        let refusal = Refusal::new(bad, outcome, serves);
        display.act(&format!("  {}", refusal.text()));
        refusals.push(refusal);
        sleep(Duration::from_millis(500)).await;
    }
    Ok(refusals)
}
