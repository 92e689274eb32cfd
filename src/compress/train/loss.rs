//! What training makes small.
//!
//! Shapes: answers are `[samples, classes]` where labels are classes, `[samples, ...]` where they are values.

use super::ops::apply;
use super::ops::norm::Softmax;
use super::ops::unary::Unary;
use crate::compress::data::Label;
use crate::compress::{Error, Network};
use crate::onnx::graph::ValueId;
use candle_core::{Device, Result, Tensor, bail};

/// What the numbers are that a loss is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What a Softmax makes probabilities of; or values.
    Logits,
    /// Logarithms of probabilities.
    Logarithms,
    /// What a Sigmoid makes a probability of, each for itself.
    Binary,
}

/// Where the loss is taken: the value before a Softmax or Sigmoid that ends the model, which would only be undone.
pub fn logits(network: &Network) -> Option<(ValueId, Form)> {
    let graph = network.graph();
    let output = graph.outputs.first()?.value;
    // Moves and rounding behind it change nothing that matters here.
    const BEHIND: [&str; 8] =
        ["Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"];
    let mut last = output;
    while let Some((_, node)) = graph.producer(last).filter(|(_, node)| BEHIND.contains(&node.op.as_str())) {
        last = node.input(0)?;
    }
    Some(match graph.producer(last) {
        Some((_, node)) if node.is("Softmax") => (node.input(0)?, Form::Logits),
        Some((_, node)) if node.is("Sigmoid") => (node.input(0)?, Form::Binary),
        Some((_, node)) if node.is("LogSoftmax") => (last, Form::Logarithms),
        _ => (output, Form::Logits),
    })
}

/// `[samples, rest]`.
///
/// # Errors
/// When there is nothing in it.
pub fn rows(answers: &Tensor) -> Result<Tensor> {
    let samples = answers.dims().first().copied().unwrap_or(1);
    answers.contiguous()?.reshape((samples, answers.elem_count() / samples.max(1)))
}

/// Logarithms of probabilities over the last dimension.
///
/// # Errors
/// When the tensor is no FLOAT.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let width = x.dims().last().copied().unwrap_or(1);
    apply(Softmax { width, log: true }, &[x])
}

/// Mean negative log-likelihood of classes, `smoothing` of each label spread over all classes (Szegedy et al. 2016,
/// arXiv:1512.00567); `log` holds logarithms of probabilities, `[samples, classes]`.
///
/// # Errors
/// When a class is none of the model's.
pub fn cross_entropy(log: &Tensor, classes: &[usize], smoothing: f32) -> Result<Tensor> {
    let (samples, width) = log.dims2()?;
    if let Some(class) = classes.iter().find(|class| **class >= width) {
        bail!("class {class} is none of the model's {width}");
    }
    let rest = smoothing / width as f32;
    let mut target = vec![rest; samples * width];
    classes.iter().enumerate().for_each(|(sample, class)| target[sample * width + class] += 1.0 - smoothing);
    let target = Tensor::from_vec(target, (samples, width), &Device::Cpu)?;
    (log * target)?.sum_all()? * (-1.0 / samples as f64)
}

/// Mean squared difference.
///
/// # Errors
/// When shapes differ.
pub fn mean_squared(answers: &Tensor, target: &Tensor) -> Result<Tensor> {
    (answers - target)?.sqr()?.mean_all()
}

/// Mean over outputs of binary cross-entropy, `[samples, outputs]` each; targets are from 0 to 1.
///
/// # Errors
/// When shapes differ.
pub fn binary(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    (Unary::Softplus.apply(logits)? - (logits * targets)?)?.mean_all()
}

/// The loss by labels: cross-entropy for classes, binary where a Sigmoid ends the model, squared error for other values.
///
/// # Errors
/// When a label is missing, or does not fit.
pub fn by_labels(
    answers: &Tensor,
    form: Form,
    labels: &[Option<Label>],
    smoothing: f32,
) -> std::result::Result<Tensor, Error> {
    let answers = rows(answers)?;
    let width = answers.dims2()?.1;
    labels.iter().flatten().try_for_each(|label| check_label(label, width, form))?;
    let class = |label: &Option<Label>| if let Some(Label::Class(class)) = label { Some(*class) } else { None };
    if let Some(classes) = labels.iter().map(class).collect::<Option<Vec<_>>>() {
        if form == Form::Binary {
            return Ok(binary(&answers, &one_hot(&classes, width, smoothing)?)?);
        }
        let log = if form == Form::Logarithms { answers } else { log_softmax(&answers)? };
        return Ok(cross_entropy(&log, &classes, smoothing)?);
    }
    let values =
        |label: &Option<Label>| if let Some(Label::Values(values)) = label { Some(values.clone()) } else { None };
    let Some(values) = labels.iter().map(values).collect::<Option<Vec<_>>>() else {
        return Err(Error::unfit("training needs a label for each sample: classes, or values for each"));
    };
    let target: Vec<f32> = values.into_iter().flatten().collect();
    let target = Tensor::from_vec(target, answers.dims(), &Device::Cpu)?;
    Ok(if form == Form::Binary { binary(&answers, &target)? } else { mean_squared(&answers, &target)? })
}

/// Whether a label is one that a model of so many outputs can give.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn check_label(label: &Label, width: usize, form: Form) -> std::result::Result<(), Error> {
    let what = match label {
        Label::Class(_) if width == 1 && form != Form::Binary => {
            "labels are classes, and the model gives one value that no Sigmoid makes a probability: end it with one, or give \
             labels with a decimal point (0.0, 1.0), to be learnt as values"
                .to_owned()
        }
        Label::Class(class) if *class >= width.max(2) => {
            format!("a label is class {class}, and the model gives {width} values: classes count from 0")
        }
        Label::Values(given) if given.len() != width => {
            format!("a label of {} values does not fit a model that gives {width}", given.len())
        }
        Label::Values(given) if form == Form::Binary && !given.iter().all(|value| (0.0..=1.0).contains(value)) => {
            "a label is not from 0 to 1, which is all that the Sigmoid at the model's end gives: scale the labels".into()
        }
        Label::Class(_) | Label::Values(_) => return Ok(()),
    };
    Err(Error::unfit(what))
}

/// 1 for the class and 0 for others, `smoothing` of the way to a half; of one output whether it is class 1.
fn one_hot(classes: &[usize], width: usize, smoothing: f32) -> Result<Tensor> {
    let is = |class: usize, at: usize| if width == 1 { class == 1 } else { class == at };
    let target = |class: usize, at: usize| if is(class, at) { 1.0 - smoothing / 2.0 } else { smoothing / 2.0 };
    let targets = classes.iter().flat_map(|&class| (0..width).map(move |at| target(class, at))).collect();
    Tensor::from_vec(targets, (classes.len(), width), &Device::Cpu)
}
