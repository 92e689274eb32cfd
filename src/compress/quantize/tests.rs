//! Promises of quantization, on a trained network and on small graphs with every kind of neighbour.

use super::*;
use crate::compress::data::{Dataset, Reading};
use crate::compress::score::{self, Answers, Metric, Score};
use crate::compress::{Error, Network, Silent};
use crate::engine::{Report, Shapes};
use crate::onnx::graph::{Attribute, Declared, Dim, Model, Node, Port, ValueId};
use crate::onnx::normalise::OPSET;
use crate::onnx::{ElementType, Tensor};
use crate::sys::ManualClock;
use std::collections::BTreeMap;
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
        assert!(learnt > corrected + 3.0, "{bits} bits: {corrected} to {learnt} dB");
    }
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

// Graphs by hand

struct Sketch(Model);

impl Sketch {
    fn new(inputs: &[(&str, &[usize])]) -> Self {
        let mut model = Model { ir_version: 10, opsets: BTreeMap::from([(String::new(), OPSET)]), ..Model::default() };
        for (name, shape) in inputs {
            let shape = Some(shape.iter().map(|&size| Dim::Size(size)).collect());
            model.graph.add_input(name, Some(Declared::Tensor { element: Some(ElementType::F32), shape }));
        }
        Self(model)
    }

    fn input(&self, at: usize) -> ValueId {
        self.0.graph.inputs[at].value
    }

    /// Weights that look random, about 0.
    fn weights(&mut self, shape: &[usize], size: f64) -> ValueId {
        let count = shape.iter().product::<usize>();
        let values: Vec<f64> =
            (0..count).map(|i| ((i as f64 * 0.754_877 + count as f64 * 0.31).fract() - 0.5) * size).collect();
        self.0.graph.add_constant("w", Tensor::from_f64s(ElementType::F32, shape.to_vec(), &values).unwrap())
    }

