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
pub(super) fn labels(path: &Path, classes: &[String]) -> Result<Vec<Label>, DataError> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        let array = super::arrays::npy(path)?;
        let labels = super::arrays::of_labels(&array).map_err(|problem| form(path, problem))?;
        return Ok(labels.into_iter().flatten().collect());
    }
    let bytes = super::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| form(path, "it is no text: a label each line is expected"))?;
    let words: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    Ok(of_words(path, &words, classes)?.0.into_iter().flatten().collect())
}

type Labels = (Vec<Option<Label>>, Vec<String>);

/// Numbers of classes; or fractions, which are values; or names, in the order of `classes` or else the alphabet.
fn of_words(path: &Path, words: &[String], classes: &[String]) -> Result<Labels, DataError> {
    if let Some(numbers) = words.iter().map(|word| word.parse::<usize>().ok()).collect::<Option<Vec<_>>>() {
        return Ok((numbers.into_iter().map(|number| Some(Label::Class(number))).collect(), classes.to_vec()));
    }
    if let Some(values) = words.iter().map(|word| word.parse::<f32>().ok()).collect::<Option<Vec<_>>>() {
        return Ok((values.into_iter().map(|value| Some(Label::Values(vec![value]))).collect(), classes.to_vec()));
    }
    let names = match classes.is_empty() {
        true => words.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
        false => classes.to_vec(),
    };
    let number = |word: &String| {
        let at = names.iter().position(|name| name == word);
        at.map(|at| Some(Label::Class(at)))
            .ok_or_else(|| form(path, format!("{word:?} is none of the model's classes {names:?}")))
    };
    Ok((words.iter().map(number).collect::<Result<_, _>>()?, names))
}
