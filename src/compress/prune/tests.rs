//! Promises of pruning: what is removed is what a person would remove, and answers are those of zeroed weights.

use super::follow::{Role, follow};
use super::groups::{Groups, groups};
use super::*;
use crate::compress::data::{Dataset, Part, Reading, Shares, Split};
use crate::compress::score::{self, Metric};
use crate::compress::train::Samples;
use crate::compress::{Network, Silent};
use crate::engine::{Ends, Shapes};
use crate::onnx::graph::ValueId;
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod exact;
mod masks;

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress").join(name)
}

fn network(file: &str) -> Network {
    let file = std::fs::read(vectors(file)).unwrap();
    let batch = Shapes::from([("x".to_owned(), vec![1, 2, 8, 8])]);
    let ends = Ends::of(&file, &Shapes::new()).or_else(|_| Ends::of(&file, &batch)).unwrap();
    let mut network = Network::with_norms(&file, ends.inputs, ends.outputs).unwrap();
    settle(&mut network);
    network
}

fn answer(network: &Network, x: &[f32]) -> Vec<f32> {
    let input = Tensor::from_f32(network.inputs[0].shape.clone(), x).unwrap();
    network.session().unwrap().run(&[input]).unwrap()[0].to_f32().unwrap()
}

fn array(name: &str) -> Vec<f32> {
    let mut archive = npyz::npz::NpzArchive::open(vectors("prune/answers.npz")).unwrap();
    archive.by_name(name).unwrap().unwrap().into_vec().unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let size = b.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / size
}

/// What makes, shifts and scales a unit's channels, by tensor.
fn zeroed_by(network: &Network, groups: &Groups, unit: usize) -> BTreeMap<String, (usize, Vec<usize>)> {
    let slices = groups.units[unit]
        .slices
        .iter()
        .filter(|slice| [Role::Makes, Role::Shifts, Role::Scales].contains(&slice.role));
    let named =
        slices.map(|slice| (network.graph().value(slice.value).name.clone(), (slice.axis, slice.positions.clone())));
    named.collect()
}

fn by_name(network: &Network, name: &str) -> Option<ValueId> {
    network
        .graph()
        .values()
        .find(|(id, value)| value.name == name && network.graph().constant(*id).is_some())
        .map(|(id, _)| id)
}

#[test]
fn removal_finds_what_a_person_would_and_answers_as_onnxruntime_with_zeros() {
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(vectors("prune/cases.json")).unwrap()).unwrap();
    for (name, cases) in cases.as_object().unwrap() {
        let network = network(&format!("prune/{name}.onnx"));
        let x = array(&format!("{name}.x"));
        assert!(distance(&answer(&network, &x), &array(&format!("{name}.0"))) < 1e-6, "{name}");
        let mut followed = follow(network.graph(), &network.facts());
        let groups = groups(network.graph(), &mut followed, |_| false);
        for (at, case) in cases.as_array().unwrap().iter().enumerate() {
            let place = format!("{name}, case {at}");
            let expected: BTreeMap<String, (usize, Vec<usize>)> =
                serde_json::from_value(case["zeroed"].clone()).unwrap();
            // Units that touch what is expected; together they are exactly that.
            let touches = |unit: &usize| {
                zeroed_by(&network, &groups, *unit).iter().any(|(tensor, (axis, positions))| {
                    expected
                        .get(tensor)
                        .is_some_and(|(own, all)| own == axis && positions.iter().any(|at| all.contains(at)))
                })
            };
            let units: Vec<usize> = (0..groups.units.len()).filter(touches).collect();
            let mut found = BTreeMap::<String, (usize, Vec<usize>)>::new();
            for &unit in &units {
                for (tensor, (axis, positions)) in zeroed_by(&network, &groups, unit) {
                    found.entry(tensor).or_insert((axis, Vec::new())).1.extend(positions);
                }
            }
            found.values_mut().for_each(|(_, positions)| positions.sort_unstable());
            assert_eq!(found, expected, "{place}: {:?}", groups.stays);
            let gone: BTreeSet<_> = units.iter().map(|&unit| groups.units[unit].id).collect();
            let smaller = removed(&network, &followed, &gone).unwrap();
            let reference = array(&format!("{name}.{}", at + 1));
            let far = distance(&answer(&smaller, &x), &reference);
            assert!(far < 1e-6, "{place}: {far}");
            let masked = zeroed(&network, units.iter().map(|&unit| &groups.units[unit])).unwrap();
            let far = distance(&answer(&masked, &x), &reference);
            assert!(far < 1e-6, "{place}, zeroed: {far}");
            for (tensor, shape) in case["shapes"].as_object().unwrap().iter().filter(|(_, shape)| !shape.is_null()) {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                let value = by_name(&smaller, tensor).unwrap_or_else(|| panic!("{place}: {tensor}"));
                assert_eq!(smaller.graph().constant(value).unwrap().shape(), shape, "{place}: {tensor}");
            }
        }
    }
}

