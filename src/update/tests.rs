//! A whole device on a disk that loses power, fills up or becomes read-only, at every single operation.

use super::{Parts, Updater};
use crate::bundle::{Bundle, Digest, ModelName, topics};
use crate::engine::{Slots, Taken, Workers};
use crate::ipc::{Fetch, Role, ToEngine};
use crate::privacy::{Code, Inventory, ModelState, Stage};
use crate::publish::{Audience, InitOptions, Publication, PublishOptions, Repository, Team, Turn, make_key};
use crate::store::{Phase, read_model_dir};
use crate::sys::{Clock, Disk, FaultyDisk, RealClock, Torn};
use crate::tensor::Tensor;
use crate::update::machine::{Event, Reason};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Every operation, one after the other. For a processor that is emulated, on which all of them take half an
/// hour, every ninth: the disk is the same one.
const STEP: usize = if cfg!(target_arch = "aarch64") { 9 } else { 1 };

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn model_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn digits() -> ModelName {
    ModelName::new("digits").unwrap()
}

/// What the board shows, and the operator's root.
struct World {
    board: BTreeMap<String, Vec<u8>>,
    root: Vec<u8>,
    factory: Bundle,
    repository: Repository,
    rules: crate::config::Update,
    weather: Arc<Weather>,
    _dir: tempfile::TempDir,
}

impl World {
    /// An operator who has published version 2 over the factory's version 1, of which the board knows nothing.
    fn new() -> Self {
        Self::with(&[read_model_dir(&model_dir("digits-adapted")).unwrap().0])
    }

    /// Both versions were published: there is a delta between them.
    fn with_delta() -> Self {
        Self::with(&["digits", "digits-adapted"].map(|name| read_model_dir(&model_dir(name)).unwrap().0))
    }

    /// The operator has published these, over the factory's version 1.
    fn with(published: &[Bundle]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(&dir.path().join("repo"), &InitOptions::default()).unwrap();
        let root = repository.root_json().unwrap();
        let (factory, _) = read_model_dir(&model_dir("digits")).unwrap();
        let mut this = Self::of(root, factory, repository, dir);
        for bundle in published {
            let options = PublishOptions::default();
            let publication = this.repository.publish(bundle, &Audience::group("shop"), &options).unwrap();
            this.post(publication);
        }
        this
    }

    fn of(root: Vec<u8>, factory: Bundle, repository: Repository, dir: tempfile::TempDir) -> Self {
        let (board, rules, weather) = (BTreeMap::new(), crate::config::Config::default().update, Arc::default());
        Self { board, root, factory, repository, rules, weather, _dir: dir }
    }

    fn post(&mut self, publication: Publication) {
        self.board.extend(publication.posts.into_iter().map(|post| (post.topic, post.bytes)));
    }

    fn shown(&self, file: &str) -> Vec<u8> {
        self.board[&topics::tuf(file)].clone()
    }

    /// The version of the part that a metadata file names.
    fn named(&self, file: &str, part: &str) -> u32 {
        let json: serde_json::Value = serde_json::from_slice(&self.shown(file)).unwrap();
        u32::try_from(json["signed"]["meta"][part]["version"].as_u64().unwrap()).unwrap()
    }

    /// All metadata, as a link brings it.
    fn metadata(&self) -> Vec<ToEngine> {
        let snapshot = self.named("timestamp.json", "snapshot.json");
        let snapshot_file = format!("{snapshot}.snapshot.json");
        let targets = self.named(&snapshot_file, "targets.json");
        let file = |role, version, name: &str| ToEngine::Metadata { role, version, bytes: self.shown(name) };
        vec![
            file(Role::Timestamp, 0, "timestamp.json"),
            file(Role::Snapshot, snapshot, &snapshot_file),
            file(Role::Targets, targets, &format!("{targets}.targets.json")),
        ]
    }

    fn content(&self, digest: &Digest) -> Vec<u8> {
        self.board[&topics::chunk(digest)].clone()
    }
}

use rollout::Weather;

/// One run of the engine's update side.
struct Device {
    updater: Updater,
    slots: Arc<Slots>,
    workers: Workers,
    /// Bytes that the link brought under a digest.
    brought: Vec<Digest>,
}

impl Device {
    async fn start(world: &World, disk: &FaultyDisk, boot: u128) -> Result<Self> {
        Self::start_on(world, disk, boot, (Arc::new(RealClock::new()), Arc::new(|| false))).await
    }

