//! L(θ): the loss of the engine's answers, which the stop rule is about.
//!
//! Classes: cross-entropy, binary where a Sigmoid ends the network; values: mean squared error; without labels: the squared difference to the answers of the network
//! as it was, over their square; that, too, where only some samples have labels.

use crate::compress::data::{Dataset, Label};
use crate::compress::score::Answers;
use crate::compress::{Error, Network};

/// What the numbers of the first output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Logits,
    Probabilities,
    Logarithms,
    /// Probabilities, each for itself.
    Binary,
}

fn form(network: &Network) -> Form {
    let graph = network.graph();
    let last = graph.outputs.first().and_then(|port| graph.producer(port.value));
    match last {
        Some((_, node)) if node.is("Softmax") => Form::Probabilities,
        Some((_, node)) if node.is("Sigmoid") => Form::Binary,
        Some((_, node)) if node.is("LogSoftmax") => Form::Logarithms,
        _ => Form::Logits,
    }
}

/// Mean over samples.
///
/// # Errors
/// When labels do not fit the answers.
pub fn loss(
    network: &Network,
    answers: &Answers,
    data: &Dataset,
    numbers: &[usize],
    reference: &Answers,
) -> Result<f64, Error> {
    let form = form(network);
    // What has a label and what has none are no one number.
    let labelled = numbers.iter().all(|&number| data.label(number).is_some());
    let mut sum = 0.0;
    for ((own, &number), before) in answers.each().iter().zip(numbers).zip(reference.each()) {
        sum += match data.label(number).filter(|_| labelled) {
            Some(Label::Class(class)) => of_class(form, own, *class).ok_or_else(|| {
                Error::unfit(format!(
                    "sample {number} is of class {class}, and the first output has {} values",
                    own.len()
                ))
            })?,
            Some(Label::Values(values)) if values.len() == own.len() => {
                let off = own.iter().zip(values).map(|(own, &value)| (own - f64::from(value)).powi(2));
                off.sum::<f64>() / own.len().max(1) as f64
            }
            Some(Label::Values(_)) => {
                return Err(Error::unfit(format!("sample {number} has another number of values")));
            }
            None => {
                let off: f64 = own.iter().zip(before).map(|(own, before)| (own - before).powi(2)).sum();
                off / before.iter().map(|before| before * before).sum::<f64>().max(1e-12)
            }
        };
    }
    Ok(sum / answers.len().max(1) as f64)
}

/// Of probabilities that are no larger than this, the logarithm of it: one answer shall not make all of the loss.
const LEAST: f64 = 1e-12;

fn of_class(form: Form, values: &[f64], class: usize) -> Option<f64> {
    if let [one] = values {
        let yes = if form == Form::Logits { 1.0 / (1.0 + (-one).exp()) } else { *one };
        return (class < 2).then(|| -(if class == 1 { yes } else { 1.0 - yes }).max(LEAST).ln());
    }
    let own = *values.get(class)?;
    Some(match form {
        Form::Binary => {
            let share = |at: usize| if at == class { values[at] } else { 1.0 - values[at] };
            (0..values.len()).map(|at| -share(at).max(LEAST).ln()).sum::<f64>() / values.len() as f64
        }
        Form::Probabilities => -own.max(LEAST).ln(),
        Form::Logarithms => -own,
        Form::Logits => {
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            most + values.iter().map(|value| (value - most).exp()).sum::<f64>().ln() - own
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_an_answer_have_one_loss() {
        let logits = [1.0_f64, 2.0, 0.5];
        let sum: f64 = logits.iter().map(|value| value.exp()).sum();
        let shares = logits.map(|value| value.exp() / sum);
        let expected = -shares[2].ln();
        for (form, values) in
            [(Form::Logits, logits), (Form::Probabilities, shares), (Form::Logarithms, shares.map(f64::ln))]
        {
            let loss = of_class(form, &values, 2).unwrap();
            assert!((loss - expected).abs() < 1e-12, "{form:?}: {loss} for {expected}");
        }
        assert_eq!(of_class(Form::Logits, &logits, 3), None);
        let binary = of_class(Form::Binary, &[0.25, 0.5, 0.25], 1).unwrap();
        assert!((binary + (0.75_f64.ln() + 0.5_f64.ln() + 0.75_f64.ln()) / 3.0).abs() < 1e-12, "{binary}");
        assert!((of_class(Form::Logits, &[0.0], 1).unwrap() - 2.0_f64.ln()).abs() < 1e-12);
    }
}
