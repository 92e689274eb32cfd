//! Promises of teachers that end in a Sigmoid: several classes at once, or one output that says yes or no.

use super::*;
use crate::compress::data::Label;
use crate::compress::distil::loss::soft_binary;
use crate::compress::train::loss::{Form, by_labels};
use crate::compress::train::{self, fit};

#[test]
fn losses_of_each_output_for_itself_are_those_of_torch() {
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(vectors("distil.json")).unwrap()).unwrap();
    let read = |value: &serde_json::Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    let [own, theirs] = ["student", "teacher"].map(|name| tensor(read(&found[name]), &[5, 6]));
    let soft = |soft| move |own: &Tensor, theirs: &Tensor| soft_binary(own, theirs, 4.0, soft)?.mean_all();
    let (kl, cross) = (soft(Soft::Kl), soft(Soft::CrossEntropy));
    let labels = |own: &Tensor, theirs: &Tensor| {
        let logits = values(theirs)?;
        let each = logits
            .chunks(6)
            .map(|row| Some(Label::Values(row.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect())));
        Ok(by_labels(own, Form::Binary, &each.collect::<Vec<_>>(), 0.0).unwrap())
    };
    let cases: [(&str, Loss<'_>); 3] =
        [("binary-kl", &kl), ("binary-cross-entropy", &cross), ("binary-labels", &labels)];
    for (name, loss) in cases {
        let own = Var::from_tensor(&own).unwrap();
        let value = loss(&own, &theirs).unwrap();
        let expected = found[name]["value"].as_f64().unwrap();
        assert!((scalar(&value) - expected).abs() < 1e-5 * expected, "{name}: {value} for {expected}");
        let gradient = values(value.backward().unwrap().get(&own).unwrap()).unwrap();
        for (found, expected) in gradient.iter().zip(read(&found[name]["gradient"])) {
            assert!((found - expected).abs() < 1e-5, "{name}: {found} for {expected}");
        }
    }
}

/// What says of each of `outputs` marks whether it is there, or its logits.
fn marks(outputs: usize, sigmoid: bool) -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 8])]);
    let (weight, bias) = (sketch.weights(&[8, outputs], 6.0), sketch.weights(&[outputs], 0.5));
    let mut output = sketch.node("Gemm", &[sketch.input(0), weight, bias], &[]);
    if sigmoid {
        output = sketch.node("Sigmoid", &[output], &[]);
    }
    sketch.network_with_norms(output)
}

/// Samples whose labels are what the teacher says is there, as classes or values.
fn labelled(teacher: &Network, label: &dyn Fn(&[f64]) -> String) -> (Dataset, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let data = noise(teacher, 200);
    let numbers: Vec<usize> = (0..200).collect();
    let answers = score::answers(teacher, &data, &numbers, &mut Silent).unwrap();
    let line = |(number, answer): (usize, &Vec<f64>)| {
        let values = data.sample(number).unwrap().inputs[0].to_f32().unwrap();
        let values: Vec<String> = values.iter().map(|value| format!("{value:.5}")).collect();
        format!("{},{}\n", values.join(","), label(answer))
    };
    let path = dir.path().join("x.csv");
    std::fs::write(&path, answers.each().iter().enumerate().map(line).collect::<String>()).unwrap();
    (Dataset::open(&path, &teacher.inputs, &Reading::default()).unwrap(), dir)
}

fn taught(teacher: &Network, student: &Network, data: &Dataset, recipe: &Recipe) -> Result<Trained, Error> {
    let split = Split::new(data.len(), 1, Shares { train: 60, validation: 20 });
    let samples = Samples { data, train: &split.train, validation: &split.validation };
    let training = train::Recipe { epochs: 15, rate: 0.02, ..train::Recipe::default() };
    distil(teacher, student, samples, recipe, &training, &mut Plain, &mut Silent)
}

