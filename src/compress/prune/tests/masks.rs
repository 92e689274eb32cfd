//! Promises of single weights at zero.

use super::*;
use crate::compress::prune::mask::candidates;
use crate::compress::sketch::Sketch;
use crate::onnx::{ElementType, Tensor as Constant};

/// Two products, 8 x 16 and 16 x 4, of these weights.
fn two_layers(first: impl Fn(usize) -> f64, second: impl Fn(usize) -> f64) -> Network {
    let mut sketch = Sketch::new(&[("x", &[1, 8])]);
    let constant = |sketch: &mut Sketch, shape: [usize; 2], of: &dyn Fn(usize) -> f64| {
        let values: Vec<f64> = (0..shape[0] * shape[1]).map(of).collect();
        sketch.0.graph.add_constant("w", Constant::from_f64s(ElementType::F32, shape.to_vec(), &values).unwrap())
    };
    let (a, b) = (constant(&mut sketch, [8, 16], &first), constant(&mut sketch, [16, 4], &second));
    let hidden = sketch.node("MatMul", &[sketch.input(0), a], &[]);
    let hidden = sketch.node("Relu", &[hidden], &[]);
    let output = sketch.node("MatMul", &[hidden, b], &[]);
    sketch.network_with_norms(output)
}

/// Zeros of each layer.
fn zeros(network: &Network) -> Vec<usize> {
    let values = candidates(network, &follow(network.graph(), &network.facts()), |_| false);
    let count = |value: &ValueId| network.graph().constant(*value).unwrap().to_f64s().unwrap();
    values.iter().map(|value| count(value).into_iter().filter(|&weight| weight == 0.0).count()).collect()
}

fn pruned(network: &Network, target: Target, scope: Scope) -> Result<Network, crate::compress::Error> {
    let recipe = Recipe { what: What::Weights, target, scope, ..Recipe::default() };
    prune(network, &recipe, None, None, &mut Silent).map(|outcome| outcome.network)
}

#[test]
fn of_equal_weights_exactly_the_share_goes_by_the_seed_from_everywhere() {
    // As levels of few bits are: three sizes alone.
    let network = two_layers(|at| [0.5, -0.5, 0.25][at % 3], |_| 0.5);
    for (ratio, scope, expected) in
        [(0.5, Scope::Local, vec![64, 32]), (0.25, Scope::Local, vec![32, 16]), (0.9, Scope::Local, vec![115, 58])]
    {
        let first = pruned(&network, Target::Ratio(ratio), scope).unwrap();
        assert_eq!(zeros(&first), expected, "{ratio}");
        assert_eq!(first.encode().unwrap(), pruned(&network, Target::Ratio(ratio), scope).unwrap().encode().unwrap());
    }
    let all = pruned(&network, Target::Ratio(0.5), Scope::Global).unwrap();
    assert_eq!(zeros(&all).iter().sum::<usize>(), 96);
    // No row of the second loses everything, as it would if the first ones went.
    let half = pruned(&network, Target::Ratio(0.5), Scope::Local).unwrap();
    let values = candidates(&half, &follow(half.graph(), &half.facts()), |_| false);
    let second = half.graph().constant(values[1]).unwrap().to_f64s().unwrap();
    let empty = second.chunks(4).filter(|row| row.iter().all(|&weight| weight == 0.0)).count();
    assert!(empty < 4, "{empty} of 16 rows");
}

#[test]
fn a_layer_of_small_weights_keeps_the_one_that_matters_most() {
    let small = |at: usize| 1e-4 * (1.0 + at as f64);
    let network = two_layers(small, |at| 1.0 + at as f64);
    let global = pruned(&network, Target::Ratio(0.8), Scope::Global).unwrap();
    assert_eq!(zeros(&global), [127, 27], "154 of 192");
    let values = candidates(&global, &follow(global.graph(), &global.facts()), |_| false);
    let first = global.graph().constant(values[0]).unwrap().to_f64s().unwrap();
    assert!((first[127] - 1e-4 * 128.0).abs() < 1e-9);
    for scope in [Scope::Global, Scope::Local] {
        let all = pruned(&network, Target::Ratio(0.9999), scope).unwrap();
        assert!(zeros(&all).iter().zip([128, 64]).all(|(&zeros, size)| zeros < size), "{scope:?}");
    }
}

#[test]
fn zeros_that_are_there_already_count_among_those_that_are_asked_for() {
    // Half of the first are zeros: 64 + 64 are not.
    let network = two_layers(|at| if at % 2 == 0 { 0.0 } else { 1.0 + at as f64 }, |at| 1.0 + at as f64);
    for scope in [Scope::Local, Scope::Global] {
        let made = pruned(&network, Target::Parameters(60), scope).unwrap();
        assert_eq!(Cost::of(&made).unwrap().nonzero, 60, "{scope:?}");
    }
    for reached in [128, 500] {
        let told = pruned(&network, Target::Parameters(reached), Scope::Local).unwrap_err().to_string();
        assert!(told.contains("reached already") && told.contains("128"), "{told}");
    }
    // And are never filled again.
    let less = pruned(&network, Target::Ratio(0.1), Scope::Local).unwrap();
    assert_eq!(zeros(&less), [64, 6]);
}
