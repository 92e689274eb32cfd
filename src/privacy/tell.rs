//! The closed schema of status and metrics.

use crate::bundle::{Digest, ModelName};
use serde::{Deserialize, Serialize};

/// All that the engine may say to the outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tell {
    Status(Box<Status>),
    Metrics(Metrics),
}

/// The latest state of a device; retained on the broker under `dev/<id>/status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Counts statuses since the engine started.
    pub sequence: u64,
    /// Device time: seconds since 1970 UTC by the trusted floor, not by the wall clock.
    pub time: u64,
    pub models: Vec<ModelStatus>,
    /// The last eight, oldest first.
    pub outcomes: Vec<Outcome>,
    pub lacks: Lacks,
    pub inventory: Inventory,
    /// A status of an older version has none.
    #[serde(default)]
    pub audit: Option<AuditHead>,
}

/// The newest line of the audit log: a log that is shown later has to hold it. The lines hold nothing that is not in
/// this set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuditHead {
    pub number: u64,
    pub sha256: Digest,
}

impl Status {
    pub const MAX_MODELS: usize = 32;
    pub const MAX_OUTCOMES: usize = 8;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelStatus {
    pub model: ModelName,
    /// The version that answers now.
    pub live: Option<u32>,
    /// The version that would come back.
    pub previous: Option<u32>,
    pub state: ModelState,
    /// The version that `state` is about, while an update is under way.
    pub candidate: Option<u32>,
    /// While it is a shadow: of the requests that both versions were asked, how many they answered alike.
    // Never left out: between engine and link goes an encoding without names.
    #[serde(default)]
    pub agreement: Option<f32>,
    /// What the candidate waits for, where something holds it back.
    #[serde(default)]
    pub waits_for: Option<WaitsFor>,
}

impl ModelStatus {
    /// One that runs a version, and nothing else.
    pub fn idle(model: ModelName, live: Option<u32>) -> Self {
        let state = ModelState::Idle;
        Self { model, live, previous: None, state, candidate: None, agreement: None, waits_for: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelState {
    Idle,
    /// A version is there to be taken, and something holds it back.
    Waiting,
    Fetching,
    /// Self-test and golden samples run.
    Checking,
    /// The candidate is asked what the live version is asked; the live version answers.
    Shadow,
    /// The candidate answers a share of the requests.
    Canary,
    Probation,
}

/// What holds an update back. It goes on by itself when that ends; each has its remedy in `docs/outcomes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// The operator has paused it.
    Pause,
    /// A maintenance window.
    Window,
    /// Nothing tells the board the hour, and so whether a window is open.
    Clock,
    /// More requests than are allowed during an update, or not known yet how many.
    Busy,
    /// The board is too hot.
    Heat,
    /// The board runs on a battery.
    Battery,
}

/// How one offered version ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// Absent where the metadata itself was refused.
    pub model: Option<ModelName>,
    pub version: Option<u32>,
    pub verdict: Verdict,
    pub stage: Stage,
    pub code: Code,
    pub expected: Measure,
    pub actual: Measure,
    /// Device time, as in `Status::time`.
    pub time: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It serves, and has passed probation.
    Live,
    /// It never served.
    Refused,
    /// It served and was taken back.
    RolledBack,
    /// This board could not tell now; it tries again later.
    Inconclusive,
}

/// Where in an update's life it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Metadata,
    Offer,
    Fetch,
    Bundle,
    SelfTest,
    Golden,
    Shadow,
    Canary,
    Probation,
    Restart,
}

/// Why. Each has its remedy in `docs/outcomes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    Ok,
    /// Metadata: not signed by enough of the keys that the trusted root names.
    BadSignature,
    /// Metadata: older than what the device already trusts.
    StaleMetadata,
    /// Metadata: past its expiry date by device time.
    Expired,
    /// Metadata: not of the known form, or its parts do not belong together.
    BadMetadata,
    /// Offer: not newer than the live version, and not marked as an intended downgrade.
    Downgrade,
    /// Offer: this version failed here before.
    Quarantined,
    /// Offer: the operator withdrew it while it was on trial, or called it back.
    Withdrawn,
    /// Offer: needs a newer Selvedge.
    RuntimeTooOld,
    /// Fetch: bytes on the board are not those that the index names.
    DigestMismatch,
    /// Fetch: no room for it.
    DiskFull,
    /// Bundle: a delta did not lead to it; the chunks are fetched instead.
    BadDelta,
    /// Bundle: does not unpack, or is not what its target says.
    BadBundle,
    /// Self-test: the engine cannot run it.
    CannotRun,
    /// Offer, self-test: over its memory budget, or that over the board's memory.
    OverMemory,
    /// Self-test, shadow, probation: over its latency budget.
    OverLatency,
    /// Self-test: over its latency budget on a board that heat or a weak supply slows down.
    Throttled,
    /// Golden: too few samples answered within tolerance.
    GoldenMismatch,
    /// Shadow, canary: it takes other inputs or gives other outputs than the live version.
    NotComparable,
    /// Shadow: too few answers like the live version's.
    Disagrees,
    /// Shadow: an inference that does not end.
    Hangs,
    /// Canary, probation: too many failed requests.
    TooManyErrors,
    /// Restart: the engine died while it was on trial, or again and again while it was live.
    Crashed,
    /// Restart: what was stored does not read any more; the medium lost data.
    StorageDamaged,
}