    async fn start_on(
        world: &World,
        disk: &FaultyDisk,
        boot: u128,
        board: (Arc<dyn Clock>, Arc<dyn Fn() -> bool + Send + Sync>),
    ) -> Result<Self> {
        Self::start_with(world, Arc::new(disk.clone()), boot, board).await
    }

    async fn start_with(
        world: &World,
        disk: Arc<dyn Disk>,
        boot: u128,
        (clock, throttled): (Arc<dyn Clock>, Arc<dyn Fn() -> bool + Send + Sync>),
    ) -> Result<Self> {
        let slots = Arc::new(Slots::default());
        let parts = Parts {
            disk,
            clock,
            state: "/state".into(),
            root: Some(world.root.clone()),
            device: [7; 16],
            groups: vec!["shop".into()],
            slots: slots.clone(),
            workers: 1,
            factory: vec![world.factory.clone()],
            boot,
            inventory: world.weather.clone().inventory(),
            memory: Some(1 << 30),
            throttled,
            rules: world.rules.clone(),
            on_battery: world.weather.clone().on_battery(),
        };
        let updater = Updater::start(parts).await?;
        Ok(Self { updater, slots, workers: Workers::start(1, 4)?, brought: Vec::new() })
    }

    /// What the link would do: metadata, then whatever is asked for.
    async fn link(&mut self, world: &World) -> Result<()> {
        self.updater.resume().await?;
        self.updater.link_is_new()?;
        self.updater.next_download()?;
        for message in world.metadata() {
            self.updater.on_message(message).await?;
        }
        let mut node = None;
        loop {
            match self.updater.request() {
                Fetch::Nothing => return Ok(()),
                fetch @ (Fetch::Target { .. } | Fetch::Delta { .. }) => {
                    let digest = self.node(&fetch);
                    let bytes = world.content(&digest);
                    node = crate::bundle::Node::parse(&bytes).ok();
                    self.brought.push(digest);
                    self.updater.on_message(ToEngine::Node { bytes }).await?;
                }
                Fetch::Chunks { ordinals } => {
                    let chunks = node.as_ref().map(|node| node.chunks().to_vec()).unwrap_or_default();
                    for ordinal in ordinals {
                        let digest = chunks[ordinal as usize].sha256;
                        let bytes = world.content(&digest);
                        self.brought.push(digest);
                        self.updater.on_message(ToEngine::Chunk { ordinal, bytes }).await?;
                    }
                }
            }
        }
    }

    fn node(&self, fetch: &Fetch) -> Digest {
        let offers = self.updater.offers();
        let offer = |ordinal| offers.iter().find(|offer| offer.ordinal == ordinal).unwrap();
        match *fetch {
            Fetch::Target { ordinal } => offer(ordinal).digest,
            Fetch::Delta { ordinal, delta } => offer(ordinal).deltas[delta as usize].node,
            Fetch::Nothing | Fetch::Chunks { .. } => panic!("{fetch:?} is for no node"),
        }
    }

    /// Enough requests for any gate and its probation, and a look at them after each lot.
    async fn serve(&mut self, world: &World) -> Result<()> {
        let inputs: Vec<Tensor> = world.factory.golden()[0].inputs.values().cloned().collect();
        loop {
            for _ in 0..60 {
                self.answer(&inputs).await?;
            }
            self.updater.tick().await?;
            if self.updater.entry(&digits()).trial.is_none_or(|trial| trial.phase == Phase::Checking) {
                return Ok(());
            }
        }
    }

    /// One request that names no version, as the API serves it.
    async fn answer(&self, inputs: &[Tensor]) -> Result<u32> {
        let Taken { live, shadow } = self.slots.take("digits").ok_or("nothing serves")?;
        let version = live.version();
        let answer = self.workers.infer(live, inputs.to_vec(), Duration::from_secs(10)).await?;
        if let Some(shadow) = shadow {
            let before = shadow.heard().answers;
            shadow.hear(inputs.to_vec(), answer.outputs, answer.ran);
            while shadow.heard().answers == before {
                tokio::task::yield_now().await;
            }
        }
        Ok(version)
    }

    async fn ask(&self, world: &World) -> Result<u32> {
        let live = self.slots.get("digits").ok_or("nothing serves")?;
        let version = live.version();
        let inputs: Vec<Tensor> = world.factory.golden()[0].inputs.values().cloned().collect();
        self.workers.infer(live, inputs, Duration::from_secs(10)).await?;
        Ok(version)
    }

    fn targets_version(&self) -> u32 {
        self.updater.verified().map_or(0, crate::trust::Verified::targets_version)
    }
}

