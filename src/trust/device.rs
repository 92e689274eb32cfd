//! What one device trusts: opened once, moved forward by `update`.

use super::Role;
use super::delegation::{self, Delegated};
use super::offer::Verified;
use super::offered::Offered;
use super::state::{self, LoadError, Set, State};
use super::verify::{self, Outcome, Refusal, RefusalCode, Run, Sound};
use crate::sys::{Clock, Disk, DiskError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tough::schema::{self, Signed};

/// See the module's head.
#[derive(Debug)]
pub struct Trust {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: State,
    root_version: u32,
    verified: Option<Verified>,
    base: Base,
    complaints: Vec<Complaint>,
}

/// A delegated role whose file does not count, and why. What others sign counts all the same.
#[derive(Debug)]
pub struct Complaint {
    pub name: String,
    pub refusal: Refusal,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{path} is damaged: {problem}. Versions and dates that it guarded are lost: \
         look at the medium, then remove the file to start again from the operator's root"
    )]
    Corrupt { path: PathBuf, problem: &'static str },
    #[error("the operator's root {0}; copy root.json anew from `selvedge trust init`")]
    Bootstrap(&'static str),
    #[error("{path} belongs to another operator's root; remove it to trust the new one from the start")]
    OtherRoot { path: PathBuf },
}

/// Why `update` did not move forward.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// How far an update came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A newer set, or a newer root under the same set, is trusted and durable.
    Committed,
    /// What the board shows is what is trusted.
    Unchanged,
    /// A part that another one names is not there, or not matching yet. A newer root may have been
    /// committed: see `root_version`.
    Waiting,
}

/// A second that is known, and when in this boot it was.
#[derive(Debug)]
struct Base {
    seconds: u64,
    at: OnceLock<Duration>,
}

impl Base {
    fn new(seconds: u64) -> Self {
        Self { seconds, at: OnceLock::new() }
    }

    /// The first call sets the mark: the clock is not at hand when the state is opened.
    fn now(&self, clock: &dyn Clock) -> u64 {
        let since = *self.at.get_or_init(|| clock.monotonic());
        let elapsed = clock.monotonic().saturating_sub(since);
        self.seconds.saturating_add(elapsed.as_secs())
    }
}

