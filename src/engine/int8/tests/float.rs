//! A few float operators, so that graphs with islands can be run whole.

use super::super::function::{Binary, Unary};
use crate::onnx::graph::{Graph, Node, ValueId};
use crate::onnx::shapes::Facts;
use crate::onnx::{ElementType, Tensor};
use std::collections::HashMap;

#[derive(Debug, Clone)]
pub struct Value {
    pub bytes: Vec<u8>,
    pub shape: Vec<usize>,
}

impl Value {
    fn floats(&self) -> Vec<f32> {
        self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn new(floats: &[f32], shape: Vec<usize>) -> Self {
        Self { bytes: floats.iter().flat_map(|v| v.to_le_bytes()).collect(), shape }
    }
}

pub fn read(graph: &Graph, values: &HashMap<ValueId, Value>, value: ValueId) -> Result<Value, String> {
    let constant = || {
        let tensor = graph.constant(value)?;
        Some(Value { bytes: tensor.bytes().to_vec(), shape: tensor.shape().to_vec() })
    };
    let missing = || format!("nothing made {:?}", graph.value(value).name);
    values.get(&value).cloned().or_else(constant).ok_or_else(missing)
}

pub fn evaluate(
    graph: &Graph,
    facts: &Facts,
    node: &Node,
    values: &HashMap<ValueId, Value>,
) -> Result<Vec<Value>, String> {
    let input = |i: usize| read(graph, values, node.input(i).ok_or("an input is missing")?);
    // What lowering put in has the shape of its input.
    let shape = match facts.shape(node.output(0).unwrap()) {
        Some(shape) => shape,
        None => input(0)?.shape,
    };
    let unary = |function: Unary| {
        let made: Vec<f32> = input(0)?.floats().into_iter().map(|x| function.of(x)).collect();
        Ok(vec![Value::new(&made, shape.clone())])
    };
    match node.op.as_str() {
        "Add" => binary(Binary::Add, &input(0)?, &input(1)?, shape),
        "Mul" => binary(Binary::Mul, &input(0)?, &input(1)?, shape),
        "Div" => binary(Binary::Div, &input(0)?, &input(1)?, shape),
        "Sub" => binary(Binary::Sub, &input(0)?, &input(1)?, shape),
        "Relu" => unary(Unary::Relu),
        "Sigmoid" => unary(Unary::Sigmoid),
        "Erf" => unary(Unary::Erf),
        "Sin" => unary(Unary::Sin),
        "Clip" => {
            let (low, high) = (input(1)?.floats()[0], input(2)?.floats()[0]);
            unary(Unary::Clip { low, high })
        }
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Ok(vec![Value { shape, ..input(0)? }]),
        "Transpose" => transpose(&input(0)?, node.ints("perm").unwrap(), shape),
        "MatMul" => mat_mul(&input(0)?, &input(1)?, shape),
        "Softmax" => rows(&input(0)?, softmax),
        "LayerNormalization" => {
            let (scale, shift) = (input(1)?.floats(), input(2)?.floats());
            rows(&input(0)?, |row| layer_norm(row, &scale, &shift))
        }
        "Round" => unary(Unary::Round),
        "Cast" => {
            let from = facts.element(node.input(0).unwrap()).unwrap_or(ElementType::F32);
            let to = i32::try_from(node.int("to").unwrap()).ok().and_then(ElementType::from_onnx);
            cast(from, to.ok_or("a type is unknown")?, &input(0)?)
        }
        "Split" => split(graph, facts, node, &input(0)?),
        "Concat" => {
            let parts: Vec<Value> = (0..node.inputs.len()).map(input).collect::<Result<_, String>>()?;
            concat(&parts, node.int("axis").unwrap() as usize, shape)
        }
        "Resize" => double(&input(0)?, shape),
        "CumSum" => rows(&input(0)?, cumulate),
        "GlobalAveragePool" => {
            let (value, outer) = (input(0)?, shape[0] * shape[1]);
            let floats = value.floats();
            let mean = |plane: &[f32]| (plane.iter().map(|&x| f64::from(x)).sum::<f64>() / plane.len() as f64) as f32;
            Ok(vec![Value::new(&floats.chunks(floats.len() / outer).map(mean).collect::<Vec<_>>(), shape)])
        }
        "MaxPool" => max_pool(&input(0)?, node, shape),
        op => Err(format!("the tests do not run {op}")),
    }
}

/// Between floats and integers of up to 16 bits.
fn cast(from: ElementType, to: ElementType, value: &Value) -> Result<Vec<Value>, String> {
    let tensor = Tensor::new(from, value.shape.clone(), value.bytes.clone()).map_err(|e| e.to_string())?;
    let numbers = tensor.to_f32s().or_else(|| Some(tensor.to_i64s()?.iter().map(|&i| i as f32).collect()));
    let numbers = numbers.ok_or("not a number")?;
    let bytes = if to == ElementType::F32 {
        return Ok(vec![Value::new(&numbers, value.shape.clone())]);
    } else if to == ElementType::I16 {
        numbers.iter().flat_map(|&x| (x as i16).to_le_bytes()).collect()
    } else {
        numbers.iter().map(|&x| x as u8).collect()
    };

    Ok(vec![Value { bytes, shape: value.shape.clone() }])
}

fn binary(function: Binary, a: &Value, b: &Value, shape: Vec<usize>) -> Result<Vec<Value>, String> {
    let place = |value: &Value, mut index: usize| {
        let (mut at, mut stride) = (0, 1);
        for (i, dim) in shape.iter().rev().enumerate() {
            let own = value.shape.iter().rev().nth(i).copied().unwrap_or(1);
            at += if own == 1 { 0 } else { index % dim * stride };
            stride *= own;
            index /= dim;
        }
        at
    };
    let (x, y) = (a.floats(), b.floats());
    let count = shape.iter().product();
    let made: Vec<f32> = (0..count).map(|i| function.of(x[place(a, i)], y[place(b, i)])).collect();
    Ok(vec![Value::new(&made, shape)])
}

fn transpose(value: &Value, permutation: &[i64], shape: Vec<usize>) -> Result<Vec<Value>, String> {
    let strides: Vec<usize> =
        permutation.iter().map(|&axis| value.shape[axis as usize + 1..].iter().product()).collect();
    let floats = value.floats();
    let pick = |mut index: usize| {
        let mut at = 0;
        for (dim, stride) in shape.iter().zip(&strides).rev() {
            at += index % dim * stride;
            index /= dim;
        }
        floats[at]
    };
    let made: Vec<f32> = (0..floats.len()).map(pick).collect();
    Ok(vec![Value::new(&made, shape)])
}

/// Leading axes alike, or none on the right.
fn mat_mul(a: &Value, b: &Value, shape: Vec<usize>) -> Result<Vec<Value>, String> {
    let (x, y) = (a.floats(), b.floats());
    let (k, n) = (a.shape[a.shape.len() - 1], b.shape[b.shape.len() - 1]);
    let m = a.shape[a.shape.len() - 2];
    let mut made = Vec::new();
    for row in 0..x.len() / k {
        let matrix = if y.len() == k * n { 0 } else { row / m * k * n };
        for column in 0..n {
            let term = |i: usize| f64::from(x[row * k + i]) * f64::from(y[matrix + i * n + column]);
            made.push((0..k).map(term).sum::<f64>() as f32);
        }
    }
    Ok(vec![Value::new(&made, shape)])
}

fn rows(value: &Value, of: impl Fn(&[f64]) -> Vec<f64>) -> Result<Vec<Value>, String> {
    let floats: Vec<f64> = value.floats().into_iter().map(f64::from).collect();
    let made: Vec<f32> = floats.chunks(*value.shape.last().unwrap()).flat_map(of).map(|x| x as f32).collect();
    Ok(vec![Value::new(&made, value.shape.clone())])
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
    row.iter().map(|x| (x - largest).exp() / sum).collect()
}

fn cumulate(row: &[f64]) -> Vec<f64> {
    let add = |sum: &mut f64, x: &f64| {
        *sum += x;
        Some(*sum)
    };
    row.iter().scan(0.0, add).collect()
}

fn layer_norm(row: &[f64], scale: &[f32], shift: &[f32]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    let by = 1.0 / (variance + 1e-5).sqrt();
    let one = |(i, x): (usize, &f64)| (x - mean) * by * f64::from(scale[i]) + f64::from(shift[i]);
    row.iter().enumerate().map(one).collect()
}

/// Square windows.
fn max_pool(value: &Value, node: &Node, shape: Vec<usize>) -> Result<Vec<Value>, String> {
    let list = |name: &str, default: usize| node.ints(name).map_or(default, |list| list[0] as usize);
    let (kernel, stride, pad) = (list("kernel_shape", 1), list("strides", 1), list("pads", 0));
    let (floats, h, w) = (value.floats(), value.shape[2], value.shape[3]);
    let mut made = Vec::new();
    for plane in floats.chunks(h * w) {
        for pixel in 0..shape[2] * shape[3] {
            let (y, x) = (pixel / shape[3] * stride, pixel % shape[3] * stride);
            let mut largest = f32::MIN;
            for tap in 0..kernel * kernel {
                let at = ((y + tap / kernel).checked_sub(pad), (x + tap % kernel).checked_sub(pad));
                if let (Some(row), Some(column)) = at
                    && row < h
                    && column < w
                {
                    largest = largest.max(plane[row * w + column]);
                }
            }
            made.push(largest);
        }
    }
    Ok(vec![Value::new(&made, shape)])
}

/// Blocks of each part, one part after the other.
fn concat(parts: &[Value], axis: usize, shape: Vec<usize>) -> Result<Vec<Value>, String> {
    let outer: usize = shape[..axis].iter().product();
    let mut bytes = Vec::new();
    for row in 0..outer {
        for part in parts {
            let length = part.bytes.len() / outer;
            bytes.extend(&part.bytes[row * length..][..length]);
        }
    }
    Ok(vec![Value { bytes, shape }])
}

fn split(graph: &Graph, facts: &Facts, node: &Node, value: &Value) -> Result<Vec<Value>, String> {
    let axis = node.int("axis").unwrap_or(0) as usize;
    let outer: usize = value.shape[..axis].iter().product();
    let length = value.bytes.len() / outer;
    let mut start = 0;
    let mut part = |output: &Option<ValueId>| {
        let shape = facts.shape(output.unwrap()).ok_or_else(|| format!("a shape in {:?}", graph.name))?;
        let width = length / value.shape[axis] * shape[axis];
        let row = |row: usize| &value.bytes[row * length + start..][..width];
        let bytes = (0..outer).flat_map(row).copied().collect();
        start += width;
        Ok(Value { bytes, shape })
    };
    node.outputs.iter().map(&mut part).collect()
}

/// An image of twice the height and width.
fn double(value: &Value, shape: Vec<usize>) -> Result<Vec<Value>, String> {
    let (floats, h, w) = (value.floats(), shape[2], shape[3]);
    let pick = |i: usize| floats[i / (h * w) * (h * w / 4) + i / w % h / 2 * (w / 2) + i % w / 2];
    let made: Vec<f32> = (0..shape.iter().product()).map(pick).collect();
    Ok(vec![Value::new(&made, shape)])
}
