//! Windows over images as ONNX states them, and the pools.

use super::super::op::{AveragePool, Mean, Op, Window};
use super::super::program::{QuantParams, Type, ValueId as Id};
use super::params::resolve_axis;
use super::reason::Reason;
use super::state::{Lowering, Operand, Rep};
use crate::onnx::graph::Node;
use std::collections::BTreeSet;

impl Lowering<'_> {
    /// An image of two dimensions; a row, as of a 1-D convolution, becomes one of height 1.
    pub fn image(&mut self, id: Id) -> Result<(Id, bool), Reason> {
        match self.shape_of(id).as_slice() {
            &[n, c, length] => {
                let is_line = |id: &Id| self.shape_of(*id)[2] == 1;
                if let Some(image) = self.image_of_row(id).filter(is_line) {
                    return Ok((image, true));
                }
                let ty = self.draft.values[id.index()].ty;
                Ok((self.emit(Op::Reshape, vec![id], vec![n, c, 1, length], ty)?, true))
            }
            [_, _, _, _] => Ok((id, false)),
            _ => Err(Reason::Attribute("tensors of other than 3 or 4 axes")),
        }
    }

    /// The window that a node slides over an image.
    pub fn window(&self, node: &Node, kernel: &[usize], image: Id, flat: bool) -> Result<Window, Reason> {
        let rank = kernel.len();
        let list = |name: &'static str, count: usize, default: usize| {
            let values = node.ints(name).map(<[i64]>::to_vec).filter(|values| !values.is_empty());
            let values = values.unwrap_or_else(|| vec![default as i64; count]);
            let sizes: Option<Vec<usize>> = values.iter().map(|&value| usize::try_from(value).ok()).collect();
            sizes.filter(|sizes| sizes.len() == count).ok_or(Reason::Attribute(name))
        };
        let (stride, dilation) = (list("strides", rank, 1)?, list("dilations", rank, 1)?);
        let pads = list("pads", 2 * rank, 0)?;
        let pair = |list: &[usize], flat_value: usize| match *list {
            [one] if flat => Ok([flat_value, one]),
            [a, b] if !flat => Ok([a, b]),
            _ => Err(Reason::Attribute("kernel of other than 1 or 2 dimensions")),
        };
        let (begin, end) = (pair(&pads[..rank], 0)?, pair(&pads[rank..], 0)?);
        let mut window = Window {
            kernel: pair(kernel, 1)?,
            stride: pair(&stride, 1)?,
            dilation: pair(&dilation, 1)?,
            pads: [begin[0], begin[1], end[0], end[1]],
        };
        let shape = self.shape_of(image);
        let size = [shape[2], shape[3]];
        auto_pad(node, &mut window, size)?;
        if node.int("ceil_mode").unwrap_or(0) != 0 {
            round_up(&mut window, size);
        }
        Ok(window)
    }

    pub fn pool_window(&self, node: &Node, image: Id, flat: bool) -> Result<Window, Reason> {
        let kernel = node.ints("kernel_shape").ok_or(Reason::Attribute("kernel_shape"))?;
        let kernel: Option<Vec<usize>> = kernel.iter().map(|&size| usize::try_from(size).ok()).collect();
        self.window(node, &kernel.ok_or(Reason::Attribute("kernel_shape"))?, image, flat)
    }

    /// Back from height 1 to a row.
    fn unflatten(&mut self, id: Id, flat: bool) -> Result<Id, Reason> {
        if !flat {
            return Ok(id);
        }
        let (shape, ty) = (self.shape_of(id), self.draft.values[id.index()].ty);
        self.emit(Op::Reshape, vec![id], vec![shape[0], shape[1], shape[3]], ty)
    }

    pub fn visit_max_pool(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        if node.output(1).is_some() || node.int("storage_order").unwrap_or(0) != 0 {
            return Err(Reason::Attribute("Indices"));
        }
        if let Some(Rep::Float(_)) = self.reps.get(&input) {
            return self.float_max_pool(node, input, output);
        }
        let is_bytes = matches!(self.reps.get(&input), Some(Rep::Int8(_)));
        let from = if is_bytes { self.bytes(input)? } else { self.rounded(input)? };
        let made = self.emit_max_pool(node, from)?;
        if is_bytes {
            self.reps.insert(output, Rep::Int8(made.id));
        } else {
            self.stands_for(output, made);
        }
        Ok(())
    }

    fn emit_max_pool(&mut self, node: &Node, from: Operand) -> Result<Operand, Reason> {
        let (image, flat) = self.image(from.id)?;
        let window = self.max_window(node, image, flat)?;
        let shape = self.pooled_shape(image, &window)?;
        let made = self.emit_int8(Op::MaxPool(window), vec![image], shape, from.params)?;
        Ok(Operand { id: self.unflatten(made.id, flat)?, params: from.params })
    }

    /// Of MaxPool and GlobalMaxPool.
    pub fn max_window(&self, node: &Node, image: Id, flat: bool) -> Result<Window, Reason> {
        if node.op != "GlobalMaxPool" {
            return self.pool_window(node, image, flat);
        }
        let shape = self.shape_of(image);
        Ok(Window { kernel: [shape[2], shape[3]], ..Window::UNIT })
    }

    pub fn pooled_shape(&self, image: Id, window: &Window) -> Result<Vec<usize>, Reason> {
        let shape = self.shape_of(image);
        let [h, w] = window.output([shape[2], shape[3]]).ok_or(Reason::Shape)?;
        Ok(vec![shape[0], shape[1], h, w])
    }

    /// AveragePool, GlobalAveragePool, ReduceMean between DequantizeLinear and QuantizeLinear.
    pub fn visit_average(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        let (from, to) = match (self.as_int8(input), self.sink(output)) {
            (Ok(from), Some(to)) => (from, to),
            (Err(reason), _) => return self.float_average(node, input, output).map_err(|_| reason),
            (Ok(_), None) => return self.float_average(node, input, output).map_err(|_| Reason::Output),
        };
        let made = match node.op.as_str() {
            "AveragePool" => self.emit_average_pool(node, from, to.params)?,
            "GlobalAveragePool" => self.emit_global_average(from, to.params)?,
            _ => self.emit_reduce_mean(node, from, to.params)?,
        };
        let same = std::array::from_fn(|i| (i as u8 ^ 0x80).cast_signed().clamp(to.low, to.high));
        let made = self.table(made, same, to.params)?;
        self.stands_for(output, made);
        Ok(())
    }

    pub fn emit_average_pool(&mut self, node: &Node, from: Operand, params: QuantParams) -> Result<Operand, Reason> {
        let (image, flat) = self.image(from.id)?;
        let window = self.pool_window(node, image, flat)?;
        let shape = self.pooled_shape(image, &window)?;
        let taps = window.kernel[0] * window.kernel[1];
        let multipliers = (1..=taps).map(|count| from.params.scale / (params.scale * count as f32)).collect();
        let count_pads = node.int("count_include_pad").unwrap_or(0) != 0;
        if count_pads && node.int("ceil_mode").unwrap_or(0) != 0 {
            return Err(Reason::Attribute("count_include_pad with ceil_mode"));
        }
        let op = Op::AveragePool(AveragePool { window, multipliers, count_pads });
        let made = self.emit_int8(op, vec![image], shape, params)?;
        Ok(Operand { id: self.unflatten(made.id, flat)?, params })
    }

    pub fn emit_global_average(&mut self, from: Operand, params: QuantParams) -> Result<Operand, Reason> {
        let axes: Vec<usize> = (2..self.shape_of(from.id).len()).collect();
        self.emit_mean(from, axes, true, params)
    }

    fn emit_reduce_mean(&mut self, node: &Node, from: Operand, params: QuantParams) -> Result<Operand, Reason> {
        let axes = self.reduced_axes(node, self.shape_of(from.id).len())?;
        self.emit_mean(from, axes, node.int("keepdims").unwrap_or(1) != 0, params)
    }

    /// The axes that a reduction takes away, of a tensor of that rank.
    pub fn reduced_axes(&self, node: &Node, rank: usize) -> Result<Vec<usize>, Reason> {
        let given = self.integers(node, "axes", 1)?;
        match given {
            Some(list) if !list.is_empty() => {
                let axes: Option<Vec<usize>> = list.iter().map(|&axis| resolve_axis(axis, rank)).collect();
                let once = |axes: &Vec<usize>| axes.iter().collect::<BTreeSet<_>>().len() == axes.len();
                axes.filter(once).ok_or(Reason::Attribute("axes"))
            }
            Some(_) | None if node.int("noop_with_empty_axes").unwrap_or(0) != 0 => {
                Err(Reason::Attribute("noop_with_empty_axes"))
            }
            Some(_) | None => Ok((0..rank).collect()),
        }
    }

    fn emit_mean(
        &mut self,
        from: Operand,
        axes: Vec<usize>,
        keep: bool,
        params: QuantParams,
    ) -> Result<Operand, Reason> {
        let input = self.shape_of(from.id);
        let count: usize = axes.iter().map(|&axis| input[axis]).product();
        if count > 1 << 23 {
            return Err(Reason::Attribute("more than 2^23 values in an average"));
        }
        let multiplier = from.params.scale / (params.scale * count as f32);
        let each = input.iter().enumerate();
        let shape = match keep {
            true => each.map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim }).collect(),
            false => each.filter(|(axis, _)| !axes.contains(axis)).map(|(_, &dim)| dim).collect(),
        };
        if input.len() == 4 && axes == [2, 3] {
            return self.emit_int8(Op::Mean(Mean { axes, multiplier }), vec![from.id], shape, params);
        }
        // As of an image whose channels are what is kept, and whose pixels what is averaged.
        let kept = (0..input.len()).filter(|axis| !axes.contains(axis));
        let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
        let kept = input.iter().product::<usize>() / count.max(1);
        let turned = self.permute(from.id, order)?;
        let image = self.emit_int8(Op::Reshape, vec![turned], vec![1, kept, count, 1], from.params)?;
        let mean = Op::Mean(Mean { axes: vec![2, 3], multiplier });
        let made = self.emit_int8(mean, vec![image.id], vec![1, kept, 1, 1], params)?;
        self.emit_int8(Op::Reshape, vec![made.id], shape, params)
    }

    /// Integers of an attribute, or of a constant input in its place.
    pub fn integers(&self, node: &Node, name: &'static str, input: usize) -> Result<Option<Vec<i64>>, Reason> {
        match (node.ints(name), node.input(input)) {
            (Some(list), _) => Ok(Some(list.to_vec())),
            (None, Some(value)) => {
                let known = self.facts.of(value).known_contents();
                let constant = || self.graph.constant(value).and_then(crate::onnx::Tensor::to_i64s);
                known.or_else(constant).map(Some).ok_or(Reason::Attribute(name))
            }
            (None, None) => Ok(None),
        }
    }

    /// An 8-bit tensor that moves as it is.
    pub fn bytes(&self, value: crate::onnx::graph::ValueId) -> Result<Operand, Reason> {
        let Some(Rep::Int8(id)) = self.reps.get(&value) else { return Err(Reason::Input) };
        match self.draft.values[id.index()].ty {
            Type::Int8(params) => Ok(Operand { id: *id, params }),
            Type::Dynamic | Type::F32 | Type::I32 => Err(Reason::Input),
        }
    }
}

