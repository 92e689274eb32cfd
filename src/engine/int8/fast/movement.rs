//! Values that go elsewhere as they are.

use super::super::op::Op;
use super::super::program::{Program, Step, Type};
use super::super::reference::{Data, run_step};
use super::kernel::{At, Kernel};
use super::layout::{Layout, places, to_nhwc};
use super::run::Scope;
use super::turn::Turn;
use std::ops::Range;

/// In place of a place: the value that fills.
const NOWHERE: u32 = u32::MAX;
/// Runs shorter than this on average are moved one by one.
const SHORT: usize = 8;

/// Where each element of an output comes from.
#[derive(Debug)]
pub(super) struct Moves {
    /// The byte for what comes from nowhere.
    pub fill: u8,
    from: From,
}

#[derive(Debug)]
enum From {
    Turn(Turn),
    Places(Vec<u32>),
    Runs(Vec<Run>),
}

/// Elements that stay together; they end where the next run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    to: u32,
    from: u32,
}

impl Moves {
    /// Memory that it keeps.
    pub fn bytes(&self) -> usize {
        match &self.from {
            From::Turn(turn) => turn.bytes(),
            From::Places(places) => size_of_val(&places[..]),
            From::Runs(runs) => size_of_val(&runs[..]),
        }
    }

    fn new(places: Vec<u32>, fill: u8) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut expected = None;
        for (to, &from) in places.iter().enumerate() {
            if expected != Some(from) {
                runs.push(Run { to: to as u32, from });
            }
            expected = Some(if from == NOWHERE { NOWHERE } else { from + 1 });
        }
        let from = match runs.len() * SHORT > places.len() {
            true => Turn::find(&places).map_or(From::Places(places), From::Turn),
            false => From::Runs(runs),
        };
        Self { fill, from }
    }

    /// The elements of the output from which to which.
    fn run<T: Copy>(&self, from: &[T], fill: T, range: Range<usize>, to: &mut [T]) {
        match &self.from {
            From::Turn(_) => panic!("matrices are turned as a whole"),
            From::Places(places) => {
                let pick = |place: u32| if place == NOWHERE { fill } else { from[place as usize] };
                to.iter_mut().zip(&places[range]).for_each(|(to, &place)| *to = pick(place));
            }
            From::Runs(runs) => {
                let first = runs.partition_point(|run| run.to as usize <= range.start).saturating_sub(1);
                let mut at = range.start;
                for (index, run) in runs.iter().enumerate().skip(first) {
                    if at >= range.end {
                        break;
                    }
                    let end = runs.get(index + 1).map_or(range.end, |next| (next.to as usize).min(range.end));
                    let to = &mut to[at - range.start..end - range.start];
                    match run.from {
                        NOWHERE => to.fill(fill),
                        start => put(to, &from[start as usize + at - run.to as usize..][..to.len()]),
                    }
                    at = end;
                }
            }
        }
    }
}

/// Copies a few elements: most are channels, for which a call of `memcpy` takes longer than the copy.
#[inline(always)]
fn put<T: Copy>(to: &mut [T], from: &[T]) {
    if to.len() > 128 {
        return to.copy_from_slice(from);
    }
    let ((to, rest), (from, left)) = (to.as_chunks_mut::<16>(), from.as_chunks::<16>());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    rest.iter_mut().zip(left).for_each(|(to, from)| *to = *from);
}

/// Blocks of each input in turn.
#[derive(Debug)]
pub(super) struct Concat {
    blocks: usize,
}

impl Concat {
    pub fn run<'a, T: Copy + 'a>(&self, inputs: impl Iterator<Item = &'a [T]>, output: &mut [T]) {
        let width = output.len() / self.blocks.max(1);
        let mut start = 0;
        for from in inputs {
            let part = from.len() / self.blocks.max(1);
            for (to, from) in output.chunks_exact_mut(width).zip(from.chunks_exact(part)) {
                put(&mut to[start..][..part], from);
            }
            start += part;
        }
    }
}

