//! What was wrong with a configuration.

use crate::sys::DiskError;
use std::fmt;
use std::path::PathBuf;

/// One thing to correct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 where it belongs to no line.
    pub line: usize,
    /// `section.key`, `[section]`, or empty for what is no TOML.
    pub key: String,
    /// What was found, what is expected.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration cannot be read")]
    Read { source: DiskError },
    #[error(
        "there is no configuration at {path}: copy the reference config/selvedge.toml there, or name another with --config"
    )]
    Absent { path: PathBuf },
    #[error("{name} is over 64 KiB: this is no configuration of Selvedge")]
    TooLarge { name: String },
    #[error("{name} is not UTF-8 text")]
    NotText { name: String, source: std::str::Utf8Error },
    #[error("{}", list(name, problems))]
    Invalid { name: String, problems: Vec<Problem> },
}

/// One problem on one line; more below each other.
fn list(name: &str, problems: &[Problem]) -> String {
    match problems {
        [only] => format!("{name}: {only}"),
        many => many
            .iter()
            .fold(format!("{} problems in {name}", many.len()), |text, problem| format!("{text}\n  {problem}")),
    }
}
