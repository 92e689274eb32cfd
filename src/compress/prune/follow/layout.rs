//! Operators that move, join, cut, pool and reduce.

use super::{Follower, Understood, positive};
use crate::compress::prune::ids::{Axis, Classes, Id};
use crate::onnx::graph::{Node, ValueId, describe};
use std::sync::Arc;

impl Follower<'_> {
    pub(super) fn layout(&mut self, op: &str, node: &Node) -> Understood {
        match op {
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                self.pool(node)
            }
            "Transpose" => self.transpose(node),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(node),
            "Concat" => self.concat(node),
            "Split" => self.split(node),
            "Slice" => self.slice(node),
            "Gather" => self.gather(node),
            "Expand" => self.expand(node),
            "Pad" | "Tile" | "Resize" => self.sized(node),
            "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" => self.along(node, -1, false),
            "LayerNormalization" | "RMSNormalization" => self.along(node, -1, true),
            "CumSum" => None,
            op if op.starts_with("Reduce") || op == "ArgMax" || op == "ArgMin" => self.reduce(node),
            _ => None,
        }
    }

    fn axes(&self, value: ValueId) -> Vec<Axis> {
        (0..self.followed.axes(value).len()).map(|axis| self.axis(value, axis)).collect()
    }

    fn pool(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        // Places in the input depend on how many channels there are.
        if node.output(1).is_some() {
            return None;
        }
        self.only(node, x, &[0, 1]);
        let mut axes = self.axes(x);
        axes.iter_mut().skip(2).for_each(|axis| *axis = Axis::Plain);
        let zero = self.is_zero(x);
        self.set(y, axes, zero);
        Some(())
    }

    fn transpose(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let axes = self.axes(x);
        let order: Vec<usize> = match node.ints("perm") {
            Some(perm) => perm.iter().map(|&axis| positive(axis, axes.len())).collect::<Option<_>>()?,
            None => (0..axes.len()).rev().collect(),
        };
        let turned = order.iter().map(|&axis| axes.get(axis).cloned()).collect::<Option<_>>()?;
        let zero = self.is_zero(x);
        self.set(y, turned, zero);
        Some(())
    }

    /// Axes that are cut, joined, or stay, in runs of equal products; axes of one position bear nothing.
    fn reshape(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let (from, to) = (self.shape(x)?, self.shape(y)?);
        let axes = self.axes(x);
        let mut made = vec![Axis::Plain; to.len()];
        for (sources, targets) in runs(&from, &to)? {
            let bearing: Vec<usize> = sources.iter().copied().filter(|&axis| axes[axis].ids().is_some()).collect();
            let Some(ids) = bearing.first().and_then(|&axis| axes[axis].ids().cloned()) else { continue };
            match (bearing.as_slice(), sources.as_slice(), targets.as_slice()) {
                ([_], [_], [target]) => made[*target] = Axis::Ids(ids),
                ([axis], _, [target]) => made[*target] = Axis::Ids(joined(&from, &sources, *axis, &ids)),
                ([_], [_], _) => {
                    let bearer = super::carry::bearer(self.graph, self.facts, self.uses, y, &targets);
                    let rest = self.cut(&to, &targets, bearer, &ids);
                    made[bearer] = Axis::Ids(rest);
                }
                _ => {
                    let why = format!("{} mixes it with another axis", describe(node));
                    sources.iter().for_each(|&axis| self.stay(x, axis, &why));
                }
            }
        }
        // Where the file computes the sizes, they cannot be written anew.
        let stated = !node.is("Reshape") || node.input(1).is_some_and(|target| self.is_constant(target));
        if !stated && made.iter().any(|axis| axis.ids().is_some()) {
            return None;
        }
        let zero = self.is_zero(x);
        self.set(y, made, zero);
        Some(())
    }

    /// One axis becomes several, of which one bears the ids: those of all positions that share its place are merged.
    fn cut(&mut self, to: &[usize], targets: &[usize], bearer: usize, ids: &[Id]) -> Arc<[Id]> {
        let inner: usize = targets.iter().filter(|&&target| target > bearer).map(|&target| to[target]).product();
        let place = |at: usize| at / inner % to[bearer];
        let mut heads: Vec<Option<Id>> = vec![None; to[bearer]];
        for (at, &id) in ids.iter().enumerate() {
            match heads[place(at)] {
                Some(head) => self.followed.classes.unite(head, id),
                None => heads[place(at)] = Some(id),
            }
        }
        heads.into_iter().map(|head| head.unwrap_or(Classes::FIXED)).collect()
    }

    fn concat(&mut self, node: &Node) -> Understood {
        let y = node.output(0)?;
        let out = self.shape(y)?;
        let axis = positive(node.int("axis")?, out.len())?;
        let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let operands: Vec<(ValueId, usize)> = inputs.iter().map(|&value| (value, 0)).collect();
        let mut axes = self.broadcast(node, &operands, &out, super::Role::Keeps)?;
        let bears = inputs.iter().any(|&value| self.axis(value, axis).ids().is_some());
        if bears {
            let mut ids = Vec::with_capacity(out[axis]);
            for &value in &inputs {
                let size = *self.shape(value)?.get(axis)?;
                match self.axis(value, axis) {
                    Axis::Ids(own) => ids.extend(own.iter()),
                    Axis::Plain | Axis::Free => ids.resize(ids.len() + size, Classes::FIXED),
                }
            }
            axes[axis] = Axis::Ids(ids.into());
        } else {
            axes[axis] = Axis::Plain;
        }
        let zero = inputs.iter().all(|&value| self.is_zero(value) || !self.has_ids(value));
        self.set(y, axes, zero);
        Some(())
    }

    fn split(&mut self, node: &Node) -> Understood {
        let x = node.input(0)?;
        let axes = self.axes(x);
        let axis = positive(node.int("axis").unwrap_or(0), axes.len())?;
        let mut from = 0;
        let zero = self.is_zero(x);
        for &value in node.outputs.iter() {
            // One that nothing reads still takes its share.
            let value = value?;
            let size = *self.shape(value)?.get(axis)?;
            let mut own = axes.clone();
            if let Axis::Ids(ids) = &axes[axis] {
                own[axis] = Axis::Ids(ids.get(from..from + size)?.into());
            }
            self.set(value, own, zero);
            from += size;
        }
        Some(())
    }

    fn slice(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let (mut axes, shape, out) = (self.axes(x), self.shape(x)?, self.shape(y)?);
        for axis in 0..axes.len() {
            let Axis::Ids(ids) = axes[axis].clone() else { continue };
            let Some(start) = self.slice_start(node, axis, shape[axis])? else { continue };
            axes[axis] = Axis::Ids(ids.get(start..start + out[axis])?.into());
        }
        let zero = self.is_zero(x);
        self.set(y, axes, zero);
        Some(())
    }

    /// Where a slice with a step of 1 begins on the axis; `Some(None)` where it leaves it whole.
    fn slice_start(&self, node: &Node, axis: usize, size: usize) -> Option<Option<usize>> {
        let ints = |at: usize| node.input(at).and_then(|value| self.graph.constant(value)?.to_i64s());
        let starts = ints(1)?;
        let ends = ints(2)?;
        let axes = match node.input(3) {
            Some(_) => ints(3)?.iter().map(|&axis| positive(axis, self.shape(node.input(0)?)?.len())).collect(),
            None => (0..starts.len()).map(Some).collect::<Option<Vec<_>>>(),
        }?;
        let Some(at) = axes.iter().position(|&own| own == axis) else { return Some(None) };
        let step = if node.input(4).is_some() { *ints(4)?.get(at)? } else { 1 };
        ends.get(at).filter(|_| step == 1)?;
        let (start, size_i) = (*starts.get(at)?, i64::try_from(size).ok()?);
        let start = if start < 0 { start.saturating_add(size_i) } else { start };
        Some(usize::try_from(start.clamp(0, size_i)).ok())
    }

    fn gather(&mut self, node: &Node) -> Understood {
        let (data, indices, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let axes = self.axes(data);
        let axis = positive(node.int("axis").unwrap_or(0), axes.len())?;
        self.only(node, indices, &[]);
        let mut middle = vec![Axis::Plain; self.shape(indices)?.len()];
        if let Axis::Ids(ids) = &axes[axis] {
            let places = self.graph.constant(indices)?.to_i64s()?;
            let taken =
                places.iter().map(|&at| positive(at, ids.len()).map(|at| ids[at])).collect::<Option<Vec<_>>>()?;
            match middle.len() {
                1 => middle[0] = Axis::Ids(taken.into()),
                _ => self.followed.classes.freeze(&taken, &format!("{} takes it by number", describe(node))),
            }
        }
        let all = [&axes[..axis], &middle, &axes[axis + 1..]].concat();
        let zero = self.is_zero(data);
        self.set(y, all, zero);
        Some(())
    }

    fn expand(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let (shape, out) = (self.shape(x)?, self.shape(y)?);
        let own = self.axes(x);
        let mut axes = vec![Axis::Plain; out.len()];
        for (at, axis) in own.into_iter().enumerate().filter(|(_, axis)| axis.ids().is_some()) {
            node.input(1).filter(|&value| self.is_constant(value))?;
            let target = at + out.len() - shape.len();
            (out[target] == shape[at]).then_some(())?;
            axes[target] = axis;
        }
        let zero = self.is_zero(x);
        self.set(y, axes, zero);
        Some(())
    }

    /// What changes sizes: axes of channels have to keep theirs.
    fn sized(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let (shape, out) = (self.shape(x)?, self.shape(y)?);
        let mut axes = self.axes(x);
        for (at, axis) in axes.iter_mut().enumerate().filter(|(_, axis)| axis.ids().is_some()) {
            let stated = |at: usize| node.input(at).is_none_or(|value| self.is_constant(value));
            let whole = out.get(at) == shape.get(at) && (1..node.inputs.len()).all(stated);
            if !whole {
                let ids = axis.ids().cloned()?;
                self.followed.classes.freeze(&ids, &format!("{} changes how many there are", describe(node)));
                *axis = Axis::Plain;
            }
        }
        let zero = self.is_zero(x) && node.is("Resize");
        self.set(y, axes, zero);
        Some(())
    }

    /// What needs all positions of an axis, and with `rest` of those behind it: they stay.
    fn along(&mut self, node: &Node, default: i64, rest: bool) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let rank = self.shape(x)?.len();
        let axis = positive(node.int("axis").unwrap_or(default), rank)?;
        let free: Vec<usize> = (0..rank).filter(|&at| at != axis && !(rest && at > axis)).collect();
        self.only(node, x, &free);
        for constant in node.inputs.iter().skip(1).flatten() {
            self.only(node, *constant, &[]);
        }
        let mut axes = self.axes(x);
        axes.iter_mut().enumerate().filter(|(at, _)| !free.contains(at)).for_each(|(_, axis)| *axis = Axis::Plain);
        if node.outputs.len() > 1 && node.outputs[1..].iter().any(Option::is_some) {
            return None;
        }
        self.set(y, axes, false);
        Some(())
    }

    fn reduce(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        let rank = self.shape(x)?.len();
        let listed = match (node.input(1), node.int("axis")) {
            (Some(axes), _) => match self.graph.constant(axes)?.to_i64s()? {
                all if all.is_empty() && node.int("noop_with_empty_axes") != Some(1) => (0..rank as i64).collect(),
                listed => listed,
            },
            (None, Some(axis)) => vec![axis],
            (None, None) if node.op.starts_with("Arg") => vec![0],
            (None, None) if node.int("noop_with_empty_axes") == Some(1) => return None,
            (None, None) => (0..rank as i64).collect(),
        };
        let reduced = listed.iter().map(|&axis| positive(axis, rank)).collect::<Option<Vec<_>>>()?;
        let free: Vec<usize> = (0..rank).filter(|axis| !reduced.contains(axis)).collect();
        let sums = matches!(node.op.as_str(), "ReduceSum" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare");
        if !(sums && self.is_zero(x)) {
            self.only(node, x, &free);
        }
        let keep = node.int("keepdims").unwrap_or(1) != 0;
        let axes = self.axes(x).into_iter().enumerate();
        let made = axes.filter(|(at, _)| keep || free.contains(at));
        let made = made.map(|(at, axis)| if free.contains(&at) { axis } else { Axis::Plain }).collect();
        let zero = self.is_zero(x)
            && node.op != "ReduceLogSumExp"
            && node.op != "ReduceLogSum"
            && node.op != "ReduceProd"
            && !node.op.starts_with("Arg");
        self.set(y, made, zero);
        Some(())
    }
}

