//! Promises of training: gradients are those of finite differences, answers those of the engine, losses fall, seeds decide.

use super::program::inputs_of;
use super::*;
use crate::compress::data::{Dataset, Part, Reading, Shares, Split};
use crate::compress::sketch::{Sketch, noise};
use crate::compress::{Network, Silent};
use crate::engine::Shapes;
use crate::onnx::graph::{Attribute, ValueId};
use candle_core::{Device, Tensor, Var};
use std::path::Path;

mod kept;
mod resumed;
mod ties;
mod tokens;

/// Ints, as attributes are written.
fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn text(value: &str) -> Attribute {
    Attribute::Text(value.as_bytes().to_vec())
}

/// Makes the input a variable.
struct Vary(ValueId, Var);

impl Tap for Vary {
    fn value(&mut self, value: ValueId, tensor: Tensor) -> candle_core::Result<Tensor> {
        if value == self.0 { Ok(self.1.as_tensor().clone()) } else { Ok(tensor) }
    }
}

/// A sum of what a network gives, weighted so that each output counts differently, and of its squares, so that the gradient
/// goes with the answer.
fn weighted(run: &Run, network: &Network) -> Tensor {
    let output = run.value(network.graph().outputs[0].value).unwrap();
    let weights: Vec<f32> = (0..output.elem_count()).map(|at| (at as f32 * 0.37).sin() + 0.2).collect();
    let weights = Tensor::from_vec(weights, output.dims(), &Device::Cpu).unwrap();
    ((output * weights).unwrap() + output.sqr().unwrap()).unwrap().sum_all().unwrap()
}

fn scalar(tensor: &Tensor) -> f64 {
    f64::from(tensor.to_scalar::<f32>().unwrap())
}

/// Every gradient of a network, by its input and by its weights, against central differences; and its answer against the
/// engine's.
fn check(what: &str, network: &Network, mode: Mode) {
    check_of(what, network, mode, &[0, 1]);
}

/// Where samples cannot run at once.
fn check_one(what: &str, network: &Network) {
    check_of(what, network, Mode::Inference, &[0]);
}

