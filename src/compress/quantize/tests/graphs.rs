//! Small graphs by hand: every kind of neighbour, and what a reader of this code found.

use super::*;
use crate::compress::sketch::{Sketch, noise};

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

// What a reader of this code found

/// Of every convolution: its bias is in units of its own input and weights.
fn biases_fit(network: &Network) {
    let graph = network.graph();
    let scale_of = |value: ValueId| {
        let (_, node) = graph.producer(value).filter(|(_, node)| node.is("DequantizeLinear")).unwrap();
        graph.constant(node.input(1).unwrap()).unwrap().to_f32s().unwrap()
    };
    let mut found = 0;
    for (_, node) in graph.nodes().filter(|(_, node)| node.is("Conv") || node.is("Gemm")) {
        let [input, weights, bias] = [0, 1, 2].map(|at| scale_of(node.input(at).unwrap()));
        assert!(bias.iter().zip(&weights).all(|(bias, weight)| *bias == input[0] * weight), "{}", node.name);
        found += 1;
    }
    assert!(found > 0);
}

fn quantized(network: &Network, recipe: &Recipe) -> (Network, f64) {
    let data = noise(network, 24);
    let prepared = prepare(network, Some((&data, &all(&data))), recipe, &mut Silent).unwrap();
    let made = prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network;
    let score = against_float(network, &made, &data).value;
    (made, score)
}

#[test]
fn layers_that_share_weights_have_their_own_biases() {
    let mut sketch = Sketch::new(&[("x", &[1, 4, 8, 8])]);
    let x = sketch.input(0);
    let (weight, bias) = (sketch.weights(&[4, 4, 3, 3], 0.5), sketch.weights(&[4], 0.5));
    let pads = [("pads", Attribute::Ints(vec![1; 4]))];
    let a = sketch.node("Conv", &[x, weight, bias], &pads);
    let hundred = sketch.0.graph.add_constant("c", Tensor::from_f64s(ElementType::F32, vec![], &[100.0]).unwrap());
    let a = sketch.node("Mul", &[a, hundred], &[]);
    let a = sketch.node("Relu", &[a], &[]);
    let y = sketch.node("Conv", &[a, weight, bias], &pads);
    let (made, score) = quantized(&sketch.network(y), &Recipe::default());
    assert!(score > 30.0, "{score}");
    biases_fit(&made);
    // And where one of them is the other's transpose.
    let mut sketch = Sketch::new(&[("x", &[1, 5])]);
    let x = sketch.input(0);
    let (weight, there, back) = (sketch.weights(&[3, 5], 1.0), sketch.weights(&[3], 1.0), sketch.weights(&[5], 1.0));
    let a = sketch.node("Gemm", &[x, weight, there], &[("transB", Attribute::Int(1))]);
    let a = sketch.node("Relu", &[a], &[]);
    let y = sketch.node("Gemm", &[a, weight, back], &[]);
    let (_, score) = quantized(&sketch.network(y), &recipe(|r| r.rounding = Rounding::Adaround));
    assert!(score > 25.0, "{score}");
}

#[test]
fn activations_in_a_row_and_behind_a_pool_keep_their_meaning() {
    for ops in
        [&["Relu", "Clip"][..], &["Clip", "Clip"], &["MaxPool", "Relu"], &["Relu", "MaxPool"], &["MaxPool", "Clip"]]
    {
        let mut sketch = Sketch::new(&[("x", &[1, 4, 8, 8])]);
        let x = sketch.input(0);
        let mut at = sketch.conv(x, &[8, 4, 3, 3], 1);
        for (number, op) in ops.iter().enumerate() {
            let bound = |value: f64| Tensor::from_f64s(ElementType::F32, vec![], &[value]).unwrap();
            let (low, high) = (bound(0.0), bound(1.0 - 0.3 * number as f64));
            let (low, high) = (sketch.0.graph.add_constant("low", low), sketch.0.graph.add_constant("high", high));
            at = match *op {
                "Clip" => sketch.node("Clip", &[at, low, high], &[]),
                "MaxPool" => sketch.node("MaxPool", &[at], &[("kernel_shape", Attribute::Ints(vec![2, 2]))]),
                op => sketch.node(op, &[at], &[]),
            };
        }
        let y = sketch.conv(at, &[4, 8, 3, 3], 1);
        let (made, score) = quantized(&sketch.network(y), &recipe(|r| r.activations.calibration = Calibration::MinMax));
        assert!(score > 28.0, "{ops:?}: {score}");
        biases_fit(&made);
    }
}

#[test]
fn channels_that_are_dead_or_pruned_are_left_as_they_are() {
    for size in [1e-8, 0.0] {
        let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
        let x = sketch.input(0);
        let a = sketch.conv(x, &[8, 3, 3, 3], 1);
        let (_, node) = sketch.0.graph.nodes().find(|(_, node)| node.is("Conv")).unwrap();
        let weight = node.input(1).unwrap();
        let mut values = sketch.0.graph.constant(weight).unwrap().to_f64s().unwrap();
        values[27..54].iter_mut().for_each(|value| *value *= size);
        sketch.0.graph.set_constant(weight, Tensor::from_f64s(ElementType::F32, vec![8, 3, 3, 3], &values).unwrap());
        let a = sketch.node("Relu", &[a], &[]);
        let y = sketch.conv(a, &[4, 8, 3, 3], 1);
        let (_, score) = quantized(&sketch.network(y), &Recipe::default());
        assert!(score > 28.0, "{size}: {score}");
    }
    // A bias survives weights that are all zero, however large the inputs are.
    let matrix = weights::Matrix { rows: 1, width: 4, values: vec![0.0; 4] };
    let made =
        weights::IntegerWeights::nearest(&matrix, &WeightScheme::default(), &[weights::smallest_scale(0.45, 1.0)]);
    let level = 0.45 / made.of_row(0).scale;
    assert!((1e6..1e9).contains(&level), "{level}");
}

