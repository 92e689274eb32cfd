//! What a target asks of a board, and what a board says of itself.
//!
//! Invariant: whom a target is for is a pure function of what was signed, of the board, of what it has of the model and of
//! device time. A board that cannot tell a value does not have it.

use crate::bundle::{Digest, ModelName};
use crate::privacy::{Arch, BoardName, InstructionSet, Inventory};
use globset::{Glob, GlobBuilder};
use serde::{Deserialize, Serialize};

/// All of what is there must be met. A field that is not known makes a target one of another form: it is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Needs {
    /// Of the name that the board's maker gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<BoardPattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// At least, among those of the same processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<InstructionSet>,
    /// Of the whole board, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Of Selvedge itself, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeVersion>,
    /// Of the version that is live before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Versions>,
}

/// From one version to another, both of them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Versions {
    pub min: u32,
    pub max: u32,
}

/// `major.minor.patch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuntimeVersion(pub (u16, u16, u16));

/// A shell pattern of a board's name: `*`, `?` and `[...]`, without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BoardPattern(String);

impl BoardPattern {
    fn glob(text: &str) -> Option<Glob> {
        GlobBuilder::new(text).case_insensitive(true).build().ok()
    }

    fn matches(&self, name: &BoardName) -> bool {
        Self::glob(&self.0).is_some_and(|glob| glob.compile_matcher().is_match(name.as_str()))
    }
}

impl TryFrom<String> for BoardPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || " .,-_+()/*?[]".contains(c);
        let is_short = (1..=BoardName::MAX).contains(&text.len()) && text.chars().all(plain);
        let is_good = is_short && Self::glob(&text).is_some();
        let expected = "1 to 64 of letters, digits, spaces, .,-_+()/ and the wildcards * ? [...]";
        is_good.then_some(Self(text)).ok_or_else(|| format!("no pattern of a board's name: {expected} are expected"))
    }
}

impl From<BoardPattern> for String {
    fn from(pattern: BoardPattern) -> Self {
        pattern.0
    }
}

impl std::fmt::Display for BoardPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RuntimeVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let numbers: Option<Vec<u16>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([major, minor, patch]) => Ok(Self((*major, *minor, *patch))),
            Some(_) | None => Err("a version of Selvedge is three numbers, as 0.1.0".to_owned()),
        }
    }
}

impl From<RuntimeVersion> for String {
    fn from(version: RuntimeVersion) -> Self {
        version.to_string()
    }
}

impl std::fmt::Display for RuntimeVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What a board says of itself: nothing that its status does not tell, so that the operator can see who is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    pub name: Option<BoardName>,
    pub arch: Arch,
    pub isa: InstructionSet,
    pub memory_mib: Option<u32>,
    pub runtime: Option<RuntimeVersion>,
}

impl From<&Inventory> for Board {
    fn from(inventory: &Inventory) -> Self {
        Self {
            name: inventory.board.clone(),
            arch: inventory.arch,
            isa: inventory.isa,
            memory_mib: Some(inventory.memory_total_mib).filter(|&mib| mib > 0),
            runtime: Some(RuntimeVersion(inventory.runtime)).filter(|version| version.0 != (0, 0, 0)),
        }
    }
}

/// What a device has of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Has {
    pub live: Option<u32>,
    /// The targets that its live version and the one on trial came by.
    pub targets: [Option<Digest>; 2],
}

/// The device that offers are looked for: all that decides whether one is for it.
#[derive(Clone, Copy)]
pub struct Recipient<'a> {
    pub id: &'a [u8; 16],
    pub groups: &'a [String],
    pub board: &'a Board,
    /// Device time.
    pub time: u64,
    pub has: &'a dyn Fn(&ModelName) -> Has,
}

impl<'a> Recipient<'a> {
    /// One that tells nothing of its board and has nothing.
    pub fn bare(id: &'a [u8; 16], groups: &'a [String]) -> Self {
        static NOTHING: Board =
            Board { name: None, arch: Arch::Unknown, isa: InstructionSet::Unknown, memory_mib: None, runtime: None };
        Self { id, groups, board: &NOTHING, time: 0, has: &|_| Has { live: None, targets: [None; 2] } }
    }
}

impl std::fmt::Debug for Recipient<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipient").field("board", self.board).field("time", &self.time).finish_non_exhaustive()
    }
}

