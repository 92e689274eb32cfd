//! What boards must be to get a model, as options of `publish` and `pack`.

use crate::privacy::{Arch, InstructionSet};
use crate::trust::{BoardPattern, Needs, RuntimeVersion, Versions};
use serde::de::DeserializeOwned;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which boards")]
pub(super) struct NeedsArgs {
    /// Boards that their maker calls so: with * ? and [...], without regard to case; `selvedge fleet` shows the names.
    #[arg(long, value_name = "PATTERN", value_parser = parse_board)]
    board: Option<BoardPattern>,
    /// Boards with such a processor: aarch64 or x86_64.
    #[arg(long, value_name = "ARCH", value_parser = parse_arch)]
    arch: Option<Arch>,
    /// Boards whose int8 kernels use these instructions or better ones: neon, dotprod, i8mm; avx2, avxvnni, avx512vnni.
    #[arg(long, value_name = "ISA", value_parser = parse_isa)]
    min_isa: Option<InstructionSet>,
    /// Boards with so much memory in all; a Raspberry Pi with "1 GB" has about 900.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    min_memory: Option<u32>,
    /// Boards that run this Selvedge or a newer one.
    #[arg(long, value_name = "X.Y.Z", value_parser = parse_runtime)]
    min_runtime: Option<RuntimeVersion>,
    /// Boards on which one of these versions of the model is live: 3, 3..5 or 3.. ; both ends are in.
    #[arg(long, value_name = "A..B", value_parser = parse_versions)]
    from_versions: Option<Versions>,
}

impl NeedsArgs {
    pub fn needs(&self) -> Needs {
        Needs {
            board: self.board.clone(),
            arch: self.arch,
            isa: self.min_isa,
            memory_mib: self.min_memory,
            runtime: self.min_runtime,
            live: self.from_versions,
        }
    }
}

/// As people read them; nothing where all boards will do.
pub(super) fn needs_text(needs: &Needs) -> Option<String> {
    let Needs { board, arch, isa, memory_mib, runtime, live } = needs;
    let name = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let words = [
        board.as_ref().map(|board| format!("board {board}")),
        arch.map(|arch| name(serde_json::to_value(arch))),
        isa.map(|isa| format!("{} or better", name(serde_json::to_value(isa)))),
        memory_mib.map(|mib| format!("{mib} MiB or more")),
        runtime.map(|runtime| format!("runtime {runtime} or newer")),
        live.map(|Versions { min, max }| match max {
            u32::MAX => format!("version {min} or newer live"),
            max if max == min => format!("version {min} live"),
            max => format!("version {min} to {max} live"),
        }),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn parse_board(text: &str) -> Result<BoardPattern, String> {
    BoardPattern::try_from(text.to_owned())
}

fn parse_runtime(text: &str) -> Result<RuntimeVersion, String> {
    RuntimeVersion::try_from(text.to_owned())
}

/// A word of the closed set.
fn word<T: DeserializeOwned + PartialEq + Default>(text: &str, expected: &str) -> Result<T, String> {
    let word: Option<T> = serde_json::from_value(text.into()).ok();
    word.filter(|word| *word != T::default()).ok_or_else(|| format!("expected is {expected}"))
}

fn parse_arch(text: &str) -> Result<Arch, String> {
    word(text, "aarch64 or x86_64")
}

fn parse_isa(text: &str) -> Result<InstructionSet, String> {
    word(text, "one of scalar, neon, dotprod, i8mm, avx2, avxvnni, avx512vnni")
}

fn parse_versions(text: &str) -> Result<Versions, String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = match text.split_once("..") {
        None => number(text).map(|version| (version, version)),
        Some((min, "")) => number(min).map(|min| (min, u32::MAX)),
        Some((min, max)) => number(min).zip(number(max)),
    };
    let range = range.filter(|(min, max)| min <= max).map(|(min, max)| Versions { min, max });
    range.ok_or_else(|| "versions are written 3, 3..5 or 3.. , the lower one first".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_versions_are_read_with_both_ends() {
        let range = |text| parse_versions(text).map(|v| (v.min, v.max));
        assert_eq!([range("3"), range("3..5"), range("0..")], [Ok((3, 3)), Ok((3, 5)), Ok((0, u32::MAX))]);
        for bad in ["", "..", "..5", "5..3", "3...5", "a..b", "-1..2", "3..4294967296"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_words_of_the_closed_set_are_taken_and_unknown_is_none_of_them() {
        assert_eq!(parse_arch("aarch64"), Ok(Arch::Aarch64));
        assert_eq!(parse_isa("dotprod"), Ok(InstructionSet::Dotprod));
        assert!(["unknown", "arm64", "AARCH64", ""].iter().all(|text| parse_arch(text).is_err()));
        assert!(["unknown", "sve", ""].iter().all(|text| parse_isa(text).is_err()));
    }

    #[test]
    fn needs_read_as_a_sentence() {
        assert_eq!(needs_text(&Needs::default()), None);
        let needs = Needs {
            board: parse_board("Raspberry Pi 4*").ok(),
            memory_mib: Some(900),
            live: parse_versions("3..5").ok(),
            ..Needs::default()
        };
        let text = "board Raspberry Pi 4*, 900 MiB or more, version 3 to 5 live";
        assert_eq!(needs_text(&needs).as_deref(), Some(text));
    }
}