/// A device that has run version 1 for a while.
async fn settled(world: &World) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let device = Device::start(world, &disk, 1).await.unwrap();
    assert_eq!(device.ask(world).await.unwrap(), 1);
    disk
}

/// The whole update; returns how far trust had come when it ended or broke.
async fn update(world: &World, disk: &FaultyDisk, boot: u128) -> (Result<()>, u32) {
    let mut device = match Device::start(world, disk, boot).await {
        Ok(device) => device,
        Err(error) => return (Err(error), 0),
    };
    let mut done = device.link(world).await;
    if done.is_ok() {
        done = device.serve(world).await;
    }
    (done, device.targets_version())
}

/// After a cut the device starts, answers, trusts no less, and gets to version 2.
async fn recovers(world: &World, disk: &FaultyDisk, trusted: u32, case: &str) {
    let device = Device::start(world, disk, 2).await.unwrap_or_else(|error| panic!("{case}: no start: {error}"));
    let version = device.ask(world).await.unwrap_or_else(|error| panic!("{case}: no answer: {error}"));
    assert!([1, 2].contains(&version), "{case}: version {version}");
    assert!(device.targets_version() >= trusted, "{case}: trust fell from {trusted} to {}", device.targets_version());
    drop(device);
    // The power goes again right after that start: a third boot finishes the job.
    let (done, _) = update(world, disk, 3).await;
    done.unwrap_or_else(|error| panic!("{case}: the update does not go on: {error}"));
    let device = Device::start(world, disk, 4).await.unwrap();
    assert_eq!(device.ask(world).await.unwrap(), 2, "{case}");
    let status = device.updater.status();
    assert_eq!(status.models[0].state, ModelState::Idle, "{case}");
    assert_eq!(status.models[0].previous, Some(1), "{case}");
    assert_eq!(disk.list(Path::new("/state/models/digits")).unwrap().len(), 2, "{case}: live and previous only");
    assert!(disk.list(Path::new("/state/fetch")).unwrap().is_empty(), "{case}");
    audit::is_whole(disk, 2, case);
}

/// Points at which the power was cut and the device came back; one where it does not fails its test.
fn count_points(of: &str, points: u64) {
    let figure = |name: &str, value: u64| serde_json::json!({ "figure": name, "value": value, "unit": "points" });
    println!("{}\n{}", figure(&format!("powercut/points/{of}"), points), figure("powercut/unbootable", 0));
}

async fn cut_everywhere(torn: Torn) {
    cut_in(&World::new(), torn, "update").await;
}

async fn cut_in(world: &World, torn: Torn, of: &str) {
    let base = settled(world).await;
    for cut in (0..).step_by(STEP) {
        let disk = base.reboot(Torn::Kept);
        disk.cut_after(cut);
        let (done, trusted) = update(world, &disk, 1000).await;
        recovers(world, &disk.reboot(torn), trusted, &format!("{torn:?}, cut after {cut}")).await;
        if done.is_ok() {
            assert!(cut > 20, "only {cut} operations: the update did not run");
            return count_points(&format!("{of}-{torn:?}").to_lowercase(), cut / STEP as u64 + 1);
        }
    }
}

#[tokio::test]
async fn power_cut_at_any_operation_with_unsynced_data_lost() {
    cut_everywhere(Torn::Lost).await;
}

#[tokio::test]
async fn power_cut_at_any_operation_with_unsynced_data_torn() {
    cut_everywhere(Torn::Half).await;
}

#[tokio::test]
async fn power_cut_at_any_operation_with_unsynced_data_zeroed() {
    cut_everywhere(Torn::Zeros).await;
}

#[tokio::test]
async fn power_cut_at_any_operation_with_unsynced_data_kept() {
    cut_everywhere(Torn::Kept).await;
}

#[tokio::test]
async fn power_cut_at_any_operation_of_a_first_start() {
    let world = World::new();
    for torn in Torn::ALL {
        for cut in (0..).step_by(STEP) {
            let disk = FaultyDisk::new();
            disk.cut_after(cut);
            let done = Device::start(&world, &disk, 1).await.is_ok();
            let disk = disk.reboot(torn);
            let device = Device::start(&world, &disk, 2).await.unwrap();
            assert_eq!(device.ask(&world).await.unwrap(), 1, "{torn:?}, cut after {cut}");
            if done {
                count_points(&format!("first-start-{torn:?}").to_lowercase(), cut / STEP as u64 + 1);
                break;
            }
        }
    }
}

