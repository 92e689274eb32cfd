//! Operators that rearrange: what goes where, without arithmetic on elements.

use super::elementwise::broadcast;
use super::{Args, Dim, Fact, Item, MAX_RANK, Shape, axis};
use crate::onnx::tensor::ElementType;

impl Args<'_> {
    /// `None` where the operator is none of this kind.
    pub(super) fn layout(&self, op: &str) -> Option<Vec<Fact>> {
        let first = self.element(0);
        let one = |element, shape| vec![Fact::new(element, shape)];
        let long = Some(ElementType::I64);
        Some(match op {
            "Concat" => one(first, self.concat(0, 1)),
            "Split" => self.split().unwrap_or_default(),
            "Slice" => one(first, self.slice()),
            "Reshape" => one(first, self.reshape()),
            "Flatten" => one(first, self.flatten()),
            "Squeeze" => one(first, self.squeeze()),
            "Unsqueeze" => one(first, self.unsqueeze()),
            "Transpose" => one(first, self.transpose()),
            "Pad" => one(first, self.pad()),
            "Resize" => one(first, self.resize()),
            "Gather" => one(first, self.gather()),
            "GatherElements" => one(first, self.shape(1).map(<[Dim]>::to_vec)),
            "GatherND" => one(first, self.gather_nd()),
            "Expand" => one(first, self.expand()),
            "Tile" => one(first, self.tile()),
            "DepthToSpace" => one(first, self.blocks(false)),
            "SpaceToDepth" => one(first, self.blocks(true)),
            "Shape" => one(long, self.shape_of()),
            "Size" => one(long, Some(Vec::new())),
            "ConstantOfShape" => one(self.filler(), self.of_contents(0)),
            "Range" => one(first, self.range()),
            "NonZero" => one(long, self.rank(0).map(|rank| vec![Dim::Size(rank.max(1)), Dim::Unknown])),
            "ArgMax" | "ArgMin" => one(long, self.arg()),
            "TopK" => vec![Fact::new(first, self.top_k()), Fact::new(long, self.top_k())],
            "OneHot" => one(self.element(2), self.one_hot()),
            op if op.starts_with("Reduce") => one(first, self.reduce()),
            _ => return None,
        })
    }

    /// Inputs `first`, `first + step` … side by side.
    pub(super) fn concat(&self, first: usize, step: usize) -> Shape {
        let mut inputs = (first..self.node.inputs.len()).step_by(step).map(|input| self.shape(input));
        let mut dims = inputs.next()??.to_vec();
        let axis = self.axis(0, dims.len())?;
        for other in inputs {
            let other = other?;
            if other.len() != dims.len() {
                return None;
            }
            for (at, (to, dim)) in dims.iter_mut().zip(other).enumerate() {
                *to = match (to.size(), dim.size()) {
                    (Some(a), Some(b)) if at == axis => Dim::Size(a.checked_add(b)?),
                    (Some(a), Some(b)) if a != b => return None,
                    _ if at == axis => Dim::Unknown,
                    (None, Some(size)) => Dim::Size(size),
                    (Some(_) | None, _) => continue,
                };
            }
        }
        Some(dims)
    }

    fn split(&self) -> Option<Vec<Fact>> {
        let dims = self.shape(0)?;
        let axis = self.axis(0, dims.len())?;
        let parts = self.node.outputs.len();
        let stated = if self.has(1) { Some(self.ints(1)) } else { None };
        let part = |at: usize| match (&stated, dims[axis].size()) {
            (Some(stated), _) => stated.as_ref().and_then(|s| usize::try_from(*s.get(at)?).ok()),
            // Equal parts, the last takes what is left.
            (None, Some(size)) => {
                let each = size.div_ceil(parts.max(1));
                Some(size.saturating_sub(each * at).min(each))
            }
            (None, None) => None,
        };
        let fact = |at| {
            let mut dims = dims.to_vec();
            dims[axis] = part(at).map_or(Dim::Unknown, Dim::Size);
            Fact::new(self.element(0), Some(dims))
        };
        Some((0..parts).map(fact).collect())
    }

    fn slice(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let (starts, ends) = (self.ints(1), self.ints(2));
        let given = self.shape(1)?.first()?.size()?;
        let axes = if self.has(3) { self.ints(3)? } else { (0..i64::try_from(given).ok()?).collect() };
        let steps = if self.has(4) { self.ints(4) } else { Some(vec![1; axes.len()]) };
        for (at, &of) in axes.iter().enumerate() {
            let dim = dims.get_mut(axis(of, self.rank(0)?)?)?;
            let bounds = (|| Some((*starts.as_ref()?.get(at)?, *ends.as_ref()?.get(at)?, *steps.as_ref()?.get(at)?)))();
            *dim = match (bounds, dim.size()) {
                (Some((0, end, 1)), None) if end >= i64::from(i32::MAX) => dim.clone(),
                (Some((start, end, step)), Some(size)) => Dim::Size(slice_length(start, end, step, size)?),
                (None, _) | (Some(_), None) => Dim::Unknown,
            };
        }
        Some(dims)
    }

    fn reshape(&self) -> Shape {
        let data = self.shape(0);
        let Some(target) = &self.fact(1).contents else {
            // The rank alone.
            let rank = self.shape(1)?.first()?.size().filter(|&rank| rank <= MAX_RANK)?;
            return Some(vec![Dim::Unknown; rank]);
        };
        let mut open = None;
        let mut dims = Vec::with_capacity(target.len());
        for (at, item) in target.iter().enumerate() {
            dims.push(match item {
                Item::Known(0) if !self.flag("allowzero") => data.map_or(Some(Dim::Unknown), |d| d.get(at).cloned())?,
                Item::Known(-1) => {
                    open = Some(at);
                    Dim::Unknown
                }
                Item::Known(size) => Dim::Size(usize::try_from(*size).ok()?),
                Item::Symbol(name) => Dim::Symbol(name.clone()),
                Item::Unknown => Dim::Unknown,
            });
        }
        if let Some(open) = open {
            let rest: Vec<_> = dims.iter().enumerate().filter(|(at, _)| *at != open).map(|(_, dim)| dim).collect();
            dims[open] = data.map_or(Some(Dim::Unknown), |data| left_over(data, &rest))?;
        }
        Some(dims)
    }

    fn flatten(&self) -> Shape {
        let dims = self.shape(0)?;
        let rank = i64::try_from(dims.len()).ok()?;
        let at = self.int("axis", 1);
        let at =
            usize::try_from(if at < 0 { at.checked_add(rank)? } else { at }).ok().filter(|&at| at <= dims.len())?;
        Some(vec![product(&dims[..at]), product(&dims[at..])])
    }

    fn squeeze(&self) -> Shape {
        let dims = self.shape(0)?;
        if !self.has(1) {
            let all_known = dims.iter().all(|dim| dim.size().is_some());
            return all_known.then(|| dims.iter().filter(|dim| **dim != Dim::Size(1)).cloned().collect());
        }
        let axes: Vec<_> = self.ints(1)?.into_iter().map(|at| axis(at, dims.len())).collect::<Option<_>>()?;
        if axes.iter().any(|&at| dims[at].size().is_some_and(|size| size != 1)) {
            return None;
        }
        Some(dims.iter().enumerate().filter(|(at, _)| !axes.contains(at)).map(|(_, dim)| dim.clone()).collect())
    }

    fn unsqueeze(&self) -> Shape {
        let dims = self.shape(0)?;
        let axes = self.ints(1)?;
        let rank = dims.len() + axes.len();
        let axes: Vec<_> = axes.into_iter().map(|at| axis(at, rank)).collect::<Option<_>>()?;
        let mut rest = dims.iter().cloned();
        (0..rank).map(|at| if axes.contains(&at) { Some(Dim::Size(1)) } else { rest.next() }).collect()
    }

    fn transpose(&self) -> Shape {
        let dims = self.shape(0)?;
        let Some(order) = self.node.ints("perm") else {
            return Some(dims.iter().rev().cloned().collect());
        };
        // Each axis once.
        if order.len() != dims.len() || !(0..).zip(dims.iter()).all(|(at, _)| order.contains(&at)) {
            return None;
        }
        order.iter().map(|&at| dims.get(usize::try_from(at).ok()?).cloned()).collect()
    }

    /// Amounts before all axes, then after all; negative ones cut.
    fn pad(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let rank = dims.len();
        let axes: Vec<usize> = match self.has(3) {
            true => self.ints(3)?.into_iter().map(|at| axis(at, rank)).collect::<Option<_>>()?,
            false => (0..rank).collect(),
        };
        let Some(amounts) = self.ints(1) else {
            axes.iter().for_each(|&at| dims[at] = Dim::Unknown);
            return Some(dims);
        };
        for (at, &axis) in axes.iter().enumerate() {
            let more = amounts.get(at)?.checked_add(*amounts.get(at + axes.len())?)?;
            dims[axis] = match dims[axis].size() {
                Some(size) => Dim::Size(size.checked_add_signed(isize::try_from(more).ok()?)?),
                None if more == 0 => continue,
                None => Dim::Unknown,
            };
        }
        Some(dims)
    }

    /// `sizes` (input 3) or `scales` (input 2), of all axes or those of the attribute.
    fn resize(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let axes: Vec<usize> = match self.node.ints("axes") {
            Some(axes) => axes.iter().map(|&at| axis(at, dims.len())).collect::<Option<_>>()?,
            None => (0..dims.len()).collect(),
        };
        let crops = self.node.text("coordinate_transformation_mode") == Some("tf_crop_and_resize");
        let policy = self.node.text("keep_aspect_ratio_policy").unwrap_or("stretch");
        let scales = self.constant(2).and_then(|scales| scales.to_f32s()).filter(|scales| !scales.is_empty());
        let sizes = self.fact(3).contents.as_ref().filter(|sizes| !sizes.is_empty());
        if let Some(sizes) = sizes {
            if sizes.len() != axes.len() {
                return None;
            }
            let fit = if policy == "stretch" { Vec::new() } else { fitted(&dims, &axes, sizes, policy)? };
            for (at, &axis) in axes.iter().enumerate() {
                dims[axis] = fit.get(at).cloned().unwrap_or(dim_of(&sizes[at])?);
            }
            return Some(dims);
        }
        let scales = scales.filter(|scales| scales.len() == axes.len() && !crops);
        for (at, &axis) in axes.iter().enumerate() {
            let scale = scales.as_ref().map(|scales| scales[at]);
            dims[axis] = match (dims[axis].clone(), scale) {
                (dim, Some(1.0)) => dim,
                // In floats, as ONNX Runtime has it.
                (Dim::Size(size), Some(scale)) => Dim::Size((size as f32 * scale).floor() as usize),
                (Dim::Size(_) | Dim::Symbol(_) | Dim::Unknown, _) => Dim::Unknown,
            };
        }
        Some(dims)
    }

    fn gather(&self) -> Shape {
        let (data, indices) = (self.shape(0)?, self.shape(1)?);
        let at = self.axis(0, data.len())?;
        Some([&data[..at], indices, &data[at + 1..]].concat())
    }

    fn gather_nd(&self) -> Shape {
        let (data, indices) = (self.shape(0)?, self.shape(1)?);
        let batch = usize::try_from(self.int("batch_dims", 0)).ok()?;
        let (depth, lead) = indices.split_last()?;
        Some([lead, data.get(batch.checked_add(depth.size()?)?..)?].concat())
    }

    fn expand(&self) -> Shape {
        let data = self.shape(0)?;
        broadcast(&[Some(data), self.of_contents(1).as_deref()])
    }

    fn tile(&self) -> Shape {
        let dims = self.shape(0)?;
        let times = self.ints(1)?;
        let tiled = |(dim, &times): (&Dim, &i64)| match (dim, usize::try_from(times).ok()?) {
            (dim, 1) => Some(dim.clone()),
            (Dim::Size(size), times) => size.checked_mul(times).map(Dim::Size),
            (Dim::Symbol(_) | Dim::Unknown, _) => Some(Dim::Unknown),
        };
        if times.len() == dims.len() { dims.iter().zip(&times).map(tiled).collect() } else { None }
    }

    /// Blocks of `blocksize` squared move between channels and space.
    fn blocks(&self, to_depth: bool) -> Shape {
        let [batch, channels, spatial @ ..] = self.shape(0)? else { return None };
        let block = usize::try_from(self.node.int("blocksize")?).ok().filter(|&block| block > 0)?;
        let area = block.checked_mul(block)?;
        let scaled = |dim: &Dim, grow: bool, by: usize| match dim.size() {
            Some(size) if grow => size.checked_mul(by).map(Dim::Size),
            Some(size) => (size % by == 0).then_some(Dim::Size(size / by)),
            None => Some(Dim::Unknown),
        };
        let mut dims = vec![batch.clone(), scaled(channels, to_depth, area)?];
        for dim in spatial {
            dims.push(scaled(dim, !to_depth, block)?);
        }
        Some(dims)
    }

    /// Of the vector that `Shape` makes: `start` and `end` cut it.
    fn shape_of(&self) -> Shape {
        Some(vec![Dim::Size(self.shape_range()?.len())])
    }

    pub(super) fn shape_range(&self) -> Option<std::ops::Range<usize>> {
        let rank = i64::try_from(self.rank(0)?).ok()?;
        let place = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank);
        let (start, end) = (place(self.int("start", 0)), place(self.int("end", rank)));
        Some(usize::try_from(start).ok()?..usize::try_from(end.max(start)).ok()?)
    }

    /// A shape that stands in an input.
    fn of_contents(&self, input: usize) -> Shape {
        match &self.fact(input).contents {
            Some(contents) => contents.iter().map(dim_of).collect(),
            None => {
                let rank = self.shape(input)?.first()?.size().filter(|&rank| rank <= MAX_RANK)?;
                Some(vec![Dim::Unknown; rank])
            }
        }
    }

    fn filler(&self) -> Option<ElementType> {
        match self.node.attributes.get("value") {
            Some(crate::onnx::graph::Attribute::Tensor(tensor)) => Some(tensor.element()),
            Some(_) => None,
            None => Some(ElementType::F32),
        }
    }

    fn range(&self) -> Shape {
        let one = |input| self.ints(input).and_then(|list| list.first().copied());
        let length = |start: i64, limit: i64, delta: i64| {
            let span = i128::from(limit) - i128::from(start);
            let delta = i128::from(delta);
            let steps = if delta == 0 { return None } else { span.div_euclid(delta) };
            let exact = steps * delta == span;
            let up = if exact || delta < 0 { steps } else { steps + 1 };
            usize::try_from(up.max(0)).ok()
        };
        let known = (|| length(one(0)?, one(1)?, one(2)?))();
        Some(vec![known.map_or(Dim::Unknown, Dim::Size)])
    }

    fn arg(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let at = self.axis(0, dims.len())?;
        if self.int("keepdims", 1) == 0 {
            dims.remove(at);
        } else {
            dims[at] = Dim::Size(1);
        }
        Some(dims)
    }

    fn top_k(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let at = self.axis(-1, dims.len())?;
        let count = self.ints(1).and_then(|k| usize::try_from(*k.first()?).ok());
        dims[at] = count.map_or(Dim::Unknown, Dim::Size);
        Some(dims)
    }

    fn one_hot(&self) -> Shape {
        let mut dims = self.shape(0)?.to_vec();
        let at = self.axis(-1, dims.len() + 1)?;
        let depth = self.ints(1).and_then(|depth| usize::try_from(*depth.first()?).ok());
        dims.insert(at, depth.map_or(Dim::Unknown, Dim::Size));
        Some(dims)
    }

    /// Over the axes of input 1; over all where there are none, unless an attribute says "none".
    fn reduce(&self) -> Shape {
        let dims = self.shape(0)?;
        let keep = self.int("keepdims", 1) != 0;
        let axes = if self.has(1) { self.ints(1) } else { Some(Vec::new()) };
        let Some(axes) = axes else {
            return keep.then(|| vec![Dim::Unknown; dims.len()]);
        };
        if axes.is_empty() && self.flag("noop_with_empty_axes") {
            return Some(dims.to_vec());
        }
        let axes: Vec<_> = axes.into_iter().map(|at| axis(at, dims.len())).collect::<Option<_>>()?;
        let reduced = |at: usize| axes.is_empty() || axes.contains(&at);
        let one = |(at, dim): (usize, &Dim)| match (reduced(at), keep) {
            (true, true) => Some(Dim::Size(1)),
            (true, false) => None,
            (false, _) => Some(dim.clone()),
        };
        Some(dims.iter().enumerate().filter_map(one).collect())
    }
}

