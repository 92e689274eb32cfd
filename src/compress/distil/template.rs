//! Students to start from: small networks of common forms, with the ends of their teacher.
//!
//! Invariant: standard ONNX; the same seed makes the same weights (uniform, of the variance of He et al. 2015,
//! arXiv:1502.01852).
//! Not here: networks for detection or segmentation; any ONNX file can be a student.
//!
//! Values to hang hints on: `stem`, `block1`, `block2` … after their ReLU, `features` before the last product, `logits`.

use crate::compress::data::mix;
use crate::compress::train::loss::{Form, logits};
use crate::compress::{Error, Network};
use crate::onnx::graph::{Attribute, Graph, Model, Node, ValueId};
use crate::onnx::normalise::OPSET;
use crate::onnx::{ElementType, Tensor};
use crate::tensor::DataType;
use prost::Message as _;
use std::collections::BTreeMap;

/// What kind of network, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    pub kind: Kind,
    /// Channels after the first layer.
    pub width: usize,
    /// Blocks after it.
    pub depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Images `[1, C, H, W]` or `[1, H, W, C]`: convolutions by channel and point (Howard et al. 2017, arXiv:1704.04861).
    Image,
    /// Series and sounds `[1, C, L]`, `[1, L, C]` or `[1, L]`: the same along one dimension.
    Series,
    /// Rows of a table, any shape: layers of products.
    Table,
}

const EXPECTED: &str = "image, series or table is expected, with a width from 1 to 1024 and a depth from 1 to 16 if need be, as in \
                        image:16:3";

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (kind, width, depth) = match parts.next() {
            Some("image") => (Kind::Image, 16, 3),
            Some("series") => (Kind::Series, 16, 3),
            Some("table") => (Kind::Table, 64, 2),
            Some(_) | None => return Err(EXPECTED.into()),
        };
        let mut size = |usual: usize, most: usize| match parts.next().map(str::parse) {
            None => Ok(usual),
            Some(Ok(size)) if (1..=most).contains(&size) => Ok(size),
            Some(Ok(_) | Err(_)) => Err(EXPECTED.to_owned()),
        };
        let made = Self { kind, width: size(width, 1024)?, depth: size(depth, 16)? };
        if parts.next().is_some() { Err(EXPECTED.into()) } else { Ok(made) }
    }
}

/// Makes a student that takes and gives what the teacher does.
///
/// # Errors
/// When the teacher has several inputs or outputs, or its input is none for such a network.
pub fn student(template: Template, teacher: &Network, seed: u64) -> Result<Network, Error> {
    let ([input], [output]) = (&teacher.inputs[..], &teacher.outputs[..]) else {
        let (inputs, outputs) = (teacher.inputs.len(), teacher.outputs.len());
        return Err(Error::unfit(format!(
            "templates have one input and one output, this teacher {inputs} and {outputs}: give a student as a file"
        )));
    };
    if input.datatype != DataType::Fp32 || output.datatype != DataType::Fp32 {
        let what = format!("templates take and give FP32, this teacher {} and {}", input.form(), output.form());
        return Err(Error::unfit(format!("{what}: give a student as a file")));
    }
    let ports = &teacher.graph().inputs[0];
    let opsets = BTreeMap::from([(String::new(), OPSET)]);
    let mut model = Model { ir_version: 10, opsets, producer: "selvedge".into(), ..Model::default() };
    let start = model.graph.add_input(&ports.name, ports.declared.clone());
    // ONNX wants one.
    model.graph.name = "student".into();
    let mut builder = Builder { graph: model.graph, seed };
    let (value, shape) = builder.prepared(template.kind, start, &input.shape)?;
    let (value, width) = match template.kind {
        Kind::Image | Kind::Series => builder.convolutions(template, value, &shape),
        Kind::Table => builder.products(template, value, shape[1]),
    };
    builder.answer(teacher, value, width, &output.shape);
    model.graph = builder.graph;
    let file = model.to_proto()?.encode_to_vec();
    Network::with_norms(&file, teacher.inputs.clone(), teacher.outputs.clone())
}