fn check_of(what: &str, network: &Network, mode: Mode, numbers: &[usize]) {
    let program = Program::new(network, &|_| true).unwrap_or_else(|error| panic!("{what}: {error}"));
    let data = noise(network, 2);
    let batch = read(&data, numbers, &Augmenter::default(), 0).unwrap();
    assert_eq!(program.batches(), numbers.len() > 1, "{what}: two samples at once");
    if mode == Mode::Inference {
        as_the_engine(what, network, &program, &data);
    }
    let port = network.graph().inputs[0].value;
    let parts: Vec<&Tensor> = batch.inputs.iter().map(|inputs| &inputs[0]).collect();
    let joined = Tensor::cat(&parts, 0).unwrap();
    let mut vary = Vary(port, Var::from_tensor(&joined).unwrap());
    let loss = weighted(&program.run(&batch.inputs, mode, &[], &mut vary).unwrap(), network);
    let gradients = loss.backward().unwrap();
    let mut variables: Vec<Var> = program.variables().values().cloned().collect();
    variables.push(vary.1.clone());
    for variable in &variables {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{what}: a variable without a gradient"));
        let gradient = values(gradient).unwrap();
        let original = values(variable.as_tensor()).unwrap();
        let (mut wrong, mut all) = (0.0, 0.0);
        let mut kinks = 0;
        // In no step with rows or columns.
        let looked = original.len().min(400);
        for at in (0..looked).map(|at| at * 37 % original.len()) {
            let mut at_offset = |offset: f32| {
                let mut moved = original.clone();
                moved[at] += offset;
                variable.set(&Tensor::from_vec(moved, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                scalar(&weighted(&program.run(&batch.inputs, mode, &[], &mut vary).unwrap(), network))
            };
            let differ = |width: f32, of: &mut dyn FnMut(f32) -> f64| (of(width) - of(-width)) / f64::from(2.0 * width);
            let (wide, numeric) = (differ(1e-2, &mut at_offset), differ(3e-3, &mut at_offset));
            if (wide - numeric).abs() > 0.05 * (0.1 + numeric.abs()) {
                kinks += 1;
                continue;
            }
            wrong += (numeric - f64::from(gradient[at])).powi(2);
            all += numeric * numeric;
        }
        let share = (wrong / all).sqrt();
        assert!(all > 0.0 && share < 1e-2, "{what}: {:?} differs by {share} of the gradient", variable.dims());
        assert!(kinks * 10 <= looked, "{what}: {kinks} kinks in {looked} elements");
        variable.set(&Tensor::from_vec(original, variable.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

fn as_the_engine(what: &str, network: &Network, program: &Program, data: &Dataset) {
    let mut session = network.session().unwrap();
    for number in 0..data.len() {
        let sample = data.sample(number).unwrap();
        let expected = session.run(&sample.inputs).unwrap()[0].to_f32().unwrap();
        let run = program.run(&[inputs_of(&sample).unwrap()], Mode::Inference, &[], &mut NoTap).unwrap();
        let found = values(run.value(network.graph().outputs[0].value).unwrap()).unwrap();
        assert_eq!(found.len(), expected.len(), "{what}");
        let far = found.iter().zip(&expected).position(|(a, b)| (a - b).abs() > 1e-4 * (1.0 + b.abs()));
        assert_eq!(far, None, "{what}: {found:?} {expected:?}");
    }
}

/// A network of one operator on an image of 4 channels, 7 by 6.
fn of_image(build: impl Fn(&mut Sketch, ValueId) -> ValueId) -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 4, 7, 6])]);
    let input = sketch.input(0);
    let output = build(&mut sketch, input);
    sketch.network_with_norms(output)
}

#[test]
fn convolutions_of_every_form_have_true_gradients() {
    type Form = (&'static str, &'static [usize], i64, &'static [(&'static str, &'static [i64])]);
    let forms: [Form; 10] = [
        ("plain", &[5, 4, 3, 3], 1, &[]),
        ("padded", &[5, 4, 3, 3], 1, &[("pads", &[1, 1, 1, 1])]),
        ("uneven pads", &[3, 4, 3, 2], 1, &[("pads", &[0, 1, 2, 0])]),
        ("strides", &[3, 4, 3, 3], 1, &[("strides", &[2, 2]), ("pads", &[1, 1, 1, 1])]),
        ("uneven strides", &[3, 4, 2, 3], 1, &[("strides", &[3, 2])]),
        ("dilations", &[3, 4, 3, 2], 1, &[("dilations", &[2, 3])]),
        ("pointwise", &[6, 4, 1, 1], 1, &[]),
        ("groups", &[6, 2, 3, 3], 2, &[("pads", &[1, 1, 1, 1])]),
        ("depthwise", &[4, 1, 3, 3], 4, &[("pads", &[1, 1, 1, 1])]),
        ("depthwise, twice as many", &[8, 1, 3, 2], 4, &[("strides", &[2, 2]), ("pads", &[1, 0, 0, 1])]),
    ];
    for (name, shape, group, attributes) in forms {
        let network = of_image(|sketch, input| {
            let (weight, bias) = (sketch.weights(shape, 1.0), sketch.weights(&shape[..1], 1.0));
            let mut all: Vec<(&str, Attribute)> = attributes.iter().map(|(name, v)| (*name, ints(v))).collect();
            all.push(("group", Attribute::Int(group)));
            sketch.node("Conv", &[input, weight, bias], &all)
        });
        check(name, &network, Mode::Inference);
    }
    let network = of_image(|sketch, input| {
        let weight = sketch.weights(&[3, 4, 3, 3], 1.0);
        sketch.node("Conv", &[input, weight], &[("auto_pad", text("SAME_LOWER")), ("strides", ints(&[2, 2]))])
    });
    check("auto_pad, no bias", &network, Mode::Inference);
}

#[test]
fn convolutions_of_lines_and_transposed_ones_have_true_gradients() {
    let mut sketch = Sketch::new(&[("x", &[1, 4, 11])]);
    let (weight, bias) = (sketch.weights(&[3, 4, 5], 1.0), sketch.weights(&[3], 1.0));
    let attributes = [("pads", ints(&[2, 1])), ("strides", ints(&[2]))];
    let output = sketch.node("Conv", &[sketch.input(0), weight, bias], &attributes);
    check("line", &sketch.network_with_norms(output), Mode::Inference);
    for (group, each) in [(1, 3), (2, 2)] {
        let network = of_image(|sketch, input| {
            let (weight, bias) = (sketch.weights(&[4, each, 3, 3], 1.0), sketch.weights(&[each * group], 1.0));
            let attributes = [
                ("strides", ints(&[2, 2])),
                ("pads", ints(&[1, 1, 0, 1])),
                ("output_padding", ints(&[1, 0])),
                ("group", Attribute::Int(group as i64)),
            ];
            sketch.node("ConvTranspose", &[input, weight, bias], &attributes)
        });
        check("transposed", &network, Mode::Inference);
    }
}

#[test]
fn functions_have_true_gradients() {
    let plain = [
        "Relu",
        "LeakyRelu",
        "Elu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Gelu",
        "Erf",
        "Softplus",
        "Exp",
        "Abs",
        "Neg",
        "Identity",
    ];
    for op in plain {
        check(op, &of_image(|sketch, input| sketch.node(op, &[input], &[])), Mode::Inference);
    }
    let gelu = of_image(|sketch, input| sketch.node("Gelu", &[input], &[("approximate", text("tanh"))]));
    check("Gelu by tanh", &gelu, Mode::Inference);
    // Where they are defined: behind Exp.
    for op in ["Sqrt", "Log", "Reciprocal"] {
        let network = of_image(|sketch, input| {
            let positive = sketch.node("Exp", &[input], &[]);
            sketch.node(op, &[positive], &[])
        });
        check(op, &network, Mode::Inference);
    }
    let clip = of_image(|sketch, input| {
        let bounds = [-0.4, 0.6].map(|v| sketch.0.graph.add_constant("b", crate::onnx::Tensor::scalar_f32(v)));
        sketch.node("Clip", &[input, bounds[0], bounds[1]], &[])
    });
    check("Clip", &clip, Mode::Inference);
    let slopes = of_image(|sketch, input| {
        let slope = sketch.weights(&[4, 1, 1], 1.0);
        sketch.node("PRelu", &[input, slope], &[])
    });
    check("PRelu", &slopes, Mode::Inference);
}

#[test]
fn arithmetic_products_and_reductions_have_true_gradients() {
    for op in ["Add", "Sub", "Mul", "Div", "Min", "Max"] {
        let network = of_image(|sketch, input| {
            let other = sketch.node("Exp", &[input], &[]);
            let mirrored = sketch.node("Neg", &[input], &[]);
            let both = sketch.node(op, &[mirrored, other], &[]);
            let weight = sketch.weights(&[4, 1, 1], 2.0);
            sketch.node("Mul", &[both, weight], &[])
        });
        check(op, &network, Mode::Inference);
    }
    for (name, shapes) in [("turned", [[168, 5], [5, 168]]), ("plain", [[168, 5], [5, 168]])] {
        let network = of_image(|sketch, input| {
            let flat = sketch.node("Flatten", &[input], &[]);
            let turned = name == "turned";
            let weight = sketch.weights(&shapes[usize::from(turned)], 0.2);
            let bias = sketch.weights(&[5], 1.0);
            let attributes = [("transB", Attribute::Int(turned.into())), ("alpha", Attribute::Float(0.5))];
            sketch.node("Gemm", &[flat, weight, bias], &attributes)
        });
        check(&format!("Gemm {name}"), &network, Mode::Inference);
    }
    let matmul = of_image(|sketch, input| {
        let weight = sketch.weights(&[6, 5], 1.0);
        let product = sketch.node("MatMul", &[input, weight], &[]);
        let turned = sketch.node("Transpose", &[product], &[("perm", ints(&[0, 1, 3, 2]))]);
        sketch.node("MatMul", &[turned, product], &[])
    });
    check("MatMul", &matmul, Mode::Inference);
    for op in ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"] {
        let network = of_image(|sketch, input| {
            let axes = sketch.ints(&[1, -1]);
            sketch.node(op, &[input, axes], &[("keepdims", Attribute::Int(0))])
        });
        check(op, &network, Mode::Inference);
    }
}

#[test]
fn norms_and_softmax_have_true_gradients() {
    for axis in [1, -1] {
        for op in ["Softmax", "LogSoftmax"] {
            let network = of_image(|sketch, input| sketch.node(op, &[input], &[("axis", Attribute::Int(axis))]));
            check(op, &network, Mode::Inference);
        }
    }
    let layer = of_image(|sketch, input| {
        let (scale, shift) = (sketch.weights(&[6], 2.0), sketch.weights(&[6], 1.0));
        sketch.node("LayerNormalization", &[input, scale, shift], &[])
    });
    check("LayerNormalization", &layer, Mode::Inference);
    let instance = of_image(|sketch, input| {
        let (scale, shift) = (sketch.weights(&[4], 2.0), sketch.weights(&[4], 1.0));
        sketch.node("InstanceNormalization", &[input, scale, shift], &[])
    });
    check("InstanceNormalization", &instance, Mode::Inference);
    for mode in [Mode::Inference, Mode::Training] {
        check("BatchNormalization", &of_image(|sketch, input| batch_norm(sketch, input, 4)), mode);
    }
}

fn batch_norm(sketch: &mut Sketch, input: ValueId, channels: usize) -> ValueId {
    let [scale, shift, mean] = [2.0, 1.0, 1.0].map(|size| sketch.weights(&[channels], size));
    let ones = crate::onnx::Tensor::vector_f32(&vec![0.7; channels]);
    let variance = sketch.0.graph.add_constant("variance", ones);
    sketch.node("BatchNormalization", &[input, scale, shift, mean, variance], &[])
}

#[test]
fn pools_and_resizing_have_true_gradients() {
    type Form = (&'static str, &'static str, &'static [(&'static str, &'static [i64])]);
    let forms: [Form; 5] = [
        ("square", "MaxPool", &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])]),
        ("overlapping, padded", "MaxPool", &[("kernel_shape", &[3, 3]), ("strides", &[2, 2]), ("pads", &[1, 1, 1, 1])]),
        ("uneven", "MaxPool", &[("kernel_shape", &[3, 2]), ("strides", &[1, 2])]),
        ("mean", "AveragePool", &[("kernel_shape", &[2, 3]), ("strides", &[2, 2])]),
        ("mean, padded", "AveragePool", &[("kernel_shape", &[3, 3]), ("pads", &[1, 1, 1, 1])]),
    ];
    for (name, op, attributes) in forms {
        let attributes: Vec<(&str, Attribute)> = attributes.iter().map(|(name, v)| (*name, ints(v))).collect();
        check(name, &of_image(|sketch, input| sketch.node(op, &[input], &attributes)), Mode::Inference);
    }
    let padded = [("kernel_shape", ints(&[3, 3])), ("pads", ints(&[1; 4])), ("count_include_pad", Attribute::Int(1))];
    check("zeros count", &of_image(|sketch, input| sketch.node("AveragePool", &[input], &padded)), Mode::Inference);
    for op in ["GlobalAveragePool", "GlobalMaxPool"] {
        check(op, &of_image(|sketch, input| sketch.node(op, &[input], &[])), Mode::Inference);
    }
    for (mode, form) in [("nearest", "asymmetric"), ("linear", "half_pixel"), ("linear", "align_corners")] {
        let network = of_image(|sketch, input| {
            let scales = sketch.0.graph.add_constant("s", crate::onnx::Tensor::vector_f32(&[1.0, 1.0, 2.0, 1.5]));
            let none = sketch.0.graph.add_constant("roi", crate::onnx::Tensor::vector_f32(&[]));
            let attributes =
                [("mode", text(mode)), ("coordinate_transformation_mode", text(form)), ("nearest_mode", text("floor"))];
            sketch.node("Resize", &[input, none, scales], &attributes)
        });
        check(&format!("{mode} {form}"), &network, Mode::Inference);
    }
}