/// Of all marks on samples that nobody has seen, the share where two networks say the same.
fn agreement(a: &Network, b: &Network) -> f64 {
    let data = noise(a, 400);
    let numbers: Vec<usize> = (300..400).collect();
    let [a, b] = [a, b].map(|network| score::answers(network, &data, &numbers, &mut Silent).unwrap());
    let pairs = a.each().iter().flatten().zip(b.each().iter().flatten());
    let same = pairs.filter(|(a, b)| (**a > 0.5) == (**b > 0.5)).count();
    same as f64 / (100 * a.values()) as f64
}

#[test]
fn a_teacher_of_several_marks_at_once_teaches_each_for_itself() {
    let teacher = marks(5, true);
    let student =
        template::student(Template { kind: template::Kind::Table, width: 24, depth: 1 }, &teacher, 3).unwrap();
    assert!(student.graph().nodes().any(|(_, node)| node.is("Sigmoid")));
    let before = agreement(&teacher, &student);
    for soft in [Soft::Kl, Soft::CrossEntropy] {
        let recipe = Recipe { soft, ..Recipe::default() };
        let made = taught(&teacher, &student, &noise(&teacher, 300), &recipe).unwrap();
        let after = agreement(&teacher, &made.network);
        assert!(after > 0.9 && before < 0.8, "{soft:?}: {before} to {after}");
    }
    let refused = taught(&teacher, &marks(5, false), &noise(&teacher, 300), &Recipe::default()).unwrap_err();
    assert!(refused.to_string().contains("Sigmoid") && refused.to_string().contains("mean-squared"), "{refused}");
    let squared = Recipe { soft: Soft::MeanSquared, ..Recipe::default() };
    let made = taught(&teacher, &marks(5, false), &noise(&teacher, 300), &squared).unwrap();
    let after = agreement(&teacher, &made.network);
    assert!(after > 0.8, "values by a line: {after}");
}

#[test]
fn one_output_says_yes_or_no_by_classes_or_values() {
    let teacher = marks(1, true);
    let student =
        template::student(Template { kind: template::Kind::Table, width: 24, depth: 1 }, &teacher, 3).unwrap();
    let class = |answer: &[f64]| u8::from(answer[0] > 0.5).to_string();
    let value = |answer: &[f64]| format!("{:.1}", f64::from(u8::from(answer[0] > 0.5)));
    for label in [&class as &dyn Fn(&[f64]) -> String, &value] {
        let (data, _dir) = labelled(&teacher, label);
        for alpha in [0.5, 1.0] {
            let made = taught(&teacher, &student, &data, &Recipe { alpha, ..Recipe::default() }).unwrap();
            let after = agreement(&teacher, &made.network);
            assert!(after > 0.85, "alpha {alpha}: {after}");
        }
        // By labels alone, without a teacher.
        let split = Split::new(data.len(), 1, Shares { train: 60, validation: 20 });
        let samples = Samples { data: &data, train: &split.train, validation: &split.validation };
        let training = train::Recipe { epochs: 15, rate: 0.02, ..train::Recipe::default() };
        let made = fit(&student, samples, &training, &mut Plain, &mut Silent).unwrap();
        assert!(agreement(&teacher, &made.network) > 0.85);
    }
}

#[test]
fn labels_that_one_output_cannot_tell_are_refused_with_what_to_do() {
    let told = |sigmoid: bool, label: &str| {
        let network = marks(1, sigmoid);
        let (data, _dir) = labelled(&marks(1, true), &|_| label.to_owned());
        let recipe = Recipe { soft: Soft::MeanSquared, ..Recipe::default() };
        taught(&network, &network, &data, &recipe).unwrap_err().to_string()
    };
    for (sigmoid, label, expected) in [(false, "1", "Sigmoid"), (true, "2", "class 2"), (true, "1.5", "from 0 to 1")] {
        let told = told(sigmoid, label);
        assert!(told.contains(expected) && told.contains("label"), "{label}: {told}");
    }
}
