//! What training makes small.
//!
//! Shapes: answers are `[samples, classes]` where labels are classes, `[samples, ...]` where they are values.

use super::ops::apply;
use super::ops::norm::Softmax;
use crate::compress::data::Label;
use crate::compress::{Error, Network};
use crate::onnx::graph::ValueId;
use candle_core::{Device, Result, Tensor, bail};

/// Where the loss is taken: the value before a Softmax that ends the model, which would only be undone.
pub fn logits(network: &Network) -> Option<(ValueId, bool)> {
    let graph = network.graph();
    let output = graph.outputs.first()?.value;
    // Moves and rounding behind it change nothing that matters here.
    const BEHIND: [&str; 8] =
        ["Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"];
    let mut last = output;
    while let Some((_, node)) = graph.producer(last).filter(|(_, node)| BEHIND.contains(&node.op.as_str())) {
        last = node.input(0)?;
    }
    let is_end = graph.producer(last).is_some_and(|(_, node)| node.is("Softmax") || node.is("LogSoftmax"));
    let output = if is_end { last } else { output };
    Some(match graph.producer(output) {
        Some((_, node)) if node.is("Softmax") => (node.input(0)?, false),
        Some((_, node)) if node.is("LogSoftmax") => (output, true),
        _ => (output, false),
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

/// The loss by labels: cross-entropy for classes, squared error for values.
///
/// # Errors
/// When a label is missing, or does not fit.
pub fn by_labels(
    answers: &Tensor,
    is_log: bool,
    labels: &[Option<Label>],
    smoothing: f32,
) -> std::result::Result<Tensor, Error> {
    let answers = rows(answers)?;
    let class = |label: &Option<Label>| if let Some(Label::Class(class)) = label { Some(*class) } else { None };
    if let Some(classes) = labels.iter().map(class).collect::<Option<Vec<_>>>() {
        let width = answers.dims2()?.1;
        if let Some(class) = classes.iter().find(|class| **class >= width) {
            let what = format!("a label is class {class}, and the model gives {width} values: classes count from 0");
            return Err(Error::unfit(what));
        }
        let log = if is_log { answers } else { log_softmax(&answers)? };
        return Ok(cross_entropy(&log, &classes, smoothing)?);
    }
    let values =
        |label: &Option<Label>| if let Some(Label::Values(values)) = label { Some(values.clone()) } else { None };
    let Some(values) = labels.iter().map(values).collect::<Option<Vec<_>>>() else {
        return Err(Error::unfit("training needs a label for each sample: classes, or values for each"));
    };
    let width = answers.dims2()?.1;
    if let Some(given) = values.iter().find(|values| values.len() != width) {
        let what = format!("a label of {} values does not fit a model that gives {width}", given.len());
        return Err(Error::unfit(what));
    }
    let target: Vec<f32> = values.into_iter().flatten().collect();
    let target = Tensor::from_vec(target, answers.dims(), &Device::Cpu)?;
    Ok(mean_squared(&answers, &target)?)
}