/// The digits' network with data.
struct Digits {
    network: Network,
    data: Dataset,
    train: Vec<usize>,
    validation: Vec<usize>,
    test: Vec<usize>,
}

impl Digits {
    fn new() -> Self {
        let network = network("digits.onnx");
        let reading = Reading { scale: Some(1.0 / 16.0), ..Reading::default() };
        let data = Dataset::open(&vectors("train.npz"), &network.inputs, &reading).unwrap();
        let split = Split::new(data.len(), 1, Shares { train: 50, validation: 25 });
        let [train, validation, test] = [Part::Train, Part::Validation, Part::Test].map(|part| split.part(part));
        Self { network, data, train, validation, test }
    }

    fn prune(&self, change: impl FnOnce(&mut Recipe)) -> Result<Outcome, Error> {
        let mut recipe = Recipe { samples: 64, ..Recipe::default() };
        recipe.tuning.epochs = 0;
        change(&mut recipe);
        let samples = Samples { data: &self.data, train: &self.train, validation: &self.validation };
        prune(&self.network, &recipe, Some(samples), None, &mut Silent)
    }

    /// Right answers on data that decided nothing, percent.
    fn right(&self, network: &Network) -> f64 {
        let answers = score::answers(network, &self.data, &self.test, &mut Silent).unwrap();
        score::score(Metric::Top1, &answers, &self.data, &self.test, None).unwrap().value
    }
}

#[test]
fn fine_tuning_brings_back_what_half_of_the_channels_knew() {
    let digits = Digits::new();
    let before = digits.right(&digits.network);
    let cut = digits.prune(|_| ()).unwrap();
    let tuned = digits.prune(|recipe| recipe.tuning.epochs = 4).unwrap();
    assert_eq!(cut.after, tuned.after);
    assert!(cut.after.macs * 3 < cut.before.macs && cut.after.bytes * 2 < cut.before.bytes, "{:?}", cut.after);
    let [cut, tuned] = [&cut, &tuned].map(|outcome| digits.right(&outcome.network));
    assert!(tuned > cut && tuned > before - 3.0, "{before} to {cut}, fine-tuned {tuned}");
    // The same again.
    let again = digits.prune(|recipe| recipe.tuning.epochs = 4).unwrap().network.encode().unwrap();
    assert_eq!(again, digits.prune(|recipe| recipe.tuning.epochs = 4).unwrap().network.encode().unwrap());
}

#[test]
fn what_looks_at_data_loses_less_than_chance() {
    let digits = Digits::new();
    let loss = |measure| {
        let outcome = digits.prune(|recipe| (recipe.measure, recipe.target) = (measure, Target::Ratio(0.3))).unwrap();
        outcome.loss.unwrap()[1]
    };
    let chance: f64 = (1..=5)
        .map(|seed| {
            let random = digits.prune(|recipe| {
                (recipe.measure, recipe.target, recipe.seed) = (Measure::Random, Target::Ratio(0.3), seed);
            });
            random.unwrap().loss.unwrap()[1]
        })
        .sum::<f64>()
        / 5.0;
    for measure in [Measure::ActivationVariance, Measure::Taylor, Measure::Fisher] {
        let own = loss(measure);
        assert!(own < chance, "{measure:?}: {own} beside {chance}");
    }
}

