//! Promises of quantization-aware training.

use super::*;
use crate::compress::data::{Part, Shares, Split};
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
    let prepared = case.prepared(&recipe);
    let mut guide = Qat::new(&prepared, &Exceptions::default(), Scales::Recomputed).unwrap();
    let program = train::Program::new(&prepared.network, &|_| false).unwrap();
    let network = prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network;
    let mut session = network.session().unwrap();
    let (mut off, mut size) = (0.0_f64, 0.0_f64);
    for number in 0..40 {
        let batch = train::read(&case.held, &[number], &train::Augmenter::default(), 0).unwrap();
        let run = program.run(&batch.inputs, train::Mode::Inference, &[], &mut guide).unwrap();
        let simulated = train::values(run.value(prepared.network.graph().outputs[0].value).unwrap()).unwrap();
        let computed = session.run(&case.held.sample(number).unwrap().inputs).unwrap()[0].to_f32().unwrap();
        for (a, b) in simulated.iter().zip(&computed) {
            (off, size) = (off + f64::from(a - b).powi(2), size + f64::from(*b).powi(2));
        }
    }
    // A sum that falls on the edge between two levels may round to either.
    assert!(10.0 * (size / off.max(1e-12)).log10() > 30.0, "{off} of {size}");
}
