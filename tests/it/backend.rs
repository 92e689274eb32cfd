//! The onnx package's own tests of every operator, run by the engine: `docs/operators.md` says which pass.
//!
//! Needs the Python of tests/clients/requirements.txt, which writes the cases (tests/backend/cases.py).
//! With SELVEDGE_MAKE_VECTORS=1 the page is written anew instead of compared.

use crate::serve::clients::python;
use selvedge::engine::{LoadError, Model};
use selvedge::tensor::{Tensor, TensorSpec};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operators.md");
const MARK: &str = "<!-- from here on written by tests/it/backend.rs -->\n";

#[derive(Debug, Deserialize)]
struct Head {
    name: String,
    operator: String,
    skip: Option<String>,
    /// Bytes of the model, and of the one that has all inputs but the first as constants.
    #[serde(default)]
    models: [usize; 2],
    #[serde(default)]
    rtol: f64,
    #[serde(default)]
    atol: f64,
    #[serde(default)]
    inputs: Vec<End>,
    #[serde(default)]
    outputs: Vec<End>,
}

#[derive(Debug, Deserialize)]
struct End {
    #[serde(flatten)]
    spec: TensorSpec,
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    /// Only with all inputs but the first as constants.
    PassedFixed,
    /// It does not load, and says why.
    Refused(String),
    /// It loads, and does not run.
    Stopped,
    /// It runs, and gives something else.
    Wrong,
}

fn run(head: &Head, body: &[u8]) -> Outcome {
    if let Some(reason) = &head.skip {
        return Outcome::Refused(reason.clone());
    }
    let (model, rest) = body.split_at(head.models[0]);
    let (fixed, mut rest) = rest.split_at(head.models[1]);
    let mut tensors = |ends: &[End]| -> Vec<Tensor> {
        let tensor = |end: &End| {
            let (bytes, after) = rest.split_at(end.bytes);
            rest = after;
            Tensor::new(end.spec.datatype, end.spec.shape.clone(), bytes.to_vec()).unwrap()
        };
        ends.iter().map(tensor).collect()
    };
    let (inputs, wanted) = (tensors(&head.inputs), tensors(&head.outputs));
    match (run_model(head, model, &inputs, &wanted), inputs.first()) {
        // Some sizes must be known when a model is loaded.
        (Outcome::Refused(why), Some(first)) if !fixed.is_empty() => {
            match run_model(head, fixed, std::slice::from_ref(first), &wanted) {
                Outcome::Passed => Outcome::PassedFixed,
                Outcome::Refused(_) => Outcome::Refused(why),
                other @ (Outcome::PassedFixed | Outcome::Stopped | Outcome::Wrong) => other,
            }
        }
        (outcome, _) => outcome,
    }
}

fn run_model(head: &Head, model: &[u8], inputs: &[Tensor], wanted: &[Tensor]) -> Outcome {
    let specs = |ends: &[End]| ends.iter().map(|end| end.spec.clone()).collect::<Vec<_>>();
    let loaded = match Model::load(model, &specs(&head.inputs)[..inputs.len()], &specs(&head.outputs)) {
        Ok(loaded) => loaded,
        Err(error) => return Outcome::Refused(reason(&error)),
    };
    match loaded.session().unwrap().run(inputs) {
        Ok(outputs) if agree(head, &outputs, wanted) => Outcome::Passed,
        Ok(_) => Outcome::Wrong,
        Err(_) => Outcome::Stopped,
    }
}

/// Without what differs between cases.
fn reason(error: &LoadError) -> String {
    if let LoadError::Unsupported(operators) = error {
        let name = |operator: &String| operator.split(" (").next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = operators.iter().map(name).collect();
        return format!("no {}", names.into_iter().collect::<Vec<_>>().join(", "));
    }
    if let LoadError::Nothing(side) = error {
        return format!("a model without {side}");
    }
    let broken = matches!(error, LoadError::Panicked { .. });
    if broken { "breaks an assumption of the importer" } else { "does not hold together for the importer" }.into()
}

