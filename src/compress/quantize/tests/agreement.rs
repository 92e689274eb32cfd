//! Bounds on agreement with the float model, held by what few samples let expect.

use super::*;

impl Case {
    /// Whether the model answers as the float one does, sample by sample; and both answers.
    fn agreement(&self, network: &Network, numbers: &[usize]) -> (Vec<bool>, Answers, Answers) {
        let answers = |network| score::answers(network, &self.held, numbers, &mut Silent).unwrap();
        let (float, made) = (answers(&self.network), answers(network));
        let largest = |values: &Vec<f64>| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
        let agrees = float.each().iter().zip(made.each()).map(|(a, b)| largest(a) == largest(b)).collect();
        (agrees, float, made)
    }

    fn bounded(&self, recipe: &Recipe, numbers: &[usize], bounds: Bounds) -> Outcome {
        let reference = score::answers(&self.network, &self.held, numbers, &mut Silent).unwrap();
        let float = score::score(Metric::Agreement, &reference, &self.held, numbers, Some(&reference)).unwrap();
        let clock = ManualClock::new(0, true);
        let judge = Judge { data: &self.held, numbers, metric: Metric::Agreement, reference, clock: &clock };
        search(&self.prepared(recipe), &judge, float, bounds, &mut Silent).unwrap()
    }
}

/// Percent of them that do not agree.
fn disagreement(agrees: &[bool]) -> f64 {
    100.0 * agrees.iter().filter(|&&agrees| !agrees).count() as f64 / agrees.len() as f64
}

#[test]
fn fifty_samples_expect_the_disagreement_that_hundreds_show() {
    let case = Case::digits("digits-skewed.onnx");
    for (bits, per_channel) in [(2, false), (3, false), (3, true)] {
        let made = case.quantized(&recipe(|r| (r.weights.bits, r.weights.per_channel) = (bits, per_channel)));
        let numbers = all(&case.held);
        let counted = disagreement(&case.agreement(&made, &numbers).0);
        let expected = numbers.chunks_exact(50).map(|numbers| {
            let (_, float, answers) = case.agreement(&made, numbers);
            Decisions::of(&float).unwrap().expected(&answers).disagreement
        });
        let expected: Vec<f64> = expected.collect();
        let mean = expected.iter().sum::<f64>() / expected.len() as f64;
        assert!(counted > 1.0 && (0.7..1.4).contains(&(mean / counted)), "{bits} bits: {mean} for {counted}");
        // No fifty of them are blind to it; counting them is to 1 % on most.
        assert!(
            expected.iter().all(|&percent| (0.25..2.5).contains(&(percent / counted))),
            "{bits} bits: {expected:?}"
        );
    }
}

#[test]
fn layers_are_given_back_for_what_is_expected_where_counting_sees_nothing() {
    let case = Case::digits("digits.onnx");
    let coarse = recipe(|r| (r.weights.bits, r.bias_correction) = (3, false));
    let (agrees, ..) = case.agreement(&case.quantized(&coarse), &all(&case.held));
    let blind: Vec<usize> = all(&case.held).into_iter().filter(|&at| agrees[at]).take(60).collect();
    let free = case.bounded(&coarse, &blind, Bounds::default());
    assert_eq!(free.score.value, 100.0);
    let noise = free.expected.unwrap().disagreement;
    assert!(disagreement(&agrees) > 0.5 && noise > 0.5, "{noise}");
    let mut left = Vec::new();
    for most in [0.8, 0.3].map(|part| part * noise) {
        let bound = case.bounded(&coarse, &blind, Bounds { max_drop: Some(most), ..Bounds::default() });
        assert!(bound.expected.unwrap().disagreement <= most, "{:?}", bound.expected);
        assert!(bound.broken.is_empty() && bound.reasons.values().all(|why| why.contains("% of the noise")));
        let (after, ..) = case.agreement(&bound.quantized.network, &all(&case.held));
        left.push((bound.exceptions.float.len(), disagreement(&after)));
    }
    assert!(0 < left[0].0 && left[0].0 < left[1].0 && left[1].0 <= 4, "{left:?}");
    // On all that were held out, whose misses had been taken out of what decides.
    assert!(left[1].1 < disagreement(&agrees), "{left:?}");
}

#[test]
fn weights_are_rounded_better_before_layers_go_back_to_float() {
    let case = Case::digits("digits.onnx");
    let coarse = recipe(|r| (r.weights.bits, r.bias_correction) = (3, true));
    let numbers: Vec<usize> = all(&case.held).into_iter().take(60).collect();
    let most = |round_better| Bounds { max_drop: Some(0.4), round_better, ..Bounds::default() };
    let (nearest, better) = (case.bounded(&coarse, &numbers, most(false)), case.bounded(&coarse, &numbers, most(true)));
    assert!(!nearest.exceptions.adaround && better.exceptions.adaround);
    assert!(better.exceptions.float.len() < nearest.exceptions.float.len(), "{:?}", better.exceptions);
    let told = |network: &Network| network.model.metadata.iter().any(|(_, recipe)| recipe.contains("adaround"));
    assert!(told(&better.quantized.network) && !told(&nearest.quantized.network));
}