fn dim_of(item: &Item) -> Option<Dim> {
    Some(match item {
        Item::Known(size) => Dim::Size(usize::try_from(*size).ok()?),
        Item::Symbol(name) => Dim::Symbol(name.clone()),
        Item::Unknown => Dim::Unknown,
    })
}

/// Elements from `start` to before `end`, negative ones counted from the end. `None` for a step of 0.
fn slice_length(start: i64, end: i64, step: i64, size: usize) -> Option<usize> {
    let (first, last) = slice_bounds(start, end, step, size)?;
    let span = if step > 0 { last - first } else { first - last };
    usize::try_from((span.max(0) + i128::from(step).abs() - 1) / i128::from(step).abs()).ok()
}

/// Where a slice begins, and what it ends before.
pub fn slice_bounds(start: i64, end: i64, step: i64, size: usize) -> Option<(i128, i128)> {
    let size = i128::try_from(size).ok()?;
    let place = |at: i64| if at < 0 { i128::from(at) + size } else { i128::from(at) };
    match step {
        0 => None,
        1.. => Some((place(start).clamp(0, size), place(end).clamp(0, size))),
        _ => Some((place(start).clamp(-1, size - 1), place(end).clamp(-1, size - 1))),
    }
}

fn product(dims: &[Dim]) -> Dim {
    match dims {
        [only] => only.clone(),
        _ => {
            let sizes = dims.iter().map(Dim::size).collect::<Option<Vec<_>>>();
            sizes.and_then(|sizes| crate::onnx::tensor::count(&sizes)).map_or(Dim::Unknown, Dim::Size)
        }
    }
}

