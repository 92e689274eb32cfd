//! Convolutions, pools and resizing.

use super::Call;
use crate::compress::train::ops::apply;
use crate::compress::train::ops::conv::{Conv, ConvTranspose, Window, dims4};
use crate::compress::train::ops::pool::{Kind, Pool};
use crate::compress::train::ops::resample::Resample;
use candle_core::{Result, Tensor, bail};

pub(super) fn run(call: &Call<'_>) -> Result<Option<Vec<Tensor>>> {
    let output = match call.node.op.as_str() {
        "Conv" => conv(call)?,
        "ConvTranspose" => conv_transpose(call)?,
        "MaxPool" => pool(call, Kind::Max)?,
        "AveragePool" => pool(call, Kind::Average { padded: call.int("count_include_pad", 0) != 0 })?,
        "Resize" | "Upsample" => resize(call)?,
        _ => return Ok(None),
    };
    Ok(Some(vec![output]))
}

/// An attribute of one or two dimensions as two: of one-dimensional images the first is that of their single row.
fn pair(call: &Call<'_>, name: &str, row: usize) -> Result<[usize; 2]> {
    let size = |value: i64| usize::try_from(value).map_err(|_| candle_core::Error::Msg(format!("{name} is negative")));
    match call.node.ints(name) {
        Some([wide]) => Ok([row, size(*wide)?]),
        Some([high, wide]) => Ok([size(*high)?, size(*wide)?]),
        None => Ok([row.min(1); 2]),
        Some(_) => bail!("{name}: images of one or two dimensions are expected"),
    }
}

/// Top, left, bottom, right, as `auto_pad` or `pads` state them.
fn pads(call: &Call<'_>, size: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 4]> {
    let (stride, dilation) = (pair(call, "strides", 1)?, pair(call, "dilations", 1)?);
    let same = |upper: bool| {
        let one = |axis: usize| {
            let out = size[axis].div_ceil(stride[axis]);
            let covered = dilation[axis] * (kernel[axis] - 1) + 1;
            let all = ((out - 1) * stride[axis] + covered).saturating_sub(size[axis]);
            if upper { (all / 2, all.div_ceil(2)) } else { (all.div_ceil(2), all / 2) }
        };
        let (high, wide) = (one(0), one(1));
        [high.0, wide.0, high.1, wide.1]
    };
    match call.node.text("auto_pad").unwrap_or("NOTSET") {
        "SAME_UPPER" => return Ok(same(true)),
        "SAME_LOWER" => return Ok(same(false)),
        "VALID" => return Ok([0; 4]),
        _ => {}
    }
    let pads: Option<Vec<usize>> =
        call.node.ints("pads").map(|pads| pads.iter().map(|&pad| pad.max(0) as usize).collect());
    match pads.as_deref() {
        Some([before, after]) => Ok([0, *before, 0, *after]),
        Some([top, left, bottom, right]) => Ok([*top, *left, *bottom, *right]),
        None => Ok([0; 4]),
        Some(_) => bail!("pads: images of one or two dimensions are expected"),
    }
}

fn rank(x: &Tensor) -> Result<()> {
    if matches!(x.rank(), 3 | 4) {
        Ok(())
    } else {
        bail!("images of one or two dimensions are expected, not {:?}", x.dims())
    }
}

fn geometry(call: &Call<'_>) -> Result<Conv> {
    let (x, w) = (call.input(0)?, call.input(1)?);
    rank(x)?;
    let ([_, _, high, wide], [_, _, kh, kw]) = (dims4(x.dims()), dims4(w.dims()));
    Ok(Conv {
        stride: pair(call, "strides", 1)?,
        dilation: pair(call, "dilations", 1)?,
        pads: pads(call, [high, wide], [kh, kw])?,
        groups: call.int("group", 1).max(1) as usize,
    })
}

fn conv(call: &Call<'_>) -> Result<Tensor> {
    let (x, w, of) = (call.input(0)?, call.input(1)?, geometry(call)?);
    let ([_, channels, high, wide], [_, each, kh, kw]) = (dims4(x.dims()), dims4(w.dims()));
    if each * of.groups != channels || w.dims()[0] % of.groups != 0 {
        bail!("weights {:?} in {} groups do not fit an image {:?}", w.dims(), of.groups, x.dims());
    }
    if of.out(0, high, kh) == 0 || of.out(1, wide, kw) == 0 {
        bail!("the window {:?} is larger than the image {:?}", w.dims(), x.dims());
    }
    match call.get(2) {
        Some(bias) => apply(of, &[x, w, bias]),
        None => apply(of, &[x, w]),
    }
}