/// Sources and targets of a reshape, in runs whose sizes have equal products; axes of size 1 are left out. `None` where they
/// do not fit, or there are none to fit.
fn runs(from: &[usize], to: &[usize]) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    let large = |shape: &[usize]| (0..shape.len()).filter(|&axis| shape[axis] != 1).collect::<Vec<_>>();
    let (mut sources, mut targets) = (large(from).into_iter().peekable(), large(to).into_iter().peekable());
    if from.contains(&0) {
        return None;
    }
    let mut runs = Vec::new();
    while let (Some(source), Some(target)) = (sources.next(), targets.next()) {
        let mut run = (vec![source], vec![target]);
        let (mut left, mut right) = (from[source], to[target]);
        while left != right {
            if left < right {
                let next = sources.next()?;
                left *= from[next];
                run.0.push(next);
            } else {
                let next = targets.next()?;
                right *= to[next];
                run.1.push(next);
            }
        }
        runs.push(run);
    }
    (sources.peek().is_none() && targets.peek().is_none()).then_some(runs)
}

/// The ids of one axis among several that become one, row-major.
fn joined(from: &[usize], sources: &[usize], bearer: usize, ids: &[Id]) -> Arc<[Id]> {
    let size = |axes: &mut dyn Iterator<Item = &usize>| axes.map(|&axis| from[axis]).product::<usize>();
    let inner = size(&mut sources.iter().filter(|&&axis| axis > bearer));
    let all = size(&mut sources.iter());
    (0..all).map(|at| ids[at / inner % ids.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reshape_falls_into_runs_of_equal_products() {
        let run = |sources: &[usize], targets: &[usize]| (sources.to_vec(), targets.to_vec());
        assert_eq!(runs(&[1, 8, 4, 4], &[1, 128]), Some(vec![run(&[1, 2, 3], &[1])]));
        assert_eq!(runs(&[2, 8, 5], &[2, 2, 4, 5]), Some(vec![run(&[0], &[0]), run(&[1], &[1, 2]), run(&[2], &[3])]));
        assert_eq!(runs(&[6, 4], &[4, 6]), Some(vec![run(&[0, 1], &[0, 1])]));
        assert_eq!(runs(&[6, 4], &[5]), None);
        let mut classes = Classes::default();
        let ids = classes.fresh(2);
        assert_eq!(joined(&[3, 2, 2], &[0, 1, 2], 1, &ids)[..6], [ids[0], ids[0], ids[1], ids[1], ids[0], ids[0]]);
    }
}