#[test]
fn what_moves_values_has_true_gradients() {
    let network = of_image(|sketch, input| {
        let weight = sketch.weights(&[4, 1, 1], 2.0);
        let scaled = sketch.node("Mul", &[input, weight], &[]);
        let (start, end, axes, steps) =
            (sketch.ints(&[5, 0]), sketch.ints(&[-100, 6]), sketch.ints(&[2, 3]), sketch.ints(&[-2, 2]));
        let sliced = sketch.node("Slice", &[scaled, start, end, axes, steps], &[]);
        let turned = sketch.node("Transpose", &[sliced], &[("perm", ints(&[0, 2, 1, 3]))]);
        let shape = sketch.ints(&[1, 4, 3, -1]);
        let shaped = sketch.node("Reshape", &[turned, shape], &[]);
        let pads = sketch.ints(&[0, 0, 1, 0, 0, 0, 0, 2]);
        let padded = sketch.node("Pad", &[shaped, pads], &[("mode", text("reflect"))]);
        let order = sketch.ints(&[3, 0, 0, 1]);
        let gathered = sketch.node("Gather", &[padded, order], &[("axis", Attribute::Int(1))]);
        let joined = sketch.node("Concat", &[gathered, padded], &[("axis", Attribute::Int(1))]);
        let blocks = sketch.node("DepthToSpace", &[joined], &[("blocksize", Attribute::Int(2))]);
        sketch.node("Flatten", &[blocks], &[])
    });
    check("moves", &network, Mode::Inference);
}

