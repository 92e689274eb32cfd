//! Promises of quantization, on a trained network; `graphs` on small ones with every kind of neighbour.

mod agreement;
mod graphs;
mod learning;

use super::*;
use crate::compress::data::{Dataset, Reading};
use crate::compress::score::{self, Answers, Metric, Score};
use crate::compress::{Error, Network, Silent};
use crate::engine::{Report, Shapes};
use crate::onnx::graph::{Attribute, Declared, Port, ValueId};
use crate::onnx::{ElementType, Tensor};
use crate::sys::ManualClock;
use std::path::{Path, PathBuf};

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress").join(name)
}

/// A network with data to calibrate and to judge.
struct Case {
    network: Network,
    train: Dataset,
    held: Dataset,
    reference: Answers,
}

impl Case {
    fn digits(name: &str) -> Self {
        let network = Network::of_file(&std::fs::read(vectors(name)).unwrap(), &Shapes::new()).unwrap();
        let reading = Reading { scale: Some(1.0 / 16.0), ..Reading::default() };
        let open = |file: &str| Dataset::open(&vectors(file), &network.inputs, &reading).unwrap();
        let (train, held) = (open("train.npz"), open("held.npz"));
        let reference = score::answers(&network, &held, &all(&held), &mut Silent).unwrap();
        Self { network, train, held, reference }
    }

    fn prepared(&self, recipe: &Recipe) -> Prepared {
        prepare(&self.network, Some((&self.train, &all(&self.train))), recipe, &mut Silent).unwrap()
    }

    fn quantized(&self, recipe: &Recipe) -> Network {
        self.prepared(recipe).quantized(&Exceptions::default(), &mut Silent).unwrap().network
    }

    fn score(&self, network: &Network, metric: Metric) -> f64 {
        let answers = score::answers(network, &self.held, &all(&self.held), &mut Silent).unwrap();
        score::score(metric, &answers, &self.held, &all(&self.held), Some(&self.reference)).unwrap().value
    }

    fn sqnr(&self, recipe: &Recipe) -> f64 {
        self.score(&self.quantized(recipe), Metric::Sqnr)
    }

    fn search(&self, recipe: &Recipe, bounds: Bounds) -> Outcome {
        let numbers = all(&self.held);
        let float = score::score(Metric::Top1, &self.reference, &self.held, &numbers, None).unwrap();
        let clock = ManualClock::new(0, true);
        let reference = self.reference.clone();
        let judge = Judge { data: &self.held, numbers: &numbers, metric: Metric::Top1, reference, clock: &clock };
        search(&self.prepared(recipe), &judge, float, bounds, &mut Silent).unwrap()
    }
}

fn all(data: &Dataset) -> Vec<usize> {
    (0..data.len()).collect()
}

/// Regions, products in them that are of floats, and nodes outside of them.
fn runs_as(network: &Network) -> (usize, u64, Vec<String>) {
    let (_, report) = Report::load(&network.encode().unwrap(), &network.inputs, &network.outputs).unwrap();
    let floats = report.regions.iter().map(|region| region.float_macs).sum();
    (report.regions.len(), floats, report.float.into_iter().map(|node| node.node).collect())
}

fn recipe(change: impl FnOnce(&mut Recipe)) -> Recipe {
    let mut recipe = Recipe::default();
    change(&mut recipe);
    recipe
}

#[test]
fn by_default_a_network_becomes_one_region_and_keeps_its_answers() {
    let case = Case::digits("digits.onnx");
    let made = case.quantized(&Recipe::default());
    assert_eq!(runs_as(&made), (1, 0, vec![]));
    assert!(case.score(&made, Metric::Top1) >= case.score(&case.network, Metric::Top1) - 1.0);
    assert!(case.score(&made, Metric::Sqnr) > 40.0);
    let (float, int8) = (case.network.encode().unwrap().len(), made.encode().unwrap().len());
    assert!(int8 * 10 < float * 4, "{int8} of {float}");
    assert!(made.model.metadata.iter().any(|(key, value)| key == "selvedge.quantize" && value.contains("\"bits\":8")));
    // Inputs, outputs and their names are as they were, and the same comes out each time.
    assert_eq!((&made.inputs, &made.outputs), (&case.network.inputs, &case.network.outputs));
    assert_eq!(made.encode().unwrap(), case.quantized(&Recipe::default()).encode().unwrap());
}

