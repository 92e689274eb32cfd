//! What a team hands in: its signed file and the chunks that this leads to, as one tar.
//!
//! Nothing of it is believed: the signatures and digests are checked by who takes it.

use super::RepositoryError;
use crate::bundle::topics::is_delegated_name;
use crate::bundle::{Digest, MAX_CHUNK_WIRE};
use std::collections::BTreeMap;
use std::io::Read as _;

/// The most bytes of a team's file: what devices take, and brokers pass.
pub(super) const MAX_TEAM_FILE: usize = 96 << 10;

/// The most bytes of a submission.
pub const MAX_SUBMISSION: u64 = 1 << 30;

const MAX_CHUNKS: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Submission {
    pub team: String,
    pub version: u32,
    pub file: Vec<u8>,
    pub chunks: BTreeMap<Digest, Vec<u8>>,
}

impl Submission {
    pub fn to_bytes(&self) -> Result<Vec<u8>, RepositoryError> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes)
        };
        let failed = RepositoryError::Cut;
        add(&format!("{}.{}.json", self.version, self.team), &self.file).map_err(failed)?;
        for (digest, bytes) in &self.chunks {
            add(&format!("chunk/{digest}"), bytes).map_err(failed)?;
        }
        tar.into_inner().map_err(failed)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RepositoryError> {
        let bad = |problem: String| RepositoryError::BadSubmission { team: "somebody".to_owned(), problem };
        if bytes.len() as u64 > MAX_SUBMISSION {
            return Err(bad(format!("{} bytes, where at most {MAX_SUBMISSION} are taken", bytes.len())));
        }
        let (mut signed, mut chunks) = (None, BTreeMap::new());
        let mut archive = tar::Archive::new(bytes);
        for entry in archive.entries().map_err(|e| bad(e.to_string()))? {
            let mut entry = entry.map_err(|e| bad(e.to_string()))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let limit = MAX_CHUNK_WIRE.max(MAX_TEAM_FILE) as u64;
            if entry.header().entry_type() != tar::EntryType::Regular || entry.size() > limit {
                return Err(bad(format!("{name:?} in it is no file, or has more than {limit} bytes")));
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(|e| bad(e.to_string()))?;
            if let Some(digest) = name.strip_prefix("chunk/").and_then(|text| text.parse::<Digest>().ok()) {
                if Digest::of(&content) != digest {
                    return Err(bad(format!("chunk {digest} in it is damaged")));
                }
                chunks.insert(digest, content);
            } else if let (None, Some((version, team))) = (&signed, file_name(&name)) {
                signed = Some((version, team, content));
            } else {
                return Err(bad(format!("{name:?} in it is neither the team's file nor a chunk")));
            }
            if chunks.len() > MAX_CHUNKS {
                return Err(bad(format!("more than {MAX_CHUNKS} chunks are in it")));
            }
        }
        let (version, team, file) = signed.ok_or_else(|| bad("no file of a team is in it".to_owned()))?;
        Ok(Self { team, version, file, chunks })
    }
}

/// `VERSION.TEAM.json`.
pub(super) fn file_name(name: &str) -> Option<(u32, String)> {
    let (version, team) = name.strip_suffix(".json")?.split_once('.')?;
    let version = version.parse().ok().filter(|version| *version > 0)?;
    is_delegated_name(team).then(|| (version, team.to_owned()))
}