#[test]
fn an_operator_without_a_gradient_is_named() {
    let network = of_image(|sketch, input| sketch.node("Ceil", &[input], &[]));
    let error = Program::new(&network, &|_| true).unwrap_err().to_string();
    assert!(error.contains("Ceil") && error.contains("gradient"), "{error}");
}

fn digits() -> (Network, Dataset, Split) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress");
    let file = std::fs::read(dir.join("digits.onnx")).unwrap();
    let network = Network::of_file(&file, &Shapes::new()).unwrap();
    let data = Dataset::open(&dir.join("train.npz"), &network.inputs, &Reading::default()).unwrap();
    let split = Split::new(data.len(), 1, Shares { train: 60, validation: 20 });
    (network, data, split)
}

/// The network with weights as before any training, by a seed.
fn untrained(network: &Network) -> Network {
    let mut network = network.clone();
    for weight in weights(network.graph()) {
        let graph = &mut network.model.graph;
        let shape = graph.constant(weight.value).unwrap().shape().to_vec();
        let each: usize = shape.iter().skip(1).product::<usize>().max(1);
        let size = if shape.len() > 1 { (6.0 / each as f64).sqrt() } else { 0.0 };
        let count = shape.iter().product::<usize>();
        let random = |at: usize| crate::compress::data::mix((weight.value.index() * 100_003 + at) as u64) >> 40;
        let values: Vec<f64> = (0..count).map(|at| (random(at) as f64 / (1 << 23) as f64 - 1.0) * size).collect();
        graph.set_constant(
            weight.value,
            crate::onnx::Tensor::from_f64s(crate::onnx::ElementType::F32, shape, &values).unwrap(),
        );
    }
    network
}