/// Pads that the file leaves to be worked out.
fn auto_pad(node: &Node, window: &mut Window, size: [usize; 2]) -> Result<(), Reason> {
    let upper = match node.text("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => return Ok(()),
        "VALID" => {
            window.pads = [0; 4];
            return Ok(());
        }
        "SAME_UPPER" => true,
        "SAME_LOWER" => false,
        _ => return Err(Reason::Attribute("auto_pad")),
    };
    for (axis, &input) in size.iter().enumerate() {
        let stride = window.stride[axis];
        let output = input.div_ceil(stride.max(1));
        let reach = (window.kernel[axis].max(1) - 1) * window.dilation[axis] + 1;
        let total = ((output.max(1) - 1) * stride + reach).saturating_sub(input);
        let (small, large) = (total / 2, total - total / 2);
        window.pads[axis] = if upper { small } else { large };
        window.pads[axis + 2] = if upper { large } else { small };
    }
    Ok(())
}

/// Lets the last window reach beyond the padding, as `ceil_mode` asks, if it begins inside.
fn round_up(window: &mut Window, size: [usize; 2]) {
    for (axis, &input) in size.iter().enumerate() {
        let reach = (window.kernel[axis].max(1) - 1) * window.dilation[axis] + 1;
        let (begin, stride) = (window.pads[axis], window.stride[axis].max(1));
        let padded = input + begin + window.pads[axis + 2];
        let steps = padded.saturating_sub(reach).div_ceil(stride);
        let steps = if steps * stride >= input + begin { steps.saturating_sub(1) } else { steps };
        let needed = steps * stride + reach;
        window.pads[axis + 2] += needed.saturating_sub(padded);
    }
}