#[test]
fn targets_are_kept_and_channels_are_multiples() {
    let digits = Digits::new();
    let full = Cost::of(&digits.network).unwrap();
    let targets = [
        Target::Macs(full.macs / 3),
        Target::Parameters(full.parameters / 4),
        Target::Bytes(full.bytes / 2),
        Target::Ratio(0.4),
    ];
    for scope in [Scope::Local, Scope::Global] {
        for target in targets {
            let outcome =
                digits.prune(|recipe| (recipe.target, recipe.scope, recipe.multiple) = (target, scope, 4)).unwrap();
            let after = outcome.after;
            match target {
                Target::Macs(most) => assert!(after.macs <= most && after.macs * 3 > most, "{after:?}"),
                Target::Parameters(most) => {
                    assert!(after.parameters <= most && after.parameters * 3 > most, "{after:?}")
                }
                Target::Bytes(most) => assert!(after.bytes <= most && after.bytes * 3 > most, "{after:?}"),
                Target::Ratio(_) | Target::Latency(_) => assert!(after.macs < full.macs),
            }
            assert!(outcome.report.groups.iter().all(|group| group.after % 4 == 0 && group.after > 0));
        }
    }
    let unreachable = digits.prune(|recipe| recipe.target = Target::Macs(100)).unwrap_err();
    assert!(unreachable.to_string().contains("cannot be reached"), "{unreachable}");
    let reached = digits.prune(|recipe| recipe.target = Target::Macs(u64::MAX)).unwrap_err();
    assert!(reached.to_string().contains("reached already"), "{reached}");
}

#[test]
fn a_report_of_a_device_bounds_the_time() {
    let digits = Digits::new();
    let report =
        br#"{"layers": [{"node": "conv1", "ms": 1.0}, {"node": "conv2", "ms": 4.0}, {"node": "conv3", "ms": 4.0},
        {"node": null, "ms": 0.5}, {"node": "dense", "ms": 0.5}]}"#;
    let times = Times::of_report(report, &digits.network).unwrap();
    assert!((times.estimate(&digits.network) - 10.0).abs() < 1e-9);
    let recipe = Recipe { target: Target::Latency(4.0), ..Recipe::default() };
    let outcome = prune(&digits.network, &recipe, None, Some(&times), &mut Silent).unwrap();
    let left = times.estimate(&outcome.network);
    assert!((2.5..=4.0).contains(&left), "{left}");
    // By hand: each layer's share of the multiplications that it had.
    let weights = |network: &Network, name: &str| {
        let value = by_name(network, name).unwrap();
        network.graph().constant(value).unwrap().len() as f64
    };
    let ratio = |name: &str| weights(&outcome.network, name) / weights(&digits.network, name);
    let names: Vec<String> = ["conv1", "conv2", "conv3", "dense"].map(|name| weight_of(&digits.network, name)).to_vec();
    let by_hand = 0.5 + ratio(&names[0]) + 4.0 * ratio(&names[1]) + 4.0 * ratio(&names[2]) + 0.5 * ratio(&names[3]);
    assert!((left - by_hand).abs() < 1e-9, "{left} and {by_hand}");
    for bad in [&b"{}"[..], b"nothing", br#"{"layers": [{"node": "other", "ms": 1}]}"#, br#"{"layers": [{"ms": -1}]}"#]
    {
        assert!(Times::of_report(bad, &digits.network).is_err());
    }
    assert!(prune(&digits.network, &recipe, None, None, &mut Silent).unwrap_err().to_string().contains("--report"));
}

fn weight_of(network: &Network, node: &str) -> String {
    let (_, node) = network.graph().nodes().find(|(_, own)| own.name == node).unwrap();
    network.graph().value(node.input(1).unwrap()).name.clone()
}

#[test]
fn the_stop_rule_keeps_the_smallest_that_is_good_enough() {
    let digits = Digits::new();
    let ask = |rise| {
        digits.prune(|recipe| {
            (recipe.target, recipe.steps, recipe.measure) = (Target::Ratio(0.85), 6, Measure::Taylor);
            (recipe.schedule, recipe.max_loss_rise, recipe.tuning.epochs) = (Schedule::Linear, Some(rise), 1);
        })
    };
    let (strict, loose) = (ask(0.01).unwrap(), ask(0.3).unwrap());
    for (outcome, rise) in [(&strict, 0.01), (&loose, 0.3)] {
        let [before, after] = outcome.loss.unwrap();
        assert!(after <= before + rise, "{before} to {after}");
        let mut kept = outcome.report.steps.iter().filter(|step| step.kept).map(|step| step.cost.parameters);
        assert_eq!(kept.next_back().unwrap_or(outcome.before.parameters), outcome.after.parameters);
        assert_eq!(outcome.broken.is_empty(), outcome.report.steps.iter().all(|step| step.kept));
    }
    assert!(loose.after.parameters < strict.after.parameters, "{:?} {:?}", loose.after, strict.after);
    assert_eq!(strict.broken.len(), 1);
}

