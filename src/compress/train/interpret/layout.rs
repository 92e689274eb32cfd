//! What moves values: shapes, axes, slices, gathering.

use super::{Call, axis_of};
use candle_core::{DType, Device, Result, Tensor, bail};

pub(super) fn run(call: &Call<'_>) -> Result<Option<Vec<Tensor>>> {
    let output = match call.node.op.as_str() {
        "Identity" | "Dropout" => call.input(0)?.clone(),
        "Cast" => cast(call)?,
        "Reshape" => reshape(call)?,
        "Flatten" => flatten(call)?,
        "Squeeze" => squeeze(call)?,
        "Unsqueeze" => unsqueeze(call)?,
        "Transpose" => transpose(call)?,
        "Concat" => concat(call)?,
        "Split" => return split(call).map(Some),
        "Slice" => slice(call)?,
        "Gather" => gather(call)?,
        "Expand" => expand(call)?,
        "Pad" => pad(call)?,
        "DepthToSpace" => depth_to_space(call)?,
        "Shape" => {
            let dims = call.input(0)?.dims().iter().map(|&dim| dim as i64).collect::<Vec<_>>();
            let (start, end) = (call.int("start", 0), call.int("end", dims.len() as i64));
            let at =
                |index: i64| (if index < 0 { index + dims.len() as i64 } else { index }).clamp(0, dims.len() as i64);
            let dims = dims[at(start) as usize..at(end).max(at(start)) as usize].to_vec();
            Tensor::from_vec(dims.clone(), dims.len(), &Device::Cpu)?
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![output]))
}

fn cast(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    match call.int("to", 1) {
        1 | 10 | 11 | 16 => x.to_dtype(DType::F32),
        2 | 3 | 4 | 5 | 6 | 7 | 12 | 13 => x.to_dtype(DType::I64),
        9 => x.ne(&x.zeros_like()?),
        other => bail!("Cast to type {other}"),
    }
}

fn reshape(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let stated = call.ints(1)?.unwrap_or_default();
    let mut target = Vec::with_capacity(stated.len());
    for (at, &size) in stated.iter().enumerate() {
        target.push(match size {
            0 if call.int("allowzero", 0) == 0 => x.dims().get(at).copied().unwrap_or(0) as i64,
            size => size,
        });
    }
    let known = |target: &[i64]| target.iter().filter(|&&size| size != -1).product::<i64>();
    let count = x.elem_count() as i64;
    // A file of one sample that is run with several.
    let is_open = target.contains(&-1);
    let fits = if is_open { known(&target) > 0 && count % known(&target) == 0 } else { known(&target) == count };
    let batched = call.batch > 1 && x.dims().first().is_some_and(|first| first % call.batch == 0);
    if batched
        && let Some(first) = target.first_mut()
        && stated[0] > 0
        && (!fits || (is_open && stated[0] == 1))
    {
        *first *= call.batch as i64;
    }
    let sizes = known(&target);
    if sizes <= 0 || count % sizes != 0 {
        bail!("{:?} does not fit the shape {stated:?}", x.dims());
    }
    let shape: Vec<usize> = target.iter().map(|&size| if size == -1 { count / sizes } else { size } as usize).collect();
    x.contiguous()?.reshape(shape)
}

fn flatten(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axis = match call.int("axis", 1) {
        axis if axis == x.rank() as i64 => x.rank(),
        axis => axis_of(axis, x.rank())?,
    };
    let outer: usize = x.dims()[..axis].iter().product();
    x.contiguous()?.reshape((outer, x.elem_count() / outer.max(1)))
}

fn squeeze(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axes: Vec<usize> = match call.ints(1)? {
        Some(axes) => axes.into_iter().map(|axis| axis_of(axis, x.rank())).collect::<Result<_>>()?,
        None => (0..x.rank()).filter(|&axis| x.dims()[axis] == 1).collect(),
    };
    let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).map(|axis| x.dims()[axis]).collect();
    x.reshape(kept)
}

fn unsqueeze(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axes = call.ints(1)?.unwrap_or_default();
    let rank = x.rank() + axes.len();
    let axes: Vec<usize> = axes.into_iter().map(|axis| axis_of(axis, rank)).collect::<Result<_>>()?;
    let mut dims = x.dims().iter();
    let shape: Vec<usize> =
        (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { dims.next().copied().unwrap_or(1) }).collect();
    x.reshape(shape)
}

fn transpose(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let order: Vec<usize> = match call.node.ints("perm") {
        Some(order) => order.iter().map(|&axis| axis_of(axis, x.rank())).collect::<Result<_>>()?,
        None => (0..x.rank()).rev().collect(),
    };
    x.permute(order)?.contiguous()
}

fn concat(call: &Call<'_>) -> Result<Tensor> {
    let inputs: Vec<&Tensor> = call.inputs.iter().flatten().collect();
    let rank = call.input(0)?.rank();
    Tensor::cat(&inputs, call.axis("axis", 0, rank)?)
}

