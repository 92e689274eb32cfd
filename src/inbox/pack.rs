//! One pack: its table of contents, and bytes by name.

use crate::bundle::{Digest, MAX_CHUNK_WIRE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::FileExt as _;

pub const FORMAT: u32 = 1;
/// No pack is larger.
pub const MAX_BYTES: u64 = 2 << 30;
/// Metadata of a fleet that is selected device by device is the largest.
const MAX_METADATA: u64 = 1 << 20;
const MAX_ENTRIES: u64 = 65_536;
const MAX_METADATA_FILES: usize = 4096;
const SUMMARY: &str = "pack.json";

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("read it")]
    Io(#[from] io::Error),
    #[error("it has {bytes} bytes, at most {MAX_BYTES} are taken")]
    Large { bytes: u64 },
    #[error("it does not begin with {SUMMARY}: is it a file that `selvedge pack` made?")]
    NoSummary,
    #[error("its {SUMMARY} does not read")]
    Summary(#[source] serde_json::Error),
    #[error("its format is {actual}, {FORMAT} is expected; make it with the selvedge that the board runs")]
    Format { actual: u32 },
    #[error("it has {actual} entries, {expected} are expected: it is not whole, or not one of ours")]
    Entries { expected: u64, actual: u64 },
    #[error("its entry {name:?} is none of a pack's: tuf/<file>.json and chunk/<sha256> are expected, as plain files")]
    Entry { name: String },
    #[error("its entry {name:?} has {bytes} bytes, at most {limit} are expected")]
    EntryLarge { name: String, bytes: u64, limit: u64 },
}

/// The first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub format: u32,
    /// That follow it.
    pub entries: u64,
}

/// An open pack.
#[derive(Debug)]
pub struct Pack {
    file: File,
    /// Where bytes begin, and how many there are.
    metadata: BTreeMap<String, (u64, u64)>,
    chunks: BTreeMap<Digest, (u64, u64)>,
}

impl Pack {
    /// Reads the table of contents; the bytes stay where they are.
    pub fn open(file: File) -> Result<Self, PackError> {
        let bytes = file.metadata()?.len();
        if bytes > MAX_BYTES {
            return Err(PackError::Large { bytes });
        }
        let (mut metadata, mut chunks) = (BTreeMap::new(), BTreeMap::new());
        let mut summary: Option<Summary> = None;
        let mut count = 0;
        let mut archive = tar::Archive::new(file.try_clone()?);
        for entry in archive.entries_with_seek()?.raw(true) {
            let mut entry = entry?;
            let size = entry.size();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some(said) = &summary else {
                summary = Some(read_summary(&mut entry, &name)?);
                continue;
            };
            count += 1;
            if count > said.entries {
                return Err(PackError::Entries { expected: said.entries, actual: count });
            }
            let limit = if name.starts_with("tuf/") { MAX_METADATA } else { MAX_CHUNK_WIRE as u64 };
            if size > limit {
                return Err(PackError::EntryLarge { name: short(&name), bytes: size, limit });
            }
            let place = (entry.raw_file_position(), size);
            let is_plain = entry.header().entry_type() == tar::EntryType::Regular;
            match (name.strip_prefix("tuf/"), name.strip_prefix("chunk/").map(str::parse)) {
                (Some(file), _) if is_plain && metadata.len() < MAX_METADATA_FILES => {
                    metadata.insert(short(file), place);
                }
                (_, Some(Ok(digest))) if is_plain => {
                    chunks.insert(digest, place);
                }
                (_, _) => return Err(PackError::Entry { name: short(&name) }),
            }
        }
        let expected = summary.ok_or(PackError::NoSummary)?.entries;
        // A copy that was broken off ends early, and so may the last entry's bytes.
        let end = metadata.values().chain(chunks.values()).map(|(at, size)| at + size).max().unwrap_or(0);
        if count != expected || end > bytes {
            return Err(PackError::Entries { expected, actual: count - u64::from(end > bytes) });
        }
        Ok(Self { file, metadata, chunks })
    }