impl Code {
    /// As in the JSON, for tables.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// A number with its meaning, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    None,
    Count(u64),
    Bytes(u64),
    Microseconds(u64),
    /// Of a whole, 0 to 1.
    Share(f32),
    Version(u32),
    /// Seconds since 1970 UTC.
    Time(u64),
    /// The first eight bytes of a SHA-256 digest of public data.
    Digest([u8; 8]),
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Count(n) => write!(f, "{n}"),
            Self::Bytes(n) => write!(f, "{n} B"),
            Self::Microseconds(n) => write!(f, "{n} µs"),
            Self::Share(s) => write!(f, "{:.1} %", s * 100.0),
            Self::Version(v) => write!(f, "version {v}"),
            Self::Time(t) => write!(f, "{t} s"),
            Self::Digest(d) => write!(f, "{}…", hex::encode(d)),
        }
    }
}

/// What the device waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lacks {
    /// A timestamp came whose snapshot or targets have not.
    pub metadata: bool,
    /// An offer's index has not come.
    pub index: bool,
    pub chunks: u32,
    /// Of so many, where their index has come. A status of an older version has none.
    #[serde(default)]
    pub of_chunks: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inventory {
    /// Selvedge's own version.
    pub runtime: (u16, u16, u16),
    pub root_version: u32,
    pub cores: u16,
    /// Of the int8 kernels. A status of an older version has none.
    #[serde(default)]
    pub isa: InstructionSet,
    /// Of the processor. A status of an older version has none.
    #[serde(default)]
    pub arch: Arch,
    /// What its maker calls the board. A status of an older version has none.
    // Never left out: between engine and link goes an encoding without names.
    #[serde(default)]
    pub board: Option<BoardName>,
    pub memory_total_mib: u32,
    pub memory_used_mib: u32,
    /// Resident memory of the engine.
    pub engine_rss_mib: u32,
    pub disk_free_mib: u32,
    /// Of the hottest sensor.
    pub temperature_celsius: Option<f32>,
    pub uptime_seconds: u64,
    /// The engine tried to make an internet socket and the system refused.
    pub network_denied: bool,
}

/// Which instructions the int8 kernels use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstructionSet {
    #[default]
    Unknown,
    Scalar,
    Neon,
    Dotprod,
    I8mm,
    Avx2,
    Avxvnni,
    Avx512vnni,
}

impl InstructionSet {
    /// Of which processors, and how many of its kind are below it; none where nothing is known.
    fn rank(self) -> Option<(Arch, u8)> {
        Some(match self {
            Self::Unknown | Self::Scalar => return None,
            Self::Neon => (Arch::Aarch64, 1),
            Self::Dotprod => (Arch::Aarch64, 2),
            Self::I8mm => (Arch::Aarch64, 3),
            Self::Avx2 => (Arch::X86_64, 1),
            Self::Avxvnni => (Arch::X86_64, 2),
            Self::Avx512vnni => (Arch::X86_64, 3),
        })
    }

    /// As good as another of the same processors, or better; scalar is what all have.
    pub fn is_at_least(self, other: Self) -> bool {
        match (self.rank(), other.rank()) {
            (Some(own), Some(other)) => own.0 == other.0 && own.1 >= other.1,
            (_, None) => other == Self::Scalar && self != Self::Unknown,
            (None, Some(_)) => false,
        }
    }
}

