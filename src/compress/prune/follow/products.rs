//! Convolutions, matrix products and the normalisations behind them.

use super::{Follower, Role, Understood};
use crate::compress::prune::ids::{Axis, Id};
use crate::onnx::graph::{Node, NodeId, ValueId, describe};
use std::sync::Arc;

impl Follower<'_> {
    /// Makes new channels along the axis of the weights.
    fn make(&mut self, id: NodeId, node: &Node, weight: (ValueId, usize), ids: &Arc<[Id]>) -> Understood {
        self.adopt(node, weight, ids, Role::Makes)?;
        self.followed.makers.push((id, weight.0, weight.1));
        Some(())
    }

    /// Lets the axis of the weights bear what it reads of `value`.
    fn take(&mut self, node: &Node, (value, axis): (ValueId, usize), weight: (ValueId, usize)) -> Understood {
        match self.axis(value, axis) {
            Axis::Ids(ids) => {
                self.followed.taken.push((value, axis));
                self.adopt(node, weight, &ids, Role::Takes)
            }
            Axis::Plain | Axis::Free => {
                self.stay(weight.0, weight.1, "it reads what stays");
                Some(())
            }
        }
    }

    fn shift(&mut self, node: &Node, bias: Option<ValueId>, ids: &Arc<[Id]>) -> Understood {
        match bias {
            Some(bias) if self.is_constant(bias) => self.adopt(node, (bias, 0), ids, Role::Shifts),
            Some(_) => None,
            None => Some(()),
        }
    }

    pub(super) fn conv(&mut self, id: NodeId, node: &Node) -> Understood {
        let (x, w, bias, y) = (node.input(0)?, node.input(1)?, node.input(2), node.output(0)?);
        let (weights, rank) = (self.shape(w).filter(|_| self.is_constant(w))?, self.shape(y)?.len());
        let group = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|&group| group > 0)?;
        let (made, channels_in) = (*weights.first()?, *self.shape(x)?.get(1)?);
        // A file may state anything.
        let fits = made > 0 && made % group == 0 && weights.get(1)?.checked_mul(group)? == channels_in;
        fits.then_some(())?;
        let read = channels_in / group;
        self.only(node, x, &[1]);
        let out = if group == 1 {
            self.take(node, (x, 1), (w, 1))?;
            self.followed.classes.fresh(made)
        } else if read < group {
            self.stay(w, 1, "a group is whole");
            self.whole_groups((x, 1), group, made)
        } else {
            let kept = self.paired_groups((x, 1), group);
            match kept {
                Some(ids) => self.adopt(node, (w, 1), &ids, Role::Takes)?,
                None => self.stay(w, 1, "it reads what stays"),
            }
            self.followed.taken.push((x, 1));
            self.alike(made, group)
        };
        self.make(id, node, (w, 0), &out)?;
        self.shift(node, bias, &out)?;
        self.set(y, channels(rank, out), true);
        Some(())
    }

    pub(super) fn conv_transpose(&mut self, id: NodeId, node: &Node) -> Understood {
        let (x, w, bias, y) = (node.input(0)?, node.input(1)?, node.input(2), node.output(0)?);
        let (weights, rank) = (self.shape(w).filter(|_| self.is_constant(w))?, self.shape(y)?.len());
        let group = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|&group| group > 0)?;
        let (channels_in, each) = (*weights.first()?, *weights.get(1)?);
        let fits = self.shape(x)?.get(1) == Some(&channels_in) && channels_in.is_multiple_of(group) && each > 0;
        fits.then_some(())?;
        let (read, made) = (channels_in / group, each.checked_mul(group)?);
        self.only(node, x, &[1]);
        let out = if group == 1 {
            self.take(node, (x, 1), (w, 0))?;
            let out = self.followed.classes.fresh(made);
            self.make(id, node, (w, 1), &out)?;
            out
        } else if read < group {
            self.stay(w, 1, "a group is whole");
            let out = self.whole_groups((x, 1), group, made);
            let rows: Vec<Id> = (0..read * group).map(|row| out[row / read * (made / group)]).collect();
            self.make(id, node, (w, 0), &rows.into())?;
            out
        } else {
            return None;
        };
        self.shift(node, bias, &out)?;
        self.set(y, channels(rank, out), true);
        Some(())
    }

    /// A group goes with all that it reads and makes: depthwise convolutions, and those of many small groups.
    fn whole_groups(&mut self, (x, axis): (ValueId, usize), group: usize, made: usize) -> Arc<[Id]> {
        let heads: Vec<Id> = match self.axis(x, axis) {
            Axis::Ids(ids) => {
                let each = (ids.len() / group).max(1);
                ids.chunks(each).for_each(|chunk| self.followed.classes.merge(chunk.iter().copied()));
                ids.chunks(each).map(|chunk| chunk[0]).collect()
            }
            // What is read stays, so the groups stay.
            Axis::Plain | Axis::Free => {
                let ids = self.followed.classes.fresh(group);
                self.followed.classes.freeze(&ids, "its groups read what stays");
                ids.to_vec()
            }
        };
        let each = (made / group).max(1);
        (0..made).map(|at| heads[(at / each).min(group - 1)]).collect()
    }

    /// One channel of each group goes, so that groups stay alike; returns the ids of one group.
    fn paired_groups(&mut self, (x, axis): (ValueId, usize), group: usize) -> Option<Arc<[Id]>> {
        let Axis::Ids(ids) = self.axis(x, axis) else { return None };
        let each = ids.len() / group;
        for at in 0..each {
            self.followed.classes.merge((0..group).map(|group| ids[group * each + at]));
        }
        Some(ids[..each].into())
    }

    /// New channels, the same in each group.
    fn alike(&mut self, made: usize, group: usize) -> Arc<[Id]> {
        let ids = self.followed.classes.fresh(made / group);
        (0..made).map(|at| ids[at % ids.len().max(1)]).collect()
    }

    pub(super) fn gemm(&mut self, id: NodeId, node: &Node) -> Understood {
        let (a, b, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let turned = |name| usize::from(node.int(name).unwrap_or(0) != 0);
        let (inner_a, inner_b) = (1 - turned("transA"), turned("transB"));
        let columns = *self.shape(y)?.get(1)?;
        if !self.is_constant(b) {
            node.inputs.iter().flatten().for_each(|&value| self.only(node, value, &[]));
            return Some(());
        }
        self.take(node, (a, inner_a), (b, inner_b))?;
        let out = self.followed.classes.fresh(columns);
        self.make(id, node, (b, 1 - inner_b), &out)?;
        let rows = self.axis(a, 1 - inner_a);
        let mut zero = rows.ids().is_none() || self.is_zero(a);
        if let Some(c) = node.input(2) {
            let shape = self.shape(c)?;
            let whole = shape.last() == Some(&columns) && columns > 1;
            if whole {
                self.adopt(node, (c, shape.len() - 1), &out, Role::Shifts)?;
            } else {
                // One number for all columns: a channel that is zeroed would keep it.
                self.followed.classes.freeze(&out, "its bias is not one number a channel");
            }
            let high = shape.len() == 2 && shape[0] > 1;
            match rows.ids() {
                Some(ids) if high => self.adopt(node, (c, 0), ids, Role::Shifts)?,
                None if high => self.stay(c, 0, "it is added to what stays"),
                // A row that is zero has its bias left.
                Some(_) => zero = false,
                None => {}
            }
            zero &= self.is_constant(c) || self.is_zero(c);
        }
        self.set(y, vec![rows, Axis::Ids(out)], zero);
        Some(())
    }

    pub(super) fn mat_mul(&mut self, id: NodeId, node: &Node) -> Understood {
        let (a, b, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let (left, right) = (self.shape(a)?, self.shape(b)?);
        let out = self.shape(y)?;
        if left.len() < 2 || right.len() < 2 {
            self.only(node, a, &[]);
            self.only(node, b, &[]);
            return Some(());
        }
        let (inner_a, inner_b) = ((a, left.len() - 1), (b, right.len() - 2));
        let (mut rows, mut columns) = (self.axis(a, left.len() - 2), self.axis(b, right.len() - 1));
        // What is made here is zero with its weights, what only passes where it was before.
        let mut zero = [rows.ids().is_none() || self.is_zero(a), columns.ids().is_none() || self.is_zero(b)];
        if self.is_constant(b) && right.len() == 2 {
            self.take(node, inner_a, inner_b)?;
            let made = self.followed.classes.fresh(right[1]);
            self.make(id, node, (b, 1), &made)?;
            (columns, zero[1]) = (Axis::Ids(made), true);
        } else if self.is_constant(a) && left.len() == 2 {
            self.take(node, inner_b, inner_a)?;
            let made = self.followed.classes.fresh(left[0]);
            self.make(id, node, (a, 0), &made)?;
            (rows, zero[0]) = (Axis::Ids(made), true);
        } else {
            self.contract(node, inner_a, inner_b)?;
        }
        let mut axes = self.broadcast(node, &[(a, 2), (b, 2)], &out[..out.len() - 2], Role::Keeps)?;
        let stacked = (0..axes.len()).all(|at| {
            let through = |value: ValueId, rank: usize| {
                let own = (at + rank).checked_sub(out.len());
                self.is_zero(value) && own.is_some_and(|own| self.axis(value, own).ids().is_some())
            };
            axes[at].ids().is_none() || through(a, left.len()) || through(b, right.len())
        });
        axes.extend([rows, columns]);
        self.set(y, axes, zero == [true; 2] && stacked);
        Some(())
    }

    /// A product of two activations sums over channels: fine where those that go are zeros on one side.
    fn contract(&mut self, node: &Node, a: (ValueId, usize), b: (ValueId, usize)) -> Understood {
        let (left, right) = (self.axis(a.0, a.1), self.axis(b.0, b.1));
        match (left.ids(), right.ids()) {
            (Some(ids), Some(other)) if self.is_zero(a.0) || self.is_zero(b.0) => {
                self.followed.classes.unite_all(ids, other);
            }
            (None, None) => {}
            _ => {
                let why = format!("{} sums over it", describe(node));
                [a, b].into_iter().for_each(|(value, axis)| self.stay(value, axis, &why));
            }
        }
        Some(())
    }

    /// Batch normalisation, and that of each instance: a number of each constant for each channel.
    pub(super) fn norm(&mut self, node: &Node) -> Understood {
        let (x, y) = (node.input(0)?, node.output(0)?);
        self.only(node, x, &[1]);
        let axis = self.axis(x, 1);
        let roles = [Role::Scales, Role::Shifts, Role::Keeps, Role::Keeps];
        for (at, role) in (1..node.inputs.len()).zip(roles) {
            let constant = node.input(at).filter(|&value| self.is_constant(value))?;
            match &axis {
                Axis::Ids(ids) => self.adopt(node, (constant, 0), ids, role)?,
                Axis::Plain | Axis::Free => self.stay(constant, 0, "it normalises what stays"),
            }
        }
        let axes =
            self.followed.axes(x).iter().map(|axis| if *axis == Axis::Free { Axis::Plain } else { axis.clone() });
        let axes = axes.collect();
        self.set(y, axes, true);
        Some(())
    }
}

/// Channels along the second axis.
fn channels(rank: usize, ids: Arc<[Id]>) -> Vec<Axis> {
    let mut axes = vec![Axis::Plain; rank];
    if let Some(axis) = axes.get_mut(1) {
        *axis = Axis::Ids(ids);
    }
    axes
}
