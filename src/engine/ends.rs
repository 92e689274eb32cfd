//! The inputs and outputs of an ONNX file that comes without a manifest.
//!
//! Invariant: what is given back is concrete; every dimension that was assumed is told.
//! Not here: whether the model loads with them (`model`).

use super::backend::{Program, Typed};
use super::graph;
use super::model::{LoadError, Model, Pace, Side};
use crate::onnx::graph::{Declared, Dim, Port};
use crate::onnx::shapes::Facts;
use crate::onnx::{self, ElementType, Encoded, Limits};
use crate::tensor::{DataType, TensorSpec};
use std::collections::{BTreeMap, BTreeSet};

/// Shapes by name of an input, or of an output whose shape cannot be known.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// What a file takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// Inputs whose first dimension the file leaves open: it is 1 here.
    pub assumed: Vec<String>,
}

/// Why they cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum EndsError {
    #[error(transparent)]
    Read(#[from] onnx::ReadError),
    #[error(transparent)]
    Normalise(#[from] onnx::normalise::NormaliseError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("input {name:?} has the shape {shape}: state one")]
    Open {
        name: String,
        shape: String,
        /// A shape as it could be.
        example: String,
    },
    #[error("{side} {name:?} holds {found}, which the engine cannot take")]
    Element { side: Side, name: String, found: String },
    #[error("the shape of output {0:?} depends on the input's values: state one")]
    Unknown(String),
    #[error("the model has no input or output {name:?}; its inputs are {inputs:?}")]
    NoSuch { name: String, inputs: Vec<String> },
}

impl Ends {
    /// Reads what the file declares, with the stated shapes in place of open ones.
    ///
    /// # Errors
    /// When it is no ONNX file, or leaves open what is not stated.
    pub fn of<'a>(file: impl Into<Encoded<'a>>, stated: &Shapes) -> Result<Self, EndsError> {
        let file = file.into();
        // Errors of either kind come out of the thread.
        Model::apart(file, || Ok(find(file, stated, None)))?
    }

    /// As `of`, of some outputs alone.
    pub(super) fn of_outputs(
        file: Encoded<'_>,
        stated: &Shapes,
        outputs: &[String],
        pace: Pace,
    ) -> Result<Self, EndsError> {
        Model::apart_at(pace, file, || Ok(find(file, stated, Some(outputs))))?
    }
}

fn find(file: Encoded<'_>, stated: &Shapes, wanted: Option<&[String]>) -> Result<Ends, EndsError> {
    let limits = Limits { nodes: graph::MAX_NODES, ..Limits::default() };
    let mut model = onnx::Model::from_parts(file, &limits)?;
    if let Some(wanted) = wanted {
        model.graph.outputs.retain(|port| wanted.contains(&port.name));
    }
    check_names(&model, stated)?;
    let mut assumed = Vec::new();
    let inputs: Vec<TensorSpec> =
        model.graph.inputs.iter().map(|port| input(port, stated, &mut assumed)).collect::<Result<_, _>>()?;
    let shapes = inputs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let facts = onnx::normalise::normalise(&mut model, &shapes)?;
    let known = |port: &Port| output(port, &facts, stated);
    let outputs: Vec<(String, Option<TensorSpec>)> =
        model.graph.outputs.iter().map(|port| (port.name.clone(), known(port))).collect();
    let outputs = if outputs.iter().all(|(_, spec)| spec.is_some()) {
        outputs.into_iter().filter_map(|(_, spec)| spec).collect()
    } else {
        by_typing(file, &inputs, outputs, stated)?
    };
    Ok(Ends { inputs, outputs, assumed })
}

fn check_names(model: &onnx::Model, stated: &Shapes) -> Result<(), EndsError> {
    let names: BTreeSet<&str> =
        model.graph.inputs.iter().chain(&model.graph.outputs).map(|port| port.name.as_str()).collect();
    match stated.keys().find(|name| !names.contains(name.as_str())) {
        Some(name) => {
            let inputs = model.graph.inputs.iter().map(|port| short(&port.name)).take(64).collect();
            Err(EndsError::NoSuch { name: short(name), inputs })
        }
        None => Ok(()),
    }
}

fn input(port: &Port, stated: &Shapes, assumed: &mut Vec<String>) -> Result<TensorSpec, EndsError> {
    let name = port.name.clone();
    let element = |found: String| EndsError::Element { side: Side::Input, name: short(&name), found };
    let (datatype, declared) = match &port.declared {
        Some(Declared::Tensor { element: Some(kind), shape }) => {
            (datatype(*kind).ok_or_else(|| element(kind.to_string()))?, shape)
        }
        Some(Declared::Tensor { element: None, .. }) => return Err(element("an unknown type".into())),
        Some(Declared::Other(_)) => return Err(element("no tensor".into())),
        None => return Err(element("nothing that the file tells".into())),
    };
    if let Some(shape) = stated.get(&port.name) {
        return Ok(TensorSpec::new(name, datatype, shape.clone()));
    }
    let open = |shape: String, example: String| EndsError::Open { name: short(&name), shape, example };
    let Some(dims) = declared else { return Err(open("that the file does not tell".into(), "1x3x224x224".into())) };
    let size = |(axis, dim): (usize, &Dim)| dim.size().or((axis == 0).then_some(1));
    let shape: Option<Vec<usize>> = dims.iter().enumerate().map(size).collect();
    let shape = shape.ok_or_else(|| open(shown(dims), example(dims)))?;
    if dims.first().is_some_and(|dim| dim.size().is_none()) {
        assumed.push(short(&name));
    }
    Ok(TensorSpec::new(name, datatype, shape))
}