fn trained(network: &Network, recipe: &Recipe) -> Trained {
    let (_, data, split) = digits();
    let (train, validation) = (split.part(Part::Train), split.part(Part::Validation));
    let samples = Samples { data: &data, train: &train, validation: &validation };
    fit(network, samples, recipe, &mut Plain, &mut Silent).unwrap()
}

#[test]
fn digits_are_learnt_from_nothing_and_the_same_seed_gives_the_same_weights() {
    let (network, ..) = digits();
    let start = untrained(&network);
    let recipe = Recipe { epochs: 6, ..Recipe::default() };
    let first = trained(&start, &recipe);
    assert!(first.after < 0.4 && first.before > 2.0, "{} to {}", first.before, first.after);
    assert!(first.epochs.windows(2).filter(|pair| pair[1].train_loss < pair[0].train_loss).count() >= 4);
    let again = trained(&start, &recipe);
    assert_eq!(first.network.encode().unwrap(), again.network.encode().unwrap());
    let other = trained(&start, &Recipe { seed: 2, ..recipe });
    assert_ne!(first.network.encode().unwrap(), other.network.encode().unwrap());
}

#[test]
fn sgd_learns_too_and_a_rate_that_is_too_high_is_said_with_step_and_layer() {
    let (network, ..) = digits();
    let start = untrained(&network);
    let method = Method::Sgd { momentum: 0.9 };
    let recipe = Recipe {
        epochs: 4,
        rate: 0.02,
        method,
        schedule: Schedule::Step { steps: 2, factor: 0.1 },
        ..Recipe::default()
    };
    let done = trained(&start, &recipe);
    assert!(done.after < done.before / 2.0, "{} to {}", done.before, done.after);
    let (_, data, split) = digits();
    let (train, validation) = (split.part(Part::Train), split.part(Part::Validation));
    let samples = Samples { data: &data, train: &train, validation: &validation };
    let wild = Recipe { rate: 100.0, clip: 0.0, ..recipe };
    let error = fit(&start, samples, &wild, &mut Plain, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("step") && error.contains("--rate") && error.contains("node"), "{error}");
}

