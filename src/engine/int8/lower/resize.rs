//! Where the lines of a resized or padded image come from (ONNX Resize, Upsample, Pad).

use super::super::op::{Bilinear, Lerp, Op};
use super::reason::Reason;
use super::state::Lowering;
use crate::onnx::graph::Node;
use std::sync::Arc;

impl Lowering<'_> {
    /// Output over input size for each axis, as the file states it.
    pub fn resize_scales(&self, node: &Node, from: &[usize], to: &[usize]) -> Result<Vec<f32>, Reason> {
        if node.ints("axes").is_some() {
            return Err(Reason::Attribute("axes of Resize"));
        }
        if !matches!(node.text("keep_aspect_ratio_policy"), None | Some("stretch")) {
            return Err(Reason::Attribute("keep_aspect_ratio_policy"));
        }
        let input = if node.op == "Upsample" || node.version < 11 { 1 } else { 2 };
        let stated = node.floats("scales").map(<[f32]>::to_vec);
        let stated = stated.or_else(|| self.float_constant(node.input(input)?)).filter(|s| s.len() == from.len());
        let ratio = |(&to, &from): (&usize, &usize)| to as f32 / from as f32;
        Ok(stated.unwrap_or_else(|| to.iter().zip(from).map(ratio).collect()))
    }

    pub fn visit_resize(&mut self, node: &Node) -> Result<(), Reason> {
        match node.text("mode").unwrap_or("nearest") {
            "nearest" => self.visit_movement(node),
            "linear" | "bilinear" => self.visit_bilinear(node),
            _ => Err(Reason::Attribute("mode other than nearest and linear")),
        }
    }

    fn visit_bilinear(&mut self, node: &Node) -> Result<(), Reason> {
        let (input, output) = (node.input(0).ok_or(Reason::Input)?, node.output(0).ok_or(Reason::Output)?);
        let from = self.as_int8(input)?;
        let to = self.sink(output).ok_or(Reason::Output)?;
        let (shape, wanted) = (self.shape_of(from.id), self.shape(output)?);
        let scales = self.resize_scales(node, &shape, &wanted)?;
        let (&[n, c, h, w], &[n2, c2, oh, ow]) = (shape.as_slice(), wanted.as_slice()) else {
            return Err(Reason::Attribute("linear of other than 2 dimensions"));
        };
        if (n, c) != (n2, c2) || node.int("antialias").unwrap_or(0) != 0 {
            return Err(Reason::Attribute("antialias, or other axes"));
        }
        let rows = lerps(node, h, oh, scales[2])?;
        let columns = lerps(node, w, ow, scales[3])?;
        let multiplier = from.params.scale / to.params.scale / (1 << 22) as f32;
        let op = Op::Bilinear(Bilinear { rows, columns, multiplier });
        let made = self.emit_int8(op, vec![from.id], wanted, to.params)?;
        let clamp = std::array::from_fn(|i| (i as u8 ^ 0x80).cast_signed().clamp(to.low, to.high));
        let made = self.table(made, clamp, to.params)?;
        self.stands_for(output, made);
        Ok(())
    }
}

/// The place in the input of an output line.
fn place(node: &Node, output: usize, from: usize, to: usize, scale: f32) -> Result<f32, Reason> {
    let x = output as f32;
    let default = if node.op == "Upsample" || node.version < 11 { "asymmetric" } else { "half_pixel" };
    match node.text("coordinate_transformation_mode").unwrap_or(default) {
        "half_pixel" => Ok((x + 0.5) / scale - 0.5),
        "asymmetric" => Ok(x / scale),
        "align_corners" if to == 1 => Ok(0.0),
        "align_corners" => Ok(x * (from as f32 - 1.0) / (to as f32 - 1.0)),
        "pytorch_half_pixel" if to == 1 => Ok(0.0),
        "pytorch_half_pixel" => Ok((x + 0.5) / scale - 0.5),
        "half_pixel_symmetric" => {
            let adjustment = to as f32 / (scale * from as f32);
            let center = from as f32 / 2.0;
            Ok(center * (1.0 - adjustment) + (x + 0.5) / scale - 0.5)
        }
        _ => Err(Reason::Attribute("coordinate_transformation_mode")),
    }
}

pub(super) fn nearest_maps(
    node: &Node,
    from: &[usize],
    to: &[usize],
    scales: &[f32],
) -> Result<Vec<Option<Arc<[usize]>>>, Reason> {
    let default = if node.op == "Upsample" || node.version < 11 { "floor" } else { "round_prefer_floor" };
    let mode = node.text("nearest_mode").unwrap_or(default);
    let line = |axis: usize, output: usize| {
        let place = place(node, output, from[axis], to[axis], scales[axis])?;
        let rounded = match mode {
            "round_prefer_floor" if place.fract() == 0.5 => place.floor(),
            "round_prefer_floor" | "round_prefer_ceil" => (place + 0.5).floor(),
            "floor" => place.floor(),
            "ceil" => place.ceil(),
            _ => return Err(Reason::Attribute("nearest_mode")),
        };
        Ok((rounded.max(0.0) as usize).min(from[axis] - 1))
    };
    let one = |axis: usize| match from[axis] == to[axis] && scales[axis] == 1.0 {
        true => Ok(None),
        false => (0..to[axis]).map(|output| line(axis, output)).collect::<Result<_, _>>().map(Some),
    };
    (0..from.len()).map(one).collect()
}

fn lerps(node: &Node, from: usize, to: usize, scale: f32) -> Result<Arc<[Lerp]>, Reason> {
    let one = |output| {
        let place = place(node, output, from, to, scale)?.clamp(0.0, (from - 1) as f32);
        let first = place.floor();
        let weight = ((place - first) * 2048.0).round_ties_even() as i32;
        let first = first as usize;
        Ok(Lerp { first, second: (first + 1).min(from - 1), weight })
    };
    (0..to).map(one).collect()
}

/// The input index for each index of a padded axis.
pub(super) fn pad_map(mode: &str, size: usize, before: usize, to: usize) -> Result<Arc<[usize]>, Reason> {
    let size = i64::try_from(size).map_err(|_| Reason::Shape)?;
    let one = |output: usize| {
        let at = i64::try_from(output).ok()? - i64::try_from(before).ok()?;
        let inside = match mode {
            "edge" => at.clamp(0, size - 1),
            "reflect" if at < 0 => -at,
            "reflect" if at >= size => 2 * (size - 1) - at,
            "wrap" => at.rem_euclid(size),
            "reflect" => at,
            _ => return None,
        };
        usize::try_from(inside).ok().filter(|_| inside < size)
    };
    (0..to).map(one).collect::<Option<_>>().ok_or(Reason::Attribute("mode of Pad"))
}