impl Trust {
    /// Opens what was committed in `dir`; with nothing there yet, starts from the operator's root.
    /// State that cannot be read is an error, never "absent".
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, bootstrap_root: &[u8]) -> Result<Self, OpenError> {
        let path = dir.join("trust.json");
        let bootstrap = check_bootstrap(bootstrap_root)?;
        let corrupt = |problem| OpenError::Corrupt { path: path.clone(), problem };
        let state = match State::load(&*disk, &path) {
            Ok(Some(state)) => state,
            Ok(None) => State::bootstrap(String::from_utf8_lossy(bootstrap_root).into_owned()),
            Err(LoadError::Disk(error)) => return Err(error.into()),
            Err(LoadError::Corrupt(problem)) => return Err(corrupt(problem)),
        };
        if is_other_root(&state, &bootstrap) {
            return Err(OpenError::OtherRoot { path });
        }
        let trusted = state::parse_root(state.root()).and_then(|root| state::version(&root));
        let root_version = trusted.ok_or_else(|| corrupt("its root is not readable"))?;
        let verified = match &state.set {
            Some(set) => read_set(state.root(), set).ok_or_else(|| corrupt("its targets are not readable"))?,
            None => None,
        };
        let base = Base::new(state.floor);
        Ok(Self { disk, path, state, root_version, verified, base, complaints: Vec::new() })
    }

    pub fn root_version(&self) -> u32 {
        self.root_version
    }

    /// Seconds since 1970 UTC: the persisted floor and what passed since. The system's clock counts
    /// only when the kernel says that it is synchronized and it is not before the floor.
    pub fn device_time(&self, clock: &dyn Clock) -> u64 {
        let known = self.base.now(clock);
        let system = clock.system();
        let counts = clock.synchronized() && system >= self.state.floor;
        if counts { known.max(system) } else { known }
    }

    /// What was committed last, while the trusted root vouches for its keys. Expiry does not take it
    /// away: it only blocks newer offers.
    pub fn verified(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }

    /// What was wrong with delegated roles in the last update.
    pub fn take_complaints(&mut self) -> Vec<Complaint> {
        std::mem::take(&mut self.complaints)
    }

    /// Checks what the board shows and commits at most once. All or nothing, but for roots: each
    /// newer root that the trusted one vouches for is kept even when the set under it is not there
    /// yet or refused, since the next root can only be looked for from there.
    pub async fn update(&mut self, offered: &Offered, clock: &dyn Clock) -> Result<Progress, UpdateError> {
        let is_known = offered.timestamp().is_some_and(|bytes| self.is_committed(bytes));
        if offered.get(Role::Root, self.root_version.saturating_add(1)).is_none() {
            if is_known {
                return Ok(self.catch_up(offered, clock)?);
            }
            if offered.timestamp().is_none() {
                return Ok(Progress::Waiting);
            }
        }
        let Run { roots, outcome } = verify::run(&self.state, offered).await?;
        let mut next = self.state.clone();
        let has_new_root = !roots.is_empty();
        next.add_roots(roots);
        let progress = match outcome {
            Outcome::Sound(sound) => self.judge(&sound, offered, &mut next, clock),
            Outcome::Waiting => Ok(Progress::Waiting),
            Outcome::Refused(refusal) => self.weigh(refusal, is_known, offered, &next),
        };
        self.commit(next, clock)?;
        let progress = progress?;
        let is_same_set = progress == Progress::Unchanged;
        Ok(if is_same_set && has_new_root { Progress::Committed } else { progress })
    }

    /// Takes delegated roles that have come since their set did.
    fn catch_up(&mut self, offered: &Offered, clock: &dyn Clock) -> Result<Progress, DiskError> {
        let Some(set) = self.state.set.as_ref().filter(|_| offered.has_delegated() && self.verified.is_some()) else {
            return Ok(Progress::Unchanged);
        };
        let (Ok(targets), Ok(snapshot)) = (serde_json::from_str(&set.targets), serde_json::from_str(&set.snapshot))
        else {
            return Ok(Progress::Unchanged);
        };
        let (targets, snapshot): (Signed<schema::Targets>, Signed<schema::Snapshot>) = (targets, snapshot);
        let time = self.device_time(clock);
        let (taken, bad) = delegation::take(&targets.signed, &snapshot.signed, &set.delegated, offered, time);
        self.complaints = bad.into_iter().map(|(name, refusal)| Complaint { name, refusal }).collect();
        if taken == set.delegated {
            return Ok(Progress::Unchanged);
        }
        let mut next = self.state.clone();
        next.set = Some(Set { delegated: taken, ..set.clone() });
        self.commit(next, clock)?;
        Ok(Progress::Committed)
    }

    fn is_committed(&self, timestamp: &[u8]) -> bool {
        self.state.set.as_ref().is_some_and(|set| set.timestamp.as_bytes() == timestamp)
    }

    /// A timestamp that was signed under a root that has not come yet is early, not wrong.
    fn weigh(&self, refusal: Refusal, is_known: bool, offered: &Offered, next: &State) -> Result<Progress, Refusal> {
        if refusal.code != RefusalCode::BadSignature || refusal.role == Role::Root {
            return Err(refusal);
        }
        if is_known {
            return Ok(Progress::Unchanged);
        }
        let trusted = state::parse_root(next.root()).map(|root| root.signed.version.get());
        let hint = offered.timestamp().and_then(verify::root_hint);
        if hint > trusted { Ok(Progress::Waiting) } else { Err(refusal) }
    }

    /// Checks dates, then puts the set in `next`.
    fn judge(
        &mut self,
        sound: &Sound,
        offered: &Offered,
        next: &mut State,
        clock: &dyn Clock,
    ) -> Result<Progress, Refusal> {
        let timestamp = &sound.timestamp.signed;
        let bound = next.set.as_ref().filter(|set| !set.versions_void);
        let trusted = bound.and_then(|set| verify::version_of(&set.timestamp));
        if trusted.is_some_and(|version| u64::from(version) == timestamp.version.get()) {
            return Ok(Progress::Unchanged);
        }
        let bad = || Refusal::new(RefusalCode::BadMetadata, Role::Timestamp);
        // Versions are 32 bits in all that we make and keep.
        u32::try_from(timestamp.version.get()).map_err(|_| bad())?;
        let issued = timestamp._extra.get("issued").and_then(serde_json::Value::as_u64).ok_or_else(bad)?;
        let is_floor_void = next.set.as_ref().is_some_and(|set| set.floor_void);
        let floor = if is_floor_void { 0 } else { next.floor };
        let time = self.time_for(issued, is_floor_void, clock);
        check_dates(sound, time)?;
        Verified::new(&sound.targets, &Delegated::default())?;
        let old = self.state.set.as_ref();
        let none = BTreeMap::new();
        let before = old.map_or(&none, |set| &set.delegated);
        let (targets, snapshot) = (&sound.targets.signed, &sound.snapshot.signed);
        let (delegated, wrong) = delegation::take(targets, snapshot, before, offered, time);
        next.set = Some(Set { delegated, ..collect(sound, offered, old).ok_or_else(bad)? });
        self.complaints = wrong.into_iter().map(|(name, refusal)| Complaint { name, refusal }).collect();
        next.floor = floor.max(issued);
        Ok(Progress::Committed)
    }

    /// The time that expiry dates are held against. A signed `issued` was that late when it was signed.
    fn time_for(&self, issued: u64, is_floor_void: bool, clock: &dyn Clock) -> u64 {
        if !is_floor_void {
            return self.device_time(clock).max(issued);
        }
        let system = clock.system();
        if clock.synchronized() { system.max(issued) } else { issued }
    }

    fn commit(&mut self, next: State, clock: &dyn Clock) -> Result<(), DiskError> {
        if next == self.state {
            return Ok(());
        }
        next.save(&*self.disk, &self.path)?;
        let fell = next.floor < self.state.floor;
        if fell || next.floor > self.base.now(clock) {
            self.base = Base::new(next.floor);
            self.base.now(clock);
        }
        self.root_version =
            state::parse_root(next.root()).and_then(|root| state::version(&root)).unwrap_or(self.root_version);
        self.verified = next.set.as_ref().and_then(|set| read_set(next.root(), set)).flatten();
        self.state = next;
        Ok(())
    }
}