impl At<'_> {
    pub(super) fn concat(&self, axis: usize) -> Option<Kernel> {
        let known = matches!(self.output.ty, Type::Int8(_) | Type::F32);
        if !known || self.from.iter().any(|&from| from != self.to) {
            return None;
        }
        let rank = self.output.shape.len();
        let place = self.to.axes(rank).iter().position(|&at| at == axis)?;
        let blocks = self.to.sizes(&self.output.shape)[..place].iter().product();
        Some(Kernel::Concat(Concat { blocks }))
    }

    /// Movements in a row: the reference moves numbers of places instead of values.
    pub(super) fn moves(&self, program: &Program, steps: &[&Step]) -> Option<Kernel> {
        let fill = if let Op::Pad { value, .. } = steps.last()?.op { Some(value) } else { None };
        let known = match self.output.ty {
            Type::Int8(_) => true,
            Type::F32 => fill.is_none_or(|value| value == 0),
            Type::Dynamic => fill.is_none(),
            Type::I32 => false,
        };
        if !known || matches!(self.from[0], Layout::Image(_)) || matches!(self.to, Layout::Image(_)) {
            return None;
        }
        if steps.iter().all(|step| matches!(step.op, Op::Reshape)) && self.is_same_order() {
            return Some(Kernel::Copy);
        }
        if let Some(turn) = self.turn(steps) {
            return Some(Kernel::Move(Moves { fill: 0, from: turn }));
        }
        // Above every int8 value, so that what was filled in is told apart.
        let first = 256;
        let count = i32::try_from(self.inputs[0].count()).ok()?.checked_add(first)?;
        let mut moved = Data::I32((first..count).collect());
        for step in steps {
            moved = run_step(program, step, vec![&moved]);
        }
        let Data::I32(moved) = moved else { return None };
        let from = places(self.from[0], &self.inputs[0].shape);
        let place = |&number: &i32| {
            let logical = number.checked_sub(first).and_then(|number| usize::try_from(number).ok());
            logical.and_then(|logical| from.get(logical)).copied().unwrap_or(NOWHERE)
        };
        let logical: Vec<u32> = moved.iter().map(place).collect();
        let mut places = logical.clone();
        if self.to == Layout::Nhwc {
            to_nhwc(&logical, &self.output.shape, &mut places);
        }
        Some(Kernel::Move(Moves::new(places, self.storage.byte(fill.unwrap_or(0)))))
    }

    /// Whether reshapes of one image after another only change between NHWC and NCHW.
    fn turn(&self, steps: &[&Step]) -> Option<From> {
        if !steps.iter().all(|step| matches!(step.op, Op::Reshape)) {
            return None;
        }
        match (self.from[0], self.to, self.inputs[0].shape.as_slice(), self.output.shape.as_slice()) {
            (Layout::Nhwc, Layout::Plain, &[n, c, h, w], _) => Some(From::Turn(Turn::of_matrices(n, h * w, c))),
            (Layout::Plain, Layout::Nhwc, _, &[n, c, h, w]) => Some(From::Turn(Turn::of_matrices(n, c, h * w))),
            (Layout::Plain | Layout::Nhwc | Layout::Image(_), _, _, _) => None,
        }
    }

    /// Whether a reshape leaves elements as they lie.
    fn is_same_order(&self) -> bool {
        // NHWC is NCHW where there is one channel, or one pixel.
        let plain = |layout: Layout, shape: &[usize]| match (layout, shape) {
            (Layout::Nhwc, &[_, c, h, w]) => c == 1 || h * w == 1,
            (Layout::Plain | Layout::Nhwc, _) => true,
            (Layout::Image(_), _) => false,
        };
        let (from, to) = (&self.inputs[0].shape, &self.output.shape);
        let row = |a: &[usize], b: &[usize]| match (a, b) {
            (&[n, c, h, w], &[n2, c2, h2, w2]) => (n, c, h * w) == (n2, c2, h2 * w2) && self.from[0] == self.to,
            _ => false,
        };
        (plain(self.from[0], from) && plain(self.to, to)) || row(from, to)
    }
}

impl Scope<'_> {
    pub(super) fn move_bytes(&self, moves: &Moves, from: &[u8], output: &mut [u8]) {
        match &moves.from {
            From::Turn(turn) => turn.run_bytes(from, output),
            From::Places(_) | From::Runs(_) => {
                self.share_flat(output, |range, to| moves.run(from, moves.fill, range, to))
            }
        }
    }

    pub(super) fn move_floats(&self, moves: &Moves, from: &[f32], output: &mut [f32]) {
        match &moves.from {
            From::Turn(turn) => turn.run_floats(from, output),
            From::Places(_) | From::Runs(_) => self.share_flat(output, |range, to| moves.run(from, 0.0, range, to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_places_move_alike_wherever_they_are_cut() {
        let from: Vec<u8> = (0..100).collect();
        let long: Vec<u32> = (10..40).chain([NOWHERE; 20]).chain(60..100).chain(0..9).collect();
        let short: Vec<u32> = (0..50).map(|i| (i * 7) % 100).chain([NOWHERE; 3]).collect();
        for places in [long, short] {
            let moves = Moves::new(places.clone(), 200);
            let wanted: Vec<u8> = places.iter().map(|&p| if p == NOWHERE { 200 } else { from[p as usize] }).collect();
            for start in 0..places.len() {
                for end in start..=places.len() {
                    let mut to = vec![0; end - start];
                    moves.run(&from, moves.fill, start..end, &mut to);
                    assert_eq!(to, wanted[start..end], "{start}..{end}");
                }
            }
        }
        let one_run = Moves::new((0..100).collect(), 0);
        assert!(matches!(one_run.from, From::Runs(runs) if runs == [Run { to: 0, from: 0 }]));
    }
}