    fn node(&mut self, op: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let output = self.0.graph.add_value(&format!("{op}_out"));
        self.0.graph.add_node(Node {
            name: format!("{op}{}", output.index()),
            op: op.into(),
            domain: String::new(),
            version: OPSET,
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    fn conv(&mut self, input: ValueId, weights: &[usize], group: i64) -> ValueId {
        let weight = self.weights(weights, 1.0);
        let bias = self.weights(&weights[..1], 0.5);
        let pads: Vec<i64> = weights[2..].iter().chain(&weights[2..]).map(|&size| size as i64 / 2).collect();
        self.node("Conv", &[input, weight, bias], &[("group", Attribute::Int(group)), ("pads", Attribute::Ints(pads))])
    }

    fn network(mut self, output: ValueId) -> Network {
        self.0.graph.outputs.push(Port {
            name: "y".into(),
            value: output,
            declared: Some(Declared::Tensor { element: Some(ElementType::F32), shape: None }),
        });
        let file = prost::Message::encode_to_vec(&self.0.to_proto().unwrap());
        Network::of_file(&file, &Shapes::new()).unwrap()
    }
}

/// Random values for the first input, as a file of samples.
fn noise(network: &Network, samples: usize) -> Dataset {
    let spec = &network.inputs[0];
    let count = spec.shape.iter().product::<usize>();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noise.csv");
    let value = |i: usize| format!("{:.5}", (i as f64 * 0.618_034).fract() * 2.0 - 1.0);
    let line = |sample: usize| (0..count).map(|i| value(sample * count + i)).collect::<Vec<_>>().join(",");
    std::fs::write(&path, (0..samples).map(|sample| line(sample) + "\n").collect::<String>()).unwrap();
    Dataset::open(&path, &network.inputs, &Reading::default()).unwrap()
}

fn against_float(float: &Network, made: &Network, data: &Dataset) -> Score {
    let numbers = all(data);
    let answers = |network| score::answers(network, data, &numbers, &mut Silent).unwrap();
    score::score(Metric::Sqnr, &answers(made), data, &numbers, Some(&answers(float))).unwrap()
}

fn check(network: &Network, recipe: &Recipe, regions: usize, at_least: f64) -> Prepared {
    let data = noise(network, 24);
    let prepared = prepare(network, Some((&data, &all(&data))), recipe, &mut Silent).unwrap();
    let made = prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network;
    let score = against_float(network, &made, &data);
    assert!(score.value > at_least, "{score:?}");
    assert_eq!(runs_as(&made), (regions, 0, vec![]));
    prepared
}

#[test]
fn branches_pools_and_sums_are_in_integers_from_end_to_end() {
    let mut sketch = Sketch::new(&[("x", &[1, 3, 8, 8])]);
    let x = sketch.input(0);
    let stem = sketch.conv(x, &[8, 3, 3, 3], 1);
    let stem = sketch.node("Relu", &[stem], &[]);
    let pooled = sketch.node(
        "MaxPool",
        &[stem],
        &[("kernel_shape", Attribute::Ints(vec![2, 2])), ("strides", Attribute::Ints(vec![2, 2]))],
    );
    let depthwise = sketch.conv(pooled, &[8, 1, 3, 3], 8);
    let sum = sketch.node("Add", &[depthwise, pooled], &[]);
    let narrow = sketch.conv(sum, &[4, 8, 1, 1], 1);
    let joined = sketch.node("Concat", &[narrow, sum], &[("axis", Attribute::Int(1))]);
    let mean = sketch.node("GlobalAveragePool", &[joined], &[]);
    let flat = sketch.node("Flatten", &[mean], &[]);
    let (weight, bias) = (sketch.weights(&[12, 5], 1.0), sketch.weights(&[5], 1.0));
    let alpha = [("alpha", Attribute::Float(0.5)), ("beta", Attribute::Float(2.0))];
    let y = sketch.node("Gemm", &[flat, weight, bias], &alpha);
    let network = sketch.network(y);
    let prepared = check(&network, &Recipe::default(), 1, 25.0);
    // MaxPool moves values: one scale.
    let graph = prepared.network.graph();
    let ends = |op: &str| {
        let (_, node) = graph.nodes().find(|(_, node)| node.is(op)).unwrap();
        [node.input(0), node.output(0)].map(|value| prepared.placed.classes[&value.unwrap()])
    };
    assert_eq!(ends("MaxPool")[0], ends("MaxPool")[1]);
    assert_ne!(ends("Concat")[0], ends("Concat")[1]);
    assert_eq!(prepared.placed.layers.len(), 4);
}

#[test]
fn series_products_and_attention_are_quantized_too() {
    let mut sketch = Sketch::new(&[("x", &[1, 6, 16])]);
    let x = sketch.input(0);
    let series = sketch.conv(x, &[8, 6, 3], 1);
    let turned = sketch.node("Transpose", &[series], &[("perm", Attribute::Ints(vec![0, 2, 1]))]);
    let [q, k, v] = [0.9, 1.0, 1.1].map(|size| {
        let weight = sketch.weights(&[8, 8], size);
        let product = sketch.node("MatMul", &[turned, weight], &[]);
        let bias = sketch.weights(&[8], size);
        sketch.node("Add", &[product, bias], &[])
    });
    let k = sketch.node("Transpose", &[k], &[("perm", Attribute::Ints(vec![0, 2, 1]))]);
    let scores = sketch.node("MatMul", &[q, k], &[]);
    let shares = sketch.node("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
    let y = sketch.node("MatMul", &[shares, v], &[]);
    let network = sketch.network(y);
    let prepared = check(&network, &Recipe::default(), 1, 20.0);
    assert_eq!(prepared.placed.layers.len(), 4);
}

fn normalised() -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 4, 16])]);
    let x = sketch.input(0);
    // Outliers in a few channels, as transformers have.
    let scale: Vec<f64> = (0..16).map(|i| if i % 8 == 3 { 60.0 } else { 1.0 }).collect();
    let scale = sketch.0.graph.add_constant("scale", Tensor::from_f64s(ElementType::F32, vec![16], &scale).unwrap());
    let shift = sketch.weights(&[16], 0.1);
    let norm = sketch.node("LayerNormalization", &[x, scale, shift], &[("axis", Attribute::Int(-1))]);
    let weight = sketch.weights(&[16, 12], 1.0);
    let y = sketch.node("MatMul", &[norm, weight], &[]);
    sketch.network(y)
}