fn split(call: &Call<'_>) -> Result<Vec<Tensor>> {
    let x = call.input(0)?;
    let axis = call.axis("axis", 0, x.rank())?;
    let size = x.dims()[axis];
    let parts = call.node.outputs.len().max(1);
    let sizes: Vec<usize> = match call.ints(1)? {
        Some(sizes) => sizes.into_iter().map(|size| size.max(0) as usize).collect(),
        None => {
            let each = size.div_ceil(parts);
            (0..parts).map(|part| each.min(size.saturating_sub(part * each))).collect()
        }
    };
    if sizes.iter().sum::<usize>() != size {
        bail!("parts of {sizes:?} do not make {size}");
    }
    let mut start = 0;
    let part = |size: usize| {
        let part = x.narrow(axis, start, size)?.contiguous();
        start += size;
        part
    };
    sizes.into_iter().map(part).collect()
}

/// Those indices along an axis.
fn select(x: &Tensor, axis: usize, indices: Vec<u32>) -> Result<Tensor> {
    let count = indices.len();
    x.contiguous()?.index_select(&Tensor::from_vec(indices, count, &Device::Cpu)?, axis)
}

fn slice(call: &Call<'_>) -> Result<Tensor> {
    let mut x = call.input(0)?.clone();
    let (starts, ends) = (call.ints(1)?.unwrap_or_default(), call.ints(2)?.unwrap_or_default());
    let axes = call.ints(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    for (at, &axis) in axes.iter().enumerate() {
        let axis = axis_of(axis, x.rank())?;
        let size = x.dims()[axis];
        let (Some(&start), Some(&end), Some(&step)) = (starts.get(at), ends.get(at), steps.get(at)) else {
            bail!("as many starts and ends as axes are expected");
        };
        let Some((start, end)) = crate::onnx::shapes::slice_bounds(start, end, step, size) else {
            bail!("a step of 0");
        };
        let (span, step) = (if step > 0 { end - start } else { start - end }, i128::from(step));
        let count = (span.max(0) + step.abs() - 1) / step.abs();
        x = match step {
            1 => x.narrow(axis, start as usize, count as usize)?.contiguous()?,
            _ => select(&x, axis, (0..count).map(|at| (start + at * step) as u32).collect())?,
        };
    }
    Ok(x)
}

fn gather(call: &Call<'_>) -> Result<Tensor> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = call.axis("axis", 0, x.rank())?;
    let size = x.dims()[axis] as i64;
    let wrap = |index: i64| {
        let at = if index < 0 { index + size } else { index };
        if (0..size).contains(&at) { Ok(at as u32) } else { bail!("index {index} of {size}") }
    };
    let wrapped = call.ints(1)?.unwrap_or_default().into_iter().map(wrap).collect::<Result<Vec<_>>>()?;
    let shape: Vec<usize> = [&x.dims()[..axis], indices.dims(), &x.dims()[axis + 1..]].concat();
    select(x, axis, wrapped)?.reshape(shape)
}

fn expand(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let mut target: Vec<usize> =
        call.ints(1)?.unwrap_or_default().into_iter().map(|size| size.max(1) as usize).collect();
    if call.batch > 1 && target.len() == x.rank() && target.first() == Some(&1) && x.dims()[0] == call.batch {
        target[0] = call.batch;
    }
    let shape = x.shape().broadcast_shape_binary_op(&target.into(), "expand")?;
    x.broadcast_as(shape)?.contiguous()
}

fn pad(call: &Call<'_>) -> Result<Tensor> {
    let mut x = call.input(0)?.clone();
    let pads = call.ints(1)?.unwrap_or_default();
    let axes = match call.ints(3)? {
        Some(axes) => axes.into_iter().map(|axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?,
        None => (0..x.rank()).collect(),
    };
    if pads.len() != axes.len() * 2 {
        bail!("two pads for each of {} axes are expected", axes.len());
    }
    let mode = call.node.text("mode").unwrap_or("constant").to_owned();
    let fill = call.floats(2)?.and_then(|values| values.first().copied()).unwrap_or(0.0);
    for (at, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[at], pads[at + axes.len()]);
        if before < 0 || after < 0 {
            bail!("negative pads");
        }
        x = padded(&x, axis, before, after, &mode, fill)?;
    }
    Ok(x)
}

fn padded(x: &Tensor, axis: usize, before: i64, after: i64, mode: &str, fill: f32) -> Result<Tensor> {
    if before == 0 && after == 0 {
        return Ok(x.clone());
    }
    let size = x.dims()[axis] as i64;
    if mode == "constant" {
        let block = |count: i64| {
            let mut shape = x.dims().to_vec();
            shape[axis] = count as usize;
            Tensor::full(fill, shape, &Device::Cpu)?.to_dtype(x.dtype())
        };
        return Tensor::cat(&[&block(before)?, x, &block(after)?], axis);
    }
    let place = |at: i64| match mode {
        "edge" => at.clamp(0, size - 1),
        "wrap" => at.rem_euclid(size),
        // Mirrored without the edge itself.
        _ if at < 0 => (-at).min(size - 1),
        _ if at >= size => (2 * size - 2 - at).max(0),
        _ => at,
    };
    select(x, axis, (-before..size + after).map(|at| place(at) as u32).collect())
}

fn depth_to_space(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let (n, c, h, w) = x.dims4()?;
    let block = call.int("blocksize", 1).max(1) as usize;
    let depth = c / (block * block);
    let (split, order) = match call.node.text("mode").unwrap_or("DCR") {
        "CRD" => ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        _ => ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]),
    };
    x.contiguous()?.reshape(&split[..])?.permute(&order[..])?.contiguous()?.reshape((n, depth, h * block, w * block))
}
