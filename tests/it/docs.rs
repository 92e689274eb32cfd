//! The documents say what the code says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TELL: &str = include_str!("../../src/privacy/tell.rs");
const LEDGER: &str = include_str!("../../src/privacy/ledger.rs");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.extend(c.to_lowercase().map(|c| if c == '_' { '-' } else { c }));
    }
    out
}

/// The lines of a type's body.
fn body<'a>(source: &'a str, head: &str) -> Vec<&'a str> {
    let start = source.find(head).unwrap_or_else(|| panic!("no {head}"));
    source[start..].lines().skip(1).take_while(|line| *line != "}").map(str::trim).collect()
}

fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let lines = body(source, &format!("pub enum {name} {{"));
    let word = |line: &&&str| line.starts_with(|c: char| c.is_ascii_uppercase());
    lines.iter().filter(word).map(|line| kebab(line.split(['(', ',']).next().unwrap())).collect()
}

fn fields(source: &str, name: &str) -> BTreeSet<String> {
    let lines = body(source, &format!("pub struct {name} {{"));
    lines.iter().filter_map(|line| line.strip_prefix("pub ")?.split_once(':')).map(|(field, _)| kebab(field)).collect()
}

/// First cells of a document's tables, as far as they are code.
fn listed(document: &str) -> BTreeSet<String> {
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    document.lines().filter_map(cell).collect()
}

#[test]
fn every_outcome_has_its_remedy() {
    let outcomes = read("docs/outcomes.md");
    let codes = variants(TELL, "Code");
    assert!(codes.len() > 10 && codes.contains("golden-mismatch"), "{codes:?}");
    let (codes_part, rest) = outcomes.split_once("## Stages").unwrap();
    let (stages_part, waits_part) = rest.split_once("## What an update waits for").unwrap();
    assert_eq!(listed(waits_part), variants(TELL, "WaitsFor"));
    assert_eq!(listed(codes_part), codes);
    assert_eq!(listed(stages_part), variants(TELL, "Stage"));
    for line in codes_part.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{line}");
    }
}

#[test]
fn every_field_that_may_leave_is_listed() {
    let listed = listed(&read("docs/privacy.md"));
    for name in ["Status", "ModelStatus", "Outcome", "Lacks", "Inventory", "AuditHead", "Metrics", "ModelMetrics"] {
        let fields = fields(TELL, name);
        assert!(!fields.is_empty(), "{name} was not read");
        for field in fields {
            assert!(listed.contains(&field), "docs/privacy.md does not list {name}'s `{field}`");
        }
    }
    // All types of that file are among those: a new one is a new way out.
    let types: Vec<&str> = TELL.lines().filter_map(|line| line.strip_prefix("pub struct ")).collect();
    assert_eq!(types.len(), 10, "{types:?}: list the new type here and in docs/privacy.md");
    for kind in variants(LEDGER, "Kind") {
        assert!(listed.contains(&kind), "docs/privacy.md does not list the packets of kind `{kind}`");
    }
}

#[test]
fn links_lead_somewhere() {
    let documents = [
        "README.md",
        "CHANGELOG.md",
        "systemd/README.md",
        "docs/outcomes.md",
        "docs/privacy.md",
        "docs/threats.md",
        "docs/operations.md",
        "docs/updates.md",
    ];
    for document in documents {
        let text = read(document);
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let path: PathBuf = base.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(path.exists(), "{document} leads to {target}, which is not there");
        }
    }
}

#[test]
fn pictures_are_whole_and_follow_the_readers_colours() {
    for picture in ["docs/processes.svg", "docs/update.svg"] {
        let text = read(picture);
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{picture}");
        assert!(text.contains("prefers-color-scheme: dark") && text.contains("<title"), "{picture}");
        assert!(read("README.md").contains(picture), "README.md does not show {picture}");
    }
}