fn check_bootstrap(bytes: &[u8]) -> Result<Signed<schema::Root>, OpenError> {
    if bytes.len() > Role::Root.limit() {
        return Err(OpenError::Bootstrap("is over 64 KiB"));
    }
    let root: Signed<schema::Root> =
        serde_json::from_slice(bytes).map_err(|_| OpenError::Bootstrap("is not a TUF root"))?;
    root.signed.verify_role(&root).map_err(|_| OpenError::Bootstrap("is not signed by its own keys"))?;
    if !root.signed.consistent_snapshot {
        return Err(OpenError::Bootstrap("does not use consistent snapshots"));
    }
    Ok(root)
}

/// True when the chain holds another root of the bootstrap's version. One that is newer or older
/// than the chain says nothing.
fn is_other_root(state: &State, bootstrap: &Signed<schema::Root>) -> bool {
    let chain = state.roots.iter().filter_map(|text| state::parse_root(text));
    chain.into_iter().any(|root| root.signed.version == bootstrap.signed.version && root.signed != bootstrap.signed)
}

/// Committed targets and what they delegate to. `Some(None)` where the trusted root has taken their keys
/// away since: nothing more is offered from them.
fn read_set(root: &str, set: &Set) -> Option<Option<Verified>> {
    let targets: Signed<schema::Targets> = serde_json::from_str(&set.targets).ok()?;
    let snapshot: Signed<schema::Snapshot> = serde_json::from_str(&set.snapshot).ok()?;
    let delegated = Delegated::read(&targets.signed, &snapshot.signed, &set.delegated);
    let verified = Verified::new(&targets, &delegated).ok()?;
    let vouches = state::parse_root(root)?.signed.verify_role(&targets).is_ok();
    Some(vouches.then_some(verified))
}

fn check_dates(sound: &Sound, time: u64) -> Result<(), Refusal> {
    let dates = [
        (Role::Root, sound.root.signed.expires),
        (Role::Timestamp, sound.timestamp.signed.expires),
        (Role::Snapshot, sound.snapshot.signed.expires),
        (Role::Targets, sound.targets.signed.expires),
    ];
    for (role, date) in dates {
        let expires = u64::try_from(date.as_second()).unwrap_or(0);
        if time > expires {
            return Err(Refusal::measured(RefusalCode::Expired, role, expires, time));
        }
    }
    Ok(())
}

/// The bytes that passed: those offered, or those committed where nothing else came.
fn collect(sound: &Sound, offered: &Offered, old: Option<&Set>) -> Option<Set> {
    let version = |number: u64| u32::try_from(number).ok();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let snapshot = offered.get(Role::Snapshot, version(sound.snapshot.signed.version.get())?);
    let targets = offered.get(Role::Targets, version(sound.targets.signed.version.get())?);
    Some(Set {
        timestamp: text(offered.timestamp()?)?,
        snapshot: text(snapshot.or_else(|| Some(old?.snapshot.as_bytes()))?)?,
        targets: text(targets.or_else(|| Some(old?.targets.as_bytes()))?)?,
        delegated: BTreeMap::new(),
        versions_void: false,
        floor_void: false,
    })
}
