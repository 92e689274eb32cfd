//! Orders of channels that no step brings about (ShuffleNet's shuffle, a Gather of channels): a convolution reads its
//! channels in whatever order its weights have, and makes them in whatever order its weights stand.
//!
//! A permutation goes into the convolution that makes the value, where nothing else reads it. Otherwise the value lies as
//! it did, the walk notes in what order its channels are now, and the steps behind follow: convolutions of all channels
//! take the order into their weights, windows of one channel and functions pass it on, a Slice takes what it needs as it
//! lies. What cannot follow has the file's order restored in front of it.
//!
//! Invariant: the program computes the same bytes, and moves less than before; otherwise it stays as it is.
//! Left out: sums of floats, whose order is part of the result; groups of several channels.
//! Rejected: a shuffle as a view with strides (every kernel reads channels side by side).

mod reorder;
#[cfg(test)]
mod tests;

use super::super::op::Op;
use super::super::program::{Draft, Step, ValueId as Id};
use reorder::{inverse, is_identity};
use std::collections::HashMap;
use std::sync::Arc;

/// The file's channel by place; `None` where each has its own.
type Order = Option<Arc<[usize]>>;

/// Steps before a permutation that are looked at for a convolution that can take it.
const MAX_BACK: usize = 16;

/// Where a value is, and how its channels lie there.
#[derive(Debug, Clone)]
struct Lies {
    id: Id,
    order: Order,
}

/// `pay` takes bytes of memory for constants, while there are some left.
pub(super) fn fold(draft: Draft, pay: impl Fn(usize) -> Option<()>) -> Draft {
    if !draft.steps.iter().any(|step| matches!(step.op, Op::Transpose { .. } | Op::Select { .. })) {
        return draft;
    }
    match Walk::new(&draft, &pay).all() {
        Some(folded) if moved(&folded) < moved(&draft) => folded,
        Some(_) | None => draft,
    }
}

/// Values that steps put elsewhere.
fn moved(draft: &Draft) -> usize {
    let moves = |step: &&Step| matches!(step.op, Op::Transpose { .. } | Op::Select { .. } | Op::Slice { .. });
    draft.steps.iter().filter(moves).map(|step| draft.values[step.output.index()].count()).sum()
}

/// How often each value is read, or leaves.
fn reads(draft: &Draft) -> HashMap<Id, usize> {
    let mut reads = HashMap::new();
    let read = draft.steps.iter().flat_map(|step| &step.inputs).chain(&draft.outputs);
    read.for_each(|&id| *reads.entry(id).or_default() += 1);
    reads
}

/// Reshape, Transpose, Reshape that only permute channels.
struct Shuffle {
    from: Id,
    /// Channel of the input by channel of the output.
    map: Vec<usize>,
    /// The steps in front of the last.
    steps: [usize; 2],
}

struct Walk<'a> {
    old: &'a Draft,
    pay: &'a dyn Fn(usize) -> Option<()>,
    /// All values of the old one, and its steps so far.
    draft: Draft,
    lies: HashMap<Id, Lies>,
    /// Values in the file's order that were made for steps that cannot follow.
    restored: HashMap<Id, Id>,
    /// By number of new step.
    makers: HashMap<Id, usize>,
    reads: HashMap<Id, usize>,
}

impl<'a> Walk<'a> {
    fn new(old: &'a Draft, pay: &'a dyn Fn(usize) -> Option<()>) -> Self {
        let draft = Draft { steps: Vec::new(), outputs: Vec::new(), ..old.clone() };
        let (lies, restored, makers) = Default::default();
        Self { old, pay, draft, lies, restored, makers, reads: reads(old) }
    }

    /// `None` where that takes more memory than may be taken, or an output would be another value.
    fn all(mut self) -> Option<Draft> {
        let shuffles = self.shuffles();
        let passed_over: Vec<usize> = shuffles.values().flat_map(|shuffle| shuffle.steps).collect();
        let mut is_passed_over = vec![false; self.old.steps.len()];
        passed_over.into_iter().for_each(|step| is_passed_over[step] = true);
        for (at, step) in self.old.steps.iter().enumerate().filter(|(at, _)| !is_passed_over[*at]) {
            let selected = match shuffles.get(&at) {
                Some(shuffle) => Some((shuffle.from, shuffle.map.clone())),
                None => self.selection(step),
            };
            match selected {
                Some((from, map)) => self.select(step, from, &map)?,
                None => self.follow(step)?,
            }
        }
        for &output in &self.old.outputs {
            let id = self.in_order(output, &"".into())?;
            if self.draft.outputs.contains(&id) || (id != output && self.draft.inputs.contains(&id)) {
                return None;
            }
            self.draft.outputs.push(id);
        }
        Some(self.draft)
    }