#[test]
fn smoothing_moves_outliers_into_weights_and_changes_nothing_else() {
    let network = normalised();
    let data = noise(&network, 24);
    let prepared =
        |smooth| prepare(&network, Some((&data, &all(&data))), &recipe(|r| r.smooth = smooth), &mut Silent).unwrap();
    let (plain, smooth) = (prepared(None), prepared(Some(0.5)));
    assert!(smooth.notes[0].contains("1 of 1"), "{:?}", smooth.notes);
    assert!(against_float(&network, &smooth.network, &data).value > 100.0);
    let sqnr = |prepared: &Prepared| {
        let made = prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network;
        against_float(&network, &made, &data).value
    };
    // The outliers carry the output here, so that the gain in its SQNR is small; their range is what has to shrink.
    let widest =
        |prepared: &Prepared| prepared.observed.values().map(|seen| seen.extremes.largest()).fold(0.0, f32::max);
    assert!(widest(&smooth) * 3.0 < widest(&plain), "{} and {}", widest(&smooth), widest(&plain));
    assert!(sqnr(&smooth) > sqnr(&plain) - 1.0 && sqnr(&smooth) > 30.0);
}

#[test]
fn equalization_changes_nothing_in_float_and_leaves_clips_alone_unless_asked() {
    let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
    let x = sketch.input(0);
    let (low, high) = (sketch.weights(&[], 0.0), sketch.weights(&[], 0.0));
    let six = Tensor::from_f64s(ElementType::F32, vec![], &[6.0]).unwrap();
    sketch.0.graph.set_constant(low, Tensor::from_f64s(ElementType::F32, vec![], &[0.0]).unwrap());
    sketch.0.graph.set_constant(high, six);
    let a = sketch.conv(x, &[8, 3, 1, 1], 1);
    let a = sketch.node("Clip", &[a, low, high], &[]);
    let b = sketch.conv(a, &[8, 1, 3, 3], 8);
    let b = sketch.node("Relu", &[b], &[]);
    let y = sketch.conv(b, &[4, 8, 1, 1], 1);
    let network = sketch.network(y);
    let data = noise(&network, 8);
    let prepared = |equalize| {
        prepare(&network, Some((&data, &all(&data))), &recipe(|r| r.equalize = equalize), &mut Silent).unwrap()
    };
    let exact = prepared(Equalize::Exact);
    assert_eq!(exact.notes, ["equalized 1 pairs of convolutions"]);
    assert!(against_float(&network, &exact.network, &data).value > 100.0);
    let all = prepared(Equalize::All);
    assert!(all.notes[0].contains("2 pairs") && all.notes[1].contains("1 Clips became ReLUs"), "{:?}", all.notes);
}

#[test]
fn what_cannot_be_quantized_is_told_and_layers_can_be_kept() {
    let network = normalised();
    let fault = |recipe: &Recipe| prepare(&network, None, recipe, &mut Silent).unwrap_err();
    assert!(matches!(fault(&Recipe::default()), Error::Unfit(what) if what.contains("calibration data")));
    assert!(matches!(fault(&recipe(|r| r.weights.bits = 5)), Error::Unfit(what) if what.contains("8, 4, 3 or 2")));
    let mut sketch = Sketch::new(&[("x", &[1, 4])]);
    let x = sketch.input(0);
    let y = sketch.node("Relu", &[x], &[]);
    let nothing = prepare(&sketch.network(y), None, &recipe(|r| r.form = Form::WeightsOnly), &mut Silent).unwrap_err();
    assert!(matches!(nothing, Error::Unfit(what) if what.contains("no Conv, Gemm or MatMul")));
    let case = Case::digits("digits.onnx");
    let kept = case.prepared(&recipe(|r| r.keep = vec!["conv*".into()]));
    assert_eq!((kept.placed.layers.len(), kept.placed.kept.len()), (1, 3));
    assert!(kept.placed.kept.iter().all(|kept| kept.why == "asked for"));
}

#[test]
fn weights_that_are_no_numbers_and_values_that_overflow_are_named() {
    for (bad, told) in [(f64::NAN, "NaN"), (3e38, "overflows")] {
        let mut sketch = Sketch::new(&[("x", &[1, 4])]);
        let x = sketch.input(0);
        let weight =
            sketch.0.graph.add_constant("w", Tensor::from_f64s(ElementType::F32, vec![4, 2], &[bad; 8]).unwrap());
        let a = sketch.node("MatMul", &[x, weight], &[]);
        let other = sketch.weights(&[2, 2], 1e5);
        let y = sketch.node("MatMul", &[a, other], &[]);
        let network = sketch.network(y);
        let data = noise(&network, 4);
        let made = prepare(&network, Some((&data, &all(&data))), &Recipe::default(), &mut Silent)
            .and_then(|prepared| prepared.quantized(&Exceptions::default(), &mut Silent));
        // Either is found: by the weights, or by what they make.
        let error = made.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(told) || error.contains("NaN"), "{bad}: {error}");
    }
}
