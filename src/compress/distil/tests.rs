//! Promises of distillation: losses are torch's, gradients those of finite differences, students get better.

use super::hint::Adapter;
use super::loss::{angles, distances, soft_targets};
use super::*;
use crate::compress::Silent;
use crate::compress::data::{Dataset, Part, Reading, Shares, Split};
use crate::compress::quantize;
use crate::compress::score::{self, Metric};
use crate::compress::sketch::{Sketch, noise};
use crate::compress::train::{Batch, Plain, Program, Run, Tap, values};
use crate::engine::Shapes;
use crate::onnx::graph::{Attribute, ValueId};
use candle_core::{Device, Tensor, Var};
use std::path::{Path, PathBuf};

mod binary;
mod partly;

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress").join(name)
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn scalar(tensor: &Tensor) -> f64 {
    f64::from(tensor.to_scalar::<f32>().unwrap())
}

fn random(shape: &[usize], seed: usize) -> Tensor {
    let count = shape.iter().product::<usize>();
    tensor((0..count).map(|at| ((at + seed * 97) as f32 * 0.754_877).fract() * 2.0 - 1.0).collect(), shape)
}

type Loss<'a> = &'a dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>;

#[test]
fn losses_and_their_gradients_are_those_of_torch() {
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(vectors("distil.json")).unwrap()).unwrap();
    let read = |value: &serde_json::Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    let soft = |soft| move |own: &Tensor, theirs: &Tensor| soft_targets(own, theirs, 4.0, soft)?.mean_all();
    let (kl, cross) = (soft(Soft::Kl), soft(Soft::CrossEntropy));
    type Case<'a> = (&'static str, [&'static str; 2], [usize; 2], f64, Loss<'a>);
    let cases: [Case<'_>; 4] = [
        ("kl", ["student", "teacher"], [5, 5], 1e-5, &kl),
        ("cross-entropy", ["student", "teacher"], [5, 5], 1e-5, &cross),
        // Ours keep away from the root of 0.
        ("distances", ["own", "theirs"], [6, 6], 1e-3, &distances),
        ("angles", ["own", "theirs"], [6, 6], 1e-3, &angles),
    ];
    for (name, sides, samples, within, loss) in cases {
        let [own, theirs] = [0, 1].map(|at| {
            let values = read(&found[sides[at]]);
            let width = values.len() / samples[at];
            tensor(values, &[samples[at], width])
        });
        let own = Var::from_tensor(&own).unwrap();
        let value = loss(&own, &theirs).unwrap();
        let expected = found[name]["value"].as_f64().unwrap();
        assert!((scalar(&value) - expected).abs() < within * expected, "{name}: {value} for {expected}");
        let gradient = values(value.backward().unwrap().get(&own).unwrap()).unwrap();
        let expected = read(&found[name]["gradient"]);
        let most = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (found, expected) in gradient.iter().zip(&expected) {
            assert!(f64::from((found - expected).abs() / most) < 5.0 * within, "{name}: {gradient:?} for {expected:?}");
        }
    }
}

/// The gradient of a loss by a variable, against central differences.
fn check(what: &str, variable: &Var, loss: &dyn Fn() -> Tensor) {
    let gradients = loss().backward().unwrap();
    let gradient = values(gradients.get(variable).unwrap_or_else(|| panic!("{what}: no gradient"))).unwrap();
    let original = values(variable.as_tensor()).unwrap();
    let (mut wrong, mut all) = (0.0, 0.0);
    for at in 0..original.len() {
        let at_offset = |offset: f32| {
            let mut moved = original.clone();
            moved[at] += offset;
            variable.set(&tensor(moved, variable.dims())).unwrap();
            scalar(&loss())
        };
        let numeric = (at_offset(3e-3) - at_offset(-3e-3)) / 6e-3;
        wrong += (numeric - f64::from(gradient[at])).powi(2);
        all += numeric * numeric;
    }
    variable.set(&tensor(original, variable.dims())).unwrap();
    let share = (wrong / all).sqrt();
    assert!(all > 0.0 && share < 1e-2, "{what}: differs by {share} of the gradient");
}

