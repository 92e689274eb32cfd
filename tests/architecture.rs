//! The map in `src/lib.rs` is true: modules use only those that their arrows name, and what only one
//! room may touch stays in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file in `src`.
const MAX_LINES: usize = 500;

/// Words that only some rooms may use, and why.
const ONLY_IN: [(&str, &[&str], &str); 9] = [
    ("rumqttc", &["mqtt"], "its faults are contained there"),
    ("rumqttd", &["demo"], "the embedded broker is for the demo"),
    ("tract", &["engine"], "another engine must be able to replace it"),
    ("tough", &["trust", "publish"], "its faults are contained there"),
    ("tokio_rustls", &["mqtt"], "certificates are judged in one place"),
    ("rcgen", &["enrol"], "one room makes certificates"),
    ("toml_edit", &["enrol"], "one room changes a configuration"),
    ("std::fs::rename", &["sys"], "tests cut the power there"),
    (
        "clippy::disallowed_methods",
        &["sys"],
        "clippy.toml bans clocks and renames elsewhere, and nobody lets himself off",
    ),
];

/// Where each module may look.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// A file of `src` by the module that it belongs to.
struct Source {
    module: String,
    path: PathBuf,
    text: String,
}

#[test]
fn the_source_keeps_to_the_map() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let arrows = arrows(&fs::read_to_string(src.join("lib.rs")).unwrap());
    let sources = sources(&src);
    assert!(sources.len() > 20, "only {} files found", sources.len());
    let complaints: Vec<String> = sources.iter().flat_map(|source| check(source, &arrows)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn arrows_form_no_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = arrows(&fs::read_to_string(src.join("lib.rs")).unwrap());
    // Take away what points nowhere until nothing is left.
    while let Some(leaf) = arrows.iter().find(|(_, to)| to.is_empty()).map(|(name, _)| name.clone()) {
        arrows.remove(&leaf);
        arrows.values_mut().for_each(|to| {
            to.remove(&leaf);
        });
    }
    assert!(arrows.is_empty(), "these point at each other: {arrows:?}");
}

/// `rumqttc`'s own TLS would bring rustls-webpki 0.102 (RUSTSEC-2026-0049, -0098, -0099, -0104) and rustls-pemfile
/// (RUSTSEC-2025-0134); 0.103.13 has all of them mended.
#[test]
fn no_tls_with_open_advisories_is_locked() {
    let lock = include_str!("../Cargo.lock");
    let versions = |name: &str| -> Vec<Vec<u32>> {
        let head = format!("name = \"{name}\"\nversion = \"");
        let found = lock.split(&head).skip(1).map(|rest| rest.split('"').next().unwrap());
        found.map(|version| version.split('.').map(|part| part.parse().unwrap()).collect()).collect()
    };
    let webpki = versions("rustls-webpki");
    assert!(webpki.len() == 1 && webpki[0] >= vec![0, 103, 13], "{webpki:?}");
    assert_eq!(versions("rustls").len(), 1, "one TLS");
    for absent in ["webpki", "rustls-pemfile", "openssl-sys", "native-tls"] {
        assert!(versions(absent).is_empty(), "{absent}");
    }
}

#[test]
fn the_check_can_fail() {
    let arrows = arrows("//! # Arrows\n//! ```text\n//! sys ->\n//! a   ->\n//! b   -> a\n//! config ->\n//! ```\n");
    let complaints = |module: &str, text: &str| {
        let path = PathBuf::from("sample.rs");
        check(&Source { module: module.into(), path, text: text.into() }, &arrows)
    };
    assert_eq!(complaints("b", "use crate::a::Thing;\nuse crate::sys::Disk;\nuse crate::b::Own;\n"), [""; 0]);
    assert_eq!(complaints("a", "use crate::b::Thing;\n").len(), 1);
    assert_eq!(complaints("a", "    let x = crate::b::thing();\n").len(), 1);
    assert_eq!(complaints("a", "use crate::{config::Log, b::Thing, sys};\n").len(), 1);
    assert_eq!(complaints("a", "use crate::{\n    config::Log,\n    b::{Thing, c::D},\n};\n").len(), 1);
    assert_eq!(complaints("unknown", "").len(), 1);
    assert_eq!(complaints("a", "use rumqttc::Client;\n").len(), 1);
    assert_eq!(complaints("a", "#[expect(clippy::disallowed_methods)]\n").len(), 1);
    assert_eq!(complaints("a", "// crate::b is not for us, nor is rumqttc\n"), [""; 0]);
    assert_eq!(complaints("a", "let toughness = contract_tracted;\n"), [""; 0]);
    assert_eq!(complaints("a", &"\n".repeat(MAX_LINES + 1)).len(), 1);
    let text = "use crate::b::Thing;\n".to_owned();
    let tests = Source { module: "a".into(), path: PathBuf::from("a/tests.rs"), text };
    assert_eq!(check(&tests, &arrows), [""; 0]);
}

/// The table under "# Arrows".
fn arrows(lib: &str) -> Arrows {
    let block = lib
        .split("//! # Arrows")
        .nth(1)
        .and_then(|rest| rest.split("```").nth(1))
        .expect("lib.rs has the block of arrows");
    let mut arrows = Arrows::new();
    for line in block.lines() {
        let Some((from, to)) = line.trim_start_matches("//!").split_once("->") else { continue };
        arrows.insert(from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect());
    }
    assert!(arrows.len() > 2, "the block of arrows is empty");
    arrows
}

fn sources(src: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![src.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let first = path.strip_prefix(src).unwrap().components().next().unwrap();
                let module = Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { module, path, text });
            }
        }
    }
    found
}

fn check(source: &Source, arrows: &Arrows) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: String| complaints.push(format!("{}: {what}", source.path.display()));
    let lines = source.text.lines().count();
    if lines > MAX_LINES && !source.text.starts_with("// @generated") {
        complain(format!("{lines} lines: at most {MAX_LINES}"));
    }
    // The roots wire what the rooms hold.
    if source.module == "lib" || source.module == "main" {
        return complaints;
    }
    let Some(allowed) = arrows.get(&source.module) else {
        complain(format!("module `{}` does not stand in the table of arrows in lib.rs", source.module));
        return complaints;
    };
    let code = without_comments(&source.text);
    let is_test = source.path.ends_with("tests.rs");
    for used in used_modules(&code) {
        let always = is_test || used == source.module || used == "sys" || used == "config";
        if !always && arrows.contains_key(&used) && !allowed.contains(&used) {
            complain(format!("`{}` uses `{used}`: no arrow in lib.rs allows it", source.module));
        }
    }
    for (word, rooms, why) in ONLY_IN {
        if !rooms.contains(&source.module.as_str()) && uses(&code, word) {
            complain(format!("`{word}` belongs to {rooms:?} alone: {why}"));
        }
    }
    complaints
}

/// Without what stands behind `//`; that this may cut a string short does no harm here.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

/// First names behind `crate::`, those of a braced list too.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => used.extend(listed(list)),
            None => {
                used.insert(first_name(rest));
            }
        }
    }
    used
}

/// The names at the outermost level of a list that has begun.
fn listed(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(first_name(list[start..i].trim()));
                return names;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(first_name(list[start..i].trim()));
                start = i + 1;
            }
            _ => {}
        }
    }
    names
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether a crate or path is named: at the start of a word, and a crate only as the head of a path.
fn uses(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let starts = before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == '.'));
        let after = &code[at + word.len()..];
        let is_path = word.contains("::")
            || after.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').starts_with("::");
        starts && is_path
    })
}
