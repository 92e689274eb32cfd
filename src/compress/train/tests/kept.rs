//! Promises of weights that pruning put to zero.

use super::*;
use crate::onnx::{ElementType, Tensor as Constant};

fn network(file: &str) -> Network {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/compress");
    Network::of_file(&std::fs::read(dir.join(file)).unwrap(), &Shapes::new()).unwrap()
}

fn int8() -> Network {
    use crate::compress::quantize::{Exceptions, Recipe, prepare};
    let (network, data, split) = digits();
    let prepared = prepare(&network, Some((&data, &split.train)), &Recipe::default(), &mut Silent).unwrap();
    prepared.quantized(&Exceptions::default(), &mut Silent).unwrap().network
}

/// Every `each`-th weight of products at zero, in the tensors that hold them.
fn thinned(network: &Network, each: usize) -> Network {
    let mut network = network.clone();
    for weight in weights(network.graph()) {
        let graph = &mut network.model.graph;
        let of = weight.dequantized.map_or(weight.value, |id| graph.node(id).unwrap().input(0).unwrap());
        let tensor = graph.constant(of).unwrap().clone();
        if tensor.shape().len() < 2 {
            continue;
        }
        let thin = |(at, value): (usize, f64)| if at % each == 0 { 0.0 } else { value };
        let all = tensor.to_f64s().or_else(|| Some(tensor.to_i64s()?.into_iter().map(|level| level as f64).collect()));
        let values: Vec<f64> = all.unwrap().into_iter().enumerate().map(thin).collect();
        let whole: Vec<i64> = values.iter().map(|&value| value as i64).collect();
        let shape = tensor.shape().to_vec();
        let made = match tensor.element().is_integer() {
            true => Constant::from_i64s(tensor.element(), shape, &whole),
            false => Constant::from_f64s(tensor.element(), shape, &values),
        };
        graph.set_constant(of, made.unwrap());
    }
    network
}

/// How many weights of matrices are zero.
fn zeros(network: &Network) -> usize {
    let matrices = network.graph().values().filter_map(|(id, _)| network.graph().constant(id));
    let weights = matrices.filter(|tensor| tensor.shape().len() > 1 && tensor.element() != ElementType::I32);
    weights
        .map(|tensor| match tensor.to_f64s() {
            Some(values) => values.into_iter().filter(|&value| value == 0.0).count(),
            None => tensor.to_i64s().unwrap().into_iter().filter(|&level| level == 0).count(),
        })
        .sum()
}

fn tuned(network: &Network, zeros: Zeros) -> Trained {
    trained(network, &Recipe { epochs: 1, zeros, ..Recipe::default() })
}

#[test]
fn zeros_of_pruned_weights_stay_while_the_rest_learns_and_learn_where_asked_to() {
    let start = thinned(&network("digits.onnx"), 2);
    let before = zeros(&start);
    let (kept, filled) = (tuned(&start, Zeros::Keep), tuned(&start, Zeros::Train));
    assert!(kept.after < kept.before, "nothing was learnt: {} to {}", kept.before, kept.after);
    assert_eq!((zeros(&kept.network), kept.zeros), (before, before));
    assert!(zeros(&filled.network) * 10 < before && filled.zeros == 0, "{}", zeros(&filled.network));
}

#[test]
fn zeros_of_integers_stay_too_where_they_are_more_than_rounding_makes() {
    let start = int8();
    assert_eq!(tuned(&start, Zeros::Keep).zeros, 0, "rounding makes some");
    let thin = thinned(&start, 2);
    let done = tuned(&thin, Zeros::Keep);
    assert!(done.zeros > 1000 && zeros(&done.network) >= done.zeros, "{} {}", done.zeros, zeros(&done.network));
    for (id, _) in thin.graph().values() {
        let levels = |network: &Network| network.graph().constant(id).filter(|t| t.shape().len() > 1)?.to_i64s();
        let (Some(before), Some(after)) = (levels(&thin), levels(&done.network)) else { continue };
        assert!(before.iter().zip(&after).all(|(before, after)| *before != 0 || *after == 0));
    }
}

#[test]
fn what_has_not_learnt_yet_is_not_held_at_zero() {
    // Biases at zero, a layer at zero, a few zeros by chance.
    let mut start = untrained(&network("digits.onnx"));
    let is_matrix =
        |weight: &Weight| start.graph().constant(weight.value).is_some_and(|tensor| tensor.shape().len() == 2);
    let last = weights(start.graph()).into_iter().rfind(is_matrix).unwrap().value;
    let shape = start.graph().constant(last).unwrap().shape().to_vec();
    let nothing = vec![0.0; shape.iter().product()];
    start.model.graph.set_constant(last, Constant::from_f64s(ElementType::F32, shape, &nothing).unwrap());
    let start = thinned_once(&start);
    let done = tuned(&start, Zeros::Keep);
    assert_eq!(done.zeros, 0);
    // But for what no sample reaches.
    assert!(zeros(&done.network) * 2 < zeros(&start), "{} of {}", zeros(&done.network), zeros(&start));
}

/// One weight in a hundred.
fn thinned_once(network: &Network) -> Network {
    thinned(network, 100)
}