/// As detectors end: boxes of hundreds beside scores of at most 1.
fn detector() -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 4, 8, 8])]);
    let x = sketch.input(0);
    let boxes = sketch.conv(x, &[4, 4, 3, 3], 1);
    let size = sketch.0.graph.add_constant("size", Tensor::from_f64s(ElementType::F32, vec![], &[640.0]).unwrap());
    let boxes = sketch.node("Mul", &[boxes, size], &[]);
    let scores = sketch.conv(x, &[2, 4, 3, 3], 1);
    let y = sketch.node("Concat", &[boxes, scores], &[("axis", Attribute::Int(1))]);
    sketch.network(y)
}

#[test]
fn what_is_joined_at_very_different_sizes_stays_float_and_sums_can_be_kept() {
    let network = detector();
    let data = noise(&network, 8);
    let prepared = |recipe: &Recipe| prepare(&network, Some((&data, &all(&data))), recipe, &mut Silent).unwrap();
    let by_itself = prepared(&Recipe::default());
    assert!(by_itself.notes.iter().any(|note| note.contains("very different sizes")), "{:?}", by_itself.notes);
    let answers = |network: &Network| {
        let mut session = network.session().unwrap();
        session.run(&data.sample(0).unwrap().inputs).unwrap()[0].to_f64()
    };
    let made = by_itself.quantized(&Exceptions::default(), &mut Silent).unwrap().network;
    let (float, int8) = (answers(&network), answers(&made));
    // Scores are the last third.
    assert!(score::sqnr(&float[256..], &int8[256..]) > 25.0);
    let name =
        by_itself.network.graph().nodes().find(|(_, node)| node.is("Mul")).map(|(_, node)| node.name.clone()).unwrap();
    assert!(prepared(&recipe(|r| r.keep = vec![name.clone()])).placed.kept.iter().any(|kept| kept.name == name));
    let told = prepare(&network, Some((&data, &all(&data))), &recipe(|r| r.keep = vec!["Cnv1".into()]), &mut Silent)
        .unwrap_err();
    assert!(told.to_string().contains("the nearest is \"Con"), "{told}");
}

#[test]
fn a_constant_is_quantized_for_the_sum_beside_it_alone() {
    let mut sketch = Sketch::new(&[("x", &[1, 4, 6, 6])]);
    let x = sketch.input(0);
    let shared = sketch.0.graph.add_constant("two", Tensor::from_f64s(ElementType::F32, vec![], &[2.0]).unwrap());
    let low = sketch.0.graph.add_constant("low", Tensor::from_f64s(ElementType::F32, vec![], &[0.0]).unwrap());
    let a = sketch.conv(x, &[8, 4, 3, 3], 1);
    let a = sketch.node("Mul", &[a, shared], &[]);
    let a = sketch.node("Clip", &[a, low, shared], &[]);
    let y = sketch.conv(a, &[4, 8, 3, 3], 1);
    check(&sketch.network(y), &Recipe::default(), 1, 25.0);
}

#[test]
fn biases_of_other_shapes_stay_with_floats_and_hostile_convolutions_are_no_panic() {
    let mut sketch = Sketch::new(&[("x", &[3, 3])]);
    let x = sketch.input(0);
    let (weight, bias) = (sketch.weights(&[3, 3], 1.0), sketch.weights(&[3, 1], 1.0));
    let y = sketch.node("Gemm", &[x, weight, bias], &[]);
    let none = prepare(&sketch.network(y), None, &recipe(|r| r.form = Form::WeightsOnly), &mut Silent).unwrap_err();
    assert!(none.to_string().contains("its bias is no constant with a value for each output"), "{none}");
    for (weights, bias) in [(&[4_usize, 3, 1, 1][..], 9_usize), (&[4], 4), (&[], 1), (&[0, 3, 1, 1], 0)] {
        let mut sketch = Sketch::new(&[("x", &[1, 3, 4, 4])]);
        let x = sketch.input(0);
        let (weight, bias) = (sketch.weights(weights, 1.0), sketch.weights(&[bias], 1.0));
        let a = sketch.node("Conv", &[x, weight, bias], &[]);
        let shape = sketch.0.graph.add_constant("s", Tensor::from_i64s(ElementType::I64, vec![2], &[1, -1]).unwrap());
        let a = sketch.node("Reshape", &[a, shape], &[]);
        sketch.0.graph.outputs.push(Port {
            name: "y".into(),
            value: a,
            declared: Some(Declared::Tensor { element: Some(ElementType::F32), shape: None }),
        });
        let network = Network { model: sketch.0, inputs: vec![], outputs: vec![] };
        // Whatever is said of it, it is said without a panic.
        let _ = prepare(&network, None, &recipe(|r| r.form = Form::Dynamic), &mut Silent)
            .and_then(|prepared| prepared.quantized(&Exceptions::default(), &mut Silent));
    }
}