#[test]
fn every_calibration_and_form_keeps_the_answers() {
    let case = Case::digits("digits.onnx");
    let methods = [
        Calibration::MinMax,
        Calibration::MovingAverage,
        Calibration::Percentile(99.99),
        Calibration::Mse,
        Calibration::Entropy,
    ];
    let mut recipes: Vec<Recipe> = methods.map(|how| recipe(|r| r.activations.calibration = how)).to_vec();
    recipes.push(recipe(|r| r.form = Form::Dynamic));
    recipes.push(recipe(|r| r.form = Form::WeightsOnly));
    recipes.push(recipe(|r| r.weights.symmetric = false));
    recipes.push(recipe(|r| (r.activations.signed, r.activations.symmetric) = (true, true)));
    for recipe in recipes {
        let made = case.quantized(&recipe);
        let right = case.score(&made, Metric::Top1);
        assert!(right >= 97.5, "{recipe:?}: {right}");
        assert_eq!(runs_as(&made).1 > 0, recipe.form == Form::WeightsOnly, "{recipe:?}");
    }
}

#[test]
fn equalization_recovers_channels_of_very_different_ranges() {
    let case = Case::digits("digits-skewed.onnx");
    let per_tensor = |equalize| recipe(|r| (r.weights.per_channel, r.equalize) = (false, equalize));
    let (without, with) = (case.sqnr(&per_tensor(Equalize::Off)), case.sqnr(&per_tensor(Equalize::Exact)));
    assert!(without < 20.0 && with > 40.0, "{without} and {with} dB");
    let plain = Case::digits("digits.onnx").sqnr(&per_tensor(Equalize::Off));
    assert!(with > plain - 2.0, "{with} beside {plain} dB where nothing is skewed");
}

#[test]
fn rounding_and_biases_by_data_beat_the_nearest_level() {
    let case = Case::digits("digits.onnx");
    for bits in [3, 2] {
        let sqnr = |rounding, bias_correction| {
            case.sqnr(&recipe(|r| (r.weights.bits, r.rounding, r.bias_correction) = (bits, rounding, bias_correction)))
        };
        let nearest = sqnr(Rounding::Nearest, false);
        let corrected = sqnr(Rounding::Nearest, true);
        let learnt = sqnr(Rounding::Adaround, true);
        assert!(corrected > nearest + 1.0, "{bits} bits: {nearest} to {corrected} dB");
        assert!(learnt > corrected + 6.0, "{bits} bits: {corrected} to {learnt} dB");
    }
}

#[test]
fn weights_of_four_bits_two_in_a_byte_are_the_same_model_in_half_the_bytes() {
    let case = Case::digits("digits.onnx");
    for (bits, per_channel, symmetric) in [(4, true, true), (3, false, true), (4, true, false)] {
        let made = |packed| {
            let network = case.quantized(&recipe(|r| {
                (r.weights.bits, r.weights.packed) = (bits, packed);
                (r.weights.per_channel, r.weights.symmetric) = (per_channel, symmetric);
            }));
            let stored = |element| {
                let (graph, mut bytes) = (network.graph(), 0);
                for (_, node) in graph.nodes().filter(|(_, node)| node.is("DequantizeLinear")) {
                    let weights = node.input(0).and_then(|value| graph.constant(value));
                    bytes +=
                        weights.filter(|tensor| tensor.element() == element).map_or(0, |tensor| tensor.bytes().len());
                }
                bytes
            };
            let file = network.encode().unwrap();
            // As others read it: from the file.
            let read = Network::with_ends(&file, network.inputs.clone(), network.outputs.clone()).unwrap();
            assert_eq!(runs_as(&network), (1, 0, vec![]));
            let answers = score::answers(&read, &case.held, &all(&case.held), &mut Silent).unwrap();
            (stored(ElementType::I8), stored(ElementType::I4), format!("{answers:?}"))
        };
        let (wide, packed) = (made(false), made(true));
        assert_eq!((wide.1, packed.0), (0, 0));
        assert_eq!(packed.1 * 2, wide.0);
        assert_eq!(packed.2, wide.2, "{bits} bits");
    }
    let dynamic = recipe(|r| (r.form, r.weights.bits, r.weights.packed) = (Form::Dynamic, 4, true));
    assert!(dynamic.check().is_err_and(|error| error.to_string().contains("INT4")));
}