#[test]
fn the_head_alone_changes_the_last_layer_alone() {
    let (network, ..) = digits();
    let done = trained(&network, &Recipe { epochs: 1, rate: 1e-2, parts: Parts::Head, ..Recipe::default() });
    // Validation may have got no better: then nothing changed at all.
    let trained = Program::new(&network, &fit::chosen(&network, Parts::Head)).unwrap();
    assert_eq!(trained.variables().len(), 2);
    let changed = weights(network.graph())
        .into_iter()
        .filter(|weight| network.graph().constant(weight.value) != done.network.graph().constant(weight.value))
        .count();
    assert!(changed <= 2);
}

#[test]
fn the_estimate_of_memory_grows_with_the_batch_and_covers_what_values_take() {
    let (network, ..) = digits();
    let program = Program::new(&network, &|_| true).unwrap();
    let of = |batch| memory::estimate(&program, batch);
    // 16 x 8 x 8, twice with its ReLU, is the largest of its values.
    assert!(of(64) - of(32) >= 32 * 2 * 16 * 64 * 4 && of(1) > 19_178 * 4, "{} {}", of(32), of(64));
}

#[test]
fn one_sample_a_step_trains_too() {
    let (network, ..) = digits();
    let start = untrained(&network);
    let done = trained(&start, &Recipe { epochs: 1, batch: 1, ..Recipe::default() });
    assert!(done.epochs[0].train_loss > 0.0 && done.after < done.before, "{} to {}", done.before, done.after);
}

#[test]
fn norms_before_the_head_stay_when_the_head_alone_is_trained() {
    let mut sketch = Sketch::new(&[("x", &[1, 1, 8, 8])]);
    let input = sketch.input(0);
    let conv = sketch.conv(input, &[4, 1, 3, 3], 1);
    let normed = batch_norm(&mut sketch, conv, 4);
    let flat = sketch.node("Flatten", &[normed], &[]);
    let (weight, bias) = (sketch.weights(&[256, 10], 0.1), sketch.weights(&[10], 0.1));
    let output = sketch.node("Gemm", &[flat, weight, bias], &[]);
    let network = sketch.network_with_norms(output);
    let done = trained(&network, &Recipe { epochs: 2, parts: Parts::Head, ..Recipe::default() });
    assert!(done.after < done.before, "{} to {}", done.before, done.after);
    let constant = |network: &Network, id| network.graph().constant(id).cloned();
    let ids = network.graph().values().map(|(id, _)| id).collect::<Vec<_>>();
    let changed: Vec<ValueId> =
        ids.into_iter().filter(|&id| constant(&network, id) != constant(&done.network, id)).collect();
    let sizes: Vec<usize> = changed.iter().map(|&id| constant(&network, id).unwrap().len()).collect();
    assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (2, 2570), "the head's alone");
}

#[test]
fn a_softmax_behind_which_only_moves_stand_is_no_part_of_the_loss() {
    let network = of_image(|sketch, input| {
        let flat = sketch.node("Flatten", &[input], &[]);
        let shares = sketch.node("Softmax", &[flat], &[]);
        let shape = sketch.ints(&[1, 168, 1]);
        sketch.node("Reshape", &[shares, shape], &[])
    });
    let (value, form) = loss::logits(&network).unwrap();
    assert!(form == loss::Form::Logits && network.graph().producer(value).unwrap().1.is("Flatten"));
}