fn agree(head: &Head, found: &[Tensor], wanted: &[Tensor]) -> bool {
    let close = |a: f64, b: f64| {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= head.atol + head.rtol * b.abs()
    };
    found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(found, wanted)| {
            let (a, b) = (found.to_f64(), wanted.to_f64());
            found.shape() == wanted.shape() && a.len() == b.len() && a.iter().zip(&b).all(|(&a, &b)| close(a, b))
        })
}

/// By operator: how many of its cases ended how.
fn page(outcomes: &BTreeMap<String, Vec<(String, Outcome)>>) -> String {
    let all: Vec<&Outcome> = outcomes.values().flatten().map(|(_, outcome)| outcome).collect();
    let count = |of: fn(&Outcome) -> bool| all.iter().filter(|outcome| of(outcome)).count();
    let mut text = format!(
        "{} cases: {} pass, {} more where all inputs but the first are constants, as an exporter writes them, {} are refused with a reason when the model is loaded, {} are refused when it runs, {} give other values.\n\n\
         | operator | cases | pass | not: why |\n|---|---|---|---|\n",
        all.len(),
        count(|o| *o == Outcome::Passed),
        count(|o| *o == Outcome::PassedFixed),
        count(|o| matches!(o, Outcome::Refused(_))),
        count(|o| *o == Outcome::Stopped),
        count(|o| *o == Outcome::Wrong),
    );
    for (operator, cases) in outcomes {
        let passes = |outcome: &Outcome| matches!(outcome, Outcome::Passed | Outcome::PassedFixed);
        let passed = cases.iter().filter(|(_, outcome)| passes(outcome)).count();
        let mut not: BTreeMap<String, usize> = BTreeMap::new();
        for (name, outcome) in cases {
            match outcome {
                Outcome::Passed | Outcome::PassedFixed => {}
                Outcome::Refused(why) => *not.entry(why.clone()).or_default() += 1,
                Outcome::Stopped => *not.entry(format!("does not run: {name}")).or_default() += 1,
                Outcome::Wrong => *not.entry(format!("other values: {name}")).or_default() += 1,
            }
        }
        let not: Vec<String> = not.into_iter().map(|(why, count)| format!("{count} {why}")).collect();
        writeln!(text, "| {operator} | {} | {passed} | {} |", cases.len(), not.join("; ")).unwrap();
    }
    text
}

#[test]
fn the_onnx_packages_own_tests_end_as_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cases");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backend/cases.py");
    let made = Command::new(python()).arg(script).arg(&file).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = std::fs::read(&file).unwrap();
    let mut rest = bytes.as_slice();
    let mut outcomes: BTreeMap<String, Vec<(String, Outcome)>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (head, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        let head: Head = serde_json::from_slice(head).unwrap();
        let ends = head.inputs.iter().chain(&head.outputs).map(|end| end.bytes);
        let (body, after) = after.split_at(head.models.iter().sum::<usize>() + ends.sum::<usize>());
        let outcome = run(&head, body);
        assert!(names.insert(head.name.clone()), "{} twice", head.name);
        outcomes.entry(head.operator).or_default().push((head.name, outcome));
        rest = after;
    }
    assert!(names.len() > 1500, "only {} cases", names.len());
    let (page, said) = (page(&outcomes), std::fs::read_to_string(PAGE).unwrap());
    let (before, table) = said.split_once(MARK).unwrap();
    if std::env::var_os("SELVEDGE_MAKE_VECTORS").is_some() {
        return std::fs::write(PAGE, format!("{before}{MARK}{page}")).unwrap();
    }
    for (now, then) in page.lines().zip(table.lines()) {
        assert_eq!(now, then, "docs/operators.md; where this is better than it was, run with SELVEDGE_MAKE_VECTORS=1");
    }
    assert_eq!(page, table);
}