/// A device with version 2 on probation.
async fn on_probation(world: &World) -> FaultyDisk {
    let disk = settled(world).await;
    let mut device = Device::start(world, &disk, 1000).await.unwrap();
    device.link(world).await.unwrap();
    assert_eq!(device.ask(world).await.unwrap(), 2);
    disk
}

async fn roll_back(device: &mut Device) -> Result<()> {
    let (expected, actual) = (crate::privacy::Measure::Count(0), crate::privacy::Measure::Count(1));
    let failed = Event::Failed(Reason { stage: Stage::Probation, code: Code::TooManyErrors, expected, actual });
    let effects = device.updater.advance(&digits(), failed)?;
    Ok(device.updater.perform(&digits(), effects).await?)
}

#[tokio::test]
async fn power_cut_at_any_operation_of_a_rollback() {
    let world = World::new();
    let base = on_probation(&world).await;
    for torn in Torn::ALL {
        for cut in (0..).step_by(STEP) {
            let disk = base.reboot(Torn::Kept);
            let mut device = Device::start(&world, &disk, 1001).await.unwrap();
            disk.cut_after(cut);
            let done = roll_back(&mut device).await.is_ok();
            let serves = device.ask(&world).await.unwrap();
            let disk = disk.reboot(torn);
            let device = Device::start(&world, &disk, 1002).await.unwrap();
            let version = device.ask(&world).await.unwrap();
            audit::is_whole(&disk, version, &format!("{torn:?}, cut after {cut}"));
            assert!(version == serves || version == 1, "{torn:?}, cut after {cut}: {serves}, then {version}");
            if done {
                assert_eq!(version, 1);
                assert_eq!(device.updater.status().outcomes.last().unwrap().code, Code::TooManyErrors);
                count_points(&format!("rollback-{torn:?}").to_lowercase(), cut / STEP as u64 + 1);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_rolled_back_version_is_not_taken_again_until_a_signed_retry() {
    let mut world = World::new();
    let disk = on_probation(&world).await;
    let mut device = Device::start(&world, &disk, 1001).await.unwrap();
    roll_back(&mut device).await.unwrap();
    drop(device);
    update(&world, &disk, 1002).await.0.unwrap();
    let device = Device::start(&world, &disk, 1003).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    assert_eq!(device.updater.status().outcomes.last().unwrap().code, Code::Quarantined);
    let (adapted, _) = read_model_dir(&model_dir("digits-adapted")).unwrap();
    let again = PublishOptions { retry: true, ..PublishOptions::default() };
    let publication = world.repository.publish(&adapted, &Audience::group("shop"), &again).unwrap();
    world.post(publication);
    update(&world, &disk, 1004).await.0.unwrap();
    let device = Device::start(&world, &disk, 1005).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn a_damaged_live_version_falls_back_to_the_pinned_one_and_says_so() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 1000).await.0.unwrap();
    let dir = Path::new("/state/models/digits");
    let live = Device::start(&world, &disk, 1001).await.unwrap().updater.entry(&digits()).live.unwrap();
    disk.write(&dir.join(format!("{}.bundle", live.bundle)), b"rubbish").unwrap();
    let device = Device::start(&world, &disk, 1002).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    assert_eq!(device.updater.status().outcomes.last().unwrap().code, Code::StorageDamaged);
}

#[tokio::test]
async fn a_damaged_journal_starts_from_the_factory_and_trust_brings_the_rest_back() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 1000).await.0.unwrap();
    disk.write(Path::new("/state/journal.json"), &[0; 300]).unwrap();
    let device = Device::start(&world, &disk, 1001).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 1);
    assert_eq!(device.updater.status().outcomes.last().unwrap().code, Code::StorageDamaged);
    drop(device);
    update(&world, &disk, 1002).await.0.unwrap();
    let device = Device::start(&world, &disk, 1003).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
}

#[tokio::test]
async fn a_damaged_trust_takes_no_update_and_serves_on() {
    let world = World::new();
    let disk = settled(&world).await;
    update(&world, &disk, 1000).await.0.unwrap();
    disk.write(Path::new("/state/trust/trust.json"), b"{").unwrap();
    let mut device = Device::start(&world, &disk, 1001).await.unwrap();
    device.link(&world).await.unwrap();
    assert_eq!(device.ask(&world).await.unwrap(), 2);
    assert_eq!(device.updater.status().outcomes.last().unwrap().code, Code::StorageDamaged);
}

mod audit;
mod deltas;
mod frugal;
mod gates;
mod hampered;
mod holds;
mod inbox;
mod rollout;
