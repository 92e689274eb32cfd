//! Promises of inputs that are integers: tokens of a vocabulary.

use super::*;
use crate::onnx::ElementType;
use crate::onnx::graph::{Declared, Dim};

/// Five tokens of twenty, embedded, put in order by weights, and their mean in three classes.
fn network() -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 5])]);
    sketch.0.graph.inputs[0].declared =
        Some(Declared::Tensor { element: Some(ElementType::I64), shape: Some(vec![Dim::Size(1), Dim::Size(5)]) });
    let vocabulary = sketch.weights(&[20, 6], 1.0);
    let embedded = sketch.node("Gather", &[vocabulary, sketch.input(0)], &[("axis", Attribute::Int(0))]);
    let places = sketch.weights(&[5, 6], 2.0);
    let placed = sketch.node("Mul", &[embedded, places], &[]);
    let active = sketch.node("Tanh", &[placed], &[]);
    let axes = sketch.ints(&[1]);
    let mean = sketch.node("ReduceMean", &[active, axes], &[("keepdims", Attribute::Int(0))]);
    let (weight, bias) = (sketch.weights(&[6, 3], 1.0), sketch.weights(&[3], 0.1));
    let output = sketch.node("Gemm", &[mean, weight, bias], &[]);
    sketch.network_with_norms(output)
}

/// The class is how many of the tokens are from the first half: none or one, two or three, more.
fn samples(network: &Network, count: usize) -> (Dataset, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let line = |sample: usize| {
        let token = |at: usize| crate::compress::data::mix((sample * 5 + at) as u64) % 20;
        let tokens: Vec<u64> = (0..5).map(token).collect();
        let class = tokens.iter().filter(|&&token| token < 10).count() / 2;
        let words: Vec<String> = tokens.iter().chain([&(class as u64)]).map(u64::to_string).collect();
        words.join(",") + "\n"
    };
    let path = dir.path().join("x.csv");
    std::fs::write(&path, (0..count).map(line).collect::<String>()).unwrap();
    (Dataset::open(&path, &network.inputs, &Reading::default()).unwrap(), dir)
}

#[test]
fn samples_of_tokens_run_at_once_with_the_answers_and_gradients_of_each_for_itself() {
    let network = network();
    let (data, _dir) = samples(&network, 8);
    let program = Program::new(&network, &|_| true).unwrap();
    assert!(program.batches());
    as_the_engine("tokens", &network, &program, &data);
    let output = network.graph().outputs[0].value;
    let read = |numbers: &[usize]| super::read(&data, numbers, &Augmenter::default(), 0).unwrap();
    let run = |numbers: &[usize]| program.run(&read(numbers).inputs, Mode::Inference, &[], &mut NoTap).unwrap();
    let sum = |numbers: &[usize]| run(numbers).value(output).unwrap().sqr().unwrap().sum_all().unwrap();
    let all: Vec<usize> = (0..8).collect();
    let together = values(run(&all).value(output).unwrap()).unwrap();
    let apart: Vec<f32> = all.iter().flat_map(|&one| values(run(&[one]).value(output).unwrap()).unwrap()).collect();
    assert!(together.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-6), "{together:?} {apart:?}");
    let gradients = sum(&all).backward().unwrap();
    let each: Vec<_> = all.iter().map(|&one| sum(&[one]).backward().unwrap()).collect();
    assert_eq!(program.variables().len(), 4);
    for variable in program.variables().values() {
        let together = values(gradients.get(variable).unwrap()).unwrap();
        let mut apart = vec![0.0; together.len()];
        for one in &each {
            let own = values(one.get(variable).unwrap()).unwrap();
            apart.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        let most = apart.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert!(most > 0.0 && together.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-5 * most));
    }
}

#[test]
fn a_network_of_tokens_learns() {
    let network = network();
    let (data, _dir) = samples(&network, 300);
    let split = Split::new(300, 1, Shares { train: 60, validation: 20 });
    let samples = Samples { data: &data, train: &split.train, validation: &split.validation };
    let recipe = Recipe { epochs: 20, rate: 0.02, ..Recipe::default() };
    let done = fit(&network, samples, &recipe, &mut Plain, &mut Silent).unwrap();
    assert!(done.after < 0.6 * done.before, "{} to {}", done.before, done.after);
}
