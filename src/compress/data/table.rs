//! Samples and labels as lines of text.

use super::{DataError, Dataset, Label, Reading, Rows, form, tensor_of};
use crate::tensor::TensorSpec;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const LABELS: [&str; 3] = ["label", "class", "target"];

/// A sample each line. A first line with words in it is a heading; the column named `label` is one, or else the last
/// where there is one column more than the input has values.
pub(super) fn csv(path: &Path, specs: &[TensorSpec], reading: &Reading) -> Result<Dataset, DataError> {
    let [spec] = specs else {
        return Err(form(path, format!("the model has {} inputs, and a csv file gives one: use npz", specs.len())));
    };
    let width = spec.shape.iter().product::<usize>();
    let text = super::read(path)?;
    let mut lines =
        csv::ReaderBuilder::new().has_headers(false).flexible(false).trim(csv::Trim::All).from_reader(&text[..]);
    let (mut values, mut labels, mut label_at) = (Vec::new(), Vec::new(), None);
    for (number, line) in lines.records().enumerate() {
        let line = line.map_err(|error| form(path, error.to_string()))?;
        if number == 0 {
            label_at = line.iter().position(|cell| LABELS.contains(&cell.to_ascii_lowercase().as_str()));
            label_at = label_at.or((line.len() == width + 1).then_some(width));
            if line.len() != width + usize::from(label_at.is_some()) {
                let problem = format!("there are {} columns; input {:?} takes {width} values", line.len(), spec.name);
                return Err(form(path, problem));
            }
            // No cell is a number: names of columns.
            if line.iter().all(|cell| cell.parse::<f32>().is_err()) {
                continue;
            }
        }
        for (column, cell) in line.iter().enumerate() {
            match Some(column) == label_at {
                true => labels.push(cell.to_owned()),
                false => values.push(cell.parse::<f64>().map_err(|_| {
                    form(path, format!("line {}, column {}: {cell:?} is no number", number + 1, column + 1))
                })?),
            }
        }
    }
    let samples = values.len() / width.max(1);
    let shape = std::iter::once(samples).chain(spec.shape.iter().copied()).collect();
    let scale = f64::from(reading.scale.unwrap_or(1.0));
    let scaled: Vec<f64> = values.iter().map(|value| value * scale).collect();
    let array = tensor_of(spec.datatype, shape, &scaled);
    let array = array.ok_or_else(|| form(path, format!("a value is none of type {}", spec.datatype)))?;
    let (labels, classes) = match label_at {
        Some(_) => of_words(path, &labels, &reading.classes)?,
        None => (vec![None; samples], reading.classes.clone()),
    };
    let rows = Arc::new(Rows::Arrays { arrays: vec![array], scale: 1.0 });
    Ok(Dataset { path: path.into(), specs: specs.to_vec(), rows, labels, classes, layout: None })
}

/// Labels of a file of their own.
pub(super) fn labels(path: &Path, classes: &[String]) -> Result<Vec<Option<Label>>, DataError> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        let array = super::arrays::npy(path)?;
        let labels = super::arrays::of_labels(&array).map_err(|problem| form(path, problem))?;
        return Ok(labels);
    }
    let bytes = super::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| form(path, "it is no text: a label each line is expected"))?;
    let words: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    Ok(of_words(path, &words, classes)?.0)
}

type Labels = (Vec<Option<Label>>, Vec<String>);

/// Numbers of classes; or fractions, which are values; or names, in the order of `classes` or else the alphabet. What is empty
/// is no label.
fn of_words(path: &Path, words: &[String], classes: &[String]) -> Result<Labels, DataError> {
    let stated = || words.iter().filter(|word| !word.is_empty());
    let each = |label: &dyn Fn(&String) -> Option<Label>| -> Vec<Option<Label>> {
        words.iter().map(|word| if word.is_empty() { None } else { label(word) }).collect()
    };
    if stated().all(|word| word.parse::<usize>().is_ok()) {
        return Ok((each(&|word| word.parse().ok().map(Label::Class)), classes.to_vec()));
    }
    let value = |word: &String| word.parse::<f32>().ok();
    if stated().all(|word| value(word).is_some()) {
        if let Some(word) = stated().find(|word| value(word).is_some_and(|value| !value.is_finite())) {
            return Err(form(path, format!("a label is {word:?}: leave it empty where there is none")));
        }
        return Ok((each(&|word| value(word).map(|value| Label::Values(vec![value]))), classes.to_vec()));
    }
    let names: Vec<String> = match classes.is_empty() {
        true => stated().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
        false => classes.to_vec(),
    };
    let place = |word: &String| names.iter().position(|name| name == word);
    if let Some(word) = stated().find(|word| place(word).is_none()) {
        return Err(form(path, format!("{word:?} is none of the model's classes {names:?}")));
    }
    Ok((each(&|word| place(word).map(Label::Class)), names))
}