    fn shape(&self, id: Id) -> &[usize] {
        &self.draft.values[id.index()].shape
    }

    /// By number of their last step.
    fn shuffles(&self) -> HashMap<usize, Shuffle> {
        let makers: HashMap<Id, usize> =
            self.old.steps.iter().enumerate().map(|(at, step)| (step.output, at)).collect();
        let once = |id: Id| makers.get(&id).copied().filter(|_| self.reads.get(&id) == Some(&1));
        let shuffle = |step: &Step| {
            let turn = once(*step.inputs.first()?)?;
            let split = once(*self.old.steps[turn].inputs.first()?)?;
            let (turned, parted) = (&self.old.steps[turn], &self.old.steps[split]);
            let (Op::Transpose { permutation }, Op::Reshape) = (&turned.op, &parted.op) else { return None };
            let from = *parted.inputs.first()?;
            let shape = self.shape(from);
            let map = reorder::shuffle(shape, self.shape(parted.output), permutation)?;
            (self.shape(step.output) == shape).then_some(Shuffle { from, map, steps: [split, turn] })
        };
        let steps = self.old.steps.iter().enumerate().filter(|(_, step)| step.op == Op::Reshape);
        steps.filter_map(|(at, step)| Some((at, shuffle(step)?))).collect()
    }

    /// Of a step that takes some channels as they are: which.
    fn selection(&self, step: &Step) -> Option<(Id, Vec<usize>)> {
        let from = *step.inputs.first()?;
        let (&[n, _, h, w], &[n2, count, h2, w2]) = (self.shape(from), self.shape(step.output)) else { return None };
        if (n, h, w) != (n2, h2, w2) {
            return None;
        }
        if let Op::Slice { starts, steps } = &step.op {
            let &[0, start, 0, 0] = starts.as_slice() else { return None };
            return Some((from, (0..count).map(|k| start + k * steps[1]).collect()));
        }
        let Op::Select { maps } = &step.op else { return None };
        let [None, Some(map), None, None] = maps.as_slice() else { return None };
        Some((from, map.to_vec()))
    }

    fn lies(&self, id: Id) -> Lies {
        self.lies.get(&id).cloned().unwrap_or(Lies { id, order: None })
    }

    fn push(&mut self, step: Step, order: Order) {
        self.makers.insert(step.output, self.draft.steps.len());
        let order = order.filter(|order| !is_identity(order));
        self.lies.insert(step.output, Lies { id: step.output, order });
        self.draft.steps.push(step);
    }

    /// The value is another one, in an order of its own. Who reads the one reads the other.
    fn alias(&mut self, value: Id, lies: Lies) {
        let count = |id: &Id| self.reads.get(id).copied().unwrap_or(0);
        let most = count(&value).max(count(&lies.id));
        self.reads.insert(lies.id, most);
        self.lies.insert(value, lies);
    }

    /// Channels as a map names them: taken in the order in which they lie.
    fn select(&mut self, step: &Step, from: Id, map: &[usize]) -> Option<()> {
        let Lies { id, order } = self.lies(from);
        let count = *self.shape(id).get(1)?;
        (self.pay)((count + map.len()).saturating_mul(size_of::<[usize; 4]>()))?;
        let place = inverse(order.as_deref(), count);
        let places: Vec<usize> = map.iter().map(|&channel| place[channel]).collect();
        if reorder::is_permutation(&places, count) && self.reorder_maker(id, &places)? {
            self.alias(step.output, Lies { id, order: None });
            return Some(());
        }
        let mut sorted: Vec<(usize, usize)> = places.into_iter().zip(0..).collect();
        sorted.sort_unstable();
        let (places, order): (Vec<usize>, Vec<usize>) = sorted.into_iter().unzip();
        if places.len() == count && is_identity(&places) {
            let order = Some(order.into()).filter(|order: &Arc<[usize]>| !is_identity(order));
            self.alias(step.output, Lies { id, order });
            return Some(());
        }
        self.push(Step { op: reorder::take(places), inputs: vec![id], ..step.clone() }, Some(order.into()));
        Some(())
    }

    /// Whether the convolution that makes a value now makes it with other channels at the places: with which.
    fn reorder_maker(&mut self, mut id: Id, places: &[usize]) -> Option<bool> {
        let mut told = Vec::new();
        for _ in 0..MAX_BACK {
            let Some(&maker) = self.makers.get(&id).filter(|_| self.reads.get(&id) == Some(&1)) else { break };
            let step = &self.draft.steps[maker];
            let whole = if let Op::Conv(conv) = &step.op {
                told.push(maker);
                conv.group == 1
            } else {
                false
            };
            if whole {
                for maker in told {
                    self.reorder_outputs(maker, places)?;
                }
                return Some(true);
            }
            if !reorder::is_by_channel(&step.op) {
                break;
            }
            id = *step.inputs.first()?;
        }
        Some(false)
    }

