//! Promises of samples of which only some have labels.

use super::*;
use crate::compress::train;

#[test]
fn labels_are_learnt_where_they_are_and_soft_targets_everywhere() {
    // A teacher that is wrong: what is right can only come from labels, and those are of every fourth sample.
    let mut sketch = Sketch::new(&[("x", &[1, 4])]);
    let (weight, bias) = (sketch.weights(&[4, 3], 4.0), sketch.weights(&[3], 0.1));
    let output = sketch.node("Gemm", &[sketch.input(0), weight, bias], &[]);
    let teacher = sketch.network_with_norms(output);
    let student =
        template::student(Template { kind: template::Kind::Table, width: 16, depth: 1 }, &teacher, 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let from = noise(&teacher, 240);
    let written = |name: &str, labels: &dyn Fn(usize, usize) -> String| {
        let line = |at: usize| {
            let values = from.sample(at).unwrap().inputs[0].to_f32().unwrap();
            let class = usize::from(values[0] > 0.0) + usize::from(values[0] > 0.0 && values[1] > 0.0);
            format!("{},{}\n", values.iter().map(f32::to_string).collect::<Vec<_>>().join(","), labels(at, class))
        };
        let path = dir.path().join(name);
        std::fs::write(&path, (0..240).map(line).collect::<String>()).unwrap();
        Dataset::open(&path, &teacher.inputs, &Reading::default()).unwrap()
    };
    let all = written("all.csv", &|_, class| class.to_string());
    let some = written("some.csv", &|at, class| if at % 4 == 0 { class.to_string() } else { String::new() });
    let none = written("none.csv", &|_, _| String::new());
    assert_eq!([&all, &some, &none].map(Dataset::labelled), [240, 60, 0]);
    let split = Split::new(240, 1, Shares { train: 60, validation: 20 });
    let right = |data: &Dataset| {
        let samples = Samples { data, train: &split.train, validation: &split.validation };
        let training = train::Recipe { epochs: 30, rate: 0.02, ..train::Recipe::default() };
        let recipe = Recipe { alpha: 0.9, temperature: 1.0, ..Recipe::default() };
        let made = distil(&teacher, &student, samples, &recipe, &training, &mut Plain, &mut Silent).unwrap();
        let answers = score::answers(&made.network, &all, &split.test, &mut Silent).unwrap();
        score::score(Metric::Top1, &answers, &all, &split.test, None).unwrap().value
    };
    let [by_all, by_some, by_none] = [&all, &some, &none].map(right);
    assert!(by_all > by_some && by_some > by_none + 5.0, "{by_all} {by_some} {by_none}");
    let samples = Samples { data: &some, train: &split.train, validation: &split.validation };
    let alone = Recipe { alpha: 1.0, ..Recipe::default() };
    let training = train::Recipe::default();
    let told = distil(&teacher, &student, samples, &alone, &training, &mut Plain, &mut Silent).unwrap_err().to_string();
    assert!(told.contains("without"), "{told}");
    let told = train::fit(&student, samples, &training, &mut Plain, &mut Silent).unwrap_err().to_string();
    assert!(told.contains("a label for each sample"), "{told}");
}