/// What the whole leaves for one dimension beside `rest`: symbols that stand on both sides cancel.
fn left_over(whole: &[Dim], rest: &[&Dim]) -> Option<Dim> {
    let mut symbols: Vec<&Dim> = whole.iter().filter(|dim| dim.size().is_none()).collect();
    let mut below = 1_usize;
    for dim in rest {
        match dim {
            Dim::Size(size) => below = below.checked_mul(*size)?,
            Dim::Symbol(_) => match symbols.iter().position(|symbol| symbol == dim) {
                Some(at) => drop(symbols.remove(at)),
                None => return Some(Dim::Unknown),
            },
            Dim::Unknown => return Some(Dim::Unknown),
        }
    }
    let above = whole.iter().filter_map(Dim::size).try_fold(1_usize, usize::checked_mul)?;
    match symbols.as_slice() {
        [] if below == 0 => Some(Dim::Unknown),
        [] => above.is_multiple_of(below).then(|| Dim::Size(above / below)),
        [symbol] if above == below && above != 0 => Some((*symbol).clone()),
        _ => Some(Dim::Unknown),
    }
}

/// Sizes that keep the aspect ratio.
fn fitted(dims: &[Dim], axes: &[usize], sizes: &[Item], policy: &str) -> Shape {
    let ratio = |(item, &axis): (&Item, &usize)| match (item, dims[axis].size()) {
        (Item::Known(size), Some(from)) => Some(*size as f32 / from as f32),
        (Item::Known(_) | Item::Symbol(_) | Item::Unknown, _) => None,
    };
    let ratios: Option<Vec<f32>> = sizes.iter().zip(axes).map(ratio).collect();
    let Some(ratios) = ratios else { return Some(vec![Dim::Unknown; axes.len()]) };
    let pick = if policy == "not_larger" { f32::min } else { f32::max };
    let scale = ratios.into_iter().reduce(pick)?;
    let fit = |&axis: &usize| dims[axis].size().map(|size| Dim::Size((size as f32 * scale).round() as usize));
    axes.iter().map(fit).collect()
}