#[test]
fn single_weights_stay_zero_while_the_rest_learns() {
    let digits = Digits::new();
    let zeros = |network: &Network| {
        let graph = network.graph();
        let values = graph.values().filter_map(|(id, _)| graph.constant(id)?.to_f64s()).flatten();
        values.filter(|&value| value == 0.0).count() as f64
    };
    let outcome = |epochs, measure, scope| {
        let outcome = digits.prune(|recipe| {
            (recipe.what, recipe.measure, recipe.scope) = (What::Weights, measure, scope);
            (recipe.target, recipe.steps, recipe.tuning.epochs) = (Target::Ratio(0.9), 3, epochs);
        });
        outcome.unwrap()
    };
    for (measure, scope) in [(Measure::L1, Scope::Local), (Measure::Taylor, Scope::Global)] {
        let (cut, tuned) = (outcome(0, measure, scope), outcome(2, measure, scope));
        let share = |outcome: &Outcome| zeros(&outcome.network) / outcome.before.parameters as f64;
        assert!(
            (share(&cut) - 0.9).abs() < 0.02 && (share(&tuned) - 0.9).abs() < 0.02,
            "{} {}",
            share(&cut),
            share(&tuned)
        );
        let [cut, tuned] = [&cut, &tuned].map(|outcome| outcome.loss.unwrap()[1]);
        assert!(tuned < cut * 0.7, "{measure:?}: {cut} to {tuned}");
    }
    let half = outcome_of(&digits, Target::Parameters(5000));
    assert!(half.after.nonzero.abs_diff(5000) < 10, "{:?}", half.after);
}

fn outcome_of(digits: &Digits, target: Target) -> Outcome {
    digits.prune(|recipe| (recipe.what, recipe.target) = (What::Weights, target)).unwrap()
}

#[test]
fn what_is_ignored_or_not_asked_for_stays_and_what_cannot_be_done_is_said() {
    let digits = Digits::new();
    let outcome = digits.prune(|recipe| recipe.ignore = vec!["conv*".into()]).unwrap_err();
    assert!(outcome.to_string().contains("ignored"), "{outcome}");
    let one = digits.prune(|recipe| recipe.ignore = vec!["conv1".into()]).unwrap();
    assert!(one.report.stays.iter().any(|stays| stays.node == "conv1" && stays.why.contains("ignored")));
    assert!(one.report.groups.iter().all(|group| group.makers != ["conv1"]));
    let refused = |change: fn(&mut Recipe), expected: &str| {
        let told = digits.prune(change).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    };
    refused(|recipe| recipe.what = What::Neurons, "nothing to remove");
    refused(|recipe| recipe.measure = Measure::BnScale, "no batch normalisation");
    refused(|recipe| recipe.target = Target::Ratio(1.5), "between 0 and 1");
    refused(|recipe| (recipe.what, recipe.target) = (What::Weights, Target::Macs(1)), "zeros save neither");
    let heads = network("prune/transformer.onnx");
    let recipe = Recipe { what: What::Heads, target: Target::Ratio(0.4), ..Recipe::default() };
    let outcome = prune(&heads, &recipe, None, None, &mut Silent).unwrap();
    assert_eq!(outcome.report.groups.len(), 1);
    assert_eq!((outcome.report.groups[0].before, outcome.report.groups[0].after), (12, 8));
    let recipe = Recipe { measure: Measure::Fisher, ..recipe };
    assert!(prune(&heads, &recipe, None, None, &mut Silent).unwrap_err().to_string().contains("--data"));
}

#[test]
fn no_axis_loses_everything_whatever_is_asked_for() {
    for name in ["split", "concat", "shuffle", "grouped", "squeeze", "decoder", "residual", "transformer-fused"] {
        let network = network(&format!("prune/{name}.onnx"));
        let x = array(&format!("{name}.x"));
        for (scope, seed) in [(Scope::Global, 1), (Scope::Global, 2), (Scope::Local, 3)] {
            let target = Target::Ratio(0.97);
            let recipe = Recipe { target, scope, seed, most: 0.999, measure: Measure::Random, ..Recipe::default() };
            let outcome = prune(&network, &recipe, None, None, &mut Silent).unwrap();
            assert!(outcome.after.parameters < outcome.before.parameters, "{name}");
            assert!(answer(&outcome.network, &x).iter().all(|value| value.is_finite()), "{name}");
        }
    }
}

