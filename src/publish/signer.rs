//! A command that signs: for keys in a token, a key service, another user's hands.
//!
//! It gets the bytes to be signed on its standard input and writes the Ed25519 signature to its
//! standard output, as 64 bytes or as 128 hexadecimal digits. What it says on standard error is
//! shown, so that it may ask for a PIN. Its answer is checked against the public half of the key.

use super::RepositoryError;
use super::keys::parse_public;
use crate::sys::{Clock as _, Disk as _, RealClock, RealDisk};
use crate::trust::author::{SigningKey, Signs};
use serde::{Deserialize, Serialize};
use std::error::Error as StdError;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const MAX_FILE: u64 = 64 << 10;
const MAX_TIMEOUT: u64 = 3600;
/// More than any signature; what comes after is not read.
const MAX_ANSWER: u64 = 4096;

fn minute() -> u64 {
    60
}

/// `NAME.toml` among the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Command {
    /// The public half of the key, in 64 hexadecimal digits.
    public: String,
    /// The program and its arguments; no shell reads them.
    command: Vec<String>,
    #[serde(default = "minute")]
    timeout_seconds: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("start {command}; is it installed, and may it be run?")]
    Start { command: String, source: io::Error },
    #[error("talk to {command}")]
    Talk { command: String, source: io::Error },
    #[error("{command} ended with {status}; what it said stands above")]
    Failed { command: String, status: ExitStatus },
    #[error(
        "{command} did not answer within {seconds} s and was ended; raise timeout-seconds in its file if it needs more"
    )]
    TimedOut { command: String, seconds: u64 },
    #[error(
        "{command} wrote {bytes} bytes that are no signature; expected are 64 bytes, or 128 hexadecimal digits, \
         and nothing else on its standard output"
    )]
    Answer { command: String, bytes: usize },
}

impl Command {
    pub fn new(public: [u8; 32], command: Vec<String>, timeout: Duration) -> Result<Self, RepositoryError> {
        let made = Self { public: hex::encode(public), command, timeout_seconds: timeout.as_secs() };
        made.problem().map_or(Ok(made), |problem| Err(RepositoryError::Options(problem)))
    }

    pub(super) fn read(path: &Path) -> Result<Self, RepositoryError> {
        let bad = |problem: String| RepositoryError::BadCommand { path: path.to_owned(), problem };
        let bytes = RealDisk.read(path, MAX_FILE)?.unwrap_or_default();
        let command: Self = toml::from_slice(&bytes).map_err(|e| bad(e.message().to_owned()))?;
        command.problem().map_or(Ok(command), |problem| Err(bad(problem.to_owned())))
    }

    fn problem(&self) -> Option<&'static str> {
        if parse_public(&self.public).is_none() {
            Some("the public half of a key is 64 hexadecimal digits")
        } else if self.command.first().is_none_or(String::is_empty) {
            Some("a command is a list of at least the program")
        } else if !(1..=MAX_TIMEOUT).contains(&self.timeout_seconds) {
            Some("a timeout is 1 to 3,600 seconds")
        } else {
            None
        }
    }

    pub(super) fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain data serializes")
    }

    pub(super) fn into_key(self) -> SigningKey {
        let public = parse_public(&self.public).unwrap_or_default();
        SigningKey::elsewhere(public, Box::new(self))
    }

    fn shown(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    fn run(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let command = self.shown();
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(SignerError::Answer { command, bytes: 0 });
        };
        let started =
            std::process::Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|source| SignerError::Start { command: command.clone(), source })?;
        let answer = self.talk(&mut child, message);
        if answer.is_err() {
            // It may have ended by itself; either way it is gone after this.
            let _ = child.kill();
            let _ = child.wait();
        }
        let answer = answer?;
        signature(&answer).ok_or(SignerError::Answer { command, bytes: answer.len() })
    }

    fn talk(&self, child: &mut Child, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let command = self.shown();
        let (mut to, from) = (child.stdin.take(), child.stdout.take());
        let message = message.to_vec();
        // One that does not read its input is no fault: it may sign by other means.
        std::thread::spawn(move || to.as_mut().map(|to| to.write_all(&message)));
        let (said, answer) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = from.map(|from| from.take(MAX_ANSWER).read_to_end(&mut bytes)).transpose();
            said.send(read.map(|_| bytes))
        });
        let timed_out = || SignerError::TimedOut { command: command.clone(), seconds: self.timeout_seconds };
        let clock = RealClock::new();
        let left = || Duration::from_secs(self.timeout_seconds).saturating_sub(clock.monotonic());
        let talk = |source| SignerError::Talk { command: command.clone(), source };
        let bytes = answer.recv_timeout(left()).map_err(|_| timed_out())?.map_err(talk)?;
        loop {
            match child.try_wait().map_err(talk)? {
                Some(status) if status.success() => return Ok(bytes),
                Some(status) => return Err(SignerError::Failed { command, status }),
                None if left().is_zero() => return Err(timed_out()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Signs for Command {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        Ok(self.run(message)?)
    }
}

fn signature(answer: &[u8]) -> Option<Vec<u8>> {
    if answer.len() == 64 {
        return Some(answer.to_vec());
    }
    let bytes = hex::decode(answer.trim_ascii()).ok()?;
    (bytes.len() == 64).then_some(bytes)
}
