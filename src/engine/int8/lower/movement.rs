//! Operators that move values: they keep scale and zero point, whatever stands for their input.

use super::super::op::Op;
use super::super::program::{Type, ValueId as Id};
use super::params::resolve_axis;
use super::reason::Reason;
use super::resize;
use super::state::{Lowering, Operand, Rep};
use crate::onnx::graph::{Node, ValueId};
use std::sync::Arc;

impl Lowering<'_> {
    /// Reshape and its kind, Transpose, Slice, Split, Gather, Pad, nearest Resize, depth to space and back.
    pub fn visit_movement(&mut self, node: &Node) -> Result<(), Reason> {
        let input = node.input(0).ok_or(Reason::Input)?;
        let rep = self.reps.get(&input).cloned().ok_or(Reason::Input)?;
        let source = match &rep {
            Rep::Int8(id) | Rep::Curve { source: id, .. } | Rep::Float(id) => *id,
            Rep::Constant(constant) => return self.move_constant(node, &constant.clone()),
            Rep::Dynamic(_) => return Err(Reason::Operator),
        };
        // In training it drops values at random.
        let training =
            |value: ValueId| !self.graph.constant(value).is_some_and(|mode| mode.bytes().iter().all(|&b| b == 0));
        if node.op == "Dropout" && node.input(2).is_some_and(training) {
            return Err(Reason::Attribute("training_mode"));
        }
        let moved = self.moved(node, source, &rep)?;
        for (output, id) in moved {
            let rep = match &rep {
                Rep::Curve { curve, .. } => Rep::Curve { source: id, curve: Arc::clone(curve) },
                Rep::Float(_) => Rep::Float(id),
                Rep::Int8(_) | Rep::Dynamic(_) | Rep::Constant(_) => Rep::Int8(id),
            };
            self.reps.insert(output, rep);
        }
        Ok(())
    }

    /// A step that keeps its input's type.
    fn keep(&mut self, op: Op, from: Id, shape: Vec<usize>) -> Result<Id, Reason> {
        let ty = self.draft.values[from.index()].ty;
        let keeps_bounds = !matches!(op, Op::Pad { .. });
        let id = self.emit(op, vec![from], shape, ty)?;
        if keeps_bounds {
            self.inherit(from, id);
        }
        Ok(id)
    }

    fn moved(&mut self, node: &Node, from: Id, rep: &Rep) -> Result<Vec<(ValueId, Id)>, Reason> {
        let output = node.output(0).ok_or(Reason::Output)?;
        let id = match node.op.as_str() {
            "Transpose" => self.transpose(node, from)?,
            "Slice" => self.slice(node, from, output)?,
            "Split" => return self.split(node, from),
            "Gather" => self.gather(node, from, output)?,
            "Pad" => self.pad(node, from, output, rep)?,
            "Resize" | "Upsample" => self.nearest(node, from, output)?,
            "DepthToSpace" | "SpaceToDepth" => self.blocks(node, from)?,
            _ => {
                let shape = self.shape(output)?;
                self.keep(Op::Reshape, from, shape)?
            }
        };
        Ok(vec![(output, id)])
    }

    pub fn permute(&mut self, from: Id, permutation: Vec<usize>) -> Result<Id, Reason> {
        let shape = self.shape_of(from);
        let shape = permutation.iter().map(|&axis| shape[axis]).collect();
        self.keep(Op::Transpose { permutation }, from, shape)
    }

    fn transpose(&mut self, node: &Node, from: Id) -> Result<Id, Reason> {
        let permutation = permutation(node, self.shape_of(from).len())?;
        self.permute(from, permutation)
    }

    fn slice(&mut self, node: &Node, from: Id, output: ValueId) -> Result<Id, Reason> {
        let shape = self.shape_of(from);
        let starts = self.integers(node, "starts", 1)?.ok_or(Reason::Attribute("starts"))?;
        let axes = self.integers(node, "axes", 3)?.unwrap_or_else(|| (0_i64..).take(starts.len()).collect());
        let steps = self.integers(node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        let mut begin = vec![0; shape.len()];
        let mut by = vec![1; shape.len()];
        for ((&start, &axis), &step) in starts.iter().zip(&axes).zip(&steps) {
            let axis = resolve_axis(axis, shape.len()).ok_or(Reason::Attribute("axes"))?;
            let size = i64::try_from(shape[axis]).map_err(|_| Reason::Shape)?;
            by[axis] = usize::try_from(step).map_err(|_| Reason::Attribute("steps below 1"))?;
            let start = if start < 0 { (start + size).max(0) } else { start.min(size) };
            begin[axis] = usize::try_from(start).map_err(|_| Reason::Attribute("starts"))?;
        }
        let to = self.shape(output)?;
        self.keep(Op::Slice { starts: begin, steps: by }, from, to)
    }

    fn split(&mut self, node: &Node, from: Id) -> Result<Vec<(ValueId, Id)>, Reason> {
        let rank = self.shape_of(from).len();
        let axis = resolve_axis(node.int("axis").unwrap_or(0), rank).ok_or(Reason::Attribute("axis"))?;
        let mut start = 0;
        let mut made = Vec::new();
        for output in node.outputs.iter() {
            // Without all of them nobody knows where the next one starts.
            let output = output.ok_or(Reason::Attribute("an output that is left out"))?;
            let shape = self.shape(output)?;
            let mut starts = vec![0; rank];
            starts[axis] = start;
            start += shape.get(axis).ok_or(Reason::Shape)?;
            made.push((output, self.keep(Op::Slice { starts, steps: vec![1; rank] }, from, shape)?));
        }
        Ok(made)
    }

    /// By constant indices along one axis.
    fn gather(&mut self, node: &Node, from: Id, output: ValueId) -> Result<Id, Reason> {
        let shape = self.shape_of(from);
        let axis = resolve_axis(node.int("axis").unwrap_or(0), shape.len()).ok_or(Reason::Attribute("axis"))?;
        let indices = self.integers(node, "indices", 1)?.ok_or(Reason::Attribute("indices"))?;
        let map: Option<Arc<[usize]>> = indices.iter().map(|&index| resolve_axis(index, shape[axis])).collect();
        let map = map.ok_or(Reason::Attribute("indices"))?;
        let id = self.select(from, axis, map)?;
        let to = self.shape(output)?;
        if to == self.shape_of(id) { Ok(id) } else { self.keep(Op::Reshape, id, to) }
    }

    fn select(&mut self, from: Id, axis: usize, map: Arc<[usize]>) -> Result<Id, Reason> {
        let mut shape = self.shape_of(from);
        shape[axis] = map.len();
        let maps = (0..shape.len()).map(|i| (i == axis).then(|| Arc::clone(&map))).collect();
        self.keep(Op::Select { maps }, from, shape)
    }

    fn pad(&mut self, node: &Node, from: Id, output: ValueId, rep: &Rep) -> Result<Id, Reason> {
        let shape = self.shape_of(from);
        let pads = self.integers(node, "pads", 1)?.ok_or(Reason::Attribute("pads"))?;
        let axes = self.integers(node, "axes", 3)?.unwrap_or_else(|| (0_i64..).take(shape.len()).collect());
        let mut begin = vec![0; shape.len()];
        for (i, &axis) in axes.iter().enumerate() {
            let axis = resolve_axis(axis, shape.len()).ok_or(Reason::Attribute("axes"))?;
            let before = pads.get(i).copied().ok_or(Reason::Attribute("pads"))?;
            begin[axis] = usize::try_from(before).map_err(|_| Reason::Attribute("negative pads"))?;
        }
        let to = self.shape(output)?;
        match node.text("mode").unwrap_or("constant") {
            "constant" => {
                let value = self.fill(node, rep)?;
                self.keep(Op::Pad { before: begin, value }, from, to)
            }
            mode => {
                let map = |axis: usize| resize::pad_map(mode, shape[axis], begin[axis], to[axis]);
                let maps = (0..shape.len()).map(|axis| map(axis).map(Some)).collect::<Result<_, _>>()?;
                self.keep(Op::Select { maps }, from, to)
            }
        }
    }

    /// The int8 value that a padding holds, if it is exactly the one that the file wants.
    fn fill(&self, node: &Node, rep: &Rep) -> Result<i8, Reason> {
        let wanted = match node.input(2) {
            Some(value) => match self.graph.constant(value) {
                Some(tensor) if tensor.len() == 1 => {
                    let whole = tensor.to_i64s().and_then(|v| v.first().map(|&v| v as f32));
                    whole.or_else(|| self.scalar(value)).ok_or(Reason::Attribute("constant_value"))?
                }
                Some(_) | None => self.any_scalar(value).ok_or(Reason::Attribute("constant_value"))?,
            },
            None => node.float("value").unwrap_or(0.0),
        };
        match rep {
            Rep::Curve { curve, .. } => {
                let at = curve.iter().position(|&x| x == wanted).ok_or(Reason::Attribute("constant_value"))?;
                Ok((at as u8 ^ 0x80).cast_signed())
            }
            Rep::Int8(id) => match self.draft.values[id.index()].ty {
                Type::Int8(params) if params.signed => Ok(wanted as i8),
                Type::Int8(_) => Ok((wanted as u8 ^ 0x80).cast_signed()),
                Type::Dynamic | Type::F32 | Type::I32 => Err(Reason::Input),
            },
            Rep::Float(_) if wanted == 0.0 => Ok(0),
            Rep::Float(_) | Rep::Dynamic(_) | Rep::Constant(_) => Err(Reason::Attribute("constant_value")),
        }
    }

    fn nearest(&mut self, node: &Node, from: Id, output: ValueId) -> Result<Id, Reason> {
        let (shape, to) = (self.shape_of(from), self.shape(output)?);
        let scales = self.resize_scales(node, &shape, &to)?;
        let maps = resize::nearest_maps(node, &shape, &to, &scales)?;
        self.keep(Op::Select { maps }, from, to)
    }

    /// DepthToSpace and SpaceToDepth: a reshape, a transposition, a reshape.
    fn blocks(&mut self, node: &Node, from: Id) -> Result<Id, Reason> {
        let &[n, c, h, w] = self.shape_of(from).as_slice() else { return Err(Reason::Shape) };
        let b = node.int("blocksize").and_then(|b| usize::try_from(b).ok()).filter(|&b| b > 0);
        let b = b.ok_or(Reason::Attribute("blocksize"))?;
        let (split, order, to) = match (node.op.as_str(), node.text("mode").unwrap_or("DCR")) {
            ("SpaceToDepth", _) => {
                (vec![n, c, h / b, b, w / b, b], vec![0, 3, 5, 1, 2, 4], vec![n, c * b * b, h / b, w / b])
            }
            (_, "CRD") => (vec![n, c / b / b, b, b, h, w], vec![0, 1, 4, 2, 5, 3], vec![n, c / b / b, h * b, w * b]),
            _ => (vec![n, b, b, c / b / b, h, w], vec![0, 3, 4, 1, 5, 2], vec![n, c / b / b, h * b, w * b]),
        };
        let id = self.keep(Op::Reshape, from, split)?;
        let id = self.permute(id, order)?;
        self.keep(Op::Reshape, id, to)
    }

    /// Weights that an exporter turns before it multiplies with them.
    fn move_constant(&mut self, node: &Node, constant: &super::params::QuantConst) -> Result<(), Reason> {
        let output = node.output(0).ok_or(Reason::Output)?;
        let moved = if node.op == "Transpose" {
            self.pay(constant.data.len())?;
            constant.transposed(&permutation(node, constant.shape.len())?)
        } else if constant.per_tensor().is_some()
            && matches!(node.op.as_str(), "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten")
        {
            super::params::QuantConst { shape: self.shape(output)?, axis: 0, ..constant.clone() }
        } else {
            return Err(Reason::Weights);
        };
        self.reps.insert(output, Rep::Constant(Arc::new(moved)));
        Ok(())
    }

    pub fn visit_concat(&mut self, node: &Node) -> Result<(), Reason> {
        let output = node.output(0).ok_or(Reason::Output)?;
        let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let is_bytes = inputs.iter().all(|value| matches!(self.reps.get(value), Some(Rep::Int8(_))));
        let operands: Result<Vec<Operand>, Reason> = match is_bytes {
            true => inputs.iter().map(|&value| self.bytes(value)).collect(),
            false => inputs.iter().map(|&value| self.rounded(value)).collect(),
        };
        let operands = match operands {
            Ok(operands) => operands,
            Err(reason) => return self.float_concat(node, output).map_err(|_| reason),
        };
        let first = operands.first().ok_or(Reason::Input)?.params;
        let alike = operands.iter().all(|operand| operand.params.agrees(&first));
        let to = match self.sink(output) {
            Some(sink) if !is_bytes => sink.params,
            Some(_) | None if alike => first,
            Some(_) | None => return Err(Reason::Scales),
        };
        let made = self.emit_concat(&operands, node.int("axis").unwrap_or(1), to)?;
        if is_bytes {
            self.reps.insert(output, Rep::Int8(made.id));
        } else {
            self.stands_for(output, made);
        }
        Ok(())
    }

    pub fn emit_concat(
        &mut self,
        operands: &[Operand],
        axis: i64,
        to: super::super::program::QuantParams,
    ) -> Result<Operand, Reason> {
        let first = operands.first().ok_or(Reason::Input)?;
        let mut shape = self.shape_of(first.id);
        let axis = resolve_axis(axis, shape.len()).ok_or(Reason::Attribute("axis"))?;
        shape[axis] = 0;
        let mut inputs = Vec::new();
        for operand in operands {
            shape[axis] += self.shape_of(operand.id).get(axis).ok_or(Reason::Shape)?;
            inputs.push(self.requantized(*operand, to)?.id);
        }
        self.emit_int8(Op::Concat { axis }, inputs, shape, to)
    }
}

fn permutation(node: &Node, rank: usize) -> Result<Vec<usize>, Reason> {
    let Some(stated) = node.ints("perm") else { return Ok((0..rank).rev().collect()) };
    let axes: Option<Vec<usize>> = stated.iter().map(|&axis| resolve_axis(axis, rank)).collect();
    let each_once = |axes: &Vec<usize>| axes.len() == rank && (0..rank).all(|axis| axes.contains(&axis));
    axes.filter(each_once).ok_or(Reason::Attribute("perm"))
}