    /// Names of the metadata's files.
    pub fn metadata(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    pub fn read_metadata(&self, name: &str) -> Result<Option<Vec<u8>>, PackError> {
        self.metadata.get(name).map(|place| self.read(*place)).transpose()
    }

    /// What stands under a digest; not checked against it.
    pub fn content(&self, digest: &Digest) -> Result<Option<Vec<u8>>, PackError> {
        self.chunks.get(digest).map(|place| self.read(*place)).transpose()
    }

    fn read(&self, (at, size): (u64, u64)) -> Result<Vec<u8>, PackError> {
        // Bounded where the table of contents was read.
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

fn read_summary(entry: &mut tar::Entry<'_, impl io::Read>, name: &str) -> Result<Summary, PackError> {
    const MOST: u64 = 4096;
    if name != SUMMARY || entry.size() > MOST {
        return Err(PackError::NoSummary);
    }
    let mut text = Vec::new();
    entry.take(MOST).read_to_end(&mut text)?;
    let summary: Summary = serde_json::from_slice(&text).map_err(PackError::Summary)?;
    match summary {
        Summary { format, .. } if format != FORMAT => Err(PackError::Format { actual: format }),
        Summary { entries, .. } if entries > MAX_ENTRIES => {
            Err(PackError::Entries { expected: MAX_ENTRIES, actual: entries })
        }
        summary => Ok(summary),
    }
}

/// A name from a stranger's file.
fn short(name: &str) -> String {
    name.chars().take(100).collect()
}

/// Writes a pack; the entries' names are those below the board's prefix.
pub fn write(to: impl Write, entries: &[(String, &[u8])]) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let summary = Summary { format: FORMAT, entries: entries.len() as u64 };
    let summary = serde_json::to_vec(&summary).expect("plain data serializes");
    let entries = entries.iter().map(|(name, bytes)| (name.as_str(), *bytes));
    for (name, bytes) in [(SUMMARY, &summary[..])].into_iter().chain(entries) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes)?;
    }
    tar.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    fn sample() -> (Vec<u8>, Digest) {
        let digest = Digest::of(b"chunk");
        let entries = [("tuf/timestamp.json".to_owned(), &b"{}"[..]), (format!("chunk/{digest}"), b"chunk")];
        let mut bytes = Vec::new();
        write(&mut bytes, &entries).unwrap();
        (bytes, digest)
    }

    #[test]
    fn a_pack_gives_back_what_was_put_in() {
        let (bytes, digest) = sample();
        let pack = Pack::open(file(&bytes)).unwrap();
        assert_eq!(pack.metadata().collect::<Vec<_>>(), ["timestamp.json"]);
        assert_eq!(pack.read_metadata("timestamp.json").unwrap().unwrap(), b"{}");
        assert_eq!(pack.content(&digest).unwrap().unwrap(), b"chunk");
        assert_eq!(pack.content(&Digest::of(b"other")).unwrap(), None);
    }

    #[test]
    fn a_pack_that_is_cut_anywhere_before_its_end_is_not_taken() {
        let (bytes, _) = sample();
        // Behind the last entry's bytes stand its padding and the end mark, which say nothing.
        let end = bytes.windows(5).rposition(|w| w == b"chunk").unwrap() + 5;
        assert!(end < bytes.len());
        for len in 0..end {
            assert!(Pack::open(file(&bytes[..len])).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn hostile_packs_are_refused() {
        let refusal = |entries: &[(String, &[u8])]| {
            let mut bytes = Vec::new();
            write(&mut bytes, entries).unwrap();
            Pack::open(file(&bytes)).unwrap_err().to_string()
        };
        let large = vec![0; MAX_CHUNK_WIRE + 1];
        assert!(refusal(&[(format!("chunk/{}", Digest::of(b"")), &large)]).contains("bytes, at most"));
        assert!(refusal(&[("etc/passwd".into(), b"x")]).contains("none of a pack's"));
        assert!(refusal(&[("chunk/xyz".into(), b"x")]).contains("none of a pack's"));
        assert!(Pack::open(file(&vec![0x7f; 4096])).is_err());
        assert!(Pack::open(file(b"")).is_err());

        let endless = file(b"");
        endless.set_len(MAX_BYTES + 1).unwrap();
        assert!(matches!(Pack::open(endless), Err(PackError::Large { .. })));
        // Zeros end a tar: a sparse file costs no time.
        let zeros = file(b"");
        zeros.set_len(MAX_BYTES).unwrap();
        assert!(matches!(Pack::open(zeros), Err(PackError::NoSummary)));

        let of_summary = |summary: &str| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(summary.len() as u64);
            tar.append_data(&mut header, SUMMARY, summary.as_bytes()).unwrap();
            Pack::open(file(&tar.into_inner().unwrap())).unwrap_err()
        };
        assert!(matches!(of_summary("{\"format\":2,\"entries\":0}"), PackError::Format { actual: 2 }));
        assert!(matches!(of_summary("{\"format\":1,\"entries\":99999999}"), PackError::Entries { .. }));
        assert!(matches!(of_summary("{\"format\":1,\"entries\":1}"), PackError::Entries { expected: 1, actual: 0 }));
        assert!(matches!(of_summary("nonsense"), PackError::Summary(_)));

        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let summary = b"{\"format\":1,\"entries\":1}";
        header.set_size(summary.len() as u64);
        tar.append_data(&mut header, SUMMARY, &summary[..]).unwrap();
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "tuf/timestamp.json", "/etc/passwd").unwrap();
        let refused = Pack::open(file(&tar.into_inner().unwrap()));
        assert!(matches!(refused, Err(PackError::Entry { .. })));
    }
}