impl Needs {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `live` is the version that answers.
    pub fn are_met(&self, board: &Board, live: Option<u32>) -> bool {
        let Self { board: pattern, arch, isa, memory_mib, runtime, live: versions } = self;
        pattern.as_ref().is_none_or(|pattern| board.name.as_ref().is_some_and(|name| pattern.matches(name)))
            && arch.is_none_or(|arch| arch == board.arch && arch != Arch::Unknown)
            && isa.is_none_or(|isa| board.isa.is_at_least(isa))
            && memory_mib.is_none_or(|least| board.memory_mib.is_some_and(|mib| mib >= least))
            && runtime.is_none_or(|least| board.runtime.is_some_and(|version| version >= least))
            && versions.is_none_or(|v| live.is_some_and(|live| (v.min..=v.max).contains(&live)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pi() -> Board {
        Board {
            name: BoardName::of("Raspberry Pi 4 Model B Rev 1.4"),
            arch: Arch::Aarch64,
            isa: InstructionSet::Neon,
            memory_mib: Some(926),
            runtime: Some(RuntimeVersion((0, 1, 0))),
        }
    }

    fn needs(json: &str) -> Needs {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn each_need_is_held_against_the_board_and_all_must_be_met() {
        for (json, met) in [
            ("{}", true),
            (r#"{"board": "Raspberry Pi 4*"}"#, true),
            (r#"{"board": "raspberry pi [45] *"}"#, true),
            (r#"{"board": "Raspberry Pi 4"}"#, false),
            (r#"{"board": "*Jetson*"}"#, false),
            (r#"{"arch": "aarch64"}"#, true),
            (r#"{"arch": "x86_64"}"#, false),
            (r#"{"arch": "unknown"}"#, false),
            (r#"{"isa": "neon"}"#, true),
            (r#"{"isa": "scalar"}"#, true),
            (r#"{"isa": "dotprod"}"#, false),
            (r#"{"memory-mib": 926}"#, true),
            (r#"{"memory-mib": 927}"#, false),
            (r#"{"runtime": "0.0.9"}"#, true),
            (r#"{"runtime": "0.1.0"}"#, true),
            (r#"{"runtime": "0.1.1"}"#, false),
            (r#"{"live": {"min": 3, "max": 5}}"#, true),
            (r#"{"live": {"min": 4, "max": 5}}"#, false),
            (r#"{"live": {"min": 5, "max": 3}}"#, false),
            (r#"{"board": "Raspberry*", "arch": "aarch64", "memory-mib": 900, "live": {"min": 1, "max": 3}}"#, true),
            (r#"{"board": "Raspberry*", "arch": "aarch64", "memory-mib": 1900}"#, false),
        ] {
            assert_eq!(needs(json).are_met(&pi(), Some(3)), met, "{json}");
        }
    }

    #[test]
    fn a_board_that_cannot_tell_a_value_does_not_have_it() {
        let silent = Board::default();
        for json in [
            r#"{"board": "*"}"#,
            r#"{"arch": "aarch64"}"#,
            r#"{"isa": "scalar"}"#,
            r#"{"memory-mib": 0}"#,
            r#"{"runtime": "0.0.0"}"#,
            r#"{"live": {"min": 0, "max": 4294967295}}"#,
        ] {
            assert!(!needs(json).are_met(&silent, None), "{json}");
        }
        assert_eq!(Board::from(&Inventory::default()), silent, "a status of an older version tells none of it");
    }

    #[test]
    fn hostile_needs_are_no_needs() {
        let long = format!(r#"{{"board": "{}"}}"#, "*a".repeat(1000));
        for json in [
            &long,
            r#"{"board": ""}"#,
            r#"{"board": "[a"}"#,
            r#"{"board": "{a,b}"}"#,
            r#"{"board": "\u001b[2J"}"#,
            r#"{"arch": "mips"}"#,
            r#"{"isa": "avx1024"}"#,
            r#"{"memory-mib": -1}"#,
            r#"{"runtime": "1"}"#,
            r#"{"runtime": "1.2.3.4"}"#,
            r#"{"runtime": "70000.0.0"}"#,
            r#"{"live": {"min": 1}}"#,
            r#"{"live": {"min": 1, "max": 2, "step": 3}}"#,
            r#"{"colour": "red"}"#,
        ] {
            assert!(serde_json::from_str::<Needs>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_pattern_that_is_made_to_take_long_does_not() {
        let pattern = BoardPattern::try_from("*a".repeat(32)).unwrap();
        let name = BoardName::of(&"a".repeat(63)).unwrap();
        let start = std::time::Duration::from_millis(500);
        let clock = crate::sys::RealClock::new();
        assert!(pattern.matches(&name));
        assert!(!pattern.matches(&BoardName::of(&("a".repeat(31) + &"b".repeat(32))).unwrap()));
        assert!(crate::sys::Clock::monotonic(&clock) < start);
    }
}
