//! Promises of removal on graphs where a channel that is zeroed is not yet zero everywhere.

use super::*;
use crate::compress::sketch::Sketch;
use crate::onnx::graph::Attribute;

/// Removes each unit for itself, and all but one of each group: the engine answers as with its weights at zero.
fn check(what: &str, network: &Network) -> usize {
    let mut followed = follow(network.graph(), &network.facts());
    let groups = groups(network.graph(), &mut followed, |_| false);
    let count: usize = network.inputs[0].shape.iter().product();
    let x: Vec<f32> = (0..count).map(|at| (at as f32 * 0.618).fract() * 2.0 - 1.0).collect();
    let mut sets: Vec<Vec<usize>> = (0..groups.units.len()).map(|unit| vec![unit]).collect();
    sets.extend(groups.groups.iter().map(|group| group.units[1..].to_vec()));
    for gone in &sets {
        let smaller = removed(network, &followed, &gone.iter().map(|&unit| groups.units[unit].id).collect()).unwrap();
        let zeros = zeroed(network, gone.iter().map(|&unit| &groups.units[unit])).unwrap();
        let far = distance(&answer(&smaller, &x), &answer(&zeros, &x));
        assert!(far < 1e-5, "{what}, without {gone:?}: {far}");
    }
    groups.units.len()
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

/// Channels of a convolution behind a Sigmoid, which makes 0.5 of their zeros, as rows.
fn rows(sketch: &mut Sketch, shape: &[i64]) -> ValueId {
    let made = sketch.conv(sketch.input(0), &[8, 3, 3, 3], 1);
    let half = sketch.node("Sigmoid", &[made], &[]);
    let shape = sketch.ints(shape);
    sketch.node("Reshape", &[half, shape], &[])
}

fn summed(sketch: &mut Sketch, value: ValueId, axis: i64) -> ValueId {
    let axes = sketch.ints(&[axis]);
    sketch.node("ReduceSum", &[value, axes], &[("keepdims", Attribute::Int(0))])
}

#[test]
fn what_passes_a_product_is_zero_only_where_it_was_before() {
    // Rows of a MatMul.
    let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
    let a = rows(&mut sketch, &[1, 8, 36]);
    let weight = sketch.weights(&[36, 5], 1.0);
    let product = sketch.node("MatMul", &[a, weight], &[]);
    let output = summed(&mut sketch, product, 1);
    check("rows of a MatMul", &sketch.network_with_norms(output));
    // Columns of one whose first input is constant.
    let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
    let b = rows(&mut sketch, &[8, 36]);
    let turned = sketch.node("Transpose", &[b], &[("perm", ints(&[1, 0]))]);
    let weight = sketch.weights(&[5, 36], 1.0);
    let product = sketch.node("MatMul", &[weight, turned], &[]);
    let output = summed(&mut sketch, product, 1);
    check("columns of a MatMul", &sketch.network_with_norms(output));
    // Stacks of two activations.
    let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
    let a = rows(&mut sketch, &[1, 8, 6, 6]);
    let product = sketch.node("MatMul", &[a, a], &[]);
    let output = summed(&mut sketch, product, 1);
    check("a stack", &sketch.network_with_norms(output));
    // Rows of a Gemm, which has a bias besides.
    for (biased, relu) in [(false, false), (true, false), (true, true)] {
        let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
        let a = match relu {
            true => {
                let made = sketch.conv(sketch.input(0), &[8, 3, 3, 3], 1);
                let shape = sketch.ints(&[8, 36]);
                sketch.node("Reshape", &[made, shape], &[])
            }
            false => rows(&mut sketch, &[8, 36]),
        };
        let (weight, bias) = (sketch.weights(&[36, 5], 1.0), sketch.weights(&[5], 1.0));
        let product = sketch.node("Gemm", &[a, weight, bias][..2 + usize::from(biased)], &[]);
        let output = summed(&mut sketch, product, 0);
        check(&format!("rows of a Gemm, {biased} {relu}"), &sketch.network_with_norms(output));
    }
}

#[test]
fn what_a_gemm_adds_goes_or_stays_with_what_it_is_added_to() {
    for computed in [false, true] {
        let mut sketch = Sketch::new(&[("x", &[1, 12])]);
        let x = sketch.input(0);
        let layer = |sketch: &mut Sketch, input, shape: &[usize]| {
            let (weight, bias) = (sketch.weights(shape, 1.0), sketch.weights(&shape[1..], 1.0));
            sketch.node("Gemm", &[input, weight, bias], &[])
        };
        let (a, c) = (layer(&mut sketch, x, &[12, 8]), layer(&mut sketch, x, &[12, 6]));
        let (a, c) = (sketch.node("Relu", &[a], &[]), sketch.node("Sigmoid", &[c], &[]));
        let b = match computed {
            true => {
                let wide = layer(&mut sketch, x, &[12, 48]);
                let shape = sketch.ints(&[8, 6]);
                sketch.node("Reshape", &[wide, shape], &[])
            }
            false => sketch.weights(&[8, 6], 1.0),
        };
        let sum = sketch.node("Gemm", &[a, b, c], &[]);
        let sum = sketch.node("Relu", &[sum], &[]);
        let output = layer(&mut sketch, sum, &[6, 3]);
        let units = check(&format!("a computed C, B computed: {computed}"), &sketch.network_with_norms(output));
        assert_eq!(units, if computed { 0 } else { 8 + 6 });
    }
}

#[test]
fn sizes_of_an_expand_are_the_last_ones() {
    for sizes in [&[8, 6, 6][..], &[1, 8, 6, 6], &[6, 6]] {
        let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
        let made = sketch.conv(sketch.input(0), &[8, 3, 3, 3], 1);
        let pooled = sketch.node("GlobalAveragePool", &[made], &[]);
        let shape = sketch.ints(sizes);
        let wide = sketch.node("Expand", &[pooled, shape], &[]);
        let both = sketch.node("Add", &[made, wide], &[]);
        let output = sketch.conv(both, &[2, 8, 1, 1], 1);
        assert_eq!(check(&format!("{sizes:?}"), &sketch.network_with_norms(output)), 8);
    }
}

#[test]
fn a_multiple_holds_for_every_layer_of_a_group() {
    // The first makes two channels for each of the second's, which is the one that a kernel of 8 would mind.
    let mut sketch = Sketch::new(&[("x", &[1, 3, 6, 6])]);
    let made = sketch.conv(sketch.input(0), &[32, 3, 3, 3], 1);
    let paired = sketch.conv(made, &[16, 2, 1, 1], 16);
    let output = sketch.conv(paired, &[2, 16, 1, 1], 1);
    let network = sketch.network_with_norms(output);
    for (ratio, multiple) in [(0.3, 8), (0.6, 8), (0.7, 4)] {
        for scope in [Scope::Local, Scope::Global] {
            let recipe = Recipe { target: Target::Ratio(ratio), multiple, scope, ..Recipe::default() };
            let outcome = prune(&network, &recipe, None, None, &mut Silent).unwrap();
            let graph = outcome.network.graph();
            let convs = graph.nodes().filter(|(_, node)| node.is("Conv"));
            let made: Vec<usize> =
                convs.map(|(_, node)| graph.constant(node.input(1).unwrap()).unwrap().shape()[0]).collect();
            assert!(made[..2].iter().all(|made| made % multiple == 0), "{ratio} {multiple}: {made:?}");
            assert!(made[1] * 2 == made[0] && made[1] <= 16, "{made:?}");
        }
    }
    let half = Recipe { target: Target::Ratio(0.6), multiple: 8, ..Recipe::default() };
    let outcome = prune(&network, &half, None, None, &mut Silent).unwrap();
    assert_eq!(outcome.report.groups[0].after, 16, "8 of 16 pairs");
}