#[test]
fn zeros_cost_on_the_wire_at_most_a_fifth_more_than_a_bitmap_and_values() {
    let digits = Digits::new();
    let wire = |bytes: &[u8]| crate::bundle::cut(bytes).unwrap().iter().map(|cut| cut.wire.len()).sum::<usize>();
    for share in [0.5, 0.8, 0.9] {
        let network = outcome_of(&digits, Target::Ratio(share)).network;
        let graph = network.graph();
        let (mut floats, mut levels) = (Vec::new(), Vec::new());
        for (id, _) in graph.values() {
            let Some(values) = graph.constant(id).filter(|tensor| tensor.shape().len() >= 2).and_then(|t| t.to_f32s())
            else {
                continue;
            };
            let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            levels.extend(values.iter().map(|value| (value / most * 127.0).round() as i8 as u8));
            floats.extend(values);
        }
        let bitmap = floats.len() / 8;
        let ideal = bitmap + 4 * floats.iter().filter(|&&value| value != 0.0).count();
        let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(floats.len() > 15_000 && wire(&bytes) * 5 < ideal * 6, "{share}: {} for {ideal}", wire(&bytes));
        let ideal = bitmap + levels.iter().filter(|&&level| level != 0).count();
        assert!(wire(&levels) * 5 < ideal * 6, "{share}: {} for {ideal}", wire(&levels));
    }
}

#[test]
fn a_ratio_is_reached_in_however_many_steps_and_whatever_multiples() {
    let digits = Digits::new();
    for (steps, multiple) in [(1, 8), (5, 8), (10, 1), (7, 4)] {
        for scope in [Scope::Local, Scope::Global] {
            let outcome = digits.prune(|recipe| {
                (recipe.target, recipe.scope) = (Target::Ratio(0.5), scope);
                (recipe.steps, recipe.multiple, recipe.tuning.epochs) = (steps, multiple, 0);
            });
            let groups = outcome.unwrap().report.groups;
            let sum = |of: fn(&GroupReport) -> usize| groups.iter().map(of).sum::<usize>();
            let (before, after) = (sum(|group| group.before), sum(|group| group.after));
            // Multiples give back less than one of them a group.
            let slack = groups.len() * (multiple - 1);
            assert!(
                after >= before / 2 && after <= before / 2 + slack,
                "{steps} {multiple} {scope:?}: {before} {after}"
            );
        }
    }
}

#[test]
fn what_was_reached_stays_when_there_is_nothing_more_to_remove() {
    let digits = Digits::new();
    let outcome = digits.prune(|recipe| {
        (recipe.target, recipe.steps, recipe.tuning.epochs) = (Target::Macs(12_000), 6, 0);
        recipe.most = 0.5;
    });
    match outcome {
        Ok(outcome) => assert!(outcome.after.macs < outcome.before.macs),
        Err(error) => panic!("all was lost: {error}"),
    }
}

#[test]
fn a_layer_to_leave_alone_that_is_none_is_told_with_the_nearest() {
    let error = Digits::new().prune(|recipe| recipe.ignore = vec!["cnov1".into()]).unwrap_err().to_string();
    assert!(error.contains("cnov1") && error.contains("conv1"), "{error}");
}

#[test]
fn groups_that_do_not_fit_are_not_followed_and_stop_nothing() {
    for (made, shape, group) in [(2, [4, 1, 3, 3], 4), (16, [3, 4, 3, 3], 4), (3, [4, 1, 3, 3], 3_000_000_000)] {
        let mut sketch = crate::compress::sketch::Sketch::new(&[("x", &[1, 3, 6, 6])]);
        let input = sketch.input(0);
        let first = sketch.conv(input, &[made, 3, 3, 3], 1);
        let second = sketch.conv(first, &shape, group);
        let network = sketch.network_with_norms(second);
        let followed = follow(network.graph(), &network.facts());
        assert!(!followed.strangers.is_empty(), "{made} {shape:?} {group}");
    }
}