#[test]
fn more_bits_are_nearer() {
    let case = Case::digits("digits.onnx");
    let weights = [2, 3, 4, 8].map(|bits| case.sqnr(&recipe(|r| r.weights.bits = bits)));
    assert!(weights.is_sorted(), "{weights:?}");
    assert!(case.sqnr(&recipe(|r| r.activations.bits = 16)) > weights[3] + 1.0);
}

#[test]
fn a_bound_on_accuracy_gives_layers_back_until_it_is_kept() {
    let case = Case::digits("digits-skewed.onnx");
    let coarse = recipe(|r| (r.weights.bits, r.equalize) = (2, Equalize::Off));
    let free = case.search(&coarse, Bounds::default());
    assert!(free.score.drop_from(&free.float) > 5.0, "{:?}", free.score);
    let bound = case.search(&coarse, Bounds { max_drop: Some(1.0), ..Bounds::default() });
    assert!(bound.score.drop_from(&bound.float) <= 1.0, "{:?}", bound.score);
    assert!(!bound.exceptions.float.is_empty() && bound.exceptions.float.len() < 4, "{:?}", bound.exceptions);
    assert_eq!((bound.broken.len(), bound.reasons.len()), (0, bound.exceptions.float.len()));
    // The answer is the score of the model that came out.
    assert_eq!(case.score(&bound.quantized.network, Metric::Top1), bound.score.value);
}

#[test]
fn a_budget_of_bytes_is_kept_by_the_layers_that_mind_it_least() {
    let case = Case::digits("digits.onnx");
    let bytes = |most| Bounds { low_bits: Some(4), max_bytes: Some(most), ..Bounds::default() };
    let outcome = case.search(&Recipe::default(), bytes(14_000));
    assert!(outcome.broken.is_empty(), "{:?}", outcome.broken);
    // 19,088 weights at 8 bits; the three large layers have 4,608, 9,216 and 5,120.
    assert!((1..4).contains(&outcome.exceptions.bits.len()), "{:?}", outcome.exceptions);
    let impossible = case.search(&Recipe::default(), bytes(1_000));
    assert!(impossible.broken[0].contains("over 1000"), "{:?}", impossible.broken);
}

#[test]
fn the_report_tells_what_each_layer_lost() {
    let case = Case::digits("digits.onnx");
    let prepared = case.prepared(&recipe(|r| r.weights.bits = 4));
    let outcome = unjudged(&prepared, &mut Silent).unwrap();
    let numbers = all(&case.held);
    let report = QuantizeReport::new(&prepared, &outcome, Some((&case.held, &numbers)), &mut Silent).unwrap();
    assert_eq!(
        report.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(),
        ["conv1", "conv2", "conv3", "dense"]
    );
    assert!(report.layers.iter().all(|layer| layer.sqnr_db.is_some_and(|db| (15.0..60.0).contains(&db))));
    let picture = svg(&report, "a <b> & \"c\"");
    assert!(
        picture.starts_with("<svg")
            && picture.contains("a &lt;b&gt; &amp; &quot;c&quot;")
            && picture.ends_with("</svg>\n")
    );
    assert_eq!(picture.matches("<rect").count(), 5);
}
