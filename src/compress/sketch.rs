//! Graphs by hand, for tests.

use super::Network;
use super::data::{Dataset, Reading};
use crate::engine::Shapes;
use crate::onnx::graph::{Attribute, Declared, Dim, Model, Node, Port, ValueId};
use crate::onnx::normalise::OPSET;
use crate::onnx::{ElementType, Tensor};
use std::collections::BTreeMap;

/// A graph that is being built.
pub struct Sketch(pub Model);

impl Sketch {
    pub fn new(inputs: &[(&str, &[usize])]) -> Self {
        let mut model = Model { ir_version: 10, opsets: BTreeMap::from([(String::new(), OPSET)]), ..Model::default() };
        for (name, shape) in inputs {
            let shape = Some(shape.iter().map(|&size| Dim::Size(size)).collect());
            model.graph.add_input(name, Some(Declared::Tensor { element: Some(ElementType::F32), shape }));
        }
        Self(model)
    }

    pub fn input(&self, at: usize) -> ValueId {
        self.0.graph.inputs[at].value
    }

    /// Weights that look random, about 0.
    pub fn weights(&mut self, shape: &[usize], size: f64) -> ValueId {
        let count = shape.iter().product::<usize>();
        let values: Vec<f64> =
            (0..count).map(|i| ((i as f64 * 0.754_877 + count as f64 * 0.31).fract() - 0.5) * size).collect();
        self.0.graph.add_constant("w", Tensor::from_f64s(ElementType::F32, shape.to_vec(), &values).unwrap())
    }

    pub fn node(&mut self, op: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let output = self.0.graph.add_value(&format!("{op}_out"));
        self.0.graph.add_node(Node {
            name: format!("{op}{}", output.index()),
            op: op.into(),
            domain: String::new(),
            version: OPSET,
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    pub fn conv(&mut self, input: ValueId, weights: &[usize], group: i64) -> ValueId {
        let weight = self.weights(weights, 1.0);
        let bias = self.weights(&weights[..1], 0.5);
        let pads: Vec<i64> = weights[2..].iter().chain(&weights[2..]).map(|&size| size as i64 / 2).collect();
        self.node("Conv", &[input, weight, bias], &[("group", Attribute::Int(group)), ("pads", Attribute::Ints(pads))])
    }

    /// With BatchNormalizations folded.
    pub fn network(self, output: ValueId) -> Network {
        let kept = self.network_with_norms(output);
        Network::with_ends(&kept.encode().unwrap(), kept.inputs, kept.outputs).unwrap()
    }

    /// Whole numbers as a constant.
    pub fn ints(&mut self, values: &[i64]) -> ValueId {
        self.0.graph.add_constant("i", Tensor::from_i64s(ElementType::I64, vec![values.len()], values).unwrap())
    }

    /// With its BatchNormalizations.
    pub fn network_with_norms(mut self, output: ValueId) -> Network {
        let port = Port {
            name: "y".into(),
            value: output,
            declared: Some(Declared::Tensor { element: Some(ElementType::F32), shape: None }),
        };
        self.0.graph.outputs.push(port);
        let file = prost::Message::encode_to_vec(&self.0.to_proto().unwrap());
        let ends = crate::engine::Ends::of(&file, &Shapes::new()).unwrap();
        Network::with_norms(&file, ends.inputs, ends.outputs).unwrap()
    }
}

/// Random values for the first input, as a file of samples.
pub fn noise(network: &Network, samples: usize) -> Dataset {
    let spec = &network.inputs[0];
    let count = spec.shape.iter().product::<usize>();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noise.csv");
    let value = |i: usize| format!("{:.5}", (i as f64 * 0.618_034).fract() * 2.0 - 1.0);
    let line = |sample: usize| (0..count).map(|i| value(sample * count + i)).collect::<Vec<_>>().join(",");
    std::fs::write(&path, (0..samples).map(|sample| line(sample) + "\n").collect::<String>()).unwrap();
    Dataset::open(&path, &network.inputs, &Reading::default()).unwrap()
}