struct Builder {
    graph: Graph,
    seed: u64,
}

fn ints(values: &[usize]) -> Attribute {
    Attribute::Ints(values.iter().map(|&value| value as i64).collect())
}

impl Builder {
    fn node(&mut self, name: &str, op: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let output = self.graph.add_value(name);
        self.graph.add_node(Node {
            name: format!("{name}/{op}"),
            op: op.into(),
            domain: String::new(),
            version: OPSET,
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    /// Output channels first.
    fn weights(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let reads: usize = shape.iter().skip(1).product();
        let bound = (6.0 / reads.max(1) as f32).sqrt();
        self.seed = mix(self.seed);
        let random = |at: usize| (mix(self.seed ^ at as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(|at| bound * random(at)).collect();
        self.graph.add_constant(name, floats(shape, &values))
    }

    fn all(&mut self, name: &str, count: usize, value: f32) -> ValueId {
        self.graph.add_constant(name, floats(&[count], &vec![value; count]))
    }

    fn shaped(&mut self, name: &str, value: ValueId, shape: &[usize]) -> ValueId {
        // Of any number of samples.
        let dims: Vec<i64> = std::iter::once(-1).chain(shape.iter().skip(1).map(|&size| size as i64)).collect();
        let dims = Tensor::from_i64s(ElementType::I64, vec![dims.len()], &dims).expect("as many as there are");
        let dims = self.graph.add_constant(&format!("{name}/shape"), dims);
        self.node(name, "Reshape", &[value, dims], &[])
    }

    /// Channels second, as convolutions read it; of a table the columns.
    fn prepared(&mut self, kind: Kind, value: ValueId, shape: &[usize]) -> Result<(ValueId, Vec<usize>), Error> {
        let unfit = |expected: &str| {
            Error::unfit(format!("this template takes {expected}, and the teacher's input has the shape {shape:?}"))
        };
        match (kind, shape) {
            (Kind::Image, &[1, high, wide, channels]) if channels <= 4 && high > 4 => {
                let turned = self.node("input", "Transpose", &[value], &[("perm", ints(&[0, 3, 1, 2]))]);
                Ok((turned, vec![1, channels, high, wide]))
            }
            (Kind::Image, [1, _, _, _]) => Ok((value, shape.to_vec())),
            (Kind::Image, _) => Err(unfit("images [1, C, H, W]; try template:series or template:table")),
            (Kind::Series, &[1, length, channels]) if length > channels => {
                let turned = self.node("input", "Transpose", &[value], &[("perm", ints(&[0, 2, 1]))]);
                Ok((turned, vec![1, channels, length]))
            }
            (Kind::Series, [1, _, _]) => Ok((value, shape.to_vec())),
            (Kind::Series, &[1, length]) => {
                let shape = vec![1, 1, length];
                Ok((self.shaped("input", value, &shape), shape))
            }
            (Kind::Series, _) => Err(unfit("series [1, C, L] or [1, L]; try template:image or template:table")),
            (Kind::Table, [1, rest @ ..]) if rest.iter().product::<usize>() > 0 => {
                let columns = rest.iter().product();
                let flat = if rest.len() == 1 { value } else { self.node("input", "Flatten", &[value], &[]) };
                Ok((flat, vec![1, columns]))
            }
            (Kind::Table, _) => Err(unfit("one sample at a time, [1, ...]")),
        }
    }

    fn norm(&mut self, name: &str, value: ValueId, channels: usize) -> ValueId {
        let parts = [("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0)];
        let parts = parts.map(|(part, of)| self.all(&format!("{name}.{part}"), channels, of));
        let inputs = [value, parts[0], parts[1], parts[2], parts[3]];
        self.node(&format!("{name}.norm"), "BatchNormalization", &inputs, &[])
    }

    /// A convolution of equal padding, its norm, and ReLU.
    fn convolution(&mut self, name: &str, value: ValueId, weights: &[usize], stride: usize, groups: usize) -> ValueId {
        let kernel = &weights[2..];
        let weight = self.weights(&format!("{name}.weight"), weights);
        let pads: Vec<usize> = kernel.iter().chain(kernel).map(|size| size / 2).collect();
        let attributes = [
            ("group", Attribute::Int(groups as i64)),
            ("kernel_shape", ints(kernel)),
            ("pads", ints(&pads)),
            ("strides", ints(&vec![stride; kernel.len()])),
        ];
        let product = self.node(&format!("{name}.product"), "Conv", &[value, weight], &attributes);
        let norm = self.norm(name, product, weights[0]);
        self.node(name, "Relu", &[norm], &[])
    }

    fn convolutions(&mut self, template: Template, value: ValueId, shape: &[usize]) -> (ValueId, usize) {
        let spatial = &shape[2..];
        // Long inputs are of neighbours that say much the same.
        let (size, long) = if spatial.len() == 1 { (5, 512) } else { (3, 64) };
        let (mut width, mut least) = (template.width, spatial.iter().copied().min().unwrap_or(1));
        let kernel = vec![size; spatial.len()];
        let of = |channels: &[usize], kernel: &[usize]| [channels, kernel].concat();
        let stride = if least >= long { 2 } else { 1 };
        least = least.div_ceil(stride);
        let mut value = self.convolution("stem", value, &of(&[width, shape[1]], &kernel), stride, 1);
        for block in 1..=template.depth {
            let stride = if least >= 4 { 2 } else { 1 };
            least = least.div_ceil(stride);
            let name = format!("block{block}");
            value = self.convolution(&format!("{name}.each"), value, &of(&[width, 1], &kernel), stride, width);
            let wider = (2 * width).min(8 * template.width);
            value = self.convolution(&name, value, &of(&[wider, width], &vec![1; kernel.len()]), 1, 1);
            width = wider;
        }
        let mean = self.node("mean", "GlobalAveragePool", &[value], &[]);
        (self.node("features", "Flatten", &[mean], &[]), width)
    }

    fn products(&mut self, template: Template, value: ValueId, columns: usize) -> (ValueId, usize) {
        // Columns are of all sizes: the norm learns them.
        let mut value = self.norm("columns", value, columns);
        let mut reads = columns;
        for block in 1..=template.depth {
            let name = if block == template.depth { "features".to_owned() } else { format!("block{block}") };
            let product = self.product(&format!("{name}.product"), value, reads, template.width);
            let norm = self.norm(&name, product, template.width);
            value = self.node(&name, "Relu", &[norm], &[]);
            reads = template.width;
        }
        (value, reads)
    }

    fn product(&mut self, name: &str, value: ValueId, reads: usize, gives: usize) -> ValueId {
        let weight = self.weights(&format!("{name}.weight"), &[gives, reads]);
        let bias = self.all(&format!("{name}.bias"), gives, 0.0);
        self.node(name, "Gemm", &[value, weight, bias], &[("transB", Attribute::Int(1))])
    }

    /// The last product, in the teacher's form; with a Softmax or Sigmoid where the teacher ends with one.
    fn answer(&mut self, teacher: &Network, value: ValueId, reads: usize, shape: &[usize]) {
        let mut value = self.product("logits", value, reads, shape.iter().product());
        if shape.len() != 2 {
            value = self.shaped("logits.shaped", value, shape);
        }
        let graph = teacher.graph();
        let port = &graph.outputs[0];
        let ending = graph.producer(port.value).map(|(_, node)| node);
        if let Some(node) = ending.filter(|node| node.is("Softmax") || node.is("LogSoftmax")) {
            let axis = Attribute::Int(node.int("axis").unwrap_or(-1));
            value = self.node("answer", &node.op, &[value], &[("axis", axis)]);
        } else if logits(teacher).is_some_and(|(_, form)| form == Form::Binary) {
            value = self.node("answer", "Sigmoid", &[value], &[]);
        }
        let (name, declared) = (port.name.clone(), port.declared.clone());
        self.graph.outputs.push(crate::onnx::graph::Port { name, value, declared });
    }
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    Tensor::from_f64s(ElementType::F32, shape.to_vec(), &values).expect("as many as the shape says")
}