#[test]
fn relations_have_true_gradients_and_stand_samples_that_are_the_same() {
    let theirs = random(&[7, 4, 3], 1);
    let own = Var::from_tensor(&random(&[7, 5], 2)).unwrap();
    for (what, loss) in [("distances", &distances as Loss<'_>), ("angles", &angles)] {
        check(what, &own, &|| (loss(&own, &theirs).unwrap() * 100.0).unwrap());
    }
    let mut same = values(&random(&[7, 5], 2)).unwrap();
    same.copy_within(0..5, 5);
    let same = Var::from_tensor(&tensor(same, &[7, 5])).unwrap();
    for (what, loss) in [("distances", &distances as Loss<'_>), ("angles", &angles)] {
        let gradients = loss(&same, &theirs).unwrap().backward().unwrap();
        let most = values(gradients.get(&same).unwrap()).unwrap().iter().fold(0.0_f32, |most, g| most.max(g.abs()));
        assert!(most < 1.0, "{what}: a gradient of {most}");
        // All samples the same: nothing to hold on to, and no number that is none.
        let flat = Var::from_tensor(&tensor(vec![0.5; 35], &[7, 5])).unwrap();
        let loss = loss(&flat, &theirs).unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = values(gradients.get(&flat).unwrap()).unwrap();
        assert!(scalar(&loss).is_finite() && gradient.iter().all(|g| g.is_finite()), "{what}: {loss} {gradient:?}");
    }
    for few in 1..3 {
        let (own, theirs) = (random(&[few, 5], 2), random(&[few, 3], 1));
        assert_eq!(scalar(&angles(&own, &theirs).unwrap()), 0.0);
    }
    // Turned, moved and made larger, relations stay what they were.
    let x = random(&[6, 2], 3);
    let turned = x.matmul(&tensor(vec![0.0, 3.0, -3.0, 0.0], &[2, 2])).unwrap().affine(1.0, 40.0).unwrap();
    assert!(scalar(&distances(&x, &turned).unwrap()) < 1e-6 && scalar(&angles(&x, &turned).unwrap()) < 1e-6);
}

/// Two networks of one convolution and the like, whose outputs are compared.
fn adapter(teacher: &Network, student: &Network) -> Adapter {
    let hint = Hint { teacher: "y".into(), student: "y".into(), weight: 1.0 };
    Adapter::new(&hint, teacher, student).unwrap()
}

fn of_conv(shape: &[usize], weights: &[usize]) -> Network {
    let mut sketch = Sketch::new(&[("x", shape)]);
    let input = sketch.input(0);
    let output = sketch.conv(input, weights, 1);
    sketch.network_with_norms(output)
}

fn of_matmul(shape: &[usize], weights: &[usize]) -> Network {
    let mut sketch = Sketch::new(&[("x", shape)]);
    let (input, weight) = (sketch.input(0), sketch.weights(weights, 1.0));
    let output = sketch.node("MatMul", &[input, weight], &[]);
    sketch.network_with_norms(output)
}

#[test]
fn hints_of_every_form_have_true_gradients_and_adapters_that_learn() {
    let image = || of_conv(&[1, 2, 8, 8], &[3, 2, 3, 3]);
    type Case = (&'static str, Network, Network, &'static [usize], &'static [usize]);
    let cases: [Case; 5] = [
        ("images of two sizes", image(), image(), &[3, 4, 6, 5], &[3, 2, 3, 5]),
        ("sizes that do not divide", image(), image(), &[3, 4, 5, 7], &[3, 2, 7, 3]),
        ("an image and a row", image(), of_matmul(&[1, 8], &[8, 4]), &[3, 4, 6, 5], &[3, 2]),
        ("series", of_conv(&[1, 2, 9], &[3, 2, 3]), of_conv(&[1, 2, 9], &[3, 2, 3]), &[3, 4, 8], &[3, 2, 4]),
        ("a transformer's", of_matmul(&[1, 5, 8], &[8, 4]), of_matmul(&[1, 5, 8], &[8, 4]), &[3, 5, 4], &[3, 5, 2]),
    ];
    for (what, teacher, student, theirs, own) in cases {
        let mut adapter = adapter(&teacher, &student);
        let (theirs, own) = (random(theirs, 1), Var::from_tensor(&random(own, 2)).unwrap());
        adapter.fit(&theirs, &own, 1).unwrap();
        let variables: Vec<Var> = adapter.variables().cloned().collect();
        assert_eq!((variables[0].dims(), variables[1].dims()), (&[2, 4][..], &[4][..]), "{what}");
        for variable in variables.iter().chain([&own]) {
            check(what, variable, &|| adapter.loss(&theirs, &own).unwrap());
        }
    }
    // By hand: means of two, through the identity.
    let mut same = adapter(&image(), &image());
    let theirs = tensor(vec![1.0, 3.0, 5.0, 7.0], &[1, 1, 2, 2]);
    let own = tensor(vec![4.0], &[1, 1, 1, 1]);
    same.fit(&theirs, &own, 1).unwrap();
    assert!(scalar(&same.loss(&theirs, &own).unwrap()) < 1e-9);
    assert!((scalar(&same.loss(&theirs, &own.affine(0.0, 0.0).unwrap()).unwrap()) - 1.0).abs() < 1e-6);
    let flat = random(&[3, 4, 6], 1);
    assert!(same.fit(&flat, &own, 1).unwrap_err().to_string().contains("[3, 4, 6]"));
}

struct Digits {
    teacher: Network,
    train: Dataset,
    held: Dataset,
    split: Split,
}

impl Digits {
    fn new() -> Self {
        let file = std::fs::read(vectors("digits.onnx")).unwrap();
        let teacher = Network::of_file(&file, &Shapes::new()).unwrap();
        let reading = Reading { scale: Some(1.0 / 16.0), ..Reading::default() };
        let open = |file: &str| Dataset::open(&vectors(file), &teacher.inputs, &reading).unwrap();
        let (train, held) = (open("train.npz"), open("held.npz"));
        let split = Split::new(train.len(), 1, Shares { train: 80, validation: 19 });
        Self { teacher, train, held, split }
    }

    fn student(&self) -> Network {
        template::student("image:8:2".parse().unwrap(), &self.teacher, 1).unwrap()
    }

    fn distil(&self, student: &Network, samples: usize, recipe: &Recipe, epochs: usize) -> Result<Trained, Error> {
        self.distil_with(student, samples, recipe, epochs, &mut Plain)
    }

    fn distil_with(
        &self,
        student: &Network,
        samples: usize,
        recipe: &Recipe,
        epochs: usize,
        inner: &mut dyn Guide,
    ) -> Result<Trained, Error> {
        let (train, validation) = (self.split.part(Part::Train), self.split.part(Part::Validation));
        let samples = Samples { data: &self.train, train: &train[..samples.min(train.len())], validation: &validation };
        let training = train::Recipe { epochs, rate: 1e-2, ..train::Recipe::default() };
        distil(&self.teacher, student, samples, recipe, &training, inner, &mut Silent)
    }

    fn errors(&self, network: &Network) -> usize {
        let all: Vec<usize> = (0..self.held.len()).collect();
        let answers = score::answers(network, &self.held, &all, &mut Silent).unwrap();
        let score = score::score(Metric::Top1, &answers, &self.held, &all, None).unwrap();
        (all.len() as f64 * (1.0 - score.value / 100.0)).round() as usize
    }
}

fn labels_alone() -> Recipe {
    Recipe { alpha: 1.0, ..Recipe::default() }
}

#[test]
fn soft_targets_teach_more_than_few_labels_and_the_same_seed_gives_the_same_student() {
    let digits = Digits::new();
    let start = digits.student();
    let hard = digits.distil(&start, 100, &labels_alone(), 80).unwrap();
    let soft = digits.distil(&start, 100, &Recipe::default(), 80).unwrap();
    let (alone, taught) = (digits.errors(&hard.network), digits.errors(&soft.network));
    assert!(taught < alone, "{alone} errors by labels, {taught} by soft targets too");
    assert_eq!((&soft.network.inputs, &soft.network.outputs), (&digits.teacher.inputs, &digits.teacher.outputs));
    let again = digits.distil(&start, 100, &Recipe::default(), 80).unwrap();
    assert_eq!(soft.network.encode().unwrap(), again.network.encode().unwrap());
}

/// Remembers the last loss of each kind.
#[derive(Default)]
struct Watch {
    trained: Vec<f64>,
    judged: Vec<f64>,
    projected: usize,
    tapped: usize,
    more: f64,
}

impl Tap for Watch {
    fn value(&mut self, _: ValueId, tensor: Tensor) -> candle_core::Result<Tensor> {
        self.tapped += 1;
        Ok(tensor)
    }
}

impl Guide for Watch {
    fn loss(&mut self, _: &Batch, _: &Run, loss: Option<Tensor>) -> Result<Tensor, Error> {
        self.trained.push(scalar(loss.as_ref().unwrap()));
        Ok(loss.unwrap().affine(1.0, self.more).unwrap())
    }

    fn judged(&mut self, _: &Batch, _: &Run, loss: Option<Tensor>) -> Result<Tensor, Error> {
        self.judged.push(scalar(loss.as_ref().unwrap()));
        Ok(loss.unwrap())
    }

    fn project(&mut self, _: &Program) -> Result<(), Error> {
        self.projected += 1;
        Ok(())
    }
}

fn all_at_once() -> Recipe {
    let hint = |teacher: &str, student: &str| Hint { teacher: teacher.into(), student: student.into(), weight: 2.0 };
    Recipe {
        hints: vec![hint("conv2", "block1"), hint("conv3", "block2")],
        relations: Some(Relations { distance: 1.0, angle: 2.0, ..Relations::default() }),
        ..Recipe::default()
    }
}

#[test]
fn hints_and_relations_guide_but_do_not_judge_and_another_guide_holds_at_the_same_time() {
    let digits = Digits::new();
    let start = digits.student();
    let mut watches = Vec::new();
    for recipe in [Recipe::default(), all_at_once()] {
        let mut watch = Watch { more: 7.0, ..Watch::default() };
        let done = digits.distil_with(&start, 320, &recipe, 8, &mut watch).unwrap();
        assert_eq!((watch.trained.len(), watch.projected, watch.judged.len() > 8), (80, 80, true));
        assert!(watch.tapped > 80 && done.epochs[7].train_loss > 7.0, "what the other adds is added");
        assert!(done.after < 0.75 * done.before, "{recipe:?}: {} to {}", done.before, done.after);
        watches.push(watch);
    }
    // Before any step both judge alike, and train by different losses.
    assert_eq!(watches[0].judged[0], watches[1].judged[0]);
    assert!(watches[1].trained[0] > watches[0].trained[0] + 1.0);
    let last = watches[1].trained.iter().rev().take(10).sum::<f64>() / 10.0;
    assert!(last < 0.75 * watches[1].trained[0], "{} to {last}", watches[1].trained[0]);
}

#[test]
fn a_quantized_student_learns_and_stays_quantized() {
    let digits = Digits::new();
    let plain = digits.distil(&digits.student(), 400, &Recipe::default(), 25).unwrap().network;
    let folded = Network::of_file(&plain.encode().unwrap(), &Shapes::new()).unwrap();
    let all: Vec<usize> = (0..200).collect();
    let low = quantize::Recipe {
        weights: quantize::WeightScheme { bits: 3, ..quantize::Recipe::default().weights },
        bias_correction: false,
        ..quantize::Recipe::default()
    };
    let prepared = quantize::prepare(&folded, Some((&digits.train, &all)), &low, &mut Silent).unwrap();
    let int8 = prepared.quantized(&quantize::Exceptions::default(), &mut Silent).unwrap().network;
    assert!(digits.errors(&int8) > digits.errors(&plain), "3 bits cost something");
    let before = digits.errors(&int8);
    let relations = Some(Relations { distance: 1.0, ..Relations::default() });
    let by_relations = Recipe { relations, ..Recipe::default() };
    let done = digits.distil(&int8, 400, &by_relations, 10).unwrap();
    let ops = |network: &Network| {
        let mut ops: Vec<String> = network.graph().nodes().map(|(_, node)| node.op.clone()).collect();
        ops.sort();
        ops
    };
    assert_eq!(ops(&int8), ops(&done.network));
    assert!(ops(&int8).iter().any(|op| op == "DequantizeLinear"));
    let after = digits.errors(&done.network);
    assert!(after < before, "{before} errors of 3 bits, {after} after its teacher");
}

#[test]
fn rounding_in_the_loop_and_a_teacher_go_together() {
    let digits = Digits::new();
    let plain = digits.distil(&digits.student(), 400, &Recipe::default(), 25).unwrap().network;
    let weights = quantize::WeightScheme { bits: 2, least_squares: true, ..quantize::Recipe::default().weights };
    let low = quantize::Recipe { weights, ..quantize::Recipe::default() };
    let (train, validation) = (digits.split.part(Part::Train), digits.split.part(Part::Validation));
    let samples = Samples { data: &digits.train, train: &train[..400], validation: &validation };
    let by = |epochs| {
        let training = train::Recipe { epochs, rate: 3e-3, ..train::Recipe::default() };
        let (teacher, recipe) = (&digits.teacher, Recipe::default());
        let (trained, made) = distil_rounded(teacher, &plain, samples, &recipe, &training, &low, &mut Silent).unwrap();
        assert!(made.network.graph().nodes().any(|(_, node)| node.is("DequantizeLinear")));
        (trained.after, digits.errors(&made.network))
    };
    let ((before, without), (after, with)) = (by(0), by(8));
    assert!(after < before && with < without, "{without} errors of 2 bits, {with} after its teacher");
}

#[test]
fn samples_without_a_label_learn_from_soft_targets_alone() {
    let digits = Digits::new();
    let student = digits.student();
    let (train, validation) = ([0, 1, 2, 3], [4]);
    let samples = Samples { data: &digits.train, train: &train, validation: &validation };
    let training = train::Recipe { label_smoothing: 0.1, ..train::Recipe::default() };
    let loss = |alpha: f32, labelled: [bool; 4]| {
        let mut plain = Plain;
        let recipe = Recipe { alpha, ..Recipe::default() };
        let mut guide = Teacher::new(&digits.teacher, &student, samples, &recipe, &training, &mut plain).unwrap();
        let mut batch = train::read(&digits.train, &train, &train::Augmenter::default(), 0).unwrap();
        for (label, _) in batch.labels.iter_mut().zip(labelled).filter(|(_, labelled)| !labelled) {
            *label = None;
        }
        let program = Program::new(&student, &|_| true).unwrap();
        let run = program.run(&batch.inputs, train::Mode::Inference, &guide.wanted(), &mut Plain).unwrap();
        scalar(&guide.loss(&batch, &run, None).unwrap())
    };
    let single = |alpha: f32| [0, 1, 2, 3].map(|at| loss(alpha, [0, 1, 2, 3].map(|other| other == at)));
    // With one label of four the loss is 1/4 (hard + 3 soft) at an alpha of 1, and soft at 0.
    let (soft, with_one) = (loss(0.0, [true; 4]), single(1.0));
    assert!((loss(1.0, [false; 4]) - soft).abs() < 1e-5 && (loss(0.3, [false; 4]) - soft).abs() < 1e-5);
    // Hard losses of all, out of those of one: each brought its own and took its soft one away.
    let hard = with_one.iter().map(|one| one - soft).sum::<f64>() + soft;
    assert!((loss(1.0, [true; 4]) - hard).abs() < 1e-4, "{hard}");
    let mixed = 0.3 * hard + 0.7 * soft;
    assert!((loss(0.3, [true; 4]) - mixed).abs() < 1e-4, "{mixed}");
    // No labels at all.
    let noise = noise(&digits.teacher, 6);
    let (training, recipe) = (train::Recipe { epochs: 1, ..train::Recipe::default() }, Recipe::default());
    let samples = Samples { data: &noise, train: &[0, 1, 2, 3], validation: &[4, 5] };
    let by = |recipe: &Recipe| {
        distil(&digits.teacher, &student, samples, recipe, &training, &mut Plain, &mut Silent).map(|done| done.after)
    };
    assert!(by(&recipe).unwrap() > 0.0);
    assert!(by(&labels_alone()).unwrap_err().to_string().contains("--labels"));
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let digits = Digits::new();
    let student = digits.student();
    let refusal = |student: &Network, recipe: &Recipe| digits.distil(student, 40, recipe, 1).unwrap_err().to_string();
    let hint = |teacher: &str, student: &str| Recipe {
        hints: vec![Hint { teacher: teacher.into(), student: student.into(), weight: 1.0 }],
        ..Recipe::default()
    };
    let told = refusal(&student, &hint("conv2", "blok1"));
    assert!(told.contains("the student has no tensor \"blok1\"") && told.contains("\"block1\""), "{told}");
    let told = refusal(&student, &hint("konv2", "block1"));
    assert!(told.contains("the teacher has no tensor \"konv2\"") && told.contains("\"conv2\""), "{told}");
    let other = |name: &str| Relations { teacher: Some(name.into()), distance: 1.0, ..Relations::default() };
    let told = refusal(&student, &Recipe { relations: Some(other("nowhere")), ..Recipe::default() });
    assert!(told.contains("\"nowhere\""), "{told}");
    // Another size, and other classes.
    let told = refusal(&of_conv(&[1, 3, 9, 9], &[4, 3, 3, 3]), &Recipe::default());
    assert!(told.contains("[1, 3, 9, 9]") && told.contains("[1, 1, 8, 8]"), "{told}");
    let seven = |op: &str| {
        let mut sketch = Sketch::new(&[("x", &[1, 1, 8, 8])]);
        let (input, weight) = (sketch.input(0), sketch.weights(&[64, 12], 0.1));
        let flat = sketch.node("Flatten", &[input], &[]);
        let flat = sketch.node(op, &[flat], &[]);
        let output = sketch.node("MatMul", &[flat, weight], &[]);
        sketch.network_with_norms(output)
    };
    let told = refusal(&seven("Relu"), &Recipe::default());
    assert!(told.contains("12 values") && told.contains("10"), "{told}");
    let told = refusal(&seven("Ceil"), &Recipe::default());
    assert!(told.contains("Ceil"), "{told}");
    for (recipe, expected) in [
        (Recipe { temperature: 0.0, ..Recipe::default() }, "temperature"),
        (Recipe { temperature: f32::NAN, ..Recipe::default() }, "temperature"),
        (Recipe { alpha: 1.5, ..Recipe::default() }, "alpha"),
    ] {
        assert!(refusal(&student, &recipe).contains(expected));
    }
}

#[test]
fn answers_that_are_values_are_learnt_by_squares() {
    let row = |weights: &[usize]| of_matmul(&[1, 6], weights);
    let (teacher, noise) = (row(&[6, 1]), noise(&row(&[6, 1]), 64));
    let start = template::student("table:8:1".parse().unwrap(), &teacher, 1).unwrap();
    let numbers: Vec<usize> = (0..64).collect();
    let samples = Samples { data: &noise, train: &numbers[..48], validation: &numbers[48..] };
    let training = train::Recipe { epochs: 30, batch: 8, rate: 1e-2, ..train::Recipe::default() };
    let by = |soft| {
        let recipe = Recipe { soft, ..Recipe::default() };
        distil(&teacher, &start, samples, &recipe, &training, &mut Plain, &mut Silent)
    };
    let done = by(Soft::MeanSquared).unwrap();
    assert!(done.after < done.before / 5.0, "{} to {}", done.before, done.after);
    assert!(by(Soft::Kl).unwrap_err().to_string().contains("--soft mean-squared"));
}

#[test]
fn templates_fit_the_ends_of_their_teacher() {
    let relu = |shape: &[usize], softmax: bool| {
        let mut sketch = Sketch::new(&[("x", shape)]);
        let input = sketch.input(0);
        let count = shape.iter().product::<usize>();
        let (flat, weight) = (sketch.node("Flatten", &[input], &[]), sketch.weights(&[count, 3], 1.0));
        let mut output = sketch.node("MatMul", &[flat, weight], &[]);
        if softmax {
            output = sketch.node("Softmax", &[output], &[("axis", Attribute::Int(1))]);
        }
        sketch.network_with_norms(output)
    };
    let cases: [(&str, &[usize]); 9] = [
        ("image", &[1, 3, 32, 24]),
        ("image:8:2", &[1, 64, 64, 3]),
        ("image:4:5", &[1, 1, 5, 7]),
        ("series", &[1, 2, 100]),
        ("series:4:3", &[1, 600, 3]),
        ("series:8", &[1, 50]),
        ("table", &[1, 13]),
        ("table:16:1", &[1, 2, 4]),
        ("table:16:3", &[1, 5]),
    ];
    for (name, shape) in cases {
        let teacher = relu(shape, shape.len() == 4);
        let template: Template = name.parse().unwrap();
        let made = template::student(template, &teacher, 1).unwrap();
        assert_eq!((&made.inputs, &made.outputs), (&teacher.inputs, &teacher.outputs), "{name}");
        let again = template::student(template, &teacher, 1).unwrap();
        let other = template::student(template, &teacher, 2).unwrap();
        assert_eq!(made.encode().unwrap(), again.encode().unwrap());
        assert_ne!(made.encode().unwrap(), other.encode().unwrap());
        let data = noise(&teacher, 4);
        let answers = score::answers(&made, &data, &[0, 1, 2, 3], &mut Silent).unwrap();
        assert_eq!(answers.values(), 3, "{name}");
        let program = Program::new(&made, &|_| true).unwrap();
        assert!(program.batches() && program.variables().len() > 4, "{name}");
        let ends_as_the_teacher = made.graph().nodes().any(|(_, node)| node.is("Softmax")) == (shape.len() == 4);
        assert!(ends_as_the_teacher, "{name}");
    }
    let fault = |name: &str, shape: &[usize]| {
        template::student(name.parse().unwrap(), &relu(shape, false), 1).unwrap_err().to_string()
    };
    assert!(fault("image", &[1, 13]).contains("template:table"));
    assert!(fault("series", &[1, 3, 8, 8]).contains("template:image"));
    for bad in ["", "cnn", "image:0", "image:x", "image:8:17", "image:8:2:1", "image:-1", "table:2000"] {
        assert!(bad.parse::<Template>().unwrap_err().contains("image:16:3"), "{bad}");
    }
}