fn conv_transpose(call: &Call<'_>) -> Result<Tensor> {
    if call.node.ints("output_shape").is_some() || !matches!(call.node.text("auto_pad"), None | Some("NOTSET")) {
        bail!("ConvTranspose with output_shape or auto_pad: pads are expected");
    }
    let output_padding = pair(call, "output_padding", 0)?;
    let of = ConvTranspose { conv: geometry(call)?, output_padding };
    let inputs: Vec<&Tensor> = (0..3).filter_map(|index| call.get(index)).collect();
    apply(of, &inputs)
}

fn pool(call: &Call<'_>, kind: Kind) -> Result<Tensor> {
    let x = call.input(0)?;
    rank(x)?;
    if call.node.output(1).is_some() {
        bail!("MaxPool that also tells where its values stand");
    }
    let [_, _, high, wide] = dims4(x.dims());
    let (kernel, stride, dilation) =
        (pair(call, "kernel_shape", 1)?, pair(call, "strides", 1)?, pair(call, "dilations", 1)?);
    let pads = pads(call, [high, wide], kernel)?;
    let upwards = call.int("ceil_mode", 0) != 0;
    let (size, mut out) = ([high, wide], [0; 2]);
    for axis in 0..2 {
        let covered = dilation[axis] * (kernel[axis] - 1) + 1;
        let rest = (size[axis] + pads[axis] + pads[axis + 2]).checked_sub(covered);
        let Some(rest) = rest else { bail!("the window is larger than the image {:?}", x.dims()) };
        out[axis] = if upwards { rest.div_ceil(stride[axis]) } else { rest / stride[axis] } + 1;
        // No window starts behind the image.
        if upwards && (out[axis] - 1) * stride[axis] >= size[axis] + pads[axis] {
            out[axis] -= 1;
        }
    }
    let window = Window { kernel, stride, dilation, pads: [pads[0], pads[1]], size, out };
    apply(Pool { kind, window, after: [pads[2], pads[3]] }, &[x])
}

fn resize(call: &Call<'_>) -> Result<Tensor> {
    let mut x = call.input(0)?.clone();
    let policy = call.node.text("keep_aspect_ratio_policy").unwrap_or("stretch");
    if call.node.ints("axes").is_some() || call.int("antialias", 0) != 0 || policy != "stretch" {
        bail!("Resize with axes, antialias or a policy of its own");
    }
    let scales = call.floats(2)?.filter(|scales| !scales.is_empty());
    let sizes = call.ints(3)?.filter(|sizes| !sizes.is_empty());
    for axis in 0..x.rank() {
        let size = x.dims()[axis];
        let (out, scale) = match (&scales, &sizes) {
            (Some(scales), _) if scales.len() == x.rank() => ((size as f32 * scales[axis]) as usize, scales[axis]),
            (_, Some(sizes)) if sizes.len() == x.rank() => {
                // The batch may be larger than the one that the file states.
                let out = if axis == 0 { size } else { sizes[axis].max(1) as usize };
                (out, out as f32 / size as f32)
            }
            _ => bail!("scales or sizes of {} dimensions are expected", x.rank()),
        };
        if out != size || scale != 1.0 {
            x = apply(Resample { axis, taps: taps(call, size, out, scale)? }, &[&x])?;
        }
    }
    Ok(x)
}

/// From which inputs each output comes.
fn taps(call: &Call<'_>, size: usize, out: usize, scale: f32) -> Result<Vec<Vec<(usize, f32)>>> {
    let form = call.node.text("coordinate_transformation_mode").unwrap_or("half_pixel");
    let place = |at: usize| {
        let at = at as f32;
        Ok(match form {
            "half_pixel" => (at + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => {
                if out > 1 {
                    (at + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            "align_corners" => {
                if out > 1 {
                    at * (size - 1) as f32 / (out - 1) as f32
                } else {
                    0.0
                }
            }
            "asymmetric" => at / scale,
            other => bail!("Resize with coordinates by {other}"),
        })
    };
    let nearest = |at: f32| {
        let whole = match call.node.text("nearest_mode").unwrap_or("round_prefer_floor") {
            "round_prefer_floor" => (at - 0.5).ceil(),
            "round_prefer_ceil" => (at + 0.5).floor(),
            "floor" => at.floor(),
            _ => at.ceil(),
        };
        vec![(whole.clamp(0.0, (size - 1) as f32) as usize, 1.0)]
    };
    let linear = |at: f32| {
        let at = at.clamp(0.0, (size - 1) as f32);
        let (low, rest) = (at.floor() as usize, at.fract());
        vec![(low, 1.0 - rest), ((low + 1).min(size - 1), rest)]
    };
    match call.node.text("mode").unwrap_or("nearest") {
        "nearest" => (0..out).map(|at| Ok(nearest(place(at)?))).collect(),
        "linear" => (0..out).map(|at| Ok(linear(place(at)?))).collect(),
        other => bail!("Resize by {other}"),
    }
}