/// The processor's architecture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    #[default]
    #[serde(rename = "unknown")]
    Unknown,
    #[serde(rename = "aarch64")]
    Aarch64,
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Arch {
    /// What this executable was built for.
    pub const OWN: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else {
        Self::Unknown
    };
}

/// What a board's maker calls it, as "Raspberry Pi 4 Model B Rev 1.4": the same on all of that kind. Bounded, and of
/// letters, digits and few signs, wherever it comes from; the only text of the set that the operator did not write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BoardName(String);

impl BoardName {
    pub const MAX: usize = 64;

    fn takes(c: char) -> bool {
        c.is_ascii_alphanumeric() || " .,-_+()/".contains(c)
    }

    /// From what the firmware says: what is not of the form is left out, and the rest cut short; none where nothing is left.
    pub fn of(firmware: &str) -> Option<Self> {
        let plain: String = firmware.chars().take(4 * Self::MAX).filter(|&c| Self::takes(c)).collect();
        let short: String = plain.trim().chars().take(Self::MAX).collect();
        Self::try_from(short.trim().to_owned()).ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BoardName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_good = (1..=Self::MAX).contains(&text.len()) && text.chars().all(Self::takes);
        is_good.then_some(Self(text)).ok_or("a board's name is 1 to 64 of letters, digits, spaces and .,-_+()/")
    }
}

impl From<BoardName> for String {
    fn from(name: BoardName) -> Self {
        name.0
    }
}

/// Counts since the engine started; not retained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Metrics {
    pub models: Vec<ModelMetrics>,
    pub temperature_celsius: Option<f32>,
    /// Bytes that the engine wrote to storage. Of an older version there are none.
    #[serde(default)]
    pub written_bytes: u64,
    /// How often it made the storage take them.
    #[serde(default)]
    pub disk_syncs: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelMetrics {
    pub model: ModelName,
    pub version: u32,
    pub answered: u64,
    pub failed: u64,
    pub latency: Histogram,
}

/// Counts by powers of two of a microsecond: bucket `i` holds what took less than `2^i` µs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram(pub [u64; 26]);

impl Histogram {
    pub fn add(&mut self, micros: u64) {
        let bits = u64::BITS - micros.leading_zeros();
        let last = self.0.len() - 1;
        self.0[(bits as usize).min(last)] += 1;
    }

    /// The upper bound, in µs, of the bucket that holds the given share of the counts.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total: u64 = self.0.iter().sum();
        let mut below = 0;
        for (i, count) in self.0.iter().enumerate() {
            below += count;
            if total > 0 && below as f64 >= share * total as f64 {
                return Some(1 << i);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boards_name_is_bounded_and_plain_wherever_it_comes_from() {
        let told = |firmware: &str| BoardName::of(firmware).map(String::from);
        assert_eq!(told("Raspberry Pi 4 Model B Rev 1.4\0").as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
        assert_eq!(told("\u{1b}[2J x\n\u{202e}é").as_deref(), Some("2J x"));
        assert_eq!(told(&"x".repeat(100_000)).map(|name| name.len()), Some(64));
        assert_eq!([told(""), told("\0\n\t"), told("   ")], [None, None, None]);
        for hostile in ["\"\\u001b[2J\"", "\"\"", "7", &format!("{:?}", "x".repeat(65))] {
            assert!(serde_json::from_str::<BoardName>(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn instruction_sets_are_ordered_within_their_processors_alone() {
        use InstructionSet::*;
        assert!(I8mm.is_at_least(Dotprod) && Dotprod.is_at_least(Dotprod) && !Neon.is_at_least(Dotprod));
        assert!(Avx2.is_at_least(Scalar) && Scalar.is_at_least(Scalar) && !Scalar.is_at_least(Neon));
        assert!(!Avx512vnni.is_at_least(Neon) && !I8mm.is_at_least(Avx2));
        assert!([Unknown, Scalar, Neon, Avx2].iter().all(|other| !Unknown.is_at_least(*other)));
        assert!([Scalar, I8mm, Avx512vnni].iter().all(|isa| !isa.is_at_least(Unknown)));
    }

    #[test]
    fn a_histogram_bounds_its_quantiles() {
        let mut histogram = Histogram::default();
        (0..99).for_each(|_| histogram.add(100));
        histogram.add(u64::MAX);
        assert_eq!(histogram.quantile(0.5), Some(128));
        assert_eq!(histogram.quantile(1.0), Some(1 << 25));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