    fn reorder_outputs(&mut self, step: usize, places: &[usize]) -> Option<()> {
        if let Op::Conv(conv) = &mut self.draft.steps[step].op {
            (self.pay)(conv.weights.data.len())?;
            *conv = reorder::outputs(conv, places);
        }
        Some(())
    }

    /// A step of which some inputs may lie in another order.
    fn follow(&mut self, step: &Step) -> Option<()> {
        let inputs: Vec<Lies> = step.inputs.iter().map(|&id| self.lies(id)).collect();
        let mut step = step.clone();
        let order = if inputs.iter().all(|lies| lies.order.is_none()) {
            None
        } else if let Some((op, order)) = self.told(&step, &inputs) {
            (self.pay)(op.weights().map_or(0, |weights| weights.data.len()))?;
            step.op = op;
            order
        } else {
            let node = Arc::clone(&step.node);
            step.inputs = step.inputs.iter().map(|&id| self.in_order(id, &node)).collect::<Option<_>>()?;
            self.push(step, None);
            return Some(());
        };
        step.inputs = inputs.into_iter().map(|lies| lies.id).collect();
        self.push(step, order);
        Some(())
    }

    /// The operator on inputs that lie so, and how its output lies then; `None` where it cannot follow.
    fn told(&self, step: &Step, inputs: &[Lies]) -> Option<(Op, Order)> {
        let first = inputs.first()?;
        if let (Op::Conv(conv), Some(order)) = (&step.op, &first.order) {
            return match (conv.group, reorder::is_by_channel(&step.op)) {
                (1, _) => Some((Op::Conv(reorder::inputs(conv, order)), None)),
                (_, true) => Some((Op::Conv(reorder::outputs(conv, order)), first.order.clone())),
                (_, false) => None,
            };
        }
        if step.op == (Op::Concat { axis: 1 }) {
            return Some((step.op.clone(), self.joined(inputs)?));
        }
        let (from, to) = (self.shape(first.id), self.shape(step.output));
        let passes = match inputs.len() {
            1 => to.len() == 4 && from.get(1) == to.get(1) && reorder::leaves_channels(&step.op),
            _ => matches!(step.op, Op::Add(_) | Op::Mul(_)) && self.go_together(inputs),
        };
        let order = || inputs.iter().find_map(|lies| lies.order.clone());
        passes.then(|| (step.op.clone(), order()))
    }

    /// Whether operands have the same order of channels, or one channel for all.
    fn go_together(&self, inputs: &[Lies]) -> bool {
        let order = inputs.iter().find_map(|lies| lies.order.as_ref());
        inputs.iter().all(|lies| {
            let shape = self.shape(lies.id);
            let one = shape.len() < 3 || shape[shape.len() - 3] == 1;
            (lies.order.as_ref() == order && shape.len() == 4) || (lies.order.is_none() && one)
        })
    }

    /// How channels lie that lie behind one another.
    fn joined(&self, inputs: &[Lies]) -> Option<Order> {
        let count = |lies: &Lies| self.shape(lies.id).get(1).copied();
        let total: usize = inputs.iter().map(count).sum::<Option<usize>>()?;
        (self.pay)(total.saturating_mul(size_of::<[usize; 2]>()))?;
        let mut joined = Vec::with_capacity(total);
        for lies in inputs {
            let (start, count) = (joined.len(), count(lies)?);
            match &lies.order {
                Some(order) => joined.extend(order.iter().map(|channel| start + channel)),
                None => joined.extend(start..start + count),
            }
        }
        Some(Some(joined.into()))
    }

    /// The value with its channels as the file has them.
    fn in_order(&mut self, value: Id, node: &Arc<str>) -> Option<Id> {
        let Lies { id, order } = self.lies(value);
        let Some(order) = order else { return Some(id) };
        if let Some(&known) = self.restored.get(&value) {
            return Some(known);
        }
        (self.pay)(order.len().saturating_mul(size_of::<[usize; 2]>()))?;
        let place = inverse(Some(&order), order.len());
        let made = self.draft.values[id.index()].clone();
        let output = self.draft.value(made.shape, made.ty);
        let op = reorder::take(place);
        self.draft.steps.push(Step { op, inputs: vec![id], output, node: Arc::clone(node) });
        self.restored.insert(value, output);
        Some(output)
    }
}
