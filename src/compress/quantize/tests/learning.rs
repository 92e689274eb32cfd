//! Promises of quantization-aware training.

use super::*;
use crate::compress::data::{Part, Shares, Split};
use crate::compress::sketch::{Sketch, noise};
use crate::compress::train;

fn learnt(case: &Case, recipe: &Recipe, how: Scales) -> Network {
    let split = Split::new(case.train.len(), 1, Shares { train: 80, validation: 19 });
    let (train, validation) = (split.part(Part::Train), split.part(Part::Validation));
    let samples = train::Samples { data: &case.train, train: &train, validation: &validation };
    let mut prepared = case.prepared(recipe);
    let training = train::Recipe { epochs: 5, rate: 2e-3, ..train::Recipe::default() };
    let trained = qat(&mut prepared, samples, &Training { scales: how, training }, &mut Silent).unwrap();
    assert!(trained.after <= trained.before, "{how:?}: {} to {}", trained.before, trained.after);
    prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network
}

#[test]
fn few_bits_lose_less_when_the_model_learns_with_them() {
    let case = Case::digits("digits.onnx");
    for (weights, activations) in [(2, 8), (2, 4)] {
        let recipe =
            recipe(|r| (r.weights.bits, r.weights.least_squares, r.activations.bits) = (weights, true, activations));
        let after = case.score(&case.quantized(&recipe), Metric::Top1);
        for how in [Scales::Recomputed, Scales::Learned] {
            let network = learnt(&case, &recipe, how);
            let score = case.score(&network, Metric::Top1);
            assert!(score > after + 0.5, "W{weights}A{activations} {how:?}: {after} to {score}");
            assert_eq!(runs_as(&network).1, 0, "a product of floats is left");
        }
    }
}

#[test]
fn what_is_simulated_is_what_the_engine_computes() {
    let case = Case::digits("digits.onnx");
    let recipe = recipe(|r| (r.weights.bits, r.activations.bits, r.bias_correction) = (4, 4, false));
    // A sum that falls on the edge between two levels may round to either.
    assert!(simulated(&case.prepared(&recipe), &case.held) > 30.0);
}

/// Learnt scales and shifts of channels, between two convolutions.
fn scaled() -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
    let first = sketch.conv(sketch.input(0), &[6, 3, 3, 3], 1);
    let first = sketch.node("Relu", &[first], &[]);
    let (scale, shift) = (sketch.weights(&[6, 1, 1], 3.0), sketch.weights(&[1, 6, 1, 1], 1.7));
    let scaled = sketch.node("Mul", &[first, scale], &[]);
    let shifted = sketch.node("Add", &[scaled, shift], &[]);
    let output = sketch.conv(shifted, &[4, 6, 3, 3], 1);
    sketch.network(output)
}

#[test]
fn constants_beside_quantized_values_are_simulated_too() {
    let network = scaled();
    let data = noise(&network, 40);
    let numbers: Vec<usize> = (0..40).collect();
    for (signed, symmetric) in [(false, false), (true, true)] {
        let recipe = recipe(|r| {
            (r.activations.bits, r.activations.signed, r.activations.symmetric) = (4, signed, symmetric);
            r.bias_correction = false;
        });
        let prepared = prepare(&network, Some((&data, &numbers)), &recipe, &mut Silent).unwrap();
        assert_eq!(prepared.placed.constants.len(), 2);
        let near = simulated(&prepared, &data);
        assert!(near > 30.0, "{near} dB");
    }
}

/// How near a simulation is to the engine's answers, dB.
fn simulated(prepared: &Prepared, data: &Dataset) -> f64 {
    let mut guide = Qat::new(prepared, &Exceptions::default(), Scales::Recomputed).unwrap();
    let program = train::Program::new(&prepared.network, &|_| false).unwrap();
    let network = prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network;
    let mut session = network.session().unwrap();
    let (mut off, mut size) = (0.0_f64, 0.0_f64);
    for number in 0..40 {
        let batch = train::read(data, &[number], &train::Augmenter::default(), 0).unwrap();
        let run = program.run(&batch.inputs, train::Mode::Inference, &[], &mut guide).unwrap();
        let simulated = train::values(run.value(prepared.network.graph().outputs[0].value).unwrap()).unwrap();
        let computed = session.run(&data.sample(number).unwrap().inputs).unwrap()[0].to_f32().unwrap();
        for (a, b) in simulated.iter().zip(&computed) {
            (off, size) = (off + f64::from(a - b).powi(2), size + f64::from(*b).powi(2));
        }
    }
    10.0 * (size / off.max(1e-12)).log10()
}