fn output(port: &Port, facts: &Facts, stated: &Shapes) -> Option<TensorSpec> {
    let shape = facts.shape(port.value).or_else(|| stated.get(&port.name).cloned())?;
    Some(TensorSpec::new(port.name.clone(), datatype(facts.element(port.value)?)?, shape))
}

/// The other front end may know more of some operators.
fn by_typing(
    file: Encoded<'_>,
    inputs: &[TensorSpec],
    outputs: Vec<(String, Option<TensorSpec>)>,
    stated: &Shapes,
) -> Result<Vec<TensorSpec>, EndsError> {
    // Of these the name alone is looked at.
    let named: Vec<TensorSpec> =
        outputs.iter().map(|(name, _)| TensorSpec::new(name.clone(), DataType::Fp32, vec![])).collect();
    let typed = Program::outputs(&graph::read(file, 0, inputs, &named)?)?;
    let one = |((name, known), typed): ((String, Option<TensorSpec>), Typed)| {
        if let Some(known) = known {
            return Ok(known);
        }
        let (datatype, shape) = typed.ok_or_else(|| EndsError::Element {
            side: Side::Output,
            name: short(&name),
            found: "a type of its own".into(),
        })?;
        let shape = shape.or_else(|| stated.get(&name).cloned()).ok_or_else(|| EndsError::Unknown(short(&name)))?;
        Ok(TensorSpec::new(name, datatype, shape))
    };
    outputs.into_iter().zip(typed).map(one).collect()
}

fn datatype(element: ElementType) -> Option<DataType> {
    graph::from_onnx(element.to_onnx())
}

/// Sizes in place of what is open.
fn example(dims: &[Dim]) -> String {
    let size = |(axis, dim): (usize, &Dim)| dim.size().unwrap_or(if axis == 0 { 1 } else { 224 }).to_string();
    dims.iter().take(16).enumerate().map(size).collect::<Vec<_>>().join("x")
}

fn shown(dims: &[Dim]) -> String {
    let dim = |dim: &Dim| match dim {
        Dim::Size(size) => size.to_string(),
        Dim::Symbol(name) => short(name).escape_debug().to_string(),
        Dim::Unknown => "?".to_owned(),
    };
    format!("[{}]", dims.iter().take(16).map(dim).collect::<Vec<_>>().join(", "))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{FLOAT, model, node, spec, unary, value};
    use super::*;

    const INT64: u64 = 7;

    #[test]
    fn what_the_file_states_is_taken_and_an_open_batch_is_one() {
        let ends = Ends::of(&unary("Relu"), &Shapes::new()).unwrap();
        // The file's own shape of the output is stale.
        assert_eq!((ends.inputs, ends.outputs), (vec![spec("x", &[1, 4])], vec![spec("y", &[1, 4])]));
        assert_eq!(ends.assumed, ["x"]);
        let stated = Ends::of(&unary("Relu"), &Shapes::from([("x".into(), vec![3, 4])])).unwrap();
        assert_eq!((stated.outputs[0].shape.as_slice(), stated.assumed.len()), (&[3, 4][..], 0));
    }

    #[test]
    fn what_depends_on_values_is_asked_for_and_taken_as_stated() {
        let onnx = model(&[
            node("NonZero", &["x"], &["y"], &[]),
            value(11, "x", FLOAT, &["4"]),
            value(12, "y", INT64, &["1", "n"]),
        ]);
        let told = Ends::of(&onnx, &Shapes::new()).unwrap_err();
        assert!(matches!(&told, EndsError::Unknown(name) if name == "y"), "{told}");
        let stated = Ends::of(&onnx, &Shapes::from([("y".into(), vec![1, 2])])).unwrap();
        let y = TensorSpec::new("y", DataType::Int64, vec![1, 2]);
        assert_eq!(stated.outputs, [y]);
    }

    #[test]
    fn hostile_files_end_in_errors() {
        for file in [&b""[..], b"\xff\xff\xff\xff", &unary("Relu")[..20]] {
            assert!(Ends::of(file, &Shapes::new()).is_err());
        }
        let open =
            model(&[node("Relu", &["x"], &["y"], &[]), value(11, "x", FLOAT, &["1", "w"]), value(12, "y", FLOAT, &[])]);
        let told = Ends::of(&open, &Shapes::new()).unwrap_err();
        assert!(
            matches!(&told, EndsError::Open { shape, example, .. } if shape == "[1, w]" && example == "1x224"),
            "{told}"
        );
        let huge = Shapes::from([("x".into(), vec![usize::MAX, usize::MAX])]);
        // Whoever loads it checks sizes; nothing here takes memory for them.
        let _ = Ends::of(&open, &huge);
        assert!(matches!(Ends::of(&open, &Shapes::from([("z".into(), vec![1])])), Err(EndsError::NoSuch { .. })));
    }
}
