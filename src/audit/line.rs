//! One line: JSON that ends in the digest of what stands before that digest.

use super::MAX_LINE;
use super::chain::Fault;
use crate::bundle::{Digest, ModelName};
use crate::privacy::{Code, Measure, Outcome, Stage, Verdict};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What was decided. Only numbers, names of models and enums of the closed set: nothing that status could not tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Decision {
    /// A file begins: its number, the oldest one that is kept with it, the trusted root that was noted last.
    File { file: u64, oldest: u64, root: u32 },
    /// The engine starts.
    Start { after: After },
    /// What was stored does not read any more.
    Damage { part: Part },
    /// A factory model was installed.
    Factory { model: ModelName, version: u32, bundle: Digest },
    /// Another root of the operator's is trusted.
    Root { from: u32, to: u32 },
    /// An offer is taken: what it lacks is fetched.
    Offer { model: ModelName, version: u32, target: Digest, retry: u32 },
    /// The operator's signed retry lets a version try again that failed here.
    Lifted { model: ModelName, version: u32, target: Digest, retry: u32 },
    /// All of it came and is what was signed.
    Fetched { model: ModelName, version: u32, bundle: Digest },
    /// It passed a gate.
    Passed { model: ModelName, version: u32, stage: Stage },
    /// Another version answers from now on.
    Serves { model: ModelName, version: Option<u32>, instead_of: Option<u32> },
    /// It will not be taken again.
    Quarantined { model: ModelName, target: Digest, retry: u32 },
    /// An update, or metadata, ended or waits, as in the status.
    Ended {
        verdict: Verdict,
        model: Option<ModelName>,
        version: Option<u32>,
        stage: Stage,
        code: Code,
        expected: Measure,
        actual: Measure,
    },
    /// More of what anybody on the network can cause than is worth a write.
    Omitted { lines: u64 },
}

/// What was before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// Nothing.
    Nothing,
    /// A stop in order.
    Stop,
    /// A death of the engine within this boot.
    Death,
    /// The power went, or the board was rebooted hard.
    PowerCut,
}

/// What can be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Journal,
    Trust,
    AuditLog,
    /// The last line of the audit log was cut off: the power went while it was written.
    LastLine,
}

impl From<&Outcome> for Decision {
    fn from(outcome: &Outcome) -> Self {
        let Outcome { model, version, verdict, stage, code, expected, actual, time: _ } = outcome.clone();
        let (expected, actual) = (written(expected), written(actual));
        Self::Ended { verdict, model, version, stage, code, expected, actual }
    }
}

/// JSON has no NaN.
fn written(measure: Measure) -> Measure {
    if matches!(measure, Measure::Share(share) if !share.is_finite()) { Measure::None } else { measure }
}

/// A line of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Counts from 1.
    pub number: u64,
    /// Device time, seconds since 1970 UTC.
    pub time: u64,
    /// The kernel's boot.
    #[serde(serialize_with = "write_boot", deserialize_with = "read_boot")]
    pub boot: u128,
    /// The digest that ends the line before; zeros for the first.
    pub before: Digest,
    pub decision: Decision,
}

fn write_boot<S: Serializer>(boot: &u128, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{boot:032x}"))
}

fn read_boot<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
    let text = String::deserialize(from)?;
    u128::from_str_radix(&text, 16).map_err(de::Error::custom)
}

const SEAL: &str = ",\"sha256\":\"";
const END: &str = "\"}";
const SEAL_BYTES: usize = SEAL.len() + 64 + END.len();

fn seal(digest: &Digest) -> String {
    format!("{SEAL}{digest}{END}")
}

impl Line {
    /// What stands before the first line.
    pub const NOTHING: Digest = Digest::from_bytes([0; 32]);

    /// The line without its line feed, and the digest that it ends in.
    pub(super) fn text(&self) -> (String, Digest) {
        let mut text = serde_json::to_string(self).expect("plain data serializes");
        text.pop();
        let digest = Digest::of(text.as_bytes());
        text += &seal(&digest);
        (text, digest)
    }

    /// A line without its line feed. Every byte counts: its digest is compared as it is written.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, Digest), Fault> {
        if bytes.len() > MAX_LINE {
            return Err(Fault::Long { bytes: bytes.len() });
        }
        let (body, end) = bytes.split_at(bytes.len().saturating_sub(SEAL_BYTES));
        let digest = Digest::of(body);
        if end != seal(&digest).as_bytes() {
            return Err(Fault::Digest);
        }
        let line = serde_json::from_slice(&[body, b"}"].concat()).map_err(Fault::Form)?;
        Ok((line, digest))
    }
}
