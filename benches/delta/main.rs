//! Our side of the bench of deltas; `benches/delta/run` asks it and the others.
//!
//! ```text
//! make OLD NEW DELTA         makes a delta: bytes by what they are for, and the time
//! apply OLD DELTA SHA256 SIZE OUT    time and the most memory, and that of the program before
//! chunks OLD NEW             bytes of NEW's chunks that OLD has not, and of all
//! ```

use selvedge::bundle::delta::{Expected, Instruction, ReadAt, apply};
use selvedge::bundle::{Cut, Digest, cut};
use selvedge::publish::delta::make;
use selvedge::sys::{Clock as _, RealClock, peak_resident_bytes};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::FileExt as _;

struct Old(File, u64);

impl ReadAt for Old {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo bench adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let clock = RealClock::new();
    let start = clock.monotonic();
    let text: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut result = match text[..] {
        ["make", old, new, delta] => {
            let (bytes, cost) = make(&std::fs::read(old)?, &std::fs::read(new)?).ok_or("the delta does not apply")?;
            std::fs::write(delta, &bytes)?;
            let mut by_kind = BTreeMap::<&str, usize>::new();
            for (instruction, bytes) in cost {
                let kind = match instruction {
                    Instruction::Copy { .. } => "copy",
                    Instruction::Add { .. } => "add",
                    Instruction::Insert { .. } => "insert",
                    Instruction::Learn { .. } | Instruction::End => "other",
                };
                *by_kind.entry(kind).or_default() += bytes;
            }
            serde_json::json!({ "bytes": bytes.len(), "for": by_kind })
        }
        ["apply", old, delta, sha256, size, out] => {
            let before = peak_resident_bytes();
            let expected = Expected { sha256: sha256.parse()?, size: size.parse()? };
            let old = File::open(old)?;
            let size = old.metadata()?.len();
            let out = &mut BufWriter::new(File::create(out)?);
            apply(&Old(old, size), BufReader::new(File::open(delta)?), &expected, out)?;
            serde_json::json!({ "before": before, "peak": peak_resident_bytes() })
        }
        ["chunks", old, new] => {
            let [old, new] = [old, new].map(|path| std::fs::read(path).and_then(|bytes| cut(&bytes)));
            let known: BTreeSet<Digest> = old?.iter().map(|cut| cut.chunk.sha256).collect();
            let new = new?;
            let wire = |cuts: &[&Cut]| cuts.iter().map(|cut| cut.wire.len()).sum::<usize>();
            let lacking: Vec<&Cut> = new.iter().filter(|cut| !known.contains(&cut.chunk.sha256)).collect();
            serde_json::json!({ "bytes": wire(&lacking), "whole": wire(&new.iter().collect::<Vec<_>>()) })
        }
        _ => return Err("see the head of benches/delta/main.rs, or run benches/delta/run".into()),
    };
    result["seconds"] = (clock.monotonic() - start).as_secs_f64().into();
    println!("{result}");
    Ok(())
}
